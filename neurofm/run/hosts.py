"""What the processes of a run tell each other of their devices and their pace."""

import jax
import numpy as np
from jax.experimental import multihost_utils

Row = dict[str, float]
GIB = 2**30


def of_all_processes(row: Row) -> Row:
    """Device memory and skew; every process calls it at the same logged steps.

    Args:
      row: this process's `time/step_s` and `time/data_wait`, where it has them yet.

    Returns:
      memory/peak_gib, of the fullest device, where the platform tells it; and with
      several processes time/skew_s, by how many seconds a step they differ in their
      steps or in their wait for data, whichever is more, and time/skew_process, which
      of them waits longest.
    """
    step_s = row.get("time/step_s", 0.0)
    mine = np.array([peak_gib(), step_s, step_s * row.get("time/data_wait", 0.0)])
    each = mine[None]
    if jax.process_count() > 1:
        each = multihost_utils.process_allgather(mine)
    return shared(np.asarray(each, float))


def shared(each: np.ndarray) -> Row:
    """`[process, (peak_gib, step_s, wait_s)]` in the words of a row."""
    peak = float(each[:, 0].max())
    told = {"memory/peak_gib": peak} if peak else {}
    if len(each) > 1:
        told["time/skew_s"] = float(np.ptp(each[:, 1:], axis=0).max())
        told["time/skew_process"] = int(each[:, 2].argmax())
    return told


def peak_gib() -> float:
    """Most memory that a device of this process has held; 0 where it is not told."""
    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    return max(s.get("peak_bytes_in_use", 0) for s in stats) / GIB
