"""Small systems on EEG and MEG, and batches for them made by hand."""

from dataclasses import replace

import numpy as np

from neurofm.models.brainomni import BrainOmni
from neurofm.models.braintokenizer import BrainTokenizer

TOKENIZER = BrainTokenizer(
    sfreq=40.0,
    segment_samples=42,
    n_sensors=7,
    window_samples=16,
    n_filters=4,
    ratios=(8,),
    width=8,
    n_sources=3,
    heads=2,
    n_quantizers=2,
    n_codes=6,
    code_width=8,
)
OMNI = BrainOmni(
    tokenizer=TOKENIZER,
    segment_samples=42,
    n_sensors=7,
    width=12,
    depth=2,
    heads=2,
    n_quantizers_used=2,
)


def meeg_batch(task, rows=8, seed=7):
    """Recordings of 4 to 7 sensors of all types and 17 to 42 samples, and a filler."""
    rng = np.random.default_rng(seed)
    c, t = task.n_sensors, task.segment_samples
    kinds = rng.integers(0, 3, (rows, c)).astype(np.int32)
    unit = np.array([3e-5, 2e-12, 1e-11])[kinds]
    there = np.arange(c) < np.resize([c, c - 1, c, c - 3], rows)[:, None]
    length = np.resize([t, t, 17, 30, 33], rows).astype(np.int32)
    common = rng.normal(0, 1, (rows, 1, t)).cumsum(-1)
    signal = (rng.normal(0, 1, (rows, c, t)).cumsum(-1) + common) * unit[..., None]
    signal *= there[..., None] & (np.arange(t) < length[:, None])[:, None]
    pos = rng.normal(0, 0.1, (rows, c, 6)).astype(np.float32)
    pos[..., 3:] *= kinds[..., None] > 0
    return {
        "meeg/signal": signal.astype(np.float32),
        "meeg/pos": pos,
        "meeg/sensor_type": kinds,
        "meeg/sensor_mask": there,
        "meeg/length": length,
        "index": np.arange(rows, dtype=np.int32),
        "valid": np.arange(rows) % 5 != 3,
    }


def wider(batch, sensors, samples, seed=1):
    """The same batch with more places for sensors and samples, filled with noise."""
    rng = np.random.default_rng(seed)
    b, c, t = batch["meeg/signal"].shape
    out = dict(batch)
    signal = rng.normal(0, 1, (b, c + sensors, t + samples)).astype(np.float32)
    signal[:, :c, :t] = batch["meeg/signal"]
    more = {
        "meeg/pos": rng.normal(0, 5, (b, sensors, 6)).astype(np.float32),
        "meeg/sensor_type": rng.integers(0, 3, (b, sensors)).astype(np.int32),
        "meeg/sensor_mask": np.zeros((b, sensors), bool),
    }
    out |= {k: np.concatenate([batch[k], x], axis=1) for k, x in more.items()}
    return {**out, "meeg/signal": signal}


def loud_outside(batch, seed=2):
    """The same batch with noise and NaN where nothing is recorded."""
    rng = np.random.default_rng(seed)
    there = batch["meeg/sensor_mask"]
    at = np.arange(batch["meeg/signal"].shape[-1])
    inside = there[..., None] & (at < batch["meeg/length"][:, None])[:, None]
    noise = rng.normal(0, 1, inside.shape).astype(np.float32)
    signal = np.where(inside, batch["meeg/signal"], noise)
    pos = np.where(there[..., None], batch["meeg/pos"], np.float32(np.nan))
    return {**batch, "meeg/signal": signal, "meeg/pos": pos}


def sized(task, batch):
    """The task with places for this batch's sensors and samples."""
    c, t = batch["meeg/signal"].shape[1:]
    return replace(task, n_sensors=c, segment_samples=t)
