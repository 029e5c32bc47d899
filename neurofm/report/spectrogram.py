"""What a model of sound is shown and asked for, drawn over a log-mel spectrogram.

Axis letters: N samples, S tokens, G target groups.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float

from neurofm import files
from neurofm.signals.mel import WINDOW_S, log_mel

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CONTEXT, TARGETS = "#3b8fd0", "#e08214"
FMIN = 50.0  # Hz
FRAME_S = 0.005


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
    bands = log_mel(wave, sfreq, fmin=FMIN, hop_s=FRAME_S)  # [frames, bands]
    begin = (WINDOW_S - FRAME_S) / 2  # the first frame is centred in the first window
    low, high = np.quantile(bands, [0.05, 0.999])
    above.imshow(
        bands.T,
        origin="lower",
        aspect="auto",
        interpolation="nearest",
        cmap="magma",
        vmin=low,
        vmax=max(high, low + 1e-3),
        extent=(begin, begin + len(bands) * FRAME_S, 0, bands.shape[1]),
    )
    for start, tokens in spans(~context):
        above.axvspan(
            start * hop_s, (start + tokens) * hop_s, color="white", alpha=0.55, lw=0
        )
    _mel_axis(above, bands.shape[1], sfreq)
    rows = [context, *targets]
    for row, mask in enumerate(rows):
        bars = [(start * hop_s, tokens * hop_s) for start, tokens in spans(mask)]
        colour = CONTEXT if row == 0 else TARGETS
        below.broken_barh(bars, (row - 0.4, 0.8), color=colour, lw=0)
    names = ["context", *(f"targets {g + 1}" for g in range(len(targets)))]
    below.set_yticks(range(len(rows)), names, fontsize=8)
    below.set_ylim(len(rows) - 0.5, -0.5)
    below.set_xlim(0, len(wave) / sfreq)
    below.set_xlabel("seconds")
    return figure


def spans(mask: Bool[np.ndarray, " S"]) -> list[tuple[int, int]]:
    """Start and length of every run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], mask.astype(np.int8), [0]])))
    return [(int(a), int(b - a)) for a, b in zip(edges[::2], edges[1::2], strict=True)]


def _mel_axis(axes: "Axes", n_bands: int, sfreq: float) -> None:
    def mel(hz: float) -> float:
        return 2595 * np.log10(1 + hz / 700)

    low, high = mel(FMIN), mel(sfreq / 2)
    ticks = [hz for hz in (125, 500, 1000, 2000, 4000, 8000) if hz < sfreq / 2]
    places = [n_bands * (mel(hz) - low) / (high - low) for hz in ticks]
    axes.set_yticks(places, [f"{hz / 1000:g}" for hz in ticks], fontsize=8)
    axes.set_ylabel("kHz (mel scale)")


def save_png(figure: "Figure", path: Path, caption: str) -> None:
    """Write a figure for the report, and its caption beside it as `.txt`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".partial")
    figure.savefig(draft, format="png", dpi=150)
    draft.replace(path)
    files.write_text(path.with_suffix(".txt"), caption + "\n")
