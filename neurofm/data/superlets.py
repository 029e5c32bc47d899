"""Superlets of windows of one electrode, made once: which one row i of a run is.

A store of kind `superlets` has an item a window of an electrode, cut side by side from
what is usable of a recording; its channels are the frequencies, its samples the frames.

Axes: b rows, T frames, F frequencies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from neurofm.contract import BatchSpec
from neurofm.data import premade
from neurofm.data.crops import Crop
from neurofm.data.layout import DatasetInfo
from neurofm.data.records import Dataset
from neurofm.data.rows import Fill, Plan, read_crops
from neurofm.data.select import check_contract
from neurofm.errors import NeuroFMError
from neurofm.signals.superlets import Superlets

if TYPE_CHECKING:
    from neurofm.config import Data

FIELDS = frozenset({"ieeg/superlets", "ieeg/length"})


def store_info(how: Superlets, reference: str, **more: Any) -> DatasetInfo:
    """What a store of superlets of such settings promises."""
    return DatasetInfo(
        kind="superlets",
        sfreq=how.sfreq / how.decimation,
        unit="1",
        ch_names=tuple(f"{hz:.1f} Hz" for hz in how.frequencies),
        processing={"reference": reference, "superlets": asdict(how)},
        payload="float32",
        **more,
    )


def as_stored(scores: Float[np.ndarray, "T F"]) -> Float[np.ndarray, "F T"]:
    """The samples of a window's item."""
    return np.ascontiguousarray(scores.T, np.float32)


def training(
    datasets: Sequence[Dataset], spec: BatchSpec, data: Data, seed: int
) -> Plan:
    """The endless plan of a training run, see `premade.training`.

    Raises:
      NeuroFMError: a dataset has other windows than the task takes, or nothing is left.
    """
    for dataset in datasets:
        _check(dataset, spec)
    n, fill = spec.contract.window_samples, _filler(datasets)
    return premade.training(datasets, data, seed, n, FIELDS, fill)


def held_out(
    datasets: Sequence[Dataset], spec: BatchSpec, data: Data, limit: int
) -> Plan:
    """At most `limit` windows of the `valid` split, the same whatever the seed."""
    for dataset in datasets:
        _check(dataset, spec)
    n, fill = spec.contract.window_samples, _filler(datasets)
    return premade.held_out(datasets, data, limit, n, FIELDS, fill)


def _check(dataset: Dataset, spec: BatchSpec) -> None:
    contract = spec.contract
    check_contract(dataset, contract, ("kind", "unit", "sfreq", "n_chans"))
    has = dataset.info.processing["reference"]
    if has != contract.reference:
        raise NeuroFMError(
            f"the dataset {dataset.path} has the reference {has} where the model takes "
            f"{contract.reference}: prepare its recordings again with --reference "
            f"{contract.reference}"
        )
    frames = set(dataset.items["n_samples"].to_pylist())
    if frames != {contract.window_samples}:
        raise NeuroFMError(
            f"the dataset {dataset.path} has windows of "
            f"{', '.join(map(str, sorted(frames)))} frames where the model takes "
            f"{contract.window_samples}: set task.window_frames, or prepare it again "
            "with another --segment"
        )


def _filler(datasets: Sequence[Dataset]) -> Fill:
    def fill(crops: Sequence[Crop], spec: BatchSpec) -> dict[str, np.ndarray]:
        scores = np.stack(read_crops(datasets, crops)).swapaxes(1, 2)
        length = np.full(len(crops), spec.contract.window_samples, np.int32)
        made = np.ascontiguousarray(scores, np.float32)
        return {"ieeg/superlets": made, "ieeg/length": length}

    return fill
