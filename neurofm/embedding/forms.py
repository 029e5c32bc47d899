"""Stored embeddings in forms that other tools read: xarray, zarr, netCDF, BIDS.

Axes: P embeddings (presentations), D features, T tokens.
"""

import importlib
import json
import os
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Num, Shaped

from neurofm import __version__
from neurofm.data.embeddings import Embeddings, open_embeddings, write_arrays
from neurofm.errors import NeuroFMError
from neurofm.files import write_json

NETCDF_MOST = 2**31  # bytes of one variable of netCDF 3, with a margin
STORAGE = ("embedding", "shard", "layers", "n_tokens", "dim", "first_s", "last_s")
ENTITIES = {"sub": "subject", "ses": "session", "task": "task", "run": "run"}
DATATYPES = {"fmri": "func", "ieeg": "ieeg", "audio": "beh"}  # else eeg or meg


def write(
    embeddings: str | os.PathLike, out: str | os.PathLike, form: str
) -> dict[str, Any]:
    """Write a folder of embeddings in another form: whole, or not at all.

    Args:
      form: `zarr` or `netcdf`, which hold what `to_xarray` gives, or `bids`, a folder
        of derivatives with an HDF5 file and its JSON a recording.

    Raises:
      NeuroFMError: no embeddings, an unknown form, `out` is there, the extra `arrays`
        is not installed, or what the form cannot hold.
    """
    out = Path(out)
    if form not in FORMS:
        raise NeuroFMError(f"form {form!r} is unknown: use one of {', '.join(FORMS)}")
    if out.exists():
        raise NeuroFMError(f"{out} exists: choose another --out, or delete it")
    opened = open_embeddings(embeddings)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as draft:
        new = Path(draft, out.name)
        FORMS[form](opened, new)
        new.rename(out)
    return {"out": str(out), "form": form, "n_embeddings": len(opened.index)}


# ---- xarray --------------------------------------------------------------------------


def to_xarray(embeddings: str | os.PathLike | Embeddings) -> Any:
    """An `xarray.Dataset` of a folder of embeddings, in memory.

    A variable a layer, (presentation, feature, time); shorter recordings end in NaN
    (codes in -1). Layers of unlike widths have a `<layer>_feature` each. Coordinates
    are the columns of the index (`label_<name>` where a name is taken), and `time_s`
    (presentation, time). `attrs["neurofm"]` is the JSON of what made them.

    Raises:
      NeuroFMError: no embeddings, xarray is not installed, or embeddings of unlike
        widths or layers.
    """
    xarray = _needed("xarray")
    if not isinstance(embeddings, Embeddings):
        embeddings = open_embeddings(embeddings)
    rows = embeddings.index.to_pylist()
    held = sorted({", ".join(row["layers"]) for row in rows})
    if len(held) > 1:
        raise _unlike(embeddings, "layers", held)
    lengths = [row["n_tokens"] for row in rows]
    arrays: dict[str, np.ndarray] = {}
    for layer in rows[0]["layers"]:
        each = [embeddings.read(i, layer) for i in range(len(rows))]
        widths = sorted({x.shape[1] for x in each})
        if len(widths) > 1:
            raise _unlike(embeddings, f"widths of {layer}", widths)
        arrays[layer] = _padded(each, lengths)
    alike = len({x.shape[1] for x in arrays.values()}) == 1
    values = {
        layer: (("presentation", "feature" if alike else f"{layer}_feature", "time"), x)
        for layer, x in arrays.items()
    }
    times = [embeddings.times(i)[:, None] for i in range(len(rows))]
    taken = {"presentation", "feature", "time", "time_s", *arrays}
    columns = {}
    for name in (n for n in rows[0] if n not in STORAGE):
        column = [row[name] for row in rows]
        if any(value is not None for value in column):
            own = f"label_{name}" if name in taken else name
            columns[own] = ("presentation", _column(column))
    coords = {
        "presentation": [row["embedding"] for row in rows],
        "time_s": (("presentation", "time"), _padded(times, lengths)[:, 0]),
        "n_tokens": ("presentation", lengths),
        **columns,
    }
    return xarray.Dataset(values, coords, {"neurofm": json.dumps(embeddings.info)})


def _unlike(embeddings: Embeddings, what: str, held: Sequence[Any]) -> NeuroFMError:
    return NeuroFMError(
        f"{embeddings.path} holds embeddings of unlike {what} ({held[0]} and "
        f"{held[1]}), which make no one array: embed like recordings alone"
    )


def _padded(
    each: Sequence[Num[np.ndarray, "_ D"]], lengths: Sequence[int]
) -> Num[np.ndarray, "P D T"]:
    first = each[0]
    missing = np.nan if first.dtype.kind == "f" else -1
    shape = (len(each), first.shape[1], max(lengths))
    out = np.full(shape, missing, first.dtype)
    for row, x in zip(out, each, strict=True):
        row[:, : len(x)] = x.T
    return out


def _column(values: list[Any]) -> Shaped[np.ndarray, " P"]:
    """Numbers as they are, None among them as NaN; all else as text."""
    if all(isinstance(v, int | float) for v in values):
        return np.array(values)
    if all(v is None or type(v) in (int, float) for v in values):
        return np.array([np.nan if v is None else v for v in values])
    words = [",".join(v) if isinstance(v, list) else v for v in values]
    return np.array(["" if w is None else str(w) for w in words])


def _zarr(embeddings: Embeddings, out: Path) -> None:
    _needed("zarr")
    # Version 3 of zarr has no type of text that other programs agree on.
    to_xarray(embeddings).to_zarr(out, zarr_format=2, consolidated=True)


