"""Frames as a model takes them, by the settings in its folder.

What processors of transformers do with these settings, by Pillow: resize, cut out the
middle, scale, normalise.

Axes: F frames, H, W pixels.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt8

from neurofm.errors import NeuroFMError

# File, and the part of it where it describes several processors.
_PLACES = (
    ("video_preprocessor_config.json", None),
    ("preprocessor_config.json", None),
    ("processor_config.json", "video_processor"),
    ("processor_config.json", "image_processor"),
)
_BILINEAR = 2  # Pillow's number


def read(folder: Path) -> dict[str, Any]:
    """The settings of a model's folder.

    Raises:
      NeuroFMError: there are none.
    """
    for name, part in _PLACES:
        path = folder / name
        if not path.is_file():
            continue
        try:
            found = json.loads(path.read_text())
            found = found if part is None else found.get(part)
        except (ValueError, AttributeError) as error:
            raise NeuroFMError(
                f"{path} is no JSON of a processor ({error}): copy the folder again"
            ) from error
        if isinstance(found, dict):
            return found
    raise NeuroFMError(
        f"{folder} does not say how its model takes pixels: copy its "
        "preprocessor_config.json too"
    )


def prepared(
    frames: UInt8[np.ndarray, "F H W 3"], settings: dict[str, Any]
) -> Float32[np.ndarray, "F 3 h w"]:
    """Frames resized, cut, scaled and normalised.

    Raises:
      NeuroFMError: the settings do not say how, or frames are too small.
    """
    try:
        return _prepared(frames, settings)
    except NeuroFMError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise NeuroFMError(
            "the settings in preprocessor_config.json do not say how frames are "
            f"resized, cut, scaled and normalised ({error!r}): copy it again"
        ) from error


def _prepared(
    frames: UInt8[np.ndarray, "F H W 3"], settings: dict[str, Any]
) -> Float32[np.ndarray, "F 3 h w"]:
    x = np.stack([_sized(frame, settings) for frame in frames]).astype(np.float32)
    if settings.get("do_rescale", True):
        x = x * np.float32(settings.get("rescale_factor", 1 / 255))
    if settings.get("do_normalize", "image_mean" in settings):
        mean, std = (np.array(settings[f"image_{n}"]) for n in ("mean", "std"))
        x = (x - mean.astype(np.float32)) / std.astype(np.float32)
    return np.ascontiguousarray(x.transpose(0, 3, 1, 2))


def _sized(frame: np.ndarray, settings: dict[str, Any]) -> np.ndarray:
    from PIL import Image

    cut = settings.get("do_center_crop", "crop_size" in settings)
    if settings.get("do_resize", "size" in settings):
        height, width = _size(settings["size"], frame.shape[:2], by_edge=bool(cut))
        how: Any = settings.get("resample", _BILINEAR)
        frame = np.asarray(Image.fromarray(frame).resize((width, height), how))
    if not cut:
        return frame
    height, width = _size(settings["crop_size"], frame.shape[:2], by_edge=False)
    if height > frame.shape[0] or width > frame.shape[1]:
        raise NeuroFMError(
            f"frames of {frame.shape[0]} x {frame.shape[1]} pixels were given, of "
            f"which the model takes the middle {height} x {width}: give larger ones"
        )
    top, left = (frame.shape[0] - height) // 2, (frame.shape[1] - width) // 2
    return frame[top : top + height, left : left + width]


def _size(size: Any, given: tuple[int, ...], by_edge: bool) -> tuple[int, int]:
    """Height and width that a setting means; a number alone is an edge or a square."""
    if isinstance(size, int):
        size = {"shortest_edge": size} if by_edge else {"height": size, "width": size}
    if size.get("height") and size.get("width"):
        return size["height"], size["width"]
    if not (short := size.get("shortest_edge")):
        raise NeuroFMError(
            f"a model takes pixels of the size {size}: expected height and width, or "
            "shortest_edge, in its preprocessor_config.json"
        )
    low, high = sorted(given[:2])
    long = int(short * high / low)
    return (short, long) if given[0] <= given[1] else (long, short)
