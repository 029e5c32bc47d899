"""Both precisions in which encoding models are compared with their references."""

import jax
import numpy as np
import pytest


@pytest.fixture(params=["float64", "float32"])
def close(request):
    """Compare in one precision, in which `close.of` prepares inputs."""

    def compare(ours, reference):
        tolerance = {"float64": (1e-8, 1e-8), "float32": (1e-4, 1e-5)}
        rtol, atol = tolerance[request.param]
        np.testing.assert_allclose(ours, reference, rtol=rtol, atol=atol)

    compare.of = lambda *arrays: [a.astype(request.param) for a in arrays]
    compare.exact = request.param == "float64"
    with jax.enable_x64(compare.exact):
        yield compare


@pytest.fixture
def same_penalties(close):
    """Chosen penalties are identical in float64."""

    def compare(ours, reference):
        if close.exact:
            np.testing.assert_allclose(ours, reference, rtol=1e-12)
        else:  # two penalties may be within rounding of each other
            assert np.mean(np.isclose(ours, reference, rtol=1e-4)) >= 0.8

    return compare
