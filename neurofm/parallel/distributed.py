"""Start-up of one process among many, and the little they tell each other."""

import logging
import os
import threading
import time
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Int

from neurofm.errors import NeuroFMError
from neurofm.parallel.detect import LAUNCHERS, Group, detect

log = logging.getLogger(__name__)

PATIENCE_S = 300  # for the other processes to come; queues start hosts minutes apart
_started_by = "alone"


def initialise(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    devices: int | None = None,
    meanwhile: Callable[[], None] = lambda: None,
) -> None:
    """Join the other processes, and simulate `devices` CPU devices in this one.

    Call it once, before anything asks jax for a device. Without arguments the launcher
    is found by `detect`; one process alone needs none. CPU processes talk over gloo.

    Args:
      coordinator: `host:port` of process 0.
      num_processes: how many processes there are; 1, given alone, asks no launcher.
      process_id: this one's number, from 0.
      devices: devices to simulate here on the CPU; None takes what the machine has.
      meanwhile: called again and again while the others are waited for; what it raises
        ends that.

    Raises:
      NeuroFMError: incomplete or impossible arguments, jax already at work, or others
        that did not come within `PATIENCE_S`.
    """
    given = {
        "--coordinator": coordinator,
        "--num-processes": num_processes,
        "--process-id": process_id,
    }
    missing = [name for name, value in given.items() if value is None]
    alone = num_processes == 1 and len(missing) == 2
    if 0 < len(missing) < len(given) and not alone:
        raise NeuroFMError(
            f"several processes need all of {', '.join(given)}; "
            f"{' and '.join(missing)} not given"
        )
    if devices is not None:
        _simulate(devices)
    if alone:
        return
    if coordinator is not None and num_processes is not None and process_id is not None:
        if not 0 <= process_id < num_processes:
            raise NeuroFMError(
                f"--process-id {process_id} is not one of 0 to {num_processes - 1} "
                f"(--num-processes {num_processes})"
            )
        if not coordinator.rpartition(":")[2].isdigit():
            raise NeuroFMError(
                f"--coordinator {coordinator!r} has no port: give host:port of process "
                "0"
            )
        group = Group("flags", num_processes)
    else:
        kubernetes = find_spec("kubernetes") is not None
        group = detect(os.environ, _may_use_tpu(), kubernetes)
        if group.note:
            log.warning(group.note)
        if group.by == "alone":
            return
    _join(group, coordinator, process_id, meanwhile)


def _join(
    group: Group,
    coordinator: str | None,
    process_id: int | None,
    meanwhile: Callable[[], None],
) -> None:
    global _started_by
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    # Its notifier would take SIGTERM for itself; a run has its own (run/stop.py).
    jax.config.update("jax_enable_preemption_service", False)
    faults: list[Exception] = []

    def meet() -> None:
        try:
            jax.distributed.initialize(
                coordinator,
                group.num_processes,
                process_id,
                list(group.gpus) if isinstance(group.gpus, tuple) else None,
                cluster_detection_method="deactivate" if coordinator else group.by,
                initialization_timeout=2 * PATIENCE_S,
            )
        except Exception as fault:  # of sockets, of the metadata server, of jax
            faults.append(fault)

    # Waiting for others, jax hears no Ctrl-C and in the end aborts; so it waits aside.
    waiting = threading.Thread(target=meet, daemon=True)
    waiting.start()
    until = time.monotonic() + PATIENCE_S
    while waiting.is_alive() and time.monotonic() < until:
        waiting.join(0.1)
        meanwhile()
    if waiting.is_alive() or faults:
        why = str(faults[0]).partition("\n")[0][:300] if faults else "some never came"
        raise NeuroFMError(
            f"this is one of {group.num_processes or 'several'} processes by "
            f"{LAUNCHERS.get(group.by, '--coordinator')}, but they did not meet "
            f"({why}): start all within {PATIENCE_S} s of each other, with the same "
            "command, or give --num-processes 1 to run alone"
        )
    if group.gpus == "all":  # jax has chosen one
        jax.config.update("jax_cuda_visible_devices", "all")
    _started_by = group.by


def _may_use_tpu() -> bool:
    platforms = jax.config.jax_platforms  # pyright: ignore[reportAttributeAccessIssue]
    return "tpu" in (platforms or "tpu") and find_spec("libtpu") is not None


def started() -> dict[str, Any]:
    """How this process was started: by what (or "alone"), and what it has."""
    return {
        "by": _started_by,
        "processes": jax.process_count(),
        "process": jax.process_index(),
        "devices": jax.device_count(),
        "local_devices": jax.local_device_count(),
    }


def sentence() -> str:
    """The same in words."""
    return (
        "started {by}: process {process} of {processes}, with {local_devices} of "
        "{devices} devices".format(**started())
    )


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
    # A collective holds a thread of XLA's pool until all of its devices are there. On
    # few cores the pool has one a device, and two collectives that do not depend on
    # each other can then wait for ever; NPROC is what XLA takes for the cores.
    os.environ.setdefault("NPROC", str(4 * devices))
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
