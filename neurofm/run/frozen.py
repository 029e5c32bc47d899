"""The models that a run leans on: loaded once, sharded, never trained nor saved."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import jax
from jax.sharding import Mesh

from neurofm import stores
from neurofm.config import Experiment
from neurofm.data.records import Dataset
from neurofm.errors import NeuroFMError
from neurofm.model import load_frozen
from neurofm.parallel import sharding
from neurofm.task import Task, Tree

log = logging.getLogger(__name__)

Known = dict[str, dict[str, str]]  # name -> path and sha256, as a checkpoint keeps it


@dataclass(frozen=True)
class Frozen:
    """A model that the trained one leans on: its variables in use, and their hash."""

    task: Task
    variables: Tree
    path: str
    sha256: str


def lean(exp: Experiment) -> tuple[Experiment, dict[str, Frozen]]:
    """Load the models that the task leans on, and take their Tasks into it.

    Raises:
      NeuroFMError: a name without a MODEL in `init.frozen`, or one that the task does
        not have; a MODEL of another kind.
    """
    task, given = exp.task, exp.init.frozen
    if unknown := sorted(set(given) - set(task.leans_on)):
        raise NeuroFMError(
            f"init.frozen names {unknown[0]!r}, but {task.name} leans on "
            f"{', '.join(task.leans_on) or 'no other model'}: take that name out"
        )
    if missing := [name for name in task.leans_on if name not in given]:
        raise NeuroFMError(
            f"{task.name} leans on a trained {missing[0]}: give a workdir, a "
            f"checkpoint or an imported folder as init.frozen.{missing[0]}=MODEL"
        )
    leaning = {}
    for name, path in given.items():
        model, variables, digest = load_frozen(name, path)
        if (kind := getattr(task, name).name) != model.task.name:
            raise NeuroFMError(
                f"init.frozen.{name}={path} is a model of {model.task.name}: give one "
                f"of {kind}"
            )
        held = {name: model.task}
        task = replace(task, **held)  # pyright: ignore[reportArgumentType]
        where = str(path if stores.is_remote(path) else Path(path).absolute())
        leaning[name] = Frozen(model.task, variables, where, digest)
        log.info("%s: %s, sha256 %s", name, where, digest)
    return replace(exp, task=task), leaning


def check_made_by(datasets: Sequence[Dataset], leaning: Mapping[str, Frozen]) -> None:
    """What was made of recordings by a frozen model is trained on with that one.

    Raises:
      NeuroFMError: a dataset was made by another model than the run leans on.
    """
    for dataset in datasets:
        for name, digest in dataset.info.processing.get("made_by", {}).items():
            if name in leaning and leaning[name].sha256 != digest:
                raise NeuroFMError(
                    f"{dataset.path} was made by another {name} (sha256 "
                    f"{digest[:12]}...) than init.frozen.{name}={leaning[name].path} "
                    f"({leaning[name].sha256[:12]}...): give that one, or prepare the "
                    "dataset again with this one"
                )


def place(leaning: Mapping[str, Frozen], devices: Mesh) -> Tree:
    """Their variables on the devices, laid out as their own tasks say."""
    out: Tree = {}
    for name, model in leaning.items():
        where, _ = sharding.state_shardings(
            model.variables, model.variables["params"], devices, model.task.rules()
        )
        out[name] = jax.device_put(model.variables, where)
    return out


def known(leaning: Mapping[str, Frozen]) -> Known:
    """What a checkpoint says of them."""
    return {
        name: {"path": model.path, "sha256": model.sha256}
        for name, model in leaning.items()
    }


def check_same(saved: Known, leaning: Mapping[str, Frozen]) -> None:
    """A run goes on with the models it began with, wherever they lie now.

    Raises:
      NeuroFMError: one of them is another.
    """
    for name, model in leaning.items():
        if model.sha256 != saved[name]["sha256"]:
            raise NeuroFMError(
                f"init.frozen.{name}={model.path} is not the model this run began with "
                f"(that was at {saved[name]['path']}; the sha256 differs): give that "
                "one, or choose another --workdir"
            )
