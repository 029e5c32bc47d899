"""Signals of contacts: hum taken out, and measured against others.

Axes: C contacts, D channels of the result, N samples.

Source of the order, of the notch and of the Laplacian: BrainBERT (arXiv 2302.14367) and
its released code.
"""

from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Float32
from scipy.signal import iirnotch, lfilter

from data_pipelines.ieeg.contacts import Shafts
from neurofm.errors import NeuroFMError

Reference = Literal["laplacian", "bipolar", "average", "none"]
Q = 30.0  # of a notch: its frequency over its width
HIGHEST_HZ = 360.0  # of the hum's multiples that are taken out


class Referenced(NamedTuple):
    """What is left: names of the channels (`LA1-LA2` of a pair) and their signals."""

    names: tuple[str, ...]
    samples: Float32[np.ndarray, "D N"]


def without_hum(
    x: Float[np.ndarray, "C N"], sfreq: float, line_freq: float
) -> Float[np.ndarray, "C N"]:
    """Second-order notches at the line's frequency and its multiples up to 360 Hz.

    Forwards only, as released, so that nothing that is heard later moves what was
    before it.
    """
    steps = np.arange(line_freq, min(HIGHEST_HZ, sfreq / 2 - 1) + 1e-6, line_freq)
    for f in steps:
        b, a = iirnotch(f, Q, sfreq)
        x = np.asarray(lfilter(b, a, x, axis=-1))
    return x


def referenced(
    x: Float[np.ndarray, "C N"], names: list[str], shafts: Shafts, how: Reference
) -> Referenced:
    """Contacts against their neighbours or all others.

    `laplacian`: minus the mean of both neighbours on the shaft, of contacts that have
    both; `bipolar`: minus the next one of the shaft; `average`: minus the mean of all
    contacts; `none`.

    Args:
      names: of the rows, bad ones left out already, so that no neighbour is bad.

    Raises:
      NeuroFMError: no contact has the neighbours that are needed.
    """
    row = {name: i for i, name in enumerate(names)}
    if how == "laplacian":
        near = shafts.neighbours()
        kept = [name for name in names if name in near]
        out = [x[row[n]] - (x[row[near[n][0]]] + x[row[near[n][1]]]) / 2 for n in kept]
    elif how == "bipolar":
        pairs = shafts.pairs()
        kept = [f"{a}-{b}" for a, b in pairs]
        out = [x[row[a]] - x[row[b]] for a, b in pairs]
    else:
        kept = [name for name in names if name in shafts.contacts]
        out = [x[row[name]] for name in kept]
        if how == "average":
            mean = np.mean(out, axis=0)
            out = [signal - mean for signal in out]
    if not out:
        raise NeuroFMError(
            f"no contact has the neighbours that the reference {how} needs "
            f"({shafts.sentence}): take the reference average or none"
        )
    return Referenced(tuple(kept), np.asarray(out, np.float32))
