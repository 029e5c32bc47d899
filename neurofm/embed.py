"""`neurofm embed`: recordings to a folder of embeddings; interrupted, it goes on."""

import hashlib
import itertools
import logging
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np

from neurofm import config
from neurofm.data import embeddings
from neurofm.embedding import electrodes, encode, recordings, stimuli
from neurofm.embedding.difference import Difference, announce
from neurofm.embedding.encode import Reading
from neurofm.embedding.recorded import Recorded
from neurofm.embedding.recordings import File, Record
from neurofm.embedding.stimuli import Timeline
from neurofm.errors import NeuroFMError
from neurofm.model import Model
from neurofm.stores import place
from neurofm.task import Want
from neurofm.weights import leaves

if TYPE_CHECKING:
    from data_pipelines.meeg.settings import Settings

T = TypeVar("T")
Source = File | Record | Timeline
_log = logging.getLogger(__name__)

READERS = 4  # threads that decode and resample ahead of the model


def embed(
    model: Model,
    given: Sequence[str | os.PathLike],
    out: str | os.PathLike,
    *,
    want: Want = "features",
    layers: encode.Layers = ("last",),
    pool: str = "none",
    format: str = "safetensors",
    events: bool = False,
    around: tuple[float, float] | None = None,
    settings: "Settings | None" = None,
    subject: str | None = None,
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
      given: files, folders of them, or prepared datasets; of a model of brains the
        feature stores of all modalities, each of whose timelines is a recording.
      events: embed whole recordings and give one row an event of the dataset: the mean
        over tokens whose centre lies in [onset, onset + duration), the nearest token
        where there is none.
      around: seconds (tmin, tmax): for `events`, cut [onset + tmin, onset + tmax) out
        of the recording and embed each piece alone, with times from the onset. Events
        that are not wholly inside the recording are skipped.
      settings: how files of EEG and MEG are read; default as `neurofm prepare meeg`
        does, at the model's rate.
      subject: who sees the stimuli, of those that a model of brains knows; by default
        nobody in particular, see `embedding.stimuli.find`.
      want, layers, pool, window_s, overlap_s, times, batch_size: see `Model.embed`.
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
    if want == "codes" and events and around is None:
        raise NeuroFMError(
            "codes have no mean over an event: give the seconds around it that are to "
            "be read"
        )
    if events and times != "centers":
        raise NeuroFMError("events are found by token centres: leave times as it is")
    if around is not None and not (events and around[0] < around[1]):
        raise NeuroFMError(
            f"seconds around events, {around}, were given: give them with events, the "
            "first less than the second"
        )
    of_stimuli = model.contract.kind == "features"
    if not of_stimuli and (want == "prediction" or subject is not None):
        raise NeuroFMError(
            f"this model takes {model.contract.kind}: responses to stimuli are "
            "predicted, and a subject is named, for a model of brains such as tribe"
        )
    found: list[Source]
    if of_stimuli:
        found = [*stimuli.find([*map(place, given)], model, subject, want)]
    else:
        asked = given, model.contract, settings, model.subjects
        found = [*recordings.find(*asked)]
    if events and not (found := [r for r in found if r.n_events]):
        raise NeuroFMError(
            "there are no interval events in these inputs: give a dataset prepared "
            "with interval labels, or leave --events out"
        )
    names = encode.layer_names(model, layers, want)
    placing = {"window_s": window_s, "overlap_s": overlap_s, "times": times}
    request = {
        "params_sha256": leaves.params_sha256(model.variables["params"]),
        "task": config.to_json(model.task),
        "inputs": _digest(found),
        **{"layers": list(names), "pool": pool, "format": format, "events": events},
        **({} if want == "features" else {"want": want}),
        **({} if around is None else {"around": list(around)}),
        **placing,
    }
    if (finished := _finished(Path(out), request)) is not None:
        return finished
    work = _Work(model, found, progress)
    whole = events and around is None
    readings = encode.embed_waves(
        model,
        work.pieces(around),
        want=want,
        layers=names,
        pool="none" if whole else pool,
        batch_size=batch_size,
        **placing,
    )  # an impossible request is refused before anything is written
    named = want == "sources" or electrodes.apart(model.contract)
    writer = embeddings.Writer(out, request)
    work.leave_out(writer.done)
    started, seconds = time.monotonic(), 0.0
    for item, group in itertools.groupby(readings, lambda one: one[0].recording.item):
        rows, duration = [], 0.0
        for piece, reading in group:
            duration += piece.duration
            if len(reading.times_s):
                rows += _rows(piece, reading, whole, named)
            else:
                work.skip(piece.recording, "shorter than one token of the model")
        if rows:
            writer.add(item, rows, duration)
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
        "converted": announce(work.converted),
    }
    about = {"contract": asdict(model.contract), "model": model.meta}
    writer.finish({**about, **result}, work.skipped)
    return {**result, "out": str(out)}


