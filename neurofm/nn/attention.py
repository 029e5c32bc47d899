"""Multi-head self-attention with a key mask.

Axes: B batch, S tokens, D width, H heads, K head width.
"""

import functools
import logging
from collections.abc import Callable
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from neurofm.errors import NeuroFMError
from neurofm.nn import kernels
from neurofm.nn.linear import Initializer, Linear
from neurofm.nn.norms import LayerNorm
from neurofm.parallel.mesh import Platform, platform
from neurofm.parallel.sharding import constrain, on_shards

log = logging.getLogger(__name__)

Form = Literal["xla", "splash", "cudnn"]
Attention = Literal["auto", "xla", "splash", "cudnn"]

Drop = Callable[[Float[Array, "B H S S"]], Float[Array, "B H S S"]]

HIDDEN = -1e30  # finite, so that a row without any visible key stays finite

# From here on `auto` takes a kernel. Compiled for a v5e chip, splash needs 0.54 of the
# temporaries of the written-out form at 512 tokens, but 1.05 at 200 and 2.2 at 128
# (benchmarks/README.md), and it pads to whole tiles of 128 tokens. No time was measured
# on a TPU or GPU; one that is may move this.
KERNEL_FROM = 512


def choose(
    setting: Attention,
    target: Platform,
    dtype: jnp.dtype,
    tokens: int,
    head_width: int,
    dropout: bool = False,
) -> Form:
    """The form that attention over `tokens` tokens takes; depends on nothing else.

    `auto` takes the platform's kernel from `KERNEL_FROM` tokens on where it can, and
    writes attention out otherwise.

    Raises:
      NeuroFMError: a kernel by name that cannot take this.
    """
    dropped = "it drops no attention weights, as task.dropout asks" if dropout else None
    why_not: dict[Form, str | None] = {
        "splash": dropped or kernels.splash_refuses(target),
        "cudnn": dropped or kernels.cudnn_refuses(target, dtype, tokens, head_width),
        "xla": None,
    }
    if setting == "auto":
        if tokens < KERNEL_FROM:
            return "xla"
        return next(form for form, reason in why_not.items() if reason is None)
    if reason := why_not[setting]:
        raise NeuroFMError(
            f"task.attention={setting} cannot be used: {reason}; set "
            "task.attention=auto, or xla, which takes everything"
        )
    return setting


@functools.cache
def _tell(form: Form, target: Platform, dtype: str, tokens: int) -> None:
    log.info("attention over %d tokens, %s on %s: %s", tokens, dtype, target, form)


def attend(
    query: Float[Array, "B S H K"],
    key: Float[Array, "B S H K"],
    value: Float[Array, "B S H K"],
    visible: Bool[Array, "B S"] | None,
    setting: Attention = "auto",
    drop: Drop | None = None,
) -> Float[Array, "B S H K"]:
    """Softmax attention over visible keys, in the form that `choose` gives.

    All forms agree within rounding where a row has a visible key; one without any is
    finite. Which one it is stands in the log, once. `drop` zeroes some of the weights,
    which kernels do not hold: `auto` then writes them out.

    Raises:
      NeuroFMError: see `choose`.
    """
    target, (_, tokens, _, head_width) = platform(), query.shape
    form = choose(setting, target, query.dtype, tokens, head_width, drop is not None)
    _tell(form, target, str(query.dtype), tokens)
    if form == "xla":
        return written_out(query, key, value, visible, drop)
    if visible is None:
        visible = jnp.ones(query.shape[:2], bool)
    kernel = {"splash": kernels.splash, "cudnn": kernels.cudnn}[form]
    heads = ("batch", "token", "heads", "kv")
    return on_shards(kernel, heads, heads, heads, ("batch", "token"))(
        query, key, value, visible
    )


def written_out(
    query: Float[Array, "B S H K"],
    key: Float[Array, "B S H K"],
    value: Float[Array, "B S H K"],
    visible: Bool[Array, "B S"] | None,
    drop: Drop | None = None,
) -> Float[Array, "B S H K"]:
    """Attention as two products with the softmax between them, in float32.

    At 64 to 200 tokens the score matrix is small and this form is the fastest on CPU.
    """
    scale = query.shape[-1] ** -0.5
    scores = jnp.einsum("bqhk,bshk->bhqs", query * scale, key)
    scores = scores.astype(jnp.float32)
    if visible is not None:
        scores = jnp.where(visible[:, None, None, :], scores, HIDDEN)
    weights = jax.nn.softmax(scores, axis=-1)
    if drop is not None:
        weights = drop(weights)
    return jnp.einsum("bhqs,bshk->bqhk", weights.astype(value.dtype), value)


class SelfAttention(nn.Module):
    """Queries, keys and values by heads, attention, and the projection back to D.

    Attributes:
      kernel_init: of all four kernels; by default those of q, k and v start
        Xavier-uniform over the fused `(3D, D)` matrix, as torch's `MultiheadAttention`
        leaves them.
      out_init: of the projection's alone, if it differs.
      use_bias: whether the four maps have one.
      head_width: K; 0 is D / H.
      norm_eps: of a LayerNorm over every head's queries, and one over its keys, whose
        gains all heads share; None is none.
      out_bias: whether the last of them has one, where that is told apart.
      turn: what is done to queries and keys, such as `nn.positions.rotate`.
    """

    heads: int
    attention: Attention = "auto"
    kernel_init: Initializer | None = None
    out_init: Initializer | None = None
    use_bias: bool = True
    out_bias: bool | None = None
    head_width: int = 0
    norm_eps: float | None = None
    turn: Callable[[Float[Array, "B S H K"]], Float[Array, "B S H K"]] | None = None
    dtype: jnp.dtype = jnp.dtype("float32")

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B S D"],
        visible: Bool[Array, "B S"] | None,
        drop: Drop | None = None,
    ) -> Float[Array, "B S D"]:
        width = x.shape[-1]
        bound = (6 / (4 * width)) ** 0.5

        def qkv_init(key, shape, dtype=jnp.float32):
            return jax.random.uniform(key, shape, dtype, -bound, bound)

        shape = (self.heads, self.head_width or width // self.heads)
        dense = functools.partial(Linear, dtype=self.dtype)
        out_bias = self.use_bias if self.out_bias is None else self.out_bias
        out_init = self.out_init or self.kernel_init or nn.initializers.normal(0.02)
        query, key, value = (
            constrain(
                dense(
                    shape,
                    kernel_init=self.kernel_init or qkv_init,
                    axes=("embed", "heads", "kv"),
                    use_bias=self.use_bias,
                    name=name,
                )(x),
                *("batch", "token", "heads", "kv"),
            )
            for name in ("query", "key", "value")
        )
        if self.norm_eps is not None:
            query = LayerNorm(self.norm_eps, name="norm_query")(query)
            key = LayerNorm(self.norm_eps, name="norm_key")(key)
        if self.turn is not None:
            query, key = self.turn(query), self.turn(key)
        mixed = attend(query, key, value, visible, self.attention, drop)
        axes = ("heads", "kv", "embed")
        out = dense(
            (width,),
            2,
            kernel_init=out_init,
            axes=axes,
            use_bias=out_bias,
            name="out",
        )
        return out(mixed)
