"""A trained model: its Task, its variables, and the folder that carries both.

A model folder holds

    config.json        {"task": {"name", ...}, "contract": {...}, "meta": {...},
                        "sha256": {"params": ..., "slow": ...}}
    model.safetensors  every array by its path, `params/encoder/blocks_00/...`
    README.md          a card

and is what `neurofm import` and `neurofm export` write. Layers that the network scans
over lie stacked in memory, under the name `blocks`, and one by one in the file.
"""

import functools
import json
import os
import shlex
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
import safetensors.numpy
from jax.sharding import NamedSharding, PartitionSpec

from neurofm import config, stores
from neurofm.contract import InputContract
from neurofm.errors import NeuroFMError
from neurofm.parallel.mesh import make as make_mesh
from neurofm.task import Task, Tree, Want
from neurofm.weights import leaves
from neurofm.weights.files import read_tensors

if TYPE_CHECKING:
    from data_pipelines.meeg.settings import Settings
    from neurofm.data.sensors import Sensors
    from neurofm.embedding.encode import Layers
    from neurofm.embedding.rebuild import Rebuilt


@dataclass(frozen=True, eq=False)
class Model:
    """A model as `load` returns it.

    Attributes:
      task: the system and its sizes.
      variables: `{params, slow, buffers}` as numpy arrays, and `frozen` where the task
        leans on other models.
      meta: where it comes from: source, step, config, pretrained_on, as far as known.
    """

    task: Task
    variables: Tree
    meta: dict[str, Any] = field(default_factory=dict)

    def __sklearn_clone__(self) -> "Model":
        """Itself: clones of an `Embedder` share its arrays, as none changes them."""
        return self

    @property
    def contract(self) -> InputContract:
        """What the model's input must be."""
        return self.task.batch_spec("features").contract

    @property
    def subjects(self) -> tuple[str, ...]:
        """Names of those that the model has a map of their own for."""
        field = self.task.batch_spec("features").fields.get("subject")
        return () if field is None else field.words

    @functools.cached_property
    def mesh(self) -> jax.sharding.Mesh:
        """All devices of this process, for data parallelism."""
        return make_mesh(config.Mesh(), jax.local_devices())

    @functools.cached_property
    def inference(self) -> Tree:
        """The variables one uses, whole on each of this process's devices."""
        whole = NamedSharding(self.mesh, PartitionSpec())
        return jax.device_put(self.task.inference(self.variables), whole)

    @functools.cached_property
    def layers(self) -> tuple[str, ...]:
        """Names of the layers that `embed` can give."""
        return self.outputs("features")

    def outputs(self, want: Want) -> tuple[str, ...]:
        """Names of what the model reads for `want`."""
        batch = abstract_batch(self.task, 1, want)
        values = jax.eval_shape(
            lambda v, b: self.task.read(v, b, want).values, self.inference, batch
        )
        return tuple(sorted(values))

    def embed(
        self,
        x: Any,
        sfreq: float | None = None,
        info: Any = None,
        *,
        want: Want = "features",
        layers: "Layers" = ("last",),
        pool: str = "none",
        window_s: float | None = None,
        overlap_s: float = 0.0,
        times: str = "centers",
        batch_size: int = 16,
        settings: "Settings | None" = None,
        subject: str | None = None,
    ) -> Any:
        """Embeddings of recordings given as arrays, files or objects of MNE.

        Args:
          x: of sound, samples (N,), (C, N) or (N, C), told apart by C being 100 at
            most, or the path of a file; integers are read as full scale. Of EEG and
            MEG, samples (C, N) or (epochs, C, N) in V, T and T/m, the path of a file,
            or an `mne.io.Raw`, `mne.Epochs` or `mne.Evoked`; what lies in memory is
            resampled where its rate is another, and taken as it is otherwise. Of
            intracranial recordings, samples (C, N) in V, or an `mne.io.Raw`, at the
            model's rate and with its reference. Or a list of these.
          sfreq: sampling rate of arrays in Hz; all others bring their own.
          info: sensors of arrays of EEG and MEG: an `mne.Info`, a list of MNE's
            channels (`chs_info`), or `Sensors`.
          want: `features`; the tokenizer's `codes`, (T, sources x levels); or latent
            `sources`, (T, sources x width), with how much each looks at each sensor,
            `topography` (T, sources x sensors), whose mean over T is its map.
          layers: names or numbers of layers, `last`, or `all`.
          pool: `none`, or `mean` over a recording's tokens.
          window_s: seconds the model sees at once; default all that it can.
          overlap_s: seconds that neighbouring windows share.
          times: token `centers`, or the `released` left edges.
          batch_size: windows encoded at once.
          settings: how EEG and MEG is read: `data_pipelines.meeg.settings.Settings`,
            such as a montage and a unit.
          subject: whose intracranial recording it is, where the model knows several.

        Returns:
          A Reading of numpy arrays, (T, D) a layer, T = 1 where pooled; for a list of
          inputs, the list of their readings; and for epochs one each, with times from
          the event. A model of one electrode reads each channel by itself: (T, C D),
          the D values of every channel side by side.

        Raises:
          NeuroFMError: an input that this model cannot take, and why.
        """
        from neurofm.embedding import electrodes, encode, inputs

        whose = 0
        if subject is not None or self.contract.kind == "ieeg":
            whose = electrodes.number(self.subjects, subject)
        given, one = inputs.take_all(self.contract, x, sfreq, info, settings, whose)
        readings = encode.embed_given(
            self,
            given,
            want=want,
            layers=layers,
            pool=pool,
            window_s=window_s,
            overlap_s=overlap_s,
            times=times,
            batch_size=batch_size,
        )
        return readings[0] if one else readings

    def reconstruct(
        self,
        x: Any,
        sfreq: float | None = None,
        info: Any = None,
        *,
        at: "Sensors | str | None" = None,
        hide: Sequence[str] = (),
        batch_size: int = 16,
        settings: "Settings | None" = None,
    ) -> "Rebuilt":
        """A recording of EEG or MEG as the model rebuilds it, in V, T and T/m.

        Channels marked bad are not shown to the model, and so are filled in.

        Args:
          x, sfreq, info: one recording, see `embed`.
          at: `Sensors`, or a montage by MNE's name, to be rebuilt in place of the
            recording's own.
          hide: channels that are not shown either.
          batch_size: segments at once.
          settings: see `embed`.

        Raises:
          NeuroFMError: see `embed` and `embedding.rebuild.rebuild`.
        """
        from neurofm.embedding import inputs, meeg, rebuild

        if self.contract.kind == "meeg":
            settings = settings or meeg.settings_for(self.contract)
            settings = replace(settings, bads="keep")
        given, single = inputs.take_all(self.contract, x, sfreq, info, settings)
        if not single:
            raise NeuroFMError(
                "several recordings, or epochs, were given to be rebuilt: give one"
            )
        return rebuild.rebuild(self, given[0], frozenset(hide), at, batch_size)


