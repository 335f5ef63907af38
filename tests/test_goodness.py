"""Goodness is a cosine, also in the dark and in dim light."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from meshes._tensorflow import tf
from photonic_ffzero.goodness.prototypes import simplex
from photonic_ffzero.goodness.readouts import (
    DETECTIONS,
    CentralPorts,
    Goodness,
    Ports,
    balanced,
    cosine,
)
from photonic_ffzero.seeds import generator

pytestmark = pytest.mark.compiled

N, C = 7, 4
PROTOTYPES = simplex(C, N, generator(0, "prototypes"))
COMPILED = tf.function(cosine, jit_compile=True, autograph=False)
GROUPS = 3
BY_GROUP = np.stack([simplex(C, N, generator(0, "prototypes", g)) for g in range(GROUPS)])
TAPS = arrays(np.float64, (3, N), elements=st.floats(-10, 10).filter(lambda x: abs(x) > 1e-3))


def in_pools(z, size):
    """The sum of the pools' cosines, each by its share; the last pool has what is left over."""
    prototypes = PROTOTYPES.astype(np.float64)
    found = 0
    for pool in np.array_split(np.arange(N), range(size, N - N % size, size)):
        norm = np.linalg.norm(z[..., pool], axis=-1, keepdims=True)
        found += np.sqrt(len(pool) / N) * z[..., pool] @ prototypes[:, pool].T / norm
    return found


def scores(readout, z):
    """Scores [..., C] of a readout of one group."""
    (groups,) = tf.unstack(readout(readout.split(z)), axis=-2)
    return groups


def gradient(function, z):
    z = tf.constant(z)
    with tf.GradientTape() as tape:
        tape.watch(z)
        value = function(z)
    return tape.gradient(value, z).numpy()


@given(TAPS, st.integers(2, N + 2))
@settings(derandomize=True, max_examples=50)
def test_is_the_sum_of_the_cosines_of_all_pools(z, size):
    """Also where values are left over; a pool of all values is the textbook cosine."""
    found = cosine(tf.constant(z), PROTOTYPES, size)
    np.testing.assert_allclose(found, in_pools(z, size), atol=1e-12)
    single = cosine(tf.constant(z, tf.float32), PROTOTYPES)
    assert single.dtype == tf.float32
    np.testing.assert_allclose(single, in_pools(z, N), atol=1e-6)


@pytest.mark.parametrize("detection", DETECTIONS)
@pytest.mark.parametrize("power", [1e-30, 1e-22, 1e-10, 1.0, 1e20])
def test_does_not_depend_on_the_power(power, detection):
    """Light behind four electro-optic layers has intensities near 1e-22, whose squares are 0."""
    readout = Goodness(PROTOTYPES[np.newaxis], detection)
    intensities = np.random.default_rng(1).exponential(size=(5, N)).astype(np.float32)
    dim = intensities * np.float32(power)
    expected = scores(readout, tf.constant(intensities))
    np.testing.assert_allclose(scores(readout, tf.constant(dim)), expected, atol=1e-6)
    # G(a z) = G(z), so its derivative is a^-1 times that at z.
    slope = gradient(lambda z: scores(readout, z)[..., 0], intensities)
    np.testing.assert_allclose(
        gradient(lambda z: scores(readout, z)[..., 0], dim) * np.float32(power), slope, atol=1e-5
    )


@pytest.mark.parametrize("score", [cosine, COMPILED])
def test_a_dark_pool_has_goodness_and_slope_zero_and_does_not_touch_the_others(score):
    z = np.array([[0, 0, 1, 2, 3, -1, 2], [0] * 7], np.float32)
    lit = sum(
        np.sqrt(size / N) * z[0, pool] @ PROTOTYPES[:, pool].T / np.linalg.norm(z[0, pool])
        for size, pool in ((2, slice(2, 4)), (3, slice(4, 7)))
    )
    np.testing.assert_allclose(score(tf.constant(z), PROTOTYPES, 2), [lit, [0] * C], atol=1e-6)
    for norm_size in (0, 2):
        slope = gradient(lambda z: score(z, PROTOTYPES, norm_size)[..., 0], z)  # noqa: B023
        assert slope[0, 2:].all()
        assert np.isfinite(slope).all()
        assert not slope[1].any()
    assert not slope[0, :2].any()


