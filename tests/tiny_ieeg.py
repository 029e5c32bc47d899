"""Small systems on intracranial recordings, and batches for them made by hand."""

import numpy as np

from neurofm.models.brainbert import BrainBERT
from neurofm.models.duin import DuIN
from neurofm.models.duin_trunk import Trunk
from neurofm.models.duin_vqvae import DuINVQVAE
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
VQVAE = DuINVQVAE(
    trunk=Trunk(
        sfreq=100.0,
        n_chans=5,
        subjects=("anna", "ben", "cleo"),
        segment_samples=60,
        patch_samples=10,
        n_neural=4,
        convs=((6, 5, 5), (3, 3, 1)),
        depth=2,
        heads=2,
        head_width=4,
        mlp_width=10,
        dropout=0.1,
    ),
    n_codes=7,
    code_width=4,
    decoder_depth=1,
    revival="random",
    bands_hz=((4, 12), (12, 30), (30, 50)),
    ups=((5, 3, 1), (4, 5, 5), (4, 4, 2)),
)
DUIN = DuIN(tokenizer=VQVAE)


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


def group_batch(task, rows=8, seed=6):
    """Noise of groups of 3 to 5 channels, some short, of all subjects, and a filler."""
    rng = np.random.default_rng(seed)
    own = task.trunk
    c, t = own.n_chans, own.segment_samples
    wave = rng.normal(0, 2e-5, (rows, c, t)).cumsum(-1).astype(np.float32)
    return {
        "ieeg/signal": wave,
        "ieeg/channel_mask": np.arange(c) < np.resize([c, 3, c, 4], rows)[:, None],
        "ieeg/length": np.resize([t, t, 44, t, t], rows).astype(np.int32),
        "subject": (np.arange(rows) % len(own.subjects)).astype(np.int32),
        "index": np.arange(rows, dtype=np.int32),
        "valid": np.arange(rows) % 5 != 3,
    }
