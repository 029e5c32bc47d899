"""Pictures of the quickstart of TRIBE: parcels beside their ceilings, and by kind."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Float

from neurofm.encoding.pictures import strip
from neurofm.report.spectrogram import save_png
from neurofm.simulate.film import MODALITIES
from neurofm.simulate.film_brains import KINDS, Brains

SYSTEMS = ("model", "baseline", "linear oracle", "product ridge", "ceiling")


def draw(
    folder: Path,
    found: Mapping[str, Float[np.ndarray, "S V"]],
    brains: Brains,
    drops: Float[np.ndarray, "M S V"],
) -> None:
    """Write all of them as PNG, each with its caption.

    Args:
      found: correlation of each system with each person's parcels.
      drops: of the model, when a modality is hidden.
    """
    means = {name: found[name].mean(0) for name in SYSTEMS}
    kinds = [kind for kind in KINDS if (brains.kind == kind).any()]
    _beside_ceilings(folder, means, brains, kinds)
    _by_kind(folder, means, brains, kinds)
    _strip(folder, means, brains, kinds, drops.mean(1))


def _beside_ceilings(folder: Path, means, brains: Brains, kinds) -> None:
    from matplotlib.figure import Figure

    figure = Figure((9, 4.2), layout="constrained")
    axes = figure.subplots(1, 2, sharex=True, sharey=True)
    for ax, name in zip(axes, ("model", "baseline"), strict=True):
        for kind in kinds:
            rows = brains.kind == kind
            ax.plot(means["ceiling"][rows], means[name][rows], "o", ms=4, label=kind)
        ax.axline((0, 0), slope=1, color="0.6", lw=1)
        ax.set(xlabel="true ceiling, correlation", title=name)
    axes[0].set_ylabel("correlation on unseen films")
    axes[0].legend(fontsize=8)
    told = "Each parcel, mean over people, beside its true ceiling (the line)."
    save_png(figure, folder / "parcels_beside_ceilings.png", told)


def _by_kind(folder: Path, means, brains: Brains, kinds) -> None:
    from matplotlib.figure import Figure

    figure = Figure((9, 3.6), layout="constrained")
    ax = figure.subplots()
    width = 0.8 / len(SYSTEMS)
    for i, name in enumerate(SYSTEMS):
        heights = [means[name][brains.kind == kind].mean() for kind in kinds]
        color = "0.8" if name == "ceiling" else None
        ax.bar(
            np.arange(len(kinds)) + i * width, heights, width, label=name, color=color
        )
    ax.set_xticks(np.arange(len(kinds)) + 0.4 - width / 2, kinds)
    ax.set_ylabel("correlation")
    figure.legend(loc="outside upper center", fontsize=8, ncols=len(SYSTEMS))
    told = "Mean correlation on unseen films by what parcels make of the films."
    save_png(figure, folder / "parcels_by_kind.png", told)


def _strip(folder: Path, means, brains: Brains, kinds, drops) -> None:
    from matplotlib.figure import Figure

    rank = [kinds.index(kind) for kind in brains.kind]
    order = np.lexsort((brains.ceiling, brains.modality, rank))
    lost = {
        f"model, lost without {name}": x
        for name, x in zip(MODALITIES, drops, strict=True)
    }
    figure = Figure((10, 3.2), layout="constrained")
    ax = figure.subplots()
    strip(figure, ax, {k: x[order] for k, x in {**means, **lost}.items()}, 0.8)
    edges = np.searchsorted(np.sort(rank), range(len(kinds) + 1))
    ax.set_xticks((edges[1:] + edges[:-1]) / 2 - 0.5, kinds, fontsize=8)
    for edge in edges[1:-1]:
        ax.axvline(edge - 0.5, color="black", lw=1)
    told = (
        "Every parcel, by kind, then by the modality that it follows, then by ceiling: "
        "correlations, and how much the model's falls when a modality is hidden."
    )
    save_png(figure, folder / "parcel_strip.png", told)
