"""The experiment as a tree of frozen dataclasses: overrides, JSON, differences.

A config is a Python file with `config() -> Experiment`. Overrides are dotted
(`task.depth=24`), values are JSON or plain words and are checked against the field's
type. The resolved tree round-trips through JSON, where a task has its registry name.
"""

import dataclasses
import importlib.util
import json
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar, Union

import pydantic

from neurofm import registry
from neurofm.errors import NeuroFMError
from neurofm.optim import Optim
from neurofm.run.track import Tracker
from neurofm.stores import Place, place
from neurofm.task import Task

Node = TypeVar("Node")  # a tree of frozen dataclasses


@dataclass(frozen=True, kw_only=True)
class Responses:
    """Of which brains the responses to the recordings are learnt, see `data.responses`.

    Attributes:
      path: fMRI whose runs have the timelines of the recordings.
      subjects: whose; by default everyone's, all by one head.
      trim: volumes left out at the start and at the end of every run.
      control: what training is given in place of them, to tell what is learnt of brains
        alone: nothing else (`none`), the volumes of each run in another order
        (`volumes`), or stretches of `block` volumes in another order (`blocks`).
      block: volumes of a stretch.
    """

    path: str = ""
    subjects: tuple[str, ...] = ()
    trim: tuple[int, int] = (0, 0)
    control: Literal["none", "volumes", "blocks"] = "none"
    block: int = 10

    def __post_init__(self):
        if min(self.trim) < 0 or self.block < 1:
            raise NeuroFMError(
                f"data.responses.trim is {self.trim} and data.responses.block "
                f"{self.block}: give 0 or more, and 1 or more"
            )


@dataclass(frozen=True, kw_only=True)
class Data:
    """Which records are trained on, and how crops are cut from them.

    Attributes:
      path: dataset folder, or several to mix.
      features: dataset folders of features of the stimuli, where recordings are of
        brains that follow them.
      target: column of the recordings, or of their events, whose values are the classes
        to fine-tune on.
      responses: of brains to the recordings, which are fine-tuned on instead.
      around: of an event, the seconds before and after its onset that make an example,
        such as (-0.1, 0.8); by default the event itself.
      noise, rooms: datasets of noises and of rooms' impulse responses, of which a task
        with `scenes.source=simulated` makes scenes.
      split, groups, gap, stimulus: who is trained on, chosen on and tested on when
        fine-tuning, see `neurofm.eval.split_file.How`; by default the column `split` of
        the recordings says so.
      fold: which of the folds of `split`; by default its only one.
      sides: hash of the split that was made; a run takes it from its data.
      weights: shares of a mixture, one a path; equal where empty.
      transductive: train on the test split too; every score then says so.
      hold_out: `column=value` rules; items that match are never trained on.
      crops_per_clip: consecutive crops cut from one clip.
      short: clips shorter than a crop are padded `once`, or to 10 s as `released`.
      buckets: widths at most, in channels, that recordings of unlike sensors are
        padded to; a step has one.
      even_windows: windows that a held-out labelled example is read in, evenly spaced
        and perhaps overlapping; 0 is side by side.
      min_active: least share of a crop that must hold sound; silent crops are redrawn.
      jitter_s: windows on a stimulus all move by up to this, another way every epoch.
      workers: reader threads.
    """

    path: str | tuple[str, ...] = ""
    features: str | tuple[str, ...] = ()
    target: str = ""
    responses: Responses = field(default_factory=Responses)
    around: tuple[float, float] | None = None
    split: str = ""
    groups: str = ""
    gap: float | None = None
    stimulus: str = ""
    fold: str = ""
    sides: str = ""
    noise: str = ""
    rooms: str = ""
    weights: tuple[float, ...] = ()
    transductive: bool = False
    hold_out: tuple[str, ...] = ()
    crops_per_clip: int = 8
    short: Literal["once", "released"] = "once"
    buckets: int = 4
    even_windows: int = 0
    min_active: float = 0.1
    jitter_s: float = 10.0
    workers: int = 4

    def __post_init__(self):
        if self.split and (not self.target or self.transductive):
            wrong = "with data.transductive" if self.target else "without data.target"
            raise NeuroFMError(
                f"data.split is given {wrong}, and it parts labelled examples into "
                "sides: leave it out; data.hold_out keeps recordings out of training"
            )
        named = ("groups", "stimulus", "fold")
        lone = [n for n in named if getattr(self, n)] + ["gap"] * (self.gap is not None)
        if lone and not self.split:
            raise NeuroFMError(
                f"data.{lone[0]} belongs to data.split, which is empty: give it too"
            )

    @property
    def paths(self) -> tuple[str, ...]:
        """All folders of recordings."""
        return (self.path,) if isinstance(self.path, str) else self.path

    @property
    def stores(self) -> tuple[str, ...]:
        """Those, and then all folders of features and of responses."""
        features = self.features
        features = (features,) if isinstance(features, str) else features
        brains = (self.responses.path,) if self.responses.path else ()
        return self.paths + features + brains


