"""The folder of a run: whose it is, what it was trained on, how to go on with it."""

import json
import logging
import platform
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any

import jax
from jax.experimental import multihost_utils

from neurofm import __version__, config, files
from neurofm.config import Experiment
from neurofm.errors import NeuroFMError
from neurofm.parallel import distributed
from neurofm.run.track import WANDB_ID
from neurofm.stores import Place

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")
CONFIG, ENV, SEEN = "config.json", "env.json", "pretrained_on.txt"


def versions() -> dict[str, str]:
    """Versions of this package and of those whose numerics it rests on."""
    return {"neurofm": __version__, **{p: metadata.version(p) for p in PACKAGES}}


def environment() -> dict[str, Any]:
    """What a run ran on; no names of people or machines."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": versions(),
        "devices": [d.device_kind for d in jax.devices()],
        "started": distributed.started(),
    }


def _ours_or_a_warning(record: logging.LogRecord) -> bool:
    """Libraries tell of every request to a store; of theirs only what may matter."""
    return record.name.startswith("neurofm") or record.levelno >= logging.WARNING


def _untouched(path: Place) -> bool:
    """Whether a folder holds nothing but what a run writes before its first step."""
    before = {
        "records",
        "tokenizer",
        "log.txt",
        CONFIG,
        ENV,
        SEEN,
        "tensorboard",
        "wandb",
        WANDB_ID,
    }
    drafts = tuple(f".{name}." for name in before)
    names = {entry.name for entry in path.iterdir()} - before
    return all(name.startswith(drafts) for name in names)


def _read(path: Place) -> Any:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise NeuroFMError(
            f"{path} is damaged or gone ({error}): put it back from a copy, or choose "
            "another --workdir"
        ) from error


def seen_by(model: Place) -> frozenset[str]:
    """sha256 of the files a model was pretrained on, where that is known.

    It is noted beside an exported model and in a run's workdir, above its checkpoints.
    """
    for folder in (model, *model.absolute().parents[:2]):
        if (folder / SEEN).is_file():
            return frozenset((folder / SEEN).read_text().split())
    return frozenset()


@dataclass(frozen=True)
class Workdir:
    """A run's folder, claimed by one experiment and one set of data.

    Attributes:
      path: a local folder, or one in a store.
      journals: files that grow during the run.
    """

    path: Place
    journals: list[files.Journal] = field(default_factory=list)

    @classmethod
    def claim(cls, path: Place, exp: Experiment, datasets: list[str]) -> "Workdir":
        """Make the folder this run's, or check that it already is.

        One in which nothing was trained, as a mistake came first, is free again.

        Raises:
          NeuroFMError: the folder holds another experiment or was trained on other
            data, with the difference; or it is something else than a run.
        """
        saved, run = path / CONFIG, config.to_json(exp)
        free = not path.exists() or (path.is_dir() and _untouched(path))
        if saved.is_file() and not free:
            old = _read(saved)
            if changed := config.difference(old, run):
                table = "\n".join(f"  {k}: {a!r} -> {b!r}" for k, a, b in changed)
                raise NeuroFMError(
                    f"{path} holds another run, which differs in\n{table}\ngo on with "
                    "its own settings, or choose another --workdir"
                )
            there = _read(path / ENV)
            if (hashes := there["datasets"]) != datasets:
                raise NeuroFMError(
                    f"{path} was trained on other data (dataset {hashes} then, "
                    f"{datasets} now): give the same data.path, or another --workdir"
                )
        elif not free:
            raise NeuroFMError(
                f"{path} exists and is not a run: choose an empty or new --workdir"
            )
        # All processes look, and agree, before the first one writes.
        multihost_utils.sync_global_devices("workdir looked at")
        if jax.process_index() == 0:
            path.mkdir(parents=True, exist_ok=True)
            files.write_json(path / ENV, {**environment(), "datasets": datasets})
            files.write_json(saved, run)
        return cls(path)

    @contextmanager
    def logged(self) -> Iterator[None]:
        """Keep what is logged inside in `log.txt`, after what is there."""
        if jax.process_index() > 0:
            yield
            return
        journal = files.Journal(self.path / "log.txt")
        self.journals.append(journal)
        handler = logging.StreamHandler(journal)
        handler.addFilter(_ours_or_a_warning)
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        logging.getLogger().addHandler(handler)
        ours = logging.getLogger("neurofm")
        level = ours.level
        if not ours.isEnabledFor(logging.INFO):  # a caller who set up no logging
            ours.setLevel(logging.INFO)
        try:
            yield
        finally:
            ours.setLevel(level)
            logging.getLogger().removeHandler(handler)
            self.upload()

    def upload(self) -> None:
        """Bring what the journals hold to a store, where the run lies in one."""
        for journal in self.journals:
            journal.upload()

    def note_seen(self, sha256: list[str]) -> None:
        """Keep the digests of all files that training can show, one a line."""
        if jax.process_index() == 0:
            files.write_text(self.path / SEEN, "".join(f"{d}\n" for d in sha256))

    def sentence(self, status: str, step: int, steps: int, spent: str) -> str:
        """What to tell the user at the end of a run, that of its time (`spent`) too."""
        saved, workdir = (shlex.quote(str(p)) for p in (self.path / CONFIG, self.path))
        if status == "done":
            next_command = f"neurofm embed {workdir} INPUT --out DIR"
            return f"done: {step} steps, {spent}; next: {next_command}"
        stopped = f"{status} at step {step} of {steps}, saved"
        if step == 0:
            stopped = f"{status} before the first step, so nothing was saved"
        command = f"neurofm pretrain {saved} --workdir {workdir}"
        if status == "collapsed":
            return f"{stopped}; to go on all the same: {command} train.collapse_share=0"
        return f"{stopped}; go on with the same command: {command}"
