"""Comparison of representational dissimilarity matrices (RSA) and its statistics.

Definitions as rsatoolbox (Nili et al. 2014; Schütt et al., eLife 2023).

Axes: D pairs of N conditions (see `rdm`), S subjects, R resamples, C controls.
"""

from collections.abc import Callable
from typing import Literal

import numpy as np
from jaxtyping import Float, Int

from neurofm.analysis.rdm import n_conditions, pairs, square, upper
from neurofm.errors import NeuroFMError

Measure = Literal[
    "cosine",
    "pearson",
    "spearman",
    "tau_b",
    "tau_a",
    "rho_a",
    "whitened_cosine",
    "whitened_pearson",
]


def compare(
    a: Float[np.ndarray, " D"], b: Float[np.ndarray, " D"], measure: Measure = "cosine"
) -> float:
    """Similarity of two RDMs; NaN where one is constant.

    For models that predict ties use `tau_a` or `rho_a`: `tau_b` and `spearman` prefer
    models of many ties. `tau_b` is what rsatoolbox calls `kendall`.
    """
    return float(MEASURES[measure](a, b))


def noise_ceiling(
    rdms: Float[np.ndarray, "S D"], measure: Measure = "cosine"
) -> tuple[float, float]:
    """Lower and upper bound of what any model can reach with these subjects.

    Each subject against the mean of the others, and of all; pooled as the measure asks.

    Raises:
      NeuroFMError: one subject.
    """
    if len(rdms) < 2:
        raise NeuroFMError("a noise ceiling needs the RDMs of two subjects or more")
    pool = _POOLED.get(measure, _ranks)
    scaled = np.stack([pool(rdm) for rdm in rdms])
    upper = [compare(rdm, scaled.mean(0), measure) for rdm in rdms]
    lower = [
        compare(rdm, np.delete(scaled, s, 0).mean(0), measure)
        for s, rdm in enumerate(rdms)
    ]
    return float(np.mean(lower)), float(np.mean(upper))


def partial(
    a: Float[np.ndarray, " D"],
    b: Float[np.ndarray, " D"],
    controls: Float[np.ndarray, "C D"],
    measure: Literal["pearson", "spearman"] = "pearson",
) -> float:
    """Correlation of what is left of two RDMs after the controls and a constant."""
    if measure == "spearman":
        a, b = _ranks(a), _ranks(b)
        controls = np.stack([_ranks(control) for control in controls])
    design = np.concatenate([np.ones((1, len(a))), controls]).T
    left = [y - design @ np.linalg.lstsq(design, y, rcond=None)[0] for y in (a, b)]
    return compare(left[0], left[1], "pearson")


def resampled(
    rdm: Float[np.ndarray, "*B D"], stimuli: Int[np.ndarray, " N"]
) -> Float[np.ndarray, "*B _"]:
    """The RDM of stimuli drawn with replacement, less pairs of one with itself."""
    i, j = pairs(len(stimuli))
    apart = stimuli[i] != stimuli[j]
    return square(rdm)[..., stimuli[i[apart]], stimuli[j[apart]]]


def bootstrap(
    a: Float[np.ndarray, " D"],
    b: Float[np.ndarray, " D"],
    drawn: Int[np.ndarray, "R N"],
    measure: Measure = "cosine",
) -> Float[np.ndarray, " R"]:
    """Similarity for every draw of stimuli."""
    return np.array([compare(resampled(a, s), resampled(b, s), measure) for s in drawn])


def permuted(
    a: Float[np.ndarray, " D"],
    b: Float[np.ndarray, " D"],
    orders: Int[np.ndarray, "R N"],
    measure: Measure = "cosine",
) -> Float[np.ndarray, " R"]:
    """Similarity for every order of the stimuli of `a`."""
    whole = square(a)
    return np.array([compare(upper(whole[np.ix_(o, o)]), b, measure) for o in orders])


def _cosine(a, b):
    norm = np.linalg.norm(a) * np.linalg.norm(b)
    return a @ b / norm if norm > 0 else np.nan


def _pearson(a, b):
    return _cosine(a - np.mean(a), b - np.mean(b))


def _spearman(a, b):
    return _pearson(_ranks(a), _ranks(b))


def _rho_a(a, b):
    m = len(a)
    a, b = _ranks(a), _ranks(b)
    return 12 * np.sum((a - a.mean()) * (b - b.mean())) / (m**3 - m)


def _tau_b(a, b):
    from scipy.stats import kendalltau

    return kendalltau(a, b)[0]


def _tau_a(a, b):
    """From tau b, whose denominator leaves out tied pairs."""
    n = len(a) * (len(a) - 1) / 2
    untied = [n - _n_tied(x) for x in (a, b)]
    return 0.0 if not all(untied) else _tau_b(a, b) * np.sqrt(untied[0] * untied[1]) / n


def _n_tied(x):
    counts = np.unique(x, return_counts=True)[1]
    return np.sum(counts * (counts - 1)) / 2


def _whitened_cosine(a, b):
    """Cosine in the metric of the covariance that equal noise gives distances."""
    i, j = pairs(n_conditions(len(a)))
    shared = (
        (i[:, None] == i) * 1.0
        + (j[:, None] == j)
        - (i[:, None] == j)
        - (j[:, None] == i)
    )
    wa, wb = np.linalg.solve(shared**2, np.stack([a, b]).T).T
    return a @ wb / np.sqrt((a @ wa) * (b @ wb))


def _whitened_pearson(a, b):
    return _whitened_cosine(a - np.mean(a), b - np.mean(b))


def _ranks(x):
    from scipy.stats import rankdata

    return rankdata(x)


def _unit(x):
    return x / np.linalg.norm(x)


def _z_scored(x):
    return (x - x.mean()) / x.std()


MEASURES: dict[str, Callable] = {
    "cosine": _cosine,
    "pearson": _pearson,
    "spearman": _spearman,
    "tau_b": _tau_b,
    "tau_a": _tau_a,
    "rho_a": _rho_a,
    "whitened_cosine": _whitened_cosine,
    "whitened_pearson": _whitened_pearson,
}
_POOLED = {
    "cosine": _unit,
    "whitened_cosine": _unit,
    "pearson": _z_scored,
    "whitened_pearson": _z_scored,
}
