"""Stripes of a spectrogram hidden in time and in frequency, drawn inside the step.

A stripe becomes zero, or a copy of a stripe from elsewhere, or is left as it is; what a
model is asked for is all of them. `Stripes` says for each frame and each frequency what
stands there: `KEPT`, `EMPTY`, or the number of the one that is copied.

Axes: B examples, T frames, F frequencies, N of one of both, S starts of stripes.

Source: BrainBERT (arXiv 2302.14367), section 3, and its released code.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

KEPT, EMPTY = -1, -2
LEFT, COPIED = 0.1, 0.2  # of stripes a tenth is left, a tenth is copied, the rest zero

Label = Literal["union", "released"]


class Stripes(NamedTuple):
    """What is hidden of one spectrogram, or of B along a first axis.

    Attributes:
      frames: what stands in every frame, at the frequencies where it is `reached`.
      freqs: what then stands at every frequency.
      reached: where stripes of frames lie.
      label: what the model is asked for.
    """

    frames: Int[Array, "*b T"]
    freqs: Int[Array, "*b F"]
    reached: Bool[Array, "*b T F"]
    label: Bool[Array, "*b T F"]


def applied(
    x: Float[Array, "B T F"], stripes: Stripes, clean_copies: bool
) -> Float[Array, "B T F"]:
    """The spectrograms with their stripes, frames first.

    Args:
      clean_copies: frequencies are copied from `x`, not from what hidden frames left.
    """
    frames, freqs = stripes.frames[..., None], stripes.freqs[:, None]
    rows = jnp.take_along_axis(x, jnp.maximum(frames, 0), axis=1)
    rows = jnp.where(frames == EMPTY, 0, rows)
    first = jnp.where(stripes.reached & (frames != KEPT), rows, x)
    source = x if clean_copies else first
    columns = jnp.take_along_axis(source, jnp.maximum(freqs, 0), axis=2)
    columns = jnp.where(freqs == EMPTY, 0, columns)
    return jnp.where(freqs == KEPT, first, columns)


class Uniform(NamedTuple):
    """Numbers in [0, 1) of one axis, a start each: is it, how long, what, from where.

    A whole number of `n` is `floor(u n)`.
    """

    accept: Float[Array, " S"]
    length: Float[Array, " S"]
    fate: Float[Array, " S"]
    source: Float[Array, " S"]


def uniform(key: jax.Array, n: int) -> Uniform:
    """All of one axis."""
    return Uniform(*jax.random.uniform(key, (4, n)))


def whole(u: Float[Array, "*s"], n: int) -> Int[Array, "*s"]:
    """0, ..., n - 1 from a number in [0, 1)."""
    return jnp.minimum((u * n).astype(int), n - 1)


def accepted(
    wanted: Bool[Array, " S"], reach: Int[Array, " S"], first: Int[Array, " S"]
) -> Bool[Array, " S"]:
    """Of wanted stripes, in order, those that begin behind the reach of all before."""

    def step(blocked, x):
        wanted, reach, first = x
        taken = wanted & (first > blocked)
        return jnp.where(taken, first + reach, blocked), taken

    return jax.lax.scan(step, jnp.int32(-1), (wanted, reach, first))[1]


def painted(
    taken: Bool[Array, " S"],
    length: Int[Array, " S"],
    fate: Float[Array, " S"],
    source: Int[Array, " S"],
    n: int,
) -> tuple[Int[Array, " N"], Bool[Array, " N"]]:
    """What stands at each of `n` places, and which lie in a stripe.

    Start s is place s; of stripes that overlap the last one stands that is not left.
    """
    place, start = jnp.arange(n), jnp.arange(len(taken))[:, None]
    inside = taken[:, None] & (place >= start) & (place < start + length[:, None])
    shown = inside & (fate >= LEFT)[:, None]
    last = jnp.max(jnp.where(shown, start, -1), axis=0)
    copied = (fate < COPIED)[last]
    there = jnp.where(copied, source[last] + place - last, EMPTY)
    return jnp.where(last >= 0, there, KEPT), inside.any(0)


@dataclass(frozen=True, kw_only=True)
class Static:
    """Stripes of a few frames over all frequencies, of a few frequencies over all.

    Copied frequencies come from the clean spectrogram, so hidden frames are seen there,
    as released. Stripes of one axis do not touch.

    Attributes:
      share_time, share_freq: how often a frame, a frequency begins a stripe.
      frames, freqs: least and greatest width.
      label: `union` of all stripes; or `released`, where frames are asked for and, for
        a hidden frame's number, the frequency of that number, but no stripe of
        frequencies.
    """

    kind: Literal["static"] = "static"
    share_time: float = 0.1
    share_freq: float = 0.1
    frames: tuple[int, int] = (1, 5)
    freqs: tuple[int, int] = (1, 2)
    label: Label = "union"

    clean_copies = True

    def draw(self, key: jax.Array, n_frames: int, n_freqs: int) -> Stripes:
        """Stripes of one spectrogram."""
        key_time, key_freq = jax.random.split(key)
        return self.stripes(
            uniform(key_time, n_frames), uniform(key_freq, n_freqs), n_frames, n_freqs
        )

    def stripes(
        self, time: Uniform, freq: Uniform, n_frames: int, n_freqs: int
    ) -> Stripes:
        """Those that these numbers give; numbers past the last start are unused."""
        axes = (
            (time, self.share_time, self.frames, n_frames),
            (freq, self.share_freq, self.freqs, n_freqs),
        )
        (frames, in_time), (freqs, in_freq) = (_separate(*axis) for axis in axes)
        if self.label == "released":
            in_freq = in_time[:n_freqs]
            in_freq = jnp.pad(in_freq, (0, n_freqs - len(in_freq)))
        reached = jnp.broadcast_to(in_time[:, None], (n_frames, n_freqs))
        return Stripes(frames, freqs, reached, reached | in_freq)


def _separate(
    u: Uniform, share: float, widths: tuple[int, int], n: int
) -> tuple[Int[Array, " N"], Bool[Array, " N"]]:
    low, high = widths
    starts = max(n - high, 1)
    u = Uniform(*(x[:starts] for x in u))
    length = low + whole(u.length, high - low + 1)
    taken = accepted(u.accept < share, length, jnp.arange(starts))
    return painted(taken, length, u.fate, whole(u.source, starts), n)


@dataclass(frozen=True, kw_only=True)
class Adaptive:
    """Stripes longer at low frequencies, and wider at high ones.

    At frequency f a frame's stripe hides `200 / (25 + f)` frames on each side of where
    it lies, and at least one or two, which is drawn; a frequency's `4.9 f / 250`, at
    least one. Those of frequencies may overlap, and copy what hidden frames left.

    Attributes:
      share: how often a frame, a frequency begins a stripe.
      range_hz: of the frequencies by which widths go, evenly spaced.
    """

    kind: Literal["adaptive"] = "adaptive"
    share: float = 0.1
    range_hz: tuple[float, float] = (0.01, 250.0)

    clean_copies = False

    def _hz(self, n_freqs: int) -> Float[np.ndarray, " F"]:
        return np.linspace(*self.range_hz, n_freqs)

    def half(self, least: int, n_freqs: int) -> Int[np.ndarray, " F"]:
        """Frames hidden before the centre, and from it on, by frequency."""
        return np.maximum(least, 200 / (25 + self._hz(n_freqs))).astype(int)

    def widths(self, n_freqs: int) -> Int[np.ndarray, " F"]:
        """Frequencies of a stripe that begins at each."""
        return np.maximum(1, 4.9 * self._hz(n_freqs) / 250).astype(int)

    def draw(self, key: jax.Array, n_frames: int, n_freqs: int) -> Stripes:
        """Stripes of one spectrogram."""
        key_time, key_freq, key_least = jax.random.split(key, 3)
        time, freq = uniform(key_time, n_frames), uniform(key_freq, n_freqs)
        least = 1 + whole(jax.random.uniform(key_least), 2)
        return self.stripes(time, freq, least, n_frames, n_freqs)

    def stripes(
        self,
        time: Uniform,
        freq: Uniform,
        least: Int[Array, ""],
        n_frames: int,
        n_freqs: int,
    ) -> Stripes:
        """Those that these numbers give; numbers past the last start are unused.

        Args:
          least: 1 or 2, of the frames hidden on each side.
        """
        widest = int(self.half(1, n_freqs).max())
        length = 2 * widest + 1
        starts = max(n_frames - length + 1, 1)
        u = Uniform(*(x[:starts] for x in time))
        lengths = jnp.full(starts, length)
        taken = accepted(u.accept < self.share, lengths, jnp.arange(starts))
        source = whole(u.source, starts)
        frames, _ = painted(taken, lengths, u.fate, source, n_frames)
        half = jnp.asarray([self.half(b, n_freqs) for b in (1, 2)])[least - 1]
        # As released, a stripe ends before the frame that its half width would reach.
        behind = jnp.arange(n_frames)[:, None] - (jnp.arange(starts) + widest)
        far = jnp.where(behind < 0, -behind, behind + 1)
        near = jnp.min(jnp.where(taken, far, n_frames), axis=1)
        in_time = near[:, None] <= half

        width = jnp.asarray(self.widths(n_freqs))
        starts = max(n_freqs - int(width.max()), 1)
        u = Uniform(*(x[:starts] for x in freq))
        taken, source = u.accept < self.share, whole(u.source, starts)
        freqs, in_freq = painted(taken, width[:starts], u.fate, source, n_freqs)
        return Stripes(frames, freqs, in_time, in_time | in_freq)


@dataclass(frozen=True, kw_only=True)
class Banded:
    """Stripes of frames over one band of frequencies, the other bands left as they are.

    What is hidden of a band is to be told by the other bands at that time, and by what
    both did before and after. Stripes do not touch, whatever their bands.

    Attributes:
      share: how often a frame begins a stripe.
      frames: least and greatest width.
      edges: first frequency, by its number, of every band but the lowest.
    """

    kind: Literal["banded"] = "banded"
    share: float = 0.1
    frames: tuple[int, int] = (8, 20)
    edges: tuple[int, ...] = (10,)

    clean_copies = True

    def draw(self, key: jax.Array, n_frames: int, n_freqs: int) -> Stripes:
        """Stripes of one spectrogram."""
        key_time, key_band = jax.random.split(key)
        bands = jax.random.uniform(key_band, (n_frames,))
        return self.stripes(uniform(key_time, n_frames), bands, n_frames, n_freqs)

    def stripes(
        self, time: Uniform, bands: Float[Array, " S"], n_frames: int, n_freqs: int
    ) -> Stripes:
        """Those that these numbers give; numbers past the last start are unused.

        Args:
          bands: in [0, 1), which band a stripe at each start is of.
        """
        frames, in_time = _separate(time, self.share, self.frames, n_frames)
        # Stripes do not touch, so all frames of one have the same first frame behind.
        place = jnp.arange(n_frames)
        begun = jnp.where(in_time & ~jnp.roll(in_time, 1).at[0].set(False), place, 0)
        first = jax.lax.cummax(begun)
        band = whole(bands[first], len(self.edges) + 1)
        of_freq = np.searchsorted(self.edges, np.arange(n_freqs), side="right")
        reached = in_time[:, None] & (band[:, None] == of_freq)
        return Stripes(frames, jnp.full(n_freqs, KEPT), reached, reached)


Masker = Static | Adaptive | Banded
