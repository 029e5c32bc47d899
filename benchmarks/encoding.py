"""Linear encoding models on four small real recordings, beside simple baselines.

    python benchmarks/encoding.py --data DATA [--sets nitime haxby grasshopper pieman]

DATA holds a folder of each set. `ridge` chooses penalties for each target on training
rows; `baseline` has a fixed one, or none; `control` is given the input at other times.

Axes: T rows (time), V targets, S subjects.
"""

import argparse
import csv
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import nibabel
import numpy as np
from scipy.ndimage import gaussian_filter1d
from scipy.signal import detrend

from neurofm.data.records import DatasetInfo, Recording, write_dataset
from neurofm.encoding import folds, ridge
from neurofm.encoding.delays import fir
from neurofm.encoding.scores import correlation, mean_of_known
from neurofm.evaluate import evaluate

PENALTIES = np.logspace(-1, 6, 15)


class Row(NamedTuple):
    """A line of the table."""

    what: str
    scores: dict[str, float]
    n: str


# ---- spikes from the envelope of a sound ----


def grasshopper(data: Path) -> Iterator[Row]:
    """Rate of a receptor neuron from its sound: 2 ms bins, 15 lags, the last quarter.

    What is scored is the rate smoothed by a Gaussian of 3 ms. The baseline fits counts;
    a second row fits the smoothed rate.
    """
    for number in (1, 2):
        with np.load(data / "spikes_grasshopper" / f"recording{number}.npz") as held:
            volts, rate = held["stimulus_volts"].astype(float), held["stimulus_rate"]
            spikes = held["spike_times_s"]
        width = round(0.002 * float(rate))
        n = len(volts) // width
        split = round(0.75 * n)
        decibel = 20 * np.log10(np.maximum(volts[: n * width], 1e-9) / 2e-5)
        x = _scaled(decibel.reshape(n, width).mean(1), split)
        counts = np.histogram(spikes, np.arange(n + 1) * width / float(rate))[0]
        smooth = gaussian_filter1d(counts.astype(float), 0.003 / 0.002)
        X, told = fir(x[:, None], range(15), None), f"grasshopper, recording {number}"
        for y, what in ((counts, "counts fitted"), (smooth, "smoothed rate fitted")):
            scores = _beside_baseline(X, _scaled(y, split), split, smooth)
            yield Row(f"{told}, {what}", scores, f"{n - split} bins")


# ---- BOLD from events ----


def nitime(data: Path) -> Iterator[Row]:
    """One region from six kinds of events: 15 lags of 2 s, the second half."""
    with (data / "fmri_nitime" / "event_related_fmri.csv").open() as file:
        table = list(csv.DictReader(file))
    bold = np.array([float(row["bold"]) for row in table])
    events = np.array([round(float(row["events"])) for row in table])
    X = fir((events[:, None] == np.arange(1, 7)).astype(float), range(15), None)
    split = len(bold) // 2
    scores = _beside_baseline(X, _scaled(bold, split), split, bold)
    yield Row("nitime, BOLD from events", scores, f"{len(bold) - split} volumes")


