"""Brain-Semantoks on three small real recordings: pretrained, untrained, and beside.

    python benchmarks/real_fmri.py --data DATA --out DIR
        [--sets hcp,pieman,haxby] [--seeds 0,1,2] [--steps 200] [a.b=c ...]

DATA holds the folders fmri_hcp_aal2, fmri_pieman_story and fmri_haxby_slice. The
network of `brain_semantoks/tiny` is pretrained without labels on training segments
alone, cut into pieces of two windows, so that both crops of a row are near in time:

hcp     who someone is, of six, from 60 volumes: first half of each run, second half
pieman  which 10 volumes of a story a listener hears, by the mean of all others;
        pretrained on the half of the listeners that the tested one is not of
haxby   which of eight kinds of pictures a block shows, leaving one run out; pretrained
        on the half of the runs that the tested one is not of

Which networks regions belong to is told by clusters of their correlations in training.
Layer and probe are chosen in training too, in the same way for the untrained network.
`baseline` is the simple method of the data's own page, computed here (of haxby on runs
scaled by all of their volumes, not by rest). A row for each set and seed is appended to
DIR/rows.jsonl; rows that are there are not made again.

Axes: R runs, C regions, T volumes of a run, N windows, F features.
"""

import argparse
import csv
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import journal
import nibabel
import numpy as np
from scipy.cluster import hierarchy
from sklearn.linear_model import LogisticRegression

from neurofm import config
from neurofm.data.layout import DatasetInfo
from neurofm.data.records import Dataset, open_dataset
from neurofm.data.writer import Recording, write_dataset
from neurofm.eval import probe
from neurofm.eval.examples import Examples
from neurofm.eval.features import piece_pools, vectors
from neurofm.eval.splits import Fold
from neurofm.eval.stats import interval, paired
from neurofm.eval.untrained import untrained
from neurofm.model import load
from neurofm.models.brain_semantoks_tokenizers import Branch
from neurofm.signals import bold
from neurofm.suites import entrants
from neurofm.train import pretrain

N_NETWORKS = 8
Points = dict[str, dict[str, float]]  # system -> item -> right or not


@dataclass(frozen=True)
class Shape:
    """Windows and patches of a set, in volumes, and the long kernel that fits them."""

    tr_s: float
    window: int
    patch: int
    kernel: int
    scales: int


SHAPES = {
    "hcp": Shape(0.72, 60, 20, 4, 3),
    "pieman": Shape(1.5, 10, 5, 2, 2),
    "haxby": Shape(2.5, 9, 3, 1, 2),
}


# ---- the network ---------------------------------------------------------------------


class Networks:
    """Pretrained on given runs, and as it was before its first step."""

    def __init__(self, name: str, runs: Sequence[np.ndarray], folder: Path, asked: Any):
        shape = SHAPES[name]
        length = 2 * shape.window
        pieces = [
            run[:, start : start + length]
            for run in runs
            for start in range(0, run.shape[1] - length + 1, length)
        ]
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        store(folder / "pieces", shape, pieces)
        table = [f"region-{i}\tnetwork-{n}" for i, n in enumerate(clusters(runs))]
        (folder / "networks.tsv").write_text("\n".join(["region\tnetwork", *table]))
        overrides = (
            f"data.path={folder / 'pieces'}",
            f"task.networks={folder / 'networks.tsv'}",
            f"task.window_samples={shape.window}",
            f"task.patch_samples={shape.patch}",
            f"task.tokenizer={json.dumps(branches(shape))}",
            "task.ema_start=0.95",  # the run is short
            f"seed={asked.seed}",
            f"train.steps={asked.steps}",
            f"train.checkpoint_every={asked.steps}",
            *asked.overrides,
        )
        exp = config.load("brain_semantoks/tiny", overrides)
        task = exp.task.fitted([open_dataset(folder / "pieces")])
        pretrain(replace(exp, task=task), folder / "run")
        model = load(folder / "run")
        self.folder, self.shape = folder, shape
        self.models = {"pretrained": model, "untrained": untrained(model)}

    def features(
        self, windows: Sequence[np.ndarray]
    ) -> dict[str, dict[str, np.ndarray]]:
        """System -> layer and pooling -> [N, F]."""
        read = store(self.folder / "windows", self.shape, windows)
        rows = np.arange(len(windows))
        examples = Examples(rows, None, rows, None, rows, [], {})
        return {
            name: dict(vectors(entrants.network(model), piece_pools, read, examples))
            for name, model in self.models.items()
        }


def branches(shape: Shape) -> list[dict[str, Any]]:
    """Those of the config, with a long kernel that fits into a patch."""
    long = Branch(kind="sgconv", width=24, kernel=shape.kernel, scales=shape.scales)
    return [vars(Branch(width=24)), vars(long)]


def store(folder: Path, shape: Shape, runs: Sequence[np.ndarray]) -> Dataset:
    """Runs as a record store, each a subject by itself."""
    names = tuple(f"region-{i}" for i in range(len(runs[0])))
    info = DatasetInfo(
        kind="fmri",
        sfreq=1 / shape.tr_s,
        unit="z",
        ch_names=names,
        payload="float32",
        processing={"tr_s": shape.tr_s, "atlas": "own"},
    )
    items = (
        Recording(item=f"{i:05d}", samples=x.astype(np.float32))
        for i, x in enumerate(runs)
    )
    write_dataset(folder, info, items)
    return open_dataset(folder)


