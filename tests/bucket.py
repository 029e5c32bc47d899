"""A bucket on this machine that speaks enough of Cloud Storage's JSON API.

gcsfs and tensorstore (through orbax) reach it by `environment()`, also from other
processes. Objects change as a whole and have no folders. Requests are held up and fail
as a test wants; the API: cloud.google.com/storage/docs/json_api/v1/objects.
"""

import itertools
import json
import os
import re
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, unquote, urlsplit

# gcsfs reads it when it is imported: else it asks by gRPC what kind of bucket this is.
os.environ["GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"] = "false"


class Bucket:
    """The objects by name, and what happens to requests.

    Attributes:
      objects: `bucket/key` -> (generation, bytes).
      latency_s: of every request.
      faults: statuses that the next requests are answered with.
      writes: names in the order they were written.
    """

    def __init__(self):
        self.objects: dict[str, tuple[int, bytes]] = {}
        self.latency_s = 0.0
        self.faults: list[int] = []
        self.writes: list[str] = []
        self.lock = threading.RLock()
        self._generations = itertools.count(1)
        self.address = ""

    def environment(self) -> dict[str, str]:
        """What makes the libraries use this bucket, and no credentials."""
        return {
            "STORAGE_EMULATOR_HOST": self.address,
            "TENSORSTORE_GCS_HTTP_URL": self.address,
            "FSSPEC_GCS_TOKEN": "anon",
            "GCE_METADATA_ROOT": "127.0.0.1:1",
            "NO_GCE_CHECK": "true",
        }

    def put(self, name: str, content: bytes) -> None:
        with self.lock:
            self.objects[name] = (next(self._generations), content)
            self.writes.append(name)

    def text(self, name: str) -> str:
        return self.objects[name][1].decode()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    bucket: Bucket
    uploads: dict[str, tuple[str, bytes]]

    def log_message(self, *_):
        pass

    def answer(self, status: int, content: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def tell(self, value: dict) -> None:
        self.answer(200, json.dumps(value).encode(), Content_Type="application/json")

    def about(self, name: str) -> dict:
        bucket, key = name.split("/", 1)
        generation, content = self.bucket.objects[name]
        now = "2000-01-01T00:00:00.000Z"
        return {
            "kind": "storage#object",
            "bucket": bucket,
            "name": key,
            "size": str(len(content)),
            "generation": str(generation),
            "metageneration": "1",
            "timeCreated": now,
            "updated": now,
        }

    def handle_one(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        time.sleep(self.bucket.latency_s)
        url = urlsplit(self.path)
        query = dict(parse_qsl(url.query))
        with self.bucket.lock:
            if self.bucket.faults:
                self.answer(self.bucket.faults.pop(0), b"{}")
                return
            if url.path == "/batch/storage/v1":
                self.batch(body)
                return
            match = re.fullmatch(
                r"(?:/(\w+))?/storage/v1/b/([^/]+)(/o(/.*)?)?", url.path
            )
            if not match:
                self.answer(400, f"{self.command} {self.path}".encode())
                return
            way, bucket, objects, key = match.groups()
            if way == "upload":
                self.upload(bucket, query, body)
            elif not objects:
                self.tell({"kind": "storage#bucket", "name": bucket})
            elif not key:
                self.listing(bucket, query)
            elif moved := re.fullmatch(
                r"/([^/]+)/(rewriteTo|moveTo)(?:/b/[^/]+)?/o/([^/]+)", key
            ):
                self.move(bucket, *moved.groups())
            else:
                self.object(f"{bucket}/{unquote(key[1:])}", query, way == "download")

    do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = handle_one

    def matches(self, name: str, query: dict) -> bool:
        generation = self.bucket.objects.get(name, (0, b""))[0]
        return int(query.get("ifGenerationMatch", generation)) == generation

    def object(self, name: str, query: dict, download: bool) -> None:
        if not self.matches(name, query):
            self.answer(412)
        elif name not in self.bucket.objects:
            self.answer(404, b'{"error": {"code": 404, "message": "No such object"}}')
        elif self.command == "DELETE":
            del self.bucket.objects[name]
            self.answer(204)
        elif not download and query.get("alt") != "media":
            self.tell(self.about(name))
        else:
            generation, content = self.bucket.objects[name]
            headers = {"x_goog_generation": str(generation)}
            if query.get("ifGenerationNotMatch") == str(generation):
                self.answer(304, **headers)
                return
            span = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
            if not span:
                self.answer(200, content, **headers)
                return
            low, high = span.groups()
            first = int(low) if low else max(0, len(content) - int(high))
            past = min(int(high) + 1, len(content)) if low and high else len(content)
            if first >= len(content):
                self.answer(416)
                return
            headers["Content_Range"] = f"bytes {first}-{past - 1}/{len(content)}"
            self.answer(206, content[first:past], **headers)

    def listing(self, bucket: str, query: dict) -> None:
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter")
        items, prefixes = [], set()
        for name in sorted(self.bucket.objects):
            owner, key = name.split("/", 1)
            low, high = query.get("startOffset", ""), query.get("endOffset")
            if owner != bucket or not key.startswith(prefix):
                continue
            if key < low or (high and key >= high):
                continue
            rest = key[len(prefix) :]
            if delimiter and delimiter in rest:
                prefixes.add(prefix + rest.split(delimiter)[0] + delimiter)
            else:
                items.append(self.about(name))
        self.tell({"items": items, "prefixes": sorted(prefixes)})

    def upload(self, bucket: str, query: dict, body: bytes) -> None:
        kind, name = query["uploadType"], query.get("name", "")
        if kind == "resumable":
            if "upload_id" not in query:
                number = str(len(self.uploads))
                self.uploads[number] = (f"{bucket}/{name}", b"")
                where = f"{self.bucket.address}{self.path}&upload_id={number}"
                self.answer(200, Location=where)
                return
            target, before = self.uploads[query["upload_id"]]
            self.uploads[query["upload_id"]] = (target, before + body)
            total = self.headers["Content-Range"].split("/")[1]
            held = len(before) + len(body)
            if total == "*" or held < int(total):
                self.answer(308, Range=f"bytes=0-{held - 1}")
                return
            content = before + body
        elif kind == "multipart":
            edge = re.search('boundary="?([^"]+)', self.headers["Content-Type"])[1]
            _, head, data, *_ = body.split(f"--{edge}".encode(), 2)
            about = json.loads(head.split(b"\n\n", 1)[1])
            target = f"{bucket}/{about['name']}"
            content = data.split(b"\n\n", 1)[1][: -len(f"\n--{edge}--")]
        else:
            target, content = f"{bucket}/{name}", body
        if not self.matches(target, query):
            self.answer(412)
            return
        self.bucket.put(target, content)
        self.tell(self.about(target))

    def move(self, bucket: str, source: str, how: str, target: str) -> None:
        source, target = (f"{bucket}/{unquote(name)}" for name in (source, target))
        if source not in self.bucket.objects:
            self.answer(404, b'{"error": {"message": "No such object"}}')
            return
        self.bucket.put(target, self.bucket.objects[source][1])
        if how == "moveTo":
            del self.bucket.objects[source]
        self.tell({"done": True, "resource": self.about(target)} | self.about(target))

    def batch(self, body: bytes) -> None:
        answers = []
        for key in re.findall(rb"DELETE /storage/v1/b/(\S+)/o/(\S+)", body):
            name = "/".join(unquote(part.decode().split("?")[0]) for part in key)
            gone = self.bucket.objects.pop(name, None) is not None
            answers.append(f"HTTP/1.1 {204 if gone else 404} x\n\n{{}}\n")
        text = "--edge\n" + "--edge\n".join(answers) + "--edge--"
        self.answer(200, text.encode(), Content_Type="multipart/mixed; boundary=edge")


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request, client_address):
        if not isinstance(sys.exception(), ConnectionError):  # the client went away
            super().handle_error(request, client_address)


@contextmanager
def bucket() -> Iterator[Bucket]:
    """A running, empty bucket; addresses in it are `gs://NAME/...`, for any NAME."""
    held = Bucket()
    handler = type("BoundHandler", (Handler,), {"bucket": held, "uploads": {}})
    server = Server(("127.0.0.1", 0), handler)
    held.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield held
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
