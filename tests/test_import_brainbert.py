"""Importing BrainBERT: strict, from its training checkpoint and fine-tuned models."""

import json

import numpy as np
import pytest
from fixtures import OWN, each, load
from torch_archives import torch_file

from neurofm.errors import NeuroFMError
from neurofm.model import load as load_model
from neurofm.model import save
from neurofm.weights.official import import_model

MODEL = ("w/input_encoding.in_proj.weight", "config_json")
PATH = next(
    p for p in sorted((OWN / "brainbert").glob("*.npz")) if "config_json" in load(p)
)
TABLE = "input_encoding.positional_encoding.pe"
READ_OUT = {"linear_out.weight": np.ones((1, 4)), "linear_out.bias": np.ones(1)}


def tensors_of(path):
    return {k[2:]: v for k, v in load(path).items() if k.startswith("w/")}


def written(tmp_path, tensors, path=PATH):
    np.savez(tmp_path / "w.npz", **tensors)
    config = tmp_path / "config.json"
    config.write_text(str(load(path)["config_json"]))
    return tmp_path / "w.npz", config


@each("brainbert", keys=MODEL)
def test_every_tensor_is_accounted_for_and_the_model_is_read_again(path, tmp_path):
    tensors = {**tensors_of(path), TABLE: np.zeros((1, 9, 4))}
    weights, config = written(tmp_path, tensors, path)
    report = import_model("brainbert", weights, tmp_path / "m", config)
    assert {*report.matched, TABLE} == set(tensors)
    assert set(report.ignored) == {TABLE}
    model = load_model(tmp_path / "m")
    assert model.task.heads == json.loads(config.read_text())["nhead"]
    save(tmp_path / "again", model.task, model.variables, {})
    assert load_model(tmp_path / "again").task == model.task
    upstream = {f"upstream.{name}": x for name, x in tensors.items()} | READ_OUT
    weights, _ = written(tmp_path, upstream, path)
    tuned = import_model("brainbert", weights, tmp_path / "t", config)
    assert tuned.params_sha256 == report.params_sha256
    assert set(tuned.ignored) == {f"upstream.{TABLE}", *READ_OUT}


def test_the_training_checkpoint_is_read_without_its_optimizer(tmp_path):
    tensors = {k: np.float32(v) for k, v in tensors_of(PATH).items()}
    optim = {"state": {0: {"step": 3}}}
    torch_file(tmp_path / "w.pth", tensors, "model", optim=optim)
    _, config = written(tmp_path, tensors)
    found = import_model("brainbert", tmp_path / "w.pth", tmp_path / "a", config)
    wanted = import_model("brainbert", tmp_path / "w.npz", tmp_path / "b", config)
    assert found.params_sha256 == wanted.params_sha256


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t: t.pop("transformer.layers.1.norm2.bias"),
            r"1 tensors are missing \(transformer\.layers\.1\.norm2\.bias\)",
        ),
        (lambda t: t.update(odd=np.zeros(3)), r"1 are unknown \(odd\)"),
        (
            lambda t: t.pop("input_encoding.in_proj.weight"),
            "not a BrainBERT checkpoint",
        ),
    ],
)
def test_a_checkpoint_that_is_not_whole_is_refused(change, message, tmp_path):
    tensors = tensors_of(PATH)
    change(tensors)
    weights, config = written(tmp_path, tensors)
    with pytest.raises(NeuroFMError, match=message):
        import_model("brainbert", weights, tmp_path / "m", config)
    assert not (tmp_path / "m").exists()
