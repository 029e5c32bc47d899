"""Embedding clips: batches of windows of several clips against plainer ways.

    python benchmarks/embedding.py [--config wavjepa/tiny] [--clips 128] [--rounds 3]
        [--seconds 0.3 0.6]

Noise of so many seconds (from, to) through fresh weights, all ways in turn in one
process: `batched`, as `neurofm embed` does it, in windows of a few sizes; `whole`, in
the model's whole window alone; `one`, a clip at a time. Prints one JSON object; ratios
of medians are the claim, the seconds belong to the machine.
"""

import argparse
import json
import time
from typing import Any

import numpy as np

from neurofm import config
from neurofm.embedding import encode
from neurofm.eval.untrained import untrained
from neurofm.model import Model

SIZES = {"batched": encode.N_SIZES, "whole": 1, "one": encode.N_SIZES}


def measure(asked: argparse.Namespace) -> dict[str, Any]:
    model = untrained(Model(config.load(asked.config).task, {}))
    sfreq, n_chans = model.contract.sfreq, model.contract.n_chans
    rng = np.random.default_rng(0)
    low, high = asked.seconds
    lengths = rng.uniform(low * sfreq, high * sfreq, asked.clips).astype(int)
    waves = (rng.standard_normal((n_chans, n)).astype(np.float32) for n in lengths)
    clips = list(enumerate(waves))
    seconds: dict[str, list[float]] = {way: [] for way in SIZES}
    last: dict[str, np.ndarray] = {}
    for i in range(asked.rounds + 1):
        for way, encode.N_SIZES in SIZES.items():
            start = time.perf_counter()
            groups = [[clip] for clip in clips] if way == "one" else [clips]
            read = [r for group in groups for r in encode.embed_waves(model, group)]
            last[way] = np.concatenate([r.values["last"] for _, r in read])
            if i:  # the first round compiles
                seconds[way].append(time.perf_counter() - start)
    medians = {way: float(np.median(times)) for way, times in seconds.items()}
    hours = lengths.sum() / sfreq / 3600
    others = [way for way in SIZES if way != "batched"]
    return {
        "config": asked.config,
        "hours_of_signal_per_s": {way: hours / s for way, s in medians.items()},
        "batched_over": {way: medians[way] / medians["batched"] for way in others},
        "largest_difference": max(
            float(np.abs(last["batched"] - last[way]).max()) for way in others
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="wavjepa/tiny")
    parser.add_argument("--clips", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, nargs=2, default=(0.3, 0.6))
    print(json.dumps(measure(parser.parse_args())))


if __name__ == "__main__":
    main()
