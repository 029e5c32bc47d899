"""What is scored: recordings or intervals of a dataset, each with a target.

Axis letters: N examples.
"""

import dataclasses
import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Float, Int, Shaped

from neurofm.data.meeg import BAD
from neurofm.data.records import Dataset
from neurofm.errors import NeuroFMError
from neurofm.eval.splits import SCHEME, Fold, folds
from neurofm.registry import suggest

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
        recordings.
      folds: who is trained on, chosen on and tested on.
      left_out: why examples are not used -> how many.
    """

    row: Int[np.ndarray, " N"]
    span: Float[np.ndarray, "N 2"] | None
    target: Shaped[np.ndarray, " N"]
    groups: Shaped[np.ndarray, " N"] | None
    clusters: Shaped[np.ndarray, " N"]
    folds: list[Fold]
    left_out: dict[str, int]


def from_dataset(
    dataset: Dataset, target: str | None, groups: str | None, split: str | None
) -> Examples:
    """Examples of a dataset, by the names of columns.

    Args:
      dataset: a record store.
      target: a column of its recordings, or of its interval events; None is
        `trial_type` where there are events.
      groups: a column of either, or None.
      split: a column of train, valid and test or of fold numbers, a scheme
        (`logo`, `groupkfold:K`, `kfold:K`), or `column=value` to test the rows of one
        value; None is the column `split`.

    Raises:
      NeuroFMError: an unknown column, a split that cannot be made, or classes that
        cannot be learnt.
    """
    items, events = dataset.items, dataset.events
    if target is None:
        if not len(events):
            raise NeuroFMError(
                "no target was named; give one of the columns "
                f"{', '.join(items.column_names)}"
            )
        target = "trial_type"
    if target in items.column_names:
        table, row, span = items, np.arange(len(items)), None
    elif len(events) and target in events.column_names:
        table, row, span = _with_items(_without_bad(events), items)
    else:
        raise _unknown("target", target, [*items.column_names, *events.column_names])
    columns = {name: table[name].to_pylist() for name in table.column_names}
    known = np.array([value is not None for value in columns[target]], bool)
    left_out = {"without_target": int((~known).sum())}
    row, span = row[known], span if span is None else span[known]
    columns = {
        name: [v for v, keep in zip(values, known, strict=True) if keep]
        for name, values in columns.items()
    }
    if not len(row):
        raise NeuroFMError(f"no example has a {target!r}; name another target")
    label = _values(columns, "target", target)
    group = None if groups is None else _values(columns, "groups", groups)
    made = folds(_split(columns, split or "split"), row, group)
    made, strays = _without_strays(made, label)
    left_out["class_not_in_training"] = strays
    for reason, count in left_out.items():
        if count:
            _log.warning("%d examples left out: %s", count, reason.replace("_", " "))
    clusters = row if group is None else group
    return Examples(row, span, label, group, clusters, made, left_out)


def _without_bad(events: pa.Table) -> pa.Table:
    """Events that are no marks of bad stretches."""
    kinds = [str(kind or "").upper() for kind in events["trial_type"].to_pylist()]
    return events.filter(pa.array([not kind.startswith(BAD) for kind in kinds]))


def _with_items(
    events: pa.Table, items: pa.Table
) -> tuple[pa.Table, Int[np.ndarray, " N"], Float[np.ndarray, "N 2"]]:
    """Events with the columns of their recordings, their rows and their spans."""
    number = {name: i for i, name in enumerate(items["item"].to_pylist())}
    row = np.array([number[name] for name in events["item"].to_pylist()], int)
    onset = events["onset"].to_numpy()
    span = np.stack([onset, onset + events["duration"].to_numpy()], 1)
    for name in items.column_names:
        if name not in events.column_names:
            events = events.append_column(name, items[name].take(pa.array(row)))
    return events, row, span


def _unknown(what: str, name: str, known: list[str]) -> NeuroFMError:
    names = list(dict.fromkeys(known))
    return NeuroFMError(
        f"the data has no column {name!r} to use as {what}; {suggest(name, names)}"
    )


def _values(
    columns: Mapping[str, list[Any]], what: str, name: str
) -> Shaped[np.ndarray, " N"]:
    """A column as whole numbers, floats or words; missing values are refused."""
    if name not in columns:
        raise _unknown(what, name, list(columns))
    values = columns[name]
    if missing := sum(value is None for value in values):
        raise NeuroFMError(
            f"the column {name!r} used as {what} has no value in {missing} of "
            f"{len(values)} rows; fill it in, or remove those rows"
        )
    kinds = {type(value) for value in values}
    if kinds <= {int, bool}:
        return np.array(values, int)
    return np.array(values, float) if kinds <= {int, float} else np.array(values, str)


def _split(
    columns: Mapping[str, list[Any]], split: str
) -> str | Shaped[np.ndarray, " N"]:
    """The scheme as it is, or the column that is meant."""
    if split in columns:
        values = ["" if value is None else value for value in columns[split]]
        if "" in values and not {"train", "test"} & set(values):
            raise NeuroFMError(
                f"the split column {split!r} is blank in {values.count('')} of "
                f"{len(values)} rows; name a column of train, valid and test or of "
                "fold numbers, a scheme such as groupkfold:5, or column=value"
            )
        return _values({split: values}, "split", split)
    if SCHEME.fullmatch(split):
        return split
    column, equals, value = split.partition("=")
    if not equals:
        known = [*columns, "logo", "groupkfold:5", "kfold:5"]
        raise _unknown("split", split, known)
    if column not in columns:
        raise _unknown("split", column, list(columns))
    tested = np.array([str(v) == value for v in columns[column]], bool)
    if not tested.any():
        words = sorted({str(v) for v in columns[column]})
        raise NeuroFMError(
            f"--split {split} meets no row; {column} is one of "
            f"{', '.join(words[:20])}{', ...' if len(words) > 20 else ''}"
        )
    return np.where(tested, "test", "train")


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
            raise NeuroFMError(
                f"{strays.total()} of {len(fold.test)} test rows of a fold are of "
                f"classes that its training rows lack "
                f"({', '.join(map(str, strays))}); choose another split"
            )
        kept.append(dataclasses.replace(fold, test=fold.test[learnt]))
        n_strays += strays.total()
    return kept, n_strays
