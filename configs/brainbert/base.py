r"""BrainBERT base: 22 M parameters, 3 layers, one electrode at 2048 Hz.

    neurofm pretrain brainbert/base --workdir RUN data.path=DIR

The published recipe (arXiv 2302.14367 and its released code): 500,000 steps of 256
windows of 5 s with LAMB. Not trained to the end by us. What differs from the released
code: hidden frequencies are in the loss, the gradient is that of the loss and not of
half its square, biases of norms start at zero, and windows come in a new order every
epoch. `task.masker.label=released`, `task.gradient=released` and
`task.norm_bias=released` are the released forms.
"""

from neurofm.config import Experiment, Train
from neurofm.models.brainbert import BrainBERT
from neurofm.optim import Optim


def config() -> Experiment:
    return Experiment(
        task=BrainBERT(depth=3),
        optim=Optim(
            algorithm="lamb",
            lr=1e-4,
            betas=(0.9, 0.999),
            eps=1e-6,
            weight_decay=0.0,
            clip_norm=1.0,
            warmup=0.025,
            schedule="stairs",
        ),
        train=Train(steps=500_000, batch_size=256),
        seed=42,
    )
