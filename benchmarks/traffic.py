"""What devices that share a batch send each other in a training step.

    python benchmarks/traffic.py CONFIG [--devices 8] [a.b=c ...]

Compiles the step of a config for so many CPU devices, which nothing is run on, and
prints as JSON the bytes that one of them sends, the least for the layout in float32,
and the collectives that send most. What a TPU would send is told by `neurofm plan`.
"""

import argparse
import json

import jax

from neurofm import config
from neurofm.model import abstract_batch, abstract_frozen
from neurofm.parallel import distributed, mesh
from neurofm.parallel.collectives import collectives
from neurofm.planning.traffic import COMPUTE_BYTES, least_traffic
from neurofm.step import abstract_state, compiled_step

MOST = 8  # collectives that are told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config")
    parser.add_argument("--devices", type=int, default=8)
    parser.add_argument("overrides", nargs="*")
    asked = parser.parse_args()
    distributed.initialise(devices=asked.devices)
    exp = config.load(asked.config, asked.overrides)
    task, steps = exp.task, exp.train.steps
    frozen = abstract_frozen(task)
    batch = abstract_batch(task, exp.train.batch_size, "train")
    devices = mesh.make(exp.mesh)
    state, _ = abstract_state(task, exp.optim, steps, batch, devices, frozen)
    step = compiled_step(task, exp.optim, steps, 1, exp.seed, state)
    with jax.set_mesh(devices):
        text = step.lower(state, frozen, batch).compile().as_text()
    found = collectives(text or "", dict(devices.shape))
    sent = sorted(((c.sent * (c.trips or 1), str(c)) for c in found), reverse=True)
    least = sum(least_traffic(state, devices).values()) * 4 / COMPUTE_BYTES
    told = {
        "config": asked.config,
        "bytes_sent": sum(size for size, _ in sent),
        "least": least,
        "most": [one[:200] for _, one in sent[:MOST]],
    }
    print(json.dumps(told, indent=1))


if __name__ == "__main__":
    main()
