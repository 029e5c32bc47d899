r"""Du-IN in small over the codes of `duin/tiny_vqvae`.

    neurofm pretrain duin/tiny --workdir RUN data.path=DIR \
        init.frozen.tokenizer=MODEL

MODEL is a run of `duin/tiny_vqvae`, which gives the trunk its size too.
"""

from neurofm.config import Eval, Experiment, Train
from neurofm.models.duin import DuIN
from neurofm.models.duin_trunk import Trunk
from neurofm.models.duin_vqvae import DuINVQVAE
from neurofm.optim import Optim

TRUNK = Trunk(
    convs=((32, 19, 10), (32, 3, 1), (4, 3, 1)),
    n_neural=8,
    depth=2,
    heads=2,
    head_width=16,
    mlp_width=80,
    dropout=0.0,
)


def config() -> Experiment:
    first = DuINVQVAE(trunk=TRUNK, n_codes=128, code_width=16, decoder_depth=1)
    return Experiment(
        task=DuIN(tokenizer=first),
        optim=Optim(lr=1e-3, weight_decay=0.01, clip_norm=1.0, warmup=0.05),
        train=Train(steps=1_000, batch_size=16, log_every=20, checkpoint_every=200),
        eval=Eval(every=200, crops=64),
    )
