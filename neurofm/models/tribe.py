"""TRIBE: predict the fMRI of many subjects from features of what they see and hear.

Frozen features of text, audio and video on one grid in time; a linear map of each; a
pre-norm transformer over time; the mean over the steps of each fMRI sample; a linear
head for every subject.

Sources: v1, arXiv 2507.22229 and facebookresearch/algonauts-2025; v2, arXiv 2605.04326
and facebookresearch/tribev2. The code is followed where a paper differs.

Axes: B examples, M modalities, L layer groups, D feature width, T feature steps, E
width, P outputs (parcels, vertices), N fMRI samples, S subjects.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from neurofm import averaging
from neurofm.contract import BatchSpec, Field, InputContract
from neurofm.data.brains import facts
from neurofm.data.records import Dataset
from neurofm.errors import NeuroFMError
from neurofm.models import tribe_subjects, tribe_weights
from neurofm.nn.apply import apply
from neurofm.nn.attention import Attention
from neurofm.nn.blocks import Remat, remat_savings
from neurofm.nn.linear import Linear, torch_uniform
from neurofm.nn.positions import Rotary
from neurofm.nn.precision import Precision, compute_dtype, decided
from neurofm.nn.prenorm import PreNormTransformer
from neurofm.nn.subjects import subject_head
from neurofm.objectives import responses
from neurofm.parallel.mesh import Platform
from neurofm.parallel.sharding import constrain
from neurofm.signals.pooling import adaptive_average
from neurofm.task import Batch, Reading, Task, Terms, Tree, Want


@dataclass(frozen=True, kw_only=True)
class Modality:
    """One stream of features.

    Attributes:
      layers, width: groups of layers, and the width of each; 0 is a modality that
        takes its part of the width and has no features, as v1 may have.
    """

    name: str
    layers: int
    width: int


TEXT_AUDIO_VIDEO = (
    Modality(name="text", layers=2, width=3072),
    Modality(name="audio", layers=2, width=1024),
    Modality(name="video", layers=2, width=1408),
)


@dataclass(frozen=True, kw_only=True)
class Tribe(Task):
    """Predicted responses; the defaults are v1 as published.

    Attributes:
      modalities: in the order in which their projections are put together.
      subjects: names of the rows of the head.
      n_outputs: parcels or vertices.
      feature_steps, output_steps: of a window: features, and fMRI samples.
      feature_sfreq: of the grid of features, in Hz.
      tr_s: seconds from one fMRI sample to the next.
      shift_s: seconds by which a response follows what evoked it.
      width, depth, heads: of the transformer.
      max_steps: learned absolute positions, `feature_steps` or more.
      rotary: how features are paired for rotation: `half`, or `interleaved` as newer
        x_transformers have it.
      rotary_width: features of a head that are rotated; 0 is half of them.
      layer_aggregation: layer groups are concatenated (`cat`) or averaged (`mean`).
      feature_aggregation: projections share the width (`cat`) or are summed (`sum`).
      combiner: one more linear map after that.
      smoothing: width of a kernel that smooths each feature in time, odd; 0 is none.
      smoothing_sigma: of its Gaussian, in steps.
      smoothing_trained: train that kernel, as the released code does against its own
        setting.
      subject_embedding: add a learned vector of the subject to every step.
      low_rank: width of a map without bias before the head; 0 is none.
      unseen_subject: a last row in the head that stands for nobody in particular.
      subject_dropout: in training, how often that row is taken for an example.
      average_subjects: take that row for every example whenever not in training.
      modality_dropout: in training, how often a modality is hidden, bias and all.
      modality_dropout_by: drawn once a `batch` (v1) or for every `example` (v2).
      keep_one: where all modalities would be hidden one is kept; v2 as released has
        none of that.
      temporal_dropout: in training, how often a step of the features is hidden.
      loss_kind: see `objectives.responses.loss`.
      out_of_run: targets outside the run or missing are `dropped` from the loss, or
        count as `zeros`, as v1 was released.
      trained: `all`, or the table of subjects alone (`head`), for new subjects; give
        no weight decay then.
      pool: steps are averaged `before_head`, or `after_head` as released: the same
        result, as both are linear.
      swa_epochs: epochs of a run that averages weights as v1 did, see
        `neurofm.averaging`; filled from `optim.swa_epochs`.
      horizon: steps of the run, filled from `train.steps`.
      remat, attention: as in `nn.blocks.Transformer`.
    """

    name: ClassVar[str] = "tribe"

    modalities: tuple[Modality, ...] = TEXT_AUDIO_VIDEO
    subjects: tuple[str, ...] = ("sub-01", "sub-02", "sub-03", "sub-05")
    n_outputs: int = 1000
    feature_steps: int = 298
    output_steps: int = 100
    feature_sfreq: float = 2.0
    tr_s: float = 1.49
    shift_s: float = 4.47
    width: int = 3072
    depth: int = 8
    heads: int = 8
    max_steps: int = 1024
    rotary: Rotary = "half"
    rotary_width: int = 0
    layer_aggregation: Literal["cat", "mean"] = "cat"
    feature_aggregation: Literal["cat", "sum"] = "cat"
    combiner: bool = False
    smoothing: int = 0
    smoothing_sigma: float = 1.0
    smoothing_trained: bool = False
    subject_embedding: bool = False
    low_rank: int = 0
    unseen_subject: bool = False
    subject_dropout: float = 0.0
    average_subjects: bool = False
    modality_dropout: float = 0.3
    modality_dropout_by: Literal["batch", "example"] = "batch"
    keep_one: bool = True
    temporal_dropout: float = 0.0
    loss_kind: responses.Loss = "mse"
    out_of_run: Literal["dropped", "zeros"] = "dropped"
    trained: Literal["all", "head"] = "all"
    pool: Literal["before_head", "after_head"] = "before_head"
    swa_epochs: int = 0
    horizon: int = 0
    precision: Precision = "auto"
    remat: Remat = "none"
    attention: Attention = "auto"

    def __post_init__(self):
        names = [m.name for m in self.modalities]
        if len(set(names)) != len(names) or not any(m.layers for m in self.modalities):
            raise NeuroFMError(
                f"task.modalities are {names}: give one or more with features, each "
                "under its own name"
            )
        if self.width % (2 * self.heads):
            raise NeuroFMError(
                f"task.width is {self.width} with task.heads {self.heads}: give a "
                "multiple of twice the heads"
            )
        cut = self.feature_aggregation == "cat" and not self.combiner
        if cut and self.width % len(names):
            raise NeuroFMError(
                f"task.width is {self.width}, which {len(names)} modalities cannot "
                "share evenly: give a multiple, task.combiner=true, or "
                "task.feature_aggregation=sum"
            )
        if self.rotated % 2 or self.rotated > self.width // self.heads:
            raise NeuroFMError(
                f"task.rotary_width is {self.rotated}: give an even number, "
                f"{self.width // self.heads} at most, the width of a head"
            )
        if self.feature_steps > self.max_steps:
            raise NeuroFMError(
                f"task.feature_steps is {self.feature_steps}: there are positions for "
                f"{self.max_steps}, see task.max_steps"
            )
        if self.smoothing and self.smoothing % 2 == 0:
            raise NeuroFMError(
                f"task.smoothing is {self.smoothing}: give an odd number of steps, or 0"
            )
        if not self.unseen_subject and (self.subject_dropout or self.average_subjects):
            raise NeuroFMError(
                "task.subject_dropout and task.average_subjects take the row of the "
                "unseen subject: set task.unseen_subject=true"
            )
        if not self.subjects and not self.unseen_subject:
            raise NeuroFMError(
                "task.subjects names nobody: give one or more, or "
                "task.unseen_subject=true"
            )

    def fitted(self, datasets: Sequence[Dataset]) -> "Tribe":
        """With the modalities, subjects, outputs and rates of fMRI and feature stores.

        Modalities that are known keep their order; the length of a window in seconds
        stays that of `output_steps` volumes.
        """
        found = facts(datasets)
        known = [m.name for m in self.modalities if m.name in found.modalities]
        names = [*known, *(n for n in found.modalities if n not in known)]
        sizes = {name: found.modalities[name] for name in names}
        seconds = self.output_steps * found.tr_s
        return replace(
            self,
            modalities=tuple(
                Modality(name=name, layers=layers, width=width)
                for name, (layers, width) in sizes.items()
            ),
            subjects=found.subjects,
            n_outputs=len(found.regions),
            feature_steps=round(seconds * found.sfreq),
            feature_sfreq=found.sfreq,
            tr_s=found.tr_s,
        )

    def refitted(self, trained: Task) -> "Tribe":
        """At the sizes of a trained TRIBE, to be fitted to new subjects."""
        return tribe_subjects.refitted(self, trained)

    def taken_over(self, trained: Task, variables: Tree) -> Tree:
        """A trained TRIBE with rows for the subjects of this one."""
        return tribe_subjects.taken_over(self, trained, variables)

    # ---- sizes ----------------------------------------------------------------------

    @property
    def batch_coupled(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Whether the loss correlates over all examples of a batch."""
        return self.loss_kind == "pearson"

    @property
    def rows(self) -> int:
        """Rows of the subject table; the unseen subject is the last."""
        return len(self.subjects) + self.unseen_subject

    @property
    def rotated(self) -> int:
        """Features of a head that are rotated."""
        return self.rotary_width or self.width // self.heads // 2

    @property
    def part(self) -> int:
        """Width of one modality's projection."""
        if self.feature_aggregation == "sum":
            return self.width
        return self.width // len(self.modalities)

    @property
    def head_width(self) -> int:
        """Width of what the head is put on."""
        return self.low_rank or self.width

    def projected(self) -> dict[str, int]:
        """Input width of every projector."""
        cat = self.layer_aggregation == "cat"
        return {
            m.name: m.width * (m.layers if cat else 1)
            for m in self.modalities
            if m.layers
        }

    def batch_spec(self, want: Want = "train") -> BatchSpec:
        """Features of each modality and the row of the subject; fMRI for training.

        `features/present` is False for a modality that an example lacks. Under a False
        `fmri/mask` lies no sample of the run.
        """
        fields = {
            f"features/{m.name}": Field(
                shape=(m.layers, m.width, self.feature_steps),
                axes=("layer", "feature", "sample"),
            )
            for m in self.modalities
            if m.layers
        }
        fields |= {
            "features/present": Field(
                shape=(len(self.modalities),), axes=("modality",), dtype="bool"
            ),
            "subject": Field(shape=(), axes=(), dtype="int32", words=self.subjects),
        }
        if want == "train":
            shape, axes = (self.n_outputs, self.output_steps), ("output", "sample")
            timed = partial(Field, sfreq=1 / self.tr_s, delay_s=self.shift_s)
            fields |= {
                "fmri/bold": timed(shape=shape, axes=axes),
                "fmri/mask": timed(shape=shape, axes=axes, dtype="bool"),
            }
        return BatchSpec(
            fields=fields,
            contract=InputContract(
                kind="features",
                sfreq=self.feature_sfreq,
                unit="none",
                n_chans=sum(m.layers * m.width for m in self.modalities),
                window_samples=self.feature_steps,
                hop_samples=1,
                receptive_samples=self.feature_steps,
            ),
        )

    # ---- parts ----------------------------------------------------------------------

    @property
    def _dtype(self) -> jnp.dtype:
        return compute_dtype(self.precision)

    def _encoder(self) -> PreNormTransformer:
        return PreNormTransformer(
            self.depth,
            self.heads,
            self.rotary,
            self.rotated,
            remat=self.remat,
            attention=self.attention,
            dtype=self._dtype,
        )

    def _linear(self, n_in: int, n_out: int, use_bias: bool = True) -> Linear:
        init = torch_uniform(n_in)
        return Linear((n_out,), kernel_init=init, use_bias=use_bias, dtype=self._dtype)

    def init(self, key: jax.Array, batch: Batch, frozen: Tree) -> Tree:
        """Fresh weights; positions, subject vectors and head are normal."""
        del batch, frozen
        keys = jax.random.split(key, 7)

        def linear(key, n_in: int, n_out: int, use_bias: bool = True) -> Any:
            layer = self._linear(n_in, n_out, use_bias)
            return layer.init(key, jnp.zeros((1, n_in)))["params"]

        sizes, steps = self.projected(), jnp.zeros((1, self.feature_steps, self.width))
        own = zip(jax.random.split(keys[0], len(sizes)), sizes.items(), strict=True)
        e, d, p = self.width, self.head_width, self.n_outputs
        params = {
            "projectors": {name: linear(k, n, self.part) for k, (name, n) in own},
            "positions": jax.random.normal(keys[1], (self.max_steps, e)),
            "encoder": self._encoder().init(keys[2], steps, None)["params"],
            "subjects": {
                "kernel": jax.random.normal(keys[3], (self.rows, d, p)) * d**-0.5,
                "bias": jax.random.normal(keys[4], (self.rows, p)) * d**-0.5,
            },
        }
        if self.combiner:
            n_in = self.part * (
                len(self.modalities) if self.feature_aggregation == "cat" else 1
            )
            params["combiner"] = linear(keys[5], n_in, e)
        if self.subject_embedding:
            params["subject_embedding"] = jax.random.normal(keys[6], (self.rows, e))
        if self.low_rank:
            params["low_rank"] = linear(
                jax.random.fold_in(key, 7), e, self.low_rank, False
            )
        buffers = {}
        if self.smoothing:
            home = params if self.smoothing_trained else buffers
            home["smoothing"] = gaussian(self.smoothing, self.smoothing_sigma, e)
        slow = averaging.start(params) if self.swa_epochs else {}
        return {"params": params, "slow": slow, "buffers": buffers}

    # ---- one training step ----------------------------------------------------------

    def draw(self, batch: Batch, key: jax.Array, step: Array, train: bool) -> Tree:
        """Which modalities and steps are seen, and whose head is used.

        Without `train` all of them, and each example's own.
        """
        del step
        present, subject = batch["features/present"], batch["subject"]
        if not train:
            subject = self.subject_rows(subject)
        there = jnp.array([m.layers > 0 for m in self.modalities])
        rows = jax.vmap(partial(jax.random.fold_in, key))(batch["index"])
        shared = self.modality_dropout_by == "batch"

        def one(
            row_key: Array, present: Bool[Array, " M"], subject: Int[Array, ""]
        ) -> Tree:
            key_hide, key_step, key_subject = jax.random.split(row_key, 3)
            if shared:  # the same for every row, whatever it has
                key_hide = jax.random.fold_in(key, 2**31 - 1)  # no index is that large
            can = there if shared else there & present
            seen = self.kept_modalities(key_hide, can, train)
            share = self.temporal_dropout if train else 0.0
            steps = jax.random.bernoulli(key_step, 1 - share, (self.feature_steps,))
            rate = self.subject_dropout if train else 0.0
            anyone = jax.random.bernoulli(key_subject, rate)
            return {
                "modalities": seen,
                "steps": steps,
                "subject": jnp.where(anyone, self.rows - 1, subject),
            }

        return jax.vmap(one)(rows, present, subject)

    def kept_modalities(
        self, key: jax.Array, there: Bool[Array, " M"], train: bool
    ) -> Bool[Array, " M"]:
        """Modalities that dropout leaves, at least one of those there if `keep_one`."""
        key_hide, key_keep = jax.random.split(key)
        share = self.modality_dropout if train else 0.0
        seen = jax.random.bernoulli(key_hide, 1 - share, there.shape)
        if not self.keep_one:
            return seen
        order = jnp.where(there, jax.random.uniform(key_keep, there.shape), -1.0)
        last = jnp.arange(len(there)) == order.argmax()
        return jnp.where((seen & there).any(), seen, last)

    def loss(
        self, variables: Tree, batch: Batch, draws: Tree, step: Array, train: bool
    ) -> tuple[Terms, Tree]:
        """Error of the predicted responses, and what adds up to their correlations.

        In evaluation correlations are kept by subject.
        """
        del step
        x, _ = self.encoded(variables, batch, draws)
        predicted = self.predicted(variables["params"], x, draws["subject"])
        target, mask = self.targets(batch)
        terms = {
            self.loss_kind: responses.loss(predicted, target, mask, self.loss_kind)
        }
        if train:
            group = jnp.ones((len(mask), 1))
        else:
            group = jax.nn.one_hot(batch["subject"], self.rows)
        found = jax.lax.stop_gradient(predicted)
        return terms, responses.correlation_sums(found, target, mask, group)

    def targets(
        self, batch: Batch
    ) -> tuple[Float[Array, "B N P"], Bool[Array, "B N P"]]:
        """Responses, zero where there are none, and which of them count."""
        seen = batch["fmri/mask"].swapaxes(1, 2)
        bold = jnp.where(seen, batch["fmri/bold"].swapaxes(1, 2), 0)
        if self.out_of_run == "zeros":
            seen = jnp.ones_like(seen)
        mask = seen & batch["valid"][:, None, None]
        place = ("row", "token", "output")
        return constrain(bold, *place), constrain(mask, *place)

    def summary(self, sums: Tree) -> dict[str, Array]:
        """Mean correlation over outputs: of all examples, and by subject, then mean."""
        pooled = {name: x.sum(0, keepdims=True) for name, x in sums.items()}
        found = {"pearson_pooled": jnp.nanmean(responses.correlations(pooled))}
        if len(sums["n"]) > 1 or self.rows == 1:
            by_subject = jnp.nanmean(responses.correlations(sums), axis=1)
            found["pearson"] = jnp.nanmean(by_subject)
        return found

    def update_slow(
        self, slow: Tree, old_params: Tree, new_params: Tree, step: Array
    ) -> Tree:
        """Average weights at the starts of the last epochs, where that is asked for."""
        del new_params
        if not self.swa_epochs:
            return slow
        return averaging.moved(slow, old_params, step, self.horizon, self.swa_epochs)

    # ---- the parts of the model -----------------------------------------------------

    def aggregated(
        self, params: Tree, batch: Batch, seen: Bool[Array, "B M"]
    ) -> Float[Array, "B T E"]:
        """Projections of the modalities that are seen, side by side or summed."""
        b = len(batch["subject"])
        parts = []
        for i, m in enumerate(self.modalities):
            if not m.layers:
                parts.append(jnp.zeros((b, self.feature_steps, self.part), self._dtype))
                continue
            x = batch[f"features/{m.name}"]
            if self.layer_aggregation == "mean":
                x = x.mean(1)
            else:
                x = x.reshape(b, m.layers * m.width, -1)
            layer = self._linear(x.shape[1], self.part)
            x = apply(layer, params["projectors"][m.name], x.swapaxes(1, 2))
            parts.append(jnp.where(seen[:, i, None, None], x, 0))
        if self.feature_aggregation == "sum":
            x = sum(parts[1:], parts[0])
        else:
            x = jnp.concatenate(parts, axis=-1)
        if self.combiner:
            layer = self._linear(x.shape[-1], self.width)
            x = apply(layer, params["combiner"], x)
        return x

    def positioned(
        self,
        variables: Tree,
        x: Float[Array, "B T E"],
        subject: Int[Array, " B"],
    ) -> Float[Array, "B T E"]:
        """Smoothed in time, with the vectors of steps and of the subject added."""
        params = variables["params"]
        if self.smoothing:
            home = params if self.smoothing_trained else variables["buffers"]
            x = smoothed(x, home["smoothing"])
        x = x + params["positions"][: x.shape[1]].astype(x.dtype)
        if self.subject_embedding:
            own = jnp.take(params["subject_embedding"], subject, axis=0)
            x = x + own[:, None].astype(x.dtype)
        return x

    def encoded(
        self, variables: Tree, batch: Batch, draws: Tree
    ) -> tuple[Float[Array, "B T E"], Float[Array, "L 2 B T E"]]:
        """Steps after the transformer, and every sum within it."""
        params = variables["params"]
        seen = draws["modalities"] & batch["features/present"]
        x = self.aggregated(params, batch, seen)
        x = jnp.where(draws["steps"][..., None], x, 0)
        x = self.positioned(variables, x, draws["subject"])
        return apply(self._encoder(), params["encoder"], x, None)

    def predicted(
        self, params: Tree, x: Float[Array, "B T E"], subject: Int[Array, " B"]
    ) -> Float[Array, "B N P"]:
        """Responses at the fMRI rate, of the given rows of the head, in float32."""
        if self.low_rank:
            layer = self._linear(self.width, self.low_rank, use_bias=False)
            x = apply(layer, params["low_rank"], x)
        if self.trained == "head":
            x = jax.lax.stop_gradient(x)
        own = params["subjects"]
        head = partial(
            subject_head,
            kernel=own["kernel"],
            bias=own["bias"],
            subject=subject,
            dtype=self._dtype,
        )
        if self.pool == "after_head":
            return self.pooled(head(x))
        return head(self.pooled(x.astype(jnp.float32)))

    def pooled(self, x: Float[Array, "B T F"]) -> Float[Array, "B N F"]:
        """Means over the steps of each fMRI sample."""
        matrix = adaptive_average(x.shape[1], self.output_steps)
        exact = jax.lax.Precision.HIGHEST
        return jnp.einsum("btf,tn->bnf", x, matrix, precision=exact)

    # ---- the trained model ----------------------------------------------------------

    def subject_rows(self, subject: Int[Array, " B"]) -> Int[Array, " B"]:
        """Rows of the head in use: one's own, or that of the unseen subject."""
        if self.average_subjects:
            return jnp.full_like(subject, self.rows - 1)
        return subject

    def inference(self, variables: Tree) -> Tree:
        """The averaged weights where there are any."""
        slow = variables["slow"]
        if not slow:
            return variables
        params = averaging.result(slow, variables["params"])
        return {**variables, "params": params, "slow": {}}

    def read(self, variables: Tree, batch: Batch, want: Want = "features") -> Reading:
        """Steps of every block [B, T, E], or predicted responses `bold` [B, N, P].

        Features: `layer_01`, ..., and `last`, after the final norm. A response has the
        middle of its fMRI sample as its time, `shift_s` after what evoked it.
        """
        key, step = jax.random.key(0), jnp.int32(0)
        draws = self.draw(batch, key, step, train=False)
        return self._read(variables, batch, draws, want)

    def features(
        self, variables: Tree, batch: Batch, draws: Tree, train: bool
    ) -> Reading:
        """The same, with modalities and steps hidden in training."""
        del train
        return self._read(variables, batch, draws, "features")

    def _read(self, variables: Tree, batch: Batch, draws: Tree, want: Want) -> Reading:
        x, sums = self.encoded(variables, batch, draws)
        if want == "prediction":
            bold = self.predicted(variables["params"], x, draws["subject"])
            times = (jnp.arange(self.output_steps) + 0.5) * self.tr_s + self.shift_s
            values = {"bold": bold}
        else:
            x, blocks = x.astype(jnp.float32), sums[:, 1].astype(jnp.float32)
            times = (jnp.arange(x.shape[1]) + 0.5) / self.feature_sfreq
            values = {f"layer_{i + 1:02d}": y for i, y in enumerate(blocks)}
            values["last"] = x
        shape = (len(x), len(times))
        return Reading(values, jnp.broadcast_to(times, shape), jnp.ones(shape, bool))

    def for_platform(self, target: Platform) -> "Tribe":
        """With the precision decided."""
        return replace(self, precision=decided(self.precision, target))

    def savings(self) -> tuple[str, ...]:
        """Of the transformer."""
        return remat_savings(self.remat)

    def rules(self) -> tuple[tuple[str, tuple[str | None, ...]], ...]:
        """The head lies over its outputs; what is small and of one layer over width."""
        return (
            (r"^subjects/kernel$", (None, None, "output")),
            (r"^subjects/bias$", (None, "output")),
            (r"^(projectors/[^/]+|combiner|low_rank)/kernel$", (None, "embed")),
            (r"^(positions|subject_embedding)$", (None, "embed")),
            (r"(^|/)smoothing$", ()),
        )

    def flops(self, batch_size: int) -> float:
        """Those of the matrix products, three times for the backward pass."""
        e, t = self.width, self.feature_steps
        inputs = sum(self.projected().values()) * self.part
        if self.combiner:
            inputs += e * e
        step = inputs + self.depth * (12 * e * e + 2 * t * e) + e * self.low_rank
        head = self.head_width * self.n_outputs
        n = self.output_steps if self.pool == "before_head" else t
        return 3.0 * 2.0 * batch_size * (t * step + n * head)

    @classmethod
    def from_official(
        cls, tensors: dict[str, np.ndarray], config: dict[str, Any] | None = None
    ) -> tribe_weights.Official:
        """Task and variables of a released checkpoint; see `tribe_weights`."""
        fields = tribe_weights.infer_fields(tensors, config or {})
        fields["modalities"] = tuple(Modality(**m) for m in fields["modalities"])
        return tribe_weights.convert(cls(**fields), tensors, config or {})


# ---- parts of no object --------------------------------------------------------------


def gaussian(size: int, sigma: float, width: int) -> Float[Array, "K E"]:
    """The same normalised Gaussian for every feature."""
    at = jnp.arange(size) - size // 2
    weights = jnp.exp(-jnp.square(at / sigma) / 2)
    return jnp.broadcast_to((weights / weights.sum())[:, None], (size, width))


def smoothed(x: Float[Array, "B T E"], kernel: Float[Array, "K E"]) -> Array:
    """Each feature weighted over neighbouring steps, with zeros beyond the ends."""
    size, n = len(kernel), x.shape[1]
    padded = jnp.pad(x, ((0, 0), (size // 2, size // 2), (0, 0)))
    kernel = kernel.astype(x.dtype)
    parts = [padded[:, i : i + n] * kernel[i] for i in range(size)]
    return sum(parts[1:], parts[0])
