"""Files that appear whole or not at all, on a disk or in a store."""

import json
import os
import time
from collections.abc import Callable
from typing import Any

from neurofm.stores import is_remote, place

# A file that grows is written again in a store, for at most this share of the time.
_UPLOAD_SHARE = 0.01
_UPLOAD_EVERY_S = 10.0


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write beside the path and move into place, so that no reader sees half of it."""
    write_bytes(path, text.encode())


def write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """As `write_text`."""
    path = place(path)
    if is_remote(path):
        path.write_bytes(data)  # an object appears whole
        return
    draft = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with draft.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except OSError:
        draft.unlink(missing_ok=True)
        raise


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write `value` as indented JSON; NaN and infinities are refused."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


class Journal:
    """A text file that grows; on a disk each piece is safe when `write` returns.

    An object in a store cannot grow: there the whole is written again by `upload`, and
    by `write_line` as often as takes a hundredth of the time.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        now: Callable[[], float] = time.monotonic,
    ):
        self.path = place(path)
        self._now = now
        self._before: str | None = None  # what an object held, read when it is uploaded
        self._held: list[str] = []  # what was appended
        self._new = False
        self._due = now()

    def write(self, text: str) -> None:
        """Append `text`; to an object only when it is uploaded.

        Nothing is asked of a store here: a library may log what it is asked, and this
        may be the file of that log.
        """
        if not is_remote(self.path):
            with self.path.open("a") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            return
        self._held.append(text)
        self._new = True

    def write_line(self, line: str) -> None:
        """Append a line, uploading when it is time."""
        self.write(line + "\n")
        if self._now() >= self._due:
            self.upload()

    def flush(self) -> None:
        """Nothing: `write` keeps nothing back, and uploads are not for every line."""

    def upload(self) -> None:
        """Write an object with all that was appended."""
        if not self._new:
            return
        began = self._now()
        self._new = False
        if self._before is None:
            self._before = self.path.read_text() if self.path.exists() else ""
        self.path.write_text(self._before + "".join(self._held))
        ended = self._now()
        self._due = ended + max(_UPLOAD_EVERY_S, (ended - began) / _UPLOAD_SHARE)

    def replace(self, text: str) -> None:
        """Put `text` in the place of all there is."""
        write_text(self.path, text)
        self._before, self._held = None, []
