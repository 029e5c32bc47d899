"""BrainTokenizer: the first stage of BrainOmni, 5 M parameters, EEG and MEG at 256 Hz.

    neurofm pretrain brainomni/tokenizer --workdir RUN data.path=DIR

The published recipe (arXiv 2505.18185 and its released code): 512 segments of 10 s on
16 GPUs, 16 epochs of 2,653 h, which are about 25,000 steps. Not trained to the end by
us. What differs from the released code: the reference and scale of a training view
come from the sensors that the encoder sees, dead codes are revived, codebooks are
float32 and start with the counts of k-means, and every parameter group starts with the
warm-up. With projected or SimVQ codebooks the quantiser has parameters; released, they
learn at 3e-4 without decay: `Group(path="^quantizer/", lr_scale=1.5, weight_decay=0)`.
"""

from neurofm.config import Experiment, Train
from neurofm.models.braintokenizer import BrainTokenizer
from neurofm.optim import Group, Optim


def config() -> Experiment:
    return Experiment(
        task=BrainTokenizer(),
        optim=Optim(
            lr=2e-4,
            betas=(0.5, 0.9),
            eps=1e-5,
            weight_decay=0.01,
            clip_norm=0.0,
            warmup=0.1,
            warmup_form="log",
            floor=0.05,
            groups=(Group(path="norm|type_embedding", weight_decay=0.0),),
        ),
        train=Train(steps=25_000, batch_size=512, checkpoint_every=1_000),
        seed=42,
    )
