"""Where parameters, states, batches and activations lie on the mesh.

A rule names the axes of a parameter in the words of the model (`embed`, `heads`,
`mlp`, ...); one table says which mesh axis stores each word, another where activations
and the weights in use have it. Between the two XLA gathers a layer's weights just
before they are used and scatters their gradients (ZeRO-3).
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Shaped

from neurofm.errors import NeuroFMError
from neurofm.parallel.mesh import BATCH_AXES

Rules = Sequence[tuple[str, tuple[str | None, ...]]]
Table = Mapping[str, str | tuple[str, ...] | None]

STORAGE: Table = {
    "layers": None,
    "embed": "fsdp",
    "channel": "fsdp",
    "heads": "tensor",
    "kv": None,
    "mlp": "tensor",
    "vocab": "tensor",
    "output": "fsdp",
}

# Where each device computes its share of the outputs of a table, all the rows that
# its fsdp group has go to each ("row"), and the table stays where it is.
COMPUTE: Table = {
    "batch": BATCH_AXES,
    "row": tuple(axis for axis in BATCH_AXES if axis != "fsdp"),
    "output": "fsdp",
    "layers": None,
    "time": None,
    "token": None,
    "embed": None,
    "channel": None,
    "heads": "tensor",
    "kv": None,
    "mlp": "tensor",
    "vocab": "tensor",
}

# The parameters of neurofm.nn; `()` keeps a small one whole, whatever its rank.
RULES: Rules = (
    (r"blocks/attn/(query|key|value)/kernel$", ("layers", "embed", "heads", "kv")),
    (r"blocks/attn/out/kernel$", ("layers", "heads", "kv", "embed")),
    (r"blocks/mlp_in/kernel$", ("layers", "embed", "mlp")),
    (r"blocks/mlp_out/kernel$", ("layers", "mlp", "embed")),
    (r"conv_\d+(/kernel)?$", (None, None, "channel")),
    (r"(project|to_\w+|from_\w+)/kernel$", (None, "embed")),
    (r"(^|/)(scale|bias|mask_token|skip_attn|skip_mlp)$", ()),
)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows over replica, data and fsdp; everything else whole."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def param_shardings(
    params: Any, mesh: Mesh | AbstractMesh, rules: Rules = ()
) -> tuple[Any, list[str]]:
    """Shardings of a parameter tree, and what did not divide, a line each.

    Args:
      params: tree of arrays or `jax.ShapeDtypeStruct`.
      mesh: what `mesh.make` returns, or its shape alone.
      rules: the task's own rules, tried before the shared ones; the first regex found
        in the parameter's path (`encoder/blocks/mlp_in/kernel`) decides.

    Raises:
      NeuroFMError: a parameter (but a scalar) that no rule matches, or whose rank its
        rule misses.
    """
    notes: list[str] = []

    def place(path: Any, leaf: Any) -> NamedSharding:
        return _by_rule(_name(path), leaf.shape, mesh, rules, notes)

    return jax.tree_util.tree_map_with_path(place, params), notes


def state_shardings(
    state: Any, params: Any, mesh: Mesh | AbstractMesh, rules: Rules = ()
) -> tuple[Any, list[str]]:
    """Shardings of a whole training state, which may hold `params` itself.

    A leaf whose path ends in a parameter's path and which has its shape (moments,
    averages) lies as that parameter does; one with another shape (a factored moment)
    and scalars stay whole; any other (a teacher of a part, a codebook) goes by the
    rules. Raises as `param_shardings` does.
    """
    notes: list[str] = []
    leaves = jax.tree_util.tree_leaves_with_path(params)
    shapes = {_name(path): leaf.shape for path, leaf in leaves}

    def place(path: Any, leaf: Any) -> NamedSharding:
        name = _name(path)
        mirrored = next((s for s in _suffixes(name) if s in shapes), None)
        if mirrored and shapes[mirrored] != leaf.shape:
            notes.append(f"{name} {list(leaf.shape)} stays whole, unlike {mirrored}")
            return NamedSharding(mesh, PartitionSpec())
        return _by_rule(mirrored or name, leaf.shape, mesh, rules, notes)

    return jax.tree_util.tree_map_with_path(place, state), list(dict.fromkeys(notes))


def constrain(x: Shaped[Array, "..."], *axes: str | None) -> Shaped[Array, "..."]:
    """Pin an activation, or a layer's weights in use, to its place in `COMPUTE`.

    `constrain(x, "batch", "token", "embed")`. The mesh is the one of the enclosing
    `jax.set_mesh(mesh)`; outside of it nothing happens. A dimension that does not
    divide stays whole.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return x
    if len(axes) != x.ndim:
        raise ValueError(f"{len(axes)} axis names {axes} for shape {x.shape}")
    spec, _ = _spec(axes, x.shape, mesh.shape, COMPUTE)
    return jax.lax.with_sharding_constraint(x, spec)


