"""Twenty seconds of real sEEG: spectrograms filled in, and what codes keep of them.

    python benchmarks/real_ieeg.py --data DATA --out DIR
        [--systems brainbert,log_power,waveform] [--seeds 0,1,2] [--steps 300]

DATA holds the folder ieeg. Networks are trained on the first 15 s and scored on the
last 5 s, with intervals over contacts, whose seconds are the same. It is one patient,
so nothing is said of others.

brainbert   `brainbert/tiny` fills in stripes of time and of frequency, hidden whole and
            the same for all: mean absolute error of what is hidden, in deviations of a
            frequency over its window. Beside it the same network untrained, the mean
            and straight lines over time.
log_power   `duin/tiny_vqvae` gives back from one of 128 codes every 100 ms what all
waveform    contacts do, as power in bands or, as released, as a waveform: R². Beside it
            the same network untrained and 128 k-means of the targets themselves.

A row for each is appended to DIR/rows.jsonl; rows that are there are not made again.
"""

import argparse
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import journal
import numpy as np
from sklearn.cluster import KMeans

from neurofm import config
from neurofm.data.records import Dataset, Recording, open_dataset, write_dataset
from neurofm.embedding.electrodes import names_of
from neurofm.eval.stats import interval
from neurofm.eval.untrained import untrained
from neurofm.model import Model, load
from neurofm.quickstart.filled import interpolated, predicted
from neurofm.task import Batch
from neurofm.train import pretrain

FILE, SFREQ = "sample_seeg.edf", 1000
TRAIN_S, TEST_S = 15, 5
REFERENCE = {
    "brainbert": "laplacian",
    "log_power": "bipolar",
    "waveform": "bipolar",
}
LEARN_EVERY = 130  # samples between windows that k-means learns from
BRAINBERT = (
    f"task.sfreq={SFREQ}.0",
    "task.window_samples=2400",
    *("task.frame_samples=200", "task.hop_samples=25", "task.edge_frames=4"),
    *("task.dropout=0.0", "train.batch_size=32"),
)
DUIN = ("task.trunk.segment_samples=2500", "train.batch_size=8")
Scores = dict[str, dict[str, float]]


def prepared(data: Path, out: Path, reference: str) -> tuple[Dataset, Dataset]:
    """The recording as `neurofm prepare ieeg` makes it, and its first seconds alone."""
    from data_pipelines.ieeg import prepare
    from data_pipelines.ieeg.settings import Settings

    how = Settings(sfreq=float(SFREQ), reference=reference)
    store, first = out / reference / "whole", out / reference / "first"
    if not (store / "dataset.json").is_file():
        prepare.prepare(data / "ieeg" / FILE, store, settings=how, workers=1)
    whole = open_dataset(store)
    if not (first / "dataset.json").is_file():
        info = replace(whole.info, ch_names=names_of(whole, 0), payload="float32")
        x = whole.read(0, 0, TRAIN_S * SFREQ)
        write_dataset(first, info, [Recording(item="first", samples=x)])
    return whole, open_dataset(first)


def windows(whole: Dataset, start_s: int, stop_s: int, n: int, every: int):
    """Signals of all contacts [N, C, n], one window every so many samples."""
    x = whole.read(0, start_s * SFREQ, stop_s * SFREQ)
    starts = range(0, x.shape[1] - n + 1, every)
    return np.stack([x[:, start : start + n] for start in starts])


# ---- BrainBERT -----------------------------------------------------------------------


def filled(model: Model, whole: Dataset, seed: int) -> Scores:
    """Mean error of each system, and of the model less each other one."""
    del seed
    task: Any = model.task
    n = task.window_samples
    x = windows(whole, TRAIN_S, TRAIN_S + TEST_S, n, n).swapaxes(0, 1)  # [C, N, n]
    contact = np.repeat(np.arange(len(x)), x.shape[1])
    batch = {
        "ieeg/signal": x.reshape(-1, 1, n),
        "ieeg/length": np.full(len(contact), n, np.int32),
        "index": np.arange(len(contact), dtype=np.int32),
        "valid": np.ones(len(contact), bool),
    }
    truth, hidden, guess = predicted(task, model, batch)
    guesses = {
        "model": guess,
        "untrained": predicted(task, untrained(model), batch)[2],
        "mean": np.zeros_like(truth),
        "interpolation": interpolated(truth, hidden),
    }
    weights = hidden.sum((1, 2)).astype(float)
    error = {k: (np.abs(x - truth) * hidden).sum((1, 2)) for k, x in guesses.items()}
    return compared(error, weights, contact)


