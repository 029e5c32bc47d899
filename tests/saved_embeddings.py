"""Small folders of embeddings, as `neurofm embed` writes them."""

import numpy as np

from neurofm.data.embeddings import Writer


def save(folder, layers, columns=None, items=None, times=None, info=None, **request):
    """Write layers {name: (N, D) or (N, T, D)}, a row an item."""
    x = {name: np.asarray(a, np.float32) for name, a in layers.items()}
    x = {name: a[:, None] if a.ndim == 2 else a for name, a in x.items()}
    n, n_tokens = next(iter(x.values())).shape[:2]
    items = items or [f"r{i:02d}" for i in range(n)]
    at = np.arange(n_tokens) + 0.5 if times is None else np.asarray(times, float)
    told = {"format": "npz", "pool": "none", "task": {"name": "t"}, "events": False}
    writer = Writer(folder, {**told, **request})
    for i, item in enumerate(items):
        own = {name: values[i] for name, values in (columns or {}).items()}
        rows = [(item, {k: a[i] for k, a in x.items()}, at, {"file": item, **own})]
        writer.add(item, rows, float(n_tokens))
    writer.finish({"n_embeddings": n, **(info or {})}, [])
    return folder
