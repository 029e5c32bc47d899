"""Residual vector quantisation with codebooks that follow their codes' averages.

Axes: N vectors, D width, Q levels, K codes a level, P code width.

A level's codebook is chosen by nearest distance; what is left goes to the next level.
`ema` codebooks are buffers moved by `moved` from sums that only add, so a step gives
the same codebooks however its batch lies over devices and microbatches. `simvq`
codebooks are a trained map of fixed random vectors.

Source: BrainOmni (arXiv 2505.18185) and its released code; rotation trick: Fifty et al.
(arXiv 2410.06424); SimVQ: Zhu et al. (arXiv 2411.02038).
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from neurofm.nn.norms import l2_normalize
from neurofm.nn.sensors import dense_init

Tree = dict
EXACT = jax.lax.Precision.HIGHEST
MOST_SAMPLES = 4096  # vectors that k-means looks at
LLOYD_STEPS = 10
DEAD_BELOW = 2.0  # vectors a step


class Quantized(NamedTuple):
    """What became of N vectors.

    Attributes:
      levels: each level's code, in the width of the input; their sum stands for it.
      indices: codes' numbers.
      error: commitment loss of each vector and level, summed over features.
      sums: what `moved` needs of the valid vectors, and how they are spread.
    """

    levels: Float[Array, "Q N D"]
    indices: Int[Array, "N Q"]
    error: Float[Array, "Q N"]
    sums: Tree


@dataclass(frozen=True, kw_only=True)
class ResidualQuantizer:
    """Sizes and switches.

    Attributes:
      width, n_levels, n_codes, code_width: D, Q, K, P; where P is not D, `ema` levels
        project in and out.
      method: `ema` or `simvq`.
      rotation: gradients are rotated and scaled from code to vector; else they pass
        straight through.
      decay: of the moving averages.
      revival: codes chosen less than twice a step (on average) take a `random` vector
        of the batch; or `released`, which is never.
      start: k-means sums are `consistent`, count x centre; or as `released`, the bare
        centre, from which the first update shrinks the codes.
      precision: of the stored averages; `bfloat16` as released.
    """

    width: int
    n_levels: int
    n_codes: int
    code_width: int
    method: Literal["ema", "simvq"] = "ema"
    rotation: bool = True
    decay: float = 0.99
    revival: Literal["random", "released"] = "random"
    start: Literal["consistent", "released"] = "consistent"
    precision: Literal["float32", "bfloat16"] = "float32"

    @property
    def projects(self) -> bool:
        """Whether levels have maps into and out of the code width."""
        return self.method == "ema" and self.code_width != self.width

    def init_params(self, key: jax.Array) -> Tree:
        """Trained maps, stacked over levels; none for plain `ema`."""
        width, code = self.width, self.code_width
        if self.projects:
            shapes = {"project_in": (width, code), "project_out": (code, width)}
        elif self.method == "simvq":
            shapes = {"linear": (code, width), "residual": (width, width)}
        else:
            return {}
        keys = jax.random.split(key, len(shapes))
        return {
            name: {
                "kernel": dense_init(k, (self.n_levels, *shape)),
                "bias": jnp.zeros((self.n_levels, shape[-1])),
            }
            for k, (name, shape) in zip(keys, shapes.items(), strict=True)
        }

    # ---- lookup ---------------------------------------------------------------------

    def __call__(
        self,
        params: Tree,
        buffers: Tree,
        z: Float[Array, "N D"],
        valid: Bool[Array, " N"],
        train: bool,
        picks: Int[Array, "Q K"] | None = None,
        place: Int[Array, " N"] | None = None,
    ) -> Quantized:
        """Quantise `z`, in float32.

        Args:
          valid: vectors that count in `sums`.
          train: rotate (or pass) gradients through the codes.
          picks: for each code the place of the vector that revives it.
          place: each vector's place, where `picks` is given.
        """

        def level(residual, xs):
            own, book, wanted = xs
            out, found = self._level(own, book, residual, valid, train, wanted, place)
            residual = residual - jax.lax.stop_gradient(out)
            energy = (jnp.square(residual).sum(-1) * valid).sum()
            found["sums"]["energy"] = jax.lax.stop_gradient(energy)
            return residual, (out, found)

        z = z.astype(jnp.float32)
        _, (outs, found) = jax.lax.scan(level, z, (params, buffers, picks))
        start = jax.lax.stop_gradient((jnp.square(z).sum(-1) * valid).sum())
        sums = {**found["sums"], "energy_in": start}
        return Quantized(outs, found["index"].T, found["error"], sums)

    def _level(self, params, book, r, valid, train, wanted, place):
        h = dense(params["project_in"], r) if self.projects else r
        codes = self.codes(params, book)
        index = nearest(jax.lax.stop_gradient(h), jax.lax.stop_gradient(codes))
        chosen, code = self._chosen(index, codes)
        q = code
        if train:
            through = rotated if self.rotation else straight_through
            q = through(h, jax.lax.stop_gradient(code))
        fixed = jax.lax.stop_gradient
        if self.method == "simvq":
            error = jnp.square(fixed(h) - code) + 0.25 * jnp.square(h - fixed(code))
        else:
            error = 0.25 * jnp.square(h - fixed(q))
        out = dense(params["project_out"], q) if self.projects else q
        counted = chosen * valid[:, None]
        sums = {"count": counted.sum(0)}
        if self.method == "ema":
            sums["total"] = jnp.matmul(counted.T, fixed(h), precision=EXACT)
        if wanted is not None:
            picked = (place[None] == wanted[:, None]) & valid
            picked = picked.astype(jnp.float32)
            sums["picked"] = picked.sum(-1)
            sums["candidate"] = jnp.matmul(picked, fixed(h), precision=EXACT)
        return out, {"index": index, "error": error.sum(-1), "sums": sums}

    def _chosen(self, index, codes):
        chosen = jax.nn.one_hot(index, self.n_codes, dtype=jnp.float32)
        return chosen, jnp.matmul(chosen, codes, precision=EXACT)

    def vectors(
        self, params: Tree, buffers: Tree, indices: Int[Array, "N Q"]
    ) -> Float[Array, "Q N D"]:
        """Each level's code in the width of the input, as `levels` outside training."""

        def level(_, xs):
            own, book, index = xs
            _, q = self._chosen(index, self.codes(own, book))
            return None, dense(own["project_out"], q) if self.projects else q

        return jax.lax.scan(level, None, (params, buffers, indices.T))[1]

    def codes(self, params: Tree, book: Tree) -> Float[Array, "K P"]:
        """The codebook of one level."""
        if self.method == "ema":
            return book["embed"]
        mapped = dense(params["linear"], book["frozen_codebook"])
        return mapped + dense(params["residual"], jax.nn.selu(mapped))

    # ---- codebooks ------------------------------------------------------------------

    def start_buffers(
        self,
        key: jax.Array,
        params: Tree,
        z: Float[Array, "N D"],
        valid: Bool[Array, " N"],
    ) -> Tree:
        """First codebooks: k-means over what earlier levels leave of `z`.

        `simvq` draws its fixed vectors instead.
        """
        if self.method == "simvq":
            shape = (self.n_levels, self.n_codes, self.code_width)
            fixed = jax.random.normal(key, shape) * self.code_width**-0.5
            return {"frozen_codebook": fixed}

        def level(residual, xs):
            key, own = xs
            h = dense(own["project_in"], residual) if self.projects else residual
            samples, weight = sample(key, h, valid, self.n_codes)
            centers, bins = kmeans(samples, weight, samples[: self.n_codes])
            count = bins[:, None] if self.start == "consistent" else 1.0
            book = {"embed": centers, "count": bins, "total": centers * count}
            out, _ = self._level(own, book, residual, valid, False, None, None)
            return residual - out, book

        keys = jax.random.split(key, self.n_levels)
        return jax.lax.scan(level, z.astype(jnp.float32), (keys, params))[1]

    def moved(self, buffers: Tree, sums: Tree) -> Tree:
        """Codebooks after a step whose valid vectors gave `sums`."""
        if self.method == "simvq":
            return buffers
        count = self.decay * buffers["count"] + (1 - self.decay) * sums["count"]
        total = self.decay * buffers["total"] + (1 - self.decay) * sums["total"]
        whole = count.sum(-1, keepdims=True)
        smooth = (count + 1e-6) / (whole + self.n_codes * 1e-6) * whole
        book = {
            "embed": total / smooth[..., None],
            "count": count,
            "total": total,
        }
        if self.revival == "random":
            dead = (count < DEAD_BELOW) & (sums["picked"] > 0)
            vector = sums["candidate"]
            new = {
                "embed": vector,
                "count": jnp.full_like(count, DEAD_BELOW),
                "total": DEAD_BELOW * vector,
            }
            book = {
                name: jnp.where(dead if x.ndim == 2 else dead[..., None], new[name], x)
                for name, x in book.items()
            }
        if self.precision == "bfloat16":
            book = jax.tree.map(lambda x: x.astype(jnp.bfloat16).astype(x.dtype), book)
        return book


