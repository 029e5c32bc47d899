"""Scores on real recordings held out of pretraining: pretrained, untrained, log-mel.

    python benchmarks/real_audio.py --data DATA --out DIR [--sets fsdd,esc10,birdsong]
        [--folds first|all|NAME,NAME] [--seeds 0,1,2] [--steps 600] [a.b=c ...]

DATA holds the folders fsdd, esc10 and birdsong. A network is pretrained for every
(set, fold, seed) and sees no file of the fold's test. A row for each is appended to
DIR/rows.jsonl with what was right, item by item; rows of the same steps and settings
are not made again, and a pretraining that was cut short goes on. A table of all rows
that were asked for comes last, with 95 % intervals over speakers (fsdd), source
recordings (esc10) or songs (birdsong); with one of them tested, over recordings.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import journal

# The quickstart's network; windows of one second, which hold a digit or a syllable.
SMALL = ("task.window_samples=8079", "data.crops_per_clip=1")


@dataclass(frozen=True)
class Recordings:
    """How a set is prepared, read and scored; each value of `fold` is tested once."""

    prepare: tuple[str, ...]
    settings: tuple[str, ...]
    fold: str
    values: tuple[str, ...]
    target: str
    groups: str | None
    cluster: str


SETS = {
    "fsdd": Recordings(
        prepare=("--labels", "labels.tsv", "--sfreq", "8000"),
        settings=(*SMALL, "task.sfreq=8000"),
        fold="speaker",
        values=("george", "jackson", "nicolas", "theo", "yweweler"),
        target="digit",
        groups="speaker",
        cluster="speaker",
    ),
    "esc10": Recordings(
        prepare=("--labels", "labels.tsv", "--sfreq", "8000"),
        settings=("data.crops_per_clip=2",),
        fold="fold",
        values=("1", "2", "3", "4"),
        target="class",
        groups="freesound_id",
        cluster="freesound_id",
    ),
    "birdsong": Recordings(
        prepare=("--labels", "syllables.tsv", "--pattern", r"_(?P<day>[\d-]{10})_"),
        settings=("task.sfreq=16000", "data.crops_per_clip=8"),
        fold="day",
        values=("2012-03-24",),
        target="trial_type",
        groups=None,
        cluster="item",
    ),
}
COLUMNS = ("model", "untrained", "logmel_mean_std", "logmel_bins8", "chance")


def neurofm(*arguments: str | Path) -> None:
    command = [sys.executable, "-m", "neurofm", *map(str, arguments), "--json"]
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)


def job(
    name: str,
    value: str,
    seed: int,
    steps: int,
    more: Sequence[str],
    data: Path,
    out: Path,
) -> dict[str, Any]:
    """Pretrain and score one network."""
    given, records = SETS[name], out / name / "records"
    words = list(given.prepare)
    words[1] = str(data / name / words[1])
    if not (records / "dataset.json").is_file():
        neurofm("prepare", "audio", data / name / "audio", "--out", records, *words)
    workdir = out / name / value / f"seed_{seed}"
    rule = f"{given.fold}={value}"
    settings = (
        *given.settings,
        f"data.path={records}",
        f"data.hold_out=[{json.dumps(rule)}]",
        f"train.steps={steps}",
        f"seed={seed}",
        *more,
    )
    start = time.perf_counter()
    neurofm("pretrain", "wavjepa/quickstart", "--workdir", workdir, *settings)
    seconds = round(time.perf_counter() - start, 1)
    return {"pretraining_s": seconds, **score(workdir, records, given, rule)}


def score(workdir: Path, records: Path, given: Recordings, rule: str) -> dict[str, Any]:
    """What is right of each test item: its recording, its cluster, and by system."""
    from neurofm.data.records import open_dataset
    from neurofm.eval import examples as exampling
    from neurofm.eval.baselines import log_mel_candidates
    from neurofm.eval.features import network_pools, vectors
    from neurofm.eval.scores import probe_all
    from neurofm.suites.entrants import entrant

    dataset, run = open_dataset(records), entrant(workdir)
    examples = exampling.from_dataset(dataset, given.target, given.groups, rule)
    assert run.untrained is not None
    systems = {
        system: [vectors(embed, network_pools, dataset, examples)]
        for system, embed in (("model", run.embed), ("untrained", run.untrained))
    }
    probed = probe_all(systems, log_mel_candidates(dataset, examples), examples)
    (fold,) = examples.folds
    tested = examples.row[fold.test].tolist()
    columns = {c: dataset.items[c].to_pylist() for c in ("item", given.cluster)}
    return {
        "recording": [columns["item"][row] for row in tested],
        "cluster": [str(columns[given.cluster][row]) for row in tested],
        "right": {
            system: outcome.points.astype(int).tolist()
            for system, ((outcome,),) in probed.items()
        },
    }


def table(rows: list[dict[str, Any]]) -> Iterator[str]:
    """One line a set in Markdown, over all folds of its rows, seeds averaged."""
    yield f"| set | folds | seeds | n | {' | '.join(COLUMNS)} | model - untrained |"
    yield "|---" * (5 + len(COLUMNS)) + "|"
    for name in dict.fromkeys(row["set"] for row in rows):
        yield line(name, [row for row in rows if row["set"] == name])


def line(name: str, rows: list[dict[str, Any]]) -> str:
    import numpy as np

    from neurofm.eval.stats import interval, paired

    folds, seeds = (sorted({row[key] for row in rows}) for key in ("fold", "seed"))
    at = {(row["fold"], row["seed"]): row for row in rows}
    if missing := [(f, s) for f in folds for s in seeds if (f, s) not in at]:
        return f"| {name} | not whole: no rows of {missing} |"

    by_seed = [[at[fold, seed] for fold in folds] for seed in seeds]
    points = {
        system: np.array(
            [[x for row in of for x in row["right"][system]] for of in by_seed], float
        )
        for system in COLUMNS
    }
    for over in ("cluster", "recording"):
        clusters = np.array([x for row in by_seed[0] for x in row[over]])
        if len(set(clusters)) > 1:
            break
    ones = np.ones(len(clusters))
    found = [interval(points[system], ones, clusters) for system in COLUMNS]
    gain = paired(points["model"], points["untrained"], ones, clusters)
    cells = [f"{x.value:.3f} [{x.low:.3f}, {x.high:.3f}]" for x in (*found, gain)]
    about = [name, len(folds), len(seeds), len(clusters)]
    return f"| {' | '.join([*map(str, about), *cells])} |"


def measured(given: argparse.Namespace) -> list[dict[str, Any]]:
    """The rows that are asked for, made where they are not there yet."""
    names = ("set", "fold", "seed", "steps", "settings")
    rows = []
    for name in given.sets.split(","):
        values = SETS[name].values
        asked = {"first": values[:1], "all": values}
        for value in asked.get(given.folds, given.folds.split(",")):
            for seed in map(int, given.seeds.split(",")):
                about = [name, value, seed, given.steps, given.settings]
                key = dict(zip(names, about, strict=True))
                made = partial(job, *about, given.data, given.out)
                rows.append(journal.row(given.out / "rows.jsonl", key, made))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--sets", default=",".join(SETS))
    parser.add_argument("--folds", default="first")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("settings", nargs="*", help="settings of the pretraining")
    given = parser.parse_args()
    print("\n".join(table(measured(given))))


if __name__ == "__main__":
    main()
