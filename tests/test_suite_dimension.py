"""How many dimensions embeddings fill, electrode by electrode."""

import numpy as np
import pytest
from saved_embeddings import save

from neurofm.analysis.dimension import intrinsic
from neurofm.errors import NeuroFMError
from neurofm.evaluate import evaluate

ALONE = {"contract": {"kind": "ieeg", "n_chans": 1}}


def flat(rng, n, d, rank):
    """Rows of equal variance along `rank` directions, shifted."""
    axes = np.linalg.qr(rng.normal(size=(d, rank)))[0]
    along = np.linalg.qr(rng.normal(size=(n, rank)))[0]
    return (along - along.mean(0)) @ axes.T + 7


@pytest.mark.parametrize("rank", [1, 3, 8])
def test_rows_fill_as_many_dimensions_as_they_vary_in(rank):
    x = flat(np.random.default_rng(0), 400, 20, rank)
    assert intrinsic(x) == rank
    assert intrinsic(x, most=2) == min(rank, 2)
    assert intrinsic(np.ones((5, 3))) == 0


def test_components_are_counted_until_they_hold_more_than_the_share():
    x = np.diag(np.sqrt([6.0, 3.0, 1.0, 0.0]))
    x = np.vstack([x, -x])  # variances 60, 30 and 10 %
    assert [intrinsic(x, share) for share in (0.5, 0.7, 0.95)] == [1, 2, 3]


def test_each_electrode_is_counted_alone(tmp_path):
    rng = np.random.default_rng(1)
    parts = [flat(rng, 60, 6, rank) for rank in (2, 5)]
    both = np.concatenate(parts, 1)
    names = {"sensors": [["LA1", "LA2"]] * 60}
    given = save(tmp_path / "a", {"last": both}, names, info=ALONE)
    found = evaluate([given], out=tmp_path / "out", suite="dimension")
    assert found["dimension"] == {"last": {"LA1": 2, "LA2": 5}}
    assert found["scores"]["last"] == {"mean": 3.5, "std": 1.5, "n": 2}
    together = save(tmp_path / "b", {"last": both})
    found = evaluate([together], out=tmp_path / "out2", suite="dimension")
    assert found["dimension"] == {"last": {"all": 7}}


def test_rows_of_unlike_electrodes_and_too_few_are_refused(tmp_path):
    x = np.random.default_rng(2).normal(size=(6, 4))
    unlike = {"sensors": [["LA1", "LA2"]] * 5 + [["LA1", "LB2"]]}
    given = save(tmp_path / "a", {"last": x}, unlike, info=ALONE)
    with pytest.raises(NeuroFMError, match="2 different sets of electrodes"):
        evaluate([given], out=tmp_path / "out", suite="dimension")
    few = save(tmp_path / "b", {"last": x[:3]})
    with pytest.raises(NeuroFMError, match="3 rows are too few"):
        evaluate([few], out=tmp_path / "out", suite="dimension")
