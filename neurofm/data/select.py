"""Which recordings a run may use, and why the others are left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from jaxtyping import Bool, Int

from neurofm.contract import InputContract
from neurofm.data.records import Dataset
from neurofm.errors import NeuroFMError

if TYPE_CHECKING:
    from neurofm.config import Data

# Fewer tokens leave the maskers (spans of 10) no room for a context and a target.
MIN_TOKENS = 12
# What the released code pads or cuts every clip to.
RELEASED_CLIP_S = 10.0


Use = Literal["train", "valid", "test"]


@dataclass(frozen=True)
class Selection:
    """The usable recordings of one dataset.

    Attributes:
      items: their rows in `dataset.items`, ascending.
      lengths: their samples, counting the padding or cut of `data.short="released"`
        and the cut to the longest clip.
      counts: `used`, of these `padded` and `cut`; then every item that is left out,
        once, under the first reason that applies.
    """

    items: Int[np.ndarray, " n"]
    lengths: Int[np.ndarray, " n"]
    counts: dict[str, int]


def select(
    datasets: Sequence[Dataset],
    contract: InputContract,
    data: Data,
    use: Use,
    longest: int | None = None,
) -> list[Selection]:
    """The recordings that may be used, are long enough and not silent.

    Args:
      datasets: open record stores.
      contract: what the model's input must be.
      data: fields `hold_out`, `transductive`, `short` and `min_active`.
      use: `train` takes the splits `train` and none (and `test` if transductive),
        `valid` the held-out split.
      longest: samples of a clip at most (and after `released`, exactly); None takes
        recordings whole (10 s).

    Raises:
      NeuroFMError: a dataset is not what the model takes, or a bad `hold_out`.
    """
    for dataset in datasets:
        check_contract(dataset, contract, ("kind", "unit", "sfreq", "n_chans"))
    return [
        _select(dataset, contract, data, longest, reasons)
        for dataset, reasons in zip(
            datasets, reasons_against(datasets, data, use), strict=True
        )
    ]


def reasons_against(
    datasets: Sequence[Dataset], data: Data, use: Use
) -> list[dict[str, Bool[np.ndarray, " items"]]]:
    """For each dataset, why items may not be used: `held_out`, or a split's name.

    `train` takes the splits `train` and none (and `test` if transductive), `valid` and
    `test` their own.

    Raises:
      NeuroFMError: a rule of `data.hold_out` names nothing.
    """
    wanted = {"train", ""} if use == "train" else {use}
    if use == "train" and data.transductive:
        wanted.add("test")
    out = []
    for dataset, held in zip(datasets, _held_out(datasets, data.hold_out), strict=True):
        split = np.array(dataset.items["split"].to_pylist(), object)
        others = sorted(set(split) - wanted)
        splits = {word or "no_split": split == word for word in others}
        out.append({"held_out": held, **splits})
    return out


def chosen(
    reasons: dict[str, Bool[np.ndarray, " items"]],
) -> tuple[Bool[np.ndarray, " items"], dict[str, int]]:
    """Items that nothing speaks against, and counts: `used`, then by first reason."""
    left = np.ones(len(next(iter(reasons.values()))), bool)
    counts = {"used": 0}
    for reason, applies in reasons.items():
        counts[reason] = int((left & applies).sum())
        left &= ~applies
    counts["used"] = int(left.sum())
    return left, counts


def _select(
    dataset: Dataset,
    contract: InputContract,
    data: Data,
    longest: int | None,
    reasons: dict[str, Bool[np.ndarray, " items"]],
) -> Selection:
    n_samples = dataset.items["n_samples"].to_numpy()
    window = contract.window_samples
    lengths, clip = np.minimum(n_samples, longest or n_samples), window
    if data.short == "released":
        clip = longest or max(round(RELEASED_CLIP_S * contract.sfreq), window)
        lengths = np.full_like(n_samples, clip)
    tokens = (lengths - contract.receptive_samples) // contract.hop_samples + 1

    reasons["too_short"] = tokens < MIN_TOKENS
    if data.min_active > 0:
        active = dataset.items["active"].to_pylist()
        reasons["silent"] = np.array([not bits.strip(b"\0") for bits in active], bool)
    left, out = chosen(reasons)
    counts = {
        "used": out.pop("used"),
        "padded": int((left & (n_samples < clip)).sum()),
        "cut": int((left & (n_samples > lengths)).sum()),
    }
    return Selection(np.flatnonzero(left), lengths[left], counts | out)


def _held_out(
    datasets: Sequence[Dataset], rules: Sequence[str]
) -> list[Bool[np.ndarray, " _"]]:
    """For each dataset, the items that a rule such as `speaker=george` names."""
    held = [np.zeros(len(d.items), bool) for d in datasets]
    for rule in rules:
        column, equals, value = rule.partition("=")
        if not equals:
            raise NeuroFMError(
                f"data.hold_out {rule!r} is no rule: write column=value, such as "
                "speaker=george"
            )
        cells = [
            [_text(cell) for cell in d.items[column].to_pylist()]
            if column in d.items.column_names
            else []
            for d in datasets
        ]
        known = sorted(set().union(*cells))
        if not known:
            names = sorted({n for d in datasets for n in d.items.column_names})
            raise NeuroFMError(
                f"data.hold_out {rule!r} names no column of the data; there are "
                f"{', '.join(names)}"
            )
        if value not in known:
            raise NeuroFMError(
                f"data.hold_out {rule!r} meets no item; {column} is one of "
                f"{', '.join(known[:20])}{', ...' if len(known) > 20 else ''}"
            )
        for out, column_cells in zip(held, cells, strict=True):
            if column_cells:
                out |= np.array([cell == value for cell in column_cells], bool)
    return held


def _text(cell: object) -> str:
    """A cell as one types it: a whole number has no point."""
    whole = isinstance(cell, float) and cell.is_integer()
    return str(int(cell)) if whole else str(cell)  # pyright: ignore[reportArgumentType]


def check_contract(
    dataset: Dataset, contract: InputContract, names: Sequence[str]
) -> None:
    """Refuse a dataset that differs from the contract in one of `names`.

    Raises:
      NeuroFMError: how it differs, and the remedy.
    """
    channels = "first" if contract.n_chans == 1 else "all"
    flags = {"sfreq": "--sfreq {:g}", "n_chans": f"--channels {channels}"}
    told, again = [], []
    for name in names:
        has, wants = getattr(dataset.info, name), getattr(contract, name)
        if has != wants:
            told.append(f"{name} {has} where the model takes {wants}")
            again += [flags[name].format(wants)] if name in flags else []
    if told:
        advice = f"prepare it again with {' '.join(again)}" if again else "use another"
        if dataset.info.kind == "codes" and contract.kind == "meeg":
            advice = "set task.train_on=codes to train on codes"
        if dataset.info.kind == "meeg" and contract.kind == "codes":
            advice = "make codes of it with `neurofm prepare codes`"
        raise NeuroFMError(
            f"the dataset {dataset.path} has {' and '.join(told)}: {advice}"
        )
