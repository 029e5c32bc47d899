"""The suite `zero-shot`: classes told by the texts that are most like a recording.

The texts of a class (its templates) are rows of a folder of embeddings, in whose index
a column names their class; the recordings' column of the same name holds the answer.

Axes: N recordings, C classes, T templates, D width.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped
from pydantic import PositiveInt

from neurofm import stores
from neurofm.analysis import retrieval, zero_shot
from neurofm.errors import NeuroFMError
from neurofm.suites.activations import (
    Saved,
    only_layer,
    open_saved,
    require_same_rows,
)
from neurofm.suites.topk import top_k

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Settings:
    """What is classified.

    Attributes:
      target: column of classes, of recordings and of texts.
      groups: column that intervals are drawn over; default the item.
      layer, text_layer: of recordings and of texts.
      separator: between the labels of a recording that may have several; default one
        label each.
      ks: of top-k, for one label each.
    """

    target: str | None = None
    groups: str | None = None
    layer: str = "last"
    text_layer: str = "last"
    separator: str | None = None
    ks: tuple[PositiveInt, ...] = (1, 3)


def evaluate(
    given: Sequence[stores.Place],
    data: stores.Place | None,
    out: Path,
    settings: Settings,
) -> dict[str, Any]:
    """Zero-shot scores of recordings; see `neurofm.evaluate`.

    Args:
      given: folders of embeddings of recordings; several are seeds of one system.
      data: the folder of embeddings of texts.

    Returns:
      `scores`: `top1`, ... (with a separator `mAP`) -> `model` and `chance`;
      `few`: classes with a single recording.

    Raises:
      NeuroFMError: no text for a class, or texts of another model or width.
    """
    if data is None or settings.target is None:
        raise NeuroFMError(
            "the suite zero-shot needs embeddings of texts as --data, and the column "
            "of classes, in both, as --target"
        )
    texts = open_saved(data)
    by_text = texts.column(settings.target)
    classes = np.unique(by_text)
    if len(classes) < 2:
        raise NeuroFMError(
            f"{data} has texts of one class only ({classes[0]}): give two or more"
        )
    text = class_vectors(texts, settings.text_layer, by_text, classes)
    found, answers, groups = [], [], []
    for path in given:
        saved = open_saved(path)
        _refuse_other_model(saved, texts)
        audio = saved.matrix(only_layer(saved, settings.layer))
        found.append(zero_shot.logits(audio, text))
        answers.append(targets(saved, settings, classes))
        groups.append(saved.column(settings.groups or "item"))
    require_same_rows(given, groups)
    require_same_rows(given, answers)
    target = answers[0]
    if few := int(np.sum(target.sum(0) == 1)):
        _log.warning(
            "%d of %d classes have one recording: their scores say little",
            few,
            len(classes),
        )
    cosines = np.stack(found)
    if settings.separator is not None:
        told = _several(cosines, target)
    else:
        told = _one(cosines, target, groups[0], settings.ks)
    return {
        "over": settings.groups or "item",
        "classes": classes.tolist(),
        "n_templates": {str(c): int(np.sum(by_text == c)) for c in classes},
        "few": few,
        **told,
    }


def class_vectors(
    texts: Saved,
    layer: str,
    by_text: Shaped[np.ndarray, " M"],
    classes: Shaped[np.ndarray, " C"],
) -> Float[np.ndarray, "C D"]:
    """One vector a class, of however many texts it has."""
    x = texts.matrix(only_layer(texts, layer))
    return np.concatenate(
        [zero_shot.class_embeddings(x[None, by_text == name]) for name in classes]
    )


def targets(
    saved: Saved, settings: Settings, classes: Shaped[np.ndarray, " C"]
) -> Bool[np.ndarray, "N C"]:
    """Which classes a recording is of.

    Raises:
      NeuroFMError: a class without a text.
    """
    assert settings.target is not None
    values = saved.column(settings.target).tolist()
    split = settings.separator
    labels = [v.split(split) if split else [v] for v in values]
    labels = [[word.strip() for word in words if word.strip()] for words in labels]
    if lost := {word for words in labels for word in words} - set(classes.tolist()):
        raise NeuroFMError(
            f"{len(lost)} classes of {saved.path} have no text (first: {min(lost)!r}): "
            f"embed a text for each, with its class under {settings.target}"
        )
    return np.array([[name in words for name in classes.tolist()] for words in labels])


def _refuse_other_model(saved: Saved, texts: Saved) -> None:
    a, b = (one.stored.info["request"].get("params_sha256") for one in (saved, texts))
    if a and b and a != b:
        raise NeuroFMError(
            f"{texts.path} was embedded by another model than {saved.path} (their "
            "params_sha256 differ): embed sounds and texts with the same one"
        )


def _one(
    cosines: Float[np.ndarray, "S N C"],
    target: Bool[np.ndarray, "N C"],
    groups: Shaped[np.ndarray, " N"],
    ks: Sequence[int],
) -> dict[str, Any]:
    label: Int[np.ndarray, " N"] = target.argmax(1)
    rank = np.stack([retrieval.ranks(of_seed, label) for of_seed in cosines])
    scores = top_k(rank, target.shape[1], groups, ks)
    return {"metric": "accuracy", "scores": scores}


def _several(
    cosines: Float[np.ndarray, "S N C"], target: Bool[np.ndarray, "N C"]
) -> dict[str, Any]:
    """Means over classes that have a recording; chance is their share of recordings."""
    there = target.any(0)
    of_class = np.stack(
        [zero_shot.class_precision(of_seed, target) for of_seed in cosines]
    )
    by_seed = of_class[:, there].mean(1)
    cell: dict[str, Any] = {"mean": float(by_seed.mean()), "n": len(target)}
    if len(by_seed) > 1:
        cell["std"] = float(by_seed.std())
    chance = {"mean": float(target[:, there].mean())}
    return {
        "metric": "mAP",
        "left_out": {"classes_without_recordings": int(np.sum(~there))},
        "scores": {"mAP": {"model": cell, "chance": chance}},
    }
