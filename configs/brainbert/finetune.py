r"""Fine-tune BrainBERT on two classes of one electrode's windows, as released.

    neurofm finetune brainbert/finetune --from MODEL --workdir RUN \
        data.path=DIR data.target=COLUMN data.around=[-2.5,2.5]

MODEL is a run of `brainbert/large`, or what `neurofm import brainbert` wrote. Source:
arXiv 2302.14367 and its released code: the mean of the ten hidden states in the middle,
a linear head that learns ten times as fast, 1,000 steps of 64 windows. What differs:
the rate stays where it is, and of the evaluations the best by validation is tested.
`task.regime=probe` is its frozen variant.
"""

from neurofm.config import Eval, Experiment, Train
from neurofm.models.brainbert import BrainBERT
from neurofm.models.finetune import Finetune
from neurofm.optim import Group, Optim


def config() -> Experiment:
    return Experiment(
        task=Finetune(task=BrainBERT(), center_tokens=10),
        optim=Optim(
            lr=1e-4,
            betas=(0.9, 0.999),
            eps=1e-8,
            weight_decay=0.01,
            clip_norm=1.0,
            warmup=0.0,
            floor=1.0,
            groups=(Group(path="^head/", lr_scale=10.0),),
        ),
        train=Train(steps=1_000, batch_size=64, keep=1),
        eval=Eval(every=50, crops=100_000, metric="accuracy", patience=6),
    )
