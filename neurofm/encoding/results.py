"""What scores of regions are told as: in a result, a table, maps and pictures.

Shared by the linear models of the suite `encoding` and by trained models.
"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from neurofm.data.records import Dataset
from neurofm.encoding import maps, pictures
from neurofm.encoding.pictures import SIGNIFICANT, Columns
from neurofm.encoding.repeats import Repeats
from neurofm.encoding.scores import mean_of_known
from neurofm.encoding.subject import Scored
from neurofm.eval.stats import interval

_log = logging.getLogger(__name__)

CEILINGS = ("explainable_variance", "split_half_r", "cc_max", "cc_abs", "cc_norm")
CEILINGS += ("intersubject_r",)


def told(
    scored: Mapping[str, Scored],
    seen_again: Mapping[str, Repeats],
    permutations: int,
    block_s: float,
) -> dict[str, Any]:
    """The parts of a result that follow from scores; see `suite.evaluate`."""
    columns = {name: one.columns for name, one in scored.items()}
    known, undefined = ceilings(columns)
    beside = [name for name, one in columns.items() if "intersubject_r" in one]
    return {
        "repeats": {
            name: {"n": len(again.responses), "volumes": len(again.guess)}
            for name, again in seen_again.items()
        },
        "undefined": undefined,
        **({"intersubject_among": list(scored)} if beside else {}),
        "significance": {
            "permutations": permutations,
            "block_s": block_s,
            **significant(columns),
        },
        "scores": {
            "model": _entry(scored),
            "chance": _chance(columns),
            **({"ceilings": known} if known else {}),
            "by subject": {
                name: {"mean": float(mean_of_known(one.r)), "std": _spread(one)}
                for name, one in scored.items()
            },
        },
    }


def write(
    out: Path,
    scored: Mapping[str, Scored],
    brain: Dataset,
    places: maps.Volume | maps.Grayordinates | None,
    curve_s: Sequence[float] = (),
) -> None:
    """Write OUT/targets.parquet, OUT/maps and OUT/figures.

    Args:
      places: where the regions lie.
      curve_s: the delays of the scores' curves.
    """
    columns = {name: one.columns for name, one in scored.items()}
    out.mkdir(parents=True, exist_ok=True)
    write_targets(out / "targets.parquet", columns, brain)
    curves = {name: one.curve for name, one in scored.items()}
    pictures.draw(out / "figures", columns, curves, curve_s)
    pictures.draw_brains(out / "figures", columns, places)
    maps.write(out / "maps", columns, places)


def masked(scored: Mapping[str, Scored]) -> int:
    """Regions without a score, over all subjects."""
    return int(sum(np.isnan(one.columns["r"]).sum() for one in scored.values()))


def ceilings(columns: Columns) -> tuple[dict[str, dict[str, float]], dict[str, int]]:
    """Means over regions, then over subjects; regions with a score but no estimate."""
    means, undefined = {}, {}
    for name in CEILINGS:
        have = [one for one in columns.values() if name in one]
        each = np.array([mean_of_known(one[name]) for one in have])
        if np.isfinite(each).any():
            means[name] = {"mean": float(mean_of_known(each))}
        if have:
            missing = [np.isnan(one[name]) & ~np.isnan(one["r"]) for one in have]
            undefined[name] = int(np.sum(missing))
    return means, undefined


def significant(columns: Columns) -> dict[str, Any]:
    """Share of significant regions among those that have a score."""
    each = {}
    for name, one in columns.items():
        n_known = int(np.isfinite(one["q"]).sum())
        each[name] = int((one["q"] <= SIGNIFICANT).sum()) / max(n_known, 1)
        _log.info("subject %s: %.1f %% significant", name, 100 * each[name])
    return {"share": float(np.mean(list(each.values()))), "by subject": each}


def _chance(columns: Columns) -> dict[str, float]:
    each = np.array([mean_of_known(one["chance"]) for one in columns.values()])
    return {"mean": float(each.mean()), "std": float(each.std())}


def _entry(scored: Mapping[str, Scored]) -> dict[str, Any]:
    means = np.array([mean_of_known(one.r) for one in scored.values()])
    n = sum(len(each.guess) for one in scored.values() for each in one.tested)
    if len(means) == 1:
        (one,) = scored.values()
        return {"mean": float(means[0]), "std": _spread(one), "n": n}
    found = interval(means, np.ones(len(means)), np.array(list(scored)))
    return {
        "mean": found.value,
        "std": float(means.std()),
        "low": found.low,
        "high": found.high,
        "n": n,
    }


def _spread(one: Scored) -> float:
    return float(np.nanstd(mean_of_known(one.r, 1)))


def write_targets(path: Path, columns: Columns, brain: Dataset) -> None:
    """A row a subject and region; a score that a subject lacks is empty."""
    regions = list(brain.info.ch_names)
    tables = [
        pa.table({"subject": [name] * len(regions), "region": regions, **mine})
        for name, mine in columns.items()
    ]
    draft = path.with_name(path.name + ".partial")
    pq.write_table(pa.concat_tables(tables, promote_options="default"), draft)
    draft.replace(path)
