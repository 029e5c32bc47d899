"""Object stores beside the local disk: `gs://`, `s3://` and whatever fsspec reads.

A path with a scheme is an address; any other is a file of this machine. fsspec and its
drivers are imported for addresses alone, and find the user's credentials themselves.
What fails in passing is tried again, what cannot be mended by waiting is one sentence.
"""

import functools
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from etils import epath

from neurofm.errors import NeuroFMError

T = TypeVar("T")
Place = Path | epath.Path  # a file or folder, here or in a store

WAITS_S = (0.5, 1.0, 2.0, 4.0, 8.0)  # between the attempts at one request
# Requests under way at once: 50 ms each, they bring 1,280 segments of 256 KiB a second.
_PARALLEL = 64
_PERMANENT = (FileNotFoundError, PermissionError)
_DRIVERS = {"gs": "gcsfs", "gcs": "gcsfs", "s3": "s3fs", "az": "adlfs", "abfs": "adlfs"}
_WRITABLE = ("gs", "s3")  # where orbax writes checkpoints


def is_remote(path: str | os.PathLike[str]) -> bool:
    """Whether a path is the address of a store."""
    return "://" in os.fspath(path)


def place(path: str | os.PathLike[str]) -> Place:
    """A folder or file to read and write with the methods of pathlib.

    Raises:
      NeuroFMError: an address whose scheme is not gs or s3, or has no driver here.
    """
    if not is_remote(path):
        return Path(path)
    address = os.fspath(path)
    if (scheme := address.split("://")[0]) not in _WRITABLE:
        raise NeuroFMError(
            f"{address}: runs and models are kept on local disks, gs:// and s3://, not "
            f"on {scheme}://; give one of these"
        )
    filesystem(address)  # a missing driver is told here
    return epath.Path(address.rstrip("/"))


def address(path: str | os.PathLike[str]) -> Path | str:
    """A path to read: as it is where it has a scheme, else a `Path`."""
    return os.fspath(path).rstrip("/") if is_remote(path) else Path(path)


@functools.cache
def filesystem(address: str) -> tuple[Any, str]:
    """The fsspec filesystem of an address, and the path within it.

    Raises:
      NeuroFMError: no such kind of store, or its driver is not installed.
    """
    from fsspec.config import conf
    from fsspec.core import url_to_fs

    # Listings kept by one process know nothing of what tensorstore or others wrote.
    for protocol in ("gs", "gcs", "s3"):
        conf.setdefault(protocol, {}).setdefault("use_listings_cache", False)
    scheme = address.split("://")[0]
    try:
        return url_to_fs(address)
    except ImportError as error:
        driver = _DRIVERS.get(scheme)
        advice = f"pip install {driver}" if driver else str(error)
        raise NeuroFMError(
            f"{address} needs a driver for {scheme}:// that is not installed: {advice}"
        ) from error
    except ValueError as error:
        raise NeuroFMError(
            f"{address}: {scheme}:// is no kind of store that fsspec knows; give a "
            "local path, gs://BUCKET/... or s3://BUCKET/..."
        ) from error


def patiently(what: str, call: Callable[[], T]) -> T:
    """The result of `call`, tried again with growing waits where it fails in passing.

    Raises:
      NeuroFMError: `what` is not there, or may not be read.
      ConnectionError: it failed six times over 15 s; a later attempt may succeed.
    """
    for wait in (*WAITS_S, None):
        try:
            return call()
        except OSError as error:
            denied = str(error).startswith("Forbidden")  # gcsfs has no class for it
            if denied or isinstance(error, _PERMANENT):
                missing = isinstance(error, FileNotFoundError)
                reason = "it is not there" if missing else "access is denied"
                raise NeuroFMError(
                    f"{what} cannot be used, {reason}: check the address and what your "
                    "credentials allow"
                ) from error
            if wait is None:
                raise ConnectionError(
                    f"{what} failed {len(WAITS_S) + 1} times, the last with {error}"
                ) from error
        time.sleep(wait)
    raise AssertionError("unreachable")


def within(folder: Path | str, name: str) -> Path | str:
    """A file of a folder, or of an address."""
    return f"{folder}/{name}" if isinstance(folder, str) else folder / name


def read_bytes(
    path: Path | str, start: int | None = None, stop: int | None = None
) -> bytes:
    """A file, or its bytes `start` to `stop`; of an address, errors as `patiently`."""
    if isinstance(path, Path):
        return path.read_bytes()[start:stop]
    fs, within = filesystem(path)
    return patiently(path, lambda: fs.cat_file(within, start=start, end=stop))


def sizes(folder: Path | str) -> dict[str, int]:
    """Bytes of the files in a folder by name, in one request; none where it is not."""
    if isinstance(folder, Path):
        if not folder.is_dir():
            return {}
        return {p.name: p.stat().st_size for p in folder.iterdir() if p.is_file()}
    fs, within = filesystem(folder)

    def listed() -> list[dict[str, Any]]:
        try:
            return fs.ls(within, detail=True, refresh=True)
        except FileNotFoundError:
            return []

    entries = patiently(folder, listed)
    return {e["name"].split("/")[-1]: e["size"] for e in entries if e["type"] == "file"}


def tree(folder: str) -> dict[str, tuple[int, str]]:
    """Objects below an address, by their name within it: bytes, and the version.

    A version is what the store changes with every write of the object.
    """
    fs, root = filesystem(folder)
    root = root.rstrip("/")
    entries = patiently(folder, lambda: fs.find(root, detail=True))
    return {
        name[len(root) + 1 :]: (entry["size"], _version(entry))
        for name, entry in entries.items()
        if name.startswith(root + "/")
    }


def about(path: str) -> tuple[int, str] | None:
    """Bytes and version of an object, None where there is none."""
    fs, within = filesystem(path)
    if not patiently(path, lambda: fs.isfile(within)):
        return None
    entry = patiently(path, lambda: fs.info(within))
    return entry["size"], _version(entry)


def _version(entry: dict[str, Any]) -> str:
    keys = ("generation", "ETag", "etag", "md5Hash", "LastModified", "mtime", "created")
    return next((f"{entry[key]}" for key in keys if entry.get(key)), "")


def fetch(address: str, path: Path) -> None:
    """Copy an object to a file here; errors as `patiently`."""
    fs, within = filesystem(address)
    patiently(address, lambda: fs.get_file(within, os.fspath(path)))


def send(path: Path, address: str) -> None:
    """Copy a file to an object, which appears whole; errors as `patiently`."""
    fs, within = filesystem(address)
    patiently(address, lambda: fs.put_file(os.fspath(path), within))


def remove(folder: str) -> None:
    """Delete all objects below an address."""
    fs, root = filesystem(folder)
    for name in tree(folder):
        path = f"{root.rstrip('/')}/{name}"
        patiently(path, lambda path=path: fs.rm_file(path))


@functools.cache
def parallel() -> ThreadPoolExecutor:
    """The threads in which this process waits for stores."""
    return ThreadPoolExecutor(_PARALLEL, thread_name_prefix="store")
