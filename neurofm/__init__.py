"""neurofm: foundation models of brain and sound signals, in JAX."""

from typing import Any

__version__ = "0.1.0"
__all__ = ["Embedder", "__version__", "load"]


def __getattr__(name: str) -> Any:
    # Lazy, so that `neurofm --help` does not wait for jax.
    if name == "load":
        from neurofm.model import load

        return load
    if name == "Embedder":
        from neurofm.embedder import Embedder

        return Embedder
    raise AttributeError(f"module 'neurofm' has no attribute {name!r}")
