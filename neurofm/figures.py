"""Figures: curves of runs as SVG that follows the page's colours, and spectrograms.

Axis letters: N samples, S tokens, G target groups.
"""

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from xml.sax.saxutils import quoteattr

import numpy as np
from jaxtyping import Bool, Float

from neurofm import files
from neurofm.metrics import Row
from neurofm.signals.mel import log_mel

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK = "#010203"  # stands for the page's text colour until the SVG is written
# Okabe and Ito's colours, told apart with any colour vision, on light and on dark.
COLOURS = ("#3b8fd0", "#e08214", "#1fa187", "#cc79a7", "#d55e00", "#8f8f00")
DASHES = ("-", "--", ":", "-.")
STYLE = {
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.family": "sans-serif",
    "font.size": 9,
    "grid.alpha": 0.25,
    "grid.color": INK,
    "legend.frameon": False,
    "svg.fonttype": "none",  # text stays text, in the page's own font
    "svg.hashsalt": "neurofm",  # same numbers, same bytes
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}


@dataclass(frozen=True, kw_only=True)
class Curves:
    """What one figure shows over the steps of a run.

    Attributes:
      title: what it is about.
      axis: label of the y axis, with the unit.
      keys: metric -> word in the legend, "" where the title says it.
      caption: how to read it.
      log: logarithmic, where all values are positive.
    """

    title: str
    axis: str
    keys: Mapping[str, str]
    caption: str
    log: bool = False


def draw_curves(curves: Curves, runs: Mapping[str, Sequence[Row]]) -> str | None:
    """The figure as inline SVG, or None where no run has any of its numbers.

    Args:
      curves: what is shown; one line a metric and run.
      runs: name -> rows of its log.
    """
    import matplotlib
    from matplotlib.figure import Figure

    series = list(_series(curves, runs))
    if not series:
        return None
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6.4, 3.0), layout="constrained")
        axes = figure.add_subplot()
        values = np.concatenate([y for _, _, y, _, _ in series])
        if curves.log and (values[np.isfinite(values)] > 0).all():
            axes.set_yscale("log")
        for label, x, y, colour, dash in series:
            marker = "o" if len(x) < 30 else ""
            axes.plot(
                x, y, dash, color=colour, marker=marker, ms=3, lw=1.4, label=label
            )
        axes.set_xlabel("step")
        axes.set_ylabel(curves.axis)
        axes.grid(True)
        if any(label for label, *_ in series):
            figure.legend(loc="outside upper left", ncols=3, fontsize=8)
        return _inline_svg(figure, f"{curves.title}: {curves.axis} over steps")


def _series(
    curves: Curves, runs: Mapping[str, Sequence[Row]]
) -> Iterator[tuple[str, np.ndarray, np.ndarray, str, str]]:
    """Label, steps, values, colour and dash of every line.

    Colours tell runs apart and dashes metrics; with one run, both tell metrics apart.
    """
    for i, (run, rows) in enumerate(runs.items()):
        for j, (key, word) in enumerate(curves.keys.items()):
            points = [(row["step"], row[key]) for row in rows if key in row]
            if points:
                x, y = np.array(points, float).T
                label = word if len(runs) == 1 else f"{run} {word}".strip()
                colour = COLOURS[(j if len(runs) == 1 else i) % len(COLOURS)]
                yield label, x, y, colour, DASHES[j % len(DASHES)]


def _inline_svg(figure: "Figure", alt: str) -> str:
    out = io.StringIO()
    figure.savefig(out, format="svg", transparent=True, metadata={"Date": None})
    svg = out.getvalue().replace(INK, "currentColor")
    svg = svg[svg.index("<svg ") :]  # an XML prologue has no place inside a page
    return svg.replace("<svg ", f"<svg role='img' aria-label={quoteattr(alt)} ", 1)


def spectrogram_with_masks(
    wave: Float[np.ndarray, " N"],
    sfreq: float,
    context: Bool[np.ndarray, " S"],
    targets: Bool[np.ndarray, "G S"],
    hop_s: float,
) -> "Figure":
    """A log-mel spectrogram, veiled where the model is not shown it, over its masks.

    Args:
      wave: one channel of one item.
      sfreq: in Hz.
      context: tokens the student encodes; token i stands for `hop_s` from `i * hop_s`.
      targets: tokens whose latents each group predicts.
      hop_s: seconds from one token to the next.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 3.6), layout="constrained", facecolor="white")
    heights = [5, 0.35 * (1 + len(targets))]
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=heights)
    bands = log_mel(wave, sfreq, hop_s=0.005)  # [frames, bands]
    length = len(wave) / sfreq
    low, high = np.quantile(bands, [0.05, 0.999])
    above.imshow(
        bands.T,
        origin="lower",
        aspect="auto",
        interpolation="nearest",
        cmap="magma",
        vmin=low,
        vmax=max(high, low + 1e-3),
        extent=(0, length, 0, bands.shape[1]),
    )
    for start, tokens in spans(~context):
        above.axvspan(
            start * hop_s, (start + tokens) * hop_s, color="white", alpha=0.55, lw=0
        )
    _mel_axis(above, bands.shape[1], sfreq)
    rows = [context, *targets]
    for row, mask in enumerate(rows):
        bars = [(start * hop_s, tokens * hop_s) for start, tokens in spans(mask)]
        colour = COLOURS[0] if row == 0 else COLOURS[1]
        below.broken_barh(bars, (row - 0.4, 0.8), color=colour, lw=0)
    names = ["context", *(f"targets {g + 1}" for g in range(len(targets)))]
    below.set_yticks(range(len(rows)), names, fontsize=8)
    below.set_ylim(len(rows) - 0.5, -0.5)
    below.set_xlim(0, length)
    below.set_xlabel("seconds")
    return figure


def spans(mask: Bool[np.ndarray, " S"]) -> list[tuple[int, int]]:
    """Start and length of every run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], mask.astype(np.int8), [0]])))
    return [(int(a), int(b - a)) for a, b in zip(edges[::2], edges[1::2], strict=True)]


def _mel_axis(axes: "Axes", n_bands: int, sfreq: float) -> None:
    def mel(hz: float) -> float:
        return 2595 * np.log10(1 + hz / 700)

    low, high = mel(50), mel(sfreq / 2)  # where `log_mel` begins and ends
    ticks = [hz for hz in (125, 500, 1000, 2000, 4000, 8000) if hz < sfreq / 2]
    places = [n_bands * (mel(hz) - low) / (high - low) for hz in ticks]
    axes.set_yticks(places, [f"{hz / 1000:g}" for hz in ticks], fontsize=8)
    axes.set_ylabel("kHz (mel scale)")


def save_png(figure: "Figure", path: Path, caption: str) -> None:
    """Write a figure for the report, and its caption beside it as `.txt`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=150)
    files.write_bytes(path, out.getvalue())
    files.write_text(path.with_suffix(".txt"), caption + "\n")
