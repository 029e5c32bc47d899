"""The Task protocol: everything the trainer, embed and evaluate know of a system.

A Task is a frozen dataclass whose fields are the hyperparameters and whose methods are
pure. Variables are plain nested dicts:

    params   trained
    slow     teachers and averages, moved by `update_slow`
    buffers  codebook statistics and batch norms, moved by `update_buffers`
    frozen   other models this one leans on; never trained, referenced by hash

A field that holds another model's Task is named in `leans_on`; the variables of that
model are then in `frozen`, under the same name.

Every hook but `batch_spec`, `init`, `draw` and `loss` has a default here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Num

from neurofm.contract import BatchSpec
from neurofm.errors import NeuroFMError
from neurofm.parallel.mesh import Platform

if TYPE_CHECKING:
    from neurofm.data.records import Dataset

Tree = dict[str, Any]
Batch = Mapping[str, Array]
Terms = dict[str, tuple[Array, Array]]
Want = Literal["train", "features", "codes", "sources", "reconstruction", "prediction"]


@dataclass(frozen=True)
class Reading:
    """What a model says of one batch.

    Attributes:
      values: name of a layer or output -> `[B, T, D]`; codes are whole numbers.
      times_s: token centres in seconds from the start of the input, `[B, T]`.
      mask: True where a token describes input rather than padding, `[B, T]`.
    """

    values: dict[str, Num[Array, "B T D"]]
    times_s: Float[Array, "B T"]
    mask: Bool[Array, "B T"]


@runtime_checkable
class Task(Protocol):
    """One published system as pure functions; see the module docstring."""

    name: ClassVar[str]
    batch_coupled: ClassVar[bool] = False
    leans_on: ClassVar[tuple[str, ...]] = ()
    torch_twin: ClassVar[str] = ""  # module:class, see `neurofm.twin`

    def batch_spec(self, want: Want = "train") -> BatchSpec:
        """Fields, shapes, units and input contract of the batch for `want`.

        Every batch also carries `index` (int32, position in the step) and `valid`
        (bool: False marks a filler row, which weighs nothing).
        """
        ...

    def init(self, key: jax.Array, batch: Batch, frozen: Tree) -> Tree:
        """Fresh `{params, slow, buffers}`; must work under `jax.eval_shape`."""
        ...

    def draw(self, batch: Batch, key: jax.Array, step: Array, train: bool) -> Tree:
        """All randomness of a step; all but the subtree `step` has the batch axis."""
        ...

    def loss(
        self, variables: Tree, batch: Batch, draws: Tree, step: Array, train: bool
    ) -> tuple[Terms, Tree]:
        """Terms `{name: (sum, weight)}`, divided globally, and sums that only add."""
        ...

    def total(self, means: dict[str, Array]) -> Array:
        """What training lowers, from the global mean of every term; their sum."""
        return sum(means.values(), jnp.zeros(()))

    def summary(self, sums: Tree) -> dict[str, Array]:
        """Metrics that do not add (variance, rank, perplexity), from the total sums."""
        del sums
        return {}

    def update_buffers(self, buffers: Tree, sums: Tree, step: Array) -> Tree:
        """Move `buffers` once a step by the total of `sums`."""
        del sums, step
        return buffers

    def project(self, params: Tree, step: Array) -> Tree:
        """Clamp parameters after the optimizer."""
        del step
        return params

    def update_slow(
        self, slow: Tree, old_params: Tree, new_params: Tree, step: Array
    ) -> Tree:
        """Move teachers and averages at the end of step `step`."""
        del old_params, new_params, step
        return slow

    def inference(self, variables: Tree) -> Tree:
        """The variables one uses: evaluation, read and export start here."""
        return variables

    def read(self, variables: Tree, batch: Batch, want: Want = "features") -> Reading:
        """Features per layer with their times."""
        ...

    def features(
        self, variables: Tree, batch: Batch, draws: Tree, train: bool
    ) -> Reading:
        """What `read` says, in training with dropout: what a head is put on."""
        del draws, train
        return self.read(variables, batch)

    def fitted(self, datasets: Sequence["Dataset"]) -> "Task":
        """This task with the sizes that follow from the data of a run filled in.

        Called before anything is made of it; a size that was given and that the data
        contradict is an error. Default: this task as it is.
        """
        del datasets
        return self

    def refitted(self, trained: "Task") -> "Task":
        """This task at the sizes of a trained model, for `finetune` without a head.

        How it is trained stays; the run's data fill in the rest, see `fitted`.

        Raises:
          NeuroFMError: the default; a system that can be fitted so says how.
        """
        del trained
        raise NeuroFMError(
            f"this config trains {self.name}: finetune takes one whose task is a "
            "Finetune, such as brainomni/finetune, or tribe/new_subjects"
        )

    def taken_over(self, trained: "Task", variables: Tree) -> Tree:
        """What a run of this task starts from, of the model that `init.path` names.

        Default: its variables as they are.
        """
        del trained
        return variables

    def shortened(self, n_samples: int) -> "Task":
        """This task for recordings of at most `n_samples`, which `embed` has many of.

        Its window holds `n_samples` and is no longer than this task's own; `read` gives
        the same tokens. Default: this task as it is.
        """
        del n_samples
        return self

    def for_platform(self, target: Platform) -> "Task":
        """This task as it runs on `target`, whatever a platform decides decided."""
        del target
        return self

    def sized(self, batch: Mapping[str, Any]) -> "Task":
        """This task at the sizes of a training batch, where a run has several.

        What `flops` counts for that step. `batch` may hold arrays or
        `jax.ShapeDtypeStruct`. Default: this task as it is.
        """
        del batch
        return self

    def savings(self) -> tuple[str, ...]:
        """Overrides that keep less for the backward pass, mildest first; same losses.

        What a plan tries for a step that does not fit.
        """
        return ()

    def rules(self) -> tuple[tuple[str, tuple[str | None, ...]], ...]:
        """Sharding rules (path regex, logical axes), tried before the shared ones."""
        return ()

    def flops(self, batch_size: int) -> float:
        """Analytic floating-point operations of one training step."""
        ...
