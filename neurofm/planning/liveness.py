"""How much memory a program needs at its fullest, told from its jaxpr alone.

An estimate that asks no compiler: values are made in the order of the program and let
go after their last use, nothing is fused and nothing is made twice. Elementwise chains,
which compilers fuse, live briefly here as well; what stays over the whole backward pass
is what counts, and that is the same for every compiler.
"""

import math
from collections.abc import Sequence
from typing import Any

from jax.extend import core


def peak_bytes(jaxpr: core.ClosedJaxpr) -> int:
    """Most bytes alive at once, inputs not counted, outputs counted."""
    return _peak(jaxpr.jaxpr, frozenset(jaxpr.jaxpr.outvars))


def _peak(jaxpr: core.Jaxpr, kept: frozenset[Any]) -> int:
    given = {*jaxpr.invars, *jaxpr.constvars}
    last_use = {
        var: at
        for at, eqn in enumerate(jaxpr.eqns)
        for var in eqn.invars
        if isinstance(var, core.Var)
    }
    alive, most = 0, 0
    for at, eqn in enumerate(jaxpr.eqns):
        made = sum(map(_bytes, eqn.outvars))
        most = max(most, alive + _inside(eqn, made))
        alive += sum(_bytes(v) for v in eqn.outvars if v in last_use or v in kept)
        gone = {
            var
            for var in eqn.invars
            if isinstance(var, core.Var)
            and last_use[var] == at
            and var not in given
            and var not in kept
        }
        alive -= sum(map(_bytes, gone))
    return most


def _inside(eqn: Any, made: int) -> int:
    """Bytes an equation needs while it runs: its outputs and what its body holds.

    The outputs of a call are those of its body; those of a scan are stacked next to
    what one turn of it holds.
    """
    bodies = [
        _peak(body, frozenset())
        for value in eqn.params.values()
        for body in _jaxprs(value)
    ]
    return made + max(bodies, default=0)


def _jaxprs(value: Any) -> Sequence[core.Jaxpr]:
    if isinstance(value, core.ClosedJaxpr):
        return (value.jaxpr,)
    if isinstance(value, core.Jaxpr):
        return (value,)
    if isinstance(value, tuple | list):
        return [body for each in value for body in _jaxprs(each)]
    return ()


def _bytes(var: Any) -> int:
    aval = var.aval
    size = getattr(aval.dtype, "itemsize", 0) if hasattr(aval, "dtype") else 0
    return math.prod(getattr(aval, "shape", ())) * size
