"""Ridge for many targets: time and memory beside himalaya's.

    python benchmarks/ridge.py [--rows 5000] [--features 3000] [--targets 20000]
    python benchmarks/ridge.py --with himalaya     where that package is importable

Each is run in a process of its own on the same data: penalties of every target chosen
among ten by five contiguous folds, then fitted on all rows. The report has seconds, the
highest memory of the process, and whether both chose the same penalties.
"""

import argparse
import importlib.util
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

PENALTIES = np.logspace(0, 6, 10)
FOLDS = 5
KINDS = ("neurofm", "himalaya")


def data(n_rows: int, n_features: int, n_targets: int):
    """Features of falling spectrum; targets whose best penalties differ."""
    rng = np.random.default_rng(0)
    scale = 1 / np.sqrt(1 + np.arange(n_features) / 50)
    X = (rng.standard_normal((n_rows, n_features)) * scale).astype(np.float32)
    W = rng.standard_normal((n_features, n_targets)).astype(np.float32)
    Y = X @ W
    Y /= Y.std(0)
    noise = np.logspace(-1, 1, n_targets, dtype=np.float32)
    Y += noise * rng.standard_normal(Y.shape, np.float32)
    return X - X.mean(0), Y - Y.mean(0)


def neurofm() -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    from neurofm.encoding import folds, ridge

    def penalties(X: np.ndarray, Y: np.ndarray) -> np.ndarray:
        splits = folds.contiguous(len(X), FOLDS)
        return ridge.fit(X, Y, PENALTIES.astype(np.float32), splits).penalties

    return penalties


def himalaya() -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    from himalaya.backend import set_backend
    from himalaya.ridge import RidgeCV
    from sklearn.model_selection import KFold

    set_backend("numpy")
    model = RidgeCV(PENALTIES, cv=KFold(FOLDS), solver_params={"n_targets_batch": 4096})
    return lambda X, Y: model.fit(X, Y).best_alphas_


def run(kind: str, sizes: tuple[int, int, int], out: Path) -> None:
    """One of them, in this process; seconds and bytes beside its penalties."""
    fit = neurofm() if kind == "neurofm" else himalaya()  # imports are not timed
    X, Y = data(*sizes)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.perf_counter()
    penalties = fit(X, Y)
    seconds = time.perf_counter() - began
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    np.save(out, penalties)
    gib = {"peak_gib": after / 2**20, "data_gib": before / 2**20}
    print(json.dumps({"seconds": seconds, **gib}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=5000)
    parser.add_argument("--features", type=int, default=3000)
    parser.add_argument("--targets", type=int, default=20000)
    parser.add_argument("--with", dest="beside", choices=KINDS[1:])
    parser.add_argument("--only", choices=KINDS, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    sizes = (given.rows, given.features, given.targets)
    if given.only:
        run(given.only, sizes, given.out)
        return
    if given.beside and importlib.util.find_spec(given.beside) is None:
        sys.exit("himalaya is not installed: pip install himalaya, then run this again")
    chosen = {}
    with tempfile.TemporaryDirectory() as folder:
        for kind in KINDS if given.beside else KINDS[:1]:
            out = Path(folder) / f"{kind}.npy"
            words = [sys.executable, __file__, "--only", kind, "--out", str(out)]
            for name, size in zip(("rows", "features", "targets"), sizes, strict=True):
                words += [f"--{name}", str(size)]
            told = subprocess.run(words, check=True, capture_output=True, text=True)
            found = json.loads(told.stdout.splitlines()[-1])
            chosen[kind] = np.load(out)
            print(kind, {name: round(value, 2) for name, value in found.items()})
    if len(chosen) > 1:
        same = np.isclose(*chosen.values(), rtol=1e-4)
        print(f"the same penalty for {same.sum()} of {len(same)} targets")


if __name__ == "__main__":
    main()
