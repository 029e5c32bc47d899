"""Importing Du-IN: each stage strictly, with what was never trained named."""

import json

import numpy as np
import pytest
from fixtures import OWN, each, load

from neurofm.errors import NeuroFMError
from neurofm.model import load as load_model
from neurofm.weights.official import import_model

VQVAE = ("w/vq_block.codex.embeddings", "config_json", "X_reconstr")
MASKED = ("w/mask_emb", "config_json")
WORDS = ("w/contra_block.t", "config_json")
PATHS = sorted((OWN / "duin").glob("*.npz"))
PATH = next(p for p in PATHS if {*VQVAE} <= set(load(p)))


def tensors_of(path):
    return {k[2:]: v for k, v in load(path).items() if k.startswith("w/")}


def written(tmp_path, tensors, path=PATH, **more):
    np.savez(tmp_path / "w.npz", **tensors)
    config = tmp_path / "config.json"
    settings = json.loads(str(load(path)["config_json"]))
    config.write_text(json.dumps({**settings, **more}))
    return tmp_path / "w.npz", config


def imported(system, path, tmp_path):
    weights, config = written(tmp_path, tensors_of(path), path)
    report = import_model(system, weights, tmp_path / "m", config)
    assert {*report.matched, *report.ignored} == set(tensors_of(path))
    return report, load_model(tmp_path / "m")


@each("duin", keys=VQVAE)
def test_a_first_stage_comes_in_whole(path, tmp_path):
    report, model = imported("duin_vqvae", path, tmp_path)
    assert model.task.target == "waveform"
    assert model.task.trunk.normalise == "none"
    dead = {name.rpartition(".")[2] for name in report.ignored}
    assert dead == {"time_encodings", "scale", "num_batches_tracked", "initted"}


@each("duin", keys=MASKED)
def test_a_masked_model_comes_in_without_its_first_stage(path, tmp_path):
    _, model = imported("duin", path, tmp_path)
    assert model.task.tokenizer.n_codes == load(path)["c_true"].shape[-1]
    assert "frozen" not in model.variables


@each("duin", keys=WORDS)
def test_of_a_word_model_the_trunk_is_taken(path, tmp_path):
    report, model = imported("duin", path, tmp_path)
    blocks = {n.split(".")[0] for n, why in report.ignored.items() if "trained" in why}
    assert blocks == {"contra_block", "vq_block"}
    assert set(model.variables["params"]) == {"subjects", "tokenizer", "blocks"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("desubj_block.subj_layer.W.weight"), "1 tensors are missing"),
        (lambda t: t.update(odd=np.zeros(3)), r"1 are unknown \(odd\)"),
        (lambda t: t.pop("subj_block.subj_layer.W.weight"), "not a Du-IN checkpoint"),
        (lambda t: t.pop("vq_block.codex.embeddings"), "is imported as duin"),
        (
            lambda t: t["vq_block.codex.initted"].fill(0),
            "codebook of this checkpoint was never filled",
        ),
    ],
)
def test_a_checkpoint_that_is_not_whole_is_refused(change, message, tmp_path):
    tensors = tensors_of(PATH)
    change(tensors)
    weights, config = written(tmp_path, tensors)
    with pytest.raises(NeuroFMError, match=message):
        import_model("duin_vqvae", weights, tmp_path / "m", config)
    assert not (tmp_path / "m").exists()


def test_parts_that_no_published_model_has_are_refused(tmp_path):
    more = {"encoder": {"norm_first": True}}
    weights, config = written(tmp_path, tensors_of(PATH), **more)
    with pytest.raises(NeuroFMError, match=r"encoder\.norm_first True"):
        import_model("duin_vqvae", weights, tmp_path / "m", config)


def test_subjects_get_the_names_that_recordings_have(tmp_path):
    tensors = tensors_of(PATH)
    n = tensors["subj_block.subj_layer.W.weight"].shape[1]
    names = [f"sub-{i:02d}" for i in range(n)]
    weights, config = written(tmp_path, tensors, subjects=names)
    import_model("duin_vqvae", weights, tmp_path / "m", config)
    assert load_model(tmp_path / "m").task.trunk.subjects == tuple(names)
    weights, config = written(tmp_path, tensors, subjects=[*names, "sub-99"])
    with pytest.raises(NeuroFMError, match=f"these tensors are of {n}: give the key"):
        import_model("duin_vqvae", weights, tmp_path / "other", config)
    assert not (tmp_path / "other").exists()
