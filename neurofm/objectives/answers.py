"""What labelled examples ask for: one class of K, any of K tags, or K numbers.

Losses are sums with weights and `sums` only add, so both hold over any microbatches.

Axes: B items, K classes, tags or numbers.
"""

from typing import Literal

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int

Answer = Literal["classes", "tags", "numbers"]
Term = tuple[Float[Array, ""], Float[Array, ""]]
Sums = dict[str, Float[Array, " K"]]


def classes(
    logits: Float[Array, "B K"],
    label: Int[Array, " B"],
    valid: Bool[Array, " B"],
    weight: Float[Array, " K"],
    smoothing: float = 0.0,
) -> tuple[Term, Sums]:
    """Cross-entropy; an item weighs what its class does.

    Args:
      weight: of each class; the loss is divided by the total weight of the items.
      smoothing: share of the target that is spread over all classes.
    """
    n_classes = logits.shape[-1]
    truth = jax.nn.one_hot(label, n_classes) * valid[:, None]
    target = optax.smooth_labels(jax.nn.one_hot(label, n_classes), smoothing)
    losses = optax.softmax_cross_entropy(logits, target)
    weights = (truth * weight).sum(-1)
    guess = jax.nn.one_hot(logits.argmax(-1), n_classes)
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
    weights = jnp.where(label > 0, weight, 1.0) * valid[:, None]
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


def summary(answer: Answer, sums: Sums) -> dict[str, Float[Array, ""]]:
    """Accuracy over items and as the mean over classes; F1 of tags; R2 of numbers.

    Means are over the classes, tags or numbers that the items have, numbers that are
    the same in all items left out.
    """
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
