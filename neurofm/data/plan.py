"""What row i of a run is: planned from the manifest before a byte is read.

Everything is a pure function of (dataset hash, seed, i), found in O(log clips), so a
run goes on anywhere and any process can ask for any row.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Int, UInt64

from neurofm.contract import InputContract
from neurofm.data.crops import MAX_DRAWS, Clips, Crop
from neurofm.data.draws import draws, draws_of_rows, permutation, stream_key
from neurofm.data.records import Dataset
from neurofm.data.scenes import WORDS, Scenery
from neurofm.data.select import select
from neurofm.errors import NeuroFMError

if TYPE_CHECKING:
    from neurofm.config import Data


@dataclass(frozen=True, eq=False)
class Plan:
    """The rows of a run.

    Attributes:
      datasets: what they are read from.
      items: for each dataset, the rows of its `items` that can appear, ascending.
      counts: for each dataset, clips used and left out, by reason.
      n_crops: how many rows there are; None for training, which never ends.
      crop: row number -> Crop. With `n_crops`, rows from there on are fillers.
      scenery: noises and rooms, where scenes are simulated.
    """

    datasets: tuple[Dataset, ...]
    items: tuple[Int[np.ndarray, " _"], ...]
    counts: tuple[dict[str, int], ...]
    n_crops: int | None
    crop: Callable[[int], Crop]
    scenery: Scenery | None = None

    @property
    def stores(self) -> list[tuple[Dataset, Int[np.ndarray, " _"], dict[str, int]]]:
        """All record stores, noises and rooms too: items training shows, counts."""
        stores = [*zip(self.datasets, self.items, self.counts, strict=True)]
        if self.scenery:
            items, counts = self.scenery.items["train"], self.scenery.counts
            stores += zip(self.scenery.datasets, items, counts, strict=True)
        return stores


def training(
    datasets: Sequence[Dataset],
    contract: InputContract,
    data: Data,
    seed: int,
    scenery: Scenery | None = None,
) -> Plan:
    """The endless plan of a training run.

    Each dataset goes through its clips in a new order every epoch, each clip giving
    `data.crops_per_clip` rows in sequence (8 in WavJEPA's released recipe). A clip
    shorter than the window is one padded row an epoch. Silent crops are drawn again, up
    to 8 draws in all. With `data.short="released"` every clip is padded or cut to 10 s
    first and silence counts as signal: the released rule, given `data.min_active=0`.
    With `scenery` every clip has one scene an epoch, which all of its rows share; of a
    recording longer than a scene it takes any stretch.

    Args:
      datasets: record stores, mixed in exact proportion to `data.weights`, equally
        where it is empty.
      contract: `window_samples`, `hop_samples`, `receptive_samples` and the rest.
      data: the data part of the config.
      seed: the run's seed.
      scenery: noises and rooms, to simulate scenes.

    Raises:
      NeuroFMError: datasets the model cannot take, bad weights or hold-out rules, or
        no clip left to train on.
    """
    clips = _clips(datasets, contract, data, "train", scenery)
    for each in clips:
        if not len(each.selection.items):
            why = ", ".join(f"{k} {n}" for k, n in each.selection.counts.items() if n)
            raise NeuroFMError(
                f"no clip of {each.dataset.path} is left to train on ({why}): check "
                "its splits, data.hold_out and the lengths of its clips"
            )
    window = contract.window_samples
    rows = [
        np.where(each.selection.lengths < window, 1, data.crops_per_clip)
        for each in clips
    ]
    totals = [int(r.sum()) for r in rows]
    mixture = _mixture(_shares(data.weights, len(clips)))
    order_keys = [stream_key(each.dataset.hash, seed, "order") for each in clips]
    random = [
        draws_of_rows(stream_key(each.dataset.hash, seed, "crop"), MAX_DRAWS)
        for each in clips
    ]
    scene_random = [
        draws_of_rows(_scene_key(scenery, each.dataset.hash, seed), WORDS)
        for each in clips
    ]

    # Two epochs of each, as reader threads run ahead over an epoch's end.
    @functools.lru_cache(maxsize=2 * len(clips))
    def epoch_order(number: int, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        order = permutation(order_keys[number], epoch, len(rows[number]))
        return order, np.cumsum(rows[number][order])

    def crop(row: int) -> Crop:
        number, nth = mixture(row)
        epoch, within = divmod(nth, totals[number])
        order, ends = epoch_order(number, epoch)
        place = int(np.searchsorted(ends, within, side="right"))
        clip = int(order[place])
        scene = None
        if scenery:
            occurrence = epoch * len(order) + place
            scene = clips[number].scene(clip, scene_random[number](occurrence))
        return clips[number].draw(clip, random[number](nth), scene)

    return _plan(clips, None, crop, scenery)


def held_out(
    datasets: Sequence[Dataset],
    contract: InputContract,
    data: Data,
    limit: int,
    scenery: Scenery | None = None,
) -> Plan:
    """At most `limit` fixed crops of the `valid` split, the same whatever the seed.

    Clips are tiled side by side and silent tiles left out (`counts["silent_tiles"]`:
    those met); the crops are an even random choice of the rest. Without a `valid` split
    `n_crops` is 0. Arguments and errors are those of `training`.
    """
    clips = _clips(datasets, contract, data, "valid", scenery)
    tiles = [
        (each, clip, tile)
        for each in clips
        for clip, length in enumerate(each.selection.lengths)
        for tile in range(max(1, length // contract.window_samples))
    ]
    key = stream_key(*(each.dataset.hash for each in clips), "held out")
    crops: list[Crop] = []
    silent = [0] * len(clips)
    for number in permutation(key, 0, len(tiles)):
        if len(crops) == limit:
            break
        each, clip, tile = tiles[number]
        scene = None
        if scenery:
            scene_key = _scene_key(scenery, each.dataset.hash, "held out")
            scene = each.scene(clip, draws(scene_key, clip, WORDS))
        if each.is_silent(clip, tile, scene):
            silent[each.number] += 1
        else:
            random = draws(key, 1 + int(number), 1)
            crops.append(each.tile(clip, tile, random, scene))
    for each, n in zip(clips, silent, strict=True):
        each.selection.counts["silent_tiles"] = n

    def crop(row: int) -> Crop:
        if row < len(crops):
            return crops[row]
        return crops[-1]._replace(valid=False)  # real sound, so its loss stays finite

    return _plan(clips, len(crops), crop, scenery)


def seen_sha256(plan: Plan) -> list[str]:
    """sha256 of the source file of every item that a plan of training can show.

    Sorted; those of noises and rooms are among them.
    """
    return sorted(
        {
            digest
            for dataset, items, _ in plan.stores
            for digest in dataset.items["sha256"].take(items).to_pylist()
        }
    )


def _scene_key(scenery: Scenery | None, *parts: object) -> UInt64[np.ndarray, " two"]:
    hashes = [store.hash for store in scenery.datasets] if scenery else []
    return stream_key(*hashes, *parts, "scene")


def _clips(datasets, contract, data, use, scenery) -> list[Clips]:
    longest = scenery.clip_samples if scenery else None
    chosen = select(datasets, contract, data, use, longest)
    return [
        Clips(number, dataset, selection, contract, data.min_active, scenery, use)
        for number, (dataset, selection) in enumerate(
            zip(datasets, chosen, strict=True)
        )
    ]


def _plan(clips: list[Clips], n_crops: int | None, crop, scenery) -> Plan:
    return Plan(
        datasets=tuple(each.dataset for each in clips),
        items=tuple(each.selection.items for each in clips),
        counts=tuple(each.selection.counts for each in clips),
        n_crops=n_crops,
        crop=crop,
        scenery=scenery,
    )


def _shares(weights: Sequence[float], n_datasets: int) -> list[Fraction]:
    if not weights:
        return [Fraction(1)] * n_datasets
    if len(weights) != n_datasets or not all(0 < w < math.inf for w in weights):
        raise NeuroFMError(
            f"data.weights {tuple(weights)} do not fit {n_datasets} dataset(s): give "
            "one positive number for each path in data.path"
        )
    return [Fraction(w).limit_denominator(10**6) for w in weights]


def _mixture(shares: Sequence[Fraction]) -> Callable[[int], tuple[int, int]]:
    """Row number -> (dataset, how many rows that dataset had before it).

    The last dataset against all before it: of the first n rows these have had
    floor(n r), r being their share; among them the rule goes on. Exact, in integers.
    """
    ratios = [
        Fraction(sum(shares[:k])) / sum(shares[: k + 1]) for k in range(len(shares))
    ]

    def choose(row: int) -> tuple[int, int]:
        for number in range(len(ratios) - 1, 0, -1):
            part, whole = ratios[number].as_integer_ratio()
            before = row * part // whole
            if (row + 1) * part // whole == before:
                return number, row - before
            row = before
        return 0, row

    return choose
