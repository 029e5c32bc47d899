"""How well hidden stripes are filled in: the network, the mean, interpolation.

All of a stripe is hidden here, where training leaves or copies a fifth of them.

Axis letters: N windows, T frames, F frequencies.
"""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Shaped

from neurofm.eval.examples import Examples
from neurofm.eval.stats import interval
from neurofm.model import Model
from neurofm.models.brainbert import BrainBERT
from neurofm.objectives.stripes import EMPTY, KEPT, Stripes, applied
from neurofm.quickstart.contacts import Labelled
from neurofm.report.spectrogram import save_png
from neurofm.step import draw_key


def errors(
    model: Model, windows: Labelled, examples: Examples, figures: Path
) -> dict[str, Any]:
    """Mean absolute error of hidden entries of test windows, in deviations.

    Of all entries, and of those that are loud: further than a deviation from their
    mean. Loud ones count three times in what BrainBERT lowers, and most are not loud,
    so that of all entries a mean without any guess is hard to beat. Intervals are over
    people. A figure shows one window.

    Returns:
      `all` and `loud` -> `model`, `mean`, `interpolation` -> mean, low, high, n.
    """
    task = model.task
    assert isinstance(task, BrainBERT)
    (fold,) = examples.folds
    truth, hidden, guess = predicted(task, model, windows.batch(fold.test))
    guesses = {
        "model": guess,
        "mean": np.zeros_like(truth),
        "interpolation": interpolated(truth, hidden),
    }
    asked = {"all": hidden, "loud": hidden & (np.abs(truth) > 1)}
    who = examples.clusters[fold.test]
    found = {
        part: {name: error(x, truth, mask, who) for name, x in guesses.items()}
        for part, mask in asked.items()
    }
    _draw(figures, truth[0], hidden[0], {k: x[0] for k, x in guesses.items()}, found)
    return found


def error(
    x: Float[np.ndarray, "N T F"],
    truth: Float[np.ndarray, "N T F"],
    mask: Bool[np.ndarray, "N T F"],
    who: Shaped[np.ndarray, " N"],
) -> dict[str, float]:
    """Mean absolute difference where `mask` is true, with its interval over people."""
    total = (np.abs(x - truth) * mask).sum((1, 2))
    some = interval(total, mask.sum((1, 2)).astype(float), who)
    return {"mean": some.value, "low": some.low, "high": some.high, "n": len(total)}


def predicted(
    task: BrainBERT, model: Model, batch: dict[str, np.ndarray]
) -> tuple[
    Float[np.ndarray, "N T F"], Bool[np.ndarray, "N T F"], Float[np.ndarray, "N T F"]
]:
    """Spectrograms, what is hidden of each, and what the network says of them."""

    @jax.jit
    def fill(params, batch):
        draws = task.draw(batch, draw_key(0, jnp.int32(0), "eval"), jnp.int32(0), False)
        label = draws["label"]
        frames = jnp.where(label.any(2), EMPTY, KEPT)
        stripes = Stripes(frames, jnp.full_like(draws["freqs"], KEPT), label, label)
        target, visible = task.spectra(batch)
        x = applied(target, stripes, task.masker.clean_copies)
        last = task.layers(params, x, visible)[-1]
        return target, label, task.predicted(params, last)

    truth, hidden, guess = jax.device_get(fill(model.variables["params"], batch))
    return truth, hidden, guess


def interpolated(
    x: Float[np.ndarray, "N T F"], hidden: Bool[np.ndarray, "N T F"]
) -> Float[np.ndarray, "N T F"]:
    """Straight lines over time between what is not hidden of each frequency."""
    out = x.copy()
    at = np.arange(x.shape[1])
    for i, f in zip(*np.nonzero(hidden.any(1)), strict=True):
        gone = hidden[i, :, f]
        if gone.all():
            out[i, :, f] = 0
        else:
            out[i, gone, f] = np.interp(at[gone], at[~gone], x[i, ~gone, f])
    return out


def _draw(folder: Path, truth, hidden, guesses, found) -> None:
    from matplotlib.figure import Figure

    shown = {"what is there": truth, "what is shown": np.where(hidden, np.nan, truth)}
    for name in ("model", "interpolation"):
        shown[name] = np.where(hidden, guesses[name], truth)
    figure = Figure((9, 5), layout="constrained")
    axes = figure.subplots(2, 2, sharex=True, sharey=True)
    for ax, (name, x) in zip(axes.ravel(), shown.items(), strict=True):
        ax.imshow(x.T, origin="lower", aspect="auto", vmin=-2, vmax=4, cmap="magma")
        ax.set_title(name, fontsize=9)
    figure.supxlabel("frame")
    figure.supylabel("frequency")
    words = "; ".join(
        f"{part}, " + ", ".join(f"{k} {one['mean']:.3f}" for k, one in each.items())
        for part, each in found.items()
    )
    told = (
        "A window of a new person, one band hidden at a time, filled in by the network "
        "and by straight lines over time. Mean absolute error of what is hidden, of "
        f"all test windows, in deviations: {words}."
    )
    save_png(figure, folder / "filled_in.png", told)
