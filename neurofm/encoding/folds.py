"""Which rows are held out in turn when a penalty is chosen.

Neighbouring rows are not independent, so what is held out is always contiguous: a run,
a fold, or chunks. Each function returns one array of row numbers a split.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int, Shaped

from neurofm.errors import NeuroFMError

Splits = Sequence[Int[np.ndarray, " _"]]


def by_run(runs: Shaped[np.ndarray, " T"]) -> Splits:
    """Leave one run out: the default wherever runs are known.

    Raises:
      NeuroFMError: fewer than two runs.
    """
    names = np.unique(runs)
    if len(names) < 2:
        raise NeuroFMError(
            f"leaving one run out needs two runs but there is {len(names)}; use "
            "contiguous folds"
        )
    return [np.flatnonzero(runs == name) for name in names]


def contiguous(n_rows: int, n_folds: int = 5) -> Splits:
    """Cut `n_rows` rows into `n_folds` stretches; the first ones are longer by a row.

    Raises:
      NeuroFMError: fewer than two folds, or more folds than rows.
    """
    if not 2 <= n_folds <= n_rows:
        raise NeuroFMError(
            f"{n_folds} folds of {n_rows} rows; give from 2 folds to one a row"
        )
    return np.array_split(np.arange(n_rows), n_folds)


def chunks(
    n_rows: int, chunk: int = 20, n_chunks: int | None = None, n_boots: int = 3, seed=0
) -> Splits:
    """Random chunks of `chunk` rows, drawn without replacement, held out in each boot.

    A last chunk that is not whole stays in training, as in the released code of
    Antonello et al., "Scaling laws for language encoding models in fMRI" (2023).

    Args:
      n_chunks: chunks held out; by default those of a quarter of the rows.

    Raises:
      NeuroFMError: no chunk to hold out, or none left to train on.
    """
    n_whole = n_rows // chunk
    n_chunks = int(0.25 * n_rows / chunk) if n_chunks is None else n_chunks
    if not 1 <= n_chunks < n_whole:
        raise NeuroFMError(
            f"{n_rows} rows have {n_whole} chunks of {chunk} rows, of which {n_chunks} "
            "would be held out; use shorter chunks, and hold out from 1 to all but one"
        )
    rng = np.random.default_rng(seed)
    rows = np.arange(n_whole * chunk).reshape(n_whole, chunk)
    drawn = (rng.permutation(n_whole)[:n_chunks] for _ in range(n_boots))
    return [rows[np.sort(which)].ravel() for which in drawn]
