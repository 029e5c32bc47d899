"""Evoked and steady-state responses in EEG, within people: pretrained and untrained.

    python benchmarks/real_eeg.py --data DATA --out DIR
        [--tasks visualoddball,n170,ssvep] [--seeds 0,1,2] [--folds 0,1,2]
        [--steps 300] [a.b=c ...]

DATA holds the folder muse_erp. For each task and seed its runs are dealt to three
folds; BrainTokenizer and BrainOmni are pretrained on the runs of two (no event is
used), and a linear discriminant with automatic shrinkage on the tokens of every source,
in order and not pooled, is fitted there and scored on the runs of the third: area under
the curve, or accuracy for flicker, the mean over its runs. Beside them the same network
untrained, and band-passed epochs at 32 Hz (for flicker log ratios of power) with the
same discriminant. A row for each is appended to DIR/rows.jsonl; rows that are there are
not made again.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import journal
import numpy as np
from scipy import signal as filters
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from neurofm import config
from neurofm.data.records import Dataset, open_dataset
from neurofm.eval import examples as exampling
from neurofm.eval import pieces
from neurofm.eval.features import piece_pools, vectors
from neurofm.eval.untrained import untrained
from neurofm.model import load
from neurofm.suites import entrants
from neurofm.train import pretrain

N_FOLDS = 3
REJECT_V = 100e-6  # peak to peak, of band-passed epochs
LAYER = "layer_02/tokens"  # the last block but one


@dataclass(frozen=True)
class Paradigm:
    """Whose runs, which seconds around an event, and how epochs are filtered."""

    subject: str
    around: tuple[float, float]
    band: tuple[float, float] | None  # None: log ratios of power at flicker rates


TASKS = {
    "visualoddball": Paradigm("01", (0.0, 0.8), (1.0, 15.0)),
    "visualoddball-03": Paradigm("03", (0.0, 0.8), (1.0, 15.0)),  # negative control
    "n170": Paradigm("01", (0.0, 0.6), (1.0, 20.0)),
    "auditoryoddball": Paradigm("01", (0.0, 0.8), (1.0, 15.0)),
    "ssvep": Paradigm("01", (0.5, 3.0), None),
}


def settings(task: str) -> tuple[str, ...]:
    """The quickstart's networks for 4 sensors at 128 Hz and windows of an example."""
    low, high = TASKS[task].around
    samples = round((high - low) * 128) // 16 * 16
    sizes = (f"segment_samples={samples}", "n_sensors=4")
    return tuple(f"task.{size}" for size in sizes)


def prepared(data: Path, out: Path, task: str) -> Dataset:
    """The runs of a task and person as a store at 128 Hz."""
    from data_pipelines.meeg import bids
    from data_pipelines.meeg.settings import Settings

    how = Settings(sfreq=128.0, band=(0.5, 48.0), line_freq=60.0)
    only = {"task": (task.split("-")[0],), "subject": (TASKS[task].subject,)}
    store = out / "records" / task
    bids.prepare(data / "muse_erp", store, settings=how, only=only, workers=1)
    return open_dataset(store)


def pretrained(
    dataset: Dataset,
    workdir: Path,
    task: str,
    seed: int,
    tested: list[str],
    asked: Any,
) -> tuple[Path, Path]:
    """Workdirs of both stages, which saw no tested run."""
    held_out = f"data.hold_out={json.dumps([f'run={run}' for run in tested])}"
    common = (
        f"data.path={dataset.path}",
        held_out,
        f"seed={seed}",
        f"train.steps={asked.steps}",
        f"train.checkpoint_every={asked.steps}",
    )
    sizes = settings(task)
    window = sizes[0].replace("segment", "window")
    first = (*common, *sizes, window, *asked.overrides)
    exp = config.load("brainomni/quickstart_tokenizer", first)
    pretrain(exp, workdir / "tokenizer")
    second = (*common, *sizes, f"init.frozen.tokenizer={workdir / 'tokenizer'}")
    pretrain(config.load("brainomni/quickstart", second), workdir / "brainomni")
    return workdir / "tokenizer", workdir / "brainomni"


