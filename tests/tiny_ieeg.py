"""Small systems on intracranial recordings, and batches for them made by hand."""

import numpy as np

from neurofm.models.brainbert import BrainBERT
from neurofm.objectives.stripes import Static

BERT = BrainBERT(
    sfreq=256.0,
    window_samples=119,
    frame_samples=20,
    hop_samples=5,
    n_freqs=7,
    edge_frames=2,
    width=12,
    mlp_width=20,
    depth=2,
    heads=3,
    masker=Static(share_time=0.3, share_freq=0.3, frames=(1, 3)),
)


def electrode_batch(task, rows=8, seed=4):
    """Noise of whole and of short windows, and a filler."""
    rng = np.random.default_rng(seed)
    n = task.window_samples
    wave = rng.normal(0, 2e-5, (rows, 1, n)).astype(np.float32)
    return {
        "ieeg/signal": wave,
        "ieeg/length": np.resize([n, n, n - 11, n, 66], rows).astype(np.int32),
        "index": np.arange(rows, dtype=np.int32),
        "valid": np.arange(rows) % 5 != 3,
    }
