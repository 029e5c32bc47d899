"""BrainTokenizer and BrainOmni: a step, a batch of mixed caps, a recording tokenised.

    python benchmarks/brain_steps.py steps [--batch 1] [--rounds 3]
    python benchmarks/brain_steps.py tokenizer [--sensors 64] [--rounds 3]
    python benchmarks/brain_steps.py padding

`steps`: the training step of `brainomni/tiny` on segments of 30 s of 64 sensors, from
signals and from their codes, and that of `brainomni/tokenizer` on the same seconds, in
turn in one process on one thread; `tokenizer`: signal tokenised a second; `padding`:
places of sensors that hold none, with the widths that are planned and with one for all.
Prints one JSON object; ratios are the claim, seconds belong to the machine.
"""

import argparse
import json
import os
import sys
from dataclasses import replace
from pathlib import Path

FLAGS = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
CAPS = (19, 32, 64, 306)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=["steps", "tokenizer", "padding"])
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--sensors", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from neurofm.__main__ import ALLOCATOR, MARK

    if MARK not in os.environ:
        environment = {**os.environ, **ALLOCATOR, MARK: "set", "XLA_FLAGS": FLAGS}
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        os.execve(sys.executable, [sys.executable, *sys.argv], environment)
    if given.part == "padding":
        found = padding()
    else:
        measure = {"steps": steps, "tokenizer": tokenizer}[given.part]
        found = measure(given.batch, given.sensors, given.rounds)
    print(json.dumps({"part": given.part, **found}))


def recordings(task, n: int, n_sensors: int) -> dict:
    """Noise of EEG in whole segments of a task."""
    import numpy as np

    rng = np.random.default_rng(0)
    shape = (n, n_sensors, task.segment_samples)
    pos = np.zeros((n, n_sensors, 6), np.float32)
    pos[..., :3] = rng.normal(0, 0.06, (n, n_sensors, 3))
    return {
        "meeg/signal": (2e-5 * rng.standard_normal(shape)).astype(np.float32),
        "meeg/pos": pos,
        "meeg/sensor_type": np.zeros((n, n_sensors), np.int32),
        "meeg/sensor_mask": np.ones((n, n_sensors), bool),
        "meeg/length": np.full(n, task.segment_samples, np.int32),
        "index": np.arange(n, dtype=np.int32),
        "valid": np.ones(n, bool),
    }


def in_turn(programs: dict, rounds: int) -> dict[str, float]:
    """Median seconds of each, called one after the other; the first round warms up."""
    import time

    import jax
    import numpy as np

    seconds: dict[str, list[float]] = {name: [] for name in programs}
    for i in range(1 + rounds):
        for name, run in programs.items():
            start = time.perf_counter()
            jax.block_until_ready(run())
            if i:
                seconds[name].append(time.perf_counter() - start)
    return {name: float(np.median(s)) for name, s in seconds.items()}


