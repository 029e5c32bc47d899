"""`neurofm reconstruct`: a recording as a model rebuilds it, and a map of the error."""

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from neurofm.embedding.rebuild import Rebuilt
from neurofm.errors import NeuroFMError
from neurofm.model import Model
from neurofm.signals.meeg import EEG, KINDS

log = logging.getLogger(__name__)

FIFFV_MEG_CH = 1  # of FIF: the kind of magnetometers and gradiometers

if TYPE_CHECKING:
    from data_pipelines.meeg.settings import Settings


def reconstruct(
    model: Model,
    given: str | os.PathLike,
    out: str | os.PathLike,
    *,
    montage: str | None = None,
    hide: tuple[str, ...] = (),
    settings: "Settings | None" = None,
) -> dict[str, Any]:
    """Rebuild a file of EEG or MEG, write it as FIF or npz and a picture beside it.

    Channels marked bad or with an odd spectrum are not shown to the model, so they come
    out filled in.

    Args:
      out: `.fif` or `.npz`; the picture is `.png` beside it.
      montage: electrodes to rebuild in place of the recording's own, by MNE's name of a
        montage or a file of positions.
      hide: channels that are not shown either, to see how well they are rebuilt.
      settings: how the file is read; default as `neurofm prepare meeg` does, at the
        model's rate.

    Returns:
      out, picture, channels, shown (how many the model saw), r2 (medians over channels
      shown and hidden of each type, where the truth is known), seconds, seconds_lost.

    Raises:
      NeuroFMError: see `rebuild`; a file that cannot be read or written.
    """
    out = Path(out)
    if out.suffix not in (".fif", ".npz"):
        raise NeuroFMError(f"{out} ends in {out.suffix!r}: give a file .fif or .npz")
    result = model.reconstruct(Path(given), at=montage, hide=hide, settings=settings)
    write(result, out, Path(given))
    from neurofm.report.error_map import error_map

    picture = out.with_suffix(".png")
    _whole(picture, lambda draft: error_map(result).savefig(draft, dpi=150))
    return {
        "out": str(out),
        "picture": str(picture),
        "channels": len(result.sensors),
        "shown": result.n_shown,
        "r2": scores(result),
        "seconds": len(result.rebuilt) / result.sfreq,
        "seconds_lost": float((~result.rebuilt).sum() / result.sfreq),
    }


def scores(result: Rebuilt) -> dict[str, dict[str, float]]:
    """Medians of R² over channels with a truth: type -> shown, hidden."""
    out: dict[str, dict[str, float]] = {}
    known = np.isfinite(result.r2)
    for k, name in enumerate(KINDS):
        for word, member in (("shown", result.shown), ("hidden", ~result.shown)):
            mine = known & member & (result.sensors.kind == k)
            if mine.any():
                out.setdefault(name, {})[word] = float(np.median(result.r2[mine]))
    return out


def write(result: Rebuilt, out: Path, given: Path) -> None:
    """As FIF or npz, by the suffix; coils of MEG are told as the `given` file does."""
    own = result.sensors
    if out.suffix == ".npz":
        arrays = {
            "samples": result.samples,
            "truth": result.truth,
            "sfreq": np.array(result.sfreq),
            "names": np.array(own.names),
            "kind": own.kind,
            "pos": own.pos,
            "shown": result.shown,
            "r2": result.r2,
            "gain": result.gain,
            "rebuilt": result.rebuilt,
        }
        _whole(out, lambda draft: np.savez(draft, allow_pickle=False, **arrays))
        return
    import mne

    kinds: Any = [KINDS[k] for k in own.kind]
    info = mne.create_info(list(own.names), result.sfreq, kinds, verbose="error")
    for channel, xyz in zip(info["chs"], own.pos[:, :3], strict=True):
        channel["loc"][:3] = xyz
    if (own.kind != EEG).any():
        _tell_coils(info, given)
    raw = mne.io.RawArray(result.samples.astype(float), info, verbose="error")
    _whole(out, lambda draft: raw.save(draft, verbose="error"))


def _tell_coils(info: Any, given: Path) -> None:
    """Take from a recording where its coils and the head are, in whatever frame."""
    from data_pipelines.meeg.files import open_raw

    recorded = open_raw(given, []).info
    channels = {channel["ch_name"]: channel for channel in recorded["chs"]}
    grades = set()
    for channel in info["chs"]:
        if channel["kind"] == FIFFV_MEG_CH:
            theirs = channels[channel["ch_name"]]
            for name in ("loc", "coord_frame", "unit"):
                channel[name] = theirs[name]
            channel["coil_type"] = theirs["coil_type"] & 0xFFFF
            grades.add(theirs["coil_type"] >> 16)
    info["dev_head_t"] = recorded["dev_head_t"]
    if grades - {0}:
        log.warning(
            "%s is compensated by reference channels (grade %s), which the rebuilt "
            "file has not: it says nothing of it",
            given.name,
            ", ".join(map(str, sorted(grades))),
        )


def _whole(path: Path, write: Any) -> None:
    """Write beside `path`, then rename; the draft has the suffix that writers heed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".draft-{path.name}")
    try:
        write(draft)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
