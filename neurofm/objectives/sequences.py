"""Sequences of symbols told by tokens in time: CTC, its plain decoding, edit distance.

Output 0 of a token is the blank, output k + 1 symbol k. Where a sequence ends, symbols
are -1.

Source: Graves et al., "Connectionist temporal classification" (2006), sections 3, 4.1.

Axes: B items, T tokens, S symbols at most, K kinds of symbols, K1 these and the blank.
"""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int

Term = tuple[Float[Array, ""], Float[Array, ""]]
Sums = dict[str, Float[Array, " one"]]


def ctc(
    outputs: Float[Array, "B T K1"],
    mask: Bool[Array, "B T"],
    label: Int[Array, "B S"],
    valid: Bool[Array, " B"],
) -> tuple[Term, Sums]:
    """Negative log likelihood of the sequences, and what adds up to their error rate.

    Items with fewer tokens than their sequence needs weigh nothing in the loss.
    """
    possible = needed(label) <= mask.sum(1)
    there = label >= 0
    # A row without a path has a huge loss, which times 0 is fine, and its gradient too.
    losses = optax.ctc_loss(
        outputs,
        1.0 - mask,
        jnp.where(there, label + 1, 0),
        1.0 - there,
    )
    weights = (possible & valid).astype(jnp.float32)
    edits = distances(outputs.argmax(-1), mask, label) * valid
    n_symbols = (there.sum(1) * valid).sum()
    sums = {
        "edits": edits.sum()[None].astype(jnp.float32),
        "symbols": n_symbols[None].astype(jnp.float32),
        "impossible": (~possible & valid).sum()[None].astype(jnp.float32),
    }
    return (jnp.where(weights > 0, losses, 0).sum(), weights.sum()), sums


def needed(label: Int[Array, "B S"]) -> Int[Array, " B"]:
    """Least tokens for each sequence: one a symbol, a blank between two alike."""
    there = label >= 0
    alike = (label[:, 1:] == label[:, :-1]) & there[:, 1:]
    return there.sum(1) + alike.sum(1)


def emitted(
    best: Int[Array, "B T"], mask: Bool[Array, "B T"]
) -> tuple[Int[Array, "B T"], Bool[Array, "B T"]]:
    """Symbol of every token, and which of them are kept of the plain decoding.

    That is the best output of each token, repeats joined, blanks left out. Tokens
    outside of the mask count as blanks.
    """
    best = jnp.where(mask, best, 0)
    before = jnp.pad(best[:, :-1], ((0, 0), (1, 0)))
    return best - 1, (best > 0) & (best != before)


def distances(
    best: Int[Array, "B T"], mask: Bool[Array, "B T"], label: Int[Array, "B S"]
) -> Int[Array, " B"]:
    """Insertions, deletions and changes from the plain decoding to each sequence."""
    symbols, kept = emitted(best, mask)
    n = label.shape[1]
    at = jnp.arange(n + 1)

    def of_one(symbols, kept, label):
        def with_token(row, token):
            symbol, counts = token
            through = jnp.minimum(row[1:] + 1, row[:-1] + (label != symbol))
            moved = jnp.concatenate([row[:1] + 1, through])
            moved = at + jax.lax.cummin(moved - at)  # symbols of the label left out
            return jnp.where(counts, moved, row), None

        row, _ = jax.lax.scan(with_token, at, (symbols, kept))
        return row[(label >= 0).sum()]

    return jax.vmap(of_one)(symbols, kept, label)


def summary(sums: Sums) -> dict[str, Float[Array, ""]]:
    """1 less the error rate: edits over symbols of the truth. It may be negative."""
    rate = sums["edits"].sum() / jnp.maximum(sums["symbols"].sum(), 1)
    return {"symbol_accuracy": 1 - rate, "impossible": sums["impossible"].sum()}
