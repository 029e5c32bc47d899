"""From the tokens of a model to K outputs: a layer, a pooling, a map.

A head's parameters are `kernel` and `bias`, with `hidden_kernel` and `hidden_bias` of
an mlp, `query` of attentive pooling, `mix` of a learned mix of layers.

Axes: B items, T tokens, D features, H hidden units, K outputs, L layers.
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
      kind: `linear`, which starts at zero, or `mlp`: a hidden layer with SELU, a linear
        map (BrainOmni's released fine-tuning).
      pool: `mean` over tokens, or `attention`: their mean by the softmax of the product
        with a learned query, which starts as the plain mean.
      mixed: all layers, by the softmax of a learned weight each (SUPERB, arXiv
        2105.01051, section 3), rather than one.
      hidden: H of the mlp.
    """

    kind: Literal["linear", "mlp"]
    pool: Literal["mean", "attention"]
    mixed: bool
    hidden: int

    def start(
        self, key: jax.Array, n_layers: int, n_features: int, n_outputs: int
    ) -> Params:
        """Fresh parameters."""
        key_in, key_out = jax.random.split(key)
        d, h, k = n_features, self.hidden, n_outputs
        normal = partial(jax.random.truncated_normal, lower=-2.0, upper=2.0)
        params: Params = {"bias": jnp.zeros(k)}
        if self.kind == "linear":
            params["kernel"] = jnp.zeros((d, k))
        else:
            params["hidden_kernel"] = 0.02 * normal(key_in, shape=(d, h))
            params["hidden_bias"] = jnp.zeros(h)
            params["kernel"] = 0.02 * normal(key_out, shape=(h, k))
        if self.pool == "attention":
            params["query"] = jnp.zeros(d)
        if self.mixed:
            params["mix"] = jnp.zeros(n_layers)
        return params

    def outputs(
        self,
        params: Mapping[str, Array],
        layers: Sequence[Float[Array, "B T D"]],
        mask: Bool[Array, "B T"],
        kept: Float[Array, "B D"] | None = None,
    ) -> Float[Array, "B K"]:
        """Outputs of every item, in float32.

        Args:
          layers: one, or all of those that are mixed.
          mask: tokens that describe the item.
          kept: 1 / (1 - dropout) or 0, of every pooled feature.
        """
        tokens = [layer.astype(jnp.float32) for layer in layers]
        x = tokens[0]
        if self.mixed:
            share = jax.nn.softmax(params["mix"])
            x = sum((w * t for w, t in zip(share, tokens, strict=True)), jnp.zeros(()))
        here = mask.astype(jnp.float32)
        if self.pool == "attention":
            score = x @ params["query"] / x.shape[-1] ** 0.5
            here = here * jax.nn.softmax(jnp.where(mask, score, -1e9))
        total = here.sum(1, keepdims=True)
        # An item without a token has the mean of nothing, 0.
        x = jnp.einsum("bt,btd->bd", here, x) / jnp.where(total > 0, total, 1.0)
        if kept is not None:
            x = x * kept
        if self.kind == "mlp":
            x = jax.nn.selu(x @ params["hidden_kernel"] + params["hidden_bias"])
        return x @ params["kernel"] + params["bias"]
