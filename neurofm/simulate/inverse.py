"""Dipoles told from sensors by minimum norm, on the lead field of a known sphere.

Axis letters: C sensors, K components of dipoles.
"""

import numpy as np
from jaxtyping import Float

DEPTH = 0.8  # as is usual for free directions
SNR = 3.0  # of amplitudes, as is usual for averages


def grid(
    radius: float, spacing: float = 0.02
) -> tuple[Float[np.ndarray, "K 3"], Float[np.ndarray, "K 3"]]:
    """Places in the upper brain and axes: x, y and z at every place, place by place.

    Args:
      radius: of the head in m; places move with it.
      spacing: in m, of a head of 90 mm.
    """
    steps = np.arange(-4, 5) * spacing / 0.09
    places = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), -1)
    places = places.reshape(-1, 3)
    depth = np.linalg.norm(places, axis=1)
    inside = (depth > 0.3) & (depth < 0.82) & (places[:, 2] > -0.25)
    places = radius * places[inside]
    return np.repeat(places, 3, axis=0), np.tile(np.eye(3), (len(places), 1))


def minimum_norm(
    gain: Float[np.ndarray, "C K"], noise: Float[np.ndarray, " C"]
) -> Float[np.ndarray, "K C"]:
    """The map from sensors to moments; K comes in threes, one dipole each.

    Whitened by the sensors' noise, with sources of equal prior power but for the depth
    weighting, scaled such that the whitened signal has an SNR of `SNR` squared
    (Hämäläinen and Ilmoniemi, Med. Biol. Eng. Comput. 1994; Lin et al., NeuroImage
    2006).

    Args:
      gain: in V, T or T/m per A m.
      noise: standard deviation of each sensor's own noise.
    """
    white = gain / noise[:, None]
    power = np.square(white).reshape(len(gain), -1, 3).sum((0, 2))
    prior = np.repeat(power**-DEPTH, 3)
    seen = (white * prior) @ white.T
    seen_power = np.trace(seen) / len(gain)
    among = seen + seen_power / SNR**2 * np.eye(len(gain))
    return (prior[:, None] * white.T) @ np.linalg.inv(among) / noise
