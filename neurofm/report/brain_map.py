"""Values of regions on a brain whose anatomy is known: a glass brain, or a surface.

Drawn by nilearn (the brain extra); red is above and blue below 0.
"""

from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FSAVERAGE5 = 20_484  # vertices, the left half before the right
_VIEWS = tuple(
    (half, side) for half in ("left", "right") for side in ("lateral", "medial")
)


def glass_brain(image: Any) -> "Figure":
    """Values in a volume of MNI space, the largest along each line of sight.

    Args:
      image: NIfTI; what is not finite is not shown.
    """
    from nilearn.image import new_img_like
    from nilearn.plotting import plot_glass_brain

    figure = _figure((10, 3))
    x = np.nan_to_num(np.asarray(image.dataobj))
    plot_glass_brain(
        new_img_like(image, x),
        display_mode="lyrz",
        figure=figure,
        colorbar=True,
        plot_abs=False,
        cmap="RdBu_r",
        vmax=_limit(x),
    )
    return figure


def surface(values: Float[np.ndarray, " V"]) -> "Figure":
    """Values at the vertices of fsaverage5, inflated; grey where there is none."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from nilearn.datasets import load_fsaverage, load_fsaverage_data
    from nilearn.plotting import plot_surf_stat_map
    from nilearn.surface import SurfaceImage

    mesh = load_fsaverage("fsaverage5")["inflated"]
    folds = load_fsaverage_data(mesh="fsaverage5", data_type="sulcal")
    halves = dict(zip(("left", "right"), np.split(values, 2), strict=True))
    shown = SurfaceImage(mesh=mesh, data=halves)
    behind = SurfaceImage(mesh=mesh, data=folds.data.parts)
    limit = _limit(values)
    figure = _figure((10, 3))
    axes = figure.subplots(1, len(_VIEWS), subplot_kw={"projection": "3d"})
    for (half, side), ax in zip(_VIEWS, axes, strict=True):
        plot_surf_stat_map(
            stat_map=shown,
            hemi=half,
            view=side,
            bg_map=behind,
            axes=ax,
            figure=figure,
            colorbar=False,
            vmin=-limit,
            vmax=limit,
            cmap="RdBu_r",
        )
        ax.set_title(f"{half}, {side}", fontsize=9)
    colours = ScalarMappable(Normalize(-limit, limit), "RdBu_r")
    figure.colorbar(colours, ax=axes, shrink=0.6)
    return figure


def _limit(x: np.ndarray) -> float:
    known = abs(x[np.isfinite(x)])
    return float(known.max(initial=0)) or 1.0


def _figure(size: tuple[float, float]) -> "Figure":
    import matplotlib

    matplotlib.use("agg")
    from matplotlib.figure import Figure

    return Figure(size, facecolor="white")
