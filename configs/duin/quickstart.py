r"""The masked model that `neurofm quickstart --system duin` trains.

    neurofm quickstart --system duin

generates its data and trains all stages; `duin/quickstart_vqvae` is the first and says
how to train them on recordings of your own.
"""

from neurofm.config import Eval, Experiment, Train
from neurofm.models.duin import DuIN
from neurofm.optim import Optim


def config() -> Experiment:
    return Experiment(
        task=DuIN(),  # its sizes are those of the first stage
        optim=Optim(
            lr=1e-3, betas=(0.9, 0.95), weight_decay=0.01, clip_norm=1.0, warmup=0.1
        ),
        train=Train(steps=800, batch_size=32, log_every=20, checkpoint_every=400),
        eval=Eval(every=0),
    )
