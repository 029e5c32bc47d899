"""The coding-rate loss of two views: alike across views, spread over the batch.

Maximal coding rate reduction in the form of Brain-Semantoks (arXiv 2512.11582). The
expansion is a log-determinant of the covariance of the whole batch, so it couples all
rows of a step: the covariance is a sum over rows, which the devices add up.

Axes: V = 2 views, m rows, p features.
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from neurofm.errors import NeuroFMError
from neurofm.parallel.sharding import constrain


def coding_rate(
    student: Float[Array, "V m p"],
    teacher: Float[Array, "V m p"],
    counted: Bool[Array, " m"],
    *,
    eps: float = 0.05,
    coeff: float = 1.0,
    parts: int = 1,
) -> dict[str, Float[Array, ""]]:
    """`loss`, and its `compression` and `expansion`, in float32.

    Compression is the mean over rows of the inner products of teacher and student
    across views; expansion the mean over views of half the log-determinant of
    I + p / (m eps) F^T F, F being the mean of student and teacher, times (p + m) / pm.

    Args:
      student, teacher: unit vectors; slopes are those of both, so stop the teacher's.
      counted: rows under False are no part of the batch.
      parts: 1; or, as released for that many devices, so many equal parts of the batch
        have a covariance each, and m is theirs times the number of parts in the
        log-determinant's scale alone.

    Raises:
      NeuroFMError: rows that cannot be cut in so many equal parts.
    """
    if parts < 1 or student.shape[1] % parts:
        raise NeuroFMError(
            f"task.rate_parts is {parts}, and a batch has {student.shape[1]} rows: "
            "give a number of parts that divides them"
        )
    weight = counted.astype(jnp.float32)
    student = student.astype(jnp.float32) * weight[:, None]
    teacher = teacher.astype(jnp.float32) * weight[:, None]
    m = jnp.maximum(weight.sum(), 1)
    across = (teacher * student[::-1]).sum(-1)  # teacher 1 with student 2, and back
    compression = across.sum() / (2 * m)
    mean = (student + teacher) / 2
    n_views, rows, p = mean.shape
    mean = mean.reshape(n_views, parts, rows // parts, p)
    own = jnp.maximum(weight.reshape(parts, -1).sum(-1), 1)  # rows of each part
    covariance = jnp.einsum("vkmp,vkmq->vkpq", mean, mean, precision="highest")
    covariance = constrain(covariance, None, None, None, None)
    scale = (p / (own * parts * eps))[:, None, None]
    factor = jnp.linalg.cholesky(jnp.eye(p) + scale * covariance)
    log_det = 2 * jnp.log(jnp.diagonal(factor, axis1=-2, axis2=-1)).sum(-1)
    expansion = (log_det.mean(0) / 2 * (p + own) / (p * own)).mean()
    return {
        "loss": -coeff * compression - expansion,
        "compression": compression,
        "expansion": expansion,
    }
