"""A small Brain-Semantoks with all of its parts, and batches for it made by hand."""

import numpy as np

from neurofm.models.brain_semantoks import BrainSemantoks
from neurofm.models.brain_semantoks_tokenizers import Branch

SEMANTOKS = BrainSemantoks(
    network_names=("front", "middle", "back"),
    network_of=(0, 1, 0, 2, 1, 0, 2),
    window_samples=24,
    patch_samples=8,
    width=12,
    tokenizer=(
        Branch(width=5),
        Branch(width=7, kind="sgconv", kernel=2, decay=(1.5, 2.5)),
    ),
    depth=2,
    heads=2,
    head_hidden=10,
    head_width=6,
    separate_mask_head=True,
    horizon=40,
)


def fmri_batch(task, rows=8, seed=5):
    """Crops of which some lack a region, or all regions of a network, and a filler."""
    rng = np.random.default_rng(seed)
    spec = task.batch_spec()
    regions = np.ones((rows, *spec.fields["fmri/regions"].shape), bool)
    regions[1::4, 1] = False
    regions[2::4, 3] = regions[2::4, 6] = False  # all of a network
    shape = (rows, *spec.fields["fmri/crops"].shape)
    crops = rng.normal(0, 1, shape) * regions[:, None, :, None]
    at = np.arange(rows)
    return {
        "fmri/crops": crops.astype(np.float32),
        "fmri/regions": regions,
        "index": at.astype(np.int32),
        "valid": at % 5 != 3,
    }
