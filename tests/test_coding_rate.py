"""The coding rate against the formula in numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from neurofm.errors import NeuroFMError
from neurofm.objectives.coding_rate import coding_rate

EPS, COEFF = 0.07, 1.3


def views(m=10, p=4, seed=2):
    rng = np.random.default_rng(seed)
    x = rng.normal(0, 1, (2, 2, m, p))
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def by_formula(student, teacher, parts=1):
    """Every part by itself, as on a device of its own, and the mean of their losses."""
    losses = []
    for s, t in zip(
        np.split(student, parts, axis=1), np.split(teacher, parts, axis=1), strict=True
    ):
        _, m, p = s.shape
        alike = [(t[a] * s[b]).sum(-1).mean() for a, b in ((0, 1), (1, 0))]
        expansion = 0
        for v in (0, 1):
            f = (s[v] + t[v]) / 2
            matrix = np.eye(p) + p / (m * parts * EPS) * f.T @ f
            expansion += np.log(np.linalg.det(matrix)) / 2 / 2
        losses.append(-COEFF * np.mean(alike) - expansion * (p + m) / (p * m))
    return np.mean(losses)


def loss(student, teacher, counted=None, parts=1):
    counted = np.ones(student.shape[1], bool) if counted is None else counted
    arrays = (jnp.asarray(x, jnp.float32) for x in (student, teacher))
    return coding_rate(
        *arrays, jnp.asarray(counted), eps=EPS, coeff=COEFF, parts=parts
    )["loss"]


@pytest.mark.parametrize("parts", [1, 2, 5])
def test_the_loss_is_that_of_the_formula(parts):
    student, teacher = views()
    wanted = by_formula(student, teacher, parts)
    assert loss(student, teacher, parts=parts) == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("parts", [0, 3])
def test_parts_must_divide_the_batch(parts):
    with pytest.raises(
        NeuroFMError, match=f"rate_parts is {parts}, and a batch has 10"
    ):
        loss(*views(), parts=parts)


def test_as_released_the_number_of_devices_changes_the_loss():
    student, teacher = views()
    assert abs(loss(student, teacher) - loss(student, teacher, parts=2)) > 1e-2


def test_rows_that_do_not_count_are_as_if_they_were_not_there():
    student, teacher = views()
    kept = np.arange(10) % 3 != 1
    wanted = by_formula(student[:, kept], teacher[:, kept])
    assert loss(student, teacher, kept) == pytest.approx(wanted, rel=1e-5)


def test_a_batch_of_fillers_has_a_finite_loss_without_slopes():
    student, teacher = (jnp.asarray(x, jnp.float32) for x in views())
    none = jnp.zeros(10, bool)
    value, slopes = jax.value_and_grad(loss)(student, teacher, none)
    assert np.isfinite(value)
    assert not np.any(slopes)


def test_collapse_costs_more_than_any_spread():
    student, teacher = views()
    same = np.broadcast_to(student[:, :1], student.shape)
    assert loss(same, same) > loss(student, student)
    assert np.isfinite(loss(same, same))
    assert teacher.shape == student.shape
