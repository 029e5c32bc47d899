"""Task classes by name: ours below, others' by entry point (group `neurofm.tasks`)."""

import difflib
import importlib
from collections.abc import Callable
from importlib.metadata import entry_points

from neurofm.errors import NeuroFMError
from neurofm.task import Task

BUILT_IN = {
    "brain_semantoks": "neurofm.models.brain_semantoks:BrainSemantoks",
    "brainbert": "neurofm.models.brainbert:BrainBERT",
    "brainomni": "neurofm.models.brainomni:BrainOmni",
    "braintokenizer": "neurofm.models.braintokenizer:BrainTokenizer",
    "duin": "neurofm.models.duin:DuIN",
    "duin_vqvae": "neurofm.models.duin_vqvae:DuINVQVAE",
    "finetune": "neurofm.models.finetune:Finetune",
    "tribe": "neurofm.models.tribe:Tribe",
    "wavjepa": "neurofm.models.wavjepa:WavJEPA",
}


def names() -> list[str]:
    """All registered task names."""
    return sorted({*BUILT_IN, *(p.name for p in entry_points(group="neurofm.tasks"))})


def task_class(name: str) -> Callable[..., Task]:
    """The class registered as `name`; an unknown one names its nearest neighbours."""
    if name in BUILT_IN:
        module, attribute = BUILT_IN[name].split(":")
        return getattr(importlib.import_module(module), attribute)
    for point in entry_points(group="neurofm.tasks"):
        if point.name == name:
            return point.load()
    raise NeuroFMError(
        f"no system is called {name!r}: {suggest(name, names())} (a package of yours "
        "registers one with the entry point group 'neurofm.tasks')"
    )


def suggest(given: str, known: list[str]) -> str:
    """`did you mean a or b?` if something is near, else the whole list."""
    if near := difflib.get_close_matches(given, known, n=3, cutoff=0.5):
        return f"did you mean {' or '.join(near)}?"
    return f"known are {', '.join(known)}"
