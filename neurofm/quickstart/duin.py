"""The quickstart of Du-IN, on simulated sEEG in which words are orders of units.

A first stage that codes log power, masked prediction of its codes, then words from 20
trials each. New trials are scored, beside the same network from scratch and untrained,
band power, and what one who knows the simulation hears in them.
"""

import logging
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from neurofm import config, files, finetune, stores
from neurofm.config import Experiment
from neurofm.data.records import Dataset, open_dataset
from neurofm.eval import probe
from neurofm.eval.examples import Examples
from neurofm.eval.features import Candidates, piece_pools, vectors
from neurofm.eval.splits import Fold
from neurofm.eval.untrained import untrained
from neurofm.model import Model, load, save
from neurofm.models import duin_trunk
from neurofm.models.duin import DuIN
from neurofm.models.duin_vqvae import DuINVQVAE
from neurofm.quickstart import word_figures, word_scores, words
from neurofm.quickstart.finished import Finished, read_back, sentence
from neurofm.quickstart.word_scores import Outputs
from neurofm.report import page as report
from neurofm.run.metrics import Row, read_rows
from neurofm.simulate import words_oracle, words_seeg
from neurofm.suites import entrants
from neurofm.task import Tree
from neurofm.train import pretrain

log = logging.getLogger(__name__)

STAGES = ("duin/quickstart_vqvae", "duin/quickstart", "duin/quickstart_words")
PREFIXES = ("tokenizer.", "", "words.")  # begin the overrides of each stage
RATES = (1e-3, 3e-3)  # of both that follow, chosen on validation
STARTS = {"model": "", "supervised": "untrained"}  # and the folder each begins from
CLASSIC = ("band_power", "band_power_bins")
CODES = "codes, information on units"
NORM_STEPS = 60  # in which running statistics forget where they began


def total_steps(overrides: tuple[str, ...]) -> int:
    """Steps of both stages and of all fine-tunings."""
    first, second, last = experiments(Path(), 0, overrides)
    n = words_seeg.N_WORDS * words.TWENTY_TRIALS.n_trials["train"]
    tuned = math.ceil(last.train.epochs * n / last.train.batch_size)
    return first.train.steps + second.train.steps + len(RATES) * len(STARTS) * tuned


def experiments(
    workdir: Path, seed: int, overrides: tuple[str, ...]
) -> tuple[Experiment, Experiment, Experiment]:
    """All stages; overrides that begin with `tokenizer.` and `words.` are of theirs."""
    own: dict[str, list[str]] = {prefix: [] for prefix in PREFIXES}
    for override in overrides:
        prefix = next((p for p in PREFIXES if p and override.startswith(p)), "")
        own[prefix].append(override.removeprefix(prefix))
    records, seeded = workdir / "records", f"seed={seed}"
    stream = (f"data.path={records / 'stream'}", seeded)
    leaning = f"init.frozen.tokenizer={workdir / 'tokenizer'}"
    labelled = (f"data.path={records / 'words'}", "data.target=word", seeded)
    first = config.load(STAGES[0], (*stream, *own["tokenizer."]))
    second = config.load(STAGES[1], (*stream, leaning, *own[""]))
    last = config.load(STAGES[2], (*labelled, *own["words."]))
    task, tokenizer = second.task, first.task
    assert isinstance(task, DuIN)
    assert isinstance(tokenizer, DuINVQVAE)
    return first, replace(second, task=replace(task, tokenizer=tokenizer)), last


def tunings(
    workdir: Path, exp: Experiment
) -> Iterator[tuple[str, Path, Experiment, Path]]:
    """Every fine-tuning: whose it is, its folder, its settings, what it starts from."""
    for name, start in STARTS.items():
        for rate in RATES:
            own = replace(exp, optim=replace(exp.optim, lr=rate))
            yield name, workdir / "words" / f"{name}-{rate:g}", own, workdir / start


def quickstart(
    workdir: Path,
    seed: int,
    overrides: tuple[str, ...],
    show: Callable[[int, Row], None],
) -> Finished:
    """See `neurofm.quickstart.quickstart`."""
    first, second, last = experiments(workdir, seed, overrides)
    stages = {workdir / "tokenizer": first, workdir: second}
    if (workdir / "scores.json").is_file():
        tuned = {
            folder: finetune.resolved(exp, start)[0]
            for _, folder, exp, start in tunings(workdir, last)
        }
        if (before := read_back(workdir, {**stages, **tuned})) is not None:
            return before
    store = words.generate(workdir / "records", seed, words.TWENTY_TRIALS)
    steps_before = 0

    def shown(step: int, row: Row) -> None:
        show(steps_before + step, row)

    for folder, exp in stages.items():
        outcome = pretrain(exp, folder, shown)
        if outcome.status != "done":
            return Finished({}, outcome.status, outcome.sentence)
        steps_before += exp.train.steps
    save_untrained(workdir, store)
    for name, folder, exp, start in tunings(workdir, last):
        log.info("learning words: %s, rate %g", name, exp.optim.lr)
        exp, split = finetune.resolved(exp, start)
        outcome = finetune.tuned(exp, split, folder, shown).outcome
        if outcome.status != "done":
            return Finished({}, outcome.status, outcome.sentence)
        steps_before += exp.train.steps
    scores = score(workdir, store, last, seed)
    files.write_json(workdir / "scores.json", scores)
    report.render([workdir], workdir / "report.html")
    return Finished(scores, "done", sentence(workdir))


# ---- the same network untrained ------------------------------------------------------


