"""Canonical correlation and the similarities made of it: CCA, SVCCA, PWCCA.

Sources: Raghu et al. (arXiv 1706.05806), Morcos et al. (arXiv 1806.05759). Two released
forms differ from the definitions and are named options: `google` (google/svcca) and
`contextual` (contextual-corr-analysis).

Axes: N rows (the same stimuli in the same order), P and Q units, R the lower rank.
"""

from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from neurofm.errors import NeuroFMError

Released = Literal["google", "contextual"]
Side = Literal["smaller", "first", "second", "both"]


class Canonical(NamedTuple):
    """Correlations in falling order, and the orthonormal variates of each view."""

    rho: Float[np.ndarray, " R"]
    first: Float[np.ndarray, "N R"]
    second: Float[np.ndarray, "N R"]


class Directions(NamedTuple):
    """Regularised canonical directions of the columns that were kept.

    `whitened` are those of the first view in its whitened space, `first` and `second`
    in the spaces of the units; `rho` falls.
    """

    rho: Float[np.ndarray, " R"]
    first: Float[np.ndarray, "P2 R"]
    second: Float[np.ndarray, "Q2 R"]
    whitened: Float[np.ndarray, "P2 R"]
    kept: tuple[Bool[np.ndarray, " P"], Bool[np.ndarray, " Q"]]


def basis(x: Float[np.ndarray, "N P"]) -> Float[np.ndarray, "N _"]:
    """Orthonormal columns that span the centred columns of `x`, cut at its rank."""
    u, s, _ = np.linalg.svd(centred(x), full_matrices=False)
    return u[:, s > max(x.shape) * np.finfo(np.float64).eps * s.max(initial=0)]


def canonical(x: Float[np.ndarray, "N P"], y: Float[np.ndarray, "N Q"]) -> Canonical:
    """Canonical correlations of two views, from orthonormal bases.

    Where a view has as many independent units as there are rows less one, every
    correlation is 1 whatever the other holds.

    Raises:
      NeuroFMError: a view is constant.
    """
    return between(basis(x), basis(y))


def between(
    first: Float[np.ndarray, "N _"], second: Float[np.ndarray, "N _"]
) -> Canonical:
    """Canonical correlations of two views given by what `basis` makes of them.

    Raises:
      NeuroFMError: a view is constant.
    """
    if not first.shape[1] or not second.shape[1]:
        raise NeuroFMError(
            "one of the views is the same in all rows, so nothing correlates with it: "
            "leave it out"
        )
    u, rho, vt = np.linalg.svd(first.T @ second, full_matrices=False)
    return Canonical(np.minimum(rho, 1), first @ u, second @ vt.T)


def mean_cca(x: Float[np.ndarray, "N P"], y: Float[np.ndarray, "N Q"]) -> float:
    """Mean canonical correlation."""
    return float(canonical(x, y).rho.mean())


def leading_mean(rho: Float[np.ndarray, " R"], share: float = 0.98) -> float:
    """Mean of the leading correlations that hold a share of their sum, as `google`."""
    held = np.cumsum(rho) / rho.sum()
    return float(rho[: int(np.argmax(held >= share)) + 1].mean())


def directions(
    x: Float[np.ndarray, "N P"],
    y: Float[np.ndarray, "N Q"],
    eps: tuple[float, float],
) -> Directions:
    """Regularised canonical correlation.

    Covariances are divided by their largest entry; units whose variance is then below
    `eps` are left out, and `eps` is added to the diagonal.

    Raises:
      NeuroFMError: no unit of a view varies enough.
    """
    x, y = centred(x), centred(y)
    scales = [np.abs(a.T @ a).max() / (len(a) - 1) for a in (x, y)]
    if not all(scales):
        raise NeuroFMError("one of the views is the same in all rows: leave it out")
    roots, kept, views = [], [], []
    for view, scale, e in zip((x, y), scales, eps, strict=True):
        view = view / np.sqrt(scale * (len(view) - 1))
        keep = np.sum(view**2, 0) >= e
        views.append(view[:, keep])
        kept.append(keep)
        covariance = views[-1].T @ views[-1] + e * np.eye(int(keep.sum()))
        roots.append(_inverse_root(covariance))
    u, rho, vt = np.linalg.svd(
        roots[0] @ (views[0].T @ views[1]) @ roots[1], full_matrices=False
    )
    return Directions(rho, roots[0] @ u, roots[1] @ vt.T, u, (kept[0], kept[1]))


