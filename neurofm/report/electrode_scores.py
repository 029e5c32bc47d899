"""The picture of probes of one electrode each: who tells what, and who was chosen."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from neurofm.report.spectrogram import save_png

SHOWN = ("model", "untrained", "baseline")


def draw(rows: Sequence[Mapping[str, Any]], metric: str, path: Path) -> None:
    """Test scores of every electrode, mean over seeds and folds, best ones first.

    Args:
      rows: of `neurofm.eval.by_electrode.probe_best`.
      path: of the picture; its caption is written beside it.
    """
    from matplotlib.figure import Figure

    systems = [s for s in SHOWN if any(row["system"] == s for row in rows)]
    names = list(dict.fromkeys(row["electrode"] for row in rows))

    def of(system: str, value: str) -> np.ndarray:
        """The mean of a value of every electrode."""
        found = {name: [] for name in names}
        for row in rows:
            if row["system"] == system:
                found[row["electrode"]].append(row[value])
        return np.array([np.mean(found[name]) for name in names])

    order = np.argsort(-of(systems[0], "validation"), kind="stable")
    figure = Figure((min(3 + 0.14 * len(names), 16), 3.6), layout="constrained")
    ax = figure.subplots()
    for i, system in enumerate(systems):
        score, chosen = of(system, "test")[order], of(system, "chosen")[order] > 0
        place = np.arange(len(names))
        ax.scatter(place, score, 18, color=f"C{i}", facecolors="none")
        ax.scatter(place[chosen], score[chosen], 18, color=f"C{i}", label=system)
    ax.set_xticks(range(len(names)), np.array(names)[order], rotation=90, fontsize=7)
    ax.set_ylabel(f"{metric} of test rows")
    ax.legend(fontsize=8, frameon=False)
    save_png(
        figure,
        path,
        f"Probes of one electrode each, those of {systems[0]} that validation finds "
        "best on the left. Filled: chosen, in one seed and fold or more.",
    )
