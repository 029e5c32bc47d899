"""Shapes are checked in all of neurofm; compiled programs are kept between runs."""

import gc
import os
import sys
from pathlib import Path

from hypothesis import settings
from jaxtyping import install_import_hook

ROOT = Path(__file__).parents[1]
CACHE = str(ROOT / ".cache" / "jax")
os.environ["JAX_PLATFORMS"] = "cpu"  # with libtpu installed jax would look for a TPU
# Tests run a program once or twice: it is worth more to compile it fast.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", CACHE)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "parity")]

# Tracing makes many small objects that stay: looking through them takes a while.
gc.set_threshold(200_000, 20, 50)

install_import_hook("neurofm", "typecheck.check")

# The same examples in every run: what fails here fails for everyone.
settings.register_profile("fixed", derandomize=True)
settings.load_profile("fixed")
