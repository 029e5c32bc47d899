"""Simulated EEG and MEG whose labels are in the dynamics of a source and nowhere else.

Each recording holds one event: a dipole whose activity is a chirp that rises or falls.
A falling chirp is a rising one played backwards, onset and phase are random, place and
direction too, and what goes on beside it knows nothing of it: spectra and covariances,
which do not change when time turns round, carry nothing of the label.

Axis letters: C sensors, P dipoles, F frequencies, N samples.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from neurofm.signals.meeg import EEG, MAG
from neurofm.simulate.heads import PARTS, Part, Subject, dipoles, subject
from neurofm.simulate.layouts import Name

SFREQ = 128
DURATION_S = 3.0
N_SAMPLES = round(SFREQ * DURATION_S)
LABELS = ("rising", "falling")
CHIRP_S = 1.0
CHIRP_HZ = (7.0, 28.0)

_RAMP_S = 0.1
_ALPHA_WIDTH_HZ = 1.0
_SLOWEST_HZ = 0.5
_BLINK_S, _BLINKS_PER_S = 0.3, 0.2
_TIME = np.arange(N_SAMPLES) / SFREQ


@dataclass(frozen=True, kw_only=True)
class Design:
    """Which people a part of the data has, and how loud its events are.

    Attributes:
      layouts: people wear them in turn.
      per_subject: recordings of each of them.
      snr_db: range of the root mean square of an event in its window over that of the
        background (all but artefacts), both over all electrodes, or magnetometers.
    """

    layouts: tuple[Name, ...]
    per_subject: int
    snr_db: tuple[float, float] = (-10.0, 0.0)


@dataclass(frozen=True, kw_only=True)
class Event:
    """What was simulated in a recording; `moment` is the chirp's RMS in A m."""

    label: int
    onset_s: float
    phase: float
    place: Float[np.ndarray, "3"]
    axis: Float[np.ndarray, "3"]
    snr_db: float
    moment: float
    topography: Float[np.ndarray, " C"]


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """A recording in V, T and T/m, whose it is, and the truth about it."""

    samples: Float[np.ndarray, "C N"]
    subject: Subject
    event: Event


def record(seed: int, part: Part, index: int, design: Design) -> Recorded:
    """Recording `index` of a part: a function of these arguments and nothing else.

    Labels take turns, but in the stream they are drawn. Designs that differ in
    loudness alone give the same recordings but for the loudness of their events.
    """
    number = index // design.per_subject
    who = subject(seed, part, number, design.layouts[number % len(design.layouts)])
    rng = np.random.default_rng([seed, PARTS.index(part), index, 2])
    event = _event(rng, who, index if part != "stream" else None, design)
    clean = np.outer(event.topography, chirp(event.label, event.onset_s, event.phase))
    samples = background(rng, who) + artefacts(rng, who) + clean
    return Recorded(samples=samples.astype(np.float32), subject=who, event=event)


def chirp(label: int, onset_s: float, phase: float) -> Float[np.ndarray, " N"]:
    """A second from 7 to 28 Hz, or (label 1) from 28 to 7, of RMS 1 in that second."""
    since = _TIME - onset_s
    since = CHIRP_S - since if label else since
    low, high = CHIRP_HZ
    turns = low * since + (high - low) * since**2 / (2 * CHIRP_S)
    edge = np.clip(np.minimum(since, CHIRP_S - since) / _RAMP_S, 0, 1)
    envelope = np.sin(np.pi / 2 * edge)
    # Mean square of the envelope: 1/2 over both ramps, 1 between.
    loud = np.sqrt(2 / (1 - _RAMP_S / CHIRP_S))
    return loud * envelope * np.cos(2 * np.pi * turns + phase)


def frequencies() -> Float[np.ndarray, " F"]:
    """Of the spectra here, in Hz."""
    return np.fft.rfftfreq(N_SAMPLES, 1 / SFREQ)


def spectra(who: Subject) -> tuple[Float[np.ndarray, " F"], Float[np.ndarray, " F"]]:
    """Power at each frequency of 1/f activity and of alpha; both sum to 1."""
    hz = frequencies()
    inner = (hz >= _SLOWEST_HZ) & (hz < SFREQ / 2)
    slow = np.where(inner, 1 / np.maximum(hz, _SLOWEST_HZ), 0)
    alpha = np.exp(-0.5 * ((hz - who.alpha_hz) / _ALPHA_WIDTH_HZ) ** 2) * inner
    return slow / slow.sum(), alpha / alpha.sum()


