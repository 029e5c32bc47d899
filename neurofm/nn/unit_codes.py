"""One codebook of unit vectors, each moved towards those that chose it.

Axes: N vectors, D width, K codes, P code width.

The codebook is a buffer moved by `moved` from sums that only add, so a step gives the
same codes however its batch lies over devices.

Source: Du-IN (arXiv 2405.11459) and its released code.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from neurofm.nn.apply import apply
from neurofm.nn.norms import LayerNorm, l2_normalize
from neurofm.nn.quantizers import EXACT, Tree, dense, kmeans, nearest, sample
from neurofm.nn.sensors import dense_init

DEAD_SHARE = 0.1  # of the count that equal use would give
NORM = LayerNorm(1e-5)


class Coded(NamedTuple):
    """What became of N vectors.

    Attributes:
      vectors: what stands for them, in their own width.
      indices: their codes' numbers.
      error: squared distance to the code, summed over features.
      sums: what `moved` and `health` need of the valid ones.
    """

    vectors: Float[Array, "N D"]
    indices: Int[Array, " N"]
    error: Float[Array, " N"]
    sums: Tree


@dataclass(frozen=True, kw_only=True)
class UnitCodes:
    """Sizes and switches.

    Attributes:
      width, n_codes, code_width: D, K, P.
      decay: of codes and of their counts.
      revival: codes chosen on average less than a tenth as often as equal use would
        have it take a `random` vector of the batch; or `none`, as released.
    """

    width: int
    n_codes: int
    code_width: int
    decay: float = 0.99
    revival: Literal["none", "random"] = "none"

    def init_params(self, key: jax.Array) -> Tree:
        """The maps into and out of the code width."""
        d, p = self.width, self.code_width
        shapes = {"pre_in": (d, d), "pre_out": (d, p), "post": (p, d)}
        keys = jax.random.split(key, len(shapes))
        maps: Tree = {
            name: {"kernel": dense_init(k, shape), "bias": jnp.zeros(shape[1])}
            for k, (name, shape) in zip(keys, shapes.items(), strict=True)
        }
        return {**maps, "norm": {"scale": jnp.ones(p), "bias": jnp.zeros(p)}}

    def unit(self, params: Tree, x: Float[Array, "N D"]) -> Float[Array, "N P"]:
        """Vectors of unit length in which codes are compared, in float32."""
        hidden = jnp.tanh(dense(params["pre_in"], x.astype(jnp.float32)))
        return l2_normalize(dense(params["pre_out"], hidden), 1e-12)

    def __call__(
        self,
        params: Tree,
        buffers: Tree,
        x: Float[Array, "N D"],
        valid: Bool[Array, " N"],
        picks: Int[Array, " K"] | None = None,
        place: Int[Array, " N"] | None = None,
    ) -> Coded:
        """Quantise `x`, in float32; gradients pass straight through the codes.

        Args:
          valid: vectors that count in `sums`.
          picks: for each code the place of the vector that revives it.
          place: each vector's place, where `picks` is given.
        """
        z = self.unit(params, x)
        fixed = jax.lax.stop_gradient(z)
        index = nearest(fixed, buffers["embed"])
        chosen = jax.nn.one_hot(index, self.n_codes, dtype=jnp.float32)
        code = jnp.matmul(chosen, buffers["embed"], precision=EXACT)
        through = z + jax.lax.stop_gradient(code - z)
        counted = chosen * valid[:, None]
        total = jnp.matmul(counted.T, fixed, precision=EXACT)
        sums = {"count": counted.sum(0), "total": total}
        if picks is not None and place is not None:
            picked = (place[None] == picks[:, None]) & valid
            sums["candidate"] = jnp.matmul(
                picked.astype(jnp.float32), fixed, precision=EXACT
            )
        error = jnp.square(z - code).sum(-1)
        return Coded(self.given(params, through), index, error, sums)

    def given(self, params: Tree, code: Float[Array, "N P"]) -> Float[Array, "N D"]:
        """What codes are outside: normed, and mapped to the width."""
        return dense(params["post"], apply(NORM, params["norm"], code))

    def start_buffers(
        self, key: jax.Array, z: Float[Array, "N P"], valid: Bool[Array, " N"]
    ) -> Tree:
        """First codes: spherical k-means over unit vectors, from drawn ones.

        Where there are fewer vectors than codes, some start the same.
        """
        vectors, weight = sample(key, z, valid, 0)
        many = jnp.maximum(weight.sum().astype(int), 1)
        start = jnp.take(vectors, jnp.arange(self.n_codes) % many, axis=0)
        codes, bins = kmeans(vectors, weight, start, unit=True)
        return {"embed": codes, "count": bins}

    def moved(self, buffers: Tree, sums: Tree) -> Tree:
        """Codes and counts after a step whose valid vectors gave `sums`."""
        keep, count = self.decay, sums["count"]
        old = buffers["embed"]
        mean = l2_normalize(sums["total"], 1e-12)
        mean = jnp.where(count[:, None] > 0, mean, old)
        book = {
            "embed": l2_normalize(keep * old + (1 - keep) * mean, 1e-12),
            "count": keep * buffers["count"] + (1 - keep) * count,
        }
        if self.revival == "random":
            vector = sums["candidate"]
            drawn = jnp.square(vector).sum(-1) > 0
            usual = book["count"].mean()
            dead = (book["count"] < DEAD_SHARE * usual) & drawn
            book["embed"] = jnp.where(dead[:, None], vector, book["embed"])
            book["count"] = jnp.where(dead, usual, book["count"])
        return book


def health(sums: Tree) -> dict[str, Array]:
    """Use of the codes, from the sums of many vectors.

    `perplexity` is the number of codes that equal use would give the same entropy,
    `dead_codes` the share that nothing chose.
    """
    count = sums["count"]
    share = count / jnp.maximum(count.sum(), 1)
    entropy = -(share * jnp.log(jnp.maximum(share, 1e-30))).sum()
    return {"perplexity": jnp.exp(entropy), "dead_codes": (count == 0).mean()}
