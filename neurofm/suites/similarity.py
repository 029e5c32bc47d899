"""The suite `similarity`: layers and models compared over the same items.

Every measure is symmetric and of all pairs of layers; its picture shows them. Two
models are as similar as their layers are to the layer that is most like them: mean over
the layers of both. `chance` is that of rows which do not belong together.

Axes: N items, L layers of all models.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from jaxtyping import Float
from pydantic import PositiveInt

from neurofm import stores
from neurofm.analysis import cca, cka, neighbours, rdm, rsa, trsa
from neurofm.errors import NeuroFMError
from neurofm.suites.activations import Saved, open_saved, shared_rows

_log = logging.getLogger(__name__)

Measure = Literal["cka", "unbiased_cka", "svcca", "pwcca", "rsa", "trsa", "mutual_knn"]
LEAST = 4  # items


@dataclass(frozen=True)
class Settings:
    """What is compared, and how.

    Attributes:
      measures: see `docs/suites.md`.
      layers: names; none means all.
      max_items: more are drawn from, with a fixed seed.
      neighbours: of `mutual_knn`.
    """

    measures: tuple[Measure, ...] = get_args(Measure)
    layers: tuple[str, ...] = ()
    max_items: PositiveInt = 1000
    neighbours: PositiveInt = 10


class Layer(NamedTuple):
    """One layer of one model."""

    model: str
    name: str
    x: Float[np.ndarray, "N D"]


def evaluate(
    given: Sequence[stores.Place],
    data: stores.Place | None,
    out: Path,
    settings: Settings,
) -> dict[str, Any]:
    """Similarity of every layer with every other; see `neurofm.evaluate`.

    Args:
      given: folders of embeddings of the same items, made with `--layers all`.
      data: not used: the items are in the embeddings.

    Returns:
      `similarity`: measure -> the matrix, in the order of `layers`; `scores`: measure
      -> pair of models, or `between layers` of a single one -> mean over layers.

    Raises:
      NeuroFMError: embeddings of different items, or too few.
    """
    if data is not None:
        raise NeuroFMError(
            "the suite similarity compares saved embeddings alone: leave --data out"
        )
    saved = [open_saved(path) for path in given]
    rows = shared_rows(saved)
    n = len(rows[0])
    n_used = min(n, settings.max_items)
    if n_used < max(
        LEAST, settings.neighbours + 1 if _asks_neighbours(settings) else 0
    ):
        raise NeuroFMError(
            f"{n_used} items are too few to compare: give {LEAST} or more, and more "
            f"than the {settings.neighbours} neighbours of mutual_knn"
        )
    kept = np.arange(n)
    if n > settings.max_items:
        drawn = np.random.default_rng(0).choice(n, settings.max_items, replace=False)
        kept = np.sort(drawn)
        _log.warning("compared %d of %d items, drawn with a fixed seed", len(kept), n)
    layers = [
        Layer(model, name, one.matrix(name, of_it[kept]))
        for model, one, of_it in zip(_names(saved), saved, rows, strict=True)
        for name in _layers(one, settings)
    ]
    _warn_saturated(layers)
    shuffle = np.random.default_rng(0).permutation(len(kept))
    found, by_chance = {}, {}
    for measure in settings.measures:
        _log.info("comparing %d layers by %s", len(layers), measure)
        prepare, compare = _measure(measure, settings)
        made = [prepare(layer.x) for layer in layers]
        found[measure] = matrix(made, compare)
        moved = [prepare(layer.x[shuffle]) for layer in layers]
        by_chance[measure] = matrix(made, compare, moved)
    _draw(out, layers, found)
    return {
        "metric": "similarity",
        "over": "layers",
        "layers": [{"model": layer.model, "layer": layer.name} for layer in layers],
        "similarity": {name: _plain(values) for name, values in found.items()},
        "left_out": {"items": n - len(kept)},
        "scores": {
            measure: _scores(layers, values, by_chance[measure], len(kept))
            for measure, values in found.items()
        },
    }


def matrix(
    given: Sequence[Any], compare: Callable[[Any, Any], float], others: Any = None
) -> Float[np.ndarray, "L L"]:
    """Every pair of `given`, each once; or every one of `given` with every other."""
    out = np.empty((len(given), len(given)))
    for i, a in enumerate(given):
        for j in range(len(given)):
            if others is not None:
                out[i, j] = compare(a, others[j])
            elif j >= i:
                out[i, j] = out[j, i] = compare(a, given[j])
    return out


def of_models(
    values: Float[np.ndarray, "L L"], first: Sequence[int], second: Sequence[int]
) -> float:
    """Mean over the layers of both of the similarity with the layer most like it."""
    block = values[np.ix_(first, second)]
    return float(np.concatenate([block.max(1), block.max(0)]).mean())


def _measure(measure: Measure, settings: Settings) -> tuple[Callable, Callable]:
    """What is made of a layer once, and what compares two of that."""
    k = settings.neighbours
    return {
        "cka": (cka.linear_kernel, cka.biased),
        "unbiased_cka": (cka.linear_kernel, cka.unbiased),
        "svcca": (lambda x: cca.basis(cca.reduced(x)), _mean_rho),
        "pwcca": (lambda x: (cca.basis(x), cca.centred(x)), _pwcca),
        "rsa": (lambda x: trsa.scaled_ranks(rdm.correlation(x)), _pearson),
        "trsa": (lambda x: trsa.geo_topological(rdm.correlation(x)), _pearson),
        "mutual_knn": (lambda x: neighbours.nearest(x, k), neighbours.agreement),
    }[measure]


def _mean_rho(a, b) -> float:
    return float(cca.between(a, b).rho.mean())


def _pwcca(a, b) -> float:
    """The mean of the weights of both sides, so that order does not matter."""
    found = cca.between(a[0], b[0])
    weights = cca.projection_weights(found.first, a[1])
    weights = weights + cca.projection_weights(found.second, b[1])
    return float(weights @ found.rho / 2)


def _pearson(a, b) -> float:
    return rsa.compare(a, b, "pearson")


def _asks_neighbours(settings: Settings) -> bool:
    return "mutual_knn" in settings.measures


def _warn_saturated(layers: Sequence[Layer]) -> None:
    n = len(layers[0].x)
    if wide := sum(layer.x.shape[1] >= n - 1 for layer in layers):
        _log.warning(
            "%d of %d layers have as many units as there are items (%d): canonical "
            "correlations with them are 1 whatever they hold; see svcca, unbiased_cka "
            "and rsa instead of pwcca",
            wide,
            len(layers),
            n,
        )


def _layers(saved: Saved, settings: Settings) -> list[str]:
    if not settings.layers:
        return saved.layers
    if lost := [name for name in settings.layers if name not in saved.layers]:
        raise NeuroFMError(
            f"{saved.path} holds no layer {lost[0]!r}: it holds "
            f"{', '.join(saved.layers)}"
        )
    return list(settings.layers)


def _names(saved: Sequence[Saved]) -> list[str]:
    """Folder names, numbered where they are the same."""
    names = [one.path.name for one in saved]
    if len(set(names)) < len(names):
        names = [f"{i + 1}: {name}" for i, name in enumerate(names)]
    return names


def _scores(
    layers: Sequence[Layer],
    values: Float[np.ndarray, "L L"],
    by_chance: Float[np.ndarray, "L L"],
    n: int,
) -> dict[str, Any]:
    members: dict[str, list[int]] = {}
    for i, layer in enumerate(layers):
        members.setdefault(layer.model, []).append(i)
    names, out = list(members), {}
    if len(names) == 1:
        apart = ~np.eye(len(layers), dtype=bool)
        if apart.any():
            out["between layers"] = _cell(values[apart].mean(), n)
        out["chance"] = _cell(by_chance.mean(), n)
        return out
    chance = []
    for i, a in enumerate(names):
        for b in names[i + 1 :]:
            out[f"{a} × {b}"] = _cell(of_models(values, members[a], members[b]), n)
            chance.append(of_models(by_chance, members[a], members[b]))
    out["chance"] = _cell(np.mean(chance), n)
    return {name: cell for name, cell in out.items() if np.isfinite(cell["mean"])}


def _cell(value: Any, n: int) -> dict[str, Any]:
    return {"mean": float(value), "n": n}


def _plain(values: Float[np.ndarray, "L L"]) -> list[list[float | None]]:
    return [[float(v) if np.isfinite(v) else None for v in row] for row in values]


def _draw(out: Path, layers: Sequence[Layer], found: dict[str, np.ndarray]) -> None:
    import matplotlib

    matplotlib.use("agg")
    from matplotlib.figure import Figure

    from neurofm.report.spectrogram import save_png

    models = [layer.model for layer in layers]
    borders = [i for i in range(1, len(models)) if models[i] != models[i - 1]]
    several = bool(borders)
    names = [f"{la.model} {la.name}" if several else la.name for la in layers]
    for measure, values in found.items():
        side = 3 + 0.25 * len(layers)
        figure = Figure((side + 1, side), layout="constrained")
        axes = figure.subplots()
        low = min(0.0, float(np.nanmin(values)))
        shown = axes.imshow(values, vmin=low, vmax=1, interpolation="none")
        axes.set_xticks(range(len(names)), names, rotation=90, fontsize=7)
        axes.set_yticks(range(len(names)), names, fontsize=7)
        for at in borders:
            axes.axhline(at - 0.5, color="white", lw=1)
            axes.axvline(at - 0.5, color="white", lw=1)
        figure.colorbar(shown, ax=axes, label=measure.replace("_", " "))
        save_png(
            figure,
            out / "figures" / f"similarity_{measure}.png",
            f"{measure.replace('_', ' ')} of every layer with every other"
            f"{', models parted by white lines' if several else ''}.",
        )
