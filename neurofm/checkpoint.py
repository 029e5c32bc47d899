"""Checkpoints of a run: saved in the background, verified when read (orbax v1).

    checkpoints/<step>/params/ ... opt/   a folder for each top name of the state
                       meta.json          written last; see `neurofm.run.integrity`

A step that is unfinished or damaged is passed over for the next older one, with one
logged sentence. When none is good the run stops: it never starts again by itself.
"""

import json
import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from os import PathLike
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jax.experimental import multihost_utils
from orbax.checkpoint import v1 as ocp

from neurofm.errors import NeuroFMError
from neurofm.run.integrity import (
    Damaged,
    describe,
    finished_steps,
    kind,
    newest_good,
    read_record,
    step_folders,
    verify,
    write_record,
)
from neurofm.weights.leaves import nest

Flat = dict[str, Any]  # "params/encoder/kernel" -> array
Meta = dict[str, Any]
T = TypeVar("T")

VARIABLES = ("params", "slow", "buffers")

# What orbax reports below an error repeats, at length, what is logged or raised here.
logging.getLogger("absl").addFilter(
    lambda record: record.levelno >= logging.ERROR or "orbax" not in record.pathname
)


class Checkpoints:
    """The checkpoints of one run, in a folder that all its processes share.

    Every process calls `save`, `restore` and `wait` in the same order.
    """

    def __init__(
        self,
        directory: str | PathLike[str],
        keep: int = 3,
        keep_every: int | None = None,
    ):
        """Keep the last `keep` steps and, for good, the multiples of `keep_every`."""
        if keep < 1:
            raise NeuroFMError(f"keep is {keep}, but a run keeps at least 1 checkpoint")
        self.directory = _absolute(directory)
        self.keep, self.keep_every = keep, keep_every
        self._newest: int | None = None  # the step this run last saved or restored
        self._pending: Future[None] | None = None
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")

    def steps(self) -> list[int]:
        """Finished steps, oldest first; what they hold is not verified."""
        return finished_steps(self.directory)

    def save(self, step: int, state: Any, meta: Meta, best: int | None = None) -> None:
        """Save in the background; `state` may be donated as soon as this returns.

        Waits for the save before it, and raises what went wrong there. The step that
        this run saved or restored last is not written again.

        Args:
          step: completed steps.
          state: a tree of jax arrays, of which `VARIABLES` can be read alone.
          meta: JSON without NaN, read back beside the state.
          best: an earlier step that is kept, however old it is.
        """
        self.wait()
        if step == self._newest:
            return
        flat = _flatten(state)
        if empty := [name for name, leaf in flat.items() if leaf.size == 0]:
            raise ValueError(f"arrays of size zero cannot be saved: {empty}")
        record = {"step": step, "meta": meta, "leaves": describe(flat)}
        json.dumps(meta, allow_nan=False)  # fail here rather than in the background
        # Changed bytes of compressed data raise inside orbax's tasks; those of plain
        # data are read, and found out by the checksum. Weights hardly compress anyway.
        plain = ocp.Context()
        plain.array.saving.use_compression = False
        with plain:
            written = ocp.save_checkpointables_async(
                # dicts alone: optax's tuples and empty states never reach orbax
                self.directory / str(step),
                nest(flat),
                overwrite=True,
            )
        self._pending = self._writer.submit(self._finish, written, step, record, best)

    def _finish(self, written: Any, step: int, record: Meta, best: int | None) -> None:
        written.result()
        if jax.process_index() == 0:
            write_record(self.directory / str(step), record)
            self._prune(step, best)
        self._newest = step

    def _prune(self, newest: int, best: int | None) -> None:
        """Delete what the policy does not keep, now that step `newest` is safe.

        Later steps were passed over as damaged when this run restored; temporary and
        unfinished folders are what a killed run left.
        """
        past = [s for s in self.steps() if s <= newest]
        kept = {s for s in past if self.keep_every and s % self.keep_every == 0}
        kept.update(step for step in past if step == best)
        kept.update(past[-self.keep :])
        for step in set(step_folders(self.directory)) - kept:
            (self.directory / str(step)).rmtree()
        for folder in self.directory.glob("*.orbax-checkpoint-tmp*"):
            folder.rmtree()

    def wait(self) -> None:
        """Return when nothing is being written; raise what went wrong in a save."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()
            multihost_utils.sync_global_devices("checkpoint finished")

    def restore(self, abstract: Any) -> tuple[int, Any, Meta] | None:
        """Read the newest good step onto the shardings of `abstract`.

        Args:
          abstract: the state as `jax.ShapeDtypeStruct` leaves; one without a sharding
            goes to the first device. The mesh may differ from the one that saved.

        Returns:
          step, state and meta, or None where no checkpoint was ever made.

        Raises:
          NeuroFMError: the checkpoint holds another state (another config), or there
            are checkpoints and none is good.
        """
        self.wait()
        here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        wanted = {
            name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding or here)
            for name, x in _flatten(abstract).items()
        }

        def read(folder: epath.Path) -> tuple[Flat, Meta]:
            record = _agreed(lambda: read_record(folder))
            _compare(folder, record["leaves"], wanted)
            flat = _agreed(lambda: _load(folder, wanted))
            verify(flat, record["leaves"])
            return flat, record["meta"]

        found = newest_good(self.directory, read)
        if found is None:
            return None
        self._newest, (flat, meta) = found
        structure = jax.tree.structure(abstract)
        return self._newest, structure.unflatten([flat[name] for name in wanted]), meta


def latest(directory: str | PathLike[str]) -> int | None:
    """The newest finished step in a folder of checkpoints, not verified; or None."""
    return max(finished_steps(epath.Path(directory)), default=None)


def read_meta(folder: str | PathLike[str]) -> Meta:
    """The meta of one step and its `step`, its files verified but its arrays not read.

    Raises:
      NeuroFMError: `folder` is no checkpoint, or a damaged one.
    """
    return _only(epath.Path(folder), lambda f: _meta(read_record(f)))


def restore_params(path: str | PathLike[str]) -> tuple[dict[str, Any], Meta]:
    """Read `{params, slow, buffers}` as numpy arrays without knowing their shapes.

    Args:
      path: the folder of one step, or a folder of steps: then its newest good one.

    Returns:
      the variables, and the meta with the `step` they are of.

    Raises:
      NeuroFMError: there is no checkpoint at `path`, or none that is good.
    """

    def read(folder: epath.Path) -> tuple[dict[str, Any], Meta]:
        record = read_record(folder)
        wanted = {
            name: _placeholder(*leaf["kind"])
            for name, leaf in record["leaves"].items()
            if name.split("/")[0] in VARIABLES
        }
        flat = _load(folder, wanted)
        verify(flat, record["leaves"])
        return {name: {} for name in VARIABLES} | nest(flat), _meta(record)

    found = newest_good(_absolute(path), read)
    return _only(_absolute(path), read) if found is None else found[1]


def _absolute(path: str | PathLike[str]) -> epath.Path:
    """orbax writes and reads nothing under a relative path."""
    found = epath.Path(path)
    return found if found.is_absolute() else found.absolute()


def _only(folder: epath.Path, read: Callable[[epath.Path], T]) -> T:
    try:
        return read(folder)
    except Damaged as fault:
        raise NeuroFMError(
            f"{folder} is not a checkpoint that can be used: {fault}; give the folder "
            "of another step, or the run's workdir for its newest good one"
        ) from None


def _meta(record: Meta) -> Meta:
    return record["meta"] | {"step": record["step"]}


def _load(folder: epath.Path, wanted: Flat) -> Flat:
    # Each process reads its shards alone: at orbax's barrier the others would wait in
    # vain for one that met a bad file. `_agreed` shares the verdict.
    me = jax.process_index()
    alone = ocp.Context()
    alone.multiprocessing.primary_host = me
    alone.multiprocessing.active_processes = {me}
    loaded: Flat = {}
    try:
        with alone:
            for name, abstract in nest(wanted).items():
                tree = ocp.load(folder, abstract, checkpointable_name=name)
                loaded |= _flatten({name: tree})
    except (MemoryError, PermissionError, jax.errors.JaxRuntimeError):
        raise  # these say nothing about the checkpoint
    except Exception as fault:  # orbax and tensorstore raise many kinds
        reason = " ".join(f"{type(fault).__name__}: {fault}".split())
        raise Damaged(f"it cannot be read ({reason[:300]})") from fault
    return loaded


def _agreed(read: Callable[[], T]) -> T:
    """Call `read` in every process; a fault that one of them meets is everyone's."""
    outcome: T | Damaged
    try:
        outcome = read()
    except Damaged as fault:
        outcome = fault
    failed = isinstance(outcome, Damaged)
    if jax.process_count() > 1:
        failed_anywhere = multihost_utils.process_allgather(np.array(failed)).any()
        if failed_anywhere and not failed:
            outcome = Damaged("another process cannot read it")
    if isinstance(outcome, Damaged):
        raise outcome
    return outcome


