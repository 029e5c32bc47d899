"""Memory of fine-tuning by regime: the training step compiled, nothing run.

    python benchmarks/tuning_memory.py [--config wavjepa/finetune] [--batch 32]
        [a.b=c ...]

For each regime one line of JSON: parameters that are trained, the optimizer's bytes,
the compiler's temporaries for this machine's first device, and both beside those of
`full`. The frozen model is held once in each regime; `full` holds a copy that it
trains.
"""

import argparse
import json
from dataclasses import replace
from typing import Any

import jax

from neurofm import config
from neurofm.model import abstract_batch, abstract_frozen
from neurofm.parallel import mesh
from neurofm.step import abstract_state, compiled_step
from neurofm.weights import leaves

REGIMES = ("full", "lora", "last", "probe")
MIB = 2**20


def measure(exp: config.Experiment, regime: str) -> dict[str, Any]:
    task: Any = replace(exp.task, regime=regime)  # pyright: ignore[reportCallIssue]
    batch = abstract_batch(task, exp.train.batch_size, "train")
    frozen = abstract_frozen(task)
    devices = mesh.make(exp.mesh, jax.devices()[:1])
    steps = exp.train.steps
    state, _ = abstract_state(task, exp.optim, steps, batch, devices, frozen)
    step = compiled_step(task, exp.optim, steps, 1, exp.seed, state)
    with jax.set_mesh(devices):
        compiled = step.lower(state, frozen, batch).compile()
    held = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state["opt"]))
    temporaries = compiled.memory_analysis().temp_size_in_bytes
    return {
        "regime": regime,
        "trained": leaves.n_params(state["params"]),
        "optimizer_mib": held / MIB,
        "temporaries_mib": temporaries / MIB,
        "both_mib": (held + temporaries) / MIB,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="wavjepa/finetune")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("overrides", nargs="*")
    given = parser.parse_args()
    words = (f"train.batch_size={given.batch}", *given.overrides)
    exp = config.load(given.config, words)
    full = None
    for regime in REGIMES:
        told = measure(exp, regime)
        full = full or told
        for name in ("optimizer_mib", "temporaries_mib", "both_mib"):
            told[name.replace("mib", "share")] = round(told[name] / full[name], 3)
            told[name] = round(told[name], 1)
        print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main()
