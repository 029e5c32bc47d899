"""One vector an example from whatever reads recordings: networks, stored embeddings.

Axis letters: N examples, T tokens, D width, F features, C channels, n samples.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from neurofm.eval.examples import Examples
from neurofm.eval.pieces import Recordings
from neurofm.eval.probe import POOLINGS, pool

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Tokens:
    """What was read of one recording.

    Attributes:
      values: layer -> (T, D).
      times_s: centres of the tokens, in seconds from the start of the recording.
    """

    values: Mapping[str, Float[np.ndarray, "T _"]]
    times_s: Float[np.ndarray, " T"]


# Reads whole recordings, given by row, in any order.
Embed = Callable[[Recordings, Sequence[int]], Iterable[tuple[int, Tokens]]]
Pool = Callable[[Float[np.ndarray, "T D"], Bool[np.ndarray, " T"]], np.ndarray]
Candidates = Mapping[str, Float[np.ndarray, "N _"]]


def sounds(
    dataset: Recordings, rows: Sequence[int]
) -> Iterator[tuple[int, Float[np.ndarray, "C n"]]]:
    """Whole recordings: row, samples."""
    n_samples = dataset.items["n_samples"].to_numpy()
    for row in rows:
        yield row, dataset.read(row, 0, int(n_samples[row]))


def network_pools(layer: str) -> dict[str, Pool]:
    """The candidates of one layer: every pooling of `probe.pool`."""
    return {
        f"{layer}/{how}": lambda values, mask, how=how: pool(values, mask, how)
        for how in POOLINGS
    }


def piece_pools(layer: str) -> dict[str, Pool]:
    """The candidates of a layer over pieces of one length: all tokens too, in order."""
    in_order = {f"{layer}/tokens": lambda values, mask: values[mask].ravel()}
    return {**network_pools(layer), **in_order}


def vectors(
    embed: Embed,
    pools: Callable[[str], Mapping[str, Pool]],
    dataset: Recordings,
    examples: Examples,
) -> Candidates:
    """Read each recording once and pool it over each of its examples.

    An interval is pooled over the tokens whose centre lies in it (the nearest token
    where there is none), and the log of its duration is added to its vector: whoever
    marks an interval gives it away. A recording without tokens counts as one of zeros.

    Args:
      embed: see `Embed`.
      pools: the name of a layer -> candidates made of it.
    """
    at_row: dict[int, list[int]] = {}
    for i, row in enumerate(examples.row.tolist()):
        at_row.setdefault(row, []).append(i)
    order: list[int] = []
    found: dict[str, list[Float[np.ndarray, " F"]]] = {}
    n_empty = 0
    for row, tokens in embed(dataset, sorted(at_row)):
        layers, times = tokens.values, tokens.times_s
        if not len(times):
            n_empty += 1
            times = np.zeros(1)
            layers = {k: np.zeros((1, x.shape[1])) for k, x in layers.items()}
        for i in at_row[row]:
            order.append(i)
            span = None if examples.span is None else examples.span[i]
            inside = _inside(times, span)
            more = [] if span is None else [np.log(span[1] - span[0] + 1e-3)]
            for layer, values in layers.items():
                for name, pooled in pools(layer).items():
                    vector = np.concatenate([pooled(values, inside), more])
                    found.setdefault(name, []).append(vector.astype(np.float32))
    if n_empty:
        _log.warning("%d recordings hold no token and count as zeros", n_empty)
    place = np.argsort(order)
    return {name: np.stack(rows)[place] for name, rows in found.items()}


def _inside(
    times: Float[np.ndarray, " T"], span: Float[np.ndarray, "2"] | None
) -> Bool[np.ndarray, " T"]:
    if span is None:
        return np.ones(len(times), bool)
    inside = (times >= span[0]) & (times < span[1])
    if not inside.any():
        inside[np.abs(times - span.mean()).argmin()] = True
    return inside
