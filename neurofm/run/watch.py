"""What stops a run by itself: not finite numbers, collapse, and nothing to gain."""

import math
from dataclasses import dataclass

from neurofm.errors import NeuroFMError

PATIENCE = 3  # logged steps in a row; the variance of one small batch is noisy


def check_finite(step: int, metrics: dict[str, float]) -> None:
    """Raise when the loss or a gradient of `step` is not finite, naming the group.

    Raises:
      NeuroFMError: with the step, the loss and the parameter groups at fault.
    """
    prefix = "optim/grad_norm/"
    groups = [
        name.removeprefix(prefix)
        for name, value in metrics.items()
        if name.startswith(prefix) and not math.isfinite(value)
    ]
    loss = metrics["train/loss"]
    if math.isfinite(loss) and not groups:
        return
    where = f"gradients of {', '.join(groups)}" if groups else "no gradient"
    raise NeuroFMError(
        f"step {step}: the loss is {loss} and {where} not finite, so the run stopped "
        "before saving it; lower optim.lr or look for broken recordings, then go on "
        "from the last checkpoint"
    )


@dataclass(frozen=True)
class CollapseWatch:
    """Follows the variance between items; a falling loss with falling variance lies.

    Attributes:
      share: the run stops under this share of the variance at its start; 0 never.
      start: variance between items at the first logged step.
      below: logged steps in a row under the limit.
    """

    share: float
    start: float | None = None
    below: int = 0

    def seen(self, item_var: float) -> "CollapseWatch":
        """The watch after one more logged step."""
        if self.start is None:
            return CollapseWatch(self.share, item_var, 0)
        low = item_var < self.share * self.start
        return CollapseWatch(self.share, self.start, self.below + 1 if low else 0)

    @property
    def collapsed(self) -> bool:
        """Whether the variance stayed under the limit long enough."""
        return self.below >= PATIENCE

    def sentence(self, step: int, item_var: float) -> str:
        """What to tell the user of a collapsed run."""
        return (
            f"step {step}: the variance between items fell to {item_var:.2e}, under "
            f"{self.share:g} of its start ({self.start:.2e}): the targets have "
            "collapsed, whatever the loss says; lower optim.lr, slow the teacher "
            "(ema_start), or set train.collapse_share=0 to go on"
        )


@dataclass(frozen=True)
class Plateau:
    """Follows a held-out metric, of which more is better.

    Attributes:
      patience: evaluations in a row without a new best after which a run ends; 0 never.
      best: the most so far.
      step: where that was.
      since: evaluations since then.
    """

    patience: int
    best: float | None = None
    step: int = 0
    since: int = 0

    def seen(self, step: int, value: float) -> "Plateau":
        """The watch after one more evaluation; a NaN is no best."""
        if value > (-math.inf if self.best is None else self.best):
            return Plateau(self.patience, value, step, 0)
        return Plateau(self.patience, self.best, self.step, self.since + 1)

    @property
    def reached(self) -> bool:
        """Whether there was nothing new for long enough."""
        return 0 < self.patience <= self.since
