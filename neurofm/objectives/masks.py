"""Span masks for latent prediction, drawn on the device inside the step.

Axes: B examples, N target groups, S tokens, Q span masks of a draw, U = S + 1 numbers.

Source: WavJEPA (arXiv 2509.23238), its released samplers: `TimeInverse` for the
AudioSet models, `Speech` for the LibriSpeech ones.
"""

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

N_CANDIDATES = 4  # 2 % of draws miss the 10 % rule: all four miss one in 6 million


class Masks(NamedTuple):
    """What the student sees and what it predicts, one row an example.

    `altered` marks rows for which no candidate met the rules: the first one is used,
    its context cut to the cap from the end.
    """

    context: Bool[Array, "B S"]
    target: Bool[Array, "B N S"]
    altered: Bool[Array, " B"]


def most_spans(share: float, length: int, tokens: int) -> int:
    """The largest number of spans that `span_mask` can draw over `tokens`."""
    return math.floor(share * tokens / length) + 1


def span_mask(
    uniform: Float[Array, " U"], valid: Int[Array, ""], share: float, length: int
) -> Bool[Array, " S"]:
    """Mark `floor(share * valid / length + u)` spans among the first `valid` tokens.

    Starts are distinct and uniform on `{0, ..., valid - length - 1}` (on `{0..n}` where
    that holds no more than the `n` starts wanted), so the last token is never marked;
    spans may overlap and are cut at `valid`.

    Args:
      uniform: numbers in [0, 1): u, then a lottery ticket for every token.
    """
    u, tickets = uniform[0], uniform[1:]
    place = jnp.arange(tickets.shape[0])
    n = jnp.floor(share * valid / length + u).astype(int)
    last = jnp.where(valid - length > n, valid - length - 1, n)
    most = min(most_spans(share, length, place.size), place.size)
    # Sorted and not `top_k`, for which XLA would gather a batch that devices share.
    winners = jnp.argsort(-jnp.where(place <= last, tickets, -1.0))[:most]
    drawn = jnp.arange(most) < n
    distance = place[None, :] - winners[:, None]
    covered = (distance >= 0) & (distance < length) & drawn[:, None]
    return covered.any(0) & (place < valid)


@dataclass(frozen=True, kw_only=True)
class TimeInverse:
    """Context is what no context span hides and no target span takes.

    Attributes:
      n_groups: target groups, drawn independently; they may overlap.
      context_share, context_length: spans that hide tokens from the context.
      target_share, target_length: spans of one target group.
      min_context: smallest share of valid tokens the context may hold.
    """

    kind: Literal["time_inverse"] = "time_inverse"
    n_groups: int = 4
    context_share: float = 0.65
    context_length: int = 10
    target_share: float = 0.25
    target_length: int = 10
    min_context: float = 0.1

    @property
    def n_spans(self) -> int:
        """Span masks that make one draw."""
        return 1 + self.n_groups

    def draw(
        self, uniform: Float[Array, "Q U"], valid: Int[Array, ""]
    ) -> tuple[Bool[Array, " S"], Bool[Array, "N S"]]:
        """One candidate over the first `valid` tokens."""
        hidden = span_mask(uniform[0], valid, self.context_share, self.context_length)
        target = jax.vmap(
            lambda u: span_mask(u, valid, self.target_share, self.target_length)
        )(uniform[1:])
        inside = jnp.arange(hidden.shape[0]) < valid
        return ~hidden & ~target.any(0) & inside, target


@dataclass(frozen=True, kw_only=True)
class Speech:
    """Context is the complement of the targets, without runs that are too short.

    Tokens of dropped runs are neither context nor target.
    """

    kind: Literal["speech"] = "speech"
    n_groups: int = 4
    target_share: float = 0.1
    target_length: int = 10
    min_run: int = 5
    min_context: float = 0.5

    @property
    def n_spans(self) -> int:
        """Span masks that make one draw."""
        return self.n_groups

    def draw(
        self, uniform: Float[Array, "N U"], valid: Int[Array, ""]
    ) -> tuple[Bool[Array, " S"], Bool[Array, "N S"]]:
        """One candidate over the first `valid` tokens."""
        target = jax.vmap(
            lambda u: span_mask(u, valid, self.target_share, self.target_length)
        )(uniform)
        free = ~target.any(0) & (jnp.arange(target.shape[-1]) < valid)
        return without_short_runs(free, self.min_run), target


Masker = TimeInverse | Speech


def target_cap(masker: Masker, tokens: int) -> int:
    """The most targets that one group can hold."""
    whole = masker.target_share * tokens / masker.target_length
    return min(tokens, math.ceil(whole) * masker.target_length)


def without_short_runs(mask: Bool[Array, " S"], min_run: int) -> Bool[Array, " S"]:
    """Clear runs of True shorter than `min_run`."""
    place = jnp.arange(mask.shape[0])
    before = jax.lax.cummax(jnp.where(mask, -1, place))  # last gap at or before
    after = jax.lax.cummin(
        jnp.where(mask, mask.shape[0], place), reverse=True
    )  # first gap at or after
    return mask & (after - before - 1 >= min_run)


def draw_masks(
    masker: Masker,
    keys: jax.Array,
    first: Int[Array, " B"],
    valid: Int[Array, " B"],
    tokens: int,
    context_cap: int,
) -> Masks:
    """Draw one set of masks per example, within the caps of the gathered path.

    The first of `N_CANDIDATES` draws that meets the masker's smallest context and holds
    at most `context_cap` context tokens is taken.

    Args:
      keys: one typed key an example.
      first, valid: valid tokens are `first, ..., first + valid - 1`.
      tokens: S.
      context_cap: most context tokens an example may have.
    """

    def one(key, first, valid):
        shape = (N_CANDIDATES, masker.n_spans, 1 + tokens)
        uniform = jax.random.uniform(key, shape)
        contexts, targets = jax.vmap(lambda u: masker.draw(u, valid))(uniform)
        count = contexts.sum(-1)
        fits = (count >= masker.min_context * valid) & (count <= context_cap)
        pick = jnp.argmax(fits)  # the first that fits, or the first of all
        context, target = contexts[pick], targets[pick]
        context &= jnp.cumsum(context) <= context_cap
        return Masks(
            jnp.roll(context, first), jnp.roll(target, first, axis=-1), ~fits.any()
        )

    return jax.vmap(one)(keys, first, valid)


def over_channels(
    mask: Bool[Array, "... S"], n_chans: int, form: str
) -> Bool[Array, "... CS"]:
    """Expand a mask over time to the channel-major tokens of several channels.

    `shared` hides both channels at the same times. `interleaved_legacy` repeats every
    value in place, as the released binaural recipe does: the first channel sees the
    first half of the mask stretched by two, the second channel the second half.
    """
    if form == "shared":
        return jnp.concatenate([mask] * n_chans, axis=-1)
    return jnp.repeat(mask, n_chans, axis=-1)


def positions(
    mask: Bool[Array, "... S"], cap: int
) -> tuple[Int[Array, "... cap"], Bool[Array, "... cap"]]:
    """Places of the True tokens in order, padded to `cap`, and which are real."""
    order = jnp.argsort(~mask, axis=-1, stable=True)[..., :cap]
    count = mask.sum(-1, keepdims=True)
    return order, jnp.arange(cap) < count


def gather_tokens(
    x: Float[Array, "B S D"], index: Int[Array, "B G"]
) -> Float[Array, "B G D"]:
    """Rows of `x` at `index`, by example (stays local under a batch sharding)."""
    return jnp.take_along_axis(x, index[..., None], axis=1)
