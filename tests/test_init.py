"""How a network starts: the published distributions, the same over any mesh."""

import functools
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from tiny_models import TINY

from neurofm.model import abstract_batch
from neurofm.weights import leaves

WIDE = replace(
    TINY,
    conv_layers=((20, 10, 5), (36, 3, 2)),
    width=60,
    predictor_width=36,
    project_init=0.125,
)

# Deviations of WavJEPA's released initialisation; Xavier's bound is that of the fused
# (3 D, D) matrix, and a uniform number deviates by its bound / sqrt(3).
NORMAL = {
    "stem_0/conv_0": (2 / 10) ** 0.5,
    "stem_0/conv_1": (2 / (3 * 20)) ** 0.5,
    "project/kernel": 0.125,
    "to_predictor/kernel": 0.02,
    "encoder/blocks_01/attn/out/kernel": 0.02,
    "encoder/blocks_00/mlp_in/kernel": 0.02,
    "predictor/blocks_00/mlp_out/kernel": 0.02,
    "mask_token": 0.02,
}
UNIFORM = {
    "encoder/blocks_01/attn/query/kernel": (6 / (4 * 60)) ** 0.5,
    "predictor/blocks_00/attn/value/kernel": (6 / (4 * 36)) ** 0.5,
}


def start(key):
    shapes = abstract_batch(WIDE, 1)
    batch = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    return WIDE.init(key, batch, {})


@functools.cache
def started(seed=0):
    return jax.device_get(compiled()(jax.random.key(seed)))


@functools.cache
def compiled():
    return jax.jit(start)


@pytest.fixture(scope="module")
def params():
    return dict(leaves.named({"params": started()["params"]}))


@pytest.mark.parametrize(("name", "std"), NORMAL.items())
def test_kernels_start_normal_with_the_published_deviation(params, name, std):
    x = params[f"params/{name}"].ravel()
    assert stats.kstest(x / std, "norm").pvalue > 1e-3


@pytest.mark.parametrize(("name", "bound"), UNIFORM.items())
def test_queries_keys_and_values_start_uniform(params, name, bound):
    x = params[f"params/{name}"].ravel()
    assert np.abs(x).max() <= bound
    assert stats.kstest(x, stats.uniform(-bound, 2 * bound).cdf).pvalue > 1e-3


def test_norms_start_neutral_and_no_two_kernels_share_their_numbers(params):
    for name, x in params.items():
        if name.endswith(("scale", "bias")):
            np.testing.assert_array_equal(x, float(name.endswith("scale")))
    drawn = [x.ravel() for n, x in params.items() if not n.endswith(("scale", "bias"))]
    numbers = np.concatenate([x / x.std() for x in drawn])
    assert len(np.unique(numbers)) > 0.99 * len(numbers)


def test_another_seed_starts_elsewhere_and_the_teacher_as_its_student():
    one, other = started(), started(1)
    token = one["params"]["mask_token"]
    assert not np.isclose(token, other["params"]["mask_token"]).any()
    jax.tree.map(
        np.testing.assert_array_equal, one["slow"]["teacher"], one["params"]["encoder"]
    )


def over_a_mesh():
    from neurofm.config import Mesh
    from neurofm.parallel import distributed, mesh, sharding

    distributed.initialise(devices=4)
    key = jax.random.key(0)
    shapes = jax.eval_shape(start, key)
    devices = mesh.make(Mesh(data=1, fsdp=2, tensor=2))
    placed, _ = sharding.state_shardings(
        shapes, shapes["params"], devices, WIDE.rules()
    )
    made = jax.jit(start, out_shardings=placed)(key)
    assert any(not x.sharding.is_fully_replicated for x in jax.tree.leaves(made))
    print(leaves.params_sha256(jax.device_get(made["params"])))


def test_a_network_starts_the_same_whatever_the_mesh():
    root = str(Path(__file__).parents[1])
    done = subprocess.run(
        [sys.executable, __file__],
        env=os.environ | {"PYTHONPATH": root},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == leaves.params_sha256(started()["params"])


if __name__ == "__main__":
    over_a_mesh()
