"""What an array means: the fields of a batch and the input contract of a model."""

import dataclasses
from dataclasses import dataclass
from typing import Any

from neurofm.errors import NeuroFMError


@dataclass(frozen=True, kw_only=True)
class Field:
    """One named array of a batch, without its leading batch axis.

    Attributes:
      shape: sizes, e.g. `(1, 32159)`.
      axes: one word an axis, e.g. `("chan", "sample")`.
      dtype: numpy name.
      unit: SI unit of the values, or None for counts, indices and flags.
      words: of a class, what its numbers mean.
      sfreq: steps a second, of what is sampled at another rate than the input; else 0.
      delay_s: seconds by which its steps follow the input, as BOLD follows a stimulus.
    """

    shape: tuple[int, ...]
    axes: tuple[str, ...]
    dtype: str = "float32"
    unit: str | None = None
    words: tuple[str, ...] = ()
    sfreq: float = 0.0
    delay_s: float = 0.0


@dataclass(frozen=True, kw_only=True)
class InputContract:
    """What a model's input must be; stored with every checkpoint.

    Attributes:
      kind: `audio`, `eeg`, `meg`, `meeg` (both at once), `ieeg`, `fmri` or `features`;
        or `codes` that a tokenizer made of `meeg`.
      sfreq: sampling rate in Hz.
      unit: unit of the samples (`full_scale` for sound in [-1, 1]; `si` for V, T and
        T/m by the type of the sensor).
      n_chans: number of channels.
      window_samples: samples the model sees at once.
      hop_samples: samples from one token to the next; of `codes`, from one window of
        the tokenizer to the next.
      receptive_samples: samples one token sees.
      frame: of the sensors' positions, `head`; or `released`, MEG as in its device.
      channels: names of the channels in order, where they are regions of an atlas.
      reference: what the channels are measured against, where that applies.
      normalisation: what the model itself does to the scale of its input.
    """

    kind: str
    sfreq: float
    unit: str
    n_chans: int
    window_samples: int
    hop_samples: int
    receptive_samples: int
    frame: str | None = None
    channels: tuple[str, ...] = ()
    reference: str | None = None
    normalisation: str = "none"

    @classmethod
    def from_json(cls, obj: dict[str, Any]) -> "InputContract":
        """Read a contract back; an unknown name is an error, and so is a missing one.

        Contracts written before there was `channels` have none.
        """
        obj = {"channels": (), **obj}
        names = {f.name for f in dataclasses.fields(cls)}
        if wrong := sorted(set(obj) ^ names):
            raise NeuroFMError(
                f"this input contract has other fields than expected ({wrong}); it was "
                "written by another version: import or export the model again"
            )
        return cls(**{**obj, "channels": tuple(obj["channels"])})


@dataclass(frozen=True, kw_only=True)
class BatchSpec:
    """What a Task asks of the loader: its fields and the contract behind them."""

    fields: dict[str, Field]
    contract: InputContract
