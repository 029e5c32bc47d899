"""Recordings into a record store, shard by shard, so that a restart goes on.

Files are taken in the order of their relative paths and dealt to shards by size alone,
so neither the order nor a byte of the store depends on how many workers write it. Until
all are done they lie in `OUT.partial`, from where a restart goes on:

    plan.json            the settings and the files it was begun with
    data/                becomes OUT
    state/00003.json     shard 3 is finished: what was skipped and noted, the events
    state/00003.parquet  its manifest rows

Source and dataset may lie in stores, see `in_store`.
"""

import contextlib
import functools
import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_pipelines import in_store
from data_pipelines import labels as labelling
from data_pipelines.beam import Runner, run_on_beam
from data_pipelines.label_columns import Note
from data_pipelines.pool import n_cores, run_in_processes
from data_pipelines.shard_job import Reader, ShardJob, write_shard
from data_pipelines.sources import Source
from data_pipelines.summary import Summary, summarise, write_notes
from data_pipelines.unreadable import Unreadable
from neurofm import stores
from neurofm.data import writer
from neurofm.data.records import DatasetInfo, open_dataset
from neurofm.errors import NeuroFMError
from neurofm.files import write_json

log = logging.getLogger(__name__)

_PROCESS_S = 3.0  # to start a worker

# A shard takes 1/64 of the source, within these bounds in bytes of source files: many
# enough to share among workers and to restart from, few enough to hold open.
_SHARD_BYTES = (2**22, 2**30)

# Settings that do not change a shard: labels are added when all are done.
_ADDED_LAST = ("labels", "pattern", "subdirs", "licence", "words")

Progress = Callable[[int, int, float], None]


class Expected(NamedTuple):
    """What to expect of recordings, from their headers.

    Attributes:
      seconds: of signal.
      n_bytes: in the store.
      cpu_s: of work on one core.
    """

    seconds: float
    n_bytes: float
    cpu_s: float


