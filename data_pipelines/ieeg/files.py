"""Open intracranial recordings: what MNE reads, and two layouts of HDF5.

Files in a folder `ieeg` with names as BIDS has them are read with their sidecars.
Source: the Brain Imaging Data Structure 1.9, iEEG.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py

from data_pipelines.ieeg.hdf5 import of_hdf5
from data_pipelines.ieeg.nwb import is_nwb, of_nwb
from data_pipelines.ieeg.opened import Electrodes, Opened, cannot, electrodes
from data_pipelines.ieeg.settings import Settings
from data_pipelines.meeg import files, sidecars
from data_pipelines.meeg.bids import ENTITIES, is_recording
from data_pipelines.meeg.events import annotations
from data_pipelines.meeg.signal import read_channels
from neurofm.errors import NeuroFMError

HDF5 = (".h5", ".hdf5", ".nwb")
BIDS = ("ieeg",)  # its datatypes here
_COLUMNS = ("subject", "session", "run", "task")
_VOLTAGES = ("eeg", "seeg", "ecog", "dbs")  # types that MNE knows, or takes them for


@contextmanager
def opened(
    root: Path, file: str, settings: Settings, notes: list[str]
) -> Iterator[Opened]:
    """Open a recording, with the electrode table beside it or in the settings.

    The table beside `x.h5` is `x_electrodes.tsv`.

    Raises:
      Unreadable: it cannot be read, or does not tell what must be known.
    """
    path = root / file
    beside = path.with_name(f"{path.name.split('.')[0]}_electrodes.tsv")
    table = Path(settings.electrodes) if settings.electrodes else beside
    try:
        told = electrodes(table) if table.is_file() else None
    except NeuroFMError as error:
        raise cannot(path, str(error)) from error
    if path.suffix.lower() not in HDF5:
        yield _of_mne(root, file, told, notes)
        return
    try:
        held = h5py.File(path)
    except OSError as error:
        raise cannot(path, f"HDF5 cannot open it: {error}") from error
    with held:
        if is_nwb(held):
            yield of_nwb(path, held, told, settings)
        else:
            yield of_hdf5(path, held, told, settings)


def _of_mne(root: Path, file: str, told: Electrodes | None, notes: list[str]) -> Opened:
    raw = files.open_raw(root / file, notes)
    line, events, meta = raw.info["line_freq"], annotations(raw), {}
    if is_recording(file, BIDS):
        line = sidecars.about(root, file).line_freq or line
        sidecars.apply_channels(raw, root, file, notes)
        beside = sidecars.events(root, file, notes)
        events = events if beside is None else beside
        found = sidecars.entities(file)
        meta = {name: found.get(ENTITIES[name], "") for name in _COLUMNS}
    types = raw.get_channel_types()
    channels = [i for i, kind in enumerate(types) if kind in _VOLTAGES]
    return Opened(
        names=[raw.ch_names[i] for i in channels],
        bad=frozenset(raw.info["bads"]) | (told.bad if told else frozenset()),
        others=[n for i, n in enumerate(raw.ch_names) if i not in channels],
        n_samples=raw.n_times,
        sfreq=float(raw.info["sfreq"]),
        line_freq=line,
        read=lambda rows: read_channels(raw, [channels[row] for row in rows]),
        events=events,
        meta=meta,
    )
