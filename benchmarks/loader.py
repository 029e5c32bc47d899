"""How many crops a second the loader delivers, beside soundfile on the same clips.

    python benchmarks/loader.py [--clips 400] [--batch 64] [--batches 40]

Writes ten-second 16 kHz clips as FLAC and WAV, prepares them and delivers base-size
crops (32,159 samples) through plan, records, grain and the transfer to the device, with
1, 2 and 4 threads; soundfile reads one crop a clip with as many threads. A TPU v5e chip
at a stated 40 % of its 197 bfloat16 TFLOP/s would take as many crops a second as
`consumed_per_chip` says, by the analytic FLOPs of WavJEPA base. Prints one JSON object.
"""

import argparse
import json
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import numpy as np
import soundfile

from data_pipelines.audio import prepare
from neurofm import config
from neurofm.data import audio, loader
from neurofm.data.records import open_dataset
from neurofm.parallel import distributed, mesh, sharding

V5E_FLOPS, MFU = 197e12, 0.4


def write_clips(folder: Path, n: int) -> None:
    rng = np.random.default_rng(0)
    for kind in ("flac", "wav"):
        (folder / kind).mkdir()
    for i in range(n):
        noise = np.cumsum(rng.standard_normal(160_000)) * 1e-3
        clip = np.tanh(noise - noise.mean()).astype(np.float32) * 0.5
        for kind in ("flac", "wav"):
            soundfile.write(folder / kind / f"{i:05d}.{kind}", clip, 16_000)


def delivered(dataset, batch_size: int, n_batches: int, workers: int) -> float:
    exp = config.load("wavjepa/base")
    spec = exp.task.batch_spec("train")
    devices = mesh.make(exp.mesh)
    by_row = sharding.batch_sharding(devices)
    rows = distributed.rows_of_this_process(by_row, batch_size)
    planned = audio.training([dataset], spec.contract, exp.data, 0)
    local = loader.batches(planned, spec, batch_size, rows, 0, workers)
    stream = loader.device_batches(local, by_row, batch_size, rows)
    jax.block_until_ready(next(stream).batch)
    start = time.perf_counter()
    for _ in range(n_batches):
        jax.block_until_ready(next(stream).batch)
    return batch_size * n_batches / (time.perf_counter() - start)


def read_directly(folder: Path, n: int, workers: int) -> float:
    files = sorted(folder.iterdir())
    starts = np.random.default_rng(0).integers(0, 160_000 - 32_159, n)

    def crop(i: int) -> np.ndarray:
        with soundfile.SoundFile(files[i % len(files)]) as file:
            file.seek(int(starts[i]))
            return file.read(32_159, dtype="float32")

    with ThreadPoolExecutor(workers) as pool:
        start = time.perf_counter()
        for _ in pool.map(crop, range(n)):
            pass
        return n / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--clips", type=int, default=400)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--batches", type=int, default=40)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_clips(folder, given.clips)
        prepare(folder / "wav", folder / "records", workers=1)
        dataset = open_dataset(folder / "records")
        n = given.batch * given.batches
        rates = {
            workers: {
                "loader": delivered(dataset, given.batch, given.batches, workers),
                "soundfile_wav": read_directly(folder / "wav", n, workers),
                "soundfile_flac": read_directly(folder / "flac", n, workers),
            }
            for workers in (1, 2, 4)
        }
    task = config.load("wavjepa/base").task
    consumed = V5E_FLOPS * MFU / (task.flops(512) / 512)
    row = {
        "crops_per_s": {
            workers: {name: round(rate) for name, rate in found.items()}
            for workers, found in rates.items()
        },
        "consumed_per_chip": round(consumed),
    }
    print(json.dumps(row))


if __name__ == "__main__":
    main()