@dataclass(frozen=True, kw_only=True)
class Train:
    """Length and rhythm of a run.

    Attributes:
      steps: optimizer steps.
      epochs: of fine-tuning, passes over the examples; `steps` follow from them, and
        every epoch is evaluated and saved. 0 takes `steps` as they are.
      batch_size: items the model sees per step, over all devices.
      accumulate: microbatches a step is split into.
      log_every, checkpoint_every: in steps.
      keep: checkpoints kept, newest first.
      collapse_share: the run stops when the variance between items falls under this
        share of its start; 0 never stops.
      track: where rows of metrics are shown as well.
    """

    steps: int = 375_000
    epochs: float = 0.0
    batch_size: int = 512
    accumulate: int = 1
    log_every: int = 50
    checkpoint_every: int = 5_000
    keep: int = 3
    collapse_share: float = 0.01
    track: Tracker | tuple[Tracker, ...] = ()

    @property
    def trackers(self) -> tuple[Tracker, ...]:
        """All of `track`."""
        return (self.track,) if isinstance(self.track, str) else self.track

    def __post_init__(self):
        for name in (
            "steps",
            "batch_size",
            "accumulate",
            "log_every",
            "checkpoint_every",
            "keep",
        ):
            if getattr(self, name) < 1:
                raise NeuroFMError(
                    f"train.{name} is {getattr(self, name)}: give 1 or more"
                )
        if self.epochs < 0:
            raise NeuroFMError(
                f"train.epochs is {self.epochs:g}: give 0 to count steps, or more"
            )
        if self.batch_size % self.accumulate:
            raise NeuroFMError(
                f"train.batch_size ({self.batch_size}) is not a multiple of "
                f"train.accumulate ({self.accumulate})"
            )


@dataclass(frozen=True, kw_only=True)
class Mesh:
    """Devices along each mesh axis.

    A `replica` of -1 is one a TPU slice, so 1 elsewhere; of the other axes one may be
    -1, all devices that are left.
    """

    replica: int = -1
    data: int = -1
    fsdp: int = 1
    tensor: int = 1


@dataclass(frozen=True, kw_only=True)
class Init:
    """Where parameters come from.

    Attributes:
      path: a MODEL whose variables are taken; empty is from scratch.
      frozen: a MODEL for each frozen name of the task; `init.frozen.tokenizer=MODEL`.
    """

    path: str = ""
    frozen: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Eval:
    """Held-out loss with fixed crops and masks.

    Attributes:
      every: in steps; 0 is never.
      crops: how many crops of the `valid` split, or fewer where it is smaller.
      metric: a metric of the task, of which more is better, such as `accuracy`.
      patience: evaluations in a row without a new best of it after which the run ends;
        0 never. Of the checkpoints, the best is kept as well.
    """

    every: int = 5_000
    crops: int = 256
    metric: str = ""
    patience: int = 0


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """Everything a run is made of."""

    task: Task
    data: Data = field(default_factory=Data)
    optim: Optim = field(default_factory=Optim)
    train: Train = field(default_factory=Train)
    mesh: Mesh = field(default_factory=Mesh)
    init: Init = field(default_factory=Init)
    eval: Eval = field(default_factory=Eval)
    seed: int = 0

    def __post_init__(self):
        _check(self, "")

    def resolved(self) -> "Experiment":
        """With the fields filled in that follow from the length of the run."""
        task: Any = self.task
        known = {f.name for f in dataclasses.fields(task)}
        follow = {"horizon": self.train.steps, "swa_epochs": self.optim.swa_epochs}
        follow = {name: value for name, value in follow.items() if name in known}
        if not follow:
            return self
        task = dataclasses.replace(task, **follow)
        return dataclasses.replace(self, task=task)


# Free to change when a run goes on; all other fields are what the run is.
PLACEMENT = (
    "mesh.",
    "task.remat",
    "task.attention",
    "eval.",
    "data.path",
    "data.features",
    "data.split",  # a run knows it by its hash, data.sides
    "data.responses.path",
    "data.noise",
    "data.rooms",
    "data.workers",
    "init.frozen",  # a checkpoint knows them by their hash
    "train.log_every",
    "train.checkpoint_every",
    "train.keep",
    "train.collapse_share",
    "train.track",
)


