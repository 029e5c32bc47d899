"""Where the numbers of the published implementations lie, found by what they hold.

`NEUROFM_FIXTURES` names the folder (default: `tests/fixtures`); each system has its own
folder in it. A file's kind is told by its keys or, where a set is spread over files, by
the end of its name; nothing here knows how a fixture is called.
"""

import fnmatch
import functools
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

OWN = Path(__file__).parents[1] / "fixtures"
ROOT = Path(os.environ.get("NEUROFM_FIXTURES", OWN))


@functools.cache
def _keys(path: Path) -> list[str]:
    with np.load(path, allow_pickle=False) as file:
        return list(file)


def find(system: str, keys: tuple[str, ...] = (), suffix: str = "") -> list[Path]:
    """The `.npz` files of a system that hold all `keys` (`*` matches) and end so."""
    files = sorted((ROOT / system).rglob(f"*{suffix}.npz"))
    return [f for f in files if all(fnmatch.filter(_keys(f), k) for k in keys)]


def each(system: str, keys: tuple[str, ...] = (), suffix: str = ""):
    """Run a test once for every such file, given as `path`.

    A kind missing from our own copy, and a folder without any file of the system, are
    errors; a kind that somebody else's folder lacks is skipped.
    """
    paths = find(system, keys, suffix)
    wanted = f"{suffix or ''}.npz with keys {keys} under {ROOT / system}"
    if not paths and (ROOT == OWN or not find(system)):
        raise FileNotFoundError(f"no fixture *{wanted}")
    skip = pytest.mark.skip(reason=f"no fixture *{wanted}")
    params = [pytest.param(p, id=p.stem) for p in paths]
    return pytest.mark.parametrize(
        "path", params or [pytest.param(None, marks=skip, id="none")]
    )


def load(path: Path) -> dict[str, np.ndarray]:
    """All arrays of a file."""
    with np.load(path, allow_pickle=False) as file:
        return {key: file[key] for key in file}


def beside(path: Path, suffix: str) -> Path:
    """Another file of the set: `a_forward.npz`, `_weights.npz` -> `a_weights.npz`."""
    stem = path.stem
    while not (other := path.with_name(stem + suffix)).exists():
        if "_" not in stem:
            raise FileNotFoundError(f"no file ending in {suffix} beside {path}")
        stem = stem.rpartition("_")[0]
    return other


def config(path: Path) -> dict[str, Any]:
    """The configuration that belongs to a file."""
    return json.loads(beside(path, "_config.json").read_text())