def prepare(
    out: Path | str,
    found: Source,
    info: DatasetInfo,
    read: Reader,
    *,
    measure: Callable[[Path], Expected],
    known: labelling.Labels,
    workers: int | None = None,
    runner: Runner | None = None,
    beam_options: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> Summary:
    """Write a dataset, an item a file, or go on with one that was begun.

    Args:
      out: the dataset to make, or its address.
      found: the files.
      info: the contract; `info.prepared` is what `sources.settings_of` gives.
      read: makes an item of a file; sent to workers by pickle.
      measure: what to expect of a file.
      known: labels, and events that come beside the recordings.
      workers: processes; None takes as many as are worth their start.
      runner: work on Apache Beam instead; see `beam.run_on_beam`.
      beam_options: see `beam.run_on_beam`.
      progress: called with files done, files in all and seconds of signal done.

    Raises:
      NeuroFMError: nothing is usable, the disk is too small, or `out` holds something
        else.
    """
    started, asked_for = time.monotonic(), workers
    if "dataset.json" in stores.sizes(out):
        refuse_other(out, open_dataset(out).info.prepared, info.prepared)
        _forget(out)
        return summarise(out, found.n_files, "already prepared", started)
    work: Callable[[ShardJob], float] = write_shard
    if isinstance(out, str):
        in_store.refuse_occupied(out)
        work = functools.partial(in_store.write_shard, out=out)
    else:
        writer.refuse_occupied(out)
    if isinstance(found.root, str):
        read = in_store.Fetching(read)
    with _working_folder(out) as partial:
        _begin(partial, info.prepared, f"{out}.partial")
        if isinstance(out, str):
            in_store.begin(out, partial)
        jobs = [
            ShardJob(
                number=number,
                src=found.root,
                files=found.files[group.start : group.stop],
                data=partial / "data",
                state=partial / "state",
                info=info,
                read=read,
            )
            for number, group in enumerate(_groups(found))
        ]
        waiting = [job for job in jobs if not job.told.is_file()]
        expected = _estimate(found, waiting, measure)
        if isinstance(out, Path):
            _refuse_full_disk(out, partial, expected.n_bytes)
        if workers is None:
            workers = min(n_cores(), 1 + int(expected.cpu_s / _PROCESS_S))
        log.info(
            "about %.2f h of signal to prepare: %.3g GB, %.1f minutes on %d core(s)",
            expected.seconds / 3600,
            expected.n_bytes / 1e9,
            expected.cpu_s / 60 / workers,
            workers,
        )
        n_done = len(found.files) - sum(len(job.files) for job in waiting)
        seconds = 0.0
        if runner is not None:
            run_on_beam(work, waiting, asked_for, runner, beam_options or {})
            done = ()
        else:
            done = run_in_processes(work, waiting, workers)
        for job, length in done:
            n_done += len(job.files)
            seconds += length
            if progress:
                progress(n_done, len(found.files), seconds)
        _finish(out, jobs, known, found.unnamed)
    status = "prepared" if len(waiting) == len(jobs) else "resumed"
    return summarise(out, found.n_files, status, started)


@contextlib.contextmanager
def _working_folder(out: Path | str) -> Iterator[Path]:
    """`OUT.partial`, or a copy of it while one works on a dataset in a store."""
    if isinstance(out, Path):
        yield out.with_name(out.name + ".partial")
        return
    with tempfile.TemporaryDirectory(prefix="neurofm-") as folder:
        in_store.pull(out, Path(folder, "partial"))
        yield Path(folder, "partial")


def _forget(out: Path | str) -> None:
    """Remove what a finished preparation left to go on from."""
    if isinstance(out, str):
        in_store.forget(out)
    elif ((partial := out.with_name(out.name + ".partial")) / "plan.json").is_file():
        shutil.rmtree(partial)


def refuse_other(where: Path | str, before: Mapping[str, Any], now: Mapping[str, Any]):
    """Raise NeuroFMError where a dataset was made with other settings than `now`."""
    # Settings of `before` were read from JSON, which has lists and no tuples.
    now = json.loads(json.dumps(now))
    different = [name for name in now if before.get(name) != now[name]]
    if not different:
        return
    words = {
        "sources": "other source files (or they changed since)",
        "labels": "another label table (or it changed since)",
        "dataset": "other recordings",
        "segments": "other bad marks or segments",
        "made_by": "another model",
    }
    told = ", ".join(
        words.get(name, f"{name} {before.get(name)!r} and not {now[name]!r}")
        for name in different
    )
    raise NeuroFMError(
        f"{where} was made with {told}; give another --out, or delete it first"
    )


def _groups(found: Source) -> list[range]:
    """Consecutive files whose sizes in bytes make up a shard."""
    sizes = [found.stat(file)[0] for file in found.files]
    low, high = _SHARD_BYTES
    limit = min(max(sum(sizes) // 64, low), high)
    groups, start, held = [], 0, 0
    for i, size in enumerate(sizes):
        held += size
        if held >= limit or i + 1 - start == writer.ITEMS_PER_SHARD:
            groups.append(range(start, i + 1))
            start, held = i + 1, 0
    if start < len(sizes):
        groups.append(range(start, len(sizes)))
    return groups


def _begin(partial: Path, settings: Mapping[str, Any], name: str) -> None:
    """Make the working folder, or see that it was begun with the same settings."""
    plan = partial / "plan.json"
    if plan.is_file() and any(partial.glob("state/*.json")):
        binding = {k: v for k, v in settings.items() if k not in _ADDED_LAST}
        refuse_other(name, json.loads(plan.read_text()), binding)
    elif plan.is_file():
        shutil.rmtree(partial)  # no shard was finished: nothing binds its settings
    elif any(
        path.name not in ("data", "state") and not path.name.startswith(".plan.json.")
        for path in partial.glob("*")
    ):
        raise NeuroFMError(
            f"{name}, where the work would be done, holds something else; give "
            "another --out, or move that folder"
        )
    for name in ("data", "state"):
        (partial / name).mkdir(parents=True, exist_ok=True)
    write_json(plan, settings)


def _estimate(
    found: Source, jobs: Sequence[ShardJob], measure: Callable[[Path], Expected]
) -> Expected:
    """What to expect of all files, from up to about 100 of them.

    From a store, where a header comes with its file, from four.
    """
    files = [file for job in jobs for file in job.files]
    looks = 4 if isinstance(found.root, str) else 100
    known, looked_at = [], 0
    for file in files[:: max(1, len(files) // looks)]:
        with contextlib.suppress(Unreadable), in_store.fetched(found.root, file) as at:
            known.append(measure(at / file))
            looked_at += found.stat(file)[0]
    share = sum(found.stat(file)[0] for file in files) / looked_at if looked_at else 0.0
    sums = np.sum(known, axis=0) if known else np.zeros(3)
    return Expected(*(share * sums).tolist())


def _refuse_full_disk(out: Path, partial: Path, n_bytes: float) -> None:
    free = shutil.disk_usage(partial).free
    if n_bytes > free:
        if not any(partial.glob("state/*.json")):
            shutil.rmtree(partial)
        raise NeuroFMError(
            f"{out} needs about {n_bytes / 1e9:.3g} GB and {free / 1e9:.3g} GB are "
            "free there; make room or give another --out"
        )


def _finish(
    out: Path | str,
    jobs: Sequence[ShardJob],
    known: labelling.Labels,
    unnamed: tuple[Note, ...],
) -> None:
    """Join the shards' rows, add the labels and give the whole its name."""
    data, info = jobs[0].data, jobs[0].info
    if isinstance(out, str):
        in_store.pull(out, data.parent)
    states = [json.loads(job.told.read_text()) for job in jobs]
    skipped = [*unnamed, *(pair for state in states for pair in state["skipped"])]
    notes = [*known.notes, *(pair for state in states for pair in state["notes"])]
    manifest = pa.concat_tables(
        [pq.read_table(job.rows) for job in jobs], promote_options="permissive"
    )
    if not len(manifest):
        shutil.rmtree(data.parent)
        _forget(out)
        file, reason = skipped[0]
        raise NeuroFMError(
            f"none of the {len(skipped)} files can be used (the first is {file}: "
            f"{reason}); `neurofm check` lists them all"
        )
    found = {file: rows for state in states for file, rows in state["events"].items()}
    known = labelling.with_events(known, found)
    manifest, events, outside = labelling.attach(manifest, known)
    write_notes(data, skipped, [*notes, *outside])
    layouts = [] if info.ch_names else [pq.read_table(job.layouts) for job in jobs]
    sizes = stores.sizes(out) if isinstance(out, str) else None
    writer.write_tables(data, info, manifest, events, layouts, sizes)
    if isinstance(out, str):
        in_store.publish(data, out)
    else:
        os.replace(data, out)
        shutil.rmtree(data.parent)
