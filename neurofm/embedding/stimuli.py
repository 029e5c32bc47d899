"""Features of stimuli that a user gives, as a model of brains takes them.

Feature stores of all modalities together; a recording is a timeline.

Axes: C channels (layers by width of every modality, in the model's order), N steps.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from neurofm.contract import InputContract
from neurofm.data.records import Dataset, open_dataset
from neurofm.data.stimuli import Stimuli
from neurofm.embedding import electrodes
from neurofm.embedding.difference import Difference
from neurofm.embedding.recorded import Recorded, Stimulus
from neurofm.errors import NeuroFMError
from neurofm.model import Model
from neurofm.signals.timegrid import Grid, signal_on_grid
from neurofm.stores import Place
from neurofm.task import Want


@dataclass(frozen=True, eq=False)
class Timeline:
    """All features of one stimulus; `who` sees it, `subject` is their number."""

    item: str
    held: Stimuli
    subject: int
    who: str

    @property
    def file(self) -> str:
        return self.item

    @property
    def stamp(self) -> str:
        hashes = " ".join(d.hash for d in self.held.datasets.values())
        return f"{self.item} {hashes} {self.who}"

    def take(self, contract: InputContract) -> tuple[Recorded, list[Difference]]:
        """Features of every modality from where the first begins to the last's end."""
        pieces = {m: known.get(self.item, []) for m, known in self.held.pieces.items()}
        grids = [p.grid for own in pieces.values() for p in own]
        start_s = min(grid.start_s for grid in grids)
        stop_s = max(grid.start_s + grid.duration_s for grid in grids)
        n = max(1, round((stop_s - start_s) * contract.sfreq))
        window = Grid(start_s, contract.sfreq, n)
        parts, sizes = [], []
        for modality, own in pieces.items():
            layers, width, _ = self.held.shapes[modality]
            sizes.append((modality, layers, width))
            read = [
                (p.grid.start_s, p.grid.sfreq, self._store(p).read(p.item, 0, p.grid.n))
                for p in own
            ]
            none = np.zeros((layers * width, n), np.float32)
            parts.append(signal_on_grid(window, read) if read else none)
        present = np.array([bool(own) for own in pieces.values()])
        shown = Stimulus(tuple(sizes), present, self.subject)
        return Recorded(np.concatenate(parts), start_s=start_s, stimulus=shown), []

    def _store(self, piece: Any) -> Dataset:
        return self.held.datasets[piece.dataset]

    def columns(self) -> dict[str, Any]:
        """What is known of it."""
        return {"file": self.file, "timeline": self.item, "subject": self.who}

    @property
    def n_events(self) -> int:
        """None: features have no events of their own."""
        return 0

    def events(self) -> list[dict[str, Any]]:
        return []


def find(
    given: Sequence[Place], model: Model, subject: str | None, want: Want
) -> list[Timeline]:
    """Every timeline of feature stores, in the order of their names.

    Args:
      subject: who sees them, where the model knows several; by default nobody in
        particular, where the model has a row for that.

    Raises:
      NeuroFMError: another kind of store, features that the model does not take, a
        subject that it does not know.
    """
    stores = {i: open_dataset(path) for i, path in enumerate(given)}
    for dataset in stores.values():
        if dataset.info.kind != "features":
            raise NeuroFMError(
                f"{dataset.path} holds {dataset.info.kind} and this model takes "
                "features of stimuli: give what `neurofm prepare features` made"
            )
    held = Stimuli(stores, model.task.batch_spec("features"))
    number = _number(model, subject, want)
    names = sorted(held.timelines())
    return [Timeline(name, held, number, subject or "") for name in names]


def _number(model: Model, subject: str | None, want: Want) -> int:
    """The row of a subject; of none, that of the unseen one, or any that is as good."""
    task: Any = model.task
    if subject is None and getattr(task, "unseen_subject", False):
        return len(model.subjects)
    if (
        subject is None
        and want == "features"
        and not getattr(task, "subject_embedding", True)
    ):
        return 0
    return electrodes.number(model.subjects, subject)
