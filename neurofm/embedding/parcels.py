"""Parcellated fMRI that a user gives, as a model takes it.

Axes: C regions of the model, P regions of a store, N samples.
"""

from typing import Any

import numpy as np

from neurofm.contract import InputContract
from neurofm.data import parcels
from neurofm.data.brains import placed
from neurofm.data.records import Dataset
from neurofm.embedding.difference import Difference, refuse
from neurofm.embedding.recorded import Recorded
from neurofm.errors import NeuroFMError
from neurofm.signals import bold

SAME_TR = 1e-3  # share by which two repetition times may differ and be one


def of_record(dataset: Dataset, row: int, contract: InputContract) -> Recorded:
    """A run of a store, its regions where the model has them.

    Raises:
      NeuroFMError: other regions than the model's.
    """
    n_samples = dataset.items["n_samples"][row].as_py()
    place = placed(dataset, contract.channels, contract.n_chans)
    x = dataset.read(row, 0, n_samples)
    samples, there = parcels.window_of(x, place, contract.n_chans, n_samples)
    return Recorded(samples, regions=there)


def of_array(
    x: Any, sfreq: float | None, contract: InputContract
) -> tuple[Recorded, list[Difference]]:
    """A run as an array (C, N) in any unit, scaled as by `prepare fmri --ddof 0`.

    A region with a value that is not finite, or that never changes, is taken as not
    recorded.

    Args:
      sfreq: 1 over the repetition time in seconds.

    Raises:
      NeuroFMError: no such array, or another rate or number of regions.
    """
    if sfreq is None:
        raise NeuroFMError(
            "an array of fMRI was given without sfreq: give 1 over its repetition time "
            "in seconds"
        )
    x = np.asarray(x)
    if x.ndim != 2 or x.dtype.kind not in "fiu" or not x.size:
        raise NeuroFMError(
            f"an array of shape {x.shape} and type {x.dtype} was given: give numbers, "
            "(regions, samples)"
        )
    found = []
    if len(x) != contract.n_chans:
        found.append(Difference("n_chans", len(x), contract.n_chans, None))
    if abs(sfreq / contract.sfreq - 1) > SAME_TR:
        found.append(Difference("sfreq", sfreq, contract.sfreq, None))
    refuse(found)
    scaled = bold.prepared(x.astype(np.float64), scale="zscore", ddof=0)
    there = bold.usable(scaled)
    if not there.any():
        raise NeuroFMError("no region of this array has a signal: check its axes")
    samples = np.where(there[:, None], scaled, 0).astype(np.float32)
    how = "each region scaled to mean 0 and deviation 1"
    note = [Difference("note", None, None, how)]
    return Recorded(samples, regions=there), note
