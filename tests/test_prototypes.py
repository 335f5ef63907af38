"""Prototypes: unit vectors without a preferred direction, by default a regular simplex."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from photonic_ffzero.goodness.prototypes import PROTOTYPES, independent, simplex
from photonic_ffzero.seeds import generator

SIZES = st.tuples(st.integers(2, 12), st.integers(0, 30)).map(lambda s: (s[0], s[0] + s[1]))


def rng(seed=0):
    return generator(seed, "prototypes")


@given(SIZES, st.booleans(), st.integers(0, 99))
@settings(derandomize=True, max_examples=60)
def test_a_simplex_has_corners_as_far_apart_as_can_be(sizes, zero_mean, seed):
    prototypes = simplex(*sizes, rng(seed), zero_mean=zero_mean)
    expected = np.full((sizes[0], sizes[0]), -1 / (sizes[0] - 1))
    np.fill_diagonal(expected, 1)
    np.testing.assert_allclose(prototypes @ prototypes.T, expected, atol=2e-6)


@pytest.mark.parametrize("zero_mean", [False, True])
@pytest.mark.parametrize("law", PROTOTYPES)
class TestEveryLaw:
    def test_are_unit_vectors_in_their_space(self, law, zero_mean):
        for classes, dimension in ((2, 2), (3, 7), (10, 10)):
            prototypes = PROTOTYPES[law](classes, dimension, rng(), zero_mean=zero_mean)
            assert prototypes.shape == (classes, dimension)
            assert prototypes.dtype == np.float32
            np.testing.assert_allclose(np.linalg.norm(prototypes, axis=1), 1, rtol=1e-5)
            if zero_mean:
                np.testing.assert_allclose(prototypes.sum(axis=1), 0, atol=1e-5)

    def test_no_direction_is_preferred(self, law, zero_mean):
        """Over many draws a prototype has mean 0 and the covariance of a Haar-random unit vector.

        That is I / n, or (I - 1 1^T / n) / (n - 1) in the subspace of zero mean.
        """
        n, count, source = 5, 4000, rng()
        drawn = np.stack([PROTOTYPES[law](3, n, source, zero_mean=zero_mean) for _ in range(count)])
        expected = (np.eye(n) - 1 / n) / (n - 1) if zero_mean else np.eye(n) / n
        tolerance = 5 * 0.5 / np.sqrt(count)  # entries within [-1, 1] vary by less than 1 / 4
        for c in range(3):
            np.testing.assert_allclose(drawn[:, c].mean(axis=0), 0, atol=tolerance)
            covariance = drawn[:, c].T @ drawn[:, c] / count
            np.testing.assert_allclose(covariance, expected, atol=tolerance)

    def test_more_than_fit_are_refused(self, law, zero_mean):
        with pytest.raises(ValueError, match="5 prototypes do not fit into dimension 4"):
            PROTOTYPES[law](5, 4, rng(), zero_mean=zero_mean)


def test_rotations_and_reflections_are_equally_likely():
    """Three corners in the plane of zero mean run around one way as often as the other."""
    count, source = 2000, rng(1)
    corners = [simplex(3, 3, source, zero_mean=True) for _ in range(count)]
    senses = np.sign([np.linalg.det([p[1] - p[0], p[2] - p[0], np.ones(3)]) for p in corners])
    assert abs(senses.mean()) < 4 / np.sqrt(count)


@pytest.mark.parametrize("zero_mean", [False, True])
def test_cosines_of_independent_prototypes_have_mean_0_and_variance_1_over_freedom(zero_mean):
    n, count, source = 5, 4000, rng()
    pairs = np.stack([independent(2, n, source, zero_mean=zero_mean) for _ in range(count)])
    freedom = n - 1 if zero_mean else n
    cosines = np.sum(pairs[:, 0] * pairs[:, 1], axis=-1)
    assert abs(cosines.mean()) < 5 / np.sqrt(freedom * count)
    assert abs(cosines.var() - 1 / freedom) < 5 * 0.5 / np.sqrt(count)


@pytest.mark.parametrize(("classes", "error"), [(1, ValueError), (2.0, TypeError)])
def test_what_is_no_number_of_classes_is_refused(classes, error):
    with pytest.raises(error, match=f"classes must be .*, got {classes}"):
        simplex(classes, 5, rng())
