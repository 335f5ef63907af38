"""Every loss against an independent formula."""

import numpy as np
import pytest
from scipy.special import log_softmax

from meshes._tensorflow import tf
from photonic_ffzero.goodness.losses import LOSSES, CrossEntropy, Margin

B, C = 5, 4
CLASSES = np.array([0, 3, 1, 3, 2])
NUMBERS = np.array([0.3, -1.0, 1.0, 0.0, -0.2])

# The independent formula of every registered loss for one sample, with its default parameters.
FORMULAS = {
    "margin": lambda row, y, m=0.3: sum(max(0, m + row[c] - row[y]) for c in range(C) if c != y),
    "cosine": lambda row, y: 1 - row[y],
    "cross-entropy": lambda row, y, s=10.0: -log_softmax(s * row)[y],
    "squared": lambda row, y: (row[0] - y) ** 2,
}


def problem(name, scores):
    """The scores that a loss takes, and labels for them: a regression has one score."""
    return (scores[..., :1], NUMBERS) if name == "squared" else (scores, CLASSES)


@pytest.mark.parametrize(
    ("name", "parameter"),
    [*((name, []) for name in LOSSES), ("margin", [0]), ("cross-entropy", [3.0])],
)
def test_equals_its_formula_where_labels_stretch_over_the_axes_that_they_lack(name, parameter):
    """Scores [P, B, G, C] and labels [B, 1]: all groups look at the same one."""
    groups = np.random.default_rng(1).uniform(-1, 1, (2, B, 3, C))
    scores, labels = problem(name, groups)
    losses = LOSSES[name](*parameter)(tf.constant(scores), labels[:, np.newaxis])
    assert losses.shape == (2, B, 3)
    assert losses.dtype == tf.float64
    for p, b, g in np.ndindex(*losses.shape):
        expected = FORMULAS[name](scores[p, b, g], labels[b], *parameter)
        np.testing.assert_allclose(losses[p, b, g], expected)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("scale", [1e-30, 1.0, 30.0, 1e4])
def test_values_and_slopes_are_finite_for_any_score_in_single_precision(name, scale):
    scores = np.random.default_rng(3).normal(scale=scale, size=(B, C)).astype(np.float32)
    scores, labels = problem(name, tf.constant(scores))
    labels = labels.astype(np.float32) if name == "squared" else labels
    with tf.GradientTape() as tape:
        tape.watch(scores)
        losses = LOSSES[name]()(scores, labels)
    assert np.isfinite(losses).all()
    assert np.isfinite(tape.gradient(losses, scores)).all()


@pytest.mark.parametrize(
    ("make", "value", "error"),
    [(Margin, -0.1, ValueError), (Margin, "wide", TypeError), (CrossEntropy, 0, ValueError)],
)
def test_parameters_out_of_range_are_refused(make, value, error):
    with pytest.raises(error, match=f"(margin|scale) must be .*, got {value!r}"):
        make(value)