def clusters(runs: Sequence[np.ndarray]) -> np.ndarray:
    """Number of the network of each region: Ward's clusters of their correlations."""
    r = np.mean([np.nan_to_num(np.corrcoef(run)) for run in runs], axis=0)
    tree = hierarchy.linkage(r, "ward")
    return hierarchy.fcluster(tree, N_NETWORKS, "maxclust")


def scaled(run: np.ndarray, detrend: bold.Detrend = "none") -> np.ndarray:
    """Regions to mean 0 and deviation 1; zeros where one never changes."""
    return np.nan_to_num(bold.prepared(run, detrend, ddof=0))


def classified(
    systems: Mapping[str, Mapping[str, np.ndarray]], target: np.ndarray, fold: Fold
) -> dict[str, np.ndarray]:
    """Right or not, item by item of the test rows."""
    return {
        name: probe.fit(found, target, fold).points for name, found in systems.items()
    }


def logistic(x: np.ndarray, target: np.ndarray, fold: Fold) -> np.ndarray:
    """Right or not by the pages' classifier: C = 1e-3, nothing standardised."""
    told = LogisticRegression(C=1e-3, max_iter=5000).fit(
        x[fold.train], target[fold.train]
    )
    return (told.predict(x[fold.test]) == target[fold.test]).astype(float)


# ---- who someone is ------------------------------------------------------------------


