"""WavJEPA tiny: 3 M parameters at 16 kHz mono, for a laptop and small collections.

On what `neurofm prepare audio SRC --out DIR` makes by default:

    neurofm pretrain wavjepa/tiny --workdir RUN data.path=DIR

What differs from the published recipe: a stem of 64 channels, 4 blocks of width 192 (2
of width 96 in the predictor), targets over all 4 blocks normalised per feature
(data2vec 2.0), a wider first projection, 2,000 steps of 32 crops, learning rate 1e-3
with 5 % warm-up, and a teacher that goes from 0.998 to 0.9999 over the run. Scaled down
as it is, the published recipe collapses within some hundred steps.
"""

from neurofm.config import Eval, Experiment, Train
from neurofm.models.wavjepa import WavJEPA
from neurofm.optim import Optim


def config() -> Experiment:
    return Experiment(
        task=WavJEPA(
            conv_layers=((64, 10, 5), *(((64, 3, 2),) * 4), (64, 2, 2)),
            width=192,
            depth=4,
            heads=6,
            predictor_width=96,
            predictor_depth=2,
            predictor_heads=6,
            top_k=4,
            target_norm="data2vec",
            ema_start=0.998,
            ema_end=0.9999,
            ema_anneal=1.0,
            project_init=0.125,
        ),
        optim=Optim(lr=1e-3, warmup=0.05),
        train=Train(steps=2_000, batch_size=32, log_every=20, checkpoint_every=200),
        eval=Eval(every=200, crops=64),
    )
