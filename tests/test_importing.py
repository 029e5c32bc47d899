import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from fixtures import OWN, beside, each

from neurofm.errors import NeuroFMError
from neurofm.model import load
from neurofm.models.wavjepa import WavJEPA
from neurofm.weights.files import read_tensors
from neurofm.weights.leaves import params_sha256
from neurofm.weights.official import import_model, official_names

PATH = sorted((OWN / "wavjepa").glob("*_weights.npz"))[0]
CONFIG = beside(PATH, "_config.json")


def write(path: Path, tensors: dict[str, np.ndarray]) -> Path:
    safetensors.numpy.save_file(tensors, path)
    return path


@each("wavjepa", keys=("w/encoder.norm.weight",), suffix="_weights")
def test_every_official_tensor_is_accounted_for(path, tmp_path):
    report = import_model("wavjepa", path, tmp_path / "m", beside(path, "_config.json"))
    assert sorted([*report.matched, *report.ignored]) == sorted(read_tensors(path))
    assert report.unused == report.missing == []
    assert all("table" in reason for reason in report.ignored.values())
    saved = json.loads((tmp_path / "m" / "import_report.json").read_text())
    assert saved["matched"] == report.matched
    model = load(tmp_path / "m")
    assert params_sha256(model.variables["params"]) == report.params_sha256
    learned = sum(
        x.size
        for name, x in read_tensors(path).items()
        if not name.startswith(("pos_encoding", "teacher_encoder"))
    )
    assert report.n_params == learned


def test_what_wrappers_add_to_names_is_taken_off(tmp_path):
    plain = read_tensors(PATH)
    wrapped = {
        "model." + name.replace("extract_audio.", "extract_audio._orig_mod."): x
        for name, x in plain.items()
    }
    assert sorted(official_names(wrapped)) == sorted(plain)
    path = write(tmp_path / "w.safetensors", wrapped)
    same = import_model("wavjepa", path, tmp_path / "a", CONFIG)
    assert same.params_sha256 == (
        import_model("wavjepa", PATH, tmp_path / "b", CONFIG).params_sha256
    )


def test_two_tensors_of_one_name_are_refused():
    with pytest.raises(NeuroFMError, match=r"both called 'encoder\.x'"):
        official_names({"model.encoder.x": np.ones(1), "encoder.x": np.ones(1)})


def test_unknown_and_missing_tensors_are_listed_and_nothing_is_written(tmp_path):
    tensors = read_tensors(PATH)
    del tensors["encoder.norm.bias"]
    tensors["encoder.extra"] = np.ones(3, np.float32)
    path = write(tmp_path / "w.safetensors", tensors)
    with pytest.raises(NeuroFMError) as error:
        import_model("wavjepa", path, tmp_path / "m", CONFIG)
    assert "1 tensors are missing (encoder.norm.bias)" in str(error.value)
    assert "1 are unknown (encoder.extra)" in str(error.value)
    assert not (tmp_path / "m").exists()


def test_other_models_systems_and_configs_are_refused(tmp_path):
    other = write(tmp_path / "other.safetensors", {"fc.weight": np.ones((2, 3))})
    with pytest.raises(NeuroFMError, match="not a WavJEPA checkpoint"):
        import_model("wavjepa", other, tmp_path / "m")
    with pytest.raises(NeuroFMError, match="did you mean wavjepa"):
        import_model("wavjeppa", PATH, tmp_path / "m")
    for text in ("{", "[1]"):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(NeuroFMError, match="--config"):
            import_model("wavjepa", PATH, tmp_path / "m", tmp_path / "config.json")
    with pytest.raises(NeuroFMError, match="cannot be read"):
        import_model("wavjepa", PATH, tmp_path / "m", tmp_path / "none.json")
    assert not (tmp_path / "m").exists()


def test_the_imported_model_is_the_mapped_one(tmp_path):
    import_model("wavjepa", PATH, tmp_path / "m", CONFIG)
    config = json.loads(CONFIG.read_text())
    found = WavJEPA.from_official(read_tensors(PATH), config)
    assert load(tmp_path / "m").task == found.task


def without_blocks(tensors):
    return {k: x for k, x in tensors.items() if not k.startswith("encoder.layers")}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda w: w | {"feature_norms.weight": w["feature_norms.weight"][:-1]},
            "shape",
        ),
        (
            lambda w: w | {"encoder.norm.weight": w["encoder.norm.weight"] * np.nan},
            "NaN",
        ),
        (lambda w: w | {"encoder.norm.bias": np.ones(48, np.int8)}, "unquantised"),
        (lambda w: w | {k: x[:-1] for k, x in w.items() if "in_proj" in k}, "not fit"),
        (without_blocks, "does not fit wavjepa"),
    ],
)
def test_tensors_that_make_no_model_are_refused_and_nothing_is_written(
    tmp_path, change, words
):
    path = write(tmp_path / "w.safetensors", change(read_tensors(PATH)))
    with pytest.raises(NeuroFMError, match=words):
        import_model("wavjepa", path, tmp_path / "m", CONFIG)
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize("given", [{"encoder_heads": "x"}, {"conv_layers": 5}])
def test_a_config_of_nonsense_is_one_sentence(tmp_path, given):
    config = tmp_path / "config.json"
    config.write_text(json.dumps(json.loads(CONFIG.read_text()) | given))
    with pytest.raises(NeuroFMError, match="does not fit wavjepa"):
        import_model("wavjepa", PATH, tmp_path / "m", config)
