r"""The words that `neurofm quickstart --system duin` fine-tunes on.

    neurofm quickstart --system duin

generates its data and trains all stages; `duin/quickstart_vqvae` is the first and says
how to train them on recordings of your own.

What differs from `duin/words`: trials move by up to 0.2 s; fewer epochs at a higher
rate, which the quickstart chooses on validation.
"""

from neurofm.config import Eval, Experiment, Train
from neurofm.models.duin import DuIN
from neurofm.models.finetune import Finetune
from neurofm.optim import Optim
from neurofm.signals.augment import Augment


def config() -> Experiment:
    return Experiment(
        task=Finetune(
            task=DuIN(),
            head="flat",
            hidden=128,
            augment=Augment(shift_samples=80),
        ),
        optim=Optim(
            lr=1e-3, betas=(0.9, 0.999), weight_decay=0.05, clip_norm=1.0, warmup=0.1
        ),
        train=Train(epochs=40.0, batch_size=32, keep=1),
        eval=Eval(crops=100_000, metric="accuracy"),
    )
