"""The names and the splits of the Algonauts 2025 challenge (arXiv 2501.00504).

One HDF5 a subject and task holds a dataset [volumes, regions] a run, named such as
`ses-001_task-s01e02a` or `ses-006_task-figures01_run-1`.
"""

import re
from typing import Literal

from neurofm.errors import NeuroFMError

TR_S = 1.49
SPLITS = ("algonauts2025", "algonauts2025-season")
FILMS = ("bourne", "wolf", "life", "figures")
UNSEEN = ("chaplin", "mononoke", "passepartout", "planetearth", "pulpfiction", "wot")
# Chunks of every season, and parts of every film, that TRIBE validates on: a list, as
# the rule behind it is not known (arXiv 2507.22229, released code).
_CHUNKS = ("e02b", "e12a", "e12d", "e15b", "e18b", "e18c", "e23a", "e23d", "e24c")
_PARTS = (7, 8)
_FRIENDS = re.compile(r"s(\d\d)(e\d\d[a-d])")
_FILM = re.compile(rf"({'|'.join((*FILMS, *UNSEEN))})(\d+)")
_KEY = re.compile(
    r"(?:ses-(?P<session>[^_]+)_)?task-(?P<task>[^_]+)(?:_run-(?P<run>\w+))?"
)


def columns(key: str) -> dict[str, str]:
    """Session, task and run of a dataset's name; nothing where it is another layout."""
    found = _KEY.fullmatch(key)
    return {k: v for k, v in found.groupdict().items() if v} if found else {}


def split(task: str, rule: str) -> Literal["train", "valid", "test"]:
    """The split of a chunk of Friends or of a film.

    `algonauts2025` validates on `TRIBE`'s chunks of all seasons and films,
    `algonauts2025-season` on season 6. Season 7 and the films that are not in training
    are the test.

    Raises:
      NeuroFMError: no such rule or chunk.
    """
    if rule not in SPLITS:
        raise NeuroFMError(f"--split {rule!r} is not one of {', '.join(SPLITS)}")
    if found := _FRIENDS.fullmatch(task):
        season, chunk = int(found[1]), found[2]
        held = season == 6 if rule.endswith("season") else chunk in _CHUNKS
        return "test" if season == 7 else "valid" if held else "train"
    if found := _FILM.fullmatch(task):
        if found[1] in UNSEEN:
            return "test"
        held = rule == "algonauts2025" and int(found[2]) in _PARTS
        return "valid" if held else "train"
    raise NeuroFMError(
        f"--split {rule} knows no task {task!r}; expected a chunk such as s01e02a or "
        "bourne07: leave the option out and give a column `split`"
    )