def reduced(
    x: Float[np.ndarray, "N P"], share: float = 0.99, released: bool = False
) -> Float[np.ndarray, "N K"]:
    """Leading principal components that hold a share of the variance.

    Args:
      released: of standardised units, and one component fewer, as `contextual`.
    """
    x = centred(x)
    if released:
        x = x / x.std(0, ddof=1)
    u, s, _ = np.linalg.svd(x, full_matrices=False)
    held = np.cumsum(s**2) / np.sum(s**2)
    k = int(np.searchsorted(held, share)) + (0 if released else 1)
    return u[:, : max(k, 1)] * s[: max(k, 1)]


def svcca(
    x: Float[np.ndarray, "N P"],
    y: Float[np.ndarray, "N Q"],
    share: float = 0.99,
    released: Literal["contextual"] | None = None,
) -> float:
    """Mean canonical correlation of the leading principal components."""
    old = released is not None
    return mean_cca(reduced(x, share, old), reduced(y, share, old))


def pwcca(
    x: Float[np.ndarray, "N P"],
    y: Float[np.ndarray, "N Q"],
    side: Side = "smaller",
    released: Released | None = None,
) -> float:
    """Canonical correlations weighted by how much of a view their variates hold.

    Args:
      side: the view that gives the weights: `smaller` is that of fewer units (the first
        of equals), `both` the mean of the two.
      released: `google` rotates units that were not whitened and leaves means in, and
        takes the first view only; `contextual` finds variates as `reduced` with
        `released` and weighs them by the raw units.

    Raises:
      NeuroFMError: `google` with a second view of fewer units, which it cannot do.
    """
    if released == "google":
        return _pwcca_google(x, y)
    if side == "both":
        return (pwcca(x, y, "first", released) + pwcca(x, y, "second", released)) / 2
    if side == "smaller":
        side = "first" if x.shape[1] <= y.shape[1] else "second"
    views = (x, y)
    if released == "contextual":
        views = (reduced(x, released=True), reduced(y, released=True))
    found = canonical(*views)
    variates, view = (found.first, x) if side == "first" else (found.second, y)
    weights = projection_weights(variates, centred(view))
    return float(weights @ found.rho)


def projection_weights(
    variates: Float[np.ndarray, "N R"], view: Float[np.ndarray, "N P"]
) -> Float[np.ndarray, " R"]:
    """Share of each orthonormal variate in a view: summed absolute inner products."""
    alpha = np.abs(variates.T @ view).sum(1)
    return alpha / alpha.sum()


def _pwcca_google(x, y) -> float:
    if x.shape[1] > y.shape[1]:
        raise NeuroFMError(
            f"the released PWCCA of {x.shape[1]} against {y.shape[1]} units fails: "
            "give the view of fewer units first, or use the definition"
        )
    found = directions(x, y, (0.0, 0.0))
    x = np.asarray(x, np.float64)
    q, _ = np.linalg.qr(centred(x) @ found.whitened + x.mean(0))
    return float(projection_weights(q, x) @ found.rho)


def _inverse_root(a):
    values, vectors = np.linalg.eigh(a)
    cut = values.max(initial=0) * len(values) * np.finfo(np.float64).eps
    inverse = np.where(values > cut, 1 / np.sqrt(np.maximum(values, cut + 1e-300)), 0)
    return (vectors * inverse) @ vectors.T


def centred(x: Float[np.ndarray, "N P"]) -> Float[np.ndarray, "N P"]:
    """Columns less their means, in float64."""
    x = np.asarray(x, np.float64)
    return x - x.mean(0)
