"""Time and memory of a WavJEPA training step: gathered against dense, one CPU thread.

    python benchmarks/gathered.py [--config wavjepa/base] [--batch 2] [--rounds 5]

Both forms see the same batches, masks and parameters and run in turn in one process,
with the same stem, allocator settings and flattened matmuls, nothing recomputed. Prints
one JSON object; the ratio of medians is the claim, the seconds belong to the machine.
"""

import argparse
import json
import os
import sys
from dataclasses import replace
from pathlib import Path

FLAGS = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", default="wavjepa/base")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from neurofm.__main__ import ALLOCATOR, MARK

    if MARK not in os.environ:
        environment = {**os.environ, **ALLOCATOR, MARK: "set", "XLA_FLAGS": FLAGS}
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        os.execve(sys.executable, [sys.executable, *sys.argv], environment)
    print(json.dumps(measure(given.config, given.batch, given.rounds)))


def measure(name: str, batch_size: int, rounds: int) -> dict:
    import time

    import jax
    import numpy as np

    from neurofm import config
    from neurofm.step import new_state, train_step

    exp = config.load(name, ("task.remat=none",))
    rng = np.random.default_rng(0)
    shape = (batch_size, exp.task.n_chans, exp.task.window_samples)
    batch = {
        "audio/wave": rng.standard_normal(shape).astype(np.float32),
        "audio/span": np.tile(np.int32([[0, shape[-1]]]), (batch_size, 1)),
        "index": np.arange(batch_size, dtype=np.int32),
        "valid": np.ones(batch_size, bool),
    }
    programs, states, losses, seconds = {}, {}, {}, {}
    for form in ("dense", "gathered"):
        task = replace(exp.task, compute=form)
        key = jax.random.key(0)
        args = (task, exp.optim, exp.train.steps)
        states[form] = jax.jit(lambda k, b, a=args: new_state(*a, k, b, {}))(key, batch)
        step = jax.jit(train_step(*args, 1, exp.seed), donate_argnums=0)
        programs[form] = step.lower(states[form], {}, batch).compile()
        losses[form], seconds[form] = [], []
    for i in range(1 + rounds):  # the first round warms up
        for form, program in programs.items():
            start = time.perf_counter()
            states[form], metrics, _ = program(states[form], {}, batch)
            losses[form].append(float(metrics["train/loss"]))
            if i:
                seconds[form].append(time.perf_counter() - start)
    median = {form: float(np.median(s)) for form, s in seconds.items()}
    memory = {f: p.memory_analysis().temp_size_in_bytes for f, p in programs.items()}
    return {
        "config": name,
        "batch": batch_size,
        "rounds": rounds,
        "ratio": round(median["dense"] / median["gathered"], 3),
        "step_s": {form: round(s, 3) for form, s in median.items()},
        "temporaries_gib": {f: round(m / 2**30, 3) for f, m in memory.items()},
        "largest_loss_difference": max(
            abs(a - b) for a, b in zip(losses["dense"], losses["gathered"], strict=True)
        ),
        "tflop_per_step": {
            form: round(replace(exp.task, compute=form).flops(batch_size) / 1e12, 3)
            for form in programs
        },
    }


if __name__ == "__main__":
    main()
