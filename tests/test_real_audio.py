"""The benchmark on real recordings: its table, and all of its folds at a few steps."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
DATA = Path(os.environ.get("NEUROFM_DATA", ROOT.parent / "shared/data"))
SCRIPT = ROOT / "benchmarks" / "real_audio.py"
FEW_STEPS = (
    *("--seeds", "0", "--steps", "2", "--folds", "all"),
    *("task.depth=1", "task.top_k=1", "task.predictor_depth=1", "eval.every=0"),
)
N_ITEMS = {"fsdd": 1250, "esc10": 320}


def load_script():
    spec = importlib.util.spec_from_file_location("real_audio", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def row(fold, seed, model, clusters):
    right = {"untrained": [0] * len(model), "model": model}
    rest = ("logmel_mean_std", "logmel_bins8", "chance")
    right |= {name: [1] * len(model) for name in rest}
    names = [f"{fold}_{i}" for i in range(len(model))]
    return {
        "set": "fsdd",
        "fold": fold,
        "seed": seed,
        "right": right,
        "cluster": clusters,
        "recording": names,
    }


def test_a_table_joins_folds_and_averages_seeds():
    rows = [
        row("a", 0, [1, 0, 1], ["a"] * 3),
        row("b", 0, [1], ["b"]),
        row("b", 1, [0], ["b"]),
        row("a", 1, [0, 0, 1], ["a"] * 3),
    ]
    *_, line = load_script().table(rows)
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[:4] == ["fsdd", "2", "2", "4"]
    # Speaker a is right in 3 of 6 cases and b in 1 of 2: all resamples agree.
    assert cells[4] == "0.500 [0.500, 0.500]"
    assert cells[5] == "0.000 [0.000, 0.000]"
    assert cells[-1] == cells[4]


def test_with_one_cluster_intervals_are_over_recordings():
    *_, line = load_script().table([row("a", 0, [1, 0, 1, 0], ["a"] * 4)])
    low, high = np.array(line.split("|")[5].split("[")[1].strip("] ").split(","), float)
    assert low < 0.5 < high


def test_a_table_of_some_seeds_of_a_fold_says_what_is_missing():
    rows = [row("a", 0, [1], ["a"]), row("b", 0, [1], ["b"]), row("a", 1, [1], ["a"])]
    *_, line = load_script().table(rows)
    assert "no rows of [('b', 1)]" in line


@pytest.mark.slow
@pytest.mark.parametrize("name", N_ITEMS)
def test_every_fold_is_run_once_and_tests_every_recording_once(name, tmp_path):
    if not (DATA / name).is_dir():
        pytest.skip(f"{name} is not there; NEUROFM_DATA names the folder that holds it")
    command = [sys.executable, SCRIPT, "--data", DATA, "--out", tmp_path]
    command += ["--sets", name, *FEW_STEPS]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}

    def run():
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    log = tmp_path / "rows.jsonl"
    table = run()
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    assert [r["fold"] for r in rows] == list(load_script().SETS[name].values)
    tested = [item for r in rows for item in r["recording"]]
    assert len(set(tested)) == len(tested) == N_ITEMS[name]
    for r in rows:
        assert {len(marks) for marks in r["right"].values()} == {len(r["recording"])}
        config = json.loads(
            (tmp_path / name / r["fold"] / "seed_0/config.json").read_text()
        )
        held_out = f"{load_script().SETS[name].fold}={r['fold']}"
        assert config["data"]["hold_out"] == [held_out]
    assert f"| {name} | {len(rows)} | 1 | {N_ITEMS[name]} |" in table

    # A last row that was lost is made again from what its pretraining left, no other.
    log.write_text("".join(json.dumps(r) + "\n" for r in rows[:-1]))
    assert run() == table
    again = [json.loads(line) for line in log.read_text().splitlines()]
    assert [r["right"] for r in again] == [r["right"] for r in rows]
    assert again[:-1] == rows[:-1]
