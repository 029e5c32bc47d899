"""A picture of the quickstart of Brain-Semantoks: where a wave's direction shows."""

from pathlib import Path

import numpy as np
from jaxtyping import Float, Shaped

from neurofm.data.records import Dataset
from neurofm.report.spectrogram import save_png
from neurofm.simulate.networks_fmri import CROSSED, DIRECTIONS, World

LAGS = (0, 2)


def draw(folder: Path, of: World, labelled: Dataset) -> None:
    """Covariance of the first crossed network at lag 0 and at lag 2, by direction."""
    from matplotlib.figure import Figure

    regions = np.flatnonzero(of.network == CROSSED[0])
    regions = regions[np.argsort(of.phase[regions])]
    direction = np.array(labelled.items["direction"].to_pylist())
    figure = Figure((9, 4.6), layout="constrained")
    axes = figure.subplots(len(LAGS), len(DIRECTIONS), sharex=True, sharey=True)
    for row, lag in zip(axes, LAGS, strict=True):
        maps = [
            covariance(labelled, regions, np.flatnonzero(direction == name), lag)
            for name in DIRECTIONS
        ]
        most = max(np.abs(off_diagonal(x)).max() for x in maps)
        for ax, name, x in zip(row, DIRECTIONS, maps, strict=True):
            shown = ax.imshow(x, cmap="RdBu_r", vmin=-most, vmax=most)
            ax.set_title(f"{name}, {lag} volumes apart", fontsize=9)
        figure.colorbar(shown, ax=list(row), label="covariance")
    for ax in axes[:, 0]:
        ax.set_ylabel("region, later")
    for ax in axes[-1]:
        ax.set_xlabel("region, earlier")
    told = (
        "Mean covariance of regions that the wave crosses, in the order of its phase: "
        "the same at one time for both directions, not so between times."
    )
    save_png(figure, folder / "direction.png", told)


def covariance(
    store: Dataset,
    regions: Shaped[np.ndarray, " c"],
    rows: Shaped[np.ndarray, " n"],
    lag: int,
) -> Float[np.ndarray, "c c"]:
    """Of each region with each one `lag` volumes before, mean over runs."""
    lengths = store.items["n_samples"].to_numpy()
    total = np.zeros((len(regions), len(regions)))
    for row in rows.tolist():
        n = int(lengths[row])
        x = store.read(row, 0, n)[regions].astype(float)
        total += x[:, lag:] @ x[:, : n - lag].T / (n - lag)
    return total / len(rows)


def off_diagonal(x: Float[np.ndarray, "c c"]) -> Float[np.ndarray, " n"]:
    """What a region has with others, for a scale that they fill."""
    return x[~np.eye(len(x), dtype=bool)]
