"""Ridge with penalties chosen by random chunks, in the notation of released code."""

import numpy as np
from jaxtyping import Float

from neurofm.encoding import ridge
from neurofm.encoding.folds import Splits
from neurofm.encoding.targets import Devices

ALPHAS = np.logspace(1, 4, 15)


def fit(
    X: Float[np.ndarray, "T F"],
    Y: Float[np.ndarray, "T V"],
    held_out: Splits,
    alphas: Float[np.ndarray, " A"] = ALPHAS,
    use_corr: bool = False,
    single_alpha: bool = False,
    normalpha: bool = False,
    place: Devices | None = None,
) -> ridge.Ridge:
    """Fit as the code of Antonello et al., "Scaling laws ..." (2023), does.

    Args:
      held_out: rows of each boot, drawn by `folds.chunks` or recorded ones.
      alphas: singular values S become S/(S² + alpha²): alpha 10 here is a penalty of
        100 elsewhere. `Ridge.penalties` holds the squares.
      use_corr: choose by correlation instead of a signed √|R²|.
      single_alpha: one penalty for all targets.
      normalpha: alphas are in units of the largest singular value.
    """
    score = "pearson" if use_corr else "signed_root_r2"
    return ridge.fit(X, Y, alphas**2, held_out, score, single_alpha, normalpha, place)
