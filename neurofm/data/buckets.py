"""A few widths for recordings of any number of channels."""

import numpy as np
from jaxtyping import Int


def widths(
    n_chans: Int[np.ndarray, " n"], weight: Int[np.ndarray, " n"], most: int
) -> tuple[int, ...]:
    """At most `most` widths, ascending, that leave the least padding.

    A recording goes into the narrowest that holds it; padding is counted in channels
    times `weight`.

    Args:
      n_chans: channels of each recording.
      weight: segments of each.
      most: 1 or more.
    """
    sizes, place = np.unique(n_chans, return_inverse=True)
    n = np.zeros(len(sizes), int)
    np.add.at(n, place, weight)
    # best[j]: least padding of the j smallest sizes, and the widths that give it.
    best: list[tuple[int, tuple[int, ...]]] = [(0, ())] + [
        (_padding(sizes[:j], n[:j]), (int(sizes[j - 1]),))
        for j in range(1, len(sizes) + 1)
    ]
    for _ in range(most - 1):
        best = [
            min(
                [whole]
                + [
                    (cost + _padding(sizes[i:j], n[i:j]), (*cut, int(sizes[j - 1])))
                    for i, (cost, cut) in enumerate(best[:j])
                    if i
                ]
            )
            for j, whole in enumerate(best)
        ]
    return best[-1][1]


def _padding(sizes: Int[np.ndarray, " k"], n: Int[np.ndarray, " k"]) -> int:
    return int(((sizes[-1] - sizes) * n).sum())
