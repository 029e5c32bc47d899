"""What pooling before the head saves TRIBE: whole training steps, run here.

    python benchmarks/pooling.py [--config tribe/v2] [--batch 2] [--steps 3] \
        [--set a.b=c ...]

For each place of the pooling one line of JSON: seconds of a step (the least of those
timed, after one that warms up) and its loss, on random features and responses.
"""

import argparse
import json
import sys
import time
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", default="tribe/v2")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--set", nargs="*", default=[], help="overrides, a.b=c")
    given = parser.parse_args()
    sys.path.insert(0, str(Path(__file__).parents[1]))
    for place in ("before_head", "after_head"):
        settings = (f"task.pool={place}", *given.set)
        told = measure(given.config, given.batch, given.steps, settings)
        print(json.dumps({"pool": place, **told}), flush=True)


def measure(name: str, rows: int, steps: int, settings: tuple[str, ...]) -> dict:
    import jax
    import jax.numpy as jnp
    import numpy as np

    from neurofm import config
    from neurofm.model import abstract_batch
    from neurofm.step import new_state, train_step

    exp = config.load(name, settings)
    task, total = exp.task, exp.train.steps
    rng = np.random.default_rng(0)

    def random(x: jax.ShapeDtypeStruct) -> jax.Array:
        if x.dtype == bool:
            return jnp.ones(x.shape, bool)
        if x.dtype == np.int32:
            return jnp.zeros(x.shape, jnp.int32)
        return jnp.asarray(rng.standard_normal(x.shape, np.float32))

    batch = jax.tree.map(random, abstract_batch(task, rows, "train"))
    batch["index"] = jnp.arange(rows, dtype=jnp.int32)
    fresh = jax.jit(lambda key: new_state(task, exp.optim, total, key, batch, {}))
    state = fresh(jax.random.key(0))
    one = jax.jit(train_step(task, exp.optim, total, 1, 0), donate_argnums=0)
    times, losses = [], []
    for _ in range(steps + 1):
        start = time.perf_counter()
        state, metrics, _ = one(state, {}, batch)
        losses.append(float(metrics["train/loss"]))
        times.append(time.perf_counter() - start)
    return {"step_s": min(times[1:]), "loss": losses[0]}


if __name__ == "__main__":
    main()
