"""WavJEPA large: 24 blocks of width 1024, 631 M parameters, the base recipe.

    neurofm pretrain wavjepa/large --workdir RUN data.path=DIR

The size is an option of the released code; no weights of it were released.
"""

from neurofm.config import Experiment, Train
from neurofm.models.wavjepa import WavJEPA
from neurofm.optim import Optim


def config() -> Experiment:
    return Experiment(
        task=WavJEPA(width=1024, depth=24, heads=16, remat="selective"),
        optim=Optim(lr=4e-4, weight_decay=0.04, clip_norm=5.0),
        train=Train(steps=375_000, batch_size=512, checkpoint_every=5_000),
        seed=42,
    )
