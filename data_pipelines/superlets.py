"""Superlets of intracranial recordings, made once: `neurofm prepare superlets`.

Every electrode of every window that a run could be shown becomes an item, whatever its
split, so that no step of training computes any (`task.spectrogram=superlets`).
"""

import math
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from data_pipelines import remade
from data_pipelines.pool import n_cores, run_in_processes
from data_pipelines.shards import Progress, refuse_other
from data_pipelines.summary import Summary, summarise
from neurofm.contract import InputContract
from neurofm.data import ieeg, meeg, superlets, writer
from neurofm.data.crops import Crop
from neurofm.data.records import Dataset, Recording, open_dataset
from neurofm.embedding.electrodes import names_of
from neurofm.errors import NeuroFMError
from neurofm.signals.superlets import Superlets, scored

_PER_SHARD = 256  # windows of one electrode


@dataclass(frozen=True)
class _Job:
    """A shard to make: of which windows, each of one channel."""

    src: str | os.PathLike
    partial: Path
    number: int
    how: Superlets
    crops: Sequence[Crop]


def prepare(
    src: str | os.PathLike,
    out: str | os.PathLike,
    *,
    segment_s: float = 5.0,
    workers: int | None = None,
    progress: Progress | None = None,
) -> Summary:
    """Superlets of all windows of a dataset of kind `ieeg`, as BrainBERT takes them.

    Args:
      src: the dataset, or its address.
      out: the dataset to make.
      segment_s: seconds of a window, of which the last sample is left out as released.
      workers: processes; all cores by default.

    Raises:
      NeuroFMError: another kind of dataset, nothing usable, or `out` holds something
        else.
    """
    started, out = time.monotonic(), Path(out)
    dataset = open_dataset(src)
    how = Superlets(sfreq=dataset.info.sfreq)
    contract = _contract(dataset, how, segment_s)
    ieeg.check(dataset, contract)
    stretches = meeg.of_dataset(0, dataset, contract, {})
    crops = [
        crop._replace(channel=channel)
        for crop in stretches.segments()
        for channel in range(int(dataset.n_chans[crop.item]))
    ]
    if not crops:
        raise NeuroFMError(
            f"no recording of {dataset.path} has {segment_s:g} s without bad marks, so "
            "there is nothing to make superlets of: give a shorter --segment"
        )
    settings = {
        "reader": "superlets",
        "dataset": dataset.hash,
        "segment_s": segment_s,
        "superlets": _plain(how),
    }
    if (out / "dataset.json").is_file():
        refuse_other(out, open_dataset(out).info.prepared, settings)
        return summarise(out, len(dataset), "already prepared", started)
    writer.refuse_occupied(out)
    partial = out.with_name(out.name + ".partial")
    resumed = remade.begin(partial, settings)
    starts = range(0, len(crops), _PER_SHARD)
    jobs = [
        _Job(src, partial, i, how, crops[first : first + _PER_SHARD])
        for i, first in enumerate(starts)
    ]
    left = [job for job in jobs if not remade.is_finished(partial, job.number)]
    done = len(crops) - sum(len(job.crops) for job in left)
    for job, _ in run_in_processes(_write, left, workers or n_cores()):
        done += len(job.crops)
        if progress:
            progress(done, len(crops), done * segment_s)
    used = set(stretches.items.tolist())
    names = dataset.items["item"].to_pylist()
    why = f"nowhere are {segment_s:g} s free of bad marks"
    left_out = [(name, why) for i, name in enumerate(names) if i not in used]
    info = superlets.store_info(
        how,
        contract.reference or "",
        licence=dataset.info.licence,
        prepared=settings,
    )
    remade.finish(partial, out, info, len(jobs), left_out)
    status = "resumed" if resumed else "prepared"
    return summarise(out, len(dataset), status, started)


def _contract(dataset: Dataset, how: Superlets, segment_s: float) -> InputContract:
    """Whole windows alone, in the reference that the recordings have."""
    if not math.isfinite(segment_s):
        raise NeuroFMError(f"--segment is {segment_s}: give seconds, such as 5")
    n = round(segment_s * how.sfreq) - 1
    if -(-n // how.decimation) <= 2 * how.edge_frames:
        raise NeuroFMError(
            f"--segment is {segment_s:g} s: of its frames none is left without "
            f"{how.edge_frames} at each end; give more than "
            f"{2 * how.edge_frames * how.decimation / how.sfreq:.2g}"
        )
    return InputContract(
        kind="ieeg",
        sfreq=how.sfreq,
        unit="V",
        n_chans=1,
        window_samples=n,
        hop_samples=how.decimation,
        receptive_samples=n,
        reference=dataset.info.processing.get("reference", "laplacian"),
    )


def _plain(how: Superlets) -> dict:
    """As JSON gives it back."""
    told = asdict(how).items()
    return {name: list(v) if isinstance(v, tuple) else v for name, v in told}


def _write(job: _Job) -> None:
    dataset = open_dataset(job.src)
    info = superlets.store_info(job.how, "")  # of which shards need the payload alone
    remade.write_shard(job.partial, job.number, info, _recordings(job, dataset))


def _recordings(job: _Job, dataset: Dataset) -> Iterator[Recording]:
    for crop in job.crops:
        name, told = remade.told_of(dataset, crop)
        x = dataset.read(crop.item, crop.start, crop.stop)[crop.channel]
        electrode = names_of(dataset, crop.item)[crop.channel]
        yield Recording(
            item=f"{name}@{crop.start}/{electrode}",
            samples=superlets.as_stored(scored(x.astype(float), job.how)),
            meta={**told, "electrode": electrode},
        )
