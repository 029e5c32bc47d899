r"""Fine-tune WavJEPA on classes: the mean over time, a linear head, all of it trained.

    neurofm finetune wavjepa/finetune --from MODEL --workdir RUN \
        data.path=DIR data.target=COLUMN

MODEL is any WavJEPA; COLUMN a column of the recordings or of their events. Less is
trained with `task.regime=probe`, `last` or `lora`; lower layers learn more slowly with
`optim.layer_decay=0.75`, or later with `optim.unfreeze=0.05`. A recipe of ours, for a
few hundred to a few thousand examples.
"""

from neurofm.config import Eval, Experiment, Train
from neurofm.models.finetune import Finetune
from neurofm.models.wavjepa import WavJEPA
from neurofm.optim import Group, Optim


def config() -> Experiment:
    return Experiment(
        task=Finetune(task=WavJEPA(), dropout=0.1),
        optim=Optim(
            lr=1e-4,
            betas=(0.9, 0.99),
            weight_decay=0.05,
            clip_norm=1.0,
            warmup=0.1,
            groups=(Group(path="^head/", lr_scale=10.0, weight_decay=0.0),),
            layers=("^task/(stem|feature_norm|project)", "^task/encoder/blocks/"),
        ),
        train=Train(epochs=30.0, batch_size=32, keep=1),
        eval=Eval(crops=100_000, metric="balanced_accuracy", patience=5),
    )
