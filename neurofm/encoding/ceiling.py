"""How well any model could predict a target, told by repeats of one stimulus.

Each estimate has its own name, and they differ a lot: two repeats with a split-half
correlation of 0.23 can have a CC_max of 0.57. Never compare one with another.

Axis letters: N repeats, T rows (time), V targets. Variances have ddof 0. A target whose
estimate is undefined (signal power at or below zero, a constant repeat) is NaN, so that
it can be masked and counted; nothing is clipped.
"""

import numpy as np
from jaxtyping import Float

from neurofm.encoding.scores import correlation
from neurofm.errors import NeuroFMError


def explainable_variance(
    repeats: Float[np.ndarray, "N T V"],
) -> Float[np.ndarray, " V"]:
    """Share of a repeat's variance that its mean over infinitely many would have.

    1 minus the unbiased variance over repeats, which are z-scored over time first.
    """
    n = _several(repeats)
    centred = repeats - repeats.mean(1, keepdims=True)
    spread = repeats.std(1, keepdims=True)
    z = np.divide(centred, spread, out=np.full_like(centred, np.nan), where=spread > 0)
    return 1 - ((z - z.mean(0)) ** 2).sum(0).mean(0) / (n - 1)


def leave_one_out_r(repeats: Float[np.ndarray, "N T V"]) -> Float[np.ndarray, " V"]:
    """Correlation of a repeat with the mean of the others, mean over repeats."""
    n, total = _several(repeats), repeats.sum(0)
    each = [correlation(r, (total - r) / (n - 1)) for r in repeats]
    return np.mean(each, 0)


def split_half_r(repeats: Float[np.ndarray, "N T V"]) -> Float[np.ndarray, " V"]:
    """Correlation of the mean of every second repeat with the mean of the rest.

    Of two repeats: the reliability of one.
    """
    _several(repeats)
    return correlation(repeats[0::2].mean(0), repeats[1::2].mean(0))


def spearman_brown(r: Float[np.ndarray, " V"]) -> Float[np.ndarray, " V"]:
    """Reliability of both halves together, 2r/(1 + r), from their correlation."""
    return 2 * r / (1 + r)


def signal_power(repeats: Float[np.ndarray, "N T V"]) -> Float[np.ndarray, " V"]:
    """Variance over time that all repeats share; at or below zero where there is none.

    Sahani and Linden, "How linear are auditory cortical responses?" (2003).
    """
    n = _several(repeats)
    return (n * repeats.mean(0).var(0) - repeats.var(1).mean(0)) / (n - 1)


def cc_max(
    repeats: Float[np.ndarray, "N T V"], floor: float = 0.0
) -> Float[np.ndarray, " V"]:
    """Correlation that a perfect model has with the mean of these repeats.

    Schoppe et al., "Measuring the performance of neural models" (2016).

    Args:
      floor: values below are NaN too, as dividing by them says nothing.
    """
    n, power = _several(repeats), signal_power(repeats)
    power = np.where(power > 0, power, np.nan)
    ceiling = 1 / np.sqrt(1 + (repeats.var(1).mean(0) / power - 1) / n)
    return np.where(ceiling < floor, np.nan, ceiling)


def cc_abs(
    guess: Float[np.ndarray, "T V"], repeats: Float[np.ndarray, "N T V"]
) -> Float[np.ndarray, " V"]:
    """Correlation of a prediction with the mean of the repeats."""
    return correlation(repeats.mean(0), guess)


def cc_norm(
    guess: Float[np.ndarray, "T V"],
    repeats: Float[np.ndarray, "N T V"],
    floor: float = 0.0,
) -> Float[np.ndarray, " V"]:
    """CC_abs over CC_max: 1 is as good as the noise allows (Schoppe et al., 2016)."""
    return cc_abs(guess, repeats) / cc_max(repeats, floor)


def signal_power_explained(
    guess: Float[np.ndarray, "T V"], repeats: Float[np.ndarray, "N T V"]
) -> Float[np.ndarray, " V"]:
    """Explained share of the signal power, SPE (Sahani and Linden, 2003)."""
    mean, power = repeats.mean(0), signal_power(repeats)
    power = np.where(power > 0, power, np.nan)
    return (mean.var(0) - (mean - guess).var(0)) / power


def _several(repeats: np.ndarray) -> int:
    if len(repeats) < 2:
        raise NeuroFMError(
            f"a ceiling needs two repeats of one stimulus but there is {len(repeats)}; "
            "report scores without one"
        )
    return len(repeats)
