"""The table of subjects stays where it is: read from the program of eight devices.

Run as a script, this file is the process that has them.
"""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_tribe import TRIBE

from neurofm.config import Mesh
from neurofm.model import abstract_batch
from neurofm.nn.subjects import subject_head
from neurofm.optim import Optim
from neurofm.parallel import distributed, mesh, sharding
from neurofm.parallel.collectives import collectives
from neurofm.step import abstract_state, compiled_step

TASK = replace(TRIBE, n_outputs=512, low_rank=48)
TABLE = 4 * TASK.low_rank * TASK.n_outputs  # numbers; three subjects and the unseen one
SPREAD = {"fsdp=8": Mesh(data=1, fsdp=8), "data=2 fsdp=4": Mesh(data=2, fsdp=4)}


def test_each_example_meets_the_row_of_its_own_subject():
    rng = np.random.default_rng(0)
    x, kernel, bias = (
        rng.normal(0, 1, shape).astype(np.float32)
        for shape in ((5, 3, 4), (6, 4, 7), (6, 7))
    )
    subject = np.int32([4, 0, 4, 5, 1])
    head = jax.jit(lambda *args: subject_head(*args, jnp.dtype("float32")))
    found = head(x, kernel, bias, subject)
    for i, s in enumerate(subject):
        np.testing.assert_allclose(found[i], x[i] @ kernel[s] + bias[s], 1e-5, 1e-5)


def on_eight_devices():
    """Of each mesh, what crosses `fsdp` and what a device stores of the table."""
    distributed.initialise(devices=8)
    told = {}
    for name, sizes in SPREAD.items():
        devices, optim = mesh.make(sizes), Optim(weight_decay=0.0)
        batch = abstract_batch(TASK, 16, "train")
        state, notes = abstract_state(TASK, optim, 9, batch, devices, {})
        rows = sharding.batch_sharding(devices)
        batch = {
            k: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=rows)
            for k, x in batch.items()
        }
        with jax.set_mesh(devices):
            step = compiled_step(TASK, optim, 9, 1, 0, state)
            text = step.lower(state, {}, batch).compile().as_text()
        kernel = state["params"]["subjects"]["kernel"]
        told[name] = {
            "notes": notes,
            "stored": list(kernel.sharding.shard_shape(kernel.shape)),
            "crossing": [
                [c.kind, c.bytes, list(c.axes)]
                for c in collectives(text or "", dict(devices.shape))
            ],
        }
    print(json.dumps(told))


@pytest.fixture(scope="module")
def programs():
    root = str(Path(__file__).parents[1])
    environment = os.environ | {"PYTHONPATH": root, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, __file__],
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", SPREAD)
def test_no_collective_moves_the_table_or_its_gradient(programs, name):
    told, parts = programs[name], SPREAD[name].fsdp
    assert not [note for note in told["notes"] if "subjects" in note]
    assert told["stored"] == [4, 48, 512 // parts]
    across = [c for c in told["crossing"] if "fsdp" in c[2]]
    assert across
    assert max(n_bytes for _, n_bytes, _ in across) < 4 * TABLE / 8
    # Gradients of a part are summed over the groups that hold the same part, once.
    whole = [c for c in told["crossing"] if c[1] >= 4 * TABLE / parts]
    assert [c[2] for c in whole] == ([["data"]] if "data" in name else [])


if __name__ == "__main__":
    on_eight_devices()
