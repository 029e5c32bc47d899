"""The quickstart of TRIBE, on simulated films and brains with known truth.

Six people see 40 minutes of different films each; features of text, audio and video
follow the same scenes. The model is tested on films that nobody was trained on, beside
tuned ridges, a linear oracle and the ceiling of each parcel.

Axis letters: T volumes of all test runs, S people, V parcels, M modalities.
"""

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from neurofm import config, files
from neurofm.config import Experiment
from neurofm.data.records import Dataset, open_dataset
from neurofm.encoding import ceiling
from neurofm.encoding.predicted import drops, predicted
from neurofm.eval.stats import interval
from neurofm.eval.untrained import untrained
from neurofm.model import Model, load
from neurofm.quickstart import film_figures, films
from neurofm.quickstart.film_ridges import Guess, Rows, correlations, references
from neurofm.quickstart.films import Design, Simulation
from neurofm.quickstart.finished import Finished, read_back, sentence
from neurofm.report import page as report
from neurofm.run.metrics import Row
from neurofm.simulate.film import MODALITIES
from neurofm.simulate.film_brains import KINDS, Brains
from neurofm.train import pretrain

log = logging.getLogger(__name__)

CONFIG = "tribe/quickstart"
NAMED = ("linear", "compressive")  # kinds of parcels that follow one modality
LINEAR = ("baseline", "ridge", "banded ridge", "linear oracle")
BESIDE = (*LINEAR, "product ridge", "untrained")


def total_steps(overrides: tuple[str, ...]) -> int:
    """Steps of training."""
    return config.load(CONFIG, overrides).train.steps


def experiment(workdir: Path, seed: int, overrides: tuple[str, ...]) -> Experiment:
    """The config, fitted to the stores of this folder."""
    records = workdir / "records"
    features = json.dumps([str(records / name) for name in MODALITIES])
    stores = (f"data.path={records / 'fmri'}", f"data.features={features}")
    exp = config.load(CONFIG, (*stores, f"seed={seed}", *overrides))
    datasets = [open_dataset(path) for path in exp.data.stores]
    return replace(exp, task=exp.task.fitted(datasets))


def quickstart(
    workdir: Path,
    seed: int,
    overrides: tuple[str, ...],
    show: Callable[[int, Row], None],
) -> Finished:
    """See `neurofm.quickstart.quickstart`."""
    return carried_out(films.FORTY_MINUTES, workdir, seed, overrides, show)


def carried_out(
    design: Design,
    workdir: Path,
    seed: int,
    overrides: tuple[str, ...] = (),
    show: Callable[[int, Row], None] = lambda step, row: None,
) -> Finished:
    """The same with other people and films."""
    made = films.simulation(seed, design)
    store = films.generate(workdir / "records", made)
    exp = experiment(workdir, seed, overrides)
    if (before := read_back(workdir, {workdir: exp})) is not None:
        return before
    outcome = pretrain(exp, workdir, show)
    if outcome.status != "done":
        return Finished({}, outcome.status, outcome.sentence)
    scores = score(exp, workdir, made, store)
    files.write_json(workdir / "scores.json", scores)
    report.render([workdir], workdir / "report.html")
    return Finished(scores, "done", sentence(workdir))


# ---- scores --------------------------------------------------------------------------


def score(
    exp: Experiment, workdir: Path, made: Simulation, store: Dataset
) -> dict[str, Any]:
    """Correlations on the test films, of all parcels and of each kind; figures."""
    guesses, test = references(workdir / "records", made, store, log.info)
    log.info("predicting the test films")
    model = load(workdir)
    guesses["model"] = predictions(model, exp, test)
    guesses["untrained"] = predictions(untrained(model), exp, test)
    guesses["chance"] = moved(guesses["model"], test)
    found = {name: correlations(guess, test) for name, guess in guesses.items()}
    brains = made.brains
    found["ceiling"] = np.broadcast_to(np.sqrt(brains.ceiling), found["model"].shape)
    told = repeated(test)
    found["ceiling from repeats"] = np.sqrt(np.maximum(told, 0))
    lost = drops(
        lambda hidden: correlations(predictions(model, exp, test, hidden), test),
        MODALITIES,
    )
    film_figures.draw(workdir / "figures", found, brains, lost)
    names = store.items["subject"].unique().to_pylist()
    return {
        "suite": "encoding",
        "target": "unseen films",
        "metric": "correlation",
        "over": "subjects",
        **tables(found, brains, names, len(test.Y)),
        "named": named(lost, brains),
        "ceilings": ceilings(told, brains),
    }


