"""Schedules and masks of Brain-Semantoks against those of the released code."""

import re
from collections import Counter
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
from fixtures import each, load

from neurofm.models.brain_semantoks import BrainSemantoks
from neurofm.objectives.slices import slice_mask
from neurofm.optim import Optim

RATIOS = (0.65, 0.85)


@each("brain_semantoks", keys=("sched/lr",))
def test_schedules_are_the_released_ones(path):
    f = load(path)
    wanted = {k.removeprefix("sched/"): x for k, x in f.items() if "sched/" in k}
    decays, ema = (
        next(k for k in wanted if k.startswith(name))
        for name in ("weight_decay", "teacher_momentum")
    )
    start, end = map(float, re.findall(r"[\d.]+", decays))
    linear = next(k for k in wanted if k.startswith("network_weight_linear"))
    total, peak = len(wanted["lr"]), int(wanted["lr"].argmax())
    fall = int((wanted["network_weight_cosine"] == 0).argmax())  # first step at 0
    delay = int((wanted[linear] > 0).argmax())  # first step above 0
    optim = Optim(
        lr=wanted["lr"][peak],
        warmup=peak / total,
        weight_decay=start,
        weight_decay_end=end,
    )
    task = BrainSemantoks(
        ema_start=wanted[ema][0], network_share=fall / total, horizon=total
    )
    late = replace(task, network_schedule="linear", network_delay=delay / total)
    assert 0 < peak < fall < total
    assert delay > 0
    with jax.enable_x64():
        found = jax.vmap(
            lambda step: {
                "lr": optim.learning_rate(step, total),
                decays: optim.decay(step, total),
                ema: 1 - task.teacher_share(step),
                "network_weight_cosine": task.network_weight_at(step),
                linear: late.network_weight_at(step),
            }
        )(jnp.arange(total))
        assert found.keys() == wanted.keys()
        for name, values in found.items():
            np.testing.assert_allclose(values, wanted[name], 0, 1e-9, err_msg=name)


@each("brain_semantoks", keys=("maskstat/network_counts",))
def test_masks_are_drawn_as_often_as_released(path):
    f = load(path)
    n_networks, n_patches = 9, 5
    keys = jax.random.split(jax.random.key(3), 8000)
    draw = jax.jit(jax.vmap(lambda k: slice_mask(k, n_networks, n_patches, *RATIOS)))
    masks = np.asarray(draw(keys))
    whole = masks.all(2)  # networks hidden in all patches
    is_network = whole.any(1) & ~whole.all(1)
    assert (masks[is_network] == whole[is_network][..., None]).all()
    assert abs(is_network.mean() - 0.5) < 0.02
    stretch = masks[~is_network]
    assert (stretch == stretch[:, :1]).all()
    edges = np.diff(np.pad(stretch[:, 0].astype(int), ((0, 0), (1, 1))), axis=1)
    assert ((edges == 1).sum(1) == 1).all()  # one piece
    sizes = {"network": whole[is_network].sum(1), "temporal": stretch[:, 0].sum(1)}
    for name, drawn in sizes.items():
        wanted = dict(f[f"maskstat/{name}_counts"])
        count, n = Counter(drawn.tolist()), sum(wanted.values())
        assert set(count) == set(wanted)
        for size, times in wanted.items():
            assert abs(count[size] / len(drawn) - times / n) < 0.04
    each_network = whole[is_network].mean(0)
    assert np.ptp(each_network) < 0.06
