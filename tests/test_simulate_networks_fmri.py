"""The simulated people at rest: what tells their labels and what does not."""

from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from neurofm.eval import connectomes
from neurofm.quickstart import resting
from neurofm.simulate import networks_fmri as simulation

N = 240
RATE = 1 / simulation.TR_S


@pytest.fixture(scope="module")
def people():
    of = simulation.world(3)
    length = resting.PEOPLE.n_volumes
    made = [simulation.run(of, 3, "train", i, length) for i in range(N)]
    return SimpleNamespace(
        world=of,
        x=[x for x, _ in made],
        direction=np.array([who.direction for _, who in made]),
        coupling=np.array([who.coupling for _, who in made]),
    )


def told(people, feature, label):
    """Accuracy of a logistic probe on people that it was not fitted on."""
    rows = np.stack([feature(x, RATE) for x in people.x]).astype(np.float32)
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=1e-3, max_iter=50))
    return cross_val_score(probe, rows, label, cv=4).mean()


CHANCE = 1.96 * np.sqrt(0.25 / N)


def test_connectivity_and_spectra_do_not_tell_the_direction(people):
    for feature in (connectomes.connectivity, connectomes.spectra):
        assert abs(told(people, feature, people.direction) - 0.5) < CHANCE


def test_lagged_covariance_tells_the_direction(people):
    assert told(people, connectomes.lagged_covariance, people.direction) > 0.9


def test_connectivity_tells_the_coupling(people):
    assert told(people, connectomes.connectivity, people.coupling) > 0.85
    assert abs(told(people, connectomes.spectra, people.coupling) - 0.5) < CHANCE


def test_who_knows_the_simulation_reads_both_labels(people):
    of = people.world
    direction = np.array([simulation.direction_evidence(of, x) for x in people.x])
    coupling = np.array([simulation.coupling_evidence(of, x) for x in people.x])
    assert ((direction < 0) == people.direction).mean() > 0.95
    assert ((coupling < 0) == people.coupling).mean() > 0.9


@pytest.mark.parametrize("direction", [0, 1])
def test_the_wave_moves_through_the_regions_and_leaves_lag_0_alone(direction):
    of = simulation.world(0)
    rng = np.random.default_rng(0)
    who = simulation.person(of, rng, direction, 0)
    w = simulation.wave(of, who, rng, 40_000)[of.crossed > 0][:9]
    phase = of.phase[of.crossed > 0][:9]
    apart = phase[:, None] - phase
    turn = 2 * np.pi * simulation.WAVE_HZ * simulation.TR_S
    sign = 1 if direction == 0 else -1
    for lag in (0, 1, 2):
        found = w[:, lag:] @ w[:, : w.shape[1] - lag].T / w.shape[1]
        expected = simulation.COHERENCE**lag * np.cos(lag * turn - sign * apart)
        np.testing.assert_allclose(found, expected, atol=0.08)


def test_both_labels_are_even_and_independent(people):
    pairs, counts = np.unique(
        [people.direction, people.coupling], axis=1, return_counts=True
    )
    assert pairs.shape == (2, 4)
    assert set(counts) == {N // 4}


def test_everyone_has_a_connectivity_of_their_own():
    of = simulation.world(3)
    rng = np.random.default_rng(0)
    first, second = (simulation.person(of, rng, 0, 0) for _ in range(2))

    def halves(who):
        x = simulation.recorded(of, who, rng, 1200)
        return [connectomes.connectivity(part, RATE) for part in np.split(x, 2, 1)]

    (a, again), (b, _) = halves(first), halves(second)
    assert np.corrcoef(a, again)[0, 1] > np.corrcoef(a, b)[0, 1] + 0.05
