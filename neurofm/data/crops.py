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
from neurofm.data.scenes import Scene, Scenery, Use
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
      scene: of the crop's clip, where scenes are simulated.
      at: first sample of the crop in that clip; negative where the clip is shorter.
      example: its number among labelled examples.
      channel: the one that is taken alone; -1 is all.
      onset_s: where the crop begins on the clock of its stimulus, in seconds.
      second: first and past-last sample of another crop of the same item, where a row
        has two.
    """

    dataset: int
    item: int
    start: int
    stop: int
    span: tuple[int, int]
    redraws: int = 0
    valid: bool = True
    scene: Scene | None = None
    at: int = 0
    example: int = -1
    channel: int = -1
    onset_s: float = 0.0
    second: tuple[int, int] | None = None


@dataclass(frozen=True, eq=False)
class Clips:
    """The selected clips of one dataset, numbered from 0, to be cut into windows.

    Attributes:
      number: position of the dataset in the plan.
      dataset: an open record store.
      selection: which of its items.
      contract: window, hop and rate.
      min_active: a window with a smaller share of active 50 ms blocks is silent.
      scenery: noises and rooms, where scenes are simulated; windows are then cut from
        the clip of a scene rather than from the whole recording.
      use: whose noises and rooms.
    """

    number: int
    dataset: Dataset
    selection: Selection
    contract: InputContract
    min_active: float
    scenery: Scenery | None
    use: Use

    def scene(self, clip: int, random: UInt64[np.ndarray, " words"]) -> Scene:
        """The scene that `scenes.WORDS` numbers make of a clip, given `scenery`."""
        assert self.scenery is not None
        n_recorded = int(self._n_samples[self.selection.items[clip]])
        n_samples = int(self.selection.lengths[clip])
        return self.scenery.scene(self.use, n_recorded, n_samples, random)

    def is_short(self, clip: int) -> bool:
        return int(self.selection.lengths[clip]) < self.contract.window_samples

    def draw(
        self,
        clip: int,
        random: UInt64[np.ndarray, " draws"],
        scene: Scene | None = None,
    ) -> Crop:
        """A window anywhere in a clip: the first that is not silent, else the fullest.

        Each number of `random` is one draw. A clip shorter than the window gives all
        of itself at a random offset in whole hops, so that it keeps its tokens.
        """
        length, window = int(self.selection.lengths[clip]), self.contract.window_samples
        if self.is_short(clip):
            return self._padded(clip, random[0], scene)
        best, most, redraws = 0, -1.0, -1
        for number in random:
            start = below(number, length - window + 1)
            share = self._active_share(clip, start, scene)
            redraws += 1
            if share > most:
                best, most = start, share
            if share >= self.min_active:
                break
        return self._window(clip, best, redraws, scene)

    def tile(
        self,
        clip: int,
        tile: int,
        random: UInt64[np.ndarray, " one"],
        scene: Scene | None = None,
    ) -> Crop:
        """The `tile`-th window of a clip, side by side from its start."""
        if self.is_short(clip):
            return self._padded(clip, random[0], scene)
        return self._window(clip, tile * self.contract.window_samples, 0, scene)

    def is_silent(self, clip: int, tile: int, scene: Scene | None = None) -> bool:
        start = tile * self.contract.window_samples
        return (
            not self.is_short(clip)
            and self._active_share(clip, start, scene) < self.min_active
        )

    def _padded(self, clip: int, number: np.uint64, scene: Scene | None) -> Crop:
        length, hop = int(self.selection.lengths[clip]), self.contract.hop_samples
        room = (self.contract.window_samples - length) // hop
        first = hop * below(number, room + 1)
        item = int(self.selection.items[clip])
        span = (first, first + length)
        return Crop(self.number, item, 0, length, span, scene=scene, at=-first)

    def _window(self, clip: int, at: int, redraws: int, scene: Scene | None) -> Crop:
        item, window = int(self.selection.items[clip]), self.contract.window_samples
        end = int(self._n_samples[item])
        start = at + (scene.start if scene else 0)
        return Crop(
            dataset=self.number,
            item=item,
            start=min(start, end),
            stop=min(start + window, end),
            span=(0, window),
            redraws=redraws,
            scene=scene,
            at=at,
        )

    def _active_share(self, clip: int, start: int, scene: Scene | None) -> float:
        """Share of the 50 ms blocks a window touches that hold sound; padding: none."""
        start += scene.start if scene else 0
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
