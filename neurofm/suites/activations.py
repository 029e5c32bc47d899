"""Saved embeddings as matrices: a row an embedding, its tokens' mean.

Axes: N rows, D width, T tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Shaped

from neurofm import stores
from neurofm.data.embeddings import Embeddings, open_embeddings
from neurofm.errors import NeuroFMError
from neurofm.registry import suggest


@dataclass(frozen=True, eq=False)
class Saved:
    """A folder of embeddings.

    Attributes:
      stored: what it holds.
      names: of its rows, in its order.
    """

    stored: Embeddings
    names: list[str]

    @property
    def path(self) -> Any:
        return self.stored.path

    @property
    def layers(self) -> list[str]:
        """Layers that every row has."""
        first, *others = self.stored.index["layers"].to_pylist()
        return [layer for layer in first if all(layer in each for each in others)]

    def matrix(
        self, layer: str, rows: Int[np.ndarray, " N"] | None = None
    ) -> Float[np.ndarray, "N D"]:
        """The mean over tokens of a layer, of all rows or of some.

        Raises:
          NeuroFMError: what is no number, or rows of unlike widths.
        """
        picked = range(len(self.names)) if rows is None else rows.tolist()
        read = self.stored.read
        means = [read(row, layer).astype(np.float64).mean(0) for row in picked]
        if len({mean.shape for mean in means}) > 1:
            raise NeuroFMError(
                f"rows of {self.path} differ in width in the layer {layer}: embed "
                "again with one model"
            )
        x = np.stack(means)
        if not np.isfinite(x).all():
            bad = int((~np.isfinite(x).all(1)).sum())
            raise NeuroFMError(
                f"{bad} of {len(x)} rows of {self.path} hold what is no number in the "
                f"layer {layer}: check the model with `neurofm check`"
            )
        return x

    def column(self, name: str) -> np.ndarray:
        """A column of the index as text.

        Raises:
          NeuroFMError: there is none, or it has gaps.
        """
        index = self.stored.index
        if name not in index.column_names:
            raise NeuroFMError(
                f"{self.path} has no column {name!r}: "
                f"{suggest(name, list(index.column_names))}"
            )
        values = index[name].to_pylist()
        if n_missing := sum(value is None or value == "" for value in values):
            raise NeuroFMError(
                f"the column {name!r} of {self.path} has no value in {n_missing} of "
                f"{len(values)} rows: fill it in, or embed less"
            )
        return np.array([str(value) for value in values])


def open_saved(path: stores.Place) -> Saved:
    """A folder of embeddings of features.

    Raises:
      NeuroFMError: it is none, holds codes, or is empty.
    """
    if (path / "checkpoints").is_dir() or (path / "model.safetensors").is_file():
        raise NeuroFMError(
            f"{path} is a model, and this suite takes saved embeddings: make them with "
            f"`neurofm embed {path} RECORDINGS --out DIR --layers all`"
        )
    stored = open_embeddings(path)
    if stored.info["request"].get("want", "features") == "codes":
        raise NeuroFMError(
            f"{path} holds codes, which have no mean: embed again without --codes"
        )
    names = [str(name) for name in stored.index["embedding"].to_pylist()]
    if not names:
        raise NeuroFMError(f"{path} holds no embeddings: embed some recordings first")
    return Saved(stored, names)


def shared_rows(saved: Sequence[Saved]) -> list[Int[np.ndarray, " N"]]:
    """Rows of each folder, the same items in the same order.

    Raises:
      NeuroFMError: one holds items that another lacks.
    """
    first, out = saved[0], []
    for other in saved:
        if missing := set(first.names) ^ set(other.names):
            lost = min(missing)
            where = first if lost in first.names else other
            raise NeuroFMError(
                f"{first.path} and {other.path} hold embeddings of different items "
                f"({len(missing)} are in one only, such as {lost!r} in {where.path}): "
                "embed the same recordings with both models"
            )
        place = {name: row for row, name in enumerate(other.names)}
        out.append(np.array([place[name] for name in first.names]))
    return out


def require_same_rows(
    given: Sequence[Any], columns: Sequence[Shaped[np.ndarray, "N ..."]]
) -> None:
    """Refuse seeds of one system whose rows differ in a column.

    Raises:
      NeuroFMError: they do.
    """
    for path, column in zip(given, columns, strict=True):
        if not np.array_equal(column, columns[0]):
            raise NeuroFMError(
                f"{given[0]} and {path} hold embeddings of different items, so they "
                "are no seeds of one system: evaluate each alone"
            )


def only_layer(saved: Saved, layer: str) -> str:
    """A layer by name, or the only one there is where `last` is not.

    Raises:
      NeuroFMError: there are several others.
    """
    layers = saved.layers
    if layer in layers:
        return layer
    if layer == "last" and len(layers) == 1:
        return layers[0]
    raise NeuroFMError(
        f"{saved.path} holds no layer {layer!r}: it holds {', '.join(layers)}"
    )
