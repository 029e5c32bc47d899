"""Models that are quick: one whose answer is plain, real ones to read and to train."""

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from neurofm.contract import BatchSpec, Field, InputContract
from neurofm.model import Model, abstract_batch
from neurofm.models.wavjepa import WavJEPA
from neurofm.objectives.masks import TimeInverse
from neurofm.task import Reading, Task


@dataclass(frozen=True, kw_only=True)
class Echo(Task):
    """Tokens of 11 samples, 4 apart, in windows of 73: each gives its middle sample."""

    name: ClassVar[str] = "echo"
    n_chans: int = 1

    def batch_spec(self, want="train"):
        contract = InputContract(
            kind="audio",
            sfreq=100.0,
            unit="full_scale",
            n_chans=self.n_chans,
            window_samples=73,
            hop_samples=4,
            receptive_samples=11,
        )
        wave = Field(shape=(self.n_chans, 73), axes=("chan", "sample"))
        span = Field(shape=(2,), axes=("edge",), dtype="int32")
        fields = {"audio/wave": wave, "audio/span": span}
        return BatchSpec(fields=fields, contract=contract)

    def read(self, variables, batch, want="features"):
        at = np.arange(16) * 4 + 5
        center = batch["audio/wave"][:, :, at].transpose(0, 2, 1)  # [B, T, C]
        rows = jnp.broadcast_to(batch["index"][:, None, None], center[..., :1].shape)
        mask = at + 6 <= batch["audio/span"][:, 1:]
        times = jnp.broadcast_to((at + 0.5) / 100, mask.shape)
        values = {"last": center, "layer_01": -center, "row": rows.astype(float)}
        return Reading(values, times, mask)


ECHO = Model(Echo(), {"params": {}, "slow": {}, "buffers": {}})

TINY = WavJEPA(
    sfreq=800.0,
    window_samples=250,
    conv_layers=((6, 10, 5), (6, 3, 2)),
    width=8,
    depth=2,
    heads=2,
    predictor_width=4,
    predictor_depth=1,
    predictor_heads=2,
    top_k=1,
)

# Half a second with short spans, for training steps.
TRAINABLE = WavJEPA(
    sfreq=2000.0,
    window_samples=1019,
    conv_layers=((8, 10, 5), (8, 4, 4)),
    width=16,
    depth=2,
    heads=2,
    predictor_width=8,
    predictor_depth=1,
    predictor_heads=2,
    top_k=2,
    masker=TimeInverse(context_length=4, target_length=4),
    context_caps=(40,),
)


def tiny(seed: int = 3, **fields) -> Model:
    """A small WavJEPA of random weights."""
    return random(dataclasses.replace(TINY, **fields), seed)


def random(task, seed: int = 3) -> Model:
    """A model of random weights."""
    shapes = jax.eval_shape(
        lambda key, batch: task.init(key, batch, {}),
        jax.eval_shape(lambda: jax.random.key(0)),
        abstract_batch(task, 1),
    )
    rng = np.random.default_rng(seed)
    fill = lambda x: rng.normal(0.1, 0.3, x.shape).astype(np.float32)  # noqa: E731
    return Model(task, jax.tree.map(fill, shapes))