def as_matrix(
    kernel: Shaped[Array, "..."], n_in: int, axes: Sequence[str | None]
) -> Shaped[Array, "in out"]:
    """A kernel `[*in, *out]` as the matrix of its product, which lies as it is stored.

    So does the gradient of the matrix then, which XLA reduces to the stored part and
    scatters. Told of the kernel alone, it sums whole matrices on every device where the
    kernel's tiles on a TPU are not the matrix's (12 heads of 64).

    Args:
      kernel: of one layer.
      n_in: how many of its axes are summed over.
      axes: their names, as in rules but for `layers`; none leaves it to XLA.
    """
    ins, outs = kernel.shape[:n_in], kernel.shape[n_in:]
    matrix = kernel.reshape(math.prod(ins), math.prod(outs))
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or not axes:
        return matrix
    spec, _ = _spec(axes, kernel.shape, mesh.shape, STORAGE)
    if all(mesh.shape[name] == 1 for name in spec if name):
        return matrix  # even a constraint that says nothing changes the program
    entries = [*spec, *[None] * (kernel.ndim - len(spec))]
    sides = (_merged(entries[:n_in]), _merged(entries[n_in:]))
    return jax.lax.with_sharding_constraint(matrix, PartitionSpec(*sides))


def _merged(entries: list[Any]) -> Any:
    """Where axes that become one lie; XLA's choice where another than the first is cut.

    The parts of such an axis would not be one piece of the joined one.
    """
    return PartitionSpec.UNCONSTRAINED if any(entries[1:]) else entries[0]


def on_shards(
    f: Callable[..., Array], *axes: tuple[str | None, ...]
) -> Callable[..., Array]:
    """`f` on what each device holds of its arguments, for what XLA cannot partition.

    `axes` name those of each argument, as in `constrain`; the result lies as the first
    argument does. Without a mesh `f` takes the arguments as they are.
    """

    def run(*arrays: Array) -> Array:
        mesh = jax.sharding.get_abstract_mesh()
        if mesh.empty:
            return f(*arrays)
        places = tuple(
            _spec(names, x.shape, mesh.shape, COMPUTE)[0]
            for names, x in zip(axes, arrays, strict=True)
        )
        # Kernels do not say along which axes their results vary.
        alone = jax.shard_map(f, in_specs=places, out_specs=places[0], check_vma=False)
        return alone(*arrays)

    return run


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _suffixes(name: str) -> Iterator[str]:
    while name:
        yield name
        _, _, name = name.partition("/")


def _by_rule(
    name: str,
    shape: tuple[int, ...],
    mesh: Mesh | AbstractMesh,
    rules: Rules,
    notes: list[str],
) -> NamedSharding:
    if not shape:
        return NamedSharding(mesh, PartitionSpec())
    for pattern, axes in (*rules, *RULES):
        if not re.search(pattern, name):
            continue
        if axes and len(axes) != len(shape):
            raise NeuroFMError(
                f"sharding rule {pattern!r} names {len(axes)} axes {axes} but "
                f"parameter {name} has shape {list(shape)}: mend the rule"
            )
        spec, whole = _spec(axes, shape, mesh.shape, STORAGE)
        notes += [f"{name} {list(shape)}: {reason}" for reason in whole]
        return NamedSharding(mesh, spec)
    raise NeuroFMError(
        f"no sharding rule matches parameter {name} {list(shape)}: add one to the "
        "task's rules()"
    )


def _spec(
    axes: Sequence[str | None],
    shape: tuple[int, ...],
    mesh_shape: Mapping[str, int],
    table: Table,
) -> tuple[PartitionSpec, list[str]]:
    """The partition of one array, and why dimensions stay whole."""
    entries: list[tuple[str, ...]] = []
    whole: list[str] = []
    taken: dict[str, str] = {}
    for axis, size in zip(axes, shape, strict=False):
        if axis is not None and axis not in table:
            raise NeuroFMError(
                f"sharding axis {axis!r} is unknown: use one of {sorted(table)}"
            )
        target = table[axis] if axis is not None else None
        names = (target,) if isinstance(target, str) else target or ()
        for name in names:
            if name in taken:
                raise NeuroFMError(
                    f"axes {taken[name]!r} and {axis!r} of one array both lie on mesh "
                    f"axis {name!r}: keep one of them whole (None) in the rule"
                )
            taken[name] = str(axis)
        parts = math.prod(mesh_shape[name] for name in names)
        if size % parts:
            whole.append(f"{axis}={size} stays whole, {parts} does not divide it")
            names = ()
        entries.append(names)
    while entries and not entries[-1]:
        entries.pop()
    return PartitionSpec(*(e[0] if len(e) == 1 else e or None for e in entries)), whole
