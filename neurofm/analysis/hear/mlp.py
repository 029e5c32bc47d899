"""The shallow network that HEAR puts on frozen embeddings, and how it learns.

A block is linear, batch norm, dropout, ReLU; the output layer is linear. Softmax and
cross-entropy for one label, sigmoid and binary cross-entropy for several.

Axes: N items, D width of the embedding, H hidden, K classes, S steps of B items.
"""

import functools
import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jaxtyping import Bool, Float, Int, PRNGKeyArray

BATCH = 1024
MOMENTUM, EPS = 0.1, 1e-5

Params = dict[str, Any]
Stats = list[dict[str, Array]]


class Config(NamedTuple):
    """One point of the grid."""

    hidden_layers: int
    lr: float
    initialization: str
    hidden_dim: int = 1024
    dropout: float = 0.1


class State(NamedTuple):
    """All that training moves."""

    params: Params
    stats: Stats
    moments: optax.OptState


def init(
    key: PRNGKeyArray, config: Config, n_inputs: int, n_classes: int
) -> tuple[Params, Stats]:
    """Fresh weights: Xavier with gain 1 in the first linear layer, √2 in later ones.

    Biases are uniform within 1/√inputs.
    """
    widths = [n_inputs] + [config.hidden_dim] * config.hidden_layers + [n_classes]
    layers = []
    for i, (a, b) in enumerate(itertools.pairwise(widths)):
        w, bias = jax.random.split(jax.random.fold_in(key, i))
        gain = 1.0 if i == 0 else np.sqrt(2)
        spread = gain * np.sqrt(2 / (a + b))
        if config.initialization == "xavier_uniform":
            bound = np.sqrt(3) * spread
            weight = jax.random.uniform(w, (a, b), minval=-bound, maxval=bound)
        else:
            weight = spread * jax.random.normal(w, (a, b))
        bound = 1 / np.sqrt(a)
        bias = jax.random.uniform(bias, (b,), minval=-bound, maxval=bound)
        layers.append({"weight": weight, "bias": bias})
    for layer, width in zip(layers[:-1], widths[1:-1], strict=True):
        layer |= {"gain": jnp.ones(width), "offset": jnp.zeros(width)}
    stats = [{"mean": jnp.zeros(w), "var": jnp.ones(w)} for w in widths[1:-1]]
    return {"layers": layers}, stats


def logits(params: Params, stats: Stats, x: Float[Array, "N D"]) -> Float[Array, "N K"]:
    """What the network says of embeddings, by its running statistics."""
    *hidden, last = params["layers"]
    for layer, known in zip(hidden, stats, strict=True):
        x = jax.nn.relu(_normed(layer, _linear(layer, x), known["mean"], known["var"]))
    return _linear(last, x)


def training_logits(
    params: Params,
    stats: Stats,
    x: Float[Array, "N D"],
    counted: Bool[Array, " N"],
    dropout: float = 0.0,
    key: PRNGKeyArray | None = None,
) -> tuple[Float[Array, "N K"], Stats]:
    """The same by the statistics of a batch, and the running ones it leaves.

    Args:
      counted: False for padding. Running variance is unbiased.
    """
    *hidden, last = params["layers"]
    n = counted.sum()
    moved = []
    for i, (layer, known) in enumerate(zip(hidden, stats, strict=True)):
        x = _linear(layer, x)
        mean = _mean(x, counted)
        var = _mean((x - mean) ** 2, counted)
        unbiased = var * n / jnp.maximum(n - 1, 1)
        moved.append(
            {
                "mean": (1 - MOMENTUM) * known["mean"] + MOMENTUM * mean,
                "var": (1 - MOMENTUM) * known["var"] + MOMENTUM * unbiased,
            }
        )
        x = _normed(layer, x, mean, var)
        if dropout and key is not None:
            kept = jax.random.bernoulli(
                jax.random.fold_in(key, i), 1 - dropout, x.shape
            )
            x = jnp.where(kept, x / (1 - dropout), 0)
        x = jax.nn.relu(x)
    return _linear(last, x), moved


def loss(
    logits: Float[Array, "N K"],
    target: Float[Array, "N K"],
    counted: Bool[Array, " N"],
    multilabel: bool,
) -> Float[Array, ""]:
    """Mean over the items that count, and over classes where they are independent."""
    if multilabel:
        of_item = optax.sigmoid_binary_cross_entropy(logits, target).mean(1)
    else:
        of_item = optax.softmax_cross_entropy(logits, target)
    return _mean(of_item, counted)


def probabilities(logits: Float[Array, "N K"], multilabel: bool) -> Float[Array, "N K"]:
    """Sigmoid of several labels, softmax of one."""
    return jax.nn.sigmoid(logits) if multilabel else jax.nn.softmax(logits, axis=1)


def start(key: PRNGKeyArray, config: Config, n_inputs: int, n_classes: int) -> State:
    """The state before the first step."""
    params, stats = init(key, config, n_inputs, n_classes)
    return State(params, stats, optax.adam(config.lr).init(params))


@functools.partial(jax.jit, static_argnames=("dropout", "multilabel"), donate_argnums=0)
def epoch(
    state: State,
    x: Float[Array, "N D"],
    target: Float[Array, "N K"],
    key: PRNGKeyArray,
    lr: Float[Array, ""] | float,
    dropout: float,
    multilabel: bool,
) -> tuple[State, Float[Array, ""]]:
    """One pass over the items in random order; the mean loss.

    The last batch is filled up with items that do not count.
    """
    order, counted = _batches(jax.random.fold_in(key, 0), len(x))

    def step(state: State, at: tuple[Int[Array, " B"], Bool[Array, " B"], Array]):
        rows, count, n = at

        def objective(params):
            given = x[rows], count, dropout, jax.random.fold_in(key, n + 1)
            out, stats = training_logits(params, state.stats, *given)
            return loss(out, target[rows], count, multilabel), stats

        (value, stats), grads = jax.value_and_grad(objective, has_aux=True)(
            state.params
        )
        updates, moments = optax.adam(lr).update(grads, state.moments)
        params: Any = optax.apply_updates(state.params, updates)
        return State(params, stats, moments), value

    steps = (order, counted, jnp.arange(len(order)))
    state, losses = jax.lax.scan(step, state, steps)
    return state, losses.mean()


def _batches(key, n):
    size = min(BATCH, n)
    n_steps = -(-n // size)
    places = jnp.arange(n_steps * size)
    order = jnp.resize(jax.random.permutation(key, n), n_steps * size)
    return order.reshape(n_steps, size), (places < n).reshape(n_steps, size)


def _linear(layer, x):
    return jnp.matmul(x, layer["weight"], precision="highest") + layer["bias"]


def _normed(layer, x, mean, var):
    return (x - mean) * jax.lax.rsqrt(var + EPS) * layer["gain"] + layer["offset"]


def _mean(x, counted):
    weight = counted.reshape(-1, *[1] * (x.ndim - 1))
    return jnp.where(weight, x, 0).sum(0) / counted.sum()