def save(
    folder: str | os.PathLike,
    task: Task,
    variables: Tree,
    meta: dict[str, Any],
    more: Mapping[str, str] | None = None,
    last: Callable[[Path], None] | None = None,
) -> None:
    """Write a model folder: whole, or not at all.

    Args:
      more: text files by name.
      last: called with the folder before it appears; what it raises leaves nothing.

    Raises:
      NeuroFMError: `folder` exists and is neither empty nor a model folder.
    """
    folder = Path(folder)
    if folder.exists() and not (_is_model_folder(folder) or _is_empty(folder)):
        raise NeuroFMError(
            f"{folder} exists and is not a model folder, so nothing was written: "
            "choose another --out"
        )
    described = {
        "task": config.to_json(task),
        "contract": asdict(task.batch_spec("features").contract),
        "meta": meta,
        "sha256": _digests(variables),
    }
    texts = {
        "config.json": json.dumps(described, indent=1) + "\n",
        "README.md": _card(task, variables, meta),
        **(more or {}),
    }
    arrays = {n: np.ascontiguousarray(x) for n, x in leaves.named(variables)}
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(
        prefix=f".{folder.name}.", dir=folder.parent
    ) as draft:
        new = Path(draft, "new")
        new.mkdir()
        for name, text in texts.items():
            (new / name).write_text(text)
        safetensors.numpy.save_file(arrays, new / "model.safetensors")
        # As any new file: safetensors would keep it to its owner.
        shutil.copymode(new / "config.json", new / "model.safetensors")
        if last is not None:
            last(new)
        if folder.exists():
            folder.rename(Path(draft, "old"))
        new.rename(folder)


