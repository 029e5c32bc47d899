r"""The BrainBERT that `neurofm quickstart --system brainbert` trains.

    neurofm quickstart --system brainbert

generates its data and trains, fine-tunes and scores on them. On recordings of your own
`brainbert/tiny` is the place to start.

What differs from the published recipe: 3 blocks of width 64 without dropout over
windows of 3 s at 512 Hz, AdamW, and what is hidden: one band at a time, below or above
48 Hz, in stripes of 0.2 to 0.5 s, so that the other band and what both did before and
after tell what was there.
"""

from neurofm.config import Eval, Experiment, Train
from neurofm.models.brainbert import BrainBERT
from neurofm.objectives.stripes import Banded
from neurofm.optim import Optim


def config() -> Experiment:
    return Experiment(
        task=BrainBERT(
            sfreq=512.0,
            window_samples=1536,
            frame_samples=64,
            hop_samples=20,
            n_freqs=24,
            edge_frames=2,
            width=64,
            mlp_width=256,
            depth=3,
            heads=4,
            dropout=0.0,
            masker=Banded(share=0.06, frames=(5, 13), edges=(6,)),
        ),
        optim=Optim(
            lr=2e-3, betas=(0.9, 0.98), weight_decay=0.01, clip_norm=1.0, warmup=0.1
        ),
        train=Train(steps=1200, batch_size=32, log_every=20, checkpoint_every=400),
        eval=Eval(every=400, crops=256),
    )