class _Piece(NamedTuple):
    """A recording, or what lies around one of its events."""

    recording: Source
    event: int | None
    duration: float
    sensors: tuple[str, ...]


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
        self.converted: list[tuple[str, list[Difference]]] = []

    def leave_out(self, done: set[str]) -> None:
        """Do not read again what was embedded before."""
        self.todo = [r for r in self.todo if r.item not in done]
        if done:
            _log.info("%d of %d were embedded before", len(done), self.n_found)

    def skip(self, recording: Source, reason: str) -> None:
        _log.warning("skipped %s: %s", recording.file, reason)
        self.skipped.append({"file": recording.file, "reason": reason})

    def pieces(
        self, around: tuple[float, float] | None
    ) -> Iterator[tuple[_Piece, Recorded]]:
        """Recordings, or what lies around their events, read ahead by a few threads."""
        before = self.n_found - len(self.todo)
        with ThreadPoolExecutor(READERS) as pool:
            for n, (recording, read) in enumerate(_ahead(pool, self._read, self.todo)):
                try:
                    whole, found = read()
                except NeuroFMError as error:
                    self.skip(recording, getattr(error, "reason", str(error)))
                else:
                    self.converted.append((recording.file, found))
                    if around is None:
                        yield self._piece(recording, None, whole), whole
                    else:
                        yield from self._around(recording, whole, *around)
                if self.progress is not None:
                    self.progress(before + n + 1, self.n_found)

    def _read(self, recording: Source) -> tuple[Recorded, list[Difference]]:
        return recording.take(self.model.contract)

    def _piece(self, recording: Source, event: int | None, one: Recorded) -> _Piece:
        duration = one.samples.shape[-1] / self.model.contract.sfreq
        return _Piece(recording, event, duration, one.names)

    def _around(
        self, recording: Source, whole: Recorded, tmin: float, tmax: float
    ) -> Iterator[tuple[_Piece, Recorded]]:
        """A piece an event, which begins on the sample nearest to onset + tmin."""
        sfreq = self.model.contract.sfreq
        length = round((tmax - tmin) * sfreq)
        for i, event in enumerate(recording.events()):
            start = round((event["onset"] + tmin) * sfreq)
            if start >= 0 and start + length <= whole.samples.shape[-1]:
                start_s = start / sfreq - event["onset"]
                one = whole.cut(start, length)._replace(start_s=start_s)
                yield self._piece(recording, i, one), one
            else:
                at = event["onset"]
                reason = f"what was asked for around {at:g} s is not all recorded"
                self.skip(recording, reason)


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


def _rows(
    piece: _Piece, reading: Reading, by_event: bool, with_sensors: bool
) -> Iterator[embeddings.Row]:
    """Of a piece, or of each event of a whole recording."""
    recording, name = piece.recording, piece.recording.item
    if by_event:
        yield from _events(recording, reading)
        return
    columns = recording.columns()
    if with_sensors and piece.sensors:
        columns["sensors"] = list(piece.sensors)
    if piece.event is not None:
        name = f"{name}#{piece.event}"
        columns |= recording.events()[piece.event]
    yield name, reading.values, reading.times_s, columns


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