def _digests(variables: Tree) -> dict[str, str]:
    """A hash of each collection that holds anything; see `leaves.params_sha256`."""
    return {
        name: leaves.params_sha256(tree) for name, tree in variables.items() if tree
    }


def _is_empty(path: stores.Place) -> bool:
    return path.is_dir() and not any(path.iterdir())


def _is_model_folder(path: stores.Place) -> bool:
    return (path / "config.json").is_file() and (path / "model.safetensors").is_file()


def _card(task: Task, variables: Tree, meta: dict[str, Any]) -> str:
    contract = task.batch_spec("features").contract
    window = contract.window_samples / contract.sfreq
    facts = {
        "input": f"{contract.kind}, {contract.n_chans} channel(s), {contract.unit}",
        "sampling rate": f"{contract.sfreq:g} Hz",
        "window": f"{window:.4g} s",
        "one token every": f"{1000 * contract.hop_samples / contract.sfreq:.4g} ms",
        "parameters": f"{leaves.n_params(variables['params']):,}",
        "params sha256": leaves.params_sha256(variables["params"]),
        **{k: meta[k] for k in ("source", "step") if k in meta},
    }
    rows = "".join(f"| {name} | {value} |\n" for name, value in facts.items())
    return (
        f"---\nlibrary_name: neurofm\n---\n\n# {task.name}\n\n|  |  |\n|---|---|\n"
        f"{rows}"
        "\n```python\nimport neurofm\n\n"
        'reading = neurofm.load("this/folder").embed(samples, sfreq=16000)\n```\n'
    )


def load(path: str | os.PathLike) -> Model:
    """Load a run's workdir, a checkpoint step, or a model folder.

    Raises:
      NeuroFMError: there is no model at `path`, or a damaged one.
    """
    path = stores.place(path)
    if _is_model_folder(path):
        return _load_folder(path)
    _refuse_unsaved(path.parent if path.name == "checkpoints" else path)
    if (path / "checkpoints").is_dir():
        return _load_checkpoint(path / "checkpoints")
    if path.is_dir() and "checkpoints" in (path.name, path.parent.name):
        return _load_checkpoint(path)
    what = "holds no model" if path.is_dir() else "is not a folder"
    raise NeuroFMError(
        f"{path} {what}: give a run's workdir (config.json and checkpoints/), a "
        "checkpoint step, or an imported or exported folder (config.json and "
        "model.safetensors)"
    )


def _refuse_unsaved(run: stores.Place) -> None:
    """Say so where `run` is a run's workdir that a stop came to before its first save.

    Raises:
      NeuroFMError: it is.
    """
    is_run = (run / "config.json").is_file() and (run / "env.json").is_file()
    if is_run and not any(p.name.isdecimal() for p in run.glob("checkpoints/*")):
        saved, workdir = shlex.quote(str(run / "config.json")), shlex.quote(str(run))
        raise NeuroFMError(
            f"{run} is a run without a checkpoint yet, so there is no model in it: go "
            f"on with `neurofm pretrain {saved} --workdir {workdir}` until it has saved"
        )


def _load_folder(path: stores.Place) -> Model:
    try:
        described = json.loads((path / "config.json").read_text())
        task = config.task_from_json(described["task"])
        contract = InputContract.from_json(described["contract"])
        meta = {"source": str(path), **described["meta"]}
        digests = dict(described["sha256"])
    except (ValueError, KeyError, TypeError) as error:
        raise NeuroFMError(
            f"{path}/config.json does not describe a model ({error}): import or export "
            "the model again"
        ) from error
    variables = leaves.nested(read_tensors(path / "model.safetensors"))
    empty: Tree = {"params": {}, "slow": {}, "buffers": {}}  # are in no file
    variables = {**empty, **variables}
    if "frozen" in variables:
        held = variables["frozen"].items()
        variables["frozen"] = {name: {**empty, **own} for name, own in held}
    model = Model(task, variables, meta)
    if contract != model.contract:
        raise NeuroFMError(
            f"{path}/config.json gives an input contract that its task does not have: "
            "it was changed by hand; import or export the model again"
        )
    check_arrays(path, model)
    found = _digests(variables)
    if changed := [n for n in digests | found if digests.get(n) != found.get(n)]:
        raise NeuroFMError(
            f"{path}/model.safetensors is not what was saved with its config.json (the "
            f"sha256 of {' and '.join(changed)} differs), so it is damaged or of "
            "another model: copy the folder again, or import or export the model again"
        )
    return model