# ---- Du-IN ---------------------------------------------------------------------------


def rebuilt(model: Model, batch: Batch) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Targets [N, P, C, R], what is told of them, and which tokens count."""
    task: Any = model.task

    @jax.jit
    def both(variables: Any, batch: Batch):
        own, params = task.trunk, variables["params"]
        x, _ = own.signals(batch)
        _, layers, there = task.codes(variables, batch)
        found = task.coded(variables, layers[-1], there)
        vectors = found.vectors.reshape(layers[-1].shape)
        told = task.told(params, task.decoded(params, vectors, there), batch["subject"])
        target, counted = task.targets(x, there)
        return target, told, counted[..., 0, 0]

    return jax.device_get(both(model.variables, batch))


def kept(model: Model, whole: Dataset, seed: int) -> Scores:
    """R² of each system, and of the model less each other one."""
    task: Any = model.task
    n = task.trunk.segment_samples

    def batch_of(x: np.ndarray) -> dict[str, np.ndarray]:
        return {
            "ieeg/signal": x,
            "ieeg/channel_mask": np.ones(x.shape[:2], bool),
            "ieeg/length": np.full(len(x), n, np.int32),
            "subject": np.zeros(len(x), np.int32),
            "index": np.arange(len(x), dtype=np.int32),
            "valid": np.ones(len(x), bool),
        }

    learnt = batch_of(windows(whole, 0, TRAIN_S, n, LEARN_EVERY))
    tested = batch_of(windows(whole, TRAIN_S, TRAIN_S + TEST_S, n, n))
    target, told, counted = rebuilt(model, tested)
    codes = KMeans(task.n_codes, n_init=1, random_state=seed)
    before, _, there = rebuilt(model, learnt)
    codes.fit(before[there].reshape(there.sum(), -1))
    truth = target[counted]  # [M, C, R]
    nearest = codes.predict(truth.reshape(len(truth), -1))
    start = untrained(model, {name: x[:8] for name, x in learnt.items()})
    guesses = {
        "model": told[counted],
        "untrained": rebuilt(start, tested)[1][counted],
        "k-means": codes.cluster_centers_[nearest].reshape(truth.shape),
    }
    weights = np.square(truth).sum((0, 2)).astype(float)
    explained = {
        k: weights - np.square(x - truth).sum((0, 2)) for k, x in guesses.items()
    }
    return compared(explained, weights, np.arange(len(weights)))


# ---- all of them ---------------------------------------------------------------------


def compared(
    points: dict[str, np.ndarray], weights: np.ndarray, contact: np.ndarray
) -> Scores:
    """Scores with intervals over contacts, and the model's less each other one's."""
    asked = dict(points)
    for name, other in points.items():
        if name != "model":
            asked[f"model - {name}"] = points["model"] - other
    return {k: vars(interval(x, weights, contact)) for k, x in asked.items()}


def measured(asked: argparse.Namespace, system: str, seed: int) -> dict[str, Scores]:
    """`scores` of one network, which is trained, or goes on."""
    whole, first = prepared(asked.data, asked.out, REFERENCE[system])
    given = (
        f"data.path={first.path}",
        f"seed={seed}",
        f"train.steps={asked.steps}",
        f"train.checkpoint_every={asked.steps}",
        "eval.every=0",
    )
    if system == "brainbert":
        exp = config.load("brainbert/tiny", (*given, *BRAINBERT))
    else:
        exp = config.load("duin/tiny_vqvae", (*given, *DUIN, f"task.target={system}"))
    workdir = asked.out / "runs" / f"{system}-{asked.steps}-{seed}"
    outcome = pretrain(exp, workdir)
    if outcome.status != "done":
        raise SystemExit(outcome.sentence)
    score = filled if system == "brainbert" else kept
    return {"scores": score(load(workdir), whole, seed)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--systems", default="brainbert,log_power,waveform")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--steps", type=int, default=300)
    asked = parser.parse_args()
    for system in asked.systems.split(","):
        for seed in map(int, asked.seeds.split(",")):
            key = {"system": system, "seed": seed, "steps": asked.steps}
            made = partial(measured, asked, system, seed)
            row = journal.row(asked.out / "rows.jsonl", key, made)
            for name, one in row["scores"].items():
                span = f"{one['value']:.3f} [{one['low']:.3f}, {one['high']:.3f}]"
                print(f"{system:10s} seed {seed}  {name:22s} {span}")


if __name__ == "__main__":
    main()
