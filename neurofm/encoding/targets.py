"""Targets in batches, each laid over the devices.

Every target is fitted alone, so the targets of a batch lie over the devices with no
talk between them, and memory is bounded by the batch, not by the number of targets.
"""

from collections.abc import Iterator

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Shaped


class Devices:
    """Devices of this process, with the two ways in which arrays lie on them."""

    def __init__(self, count: int | None = None, batch: int = 4096):
        """Say where targets are fitted.

        Args:
          count: how many devices of this process; by default all.
          batch: targets at once, over all of them.
        """
        devices = jax.local_devices()[:count]
        mesh = Mesh(np.array(devices), ("targets",), axis_types=(AxisType.Auto,))
        self.first = devices[0]
        self.count, self.batch = len(devices), batch
        self.everywhere = NamedSharding(mesh, PartitionSpec())
        self.by_target = NamedSharding(mesh, PartitionSpec(None, "targets"))

    def batches(
        self, *arrays: Shaped[np.ndarray, "_ V"]
    ) -> Iterator[tuple[slice, list[jax.Array]]]:
        """Columns of `arrays` on the devices, and which columns they are.

        All batches of a call have one width, a power of two or `batch` rounded up to
        the number of devices, so few programs are compiled; columns beyond the last
        target are zero and are the caller's to drop.
        """
        n_targets = arrays[0].shape[1]
        width = min(self.batch, 1 << (n_targets - 1).bit_length())
        width = -(-width // self.count) * self.count
        for start in range(0, n_targets, width):
            part = slice(start, min(start + width, n_targets))
            pad = ((0, 0), (0, width - (part.stop - part.start)))
            yield (
                part,
                [
                    jax.device_put(np.pad(a[:, part], pad), self.by_target)
                    for a in arrays
                ],
            )
