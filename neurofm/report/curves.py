"""Curves of runs over their steps, as SVG that follows the colours of the page."""

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import quoteattr

import numpy as np
from jaxtyping import Float

from neurofm.run.metrics import Row

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK = "#010203"  # stands for the page's text colour until the SVG is written
# Okabe and Ito's colours, told apart with any colour vision, on light and on dark.
COLOURS = ("#3b8fd0", "#e08214", "#1fa187", "#cc79a7", "#d55e00", "#8f8f00")
DASHES = ("-", "--", ":", "-.")
STYLE: dict[Any, Any] = {
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
      from_zero: the y axis begins at 0, as that of a rate should.
      along: what rows hold under `step`, which is the x axis.
    """

    title: str
    axis: str
    keys: Mapping[str, str]
    caption: str
    log: bool = False
    from_zero: bool = False
    along: str = "step"


CURVES = (
    Curves(
        title="Loss",
        axis="loss",
        keys={"train/loss": "training", "eval/loss": "held out"},
        caption="The loss the network is trained on, and the same loss over the whole "
        "held-out split with fixed crops and masks.",
    ),
    Curves(
        title="Spread of the targets",
        axis="variance",
        keys={"monitor/target_var": "over all tokens", "monitor/item_var": "of items"},
        caption="Variance of the target latents over all tokens and between the means "
        "of items. A loss that falls together with the variance between items is "
        "collapse, not learning.",
        log=True,
    ),
    Curves(
        title="Effective rank",
        axis="dimensions",
        keys={"monitor/effective_rank": ""},
        from_zero=True,
        caption="Exponential of the entropy of the eigenvalues of the target latents' "
        "covariance: 1 for a line, the width for a round cloud.",
    ),
    Curves(
        title="Gradient norm",
        axis="L2 norm before clipping",
        keys={"optim/grad_norm": ""},
        caption="Norm of the gradient of all trained parameters.",
        log=True,
    ),
    Curves(
        title="Learning rate",
        axis="learning rate",
        keys={"optim/lr": ""},
        caption="As the schedule gave it.",
    ),
    Curves(
        title="Throughput",
        axis="examples per second",
        keys={"throughput/examples_per_s": ""},
        from_zero=True,
        caption="Items the model saw per second, over all devices, waiting for data "
        "included; evaluation and checkpoints are not.",
    ),
    Curves(
        title="Data wait",
        axis="share of step time",
        keys={"time/data_wait": ""},
        from_zero=True,
        caption="Share of the time in which the devices waited for the next batch.",
    ),
)


def draw_curves(curves: Curves, runs: Mapping[str, Sequence[Row]]) -> str | None:
    """The figure as inline SVG, or None where no run has any of its numbers.

    Args:
      curves: what is shown; one line a metric and run, in a band where the rows hold
        `<metric>/low` and `<metric>/high` too.
      runs: name -> rows of its log.
    """
    import matplotlib
    from matplotlib.figure import Figure

    lines = list(_lines(curves, runs))
    if not lines:
        return None
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6.4, 3.0), layout="constrained")
        axes = figure.add_subplot()
        values = np.concatenate([line.y for line in lines])
        if curves.log and (values[np.isfinite(values)] > 0).all():
            axes.set_yscale("log")
        for line in lines:
            axes.fill_between(
                line.x, line.low, line.high, color=line.colour, alpha=0.2, lw=0
            )
            axes.plot(
                line.x,
                line.y,
                label=line.label,
                color=line.colour,
                ls=line.dash,
                lw=1.4,
                marker="o" if len(line.x) < 30 else "",
                ms=3,
            )
        if curves.from_zero:
            axes.set_ylim(bottom=0)
        axes.set_xlabel(curves.along)
        axes.set_ylabel(curves.axis)
        axes.grid(True)
        if any(line.label for line in lines):
            figure.legend(loc="outside upper left", ncols=3, fontsize=8)
        alt = f"{curves.title}: {curves.axis} over {curves.along}s"
        return _inline_svg(figure, alt)


@dataclass(frozen=True)
class _Line:
    label: str
    x: Float[np.ndarray, " n"]
    y: Float[np.ndarray, " n"]
    low: Float[np.ndarray, " n"]
    high: Float[np.ndarray, " n"]
    colour: str
    dash: str


def _lines(curves: Curves, runs: Mapping[str, Sequence[Row]]) -> Iterator[_Line]:
    """Colours tell runs apart and dashes metrics; with one run, both tell metrics."""
    alone = len(runs) == 1
    for i, (run, rows) in enumerate(runs.items()):
        for j, (key, word) in enumerate(curves.keys.items()):
            columns = [
                (row["step"], row[key], row.get(f"{key}/low"), row.get(f"{key}/high"))
                for row in rows
                if key in row
            ]
            if columns:
                yield _Line(
                    word if alone else f"{run} {word}".strip(),
                    *np.array(columns, float).T,
                    colour=COLOURS[(j if alone else i) % len(COLOURS)],
                    dash=DASHES[j % len(DASHES)],
                )


def _inline_svg(figure: "Figure", alt: str) -> str:
    out = io.StringIO()
    figure.savefig(out, format="svg", transparent=True, metadata={"Date": None})
    svg = out.getvalue().replace(INK, "currentColor")
    svg = svg[svg.index("<svg ") :]  # an XML prologue has no place inside a page
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    return svg.replace("<svg ", f"<svg role='img' aria-label={quoteattr(alt)} ", 1)
