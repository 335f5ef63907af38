"""Tasks: labels to targets, scores to predictions, and how good predictions are."""

import warnings

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from photonic_ffzero.data.tasks import TASKS, Classification, Regression
from photonic_ffzero.goodness.prototypes import simplex
from photonic_ffzero.seeds import generator

N = 6
NUMBERS = arrays(np.float64, (N, 2), elements=st.floats(-1e3, 1e3))
EXAMPLES = settings(derandomize=True, max_examples=40)
LABELS = {
    "classification": np.array([0, 2, 1, 2, 0, 1]),
    "regression": np.array([0.5, -2.0, 7.0, 1.0, 0.0, 3.0]),
}


def regression(y):
    """The task of labels; every dimension has to vary, by more than rounding."""
    assume(np.all(np.ptp(y, axis=0) > 1e-3))
    return Regression.of(y)


@pytest.mark.parametrize("name", TASKS)
def test_every_task_has_the_shapes_that_it_says_and_quality_one_when_right(name):
    y = LABELS[name]
    task = TASKS[name].of(y)
    assert task.name == name
    targets = task.targets(y)
    assert targets.shape == (N, task.labels) == (N, 1)
    assert targets.dtype == (np.int32 if name == "classification" else np.float32)
    assert task.corners >= max(task.classes, 2)  # a simplex has two at least
    assert task.outputs >= task.classes
    scores = np.eye(3)[targets[:, 0]] if name == "classification" else targets.astype(float)
    assert scores.shape == (N, task.labels * task.classes)
    assert task.quality(scores, y) == pytest.approx(1)
    np.testing.assert_allclose(task.predictions(scores), y, atol=1e-6)


class TestClassification:
    def test_has_as_many_classes_as_names_or_as_the_highest_label_says(self):
        assert Classification.of(np.array([3, 0])) == Classification(4)
        assert Classification.of(np.array([0, 1]), ("a", "b", "c")).classes == 3

    def test_quality_is_the_share_of_right_ones(self):
        scores = np.array([[0.1, 0.9], [0.2, 0.1], [0.5, 0.6], [0.0, 1.0]])
        assert Classification(2).quality(scores, np.array([1, 1, 1, 0])) == 0.5

    @pytest.mark.parametrize("names", [("a", "a"), ("a",), ("a", "\n"), ("a", 1)])
    def test_names_are_different_printable_texts(self, names):
        with pytest.raises(ValueError, match="names must be"):
            Classification(2, names)


class TestRegression:
    @EXAMPLES
    @given(y=NUMBERS, others=NUMBERS)
    def test_scales_to_minus_one_to_one_and_predictions_scale_back(self, y, others):
        """Also of labels outside the range of those for training, which alone set the scale."""
        task = regression(y)
        targets = task.targets(y)
        assert (targets.min(axis=0) == -1).all()
        assert (targets.max(axis=0) == 1).all()
        predicted = task.predictions(task.targets(others).astype(np.float64))
        spread = np.ptp(y, axis=0) + np.abs(others).max(axis=0) + np.abs(y).max(axis=0)
        assert np.all(np.abs(predicted - others) < 1e-5 * spread)

    @EXAMPLES
    @given(y=NUMBERS, scores=NUMBERS)
    def test_quality_is_r_squared_averaged_over_the_dimensions(self, y, scores):
        task, scores = regression(y), scores / 1e3
        left = np.sum((y - task.predictions(scores)) ** 2, axis=0)
        expected = np.mean(1 - left / np.sum((y - y.mean(axis=0)) ** 2, axis=0))
        np.testing.assert_allclose(task.quality(scores, y), expected, rtol=1e-9, atol=1e-9)

    def test_several_dimensions_keep_their_columns_and_their_units(self):
        y = np.array([[0.0, 100.0], [1.0, 300.0]])
        task, column = Regression.of(y), Regression.of(y[:, :1])
        assert (task.labels, task.outputs) == (2, 2 * column.outputs)
        assert column == Regression.of(y[:, 0])
        np.testing.assert_array_equal(task.targets(y), [[-1, -1], [1, 1]])
        np.testing.assert_allclose(
            task.predictions(np.array([[0, 0], [1, -1]])), [[0.5, 200], [1, 100]]
        )

    def test_its_prototype_is_one_of_two_that_are_opposite(self):
        pair = simplex(Regression.corners, 5, generator(0, "prototypes"))
        np.testing.assert_allclose(pair[1], -pair[0], atol=1e-6)

    @pytest.mark.parametrize(
        ("y", "message"),
        [
            ([[0.0, 1.0], [1.0, 1.0]], "labels of dimension 1 must not be constant, .* 1.0"),
            ([0.0, np.inf], "labels must be finite, got inf"),
            (np.ones((2, 0)), r"low and high must be equally long, got \(\)"),
        ],
    )
    def test_labels_that_teach_nothing_are_refused(self, y, message):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with pytest.raises(ValueError, match=message):
                Regression.of(np.array(y))