def dense(params: Tree, x: Float[Array, "N A"]) -> Float[Array, "N E"]:
    """`x W + b` in float32."""
    return jnp.matmul(x, params["kernel"], precision=EXACT) + params["bias"]


def nearest(h: Float[Array, "N P"], codes: Float[Array, "K P"]) -> Int[Array, " N"]:
    """The first of the nearest codes."""
    inner = jnp.matmul(h, codes.T, precision=EXACT)
    return jnp.argmin(jnp.square(codes).sum(-1) - 2 * inner, axis=-1)


def straight_through(
    h: Float[Array, "N P"], code: Float[Array, "N P"]
) -> Float[Array, "N P"]:
    """The code, with the gradient of the vector."""
    return h + jax.lax.stop_gradient(code - h)


def rotated(h: Float[Array, "N P"], code: Float[Array, "N P"]) -> Float[Array, "N P"]:
    """The code as a fixed rotation and scaling of the vector, whose gradient follows.

    (|e| / |h|) (h - 2 (h.w) w + 2 (h.u) v), u and v the directions of h and of the
    code e, w that of u + v; all but the plain h is constant.
    """

    def unit(x):
        norm = jnp.sqrt(jnp.square(x).sum(-1, keepdims=True))
        return x / jnp.maximum(norm, 1e-6), norm

    fixed = jax.lax.stop_gradient(h)
    u, h_norm = unit(fixed)
    v, code_norm = unit(code)
    w, _ = unit(u + v)
    dot = lambda a, b: (a * b).sum(-1, keepdims=True)  # noqa: E731
    turned = h - 2 * dot(h, w) * w + 2 * dot(h, u) * v
    return turned * (code_norm / jnp.maximum(h_norm, 1e-6))


