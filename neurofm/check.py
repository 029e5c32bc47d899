"""Say what a path holds, what is wrong with it and what to type next."""

import dataclasses
import os
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neurofm import check_fmri, check_ieeg, check_meeg, stores
from neurofm.errors import NeuroFMError
from neurofm.findings import Findings, render
from neurofm.stores import Place, is_remote, place

if TYPE_CHECKING:
    import pyarrow as pa

    from neurofm.contract import Field

__all__ = ["Findings", "check", "check_model", "render"]

# Source bytes decoded to the end; what lies beyond is judged by its header.
_DECODED_BYTES = 2**26
_MOST = 20  # values of a label


def check(path: str | os.PathLike[str]) -> Findings:
    """Look at sound, EEG or MEG, a dataset or a model.

    Raises:
      NeuroFMError: the path does not exist, or what it holds is damaged.
    """
    from data_pipelines import soundfiles

    if is_remote(path):
        return _check_in_store(place(path))
    path = Path(path)
    partial = path.with_name(path.name + ".partial")
    if (path / "dataset.json").is_file() or (partial.is_dir() and not path.exists()):
        return check_dataset(path)
    if not path.exists():
        raise NeuroFMError(f"{path} does not exist; check the spelling")
    folders = (path.name, path.parent.name)
    if (path / "config.json").is_file() or "checkpoints" in folders:
        return check_model(path)
    if recordings := check_meeg.named(path):
        return check_meeg.check_meeg(*recordings, path)
    if path.is_file():
        if path.suffix.lower() in soundfiles.SUFFIXES:
            return check_sound(path.parent, [path.name], {}, path)
        if path.suffix in (".safetensors", ".ckpt", ".pt", ".pth", ".bin"):
            command = (
                f"neurofm import wavjepa {_quoted(path)} --out {_beside(path)}-model"
            )
            return Findings(path=str(path), kind="weights", facts={}, next=(command,))
        others = {path.suffix.lower(): 1}
    else:
        files, others = soundfiles.find(path)
        if files:
            return check_sound(path, files, others, path)
    known = "sound, EEG or MEG, a dataset, a model or its weights"
    return Findings(
        path=str(path),
        kind="unknown",
        facts={"other_files": _named(others)},
        problems=((str(path), f"holds none of what neurofm reads: {known}"),),
    )


def check_sound(
    root: Path, files: list[str], others: dict[str, int], path: Path
) -> Findings:
    """Count sound files by format and hours, and try to read them.

    Args:
      root: the folder that `files` are relative to.
      files: sound files.
      others: suffix -> count of the other files there.
      path: what the user named.
    """
    from data_pipelines import soundfiles

    kinds: dict[tuple[str, int, int], list[float]] = {}
    problems: list[tuple[str, str]] = []
    budget = _DECODED_BYTES
    n_decoded = 0
    for file in files:
        try:
            about = soundfiles.header(root / file)
            length = about.n_samples / about.sfreq
            size = (root / file).stat().st_size
            if size <= budget:
                budget -= size
                problems += [(file, what) for what in _listen(root / file)]
                n_decoded += 1
            elif about.cut:
                problems.append((file, about.cut))
        except soundfiles.Unreadable as error:
            problems.append((file, f"skipped: {error.reason}"))
            continue
        kinds.setdefault((about.format, about.sfreq, about.n_chans), []).append(length)
    lengths = [length for group in kinds.values() for length in group]
    tables, table_problems = _label_tables(root, files)
    names = ("format", "sfreq", "n_chans", "n_files", "hours")
    facts = {
        "n_files": len(files),
        "n_readable": len(lengths),
        "n_decoded": n_decoded,
        "hours": sum(lengths) / 3600,
        "shortest_s": min(lengths, default=0.0),
        "longest_s": max(lengths, default=0.0),
        "formats": [
            dict(zip(names, (*kind, len(group), sum(group) / 3600), strict=True))
            for kind, group in sorted(kinds.items())
        ],
        "other_files": _named(others),
        "label_tables": tables,
    }
    command = f"neurofm prepare audio {_quoted(path)} --out {_beside(path)}-records"
    if tables:
        command += f" --labels {_quoted(root / next(iter(tables)))}"
    folders = {file.split("/")[0] for file in files if "/" in file}
    if len(folders) > 1 and all("/" in file for file in files):
        facts["n_subfolders"] = len(folders)
        command += " --subdirs class"
    return Findings(
        path=str(path),
        kind="sound",
        facts=facts,
        problems=(*problems, *table_problems),
        next=(command,) if lengths else (),
    )