def _compare(folder: epath.Path, leaves: dict[str, Any], wanted: Flat) -> None:
    """Refuse a state of other names, shapes or dtypes than the one saved."""
    there = {name: leaf["kind"] for name, leaf in leaves.items()}
    here = {name: kind(x) for name, x in wanted.items()}
    differ = [
        f"{name} is {there.get(name, 'absent')} there, {here.get(name, 'absent')} here"
        for name in sorted(there | here)
        if there.get(name) != here.get(name)
    ]
    if differ:
        more = f"; and {len(differ) - 3} more" if len(differ) > 3 else ""
        raise NeuroFMError(
            f"the checkpoint {folder} holds another state than this config makes: "
            f"{'; '.join(differ[:3])}{more}; resume with the config it was made with, "
            "or choose another workdir"
        )


def _placeholder(dtype: str, *shape: int) -> np.ndarray:
    """One element repeated: tells orbax a shape and dtype without taking the memory."""
    return np.broadcast_to(np.zeros((), jnp.dtype(dtype)), shape)


def _flatten(tree: Any) -> Flat:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    flat = {
        jax.tree_util.keystr(path, simple=True, separator="/"): x for path, x in leaves
    }
    if len(flat) != len(leaves):
        raise ValueError("two arrays of the state have the same path of names")
    return flat
