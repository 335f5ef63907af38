"""Prototypes: a regular simplex, rotated without preference."""

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
@settings(deadline=None, derandomize=True, max_examples=60)
def test_are_unit_vectors_as_far_apart_as_can_be(sizes, zero_mean, seed):
    classes, dimension = sizes
    prototypes = simplex(classes, dimension, rng(seed), zero_mean=zero_mean)
    assert prototypes.shape == sizes
    assert prototypes.dtype == np.float32
    expected = np.full((classes, classes), -1 / (classes - 1))
    np.fill_diagonal(expected, 1)
    np.testing.assert_allclose(prototypes @ prototypes.T, expected, atol=2e-6)
    np.testing.assert_allclose(prototypes.sum(axis=0), 0, atol=2e-6)  # the centre of a simplex
    if zero_mean:
        np.testing.assert_allclose(prototypes.sum(axis=1), 0, atol=2e-6)


@pytest.mark.parametrize("zero_mean", [False, True])
@pytest.mark.parametrize("classes", [2, 3, 10])
def test_as_many_classes_as_ports_fit_and_one_more_does_not(classes, zero_mean):
    prototypes = simplex(classes, classes, rng(), zero_mean=zero_mean)
    assert np.linalg.matrix_rank(prototypes, tol=1e-3) == classes - 1
    with pytest.raises(ValueError, match=f"{classes + 1} prototypes do not fit into dimension"):
        simplex(classes + 1, classes, rng(), zero_mean=zero_mean)


@pytest.mark.parametrize("zero_mean", [False, True])
def test_no_direction_is_preferred(zero_mean):
    """Over many draws a prototype has mean 0 and the covariance of a Haar-random unit vector.

    That is I / n, or (I - 1 1^T / n) / (n - 1) in the subspace of zero mean.
    """
    classes, n, count = 3, 5, 4000
    source = rng()
    found = np.stack([simplex(classes, n, source, zero_mean=zero_mean) for _ in range(count)])
    plane = np.eye(n) - 1 / n if zero_mean else np.eye(n)
    expected = plane / (n - 1 if zero_mean else n)
    for c in range(classes):
        # Entries are within [-1, 1] with a variance below 1 / 4: five standard errors.
        tolerance = 5 * 0.5 / np.sqrt(count)
        np.testing.assert_allclose(found[:, c].mean(axis=0), 0, atol=tolerance)
        covariance = found[:, c].T @ found[:, c] / count
        np.testing.assert_allclose(covariance, expected, atol=tolerance)


def test_rotations_and_reflections_are_equally_likely():
    """Three corners in the plane of zero mean run around one way as often as the other."""
    count, source = 2000, rng(1)
    corners = [simplex(3, 3, source, zero_mean=True) for _ in range(count)]
    senses = np.sign([np.linalg.det([p[1] - p[0], p[2] - p[0], np.ones(3)]) for p in corners])
    assert abs(senses.mean()) < 4 / np.sqrt(count)


@pytest.mark.parametrize(
    ("classes", "error", "message"),
    [
        (1, ValueError, "classes must be at least 2, got 1"),
        (0, ValueError, "classes must be at least 2, got 0"),
        (2.0, TypeError, "classes must be a whole number, got 2.0"),
        (True, TypeError, "classes must be a whole number, got True"),
    ],
)
def test_what_is_no_number_of_classes_is_refused(classes, error, message):
    with pytest.raises(error, match=message):
        simplex(classes, 5, rng())


@pytest.mark.parametrize("law", PROTOTYPES)
@pytest.mark.parametrize("zero_mean", [False, True])
class TestEveryLaw:
    def test_are_unit_vectors_in_their_space(self, law, zero_mean):
        for classes, dimension in ((2, 2), (3, 7), (10, 10)):
            found = PROTOTYPES[law](classes, dimension, rng(), zero_mean=zero_mean)
            assert found.shape == (classes, dimension)
            assert found.dtype == np.float32
            np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-5)
            if zero_mean:
                np.testing.assert_allclose(found.sum(axis=1), 0, atol=1e-5)

    def test_the_generator_alone_decides(self, law, zero_mean):
        first, again, other = (
            PROTOTYPES[law](4, 9, rng(seed), zero_mean=zero_mean) for seed in (3, 3, 4)
        )
        np.testing.assert_array_equal(first, again)
        assert np.abs(first - other).max() > 0.1

    def test_more_than_fit_are_refused(self, law, zero_mean):
        with pytest.raises(ValueError, match="5 prototypes do not fit into dimension 4"):
            PROTOTYPES[law](5, 4, rng(), zero_mean=zero_mean)


@pytest.mark.parametrize("zero_mean", [False, True])
def test_independent_prototypes_are_uniform_on_the_sphere_and_do_not_know_of_each_other(zero_mean):
    """Covariance of a Haar-random unit vector; cosines of mean 0 and variance 1 / freedom."""
    n, count, source = 5, 4000, rng()
    found = np.stack([independent(2, n, source, zero_mean=zero_mean) for _ in range(count)])
    freedom = n - 1 if zero_mean else n
    expected = (np.eye(n) - 1 / n if zero_mean else np.eye(n)) / freedom
    tolerance = 5 * 0.5 / np.sqrt(count)  # as above
    for c in range(2):
        covariance = found[:, c].T @ found[:, c] / count
        np.testing.assert_allclose(covariance, expected, atol=tolerance)
        np.testing.assert_allclose(found[:, c].mean(axis=0), 0, atol=tolerance)
    cosines = np.sum(found[:, 0] * found[:, 1], axis=-1)
    assert abs(cosines.mean()) < 5 / np.sqrt(freedom * count)
    assert abs(cosines.var() - 1 / freedom) < tolerance
