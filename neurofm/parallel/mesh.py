"""The one place where a device mesh is made.

Axes, outermost first: `replica` (whole copies, one a slice or pod), `data` (the batch),
`fsdp` (the batch and the parameters), `tensor` (heads and MLP width).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import jax
from jax.experimental import mesh_utils
from jax.sharding import AbstractMesh, AxisType, Mesh

from neurofm.errors import NeuroFMError

if TYPE_CHECKING:
    from neurofm import config

AXES = ("replica", "data", "fsdp", "tensor")
BATCH_AXES = ("replica", "data", "fsdp")
Platform = Literal["cpu", "gpu", "tpu"]


def make(sizes: config.Mesh, devices: Sequence[Any] | None = None) -> Mesh:
    """The mesh over all devices (of all processes), or over `devices`.

    Where the devices are several TPU slices, `replica` goes over them, so that only
    gradients cross the slow network between slices.

    Args:
      sizes: fields `replica, data, fsdp, tensor`. A `replica` of -1 is one a slice; of
        the others one may be -1, the rest.
      devices: what to lay out; default `jax.devices()`.

    Raises:
      NeuroFMError: sizes whose product is not the number of devices, or that split a
        slice's devices over another axis than `replica`.
    """
    devices = jax.devices() if devices is None else list(devices)
    n_slices = 1
    if devices[0].platform == "tpu":
        n_slices = len({getattr(device, "slice_index", 0) for device in devices})
    shape = shape_of(sizes, len(devices), n_slices)
    # Explicit axes are jax's default and turn Linen's constraints into assertions.
    types = (AxisType.Auto,) * len(AXES)
    if n_slices == 1:
        return jax.make_mesh(shape, AXES, axis_types=types, devices=devices)
    within = (shape[0] // n_slices, *shape[1:])
    across = (n_slices, *(1 for _ in shape[1:]))
    laid_out = mesh_utils.create_hybrid_device_mesh(within, across, devices)
    return Mesh(laid_out, AXES, axis_types=types)


def abstract(sizes: config.Mesh, n_devices: int, n_slices: int = 1) -> AbstractMesh:
    """The shape of the mesh `make` would make of so many devices that are not there."""
    types = (AxisType.Auto,) * len(AXES)
    return AbstractMesh(shape_of(sizes, n_devices, n_slices), AXES, axis_types=types)


def shape_of(
    sizes: config.Mesh, n_devices: int, n_slices: int = 1
) -> tuple[int, int, int, int]:
    """Sizes of the axes, in the order of `AXES`, on `n_devices`; raises as `make`."""
    asked = {axis: getattr(sizes, axis) for axis in AXES}
    if asked["replica"] == -1:
        asked["replica"] = n_slices
    given = ", ".join(f"mesh.{axis}={size}" for axis, size in asked.items())
    if asked["replica"] % n_slices:
        raise NeuroFMError(
            f"{given} does not go over {n_slices} slices: give mesh.replica as a "
            "multiple of that, or -1"
        )
    free = [axis for axis, size in asked.items() if size == -1]
    if len(free) > 1 or any(size < 1 and size != -1 for size in asked.values()):
        raise NeuroFMError(
            f"{given} is no mesh: give sizes of 1 or more, and -1 (the rest) to at "
            "most one axis"
        )
    fixed = math.prod(size for size in asked.values() if size != -1)
    if n_devices % fixed or (not free and fixed != n_devices):
        need = f"a multiple of {fixed}" if free else f"{fixed}"
        raise NeuroFMError(
            f"{given} asks for {need} devices but there are {n_devices}: give sizes "
            f"whose product is {n_devices}, or -1 (the rest) to one axis"
        )
    asked |= dict.fromkeys(free, n_devices // fixed)
    return asked["replica"], asked["data"], asked["fsdp"], asked["tensor"]


def check_batch(
    mesh: Mesh | AbstractMesh, batch_size: int, accumulate: int = 1
) -> None:
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


def platform() -> Platform:
    """The platform that the program being traced is for.

    It is that of the devices of the enclosing `jax.set_mesh`, which need not be
    attached (a TPU's program is compiled in a process that has only a CPU); outside of
    one it is jax's default. Tracing is keyed by it: the same function is traced anew
    for another platform.
    """
    device = jax.sharding.get_abstract_mesh().abstract_device
    name = device.platform if device else jax.default_backend()
    return "gpu" if name in ("cuda", "rocm") else name  # pyright: ignore
