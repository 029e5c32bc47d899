"""TRIBE beside ridges by how many minutes of film each person has seen.

    python benchmarks/film_minutes.py --out DIR [--seeds 0 1 2] [--minutes 5 15 40]
        [--regime mixed|linear]

is the quickstart of TRIBE with fewer films, or (`--regime linear`) with brains in which
every parcel that follows a film is linear; settings are the same everywhere. A finished
part is read back. Prints mean correlations on unseen films, by seed.
"""

import argparse
from dataclasses import replace
from pathlib import Path

from neurofm.quickstart import films, tribe

DESIGNS = {"mixed": films.FORTY_MINUTES, "linear": films.LINEAR}
SHOWN = ("model", *tribe.LINEAR, "product ridge", "ceiling")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--minutes", type=int, nargs="+", default=[5, 15, 40])
    parser.add_argument("--regime", choices=DESIGNS, default="mixed")
    args = parser.parse_args()
    design = DESIGNS[args.regime]
    print("| minutes | seed | " + " | ".join(SHOWN) + " | named |", flush=True)
    for minutes in args.minutes:
        n_films = round(60 * minutes / design.film_s)
        for seed in args.seeds:
            workdir = args.out / f"{args.regime}-{minutes}-{seed}"
            fewer = replace(design, n_films=n_films)
            found = tribe.carried_out(fewer, workdir, seed).scores
            means = [f"{found['scores'][name]['mean']:.3f}" for name in SHOWN]
            cells = [str(minutes), str(seed), *means, f"{found['named']['mean']:.2f}"]
            print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
