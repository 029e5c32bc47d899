"""The quickstart of Brain-Semantoks, on simulated people at rest with known truth.

Runs without labels to pretrain on, and a probe of the frozen network on people it never
met. The first label is the direction in which a weak wave crosses two networks, which
connectivity and spectra do not show; the second is a coupling that connectivity shows.
Beside it stand the same network untrained and trained with labels, classic features,
lagged covariance, and what one who knows the simulation reads.
"""

import functools
import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from neurofm import config, files
from neurofm.checkpoint import Checkpoints
from neurofm.config import Experiment
from neurofm.data.records import Dataset, open_dataset
from neurofm.eval.connectomes import connectome_candidates, lagged_candidates
from neurofm.eval.examples import Examples, from_dataset
from neurofm.eval.features import Candidates, Embed, Pool, Tokens, vectors
from neurofm.eval.pieces import Recordings
from neurofm.eval.scores import compare
from neurofm.eval.untrained import untrained
from neurofm.model import Model, load
from neurofm.models.finetune import Finetune
from neurofm.optim import Optim
from neurofm.quickstart import resting, resting_figures
from neurofm.quickstart.finished import Finished, read_back, sentence
from neurofm.report import page as report
from neurofm.run.metrics import Row
from neurofm.simulate import networks_fmri as simulation
from neurofm.step import train_step
from neurofm.task import Task, Tree
from neurofm.train import pretrain

log = logging.getLogger(__name__)

CONFIG = "brain_semantoks/quickstart"
READ_BATCH = 32  # runs
LABELS = ("direction", "coupling")
PAIRS = tuple(
    ("model", name)
    for name in ("untrained", "supervised", "baseline", "lagged_covariance")
)
SUPERVISED_STEPS, SUPERVISED_BATCH, SUPERVISED_RATE = 200, 32, 1.4e-3


def total_steps(overrides: tuple[str, ...]) -> int:
    """Steps of pretraining."""
    return config.load(CONFIG, overrides).train.steps


def experiment(workdir: Path, seed: int, overrides: tuple[str, ...]) -> Experiment:
    """The config, fitted to the store and the table of networks of this folder."""
    records = workdir / "records"
    own = (f"data.path={records / 'stream'}", f"seed={seed}")
    own += (f"task.networks={records / 'networks.tsv'}",)
    exp = config.load(CONFIG, (*own, *overrides))
    return replace(exp, task=exp.task.fitted([open_dataset(records / "stream")]))


def quickstart(
    workdir: Path,
    seed: int,
    overrides: tuple[str, ...],
    show: Callable[[int, Row], None],
) -> Finished:
    """See `neurofm.quickstart.quickstart`."""
    labelled = resting.generate(workdir / "records", seed, resting.PEOPLE)
    exp = experiment(workdir, seed, overrides)
    if (before := read_back(workdir, {workdir: exp})) is not None:
        return before
    outcome = pretrain(exp, workdir, show)
    if outcome.status != "done":
        return Finished({}, outcome.status, outcome.sentence)
    scores = score(exp, workdir, labelled)
    resting_figures.draw(workdir / "figures", simulation.world(seed), labelled)
    files.write_json(workdir / "scores.json", scores)
    report.render([workdir], workdir / "report.html")
    return Finished(scores, "done", sentence(workdir))


# ---- scores --------------------------------------------------------------------------


def score(exp: Experiment, workdir: Path, labelled: Dataset) -> dict[str, Any]:
    """Scores of the direction, beside them those of the coupling, and a curve."""
    asked = {name: from_dataset(labelled, name, "subject", "split") for name in LABELS}
    first = asked[LABELS[0]]

    def read(name: str, model: Model) -> Candidates:
        log.info("reading %d runs: %s", len(first.row), name)
        return vectors(reader(model), mean_pool, labelled, first)

    model = load(workdir)
    fresh = untrained(model)
    # So small a network leaves half of two cores idle: others train meanwhile.
    with ThreadPoolExecutor(1) as beside:
        taught = beside.submit(train_with_labels, fresh, exp.seed, labelled)
        shared = {
            "model": read("model", model),
            "untrained": read("untrained", fresh),
            "lagged_covariance": lagged_candidates(labelled, first),
        }
        classic = connectome_candidates(labelled, first)
        steps = {0: shared["untrained"], exp.train.steps: shared["model"]}
        for step in Checkpoints(workdir / "checkpoints").steps():
            if step not in steps:
                earlier = load(workdir / "checkpoints" / str(step))
                steps[step] = read(f"step {step}", earlier)
        tables = {}
        for name, examples in asked.items():
            systems = {system: [found] for system, found in shared.items()}
            systems["supervised"] = [read("supervised", taught.result()[name])]
            evidence = np.array(labelled.items[f"{name}_evidence"].to_pylist())
            systems["oracle"] = [{"oracle": evidence[:, None]}]
            tables[name] = compare(systems, classic, examples, PAIRS)
    main, other = (tables[name] for name in LABELS)
    parts = {
        part: {**main[part], LABELS[1]: other[part]}
        for part in ("scores", "differences")
    }
    about = {"suite": "probe", "target": f"{LABELS[0]} of a wave, new people"}
    curves = {name: over_steps(steps, examples) for name, examples in asked.items()}
    return {**about, **main, **parts, "over_steps": curves}


