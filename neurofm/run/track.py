"""Mirrors of `metrics.jsonl` in TensorBoard and Weights & Biases, when asked for.

Their packages come with the extra `track` and are imported only here.
"""

import math
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from typing import Any, Literal

from neurofm import files
from neurofm.errors import NeuroFMError
from neurofm.stores import Place

Tracker = Literal["tensorboard", "wandb"]
Mirror = Callable[[dict[str, Any]], None]  # takes a row of metrics.jsonl

PACKAGES: dict[Tracker, str] = {"tensorboard": "tensorboardX", "wandb": "wandb"}
WANDB_ID = "wandb_id.txt"


def require(trackers: Sequence[Tracker]) -> None:
    """Refuse trackers whose package is not installed.

    Raises:
      NeuroFMError: naming the package and the extra.
    """
    for name in trackers:
        if find_spec(PACKAGES[name]) is None:
            raise NeuroFMError(
                f"train.track names {name}, but {PACKAGES[name]} is not installed: "
                "pip install 'neurofm[track]', or set train.track=[]"
            )


@contextmanager
def mirrors(
    trackers: Sequence[Tracker], workdir: Place, config: dict[str, Any], step: int
) -> Iterator[list[Mirror]]:
    """Functions to call with every row, one a tracker; closed in the end.

    Args:
      trackers: names; their local files lie in `workdir`.
      workdir: of the run.
      config: the experiment, shown beside the curves.
      step: that the run goes on from; what TensorBoard has of later ones is hidden, as
        `metrics.jsonl` is cut back, while W&B shows the later values over them.
    """
    make = {"tensorboard": _tensorboard, "wandb": _wandb}
    with ExitStack() as stack:
        yield [
            stack.enter_context(make[name](workdir, config, step))
            for name in dict.fromkeys(trackers)
        ]


@contextmanager
def _tensorboard(workdir: Place, config: dict[str, Any], step: int) -> Iterator[Mirror]:
    from tensorboardX import SummaryWriter  # pyright: ignore[reportMissingImports]

    del config

    def write(row: dict[str, Any]) -> None:
        for name, value in row.items():
            if name != "step":
                writer.add_scalar(name, float(value), int(row["step"]))
        writer.flush()

    # At its start a run evaluates step 0 again, so nothing of before may stay.
    purge = step + 1 if step else 0
    with SummaryWriter(str(workdir / "tensorboard"), purge_step=purge) as writer:
        yield write


@contextmanager
def _wandb(workdir: Place, config: dict[str, Any], step: int) -> Iterator[Mirror]:
    import wandb  # pyright: ignore[reportMissingImports]

    del step
    named = workdir / WANDB_ID
    if not named.exists():
        files.write_text(named, secrets.token_hex(4))

    def write(row: dict[str, Any]) -> None:
        numbers = {name: float(value) for name, value in row.items()}
        run.log({k: v for k, v in numbers.items() if math.isfinite(v)})

    with wandb.init(
        project="neurofm",
        id=named.read_text().strip(),
        resume="allow",
        dir=str(workdir),
        config=config,
    ) as run:
        run.define_metric("step")
        run.define_metric("*", step_metric="step")
        yield write
