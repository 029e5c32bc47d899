r"""WavJEPA-Nat base: two ears, a stem for each, 400 tokens a crop.

On binaural recordings:

    neurofm prepare audio SRC --channels all --out DIR
    neurofm pretrain wavjepa/nat --workdir RUN data.path=DIR

On scenes, simulated inside the step from mono sound, noise and the impulse responses of
rooms (docs/recordings.md), as the released model was:

    neurofm prepare audio SOUND --sfreq 32000 --out DIR
    neurofm prepare audio NOISES --sfreq 32000 --out NOISE
    neurofm prepare audio RIRS --sfreq 32000 --channels all --out ROOMS
    neurofm pretrain wavjepa/nat --workdir RUN data.path=DIR data.noise=NOISE \
      data.rooms=ROOMS task.scenes.source=simulated

The released recipe: 16 clips x 8 crops on each of 2 GPUs. Its masks hide the ears at
different times (`task.channel_mask=interleaved_legacy`); the default here hides both at
the same times, as intended.
"""

from neurofm.config import Experiment, Train
from neurofm.models.wavjepa import WavJEPA
from neurofm.optim import Optim


def config() -> Experiment:
    return Experiment(
        task=WavJEPA(n_chans=2, remat="selective"),
        optim=Optim(lr=4e-4, weight_decay=0.04, clip_norm=5.0),
        train=Train(steps=375_000, batch_size=256, checkpoint_every=5_000),
        seed=42,
    )
