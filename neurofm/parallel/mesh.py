"""The one place where a device mesh is made.

Axes, outermost first: `replica` (whole copies, one a slice or pod), `data` (the batch),
`fsdp` (the batch and the parameters), `tensor` (heads and MLP width).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import jax
from jax.sharding import AxisType, Mesh

from neurofm.errors import NeuroFMError

if TYPE_CHECKING:
    from neurofm import config

AXES = ("replica", "data", "fsdp", "tensor")
BATCH_AXES = ("replica", "data", "fsdp")


def make(sizes: config.Mesh, devices: Sequence[Any] | None = None) -> Mesh:
    """The mesh over all devices (of all processes), or over `devices`.

    Args:
      sizes: fields `replica, data, fsdp, tensor`; one of them may be -1, the rest.
      devices: what to lay out; default `jax.devices()`.

    Raises:
      NeuroFMError: sizes whose product is not the number of devices.
    """
    devices = jax.devices() if devices is None else list(devices)
    shape = _resolve({axis: getattr(sizes, axis) for axis in AXES}, len(devices))
    # Explicit axes are jax's default and turn Linen's constraints into assertions.
    types = (AxisType.Auto,) * len(AXES)
    return jax.make_mesh(shape, AXES, axis_types=types, devices=devices)


def _resolve(sizes: dict[str, int], n_devices: int) -> tuple[int, ...]:
    given = ", ".join(f"mesh.{axis}={size}" for axis, size in sizes.items())
    free = [axis for axis, size in sizes.items() if size == -1]
    if len(free) > 1 or any(size < 1 and size != -1 for size in sizes.values()):
        raise NeuroFMError(
            f"{given} is no mesh: give sizes of 1 or more, and -1 (the rest) to at "
            "most one axis"
        )
    fixed = math.prod(size for size in sizes.values() if size != -1)
    if n_devices % fixed or (not free and fixed != n_devices):
        need = f"a multiple of {fixed}" if free else f"{fixed}"
        raise NeuroFMError(
            f"{given} asks for {need} devices but there are {n_devices}: give sizes "
            f"whose product is {n_devices}, or -1 (the rest) to one axis"
        )
    sizes = sizes | dict.fromkeys(free, n_devices // fixed)
    return tuple(sizes.values())


def check_batch(mesh: Mesh, batch_size: int, accumulate: int = 1) -> None:
    """Refuse a batch that does not split evenly over devices and microbatches."""
    shards = math.prod(mesh.shape[axis] for axis in BATCH_AXES)
    if batch_size % (shards * accumulate):
        unit = shards * accumulate
        below, above = batch_size // unit * unit, -(-batch_size // unit) * unit
        near = f"{below} or {above}" if below else f"{above}"
        raise NeuroFMError(
            f"train.batch_size={batch_size} does not split over {shards} batch shards "
            f"x {accumulate} microbatches: use {near}"
        )