def _beside_baseline(X, y, split: int, truth) -> dict[str, float]:
    """Correlation after `split` of ridge with a chosen penalty, and with 10."""
    Y, truth = y[:split, None], truth[split:, None].astype(float)
    fitted = ridge.fit(X[:split], Y, PENALTIES, folds.contiguous(split))
    fixed = ridge.solve(X[:split], Y, np.array([10.0]))
    moved = np.roll(X[split:], len(truth) // 2, 0)
    return {
        "ridge": _r(truth, X[split:] @ fitted.weights),
        "baseline": _r(truth, X[split:] @ fixed),
        "control": _r(truth, moved @ fitted.weights),
    }


def _scaled(x: np.ndarray, split: int) -> np.ndarray:
    """By mean and deviation of the rows before `split`."""
    return (x - x[:split].mean()) / x[:split].std()


def _r(truth, guess) -> float:
    return float(mean_of_known(correlation(truth, np.asarray(guess, truth.dtype))))


# ---- voxels from the categories of pictures, through the suite ----

HAXBY_TR = 2.5


def haxby(data: Path, out: Path) -> Iterator[Row]:
    """530 voxels from eight categories: leave one run out, by `neurofm evaluate`."""
    prepare_haxby(data / "fmri_haxby_slice", out)
    found = evaluate(
        [out / "categories"],
        data=out / "voxels",
        out=out / "scores",
        suite="encoding",
        atlas=data / "fmri_haxby_slice" / "mask.nii.gz",
    )
    share = found["significance"]["share"]
    scores = {
        "ridge": found["scores"]["model"]["mean"],
        "control": found["scores"]["chance"]["mean"],
    }
    what = f"haxby, voxels from categories ({share:.0%} at q <= 0.05)"
    yield Row(what, scores, f"{found['scores']['model']['n']} volumes, 530 voxels")


def prepare_haxby(source: Path, out: Path) -> None:
    """Stores of the runs, linearly detrended, and of their categories.

    Each run is a stimulus of its own, as its blocks are.
    """
    image: Any = nibabel.load(source / "bold.nii.gz")
    mask = np.asarray(cast(Any, nibabel.load(source / "mask.nii.gz")).dataobj) != 0
    mask = mask.reshape(image.shape[:3])
    bold = np.asarray(image.dataobj)[mask].astype(float)
    with (source / "labels.tsv").open() as file:
        table = list(csv.DictReader(file, delimiter="\t"))
    kinds = sorted({row["label"] for row in table} - {"rest"})
    labels, runs, shown = [row["label"] for row in table], [], []
    of_run = np.array([row["run"] for row in table])
    for run in dict.fromkeys(of_run):
        at = np.flatnonzero(of_run == run)
        x = np.array([[labels[i] == kind for i in at] for kind in kinds], np.float32)
        y = detrend(bold[:, at], axis=1)
        y = (y / np.maximum(y.std(1, keepdims=True), 1e-9)).astype(np.float32)
        meta = {"subject": "1", "timeline": f"run-{run}", "run": run}
        runs.append(Recording(item=f"run-{run}", samples=y, meta=meta))
        shown.append(Recording(item=f"run-{run}", samples=x, meta=meta))
    names = ["voxel-" + "-".join(map(str, at)) for at in np.argwhere(mask)]
    told: dict[str, Any] = {"tr_s": HAXBY_TR, "atlas": "voxels of mask.nii.gz"}
    _write(out / "voxels", "fmri", names, runs, told)
    told = {"modality": "video", "model": "categories", "layers": 1, "width": 8}
    _write(out / "categories", "features", kinds, shown, told)


def _write(out: Path, kind: str, names, recordings, told: dict[str, Any]) -> None:
    info = DatasetInfo(
        kind=kind,
        sfreq=1 / HAXBY_TR,
        unit="none",
        ch_names=tuple(names),
        payload="float32",
        processing=told,
    )
    write_dataset(out, info, recordings)


# ---- a listener from the others ----

GAP, TEST, SEGMENT = 10, 90, 10  # volumes of 1.5 s
LAGS = (-1, 0, 1)


def pieman(data: Path, people: int | None = None) -> Iterator[Row]:
    """A listener of a story from the mean of the others, new in person and in time.

    For each person a ridge from the mean of others to one, fitted on the other 29 over
    the first 200 volumes, predicts that person's last 90 from the mean of the 29.
    `baseline` is that mean itself. `control` is given those 90 volumes of it moved by
    40 in a circle: it would score where a model knew the story by its place in time. A
    second row is the share of segments of 10 volumes that are told from all others of
    those 90.

    Args:
      people: how many are each held out in turn; by default everyone.
    """
    with np.load(data / "fmri_pieman_story" / "pieman_htfa_weights.npz") as held:
        x = held["weights"].astype(float)
    x = (x - x.mean(1, keepdims=True)) / x.std(1, keepdims=True)
    total, test = x.sum(0), slice(x.shape[1] - TEST, None)
    moved = np.roll(np.arange(TEST), 4 * SEGMENT)
    scores = {name: [] for name in ("ridge", "baseline", "control")}
    told = {name: [] for name in scores}
    for person in range(people or len(x)):
        weights = _of_others(np.delete(x, person, 0))
        mean = _z((total - x[person]) / (len(x) - 1))
        shown = fir(mean, LAGS, None)[test]
        guesses = {
            "ridge": shown @ weights,
            "baseline": mean[test],
            "control": shown[moved] @ weights,
        }
        for name, guess in guesses.items():
            scores[name].append(_r(x[person, test], guess))
            told[name].append(matched(x[person, test], guess))
    n = f"{len(told['ridge'])} people, {TEST} volumes, 100 hubs"
    means = {name: float(np.mean(each)) for name, each in scores.items()}
    yield Row("pieman, listener from others", means, n)
    means = {name: float(np.mean(each)) for name, each in told.items()}
    n = f"{len(told['ridge'])} people, {TEST - SEGMENT + 1} segments"
    yield Row("pieman, segments matched", means, n)


def _of_others(x: np.ndarray) -> np.ndarray:
    """Weights from the mean of all but one of these people to that one."""
    n_rows = x.shape[1] - TEST - GAP
    means = [_z((x.sum(0) - one) / (len(x) - 1)) for one in x]
    X = np.concatenate([fir(mean, LAGS, None)[:n_rows] for mean in means])
    Y = np.concatenate(x[:, :n_rows])
    time = np.tile(np.arange(n_rows), len(x))
    held = [np.flatnonzero(np.isin(time, part)) for part in folds.contiguous(n_rows)]
    return ridge.fit(X, Y, PENALTIES, held).weights


def _z(x: np.ndarray) -> np.ndarray:
    return (x - x.mean(0)) / x.std(0)


def matched(truth: np.ndarray, guess: np.ndarray) -> float:
    """Share of segments that correlate most with their own of all guessed ones.

    Those that overlap a segment are not compared with it (all hubs and volumes of a
    segment are one vector).
    """
    starts = np.arange(len(truth) - SEGMENT + 1)
    a, b = (
        np.stack([x[i : i + SEGMENT].ravel() for i in starts]) for x in (truth, guess)
    )
    r = np.corrcoef(a, b)[: len(a), len(a) :]
    near = abs(starts[:, None] - starts) < SEGMENT
    others = np.where(near, -np.inf, r).max(1)
    return float((np.diag(r) > others).mean())


# ---- all of them ----


def table(rows: Sequence[Row]) -> list[str]:
    """The rows in Markdown."""
    names = ("ridge", "baseline", "control")
    lines = ["| set | " + " | ".join(names) + " | tested on |", "|---" * 5 + "|"]
    for row in rows:
        cells = [f"{row.scores[n]:.3f}" if n in row.scores else "" for n in names]
        lines.append(f"| {row.what} | {' | '.join(cells)} | {row.n} |")
    return lines


SETS = ("grasshopper", "nitime", "haxby", "pieman")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=SETS)
    parser.add_argument("--out", type=Path, help="where the suite's results stay")
    given = parser.parse_args()
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        for name in given.sets:
            if name == "haxby":
                rows += haxby(given.data, given.out or Path(folder))
            else:
                rows += globals()[name](given.data)
    print("\n".join(table(rows)))


if __name__ == "__main__":
    main()
