"""Simulated fMRI at rest: six networks, a wave that crosses two of them, known truth.

The networks of a person are coupled in a way of their own. Over it a wave of 0.08 Hz
runs through the regions of two networks in one of two directions, which is the first
label: it changes no covariance at lag 0 and no spectrum of a region. The second label
is whether two other networks rise together or against each other, which connectivity
shows.

Axis letters: C regions, N networks, T volumes.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Int
from scipy.signal import lfilter

TR_S, WAVE_HZ = 2.0, 0.08
SIZES = (9, 7, 8, 6, 10, 8)  # regions of each network
CROSSED, COUPLED = (1, 4), (0, 3)  # networks of the wave, and of the second label
DIRECTIONS, COUPLINGS = ("forwards", "backwards"), ("together", "against")

Part = Literal["stream", "train", "valid", "test"]
PARTS: tuple[Part, ...] = ("stream", "train", "valid", "test")

WAVE, NETWORK = 0.04, 0.4  # shares of a region's variance; the rest is its own
COHERENCE = 0.9  # of the wave, from a volume to the next
AR = 0.5  # of networks and of regions by themselves
MIXING, COUPLING = 0.2, 0.5  # deviation of a person's coupling; that of the label
OWN_LOADS = 0.05  # deviation of a person's loads from those of all

_WORLD, _PERSON = 0, 1  # purposes of random numbers
_WARM_UP = 50


@dataclass(frozen=True)
class World:
    """What people of one seed have in common.

    Attributes:
      network: number of the network of each region.
      phase: of the wave at each region, in radians; 0 where it does not pass.
      loads: of each region on its network.
    """

    network: Int[np.ndarray, " C"]
    phase: Float[np.ndarray, " C"]
    loads: Float[np.ndarray, " C"]

    @property
    def crossed(self) -> Float[np.ndarray, " C"]:
        """1 where the wave passes, else 0."""
        return np.isin(self.network, CROSSED).astype(float)


@dataclass(frozen=True)
class Person:
    """Both labels, as numbers of `DIRECTIONS` and `COUPLINGS`, and what is one's own.

    Attributes:
      mixing: of the sources that drive the networks, rows of length 1.
      loads: of each region on its network.
    """

    direction: int
    coupling: int
    mixing: Float[np.ndarray, "N N"]
    loads: Float[np.ndarray, " C"]


def world(seed: int) -> World:
    """Draw it; regions of a crossed network share a cycle evenly, in any order."""
    rng = np.random.default_rng([seed, _WORLD])
    network = np.repeat(np.arange(len(SIZES)), SIZES)
    phase = np.zeros(len(network))
    for n in CROSSED:
        places = rng.permutation(SIZES[n])
        phase[network == n] = 2 * np.pi * places / SIZES[n] + rng.uniform(0, 2 * np.pi)
    return World(network, phase, rng.uniform(0.6, 1.0, len(network)))


def person(
    of: World, rng: np.random.Generator, direction: int, coupling: int
) -> Person:
    """Draw someone with these labels; all else is independent of them."""
    n = len(SIZES)
    mixing = np.eye(n) + MIXING * rng.standard_normal((n, n))
    first, second = COUPLED
    mixing[second, first] += COUPLING * (1 - 2 * coupling)
    mixing /= np.linalg.norm(mixing, axis=1, keepdims=True)
    loads = of.loads * (1 + OWN_LOADS * rng.standard_normal(len(of.loads)))
    return Person(direction, coupling, mixing, loads)


def run(
    of: World, seed: int, part: Part, number: int, n_volumes: int
) -> tuple[Float[np.ndarray, "C T"], Person]:
    """A run of one of the people of a part, and who that is.

    Any four people in a row have the four pairs of labels.
    """
    rng = np.random.default_rng([seed, _PERSON, PARTS.index(part), number])
    who = person(of, rng, number % 2, number // 2 % 2)
    return recorded(of, who, rng, n_volumes), who


def recorded(
    of: World, who: Person, rng: np.random.Generator, n_volumes: int
) -> Float[np.ndarray, "C T"]:
    """A run, each region of variance 1 or nearly."""
    n, c = len(SIZES), len(of.network)
    networks = who.mixing @ autoregressive(rng, n, n_volumes)
    driven = who.loads[:, None] * networks[of.network]
    own = autoregressive(rng, c, n_volumes)
    share = WAVE * of.crossed[:, None]
    rest = np.sqrt(NETWORK) * driven + np.sqrt(1 - NETWORK) * own
    return np.sqrt(share) * wave(of, who, rng, n_volumes) + np.sqrt(1 - share) * rest


def wave(
    of: World, who: Person, rng: np.random.Generator, n_volumes: int
) -> Float[np.ndarray, "C T"]:
    """Variance 1 at every region: Re z(t) exp(-i s phase), s the direction's sign.

    z is a circular complex autoregressive process that turns at `WAVE_HZ`: the
    covariance of two regions is that of cos(phase difference) at lag 0, whatever s.
    """
    n = n_volumes + _WARM_UP
    drawn = rng.standard_normal((2, n))
    turn = COHERENCE * np.exp(2j * np.pi * WAVE_HZ * TR_S)
    z = np.asarray(lfilter([1.0], [1.0, -turn], drawn[0] + 1j * drawn[1]))
    z = np.sqrt(1 - COHERENCE**2) * z[_WARM_UP:]
    sign = 1 - 2 * who.direction
    return (z * np.exp(-1j * sign * of.phase)[:, None]).real


def autoregressive(
    rng: np.random.Generator, n: int, n_volumes: int
) -> Float[np.ndarray, "n T"]:
    """Independent noise of variance 1, smooth in time."""
    drawn = rng.standard_normal((n, n_volumes + _WARM_UP))
    smooth = np.asarray(lfilter([1.0], [1.0, -AR], drawn))[:, _WARM_UP:]
    return np.sqrt(1 - AR**2) * smooth


def direction_evidence(of: World, x: Float[np.ndarray, "C T"]) -> float:
    """How much more power runs forwards than backwards, for one who knows the phases.

    The log ratio of the powers of both sums over crossed regions that turn at
    `WAVE_HZ`, in the band that the wave fills.
    """
    n = x.shape[1]
    hz = np.fft.fftfreq(n, TR_S)
    width = (1 - COHERENCE) / (2 * np.pi * TR_S)
    shape = 1 / (1 + ((hz - WAVE_HZ) / width) ** 2)
    spectra = np.fft.fft(x, axis=1)
    power = [
        (shape * np.abs((of.crossed * np.exp(1j * s * of.phase)) @ spectra) ** 2).sum()
        for s in (1, -1)
    ]
    return float(np.log(power[0] / power[1]))


def coupling_evidence(of: World, x: Float[np.ndarray, "C T"]) -> float:
    """Correlation of the coupled networks, each the mean of its regions by load."""
    first, second = ((of.loads * (of.network == network)) @ x for network in COUPLED)
    return float(np.corrcoef(first, second)[0, 1])
