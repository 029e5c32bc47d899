"""What stores of intracranial recordings hold, for `neurofm check`."""

from typing import Any

import numpy as np

from neurofm.data.records import Dataset


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
