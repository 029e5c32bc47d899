"""One ridge for everybody, and what each person adds to it.

People who saw different stimuli share their weights as far as their brains agree: a
ridge is fitted to all of them together, then one to the residuals of each, whose
penalty is the larger the less that person differs.

Axis letters: T rows (time) of everybody, F features, V targets, A penalties, S people.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, Shaped

from neurofm.encoding import folds, ridge
from neurofm.encoding.scores import Score
from neurofm.encoding.targets import Devices


@dataclass(frozen=True)
class Pooled:
    """Weights of everybody, and what is added for each person."""

    shared: Float[np.ndarray, "F V"]
    own: Float[np.ndarray, "S F V"]


def fit(
    X: Float[np.ndarray, "T F"],
    Y: Float[np.ndarray, "T V"],
    people: Int[np.ndarray, " T"],
    runs: Shaped[np.ndarray, " T"],
    penalties: Float[np.ndarray, " A"],
    score: Score = "neg_mse",
    place: Devices | None = None,
) -> Pooled:
    """Choose penalties of every target, of everybody's ridge and of each person's.

    Args:
      people: whose each row is, counted from 0.
      runs: what is held out in turn; the same name in several people is held out at
        once.

    Raises:
      NeuroFMError: see `ridge.cross_validate` and `folds.by_run`.
    """
    shared = ridge.fit(X, Y, penalties, folds.by_run(runs), score, place=place).weights
    residual = Y - ridge.predict(X, shared)
    own = []
    for person in range(people.max() + 1):
        rows = people == person
        splits = folds.by_run(runs[rows])
        mine = ridge.fit(X[rows], residual[rows], penalties, splits, score, place=place)
        own.append(mine.weights)
    return Pooled(shared, np.stack(own))


def predict(
    X: Float[np.ndarray, "T F"], people: Int[np.ndarray, " T"], fitted: Pooled
) -> Float[np.ndarray, "T V"]:
    """What is predicted for the person of each row."""
    out = ridge.predict(X, fitted.shared)
    for person, weights in enumerate(fitted.own):
        rows = people == person
        out[rows] += ridge.predict(X[rows], weights)
    return out
