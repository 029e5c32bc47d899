"""What stores and models of intracranial recordings hold, for `neurofm check`."""

from typing import TYPE_CHECKING, Any

import numpy as np

from neurofm.data.records import Dataset

if TYPE_CHECKING:
    from neurofm.model import Model


def store_facts(dataset: Dataset) -> dict[str, Any]:
    """Channels, subjects and what was done to them."""
    items = dataset.items
    return {
        "layouts": len({*items["layout"].to_pylist()}),
        "fewest_channels": int(np.min(dataset.n_chans)),
        "most_channels": int(np.max(dataset.n_chans)),
        "subjects": sorted({*items["subject"].to_pylist()}),
        "processing": dataset.info.processing,
    }


def config_for(dataset: Dataset) -> str:
    """The system whose reference the store has; Du-IN's where none is told."""
    laplacian = dataset.info.processing.get("reference") == "laplacian"
    return "brainbert/large" if laplacian else "duin/vqvae"


def model_facts(model: "Model") -> dict[str, Any]:
    """Of a model that maps the channels of subjects: how much of each one it takes."""
    from neurofm.finetune import below_head
    from neurofm.models.duin import DuIN, channel_contribution
    from neurofm.models.duin_vqvae import DuINVQVAE
    from neurofm.models.finetune import Finetune

    trunk = below_head(model) if isinstance(model.task, Finetune) else model
    if not isinstance(trunk.task, DuIN | DuINVQVAE):
        return {}
    found = np.asarray(channel_contribution(trunk.variables["params"]))
    each = zip(trunk.task.trunk.subjects, found.tolist(), strict=True)
    return {"channel_contribution": dict(each)}
