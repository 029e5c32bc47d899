"""The probe on crops: what is chosen, and what is averaged."""

import numpy as np
import pytest

from neurofm.errors import NeuroFMError
from neurofm.eval import crop_probe

CROPS = 4


def made(n, seed, kind="classes"):
    """Recordings whose crops show their class, or number, in a lot of noise."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 3, n) if kind == "classes" else rng.normal(0, 1, n)
    x = rng.normal(0, 1, (n, CROPS, 6))
    shown = np.eye(3)[y] * 2 if kind == "classes" else y[:, None] * np.ones(3)
    x[..., :3] += shown[:, None]
    return x, y


def splits(kind="classes"):
    parts = {"train": (60, 1), "valid": (30, 2), "test": (90, 3)}
    found = {name: made(*sizes, kind) for name, sizes in parts.items()}
    return {k: x for k, (x, _) in found.items()}, {k: y for k, (_, y) in found.items()}


def test_classes_are_told_and_crops_together_tell_more():
    found = crop_probe.probe(*splits(), seed=0, epochs=20)
    together, alone = (found[k]["balanced_accuracy"] for k in ("ensembled", "single"))
    assert together > alone > 0.6
    assert together > 0.9
    assert found["rate"] in crop_probe.RATES


def test_numbers_are_told():
    found = crop_probe.probe(*splits("numbers"), seed=0, kind="numbers", epochs=20)
    assert found["ensembled"]["pearson_r"] > 0.9
    assert found["ensembled"]["mae"] < found["single"]["mae"]
    assert found["valid"] < 0


def test_labels_that_say_nothing_stay_at_chance():
    features, target = splits()
    rng = np.random.default_rng(5)
    shuffled = {name: rng.permutation(y) for name, y in target.items()}
    found = crop_probe.probe(features, shuffled, seed=0, epochs=10)
    assert abs(found["ensembled"]["balanced_accuracy"] - 1 / 3) < 0.15


def test_a_class_missing_in_training_is_named():
    features, target = splits()
    target["train"] = np.minimum(target["train"], 1)
    with pytest.raises(NeuroFMError, match="the class 2 is in the split but not in tr"):
        crop_probe.probe(features, target, seed=0)
