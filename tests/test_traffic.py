"""What eight devices that share a batch tell each other in a step of each system.

Run as a script, this file is the process that has eight devices; it compiles the step
of the systems named.
"""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest
from tiny_fmri import SEMANTOKS
from tiny_ieeg import BERT, DUIN, VQVAE
from tiny_meeg import OMNI, TOKENIZER
from tiny_models import TRAINABLE
from tiny_tribe import TRIBE

from neurofm.config import Mesh
from neurofm.model import abstract_batch, abstract_frozen
from neurofm.models.finetune import Finetune
from neurofm.optim import Optim
from neurofm.parallel import distributed, mesh
from neurofm.parallel.collectives import collectives
from neurofm.signals.augment import Augment
from neurofm.step import abstract_state, compiled_step

TUNED = Finetune(
    task=TRAINABLE, classes=("a", "b"), augment=Augment(band_masks=1, band_share=0.3)
)
TASKS = {
    "braintokenizer": dataclasses.replace(TOKENIZER, target="both"),
    "duin": DUIN,
    "brainomni": OMNI,
    "wavjepa": dataclasses.replace(TRAINABLE, horizon=9),
    "finetune": TUNED,
    "brainbert": BERT,
    "duin_vqvae": VQVAE,
    "brain_semantoks": SEMANTOKS,
    "tribe": TRIBE,
}
QUICK = ("braintokenizer", "duin")  # the others stand for themselves now and then
# Of the gradients, what is summed beside them: losses, codes, statistics, covariances.
MORE = dict.fromkeys(TASKS, 0.2) | {"brain_semantoks": 0.6}


def on_eight_devices(names):
    """Of each system its kinds of collectives, bytes summed, bytes of its gradients."""
    distributed.initialise(devices=8)
    devices, optim, told = mesh.make(Mesh()), Optim(), {}
    for name in names:
        task = TASKS[name]
        frozen = abstract_frozen(task)
        batch = abstract_batch(task, 16, "train")
        state, _ = abstract_state(task, optim, 9, batch, devices, frozen)
        step = compiled_step(task, optim, 9, 1, 0, state)
        with jax.set_mesh(devices):
            text = step.lower(state, frozen, batch).compile().as_text()
        found = collectives(text or "", dict(devices.shape))
        gradients = sum(x.size * 4 for x in jax.tree.leaves(state["params"]))
        told[name] = {
            "others": [
                str(c) for c in found if c.kind != "all-reduce" or c.trips is None
            ],
            "summed": sum(c.bytes * (c.trips or 0) for c in found),
            "gradients": gradients,
        }
    print(json.dumps(told))


@pytest.mark.parametrize(
    "names",
    [
        QUICK,
        pytest.param(tuple(n for n in TASKS if n not in QUICK), marks=pytest.mark.slow),
    ],
    ids=["quick", "others"],
)
def test_devices_sum_each_gradient_once_and_send_nothing_else(names):
    root = str(Path(__file__).parents[1])
    done = subprocess.run(
        [sys.executable, __file__, *names],
        env=os.environ | {"PYTHONPATH": root, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    told = json.loads(done.stdout.splitlines()[-1])
    for name, one in told.items():
        assert one["others"] == [], name
        assert one["gradients"] <= one["summed"], name
        assert one["summed"] <= (1 + MORE[name]) * one["gradients"], name


if __name__ == "__main__":
    on_eight_devices(sys.argv[1:])
