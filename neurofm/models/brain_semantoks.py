"""Brain-Semantoks: self-distillation over the networks of parcellated fMRI.

Every network of the brain has a tokenizer, which makes one token of each patch of time.
A transformer reads the grid of networks and patches and a CLS token. A student that
sees a masked crop matches a teacher, its moving average, that sees another crop of the
same subject whole: in CLS, in the mean of each network and in the hidden tokens. A
coding rate keeps the batch spread out; there are no prototypes and no centring.

Source: arXiv 2512.11582 and its released code, which is followed where they differ.

Axes: B subjects, V = 2 crops (views), R rows (B, or B V), C regions, T samples, N
networks, P patches, S = 1 + N P tokens (CLS first, then network-major), D width, L
blocks, p width of the head's output.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from neurofm.contract import BatchSpec, Field, InputContract
from neurofm.data import brains
from neurofm.data import networks as network_tables
from neurofm.data.records import Dataset
from neurofm.errors import NeuroFMError
from neurofm.models import brain_semantoks_tokenizers as tokenizers
from neurofm.models import brain_semantoks_weights
from neurofm.models.brain_semantoks_tokenizers import Branch
from neurofm.nn.apply import apply
from neurofm.nn.attention import Attention
from neurofm.nn.blocks import Remat, remat_savings
from neurofm.nn.linear import Linear, torch_uniform
from neurofm.nn.norms import l2_normalize
from neurofm.nn.positions import sincos
from neurofm.nn.precision import Precision, compute_dtype, decided
from neurofm.nn.vit import ScaledTransformer
from neurofm.objectives import spread
from neurofm.objectives.coding_rate import coding_rate
from neurofm.objectives.slices import slice_mask
from neurofm.parallel.mesh import Platform
from neurofm.signals.bold_augment import BoldAugment
from neurofm.task import Batch, Reading, Task, Terms, Tree, Want

SMALL = 0.02  # deviation of vectors and of the head's matrices at the start
VIEWS = 2


@dataclass(frozen=True, kw_only=True)
class BrainSemantoks(Task):
    """Self-distillation over network tokens; the defaults are the published model.

    Attributes:
      networks: where the network of each region comes from, see `data.networks.table`;
        read when a run begins.
      regions: names of the regions in order; empty where they are not known.
      network_names: of the networks; empty where they are not known.
      network_of: number of the network of each region.
      spatial: `networks`; or the ablations `max`, each region a network under one
        linear map of its patch, and `min`, one network of all regions.
      tr_s: repetition time.
      window_samples, patch_samples: of a crop, and of the patches side by side in it.
      width: of a token.
      tokenizer: branches of the tokenizers, whose widths add up to that.
      compute: tokenizers of all networks `batched`, the smaller padded with weights of
        zero; or `exact`, one after the other.
      depth, heads: of the transformer.
      layer_scale: what its LayerScale starts at.
      head_hidden, head_width, head_layers: of the projection head.
      separate_mask_head: whether hidden tokens have a head of their own.
      mask_low, mask_high: shares of the grid that are hidden, see `objectives.slices`.
      mask_share: how often a batch is masked at all.
      augment: what is done to each crop in training.
      rate_eps, rate_coeff: of the coding rate.
      rate_parts: 1; or as many devices as the released code would run on, which
        computed a covariance on each of them.
      network_weight, mask_weight: of the two other terms of the loss.
      network_schedule: the network term falls as half a `cosine` or `linear` from its
        weight to 0 over `network_share` of the run, or is `constant`.
      network_share, network_delay: shares of the run: how long it falls, and how long
        it is 0 before.
      ema_start: decay of the teacher at first, which rises to 1 as half a cosine.
      horizon: steps of the run, filled in from `train.steps`.
      seen_networks: names of the networks that `read` sees, all others being hidden;
        empty is all.
      remat, attention: as in `nn.blocks.Transformer`.
    """

    name: ClassVar[str] = "brain_semantoks"
    batch_coupled: ClassVar[bool] = True

    networks: str = "names"
    regions: tuple[str, ...] = ()
    network_names: tuple[str, ...] = network_tables.NAMES
    network_of: tuple[int, ...] = network_tables.PUBLISHED
    spatial: Literal["networks", "max", "min"] = "networks"
    tr_s: float = 2.0
    window_samples: int = 100
    patch_samples: int = 20
    width: int = 768
    tokenizer: tuple[Branch, ...] = tokenizers.PUBLISHED
    compute: Literal["batched", "exact"] = "batched"
    depth: int = 8
    heads: int = 12
    layer_scale: float = 0.1
    head_hidden: int = 1024
    head_width: int = 128
    head_layers: int = 2
    separate_mask_head: bool = False
    mask_low: float = 0.65
    mask_high: float = 0.85
    mask_share: float = 0.5
    augment: BoldAugment = field(default_factory=BoldAugment)
    rate_eps: float = 0.05
    rate_coeff: float = 1.0
    rate_parts: int = 1
    network_weight: float = 0.5
    mask_weight: float = 0.5
    network_schedule: Literal["cosine", "linear", "constant"] = "cosine"
    network_share: float = 0.05
    network_delay: float = 0.0
    ema_start: float = 0.99
    horizon: int | None = None
    seen_networks: tuple[str, ...] = ()
    precision: Precision = "auto"
    remat: Remat = "none"
    attention: Attention = "auto"

    def __post_init__(self):
        if self.window_samples % self.patch_samples:
            raise NeuroFMError(
                f"task.window_samples is {self.window_samples}: give a multiple of "
                f"task.patch_samples ({self.patch_samples})"
            )
        if self.width % self.heads or self.width % 2:
            raise NeuroFMError(
                f"task.width is {self.width}: give an even multiple of task.heads "
                f"({self.heads})"
            )
        widths = sum(branch.width for branch in self.tokenizer)
        if self.spatial != "max" and widths != self.width:
            raise NeuroFMError(
                f"the branches of task.tokenizer are {widths} wide together: "
                f"task.width is {self.width}, so give branches that add up to it"
            )
        for branch in self.tokenizer:
            if branch.kind == "sgconv" and branch.length > self.patch_samples:
                raise NeuroFMError(
                    f"a branch of task.tokenizer has kernels of {branch.length} "
                    f"samples, more than a patch of {self.patch_samples}: lower its "
                    "kernel or its scales"
                )
        n = len(self.network_names) or 1 + max(self.network_of, default=-1)
        if set(self.network_of) != set(range(n)):
            raise NeuroFMError(
                f"task.network_of has the numbers {sorted(set(self.network_of))}: give "
                f"each of the {n} networks a region at least, numbered from 0"
            )
        if self.regions and len(self.regions) != len(self.network_of):
            raise NeuroFMError(
                f"task.regions are {len(self.regions)} and task.network_of "
                f"{len(self.network_of)}: give one network for each region"
            )
        if not 0 < self.mask_low < self.mask_high <= 1:
            raise NeuroFMError(
                f"task.mask_low and task.mask_high are {self.mask_low} and "
                f"{self.mask_high}: give rising shares above 0, 1 at most"
            )
        known = self.named_networks
        if unknown := [n for n in self.seen_networks if n not in known]:
            raise NeuroFMError(
                f"task.seen_networks has {unknown[0]!r}: the networks are "
                f"{', '.join(known)}"
            )

    def fitted(self, datasets: Sequence[Dataset]) -> "BrainSemantoks":
        """With the regions, their networks and the repetition time of fMRI stores."""
        regions, tr_s = brains.atlas(datasets)
        names, of = network_tables.table(self.networks, regions)
        return replace(
            self,
            regions=regions,
            network_names=names,
            network_of=tuple(of),
            tr_s=tr_s,
        )

    # ---- sizes ----------------------------------------------------------------------

    @property
    def members(self) -> list[np.ndarray]:
        """Regions of each network."""
        of = np.array(self.network_of)
        if self.spatial == "max":
            return [np.array([i]) for i in range(len(of))]
        if self.spatial == "min":
            return [np.arange(len(of))]
        return [np.flatnonzero(of == n) for n in range(max(self.network_of) + 1)]

    @property
    def named_networks(self) -> tuple[str, ...]:
        """A name for every network of the grid."""
        if self.spatial == "min":
            return ("all",)
        names = self.regions if self.spatial == "max" else self.network_names
        n = len(self.members)
        return names or tuple(f"network-{i + 1:02d}" for i in range(n))

    @property
    def patches(self) -> int:
        """Patches of a crop, P."""
        return self.window_samples // self.patch_samples

    def batch_spec(self, want: Want = "train") -> BatchSpec:
        """For training two crops of one subject a row, else one window.

        `fmri/regions` is False for regions that are not recorded; a network without
        any is hidden. `fmri/span` is what of a window is recording.
        """
        c, t = len(self.network_of), self.window_samples
        fields = {"fmri/regions": Field(shape=(c,), axes=("region",), dtype="bool")}
        if want == "train":
            fields["fmri/crops"] = Field(
                shape=(VIEWS, c, t), axes=("view", "region", "sample"), unit="z"
            )
        else:
            fields["fmri/bold"] = Field(
                shape=(c, t), axes=("region", "sample"), unit="z"
            )
            fields["fmri/span"] = Field(shape=(2,), axes=("edge",), dtype="int32")
        return BatchSpec(
            fields=fields,
            contract=InputContract(
                kind="fmri",
                sfreq=1 / self.tr_s,
                unit="z",
                n_chans=c,
                window_samples=t,
                hop_samples=self.patch_samples,
                receptive_samples=self.patch_samples,
                channels=self.regions,
                normalisation="each region to mean 0 and deviation 1 over its run",
            ),
        )

    # ---- parts ----------------------------------------------------------------------

    @property
    def _dtype(self) -> jnp.dtype:
        return compute_dtype(self.precision)

    def _transformer(self) -> ScaledTransformer:
        return ScaledTransformer(
            self.depth,
            self.heads,
            self.layer_scale,
            remat=self.remat,
            attention=self.attention,
            dtype=self._dtype,
        )

    def _linear(self, n_out: int) -> Linear:
        init = jax.nn.initializers.truncated_normal(SMALL)
        return Linear((n_out,), kernel_init=init, dtype=self._dtype)

    def init(self, key: jax.Array, batch: Batch, frozen: Tree) -> Tree:
        """Fresh weights; the teacher is a copy. Kernel norms are fixed here."""
        del batch, frozen
        keys = jax.random.split(key, 7)
        n, d = len(self.members), self.width
        normal = lambda key, shape: SMALL * jax.random.normal(key, shape)  # noqa: E731
        grid = jnp.zeros((1, 1 + n * self.patches, d))
        encoder: Tree = {
            "mask_token": normal(keys[1], (d,)),
            "cls_token": normal(keys[2], (d,)),
            "network_embedding": normal(keys[3], (n, d)),
            "transformer": self._transformer().init(keys[4], grid, None)["params"],
        }
        norms: Tree = {}
        if self.spatial == "max":
            uniform = torch_uniform(self.patch_samples)
            into, bias = jax.random.split(keys[0])
            encoder["region_map"] = {
                "kernel": uniform(into, (self.patch_samples, d)),
                "bias": uniform(bias, (d,)),
            }
        else:
            own = zip(self.members, jax.random.split(keys[0], n), strict=True)
            encoder["tokenizers"] = {
                numbered(i): tokenizers.init(k, self.tokenizer, len(members))
                for i, (members, k) in enumerate(own)
            }
            norms = {
                name: tokenizers.kernel_norms(self.tokenizer, own)
                for name, own in encoder["tokenizers"].items()
            }
        params = {"encoder": encoder, "head": self._fresh_head(keys[5])}
        if self.separate_mask_head:
            params["mask_head"] = self._fresh_head(keys[6])
        buffers: Tree = {}
        if any(norms.values()):
            copied = jax.tree.map(jnp.copy, norms)
            buffers = {"kernel_norms": norms, "teacher_kernel_norms": copied}
        teacher = jax.tree.map(jnp.copy, params)
        return {"params": params, "slow": {"teacher": teacher}, "buffers": buffers}

    def _head_widths(self) -> list[int]:
        return [*[self.head_hidden] * (self.head_layers - 1), self.head_width]

    def _fresh_head(self, key: jax.Array) -> Tree:
        ins = [self.width, *self._head_widths()]
        keys = jax.random.split(key, self.head_layers)
        return {
            f"layer_{i}": self._linear(ins[i + 1]).init(k, jnp.zeros((1, ins[i])))[
                "params"
            ]
            for i, k in enumerate(keys)
        }

    # ---- one training step ----------------------------------------------------------

    def draw(self, batch: Batch, key: jax.Array, step: Array, train: bool) -> Tree:
        """Masks of both crops of each row, one coin for the batch, and augmentation.

        Without `train` every batch is masked and no crop is changed.
        """
        del step
        rows = jax.vmap(partial(jax.random.fold_in, key))(batch["index"])
        keys = jax.vmap(partial(jax.random.split, num=2 * VIEWS))(rows)
        mask = partial(
            slice_mask,
            n_networks=len(self.members),
            n_patches=self.patches,
            low=self.mask_low,
            high=self.mask_high,
        )
        coin_key = jax.random.fold_in(key, 2**31 - 1)  # no index is that large
        coin = jax.random.bernoulli(coin_key, self.mask_share if train else 1.0)
        draws: Tree = {
            "hidden": jax.vmap(jax.vmap(mask))(keys[:, :VIEWS]),
            "step": {"masked": coin},
        }
        if train:
            draws["augment"] = jax.random.key_data(keys[:, VIEWS:])
        return draws

    def loss(
        self, variables: Tree, batch: Batch, draws: Tree, step: Array, train: bool
    ) -> tuple[Terms, Tree]:
        """Coding rates of CLS and of network means, and agreement of hidden tokens.

        The first two are of the whole batch; their weight is its number of rows, so
        that evaluation averages batches by size.
        """
        del train
        params, teacher = variables["params"], variables["slow"]["teacher"]
        buffers, crops = variables["buffers"], batch["fmri/crops"]
        if "augment" in draws:
            crops = self.augment(draws["augment"], crops)
        missing = self.missing(batch["fmri/regions"])[:, None, :, None]
        hidden = draws["hidden"] & draws["step"]["masked"] & ~missing
        gone = jnp.broadcast_to(missing, hidden.shape)
        rows = _merged(crops)
        seen, _ = self.encode(
            params["encoder"], buffers.get("kernel_norms"), rows, _merged(hidden | gone)
        )
        whole, _ = self.encode(
            teacher["encoder"], buffers.get("teacher_kernel_norms"), rows, _merged(gone)
        )
        whole = jax.lax.stop_gradient(whole)
        of_student, of_teacher = (
            self.projections(own, x)
            for own, x in ((params, seen), (jax.lax.stop_gradient(teacher), whole))
        )
        valid = batch["valid"]
        n = valid.sum().astype(jnp.float32)
        rate = partial(
            coding_rate,
            eps=self.rate_eps,
            coeff=self.rate_coeff,
            parts=self.rate_parts,
        )
        cls = rate(of_student["cls"], of_teacher["cls"], valid)
        there = (valid[:, None] & ~missing[:, 0, :, 0]).reshape(-1)
        network = rate(of_student["network"], of_teacher["network"], there)
        weight = self.network_weight_at(step)
        cosine = (of_student["tokens"] * of_teacher["tokens"]).sum(-1)
        counted = hidden & valid[:, None, None, None]
        alike = (cosine * counted).sum((2, 3)) / jnp.maximum(counted.sum((2, 3)), 1)
        terms = {
            "cls": (n * cls["loss"], n),
            "network": (n * weight * network["loss"], n),
            "mask": (-self.mask_weight * alike.sum(), VIEWS * n),
        }
        monitors = {
            "items": n,
            "compression": n * cls["compression"],
            "expansion": n * cls["expansion"],
            "network_loss": n * network["loss"],
            "network_weight": n * weight,
        }
        first = _split(whole)[:, 0].astype(jnp.float32)
        valid_tokens = jnp.broadcast_to(valid[:, None], first.shape[:2])
        sums = {
            "latents": spread.sums(first, valid_tokens),
            "token": _moments(first, valid),
            "student_proj": _moments(of_student["cls"][0], valid),
            "teacher_proj": _moments(of_teacher["cls"][0], valid),
            "monitors": monitors,
        }
        return terms, jax.lax.stop_gradient(sums)

    def projections(self, params: Tree, tokens: Float[Array, "R S D"]) -> Tree:
        """Unit vectors of CLS, of the mean of each network, and of all tokens.

        `cls` [V, B, p], `network` [V, B N, p], `tokens` [B, V, N, P, p].
        """
        split = _split(tokens)
        grid = self._grid_of(split)
        head = partial(self.projected, params["head"])
        mask_head = partial(self.projected, params.get("mask_head", params["head"]))
        cls = jnp.moveaxis(head(split[:, :, 0]), 1, 0)
        network = jnp.moveaxis(head(grid.mean(3)), 1, 0)
        return {
            "cls": cls,
            "network": network.reshape(VIEWS, -1, network.shape[-1]),
            "tokens": mask_head(grid),
        }

    def network_weight_at(self, step: Array) -> Float[Array, ""]:
        """Weight of the network term at a step of the run."""
        full = jnp.asarray(self.network_weight)
        if self.network_schedule == "constant":
            return full
        delay = round(self.network_delay * self._steps)
        done = (step - delay) / (self.network_share * self._steps)
        if self.network_schedule == "linear":
            left = 1 - done
        else:
            left = (1 + jnp.cos(jnp.pi * done)) / 2
        return jnp.where((step < delay) | (done >= 1), 0, full * left)

    @property
    def _steps(self) -> int:
        if self.horizon is None:
            raise NeuroFMError(
                "task.horizon is not set: it follows from train.steps in a run; give "
                "it when the task is used on its own"
            )
        return self.horizon

    def update_slow(
        self, slow: Tree, old_params: Tree, new_params: Tree, step: Array
    ) -> Tree:
        """Move the teacher towards the student as it is after this step's update."""
        del old_params
        share = self.teacher_share(step)
        teacher = jax.tree.map(
            lambda t, s: t + share * (s - t), slow["teacher"], new_params
        )
        return {"teacher": teacher}

    def teacher_share(self, step: Array) -> Float[Array, ""]:
        """1 minus the teacher's decay: it falls to 0 as half a cosine."""
        left = (1 + jnp.cos(jnp.pi * step / self._steps)) / 2
        return (1 - self.ema_start) * left

    def summary(self, sums: Tree) -> dict[str, Array]:
        """Spread of the teacher's tokens and of both heads, and parts of the loss."""
        n = jnp.maximum(sums["monitors"]["items"], 1)
        own = {k: x / n for k, x in sums["monitors"].items() if k != "items"}
        deviations = {
            f"{name}_std": _deviation(sums[name])
            for name in ("token", "student_proj", "teacher_proj")
        }
        return {**spread.summary(sums["latents"]), **deviations, **own}

    # ---- the parts of the model -----------------------------------------------------

    def missing(self, recorded: Bool[Array, "B C"]) -> Bool[Array, "B N"]:
        """Networks without a recorded region."""
        return jnp.stack([~recorded[:, m].any(1) for m in self.members], axis=1)

    def grid(
        self, params: Tree, norms: Tree | None, bold: Float[Array, "R C T"]
    ) -> Float[Array, "R N P D"]:
        """Tokens of every network and patch, before anything is hidden."""
        shape = (len(bold), -1, self.patches, self.patch_samples)
        patches = bold.astype(self._dtype).reshape(shape).swapaxes(1, 2)
        if self.spatial == "max":
            own = {k: x.astype(self._dtype) for k, x in params["region_map"].items()}
            return (patches @ own["kernel"] + own["bias"]).swapaxes(1, 2)
        every = range(len(self.members))
        groups = [every] if self.compute == "batched" else [[i] for i in every]
        parts = [
            tokenizers.tokens(
                self.tokenizer,
                [params["tokenizers"][numbered(i)] for i in group],
                [(norms or {}).get(numbered(i), {}) for i in group],
                [self.members[i] for i in group],
                patches,
            )
            for group in groups
        ]
        return jnp.concatenate(parts, axis=1)

    def encode(
        self,
        params: Tree,
        norms: Tree | None,
        bold: Float[Array, "R C T"],
        hidden: Bool[Array, "R N P"] | None,
    ) -> tuple[Float[Array, "R S D"], Float[Array, "L R S D"]]:
        """Tokens after the final norm, and after every block."""
        x = self.grid(params, norms, bold)
        if hidden is not None:
            x = jnp.where(hidden[..., None], params["mask_token"].astype(x.dtype), x)
        place = params["network_embedding"][:, None] + sincos(self.patches, self.width)
        x = (x + place.astype(x.dtype)).reshape(len(bold), -1, self.width)
        cls = params["cls_token"].astype(x.dtype)
        cls = jnp.broadcast_to(cls, (len(x), 1, self.width))
        x = jnp.concatenate([cls, x], axis=1)
        return apply(self._transformer(), params["transformer"], x, None)

    def projected(self, head: Tree, x: Float[Array, "... D"]) -> Float[Array, "... p"]:
        """Through a head, to unit length, in float32."""
        for i, width in enumerate(self._head_widths()):
            if i:
                x = jax.nn.gelu(x, approximate=False)
            x = apply(self._linear(width), head[f"layer_{i}"], x)
        return l2_normalize(x, 1e-12)

    def _grid_of(self, x: Float[Array, "... S D"]) -> Float[Array, "... N P D"]:
        """Tokens but CLS by network and patch."""
        shape = (len(self.members), self.patches, x.shape[-1])
        return x[..., 1:, :].reshape(*x.shape[:-2], *shape)

    # ---- the trained model ----------------------------------------------------------

    def inference(self, variables: Tree) -> Tree:
        """The teacher's encoder."""
        slow, buffers = variables["slow"], variables["buffers"]
        if not slow:
            return variables
        norms = {}
        if "teacher_kernel_norms" in buffers:
            norms = {"kernel_norms": buffers["teacher_kernel_norms"]}
        params = {"encoder": slow["teacher"]["encoder"]}
        return {"params": params, "slow": {}, "buffers": norms}

    def read(self, variables: Tree, batch: Batch, want: Want = "features") -> Reading:
        """A token a patch. Of features, means over networks after each block
        (`layer_01`, ...) and the final norm (`last`), and `cls_avg`: that and CLS.

        The mean of `cls_avg` over a window is what published scores are made of.
        `sources`: `networks`, each network's own token [B, P, N D]; `alone`, `cls_avg`
        with all other networks hidden [B, P, N 2D].
        """
        params, norms = variables["params"]["encoder"], variables["buffers"]
        run = partial(
            self.encode, params, norms.get("kernel_norms"), batch["fmri/bold"]
        )
        hidden = self.missing(batch["fmri/regions"]) | self._unseen()
        if want == "sources":
            last, _ = run(self._over_patches(hidden))
            own = jnp.moveaxis(self._grid_of(last), 1, 2)  # [B, P, N, D]
            alone = [
                self._cls_avg(run(self._over_patches(hidden | (np.arange(n) != i)))[0])
                for n in [hidden.shape[1]]
                for i in range(n)
            ]
            values = {
                "networks": own.reshape(*own.shape[:2], -1),
                "alone": jnp.concatenate(alone, axis=-1),
            }
        else:
            last, blocks = run(self._over_patches(hidden))
            values = {
                f"layer_{i + 1:02d}": self._grid_of(x).mean(1)
                for i, x in enumerate(blocks)
            }
            values["last"] = self._grid_of(last).mean(1)
            values["cls_avg"] = self._cls_avg(last)
        values = {name: x.astype(jnp.float32) for name, x in values.items()}
        first = jnp.arange(self.patches) * self.patch_samples
        times = (first + self.patch_samples / 2) * self.tr_s
        mask = first < batch["fmri/span"][:, 1:]
        return Reading(values, jnp.broadcast_to(times, mask.shape), mask)

    def _unseen(self) -> Bool[np.ndarray, " N"]:
        names = self.named_networks
        seen = self.seen_networks or names
        return np.array([name not in seen for name in names])

    def _over_patches(self, hidden: Bool[Array, "B N"]) -> Bool[Array, "B N P"]:
        return jnp.broadcast_to(hidden[..., None], (*hidden.shape, self.patches))

    def _cls_avg(self, tokens: Float[Array, "B S D"]) -> Float[Array, "B P DD"]:
        mean = self._grid_of(tokens).mean(1)
        cls = jnp.broadcast_to(tokens[:, :1], mean.shape)
        return jnp.concatenate([mean, cls], axis=-1)

    # ---- cost, places and official weights ------------------------------------------

    def for_platform(self, target: Platform) -> "BrainSemantoks":
        """With the precision decided."""
        return replace(self, precision=decided(self.precision, target))

    def savings(self) -> tuple[str, ...]:
        """Of the transformer."""
        return remat_savings(self.remat)

    def rules(self) -> tuple[tuple[str, tuple[str | None, ...]], ...]:
        """All but the transformer's matrices is small and whole everywhere."""
        return (
            (r"(^|/)(tokenizers|region_map|head|mask_head)/", ()),
            (r"(^|/)(cls_token|network_embedding|scale_attn|scale_mlp)$", ()),
            (r"(^|/)(teacher_)?kernel_norms/", ()),
        )

    def flops(self, batch_size: int) -> float:
        """Those of the matrix products: student thrice, teacher once, of both crops."""
        d, p, length = self.width, self.patches, self.patch_samples
        n, sizes = len(self.members), [len(m) for m in self.members]
        tokens = 1 + n * p
        block = tokens * (12 * d * d + 2 * tokens * d)
        total = self.depth * block
        if self.spatial == "max":
            total += n * p * length * d
        else:
            padded = [max(sizes)] * n if self.compute == "batched" else sizes
            for branch in self.tokenizer:
                if branch.kind == "dense":
                    per_sample = sum(branch.kernel * c * branch.width for c in padded)
                else:
                    channels = [c * branch.heads(c) for c in sizes]
                    if self.compute == "batched":
                        channels = [max(channels)] * n
                    per_sample = sum(m * (length + branch.width) for m in channels)
                total += p * length * per_sample
        ins = [d, *self._head_widths()]
        head = sum(a * b for a, b in itertools.pairwise(ins))
        total += head * (1 + n + n * p)
        return float(batch_size) * VIEWS * 4 * 2 * total

    @classmethod
    def from_official(
        cls, tensors: dict[str, np.ndarray], config: dict[str, Any] | None = None
    ) -> brain_semantoks_weights.Official:
        """Task and variables of a checkpoint; see `brain_semantoks_weights`."""
        fields = brain_semantoks_weights.infer_fields(tensors, config or {})
        fields["tokenizer"] = tuple(Branch(**b) for b in fields["tokenizer"])
        return brain_semantoks_weights.convert(cls(**fields), tensors)


# ---- parts of no object --------------------------------------------------------------


def numbered(i: int) -> str:
    """The name of network i among the parameters; names sort as numbers do."""
    return f"{i:03d}"


def _merged(x: Array) -> Array:
    """[B, V, ...] -> [B V, ...]."""
    return x.reshape(-1, *x.shape[2:])


def _split(x: Array) -> Array:
    """[B V, ...] -> [B, V, ...]."""
    return x.reshape(-1, VIEWS, *x.shape[1:])


def _moments(x: Float[Array, "B ..."], valid: Bool[Array, " B"]) -> Tree:
    """What adds up to the deviation over items."""
    x = jnp.where(valid.reshape(-1, *[1] * (x.ndim - 1)), x, 0)
    n = valid.sum().astype(jnp.float32)
    return {"n": n, "x": x.sum(0), "xx": jnp.square(x).sum(0)}


def _deviation(sums: Tree) -> Float[Array, ""]:
    """Mean over features of the unbiased deviation over items."""
    n = jnp.maximum(sums["n"], 2)
    variance = (sums["xx"] - jnp.square(sums["x"]) / n) / (n - 1)
    return jnp.sqrt(jnp.maximum(variance, 0)).mean()