def _listen(path: Path) -> list[str]:
    """Decode a file to its end and say what is odd; raises Unreadable."""
    from data_pipelines import soundfiles
    from neurofm.data import segments

    notes: list[str] = []
    sfreq = soundfiles.header(path).sfreq
    loud = False
    for x in soundfiles.blocks(path, None, "all", notes):
        loud |= any(segments.active_bits(x, sfreq, segments.FULL_SCALE_FLOOR))
    if not loud:
        notes.append("silence: nothing above -80 dB re full scale")
    return notes


def _label_tables(
    root: Path, files: list[str]
) -> tuple[dict[str, list[str]], list[tuple[str, str]]]:
    """Tables beside the sound that give labels, with their columns."""
    from data_pipelines import labels

    tables: dict[str, list[str]] = {}
    problems: list[tuple[str, str]] = []
    for table in sorted(root.glob("*.tsv")):
        with open(table, encoding="utf-8-sig", errors="replace") as opened:
            columns = opened.readline().rstrip("\r\n").split("\t")
        if "file" not in columns:
            continue
        try:
            known = labels.gather(root, files, table)
        except NeuroFMError as error:
            problems.append((table.name, str(error)))
            continue
        tables[table.name] = [name for name in columns if name != "file"]
        problems += known.notes
    return tables, problems


def _check_in_store(path: Place) -> Findings:
    if (path / "dataset.json").is_file():
        return check_dataset(path)
    if (path / "config.json").is_file() or "checkpoints" in path.parts[-2:]:
        return check_model(path)
    raise NeuroFMError(
        f"{path} holds neither a dataset nor a model; recordings are looked at and "
        "prepared on a local disk"
    )


def check_dataset(path: Place) -> Findings:
    """Contract, hours, splits, labels and hash of a prepared dataset."""
    import numpy as np

    from data_pipelines.meeg.state import RECORDED
    from data_pipelines.summary import read_notes
    from neurofm.data.layout import MANIFEST
    from neurofm.data.records import open_dataset

    dataset = open_dataset(path)
    info, items = dataset.info, dataset.items
    hours = items["duration"].to_numpy() / 3600
    splits = np.asarray(items["split"].to_pylist())
    set_by_user = ("subject", "session", "run", "task")
    brain, timed = info.kind == "meeg", info.kind in ("fmri", "features")
    told = {*MANIFEST.names, "n_recorded"}
    electrodes = info.kind == "ieeg"
    told |= set(RECORDED if info.kind in ("meeg", "codes", "ieeg") else ())
    names = [name for name in items.column_names if name not in told]
    names += [name for name in set_by_user if any(items[name].to_pylist())]
    types = _counts(dataset.events["trial_type"].to_pylist())
    facts = {
        "signal": info.kind,
        "sfreq": info.sfreq,
        "unit": info.unit,
        **(check_meeg.store_facts(dataset) if brain else {}),
        **(check_fmri.store_facts(dataset) if timed else {}),
        **(check_ieeg.store_facts(dataset) if electrodes else {}),
        **({} if brain or timed or electrodes else {"ch_names": list(info.ch_names)}),
        **{k: info.processing[k] for k in ("grid", "made_by") if k in info.processing},
        "payload": info.payload,
        "licence": info.licence,
        "n_items": info.n_items,
        "hours": float(hours.sum()),
        "n_bytes": sum(info.shards.values()),
        "splits": {
            split or "none": {
                "n_items": int((splits == split).sum()),
                "hours": float(hours[splits == split].sum()),
            }
            for split in sorted(set(splits))
        },
        "labels": {name: _counts(items[name].to_pylist()) for name in names},
        "n_events": len(dataset.events),
        "n_event_types": types["n_values"],
        "event_types": types["most"],
        "hash": info.hash,
    }
    folder = stores.address(path)
    problems = [
        (file, f"skipped: {why}") for file, why in read_notes(folder, "skipped.tsv")
    ]
    problems += read_notes(folder, "notes.tsv")
    problems += _shared_between_splits(items)
    data, run = _quoted(path), _quoted(Path("runs", path.resolve().name))
    config = "brainomni/tokenizer" if brain else "wavjepa/tiny"
    if electrodes:
        config = check_ieeg.config_for(dataset)
    if info.kind == "codes":
        config = "brainomni/tiny task.train_on=codes init.frozen.tokenizer=MODEL"
    commands = [f"neurofm pretrain {config} --workdir {run} data.path={data}"]
    if timed:
        commands = [check_fmri.next_command(info.kind, data, run)]
    targets = ["trial_type"] * bool(len(dataset.events)) + names
    if targets and not brain and not timed and info.kind != "codes":
        commands.append(
            f"neurofm evaluate {run} --suite probe --data {data} "
            f"--target {targets[0]} --out {run}-scores"
        )
    return Findings(
        path=str(path),
        kind="dataset",
        facts=facts,
        problems=tuple(problems),
        next=tuple(commands),
    )


