"""How many dimensions a cloud of vectors fills.

Axis letters: N vectors, D width.
"""

import numpy as np
from jaxtyping import Float


def intrinsic(x: Float[np.ndarray, "N D"], share: float = 0.95, most: int = 200) -> int:
    """Fewest principal components that hold more than `share` of the variance.

    Of the first `most`, as BrainBERT's are counted (arXiv 2302.14367 and its released
    code); where these hold less, `most` or as many as there are. 0 where nothing
    varies.
    """
    variance = np.linalg.svd(x - x.mean(0), compute_uv=False) ** 2
    if variance.sum() == 0:
        return 0
    held = np.cumsum(variance[:most]) / variance.sum()
    return min(int((held <= share).sum()) + 1, len(held))
