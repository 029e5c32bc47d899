"""Datasets of TensorFlow Datasets into record stores, without TensorFlow.

tfds reads what was prepared in the file format array_record by numpy alone. Corpora of
our own builders (`tfds_builders`) are written in that form first, beside the store.
"""

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines.summary import Summary, summarise
from data_pipelines.tfds_names import folder_of
from neurofm.data.layout import MEASURED
from neurofm.data.records import DatasetInfo, Recording, write_dataset
from neurofm.data.writer import refuse_occupied
from neurofm.errors import NeuroFMError
from neurofm.signals.audio import resample_blocks
from neurofm.stores import is_remote

Progress = Callable[[int, int, float], None]

_SPLITS = {"train": "train", "valid": "valid", "dev": "valid", "test": "test"}
_FULL_SCALE = 32768  # of 16-bit samples, which tfds widens to 64 bits


def prepare(
    src: str | os.PathLike,
    out: str | os.PathLike,
    *,
    sfreq: float = 16000,
    corpus: str | None = None,
    audio: str = "audio",
    source_sfreq: float | None = None,
    data_dir: str | os.PathLike | None = None,
    licence: str = "",
    progress: Progress | None = None,
) -> Summary:
    """Turn a tfds dataset into a record store, an item an example.

    The split is the first word of tfds' split (train, valid or dev, test), whose whole
    name becomes the column `tfds_split`. Classes become their names; features that are
    no scalars are left out.

    Args:
      src: folder of a prepared version (it holds dataset_info.json), file format
        array_record, or its name, see `tfds_names.folder_of`; with `corpus`, the
        unpacked corpus.
      out: the dataset to make.
      sfreq: rate in Hz that everything is resampled to.
      corpus: name in `tfds_builders`; it is written to `OUT.tfds` in tfds' form first.
      audio: name of the feature that holds the sound, one channel.
      source_sfreq: its rate in Hz, where neither a feature `sfreq` nor tfds tells it.
      data_dir: where tfds prepared it, if `src` is a name.
      licence: terms of the recordings.
      progress: called with examples done, examples in all and seconds of sound done.

    Raises:
      NeuroFMError: `src` is no such dataset, or has no such sound.
    """
    started = time.monotonic()
    for path in (src, out):
        if is_remote(path):
            raise NeuroFMError(
                f"{os.fspath(path)} is in a store, and prepare tfds works on a local "
                "disk: give a local path, and copy the dataset there or from there"
            )
    src, out = Path(src), Path(out)
    refuse_occupied(out)
    if corpus is not None:
        src = build(corpus, src, out.with_name(out.name + ".tfds"))
    elif data_dir is not None or not src.exists():
        src = folder_of(os.fspath(src), data_dir)
    builder = _builder(src)
    features = builder.info.features
    if audio not in features:
        raise NeuroFMError(
            f"{src} has no feature {audio!r}; it has {', '.join(sorted(features))}: "
            "name the sound with --audio"
        )
    info = DatasetInfo(
        kind="audio",
        sfreq=float(sfreq),
        unit="full_scale",
        ch_names=("first",),
        licence=licence,
        prepared={"reader": "tfds", "dataset": builder.info.full_name},
    )
    total = sum(split.num_examples for split in builder.info.splits.values())

    def counted() -> Iterator[Recording]:
        seconds = 0.0
        found = _recordings(builder, audio, sfreq, source_sfreq)
        for done, (recording, length) in enumerate(found, 1):
            yield recording
            seconds += length
            if progress:
                progress(done, total, seconds)

    write_dataset(out, info, counted())
    return summarise(out, total, "prepared", started)


