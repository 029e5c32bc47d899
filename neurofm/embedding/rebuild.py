"""Signals at any sensors from what a tokenizer is shown of some, in their own units.

The model gives every window of every sensor with unit deviation; how large it is in V,
T or T/m is told by the sensors that are shown.

Axes: C sensors, N samples, K windows, Y types of sensors.
"""

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Float32, Int

from neurofm.data.sensors import Sensors
from neurofm.embedding import encode
from neurofm.embedding.recorded import Recorded
from neurofm.errors import NeuroFMError
from neurofm.model import Model
from neurofm.signals import logspec, meeg


@dataclass(frozen=True)
class Rebuilt:
    """What a model makes of a recording at sensors it was shown or not.

    Attributes:
      samples: in V, T and T/m, against the mean of the shown sensors of the type, each
        window around zero; zeros where nothing was rebuilt.
      sensors: of its channels.
      shown: whether the model saw the channel.
      n_shown: how many it saw, of those that are rebuilt or of others.
      truth: the recorded signals in the same form; NaN where there are none.
      r2: 1 - squared error over square of the truth, over all windows; NaN without.
      gain: of each window and type, see `amplitudes`.
      rebuilt: samples that the model gave.
    """

    samples: Float32[np.ndarray, "C N"]
    sensors: Sensors
    sfreq: float
    shown: Bool[np.ndarray, " C"]
    n_shown: int
    truth: Float32[np.ndarray, "C N"]
    r2: Float[np.ndarray, " C"]
    gain: Float[np.ndarray, "K Y"]
    rebuilt: Bool[np.ndarray, " N"]


def rebuild(
    model: Model,
    one: Recorded,
    hidden: frozenset[str] = frozenset(),
    at: Sensors | str | None = None,
    batch_size: int = 16,
) -> Rebuilt:
    """Rebuild a recording at its own sensors, or at others.

    Args:
      one: the recording; its `bads` are not shown.
      hidden: names of channels that the model is not shown either.
      at: sensors to be rebuilt in place of the recording's own, or the electrodes of a
        montage by MNE's name, or of a file of positions.

    Raises:
      NeuroFMError: the model rebuilds nothing, or fewer than two sensors are shown of a
        type that is asked for.
    """
    if model.contract.kind != "meeg" or one.sensors is None:
        raise NeuroFMError(
            f"this model takes {model.contract.kind} and rebuilds no sensors: give a "
            "tokenizer of EEG and MEG, or a model on top of one"
        )
    own = one.sensors
    if unknown := sorted(hidden - set(own.names)):
        raise NeuroFMError(
            f"{', '.join(unknown)} were to be hidden and are not among the channels: "
            f"they are {', '.join(own.names[:12])}, ..."
        )
    shown = np.array([n not in hidden and n not in one.bads for n in own.names])
    recorded = np.array([n not in one.bads for n in own.names])
    whole = one._replace(shown=shown)
    if isinstance(at, str):
        at = electrodes(at)
    if at is not None:
        whole, shown, recorded = _with(whole, shown, at)
    assert whole.sensors is not None
    _refuse_unscaled(whole.sensors, shown)
    ((_, reading),) = encode.embed_waves(
        model, [("", whole)], want="reconstruction", batch_size=batch_size
    )
    sfreq, n = model.contract.sfreq, whole.samples.shape[1]
    places = np.round((reading.times_s - whole.start_s) * sfreq - 0.5).astype(int)
    unit = np.zeros((len(shown), n), np.float32)
    unit[:, places] = reading.values["reconstruction"].T
    rebuilt = np.zeros(n, bool)
    rebuilt[places] = True
    spans = _spans(model, n, rebuilt)
    truth = referenced(whole.samples.astype(float), whole.sensors.kind, shown)
    for start, stop in spans:
        truth[:, start:stop] -= truth[:, start:stop].mean(1, keepdims=True)
    truth[:, ~rebuilt] = 0
    near = np.asarray(_near(whole.sensors, shown))
    samples, gain = amplitudes(unit, truth, whole.sensors.kind, shown, near, spans)
    kept = np.arange(len(own), len(shown)) if at is not None else np.arange(len(own))
    truth = np.where(recorded[:, None], truth, np.nan)[kept]
    samples = samples[kept]
    error = np.square(truth - samples).sum(1)
    size = np.square(truth).sum(1)
    return Rebuilt(
        samples=samples.astype(np.float32),
        sensors=own if at is None else at,
        sfreq=sfreq,
        shown=shown[kept],
        n_shown=int(shown.sum()),
        truth=truth.astype(np.float32),
        r2=1 - error / np.where(size > 0, size, np.nan),
        gain=gain,
        rebuilt=rebuilt,
    )


