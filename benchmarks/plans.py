"""Plans of the base configs for every kind of TPU, and how a run would scale.

    python benchmarks/plans.py --out plans.jsonl [--configs wavjepa/base ...]
    python benchmarks/plans.py --out scaling.jsonl --scaling v5e

Compiles each training step for TPUs that are not attached, minutes a row, and appends
one JSON object a plan; a plan that is there already is not made again. `--scaling`
keeps 32 items a chip from 4 to 256 chips; its `efficiency` is the share of a step that
computing would take if nothing that is sent were hidden behind it: the step time at the
assumed utilisation, over that plus the bytes sent at the interconnect's rate.
"""

import argparse
import json
from pathlib import Path

from neurofm import config
from neurofm.parallel.accelerators import accelerator
from neurofm.planning.plan import plan
from neurofm.planning.words import as_json

TYPES = ("v5e:4x4", "v6e:4x4", "v4:2x2x4", "v5p:2x2x4", "tpu7x:2x2x1")
SCALES = ("2x2", "4x4", "8x8", "16x16")


def rows(configs: list[str], scaling: str | None):
    """What is asked for: config, slice, overrides."""
    for name in configs:
        if scaling is None:
            yield from ((name, on, ()) for on in TYPES)
            continue
        for shape in SCALES:
            chips = accelerator(f"{scaling}:{shape}").chips
            yield name, f"{scaling}:{shape}", (f"train.batch_size={32 * chips}",)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--configs", nargs="+", default=["wavjepa/base", "wavjepa/nat"])
    parser.add_argument("--scaling", metavar="KIND")
    args = parser.parse_args()
    lines = args.out.read_text().splitlines() if args.out.exists() else []
    there = {json.loads(line)["command"] for line in lines}
    for name, on, overrides in rows(args.configs, args.scaling):
        command = " ".join(["neurofm plan", name, "--on", on, *overrides])
        if command in there:
            continue
        found = as_json(plan(config.load(name, overrides), on))
        if args.scaling:
            ici = accelerator(on).info.ici_bytes_per_s
            assert ici, f"the interconnect's rate of {args.scaling} is not established"
            sending = sum(found["bytes_sent_per_step"].values()) / ici
            found["sending_s"] = sending
            found["efficiency"] = found["step_s"] / (found["step_s"] + sending)
        row = json.dumps({"command": command, **found})
        with args.out.open("a") as file:
            file.write(row + "\n")
        print(row, flush=True)


if __name__ == "__main__":
    main()