def build(corpus: str, source: Path, folder: Path) -> Path:
    """Write a corpus as a tfds dataset in `folder`; gives the folder of its version.

    Raises:
      NeuroFMError: there is no such builder, or `source` is not the corpus.
    """
    import tensorflow_datasets as tfds

    from data_pipelines.tfds_builders.folders import BUILDERS

    if corpus not in BUILDERS:
        raise NeuroFMError(
            f"there is no builder for {corpus!r}; there are {', '.join(BUILDERS)}"
        )
    builder = BUILDERS[corpus](data_dir=folder, file_format="array_record")
    config = tfds.download.DownloadConfig(
        manual_dir=source, compute_stats=tfds.download.ComputeStatsMode.SKIP
    )
    tfds.disable_progress_bar()
    try:
        with contextlib.redirect_stdout(sys.stderr):  # tfds tells of itself on stdout
            builder.download_and_prepare(download_config=config)
    except (OSError, AssertionError, ValueError) as error:
        reason = " ".join(str(error).split())[:300]
        raise NeuroFMError(
            f"{source} is not {corpus} as it was published ({reason}): "
            f"{builder.MANUAL_DOWNLOAD_INSTRUCTIONS}"
        ) from error
    return Path(builder.data_dir)


def _builder(src: Path) -> Any:
    import tensorflow_datasets as tfds

    if not (src / "dataset_info.json").is_file():
        raise NeuroFMError(
            f"{src} is no prepared version of a tfds dataset (it holds no "
            "dataset_info.json); give the folder NAME/VERSION, or --corpus for the "
            "original files"
        )
    try:
        builder = tfds.builder_from_directory(src)
    except ImportError as error:  # a feature that decodes by TensorFlow
        raise NeuroFMError(
            f"{src} has features that need TensorFlow ({error}): prepare it with plain "
            "features, or take the original files with `neurofm prepare audio`"
        ) from error
    kind = builder.info.file_format
    if kind is None or kind.value != "array_record":
        raise NeuroFMError(
            f"{src} is in the file format {kind and kind.value}; prepare it with "
            "file_format='array_record'"
        )
    return builder


def _recordings(
    builder: Any, audio: str, sfreq: float, source_sfreq: float | None
) -> Iterator[tuple[Recording, float]]:
    features = builder.info.features
    declared = source_sfreq or getattr(features[audio], "sample_rate", None)
    for split in builder.info.splits:
        for number, example in enumerate(builder.as_data_source(split)):
            item = f"{split}/{number}"
            rate = example.pop("sfreq", declared)
            if rate is None:
                raise NeuroFMError(
                    f"{item} of {builder.info.full_name} does not tell its sampling "
                    "rate: give it as --source-sfreq"
                )
            x = _wave(item, example.pop(audio))
            labels = {
                name: _plain(features[name], value)
                for name, value in example.items()
                if np.ndim(value) == 0 and name not in MEASURED
            }
            known = next((w for k, w in _SPLITS.items() if split.startswith(k)), "")
            meta = {"file": item, **labels, "split": known, "tfds_split": split}
            blocks = resample_blocks(iter([x]), float(rate), sfreq)
            yield Recording(item=item, samples=blocks, meta=meta), len(x[0]) / rate


def _wave(item: str, value: Any) -> np.ndarray:
    """Samples (1, N) at full scale 1."""
    x = np.asarray(value)
    if x.ndim == 2 and 1 in x.shape:
        x = x.reshape(-1)
    if x.ndim != 1:
        raise NeuroFMError(
            f"{item} holds an array of shape {x.shape} and no sound (N,)"
        )
    if np.issubdtype(x.dtype, np.integer):
        if np.abs(x.astype(np.int64)).max(initial=0) > _FULL_SCALE:
            raise NeuroFMError(f"{item} holds integers beyond 16 bits")
        x = x / np.float32(_FULL_SCALE)
    return x.astype(np.float32)[None]


def _plain(feature: Any, value: Any) -> Any:
    """A label as a table takes it."""
    if hasattr(feature, "int2str"):
        return feature.int2str(int(value))
    value = value.item() if isinstance(value, np.generic) else value
    return value.decode() if isinstance(value, bytes) else value
