r"""TRIBE v1, 0.93 B parameters: 1000 parcels of four people watching films.

    neurofm pretrain tribe/v1 --workdir RUN data.path=DIR

The recipe of the released code (facebookresearch/algonauts-2025, arXiv 2507.22229):
Adam at 1e-4 under one cycle, 15 epochs in batches of 16 windows of 149 s, which are
about 5,400 steps of 66 h from each of four people; the weights at the starts of epochs
9 to 15 are averaged. Not trained to the end by us. What differs: targets outside a run
are no part of the loss (`task.out_of_run=zeros` is as released), and steps are pooled
before the head, with the same result.
"""

from neurofm.config import Experiment, Train
from neurofm.models.tribe import Tribe
from neurofm.optim import Optim


def config() -> Experiment:
    return Experiment(
        task=Tribe(),
        optim=Optim(
            lr=1e-4,
            betas=(0.95, 0.999),
            eps=1e-8,
            weight_decay=0.0,
            clip_norm=0.0,
            warmup=0.1,
            schedule="onecycle",
            swa_epochs=15,
        ),
        train=Train(steps=5_400, batch_size=16, checkpoint_every=360),
    )
