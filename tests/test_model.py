import hashlib
import json
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from tiny_models import TINY, tiny

import neurofm
from neurofm import config
from neurofm.check import check
from neurofm.checkpoint import Checkpoints
from neurofm.errors import NeuroFMError
from neurofm.model import load, save
from neurofm.run.workdir import Workdir
from neurofm.weights import leaves


@pytest.fixture(scope="module")
def model():
    return tiny()


def equal(a, b) -> bool:
    assert jax.tree.structure(a) == jax.tree.structure(b)
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(x.dtype == y.dtype and np.array_equal(x, y) for x, y in pairs)


def test_a_model_folder_brings_back_exactly_what_was_saved(model, tmp_path):
    save(tmp_path / "m", model.task, model.variables, {"step": 7})
    back = load(tmp_path / "m")
    assert back.task == model.task
    assert equal(back.variables, model.variables)
    assert back.meta["step"] == 7
    assert back.contract == model.contract
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m"]
    assert len({p.stat().st_mode for p in (tmp_path / "m").iterdir()}) == 1


def test_scanned_layers_have_their_own_names_in_the_file(model, tmp_path):
    save(tmp_path / "m", model.task, model.variables, {})
    stored = safetensors.numpy.load_file(tmp_path / "m" / "model.safetensors")
    stacked = model.variables["params"]["encoder"]["blocks"]["attn"]["query"]["kernel"]
    for i, layer in enumerate(stacked):
        name = f"params/encoder/blocks_{i:02d}/attn/query/kernel"
        np.testing.assert_array_equal(stored[name], layer)
    assert not any("/blocks/" in name for name in stored)
    assert any(name.startswith("slow/teacher/blocks_01/") for name in stored)


names = st.sampled_from(["a", "norm", "blocks_0", "blocks_12", "conv_0"])
numbers = st.floats(-1, 1, width=32)
leaf = array_shapes(max_dims=2, max_side=3).flatmap(
    lambda shape: arrays(np.float32, shape, elements=numbers)
)
trees = st.recursive(
    leaf, lambda children: st.dictionaries(names, children, min_size=1, max_size=3)
)


@settings(max_examples=100, deadline=None)
@given(tree=trees, depth=st.integers(1, 120))
def test_names_and_trees_round_trip(tree, depth):
    whole = {"params": {"rest": {"x": tree}}}
    whole["params"]["blocks"] = {"w": np.arange(6.0 * depth).reshape(depth, 3, 2)}
    flat = dict(leaves.named(whole))
    assert sum(x.size for x in flat.values()) == leaves.n_params(whole)
    assert f"params/blocks_{depth - 1:02d}/w" in flat or depth > 100
    assert equal(leaves.nested(flat), whole)


def test_a_missing_layer_is_noticed(model, tmp_path):
    for layer in ("00", "01"):
        save(tmp_path / "m", model.task, model.variables, {})
        weights = tmp_path / "m" / "model.safetensors"
        stored = safetensors.numpy.load_file(weights)
        del stored[f"params/encoder/blocks_{layer}/mlp_in/bias"]
        safetensors.numpy.save_file(stored, weights)
        with pytest.raises(NeuroFMError, match="params/encoder/blocks/mlp_in/bias"):
            load(tmp_path / "m")


def test_params_sha256_is_what_its_docstring_says(model, tmp_path):
    save(tmp_path / "m", model.task, model.variables, {})
    stored = safetensors.numpy.load_file(tmp_path / "m" / "model.safetensors")
    digest = hashlib.sha256()
    for name in sorted(n for n in stored if n.startswith("params/")):
        x = stored[name]
        text = [name.removeprefix("params/"), ",".join(map(str, x.shape)), "float32"]
        digest.update("".join(f"{part}\0" for part in text).encode())
        digest.update(x.astype("<f4").tobytes(order="C"))
    assert leaves.params_sha256(model.variables["params"]) == digest.hexdigest()


