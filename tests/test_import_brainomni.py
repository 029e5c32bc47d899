"""Importing BrainOmni and its tokenizer: strict, with both spellings of weight norm."""

import json

import numpy as np
import pytest
from fixtures import OWN, each, load

from neurofm.errors import NeuroFMError
from neurofm.model import load as load_model
from neurofm.weights.official import import_model

OMNI = ("w/mask_token", "w/tokenizer.encoder.neuros")
TOKENIZER = ("w/encoder.neuros", "x_rec")
PAIR = {
    "weight_g": "parametrizations.weight.original0",
    "weight_v": "parametrizations.weight.original1",
}
PATH = next(
    p for p in sorted((OWN / "brainomni").glob("*.npz")) if "w/mask_token" in load(p)
)


def config_of(path, tmp_path, **more):
    file = tmp_path / "model_cfg.json"
    settings = json.loads(str(load(path)["config_json"]))
    file.write_text(json.dumps({**settings, **more}))
    return file


def tensors_of(path):
    return {k[2:]: v for k, v in load(path).items() if k.startswith("w/")}


@each("brainomni", keys=TOKENIZER)
def test_a_tokenizer_comes_in_whole_by_either_spelling(path, tmp_path):
    config = config_of(path, tmp_path)
    report = import_model("braintokenizer", path, tmp_path / "a", config)
    tensors = tensors_of(path)
    assert {*report.matched, *report.ignored} == set(tensors)
    newer = {}
    for name, x in tensors.items():
        for old, new in PAIR.items():
            name = name.replace(old, new)
        newer[name] = x
    np.savez(tmp_path / "newer.npz", **newer)
    again = import_model(
        "braintokenizer", tmp_path / "newer.npz", tmp_path / "b", config
    )
    assert set(again.matched) <= set(newer)
    assert again.params_sha256 == report.params_sha256
    model = load_model(tmp_path / "a")
    assert (model.task.normalise, model.task.remainder) == ("all", "dropped")


@each("brainomni", keys=OMNI)
def test_both_stages_come_in_and_rotary_tables_are_made_anew(path, tmp_path):
    tensors = tensors_of(path)
    tensors["blocks.0.time_attn.rope_embedding_layer.rotate"] = np.zeros((240, 8))
    np.savez(tmp_path / "w.npz", **tensors)
    config = config_of(path, tmp_path)
    report = import_model("brainomni", tmp_path / "w.npz", tmp_path / "m", config)
    assert {*report.matched, *report.ignored} == set(tensors)
    rotary = [n for n in report.ignored if "rope" in n]
    assert len(rotary) == 1 + load_model(tmp_path / "m").task.depth
    model = load_model(tmp_path / "m")
    assert set(model.variables["frozen"]) == {"tokenizer"}
    assert model.layers[-1] == f"layer_{model.task.depth:02d}"


def test_without_a_configuration_head_counts_are_asked_for(tmp_path):
    with pytest.raises(NeuroFMError, match="the key 'n_head'"):
        import_model("brainomni", PATH, tmp_path / "m")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("mask_token"), r"1 tensors are missing \(mask_token\)"),
        (lambda t: t.update(odd=np.zeros(3)), r"1 are unknown \(odd\)"),
        (lambda t: t.pop("predict_head.weight"), "not a BrainOmni checkpoint"),
        (
            lambda t: t.pop(
                "tokenizer.encoder.seanet_encoder.model.0.conv.conv.weight_v"
            ),
            "not a BrainTokenizer checkpoint",
        ),
        (
            lambda t: t["tokenizer.quantizer.rvq.layers.1._codebook.inited"].fill(0),
            "codebooks of this checkpoint were never filled",
        ),
    ],
)
def test_a_checkpoint_that_is_not_whole_is_refused(change, message, tmp_path):
    tensors = tensors_of(PATH)
    change(tensors)
    np.savez(tmp_path / "w.npz", **tensors)
    config = config_of(PATH, tmp_path)
    with pytest.raises(NeuroFMError, match=message):
        import_model("brainomni", tmp_path / "w.npz", tmp_path / "m", config)
    assert not (tmp_path / "m").exists()


def test_a_dropout_that_was_never_published_is_refused(tmp_path):
    config = config_of(PATH, tmp_path, dropout=0.1)
    with pytest.raises(NeuroFMError, match=r"has dropout 0\.1"):
        import_model("brainomni", PATH, tmp_path / "m", config)
