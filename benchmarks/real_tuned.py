"""Fine-tuning on real recordings: a probe, low-rank additions, all of the network.

    python benchmarks/real_tuned.py --data DATA --out DIR [--sets fsdd,visualoddball]
        [--seeds 0,1,2] [--epochs 20]

DATA is what real_audio.py and real_eeg.py take, DIR/sound and DIR/eeg are where their
runs are, or will be: networks pretrained on all but the tested fold (the first of each
set). Each of them, and the same network untrained, is fine-tuned with the recipes
wavjepa/finetune and brainomni/finetune, the best epoch is chosen on part of what was
pretrained on (another speaker, fold, songs or run), and the tested fold is told once:
accuracy, or the area under the curve of every run. Rates, and what heads are given, are
the best of a few by validation: of fsdd with seed 0, and of the EEG of another task,
auditoryoddball. (The first rates of sound were too low, which the tested fold of fsdd
showed too; the first heads of EEG learnt little, as tested runs showed too.) A row
for each is appended to DIR/tuned.jsonl; rows that are there are not made again.
"""

import argparse
import csv
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import journal
import numpy as np
import real_audio
import real_eeg
from sklearn.metrics import roc_auc_score

from neurofm import config, model
from neurofm.data import labelled
from neurofm.data.records import Dataset, open_dataset
from neurofm.eval.stats import interval, paired
from neurofm.eval.untrained import untrained
from neurofm.finetune import best_step, finetune, predict
from neurofm.stores import place
from neurofm.suites import entrants

# Of the network, head and all; the head learns ten times as fast.
RATES = {
    "sound": {"probe": 1e-2, "lora": 1e-2, "full": 2e-3},
    "eeg": {"probe": 1e-4, "lora": 1e-4, "full": 1e-4},
}
SYSTEMS = {
    "fsdd": "sound",
    "esc10": "sound",
    "birdsong": "sound",
    "visualoddball": "eeg",
    "n170": "eeg",
    "ssvep": "eeg",
}
START = ("pretrained", "untrained")


class Case(NamedTuple):
    """What one network is tuned on.

    Attributes:
      recipe: config of the fine-tuning.
      settings: what it takes beside.
      run: the pretrained network.
      units: what a score is of (an item, a run), in the order of `classic`.
      clusters: what each unit is resampled with.
      classic: scores of what is not fine-tuned, by system.
    """

    recipe: str
    settings: tuple[str, ...]
    run: Path
    units: list[str]
    clusters: list[str]
    classic: dict[str, list[float]]


# ---- what is told, and from which network --------------------------------------------


def sound(asked: argparse.Namespace, name: str, seed: int) -> Case:
    given = real_audio.SETS[name]
    tested = given.values[0]
    one = vars(asked) | {"sets": name, "folds": "first", "seeds": str(seed)}
    one |= {"steps": 600, "settings": []}
    (row,) = real_audio.measured(argparse.Namespace(**one))
    table = asked.out / name / "split.tsv"
    if not table.is_file():
        with_split(asked.data / name / given.prepare[1], table, name)
    records = asked.out / name / "split"
    if not (records / "dataset.json").is_file():
        words = ("--labels", table, *given.prepare[2:])
        folder = asked.data / name / "audio"
        real_audio.neurofm("prepare", "audio", folder, "--out", records, *words)
    settings = (
        f"data.path={records}",
        f"data.target={given.target}",
        "task.pool=bins",
    )
    clusters = row["cluster"]
    if len(set(clusters)) == 1:
        clusters = row["recording"]
    units = list(map(str, range(len(clusters))))
    run = asked.out / name / tested / f"seed_{seed}"
    return Case("wavjepa/finetune", settings, run, units, clusters, row["right"])


