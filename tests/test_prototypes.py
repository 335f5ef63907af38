"""Prototypes: a regular simplex, rotated without preference."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from photonic_ffzero.prototypes import simplex
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


def test_the_generator_alone_decides():
    np.testing.assert_array_equal(simplex(4, 9, rng(3)), simplex(4, 9, rng(3)))
    source = rng(3)
    first, second = simplex(4, 9, source), simplex(4, 9, source)
    assert np.abs(first - second).max() > 0.1
    assert np.abs(simplex(4, 9, rng(4)) - first).max() > 0.1


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
