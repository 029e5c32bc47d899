"""A linear probe with batch norm on crops of recordings, by gradient descent.

The protocol of Brain-Semantoks (arXiv 2512.11582 and its released code): every crop of
a recording is a training sample, the learning rate is chosen on validation, and the
outputs of a recording's crops are averaged. What is left over of an epoch after its
last full batch is not used.

Axes: n samples, F features, K outputs, S steps, b samples of a step, R recordings, C
crops of a recording.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, Num
from sklearn import metrics

from neurofm.data.draws import permutation, stream_key
from neurofm.errors import NeuroFMError

RATES = (0.03, 0.01, 0.003, 0.001, 0.0003, 0.0001)
EPOCHS, MOMENTUM, SMALL = 50, 0.9, 2e-5
NORM_EPS, NORM_MOMENTUM = 1e-5, 0.1
TRAINED = ("gain", "shift", "kernel", "bias")

Kind = Literal["classes", "numbers"]


class Head(NamedTuple):
    """Batch norm and a linear map, as torch has them.

    Attributes:
      mean, variance: running, of the norm.
      gain, shift: of the norm.
      kernel, bias: of the map.
    """

    mean: Float[Array, " F"]
    variance: Float[Array, " F"]
    gain: Float[Array, " F"]
    shift: Float[Array, " F"]
    kernel: Float[Array, "F K"]
    bias: Float[Array, " K"]


def fresh(key: jax.Array, n_features: int, n_outputs: int) -> Head:
    """A head whose map is nearly zero."""
    zeros, ones = jnp.zeros(n_features), jnp.ones(n_features)
    kernel = jax.random.truncated_normal(key, -2.0, 2.0, (n_features, n_outputs))
    return Head(zeros, ones, ones, zeros, SMALL * kernel, jnp.zeros(n_outputs))


def outputs(head: Head, x: Float[Array, "n F"]) -> Float[Array, "n K"]:
    """Class scores, or numbers, by the running statistics."""
    return _mapped(head, x, head.mean, head.variance)


def _mapped(
    head: Head,
    x: Float[Array, "n F"],
    mean: Float[Array, " F"],
    variance: Float[Array, " F"],
) -> Float[Array, "n K"]:
    scaled = (x - mean) * jax.lax.rsqrt(variance + NORM_EPS) * head.gain + head.shift
    return jnp.matmul(scaled, head.kernel, precision="highest") + head.bias


@partial(jax.jit, static_argnames="kind")
def fit(
    head: Head,
    x: Float[Array, "n F"],
    y: Num[Array, " n"],
    batches: Int[Array, "S b"],
    rate: float | Float[Array, ""],
    kind: Kind = "classes",
) -> Head:
    """Descend with momentum on the cross-entropy, or on the mean absolute error.

    Args:
      batches: the samples of each step.
    """

    def loss(weights: dict[str, Array], head: Head, x: Array, y: Array):
        mean, variance, n = x.mean(0), x.var(0), len(x)
        out = _mapped(head._replace(**weights), x, mean, variance)
        keep = 1 - NORM_MOMENTUM
        unbiased = variance * n / max(n - 1, 1)
        moved = head._replace(
            mean=keep * head.mean + NORM_MOMENTUM * mean,
            variance=keep * head.variance + NORM_MOMENTUM * unbiased,
        )
        if kind == "numbers":
            return jnp.abs(out[:, 0] - y).mean(), moved
        return optax.softmax_cross_entropy_with_integer_labels(out, y).mean(), moved

    def step(carry, batch):
        head, velocity = carry
        weights = {name: getattr(head, name) for name in TRAINED}
        slopes, moved = jax.grad(loss, has_aux=True)(weights, head, x[batch], y[batch])
        velocity = jax.tree.map(lambda v, g: MOMENTUM * v + g, velocity, slopes)
        weights = jax.tree.map(lambda w, v: w - rate * v, weights, velocity)
        return (moved._replace(**weights), velocity), None

    still = {name: jnp.zeros_like(getattr(head, name)) for name in TRAINED}
    (head, _), _ = jax.lax.scan(step, (head, still), batches)
    return head


def class_metrics(
    scores: Float[np.ndarray, "n K"], truth: Int[np.ndarray, " n"]
) -> dict[str, float]:
    """Of class scores, as fractions; F1, precision and recall of class 1 of two.

    Of more classes these are means over classes, and the area under the curve is one
    class against the rest. An area that is not defined is left out.
    """
    guess, n = scores.argmax(1), scores.shape[1]
    average: Any = "binary" if n == 2 else "macro"
    share = np.asarray(jax.nn.softmax(scores.astype(np.float64), axis=1), np.float64)
    told = {"average": average, "zero_division": 0}
    out = {
        "accuracy": metrics.accuracy_score(truth, guess),
        "balanced_accuracy": metrics.balanced_accuracy_score(truth, guess),
        "f1": metrics.f1_score(truth, guess, **told),
        "precision": metrics.precision_score(truth, guess, **told),
        "recall": metrics.recall_score(truth, guess, **told),
    }
    if len(np.unique(truth)) == n:
        share = share / share.sum(1, keepdims=True)
        by = share[:, 1] if n == 2 else share
        out["auroc"] = metrics.roc_auc_score(truth, by, multi_class="ovr")
    return {name: float(x) for name, x in out.items()}


def number_metrics(
    predicted: Float[np.ndarray, " n"], truth: Float[np.ndarray, " n"]
) -> dict[str, float]:
    """Mean absolute error, R2 and correlation; what is not defined is left out."""
    out = {"mae": float(metrics.mean_absolute_error(truth, predicted))}
    if np.ptp(truth) > 0:
        out["r2"] = float(metrics.r2_score(truth, predicted))
        if np.ptp(predicted) > 0:
            out["pearson_r"] = float(np.corrcoef(truth, predicted)[0, 1])
    return out


def probe(
    features: Mapping[str, Float[np.ndarray, "R C F"]],
    target: Mapping[str, Num[np.ndarray, " R"]],
    seed: int,
    kind: Kind = "classes",
    epochs: int = EPOCHS,
) -> dict[str, Any]:
    """Train on crops at every rate, choose on `valid`, score `test`.

    Args:
      features, target: of the recordings of `train`, `valid` and `test`; classes are
        numbered from 0.

    Returns:
      `rate`; `valid`, what it was chosen by (balanced accuracy, or minus the mean
      absolute error, of recordings); `ensembled` and `single`, metrics of test
      recordings by the mean output of their crops, and of single crops.

    Raises:
      NeuroFMError: a class of any split is missing in training.
    """
    known = set(np.unique(target["train"]).tolist())
    if kind == "classes" and (
        missing := set(np.concatenate([*target.values()]).tolist()) - known
    ):
        raise NeuroFMError(
            f"the class {min(missing)} is in the split but not in training: give every "
            "class training recordings, or leave it out"
        )
    n_outputs = int(max(known)) + 1 if kind == "classes" else 1
    crops, n_crops = features["train"].shape[:2]
    x = jnp.asarray(features["train"].reshape(crops * n_crops, -1), jnp.float32)
    y = jnp.asarray(np.repeat(target["train"], n_crops))
    batches = _batches(len(x), seed, epochs)
    start = fresh(jax.random.key(seed), x.shape[1], n_outputs)

    def read(head: Head, split: str) -> Float[np.ndarray, "R C K"]:
        own = features[split]
        flat = jnp.asarray(own.reshape(-1, own.shape[-1]), jnp.float32)
        return np.asarray(outputs(head, flat)).reshape(*own.shape[:2], -1)

    def chosen_by(head: Head) -> float:
        found = _metrics(read(head, "valid").mean(1), target["valid"], kind)
        return found["balanced_accuracy"] if kind == "classes" else -found["mae"]

    heads = {rate: fit(start, x, y, batches, rate, kind) for rate in RATES}
    valid = {rate: chosen_by(head) for rate, head in heads.items()}
    best = max(valid, key=lambda rate: valid[rate])
    tested, truth = read(heads[best], "test"), target["test"]
    every = np.repeat(truth, tested.shape[1])
    return {
        "rate": best,
        "valid": valid[best],
        "ensembled": _metrics(tested.mean(1), truth, kind),
        "single": _metrics(tested.reshape(len(every), -1), every, kind),
    }


def _batches(n: int, seed: int, epochs: int) -> Int[Array, "S b"]:
    """Samples of every step: an eighth of all, 256 at most, in a new order an epoch."""
    size = min(256, max(1, n // 8))
    key, steps = stream_key("crop probe", seed), n // size
    orders = [permutation(key, epoch, n)[: steps * size] for epoch in range(epochs)]
    return jnp.asarray(np.concatenate(orders).reshape(-1, size))


def _metrics(out: Float[np.ndarray, "n K"], truth: Num[np.ndarray, " n"], kind: Kind):
    if kind == "classes":
        return class_metrics(out, truth)
    return number_metrics(out[:, 0].astype(np.float64), truth.astype(np.float64))
