"""Noises and rooms of simulated scenes: which ones a clip gets, and reading them.

A room is a recording of impulse responses, two channels (left ear, right ear) a place:
the place of the source first, then those of the noise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from jaxtyping import Float32, Int, UInt64

from neurofm.contract import BatchSpec
from neurofm.data.draws import below
from neurofm.data.records import Dataset, open_dataset
from neurofm.errors import NeuroFMError

if TYPE_CHECKING:
    from neurofm.config import Data
    from neurofm.data.crops import Crop

Use = Literal["train", "valid"]
WORDS = 4  # random numbers that a scene takes
FIELDS = {f"scene/{name}" for name in ("clip", "noise", "noise_samples", "rirs", "key")}


class Scene(NamedTuple):
    """What one scene is made of.

    Attributes:
      start: first sample of its clip in the recording.
      n_samples: samples of the clip, counting the padding of `data.short="released"`.
      noise: row of the noise store's `items`.
      room: row of the room store's `items`.
      key: the two words of the key of its draws.
    """

    start: int
    n_samples: int
    noise: int
    room: int
    key: tuple[int, int]


@dataclass(frozen=True, eq=False)
class Scenery:
    """The noises and rooms of a run.

    Attributes:
      noise: record store of noises, one channel.
      rooms: record store of impulse responses.
      clip_samples: samples that a scene's clip has at most.
      items: use -> rows of either store that it may take, ascending.
      counts: for either store, items used and left out, by reason.
    """

    noise: Dataset
    rooms: Dataset
    clip_samples: int
    items: dict[Use, tuple[Int[np.ndarray, " _"], Int[np.ndarray, " _"]]]
    counts: tuple[dict[str, int], dict[str, int]]

    @property
    def datasets(self) -> tuple[Dataset, Dataset]:
        """Both stores."""
        return self.noise, self.rooms

    def scene(
        self,
        use: Use,
        n_recorded: int,
        n_samples: int,
        random: UInt64[np.ndarray, " words"],
    ) -> Scene:
        """A scene of any stretch of a recording, with any noise in any room.

        Args:
          use: whose noises and rooms are taken.
          n_recorded: samples of the recording.
          n_samples: samples of the clip; where it is longer than the recording, zeros
            follow.
          random: `WORDS` numbers.
        """
        noises, rooms = self.items[use]
        low, high = random[3:4].view("<u4").tolist()
        return Scene(
            start=below(random[0], max(n_recorded - n_samples, 0) + 1),
            n_samples=n_samples,
            noise=int(noises[below(random[1], len(noises))]),
            room=int(rooms[below(random[2], len(rooms))]),
            key=(low, high),
        )

    def read_noise(self, item: int) -> Float32[np.ndarray, " n"]:
        """A noise, or the first `clip_samples` of a longer one."""
        n_samples = int(self.noise.items["n_samples"][item].as_py())
        return self.noise.read(item, 0, min(n_samples, self.clip_samples))[0]

    def read_room(self, item: int, most: int) -> Float32[np.ndarray, "2 2 n"]:
        """Up to `most` samples to each ear: of the source, and of all noise places.

        As convolution is linear, the responses of the noise places are added up.
        """
        n_samples = int(self.rooms.items["n_samples"][item].as_py())
        rirs = self.rooms.read(item, 0, min(n_samples, most))
        places = rirs.reshape(-1, 2, rirs.shape[-1])
        return np.stack([places[0], places[1:].sum(axis=0)])


def open_scenery(spec: BatchSpec, data: Data) -> Scenery | None:
    """The noises and rooms that a task asks for; None where it asks for none.

    Training takes what has the split `train` or none (`test` too if transductive), and
    held-out scenes take the split `valid`, or the same where a store has none. All-zero
    recordings are left out. Nothing else is judged by its level, and nothing rescaled.

    Args:
      spec: of the task's training batch.
      data: the data part of the config.

    Raises:
      NeuroFMError: a store is missing, not asked for, or not what a scene takes.
    """
    paths = {"noise": data.noise, "rooms": data.rooms}
    if "scene/noise" not in spec.fields:
        if given := [f"data.{name}" for name, path in paths.items() if path]:
            raise NeuroFMError(
                f"{given[0]} is given, but this task makes no scenes: set "
                "task.scenes.source=simulated, or leave it out"
            )
        return None
    if missing := [f"data.{name}" for name, path in paths.items() if not path]:
        raise NeuroFMError(
            f"{missing[0]} is empty, but task.scenes.source=simulated makes scenes of "
            "clips, noises and rooms: prepare each with `neurofm prepare audio` and "
            "give them as data.path, data.noise and data.rooms"
        )
    noise, rooms = (open_dataset(path) for path in paths.values())
    for name, store in (("noise", noise), ("rooms", rooms)):
        _check_store(name, store, spec)
    chosen = [_usable(store, data) for store in (noise, rooms)]
    return Scenery(
        noise=noise,
        rooms=rooms,
        clip_samples=spec.fields["audio/wave"].shape[-1],
        items={
            use: (chosen[0][0][use], chosen[1][0][use]) for use in ("train", "valid")
        },
        counts=(chosen[0][1], chosen[1][1]),
    )


def _check_store(name: str, store: Dataset, spec: BatchSpec) -> None:
    info, told = store.info, []
    for what in ("kind", "unit", "sfreq"):
        has, wants = getattr(info, what), getattr(spec.contract, what)
        if has != wants:
            told.append(f"{what} {has} where the model takes {wants}")
    if name == "noise" and info.n_chans != 1:
        told.append(f"{info.n_chans} channels where a noise has one")
    if name == "rooms" and (info.n_chans < 4 or info.n_chans % 2):
        told.append(
            f"{info.n_chans} channel(s) where a room has two (left and right) for the "
            "source and two for each place of noise"
        )
    if told:
        channels = "first" if name == "noise" else "all"
        raise NeuroFMError(
            f"data.{name}={store.path} has {' and '.join(told)}: prepare it again with "
            f"--sfreq {spec.contract.sfreq:g} --channels {channels}"
        )


def _usable(
    store: Dataset, data: Data
) -> tuple[dict[Use, Int[np.ndarray, " _"]], dict[str, int]]:
    """Rows of a store by use, and how many are used and left out."""
    split = np.array(store.items["split"].to_pylist(), object)
    sounds = store.items["rms"].to_numpy() > 0
    wanted = ["", "train", *(["test"] * data.transductive)]
    train = np.flatnonzero(np.isin(split, wanted) & sounds)
    valid = np.flatnonzero((split == "valid") & sounds)
    if not len(train):
        raise NeuroFMError(
            f"{store.path} holds nothing to train on: all of its {len(store)} "
            "recordings are silent or of another split than train"
        )
    left = {word: int((split == word).sum()) for word in sorted({*split} - {*wanted})}
    counts = {"used": len(train), **left, "silent": int((~sounds).sum())}
    return {"train": train, "valid": valid if len(valid) else train}, counts


def batch_rows(
    scenery: Scenery,
    crops: Sequence[Crop],
    read_clip: Callable[[Crop], Float32[np.ndarray, "1 n"]],
    spec: BatchSpec,
) -> dict[str, np.ndarray]:
    """`audio/wave` and the `scene/` fields of a batch, a row a crop.

    What crops of one clip share is read once where they follow each other.

    Args:
      crops: rows of a plan with scenes.
      read_clip: gives the samples of a crop's whole clip, at most N.
      spec: of the training batch; its fields say how large everything is.
    """
    out = {
        name: np.zeros((len(crops), *field.shape), field.dtype)
        for name, field in spec.fields.items()
        if name in FIELDS or name == "audio/wave"
    }
    most = spec.fields["scene/rirs"].shape[-1]
    before = None
    for row, crop in enumerate(crops):
        scene = crop.scene
        assert scene is not None
        if (own := (crop.dataset, crop.item, scene)) == before:
            for values in out.values():
                values[row] = values[row - 1]
        else:
            parts = {
                "audio/wave": read_clip(crop),
                "scene/noise": scenery.read_noise(scene.noise),
                "scene/rirs": scenery.read_room(scene.room, most),
            }
            for name, x in parts.items():
                out[name][row, ..., : x.shape[-1]] = x
            n_noise = scenery.noise.items["n_samples"][scene.noise].as_py()
            out["scene/noise_samples"][row] = n_noise
            out["scene/key"][row] = scene.key
        out["scene/clip"][row] = crop.at, scene.n_samples
        before = own
    return out
