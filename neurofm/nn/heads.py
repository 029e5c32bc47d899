"""From the tokens of a model to K outputs: a layer, a pooling, a map.

Outputs are of an item, or of every token where nothing is pooled.

A head's parameters are `kernel` and `bias`, with `hidden_kernel` and `hidden_bias` of
an mlp, `query` of attentive pooling, `mix` of a learned mix of layers.

Axes: B items, T tokens, D width, F features of an item, H hidden units, K outputs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

Params = dict[str, Array]


@dataclass(frozen=True)
class Head:
    """How tokens become outputs.

    Attributes:
      kind: `linear`, which starts at zero; `mlp`: a hidden layer with SELU, a linear
        map (BrainOmni's released fine-tuning); or `flat`: all tokens side by side, a
        hidden layer with ReLU, a linear map (Du-IN's).
      pool: `mean` over tokens, or `attention`: their mean by the softmax of the product
        with a learned query, which starts as the plain mean; `none`, outputs of every
        token; or side by side the means of `n_parts` parts: of the `windows`, equal
        stretches of all tokens, or of `bins`, equal shares of those that describe the
        item. `flat` pools nothing.
      mixed: all layers, by the softmax of a learned weight each (SUPERB, arXiv
        2105.01051, section 3), rather than one.
      hidden: H; 0 is no hidden layer.
      n_parts: of the poolings `windows` and `bins`.
    """

    kind: Literal["linear", "mlp", "flat"]
    pool: Literal["mean", "attention", "none", "windows", "bins"]
    mixed: bool
    hidden: int
    n_parts: int = 1

    def start(
        self, key: jax.Array, n_layers: int, tokens: tuple[int, int], n_outputs: int
    ) -> Params:
        """Fresh parameters, for the tokens (T, D) of so many layers."""
        key_in, key_out = jax.random.split(key)
        d, k = tokens[1], n_outputs
        normal = partial(jax.random.truncated_normal, lower=-2.0, upper=2.0)
        params: Params = {"bias": jnp.zeros(k)}
        if self.pool == "attention":
            params["query"] = jnp.zeros(d)
        if self.mixed:
            params["mix"] = jnp.zeros(n_layers)
        width = self.n_features(tokens)
        if self.hidden:
            params["hidden_kernel"] = 0.02 * normal(key_in, shape=(width, self.hidden))
            params["hidden_bias"] = jnp.zeros(self.hidden)
            width = self.hidden
        params["kernel"] = jnp.zeros((width, k))
        if self.kind != "linear":
            params["kernel"] = 0.02 * normal(key_out, shape=(width, k))
        return params

    def outputs(
        self,
        params: Mapping[str, Array],
        layers: Sequence[Float[Array, "B T D"]],
        mask: Bool[Array, "B T"],
        kept: Float[Array, "B F"] | None = None,
        usual: Mapping[str, Float[Array, " F"]] | None = None,
    ) -> Float[Array, "B *T K"]:
        """Outputs of every item, or token, in float32.

        Args:
          layers: one, or all of those that are mixed.
          mask: tokens that describe the item.
          kept: 1 / (1 - dropout) or 0, of every feature F that is left of the tokens.
          usual: `centre` and `spread` of the features, which are standardised by them.
        """
        x = self.features(params, layers, mask)
        if usual is not None:
            x = (x - usual["centre"]) / usual["spread"]
        if kept is not None:
            x = x * (kept[:, None] if self.pool == "none" else kept)
        if self.hidden:
            x = x @ params["hidden_kernel"] + params["hidden_bias"]
            x = jax.nn.relu(x) if self.kind == "flat" else jax.nn.selu(x)
        return x @ params["kernel"] + params["bias"]

    def n_features(self, tokens: tuple[int, int]) -> int:
        """F, what is left of tokens (T, D)."""
        if self.pool in ("windows", "bins"):
            return self.n_parts * tokens[1]
        return tokens[0] * tokens[1] if self.kind == "flat" else tokens[1]

    def usual(
        self,
        params: Mapping[str, Array],
        layers: Sequence[Float[Array, "B T D"]],
        mask: Bool[Array, "B T"],
        valid: Bool[Array, " B"],
    ) -> dict[str, Float[Array, " F"]]:
        """`centre` and `spread`: mean and deviation of the features of valid items."""
        x = self.features(params, layers, mask)
        counted = jnp.broadcast_to(valid[:, None], mask.shape) & mask
        weight = (counted if self.pool == "none" else valid).astype(jnp.float32)
        weight = weight[..., None] / jnp.maximum(weight.sum(), 1.0)
        over = tuple(range(x.ndim - 1))
        centre = (x * weight).sum(over)
        spread = jnp.sqrt((jnp.square(x - centre) * weight).sum(over))
        return {"centre": centre, "spread": jnp.where(spread > 1e-6, spread, 1.0)}

    def features(
        self,
        params: Mapping[str, Array],
        layers: Sequence[Float[Array, "B T D"]],
        mask: Bool[Array, "B T"],
    ) -> Float[Array, "B *T F"]:
        """What is left of the tokens, of every item or token, in float32."""
        tokens = [layer.astype(jnp.float32) for layer in layers]
        x = tokens[0]
        if self.mixed:
            share = jax.nn.softmax(params["mix"])
            x = sum((w * t for w, t in zip(share, tokens, strict=True)), jnp.zeros(()))
        here = mask.astype(jnp.float32)
        if self.pool == "none":
            return x
        if self.pool == "windows":
            each = (len(x) * self.n_parts, -1)
            means = _means(x.reshape(*each, x.shape[-1]), here.reshape(each))
            return means.reshape(len(x), -1)
        if self.pool == "bins":
            place = (here.cumsum(1) - 1) * self.n_parts
            part = jnp.floor(place / jnp.maximum(here.sum(1, keepdims=True), 1))
            own = [here * (part == n) for n in range(self.n_parts)]
            return jnp.concatenate([_means(x, weight) for weight in own], axis=1)
        if self.kind == "flat":
            return (x * here[..., None]).reshape(len(x), -1)
        if self.pool == "attention":
            score = x @ params["query"] / x.shape[-1] ** 0.5
            here = here * jax.nn.softmax(jnp.where(mask, score, -1e9))
        return _means(x, here)


def _means(
    x: Float[Array, "B T D"], weight: Float[Array, "B T"]
) -> Float[Array, "B D"]:
    """Over tokens; an item without one has the mean of nothing, 0."""
    total = weight.sum(1, keepdims=True)
    return jnp.einsum("bt,btd->bd", weight, x) / jnp.where(total > 0, total, 1.0)
