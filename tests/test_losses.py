"""Every loss against an independent formula, and what all losses have in common."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.special import log_softmax

from meshes._tensorflow import tf
from photonic_ffzero.goodness.losses import LOSSES, CrossEntropy, Margin, Squared

B, C = 5, 4
CLASSES = np.array([0, 3, 1, 3, 2])
NUMBERS = np.array([0.3, -1.0, 1.0, 0.0, -0.2])
SCORES = arrays(np.float64, (B, C), elements=st.floats(-1, 1))


def margin(row, y, m=0.3):
    return sum(max(0.0, m + row[c] - row[y]) for c in range(len(row)) if c != y)


def cosine(row, y):
    return 1 - row[y]


def cross_entropy(row, y, s=10.0):
    return -log_softmax(s * row)[y]


def squared(row, y):
    (prediction,) = row
    return (prediction - y) ** 2


# The independent formula of every registered loss for one sample, with its default parameters.
FORMULAS = {
    "margin": margin,
    "cosine": cosine,
    "cross-entropy": cross_entropy,
    "squared": squared,
}
OF_CLASSES = sorted(FORMULAS.keys() - {"squared"})


def by_formula(name, scores, labels):
    return np.array([FORMULAS[name](row, y) for row, y in zip(scores, labels, strict=True)])


def problem(name, scores):
    """The scores that a loss takes, and labels for them: a regression has one score."""
    return (scores[..., :1], NUMBERS) if name == "squared" else (scores, CLASSES)


def gradient(loss, scores, labels):
    scores = tf.constant(scores)
    with tf.GradientTape() as tape:
        tape.watch(scores)
        value = loss(scores, labels)
    return tape.gradient(value, scores).numpy()


def test_every_loss_has_its_formula_here():
    assert FORMULAS.keys() == LOSSES.keys()


@pytest.mark.parametrize("name", LOSSES)
class TestEveryLoss:
    @given(scores=SCORES)
    @settings(deadline=None, derandomize=True, max_examples=40)
    def test_equals_its_formula_sample_by_sample(self, name, scores):
        scores, labels = problem(name, scores)
        found = LOSSES[name]()(tf.constant(scores), labels)
        assert found.shape == (B,)
        assert found.dtype == tf.float64
        np.testing.assert_allclose(found, by_formula(name, scores, labels), atol=1e-12)

    def test_labels_stretch_over_the_axes_that_they_lack(self, name):
        """Scores [P, B, G, C] and labels [B, 1]: all groups look at the same one."""
        groups = np.random.default_rng(1).uniform(-1, 1, (2, B, 3, C))
        scores, labels = problem(name, groups)
        found = LOSSES[name]()(tf.constant(scores), labels[:, np.newaxis])
        assert found.shape == (2, B, 3)
        for p, g in np.ndindex(2, 3):
            expected = by_formula(name, scores[p, :, g], labels)
            np.testing.assert_allclose(found[p, :, g], expected)

    def test_gradient_is_the_derivative(self, name):
        scores, labels = problem(name, np.random.default_rng(2).uniform(-1, 1, (B, C)))
        step, size = 1e-6, scores.size
        moves = step * np.eye(size).reshape(size, *scores.shape)
        up, down = (
            tf.reduce_sum(LOSSES[name]()(tf.constant(scores + sign * moves), labels), axis=-1)
            for sign in (1, -1)
        )
        numerical = np.reshape((up - down) / (2 * step), scores.shape)
        np.testing.assert_allclose(gradient(LOSSES[name](), scores, labels), numerical, atol=1e-8)

    @pytest.mark.parametrize("scale", [1e-30, 1.0, 30.0, 1e4])
    def test_is_finite_for_any_score_in_single_precision(self, name, scale):
        scores = np.random.default_rng(3).normal(scale=scale, size=(B, C)).astype(np.float32)
        scores, labels = problem(name, scores)
        labels = labels.astype(scores.dtype) if name == "squared" else labels
        assert np.all(np.isfinite(LOSSES[name]()(tf.constant(scores), labels)))
        assert np.all(np.isfinite(gradient(LOSSES[name](), scores, labels)))


@pytest.mark.parametrize("name", OF_CLASSES)
class TestEveryLossOfClasses:
    @given(scores=SCORES)
    @settings(deadline=None, derandomize=True, max_examples=20)
    def test_gradient_lifts_the_true_class_and_never_a_wrong_one(self, name, scores):
        slope = gradient(LOSSES[name](), scores, CLASSES)
        true = np.eye(C, dtype=bool)[CLASSES]
        assert np.all(np.isfinite(slope))
        assert np.all(slope[true] <= 0)
        assert np.all(slope[~true] >= 0)


def test_the_margin_leaves_the_true_class_out():
    """Samples that are right by more than m cost nothing, not even the published constant m."""
    scores = np.where(np.eye(C)[CLASSES] > 0, 0.9, 0.5)
    np.testing.assert_array_equal(Margin(0.3)(tf.constant(scores), CLASSES), np.zeros(B))
    np.testing.assert_allclose(Margin(0.5)(tf.constant(scores), CLASSES), (C - 1) * 0.1)


def test_the_scale_multiplies_the_scores():
    scores = np.random.default_rng(4).uniform(-1, 1, (B, C))
    for s in (1.0, 3.0):
        found = CrossEntropy(s)(tf.constant(scores), CLASSES)
        expected = [cross_entropy(row, y, s) for row, y in zip(scores, CLASSES, strict=True)]
        np.testing.assert_allclose(found, expected)


@given(scores=SCORES)
@settings(deadline=None, derandomize=True, max_examples=20)
def test_the_squared_error_pulls_the_score_to_the_label_and_ends_there(scores):
    slope = gradient(Squared(), scores[:, :1], NUMBERS)[:, 0]
    np.testing.assert_array_equal(np.sign(slope), np.sign(scores[:, 0] - NUMBERS))
    assert not np.any(Squared()(tf.constant(NUMBERS[:, np.newaxis]), NUMBERS))


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