def steps(n: int, n_sensors: int, rounds: int) -> dict:
    import jax
    import numpy as np

    from neurofm import config
    from neurofm.step import new_state, train_step

    first, second = config.load("brainomni/tokenizer"), config.load("brainomni/tiny")
    omni = replace(second.task, n_sensors=n_sensors, tokenizer=first.task)
    stage_1 = replace(
        first.task, n_sensors=n_sensors, segment_samples=omni.segment_samples
    )
    signals = recordings(omni, n, n_sensors)
    made = jax.jit(lambda b: stage_1.init(jax.random.key(1), b, {}))(signals)
    frozen = {"tokenizer": stage_1.inference(made)}
    tokenize = jax.jit(lambda v, b: stage_1.tokenize(v, b, omni.overlap)[1])
    codes = {k: signals[k] for k in ("meeg/length", "index", "valid")}
    codes["meeg/codes"] = np.asarray(tokenize(made, signals), np.int16)
    cases = {
        "signals": (omni, second, frozen, signals),
        "codes": (replace(omni, train_on="codes"), second, frozen, codes),
        "stage 1": (stage_1, first, {}, signals),
    }
    programs, memory, losses = {}, {}, {}
    for name, (task, exp, held, batch) in cases.items():
        args = (task, exp.optim, exp.train.steps)
        key = jax.random.key(0)
        fresh = jax.jit(lambda k, b, f, a=args: new_state(*a, k, b, f))
        state = fresh(key, batch, held)
        step = jax.jit(train_step(*args, 1, exp.seed))
        program = step.lower(state, held, batch).compile()
        memory[name] = program.memory_analysis().temp_size_in_bytes
        programs[name] = lambda p=program, s=state, h=held, b=batch: p(s, h, b)
        losses[name] = float(programs[name]()[1]["train/loss"])
    median = in_turn(programs, rounds)
    times = int(stage_1.n_tokens(stage_1.segment_samples, 0.0))
    tokens = {"signals": omni.n_tokens, "codes": omni.n_tokens, "stage 1": times}
    rate = {k: n * tokens[k] * stage_1.n_sources / s for k, s in median.items()}
    flops = {name: task.flops(n) for name, (task, *_) in cases.items()}
    return {
        "batch": n,
        "sensors": n_sensors,
        "rounds": rounds,
        "loss_difference": abs(losses["signals"] - losses["codes"]),
        "signals_over_codes": round(median["signals"] / median["codes"], 2),
        "stage_1_over_stage_2": round(median["stage 1"] / median["signals"], 2),
        "tokens_a_s": {name: round(x) for name, x in rate.items()},
        "step_s": {name: round(s, 2) for name, s in median.items()},
        "temporaries_gib": {f: round(m / 2**30, 3) for f, m in memory.items()},
        "tflop_per_step": {name: round(x / 1e12, 4) for name, x in flops.items()},
    }


def tokenizer(n: int, n_sensors: int, rounds: int) -> dict:
    import jax

    from neurofm import config

    task = config.load("brainomni/tokenizer").task
    batch = recordings(task, n, n_sensors)
    made = jax.jit(lambda b: task.init(jax.random.key(1), b, {}))(batch)
    used = task.inference(made)
    run = jax.jit(lambda v, b: task.tokenize(v, b, 0.0)[1])
    seconds = in_turn({"tokenize": lambda: run(used, batch)}, rounds)["tokenize"]
    signal = n * task.segment_samples / task.sfreq
    return {
        "batch": n,
        "sensors": n_sensors,
        "signal_s_a_second": round(signal / seconds, 2),
        "hours_a_second": signal / seconds / 3600,
    }


def padding() -> dict:
    """Recordings of equal length, a quarter of them of each cap."""
    import numpy as np

    from neurofm import config
    from neurofm.data.buckets import widths

    task = config.load("brainomni/tokenizer").task
    rng = np.random.default_rng(0)
    whole = np.repeat(CAPS, 100)
    dropped = whole - rng.integers(0, np.maximum(whole // 10, 1) + 1)
    found = {}
    for name, n_chans in (("whole caps", whole), ("up to a tenth dropped", dropped)):
        rows = {}
        for most in (1, 2, 3, 4, 8):
            sizes = np.array(widths(n_chans, np.ones_like(n_chans), most))
            width = sizes[np.searchsorted(sizes, n_chans)]
            cost = [replace(task, n_sensors=int(w)).flops(1) for w in width]
            rows[most] = {
                "widths": sizes.tolist(),
                "padding": round(float(1 - n_chans.sum() / width.sum()), 4),
                "tflop_a_segment": float(np.mean(cost)) / 1e12,
            }
        one = rows[1]["tflop_a_segment"]
        for row in rows.values():
            row["of_one_width"] = round(row.pop("tflop_a_segment") / one, 3)
        found[name] = rows
    return found


if __name__ == "__main__":
    main()
