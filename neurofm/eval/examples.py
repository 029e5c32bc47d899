"""What is scored: recordings or intervals of a dataset, each with a target.

Axis letters: N examples.
"""

import dataclasses
import logging
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Float, Int, Shaped

from neurofm.data.records import Dataset
from neurofm.errors import NeuroFMError
from neurofm.eval.parting import part, unknown, values
from neurofm.eval.places import event_names, places, usable_events
from neurofm.eval.split_file import How
from neurofm.eval.splits import Fold

_log = logging.getLogger(__name__)

# Test rows of classes that training lacks are left out up to this share: hand-made
# labels hold strays, but a split that keeps whole classes apart is a mistake.
STRAY_SHARE = 0.05


@dataclass(frozen=True)
class Examples:
    """Recordings or intervals, with what a score needs to know of each.

    Attributes:
      row: number of the recording in the dataset.
      span: onset and offset of the interval in seconds, or None for whole recordings.
      target: classes (words, whole numbers) or numbers (floats).
      groups: what must not be on both sides of a split, or None.
      clusters: what inner folds keep whole and intervals are drawn over: groups, else
        blocks of recordings, else recordings.
      folds: who is trained on, chosen on and tested on.
      left_out: why examples are not used -> how many.
      names: of each, see `neurofm.eval.places`; empty where nobody asks.
      split: what the file of the split holds (`neurofm.eval.split_file`), where there
        is one.
      blocks: clusters are blocks of recordings.
    """

    row: Int[np.ndarray, " N"]
    span: Float[np.ndarray, "N 2"] | None
    target: Shaped[np.ndarray, " N"]
    groups: Shaped[np.ndarray, " N"] | None
    clusters: Shaped[np.ndarray, " N"]
    folds: list[Fold]
    left_out: dict[str, int]
    names: Shaped[np.ndarray, " _"] = field(default_factory=lambda: np.array([], str))
    split: dict[str, Any] = field(default_factory=dict)

    blocks: bool = False

    @property
    def over(self) -> str:
        """What clusters are."""
        if self.groups is not None:
            return "groups"
        return "blocks" if self.blocks else "recordings"


def from_dataset(
    dataset: Dataset,
    target: str | None,
    groups: str | None,
    split: str | None,
    around: tuple[float, float] | None = None,
    gap_s: float | None = None,
    stimulus: str | None = None,
) -> Examples:
    """Examples of a dataset, by the names of columns.

    Args:
      dataset: a record store.
      target: a column of its recordings, or of its interval events; None is
        `trial_type` where there are events.
      groups, split, gap_s, stimulus: see `neurofm.eval.split_file.How`; no split is
        the column `split`.
      around: seconds before and after its onset that will be read of an event; by
        default the event itself.

    Raises:
      NeuroFMError: an unknown column, a split that cannot be made or leaks, or classes
        that cannot be learnt.
    """
    items, events = dataset.items, usable_events(dataset)
    if target is None:
        if not len(events):
            raise NeuroFMError(
                "no target was named; give one of the columns "
                f"{', '.join(items.column_names)}"
            )
        target = "trial_type"
    name = span = None
    if target in items.column_names:
        table, row = items, np.arange(len(items))
    elif len(events) and target in events.column_names:
        table, row, span = _with_items(events, items)
        name = event_names(events)
    else:
        raise unknown("target", target, [*items.column_names, *events.column_names])
    columns = {name: table[name].to_pylist() for name in table.column_names}
    known = np.array([value is not None for value in columns[target]], bool)
    left_out = {"without_target": int((~known).sum())}
    if not known.any():
        raise NeuroFMError(f"no example has a {target!r}; name another target")
    row, span, name = (None if x is None else x[known] for x in (row, span, name))
    assert row is not None
    columns = {
        name: [v for v, keep in zip(values, known, strict=True) if keep]
        for name, values in columns.items()
    }
    label = values(columns, "target", target)
    read = span if span is None or around is None else span[:, :1] + np.array(around)
    where = places(dataset, row, read, name)
    how = How(split=split or "split", groups=groups, gap_s=gap_s, stimulus=stimulus)
    parted = part(columns, where, how, dataset.hash)
    made, strays = _without_strays(parted.folds, label)
    left_out |= {"class_not_in_training": strays, "near_another_side": parted.near}
    for reason, count in left_out.items():
        if count:
            _log.warning("%d examples left out: %s", count, reason.replace("_", " "))
    clusters = parted.groups
    if clusters is None:
        clusters = row if parted.blocks is None else parted.blocks
    return Examples(
        row,
        span,
        label,
        parted.groups,
        clusters,
        made,
        left_out,
        where.name,
        parted.content,
        parted.groups is None and parted.blocks is not None,
    )


def _with_items(
    events: pa.Table, items: pa.Table
) -> tuple[pa.Table, Int[np.ndarray, " N"], Float[np.ndarray, "N 2"]]:
    """Events with the columns of their recordings, their rows and their spans."""
    number = {name: i for i, name in enumerate(items["item"].to_pylist())}
    row = np.array([number[name] for name in events["item"].to_pylist()], int)
    onset = events["onset"].to_numpy()
    duration = np.nan_to_num(events["duration"].to_numpy())  # of a moment, none is told
    span = np.stack([onset, onset + duration], 1)
    for name in items.column_names:
        if name not in events.column_names:
            events = events.append_column(name, items[name].take(pa.array(row)))
    return events, row, span


def _without_strays(
    made: list[Fold], target: Shaped[np.ndarray, " N"]
) -> tuple[list[Fold], int]:
    """Folds less their few test rows of classes that their training rows lack."""
    if np.issubdtype(target.dtype, np.floating):
        return made, 0
    kept, n_strays = [], 0
    for fold in made:
        learnt = np.isin(target[fold.test], target[fold.train])
        strays = Counter(target[fold.test][~learnt].tolist())
        if strays.total() > STRAY_SHARE * len(fold.test):
            lone = any(np.sum(target == name) == 1 for name in strays)
            raise NeuroFMError(
                f"{strays.total()} of {len(fold.test)} test rows of a fold are of "
                f"classes that its training rows lack "
                f"({', '.join(map(str, strays))}); choose another split"
                f"{', or leave out classes of a single example' * lone}"
            )
        kept.append(dataclasses.replace(fold, test=fold.test[learnt]))
        n_strays += strays.total()
    return kept, n_strays