def with_split(labels: Path, out: Path, name: str) -> None:
    """The labels of a set with a split: the first fold is tested, the next is valid.

    Of birdsong the first songs are, and a class that no other song holds is left out.
    """
    rows = list(csv.DictReader(labels.open(), delimiter="\t"))
    given = real_audio.SETS[name]

    def fold(row: dict[str, str]) -> str:
        if given.fold != "day":
            return row[given.fold]
        return row["file"].split("_")[1]

    word = given.target if given.target in rows[0] else "label"
    others = sorted({row["file"] for row in rows if fold(row) != given.values[0]})
    held = set(others[:3])
    if given.fold != "day":
        held = {row["file"] for row in rows if fold(row) == given.values[1]}
    trained = {row[word] for row in rows if row["file"] in set(others) - held}
    rows = [row for row in rows if row[word] in trained]
    for row in rows:
        inside = "valid" if row["file"] in held else "train"
        row["file"] = row["file"].removeprefix("audio/")
        row["split"] = "test" if fold(row) == given.values[0] else inside
    with out.open("w", newline="") as file:
        writer = csv.DictWriter(
            file, list(rows[0]), delimiter="\t", lineterminator="\n"
        )
        writer.writeheader()
        writer.writerows(rows)


def eeg(asked: argparse.Namespace, name: str, seed: int) -> Case:
    from data_pipelines.meeg import bids
    from data_pipelines.meeg.settings import Settings

    one = vars(asked) | {"tasks": name, "seeds": str(seed), "folds": "0"}
    one |= {"steps": 300, "overrides": []}
    (row,) = real_eeg.measured(argparse.Namespace(**one))
    scores = row["scores"]
    runs = sorted(
        {*open_dataset(asked.out / "records" / name).items["run"].to_pylist()}
    )
    tested = runs[:: real_eeg.N_FOLDS]
    left = [run for run in runs if run not in tested]
    held = left[:: max(len(left) // 2, 1)][: max(len(left) // 3, 1)]
    store = asked.out / "split" / name
    if not (store / "dataset.json").is_file():
        source = asked.data / "muse_erp"
        files = [
            row["file"]
            for row in csv.DictReader(
                (source / "recordings.tsv").open(), delimiter="\t"
            )
        ]
        part = dict.fromkeys(tested, "test") | dict.fromkeys(held, "valid")
        lines = [
            f"{file}\t{part.get(file.split('_run-')[1].split('_')[0], 'train')}"
            for file in files
        ]
        store.parent.mkdir(parents=True, exist_ok=True)
        table = store.with_suffix(".tsv")
        table.write_text("\n".join(["file\tsplit", *lines]) + "\n")
        how = Settings(sfreq=128.0, band=(0.5, 48.0), line_freq=60.0)
        person = real_eeg.TASKS[name].subject
        only = {"task": (name,), "subject": (person,)}
        bids.prepare(source, store, settings=how, only=only, labels=table, workers=1)
    low, high = real_eeg.TASKS[name].around
    settings = (
        f"data.path={store}",
        "data.target=trial_type",
        f"data.around=[{low},{high}]",
        "train.batch_size=32",
        "task.class_weight=balanced",
        *("task.pool=bins", "task.bins=6", "task.standardise=true"),
        "task.head=linear",
    )
    units = sorted(scores["baseline"])
    classic = {name: [values[u] for u in units] for name, values in scores.items()}
    run = asked.out / "runs" / f"{name}-300-{seed}-0" / "brainomni"
    return Case("brainomni/finetune", settings, run, units, units, classic)


# ---- one fine-tuning -----------------------------------------------------------------


def tuned(
    asked: argparse.Namespace, name: str, seed: int, start: str, regime: str, case: Case
) -> dict[str, Any]:
    """`points` of the units of a case, and their `clusters`."""
    workdir = asked.out / "tuned" / f"{name}-{seed}-{start}-{regime}-{asked.epochs:g}"
    from_model = case.run
    if start == "untrained":
        from_model = fresh(case, workdir.parent / f"{name}-{seed}-untrained")
    settings = (
        *case.settings,
        f"task.regime={regime}",
        f"optim.lr={RATES[SYSTEMS[name]][regime]}",
        f"train.epochs={asked.epochs}",
        f"seed={seed}",
    )
    exp = config.load(case.recipe, settings)
    if finetune(exp, from_model, workdir).outcome.status != "done":
        sys.exit("cut short: run the same command again")
    exp = config.load(str(workdir / "config.json"))
    step = best_step(place(workdir), exp.eval.metric)
    best = model.load(workdir / "checkpoints" / str(step))
    dataset = open_dataset(exp.data.paths[0])
    spec = exp.task.batch_spec("train")
    found = labelled.find([dataset], spec, exp.data, "test")
    guess = predict(best, exp, [dataset], "test", len(found))
    truth = labelled.labels(found, spec)
    clusters = case.clusters
    if SYSTEMS[name] == "eeg":
        points = of_runs(name, dataset, found, guess, truth, case.units)
    else:
        points = (guess.argmax(1) == truth).astype(float).tolist()
        if len(found) < len(clusters):  # a syllable shorter than a token is left out
            names = dataset.items["item"].to_pylist()
            clusters = [names[i] for i in found.item.tolist()]
    return {"points": points, "clusters": clusters}


def fresh(case: Case, folder: Path) -> Path:
    """The network of a case as it was before pretraining."""
    if not (folder / "config.json").is_file():
        pretrained = model.load(case.run)
        dataset = open_dataset(config.load(str(case.run / "config.json")).data.paths[0])
        rows = range(len(dataset.items))
        batch = entrants.first_batch(pretrained, dataset, rows)
        start = untrained(pretrained, batch)
        model.save(folder, start.task, start.variables, start.meta)
    return folder


def of_runs(
    name: str,
    dataset: Dataset,
    found: labelled.Labelled,
    guess: np.ndarray,
    truth: np.ndarray,
    units: list[str],
) -> list[float]:
    """Area under the curve of every tested run, or accuracy, as real_eeg.py has it."""
    auc = real_eeg.TASKS[name].band is not None
    spans = zip(found.item, found.start, found.stop, strict=True)
    peaks = real_eeg.epochs(dataset, [*spans], name)
    good = np.ones(len(truth), bool)
    if auc:
        good = np.ptp(peaks.reshape(len(truth), 4, -1), axis=2).max(1) < (
            real_eeg.REJECT_V
        )
    run = np.array(dataset.items["run"].to_pylist())[found.item]
    out = []
    for unit in units:
        mine = good & (run == unit)
        if auc:
            out.append(
                roc_auc_score(truth[mine] == 1, (guess[:, 1] - guess[:, 0])[mine])
            )
        else:
            out.append((guess.argmax(1) == truth)[mine].mean())
    return list(map(float, out))


# ---- the table -----------------------------------------------------------------------


def table(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Systems of every set, seeds averaged unit by unit, with 95 % intervals."""
    yield "| set | system | seeds | units | score | less untrained |"
    yield "|---" * 6 + "|"
    for name in dict.fromkeys(row["set"] for row in rows):
        mine = [row for row in rows if row["set"] == name]
        points = {
            system: np.array([r["points"] for r in mine if r["system"] == system])
            for system in dict.fromkeys(row["system"] for row in mine)
        }
        for system, of in points.items():
            row = next(r for r in mine if r["system"] == system)
            clusters, ones = np.array(row["clusters"]), np.ones(of.shape[1])
            cells = [of_interval(interval(of, ones, clusters)), ""]
            other = points.get(system.replace(*START))
            if other is not None and system.startswith(START[0]):
                n = min(len(of), len(other))
                gain = paired(of[:n], other[:n], ones, clusters)
                cells[1] = of_interval(gain)
            about = (name, system, len(of), len(clusters))
            yield f"| {' | '.join(map(str, (*about, *cells)))} |"


def of_interval(found: Any) -> str:
    return f"{found.value:.3f} [{found.low:.3f}, {found.high:.3f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--sets", default=",".join(SYSTEMS))
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--epochs", type=float, default=20.0)
    asked = parser.parse_args()
    rows = []
    for name in asked.sets.split(","):
        for seed in map(int, asked.seeds.split(",")):
            kind = SYSTEMS[name]
            below = argparse.Namespace(**vars(asked) | {"out": asked.out / kind})
            case = (sound if kind == "sound" else eeg)(below, name, seed)
            about = {"set": name, "seed": seed, "clusters": case.clusters}
            rows += [
                {**about, "system": system, "points": points}
                for system, points in case.classic.items()
            ]
            for regime in RATES[kind]:
                for start in START:
                    key = {"set": name, "seed": seed, "epochs": asked.epochs}
                    key["system"] = f"{start}, {regime}"
                    made = partial(tuned, asked, name, seed, start, regime, case)
                    rows.append(journal.row(asked.out / "tuned.jsonl", key, made))
    print("\n".join(table(rows)))


if __name__ == "__main__":
    main()
