"""What the quickstart of Du-IN scores: words, their units, the order of these; codes.

Every system gives a score for every word. The unit set is that of the word with the
highest; the order is told among the words of the true set alone.

Axis letters: N trials, W words, C channels, T samples, P tokens, F bands.
"""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_mutual_info_score

from neurofm.eval.stats import interval, paired
from neurofm.signals.logpower import Bands, log_power
from neurofm.simulate.words_seeg import N_ORDERS, N_SETS, N_WORDS, set_of

CHANCE = {"": 1 / N_WORDS, "unit set": 1 / N_SETS, "order in the set": 1 / N_ORDERS}
N_GROUPS = 20  # of trials, each left out once
Outputs = Float[np.ndarray, "N W"]


def hits(
    outputs: Outputs, word: Int[np.ndarray, " N"]
) -> dict[str, Float[np.ndarray, " N"]]:
    """1 where the word (``), its unit set, its order in the true set is told."""
    told = outputs.argmax(1)
    of_set = outputs.reshape(-1, N_SETS, N_ORDERS)[np.arange(len(word)), set_of(word)]
    right = {
        "": told == word,
        "unit set": set_of(told) == set_of(word),
        "order in the set": of_set.argmax(1) == word % N_ORDERS,
    }
    return {name: made.astype(float) for name, made in right.items()}


def tables(
    outputs: Mapping[str, Outputs], word: Int[np.ndarray, " N"]
) -> dict[str, Any]:
    """Accuracy of every system in all three, and what the model is ahead; by trial."""
    found = {name: hits(made, word) for name, made in outputs.items()}
    each, ones = np.arange(len(word)), np.ones(len(word))
    scores: dict[str, Any] = {}
    ahead: dict[str, Any] = {}
    for part, chance in CHANCE.items():
        points = {name: one[part] for name, one in found.items()}
        scored = {
            name: {**bounds(interval(x, ones, each)), "std": 0.0, "n": len(x)}
            for name, x in points.items()
        }
        scored["chance"] = {"mean": chance, "std": 0.0, "n": len(word)}
        gained = {
            f"model-{name}": bounds(paired(points["model"], x, ones, each))
            for name, x in points.items()
            if name not in ("model", "oracle")
        }
        scores |= {part: scored} if part else scored
        ahead |= {part: gained} if part else gained
    return {"scores": scores, "differences": ahead}


def bounds(found) -> dict[str, float]:
    """A score with its interval."""
    return {"mean": found.value, "low": found.low, "high": found.high}


# ---- classic features ----------------------------------------------------------------


def pooled_power(
    x: Float[np.ndarray, "N C T"], sfreq: float, bands_hz: Bands
) -> Float[np.ndarray, "N C F"]:
    """Log power of the whole trial."""
    hz = np.fft.rfftfreq(x.shape[-1], 1 / sfreq)
    power = np.square(np.abs(np.fft.rfft(x)))
    inside = [(hz >= low) & (hz < high) for low, high in bands_hz]
    return np.log(np.stack([power[..., band].sum(-1) for band in inside], -1))


def binned_power(
    x: Float[np.ndarray, "N C T"], sfreq: float, hop: int, bands_hz: Bands
) -> Float[np.ndarray, "N P CF"]:
    """Log power around every token, as the first stage decodes it."""
    scaled = x / x.std((0, 2), keepdims=True)
    power = np.asarray(log_power(jnp.asarray(scaled), sfreq, hop, bands_hz))
    return power.swapaxes(1, 2).reshape(len(x), power.shape[2], -1)


# ---- codes ---------------------------------------------------------------------------


def clustered(
    power: Float[np.ndarray, "N P CF"],
    known: Int[np.ndarray, " n"],
    n_clusters: int,
    seed: int,
) -> Int[np.ndarray, "N P"]:
    """k-means of standardised band power, centres from the trials in `known`."""
    flat = power[known].reshape(-1, power.shape[-1])
    scaled = (power - flat.mean(0)) / flat.std(0)
    settings: Any = {"n_init": 4, "random_state": seed}
    found = KMeans(n_clusters, **settings).fit(scaled[known].reshape(flat.shape))
    told: Any = found.predict(scaled.reshape(-1, flat.shape[1]))
    return told.reshape(power.shape[:2])


def information(
    codes: Int[np.ndarray, "N P"], units: Int[np.ndarray, "N P"]
) -> dict[str, float]:
    """Adjusted mutual information of codes with units, where one is heard.

    The interval is that of a jackknife over groups of trials: trials drawn twice, as in
    a bootstrap, would add information (Efron & Tibshirani, "An Introduction to the
    Bootstrap", 1993, chapter 11).
    """

    def score(kept: Bool[np.ndarray, " N"]) -> float:
        heard = (units >= 0) & kept[:, None]
        return float(adjusted_mutual_info_score(units[heard], codes[heard]))

    group = np.arange(len(codes)) % N_GROUPS
    less = np.array([score(group != g) for g in range(N_GROUPS)])
    whole = score(np.ones(len(codes), bool))
    half = 1.96 * np.sqrt((N_GROUPS - 1) * np.mean((less - less.mean()) ** 2))
    ends = {"low": whole - float(half), "high": whole + float(half)}
    return {"mean": whole, **ends, "std": 0.0, "n": int((units >= 0).sum())}
