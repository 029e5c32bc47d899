"""`neurofm embed`: recordings to a folder of embeddings; interrupted, it goes on."""

import hashlib
import logging
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from neurofm import config
from neurofm.data import embeddings
from neurofm.embedding import encode, inputs, recordings
from neurofm.embedding.encode import Reading
from neurofm.embedding.recordings import Source
from neurofm.errors import NeuroFMError
from neurofm.model import Model
from neurofm.weights import leaves

T = TypeVar("T")
_log = logging.getLogger(__name__)

READERS = 4  # threads that decode and resample ahead of the model


def embed(
    model: Model,
    given: Sequence[str | os.PathLike],
    out: str | os.PathLike,
    *,
    layers: encode.Layers = ("last",),
    pool: str = "none",
    format: str = "safetensors",
    events: bool = False,
    window_s: float | None = None,
    overlap_s: float = 0.0,
    times: str = "centers",
    batch_size: int = 16,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Embed recordings into the folder `out` (see `neurofm.data.embeddings`).

    Run again after an interruption it goes on; run again when finished it gives the
    same answer. Recordings that cannot be embedded are skipped and listed.

    Args:
      given: sound files, folders of them, or prepared datasets.
      events: embed whole recordings and give one row an event of the dataset: the mean
        over tokens whose centre lies in [onset, onset + duration), the nearest token
        where there is none.
      layers, pool, window_s, overlap_s, times, batch_size: see `Model.embed`.
      progress: called with recordings done and in all.

    Returns:
      n_embeddings, dim, hours_per_s (hours of signal a second of wall time), skipped
      (file and reason), converted (what was done to inputs), out.

    Raises:
      NeuroFMError: an impossible request, or no recording could be embedded.
    """
    if format not in embeddings.SUFFIXES:
        raise NeuroFMError(
            f"format {format!r} is unknown: use one of {', '.join(embeddings.SUFFIXES)}"
        )
    if events and times != "centers":
        raise NeuroFMError("events are found by token centres: leave times as it is")
    found = recordings.find(given, model.contract)
    if events and not (found := [r for r in found if r.n_events]):
        raise NeuroFMError(
            "there are no interval events in these inputs: give a dataset prepared "
            "with interval labels, or leave --events out"
        )
    names = encode.layer_names(model, layers)
    placing = {"window_s": window_s, "overlap_s": overlap_s, "times": times}
    request = {
        "params_sha256": leaves.params_sha256(model.variables["params"]),
        "task": config.to_json(model.task),
        "inputs": _digest(found),
        **{"layers": list(names), "pool": pool, "format": format, "events": events},
        **placing,
    }
    if (finished := _finished(Path(out), request)) is not None:
        return finished
    work = _Work(model, found, progress)
    readings = encode.embed_waves(
        model,
        work.sounds(),
        layers=names,
        pool="none" if events else pool,
        batch_size=batch_size,
        **placing,
    )  # an impossible request is refused before anything is written
    writer = embeddings.Writer(out, request)
    work.leave_out(writer.done)
    started, seconds = time.monotonic(), 0.0
    for (recording, duration), reading in readings:
        if not len(reading.times_s):
            work.skip(recording, "shorter than one token of the model")
            continue
        if events:
            rows = list(_events(recording, reading))
        else:
            columns = recording.columns()
            rows = [(recording.item, reading.values, reading.times_s, columns)]
        writer.add(recording.item, rows, duration)
        seconds += duration
    if not writer.rows:
        writer.give_up()
        first = work.skipped[0]
        raise NeuroFMError(
            f"none of {len(found)} recordings could be embedded; the first, "
            f"{first['file']}: {first['reason']}"
        )
    result = {
        "n_embeddings": len(writer.rows),
        "dim": writer.rows[0]["dim"],
        "hours_per_s": seconds / 3600 / max(time.monotonic() - started, 1e-9),
        "skipped": work.skipped,
        "converted": inputs.announce(work.converted),
    }
    about = {"contract": asdict(model.contract), "model": model.meta}
    writer.finish({**about, **result}, work.skipped)
    return {**result, "out": str(out)}


class _Work:
    """Recordings on their way to the model, and what is to be said about them."""

    def __init__(
        self,
        model: Model,
        found: list[Source],
        progress: Callable[[int, int], None] | None,
    ):
        self.model, self.progress, self.n_found = model, progress, len(found)
        self.todo = found
        self.skipped: list[dict[str, str]] = []
        self.converted: list[tuple[str, list[inputs.Difference]]] = []

    def leave_out(self, done: set[str]) -> None:
        """Do not read again what was embedded before."""
        self.todo = [r for r in self.todo if r.item not in done]
        if done:
            _log.info("%d of %d were embedded before", len(done), self.n_found)

    def skip(self, recording: Source, reason: str) -> None:
        _log.warning("skipped %s: %s", recording.file, reason)
        self.skipped.append({"file": recording.file, "reason": reason})

    def sounds(self) -> Iterator[tuple[tuple[Source, float], encode.Wave]]:
        """((recording, duration in seconds), sound), read ahead by a few threads."""
        before = self.n_found - len(self.todo)
        with ThreadPoolExecutor(READERS) as pool:
            for n, (recording, read) in enumerate(_ahead(pool, self._read, self.todo)):
                try:
                    wave, found = read()
                except NeuroFMError as error:
                    self.skip(recording, getattr(error, "reason", str(error)))
                else:
                    self.converted.append((recording.file, found))
                    duration = wave.shape[-1] / self.model.contract.sfreq
                    yield (recording, duration), wave
                if self.progress is not None:
                    self.progress(before + n + 1, self.n_found)

    def _read(self, recording: Source) -> tuple[encode.Wave, list[inputs.Difference]]:
        return inputs.conform(self.model.contract, *recording.read())


def _ahead(
    pool: ThreadPoolExecutor, read: Callable[[Source], T], todo: list[Source]
) -> Iterator[tuple[Source, Callable[[], T]]]:
    """Each recording with a function that waits for its result, in order."""
    waiting: deque[tuple[Source, Callable[[], T]]] = deque()
    for recording in todo:
        waiting.append((recording, pool.submit(read, recording).result))
        if len(waiting) > READERS:
            yield waiting.popleft()
    yield from waiting


def _events(recording: Source, reading: Reading) -> Iterator[embeddings.Row]:
    """One row an event: its tokens' mean, under the columns of event and recording."""
    at = reading.times_s
    for i, event in enumerate(recording.events()):
        onset, duration = event["onset"], event["duration"]
        inside = np.flatnonzero((at >= onset) & (at < onset + duration))
        if not len(inside):
            inside = np.abs(at - (onset + duration / 2)).argmin(keepdims=True)
        mean = encode.mean_over(reading, inside)
        columns = {**recording.columns(), **event}
        yield f"{recording.item}#{i}", mean.values, mean.times_s, columns


def _digest(found: list[Source]) -> str:
    digest = hashlib.sha256()
    for recording in found:
        digest.update(recording.stamp.encode() + b"\0")
    return digest.hexdigest()


def _finished(out: Path, request: dict[str, Any]) -> dict[str, Any] | None:
    """The result of the same request made before, or None."""
    if not (out / "embeddings.json").is_file():
        return None
    info = embeddings.open_embeddings(out).info
    embeddings.require_same(out, info["request"], request)
    names = ("n_embeddings", "dim", "hours_per_s", "skipped", "converted")
    _log.info("%s was finished before", out)
    return {**{name: info[name] for name in names}, "out": str(out)}
