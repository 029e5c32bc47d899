"""Folders of sound into record stores: `neurofm prepare audio`.

Files are taken in the order of their relative paths and dealt to shards by size alone,
so neither the order nor a byte of the store depends on how many workers write it. Until
all are done they lie in `OUT.partial`, from where a restart goes on:

    plan.json            the settings and the files it was begun with
    data/                becomes OUT
    state/00003.json     shard 3 is finished: what was skipped and noted in it
    state/00003.parquet  its manifest rows
"""

import contextlib
import hashlib
import json
import math
import os
import re
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_pipelines import labels as labelling
from data_pipelines import soundfiles
from data_pipelines.audio_shards import ShardJob, write_shard
from data_pipelines.beam import Runner, run_on_beam
from data_pipelines.label_columns import Note
from data_pipelines.pool import n_cores, run_in_processes
from data_pipelines.soundfiles import Channels, Unreadable, read
from data_pipelines.summary import Summary, summarise, write_notes
from neurofm.data import writer
from neurofm.data.records import DatasetInfo, open_dataset
from neurofm.data.segments import Payload
from neurofm.errors import NeuroFMError
from neurofm.files import write_json

__all__ = ["Channels", "Summary", "Unreadable", "prepare", "read"]

# A shard takes 1/64 of the source, within these bounds in bytes of source files: many
# enough to share among workers and to restart from, few enough to hold open.
_SHARD_BYTES = (2**22, 2**30)

# Control characters would break the tables, bytes that are no text have no name.
_UNKEEPABLE = re.compile(r"[\x00-\x1f\ud800-\udfff]")

# Settings that the shards depend on; the labels are added when all are done.
_SHARD_SETTINGS = ("reader", "sfreq", "channels", "payload", "sources")

Progress = Callable[[int, int, float], None]


