"""Generated, labelled sound: six pairs of classes that only change over time separates.

Both classes of a pair have the same long-term spectrum in expectation, so a mean
spectrum cannot tell them apart; pitch, equalisation, onset, room and noise vary from
clip to clip. Each part of the data (the unlabelled stream, train, valid, test) has
rooms and noises of its own.

Axis letters: n clips, N samples, K partials or clicks, R rooms or noises of a pool.
Times are in seconds, frequencies in Hz.
"""

import dataclasses
import functools
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Int, Num

SFREQ = 8000
N_SAMPLES = 16080
CLASSES = (
    *("glide_up", "glide_down"),
    *("ramped", "damped"),
    *("order_ab", "order_ba"),
    *("am_4hz", "am_16hz"),
    *("clicks_regular", "clicks_poisson"),
    *("harmonic", "inharmonic"),
)
Part = Literal["stream", "train", "valid", "test"]
PARTS: tuple[Part, ...] = ("stream", "train", "valid", "test")
SNR_DB = (0.0, 20.0)
RT_S = (0.10, 0.35)
POOL = 48  # rooms, and as many noises, of each part

_ACTIVE_S = 1.5  # the sound itself, before the room
_TIME = np.arange(N_SAMPLES, dtype=np.float32) / SFREQ
_K = 10  # partials of a complex tone
_MAX_CLICKS = 30
_ROOM_SAMPLES = 3200
_N_FFT = 19440  # 2^4 3^5 5, holds a clip and the tail of its room
_NOISE_SAMPLES = 4 * SFREQ
_CHUNK = 24  # clips made at once: larger arrays leave the cache of a core


@dataclass(frozen=True)
class Draws:
    """The random choices behind n clips: every number that `render` needs."""

    label: Int[np.ndarray, " n"]
    f0: Float[np.ndarray, " n"]
    onset: Float[np.ndarray, " n"]
    period: Float[np.ndarray, " n"]  # of what repeats: a glide, an envelope, a pair AB
    start: Float[np.ndarray, " n"]  # where in its period the clip begins, 0 to 1
    snr_db: Float[np.ndarray, " n"]
    room: Int[np.ndarray, " n"]
    noise: Int[np.ndarray, " n"]
    unit: Float[np.ndarray, "n 4 K3"]  # uniform in 0 to 1, for all the rest
    white: Float[np.ndarray, "n N"]

    def take(self, rows: Int[np.ndarray, " m"]) -> "Draws":
        """The choices of some of the clips."""
        return Draws(*(getattr(self, f.name)[rows] for f in dataclasses.fields(self)))


def generate(
    n: int, seed: int, part: Part, start: int = 0
) -> tuple[Float[np.ndarray, "n N"], Int[np.ndarray, " n"] | None]:
    """Make clips `start` to `start + n` of a part: float32 sound and its classes.

    Clip i depends on (seed, part, i) alone. Labelled parts hold the classes in turn
    (i modulo 12, an index into `CLASSES`); the stream draws them and keeps them to
    itself (None). All clips have the same root mean square, 0.03 of full scale.
    """
    wave = np.empty((n, N_SAMPLES), np.float32)
    label = np.empty(n, int)
    for first in range(0, n, _CHUNK):
        rows = slice(first, min(n, first + _CHUNK))
        choices = draw(rows.stop - first, seed, part, start + first)
        wave[rows], label[rows] = render(choices, seed, part), choices.label
    return wave, None if part == "stream" else label


def draw(n: int, seed: int, part: Part, start: int = 0) -> Draws:
    """Draw the choices of clips `start` to `start + n`, each from its own generator."""
    unit = np.empty((n, 4, _MAX_CLICKS))
    white = np.empty((n, N_SAMPLES), np.float32)
    for row in range(n):
        rng = np.random.default_rng([seed, PARTS.index(part), start + row])
        rng.random(out=unit[row])
        rng.standard_normal(dtype=np.float32, out=white[row])
    u = unit[:, 0].T
    turn = np.arange(start, start + n) % len(CLASSES)
    drawn = (u[0] * len(CLASSES)).astype(int)
    return Draws(
        label=drawn if part == "stream" else turn,
        f0=100 * 4 ** u[1],
        onset=u[2] * (N_SAMPLES / SFREQ - _ACTIVE_S - 0.05),
        period=0.18 * 2 ** u[3],
        start=u[4],
        snr_db=SNR_DB[0] + (SNR_DB[1] - SNR_DB[0]) * u[5],
        room=(u[6] * POOL).astype(int),
        noise=(u[7] * POOL).astype(int),
        unit=unit,
        white=white,
    )