# ---- k-means -------------------------------------------------------------------------


def sample(
    key: jax.Array, h: Float[Array, "N P"], valid: Bool[Array, " N"], n_codes: int
) -> tuple[Float[Array, "M P"], Float[Array, " M"]]:
    """Up to 4096 random valid vectors in random order, and their weights.

    Where there are fewer than `n_codes`, Gaussian noise makes up for them.
    """
    key_order, key_noise = jax.random.split(key)
    n = min(h.shape[0], MOST_SAMPLES)
    lottery = jnp.where(valid, jax.random.uniform(key_order, valid.shape), -1.0)
    ticket, order = jax.lax.top_k(lottery, n)
    vectors = jnp.take(h, order, axis=0)
    real = ticket >= 0
    short = max(0, n_codes - n)
    vectors = jnp.pad(vectors, ((0, short), (0, 0)))
    real = jnp.pad(real, (0, short))
    noise = jax.random.normal(key_noise, vectors.shape)
    made_up = ~real & (jnp.arange(n + short) < n_codes)
    vectors = jnp.where(real[:, None], vectors, noise)
    return vectors, (real | made_up).astype(jnp.float32)


def kmeans(
    samples: Float[Array, "M P"],
    weight: Float[Array, " M"],
    start: Float[Array, "K P"],
    unit: bool = False,
) -> tuple[Float[Array, "K P"], Float[Array, " K"]]:
    """Ten Lloyd steps: centres, and how many samples the last step gave each.

    A centre without samples stays where it is and counts as one. With `unit`, samples
    and centres are of unit length (spherical k-means).
    """

    def step(_, state):
        centers, _ = state
        index = nearest(samples, centers)
        chosen = jax.nn.one_hot(index, len(start), dtype=jnp.float32) * weight[:, None]
        bins = chosen.sum(0)
        means = jnp.matmul(chosen.T, samples, precision=EXACT)
        means = means / jnp.maximum(bins, 1)[:, None]
        means = l2_normalize(means, 1e-12) if unit else means
        return jnp.where(bins[:, None] > 0, means, centers), jnp.maximum(bins, 1)

    return jax.lax.fori_loop(0, LLOYD_STEPS, step, (start, jnp.zeros(len(start))))


def health(sums: Tree) -> dict[str, Array]:
    """Each level's use of its codes, from the sums of many vectors.

    `usage` is the share of codes chosen at all, `perplexity` the number of codes that
    equal use would give the same entropy, `residual` the energy left after the level
    over that of the vectors; each with the level's number, from 1.
    """
    count = sums["count"]
    share = count / jnp.maximum(count.sum(-1, keepdims=True), 1)
    entropy = -(share * jnp.log(jnp.maximum(share, 1e-30))).sum(-1)
    each = {
        "usage": (count > 0).mean(-1),
        "perplexity": jnp.exp(entropy),
        "residual": sums["energy"] / jnp.maximum(sums["energy_in"], 1e-30),
    }
    return {
        f"{k}_{q + 1}": x for k, values in each.items() for q, x in enumerate(values)
    }
