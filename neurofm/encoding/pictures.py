"""Pictures of the suite `encoding` for the report."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from neurofm.encoding.maps import Grayordinates, Volume, file_name, has_nilearn
from neurofm.encoding.scores import mean_of_known
from neurofm.report import brain_map

_log = logging.getLogger(__name__)

SIGNIFICANT = 0.05  # share of false ones among the regions called significant

LOST = "lost without "  # and a modality: what hiding it takes off a correlation

Columns = Mapping[str, Mapping[str, Float[np.ndarray, " V"]]]  # of each subject


def draw(
    out: Path,
    columns: Columns,
    curves: Mapping[str, Float[np.ndarray, " D"]],
    curve_s: Sequence[float],
) -> None:
    """Scores of all regions, of each one, by the delay, and beside their ceilings.

    Figures of an earlier evaluation in the same folder go.

    Args:
      columns: the scores of every region by name, of each subject.
      curves: mean correlation with one delay alone, of each subject.
      curve_s: those delays.
    """
    _clear(out)
    figure = _figure((10, 3))
    ratios = (1, 2, 1) if curve_s else (1, 2)
    spread, middle, *more = figure.subplots(1, len(ratios), width_ratios=ratios)
    r = np.array([one["r"] for one in columns.values()])
    sure = np.array([one["q"] <= SIGNIFICANT for one in columns.values()])
    parts = {f"q ≤ {SIGNIFICANT}": r[sure], "others": r[~sure & np.isfinite(r)]}
    spread.hist(list(parts.values()), 30, stacked=True, label=list(parts))
    spread.legend(fontsize=7)
    spread.set(xlabel="correlation", ylabel="regions")
    limit = float(np.nanmax(abs(r)))
    strip(figure, middle, dict(zip(columns, r, strict=True)), limit)
    middle.set(xlabel="region, in the order of the atlas")
    for curve in more:
        for name, means in curves.items():
            curve.plot(curve_s, means, label=name)
        curve.set(xlabel="one delay alone, s", ylabel="mean correlation")
    by_delay = ", and by the delay of the response" if curve_s else ""
    _save(
        figure,
        out / "encoding.png",
        "Correlation of predicted and measured responses on held-out runs: of all "
        f"regions, of each region and subject{by_delay}.",
    )
    _beside(out / "ceilings.png", columns)
    _parts(out / "partition.png", columns)
    _lost(out / "modalities.png", columns)


def strip(
    figure: Any, ax: Any, rows: Mapping[str, Float[np.ndarray, " V"]], limit: float
) -> None:
    """A line of colours for each row: no anatomy, regions in their order."""
    shown = ax.imshow(
        np.stack(list(rows.values())),
        cmap="RdBu_r",
        vmin=-limit,
        vmax=limit,
        aspect="auto",
        interpolation="none",
    )
    ax.set_yticks(range(len(rows)), list(rows), fontsize=8)
    figure.colorbar(shown, ax=ax, label="correlation")


_CEILINGS = {
    "cc_max": "cc_max, of the mean of the subject's repeats",
    "intersubject_r": "correlation with the other subjects",
}


def _beside(path: Path, columns: Columns) -> None:
    """The score of each region over each ceiling of correlations that there is."""
    known = [n for n in _CEILINGS if any(n in one for one in columns.values())]
    if not known:
        return
    figure = _figure((4.5 * len(known), 4))
    axes = figure.subplots(1, len(known), squeeze=False)[0]
    for name, ax in zip(known, axes, strict=True):
        have = {who: one for who, one in columns.items() if name in one}
        for who, one in have.items():
            r = one["cc_abs" if name == "cc_max" else "r"]  # against that same mean
            ax.scatter(one[name], r, s=8, label=who)
        ax.axline((0, 0), slope=1, color="0.6", lw=1)
        n_none = sum(int(np.isnan(one[name]).sum()) for one in have.values())
        ax.set(xlabel=_CEILINGS[name], ylabel="correlation of the prediction")
        ax.set_title(f"undefined in {n_none} regions", fontsize=9)
    _save(
        figure,
        path,
        "Each region and subject: the correlation of the prediction over what repeats "
        "or other people tell of the region. Estimates of different names say "
        "different things and are not to be compared with each other.",
    )


def _parts(path: Path, columns: Columns) -> None:
    """What each set of feature spaces, and no other, explains, of each subject."""
    first = next(iter(columns.values()))
    names = [name for name in first if name.startswith("only ")]
    if not names:
        return
    figure = _figure((max(4, 1.2 * len(names)), 3))
    ax = figure.subplots()
    width = 0.8 / len(columns)
    for i, (who, one) in enumerate(columns.items()):
        means = [mean_of_known(one[name]) for name in names]
        ax.bar(np.arange(len(names)) + i * width, means, width, label=who)
    told = [name.removeprefix("only ").replace("+", "\n+ ") for name in names]
    ax.set_xticks(np.arange(len(names)) + 0.4 - width / 2, told)
    ax.axhline(0, color="0.6", lw=1)
    ax.set(ylabel="R², mean over regions")
    ax.legend(fontsize=7)
    _save(
        figure,
        path,
        "What sets of feature spaces explain together and no other space does, on "
        "held-out runs; those of one space are unique to it. The parts sum to the R² "
        "of all spaces; a part below 0 is noise, or spaces that disturb each other.",
    )


def _lost(path: Path, columns: Columns) -> None:
    """What the model loses of each region's score when a modality is hidden from it."""
    first = next(iter(columns.values()))
    names = [name for name in first if name.startswith(LOST)]
    if not names:
        return
    means = {
        name: mean_of_known(np.stack([one[name] for one in columns.values()]), 0)
        for name in ("r", *names)
    }
    figure = _figure((10, 1.2 + 0.4 * len(means)))
    limit = float(np.nanmax([np.nanmax(abs(x)) for x in means.values()]))
    strip(figure, ax := figure.subplots(), means, limit)
    ax.set(xlabel="region, in the order of the atlas")
    _save(
        figure,
        path,
        "The correlation of each region, and how much of it is lost when a modality is "
        "hidden from the model; mean over subjects.",
    )


