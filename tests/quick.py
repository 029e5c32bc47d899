"""Programs that are compiled once and run once or twice."""

import functools

import jax

# Without LLVM's optimisation a program is compiled three times as fast.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
