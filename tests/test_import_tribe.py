"""Importing TRIBE: strict, from a training checkpoint too, with its styles told."""

import json
import sys

import numpy as np
import pytest
import torch_archives
from fixtures import OWN, each, load

from neurofm.errors import NeuroFMError
from neurofm.model import load as load_model
from neurofm.weights.files import read_settings
from neurofm.weights.official import import_model

MODEL = ("param::time_pos_embed", "config_json")
PATH = next(
    p for p in sorted((OWN / "tribe").glob("*.npz")) if "out::pooled" in load(p)
)


def tensors_of(path):
    return {k[7:]: v for k, v in load(path).items() if k.startswith("param::")}


def settings_of(path):
    return json.loads(str(load(path)["config_json"]))


def written(tmp_path, tensors, settings=None):
    np.savez(tmp_path / "w.npz", **tensors)
    config = None
    if settings is not None:
        config = tmp_path / "config.json"
        config.write_text(json.dumps(settings))
    return tmp_path / "w.npz", config


@each("tribe", keys=MODEL)
def test_every_tensor_is_accounted_for_and_the_model_is_read_again(path, tmp_path):
    tensors = tensors_of(path)
    own = {f"model.{name}": x for name, x in tensors.items()}
    own["metrics.val/pearson.total"] = np.zeros(3, np.int64)
    weights, config = written(tmp_path, own, settings_of(path))
    report = import_model("tribe", weights, tmp_path / "m", config)
    assert {*report.matched, *report.ignored} == {*tensors, "metrics.val/pearson.total"}
    rates = report.ignored["encoder.rotary_pos_emb.inv_freq"]
    task = load_model(tmp_path / "m").task
    assert f"pairs are {task.rotary}" in rates
    assert report.ignored["metrics.val/pearson.total"].startswith(
        "no part of the model"
    )
    assert report.n_params == settings_of(path)["params"]


@each("tribe", keys=MODEL)
def test_a_training_checkpoint_brings_its_build_arguments(path, tmp_path, monkeypatch):
    settings = settings_of(path)
    names = ("feature_dims", "n_outputs", "n_output_timesteps")
    built = {name: settings[name] for name in names}
    built["feature_dims"] = {
        k: v and tuple(v) for k, v in settings["feature_dims"].items()
    }
    own = {f"model.{name}": x for name, x in tensors_of(path).items()}
    for name in ("torch", "torch._utils"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    weights = torch_archives.torch_file(
        tmp_path / "w.ckpt", own, model_build_args=built
    )
    _, config = written(tmp_path, {}, {"heads": settings["heads"]})
    task = (
        import_model("tribe", weights, tmp_path / "m", config)
        and load_model(tmp_path / "m").task
    )
    assert task.output_steps == settings["n_output_timesteps"]
    sizes = {m.name: [m.layers, m.width] for m in task.modalities}
    wanted = {k: v or [0, 0] for k, v in settings["feature_dims"].items()}
    assert list(sizes.items()) == list(wanted.items())


def test_settings_beside_tensors_are_plain_values_alone():
    path = torch_archives.FOLDER / "lightning.ckpt"
    assert read_settings(path, "nothing") == {}
    found = read_settings(path, "hyper_parameters")
    assert not {"settings", "activation", "function", "device"} & set(found)
    assert read_settings(PATH, "model_build_args") == {}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t: t.pop("predictor.bias"),
            r"1 tensors are missing \(predictor.bias\)",
        ),
        (
            lambda t: t.update({"encoder.extra": np.zeros(3)}),
            r"1 are unknown \(encoder.extra\)",
        ),
        (lambda t: t.pop("predictor.weights"), "not a TRIBE checkpoint"),
        (lambda t: t.pop("time_pos_embed"), "no `time_pos_embed`"),
        (
            lambda t: t["encoder.rotary_pos_emb.inv_freq"].fill(0.5),
            "rotates in another way",
        ),
        (
            lambda t: t.update({"projectors.smell.weight": np.zeros((32, 4))}),
            "not of the same model",
        ),
    ],
)
def test_a_checkpoint_that_is_not_whole_is_refused(change, message, tmp_path):
    tensors = tensors_of(PATH)
    change(tensors)
    weights, config = written(tmp_path, tensors, settings_of(PATH))
    with pytest.raises(NeuroFMError, match=message):
        import_model("tribe", weights, tmp_path / "m", config)
    assert not (tmp_path / "m").exists()


def test_heads_that_rotate_otherwise_are_asked_for(tmp_path):
    settings = settings_of(PATH) | {"heads": 1}
    weights, config = written(tmp_path, tensors_of(PATH), settings)
    with pytest.raises(NeuroFMError, match="the key 'heads'"):
        import_model("tribe", weights, tmp_path / "m", config)


def test_what_the_tensors_do_not_tell_is_asked_for(tmp_path):
    weights, _ = written(tmp_path, tensors_of(PATH))
    with pytest.raises(NeuroFMError, match="the key 'feature_dims'"):
        import_model("tribe", weights, tmp_path / "m")


def test_the_released_sizes_need_no_configuration(tmp_path):
    """Of a network as thin as can be, with the widths of the released features."""
    tensors, width = {}, 96
    for name, wide in {"text": 3072, "audio": 1024, "video": 1408}.items():
        tensors[f"projectors.{name}.weight"] = np.ones((32, 2 * wide))
        tensors[f"projectors.{name}.bias"] = np.ones(32)
    at = "encoder.layers"
    tensors |= {f"{at}.0.1.to_{n}.weight": np.ones((96, 96)) for n in ("q", "k", "v")}
    tensors |= {
        "time_pos_embed": np.ones((1, 1024, width)),
        f"{at}.0.0.0.g": np.ones(1),
        f"{at}.0.1.to_out.weight": np.ones((width, width)),
        f"{at}.0.2.residual_scale": np.ones(width),
        f"{at}.1.0.0.g": np.ones(1),
        f"{at}.1.1.ff.0.0.weight": np.ones((4 * width, width)),
        f"{at}.1.1.ff.0.0.bias": np.ones(4 * width),
        f"{at}.1.1.ff.2.weight": np.ones((width, 4 * width)),
        f"{at}.1.1.ff.2.bias": np.ones(width),
        f"{at}.1.2.residual_scale": np.ones(width),
        "encoder.final_norm.g": np.ones(1),
        "low_rank_head.weight": np.ones((16, width)),
        "predictor.weights": np.ones((1, 16, 30)),
        "predictor.bias": np.ones((1, 30)),
    }
    tensors = {name: x.astype(np.float32) for name, x in tensors.items()}
    tensors |= {
        "encoder.rotary_pos_emb.inv_freq": np.float32(
            [1, 1e4 ** (-1 / 3), 1e4 ** (-2 / 3)]
        )
    }
    weights, _ = written(tmp_path, tensors)
    report = import_model("tribe", weights, tmp_path / "m")
    assert report.missing == []
    task = load_model(tmp_path / "m").task
    assert [(m.layers, m.width) for m in task.modalities] == [
        (2, 3072),
        (2, 1024),
        (2, 1408),
    ]
    assert (task.subjects, task.unseen_subject, task.average_subjects) == (
        (),
        True,
        True,
    )
    assert (task.tr_s, task.shift_s, task.feature_steps) == (1.0, 5.0, 200)
