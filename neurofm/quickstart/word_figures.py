"""Pictures of the quickstart of Du-IN: who tells what of a word, and codes by unit."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from neurofm.quickstart.word_scores import CHANCE
from neurofm.report.spectrogram import save_png
from neurofm.simulate.words_seeg import N_UNITS

SYSTEMS = (
    "oracle",
    "model",
    "supervised",
    "frozen",
    "untrained",
    "band_power",
    "band_power_bins",
)


def draw(
    folder: Path,
    scores: Mapping[str, Any],
    codes: Int[np.ndarray, "N P"],
    units: Int[np.ndarray, "N P"],
) -> None:
    """Write both as PNG, each with its caption.

    Args:
      codes: of test trials.
      units: heard at the same tokens, -1 where none is.
    """
    _by_part(folder, scores)
    _by_unit(folder, codes, units)


def _by_part(folder: Path, scores: Mapping[str, Any]) -> None:
    from matplotlib.figure import Figure

    figure = Figure((9, 3.6), layout="constrained")
    for ax, (part, chance) in zip(
        figure.subplots(1, len(CHANCE), sharey=True), CHANCE.items(), strict=True
    ):
        own = scores[part] if part else scores
        told = np.array([[own[n][k] for k in ("mean", "low", "high")] for n in SYSTEMS])
        spread = np.abs(told[:, 1:] - told[:, :1]).T
        ax.barh(SYSTEMS, told[:, 0], xerr=spread, color="#3b8fd0")
        ax.axvline(chance, color="0.4", lw=1, ls="--")
        ax.set(title=part or "word", xlabel="accuracy", xlim=(0, 1))
        ax.invert_yaxis()
    told = "New trials: the word, its unit set, and the order in the true set; chance."
    save_png(figure, folder / "words.png", told)


def _by_unit(folder: Path, codes, units) -> None:
    from matplotlib.figure import Figure

    heard = units >= 0
    used, place = np.unique(codes[heard], return_inverse=True)
    counts = np.zeros((N_UNITS, len(used)))
    np.add.at(counts, (units[heard], place), 1)
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    figure = Figure((9, 3.2), layout="constrained")
    ax = figure.subplots()
    order = np.lexsort((-share.max(0), share.argmax(0)))
    shown = ax.imshow(share[:, order], aspect="auto", cmap="viridis", vmin=0)
    ax.set(xlabel="codes in use", ylabel="unit", xticks=[])
    figure.colorbar(shown, ax=ax, label="share of the unit's tokens")
    told = "Codes of the first stage while each unit is heard, in new trials."
    save_png(figure, folder / "codes_by_unit.png", told)
