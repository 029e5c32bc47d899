"""How well each sensor is rebuilt, on a flattened head, and some of the signals."""

from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from neurofm.embedding.rebuild import Rebuilt
from neurofm.signals.meeg import KINDS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TRACES, SECONDS = 4, 2.0


def flattened(pos: Float[np.ndarray, "C 3"]) -> Float[np.ndarray, "C 2"]:
    """Places on a head seen from above: angles from the top stay what they are.

    The centre is that of the sphere of least squares through the sensors, or the middle
    of few ones.
    """
    centre = pos.mean(0)
    if len(pos) > 4:
        a = np.concatenate([2 * pos, np.ones((len(pos), 1))], axis=1)
        centre = np.linalg.lstsq(a, np.square(pos).sum(1), rcond=None)[0][:3]
    x, y, z = (pos - centre).T
    flat = np.hypot(x, y)
    angle = np.arctan2(flat, z) / np.maximum(flat, 1e-12)
    return np.stack([x * angle, y * angle], axis=1)


def error_map(result: Rebuilt) -> "Figure":
    """A panel a type of sensors with R² at each, and signals of the worst hidden ones.

    Circles are sensors that the model saw, squares those it did not; grey ones have no
    truth to compare with.
    """
    from matplotlib.figure import Figure

    kinds = np.unique(result.sensors.kind)
    figure = Figure(figsize=(4.2 * len(kinds), 7.0), layout="constrained")
    parts: Any = figure.subfigures(2, 1, height_ratios=[1.3, 1])
    above, below = parts
    axes = above.subplots(1, len(kinds), squeeze=False)[0]
    for k, ax in zip(kinds, axes, strict=True):
        mine = result.sensors.kind == k
        at = flattened(result.sensors.pos[mine, :3].astype(float))
        r2, shown = result.r2[mine], result.shown[mine]
        ax.set_title(f"{KINDS[k]}: R² at {mine.sum()} sensors")
        drawn = None
        for member, marker in ((shown, "o"), (~shown, "s")):
            known = member & np.isfinite(r2)
            ax.scatter(*at[member & ~known].T, c="0.8", marker=marker, s=45)
            drawn = ax.scatter(
                *at[known].T,
                c=r2[known],
                marker=marker,
                s=60,
                vmin=0,
                vmax=1,
                cmap="viridis",
                edgecolors="black",
                linewidths=0.4,
            )
        figure.colorbar(drawn, ax=ax, shrink=0.7)
        ax.set_aspect("equal")
        ax.axis("off")
    _traces(result, below)
    return figure


def _traces(result: Rebuilt, figure: Any) -> None:
    known = np.flatnonzero(np.isfinite(result.r2))
    hidden = [c for c in known if not result.shown[c]]
    chosen = sorted(hidden or known, key=lambda c: result.r2[c])[:TRACES]
    chosen = chosen or list(range(min(TRACES, len(result.samples))))
    n = min(round(SECONDS * result.sfreq), result.samples.shape[1])
    start = (result.samples.shape[1] - n) // 2
    part, at = slice(start, start + n), (start + np.arange(n)) / result.sfreq
    axes = figure.subplots(len(chosen), 1, sharex=True, squeeze=False)[:, 0]
    for c, ax in zip(chosen, axes, strict=True):
        ax.plot(at, result.truth[c, part], color="0.5", lw=1.2, label="recorded")
        ax.plot(at, result.samples[c, part], color="#d1495b", lw=1.0, label="rebuilt")
        name, r2 = result.sensors.names[c], result.r2[c]
        told = "" if np.isnan(r2) else f"  R² {r2:.2f}"
        ax.set_title(f"{name}{told}", fontsize=8, loc="left")
        ax.tick_params(labelsize=7)
    axes[0].legend(fontsize=7, loc="upper right")
    axes[-1].set_xlabel("s")