def test_params_sha256_tells_models_apart_and_not_arrays_from_copies(model):
    params = model.variables["params"]
    own = leaves.params_sha256(params)
    assert leaves.params_sha256(jax.tree.map(jnp.asarray, params)) == own
    assert leaves.params_sha256(dict(reversed(params.items()))) == own
    token = params["mask_token"]
    changed = (
        {**params, "mask_token": np.nextafter(token, np.float32(9))},
        {**params, "mask_token": token[None]},
        {**params, "mask_tokem": token},
    )
    assert all(leaves.params_sha256(other) != own for other in changed)


def test_a_changed_byte_anywhere_in_the_weights_is_one_sentence(model, tmp_path):
    save(tmp_path / "m", model.task, model.variables, {})
    weights = tmp_path / "m" / "model.safetensors"
    whole = weights.read_bytes()
    header = int.from_bytes(whole[:8], "little") + 8
    inside = np.random.default_rng(0).integers(header, len(whole), 4).tolist()
    for at in [0, 7, 8, 20, header - 1, header, *inside, len(whole) - 1]:
        changed = bytearray(whole)
        changed[at] ^= 1
        weights.write_bytes(changed)
        with pytest.raises(NeuroFMError) as error:
            load(tmp_path / "m")
        assert at < header or "sha256 of " in str(error.value)
        assert "\n" not in str(error.value)
    weights.write_bytes(whole)
    load(tmp_path / "m")


def test_weights_of_another_model_of_the_same_sizes_are_refused(model, tmp_path):
    save(tmp_path / "m", model.task, model.variables, {})
    save(tmp_path / "n", model.task, tiny(seed=4).variables, {})
    os.replace(tmp_path / "n/model.safetensors", tmp_path / "m/model.safetensors")
    with pytest.raises(NeuroFMError, match="sha256 of params and slow differs"):
        load(tmp_path / "m")


def test_saving_again_replaces_a_model_folder_and_nothing_else(model, tmp_path):
    save(tmp_path / "m", model.task, model.variables, {"step": 1})
    save(tmp_path / "m", model.task, model.variables, {"step": 2})
    assert load(tmp_path / "m").meta["step"] == 2
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    with pytest.raises(NeuroFMError, match="is not a model folder"):
        save(tmp_path / "mine", model.task, model.variables, {})
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["thesis.tex"]


def test_a_save_that_fails_leaves_the_old_folder(model, tmp_path, monkeypatch):
    save(tmp_path / "m", model.task, model.variables, {"step": 1})

    def full_disk(*args):
        raise OSError("no space left")

    monkeypatch.setattr(safetensors.numpy, "save_file", full_disk)
    with pytest.raises(OSError, match="no space"):
        save(tmp_path / "m", model.task, model.variables, {"step": 2})
    assert load(tmp_path / "m").meta["step"] == 1
    assert os.listdir(tmp_path) == ["m"]


def edit(path, **changes):
    described = json.loads(path.read_text())
    for key, value in changes.items():
        described[key] |= value
    path.write_text(json.dumps(described))


@pytest.mark.parametrize(
    ("part", "change", "words"),
    [
        ("task", {"name": "wavjeppa"}, "did you mean wavjepa"),
        ("task", {"widht": 3}, "did you mean width"),
        ("task", {"width": 16}, "of shape"),
        ("task", {"depth": 3}, "of shape"),
        ("contract", {"sfreq": 16000.0}, "input contract"),
        ("contract", {"rate": 1}, "another version"),
    ],
)
def test_a_config_that_does_not_fit_is_refused(model, tmp_path, part, change, words):
    save(tmp_path / "m", model.task, model.variables, {})
    edit(tmp_path / "m" / "config.json", **{part: change})
    with pytest.raises(NeuroFMError, match=words):
        load(tmp_path / "m")


