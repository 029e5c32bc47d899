"""A suite by its name, or by a file that declares one.

A file is TOML: `kind`, and the settings of that kind that are to differ.

    kind = "similarity"
    measures = ["unbiased_cka", "rsa"]
    max_items = 500
"""

import dataclasses
import importlib
import json
import os
import tomllib
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neurofm.errors import NeuroFMError
from neurofm.registry import suggest

# kind -> where its `Settings` and `evaluate` are
KINDS = {
    "probe": "neurofm.suites.probe",
    "similarity": "neurofm.suites.similarity",
    "retrieval": "neurofm.suites.retrieval",
    "hear": "neurofm.suites.hear",
    "zero-shot": "neurofm.suites.zero_shot",
    "crop-probe": "neurofm.suites.crop_probe",
    "dimension": "neurofm.suites.dimension",
}
# Kinds whose settings are options of the command: what a file may set.
OF_THE_COMMAND: dict[str, dict[str, Any]] = {
    "encoding": {
        "delays": tuple[float, ...],
        "penalty": str,
        "permutations": int,
        "floor": float,
        "subjects": tuple[str, ...],
        "atlas": Path,
        "submit": Path,
    },
}


@dataclass(frozen=True)
class Suite:
    """One suite.

    Attributes:
      name: as it is shown: its kind, or the name of its file.
      kind: what is measured.
      settings: by name, where they differ from the defaults.
    """

    name: str
    kind: str
    settings: dict[str, Any]


def read(suite: str | os.PathLike) -> Suite:
    """A suite by name or file.

    Raises:
      NeuroFMError: it is neither, or its file cannot be read or sets what is unknown.
    """
    known = [*KINDS, *OF_THE_COMMAND]
    if str(suite) in known:
        return Suite(str(suite), str(suite), {})
    path = Path(suite)
    if path.suffix != ".toml":
        raise NeuroFMError(
            f"no suite is called {str(suite)!r}: {suggest(str(suite), known)}; a suite "
            "of your own is a TOML file"
        )
    try:
        told = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise NeuroFMError(
            f"the suite {path} cannot be read ({error}): give a TOML file with a kind, "
            f"one of {', '.join(known)}"
        ) from error
    kind = told.pop("kind", None)
    if kind not in known:
        raise NeuroFMError(
            f"{path} has the kind {kind!r}: known are {', '.join(known)}"
        )
    return _checked(Suite(path.stem, kind, told))


def with_options(suite: Suite, **options: Any) -> Suite:
    """The suite with options of the command where they are given.

    Raises:
      NeuroFMError: it has no such setting.
    """
    given = {name: value for name, value in options.items() if value is not None}
    return _checked(dataclasses.replace(suite, settings={**suite.settings, **given}))


def settings(kind: str) -> dict[str, Any]:
    """What a suite of a kind can set, and of what type."""
    if kind not in KINDS:
        return OF_THE_COMMAND[kind]
    module = importlib.import_module(KINDS[kind])
    return typing.get_type_hints(module.Settings, include_extras=True)


def evaluate(suite: Suite, given: list[Any], data: Any, out: Path) -> dict[str, Any]:
    """Run a suite of `KINDS`; see its module."""
    module = importlib.import_module(KINDS[suite.kind])
    return module.evaluate(given, data, out, module.Settings(**suite.settings))


def _checked(suite: Suite) -> Suite:
    """The suite with settings of their types.

    Raises:
      NeuroFMError: a setting is unknown, or of another type.
    """
    import pydantic

    hints = settings(suite.kind)
    values = {}
    for name, value in suite.settings.items():
        if name not in hints:
            raise NeuroFMError(
                f"the suite {suite.name} has no setting {name!r}: "
                f"{suggest(name, list(hints))}"
            )
        try:
            adapter = pydantic.TypeAdapter(hints[name], config={"allow_inf_nan": False})
            text = json.dumps(value, default=str)  # whose arrays are tuples, in strict
            values[name] = adapter.validate_json(text, strict=True)
        except pydantic.ValidationError as error:
            raise NeuroFMError(
                f"the suite {suite.name} sets {name} = {value!r}, which does not fit: "
                f"{error.errors()[0]['msg']}"
            ) from error
    return dataclasses.replace(suite, settings=values)