def save_untrained(workdir: Path, store: Dataset) -> None:
    """Write the network before its first step as a model, once.

    Its batch norms are given the statistics of training trials: they do not move in
    fine-tuning, and without any the network could hardly learn.
    """
    if (workdir / "untrained" / "model.safetensors").is_file():
        return
    model = load(workdir)
    known = np.flatnonzero(np.array(store.items["split"].to_pylist()) == "train")
    batch = batch_of(model, store, known[:: max(1, len(known) // 256)])
    fresh = untrained(model, batch)
    variables = {**fresh.variables, "buffers": normed(model.task, fresh, batch)}
    save(workdir / "untrained", model.task, variables, fresh.meta)


def normed(task: Any, fresh: Model, batch: Tree) -> Tree:
    """Buffers whose norms have seen a batch often."""

    @jax.jit
    def moved(params: Tree, buffers: Tree, batch: Tree) -> Tree:
        _, there = task.trunk.signals(batch)
        dtype = jnp.dtype("float32")
        _, sums = task.trunk.patches(params, buffers, batch, there, dtype)
        return duin_trunk.moved(buffers, sums)

    buffers = fresh.variables["buffers"]
    for _ in range(NORM_STEPS):
        buffers = moved(fresh.variables["params"], buffers, batch)
    return jax.device_get(buffers)


# ---- scores --------------------------------------------------------------------------


def score(workdir: Path, store: Dataset, last: Experiment, seed: int) -> dict[str, Any]:
    """Words, sets and orders on new trials, and what codes tell of units; figures."""
    word, split = words.words(store), np.array(store.items["split"].to_pylist())
    known, chosen_on, test = (
        np.flatnonzero(split == use) for use in ("train", "valid", "test")
    )
    fold = Fold(train=known, valid=chosen_on, test=test)
    outputs, chosen = fine_tuned(workdir, last, len(test))
    probed = {
        "frozen": layers(load(workdir), store, fold),
        "untrained": layers(load(workdir / "untrained"), store, fold),
    }
    first = load(workdir / "tokenizer")
    task = first.task
    assert isinstance(task, DuINVQVAE)
    trunk, bands_hz = task.trunk, task.bands_hz
    x = samples(store)
    power = word_scores.binned_power(x, trunk.sfreq, trunk.patch_samples, bands_hz)
    pooled = word_scores.pooled_power(x, trunk.sfreq, bands_hz)
    probed["band_power"] = {"band_power": pooled.reshape(len(x), -1)}
    probed["band_power_bins"] = {"band_power_bins": power.reshape(len(x), -1)}
    found = {name: probe.fit(own, word, fold) for name, own in probed.items()}
    outputs |= {name: one.output for name, one in found.items()}
    best = max(CLASSIC, key=lambda name: found[name].choice.score)
    outputs["baseline"] = outputs[best]
    log.info("listening as one who knows the simulation")
    world = words_seeg.world(seed)
    outputs["oracle"] = np.stack([words_oracle.evidence(world, one) for one in x[test]])
    result = word_scores.tables(outputs, word[test])
    fresh = untrained(first, batch_of(first, store, known))
    codes = {
        "model": codes_of(first, store, test),
        "untrained": codes_of(fresh, store, test),
        "k-means": word_scores.clustered(power, known, task.n_codes, seed)[test],
    }
    hop_s = trunk.patch_samples / trunk.sfreq
    units = words.units_heard(store, hop_s, codes["model"].shape[1])[test]
    result["scores"][CODES] = {
        name: word_scores.information(made, units) for name, made in codes.items()
    }
    word_figures.draw(workdir / "figures", result["scores"], codes["model"], units)
    return {
        "suite": "words",
        "target": "new trials",
        "metric": "accuracy",
        "over": "trials",
        **result,
        "chosen": {**chosen, "baseline": best},
    }


def fine_tuned(
    workdir: Path, last: Experiment, n_test: int
) -> tuple[dict[str, Outputs], dict[str, float]]:
    """Scores of the words of all test trials, and the rates that validation chose."""
    best: dict[str, tuple[float, float]] = {}
    outputs: dict[str, Outputs] = {}
    datasets = [open_dataset(path) for path in last.data.paths]
    for name, folder, exp, _ in tunings(workdir, last):
        place = stores.place(folder)
        step = finetune.best_step(place, "accuracy")
        rows = {row["step"]: row for row in read_rows(place / "metrics.jsonl")}
        found = rows[step]["eval/accuracy"]
        if name not in best or found > best[name][0]:
            best[name] = found, exp.optim.lr
            model = load(folder / "checkpoints" / str(step))
            outputs[name] = finetune.predict(model, exp, datasets, "test", n_test)
    return outputs, {name: rate for name, (_, rate) in best.items()}


def layers(model: Model, store: Dataset, fold: Fold) -> Candidates:
    """All layers of a network over all trials."""
    rows = np.arange(len(store.items))
    log.info("reading %d trials: %s", len(rows), model.meta["source"])
    asked = Examples(rows, None, words.words(store), None, rows, [fold], {})
    return vectors(entrants.network(model), piece_pools, store, asked)


def samples(store: Dataset) -> Float[np.ndarray, "N C T"]:
    """All trials in V."""
    n = store.items["n_samples"].to_pylist()
    return np.stack([store.read(row, 0, n[row]) for row in range(len(n))])


def batch_of(model: Model, store: Dataset, rows: Int[np.ndarray, " n"]) -> Tree:
    """Trials as a batch of the model."""
    batch = entrants.first_batch(model, store, rows.tolist(), len(rows))
    assert batch is not None
    return batch


def codes_of(
    first: Model, store: Dataset, rows: Int[np.ndarray, " n"]
) -> Int[np.ndarray, "n P"]:
    """Codes of a first stage."""
    read = jax.jit(lambda v, batch: first.task.read(v, batch, "codes").values["codes"])
    return np.asarray(read(first.inference, batch_of(first, store, rows)))[..., 0]