def _load_checkpoint(path: stores.Place) -> Model:
    from neurofm.checkpoint import restore_params  # orbax takes seconds to import

    variables, meta = restore_params(path)
    try:
        task = config.task_from_json(meta["config"]["task"])
    except (KeyError, TypeError) as error:
        raise NeuroFMError(
            f"the checkpoint {path} does not name its task ({error}): "
            "it was not written by `neurofm pretrain`"
        ) from error
    if task.leans_on:
        variables["frozen"] = _frozen_again(path, task, meta.get("frozen", {}))
    known = {"source": str(path), "pretrained_on": meta.get("datasets")}
    if path.name.isdecimal():
        known["step"] = int(path.name)
    model = Model(task, variables, {**known, **meta})
    check_arrays(path, model)
    return model


def load_frozen(name: str, path: str | os.PathLike) -> tuple[Model, Tree, str]:
    """A model that another leans on as `name`: it, its variables in use, their hash.

    Raises:
      NeuroFMError: there is no model at `path`, or a damaged one.
    """
    try:
        model = load(path)
    except NeuroFMError as error:
        raise NeuroFMError(f"init.frozen.{name}: {error}") from error
    variables = model.task.inference(model.variables)
    return model, variables, leaves.params_sha256(variables)


def _frozen_again(path: stores.Place, task: Task, known: dict[str, Any]) -> Tree:
    """The models that a checkpoint names, the very ones it was trained with."""
    frozen = {}
    for name in task.leans_on:
        if name not in known:
            raise NeuroFMError(
                f"the checkpoint {path} does not name its frozen model {name!r}: it "
                "was not written by `neurofm pretrain`"
            )
        where = known[name]["path"]
        _, frozen[name], digest = load_frozen(name, where)
        if digest != known[name]["sha256"]:
            raise NeuroFMError(
                f"{where} is not the {name} that {path} was trained with (its sha256 "
                "differs): put that model back there"
            )
    return frozen


def check_arrays(path: str | os.PathLike, model: Model) -> None:
    """The arrays are the ones the task has; parts used in training only may lack.

    Raises:
      NeuroFMError: they are not, and where the first difference lies.
    """
    task = model.task
    whole = abstract_variables(task)
    needed = _shapes(task.inference(whole))
    known, held = _shapes(whole), _shapes(model.variables)
    wrong = sorted(n for n in held if known.get(n) != held[n])
    if missing := sorted(n for n in needed if n not in held):
        raise NeuroFMError(
            f"{path} lacks {len(missing)} arrays of {task.name} ({missing[0]}, ...): "
            "import or export the model again"
        )
    if wrong:
        name = wrong[0]
        raise NeuroFMError(
            f"{path} holds {name} of shape {held[name]} where its config has "
            f"{known.get(name, 'no such array')} ({len(wrong)} such arrays): import or "
            "export the model again"
        )


def abstract_variables(task: Task) -> Tree:
    """Shapes and dtypes of a task's fresh variables, `frozen` included if it leans."""
    frozen = abstract_frozen(task)
    key = jax.eval_shape(lambda: jax.random.key(0))
    whole = jax.eval_shape(task.init, key, abstract_batch(task, 1), frozen)
    return {**whole, "frozen": frozen} if frozen else whole


def abstract_frozen(task: Task) -> Tree:
    """Shapes and dtypes of the models in use that a task leans on, by name."""
    parts: dict[str, Task] = {name: getattr(task, name) for name in task.leans_on}
    return {
        name: jax.eval_shape(part.inference, abstract_variables(part))
        for name, part in parts.items()
    }


def _shapes(tree: Tree) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {"/".join(e.key for e in path): x.shape for path, x in leaves}


def abstract_batch(
    task: Task, n: int, want: Want = "features"
) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes and dtypes of a batch of `n` items for `want`."""
    fields = task.batch_spec(want).fields
    batch = {
        name: jax.ShapeDtypeStruct((n, *f.shape), f.dtype) for name, f in fields.items()
    }
    return {
        **batch,
        "index": jax.ShapeDtypeStruct((n,), "int32"),
        "valid": jax.ShapeDtypeStruct((n,), "bool"),
    }
