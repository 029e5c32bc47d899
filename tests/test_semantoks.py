"""Brain-Semantoks: what no fixture covers."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import quick
from tiny_fmri import SEMANTOKS, fmri_batch

from neurofm.data import networks
from neurofm.errors import NeuroFMError
from neurofm.models import brain_semantoks_tokenizers as tokenizers
from neurofm.models.brain_semantoks import BrainSemantoks
from neurofm.models.brain_semantoks_tokenizers import Branch
from neurofm.signals.bold_augment import SCALE, SPATIAL, TEMPORAL, BoldAugment
from neurofm.step import draw_key, loss_and_grads
from neurofm.weights.leaves import n_params

DENSE = Branch(width=5, kernel=3, dilation=2)
LONG = Branch(kind="sgconv", width=7, kernel=2, scales=3, decay=(1.5, 2.5))


def started(task=SEMANTOKS, seed=1):
    return quick.jit(lambda key: task.init(key, {}, {}))(jax.random.key(seed))


def steps_loss(task, variables, batch, draws, step=0):
    @quick.jit
    def run(variables, batch, draws):
        others = {k: x for k, x in variables.items() if k != "params"}
        params, at = variables["params"], jnp.int32(step)
        return loss_and_grads(task, params, others, batch, draws, at, 1)

    return jax.device_get(run(variables, batch, draws))


def draws_of(task, batch, step=0, train=True):
    at = jnp.int32(step)
    key = draw_key(3, at, "train" if train else "eval")
    return quick.jit(lambda b: task.draw(b, key, at, train))(batch)


# ---- tokenizers ----------------------------------------------------------------------


def by_hand(params, norms, patch):
    """A tokenizer of both branches of one patch [C, L], loop by loop."""
    regions, length = patch.shape
    own, side = params["branch_0"], DENSE.dilation * (DENSE.kernel - 1) // 2
    first = np.tile(own["bias"][:, None], (1, length)).astype(float)
    for t in range(length):
        for k in range(DENSE.kernel):
            s = t + k * DENSE.dilation - side
            if 0 <= s < length:
                first[:, t] += patch[:, s] @ own["kernel"][k]
    own, heads = params["branch_1"], LONG.heads(regions)
    decays = np.linspace(*LONG.decay, regions)
    channels = []
    for c in range(regions):
        for h in range(heads):
            pieces = [
                np.repeat(own[f"scale_{i}"][h, c], stretch) * decays[c] ** (2 - i)
                for i, stretch in enumerate((1, 1, 2))
            ]
            kernel = np.concatenate(pieces)
            assert np.isclose(norms["branch_1"][h, c, 0], np.linalg.norm(kernel))
            kernel = kernel / norms["branch_1"][h, c]
            before = (len(kernel) - 1) // 2
            room = (before, len(kernel) - 1 - before)
            filtered = np.convolve(np.pad(patch[c], room), kernel, "valid")
            channels.append(filtered + patch[c] * own["skip"][h, c])
    second = own["kernel"].T @ np.array(channels) + own["bias"][:, None]
    y = np.asarray(jax.nn.gelu(np.concatenate([first, second]), approximate=False))
    mean = y.mean(1)
    scaled = (mean - mean.mean()) / np.sqrt(mean.var() + 1e-5)
    return scaled * params["norm"]["scale"] + params["norm"]["bias"]


def test_a_tokenizer_is_what_the_loops_say_and_its_norms_are_fixed_at_the_start():
    rng = np.random.default_rng(4)
    members = np.array([4, 1, 2])
    params = tokenizers.init(jax.random.key(2), (DENSE, LONG), len(members))
    norms = tokenizers.kernel_norms((DENSE, LONG), params)
    patches = rng.normal(0, 1, (2, 3, 5, 9)).astype(np.float32)
    own = ([params], [norms], [members])
    got = tokenizers.tokens((DENSE, LONG), *own, jnp.asarray(patches))[:, 0]
    wanted = by_hand(*jax.device_get((params, norms)), patches[1, 2, members])
    np.testing.assert_allclose(got[1, 2], wanted, atol=2e-5)


@pytest.mark.parametrize(
    "network_of",
    [
        (0, 1, 0, 2, 1, 0, 2),
        pytest.param((0, 1, 2, 3, 4, 5, 6), marks=pytest.mark.slow),
    ],
)
def test_batched_tokenizers_give_what_one_after_the_other_gives(network_of):
    n = max(network_of) + 1
    names = tuple(f"n{i}" for i in range(n))
    exact = replace(
        SEMANTOKS, network_of=network_of, network_names=names, compute="exact"
    )
    variables, crops = started(exact), fmri_batch(exact)["fmri/crops"]
    slope = np.random.default_rng(3).normal(0, 1, (8, n, 3, 12)).astype(np.float32)

    def measured(task):
        @quick.jit
        def run(params, norms, bold):
            grid, back = jax.vjp(lambda p: task.grid(p, norms, bold), params)
            return grid, back(jnp.asarray(slope))[0]["tokenizers"]

        return run(
            variables["params"]["encoder"],
            variables["buffers"]["kernel_norms"],
            jnp.asarray(crops[:, 0]),
        )

    one, other = measured(exact), measured(replace(exact, compute="batched"))
    close = partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4)
    jax.tree.map(close, one, other)


def test_kernels_longer_than_a_patch_are_refused():
    long = (Branch(width=5), Branch(width=7, kind="sgconv", kernel=4))
    with pytest.raises(NeuroFMError, match="kernels of 16 samples, more than a patch"):
        replace(SEMANTOKS, tokenizer=long)


# ---- sizes ---------------------------------------------------------------------------


def test_the_published_model_has_the_published_parameters():
    task = BrainSemantoks()
    shapes = jax.eval_shape(lambda: task.init(jax.random.key(0), {}, {}))
    assert n_params(shapes["params"]["encoder"]) == 58_720_931
    assert n_params(shapes["params"]["head"]) == 918_656
    sizes = [len(m) for m in task.members]
    assert sizes == [61, 77, 46, 47, 26, 52, 91, 50, 7]
    heads = [task.tokenizer[1].heads(n) for n in sizes]
    assert heads == [7, 5, 9, 9, 15, 8, 5, 8, 55]
    assert 1 + len(sizes) * task.patches == 46


# ---- what must not matter, and what must ---------------------------------------------


def test_what_a_missing_network_and_a_filler_hold_changes_nothing():
    task = SEMANTOKS
    batch, variables = fmri_batch(task), started()
    draws = {k: x for k, x in draws_of(task, batch).items() if k != "augment"}
    gone = np.repeat(~batch["fmri/regions"][:, None], 2, axis=1)
    gone &= (~batch["fmri/regions"][:, [3, 6]].any(1))[:, None, None]
    gone[~batch["valid"]] = True
    crops = np.where(gone[..., None], 9.0, batch["fmri/crops"]).astype(np.float32)
    changed = {**batch, "fmri/crops": crops}
    assert (crops != batch["fmri/crops"]).any()
    one, other = (steps_loss(task, variables, b, draws) for b in (batch, changed))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), one, other
    )


def test_hidden_tokens_of_missing_networks_are_no_part_of_the_loss():
    task = SEMANTOKS
    batch, variables = fmri_batch(task), started()
    draws = draws_of(task, batch)
    none = {**draws, "hidden": jnp.zeros_like(draws["hidden"])}
    only = np.zeros(draws["hidden"].shape, bool)
    only[2::4, :, 2] = True  # the network that rows 2 and 6 lack
    alone = {**draws, "hidden": jnp.asarray(only)}
    with_coin = {"step": {"masked": jnp.asarray(True)}}
    losses = [
        steps_loss(task, variables, batch, {**d, **with_coin})[0] for d in (none, alone)
    ]
    assert losses[0]["mask"] == losses[1]["mask"] == 0
    jax.tree.map(np.testing.assert_array_equal, *losses)


def test_the_coin_is_one_for_the_batch_and_falls_as_often_as_asked():
    batch = jax.tree.map(jnp.asarray, fmri_batch(SEMANTOKS))

    def coin(step, share, train=True):
        task = replace(SEMANTOKS, mask_share=share)
        return task.draw(batch, draw_key(1, step, "train"), step, train)["step"][
            "masked"
        ]

    coins = jax.vmap(lambda i: coin(i, 0.3))(jnp.arange(400))
    assert coins.shape == (400,)
    assert abs(coins.mean() - 0.3) < 0.08
    assert coin(jnp.int32(0), 0.0, train=False)
    assert "augment" not in draws_of(SEMANTOKS, batch, train=False)


def test_networks_are_seen_by_name():
    with pytest.raises(NeuroFMError, match="'left': the networks are front, middle"):
        replace(SEMANTOKS, seen_networks=("left",))


def test_the_collapse_monitors_tell_a_constant_teacher():
    task, batch = SEMANTOKS, fmri_batch(SEMANTOKS)
    variables, draws = started(), draws_of(task, batch)

    def monitors(crops):
        given = {**batch, "fmri/crops": crops}
        given["fmri/regions"] = np.ones_like(batch["fmri/regions"])
        plain = {k: x for k, x in draws.items() if k != "augment"}
        _, _, sums = steps_loss(task, variables, given, plain)
        return task.summary(jax.tree.map(jnp.asarray, sums))

    varied = monitors(batch["fmri/crops"])
    one = np.broadcast_to(batch["fmri/crops"][:1], batch["fmri/crops"].shape)
    constant = monitors(one.astype(np.float32))
    for name in ("token_std", "teacher_proj_std", "item_var"):
        assert constant[name] < 1e-3 < varied[name]
    assert varied["effective_rank"] > 1.5


# ---- augmentation --------------------------------------------------------------------


def changed(augment, n=400, regions=20, samples=30):
    keys = jax.random.split(jax.random.key(8), (n, 1))
    crops = jnp.ones((n, 1, regions, samples))
    return np.asarray(augment(jax.random.key_data(keys), crops))[:, 0]


@pytest.mark.parametrize("level", [1, 2, 3])
def test_regions_and_stretches_are_silenced_in_their_shares(level):
    off = {"spatial": 0, "temporal": 0, "noise": 0, "scale": 0}
    low, high = SPATIAL[level]
    silent = (changed(BoldAugment(**{**off, "spatial": level})) == 0).all(2).sum(1)
    assert silent.min() == max(1, int(20 * low))
    assert silent.max() == max(1, int(np.ceil(20 * high)) - 1)
    low, high = TEMPORAL[level]
    quiet = changed(BoldAugment(**{**off, "temporal": level})) == 0
    assert (quiet == quiet[:, :1]).all()
    lengths = quiet[:, 0].sum(1)
    assert lengths.min() == max(1, int(30 * low))
    assert lengths.max() == max(1, int(np.ceil(30 * high)) - 1)
    assert (np.abs(np.diff(quiet[:, 0].astype(int), axis=1)).sum(1) <= 2).all()


@pytest.mark.parametrize("level", [1, 2, 3])
def test_factors_and_noise_are_of_their_level(level):
    off = {"spatial": 0, "temporal": 0, "noise": 0, "scale": 0}
    low, high = SCALE[level]
    factors = changed(BoldAugment(**{**off, "scale": level}))
    assert (factors == factors[:, :1, :1]).all()
    assert low <= factors.min() < low + 0.02
    assert high - 0.02 < factors.max() <= high
    noise = changed(BoldAugment(**{**off, "noise": level, "spatial": 3}))
    std = {1: 0.1, 2: 0.2, 3: 0.4}[level]
    silenced = noise[np.abs(noise) < 0.5]
    assert (noise != 0).all()  # also where a region was silenced
    assert np.abs(changed(BoldAugment(**{**off, "noise": level})).std() - std) < 0.01
    assert len(silenced)


def test_level_0_leaves_a_crop_as_it_is():
    off = BoldAugment(spatial=0, temporal=0, noise=0, scale=0)
    assert (changed(off) == 1).all()


def test_the_two_crops_of_a_subject_are_changed_apart():
    batch = fmri_batch(SEMANTOKS)
    keys = draws_of(SEMANTOKS, batch)["augment"]
    assert len(np.unique(keys.reshape(-1, keys.shape[-1]), axis=0)) == 16


# ---- networks of regions -------------------------------------------------------------


def test_the_published_table_has_the_published_sizes():
    counts = np.bincount(networks.PUBLISHED)
    assert counts.tolist() == [61, 77, 46, 47, 26, 52, 91, 50, 7]
    assert (np.diff(networks.PUBLISHED) < 0).sum() == 1  # the second hemisphere


@pytest.mark.parametrize(
    ("region", "network"),
    [
        ("7Networks_LH_Vis_12", "Vis"),
        ("7Networks_RH_SalVentAttn_TempOccPar_3", "SalVentAttn"),
        ("LH_Default_pCunPCC_4", "Default"),
        ("HIP-head-m1-rh", "Subcortex"),
        ("lAMY-lh", "Subcortex"),
        ("NAc-core-lh", "Subcortex"),
        ("aGP-rh", "Subcortex"),
        ("Cerebellum_3", "Cerebellum"),
        ("Buckner7-1", "Cerebellum"),
        ("region-0001", None),
        ("17Networks_LH_VisCent_1", None),
        ("Precentral_L", None),
    ],
)
def test_a_published_name_tells_its_network(region, network):
    assert networks.told_by(region) == network


def test_a_table_of_ones_own_names_networks_in_the_order_of_its_regions(tmp_path):
    path = tmp_path / "own.tsv"
    path.write_text("network\tregion\nB\tr1\nA\tr2\nunused\tr9\nB\tr3\n")
    assert networks.table(str(path), ["r2", "r3", "r1"]) == (("A", "B"), [0, 1, 1])
    with pytest.raises(NeuroFMError, match=r"1 of 2 regions .* 'r4'\): add them to"):
        networks.table(str(path), ["r1", "r4"])
    path.write_text("region\tnetwork\nr1\tA\nr1\tB\n")
    with pytest.raises(NeuroFMError, match="names the region 'r1' twice"):
        networks.table(str(path), ["r1"])
    path.write_text("name,net\nr1,A\n")
    with pytest.raises(NeuroFMError, match="columns region and network"):
        networks.table(str(path), ["r1"])
    with pytest.raises(NeuroFMError, match="cannot be read"):
        networks.table(str(tmp_path / "gone.tsv"), ["r1"])


def test_one_network_a_region_and_the_published_order():
    assert networks.table("regions", ["a", "b"]) == (("a", "b"), [0, 1])
    blank = [f"region-{i:04d}" for i in range(457)]
    names, of = networks.table("schaefer400-tian3-buckner7", blank)
    assert (names, tuple(of)) == (networks.NAMES, networks.PUBLISHED)
    wrong = ["7Networks_LH_Limbic_OFC_1", *blank[1:]]
    with pytest.raises(NeuroFMError, match=r"of the network Limbic .* has Vis"):
        networks.table("schaefer400-tian3-buckner7", wrong)
    with pytest.raises(NeuroFMError, match="there are 3 regions"):
        networks.table("schaefer400-tian3-buckner7", blank[:3])
    with pytest.raises(NeuroFMError, match="457 regions have no known network"):
        networks.table("names", blank)
