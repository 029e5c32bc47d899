r"""A TRIBE for a laptop: 2 blocks of width 48, windows of 40 volumes.

    neurofm pretrain tribe/quickstart --workdir RUN data.path=DIR

What differs from v1 as published: sizes, the rate, no averaged weights, and that
modalities are hidden from every example apart, and steps too.
"""

from neurofm.config import Experiment, Train
from neurofm.models.tribe import Tribe
from neurofm.optim import Optim


def config() -> Experiment:
    return Experiment(
        task=Tribe(
            output_steps=40,
            width=48,
            depth=2,
            heads=4,
            modality_dropout=0.2,
            modality_dropout_by="example",
            temporal_dropout=0.2,
        ),
        optim=Optim(
            lr=2e-3,
            betas=(0.95, 0.999),
            eps=1e-8,
            weight_decay=0.0,
            clip_norm=0.0,
            warmup=0.1,
            schedule="onecycle",
        ),
        train=Train(steps=1600, batch_size=16, log_every=20, checkpoint_every=400),
    )
