"""Start-up of one process among many, and the little they tell each other."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Int

from neurofm.errors import NeuroFMError


def initialise(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    devices: int | None = None,
) -> None:
    """Join the other processes, and simulate `devices` CPU devices in this one.

    Call it once, before anything asks jax for a device. CPU processes talk over gloo.

    Args:
      coordinator: `host:port` of process 0; None runs alone.
      num_processes: how many processes there are.
      process_id: this one's number, from 0.
      devices: devices to simulate here on the CPU; None takes what the machine has.

    Raises:
      NeuroFMError: incomplete or impossible arguments, or jax already at work.
    """
    group = {
        "--coordinator": coordinator,
        "--num-processes": num_processes,
        "--process-id": process_id,
    }
    missing = [name for name, value in group.items() if value is None]
    if 0 < len(missing) < len(group):
        raise NeuroFMError(
            f"several processes need all of {', '.join(group)}; "
            f"{' and '.join(missing)} not given"
        )
    if devices is not None:
        _simulate(devices)
    if coordinator is None or num_processes is None or process_id is None:
        return
    if not 0 <= process_id < num_processes:
        raise NeuroFMError(
            f"--process-id {process_id} is not one of 0 to {num_processes - 1} "
            f"(--num-processes {num_processes})"
        )
    if not coordinator.rpartition(":")[2].isdigit():
        raise NeuroFMError(
            f"--coordinator {coordinator!r} has no port: give host:port of process 0"
        )
    # Its notifier would take SIGTERM for itself; a run has its own (run/stop.py).
    jax.config.update("jax_enable_preemption_service", False)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(coordinator, num_processes, process_id)


def _simulate(devices: int) -> None:
    if devices < 1:
        raise NeuroFMError(f"--devices {devices}: give 1 or more")
    try:
        jax.config.update("jax_num_cpu_devices", devices)
    except RuntimeError as error:
        raise NeuroFMError(
            f"{devices} devices cannot be simulated once jax is at work: start a new "
            "process and ask first"
        ) from error
    jax.config.update("jax_platforms", "cpu")


def rows_of_this_process(
    sharding: NamedSharding, batch_size: int
) -> Int[np.ndarray, " b"]:
    """Global row numbers, ascending, that the devices of this process hold."""
    held = np.zeros(batch_size, bool)
    for index in sharding.addressable_devices_indices_map((batch_size,)).values():
        held[index] = True
    return np.flatnonzero(held)


def agreement(mesh: Mesh) -> Callable[[bool], bool]:
    """A function that tells whether any process has raised its flag.

    Every process calls it once a step. Alone, it returns the flag. Among several it
    returns what the call before it gathered: the answer is the same everywhere and one
    step late, and no process waits for the step that is still running.
    """
    if jax.process_count() == 1:
        return bool
    spread = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
    anyone = jax.jit(jnp.any, out_shardings=NamedSharding(mesh, PartitionSpec()))
    gathered: list[jax.Array] = []

    def agree(flag: bool) -> bool:
        mine = jax.make_array_from_callback(
            (mesh.size,), spread, lambda _: np.full(1, flag)
        )
        gathered.append(anyone(mine))
        return len(gathered) > 1 and bool(gathered.pop(0))

    return agree
