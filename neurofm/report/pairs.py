"""Evaluations of the same examples, compared two by two."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

from neurofm import stores
from neurofm.eval import by_example

COLUMNS = ("difference", "95% interval", "p", "test items", "drawn over")
CAPTION = (
    "Models two by two, on the same examples of the same split: the interval is of "
    "both over the same draws, the p two-sided, not corrected for the number of pairs"
)


def pairs(
    names: Sequence[str],
    paths: Sequence[stores.Place],
    scores: Sequence[Mapping[str, Any]],
) -> list[tuple[str, list[str]]]:
    """Rows of a table with `COLUMNS`: those pairs that have split and metric in common.

    Args:
      scores: what the `scores.json` of each folder holds.

    Raises:
      NeuroFMError: the file of a folder's examples is damaged.
    """

    def asked(found: Mapping[str, Any]) -> tuple[Any, ...]:
        return tuple(found.get(k) for k in ("split_sha256", "target", "metric"))

    able = [
        i
        for i, (path, found) in enumerate(zip(paths, scores, strict=True))
        if found.get("split_sha256") and (path / by_example.NAME).is_file()
    ]
    rows = []
    for i, j in combinations(able, 2):
        if asked(scores[i]) != asked(scores[j]):
            continue
        one, other = (by_example.read(paths[k] / by_example.NAME) for k in (i, j))
        found = by_example.difference(one, other)
        metric, target = (str(scores[i].get(k, "")) for k in ("metric", "target"))
        less = " (less is better)" if metric == "error_rate" else ""
        name = f"{names[i]} - {names[j]}, {target}, {metric}{less}"
        if found is None:
            rows.append((name, ["other examples were scored", "", "", "", ""]))
            continue
        gap, p = found
        bounds = f"[{gap.low:+.3f}, {gap.high:+.3f}]"
        over = f"{gap.n_groups:,} {scores[i].get('over', 'recordings')}"
        cells = [f"{gap.value:+.3f}", bounds, f"{p:.2g}"]
        rows.append((name, [*cells, f"{one.num_rows:,}", over]))
    return rows
