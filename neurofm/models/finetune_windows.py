"""An example of several windows of a model, side by side: read one by one, then joined.

Axes: B items, N windows of one, C channels, U samples of a window, T tokens.
"""

from dataclasses import replace

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from neurofm.contract import BatchSpec
from neurofm.errors import NeuroFMError
from neurofm.task import Batch, Reading, Tree


def widened(spec: BatchSpec, n: int) -> BatchSpec:
    """What a batch of such examples is.

    Raises:
      NeuroFMError: the model does not take sound.
    """
    if n == 1:
        return spec
    if spec.contract.kind != "audio":
        raise NeuroFMError(
            f"task.windows is {n}, but this model takes {spec.contract.kind}: several "
            "windows are read of sound alone"
        )
    chans, samples = spec.fields["audio/wave"].shape
    wave = replace(spec.fields["audio/wave"], shape=(chans, n * samples))
    contract = replace(spec.contract, window_samples=n * samples)
    return BatchSpec(fields={**spec.fields, "audio/wave": wave}, contract=contract)


def folded(batch: Batch, n: int) -> Batch:
    """A row a window, those of an item one after the other.

    One that holds no recording is read as silence; `joined` masks its tokens.
    """
    if n == 1:
        return batch
    wave, span = batch["audio/wave"], batch["audio/span"]
    size = wave.shape[-1] // n
    first, empty = _spans(span, n, size)
    spans = jnp.where(empty[..., None], jnp.array([0, size]), first)
    rows = jnp.arange(n)
    return {
        "audio/wave": _split(wave, n),
        "audio/span": spans.reshape(-1, 2).astype(span.dtype),
        "index": (batch["index"][:, None] * n + rows).reshape(-1),
        "valid": jnp.repeat(batch["valid"], n),
    }


def joined(reading: Reading, batch: Batch, n: int, sfreq: float) -> Reading:
    """What was read of `folded(batch, n)`, all tokens of an item in one row."""
    if n == 1:
        return reading
    size = batch["audio/wave"].shape[-1] // n
    _, empty = _spans(batch["audio/span"], n, size)
    b = len(empty)

    def row(x: Array) -> Array:
        return x.reshape(b, -1, *x.shape[2:])

    starts = jnp.arange(n) * (size / sfreq)
    times = reading.times_s.reshape(b, n, -1) + starts[:, None]
    mask = reading.mask.reshape(b, n, -1) & ~empty[..., None]
    values = {name: row(x) for name, x in reading.values.items()}
    return Reading(values, times.reshape(b, -1), mask.reshape(b, -1))


def by_item(draws: Tree, n: int) -> Tree:
    """Draws of windows as leaves of items, [B, N, ...]."""
    if n == 1:
        return draws
    return jax.tree.map(lambda x: x.reshape(-1, n, *x.shape[1:]), draws)


def by_window(draws: Tree, n: int) -> Tree:
    """The same the other way."""
    if n == 1:
        return draws
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), draws)


def _split(wave: Float[Array, "B C NU"], n: int) -> Float[Array, "BN C U"]:
    b, chans, _ = wave.shape
    parts = wave.reshape(b, chans, n, -1).swapaxes(1, 2)
    return parts.reshape(b * n, chans, -1)


def _spans(span: Array, n: int, size: int) -> tuple[Array, Array]:
    """Recording in each window [B, N, 2], and whether there is none [B, N]."""
    starts = jnp.arange(n)[:, None] * size
    inside = jnp.clip(span[:, None] - starts, 0, size)
    return inside, inside[..., 1] <= inside[..., 0]