def predictions(model: Model, exp: Experiment, test: Rows, hidden: str = "") -> Guess:
    """What a model predicts for the test runs, perhaps without a modality."""
    datasets = [open_dataset(path) for path in exp.data.stores]
    variables = model.task.inference(model.variables)
    found = predicted(model.task, variables, datasets, exp.data, "test", hidden)
    rows = {name: i for i, name in enumerate(datasets[0].items["item"].to_pylist())}
    return np.concatenate([found[0, rows[run.name]] for run in test.runs])


def moved(guess: Guess, test: Rows) -> Guess:
    """Each person's predictions, half of the test later: what chance would reach."""
    out = np.empty_like(guess)
    for subject in np.unique(test.subject):
        mine = test.subject == subject
        out[mine] = np.roll(guess[mine], mine.sum() // 2, 0)
    return out


def repeated(test: Rows) -> Float[np.ndarray, "S V"]:
    """Explained variance at most, from the repeats of each test film; mean of films."""
    kept: dict[str, dict[str, list[np.ndarray]]] = {}
    for run in test.runs:
        kept.setdefault(run.subject, {}).setdefault(run.timeline, []).append(run.Y)
    return np.array(
        [
            np.mean(
                [ceiling.explainable_variance(np.stack(x)) for x in own.values()], 0
            )
            for own in kept.values()
        ]
    )


def named(drops: Float[np.ndarray, "M S V"], brains: Brains) -> dict[str, float]:
    """How often the largest drop, mean over people, names what a parcel follows."""
    asked = np.isin(brains.kind, NAMED)
    right = drops.mean(1).argmax(0)[asked] == brains.modality[asked]
    return {
        "mean": float(right.mean()),
        "n": int(asked.sum()),
        "chance": 1 / len(MODALITIES),
    }


def ceilings(told: Float[np.ndarray, "S V"], brains: Brains) -> dict[str, float]:
    """True ceilings and those from repeats, both as explained variance."""
    mean = told.mean(0)
    return {
        "true": float(brains.ceiling.mean()),
        "from repeats": float(mean.mean()),
        "correlation": float(np.corrcoef(mean, brains.ceiling)[0, 1]),
        "mean error": float(np.abs(mean - brains.ceiling).mean()),
    }


def tables(
    found: Mapping[str, Float[np.ndarray, "S V"]],
    brains: Brains,
    names: list[str],
    n: int,
) -> dict[str, Any]:
    """Scores and what the model is ahead, of all parcels and of each kind."""
    parts = {"": np.ones(len(brains.kind), bool)}
    parts |= {f"{kind} parcels": brains.kind == kind for kind in KINDS}
    scores: dict[str, Any] = {}
    ahead: dict[str, Any] = {}
    for part, rows in parts.items():
        if not rows.any():
            continue
        means = {name: r[:, rows].mean(1) for name, r in found.items()}
        scored = {name: entry(mean, names, n) for name, mean in means.items()}
        gained = {
            f"model-{name}": entry(means["model"] - means[name], names, n)
            for name in BESIDE
        }
        if part:
            scores[part], ahead[part] = scored, gained
        else:
            scores, ahead = scored, gained
    return {"scores": scores, "differences": ahead}


def entry(means: Float[np.ndarray, " S"], names: list[str], n: int) -> dict[str, float]:
    """Mean over people, with its interval."""
    across = interval(means, np.ones(len(names)), np.array(names))
    spread = {"std": float(means.std()), "low": across.low, "high": across.high}
    return {"mean": across.value, **spread, "n": n}
