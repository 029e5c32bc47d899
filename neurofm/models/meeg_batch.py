"""What models of EEG and MEG take: the batch, and signals and positions made of it.

Axes: B recordings, C sensors, T samples, N windows, L samples of a window.
"""

from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from neurofm.contract import BatchSpec, Field, InputContract
from neurofm.signals import meeg
from neurofm.task import Batch, Want

Normalise = Literal["kept", "all", "none"]


def spec(
    sfreq: float, c: int, t: int, hop: int, receptive: int, frame: str, want: Want
) -> BatchSpec:
    """The batch of EEG and MEG: signals, and what is known of every sensor.

    A `reconstruction` is told besides which sensors the model is shown; of the others
    only the place counts.
    """
    shown = {"meeg/sensor_shown": Field(shape=(c,), axes=("chan",), dtype="bool")}
    return BatchSpec(
        fields={
            **(shown if want == "reconstruction" else {}),
            "meeg/signal": Field(shape=(c, t), axes=("chan", "sample"), unit="si"),
            "meeg/pos": Field(shape=(c, 6), axes=("chan", "coord"), unit="m"),
            "meeg/sensor_type": Field(shape=(c,), axes=("chan",), dtype="int32"),
            "meeg/sensor_mask": Field(shape=(c,), axes=("chan",), dtype="bool"),
            "meeg/length": Field(shape=(), axes=(), dtype="int32"),
        },
        contract=InputContract(
            kind="meeg",
            sfreq=sfreq,
            unit="si",
            n_chans=c,
            window_samples=t,
            hop_samples=hop,
            receptive_samples=receptive,
            frame=frame,
            normalisation="average reference, one scale a sensor type and segment",
        ),
    )


def codes_spec(
    sfreq: float, shape: tuple[int, int, int], t: int, step: int, window: int
) -> BatchSpec:
    """The batch of codes that a tokenizer gave of segments of EEG and MEG.

    Args:
      shape: sources, tokens of a segment, quantisers.
      t: samples of a segment.
      step, window: samples from one of its windows to the next, and of each.
    """
    s, _, q = shape
    return BatchSpec(
        fields={
            "meeg/codes": Field(
                shape=shape, axes=("source", "token", "level"), dtype="int16"
            ),
            "meeg/length": Field(shape=(), axes=(), dtype="int32"),
        },
        contract=InputContract(
            kind="codes",
            sfreq=sfreq,
            unit="code",
            n_chans=s * q,
            window_samples=t,
            hop_samples=step,
            receptive_samples=window,
        ),
    )


def normalised(
    batch: Batch, counted: Bool[Array, "B C"], how: Normalise
) -> tuple[Float[Array, "B C T"], Float[Array, "B C 6"]]:
    """Signals and positions, zeros where there is no sensor or no recording.

    Args:
      counted: sensors that give the reference and scale of signals.
      how: `kept`; from `all` sensors instead, as released; or `none` for a batch that
        comes normalised.
    """
    there, kinds = batch["meeg/sensor_mask"], batch["meeg/sensor_type"]
    x = jnp.where(there[..., None], batch["meeg/signal"], 0)
    pos = jnp.where(there[..., None], batch["meeg/pos"], 0)
    recorded = jnp.arange(x.shape[-1]) < batch["meeg/length"][:, None]
    x = jnp.where(recorded[:, None], x, 0)
    if how == "none":
        return x, pos
    x = meeg.reference_and_scale(
        x, kinds, counted if how == "kept" else there, recorded
    )
    return x, meeg.normalise_positions(pos, kinds, there)