def load(name: str, overrides: tuple[str, ...] = ()) -> Experiment:
    """The experiment of a config file, a config name or a saved JSON, overridden."""
    path = find(name)
    if path.suffix == ".json":
        try:
            exp = from_json(json.loads(path.read_text()))
        except json.JSONDecodeError as error:
            raise NeuroFMError(f"{path} is not valid JSON ({error})") from error
    else:
        spec = importlib.util.spec_from_file_location("neurofm_config", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        if not hasattr(module, "config"):
            raise NeuroFMError(f"{path} has no function `config() -> Experiment`")
        exp = module.config()
    return override(exp, overrides).resolved()


def config_dir() -> Path:
    """Where the shipped configs lie: in the package, or beside it in a checkout."""
    packaged = Path(__file__).parent / "_configs"
    return packaged if packaged.is_dir() else Path(__file__).parents[1] / "configs"


def shipped() -> list[str]:
    """Names of the shipped configs, such as `wavjepa/base`."""
    root = config_dir()
    return sorted(str(p.relative_to(root).with_suffix("")) for p in root.rglob("*.py"))


def find(name: str) -> Place:
    """The file a CONFIG argument means."""
    path = place(name)
    if path.suffix in (".py", ".json"):
        if path.is_file():
            return path
        raise NeuroFMError(f"there is no config file {name}")
    if (named := config_dir() / f"{name}.py").is_file():
        return named
    raise NeuroFMError(
        f"there is no config {name!r}: {registry.suggest(name, shipped())}"
    )


# ---- overrides -----------------------------------------------------------------------


def override(exp: Node, overrides: tuple[str, ...]) -> Node:
    """Apply `a.b=value` settings; of two for one key the later counts.

    To an experiment, or to any other tree of frozen dataclasses.
    """
    settings = []
    for setting in overrides:
        key, equals, value = setting.partition("=")
        if not equals:
            raise NeuroFMError(
                f"{setting!r} is not a setting: write it as a.b=value, for example "
                "train.steps=1000"
            )
        settings.append(Setting(key, key.split("."), value))
    return _replaced(exp, settings)


class Setting(NamedTuple):
    """An override: its whole key, what of that lies below a node, and the value."""

    key: str
    path: list[str]
    value: str


def _replaced(node: Any, settings: list[Setting]) -> Any:
    """`node` with all settings made at once, as some fit only together."""
    hints = typing.get_type_hints(type(node))
    names = [f.name for f in dataclasses.fields(node)]
    new: dict[str, Any] = {}
    deeper: dict[str, list[Setting]] = {}
    for key, (name, *rest), value in settings:
        if name not in names:
            whole = key.split(".")
            prefix = ".".join(whole[: len(whole) - len(rest) - 1])
            known = [f"{prefix}.{n}".lstrip(".") for n in names]
            wrong = ".".join(whole[: len(whole) - len(rest)])
            raise NeuroFMError(
                f"there is no setting {key!r}: {registry.suggest(wrong, known)}"
            )
        child = new.get(name, getattr(node, name))
        if len(rest) == 1 and isinstance(child, dict):
            new[name] = {**child, rest[0]: value}
            continue
        if rest:
            if not dataclasses.is_dataclass(child):
                raise NeuroFMError(f"{key!r} goes too deep: {name} holds a plain value")
            deeper.setdefault(name, []).append(Setting(key, rest, value))
            continue
        deeper.pop(name, None)
        if dataclasses.is_dataclass(child):
            new[name] = _build(hints[name], _parse_object(value, key), key)
        else:
            new[name] = _parse(hints[name], value, key)
    for name, below in deeper.items():
        new[name] = _replaced(new.get(name, getattr(node, name)), below)
    return dataclasses.replace(node, **new)


def _parse_object(value: str, key: str) -> Any:
    try:
        return json.loads(value)
    except json.JSONDecodeError:
        raise NeuroFMError(
            f"{key} holds several settings: set one of them ({key}.name=value) or give "
            f"a JSON object, not {value!r}"
        ) from None


def _parse(hint: Any, value: str, key: str) -> Any:
    adapter = _adapter(hint)
    try:
        return adapter.validate_json(value, strict=True)
    except pydantic.ValidationError:
        pass
    try:
        return adapter.validate_python(value, strict=True)
    except pydantic.ValidationError:
        raise NeuroFMError(
            f"{key}={value} does not fit: {_type_name(hint)} was expected"
        ) from None


def _adapter(hint: Any) -> pydantic.TypeAdapter:
    return pydantic.TypeAdapter(hint, config={"allow_inf_nan": False})


def _type_name(hint: Any) -> str:
    if typing.get_origin(hint) is Literal:
        return "one of " + ", ".join(map(repr, typing.get_args(hint)))
    return getattr(hint, "__name__", str(hint)) if hint in _PLAIN else str(hint)


_PLAIN = (int, float, str, bool)


# ---- JSON ----------------------------------------------------------------------------


def to_json(exp: Any) -> dict[str, Any]:
    """A tree of plain values; a task or another config node becomes an object."""
    out: dict[str, Any] = {}
    if isinstance(getattr(type(exp), "name", None), str):
        out["name"] = type(exp).name
    for f in dataclasses.fields(exp):
        out[f.name] = _plain(getattr(exp, f.name))
    return json.loads(json.dumps(out))


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return to_json(value)
    return [_plain(v) for v in value] if isinstance(value, tuple) else value


def from_json(obj: Any) -> Experiment:
    """The experiment saved by `to_json`; unknown keys are errors."""
    return _build(Experiment, obj, "")


def task_from_json(obj: dict[str, Any]) -> Task:
    """A task saved by `to_json`."""
    return _build(Task, obj, "task")


def _build(hint: Any, obj: Any, key: str) -> Any:
    where = key or "the experiment"
    if not isinstance(obj, dict):
        raise NeuroFMError(f"{where} is {obj!r}: an object of settings was expected")
    obj = dict(obj)
    if hint is Task:
        if not isinstance(name := obj.pop("name", None), str):
            raise NeuroFMError(f"{where} has no 'name': known are {registry.names()}")
        cls: Any = registry.task_class(name)
    elif typing.get_origin(hint) in (Union, types.UnionType):
        by_kind = {c().kind: c for c in typing.get_args(hint)}
        if (kind := obj.get("kind")) not in by_kind:
            raise NeuroFMError(f"{where}.kind is {kind!r}: one of {sorted(by_kind)}")
        cls = by_kind[kind]
    else:
        cls = hint
        known = getattr(cls, "name", None)  # of a task of one certain kind
        if isinstance(known, str) and (name := obj.pop("name", known)) != known:
            raise NeuroFMError(f"{where}.name is {name!r}: {known} is needed")
    hints = typing.get_type_hints(cls)
    names = [f.name for f in dataclasses.fields(cls)]
    if unknown := [k for k in obj if k not in names]:
        raise NeuroFMError(
            f"there is no setting {f'{key}.{unknown[0]}'.lstrip('.')!r}: "
            f"{registry.suggest(unknown[0], names)}"
        )
    values = {}
    for name, value in obj.items():
        path = f"{key}.{name}".lstrip(".")
        if _is_node(hints[name]):
            values[name] = _build(hints[name], value, path)
        else:
            values[name] = _parse(hints[name], json.dumps(value), path)
    return cls(**values)


def _is_node(hint: Any) -> bool:
    if hint is Task or dataclasses.is_dataclass(hint):
        return True
    args = typing.get_args(hint)
    return (
        typing.get_origin(hint) in (Union, types.UnionType)
        and bool(args)
        and all(dataclasses.is_dataclass(a) for a in args)
    )


def _check(node: Any, key: str) -> None:
    """Every value fits its annotation, all the way down."""
    hints = typing.get_type_hints(type(node))
    for f in dataclasses.fields(node):
        value, path = getattr(node, f.name), f"{key}.{f.name}".lstrip(".")
        if dataclasses.is_dataclass(value):
            _check(value, path)
            continue
        try:
            _adapter(hints[f.name]).validate_python(value, strict=True)
        except pydantic.ValidationError:
            raise NeuroFMError(
                f"{path} is {value!r}: {_type_name(hints[f.name])} was expected"
            ) from None


# ---- differences ---------------------------------------------------------------------


def difference(old: dict[str, Any], new: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    """Identity fields that differ between two saved trees: (key, old, new).

    A field that was not there yet when `old` was saved has its default.
    """
    a, b = _flat(_completed(old)), _flat(new)
    return [
        (key, a.get(key), b.get(key))
        for key in sorted({*a, *b})
        if a.get(key) != b.get(key) and not key.startswith(PLACEMENT)
    ]


def _completed(saved: dict[str, Any]) -> dict[str, Any]:
    """With the defaults of fields that it lacks; as it is where it fits no more."""
    try:
        return to_json(from_json(saved))
    except NeuroFMError:  # what it has and is not known any more is a difference
        return saved


def _flat(obj: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in obj.items():
        if isinstance(value, dict) and value:
            out |= _flat(value, f"{prefix}{key}.")
        else:
            out[f"{prefix}{key}"] = value
    return out
