"""What labelled examples ask for: a class of K, any of K tags, numbers or responses.

Sequences are in `objectives.sequences`.

Losses are sums with weights and `sums` only add, so both hold over any microbatches.

Axes: B items, K classes, tags, numbers or responses.
"""

from typing import Literal

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float

from neurofm.objectives import responses as correlated

Answer = Literal["classes", "tags", "numbers", "sequence", "responses"]
Term = tuple[Float[Array, ""], Float[Array, ""]]
Sums = dict[str, Float[Array, " K"]]


def classes(
    logits: Float[Array, "B K"],
    label: Float[Array, "B K"],
    valid: Bool[Array, " B"],
    weight: Float[Array, " K"],
    smoothing: float = 0.0,
) -> tuple[Term, Sums]:
    """Cross-entropy; an item weighs what its class does.

    Args:
      label: 1 for the class of an item, else 0; or shares of classes, of mixed items.
      weight: of each class; the loss is divided by the total weight of the items.
      smoothing: share of the target that is spread over all classes.
    """
    truth = label * valid[:, None]
    target = optax.smooth_labels(label, smoothing)
    losses = optax.softmax_cross_entropy(logits, target)
    weights = (truth * weight).sum(-1)
    guess = jax.nn.one_hot(logits.argmax(-1), logits.shape[-1])
    sums = {"hits": (guess * truth).sum(0), "items": truth.sum(0)}
    return ((losses * weights).sum(), weights.sum()), sums


def tags(
    logits: Float[Array, "B K"],
    label: Float[Array, "B K"],
    valid: Bool[Array, " B"],
    weight: Float[Array, " K"],
) -> tuple[Term, Sums]:
    """Binary cross-entropy of every tag; one that is there weighs `weight`."""
    losses = optax.sigmoid_binary_cross_entropy(logits, label)
    weights = (1 + (weight - 1) * label) * valid[:, None]
    guess, here = (logits > 0) * valid[:, None], label * valid[:, None]
    sums = {
        "hits": (guess * here).sum(0),
        "guessed": guess.sum(0).astype(jnp.float32),
        "items": here.sum(0),
    }
    return ((losses * weights).sum(), weights.sum()), sums


def numbers(
    guess: Float[Array, "B K"], label: Float[Array, "B K"], valid: Bool[Array, " B"]
) -> tuple[Term, Sums]:
    """Squared error, both sides in units of the training examples' deviation.

    A number that is not known (NaN) weighs nothing.
    """
    known = (jnp.isfinite(label) & valid[:, None]).astype(jnp.float32)
    truth = jnp.where(known > 0, label, 0.0)
    error = jnp.square(guess - truth) * known
    sums = {
        "items": known.sum(0),
        "error": error.sum(0),
        "sum": truth.sum(0),
        "square": jnp.square(truth).sum(0),
    }
    return (error.sum(), known.sum()), sums


def responses(
    guess: Float[Array, "B K"], label: Float[Array, "B K"], valid: Bool[Array, " B"]
) -> tuple[Term, dict[str, Float[Array, "one K"]]]:
    """Squared error of responses, and what adds up to the correlation of each.

    One that is not known (NaN) weighs nothing.
    """
    known = jnp.isfinite(label) & valid[:, None]
    truth = jnp.where(known, label, 0.0)
    both = guess[:, None], truth[:, None], known[:, None]
    term = correlated.loss(*both, "mse")
    return term, correlated.correlation_sums(*both, jnp.ones((len(guess), 1)))


def summary(
    answer: Answer, sums: dict[str, Float[Array, "*one K"]]
) -> dict[str, Float[Array, ""]]:
    """Accuracy over items and as the mean over classes; F1 of tags; R2 of numbers.

    Of responses, the mean of their correlations, 0 where a guess stands still, as all
    do before training.

    Means are over the classes, tags or numbers that the items have, numbers and
    responses that are the same in all items left out.
    """
    if answer == "responses":
        r = jnp.nan_to_num(correlated.correlations(sums))
        moves = sums["n"] * sums["yy"] > sums["y"] ** 2
        return {
            "correlation": jnp.where(moves, r, 0).sum() / jnp.maximum(moves.sum(), 1)
        }
    items = sums["items"]
    seen = items > 0

    def mean(x: Float[Array, " K"]) -> Float[Array, ""]:
        return jnp.where(seen, x, 0).sum() / jnp.maximum(seen.sum(), 1)

    if answer == "classes":
        return {
            "accuracy": sums["hits"].sum() / jnp.maximum(items.sum(), 1),
            "balanced_accuracy": mean(sums["hits"] / jnp.maximum(items, 1)),
        }
    if answer == "tags":
        return {
            "f1": mean(2 * sums["hits"] / jnp.maximum(items + sums["guessed"], 1)),
        }
    spread = sums["square"] - sums["sum"] ** 2 / jnp.maximum(items, 1)
    # A number that is one in all items tells nothing; rounded sums make it near 0.
    seen &= spread > 1e-6 * jnp.maximum(sums["square"], items)
    return {"r2": mean(1 - sums["error"] / jnp.where(seen, spread, 1.0))}
