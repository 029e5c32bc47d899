"""The network that `neurofm quickstart` trains: 0.7 M parameters at 8 kHz.

    neurofm quickstart

generates its data and needs minutes on two CPU cores; the same recipe on your own clips
of about two seconds:

    neurofm prepare audio SRC --sfreq 8000 --out DIR
    neurofm pretrain wavjepa/quickstart --workdir RUN data.path=DIR

What differs from the published recipe: 8 kHz and 100 tokens a clip, a stem of 64
channels, 3 blocks of width 128, spans of 5 tokens, targets over all 3 blocks normalised
per feature (data2vec 2.0), a wider first projection, learning rate 1e-3 with 5 %
warm-up, batch 16, a teacher that goes from 0.998 to 0.9999 over the run. Scaled down
as it is, the published recipe collapses within some hundred steps.
"""

from neurofm.config import Data, Eval, Experiment, Train
from neurofm.models.wavjepa import WavJEPA
from neurofm.objectives.masks import TimeInverse
from neurofm.optim import Optim


def config() -> Experiment:
    return Experiment(
        task=WavJEPA(
            sfreq=8_000.0,
            window_samples=16_080,
            conv_layers=((64, 10, 5), *(((64, 3, 2),) * 4), (64, 2, 2)),
            width=128,
            depth=3,
            heads=4,
            predictor_width=64,
            predictor_depth=2,
            predictor_heads=4,
            top_k=3,
            target_norm="data2vec",
            masker=TimeInverse(context_length=5, target_length=5),
            context_caps=(40,),
            ema_start=0.998,
            ema_end=0.9999,
            ema_anneal=1.0,
            project_init=0.125,
        ),
        data=Data(crops_per_clip=1),
        optim=Optim(lr=1e-3, warmup=0.05),
        train=Train(steps=600, batch_size=16, log_every=20, checkpoint_every=200),
        eval=Eval(every=100, crops=96),
    )
