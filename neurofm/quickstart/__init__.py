"""`neurofm quickstart`: the main job of a system on generated data, start to report."""

import importlib
from collections.abc import Callable
from pathlib import Path

from neurofm.errors import NeuroFMError
from neurofm.quickstart.finished import Finished
from neurofm.registry import suggest
from neurofm.run.metrics import Row

SYSTEMS = (
    *("wavjepa", "brainomni", "tribe"),
    *("brain_semantoks", "brainbert", "duin"),
)


def quickstart(
    workdir: Path,
    system: str = "wavjepa",
    seed: int = 0,
    overrides: tuple[str, ...] = (),
    show: Callable[[int, Row], None] = lambda step, row: None,
) -> Finished:
    """Generate, pretrain, probe and report in `workdir`; a finished one is read back.

    Raises:
      NeuroFMError: a system without quickstart, or a workdir of something else.
    """
    return _module(system).quickstart(workdir, seed, overrides, show)


def total_steps(system: str, overrides: tuple[str, ...] = ()) -> int:
    """Training steps of a system's quickstart, over all of its stages."""
    return _module(system).total_steps(overrides)


def _module(system: str):
    if system not in SYSTEMS:
        raise NeuroFMError(
            f"there is no quickstart of {system!r}: {suggest(system, [*SYSTEMS])}"
        )
    return importlib.import_module(f"neurofm.quickstart.{system}")
