"""Which channels of a recording are kept, and where their sensors are."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data_pipelines.meeg import montages
from data_pipelines.meeg.files import Raw, cannot
from data_pipelines.meeg.montages import DEFAULT, RADII_M, Positions, typical_radius
from data_pipelines.meeg.names import is_auxiliary, resolve
from data_pipelines.meeg.settings import CoilTypes, Settings
from neurofm.data.sensors import Sensors
from neurofm.signals.meeg import EEG, GRAD, MAG

_SAME_PLACE_M = 1e-4
_MOST_NAMES = 12  # in a sentence


class Placed(NamedTuple):
    """Channels that are kept: their indices in the file, sensors and references."""

    channels: list[int]
    sensors: Sensors
    references: tuple[str, ...]


class Given(NamedTuple):
    """Positions that come from beside the file, and where from."""

    positions: Positions
    name: str


def given_by(settings: Settings) -> Given | None:
    """The electrodes that settings name; NeuroFMError where there are none."""
    if settings.montage is None:
        return None
    return Given(montages.montage(settings.montage), settings.montage)


def named(names: Sequence[str]) -> str:
    """Names in a sentence; the first dozen of many."""
    more = len(names) - _MOST_NAMES
    return ", ".join(names[:_MOST_NAMES]) + (f" and {more} more" if more > 0 else "")


def choose(raw: Raw, picks: Sequence[str], notes: list[str]) -> list[int]:
    """Indices of channels that record EEG or MEG, as far as they are picked.

    Raises:
      Unreadable: there are none.
    """
    path = filename(raw)
    wanted = set(raw.ch_names)
    if picks:
        try:
            wanted = set(raw.copy().pick(list(picks), exclude=()).ch_names)
        except ValueError as error:
            reason = " ".join(str(error).split())[:200]
            raise cannot(path, f"--picks {','.join(picks)}: {reason}") from error
    types = raw.get_channel_types()
    kept, left = [], []
    for index, (name, kind) in enumerate(zip(raw.ch_names, types, strict=True)):
        if name not in wanted:
            continue
        if kind in ("mag", "grad") or (kind == "eeg" and not is_auxiliary(name)):
            kept.append(index)
        else:
            left.append(name if kind == "eeg" else f"{name} ({kind})")
    if left:
        notes.append(f"left out, as they are neither EEG nor MEG: {named(left)}")
    if not kept:
        raise cannot(path, "it has no channel of EEG or MEG")
    return kept


def place(
    raw: Raw,
    channels: Sequence[int],
    given: Given | None,
    settings: Settings,
    notes: list[str],
) -> Placed:
    """The sensors of channels; those whose place is not known are left out and told.

    Args:
      raw: the recording.
      channels: indices of EEG and MEG channels.
      given: electrodes that go before those in the file.
      settings: frame and coil types.
      notes: what is to be told is appended.

    Raises:
      Unreadable: no place is known, or MEG cannot be brought into the head frame.
    """
    types = raw.get_channel_types()
    eeg = [i for i in channels if types[i] == "eeg"]
    places, names, references = _electrodes(raw, eeg, given, notes)
    coils: dict[int, str] = {}
    for index in channels:
        if types[index] != "eeg":
            coils[index] = coil_name(int(raw.info["chs"][index]["coil_type"]))
            places[index] = _coil(raw, index, coils[index], settings)
    kept = [i for i in channels if i in places]
    if not kept:
        raise cannot(
            filename(raw),
            f"the position of none of its {len(channels)} sensors is known "
            f"({named([raw.ch_names[i] for i in channels])}): give --montage NAME or "
            "FILE, or --electrodes FILE.tsv",
        )
    sensors = Sensors(
        names=tuple(names[i] if i in names else raw.ch_names[i] for i in kept),
        kind=np.array(
            [kind_of(coils.get(i, ""), settings.coil_types) for i in kept], np.int32
        ),
        pos=np.array([places[i] for i in kept], np.float32),
        coil=tuple(coils.get(i, "") for i in kept),
        frame=settings.frame,
    )
    _tell_doubles(sensors, notes)
    return Placed(kept, sensors, references)


def filename(raw: Raw) -> Path:
    """What a recording is to be called in errors."""
    names = [name for name in raw.filenames if name is not None]
    return Path(names[0]) if names else Path("this recording")


def coil_name(code: int) -> str:
    """MNE's name of a coil type, such as `VV_PLANAR_T1`.

    The grade of a compensation by reference channels, in the upper half, is left out.
    """
    from mne.io.constants import FIFF

    prefix, code = "FIFFV_COIL_", code & 0xFFFF
    for name, value in FIFF.items():
        if name.startswith(prefix) and int(value) == code:
            return name.removeprefix(prefix)
    return f"coil {code}"


def kind_of(coil: str, coil_types: CoilTypes) -> int:
    """EEG (no coil), MAG or GRAD.

    The released code goes by "MAG" in the name, and so takes gradiometers of Magnes
    systems for magnetometers and points for gradiometers.
    """
    if not coil:
        return EEG
    if coil_types == "released":
        return MAG if "MAG" in coil.upper() else GRAD
    return GRAD if is_planar(coil) or "GRAD" in coil or "AXIAL" in coil else MAG


def is_planar(coil: str) -> bool:
    """Whether a coil measures a gradient along its own plane."""
    return "PLANAR" in coil or coil == "NM_122"


def _coil(raw: Raw, index: int, coil: str, settings: Settings) -> np.ndarray:
    """Position and orientation of a MEG channel in the frame of the settings."""
    from mne.io.constants import FIFF
    from mne.transforms import apply_trans

    loc = np.asarray(raw.info["chs"][index]["loc"], float)
    first = 3 if is_planar(coil) else 9
    xyz, axis = loc[:3], loc[first : first + 3]
    frame = int(raw.info["chs"][index]["coord_frame"])
    if settings.frame == "head" and frame != FIFF.FIFFV_COORD_HEAD:
        to_head = raw.info["dev_head_t"]
        if to_head is None:
            raise cannot(
                filename(raw),
                "where the head was in its MEG helmet is not in the file (dev_head_t): "
                "give --frame released to keep MEG in the coordinates of the device",
            )
        xyz, axis = apply_trans(to_head, xyz), to_head["trans"][:3, :3] @ axis
    return np.concatenate([xyz, axis])


def _electrodes(
    raw: Raw, eeg: Sequence[int], given: Given | None, notes: list[str]
) -> tuple[dict[int, np.ndarray], dict[int, str], tuple[str, ...]]:
    """Places and names of EEG channels, and the references in their names."""
    places: dict[int, np.ndarray] = {}
    if given is None:
        places = _in_file(raw, eeg, notes)
    missing = [i for i in eeg if i not in places]
    written = [raw.ch_names[i] for i in missing]
    table = given or Given(montages.montage(DEFAULT) if missing else {}, DEFAULT)
    found, references = resolve(written, table.positions)
    # A few names of a montage among many of another system are a coincidence: A1 and
    # A2 are ears in one and the vertex in the other.
    if given is None and 2 * len(found) < len(missing):
        found = {}
    names: dict[int, str] = {}
    taken = {raw.ch_names[i] for i in places}
    mapping = []
    for index, name in zip(missing, written, strict=True):
        if name not in found:
            continue
        electrode = found[name]
        places[index] = np.append(table.positions[electrode], np.zeros(3))
        names[index] = electrode if electrode not in taken else name
        taken.add(names[index])
        mapping.append(name if name == electrode else f"{name} is {electrode}")
    if mapping:
        notes.append(f"positions from {table.name}: {', '.join(mapping)}")
    if lost := [raw.ch_names[i] for i in missing if i not in places]:
        notes.append(
            f"left out, as {'its' if len(lost) == 1 else 'their'} position is not "
            f"known: {named(lost)}; give --montage or --electrodes with it"
        )
    return places, names, references


def _in_file(raw: Raw, eeg: Sequence[int], notes: list[str]) -> dict[int, np.ndarray]:
    """Places of EEG channels that the file itself gives in the head frame."""
    from mne.io.constants import FIFF

    places = {}
    for index in eeg:
        channel = raw.info["chs"][index]
        xyz = np.asarray(channel["loc"][:3], float)
        in_head = int(channel["coord_frame"]) == FIFF.FIFFV_COORD_HEAD
        if in_head and np.isfinite(xyz).all() and xyz.any():
            places[index] = np.append(xyz, np.zeros(3))
    if len(places) >= 3:
        radius = typical_radius(np.array(list(places.values()))[:, :3])
        if not RADII_M[0] < radius < RADII_M[1]:
            notes.append(
                f"its electrodes lie {radius:.3g} m from their middle, which is no "
                "head: their positions in the file are not used"
            )
            return {}
    return places


def _tell_doubles(sensors: Sensors, notes: list[str]) -> None:
    """Name sensors of one kind that lie at one place and point one way."""
    gap = np.abs(sensors.pos[:, None] - sensors.pos[None]).max(-1)
    same = (gap < _SAME_PLACE_M) & (sensors.kind[:, None] == sensors.kind[None])
    pairs = np.argwhere(np.triu(same, 1))
    if len(pairs):
        told = [f"{sensors.names[a]} and {sensors.names[b]}" for a, b in pairs]
        notes.append(f"two sensors at one place, both kept: {named(told)}")
