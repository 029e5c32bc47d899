"""Sound: which crop row i of a run is, and what the crops of a batch hold."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import UInt64

from neurofm.contract import BatchSpec, InputContract
from neurofm.data import scenes
from neurofm.data.crops import MAX_DRAWS, Clips, Crop
from neurofm.data.draws import draws, draws_of_rows, permutation, stream_key
from neurofm.data.records import Dataset
from neurofm.data.rows import Plan, mixture, read_crops, shares
from neurofm.data.scenes import WORDS, Scenery
from neurofm.data.select import select
from neurofm.errors import NeuroFMError
from neurofm.signals.audio import rms_gain

if TYPE_CHECKING:
    from neurofm.config import Data

LEVEL_DBFS = -14.0  # WavJEPA (arXiv 2509.23238), released data preparation
FIELDS = frozenset({"audio/wave", "audio/span"})


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
    choose = mixture(shares(data.weights, len(clips)))
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
        number, nth = choose(row)
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
    datasets = tuple(each.dataset for each in clips)
    return Plan(
        datasets=datasets,
        items=tuple(each.selection.items for each in clips),
        counts=tuple(each.selection.counts for each in clips),
        n_crops=n_crops,
        crop=crop,
        fields=FIELDS | (scenes.FIELDS if scenery else set()),
        fill=filler(datasets, scenery),
        scenery=scenery,
    )


def filler(
    datasets: Sequence[Dataset], scenery: Scenery | None = None
) -> Callable[[Sequence[Crop], BatchSpec], dict[str, np.ndarray]]:
    """What makes the arrays of a batch's rows:

        audio/wave  float32 [b, C, T]  the clip at -14 dBFS by the manifest's rms
        audio/span  int32 [b, 2]       first and past-last sample; zeros lie outside

    To simulate scenes `audio/wave` is the whole clip, [b, 1, N], and the fields
    `scene/...` that the task asks for are made as well.
    """
    gains = [
        rms_gain(d.items["rms"].to_numpy(), LEVEL_DBFS).astype(np.float32)
        for d in datasets
    ]

    def clip(crop: Crop) -> np.ndarray:
        assert crop.scene is not None
        dataset = datasets[crop.dataset]
        end = int(dataset.items["n_samples"][crop.item].as_py())
        stop = min(crop.scene.start + crop.scene.n_samples, end)
        x = dataset.read(crop.item, crop.scene.start, stop)
        return np.multiply(x, gains[crop.dataset][crop.item], out=x)

    def windows(crops: Sequence[Crop], spec: BatchSpec) -> dict[str, np.ndarray]:
        shape = (len(crops), spec.contract.n_chans, spec.contract.window_samples)
        waves = np.zeros(shape, np.float32)
        sounds = read_crops(datasets, crops)
        for wave, crop, x in zip(waves, crops, sounds, strict=True):
            at, n = crop.span[0], crop.stop - crop.start
            gain = gains[crop.dataset][crop.item]
            np.multiply(x, gain, out=wave[:, at : at + n])
        return {"audio/wave": waves}

    def fill(crops: Sequence[Crop], spec: BatchSpec) -> dict[str, np.ndarray]:
        spans = np.array([crop.span for crop in crops], np.int32)
        if scenery:
            made = scenes.batch_rows(scenery, crops, clip, spec)
        else:
            made = windows(crops, spec)
        return {**made, "audio/span": spans}

    return fill
