"""Attention written out and as splash, compiled for a TPU chip that is not there.

    python benchmarks/attention.py [--on v5e:1x1] [--tokens 128 200 400 512 1024]

Value and gradients of one layer of 12 heads of 64 in bfloat16 over some 102,400 tokens
in all. For each length one line of JSON: the compiler's temporaries of both forms and
the tokens that splash adds to fill its tiles. Needs libtpu, no TPU; times cannot be
measured this way.
"""

import argparse
import json
import os
import sys
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--on", default="v5e:1x1")
    lengths = [128, 200, 400, 512, 1024]
    parser.add_argument("--tokens", type=int, nargs="+", default=lengths)
    given = parser.parse_args()
    sys.path.insert(0, str(Path(__file__).parents[1]))
    os.environ |= {
        "JAX_PLATFORMS": "cpu",
        "TPU_SKIP_MDS_QUERY": "1",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    }
    for tokens in given.tokens:
        print(json.dumps(measure(given.on, tokens)), flush=True)


def measure(topology: str, tokens: int) -> dict:
    import jax
    import jax.numpy as jnp
    from jax.experimental import topologies

    from neurofm import config
    from neurofm.nn.attention import attend
    from neurofm.nn.kernels import LANES
    from neurofm.parallel import mesh, sharding

    bounds = {"chips_per_host_bounds": (1, 1, 1)} if topology.endswith("1x1") else {}
    chips = topologies.get_topology_desc(topology, platform="tpu", **bounds).devices
    devices = mesh.make(config.Mesh(), chips[:1])
    rows = sharding.batch_sharding(devices)
    batch = round(102_400 / tokens)
    x = jax.ShapeDtypeStruct((batch, tokens, 12, 64), jnp.bfloat16, sharding=rows)
    visible = jax.ShapeDtypeStruct((batch, tokens), bool, sharding=rows)
    told = {"tokens": tokens, "batch": batch, "splash_adds": -tokens % LANES / tokens}
    for form in ("xla", "splash"):

        def loss(q, k, v, seen, form=form):
            return attend(q, k, v, seen, form).astype(jnp.float32).sum()

        with jax.set_mesh(devices):
            step = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2)))
            memory = step.lower(x, x, x, visible).compile().memory_analysis()
        told[f"{form}_temporaries_gib"] = round(memory.temp_size_in_bytes / 2**30, 3)
    return told


if __name__ == "__main__":
    main()