def epochs(
    dataset: Dataset, spans: Sequence[tuple[int, int, int]], task: str
) -> np.ndarray:
    """Classic features of stretches (recording, first and past-last sample): [N, F]."""
    band, sfreq = TASKS[task].band, dataset.info.sfreq
    rows = []
    for item, start, stop in spans:
        if band is not None:
            # Filtered with a second on both sides, as far as the run goes.
            n = int(dataset.items["n_samples"][int(item)].as_py())
            first = max(int(start) - round(sfreq), 0)
            past = min(int(stop) + round(sfreq), n)
            x = dataset.read(int(item), first, past)
            sos = filters.butter(4, band, "bandpass", fs=sfreq, output="sos")
            x = filters.sosfiltfilt(sos, x, axis=1)
            at = int(start) - first
            rows.append(x[:, at : at + int(stop - start)][:, ::4].ravel())
        else:
            x = dataset.read(int(item), int(start), int(stop))
            hz, power = filters.periodogram(x, sfreq, nfft=4 * int(sfreq))
            ratios = []
            for f in (20.0, 30.0, 40.0):
                near = (np.abs(hz - f) >= 1) & (np.abs(hz - f) <= 4)
                at = np.abs(hz - f) <= 0.5
                ratios.append(power[:, at].mean(1) / power[:, near].mean(1))
            rows.append(np.log(np.concatenate(ratios)))
    return np.stack(rows)


def score(
    x: np.ndarray,
    target: np.ndarray,
    train: np.ndarray,
    test: np.ndarray,
    run: np.ndarray,
    auc: bool,
) -> dict[str, float]:
    """Area under the curve, or accuracy, of every tested run."""
    lda = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")
    probe = make_pipeline(StandardScaler(), lda).fit(x[train], target[train])
    out = {}
    for name in np.unique(run[test]):
        rows = test[run[test] == name]
        if auc:
            out[str(name)] = roc_auc_score(
                target[rows] == probe.classes_[1], probe.decision_function(x[rows])
            )
        else:
            out[str(name)] = float((probe.predict(x[rows]) == target[rows]).mean())
    return out


def scored(asked: Any, task: str, seed: int, fold: int) -> dict[str, Any]:
    """`scores` of all systems on one fold of one task."""
    dataset = prepared(asked.data, asked.out, task)
    every = exampling.from_dataset(dataset, "trial_type", "run", "logo")
    cut, examples = pieces.cut(dataset, every, TASKS[task].around)
    run = np.array(cut.items["run"].to_pylist())
    names = sorted(set(run))
    tested = names[fold::N_FOLDS]
    auc = TASKS[task].band is not None
    classic = epochs(dataset, [*zip(cut.row, cut.start, cut.stop, strict=True)], task)
    good = np.ones(len(run), bool)
    if auc:
        peak = np.ptp(classic.reshape(len(run), 4, -1), axis=2).max(1)
        good = peak < REJECT_V
    train = np.flatnonzero(good & ~np.isin(run, tested))
    test = np.flatnonzero(good & np.isin(run, tested))
    workdir = asked.out / "runs" / f"{task}-{asked.steps}-{seed}-{fold}"
    tokenizer, brainomni = (
        load(path) for path in pretrained(dataset, workdir, task, seed, tested, asked)
    )
    batch = entrants.first_batch(brainomni, cut, examples.row[train])
    networks = {
        "untrained": (untrained(brainomni, batch), LAYER),
        "tokenizer": (tokenizer, "last/tokens"),
        "brainomni": (brainomni, LAYER),
    }
    scores = {"baseline": score(classic, examples.target, train, test, run, auc)}
    for name, (model, layer) in networks.items():
        found = vectors(entrants.network(model), piece_pools, cut, examples)
        x = found[layer].astype(float)
        scores[name] = score(x, examples.target, train, test, run, auc)
    return {"scores": scores}


def measured(asked: argparse.Namespace) -> list[dict[str, Any]]:
    """The rows that are asked for, made where they are not there yet."""
    wanted = []
    for task in asked.tasks.split(","):
        for seed in map(int, asked.seeds.split(",")):
            for fold in map(int, asked.folds.split(",")):
                key = {"task": task, "seed": seed, "fold": fold, "steps": asked.steps}
                key["overrides"] = asked.overrides
                made = partial(scored, asked, task, seed, fold)
                wanted.append(journal.row(asked.out / "rows.jsonl", key, made))
    return wanted


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tasks", default="visualoddball,n170,ssvep")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--folds", default=",".join(map(str, range(N_FOLDS))))
    parser.add_argument("overrides", nargs="*")
    asked = parser.parse_args()
    wanted = measured(asked)
    for task in asked.tasks.split(","):
        mine = [row for row in wanted if row["task"] == task]
        for system in mine[0]["scores"]:
            seeds = [
                np.mean(
                    [
                        value
                        for row in mine
                        if row["seed"] == seed
                        for value in row["scores"][system].values()
                    ]
                )
                for seed in dict.fromkeys(row["seed"] for row in mine)
            ]
            n = sum(len(row["scores"][system]) for row in mine) // len(seeds)
            print(
                f"{task:18s} {system:10s} {np.mean(seeds):.3f} "
                f"(seeds {min(seeds):.3f}-{max(seeds):.3f}, {n} runs)"
            )


if __name__ == "__main__":
    main()
