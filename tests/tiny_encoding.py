"""Brains made of delayed features, for the suite `encoding`."""

import numpy as np

from neurofm.data.records import DatasetInfo, Recording, write_dataset

TR, N, DELAY = 1.5, 80, 2  # s, volumes, volumes
FILMS = ("a", "b", "c")


def features(folder, rng, n_features=3, sfreq=2.0, seconds=N * TR):
    """Slow features of three films."""
    n = round(seconds * sfreq)
    recordings = [
        Recording(
            item=film,
            samples=smooth(rng.standard_normal((n_features, n + 20)))[:, :n],
            meta={"timeline": film},
        )
        for film in FILMS
    ]
    told = {"modality": "audio", "model": "m", "layers": 1, "width": n_features}
    names = tuple(f"f{i}" for i in range(n_features))
    info = DatasetInfo(
        kind="features",
        sfreq=sfreq,
        unit="none",
        ch_names=names,
        payload="float32",
        processing=told,
    )
    write_dataset(folder, info, recordings)
    return {r.item: r.samples for r in recordings}


def smooth(x):
    kernel = np.hanning(9)
    return np.array([np.convolve(row, kernel, "same") for row in x], np.float32)


def brain(
    folder,
    shown,
    rng,
    subjects=("01", "02"),
    films=FILMS,
    noise=0.1,
    own=True,
    tr_s=TR,
    **more,
):
    """Regions 0-2 follow the features, 3 noise; 4 never changes and 5 is missing.

    A film that is named again is a repeat of it. `own` weights for every subject, or
    the same for all. `more` of a film: columns of its runs, and `volumes` of the last.
    """
    recordings = []
    weights = rng.standard_normal((3, 3))
    for name in subjects:
        weights = rng.standard_normal((3, 3)) if own else weights
        for i, film in enumerate(films):
            x, told = shown[film], dict(more.get(film, {}))
            n = told.pop("volumes", N) if film not in films[i + 1 :] else N
            at = np.minimum((np.arange(n) + 0.5) * TR * 2, x.shape[1] - 1).astype(int)
            signal = (x[:, at].T @ weights).T
            y = np.zeros((6, n), np.float32)
            y[:3, DELAY:] = signal[:, :-DELAY]
            y[:4] += noise * rng.standard_normal((4, n))
            y[5] = np.nan
            meta = {"subject": name, "timeline": film, **told}
            recordings.append(Recording(item=f"{name}-{i}", samples=y, meta=meta))
    info = DatasetInfo(
        kind="fmri",
        sfreq=1 / TR,
        unit="none",
        ch_names=tuple(f"p{i}" for i in range(6)),
        payload="float32",
        processing={"tr_s": tr_s, "atlas": "six"},
    )
    write_dataset(folder, info, recordings)
