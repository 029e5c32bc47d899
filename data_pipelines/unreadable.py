"""A file that cannot be used, whatever was to be read from it."""

import os

from neurofm.errors import NeuroFMError


class Unreadable(NeuroFMError):
    """A file that holds nothing usable; `reason` says why, without the path."""

    def __init__(self, path: str | os.PathLike, reason: str, what: str = "sound"):
        super().__init__(f"{os.fspath(path)} cannot be used as {what}: {reason}")
        self.reason = reason
