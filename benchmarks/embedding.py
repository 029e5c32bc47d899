"""Embedding a folder of clips of unlike lengths: batches against one clip at a time.

    python benchmarks/embedding.py [--config wavjepa/tiny] [--clips 96] [--rounds 3]
        [--batch-sizes 1 4 16 64]

Noise of 0.3 to 4 s through fresh weights, all ways in turn in one process. Batches hold
windows of several clips, short ones with short ones. Prints one JSON object; ratios of
medians to one clip at a time are the claim, the seconds belong to the machine.
"""

import argparse
import json
import sys
import time
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", default="wavjepa/tiny")
    parser.add_argument("--clips", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 4, 16, 64])
    given = parser.parse_args()
    sys.path.insert(0, str(Path(__file__).parents[1]))
    sizes = given.batch_sizes
    print(json.dumps(measure(given.config, given.clips, given.rounds, sizes)))


def measure(name: str, n_clips: int, rounds: int, sizes: list[int]) -> dict:
    import numpy as np

    from neurofm import config
    from neurofm.embedding import encode
    from neurofm.evaluate import untrained
    from neurofm.model import Model

    model = untrained(Model(config.load(name).task, {}))
    sfreq, n_chans = model.contract.sfreq, model.contract.n_chans
    rng = np.random.default_rng(0)
    lengths = rng.uniform(0.3 * sfreq, 4 * sfreq, n_clips).astype(int)
    waves = (rng.standard_normal((n_chans, n)).astype(np.float32) for n in lengths)
    clips = list(enumerate(waves))

    def one_by_one():
        for clip in clips:
            yield from encode.embed_waves(model, [clip])

    ways = {"one clip": one_by_one}
    for size in sizes:
        ways[f"batch {size}"] = lambda size=size: encode.embed_waves(
            model, clips, batch_size=size
        )
    seconds = {way: [] for way in ways}
    last = {}
    for i in range(rounds + 1):
        for way, read in ways.items():
            start = time.perf_counter()
            last[way] = np.concatenate([r.values["last"] for _, r in read()])
            if i:  # the first round compiles
                seconds[way].append(time.perf_counter() - start)
    medians = {way: float(np.median(times)) for way, times in seconds.items()}
    hours = lengths.sum() / sfreq / 3600
    return {
        "config": name,
        "hours_per_s": {way: hours / s for way, s in medians.items()},
        "times_one_clip": {way: medians["one clip"] / s for way, s in medians.items()},
        "largest_difference": max(
            float(np.abs(x - last["one clip"]).max()) for x in last.values()
        ),
    }


if __name__ == "__main__":
    main()
