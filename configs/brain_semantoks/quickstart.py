r"""The Brain-Semantoks of the quickstart: 2 blocks of width 48, six small networks.

    neurofm pretrain brain_semantoks/quickstart --workdir RUN data.path=DIR \
        task.networks=FILE.tsv

Crops are of two minutes. What differs from the published recipe: sizes, steps, the
rate, and a teacher that follows faster, as the run is short.
"""

from neurofm.config import Eval, Experiment, Train
from neurofm.models.brain_semantoks import BrainSemantoks
from neurofm.models.brain_semantoks_tokenizers import Branch
from neurofm.optim import Optim


def config() -> Experiment:
    return Experiment(
        task=BrainSemantoks(
            window_samples=60,
            width=48,
            tokenizer=(Branch(width=24), Branch(kind="sgconv", width=24, kernel=4)),
            depth=2,
            heads=4,
            head_hidden=64,
            head_width=8,
            ema_start=0.95,
        ),
        optim=Optim(
            lr=3e-3,
            betas=(0.9, 0.999),
            eps=1e-8,
            weight_decay=0.05,
            weight_decay_end=0.3,
            clip_norm=1.0,
            warmup=0.03,
        ),
        train=Train(steps=300, batch_size=64, log_every=20, checkpoint_every=100),
        eval=Eval(every=100, crops=64),
    )