def hcp_windows(data: Path) -> tuple[list[np.ndarray], np.ndarray, Fold]:
    """Windows of both halves of everyone, scaled by half, and whose they are."""
    size, halves = SHAPES["hcp"].window, ([], [])
    for path in sorted((data / "fmri_hcp_aal2").glob("*.npz")):
        with np.load(path) as held:
            x = held["bold"].astype(float)
        for half, part in zip(halves, np.split(x, 2, axis=1), strict=True):
            half.append(np.split(scaled(part), part.shape[1] // size, axis=1))
    windows = [x for half in halves for mine in half for x in mine]
    who = [i for half in halves for i, mine in enumerate(half) for _ in mine]
    n = len(windows) // 2
    return windows, np.array(who), Fold(train=np.arange(n), test=np.arange(n, 2 * n))


def pairs(windows: Sequence[np.ndarray]) -> np.ndarray:
    """Correlations of all pairs of regions."""
    at = np.triu_indices(len(windows[0]), 1)
    return np.stack([np.corrcoef(x)[at] for x in windows])


def hcp(data: Path, folder: Path, asked: Any) -> Points:
    """Who someone is, of six; an item is a window, named by its subject."""
    windows, who, fold = hcp_windows(data)
    n = len(windows) // 2
    per = n // len(np.unique(who))
    runs = [np.concatenate(windows[i : i + per], axis=1) for i in range(0, n, per)]
    networks = Networks("hcp", runs, folder, asked)
    r = pairs(windows)
    systems = {**networks.features(windows), "connectivity": {"pairs": r}}
    right = classified(systems, who, fold)
    right["baseline"] = logistic(r, who, fold)
    items = [f"{who[i]}/{i}" for i in fold.test]
    return {k: dict(zip(items, x.tolist(), strict=True)) for k, x in right.items()}


# ---- which picture -------------------------------------------------------------------


def haxby_blocks(
    data: Path,
) -> tuple[dict[str, np.ndarray], list[np.ndarray], np.ndarray, np.ndarray]:
    """Runs without their trend, by name; blocks, what they show, and their runs."""
    source, size = data / "fmri_haxby_slice", SHAPES["haxby"].window
    image: Any = nibabel.load(source / "bold.nii.gz")
    mask: Any = nibabel.load(source / "mask.nii.gz")
    inside = np.asarray(mask.dataobj).reshape(image.shape[:3]) != 0
    volumes = np.asarray(image.dataobj)[inside].astype(float)
    with (source / "labels.tsv").open() as file:
        table = list(csv.DictReader(file, delimiter="\t"))
    of_run = np.array([row["run"] for row in table])
    label = np.array([row["label"] for row in table])
    runs, blocks, shown, run = {}, [], [], []
    for name in dict.fromkeys(of_run.tolist()):
        at = np.flatnonzero(of_run == name)
        runs[name] = scaled(volumes[:, at], "linear")
        begins = np.flatnonzero(label[at][1:] != label[at][:-1]) + 1
        for start in begins.tolist():
            block = label[at][start : start + size]
            if len(block) == size and set(block) == {block[0]} != {"rest"}:
                blocks.append(runs[name][:, start : start + size])
                shown.append(block[0])
                run.append(name)
    return runs, blocks, np.array(shown), np.array(run)


def left_out(run: np.ndarray, name: str) -> Fold:
    """Test one run, train on all others."""
    here = run == name
    return Fold(train=np.flatnonzero(~here), test=np.flatnonzero(here))


def haxby(data: Path, folder: Path, asked: Any) -> Points:
    """Which kind of picture a block shows; an item is a block, named by its run."""
    runs, blocks, shown, run = haxby_blocks(data)
    means = np.stack([x.mean(1) for x in blocks])
    out: Points = {}
    for part in range(2):
        tested = [*runs][part::2]
        seen = [x for name, x in runs.items() if name not in tested]
        networks = Networks("haxby", seen, folder / str(part), asked)
        systems = {**networks.features(blocks), "block means": {"means": means}}
        for name in tested:
            fold = left_out(run, name)
            right = classified(systems, shown, fold)
            right["baseline"] = logistic(means, shown, fold)
            for system, points in right.items():
                own = out.setdefault(system, {})
                own |= {f"{name}/{i}": p for i, p in enumerate(points.tolist())}
    return out


# ---- which part of a story -----------------------------------------------------------


def pieman_runs(data: Path) -> np.ndarray:
    """Everyone's 100 hubs, scaled, [R, C, T]."""
    with np.load(data / "fmri_pieman_story" / "pieman_htfa_weights.npz") as held:
        x = held["weights"].astype(float).swapaxes(1, 2)
    return np.stack([scaled(run) for run in x])


def segments(runs: np.ndarray) -> list[np.ndarray]:
    """All windows of everyone, one after another."""
    size = SHAPES["pieman"].window
    starts = range(runs.shape[2] - size + 1)
    return [run[:, i : i + size] for run in runs for i in starts]


def matched(found: np.ndarray, n_people: int) -> np.ndarray:
    """Share of each person's segments that are like those of the others, [R].

    Args:
      found: a row a segment, as `segments` gives them.
    """
    x = found.reshape(n_people, len(found) // n_people, -1)
    x = x - x.mean(1, keepdims=True)
    x = x / (x.std(1, keepdims=True) + 1e-9)
    total = x.sum(0)
    return np.array([shares(mine, (total - mine) / (n_people - 1)) for mine in x])


def shares(mine: np.ndarray, others: np.ndarray) -> float:
    """Share of segments [N, F] that correlate most with their own of the others.

    Segments that overlap the true one are left out.
    """
    n = len(mine)
    r = np.corrcoef(mine, others)[:n, n:]
    apart = np.abs(np.subtract.outer(np.arange(n), np.arange(n)))
    r[(apart > 0) & (apart < SHAPES["pieman"].window)] = -np.inf
    return float((r.argmax(1) == np.arange(n)).mean())


def pieman(data: Path, folder: Path, asked: Any) -> Points:
    """Which segment of the story is heard; an item is a listener, points a share."""
    runs = pieman_runs(data)
    everyone, windows = np.arange(len(runs)), segments(runs)
    plain = matched(np.stack([x.ravel() for x in windows]), len(runs))
    out: Points = {"baseline": {str(i): float(plain[i]) for i in everyone}}
    for part in range(2):
        tested = everyone[part::2]
        known = np.setdiff1d(everyone, tested)
        networks = Networks("pieman", [*runs[known]], folder / str(part), asked)
        for system, layers in networks.features(windows).items():
            scores = {layer: matched(x, len(runs)) for layer, x in layers.items()}
            best = max(scores, key=lambda layer: scores[layer][known].mean())
            own = out.setdefault(system, {})
            own |= {str(i): float(scores[best][i]) for i in tested}
    return out


SETS = {"hcp": hcp, "pieman": pieman, "haxby": haxby}


# ---- all of them ---------------------------------------------------------------------


def show(name: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Mean over seeds with its interval over subjects, listeners or runs."""
    items = list(rows[0]["points"]["baseline"])
    points = {
        system: np.array([[row["points"][system][i] for i in items] for row in rows])
        for system in rows[0]["points"]
    }
    groups = np.array([item.split("/")[0] for item in items])
    ones = np.ones(len(items))
    for system, x in points.items():
        found = interval(x, ones, groups)
        seeds = ", ".join(f"{m:.3f}" for m in x.mean(1))
        print(
            f"{name:7s} {system:13s} {found.value:.3f} [{found.low:.3f}, "
            f"{found.high:.3f}] of {len(items)} (seeds {seeds})"
        )
    gain = paired(points["pretrained"], points["untrained"], ones, groups)
    print(f"{name:7s} gain {gain.value:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}]")


def measured(asked: argparse.Namespace, name: str, seed: int) -> dict[str, Any]:
    """`points` of all systems on one set."""
    asked.seed = seed
    folder = asked.out / "runs" / f"{name}-{asked.steps}-{seed}"
    return {"points": SETS[name](asked.data, folder, asked)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--sets", default="hcp,pieman,haxby")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("overrides", nargs="*")
    asked = parser.parse_args()
    for name in asked.sets.split(","):
        wanted = []
        for seed in map(int, asked.seeds.split(",")):
            key = {"set": name, "seed": seed, "steps": asked.steps}
            key["overrides"] = asked.overrides
            made = partial(measured, asked, name, seed)
            wanted.append(journal.row(asked.out / "rows.jsonl", key, made))
        show(name, wanted)


if __name__ == "__main__":
    main()
