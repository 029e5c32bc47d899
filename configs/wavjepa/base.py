"""WavJEPA base: 196 M parameters (89 M used for embeddings), 16 kHz mono.

Trains on AudioSet-like sound, e.g. what `neurofm prepare audio SRC --out DIR` makes:

    neurofm pretrain wavjepa/base --workdir RUN data.path=DIR

The published recipe (arXiv 2509.23238 and its released code): 32 clips x 8 crops on
each of 2 GPUs, 375,000 steps. Not trained to the end by us.
"""

from neurofm.config import Experiment, Train
from neurofm.models.wavjepa import WavJEPA
from neurofm.optim import Optim


def config() -> Experiment:
    return Experiment(
        task=WavJEPA(remat="selective"),
        optim=Optim(lr=4e-4, weight_decay=0.04, clip_norm=5.0),
        train=Train(steps=375_000, batch_size=512, checkpoint_every=5_000),
        seed=42,
    )
