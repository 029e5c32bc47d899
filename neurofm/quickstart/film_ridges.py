"""What TRIBE is set beside on simulated films: ridges, and what one cannot exceed.

All are told the features at the volumes and a row of delays; penalties are chosen for
every parcel on stretches of films that were left out.

Axis letters: T rows (volumes of all runs), V parcels, F features, S people.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from neurofm.data.records import Dataset
from neurofm.data.select import Use
from neurofm.encoding import banded, folds, pooled, ridge, stimulus
from neurofm.encoding.scores import correlation
from neurofm.encoding.stimulus import Piece, Pieces, Run
from neurofm.quickstart.films import Simulation, showings, subject_name, timeline
from neurofm.simulate import film, film_brains

PENALTIES = np.logspace(0, 6, 13)
DELAYS = tuple(range(1, 7))  # volumes: 1.5 to 9 s
STRETCHES, N_FOLDS = 2, 4  # of a film; folds at most
# Feature spaces with a share: all alike, two of three, one alone.
SHARES = np.array(
    [[1, 1, 1], [1, 1, 0], [1, 0, 1], [0, 1, 1], [1, 0, 0], [0, 1, 0], [0, 0, 1]]
)
Guess = Float[np.ndarray, "T V"]


@dataclass(frozen=True)
class Rows:
    """Runs of one split, one below the other.

    Attributes:
      runs: in the order of the rows.
      subject: of each row, counted from 0.
      held: of each row, the fold in which it is held out.
      Y: responses, of deviation 1 in every run.
    """

    runs: Sequence[Run]
    subject: Int[np.ndarray, " T"]
    held: Int[np.ndarray, " T"]
    Y: Float[np.ndarray, "T V"]

    def X(self) -> Float[np.ndarray, "T F"]:
        """Features with their delays."""
        return stimulus.delayed(self.runs, DELAYS)


def split(found: Sequence[Run], made: Simulation, use: Use) -> Rows:
    """The runs of a split."""
    runs = [run for run in found if run.split == use]
    names = [subject_name(s) for s in range(made.design.n_subjects)]
    subject = [np.full(len(run.X), names.index(run.subject)) for run in runs]
    nth = dict.fromkeys(names, 0)
    held = []
    for run in runs:
        stretch = np.arange(len(run.X)) * STRETCHES // len(run.X)
        held.append((nth[run.subject] * STRETCHES + stretch) % N_FOLDS)
        nth[run.subject] += 1
    Y = np.concatenate([run.Y for run in runs])
    return Rows(runs, np.concatenate(subject), np.concatenate(held), Y)


def by_person(
    fit: Callable[[np.ndarray, np.ndarray, folds.Splits], np.ndarray],
    train: Rows,
    test: Rows,
) -> Guess:
    """Weights of each person alone, by what `fit` makes of rows and splits."""
    X, other, out = train.X(), test.X(), np.zeros_like(test.Y)
    for subject in np.unique(train.subject):
        mine, theirs = train.subject == subject, test.subject == subject
        weights = fit(X[mine], train.Y[mine], folds.by_run(train.held[mine]))
        out[theirs] = ridge.predict(other[theirs], weights)
    return out


def own(train: Rows, test: Rows) -> Guess:
    """A ridge for each person."""

    def fit(X, Y, splits):
        return ridge.fit(X, Y, PENALTIES, splits).weights

    return by_person(fit, train, test)


def own_banded(train: Rows, test: Rows) -> Guess:
    """A banded ridge for each person, a band a modality."""
    n_bands, n_delays = len(film.MODALITIES), len(DELAYS)
    width = train.runs[0].X.shape[1] // n_bands
    bands = np.tile(np.repeat(np.arange(n_bands), width), n_delays)
    shares = SHARES / SHARES.sum(1, keepdims=True)

    def fit(X, Y, splits):
        return banded.fit(X, bands, Y, PENALTIES, splits, shares).weights

    return by_person(fit, train, test)


def shared(train: Rows, test: Rows) -> Guess:
    """A ridge for everybody, and one for the residuals of each person."""
    fitted = pooled.fit(train.X(), train.Y, train.subject, train.held, PENALTIES)
    return pooled.predict(test.X(), test.subject, fitted)


def true_response(made: Simulation, test: Rows, linear: bool = False) -> Guess:
    """What is measured without its noise, or (`linear`) as if parcels were linear.

    The latter is all of linear parcels, the linear part of compressive ones, nearly
    that of those with memory, and nothing of products, whose linear part is zero.
    """

    numbers = {timeline(one.film): one.film for one in showings(made.design)}

    @functools.cache
    def response(subject: int, name: str) -> np.ndarray:
        number = numbers[name]
        return film_brains.response(made.brains, made.film(number), subject, linear).T

    names = [subject_name(s) for s in range(made.design.n_subjects)]
    return np.concatenate(
        [response(names.index(run.subject), run.timeline) for run in test.runs]
    )


# ---- products ------------------------------------------------------------------------


def products(spaces: Sequence[Pieces], known: set[str]) -> Pieces:
    """Pairwise products of the leading components of all features, squares included.

    As many components as there are latents: who takes them knows the simulation.

    Args:
      known: films whose features components are told from.
    """
    n = film.SHARED + film.PRIVATE * len(film.MODALITIES)
    beside = {
        name: np.concatenate([space[name][0].samples for space in spaces], 1)
        for name in spaces[0]
    }
    seen = np.concatenate([beside[name] for name in sorted(known)])
    mean = seen.mean(0)
    _, values, axes = np.linalg.svd(seen - mean, full_matrices=False)
    back = axes[:n].T / values[:n] * np.sqrt(len(seen))
    first, second = np.triu_indices(n)
    out: Pieces = {}
    for name, x in beside.items():
        z = (x - mean) @ back
        times = spaces[0][name][0].times
        out[name] = [Piece((z[:, first] * z[:, second]).astype(np.float32), times)]
    return out


# ---- all of them ---------------------------------------------------------------------


def references(
    folder: Path, made: Simulation, store: Dataset, show: Callable[[str], None]
) -> tuple[dict[str, Guess], Rows]:
    """Predictions of everything that TRIBE is set beside, and what they are held to.

    Args:
      folder: of the stores.
      show: told what is being fitted.
    """
    spaces = [stimulus.pieces(folder / name) for name in film.MODALITIES]
    found = stimulus.runs(spaces, store)
    train, test = split(found, made, "train"), split(found, made, "test")
    known = {run.timeline for run in train.runs}
    more = stimulus.runs([*spaces, products(spaces, known)], store)
    out = {
        "true response": true_response(made, test),
        "linear oracle": true_response(made, test, linear=True),
    }
    for name, fit in (
        ("ridge", own),
        ("banded ridge", own_banded),
        ("baseline", shared),
    ):
        show(f"fitting the {name}")
        out[name] = fit(train, test)
    show("fitting a pooled ridge on pairwise products")
    out["product ridge"] = shared(split(more, made, "train"), split(more, made, "test"))
    return out, test


def correlations(guess: Guess, rows: Rows) -> Float[np.ndarray, "S V"]:
    """Of every person and parcel over all their runs; 0 of a prediction that stands."""
    out = []
    for subject in np.unique(rows.subject):
        mine = rows.subject == subject
        out.append(np.nan_to_num(correlation(rows.Y[mine], guess[mine])))
    return np.array(out)