@given(TAPS, st.integers(0, C - 1), st.sampled_from(sorted(DETECTIONS)), st.sampled_from((0, 3)))
@settings(derandomize=True, max_examples=50)
def test_gradient_is_the_derivative(z, c, detection, norm_size):
    readout = Goodness(PROTOTYPES[np.newaxis], detection, norm_size)
    detected = DETECTIONS[detection](tf.constant(z)).numpy()
    for pool in (slice(3), slice(3, N)) if norm_size else (slice(N),):
        norm = np.linalg.norm(detected[:, pool], axis=-1)
        assume(norm.min() > 0.1)  # near z = 0 the cosine bends too sharply for a step
    step = 1e-6
    moves = step * np.eye(N)[:, np.newaxis]  # every sample moves along one port after the other
    up, down = (scores(readout, tf.constant(z + sign * moves))[..., c] for sign in (1, -1))
    found = gradient(lambda z: scores(readout, z)[..., c], z)
    np.testing.assert_allclose(found, np.transpose((up - down) / (2 * step)), atol=1e-7, rtol=1e-6)


@given(TAPS, st.floats(-100, 100))
@settings(derandomize=True, max_examples=50)
def test_balanced_detection_kills_constants(z, background):
    detected = balanced(tf.constant(z + background)).numpy()
    np.testing.assert_allclose(detected, balanced(tf.constant(z)), atol=1e-10)
    np.testing.assert_allclose(detected.sum(axis=-1), 0, atol=1e-10)


def test_balanced_detection_reaches_prototypes_that_raw_intensities_cannot():
    prototypes = simplex(C, 64, generator(0, "prototypes"), zero_mean=True)
    best = prototypes - prototypes.min(axis=1, keepdims=True)  # intensities: never negative
    reached = scores(Goodness(prototypes[np.newaxis], "balanced"), tf.constant(best))
    np.testing.assert_allclose(np.diag(reached), 1, atol=1e-6)
    # Among vectors without negative entries the positive part has the largest cosine.
    positive = tf.constant(np.maximum(prototypes, 0))
    assert np.diag(scores(Goodness(prototypes[np.newaxis], "raw"), positive)).max() < 0.85


@pytest.mark.parametrize(("kind", "first"), [(Ports, 0), (CentralPorts, 2)])
class TestPorts:
    def test_several_label_dimensions_have_ports_of_their_group(self, kind, first):
        """Only then does the score of a label depend on the parameters of its own group alone."""
        z = np.random.default_rng(3).exponential(size=(2, 5, 3 * N)).astype(np.float32)
        readout = kind(3, 2)
        scores = readout(readout.split(tf.constant(z)))
        np.testing.assert_array_equal(scores, z.reshape(2, 5, 3, N)[..., first : first + 2])

    def test_what_is_not_read_has_no_slope(self, kind, first):
        readout = kind(3, 2)
        weights = np.random.default_rng(4).normal(size=(5, 3, 2))
        z = np.random.default_rng(5).normal(size=(5, 3 * N))
        slope = gradient(lambda z: tf.reduce_sum(weights * readout(readout.split(z))), z)
        np.testing.assert_array_equal(readout.join(tf.constant(weights), 3 * N), slope)


@pytest.mark.parametrize(
    ("size", "classes", "first"), [(64, 10, 27), (16, 10, 3), (10, 10, 0), (11, 10, 0), (13, 4, 4)]
)
def test_central_ports_are_in_the_middle(size, classes, first):
    assert CentralPorts(1, classes).first(size) == first


def test_every_group_has_values_and_prototypes_of_its_own():
    z = np.random.default_rng(4).normal(size=(2, 5, GROUPS * N))
    for detection in DETECTIONS:
        readout = Goodness(BY_GROUP, detection)
        found = readout(readout.split(tf.constant(z)))
        assert found.shape == (2, 5, GROUPS, C)
        for g in range(GROUPS):
            alone = Goodness(BY_GROUP[[g]], detection)
            expected = scores(alone, tf.constant(z[..., g * N : (g + 1) * N]))
            np.testing.assert_allclose(found[..., g, :], expected, atol=1e-12)


def test_products_keep_their_precision_on_a_gpu():
    """Slopes are differences of losses that hardly differ; TF32 rounds them away."""
    assert not tf.config.experimental.tensor_float_32_execution_enabled()
