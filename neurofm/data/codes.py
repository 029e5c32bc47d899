"""Codes of segments of EEG and MEG, made once: which one row i of a run is.

A store of kind `codes` has an item a segment, cut side by side from what is usable of a
recording. Its channels are those of all sources and quantisers, its samples the tokens
of the segment, padding included, so that a batch of it is what the frozen tokenizer
would give. Manifest columns are those of the recording, and

    n_recorded  samples of signal in the segment

Axes: b rows, S sources, W tokens, Q quantisers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Int, Num

from neurofm.contract import BatchSpec, InputContract
from neurofm.data import premade
from neurofm.data.crops import Crop
from neurofm.data.layout import DatasetInfo
from neurofm.data.records import Dataset
from neurofm.data.rows import Fill, Plan, read_crops
from neurofm.data.select import check_contract
from neurofm.errors import NeuroFMError

if TYPE_CHECKING:
    from neurofm.config import Data

FIELDS = frozenset({"meeg/codes", "meeg/length"})


def grid(contract: InputContract) -> dict[str, Any]:
    """Rate of the signals in Hz, samples of a segment and of its windows."""
    return {
        "sfreq": contract.sfreq,
        "segment_samples": contract.window_samples,
        "window_samples": contract.receptive_samples,
        "step_samples": contract.hop_samples,
    }


def store_info(spec: BatchSpec, processing: dict[str, Any], **more: Any) -> DatasetInfo:
    """What a store of codes for training by `spec` promises."""
    s, w, q = spec.fields["meeg/codes"].shape
    contract = spec.contract
    return DatasetInfo(
        kind="codes",
        sfreq=w * contract.sfreq / contract.window_samples,
        unit="code",
        ch_names=tuple(f"source {i} level {j}" for i in range(s) for j in range(q)),
        processing={"grid": grid(contract), **processing},
        **more,
    )


def as_stored(codes: Int[np.ndarray, "S W Q"]) -> Num[np.ndarray, "SQ W"]:
    """The samples of a segment's item."""
    s, w, q = codes.shape
    return codes.transpose(0, 2, 1).reshape(s * q, w).astype(np.float32)


def training(
    datasets: Sequence[Dataset], spec: BatchSpec, data: Data, seed: int
) -> Plan:
    """The endless plan of a training run, see `premade.training`.

    Raises:
      NeuroFMError: a dataset has other codes than the task takes, or nothing is left.
    """
    for dataset in datasets:
        _check(dataset, spec)
    n_tokens, fill = spec.fields["meeg/codes"].shape[1], _filler(datasets)
    return premade.training(datasets, data, seed, n_tokens, FIELDS, fill)


def held_out(
    datasets: Sequence[Dataset], spec: BatchSpec, data: Data, limit: int
) -> Plan:
    """At most `limit` segments of the `valid` split, the same whatever the seed."""
    for dataset in datasets:
        _check(dataset, spec)
    n_tokens, fill = spec.fields["meeg/codes"].shape[1], _filler(datasets)
    return premade.held_out(datasets, data, limit, n_tokens, FIELDS, fill)


def _check(dataset: Dataset, spec: BatchSpec) -> None:
    check_contract(dataset, spec.contract, ("kind", "unit"))
    has, wants = dataset.info.processing["grid"], grid(spec.contract)
    n = dataset.items["n_samples"].to_numpy()
    s, w, q = spec.fields["meeg/codes"].shape
    if has != wants or dataset.info.n_chans != s * q or (n != w).any():
        told = [f"{k} {has[k]}, not {v}" for k, v in wants.items() if has[k] != v]
        shape = f"{dataset.info.n_chans} codes a token, {n[0]} tokens"
        told = told or [f"{shape}, not {s * q} and {w}"]
        segment_s = wants["segment_samples"] / wants["sfreq"]
        overlap = 1 - wants["step_samples"] / wants["window_samples"]
        raise NeuroFMError(
            f"the dataset {dataset.path} holds codes of other segments than the task "
            f"takes ({'; '.join(told)}): prepare it again with --segment "
            f"{segment_s:g} --overlap {overlap:.4g}"
        )


def _filler(datasets: Sequence[Dataset]) -> Fill:
    recorded = [d.items["n_recorded"].to_numpy() for d in datasets]

    def fill(crops: Sequence[Crop], spec: BatchSpec) -> dict[str, np.ndarray]:
        s, _, q = spec.fields["meeg/codes"].shape
        codes = np.stack(read_crops(datasets, crops)).astype(np.int16)
        codes = codes.reshape(len(crops), s, q, -1).swapaxes(2, 3)
        length = np.array([recorded[c.dataset][c.item] for c in crops], np.int32)
        return {"meeg/codes": np.ascontiguousarray(codes), "meeg/length": length}

    return fill
