"""Features that were made elsewhere, such as hidden states of a language model.

Axes: L layer groups, D feature width, F frames.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from data_pipelines.features.extractors import About, arrays_of, file_of, n_steps
from data_pipelines.unreadable import Unreadable
from neurofm.signals import classic


@dataclass(frozen=True)
class Arrays:
    """Features that were made elsewhere, from NPZ files.

    Each holds `features` [L, D, F] or [D, F] at `sfreq` frames a second, which are
    brought to the grid by taking, not averaging, frames.
    """

    layers: int
    width: int
    model: str
    modality: str
    takes: str = "array"
    one_process: bool = False

    def about(self) -> About:
        return About(self.modality, self.model, self.layers, self.width)

    def __call__(self, stretch, root, sfreq, notes):
        (event,) = stretch.events
        path = file_of(event, root)
        frames, rate = read_array(path)
        if frames.shape[:2] != (self.layers, self.width):
            shape = " x ".join(map(str, frames.shape[:2]))
            reason = f"{shape} (layers x width), others {self.layers} x {self.width}"
            raise Unreadable(path, reason, "features")
        n, length = n_steps(event, frames.shape[-1] / rate, sfreq, notes)
        cut = frames[..., : max(1, round(length * rate))]
        return classic.nearest_steps(cut, n).reshape(self.layers * self.width, n)


def read_array(path: Path) -> tuple[Float[np.ndarray, "L D F"], float]:
    """Features and their rate in an NPZ; Unreadable where it is none."""
    held = arrays_of(path)
    x, rate = held.get("features"), held.get("sfreq")
    if x is None or rate is None or x.ndim not in (2, 3) or rate.size != 1:
        reason = "an NPZ with features [L, D, F] or [D, F] and sfreq is needed"
        raise Unreadable(path, reason, "features")
    if x.dtype.kind != "f" or not np.isfinite(x).all() or not float(rate) > 0:
        raise Unreadable(path, "features must be finite floats", "features")
    return (x if x.ndim == 3 else x[None]).astype(np.float32), float(rate)