def test_a_description_without_its_parts_is_refused(model, tmp_path):
    save(tmp_path / "m", model.task, model.variables, {})
    config_file = tmp_path / "m" / "config.json"
    described = json.loads(config_file.read_text())
    for part in ("task", "contract", "meta", "sha256"):
        config_file.write_text(json.dumps(described | {part: [1]}))
        with pytest.raises(NeuroFMError, match="does not describe a model"):
            load(tmp_path / "m")


def test_missing_and_unknown_arrays_are_refused(model, tmp_path):
    params = model.variables["params"]
    lacking = {k: v for k, v in params.items() if k != "feature_norm"}
    save(tmp_path / "a", model.task, {"params": lacking}, {})
    with pytest.raises(NeuroFMError, match=r"lacks 2 arrays .*params/feature_norm"):
        load(tmp_path / "a")
    save(tmp_path / "b", model.task, {"params": {**params, "head": params}}, {})
    with pytest.raises(NeuroFMError, match="no such array"):
        load(tmp_path / "b")


def test_a_model_without_its_training_parts_loads(model, tmp_path):
    kept = model.task.inference(model.variables)
    save(tmp_path / "m", model.task, kept, {})
    wave = np.random.default_rng(0).standard_normal((1, 260))
    ours, whole = load(tmp_path / "m").embed(wave, 800.0), model.embed(wave, 800.0)
    np.testing.assert_array_equal(ours.values["last"], whole.values["last"])


def write_run(workdir, model) -> None:
    """A workdir with checkpoints at steps 3 and 5, as a run leaves it."""
    exp = config.to_json(config.Experiment(task=model.task))
    workdir.mkdir()
    (workdir / "config.json").write_text(json.dumps(exp))
    checkpoints = Checkpoints(workdir / "checkpoints", keep=3)
    for step in (3, 5):
        held = jax.tree.map(jnp.asarray, model.variables)
        held["params"]["mask_token"] += step
        state = {
            "params": held["params"],
            "slow": held["slow"],
            "buffers": {},
            "opt": {"count": jnp.asarray(step)},
            "step": jnp.asarray(step),
        }
        checkpoints.save(step, state, {"config": exp, "datasets": ["ab12"]})
    checkpoints.wait()


def test_a_workdir_and_its_checkpoints_are_models(model, tmp_path):
    write_run(tmp_path / "run", model)
    token = model.variables["params"]["mask_token"]
    places = {"": 5, "checkpoints": 5, "checkpoints/5": 5, "checkpoints/3": 3}
    for place, step in places.items():
        loaded = neurofm.load(tmp_path / "run" / place)
        assert loaded.task == model.task
        np.testing.assert_allclose(
            loaded.variables["params"]["mask_token"], token + step
        )
        assert loaded.meta["pretrained_on"] == ["ab12"]
    assert neurofm.load(tmp_path / "run/checkpoints/3").meta["step"] == 3


@pytest.mark.parametrize("half_saved", [None, "", "3.orbax-checkpoint-tmp"])
def test_a_run_stopped_before_its_first_checkpoint_says_how_to_go_on(
    tmp_path, half_saved
):
    exp = config.Experiment(task=TINY)
    run = Workdir.claim(tmp_path / "my run", exp, ["ab12"]).path
    if half_saved is not None:
        (run / "checkpoints" / half_saved).mkdir(parents=True)
    command = f"neurofm pretrain '{run}/config.json' --workdir '{run}'"
    given = [run, run / "checkpoints"][: 1 + (half_saved is not None)]
    for use in (load, check):
        for path in given:
            with pytest.raises(NeuroFMError, match="without a checkpoint yet") as error:
                use(path)
            assert command in str(error.value)
            assert "\n" not in str(error.value)


def test_paths_that_are_no_model_give_one_sentence(model, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    for path in ("empty", "file", "none"):
        with pytest.raises(NeuroFMError, match="give a run's workdir") as error:
            load(tmp_path / path)
        assert "\n" not in str(error.value)
    save(tmp_path / "m", model.task, model.variables, {})
    weights = tmp_path / "m" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-9])
    with pytest.raises(NeuroFMError, match="cut short"):
        load(tmp_path / "m")
