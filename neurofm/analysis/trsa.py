"""Topological RSA: RDMs reduced to what is near and far (Lin & Kriegeskorte, 2024).

The released code reads an edge of weight 0 as no edge and looks for near neighbours
from one end of a pair only; `released` options repeat it.

Axes: D pairs of N stimuli (see `rdm`), M subjects times regions.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from neurofm.analysis.rdm import square, upper
from neurofm.analysis.rsa import resampled
from neurofm.errors import NeuroFMError

LOW, HIGH = 0.2, 0.8
ROUNDED = 9  # decimals of path lengths: equal sums in another order are equal


def scaled_ranks(d: Float[np.ndarray, "*B D"]) -> Float[np.ndarray, "*B D"]:
    """Average ranks, brought to [0, 1]; 0 where all are equal."""
    from scipy.stats import rankdata

    return _min_max(rankdata(d, axis=-1))


def geo_topological(
    d: Float[np.ndarray, "*B D"],
    low: float = LOW,
    high: float = HIGH,
    released: bool = False,
) -> Float[np.ndarray, "*B D"]:
    """Scaled ranks, 0 below one quantile and 1 above another, straight between (RGTM).

    0 and 1 are the geometry, equal quantiles the topology: 1 above, 0 at or below.

    Args:
      released: at equal quantiles, an entry at the quantile is NaN.

    Raises:
      NeuroFMError: not 0 <= low <= high <= 1.
    """
    if not 0 <= low <= high <= 1:
        raise NeuroFMError(
            f"quantiles {low:g} and {high:g} were given: give the lower one first, "
            "both from 0 to 1"
        )
    r = scaled_ranks(d)
    below, above = np.quantile(r, [low, high], axis=-1, keepdims=True)
    width = above - below
    with np.errstate(invalid="ignore"):
        between = (r - below) / np.where(width > 0, width, np.nan)
    if not released:
        between = np.nan_to_num(between)  # an entry at both quantiles is near
    return np.where(r < below, 0, np.where(r > above, 1, between))


def sigmoid(
    d: Float[np.ndarray, "*B D"], alpha: float = 10.0, beta: float = 0.5
) -> Float[np.ndarray, "*B D"]:
    """Scaled ranks through 1 / (1 + exp(-alpha (r - beta)))."""
    return 1 / (1 + np.exp(-alpha * (scaled_ranks(d) - beta)))


def geodesic(
    d: Float[np.ndarray, " D"], p: float = 0.05, released: bool = False
) -> Float[np.ndarray, " D"]:
    """Shortest paths over the share `p` of nearest pairs; infinite where there is none.

    Args:
      released: the nearest pair, of weight 0, is no edge.
    """
    r = scaled_ranks(d)
    return _paths(r, r <= np.quantile(r, p), released)


def geodesic_of_nearest(
    d: Float[np.ndarray, " D"], k: int, released: bool = False
) -> Float[np.ndarray, " D"]:
    """Shortest paths over the pairs of which one is among the other's k nearest.

    Args:
      released: only the lower-numbered stimulus of a pair lists the other, and pairs of
        weight 0 are no edge and not counted.
    """
    r = scaled_ranks(d)
    weight = square(r)
    listed = np.where(np.eye(len(weight), dtype=bool), np.inf, weight)
    if released:
        listed = np.where(listed == 0, np.inf, listed)
    near = np.argsort(listed, axis=1, kind="stable")[:, :k]
    lists = np.zeros(weight.shape, bool)
    np.put_along_axis(lists, near, True, 1)
    return _paths(r, upper(lists if released else lists | lists.T), released)


def geodesic_of_topology(
    d: Float[np.ndarray, " D"],
    low: float = LOW,
    high: float = HIGH,
    released: bool = False,
) -> Float[np.ndarray, " D"]:
    """Shortest paths over the RGTM less its far pairs.

    Args:
      released: pairs below the lower quantile, of weight 0, are no edges.
    """
    r = _min_max(geo_topological(d, low, high))
    return _paths(r, r < 1, released)


def ranked_paths(lengths: Float[np.ndarray, "*B D"]) -> Float[np.ndarray, "*B D"]:
    """Average ranks of path lengths; pairs without a path share the highest rank."""
    from scipy.stats import rankdata

    return rankdata(np.round(lengths, ROUNDED), axis=-1)


def finite_paths(lengths: Float[np.ndarray, "*B D"]) -> Float[np.ndarray, "*B D"]:
    """Path lengths with the longest finite one in place of infinity."""
    finite = np.where(np.isfinite(lengths), lengths, -np.inf)
    return np.where(np.isfinite(lengths), lengths, finite.max(-1, keepdims=True))


def identified(
    rdms: Float[np.ndarray, "M D"],
    subject: Shaped[np.ndarray, " M"],
    region: Shaped[np.ndarray, " M"],
) -> Shaped[np.ndarray, " M"]:
    """The region whose mean over other subjects is nearest to each (transformed) RDM.

    Raises:
      NeuroFMError: a subject whose regions no other subject has.
    """
    names = np.unique(region)
    out = np.empty(len(region), region.dtype)
    for who in np.unique(subject):
        mine, known = subject == who, []
        means = []
        for name in names:
            others = rdms[~mine & (region == name)]
            if len(others):
                known.append(name)
                means.append(others.mean(0))
        if not known:
            raise NeuroFMError(
                f"no subject but {who} has a region: identify among two subjects"
            )
        far = np.linalg.norm(rdms[mine][:, None] - np.stack(means), axis=-1)
        out[mine] = np.array(known)[far.argmin(1)]
    return out


def bootstrap(
    rdms: Float[np.ndarray, "M D"],
    subject: Shaped[np.ndarray, " M"],
    region: Shaped[np.ndarray, " M"],
    draws: Sequence[tuple[Int[np.ndarray, " M"], Int[np.ndarray, " N"]]],
    low: float = LOW,
    high: float = HIGH,
    released: bool = False,
) -> Float[np.ndarray, " R"]:
    """Accuracy of `identified` for draws of rows and of stimuli.

    All copies of a subject are held out together.

    Args:
      rdms: before the transform.
      draws: rows, see `drawn_subjects`, and stimuli, with replacement.
      released: RGTM before the draw, not after it; the rows that were drawn were not
        whole subjects.
    """
    if released:
        rdms = geo_topological(rdms, low, high)
    out = []
    for rows, stimuli in draws:
        drawn = resampled(rdms[rows], stimuli)
        if not released:
            drawn = geo_topological(drawn, low, high)
        found = identified(drawn, subject[rows], region[rows])
        out.append(np.mean(found == region[rows]))
    return np.array(out)


def drawn_subjects(
    subject: Shaped[np.ndarray, " M"], rng: np.random.Generator
) -> Int[np.ndarray, " _"]:
    """Rows of as many subjects as there are, drawn with replacement, all regions."""
    names = np.unique(subject)
    drawn = rng.choice(names, len(names))
    return np.concatenate([np.flatnonzero(subject == name) for name in drawn])


def _paths(
    weight: Float[np.ndarray, " D"], kept: Bool[np.ndarray, " D"], released: bool
) -> Float[np.ndarray, " D"]:
    """All-pairs shortest paths (Floyd and Warshall); edges of weight 0 are edges."""
    if released:
        kept = kept & (weight > 0)
    d = square(np.where(kept, weight, np.inf))
    for via in range(len(d)):
        d = np.minimum(d, d[:, via, None] + d[via])
    return upper(d)


def _min_max(x):
    low = x.min(-1, keepdims=True)
    width = x.max(-1, keepdims=True) - low
    return (x - low) / np.where(width > 0, width, 1)
