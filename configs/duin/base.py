r"""Du-IN: 3.9 M parameters over the codes of a trained first stage, one subject.

    neurofm pretrain duin/base --workdir RUN data.path=DIR \
        init.frozen.tokenizer=MODEL

MODEL is a run of `duin/vqvae`, or what `neurofm import duin_vqvae` wrote. The published
recipe (arXiv 2405.11459 and its released code): batches of 64 crops of 4 s, 400 epochs
of about 12 h, which are about 67,000 steps. Not trained to the end by us.
"""

from neurofm.config import Experiment, Train
from neurofm.models.duin import DuIN
from neurofm.optim import Group, Optim

# Biases and norms; the offsets of subjects are a linear map's and do decay.
UNDECAYED = r"(?<!subjects)(?<!channels)/bias$|scale$|mask_token$"


def config() -> Experiment:
    return Experiment(
        task=DuIN(),
        optim=Optim(
            lr=3e-4,
            betas=(0.9, 0.999),
            eps=1e-8,
            weight_decay=0.05,
            clip_norm=0.0,
            warmup=0.1,
            floor=1 / 6,
            epochs=400,
            groups=(Group(path=UNDECAYED, weight_decay=0.0),),
        ),
        train=Train(steps=67_000, batch_size=64, checkpoint_every=1_000),
        seed=42,
    )
