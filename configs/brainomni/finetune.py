r"""Fine-tune BrainOmni on classes, by the released protocol.

    neurofm finetune brainomni/finetune --from MODEL --workdir RUN \
        data.path=DIR data.target=COLUMN

MODEL is a run of `brainomni/tiny` or `base`, or what `neurofm import brainomni` wrote;
COLUMN a column of the recordings or of their events (`data.around=[-0.1,0.8]` takes
seconds around their onset). Source: arXiv 2505.18185 and its released code: the mean
over time of every source, dropout, a hidden layer with SELU; label smoothing 0.1; 30
epochs in batches of 128; the head learns ten times as fast, without decay; the epoch
with the best validation is tested, and five without a better one end the run. The
released grid of rates is 3e-6, 1e-5 and 3e-5, chosen there by the test score; choose by
validation. `task.regime=probe` is its frozen variant.
"""

from neurofm.config import Eval, Experiment, Train
from neurofm.models.brainomni import BrainOmni
from neurofm.models.finetune import Finetune
from neurofm.optim import Group, Optim


def config() -> Experiment:
    return Experiment(
        task=Finetune(task=BrainOmni(), head="mlp", dropout=0.1, label_smoothing=0.1),
        optim=Optim(
            lr=1e-5,
            betas=(0.9, 0.99),
            eps=1e-6,
            weight_decay=0.05,
            clip_norm=0.0,
            warmup=0.1,
            warmup_form="log",
            floor=0.1,
            groups=(Group(path="^head/", lr_scale=10.0, weight_decay=0.0),),
            layers=("^task/blocks/",),
        ),
        train=Train(epochs=30.0, batch_size=128, keep=1),
        eval=Eval(crops=100_000, metric="balanced_accuracy", patience=5),
        seed=42,
    )
