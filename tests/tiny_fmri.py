"""A small Brain-Semantoks with all of its parts, batches and stores for it."""

import numpy as np

from neurofm.data.records import DatasetInfo, Recording, write_dataset
from neurofm.models.brain_semantoks import BrainSemantoks
from neurofm.models.brain_semantoks_tokenizers import Branch

SEMANTOKS = BrainSemantoks(
    network_names=("front", "middle", "back"),
    network_of=(0, 1, 0, 2, 1, 0, 2),
    window_samples=24,
    patch_samples=8,
    width=12,
    tokenizer=(
        Branch(width=5),
        Branch(width=7, kind="sgconv", kernel=2, decay=(1.5, 2.5)),
    ),
    depth=2,
    heads=2,
    head_hidden=10,
    head_width=6,
    separate_mask_head=True,
    horizon=40,
)


def fmri_batch(task, rows=8, seed=5):
    """Crops of which some lack a region, or all regions of a network, and a filler."""
    rng = np.random.default_rng(seed)
    spec = task.batch_spec()
    regions = np.ones((rows, *spec.fields["fmri/regions"].shape), bool)
    regions[1::4, 1] = False
    regions[2::4, 3] = regions[2::4, 6] = False  # all of a network
    shape = (rows, *spec.fields["fmri/crops"].shape)
    crops = rng.normal(0, 1, shape) * regions[:, None, :, None]
    at = np.arange(rows)
    return {
        "fmri/crops": crops.astype(np.float32),
        "fmri/regions": regions,
        "index": at.astype(np.int32),
        "valid": at % 5 != 3,
    }


NAMES = tuple(
    f"7Networks_LH_{network}_{i + 1}" for network in ("Vis", "Cont") for i in range(3)
)


def wave(n_samples, seed, up=True, names=NAMES):
    """Noise with a wave of 0.08 Hz (TR 2 s) that crosses the regions up or down."""
    rng = np.random.default_rng(seed)
    at, place = np.arange(n_samples), np.arange(len(names))[:, None]
    phase = 2 * np.pi * (0.16 * at + rng.random() - (1 if up else -1) * place / 6)
    return rng.normal(0, 0.7, (len(names), n_samples)) + np.sin(phase)


def store(
    folder, listed, names=NAMES, tr_s=2.0, missing=(), unit="z", timelines=(), **more
):
    """An fMRI store of (subject, volumes, split, direction).

    `missing` regions, as (run's number, place), are NaN; `timelines` name one a run.
    """
    recordings = []
    for i, (subject, n, split, direction) in enumerate(listed):
        x = wave(n, i, direction == "up", names)
        x = (x - x.mean(1, keepdims=True)) / x.std(1, keepdims=True)
        x[[p for run, p in missing if run == i]] = np.nan
        meta = {"subject": subject, "split": split, "direction": direction}
        meta |= {"timeline": timelines[i]} if timelines else {}
        recordings.append(
            Recording(item=f"run-{i}", samples=x.astype(np.float32), meta=meta)
        )
    info = DatasetInfo(
        kind="fmri",
        sfreq=1 / tr_s,
        unit=unit,
        ch_names=tuple(names),
        payload="float32",
        processing={"tr_s": tr_s, "atlas": "part of Schaefer-400", **more},
    )
    write_dataset(folder, info, recordings)
    return folder