def _netcdf(embeddings: Embeddings, out: Path) -> None:
    made = to_xarray(embeddings)
    most = max(made[name].nbytes for name in made)
    if most >= NETCDF_MOST:
        raise NeuroFMError(
            f"a layer of {embeddings.path} takes {most / 2**30:.1f} GiB as one array, "
            "more than netCDF 3 holds: use the form zarr"
        )
    made.to_netcdf(out, engine="scipy")


def _needed(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise NeuroFMError(
            f"this form needs {name}, which is not installed: install the extra, pip "
            "install 'neurofm[arrays]', or use the form bids, which does without"
        ) from error


# ---- BIDS ----------------------------------------------------------------------------


def _bids(embeddings: Embeddings, out: Path) -> None:
    """A dataset of derivatives; the names come from subject, session, task and run."""
    info = embeddings.info
    model = _label(info["request"]["task"]["name"])
    rows = embeddings.index.to_pylist()
    items: dict[str, list[int]] = {}
    for i, row in enumerate(rows):
        items.setdefault(row["item"], []).append(i)
    names = _names([rows[i[0]] for i in items.values()])
    description = {
        "Name": f"Embeddings by {info['request']['task']['name']}",
        "BIDSVersion": "1.10.0",
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": "neurofm", "Version": __version__}],
    }
    out.mkdir()
    write_json(out / "dataset_description.json", description)
    (out / ".bidsignore").write_text("*_embeddings.*\n")  # BIDS has no such suffix yet
    for name, at in zip(names, items.values(), strict=True):
        folders = [part for part in name.split("_") if part[:4] in ("sub-", "ses-")]
        folder = Path(out, *folders, _datatype(info["contract"]["kind"], rows[at[0]]))
        folder.mkdir(parents=True, exist_ok=True)
        stem = folder / f"{name}_desc-{model}_embeddings"
        arrays = {}
        for k, i in enumerate(at):
            group = f"{k}/" if len(at) > 1 else ""
            arrays |= {f"{group}{n}": embeddings.read(i, n) for n in rows[i]["layers"]}
            arrays[f"{group}times_s"] = embeddings.times(i)
        write_arrays(stem.with_suffix(".h5"), arrays)
        write_json(stem.with_suffix(".json"), _sidecar(info, [rows[i] for i in at]))


def _sidecar(info: dict[str, Any], rows: list[dict[str, Any]]) -> dict[str, Any]:
    groups = "; a group an event, numbered as in Rows" if len(rows) > 1 else ""
    return {
        "Description": f"Tokens by features, a dataset a layer{groups}",
        "Sources": sorted({row["file"] for row in rows}),
        "Model": info["request"]["task"]["name"],
        "ParametersSHA256": info["request"]["params_sha256"],
        "Layers": rows[0]["layers"],
        "Times": {"Description": "centres of tokens, times_s", "Units": "s"},
        "Input": info["contract"],
        "Rows": [
            {k: v for k, v in row.items() if k not in STORAGE and _known(v)}
            for row in rows
        ],
    }


def _known(value: Any) -> bool:
    return value is not None and value == value  # NaN is no JSON


def _names(rows: list[dict[str, Any]]) -> list[str]:
    """A name a recording of its entities; runs are counted where none are given."""
    if bare := [row["item"] for row in rows if not row.get("subject")]:
        raise NeuroFMError(
            f"BIDS names files by subject, and {len(bare)} of {len(rows)} recordings "
            f"have none ({bare[0]}): embed a dataset that was prepared with a column "
            "subject (--labels or --pattern)"
        )
    told = [{e: row[c] for e, c in ENTITIES.items() if row.get(c)} for row in rows]
    given = [{e: _label(value) for e, value in one.items()} for one in told]
    alike = Counter(_joined(one) for one in given)
    called: dict[str, dict[str, Any]] = {}
    seen: Counter[str] = Counter()
    names = []
    for whole, one in zip(told, given, strict=True):
        name = _joined(one)
        if called.setdefault(name, whole) != whole or not all(one.values()):
            raise NeuroFMError(
                f"{whole} would be called {name} in BIDS, whose names are letters and "
                "digits: give it names that differ from others in these"
            )
        if alike[name] > 1 and "run" in one:
            raise _called_alike(alike[name], name)
        if alike[name] > 1:
            seen[name] += 1
            name = _joined({**one, "run": str(seen[name])})
        names.append(name)
    name, n = Counter(names).most_common(1)[0]
    if n > 1:
        raise _called_alike(n, name)
    return names


def _called_alike(n: int, name: str) -> NeuroFMError:
    return NeuroFMError(
        f"{n} recordings are called {name} in BIDS: give them runs, sessions or tasks "
        "of their own"
    )


def _joined(entities: dict[str, str]) -> str:
    return "_".join(f"{key}-{value}" for key, value in entities.items())


def _label(value: Any) -> str:
    """As BIDS wants them: letters and digits."""
    return re.sub("[^0-9A-Za-z]", "", re.sub("^(sub|ses|task|run)-", "", str(value)))


def _datatype(kind: str, row: dict[str, Any]) -> str:
    if kind in DATATYPES:
        return DATATYPES[kind]
    return "meg" if row.get("n_meg") else "eeg"


FORMS: dict[str, Callable[[Embeddings, Path], None]] = {
    "zarr": _zarr,
    "netcdf": _netcdf,
    "bids": _bids,
}
