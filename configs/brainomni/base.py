r"""BrainOmni base: 33 M parameters over the codes of a trained BrainTokenizer.

    neurofm pretrain brainomni/base --workdir RUN data.path=DIR \
        init.frozen.tokenizer=MODEL

MODEL is a run of `brainomni/tokenizer`, or what `neurofm import braintokenizer` wrote.
The published recipe (arXiv 2505.18185 and its released code): 256 segments of 30 s, 32
epochs of 2,653 h, which are about 34,000 steps. Not trained to the end by us. What
differs from the released code: a fifth of the masked positions takes a vector of the
same recording, not of the whole batch, and attention drops nothing in evaluation.
"""

from neurofm.config import Experiment, Train
from neurofm.models.brainomni import BrainOmni
from neurofm.optim import Group, Optim


def config() -> Experiment:
    undecayed = "norm|^head/|^project/|^mask_token"
    return Experiment(
        task=BrainOmni(width=512, heads=16, remat="selective"),
        optim=Optim(
            lr=4e-4,
            betas=(0.9, 0.95),
            eps=1e-6,
            weight_decay=0.05,
            clip_norm=0.0,
            warmup=0.1,
            warmup_form="log",
            floor=0.1,
            groups=(Group(path=undecayed, weight_decay=0.0),),
        ),
        train=Train(steps=34_000, batch_size=256, checkpoint_every=1_000),
        seed=42,
    )
