"""Embedding short clips: windows of a few sizes against the model's whole window.

    python benchmarks/short_clips.py [--config wavjepa/tiny] [--clips 128] [--rounds 3]

Noise of 0.3 to 0.6 s through fresh weights, both ways in turn in one process. Prints
one JSON object; the ratio of medians is the claim, the seconds belong to the machine.
"""

import argparse
import json
import sys
import time
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", default="wavjepa/tiny")
    parser.add_argument("--clips", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    sys.path.insert(0, str(Path(__file__).parents[1]))
    print(json.dumps(measure(given.config, given.clips, given.rounds)))


def measure(name: str, n_clips: int, rounds: int) -> dict:
    import numpy as np

    from neurofm import config
    from neurofm.embedding import encode
    from neurofm.eval.untrained import untrained
    from neurofm.model import Model

    model = untrained(Model(config.load(name).task, {}))
    sfreq, n_chans = model.contract.sfreq, model.contract.n_chans
    rng = np.random.default_rng(0)
    lengths = rng.uniform(0.3 * sfreq, 0.6 * sfreq, n_clips).astype(int)
    waves = (rng.standard_normal((n_chans, n)).astype(np.float32) for n in lengths)
    clips = list(enumerate(waves))
    forms = {"whole": 1, "short": encode.N_SIZES}
    seconds = {form: [] for form in forms}
    last = {}
    for i in range(rounds + 1):
        for form, encode.N_SIZES in forms.items():
            start = time.perf_counter()
            read = encode.embed_waves(model, clips)
            last[form] = np.concatenate([r.values["last"] for _, r in read])
            if i:  # the first round compiles
                seconds[form].append(time.perf_counter() - start)
    medians = {form: float(np.median(times)) for form, times in seconds.items()}
    return {
        "config": name,
        "clips_per_s": {form: n_clips / s for form, s in medians.items()},
        "whole_over_short": medians["whole"] / medians["short"],
        "largest_difference": float(np.abs(last["whole"] - last["short"]).max()),
    }


if __name__ == "__main__":
    main()