def render(d: Draws, seed: int, part: Part) -> Float[np.ndarray, "n N"]:
    """Equalise the dry sounds, play them in their rooms and add their noises."""
    spectrum = np.fft.rfft(dry(d), _N_FFT)
    spectrum *= np.fft.rfft(rooms(seed, part)[d.room], _N_FFT)
    spectrum *= _equaliser(d.unit[:, 1, :4], _N_FFT, 1.5)
    wet = _level(np.fft.irfft(spectrum, _N_FFT)[:, :N_SAMPLES])
    first = (d.unit[:, 1, 4] * _NOISE_SAMPLES).astype(int)[:, None]
    where = (first + np.arange(N_SAMPLES)) % _NOISE_SAMPLES
    noise = _level(noises(seed, part)[d.noise[:, None], where])
    gain = 10 ** (-d.snr_db[:, None] / 20)
    return 0.03 * _level(wet + gain.astype(np.float32) * noise)


def dry(d: Draws) -> Float[np.ndarray, "n N"]:
    """Make the sounds before equalisation, room and noise; silent but for 1.5 s."""
    since = _TIME - d.onset[:, None].astype(np.float32)
    wave = np.empty_like(since)
    for pair, make in enumerate((_glide, _ramp, _order, _am, _clicks, _complex)):
        rows = np.flatnonzero(d.label // 2 == pair)
        wave[rows] = make(d.take(rows), since[rows], d.label[rows] % 2)
    return wave * _pulse(since / np.float32(_ACTIVE_S), 0.01)


def _glide(d: Draws, since: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Repeated glides of 0.7 octave around f0, up or (second) down."""
    x = _phase(d, since)
    octaves = 0.7 * (x - 0.5) * (1 - 2 * second[:, None])
    hz = d.f0[:, None] * 2.0**octaves
    return _tone(d, np.cumsum(hz, 1) / SFREQ) * _pulse(x, 0.1)


def _ramp(d: Draws, since: np.ndarray, second: np.ndarray) -> np.ndarray:
    """An envelope that rises exponentially and stops, or (second) its reverse."""
    x = _phase(d, since)
    x = np.where(second[:, None] == 1, 1 - x, x)
    return _tone(d, since * d.f0[:, None]) * np.exp(5 * (x - 1)) * _pulse(x, 0.02)


def _order(d: Draws, since: np.ndarray, second: np.ndarray) -> np.ndarray:
    """A tone, then noise, then a gap; (second) noise first."""
    x = _phase(d, since)
    x = np.where(second[:, None] == 1, 1 - x, x)
    tone = _tone(d, since * d.f0[:, None])
    return tone * _pulse(x / 0.36, 0.1) + d.white * _pulse((x - 0.36) / 0.36, 0.1)


def _am(d: Draws, since: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Amplitude modulation at 4 or (second) 16 Hz."""
    rate = np.where(second == 1, 16, 4)[:, None]
    return d.white * (1 + np.sin(2 * np.pi * (rate * since + d.start[:, None])))


def _clicks(d: Draws, since: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Damped resonances at equal distances or (second) as a Poisson process.

    Given their number, the times of a Poisson process are uniform and independent; so
    both kinds have the same number of clicks.
    """
    k = np.arange(_MAX_CLICKS)
    count = np.round(_ACTIVE_S * 5 * 4 ** d.unit[:, 2, :1])  # 5 to 20 a second
    regular = (k + d.start[:, None]) / count
    where = np.where(second[:, None] == 1, d.unit[:, 3], regular)
    sample = ((where * _ACTIVE_S + d.onset[:, None]) * SFREQ).astype(int)
    t = _TIME[: SFREQ // 50]
    shape = np.sin(2 * np.pi * 5 * d.f0[:, None] * t) * np.exp(-t / 0.003)  # [n, 160]
    wave = np.zeros((len(since), N_SAMPLES + len(t)), np.float32)
    clip = np.arange(len(since))[:, None, None]
    at = np.minimum(sample, N_SAMPLES)[:, :, None] + np.arange(len(t))
    np.add.at(wave, (clip, at), np.where(k < count, 1, 0)[:, :, None] * shape[:, None])
    return wave[:, :N_SAMPLES]


def _complex(d: Draws, since: np.ndarray, second: np.ndarray) -> np.ndarray:
    """A steady complex tone; (second) each partial above f0 moved by up to 0.4 f0."""
    shift = 0.8 * (d.unit[:, 2, :_K] - 0.5) * second[:, None] * (np.arange(_K) > 0)
    return _tone(d, since * d.f0[:, None], 1 + np.arange(_K) + shift)


def _tone(
    d: Draws, cycles: Num[np.ndarray, "n N"], ratio: np.ndarray | None = None
) -> Float[np.ndarray, "n N"]:
    """Sum of partials at `ratio` (default 1 to K) times the fundamental, about RMS 1.

    Partials that could pass the Nyquist frequency are left out.
    """
    if ratio is None:
        ratio = np.broadcast_to(1.0 + np.arange(_K), (len(cycles), _K))
    gain = (ratio * d.f0[:, None] < 3000) / np.sqrt(1 + np.arange(_K))
    gain = (gain / np.sqrt((gain**2).sum(1, keepdims=True) / 2)).astype(np.float32)
    wave = np.zeros(cycles.shape, np.float32)
    for k in range(_K):
        turns = ratio[:, k, None] * cycles + d.unit[:, 3, k, None]
        turns -= np.floor(turns)  # a float32 of many turns would lose its phase
        wave += gain[:, k, None] * np.sin(2 * np.pi * turns.astype(np.float32))
    return wave


def _phase(d: Draws, since: np.ndarray) -> Float[np.ndarray, "n N"]:
    return ((since / d.period[:, None] + d.start[:, None]) % 1).astype(np.float32)


def _pulse(x: np.ndarray, ramp: float) -> np.ndarray:
    """1 within 0 < x < 1 with linear ramps as wide as `ramp`, 0 outside."""
    return np.clip(np.minimum(x, 1 - x) / ramp, 0, 1).astype(np.float32)


def _level(wave: Float[np.ndarray, "n N"]) -> Float[np.ndarray, "n N"]:
    return wave / np.sqrt(np.mean(wave**2, -1, keepdims=True) + 1e-12)


def _equaliser(
    unit: Float[np.ndarray, "n J"], n_fft: int, depth_db: float
) -> Float[np.ndarray, "n K"]:
    """Smooth random gains: cosines over log frequency of up to `depth_db` each."""
    hz = np.maximum(60, np.fft.rfftfreq(n_fft, 1 / SFREQ))
    u = np.log(hz / 60) / np.log(SFREQ / 2 / 60)
    waves = np.cos(np.pi * np.outer(1 + np.arange(unit.shape[1]), u))
    return 10 ** (((2 * unit - 1) * depth_db) @ waves / 20).astype(np.float32)


@functools.lru_cache(maxsize=len(PARTS))
def rooms(seed: int, part: Part) -> Float[np.ndarray, "R N"]:
    """Impulse responses of a part's rooms: direct sound, echoes, decaying noise.

    The tail falls by 60 dB in `RT_S` seconds; eight early reflections come within
    40 ms; the direct sound holds between a half and ten elevenths of the energy.
    """
    rng = np.random.default_rng([seed, PARTS.index(part), 0, 1])
    rt = rng.uniform(*RT_S, (POOL, 1))
    t = _TIME[:_ROOM_SAMPLES]
    tail = rng.standard_normal((POOL, len(t))) * (t > 0.005)
    early = rng.integers(SFREQ // 500, SFREQ // 25, (POOL, 8))
    tail[np.arange(POOL)[:, None], early] += rng.normal(0, 4, early.shape)
    tail *= 10 ** (-3 * t / rt)
    tail /= np.sqrt((tail**2).sum(1, keepdims=True))
    tail *= 10 ** (-rng.uniform(0, 10, (POOL, 1)) / 20)
    tail[:, 0] = 1
    return tail.astype(np.float32)


@functools.lru_cache(maxsize=len(PARTS))
def noises(seed: int, part: Part) -> Float[np.ndarray, "R N"]:
    """Four seconds, without a seam, of each of a part's coloured, wavering noises."""
    rng = np.random.default_rng([seed, PARTS.index(part), 0, 2])
    spectrum = np.fft.rfft(rng.standard_normal((POOL, _NOISE_SAMPLES), np.float32))
    spectrum *= _equaliser(rng.random((POOL, 6)), _NOISE_SAMPLES, 2.0)
    waver = np.fft.rfft(rng.standard_normal((POOL, _NOISE_SAMPLES), np.float32))
    waver[:, 4 * 6 :] = 0  # slower than 6 Hz
    depth = rng.uniform(0, 0.2, (POOL, 1))
    envelope = np.exp(depth * _level(np.fft.irfft(waver, _NOISE_SAMPLES)))
    return (envelope * np.fft.irfft(spectrum, _NOISE_SAMPLES)).astype(np.float32)
