"""What the rows of a run are: the plan for the kind of recordings that a task takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from neurofm.contract import BatchSpec, InputContract
from neurofm.data import (
    aligned,
    audio,
    codes,
    ieeg,
    labelled,
    meeg,
    parcels,
    superlets,
)
from neurofm.data.records import Dataset
from neurofm.data.rows import Plan
from neurofm.data.scenes import Scenery
from neurofm.errors import NeuroFMError

if TYPE_CHECKING:
    from neurofm.config import Data


def training(
    datasets: Sequence[Dataset],
    spec: BatchSpec,
    data: Data,
    seed: int,
    batch_size: int,
    scenery: Scenery | None = None,
) -> Plan:
    """The endless plan of a training run.

    See `audio.training`, `meeg.training`, `ieeg.training`, `codes.training`,
    `superlets.training`, `parcels.training` and, of fMRI with the features of its
    stimuli, `aligned.training`; and `labelled.training` where the task asks for labels.
    """
    contract = spec.contract
    if "label" in spec.fields:
        return labelled.training(datasets, spec, data, seed, batch_size)
    if contract.kind == "audio":
        return audio.training(datasets, contract, data, seed, scenery)
    if contract.kind == "meeg":
        return meeg.training(datasets, contract, data, seed, batch_size)
    if contract.kind == "ieeg":
        return ieeg.training(datasets, spec, data, seed)
    if contract.kind == "codes":
        return codes.training(datasets, spec, data, seed)
    if contract.kind == "superlets":
        return superlets.training(datasets, spec, data, seed)
    if contract.kind == "features":
        return aligned.training(datasets, spec, data, seed)
    if contract.kind == "fmri":
        return parcels.training(datasets, spec, data, seed)
    raise _no_loader(contract)


def held_out(
    datasets: Sequence[Dataset],
    spec: BatchSpec,
    data: Data,
    limit: int,
    batch_size: int,
    scenery: Scenery | None = None,
) -> Plan:
    """At most `limit` fixed crops of the `valid` split, the same whatever the seed."""
    contract = spec.contract
    if "label" in spec.fields:
        return labelled.held_out(datasets, spec, data, limit, batch_size)
    if contract.kind == "audio":
        return audio.held_out(datasets, contract, data, limit, scenery)
    if contract.kind == "meeg":
        return meeg.held_out(datasets, contract, data, limit, batch_size)
    if contract.kind == "ieeg":
        return ieeg.held_out(datasets, spec, data, limit)
    if contract.kind == "codes":
        return codes.held_out(datasets, spec, data, limit)
    if contract.kind == "superlets":
        return superlets.held_out(datasets, spec, data, limit)
    if contract.kind == "features":
        return aligned.held_out(datasets, spec, data, limit)
    if contract.kind == "fmri":
        return parcels.held_out(datasets, spec, data, limit)
    raise _no_loader(contract)


def _no_loader(contract: InputContract) -> NeuroFMError:
    return NeuroFMError(
        f"recordings of kind {contract.kind!r} cannot be loaded yet: use a task on "
        "audio, meeg, ieeg, fmri or features"
    )