def background(rng: np.random.Generator, who: Subject) -> Float[np.ndarray, "C N"]:
    """The activity of all background dipoles and the noise of the sensors."""
    slow, alpha = (power.astype(np.float32) for power in spectra(who))
    n_dipoles, n_freqs = who.gain.shape[1], len(slow)
    drawn = rng.standard_normal((n_dipoles, n_freqs, 2), np.float32)
    own = who.alpha[:, None].astype(np.float32)
    drawn *= np.sqrt(slow + own * alpha)[..., None]
    gain = who.gain.astype(np.float32)
    mixed = gain @ drawn.reshape(n_dipoles, -1)
    mixed = mixed.reshape(len(gain), n_freqs, 2) * np.float32(N_SAMPLES / 2)
    signal = np.fft.irfft(mixed[..., 0] + 1j * mixed[..., 1], N_SAMPLES)
    white = rng.standard_normal(signal.shape, np.float32)
    return signal + who.noise(SFREQ)[:, None] * white


def artefacts(rng: np.random.Generator, who: Subject) -> Float[np.ndarray, "C N"]:
    """Blinks, heartbeats and the hum of the mains."""
    return artefact_topographies(who) @ artefact_waves(rng, who)


def artefact_topographies(who: Subject) -> Float[np.ndarray, "C 3"]:
    """What the sensors see at the peak of each of `artefact_waves`."""
    return np.stack([who.blink, who.heart, who.line], 1)


def artefact_waves(rng: np.random.Generator, who: Subject) -> Float[np.ndarray, "3 N"]:
    """Blinks, heartbeats and the hum of the mains, of peak 1."""
    n_blinks = rng.poisson(_BLINKS_PER_S * DURATION_S)
    lids = np.zeros(N_SAMPLES)
    for start in rng.uniform(-_BLINK_S, DURATION_S, n_blinks):
        lids += np.sin(np.pi * np.clip((_TIME - start) / _BLINK_S, 0, 1)) ** 2
    period = 1 / who.heart_hz
    beat = (_TIME + rng.uniform(0, period)) % period - period / 2
    heart = (1 - (beat / 0.02) ** 2) * np.exp(-0.5 * (beat / 0.02) ** 2)
    hum = np.sin(2 * np.pi * (who.line_hz * _TIME + rng.uniform()))
    return np.stack([lids, heart, hum])


def background_rms(who: Subject) -> float:
    """Expected root mean square of the background over electrodes or magnetometers."""
    power = who.gain**2 @ (1 + who.alpha) + who.noise(SFREQ) ** 2
    return float(np.sqrt(power[_loud(who)].mean()))


def moments(
    who: Subject, seen: Float[np.ndarray, "C P"], snr_db: float
) -> Float[np.ndarray, " P"]:
    """Root mean squares in A m of dipoles that stand `snr_db` out of the background.

    Args:
      seen: what each sensor sees of each dipole, per A m.
    """
    level = np.sqrt((seen[_loud(who)].T ** 2).mean(1))
    return 10 ** (snr_db / 20) * background_rms(who) / level


def _loud(who: Subject) -> np.ndarray:
    """The sensors that loudness is measured with."""
    return np.isin(who.layout.kind, (EEG, MAG))


def _event(
    rng: np.random.Generator, who: Subject, index: int | None, design: Design
) -> Event:
    place, axis = dipoles(rng, 1, who.radius)
    drawn, onset, phase, loudness = rng.random(4)
    snr_db = design.snr_db[0] + (design.snr_db[1] - design.snr_db[0]) * loudness
    seen = who.measured(place, axis)[:, 0]
    moment = float(moments(who, seen[:, None], snr_db)[0])
    return Event(
        label=int(2 * drawn) if index is None else index % 2,
        onset_s=onset * (DURATION_S - CHIRP_S),
        phase=2 * np.pi * phase,
        place=place[0],
        axis=axis[0],
        snr_db=snr_db,
        moment=moment,
        topography=moment * seen,
    )
