"""The suite `dimension`: how many dimensions the embeddings of each electrode fill.

A row of embeddings is a window (or an event), the mean over its tokens; of a model that
reads electrodes one by one each electrode is counted alone, else all of a row together.

Axes: N rows, D width.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from jaxtyping import Float
from pydantic import Field, PositiveInt

from neurofm import stores
from neurofm.analysis.dimension import intrinsic
from neurofm.errors import NeuroFMError
from neurofm.suites.activations import Saved, open_saved

_log = logging.getLogger(__name__)

LEAST = 4  # rows


@dataclass(frozen=True)
class Settings:
    """What is counted.

    Attributes:
      layers: names; none means all.
      share: of the variance that the components are to hold.
      most: components at most.
      max_items: more rows are drawn from, with a fixed seed.
    """

    layers: tuple[str, ...] = ()
    share: Annotated[float, Field(gt=0, lt=1)] = 0.95
    most: PositiveInt = 200
    max_items: PositiveInt = 500


def evaluate(
    given: Sequence[stores.Place],
    data: stores.Place | None,
    out: Path,
    settings: Settings,
) -> dict[str, Any]:
    """Dimensions of every layer of one folder; see `neurofm.evaluate`.

    Args:
      given: a folder of embeddings.
      data: not used: the items are in the embeddings.

    Returns:
      `dimension`: layer -> electrode -> dimensions; `n_rows`, from how many; `scores`:
      layer -> mean and deviation over electrodes.

    Raises:
      NeuroFMError: several folders, too few rows, or rows of unlike electrodes.
    """
    del out
    if data is not None:
        raise NeuroFMError(
            "the suite dimension reads saved embeddings alone: leave --data out"
        )
    if len(given) > 1:
        raise NeuroFMError(
            f"the suite dimension takes one folder of embeddings, not {len(given)}: "
            "evaluate each alone"
        )
    saved = open_saved(given[0])
    names, n = electrodes(saved), len(saved.names)
    if n < LEAST:
        raise NeuroFMError(
            f"{n} rows are too few to count dimensions: embed {LEAST} windows or more, "
            "cut recordings by --around"
        )
    rows = np.arange(n)
    if n > settings.max_items:
        drawn = np.random.default_rng(0).choice(n, settings.max_items, replace=False)
        rows = np.sort(drawn)
        _log.warning("counted on %d of %d rows, drawn with a fixed seed", len(rows), n)
    layers = settings.layers or tuple(saved.layers)
    found = {
        layer: counted(saved.matrix(layer, rows), names, settings) for layer in layers
    }
    return {
        "metric": "dimension",
        "over": "electrodes",
        "dimension": found,
        "n_rows": len(rows),
        "left_out": {"items": n - len(rows)},
        "scores": {
            layer: {
                "mean": float(np.mean(list(each.values()))),
                "std": float(np.std(list(each.values()))),
                "n": len(each),
            }
            for layer, each in found.items()
        },
    }


def counted(
    x: Float[np.ndarray, "N D"], names: tuple[str, ...], settings: Settings
) -> dict[str, int]:
    """Dimensions of each electrode, whose vectors lie side by side."""
    parts = np.split(x, len(names), axis=1)
    return {
        name: intrinsic(part, settings.share, settings.most)
        for name, part in zip(names, parts, strict=True)
    }


def electrodes(saved: Saved) -> tuple[str, ...]:
    """Names of what lies side by side in each row; `all` where nothing does.

    Raises:
      NeuroFMError: rows have other electrodes than each other.
    """
    index = saved.stored.index
    contract = saved.stored.info.get("contract", {})
    alone = contract.get("kind") == "ieeg" and contract.get("n_chans") == 1
    if not alone or "sensors" not in index.column_names:
        return ("all",)
    found = {tuple(names) for names in index["sensors"].to_pylist()}
    if len(found) > 1:
        raise NeuroFMError(
            f"the rows of {saved.path} have {len(found)} different sets of electrodes: "
            "embed the recordings of each subject apart"
        )
    return found.pop()
