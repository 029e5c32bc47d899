r"""Du-IN's first stage: 2,048 codes of ten sEEG channels at 1000 Hz, one subject.

    neurofm pretrain duin/vqvae --workdir RUN data.path=DIR

The published recipe (arXiv 2405.11459 and its released code): batches of 32 crops of
4 s, 400 epochs of about 12 h of one subject's training files, which are about 135,000
steps. Not trained to the end by us. What differs from the released code: log power in
seven bands is decoded (`task.target=waveform` is the released form), and every channel
of a crop is scaled to unit deviation (`task.trunk.normalise=none`).
"""

from neurofm.config import Experiment, Train
from neurofm.models.duin_vqvae import DuINVQVAE
from neurofm.optim import Group, Optim

# Biases and norms; the offsets of subjects are a linear map's and do decay.
UNDECAYED = r"(?<!subjects)(?<!channels)/bias$|scale$|mask_token$"


def config() -> Experiment:
    return Experiment(
        task=DuINVQVAE(),
        optim=Optim(
            lr=3e-4,
            betas=(0.9, 0.999),
            eps=1e-8,
            weight_decay=0.01,
            clip_norm=0.0,
            warmup=0.1,
            floor=1 / 6,
            epochs=400,
            groups=(Group(path=UNDECAYED, weight_decay=0.0),),
        ),
        train=Train(steps=135_000, batch_size=32, checkpoint_every=1_000),
        seed=42,
    )
