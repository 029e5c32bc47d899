"""Recordings of any kind as `embed` cuts them, and batches of what was cut.

Axes: C channels, N samples of a recording, n samples of a window, B rows of a batch.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Shaped

from neurofm.data import meeg
from neurofm.data.sensors import Sensors

Samples = Float32[np.ndarray, "C _"]  # many of them differ in length
# What has an entry a sensor, the last axis of what is read.
_OF_SENSORS = frozenset({"topography", "reconstruction", "signal"})
# A batch of EEG and MEG has the next of these places for sensors: few programs, and
# less than half of the places empty.
_PLACES = (8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 320, 384, 512)


class Group(NamedTuple):
    """Channels of an intracranial recording.

    Attributes:
      there: places of the model where a channel is.
      subject: its number, of those that the model knows.
      names: of the channels, as far as known.
    """

    there: Bool[np.ndarray, " C"]
    subject: int = 0
    names: tuple[str, ...] = ()


class Stimulus(NamedTuple):
    """Features of a stimulus, whose channels are those of its modalities in order.

    Attributes:
      sizes: name, layers and width of each modality.
      present: which of them the stimulus has.
      subject: number of who sees it, of those that the model knows.
    """

    sizes: tuple[tuple[str, int, int], ...]
    present: Bool[np.ndarray, " M"]
    subject: int


class Recorded(NamedTuple):
    """A recording, or a window of one, as a model takes it.

    Attributes:
      samples: in the unit of the model's contract.
      sensors: of its channels, for EEG and MEG.
      shown: sensors that the model sees, where it is to rebuild them all.
      bads: names of channels that are marked bad and kept.
      regions: which channels are recorded, for parcellated fMRI.
      group: its channels, for intracranial recordings.
      stimulus: what its channels are, for features of a stimulus.
      start_s: seconds at its first sample, for pieces around an event, and for stimuli.
    """

    samples: Samples
    sensors: Sensors | None = None
    start_s: float = 0.0
    shown: Bool[np.ndarray, " C"] | None = None
    bads: tuple[str, ...] = ()
    regions: Bool[np.ndarray, " C"] | None = None
    group: Group | None = None
    stimulus: Stimulus | None = None

    def cut(self, start: int, length: int) -> "Recorded":
        """`length` samples from `start`; less where the recording ends before."""
        return self._replace(samples=self.samples[:, start : start + length])

    def channel(self, number: int) -> "Recorded":
        """One channel of an intracranial recording, alone."""
        assert self.group is not None
        own = self.group._replace(there=self.group.there[[number]])
        return self._replace(samples=self.samples[[number]], group=own)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of its channels, as far as known."""
        known = self.sensors or self.group
        return () if known is None else tuple(known.names)

    @property
    def places(self) -> int:
        """Channels of the batch that it goes into."""
        n = len(self.samples)
        if self.sensors is None:
            return n
        return next((p for p in _PLACES if p >= n), -(-n // 256) * 256)


def arrays(
    windows: Sequence[Recorded], n_rows: int, size: int
) -> dict[str, Shaped[np.ndarray, "B ..."]]:
    """A batch of windows of the same places, `size` samples long, filled up."""
    rows = [*windows, *[windows[-1]] * (n_rows - len(windows))]
    waves = [row.samples for row in rows]
    if (known := [row.sensors for row in rows if row.sensors is not None]) != []:
        fields = meeg.pad(waves, known, rows[0].places, size)
        if rows[0].shown is not None:
            shown = np.zeros((n_rows, rows[0].places), bool)
            for padded, row in zip(shown, rows, strict=True):
                padded[: len(row.samples)] = row.shown
            fields["meeg/sensor_shown"] = shown
    else:
        wave = np.zeros((n_rows, len(waves[0]), size), np.float32)
        for padded, x in zip(wave, waves, strict=True):
            padded[:, : x.shape[1]] = x
        spans = np.array([(0, x.shape[1]) for x in waves], np.int32)
        fields = {"audio/wave": wave, "audio/span": spans}
        if (regions := [r.regions for r in rows if r.regions is not None]) != []:
            fields = {"fmri/bold": wave, "fmri/span": spans}
            fields["fmri/regions"] = np.stack(regions)
        if (groups := [r.group for r in rows if r.group is not None]) != []:
            fields = {"ieeg/signal": wave, "ieeg/length": spans[:, 1]}
            fields["ieeg/channel_mask"] = np.stack([g.there for g in groups])
            fields["subject"] = np.array([g.subject for g in groups], np.int32)
        if (seen := [r.stimulus for r in rows if r.stimulus is not None]) != []:
            fields = _features(wave, seen)
    return {
        **fields,
        "index": np.arange(n_rows, dtype=np.int32),
        "valid": np.arange(n_rows) < len(windows),
    }


def _features(
    wave: Float32[np.ndarray, "B C n"], seen: Sequence[Stimulus]
) -> dict[str, Shaped[np.ndarray, "B ..."]]:
    """A field for each modality, and which of them there are."""
    sizes = seen[0].sizes
    ends = np.cumsum([layers * width for _, layers, width in sizes])
    parts = np.split(wave, ends[:-1], axis=1)
    fields = {
        f"features/{name}": part.reshape(len(wave), layers, width, -1)
        for (name, layers, width), part in zip(sizes, parts, strict=True)
    }
    return {
        **fields,
        "features/present": np.stack([each.present for each in seen]),
        "subject": np.array([each.subject for each in seen], np.int32),
    }


def own(
    values: Mapping[str, Shaped[np.ndarray, "T _"]], window: Recorded
) -> dict[str, Shaped[np.ndarray, "T _"]]:
    """What was read of one window, without the places that it leaves empty."""
    out = dict(values)
    for name in _OF_SENSORS & out.keys():
        by_sensor = out[name].reshape(len(out[name]), -1, window.places)
        kept = by_sensor[..., : len(window.samples)]
        out[name] = kept.reshape(len(kept), -1)
    return out
