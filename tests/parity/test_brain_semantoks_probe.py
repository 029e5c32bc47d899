"""The linear probe of Brain-Semantoks against its released head and metrics."""

import jax.numpy as jnp
import numpy as np
from fixtures import each, load

from neurofm.eval.crop_probe import (
    Head,
    class_metrics,
    fit,
    number_metrics,
    outputs,
)

RATE = 0.03
NAMES = {
    "mean": "bn.running_mean",
    "variance": "bn.running_var",
    "gain": "bn.weight",
    "shift": "bn.bias",
    "kernel": "layer.weight",
    "bias": "layer.bias",
}


def head_of(f, when):
    arrays = {ours: f[f"probe/{when}/{name}"] for ours, name in NAMES.items()}
    arrays["kernel"] = arrays["kernel"].T
    return Head(**{name: jnp.asarray(x) for name, x in arrays.items()})


@each("brain_semantoks", keys=("probe/w0/*", "probe/w_after50/*"))
def test_full_batches_lead_to_the_released_weights(path):
    f = load(path)
    x, y = jnp.asarray(f["probe/in_train"]), jnp.asarray(f["probe/in_train_y"])
    steps = int(f["probe/w_after50/bn.num_batches_tracked"])
    batches = jnp.tile(jnp.arange(len(x)), (steps, 1))
    got, wanted = fit(head_of(f, "w0"), x, y, batches, RATE), head_of(f, "w_after50")
    for name in Head._fields:
        np.testing.assert_allclose(
            getattr(got, name), getattr(wanted, name), 1e-4, 1e-6, err_msg=name
        )
    scores = outputs(got, jnp.asarray(f["probe/in_eval"]))
    np.testing.assert_allclose(scores, f["probe/eval_logits"], rtol=1e-4, atol=1e-5)


@each("brain_semantoks", keys=("probe/metric_cls_*", "probe/metric_reg_*"))
def test_metrics_are_the_released_ones(path):
    f = load(path)
    found = class_metrics(f["probe/eval_logits"], f["probe/in_eval_y"])
    for name, value in found.items():
        np.testing.assert_allclose(100 * value, f[f"probe/metric_cls_{name}"])
    numbers = f["probe/in_eval"][:, 0].astype(float), f["probe/reg_target"]
    found |= number_metrics(numbers[0], numbers[1].astype(float))
    for name in ("mae", "r2", "pearson_r"):
        np.testing.assert_allclose(
            found[name], f[f"probe/metric_reg_{name}"], rtol=1e-5
        )
    told = [k for k in f if k.startswith("probe/metric_")]
    assert len(told) == len(found)
