r"""Tune WavJEPA on the responses of a person's brain to sound (brain-tuning).

    neurofm finetune wavjepa/brain_tune --from MODEL --workdir RUN \
        data.path=SOUND data.responses.path=FMRI data.responses.subjects=[NAME]

MODEL is any WavJEPA; SOUND holds the stories, FMRI runs whose `timeline` is that of a
story and whose `split` tells which are trained on. Source: arXiv 2410.09230 and its
released code: each volume is told from the sound of its own time and of the four
volumes before, by the mean over tokens and a linear map; all Transformer weights are
trained, the stem is not; 30 epochs in batches of 128 volumes; the head learns twice as
fast. What differs: the ten seconds are read in five windows of the model, volumes are
shuffled, the rate falls as half a cosine, and the epoch with the best correlation on
`valid` is tested. `task.pool=windows` tells each window's share (a finite impulse
response); `task.regime=lora task.lora_alpha=32 'task.lora_path=(query|key|value|out)
/kernel$'` in one line is the form of arXiv 2510.21520, with everybody's responses where
no subject is named.

What is learnt of the brain, and not of the sounds alone, is told by the controls
`data.responses.control=volumes` and `blocks`: train on them too. `neurofm export RUN
--out TRUNK --trunk` gives the tuned model for `embed` and `evaluate`.
"""

from neurofm.config import Data, Eval, Experiment, Responses, Train
from neurofm.models.finetune import Finetune
from neurofm.models.wavjepa import WavJEPA
from neurofm.optim import Group, Optim


def config() -> Experiment:
    return Experiment(
        task=Finetune(
            task=WavJEPA(),
            answer="responses",
            windows=5,
            regime="last",
            last_layers=1_000,  # all there are
        ),
        data=Data(responses=Responses(trim=(10, 5))),
        optim=Optim(
            lr=5e-5,
            betas=(0.9, 0.999),
            eps=1e-8,
            weight_decay=0.0,
            clip_norm=0.0,
            warmup=5 / 30,
            groups=(Group(path="^head/", lr_scale=2.0),),
        ),
        train=Train(epochs=30.0, batch_size=128, keep=1),
        eval=Eval(crops=100_000, metric="correlation"),
    )
