"""The training step compiles for a TPU slice that is not there."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("libtpu", reason="libtpu compiles for TPU; Linux x86-64 only")

PROGRAM = """
import dataclasses, json
import jax
from jax.experimental import topologies
from neurofm.config import Mesh
from neurofm.models.wavjepa import WavJEPA
from neurofm.optim import Optim
from neurofm.parallel import mesh, sharding
from neurofm.parallel.collectives import collectives
from neurofm.step import new_state, train_step

chips = topologies.get_topology_desc("v5e:2x2", platform="tpu").devices
task = WavJEPA(
    sfreq=2000, window_samples=2019, conv_layers=((64, 10, 5), (64, 3, 2), (64, 2, 2)),
    width=128, depth=2, heads=2, predictor_width=128, predictor_depth=1,
    predictor_heads=2, top_k=2, context_caps=(40,), precision="bfloat16", horizon=100,
)
optim, n = Optim(), 44
devices = mesh.make(Mesh(data=2, fsdp=2), chips)
rows = sharding.batch_sharding(devices)
fields = {k: (f.shape, f.dtype) for k, f in task.batch_spec().fields.items()}
fields |= {"index": ((), "int32"), "valid": ((), "bool")}
batch = {
    k: jax.ShapeDtypeStruct((n, *s), d, sharding=rows) for k, (s, d) in fields.items()
}
fresh = lambda b: new_state(task, optim, 100, jax.random.key(0), b, {})
state = jax.eval_shape(fresh, batch)
placed, _ = sharding.state_shardings(state, state["params"], devices, task.rules())
state = jax.tree.map(
    lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), state, placed
)
with jax.set_mesh(devices):
    step = jax.jit(
        train_step(task, optim, 100, 1, 0),
        donate_argnums=0,
        out_shardings=(placed, None, None),
    )
    compiled = step.lower(state, {}, batch).compile()
found = collectives(compiled.as_text(), devices.shape)
print(json.dumps({
    "temporaries": compiled.memory_analysis().temp_size_in_bytes,
    "collectives": [dataclasses.asdict(one) for one in found],
}))
"""


def test_the_step_compiles_for_four_v5e_chips_and_gathers_no_activations():
    environment = {**os.environ, "TPU_SKIP_MDS_QUERY": "1"}
    environment |= {
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(Path(__file__).parents[1]),
    }
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert 0 < found["temporaries"] < 2**30
    gathers = [c for c in found["collectives"] if c["kind"] == "all-gather"]
    # The weights of a layer, where they are used: 2 student blocks forth and back, 2 of
    # the teacher and 1 of the predictor.
    assert {c["trips"] for c in gathers} == {1, 2}
    assert {tuple(c["axes"]) for c in gathers} == {("fsdp",)}
    # 44 items are 11 a chip, and no weight has a multiple of 11 as a dimension.
    shapes = [shape for c in gathers for shape in c["shapes"]]
    assert not [shape for shape in shapes if any(d % 11 == 0 for d in shape)]
    summed = {a for c in found["collectives"] if c not in gathers for a in c["axes"]}
    assert summed == {"data", "fsdp"}
