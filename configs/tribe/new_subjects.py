r"""A trained TRIBE fitted to other people: the table of subjects alone, 1,000 steps.

    neurofm finetune tribe/new_subjects --from MODEL --workdir RUN data.path=DIR

The trunk is frozen; everyone starts from the mean of the rows that the model has, as
TRIBE v2 is fitted to new people (arXiv 2605.04326). `task.trained=all` trains the rest
too. Sizes are the model's; rate and length are ours and not tuned.
"""

from neurofm.config import Eval, Experiment, Train
from neurofm.models.tribe import Tribe
from neurofm.optim import Optim


def config() -> Experiment:
    return Experiment(
        task=Tribe(trained="head", modality_dropout=0.0),
        optim=Optim(
            lr=1e-3,
            betas=(0.95, 0.999),
            eps=1e-8,
            weight_decay=0.0,
            clip_norm=0.0,
            warmup=0.1,
            schedule="onecycle",
        ),
        train=Train(steps=1_000, batch_size=16, log_every=20, checkpoint_every=200),
        eval=Eval(every=200),
    )
