r"""Du-IN's first stage in small: 128 codes, for a laptop and small collections.

    neurofm pretrain duin/tiny_vqvae --workdir RUN data.path=DIR

What differs from `duin/vqvae`: tokens of width 40, 2 blocks and 1 in the decoder, 128
codes of width 16 that move ten times as fast and are revived, 1,000 steps.
"""

from neurofm.config import Eval, Experiment, Train
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
    return Experiment(
        task=DuINVQVAE(
            trunk=TRUNK,
            n_codes=128,
            code_width=16,
            codebook_decay=0.9,
            revival="random",
            decoder_depth=1,
        ),
        optim=Optim(lr=1e-3, weight_decay=0.01, clip_norm=1.0, warmup=0.05),
        train=Train(steps=1_000, batch_size=16, log_every=20, checkpoint_every=200),
        eval=Eval(every=200, crops=64),
    )
