"""Fewer steps in time by averaging."""

import numpy as np
from jaxtyping import Float


def adaptive_average(n_in: int, n_out: int) -> Float[np.ndarray, "I O"]:
    """The matrix of torch's adaptive average pooling, `y = x @ matrix` over time.

    Output i is the mean of inputs floor(i I / O) to ceil((i + 1) I / O) - 1, so
    neighbours may share one: 298 steps to 100 takes 3 or 4 of them each.
    """
    matrix = np.zeros((n_in, n_out), np.float32)
    for i in range(n_out):
        start, stop = i * n_in // n_out, -((i + 1) * n_in // -n_out)
        matrix[start:stop, i] = np.float32(1 / (stop - start))
    return matrix
