"""Whether a prediction beats chance when neighbouring rows are alike.

The prediction's rows are reordered in stretches that keep its autocorrelation, the
responses stay, and the correlation is compared with that of many reorderings.

Axis letters: T rows (time), V targets, N reorderings.
"""

from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from neurofm.encoding.targets import Devices
from neurofm.errors import NeuroFMError

TIE = {8: 1e-12, 4: 1e-6}  # by bytes a number: equal but for rounding is equal


def block_orders(
    n_rows: int, block: int, n: int, seed: int | Sequence[int] = 0
) -> Int[np.ndarray, "N _"]:
    """Random orders of consecutive blocks of rows; a short last block is one too.

    Raises:
      NeuroFMError: fewer than two blocks.
    """
    n_blocks = -(-n_rows // block)
    if n_blocks < 2:
        raise NeuroFMError(
            f"{n_rows} rows are {n_blocks} block of {block} rows; use shorter blocks"
        )
    rng = np.random.default_rng(seed)
    return np.stack([rng.permutation(n_blocks) for _ in range(n)])


def block_rows(
    n_rows: int, block: int, orders: Int[np.ndarray, "N _"]
) -> Int[np.ndarray, "N T"]:
    """Rows as they lie after each order of the blocks."""
    blocks = [
        np.arange(i, min(i + block, n_rows), dtype=np.int32)
        for i in range(0, n_rows, block)
    ]
    return np.stack([np.concatenate([blocks[i] for i in order]) for order in orders])


def random_shifts(
    n_rows: int, block: int, n: int, seed: int = 0
) -> Int[np.ndarray, " N"]:
    """Circular shifts by at least a block either way.

    Raises:
      NeuroFMError: fewer rows than two blocks.
    """
    if n_rows < 2 * block:
        raise NeuroFMError(
            f"{n_rows} rows cannot be shifted by {block} or more either way; use "
            "shorter blocks"
        )
    rng = np.random.default_rng(seed)
    return rng.integers(block, n_rows - block, n, endpoint=True)


def shifted_rows(n_rows: int, shifts: Int[np.ndarray, " N"]) -> Int[np.ndarray, "N T"]:
    """Rows as they lie after each circular shift to later."""
    return ((np.arange(n_rows) - shifts[:, None]) % n_rows).astype(np.int32)


def null_correlations(
    truth: Float[np.ndarray, "T V"],
    guess: Float[np.ndarray, "T V"],
    rows: Int[np.ndarray, "N T"],
    place: Devices | None = None,
) -> Float[np.ndarray, "N V"]:
    """Correlation of responses with each reordered prediction; NaN where constant."""
    place = place or Devices()
    everywhere = jax.device_put(rows, place.everywhere)
    dtype = jax.dtypes.canonicalize_dtype(truth.dtype)
    null = np.empty((len(rows), truth.shape[1]), dtype)
    for part, (y, p) in place.batches(truth, guess):
        got = np.asarray(_null(y, p, everywhere))
        null[:, part] = got[:, : part.stop - part.start]
    return null


@jax.jit
def _null(truth, guess, rows):
    truth, guess = truth - truth.mean(0), guess - guess.mean(0)
    spread = jnp.sqrt((truth**2).sum(0) * (guess**2).sum(0))
    spread = jnp.where(spread > 0, spread, jnp.nan)
    return jax.lax.map(lambda order: (truth * guess[order]).sum(0) / spread, rows)


def p_values(
    observed: Float[np.ndarray, " V"], null: Float[np.ndarray, "N #V"]
) -> Float[np.ndarray, " V"]:
    """One-sided: (1 + how many are at least as high) / (1 + how many); NaN stays.

    Ojala and Garriga, "Permutation tests for studying classifier performance" (2010).
    """
    p = (1 + (null >= observed - TIE[null.itemsize]).sum(0)) / (1 + len(null))
    return np.where(np.isnan(observed), np.nan, p)


def p_values_of_max(
    observed: Float[np.ndarray, " V"], null: Float[np.ndarray, "N V"]
) -> Float[np.ndarray, " V"]:
    """The same against the highest of all targets: controls any false one among them.

    Nichols and Holmes, "Nonparametric permutation tests for functional neuroimaging"
    (2002).
    """
    known = ~np.isnan(observed)
    if not known.any():
        return np.full(observed.shape, np.nan)
    return p_values(observed, null[:, known].max(1, keepdims=True))


def false_discovery_q(
    p: Float[np.ndarray, " V"], method: Literal["bh", "by"] = "bh"
) -> Float[np.ndarray, " V"]:
    """Lowest rate of false discoveries at which each target is one.

    By Benjamini and Hochberg (`bh`, 1995) or, for any dependence between targets,
    Benjamini and Yekutieli (`by`, 2001). NaN is not counted and stays.
    """
    from scipy.stats import false_discovery_control

    q, known = np.full_like(p, np.nan), ~np.isnan(p)
    if known.any():
        q[known] = false_discovery_control(p[known], method=method)
    return q
