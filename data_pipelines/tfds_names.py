"""Where a dataset of TensorFlow Datasets lies that was prepared under a data dir."""

import json
import os
import re
from collections.abc import Iterable
from pathlib import Path

from neurofm.errors import NeuroFMError

# As tfds writes names: NAME, NAME/CONFIG, NAME:VERSION, NAME/CONFIG:VERSION.
_NAME = re.compile(r"([a-z_]\w*)(?:/([^/:]+))?(?::(\d+\.\d+\.\d+))?")
_VERSION = re.compile(r"\d+\.\d+\.\d+")


def folder_of(name: str, data_dir: str | os.PathLike | None = None) -> Path:
    """The folder of a prepared version: NAME/VERSION or NAME/CONFIG/VERSION.

    Args:
      name: `my_set` or `my_set/config`, with `:1.0.0` for another than the newest.
      data_dir: where to look; default $TFDS_DATA_DIR, then ~/tensorflow_datasets.

    Raises:
      NeuroFMError: nothing of that name was prepared there as array_record, or more
        than one configuration of it.
    """
    home = Path.home() / "tensorflow_datasets"
    root = Path(data_dir or os.environ.get("TFDS_DATA_DIR") or home).expanduser()
    match = _NAME.fullmatch(name)
    if match is None:
        raise NeuroFMError(
            f"{name} is neither a folder nor the name of a tfds dataset: give "
            "NAME/VERSION of a prepared one, or a name such as my_set or my_set:1.0.0"
        )
    dataset, config, version = match.groups()
    folders = [p.parent for p in root.glob(f"{dataset}/**/dataset_info.json")]
    found = [f for f in folders if _VERSION.fullmatch(f.name)]
    if config:
        found = [f for f in found if f.parent.name == config]
    if version:
        found = [f for f in found if f.name == version]
    if not found:
        others = _listed(p.name for p in root.glob("*") if any(p.glob("**/*.json")))
        raise NeuroFMError(
            f"no dataset {name} is prepared in {root} (there is {others}): prepare it "
            f"with `tfds build {dataset} --file_format=array_record`, or say with "
            "--data-dir where it lies"
        )
    ready = [f for f in found if _format(f) == "array_record"]
    if not ready:
        forms = _listed(_format(f) for f in found)
        raise NeuroFMError(
            f"{name} is prepared in {root} as {forms}, which only TensorFlow reads: "
            f"prepare it with `tfds build {dataset} --file_format=array_record`"
        )
    if len({f.parent for f in ready}) > 1:
        configs = _listed(f"{dataset}/{f.parent.name}" for f in ready)
        raise NeuroFMError(f"{name} has several configurations: give one of {configs}")
    return max(ready, key=lambda f: tuple(map(int, f.name.split("."))))


def _format(folder: Path) -> str:
    told = json.loads((folder / "dataset_info.json").read_text())
    return told.get("fileFormat", "tfrecord")  # tfds' own default


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(set(names))) or "nothing"
