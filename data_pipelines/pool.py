"""Run independent jobs in processes, yielding each as it is done."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import TypeVar

from neurofm.errors import NeuroFMError

Job = TypeVar("Job")
Result = TypeVar("Result")


def n_cores() -> int:
    """Cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)  # not on every system
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def run_in_processes(
    work: Callable[[Job], Result], jobs: Sequence[Job], workers: int
) -> Iterator[tuple[Job, Result]]:
    """Yield (job, work(job)) in the order of completion; any error ends all at once.

    Args:
      work: a function at the top of a module.
      jobs: what to call it with; both are sent by pickle.
      workers: processes; one, or one job, runs here.
    """
    if workers < 1:
        raise NeuroFMError(f"workers is {workers}; expected at least 1")
    workers = min(workers, len(jobs))
    if workers <= 1:
        yield from ((job, work(job)) for job in jobs)
        return
    # Spawned: forking a process that holds jax or other threads may hang.
    context = multiprocessing.get_context("spawn")
    others = set(multiprocessing.active_children())
    with ProcessPoolExecutor(workers, context, initializer=_follow_parent) as pool:
        pending = {pool.submit(work, job): job for job in jobs}
        try:
            for future in as_completed(pending):
                yield pending[future], future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in set(multiprocessing.active_children()) - others:
                process.terminate()
            raise


def _follow_parent() -> None:
    """End at once, and without a word, on Ctrl-C or when the parent is gone."""
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
