"""What recomputing saves: the training step compiled for a TPU chip that is not there.

    python benchmarks/remat.py [--config wavjepa/base] [--on v5e:1x1] \
        [--batch 32 64 128] [--remat none block selective] [--set a.b=c ...]

For each batch (crops on one chip) and each `task.remat` one line of JSON: the
compiler's temporaries and arguments, whether it fits, and the floating-point operations
done twice as a share of those of the step. Needs libtpu, no TPU; a compile takes
minutes, and its time says nothing of the speed of a step, which this cannot measure.
"""

import argparse
import json
import os
import re
import sys
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", default="wavjepa/base")
    parser.add_argument("--on", default="v5e:1x1")
    parser.add_argument("--batch", type=int, nargs="+", default=[32, 64, 128])
    forms = ["none", "block", "selective"]
    parser.add_argument("--remat", nargs="+", choices=forms, default=forms)
    parser.add_argument("--set", nargs="*", default=[], help="overrides, a.b=c")
    given = parser.parse_args()
    sys.path.insert(0, str(Path(__file__).parents[1]))
    os.environ |= {
        "JAX_PLATFORMS": "cpu",
        "TPU_SKIP_MDS_QUERY": "1",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    }
    for batch in given.batch:
        for remat in given.remat:
            told = measure(given.config, given.on, batch, remat, given.set)
            print(json.dumps(told), flush=True)


def measure(
    name: str, topology: str, batch_size: int, remat: str, more: list[str]
) -> dict:
    import jax
    from jax.experimental import topologies

    from neurofm import config
    from neurofm.parallel import mesh, sharding
    from neurofm.step import new_state, train_step

    exp = config.load(name, (f"task.remat={remat}", *more))
    bounds = {"chips_per_host_bounds": (1, 1, 1)} if topology.endswith("1x1") else {}
    chips = topologies.get_topology_desc(topology, platform="tpu", **bounds).devices
    devices = mesh.make(exp.mesh, chips)
    rows = sharding.batch_sharding(devices)
    fields = {k: (f.shape, f.dtype) for k, f in exp.task.batch_spec().fields.items()}
    fields |= {"index": ((), "int32"), "valid": ((), "bool")}
    n = batch_size * len(chips)
    batch = {
        k: jax.ShapeDtypeStruct((n, *shape), dtype, sharding=rows)
        for k, (shape, dtype) in fields.items()
    }
    args = exp.task, exp.optim, exp.train.steps
    state = jax.eval_shape(lambda b: new_state(*args, jax.random.key(0), b, {}), batch)
    placed, _ = sharding.state_shardings(
        state, state["params"], devices, exp.task.rules()
    )
    state = jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), state, placed
    )
    told = {
        "config": name,
        "on": topology,
        "crops_per_chip": batch_size,
        "remat": remat,
        "recomputed": round(recomputed(exp.task, batch_size), 3),
    }
    with jax.set_mesh(devices):
        step = jax.jit(
            train_step(*args, 1, exp.seed),
            donate_argnums=0,
            out_shardings=(placed, None, None),
        )
        try:
            memory = step.lower(state, {}, batch).compile().memory_analysis()
        except jax.errors.JaxRuntimeError as error:
            asked = re.search(r"temporaries \(([\d.]+)G\) exceeds", str(error))
            if not asked:
                raise
            return {**told, "fits": False, "temporaries_gib": float(asked[1])}
    return {
        **told,
        "fits": True,
        "temporaries_gib": round(memory.temp_size_in_bytes / 2**30, 2),
        "arguments_gib": round(memory.argument_size_in_bytes / 2**30, 2),
    }


def recomputed(task, batch_size: int) -> float:
    """Operations of student and predictor done a second time, over those of a step.

    `block` repeats the whole forward pass of their blocks, `selective` the scores and
    the mixing of attention alone; what is not a matrix product is not counted.
    """
    from neurofm.objectives.masks import target_cap

    context = task.context_cap * task.n_chans
    seen = context + target_cap(task.masker, task.tokens) * task.n_chans
    stacks = [
        (context, task.width, task.depth),
        (task.masker.n_groups * seen, task.predictor_width, task.predictor_depth),
    ]
    again = 0
    for (tokens, width, depth), keys in zip(stacks, (context, seen), strict=True):
        products = {"none": 0, "block": 24 * width**2}.get(task.remat, 0)
        attention = 0 if task.remat == "none" else 4 * keys * width
        again += depth * tokens * (products + attention)
    return batch_size * again / task.flops(batch_size)


if __name__ == "__main__":
    main()
