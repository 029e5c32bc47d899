"""Du-IN: the codes of hidden patches of an electrode group, and features of words.

The trunk sees a segment twice, each time with the other half of its patches replaced by
a vector, and tells the frozen first stage's codes of those that it did not see. Words
are read from its features by a head on all tokens (`models.finetune`, head `flat`).

Source: Du-IN (arXiv 2405.11459), section 3, and its released code.

Axes: B items, P tokens, D width, K codes, N layers.
"""

from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, UInt32

from neurofm.contract import BatchSpec
from neurofm.errors import NeuroFMError
from neurofm.models import duin_trunk, duin_weights
from neurofm.models.duin_trunk import Trunk
from neurofm.models.duin_vqvae import DuINVQVAE
from neurofm.nn.apply import apply
from neurofm.nn.linear import Linear
from neurofm.nn.precision import Precision, compute_dtype, decided
from neurofm.nn.sensors import dense_init
from neurofm.objectives import spread
from neurofm.parallel.mesh import Platform
from neurofm.task import Batch, Reading, Task, Terms, Tree, Want

PREDICTION = ("mask", "head")  # parameters that only predict codes


@dataclass(frozen=True, kw_only=True)
class DuIN(Task):
    """Masked prediction of codes; the defaults are the published sizes.

    Attributes:
      tokenizer: the first stage, whose trunk this one is as large as; a run takes it
        from the model it loads.
      mask_ratio: share of the patches that the first of both views hides.
    """

    name: ClassVar[str] = "duin"
    leans_on: ClassVar[tuple[str, ...]] = ("tokenizer",)
    batch_coupled: ClassVar[bool] = True  # by the tokenizer's batch norms

    tokenizer: DuINVQVAE = field(default_factory=DuINVQVAE)
    mask_ratio: float = 0.5
    precision: Precision = "auto"

    def __post_init__(self):
        if not 0 < self.mask_ratio < 1:
            raise NeuroFMError(
                f"task.mask_ratio is {self.mask_ratio}: give a share of the patches, "
                "more than 0 and less than 1"
            )

    @property
    def trunk(self) -> Trunk:
        """Sizes of both stages."""
        return self.tokenizer.trunk

    def batch_spec(self, want: Want = "train") -> BatchSpec:
        """What the first stage takes."""
        return self.tokenizer.batch_spec(want)

    # ---- parts ----------------------------------------------------------------------

    @property
    def _dtype(self) -> jnp.dtype:
        return compute_dtype(self.precision)

    @property
    def _head(self) -> Linear:
        n = self.tokenizer.n_codes
        return Linear((n,), kernel_init=dense_init, dtype=self._dtype)

    def init(self, key: jax.Array, batch: Batch, frozen: Tree) -> Tree:
        """A fresh trunk, as released: nothing is taken from the first stage's."""
        del batch, frozen
        key_trunk, key_mask, key_head = jax.random.split(key, 3)
        trunk, running = self.trunk.init(key_trunk)
        d = self.trunk.width
        params = {
            **trunk,
            "mask": {"mask_token": dense_init(key_mask, (d,))},
            "head": self._head.init(key_head, jnp.zeros((1, d)))["params"],
        }
        return {"params": params, "slow": {}, "buffers": running}

    # ---- one training step ----------------------------------------------------------

    def draw(self, batch: Batch, key: jax.Array, step: Array, train: bool) -> Tree:
        """Patches that the first view hides, and keys of dropout."""
        del step, train
        n = batch["ieeg/signal"].shape[-1] // self.trunk.patch_samples
        kept = int(n * (1 - self.mask_ratio))
        keys = jax.vmap(partial(jax.random.fold_in, key))(batch["index"])

        def one(key: Array) -> Tree:
            key_mask, key_dropout = jax.random.split(key)
            order = jax.random.permutation(key_mask, n)
            return {
                "hidden": order >= kept,
                "dropout": jax.random.key_data(key_dropout),
            }

        return jax.vmap(one)(keys)

    def loss(
        self, variables: Tree, batch: Batch, draws: Tree, step: Array, train: bool
    ) -> tuple[Terms, Tree]:
        """Cross-entropy of all patches' codes, each told by the view that hid it."""
        del step
        frozen = variables["frozen"]["tokenizer"]
        codes, _, there = self.tokenizer.codes(frozen, batch)
        codes = jax.lax.stop_gradient(codes)
        counted = there & batch["valid"][:, None]
        params, keys = variables["params"], draws["dropout"] if train else None
        tokens, norms = self.trunk.patches(
            params, variables["buffers"], batch, counted if train else None, self._dtype
        )
        logits, last = self.logits(params, tokens, there, draws["hidden"], keys)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, codes)
        n = counted.sum().astype(jnp.float32)
        hits = (logits.argmax(-1) == codes) & counted
        last = jax.lax.stop_gradient(last).astype(jnp.float32)
        sums: Tree = {
            "hits": hits.sum().astype(jnp.float32),
            "patches": n,
            "latents": spread.sums(last, counted),
        }
        if train:
            sums["norms"] = norms
        return {"codes": (jnp.where(counted, losses, 0).sum(), n)}, sums

    def summary(self, sums: Tree) -> dict[str, Array]:
        """Spread of the features, and the share of codes that is guessed."""
        share = sums["hits"] / jnp.maximum(sums["patches"], 1)
        return {**spread.summary(sums["latents"]), "accuracy": share}

    def update_buffers(self, buffers: Tree, sums: Tree, step: Array) -> Tree:
        """Move the norms to the batch."""
        del step
        return duin_trunk.moved(buffers, sums["norms"])

    # ---- the parts of the model -----------------------------------------------------

    def logits(
        self,
        params: Tree,
        tokens: Float[Array, "B P D"],
        visible: Bool[Array, "B P"],
        hidden: Bool[Array, "B P"],
        keys: UInt32[Array, "B 2"] | None = None,
    ) -> tuple[Float[Array, "B P K"], Float[Array, "B P D"]]:
        """Scores of the codes in float32, and the features of hidden patches.

        Of two views of the same tokens, with the `hidden` ones replaced and with all
        others, each patch is taken from the view that hides it. Both go through the
        blocks side by side, so that gradients of a block are summed over devices once.
        """
        mask = params["mask"]["mask_token"].astype(tokens.dtype)
        away = jnp.stack([hidden, ~hidden], axis=1)
        views = jnp.where(away[..., None], mask, tokens[:, None])  # [B, 2, P, D]
        if keys is not None:  # dropout of its own for each view
            pair = jax.vmap(jax.random.split)(jax.random.wrap_key_data(keys))
            keys = jax.random.key_data(pair).reshape(-1, keys.shape[1])
        seen = jnp.repeat(visible, 2, axis=0)
        flat = views.reshape(-1, *tokens.shape[1:])
        last = self.trunk.layers(params, flat, seen, keys, self._dtype)[-1]
        last = last.reshape(views.shape)
        last = jnp.where(hidden[..., None], last[:, 0], last[:, 1])
        return apply(self._head, params["head"], last).astype(jnp.float32), last

    # ---- the trained model ----------------------------------------------------------

    def inference(self, variables: Tree) -> Tree:
        """The trunk, without what predicts codes and without the first stage."""
        params = {k: v for k, v in variables["params"].items() if k not in PREDICTION}
        return {"params": params, "slow": {}, "buffers": variables["buffers"]}

    def read(self, variables: Tree, batch: Batch, want: Want = "features") -> Reading:
        """Blocks of the encoder [B, P, D] of segments with nothing hidden."""
        if want in ("codes", "reconstruction"):
            raise NeuroFMError(
                f"{want} are the first stage's: read them with the model of duin_vqvae"
            )
        return self._read(variables, batch, None)

    def features(
        self, variables: Tree, batch: Batch, draws: Tree, train: bool
    ) -> Reading:
        """The same, with dropout in training; norms keep their statistics."""
        return self._read(variables, batch, draws["dropout"] if train else None)

    def _read(
        self, variables: Tree, batch: Batch, keys: UInt32[Array, "B 2"] | None
    ) -> Reading:
        params = variables["params"]
        _, there = self.trunk.signals(batch)
        tokens, _ = self.trunk.patches(
            params, variables["buffers"], batch, None, self._dtype
        )
        layers = self.trunk.layers(params, tokens, there, keys, self._dtype)
        layers = layers.astype(jnp.float32)
        values = {f"layer_{i + 1:02d}": x for i, x in enumerate(layers)}
        times = jnp.broadcast_to(self.trunk.token_times(there.shape[1]), there.shape)
        return Reading({**values, "last": layers[-1]}, times, there)

    def shortened(self, n_samples: int) -> "DuIN":
        """For segments of `n_samples`, in whole patches."""
        return replace(self, tokenizer=self.tokenizer.shortened(n_samples))

    def for_platform(self, target: Platform) -> "DuIN":
        """With the precision of both stages decided."""
        own = decided(self.precision, target)
        return replace(
            self, precision=own, tokenizer=self.tokenizer.for_platform(target)
        )

    def rules(self) -> tuple[tuple[str, tuple[str | None, ...]], ...]:
        """The head over the codes; the first stage's own for the rest."""
        return ((r"^head/kernel$", ("embed", "vocab")), *self.tokenizer.rules())

    def flops(self, batch_size: int) -> float:
        """The trunk twice, three times for the backward pass, and the codes once."""
        own, tokens = self.trunk, self.trunk.n_patches
        blocks = own.depth * own.block_macs(tokens)
        head = own.width * self.tokenizer.n_codes
        macs = 3 * (own.token_macs + blocks + head) + own.token_macs
        return 2.0 * batch_size * tokens * macs

    @classmethod
    def from_official(
        cls, tensors: dict[str, np.ndarray], config: dict[str, Any] | None = None
    ) -> duin_weights.Official:
        """Task and variables of a released masked or word model; `duin_weights`."""
        trunk = Trunk(**duin_weights.trunk_fields(tensors, config or {}))
        sizes = duin_weights.code_fields(tensors)
        first = DuINVQVAE(trunk=trunk, **sizes)
        return duin_weights.convert(cls(tokenizer=first), tensors)


def channel_contribution(
    params: Tree, form: Literal["own", "released"] = "own"
) -> Float[Array, "S C"]:
    """How much of each channel goes into a subject's map: its mean absolute weight.

    `released` reads the table in another order than it was written in, so that with
    several subjects the numbers mix channels and people.
    """
    kernel = jnp.abs(params["subjects"]["kernel"])
    if form == "released":
        s, c, e = kernel.shape
        kernel = kernel.transpose(1, 2, 0).reshape(s, c, e)
    return kernel.mean(-1)
