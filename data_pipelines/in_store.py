"""Preparing from and into object stores, with the shards made on the worker's disk.

A worker fetches the recordings of its shard one by one, writes the shard in a folder of
its own and uploads it whole, then the word that it is finished. So workers share the
store and no disk. While it is being prepared a dataset lies like this, and as it has no
`dataset.json` it is none:

    OUT/00003.array_record           the shards, in their place
    OUT.partial/plan.json            the settings and files it was begun with
    OUT.partial/state/00003.json     as `shards` has them on a disk
"""

import contextlib
import dataclasses
import functools
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from data_pipelines import shard_job
from data_pipelines.shard_job import Reader, ShardJob
from neurofm import stores
from neurofm.data.records import Recording
from neurofm.errors import NeuroFMError

# ---- recordings ----------------------------------------------------------------------


@contextlib.contextmanager
def fetched(root: Path | str, file: str) -> Iterator[Path]:
    """The folder in which a file lies under its name: `root`, or one for this alone."""
    if isinstance(root, Path):
        yield root
        return
    with tempfile.TemporaryDirectory(prefix="neurofm-") as folder:
        path = Path(folder, file)
        path.parent.mkdir(parents=True, exist_ok=True)
        stores.fetch(f"{root}/{file}", path)
        yield Path(folder)


@dataclass(frozen=True)
class Fetching:
    """A `Reader` of files in a store, by one of files on a disk."""

    read: Reader

    def __call__(self, root: str, file: str, notes: list[str]) -> Recording:
        held = contextlib.ExitStack()
        with contextlib.ExitStack() as until_read:
            local = until_read.enter_context(fetched(root, file))
            recording = self.read(local, file, notes)
            held = until_read.pop_all()  # the samples are yet to be taken
        if isinstance(recording.samples, np.ndarray):
            held.close()
            return recording
        return dataclasses.replace(recording, samples=_closing(recording.samples, held))


def _closing(
    blocks: Iterable[Float32[np.ndarray, "C n"]], held: contextlib.ExitStack
) -> Iterator[Float32[np.ndarray, "C n"]]:
    with held:
        yield from blocks


# ---- shards --------------------------------------------------------------------------


def write_shard(job: ShardJob, out: str) -> float:
    """`shard_job.write_shard` in a folder of this worker, uploaded to `out`."""
    with tempfile.TemporaryDirectory(prefix="neurofm-") as folder:
        data, state = Path(folder, "data"), Path(folder, "state")
        data.mkdir()
        state.mkdir()
        local = dataclasses.replace(job, data=data, state=state)
        seconds = shard_job.write_shard(local)
        for shard in data.iterdir():
            stores.send(shard, f"{out}/{shard.name}")
        for table in state.iterdir():
            if table != local.told:
                stores.send(table, f"{out}.partial/state/{table.name}")
        stores.send(local.told, f"{out}.partial/state/{local.told.name}")
    return seconds


def pull(out: str, partial: Path) -> None:
    """Copy what the store knows of a begun preparation into a working folder."""
    names = stores.tree(f"{out}.partial")
    (partial / "state").mkdir(parents=True, exist_ok=True)
    missing = [name for name in names if not (partial / name).exists()]
    fetch = functools.partial(_fetch, f"{out}.partial", partial)
    list(stores.parallel().map(fetch, missing))


def _fetch(folder: str, partial: Path, name: str) -> None:
    path = partial / name
    path.parent.mkdir(parents=True, exist_ok=True)
    stores.fetch(f"{folder}/{name}", path)


def refuse_occupied(out: str) -> None:
    """Raise NeuroFMError where `out` holds what no preparation begun there left."""
    if stores.tree(out) and "plan.json" not in stores.tree(f"{out}.partial"):
        raise NeuroFMError(
            f"{out} exists already; give another --out, or delete it first"
        )


def begin(out: str, partial: Path) -> None:
    """Keep the plan in the store; without finished shards all else there is old."""
    if not any(partial.glob("state/*.json")):
        stores.remove(f"{out}.partial")
        stores.remove(out)
    stores.send(partial / "plan.json", f"{out}.partial/plan.json")


def publish(data: Path, out: str) -> None:
    """Upload the tables and, last, `dataset.json`; then forget how it was made."""
    for path in sorted(data.iterdir(), key=lambda path: path.name == "dataset.json"):
        stores.send(path, f"{out}/{path.name}")
    forget(out)


def forget(out: str) -> None:
    """Remove what was kept to go on from."""
    stores.remove(f"{out}.partial")
