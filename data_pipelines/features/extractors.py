"""What makes features of events: the interface, and those of sound and frames.

Axes: L layer groups, D feature width, T steps of the grid.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from jaxtyping import Float

from data_pipelines import soundfiles
from data_pipelines.features.events import Event, Stretch
from data_pipelines.unreadable import Unreadable
from neurofm.signals import classic


class About(NamedTuple):
    """What an extractor makes.

    Attributes:
      modality: the name that a model knows it by.
      model: id of what made them; features of one modality must share it.
      layers: layer groups, L.
      width: of each, D.
      settings: other things that the numbers depend on.
    """

    modality: str
    model: str
    layers: int
    width: int
    settings: dict[str, Any] = {}  # noqa: RUF012


class Extractor(Protocol):
    """Makes the features of a stretch; it is sent to workers by pickle.

    Attributes:
      takes: the type of event.
      one_process: it is too large to be held by several workers.
    """

    @property
    def takes(self) -> str: ...

    @property
    def one_process(self) -> bool: ...

    def about(self) -> About: ...

    def __call__(
        self, stretch: Stretch, root: Path, sfreq: float, notes: list[str]
    ) -> Float[np.ndarray, "C T"]:
        """Features, L D channels layer after layer, from the stretch's onset on.

        Raises:
          Unreadable: nothing can be made of it.
        """
        ...


def file_of(event: Event, root: Path) -> Path:
    """The file of an event, which must be there."""
    if not event.file:
        raise Unreadable(root, f"line {event.line} names no file", "a stimulus")
    path = root / event.file
    if not path.is_file():
        raise Unreadable(path, "there is no such file", "a stimulus")
    return path


def n_steps(
    event: Event, seconds: float, sfreq: float, notes: list[str]
) -> tuple[int, float]:
    """Steps of an event with a file of that length, and the seconds they are made of.

    A file is cut to the event's duration; one that ends before it is told.
    """
    length = seconds
    if event.duration is not None:
        if event.duration - seconds > 1 / sfreq:
            notes.append(
                f"{event.file} ends after {seconds:.1f} s, its event (line "
                f"{event.line}) after {event.duration:.1f} s: the rest has no features"
            )
        length = min(seconds, event.duration)
    return max(1, round(length * sfreq)), length


@dataclass(frozen=True)
class OfSound:
    """A classic feature of sound files; the mean of their channels is taken."""

    name: str
    width: int
    make: Callable[..., np.ndarray]
    takes: str = "sound"
    one_process: bool = False

    def about(self) -> About:
        return About("audio", self.name, 1, self.width)

    def __call__(self, stretch, root, sfreq, notes):
        (event,) = stretch.events
        path = file_of(event, root)
        sound = soundfiles.read(path, None, "mean")
        wave = sound.samples[0]
        n, length = n_steps(event, len(wave) / sound.sfreq, sfreq, notes)
        cut = wave[: max(1, round(length * sound.sfreq))]
        return self.make(cut, sound.sfreq, sfreq, n)


@dataclass(frozen=True)
class Motion:
    """Motion energy of frames, given as an array.

    An NPZ with `frames` [F, H, W] or [F, H, W, 3], and `fps`.
    """

    takes: str = "video"
    one_process: bool = False

    def about(self) -> About:
        return About("video", "motion_energy", 1, classic.N_MOTION)

    def __call__(self, stretch, root, sfreq, notes):
        (event,) = stretch.events
        path = file_of(event, root)
        frames, rate = frames_of(path)
        n, length = n_steps(event, len(frames) / rate, sfreq, notes)
        grey = frames[: max(2, round(length * rate))].astype(np.float32)
        if grey.ndim == 4:
            grey = grey[..., :3].mean(-1)
        times = (np.arange(len(grey)) + 0.5) / rate
        return classic.per_step(classic.motion_energy(grey, rate), times, sfreq, n)


def frames_of(path: Path) -> tuple[np.ndarray, float]:
    """Frames [F, H, W] or [F, H, W, 3] of an NPZ, and how many a second."""
    held = arrays_of(path)
    frames, fps = held.get("frames"), held.get("fps")
    if frames is None or fps is None or frames.ndim not in (3, 4) or fps.size != 1:
        reason = "an NPZ with frames [F, H, W] or [F, H, W, 3] and fps is needed"
        raise Unreadable(path, reason, "a video")
    if fps.dtype.kind not in "iuf" or not 0 < (rate := float(fps.ravel()[0])) < np.inf:
        raise Unreadable(path, f"its fps is {fps}", "a video")
    if 0 in frames.shape:
        raise Unreadable(path, "it holds no frame", "a video")
    return frames, rate


def arrays_of(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an NPZ; Unreadable where it is none."""
    try:
        with open(path, "rb") as opened:  # np.load leaves a damaged one open
            held: Any = np.load(opened, allow_pickle=False)
            if isinstance(held, np.ndarray):
                return {}
            return {name: held[name] for name in held.files}
    except Exception as error:  # zip, header and decoder errors of many kinds
        raise Unreadable(path, f"it cannot be read ({error})", "arrays") from error
