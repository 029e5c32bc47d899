"""Pooling, losses, layers, ensembles and schedules of TRIBE against the released ones.

What a key is about stands in its name: `pool::{steps}_{outputs}`,
`layers::{states}_{fractions}_{mode}`, `sched::onecycle_{steps}`,
`swa::{epochs}x{steps}`.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fixtures import each, load

from neurofm import averaging
from neurofm.eval import ensemble
from neurofm.objectives import responses
from neurofm.optim import Optim
from neurofm.signals import layers
from neurofm.signals.pooling import adaptive_average

ONECYCLE = Optim(lr=1e-4, betas=(0.95, 0.999), warmup=0.1, schedule="onecycle")


def cases(f, prefix):
    """Name of each case -> its arrays by their last name."""
    found = {}
    for key, x in f.items():
        if key.startswith(f"{prefix}::"):
            _, case, name = key.split("::")
            found.setdefault(case, {})[name] = x
    return found.items()


@each("tribe", keys=("pool::*::in",))
def test_pooling_is_the_released_one(path):
    for case, x in cases(load(path), "pool"):
        n_in, n_out = map(int, case.split("_"))
        got = x["in"] @ adaptive_average(n_in, n_out)
        np.testing.assert_allclose(got, x["out"], 1e-6, 1e-6, err_msg=case)


@each("tribe", keys=("loss::pred", "metric::pearson_mean"))
def test_losses_and_streamed_correlations_are_the_released_ones(path):
    f = load(path)
    predicted, target = (jnp.asarray(f[f"loss::{k}"])[None] for k in ("pred", "target"))
    mask = jnp.ones(target.shape, bool)
    for kind in ("mse", "pearson", "smoothl1", "huber"):
        total, weight = responses.loss(predicted, target, mask, kind)
        np.testing.assert_allclose(total / weight, f[f"loss::{kind}"], 1e-5)
        if kind == "pearson":
            np.testing.assert_allclose(total, f["loss::pearson_sum"], 1e-5)
    sums = None
    for at in range(0, target.shape[1], 5):
        piece = [x[:, at : at + 5] for x in (predicted, target, mask)]
        new = responses.correlation_sums(*piece, jnp.ones((1, 1)))
        sums = new if sums is None else jax.tree.map(jnp.add, sums, new)
    assert sums is not None
    found = responses.correlations(sums)[0]
    np.testing.assert_allclose(found, f["metric::pearson_per_parcel"], 1e-5, 1e-6)
    np.testing.assert_allclose(found.mean(), f["metric::pearson_mean"], 1e-5)


@each("tribe", keys=("layers::*::in",))
def test_layers_are_selected_and_averaged_as_released(path):
    for case, x in cases(load(path), "layers"):
        n_states, fractions, mode = case.split("_", 2)
        assert int(n_states) == len(x["in"])
        given = [float(part) for part in fractions.split("-")]
        how = "none" if mode == "None" else mode
        got = layers.aggregated(x["in"], given, how)
        np.testing.assert_allclose(got, x["out"], 1e-6, 1e-6, err_msg=case)


@each("tribe", keys=("ens::preds",))
def test_ensembles_are_weighted_over_models_or_as_released(path):
    f = load(path)
    scores, temperature = f["ens::val_pearson"], float(f["ens::temperature"])
    predictions = f["ens::preds"]
    forms = {
        "models": ("weights_softmax_over_models", "out_softmax_over_models"),
        "outputs": ("weights_as_coded_softmax_over_parcels", "out_as_coded"),
    }
    for over, (name, out) in forms.items():
        weights = ensemble.weights(scores, temperature, over)
        np.testing.assert_allclose(weights, f[f"ens::{name}"], 1e-5)
        combined = ensemble.combined(predictions, weights)
        np.testing.assert_allclose(combined, f[f"ens::{out}"], 1e-4, 1e-6)
    equal = np.full(scores.shape, 1 / len(scores))
    mean = ensemble.combined(predictions, equal)
    np.testing.assert_allclose(mean, f["ens::out_mean"], 1e-4, 1e-6)


@each("tribe", keys=("sched::onecycle_*::lr",))
def test_the_one_cycle_schedule_is_torchs(path):
    for case, x in cases(load(path), "sched"):
        n = int(case.split("_")[1])
        steps = jnp.arange(n)
        rates = jax.vmap(lambda s, n=n: ONECYCLE.learning_rate(s, n))(steps)
        decays = jax.vmap(lambda s, n=n: ONECYCLE.first_decay(s, n))(steps)
        np.testing.assert_allclose(rates, x["lr"], 2e-5, err_msg=case)
        np.testing.assert_allclose(decays, x["beta1"], 1e-6, err_msg=case)


@each("tribe", keys=("swa::*::final_weights",))
def test_rates_and_weights_are_averaged_as_lightning_does(path):
    for case, x in cases(load(path), "swa"):
        epochs, length = map(int, case.split("x"))
        total = epochs * length
        optim = Optim(
            lr=1e-4,
            betas=(0.95, 0.999),
            warmup=0.1,
            schedule="onecycle",
            swa_epochs=epochs,
        )
        rows = x["epoch_batch_lr_beta1"]
        steps = jnp.arange(total)
        rates = jax.vmap(lambda s, o=optim, n=total: o.learning_rate(s, n))(steps)
        decays = jax.vmap(lambda s, o=optim, n=total: o.first_decay(s, n))(steps)
        np.testing.assert_allclose(rates, rows[:, 2], 2e-5, err_msg=case)
        np.testing.assert_allclose(decays, rows[:, 3], 1e-6, err_msg=case)
        weights = jnp.asarray(x["weights_at_epoch_start"])
        slow = averaging.start({"w": weights[0]})

        def one(slow, step, n=total, e=epochs, w=weights, each=length):
            params = {"w": w[step // each] + step % each}
            return averaging.moved(slow, params, step, n, e), None

        slow, _ = jax.lax.scan(one, slow, steps)
        final = averaging.result(slow, {"w": weights[-1]})["w"]
        np.testing.assert_allclose(final, x["final_weights"], 1e-5)


def test_fractions_that_select_nothing_to_average_are_refused():
    states = np.zeros((25, 3), np.float32)
    with pytest.raises(ValueError, match="bounds no group"):
        layers.aggregated(states, [1.0])
    with pytest.raises(ValueError, match="between 0 and 1"):
        layers.aggregated(states, [0.5, 24])
