"""Every loss against an independent formula, and what all losses have in common."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.special import log_softmax

from meshes._tensorflow import tf
from photonic_ffzero.losses import LOSSES, Cosine, CrossEntropy, Margin

B, C = 5, 4
LABELS = np.array([0, 3, 1, 3, 2])
SCORES = arrays(np.float64, (B, C), elements=st.floats(-1, 1))


def margin(scores, labels, m=0.3):
    total = 0.0
    for row, y in zip(scores, labels, strict=True):
        total += sum(max(0.0, m + row[c] - row[y]) for c in range(len(row)) if c != y)
    return total / len(labels)


def cosine(scores, labels):
    return sum(1 - row[y] for row, y in zip(scores, labels, strict=True)) / len(labels)


def cross_entropy(scores, labels, s=10.0):
    rows = log_softmax(s * scores, axis=-1)
    return -sum(row[y] for row, y in zip(rows, labels, strict=True)) / len(labels)


# The independent formula of every registered loss, with its default parameters.
FORMULAS = {"margin": margin, "cosine": cosine, "cross-entropy": cross_entropy}


def gradient(loss, scores):
    scores = tf.constant(scores)
    with tf.GradientTape() as tape:
        tape.watch(scores)
        value = loss(scores, LABELS)
    return tape.gradient(value, scores).numpy()


def test_every_loss_has_its_formula_here():
    assert FORMULAS.keys() == LOSSES.keys()


@pytest.mark.parametrize("name", LOSSES)
class TestEveryLoss:
    @given(scores=SCORES)
    @settings(deadline=None, derandomize=True, max_examples=40)
    def test_equals_its_formula(self, name, scores):
        found = LOSSES[name]()(tf.constant(scores), LABELS)
        assert found.shape == ()
        assert found.dtype == tf.float64
        np.testing.assert_allclose(found, FORMULAS[name](scores, LABELS), atol=1e-12)

    def test_parameter_sets_are_independent(self, name):
        scores = np.random.default_rng(0).uniform(-1, 1, (2, 3, B, C)).astype(np.float32)
        found = LOSSES[name]()(tf.constant(scores), LABELS)
        assert found.shape == (2, 3)
        for index in np.ndindex(2, 3):
            alone = LOSSES[name]()(tf.constant(scores[index]), LABELS)
            np.testing.assert_allclose(found[index], alone, rtol=1e-6)

    def test_is_the_mean_over_the_batch(self, name):
        scores = np.random.default_rng(1).uniform(-1, 1, (B, C))
        loss = LOSSES[name]()
        alone = [loss(tf.constant(scores[[b]]), LABELS[[b]]) for b in range(B)]
        np.testing.assert_allclose(loss(tf.constant(scores), LABELS), np.mean(alone))

    @given(scores=SCORES)
    @settings(deadline=None, derandomize=True, max_examples=20)
    def test_gradient_lifts_the_true_class_and_never_a_wrong_one(self, name, scores):
        slope = gradient(LOSSES[name](), scores)
        true = np.eye(C, dtype=bool)[LABELS]
        assert np.all(np.isfinite(slope))
        assert np.all(slope[true] <= 0)
        assert np.all(slope[~true] >= 0)

    def test_gradient_is_the_derivative(self, name):
        scores, step = np.random.default_rng(2).uniform(-1, 1, (B, C)), 1e-6
        moves = step * np.eye(B * C).reshape(-1, B, C)
        up, down = (LOSSES[name]()(tf.constant(scores + sign * moves), LABELS) for sign in (1, -1))
        numerical = np.reshape((up - down) / (2 * step), (B, C))
        np.testing.assert_allclose(gradient(LOSSES[name](), scores), numerical, atol=1e-8)

    @given(scores=SCORES, rise=st.floats(1e-3, 1))
    @settings(deadline=None, derandomize=True, max_examples=40)
    def test_falls_when_the_true_score_rises(self, name, scores, rise):
        scores = scores - np.eye(C)[LABELS]  # true scores low enough for every margin to count
        better = scores + rise * np.eye(C)[LABELS]
        loss = LOSSES[name]()
        assert loss(tf.constant(better), LABELS) < loss(tf.constant(scores), LABELS)

    @pytest.mark.parametrize("scale", [1e-30, 1.0, 30.0, 1e4])
    def test_is_finite_for_any_score_in_single_precision(self, name, scale):
        scores = np.random.default_rng(3).normal(scale=scale, size=(B, C)).astype(np.float32)
        assert np.isfinite(LOSSES[name]()(tf.constant(scores), LABELS))
        assert np.all(np.isfinite(gradient(LOSSES[name](), scores)))

    def test_is_a_value(self, name):
        assert LOSSES[name]() == LOSSES[name]()
        assert hash(LOSSES[name]()) == hash(LOSSES[name]())


def test_the_margin_leaves_the_true_class_out():
    """Samples that are right by more than m cost nothing, not even the published constant m."""
    scores = np.where(np.eye(C)[LABELS] > 0, 0.9, 0.5)
    assert Margin(0.3)(tf.constant(scores), LABELS) == 0
    np.testing.assert_allclose(Margin(0.5)(tf.constant(scores), LABELS), (C - 1) * 0.1)


def test_the_scale_multiplies_the_scores():
    scores = np.random.default_rng(4).uniform(-1, 1, (B, C))
    for s in (1.0, 3.0):
        found = CrossEntropy(s)(tf.constant(scores), LABELS)
        np.testing.assert_allclose(found, cross_entropy(scores, LABELS, s))


def test_the_cosine_loss_ignores_the_wrong_classes():
    scores = np.random.default_rng(5).uniform(-1, 1, (B, C))
    changed = np.where(np.eye(C)[LABELS] > 0, scores, 0.123)
    assert Cosine()(tf.constant(scores), LABELS) == Cosine()(tf.constant(changed), LABELS)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Margin(-0.1), ValueError, "margin must be at least 0, got -0.1"),
        (lambda: Margin(np.nan), ValueError, "margin must be finite, got nan"),
        (lambda: Margin("wide"), TypeError, "margin must be a number, got 'wide'"),
        (lambda: CrossEntropy(0), ValueError, "scale must be greater than 0, got 0"),
        (lambda: CrossEntropy(np.inf), ValueError, "scale must be finite, got inf"),
    ],
)
def test_parameters_out_of_range_are_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()