def electrodes(montage: str) -> Sensors:
    """The electrodes of a montage of MNE, or of a file of positions."""
    from data_pipelines.meeg import montages

    found = montages.montage(montage)
    pos = np.array([[*xyz, 0, 0, 0] for xyz in found.values()], np.float32)
    n = len(found)
    return Sensors(tuple(found), np.full(n, meeg.EEG, np.int32), pos, ("",) * n)


def _with(
    one: Recorded, shown: Bool[np.ndarray, " C"], at: Sensors
) -> tuple[Recorded, Bool[np.ndarray, " D"], Bool[np.ndarray, " D"]]:
    """The recording and behind it, empty, the sensors that are asked for."""
    own, n = one.sensors, one.samples.shape[1]
    assert own is not None
    # Both may have an electrode of one name.
    both = Sensors(
        names=(*(f"given {x}" for x in own.names), *(f"asked {x}" for x in at.names)),
        kind=np.concatenate([own.kind, at.kind]),
        pos=np.concatenate([own.pos, at.pos]),
        coil=own.coil + at.coil,
        frame=own.frame,
    )
    if own.frame != at.frame:
        raise NeuroFMError(
            f"the recording's sensors are in the frame {own.frame} and those asked for "
            f"in {at.frame}: give both in one"
        )
    samples = np.concatenate([one.samples, np.zeros((len(at), n), np.float32)])
    shown = np.concatenate([shown, np.zeros(len(at), bool)])
    recorded = np.arange(len(both)) < len(own)
    return one._replace(samples=samples, sensors=both, shown=shown), shown, recorded


def _refuse_unscaled(sensors: Sensors, shown: Bool[np.ndarray, " C"]) -> None:
    kinds = sensors.kind[shown].tolist()
    lost = [k for k in sorted(set(sensors.kind.tolist())) if kinds.count(k) < 2]
    if lost:
        names = ", ".join(meeg.KINDS[k] for k in lost)
        raise NeuroFMError(
            f"fewer than two sensors of {names} are shown, so nothing tells how large "
            "signals are there: show more, or leave these sensors out"
        )


def _spans(
    model: Model, n: int, rebuilt: Bool[np.ndarray, " N"]
) -> list[tuple[int, int]]:
    """First and last samples of the model's windows, side by side in each segment."""
    contract = model.contract
    segment, window = contract.window_samples, contract.receptive_samples
    spans = [
        (start, min(start + window, first + segment, n))
        for first in range(0, n, segment)
        for start in range(first, min(first + segment, n), window)
    ]
    return [(a, b) for a, b in spans if rebuilt[a:b].any()]


def _near(
    sensors: Sensors, shown: Bool[np.ndarray, " C"]
) -> Float[np.ndarray, "1 C C"]:
    pos, kind = jnp.asarray(sensors.pos)[None], jnp.asarray(sensors.kind)[None]
    pos = meeg.normalise_positions(pos, kind, jnp.ones(kind.shape, bool))
    return np.asarray(logspec.neighbours(pos, kind, jnp.asarray(shown)[None]))


def referenced(
    x: Float[np.ndarray, "C N"],
    kind: Int[np.ndarray, " C"],
    shown: Bool[np.ndarray, " C"],
) -> Float[np.ndarray, "C N"]:
    """Against the mean of the shown sensors of the type."""
    out = x.copy()
    for k in np.unique(kind[shown]):
        out[kind == k] -= x[(kind == k) & shown].mean(0)
    return out


def amplitudes(
    unit: Float[np.ndarray, "C N"],
    truth: Float[np.ndarray, "C N"],
    kind: Int[np.ndarray, " C"],
    shown: Bool[np.ndarray, " C"],
    near: Float[np.ndarray, "1 C C"],
    spans: list[tuple[int, int]],
) -> tuple[Float[np.ndarray, "C N"], Float[np.ndarray, "K Y"]]:
    """Signals of unit deviation in the units of those that were shown.

    A sensor's window gets the deviation that the shown sensors of its type around it
    have there (power averaged by `signals.logspec.neighbours`), times a gain for each
    window and type: that of least squares over the shown sensors, which is less than
    one where the model knows less.

    Returns:
      The signals, and the gains of all windows and types (eeg, mag, grad).
    """
    out = np.zeros_like(truth)
    gain = np.full((len(spans), len(meeg.KINDS)), np.nan)
    for i, (start, stop) in enumerate(spans):
        part = slice(start, stop)
        power = np.where(shown, np.square(truth[:, part]).mean(1), 0)
        sized = unit[:, part] * np.sqrt(near[0].astype(float) @ power)[:, None]
        for k in np.unique(kind):
            seen = (kind == k) & shown
            square = np.square(sized[seen]).sum()
            fit = (sized[seen] * truth[seen, part]).sum()
            gain[i, k] = fit / square if square > 0 else 0.0
            out[kind == k, part] = gain[i, k] * sized[kind == k]
    return out, gain
