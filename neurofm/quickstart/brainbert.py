"""The quickstart of BrainBERT, on simulated contacts with known truth.

The network fills in one band of a spectrogram at a time; then it learns from 200 labels
which of two kinds of bursts leads, beside the same network from scratch over the same
rates, the frozen and the untrained one, classic features, and what one who knows the
simulation reads. All are tested on people whom nothing was trained on.

Axis letters: N windows.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool

from neurofm import config, files
from neurofm.config import Experiment
from neurofm.data.records import Dataset
from neurofm.eval import scores as scoring
from neurofm.eval.examples import Examples
from neurofm.eval.features import Candidates
from neurofm.eval.probe import Choice, Outcome
from neurofm.eval.scores import Probed
from neurofm.eval.untrained import untrained
from neurofm.model import load
from neurofm.models.brainbert import BrainBERT
from neurofm.models.finetune import Finetune
from neurofm.quickstart import contact_features, contacts, filled, rates
from neurofm.quickstart.contacts import Labelled
from neurofm.quickstart.finished import Finished, read_back, sentence
from neurofm.report import page as report
from neurofm.run.metrics import Row
from neurofm.simulate.bursts import LABELS, Design
from neurofm.task import Tree
from neurofm.train import pretrain

log = logging.getLogger(__name__)

CONFIG = "brainbert/quickstart"
SIMULATION = "simulation."  # begins overrides of what is simulated
BESIDE = ("supervised", "frozen", "untrained", "baseline", "neighbours", "lag_moments")


def total_steps(overrides: tuple[str, ...]) -> int:
    """Steps of pretraining."""
    return config.load(CONFIG, _of_network(overrides)).train.steps


def _of_network(overrides: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(o for o in overrides if not o.startswith(SIMULATION))


def simulation(overrides: tuple[str, ...]) -> Design:
    """What is simulated; overrides that begin with `simulation.` are of it."""
    own = [o.removeprefix(SIMULATION) for o in overrides if o.startswith(SIMULATION)]
    return config.override(Design(), tuple(own))


def quickstart(
    workdir: Path,
    seed: int,
    overrides: tuple[str, ...],
    show: Callable[[int, Row], None],
) -> Finished:
    """See `neurofm.quickstart.quickstart`."""
    settings = (f"data.path={workdir / 'records' / 'stream'}", f"seed={seed}")
    exp = config.load(CONFIG, (*settings, *_of_network(overrides)))
    design = simulation(overrides)
    store = contacts.generate(workdir / "records", seed, design, contacts.PEOPLE)
    if (before := read_back(workdir, {workdir: exp})) is not None:
        return before
    outcome = pretrain(exp, workdir, show)
    if outcome.status != "done":
        return Finished({}, outcome.status, outcome.sentence)
    scores = score(exp, workdir, store)
    files.write_json(workdir / "scores.json", scores)
    report.render([workdir], workdir / "report.html")
    return Finished(scores, "done", sentence(workdir))


# ---- scores --------------------------------------------------------------------------


def score(exp: Experiment, workdir: Path, store: Dataset) -> dict[str, Any]:
    """Accuracy on new people, and the error of what is hidden; figures."""
    model = load(workdir)
    fresh = untrained(model)
    task = model.task
    assert isinstance(task, BrainBERT)
    examples, windows = contacts.examples(store), contacts.windows(store)
    networks = {"frozen": model.inference, "untrained": task.inference(fresh.variables)}
    log.info("reading %d windows", len(examples.row))
    systems = {
        name: [contact_features.network(task, variables, windows)]
        for name, variables in networks.items()
    }
    moments = contact_features.lag_moments(task, windows)
    evidence = np.array(store.items["evidence"].to_pylist())[:, None]
    systems["lag_moments"] = [{"lag_moments": moments}]
    systems["oracle"] = [{"oracle": evidence}]
    probed = scoring.probe_all(systems, {}, examples)
    probed |= beside(contact_features.classic(task, windows), examples)
    for name, start in (("model", "frozen"), ("supervised", "untrained")):
        log.info("fine-tuning on labels: %s", start)
        probed[name] = [[taught(task, networks[start], windows, examples, exp.seed)]]
    pairs = [("model", name) for name in BESIDE]
    found = scoring.scored(probed, examples, pairs)
    responsive = np.array(store.items["responsive"].to_pylist(), bool)
    if not responsive.all():
        some = scoring.scored(*among(responsive, probed, examples), pairs)
        for part in ("scores", "differences"):
            found[part]["responsive contacts"] = some[part]
    errors = filled.errors(model, windows, examples, workdir / "figures")
    return {
        "suite": "finetune",
        "target": "which band leads",
        **found,
        "masked_error": errors,
        "responsive": float(responsive.mean()),
    }


def beside(classic: Candidates, examples: Examples) -> dict[str, Probed]:
    """Linear maps of classic features, the best of them, and their neighbours.

    `baseline` is what is best on validation of all linear maps. Neighbours, of all
    features that validation chooses among, are of second order, as `lag_moments` are.
    """
    linear = {
        name: contact_features.fitted({name: x}, examples, "ridge")
        for name, x in classic.items()
    }
    best = max(linear.values(), key=lambda outcome: outcome.choice.score)
    near = contact_features.fitted(classic, examples, "knn")
    found = {"baseline": best, "neighbours": near, **linear}
    return {name: [[outcome]] for name, outcome in found.items()}


def among(
    kept: Bool[np.ndarray, " N"], probed: Mapping[str, Probed], examples: Examples
) -> tuple[dict[str, Probed], Examples]:
    """Outcomes of some of the test windows alone."""
    (fold,) = examples.folds
    mine = kept[fold.test]

    def part(one: Outcome) -> Outcome:
        return replace(
            one,
            prediction=one.prediction[mine],
            output=one.output[mine],
            points=one.points[mine],
            weights=one.weights[mine],
        )

    fewer = {
        name: [[part(one) for one in folds] for folds in seeds]
        for name, seeds in probed.items()
    }
    return fewer, replace(examples, folds=[replace(fold, test=fold.test[mine])])


def taught(
    task: BrainBERT, model: Tree, windows: Labelled, examples: Examples, seed: int
) -> Outcome:
    """What a network says of the test windows after training on the labels."""
    head = Finetune(task=task, classes=LABELS)
    (fold,) = examples.folds
    train, valid, test = (
        windows.batch(rows) for rows in (fold.train, fold.valid, fold.test)
    )
    best = rates.tuned(head, model, train, valid, seed)
    said = rates.answers(head, {**best.variables, "frozen": {"task": model}}, test)
    right = (said.argmax(1) == test["label"]).astype(float)
    choice = Choice(f"step {best.step}", "rate", best.rate, best.accuracy)
    prediction = np.array(LABELS)[said.argmax(1)]
    return Outcome(prediction, said, right, np.ones(len(right)), choice)