def prepare(
    src: str | os.PathLike,
    out: str | os.PathLike,
    *,
    sfreq: float = 16000,
    channels: Channels = "first",
    payload: Payload = "int16",
    labels: str | os.PathLike | None = None,
    pattern: str | None = None,
    subdirs: str | None = None,
    licence: str = "",
    workers: int | None = None,
    runner: Runner | None = None,
    beam_options: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> Summary:
    """Turn all sound files below a folder into a dataset, one item a file.

    Args:
      src: a folder, or one sound file.
      out: the dataset to make.
      sfreq: rate in Hz that everything is resampled to.
      channels: `first` channel alone, `mean` of all, or `all` (files with another
        number than the first one are skipped).
      payload: 16-bit integers, exact for 16-bit files at their own rate, or `float32`.
      labels: tab-separated table; see `labels.from_table`.
      pattern: regular expression; see `labels.from_pattern`.
      subdirs: column names; see `labels.from_subdirs`.
      licence: terms of the recordings, kept with the dataset.
      workers: processes; None takes as many as are worth their start. Scripts that
        allow more than one need the usual `if __name__ == "__main__":`.
      runner: work on Apache Beam instead of a pool of processes, with the same result:
        `direct` here, `dataflow` on the workers of `beam_options`.
      beam_options: see `beam.run_on_beam`.
      progress: called with files done, files in all and seconds of sound done.

    Raises:
      NeuroFMError: nothing usable is found, labels contradict themselves, the disk is
        too small, or `out` holds something else.
    """
    started = time.monotonic()
    src, out = Path(src), Path(out)
    if not 0.001 <= sfreq < math.inf:
        raise NeuroFMError(f"sfreq is {sfreq}; expected a rate in Hz, such as 16000")
    root, files, unnamed = _files(src)
    known = labelling.gather(root, files, labels, pattern, subdirs)
    sizes, sources = _fingerprint(root, files)
    settings = {
        "reader": "audio",
        "sfreq": float(sfreq),
        "channels": channels,
        "payload": payload,
        "sources": sources,
        "labels": labels and hashlib.sha256(Path(labels).read_bytes()).hexdigest(),
        "pattern": pattern,
        "subdirs": subdirs,
        "licence": licence,
    }
    n_files = len(files) + len(unnamed)
    partial = out.with_name(out.name + ".partial")
    if (out / "dataset.json").is_file():
        _refuse_other(out, open_dataset(out).info.prepared, settings)
        if (partial / "plan.json").is_file():
            shutil.rmtree(partial)
        return summarise(out, n_files, "already prepared", started)
    writer.refuse_occupied(out)
    info = DatasetInfo(
        kind="audio",
        sfreq=float(sfreq),
        unit="full_scale",
        ch_names=_ch_names(root, files, channels),
        payload=payload,
        licence=licence,
        prepared=settings,
    )
    _begin(partial, settings)
    jobs = [
        ShardJob(
            number=number,
            src=root,
            files=tuple(files[group.start : group.stop]),
            data=partial / "data",
            state=partial / "state",
            info=info,
            channels=channels,
        )
        for number, group in enumerate(_groups(sizes))
    ]
    waiting = [job for job in jobs if not job.told.is_file()]
    expected = _estimate_seconds(waiting)
    _refuse_full_disk(out, partial, expected, info)
    n_done = len(files) - sum(len(job.files) for job in waiting)
    seconds = 0.0
    if runner is not None:
        run_on_beam(write_shard, waiting, workers, runner, beam_options or {})
        done = ()
    else:
        if workers is None:
            # A process takes as long to start as half an hour of sound to prepare.
            workers = min(n_cores(), 1 + int(expected / 1800))
        done = run_in_processes(write_shard, waiting, workers)
    for job, length in done:
        n_done += len(job.files)
        seconds += length
        if progress:
            progress(n_done, len(files), seconds)
    _finish(out, jobs, known, unnamed)
    status = "prepared" if len(waiting) == len(jobs) else "resumed"
    return summarise(out, n_files, status, started)


def _files(src: Path) -> tuple[Path, list[str], tuple[Note, ...]]:
    """Root folder, sound files relative to it, and those whose name cannot be kept."""
    if src.is_file():
        return src.parent, [src.name], ()
    if not src.is_dir():
        raise NeuroFMError(f"{src} does not exist; give a folder of sound files")
    files, others = soundfiles.find(src)
    if not files:
        kinds = (f"{n} {kind or 'unnamed'}" for kind, n in sorted(others.items()))
        raise NeuroFMError(
            f"there is no sound file in {src} (it holds {', '.join(kinds) or 'nothing'}"
            f"); expected one of {' '.join(sorted(soundfiles.SUFFIXES))}"
        )
    good = [file for file in files if not _UNKEEPABLE.search(file)]
    bad = tuple(
        (ascii(file)[1:-1], "its name holds characters that cannot be kept")
        for file in files
        if _UNKEEPABLE.search(file)
    )
    if not good:
        raise NeuroFMError(f"no file in {src} can be used: {bad[0][0]}, {bad[0][1]}")
    return src, good, bad


def _fingerprint(root: Path, files: Sequence[str]) -> tuple[list[int], str]:
    """Sizes of the files, and a digest of their names, sizes and times."""
    digest = hashlib.sha256()
    sizes = []
    for file in files:
        stat = (root / file).stat()
        sizes.append(stat.st_size)
        digest.update(json.dumps([file, stat.st_size, stat.st_mtime_ns]).encode())
    return sizes, digest.hexdigest()


def _refuse_other(
    where: Path,
    before: dict[str, Any],
    now: dict[str, Any],
    names: Sequence[str] | None = None,
) -> None:
    different = [name for name in names or now if before.get(name) != now[name]]
    if not different:
        return
    words = {
        "sources": "other source files (or they changed since)",
        "labels": "another label table (or it changed since)",
    }
    told = ", ".join(
        words.get(name, f"{name} {before.get(name)!r} and not {now[name]!r}")
        for name in different
    )
    raise NeuroFMError(
        f"{where} was made with {told}; give another --out, or delete it first"
    )


def _ch_names(root: Path, files: Sequence[str], channels: Channels) -> tuple[str, ...]:
    if channels in ("first", "mean"):
        return (channels,)
    for file in files:
        try:
            n_chans = soundfiles.header(root / file).n_chans
        except Unreadable:
            continue
        if n_chans == 2:
            return ("left", "right")
        return tuple(f"ch{i + 1}" for i in range(n_chans))
    return ("ch1",)


def _groups(sizes: Sequence[int]) -> list[range]:
    """Consecutive files whose sizes in bytes make up a shard."""
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


def _begin(partial: Path, settings: dict[str, Any]) -> None:
    """Make the working folder, or see that it was begun with the same settings."""
    plan = partial / "plan.json"
    if plan.is_file() and any(partial.glob("state/*.json")):
        _refuse_other(partial, json.loads(plan.read_text()), settings, _SHARD_SETTINGS)
    elif plan.is_file():
        shutil.rmtree(partial)  # no shard was finished: nothing binds its settings
    elif any(
        path.name not in ("data", "state") and not path.name.startswith(".plan.json.")
        for path in partial.glob("*")
    ):
        raise NeuroFMError(
            f"{partial}, where the work would be done, holds something else; give "
            "another --out, or move that folder"
        )
    for name in ("data", "state"):
        (partial / name).mkdir(parents=True, exist_ok=True)
    write_json(plan, settings)


def _estimate_seconds(jobs: Sequence[ShardJob]) -> float:
    """Seconds of sound to expect, from the headers of up to about 100 files."""
    paths = [job.src / file for job in jobs for file in job.files]
    seconds = n_bytes = 0.0
    for path in paths[:: max(1, len(paths) // 100)]:
        with contextlib.suppress(Unreadable):
            about = soundfiles.header(path)
            seconds += about.n_samples / about.sfreq
            n_bytes += path.stat().st_size
    total = sum(path.stat().st_size for path in paths)
    return seconds * total / n_bytes if n_bytes else 0.0


def _refuse_full_disk(
    out: Path, partial: Path, seconds: float, info: DatasetInfo
) -> None:
    n_bytes = seconds * info.sfreq * info.n_chans * np.dtype(info.payload).itemsize
    free = shutil.disk_usage(partial).free
    if n_bytes > free:
        if not any(partial.glob("state/*.json")):
            shutil.rmtree(partial)
        raise NeuroFMError(
            f"{out} needs about {n_bytes / 1e9:.3g} GB and {free / 1e9:.3g} GB are "
            "free there; make room or give another --out"
        )


def _finish(
    out: Path,
    jobs: Sequence[ShardJob],
    known: labelling.Labels,
    unnamed: tuple[Note, ...],
) -> None:
    """Join the shards' rows, add the labels and give the whole its name."""
    data, info = jobs[0].data, jobs[0].info
    states = [json.loads(job.told.read_text()) for job in jobs]
    skipped = [*unnamed, *(pair for state in states for pair in state["skipped"])]
    notes = [*known.notes, *(pair for state in states for pair in state["notes"])]
    manifest = pa.concat_tables([pq.read_table(job.rows) for job in jobs])
    if not len(manifest):
        shutil.rmtree(data.parent)
        file, reason = skipped[0]
        raise NeuroFMError(
            f"none of the {len(skipped)} files can be used (the first is {file}: "
            f"{reason}); `neurofm check` lists them all"
        )
    manifest, events, outside = labelling.attach(manifest, known)
    write_notes(data, skipped, [*notes, *outside])
    writer.write_tables(data, info, manifest, events)
    os.replace(data, out)
    shutil.rmtree(data.parent)
