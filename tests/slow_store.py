"""A store for tests: slow, unreliable and counted; `slow://` inside `slow_store()`.

Files live in fsspec's memory filesystem. Every read of a range takes `latency_s`, and
fails as often as the test has planned.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import fsspec
from fsspec.implementations.memory import MemoryFileSystem

from neurofm import stores


class SlowStore(MemoryFileSystem):
    """Counts requests, holds them up and lets them fail."""

    protocol = "slow"
    store: dict = {}  # noqa: RUF012
    pseudo_dirs: list = [""]  # noqa: RUF012

    latency_s = 0.0
    faults: list[Exception] = []  # noqa: RUF012
    reads = peak = 0
    under_way: set[object] = set()  # noqa: RUF012
    together = 1  # a read waits until so many are under way, or for 10 s
    _changed = threading.Condition()

    def cat_file(self, path, start=None, end=None, **kwargs):
        cls = type(self)
        mine = object()
        with cls._changed:
            under_way = cls.under_way  # of this count: a read may outlive its test
            under_way.add(mine)
            cls.reads += 1
            cls.peak = max(cls.peak, len(under_way))
            fault = cls.faults.pop(0) if cls.faults else None
            cls._changed.notify_all()
            cls._changed.wait_for(lambda: cls.peak >= cls.together, timeout=10)
        try:
            time.sleep(cls.latency_s)
            if fault:
                raise fault
            return super().cat_file(path, start, end, **kwargs)
        finally:
            with cls._changed:
                under_way.remove(mine)

    @classmethod
    def reset(cls, together: int = 1, latency_s: float = 0.0, faults=()) -> None:
        """Begin to count anew."""
        cls.reads = cls.peak = 0
        cls.under_way = set()
        cls.together, cls.latency_s, cls.faults = together, latency_s, list(faults)


@contextmanager
def slow_store() -> Iterator[type[SlowStore]]:
    """The store, empty, under `slow://`."""
    fsspec.register_implementation("slow", SlowStore, clobber=True)
    stores.filesystem.cache_clear()
    SlowStore.reset()
    try:
        yield SlowStore
    finally:
        SlowStore.store.clear()
        SlowStore.pseudo_dirs[:] = [""]


def upload(folder: Path, address: str) -> str:
    """Copy a local folder into a store."""
    fs, path = fsspec.core.url_to_fs(address)
    fs.put(str(folder), path, recursive=True)
    return address
