"""Scores on real recordings: pretrained, untrained and log-mel, one held-out set each.

    python benchmarks/real_audio.py --data DATA --out DIR [--sets fsdd,esc10,birdsong]
        [--seeds 0,1,2] [--steps 600]

DATA holds the folders fsdd, esc10 and birdsong. Pretraining sees no file of the test.
Three seeds are pretrained and scored together; everything goes on where it stopped. The
scores lie in DIR/SET/scores.json beside a report.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

# The quickstart's network; windows of one second, which hold a digit or a syllable.
SMALL = ("task.window_samples=8079", "data.crops_per_clip=1")
SETS = {
    "fsdd": {
        "prepare": ["--labels", "labels.tsv", "--sfreq", "8000"],
        "task": (*SMALL, "task.sfreq=8000"),
        "test": "speaker=george",
        "evaluate": ["--target", "digit", "--groups", "speaker"],
    },
    "esc10": {
        "prepare": ["--labels", "labels.tsv", "--sfreq", "8000"],
        "task": ("data.crops_per_clip=2",),
        "test": "fold=1",
        "evaluate": ["--target", "class", "--groups", "freesound_id"],
    },
    "birdsong": {
        "prepare": ["--labels", "syllables.tsv", "--pattern", r"_(?P<day>[\d-]{10})_"],
        "task": ("task.sfreq=16000", "data.crops_per_clip=8"),
        "test": "day=2012-03-24",
        "evaluate": [],
    },
}


def neurofm(*arguments: str | Path) -> dict:
    command = [sys.executable, "-m", "neurofm", *map(str, arguments), "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    return json.loads(done.stdout)


def run(name: str, data: Path, out: Path, seeds: list[str], steps: str) -> dict:
    recipe, records = SETS[name], out / name / "records"
    prepare = list(recipe["prepare"])
    prepare[1] = str(data / name / prepare[1])
    neurofm("prepare", "audio", data / name / "audio", "--out", records, *prepare)
    runs, seconds = [out / name / f"seed_{seed}" for seed in seeds], []
    for workdir, seed in zip(runs, seeds, strict=True):
        settings = (
            *recipe["task"],
            f"data.path={records}",
            f"data.hold_out=[{json.dumps(recipe['test'])}]",
            f"train.steps={steps}",
            f"seed={seed}",
        )
        start = time.perf_counter()
        neurofm("pretrain", "wavjepa/quickstart", "--workdir", workdir, *settings)
        seconds.append(round(time.perf_counter() - start, 1))
    split = ["--split", recipe["test"], *recipe["evaluate"]]
    found = neurofm("evaluate", *runs, "--data", records, "--out", out / name, *split)
    return {
        "set": name,
        "test": recipe["test"],
        "steps": int(steps),
        "pretraining_s": seconds,
        "over": found["over"],
        "scores": {
            k: {w: v[w] for w in ("mean", "low", "high", "n", "seeds")}
            for k, v in found["scores"].items()
        },
        "differences": found["differences"],
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--sets", default=",".join(SETS))
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--steps", default="600")
    given = parser.parse_args()
    for name in given.sets.split(","):
        row = run(name, given.data, given.out, given.seeds.split(","), given.steps)
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
