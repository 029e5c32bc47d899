"""One record of a store: a segment of a recording, packed into bytes and back.

A record is a msgpack map of `n` (samples), `dtype`, `scale` and `offset` (float32, one
a channel) and `data` (little-endian, channel after channel), so it can be read alone.
"""

from collections.abc import Iterable, Iterator
from typing import Literal

import msgpack
import numpy as np
from jaxtyping import Float32

Payload = Literal["int16", "float16", "float32"]

SEGMENT_BYTES = 256 * 1024
BLOCK_S = 0.05
FULL_SCALE_FLOOR = 1e-4  # -80 dB re full scale
_LSB = 1 / 32768  # libsndfile reads 16-bit sound as integer / 32768


def block_samples(sfreq: float) -> int:
    """Samples in the 50 ms blocks over which activity is noted."""
    return max(1, round(BLOCK_S * sfreq))


def segment_samples(n_chans: int, sfreq: float, payload: Payload) -> int:
    """Samples in a full segment of about 256 KiB.

    A multiple of eight activity blocks, so that the bits of consecutive segments join
    at whole bytes.
    """
    step = 8 * block_samples(sfreq)
    frame_bytes = n_chans * np.dtype(payload).itemsize
    return max(1, SEGMENT_BYTES // frame_bytes // step) * step


def pack(x: Float32[np.ndarray, "C n"], payload: Payload) -> bytes:
    """Encode one segment; `int16` is exact for integers / 32768, and for integers.

    Other samples are rounded to the channel's peak / 32767. A channel that lies far
    from zero (its middle beyond half its range) is measured from its middle instead,
    so a large constant costs no resolution; otherwise zero stays exactly zero.
    `float16` keeps 11 bits of every sample, in units of the channel's peak.
    """
    scale = np.ones(len(x), np.float32)
    offset = np.zeros(len(x), np.float32)
    if payload == "float32":
        data = x.astype("<f4")
    elif payload == "float16":
        peak = np.abs(x).max(axis=1, initial=0)
        scale = np.where(peak > 0, peak, 1).astype(np.float32)
        data = (x / scale[:, None]).astype("<f2")
    else:
        x64 = x.astype(np.float64)
        whole = [one for one in (_LSB, 1.0) if _is_whole(x64 / one)]
        if whole:
            scale[:] = whole[0]
            steps = x64 / whole[0]
        else:
            high, low = x64.max(axis=1), x64.min(axis=1)
            middle, half = (high + low) / 2, (high - low) / 2
            far = np.abs(middle) > half
            offset = np.where(far, middle, 0).astype(np.float32)
            peak = np.abs(x64 - offset[:, None]).max(axis=1)
            scale = np.maximum(peak / 32767, np.finfo(np.float32).tiny)
            scale = scale.astype(np.float32)
            steps = (x64 - offset[:, None]) / scale[:, None]
        data = np.clip(np.rint(steps), -32768, 32767).astype("<i2")
    frame = {
        "n": x.shape[1],
        "dtype": payload,
        "scale": scale.astype("<f4").tobytes(),
        "offset": offset.astype("<f4").tobytes(),
        "data": data.tobytes(),
    }
    return msgpack.Packer().pack(frame)


def _is_whole(steps: np.ndarray) -> bool:
    """Whether all are integers of 16 bits."""
    low, high = steps.min(initial=0), steps.max(initial=0)
    fit = bool(low >= -32768 and high <= 32767)
    return fit and np.array_equal(steps, np.rint(steps))


def unpack(record: bytes, start: int, stop: int) -> Float32[np.ndarray, "C n"]:
    """Samples `start` to `stop` of a packed segment, in the dataset's unit."""
    frame = msgpack.unpackb(record)
    scale = np.frombuffer(frame["scale"], "<f4")[:, None]
    offset = np.frombuffer(frame["offset"], "<f4")[:, None]
    dtype = {"int16": "<i2", "float16": "<f2", "float32": "<f4"}[frame["dtype"]]
    stored = np.frombuffer(frame["data"], dtype).reshape(len(scale), frame["n"])
    x = stored[:, start:stop].astype(np.float32)
    if frame["dtype"] != "float32":
        x *= scale
        x += offset
    return x


def active_bits(x: Float32[np.ndarray, "C n"], sfreq: float, floor: float) -> bytes:
    """One bit a 50 ms block, first block in the highest bit: 1 = there is a signal.

    A block is active when, in any channel, the root mean square about the block's own
    mean is above `floor` (in the unit of `x`). The last block may be short.
    """
    size = block_samples(sfreq)
    whole = x.shape[1] // size * size
    blocks = x[:, :whole].reshape(len(x), -1, size)
    bits = _active(blocks, floor)
    if whole < x.shape[1]:
        bits = np.append(bits, _active(x[:, None, whole:], floor))
    return np.packbits(bits).tobytes()


def _active(blocks: Float32[np.ndarray, "C b n"], floor: float) -> np.ndarray:
    # A constant block can show a spread of rounding errors, hence the range as well.
    varies = np.ptp(blocks, axis=2) > 0
    return (varies & (blocks.std(axis=2) > floor)).any(axis=0)


def regroup(
    blocks: Iterable[Float32[np.ndarray, "C _"]], size: int
) -> Iterator[Float32[np.ndarray, "C n"]]:
    """Cut consecutive blocks of any length into pieces of `size` (the last shorter)."""
    held: list[np.ndarray] = []
    n_held = 0
    for block in blocks:
        held.append(block)
        n_held += block.shape[1]
        if n_held < size:
            continue
        joined = np.concatenate(held, axis=1)
        whole = n_held // size * size
        for start in range(0, whole, size):
            yield joined[:, start : start + size]
        held, n_held = [joined[:, whole:]], n_held - whole
    if n_held:
        yield np.concatenate(held, axis=1)