def draw_brains(
    out: Path, columns: Columns, atlas: Volume | Grayordinates | None
) -> None:
    """Mean scores over subjects on a brain, where its anatomy is known.

    That is a NIfTI atlas that says it is in MNI space, or the vertices of fsaverage5.
    """
    n_regions = len(next(iter(columns.values()))["r"])
    on_surface = atlas is None and n_regions == brain_map.FSAVERAGE5
    if not on_surface and not isinstance(atlas, Volume):
        return
    if not has_nilearn():
        _log.warning("no surface is drawn: pip install 'neurofm[brain]'")
        return
    if isinstance(atlas, Volume) and not atlas.in_mni:
        _log.warning(
            "the atlas does not say that it is in MNI space (sform code 4, or MNI in "
            "its name): no brain is drawn"
        )
        return
    known = dict.fromkeys(name for one in columns.values() for name in one)
    whole = ("r", "cc_norm")
    shown = [n for n in known if n in whole or n.startswith(("only ", LOST))]
    for name in shown:
        each = [one[name] for one in columns.values() if name in one]
        mean = mean_of_known(np.stack(each), 0)
        if isinstance(atlas, Volume):
            figure = brain_map.glass_brain(atlas.image(mean))
        else:
            figure = brain_map.surface(mean)
        words = file_name(name)
        _save(
            figure,
            out / f"brain_{words}.png",
            f"{name} of each region, mean over subjects.",
        )


def _clear(out: Path) -> None:
    """Take away what an earlier evaluation drew here and this one may not."""
    for name in ("ceilings.*", "partition.*", "modalities.*", "brain_*"):
        for path in out.glob(name):
            path.unlink()


def _figure(size: tuple[float, float]) -> Any:
    import matplotlib

    matplotlib.use("agg")
    from matplotlib.figure import Figure

    return Figure(size, layout="constrained")


def _save(figure: Any, path: Path, caption: str) -> None:
    from neurofm.report.spectrogram import save_png

    save_png(figure, path, caption)
