r"""BrainBERT tiny: 0.4 M parameters for a laptop and small collections.

    neurofm pretrain brainbert/tiny --workdir RUN data.path=DIR

What differs from `brainbert/large`: 3 layers of width 96, AdamW, 2,000 steps of 64
windows.
"""

from neurofm.config import Eval, Experiment, Train
from neurofm.models.brainbert import BrainBERT
from neurofm.optim import Optim


def config() -> Experiment:
    return Experiment(
        task=BrainBERT(width=96, mlp_width=384, depth=3, heads=6),
        optim=Optim(lr=1e-3, betas=(0.9, 0.98), clip_norm=1.0, warmup=0.05),
        train=Train(steps=2_000, batch_size=64, log_every=20, checkpoint_every=200),
        eval=Eval(every=200, crops=64),
    )