def mean_pool(layer: str) -> dict[str, Pool]:
    """A layer's tokens are averaged."""
    return {layer: lambda values, mask: values[mask].mean(0)}


def over_steps(
    steps: dict[int, Candidates], examples: Examples
) -> list[dict[str, float]]:
    """Scores after so many steps of pretraining, with their intervals."""
    points = []
    for step in sorted(steps):
        found = compare({"model": [steps[step]]}, {}, examples)["scores"]["model"]
        points.append({"step": step, **{k: found[k] for k in ("mean", "low", "high")}})
    return points


def train_with_labels(fresh: Model, seed: int, labelled: Dataset) -> dict[str, Model]:
    """The untrained network trained on crops of the training people, a label each."""
    rows = np.flatnonzero(np.array(labelled.items["split"].to_pylist()) == "train")
    task = Finetune(task=fresh.task, layer="cls_avg")
    frozen = {"task": fresh.task.inference(fresh.variables)}
    optim = Optim(lr=SUPERVISED_RATE, warmup=0.1)
    step = jax.jit(train_step(task, optim, SUPERVISED_STEPS, 1, seed))

    def batch(i: int, label: np.ndarray) -> dict[str, Any]:
        rng = np.random.default_rng((seed, i))
        pick = rng.choice(rows, SUPERVISED_BATCH)
        crops = crops_of(labelled, pick, fresh.contract.window_samples, rng)
        return {**crops, "label": label[pick].astype(np.int32)}

    found = {}
    for name in LABELS:
        log.info("training with labels of the %s, %d steps", name, SUPERVISED_STEPS)
        label = np.unique(labelled.items[name].to_pylist(), return_inverse=True)[1]
        start = jax.jit(task.init)(jax.random.key(seed), batch(0, label), frozen)
        opt = optim.build(SUPERVISED_STEPS).init(start["params"])
        state = {**start, "opt": opt, "step": jnp.zeros((), jnp.int32)}
        for i in range(SUPERVISED_STEPS):
            state, _, _ = step(state, frozen, batch(i, label))
        variables = jax.device_get(task.model({**state, "frozen": frozen}))
        source = {"source": f"supervised on the {name}"}
        found[name] = Model(fresh.task, {**variables, "slow": {}}, source)
    return found


def crops_of(
    store: Dataset, rows: np.ndarray, window: int, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """A random crop of each of these runs, as a batch."""
    room = store.items["n_samples"].to_numpy()[rows] - window
    starts = rng.integers(room + 1).tolist()
    crops = [
        store.read(row, start, start + window)
        for row, start in zip(rows.tolist(), starts, strict=True)
    ]
    return batch_of(np.stack(crops))


# ---- reading -------------------------------------------------------------------------


@functools.cache  # networks of one task share its program
def _read(task: Task):
    @jax.jit
    def read(variables: Tree, batch: Tree):
        sources = task.read(variables, batch, "sources").values
        features = task.read(variables, batch)
        return {**features.values, "networks": sources["networks"]}, features.times_s

    return read


def reader(model: Model) -> Embed:
    """All layers of a network, and the tokens of each network; windows side by side."""
    task, window = model.task, model.contract.window_samples
    read, variables = _read(task), task.inference(model.variables)

    def embed(store: Recordings, rows: Sequence[int]) -> Iterator[tuple[int, Tokens]]:
        n = int(store.items["n_samples"].to_numpy().min()) // window
        for first in range(0, len(rows), READ_BATCH):
            part = rows[first : first + READ_BATCH]
            padded = np.resize(part, READ_BATCH)  # one program for all batches
            runs = [store.read(int(row), 0, n * window) for row in padded]
            crops = [crop for run in runs for crop in np.split(run, n, axis=1)]
            layers, times = jax.device_get(read(variables, batch_of(np.stack(crops))))
            at = np.arange(n)[:, None] * window / model.contract.sfreq + times[:n]
            for i, row in enumerate(part):
                own = slice(i * n, (i + 1) * n)
                values = {k: np.concatenate(x[own]) for k, x in layers.items()}
                yield row, Tokens(values, at.ravel())

    return embed


def batch_of(bold: np.ndarray) -> dict[str, np.ndarray]:
    """Whole windows [B, C, T] of all regions as a batch."""
    n = len(bold)
    return {
        "fmri/bold": bold,
        "fmri/regions": np.ones(bold.shape[:2], bool),
        "fmri/span": np.tile(np.array([[0, bold.shape[2]]], np.int32), (n, 1)),
        "index": np.arange(n, dtype=np.int32),
        "valid": np.ones(n, bool),
    }
