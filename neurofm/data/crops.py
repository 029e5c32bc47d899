"""Windows of recordings, chosen from the manifest alone.

Crop starts are uniform over the clip, as in WavJEPA's released code (arXiv 2509.23238);
drawing silent crops again and padding short clips with a span are ours.
"""

import functools
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int, UInt64

from neurofm.contract import InputContract
from neurofm.data.draws import below
from neurofm.data.records import Dataset
from neurofm.data.segments import block_samples
from neurofm.data.select import Selection

MAX_DRAWS = 8


class Crop(NamedTuple):
    """One row of a batch.

    Attributes:
      dataset: position in the plan's datasets.
      item: row of that dataset's `items`.
      start: first sample to read from the recording.
      stop: past the last one; they go to `span[0]` of the crop.
      span: first and past-last sample of the crop that counts as recording.
      redraws: silent draws before this one.
      valid: False for a filler that completes a batch and weighs nothing.
    """

    dataset: int
    item: int
    start: int
    stop: int
    span: tuple[int, int]
    redraws: int = 0
    valid: bool = True


@dataclass(frozen=True, eq=False)
class Clips:
    """The selected clips of one dataset, numbered from 0, to be cut into windows.

    Attributes:
      number: position of the dataset in the plan.
      dataset: an open record store.
      selection: which of its items.
      contract: window, hop and rate.
      min_active: a window with a smaller share of active 50 ms blocks is silent.
    """

    number: int
    dataset: Dataset
    selection: Selection
    contract: InputContract
    min_active: float

    def is_short(self, clip: int) -> bool:
        return int(self.selection.lengths[clip]) < self.contract.window_samples

    def draw(self, clip: int, random: UInt64[np.ndarray, " draws"]) -> Crop:
        """A window anywhere in a clip: the first that is not silent, else the fullest.

        Each number of `random` is one draw. A clip shorter than the window gives all
        of itself at a random offset in whole hops, so that it keeps its tokens.
        """
        length, window = int(self.selection.lengths[clip]), self.contract.window_samples
        if self.is_short(clip):
            return self._padded(clip, random[0])
        best, most, redraws = 0, -1.0, -1
        for number in random:
            start = below(number, length - window + 1)
            share = self._active_share(clip, start)
            redraws += 1
            if share > most:
                best, most = start, share
            if share >= self.min_active:
                break
        return self._window(clip, best, redraws)

    def tile(self, clip: int, tile: int, random: UInt64[np.ndarray, " one"]) -> Crop:
        """The `tile`-th window of a clip, side by side from its start."""
        if self.is_short(clip):
            return self._padded(clip, random[0])
        return self._window(clip, tile * self.contract.window_samples, 0)

    def is_silent(self, clip: int, tile: int) -> bool:
        start = tile * self.contract.window_samples
        return (
            not self.is_short(clip)
            and self._active_share(clip, start) < self.min_active
        )

    def _padded(self, clip: int, number: np.uint64) -> Crop:
        length, hop = int(self.selection.lengths[clip]), self.contract.hop_samples
        room = (self.contract.window_samples - length) // hop
        first = hop * below(number, room + 1)
        item = int(self.selection.items[clip])
        return Crop(self.number, item, 0, length, (first, first + length))

    def _window(self, clip: int, start: int, redraws: int) -> Crop:
        item, window = int(self.selection.items[clip]), self.contract.window_samples
        end = int(self._n_samples[item])
        start, stop = min(start, end), min(start + window, end)
        return Crop(self.number, item, start, stop, (0, window), redraws)

    def _active_share(self, clip: int, start: int) -> float:
        """Share of the 50 ms blocks a window touches that hold sound; padding: none."""
        block = block_samples(self.contract.sfreq)
        stop = start + self.contract.window_samples
        first, past = start // block, -(-stop // block)
        low, high = first // 8, -(-past // 8)
        whole = self._active[int(self.selection.items[clip])].as_py()
        # As one integer: the window's last block ends up in the lowest bit.
        bits = int.from_bytes(whole[low:high].ljust(high - low, b"\0"), "big")
        bits = (bits >> (8 * high - past)) & ((1 << (past - first)) - 1)
        return bits.bit_count() / (past - first)

    @functools.cached_property
    def _n_samples(self) -> Int[np.ndarray, " items"]:
        return self.dataset.items["n_samples"].to_numpy()

    @functools.cached_property
    def _active(self) -> Any:
        return self.dataset.items["active"]
