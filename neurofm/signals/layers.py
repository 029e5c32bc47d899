"""Which hidden states of a frozen model become features, and how they are averaged."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from jaxtyping import Float

from neurofm.errors import NeuroFMError

Aggregation = Literal["group_mean", "none"]


def selected(n_states: int, fractions: Sequence[float]) -> list[int]:
    """Indices of hidden states at fractions of the depth: `floor(f (n - 1))`, unique.

    Raises:
      NeuroFMError: a fraction outside 0 to 1, or none.
    """
    if not fractions or min(fractions) < 0 or max(fractions) > 1:
        raise NeuroFMError(
            f"layers are fractions of a model's depth between 0 and 1, not {fractions}"
        )
    return sorted({int(f * (n_states - 1)) for f in fractions})


def groups(
    n_states: int, fractions: Sequence[float], aggregation: Aggregation
) -> list[range]:
    """The hidden states behind each feature layer.

    `group_mean`: neighbouring selected indices bound groups, the last index belongs to
    the last group; `none`: the selected states alone (TRIBE, arXiv 2507.22229, and its
    released code).

    Raises:
      NeuroFMError: see `selected`; a single state bounds no group.
    """
    at = selected(n_states, fractions)
    if aggregation == "none":
        return [range(i, i + 1) for i in at]
    if len(at) < 2:
        raise NeuroFMError(
            f"layers {list(fractions)} of {n_states} hidden states give the one state "
            f"{at[0]}, which bounds no group: give two fractions or more, or no "
            "aggregation"
        )
    ends = [*at[1:-1], at[-1] + 1]
    return [range(a, b) for a, b in zip(at[:-1], ends, strict=True)]


def aggregated(
    states: Float[np.ndarray, "N ..."],
    fractions: Sequence[float] = (0.5, 0.75, 1.0),
    aggregation: Aggregation = "group_mean",
) -> Float[np.ndarray, "L ..."]:
    """Feature layers of all hidden states (embedding first): one mean for each group.

    Raises:
      NeuroFMError: see `groups`.
    """
    parts = groups(len(states), fractions, aggregation)
    means = [states[p.start : p.stop].mean(0, dtype=np.float64) for p in parts]
    return np.stack(means).astype(states.dtype)


def of_states(
    states: Float[np.ndarray, "N ..."],
    fractions: Sequence[float],
    aggregation: Aggregation,
) -> Float[np.ndarray, "L ..."]:
    """The same, where fractions that name a single state mean that one alone.

    Raises:
      NeuroFMError: see `selected`.
    """
    one = len(selected(len(states), fractions)) == 1
    return aggregated(states, fractions, "none" if one else aggregation)
