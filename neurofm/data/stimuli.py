"""Features of stimuli by timeline: what a window on a stimulus's clock holds of them.

A feature store is a dataset of kind `features`: an item a stretch of a stimulus (a
film, a story, a part of one), named by its `timeline`, which begins at `onset` on that
timeline's clock. Channels are L layer groups of D values, layer after layer, and
`info.processing` tells `modality`, `model`, `layers` (L) and `width` (D).

Axes: b rows, M modalities, L layer groups, D feature width, T steps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Shaped

from neurofm.contract import BatchSpec
from neurofm.data.records import Dataset
from neurofm.errors import NeuroFMError
from neurofm.signals.timegrid import Grid, meeting

PREFIX = "features/"
PRESENT = "features/present"


class Piece(NamedTuple):
    """One item of a feature store: its dataset's number, its row, where it lies."""

    dataset: int
    item: int
    grid: Grid


def sizes(datasets: Sequence[Dataset]) -> dict[str, tuple[int, int]]:
    """Layer groups and width of each modality of feature stores, in their order.

    Raises:
      NeuroFMError: a store does not say what it holds, or two of a modality differ.
    """
    found: dict[str, tuple[int, int]] = {}
    of: dict[str, Dataset] = {}
    for dataset in datasets:
        told = dataset.info.processing
        names = ("modality", "layers", "width")
        if missing := [name for name in names if name not in told]:
            raise NeuroFMError(
                f"the features {dataset.path} do not tell their {', '.join(missing)}: "
                "make them with `neurofm prepare features`"
            )
        modality, size = told["modality"], (told["layers"], told["width"])
        if size[0] * size[1] != dataset.info.n_chans:
            raise NeuroFMError(
                f"the features {dataset.path} have {dataset.info.n_chans} channels, "
                f"which are not {size[0]} layers of {size[1]}: make them again with "
                "`neurofm prepare features`"
            )
        first = of.setdefault(modality, dataset)
        model = first.info.processing.get("model")
        if found.setdefault(modality, size) != size or told.get("model") != model:
            raise NeuroFMError(
                f"{first.path} and {dataset.path} both hold the modality {modality!r}, "
                f"{found[modality]} of {model} and {size} of {told.get('model')} "
                "(layers, width): give features of one model for a modality"
            )
    return found


class Stimuli:
    """The pieces of features on each timeline, and the arrays of windows on them."""

    def __init__(self, datasets: Mapping[int, Dataset], spec: BatchSpec):
        """Index the stores.

        Args:
          datasets: feature stores by their number among a plan's datasets.
          spec: what the task takes, `features/<modality>` [L, D, T] among its fields.

        Raises:
          NeuroFMError: a store that the task cannot take.
        """
        self.datasets = datasets
        self.sfreq, self.n = spec.contract.sfreq, spec.contract.window_samples
        self.shapes = {
            name.removeprefix(PREFIX): field.shape
            for name, field in spec.fields.items()
            if name.startswith(PREFIX) and name != PRESENT
        }
        self.pieces: dict[str, dict[str, list[Piece]]] = {m: {} for m in self.shapes}
        found = sizes(list(datasets.values()))
        for modality, shape in self.shapes.items():
            if found.get(modality, shape[:2]) != shape[:2]:
                raise NeuroFMError(
                    f"the features of {modality!r} are {found[modality]} (layers, "
                    f"width) where the model takes {shape[:2]}: use the features that "
                    "it was made for"
                )
        for number, dataset in datasets.items():
            self._take(number, dataset)

    def _take(self, number: int, dataset: Dataset) -> None:
        modality = dataset.info.processing["modality"]
        if modality not in self.shapes:
            raise NeuroFMError(
                f"the features {dataset.path} are of the modality {modality!r}, which "
                f"the model does not take (it takes {', '.join(self.shapes)}): leave "
                "them out"
            )
        meeting(Grid(0, dataset.info.sfreq, 1), Grid(0, self.sfreq, self.n))
        columns = [dataset.items[c].to_pylist() for c in ("timeline", "onset")]
        lengths = dataset.items["n_samples"].to_pylist()
        mine: dict[str, list[Piece]] = {}
        for item, (timeline, onset, n) in enumerate(
            zip(*columns, lengths, strict=True)
        ):
            grid = Grid(onset, dataset.info.sfreq, n)
            mine.setdefault(timeline, []).append(Piece(number, item, grid))
        known = self.pieces[modality]
        if twice := sorted(set(known) & set(mine)):
            other = self.datasets[known[twice[0]][0].dataset].path
            raise NeuroFMError(
                f"{other} and {dataset.path} both hold {modality!r} features of the "
                f"timeline {twice[0]!r}, which would be added up: give one of them"
            )
        known |= mine

    def end_s(self, modality: str, timeline: str) -> float | None:
        """Where the features of a timeline end on its clock; None without any."""
        pieces = self.pieces[modality].get(timeline, ())
        return max((p.grid.start_s + p.grid.duration_s for p in pieces), default=None)

    def timelines(self) -> set[str]:
        """Timelines with any features."""
        return {name for known in self.pieces.values() for name in known}

    def batch(
        self, windows: Sequence[tuple[str, float]]
    ) -> dict[str, Shaped[np.ndarray, "b ..."]]:
        """The arrays of windows, each a timeline and where it begins on its clock:

        features/<modality>  float32 [b, L, D, T]  zeros where nothing is
        features/present     bool [b, M]           False without such features
        """
        shapes = self.shapes.items()
        out: dict[str, np.ndarray] = {
            PREFIX + m: np.zeros((len(windows), *s), np.float32) for m, s in shapes
        }
        present = np.zeros((len(windows), len(self.shapes)), bool)
        wanted: dict[int, list[tuple[int, slice, tuple[int, int, int]]]] = {}
        for row, (timeline, start_s) in enumerate(windows):
            window = Grid(start_s, self.sfreq, self.n)
            for m, known in enumerate(self.pieces.values()):
                pieces = known.get(timeline, ())
                present[row, m] = bool(pieces)
                for number, item, grid in pieces:
                    if met := meeting(grid, window):
                        span = (item, met[0].start, met[0].stop)
                        wanted.setdefault(number, []).append((row, met[1], span))
        for number, places in wanted.items():
            modality = self.datasets[number].info.processing["modality"]
            layers, width, _ = self.shapes[modality]
            found = self.datasets[number].read_many([span for _, _, span in places])
            for (row, given, _), x in zip(places, found, strict=True):
                shaped = x.reshape(layers, width, -1)
                out[PREFIX + modality][row, :, :, given] += shaped
        return {**out, PRESENT: present}
