"""Magnetic fields of dipoles in a spherical conductor, and what coils measure of them.

Outside a sphere the field does not depend on its conductivity (Sarvas, "Basic
mathematical and electromagnetic concepts of the biomagnetic inverse problem", Phys.
Med. Biol. 1987, equation 25).

Axis letters: C coils, K points of a coil, M points in space, P dipoles.
"""

from typing import Literal

import numpy as np
from jaxtyping import Float

MU0_4PI = 1e-7  # T m/A
Coil = Literal["mag", "grad"]

# Pick-up loops of a Neuromag sensor: a magnetometer is a square of 21 mm; a planar
# gradiometer two loops, 16.8 mm apart, whose difference is divided by that distance.
_MAG_SIDE = 0.021
_GRAD_BASE, _GRAD_WIDTH, _GRAD_LENGTH = 0.0168, 0.0085, 0.0232
_NODES = np.array([-1.0, 1.0]) / np.sqrt(3) / 2  # Gauss-Legendre, on a side of 1


def field(
    places: Float[np.ndarray, "M 3"], dipoles: Float[np.ndarray, "P 3"]
) -> Float[np.ndarray, "M P 3 3"]:
    """Tesla at each place (third axis: xyz) for each component of each dipole's moment.

    Args:
      places: positions outside the head in m, its centre at zero.
      dipoles: positions in m, nearer to the centre.
    """
    r, r0 = places[:, None], dipoles[None]
    a = r - r0
    far, dist = np.linalg.norm(r, axis=-1), np.linalg.norm(a, axis=-1)  # [M 1], [M P]
    along = (a * r).sum(-1)
    f = dist * (far * dist + far**2 - (r0 * r).sum(-1))
    grad = (dist**2 / far + along / dist + 2 * dist + 2 * far)[..., None] * r
    grad = grad - (dist + 2 * far + along / dist)[..., None] * r0
    # (q x r0) . v is q . (r0 x v): both terms are linear in q.
    swirl = np.cross(np.eye(3), r0[:, :, None])  # q x r0 for q = x, y, z: [1 P 3 3]
    turned = np.cross(r0, r)  # [M P 3]
    b = f[..., None, None] * swirl.swapaxes(-1, -2)
    b = b - grad[..., :, None] * turned[..., None, :]
    return MU0_4PI * b / f[..., None, None] ** 2


def measured(
    centres: Float[np.ndarray, "C 3"],
    frames: Float[np.ndarray, "C 3 3"],
    dipoles: Float[np.ndarray, "P 3"],
    coil: Coil,
) -> Float[np.ndarray, "C P 3"]:
    """What coils of one kind measure for each component of each dipole's moment.

    In T/(A m) for `mag`, and T/(A m²) for `grad`, the slope along the coil's x axis.

    Args:
      centres: of the coils in m, the head's centre at zero.
      frames: rows are a coil's x and y axes, in its plane, and its normal.
      dipoles: positions in m.
    """
    local, weights = _points(coil)
    places = centres[:, None] + np.einsum("kx,cxj->ckj", local, frames)
    b = field(places.reshape(-1, 3), dipoles)
    b = b.reshape(len(centres), len(local), len(dipoles), 3, 3)
    return np.einsum("k,cj,ckpjq->cpq", weights, frames[:, 2], b)


def _points(coil: Coil) -> tuple[Float[np.ndarray, "K 3"], Float[np.ndarray, " K"]]:
    """Points over the loops of a coil in its own axes, and their weights."""
    x, y = (side.ravel() for side in np.meshgrid(_NODES, _NODES))
    flat = np.zeros(len(x))
    if coil == "mag":
        return np.stack([_MAG_SIDE * x, _MAG_SIDE * y, flat], 1), np.full(len(x), 0.25)
    loops = [
        np.stack([_GRAD_WIDTH * x + side, _GRAD_LENGTH * y, flat], 1)
        for side in (_GRAD_BASE / 2, -_GRAD_BASE / 2)
    ]
    weights = np.repeat([1.0, -1.0], len(x)) / (len(x) * _GRAD_BASE)
    return np.concatenate(loops), weights
