"""Small recordings of EEG and MEG, written with MNE and edfio."""

import mne
import numpy as np

CAP = ("Fp1", "Fp2", "F3", "F4", "C3", "C4", "P3", "P4", "O1")


def noise(n_chans, n_samples, seed=0, scale=1e-5):
    """Noise `[C, N]` with a falling spectrum, partly common to all channels."""
    rng = np.random.default_rng(seed)
    steps = rng.normal(size=(n_chans + 1, n_samples))
    slow = np.zeros_like(steps)
    for i in range(1, n_samples):
        slow[:, i] = 0.95 * slow[:, i - 1] + steps[:, i]
    x = slow[1:] + 0.5 * slow[:1] + 0.5 * rng.normal(size=(n_chans, n_samples))
    return scale * x / x.std()


def eeg(names=CAP, seconds=8.0, sfreq=256.0, seed=0, scale=1e-5, montage=None):
    """A recording of EEG in memory, in volts."""
    info = mne.create_info(list(names), sfreq, "eeg")
    x = noise(len(names), round(seconds * sfreq), seed, scale)
    raw = mne.io.RawArray(x, info, verbose="error")
    if montage is not None:
        raw.set_montage(montage)
    return raw


def write_edf(path, x, names, sfreq=256.0, unit="uV", annotations=()):
    """Write numbers `[C, N]` in `unit` as EDF+; names may repeat."""
    from edfio import Edf, EdfAnnotation, EdfSignal

    path.parent.mkdir(parents=True, exist_ok=True)
    signals = []
    for name, row in zip(names, x, strict=True):
        low, high = float(row.min()), float(row.max())
        if low == high:
            low, high = low - 1, high + 1
        signals.append(
            EdfSignal(
                row,
                sampling_frequency=sfreq,
                label=name,
                physical_dimension=unit,
                physical_range=(low, high),
            )
        )
    marks = [EdfAnnotation(*mark) for mark in annotations]
    Edf(signals, annotations=marks).write(path)
    return path


# Coil codes and units of MNE; each position with a planar pair and a magnetometer.
VV_PLANAR, VV_MAG, CTF_GRAD, MAGNES_GRAD = 3012, 3022, 5001, 4002


def meg(seconds=8.0, sfreq=250.0, n_places=4, with_eeg=False, seed=3):
    """Planar gradiometers and magnetometers on a sphere, head moved in the helmet."""
    from mne.io.constants import FIFF
    from mne.transforms import Transform, rotation, translation

    rng = np.random.default_rng(seed)
    names, kinds = [], []
    for place in range(n_places):
        names += [f"MEG {place}2", f"MEG {place}3", f"MEG {place}1"]
        kinds += ["grad", "grad", "mag"]
    cap = list(CAP[:5]) if with_eeg else []
    info = mne.create_info(names + cap, sfreq, kinds + ["eeg"] * len(cap))
    for place in range(n_places):
        normal = rng.normal(size=3)
        normal /= np.linalg.norm(normal)
        across = np.cross(normal, [0.3, -0.5, 0.8])
        across /= np.linalg.norm(across)
        along = np.cross(normal, across)
        loc = np.concatenate([0.11 * normal, across, along, normal])
        turned = np.concatenate([0.11 * normal, along, -across, normal])
        for offset, (coil, its) in enumerate(
            [(VV_PLANAR, loc), (VV_PLANAR, turned), (VV_MAG, loc)]
        ):
            channel = info["chs"][3 * place + offset]
            channel["coil_type"], channel["loc"] = coil, its
            channel["coord_frame"] = FIFF.FIFFV_COORD_DEVICE
    moved = translation(0.01, -0.02, 0.05) @ rotation(0.1, -0.2, 0.3)
    info["dev_head_t"] = Transform("meg", "head", moved)
    scale = np.array(
        [{"grad": 1e-11, "mag": 1e-12}[k] for k in kinds] + [1e-5] * len(cap)
    )
    x = noise(len(scale), round(seconds * sfreq), seed, 1.0) * scale[:, None]
    raw = mne.io.RawArray(x, info, verbose="error")
    if cap:
        raw.set_montage(standard_1005())
    return raw


def standard_1005():
    """MNE's montage of that name, which newer ones call otherwise."""
    names = mne.channels.get_builtin_montages()
    name = next(n for n in ("colin27_1005", "standard_1005") if n in names)
    return mne.channels.make_standard_montage(name)
