"""Features of frames by an image or video model of Hugging Face, a clip a step.

The rule of TRIBE's released code (arXiv 2507.22229): at the right edge t of each step a
clip of the 4 s before it, its n frames at t - 4 k / n, the first frame where that is
before the start; hidden states are averaged over all places and times of the clip. An
image model reads the frame at t.

Axes: B clips, F frames of a clip, H, W pixels, L layer groups, D width, T steps.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int, UInt8

from data_pipelines.features.events import Stretch
from data_pipelines.features.extractors import About, file_of, frames_of, n_steps
from data_pipelines.features.hf import pixels
from data_pipelines.features.hf.opened import Opened, opened
from data_pipelines.unreadable import Unreadable
from neurofm.signals import layers

CLIP_S = 4.0
_INPUTS = ("pixel_values", "pixel_values_videos")


@dataclass(frozen=True)
class Video:
    """Hidden states of the clip before each step; see the module.

    Attributes:
      path: folder of the model, and of how it takes pixels.
      fractions, aggregation: see `layers.of_states`.
      batch_size: clips read at once.
    """

    path: str
    fractions: tuple[float, ...]
    aggregation: layers.Aggregation
    batch_size: int
    takes: str = "video"
    one_process: bool = True

    def about(self) -> About:
        model = opened(self.path, _INPUTS)
        sizes = vars(model.network.config)  # a number, or height and width
        edge = int(np.max(sizes.get("image_size") or sizes.get("crop_size") or 64))
        black = np.zeros((clip_frames(model) or 1, edge, edge, 3), np.uint8)
        (n_layers, _, width) = self._layers(model, black[None]).shape
        told = {"fractions": list(self.fractions), "aggregation": self.aggregation}
        return About("video", model.id, n_layers, width, {**told, "clip_s": CLIP_S})

    def __call__(self, stretch: Stretch, root: Path, sfreq: float, notes: list[str]):
        (event,) = stretch.events
        path = file_of(event, root)
        frames, rate = frames_of(path)
        if frames.dtype != np.uint8:
            raise Unreadable(path, "its frames must be whole numbers, uint8", "a video")
        n, length = n_steps(event, len(frames) / rate, sfreq, notes)
        frames = frames[: max(1, round(length * rate))]
        if frames.ndim == 3:
            frames = np.repeat(frames[..., None], 3, -1)
        if frames.shape[-1] not in (3, 4):
            raise Unreadable(path, f"pixels of {frames.shape[-1]} values", "a video")
        model = opened(self.path, _INPUTS)
        at = frame_numbers(n, sfreq, rate, clip_frames(model) or 1, len(frames))
        out = [
            self._layers(model, frames[at[i : i + self.batch_size]][..., :3])
            for i in range(0, n, self.batch_size)
        ]
        return np.concatenate(out, 1).swapaxes(1, 2).reshape(-1, n)

    def _layers(
        self, model: Opened, clips: UInt8[np.ndarray, "B F H W 3"]
    ) -> Float[np.ndarray, "L B D"]:
        settings = pixels.read(model.path)
        x = np.stack([pixels.prepared(clip, settings) for clip in clips])
        name, more = model.network.main_input_name, {}
        if clip_frames(model) is None:
            x = x[:, 0]
        if name == "pixel_values_videos":
            more["skip_predictor"] = True  # hidden states are the encoder's

        def pool(state: Any) -> Any:
            return state.flatten(1, -2).mean(1)

        states = model.states({name: x}, pool, **more)
        return layers.of_states(states, self.fractions, self.aggregation)


def clip_frames(model: Opened) -> int | None:
    """Frames of a clip; None for a model of images."""
    for name in ("frames_per_clip", "num_frames"):
        if (n := getattr(model.config, name, None)) is not None:
            return int(n)
    return None


def frame_numbers(
    n: int, sfreq: float, rate: float, clip: int, n_frames: int
) -> Int[np.ndarray, "n clip"]:
    """Which frames the clip of each step is made of, in order."""
    ends = (np.arange(n) + 1) / sfreq
    times = ends[:, None] - CLIP_S * np.arange(clip - 1, -1, -1) / clip
    at = np.floor(np.maximum(times, 0) * rate + 1e-6).astype(int)
    return np.minimum(at, n_frames - 1)