def _counts(values: Iterable[Any]) -> dict[str, Any]:
    """Number of different values and of missing ones; the most frequent values."""
    counts = Counter(value for value in values if value not in (None, ""))
    return {
        "n_values": len(counts),
        "n_missing": sum(1 for value in values if value in (None, "")),
        "most": {str(value): n for value, n in counts.most_common(_MOST)},
    }


def _shared_between_splits(items: "pa.Table") -> list[tuple[str, str]]:
    seen: dict[str, tuple[str, str]] = {}
    shared = []
    for row in items.select(["item", "split", "sha256"]).to_pylist():
        first, split = seen.setdefault(row["sha256"], (row["item"], row["split"]))
        if split != row["split"]:
            shared.append((row["item"], first))
    if not shared:
        return []
    item, first = shared[0]
    what = f"the same file as {first}, in another split ({len(shared)} such pairs)"
    return [(item, what)]


def check_model(path: Place) -> Findings:
    """Step, size, fingerprint and input contract of a model."""
    from neurofm.model import load
    from neurofm.weights import leaves

    model = load(path)
    params = model.variables["params"]
    facts = {
        "step": model.meta.get("step"),
        "n_params": leaves.n_params(params),
        "n_params_total": leaves.n_params(model.variables),
        "params_sha256": leaves.params_sha256(params),
        "contract": dataclasses.asdict(model.contract),
        "example": _example(model.task.batch_spec("train").fields),
        **(check_ieeg.model_facts(model) if model.contract.kind == "ieeg" else {}),
    }
    inputs = {"audio": "FOLDER_OF_SOUND", "meeg": "RECORDINGS", "ieeg": "DATASET"}
    inputs["features"] = "FEATURES"
    given = inputs.get(model.contract.kind)
    out = f"{_beside(path)}-embeddings"
    command = f"neurofm embed {_quoted(path)} {given} --out {out}"
    commands = (command,) if given else ()
    return Findings(path=str(path), kind="model", facts=facts, next=commands)


def _example(fields: "Mapping[str, Field]") -> dict[str, str]:
    """Of each array of a training example its shape, or the names of its numbers."""
    shapes = {
        name: " x ".join(f"{n} {axis}" for n, axis in zip(f.shape, f.axes, strict=True))
        for name, f in fields.items()
    }
    words = {name: ", ".join(f.words) for name, f in fields.items()}
    return {n: words[n] or shape or "one number" for n, shape in shapes.items()}


def _named(others: dict[str, int]) -> dict[str, int]:
    return {suffix or "no suffix": n for suffix, n in sorted(others.items())}


def _beside(path: Place) -> str:
    """A name to put results under, in the folder where the user stands."""
    return shlex.quote(path.stem if path.is_file() else path.resolve().name)


def _quoted(path: Place) -> str:
    return shlex.quote(str(path))
