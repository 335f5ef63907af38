"""Votes, sums of goodness, and what an evaluation says."""

from collections import Counter

import numpy as np
import pandas
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from meshes._tensorflow import tf
from meshes.files import DataError
from photonic_ffzero.config import configure
from photonic_ffzero.data.tasks import NO_LIGHT, Classification, Regression
from photonic_ffzero.goodness.decisions import RULES, decide, majority_vote
from photonic_ffzero.inference import Evaluation, evaluate, of_low_goodness, predict, score
from photonic_ffzero.model import Model
from photonic_ffzero.networks import open_device
from photonic_ffzero.training.trainer import fit

C = 4


def goodness(layers):
    """Distinct goodness, so that every layer has one best class."""
    return arrays(np.float64, (layers, 3, C), elements=st.floats(-1, 1), unique=True)


@given(st.integers(1, 6).flatmap(goodness))
@settings(derandomize=True, max_examples=100)
def test_the_vote_is_equation_6(scores):
    """The class with most votes wins; the last layer breaks ties."""
    for sample, winner in enumerate(majority_vote(scores).argmax(axis=-1)):
        votes = Counter(layer.argmax() for layer in scores[:, sample])
        tied = [c for c in votes if votes[c] == max(votes.values())]
        assert winner == max(tied, key=lambda c: scores[-1, sample, c])


def test_where_the_last_layer_is_dark_the_sum_of_the_others_decides_among_tied_classes():
    scores = np.array([[[0.1, 0.0, 0.9]], [[0.5, 0.4, 0.3]], [[0.0, 0.0, 0.0]]])
    assert majority_vote(scores).argmax(axis=-1) == [2]


class TestScore:
    """Three layers and four samples on which the rules disagree."""

    labels = np.array([0, 1, 2, 2])
    scores = np.stack(
        [
            [[0.9, 0, 0, 0], [0.1, 0, 0, 0], [0, 0, 0.9, 0], [0, 0, 0, 0.9]],
            [[0.1, 0, 0, 0], [0.1, 0, 0, 0], [0, 0.1, 0, 0], [0, 0, 0, 0.9]],
            [[0, 0.5, 0, 0], [0, 0.9, 0, 0], [0, 0.1, 0, 0], [0, 0, 0, 0.9]],
        ]
    )
    task = Classification(C)
    # By hand: layers 0, 0, 2, 3 / 0, 0, 1, 3 / 1, 1, 1, 3; vote 0, 0, 1, 3; sum 0, 1, 2, 3.

    @pytest.mark.parametrize(("rule", "accuracy"), [("vote", 0.25), ("sum", 0.75), ("last", 0.25)])
    def test_reports_every_rule_and_layer_and_leads_with_the_one_set_before(self, rule, accuracy):
        evaluation = score(self.task, self.scores, self.labels, rule)
        assert evaluation.quality == evaluation.accuracy == accuracy
        assert evaluation.vote_accuracy == 0.25
        assert evaluation.goodness_sum_accuracy == 0.75
        assert evaluation.layer_quality == evaluation.layer_accuracy == [0.5, 0.25, 0.25]

    def test_confusion_has_a_row_for_every_true_class(self):
        """Also for a class that no label and no prediction names."""
        confusion = score(self.task, self.scores, self.labels, "sum").confusion
        expected = [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 1], [0, 0, 0, 0]]
        np.testing.assert_array_equal(confusion, expected)

    def test_a_single_readout_has_no_rules(self):
        evaluation = score(self.task, self.scores[-1:], self.labels, None)
        assert evaluation.vote_accuracy is evaluation.goodness_sum_accuracy is None
        assert evaluation.layer_accuracy == [evaluation.accuracy] == [0.25]

    def test_a_regression_has_r_squared_of_the_last_layer_and_no_accuracy(self):
        """The second of two readouts predicts labels from 0 to 4 exactly, on [-1, 1]."""
        scores = np.stack([np.zeros((5, 1)), np.linspace(-1, 1, 5)[:, np.newaxis]])
        evaluation = score(Regression((0.0,), (4.0,)), scores, np.arange(5.0), "last")
        assert evaluation == Evaluation(1.0, [0.0, 1.0])
        assert evaluation != Evaluation(1.0, [0.0, 1.0], confusion=np.eye(2, dtype=int))
        assert Evaluation(1.0, [1.0], confusion=np.eye(2)) == Evaluation(
            1.0, [1.0], confusion=np.eye(2)
        )
        for name in ("accuracy", "layer_accuracy"):
            with pytest.raises(AttributeError, match=r"regression has no accuracy"):
                getattr(evaluation, name)


class TestWithoutLight:
    """The second of three samples is dark; a dark layer has no vote."""

    scores = np.array([[[0.1, 0.2], [0, 0], [0, 0]], [[0.3, 0.1], [0, 0], [0.1, 0.2]]])

    @pytest.mark.parametrize("rule", [*RULES, None])
    def test_is_no_class_by_any_rule(self, rule):
        task = Classification(2)
        expected = [0, NO_LIGHT, 1]  # the vote of the third sample is the second layer's alone
        np.testing.assert_array_equal(task.predictions(decide(self.scores, rule)), expected)
        evaluation = score(task, self.scores, np.array([0, 0, 1]), rule)
        assert evaluation.accuracy == pytest.approx(2 / 3)
        assert evaluation.confusion.sum() == 2

    @pytest.mark.parametrize(
        "settings",
        [
            {"meshes": 2},
            {"method": "bp-dd"},
            {"reads": 3, "imperfections": "read_noise=0.1"},
            {"device": "simulated:read_noise=0.1", "meshes": 2},
            {"nonlinearity": "kerr:phi_nl=1", "meshes": 2, "rule": "vote"},
        ],
    )
    def test_is_predicted_as_minus_one_with_one_warning(self, settings):
        model = Model(configure(columns=2, **settings), 6, Classification(3))
        if model.config.device:
            model = Model(model.config, 6, model.task, device=open_device(model.config, 6))
        x = np.eye(6, dtype=np.float32)[:4]
        x[1:3] = 0
        with pytest.warns(UserWarning, match="no light in 2 of 4 samples: predicted as -1"):
            predicted = predict(model, x)
        assert predicted[1:3].tolist() == [NO_LIGHT] * 2
        assert min(predicted[0], predicted[3]) >= 0
        with pytest.warns(UserWarning, match="no light in 2 of 4 samples: counted as wrong"):
            assert evaluate(model, x, [*predicted[:1], 0, 1, *predicted[3:]]).accuracy == 0.5

    def test_light_that_is_lost_on_the_way_counts_too(self):
        """This light is so dim that its square is 0 in single precision."""
        model = Model(configure(columns=2), 6, Classification(3))
        with pytest.warns(UserWarning, match="no light in 1 of 1"):
            assert predict(model, np.full((1, 6), 1e-30)) == [NO_LIGHT]

    def test_little_goodness_is_worth_a_warning(self):
        model = Model(configure(columns=2), 6, Classification(3))
        scores = np.array([[[0.01, 0.02, 0.04], [0.5, 0, 0], [0, 0, 0]]])
        np.testing.assert_array_equal(of_low_goodness(model, scores), [True, False, False])
        ports = Model(configure(readout="ports", method="bp-dd", columns=2), 6, Classification(3))
        assert not of_low_goodness(ports, scores).any()  # intensities are no goodness


class TestOnAModel:
    x = np.random.default_rng(0).uniform(size=(7, 6)).astype(np.float32)

    @pytest.mark.parametrize("rule", [*RULES, None])
    def test_predicts_by_the_rule_of_its_configuration(self, rule):
        chosen = {"meshes": 3, "rule": rule} if rule else {"method": "bp-dd"}
        model = Model(configure(columns=2, **chosen), units=6, task=Classification(3))
        expected = decide(model.scores(self.x), rule).argmax(axis=-1)
        np.testing.assert_array_equal(predict(model, self.x), expected)
        assert evaluate(model, self.x, expected).accuracy == 1.0

    @pytest.mark.parametrize(
        "x",
        [
            x.tolist(),
            x.astype(np.float64),
            (10 * x).astype(np.int64),
            x > 0.5,
            pandas.DataFrame(x),
            tf.constant(x),
            np.asfortranarray(x),
        ],
        ids=lambda x: type(x).__name__,
    )
    def test_takes_what_holds_numbers(self, x):
        model = Model(configure(columns=2), units=6, task=Classification(3))
        array = np.asarray(x, np.float32)
        expected = predict(model, array)
        np.testing.assert_array_equal(predict(model, x), expected)
        for y in (expected, expected.tolist(), pandas.Series(expected), tf.constant(expected)):
            assert evaluate(model, x, y).accuracy == 1

    @pytest.mark.parametrize(
        ("x", "rule"),
        [
            ([[np.nan] * 6], "x must be finite, got nan"),
            ([[np.inf] * 6], "x must be finite, got inf"),
            ([[1e20] * 6], r"x must be at most 1e\+15 in magnitude, got 1e\+20"),
            ([[-1e20j] * 6], r"x must be at most 1e\+15 in magnitude, got 1e\+20"),
            ([[1e300] * 6], "x must be finite, got inf"),
            (np.ones(6), r"x must be .* got \(6,\)"),
            (np.ones((0, 6)), r"x must be .* not empty; got \(0, 6\)"),
            (np.ones((1, 5)), r"x must have shape \[n, 6\], got \[1, 5\]"),
            (np.ones((1, 2, 3)), r"x must have shape \[n, 6\], got \[1, 2, 3\]; encode"),
            (np.ones((1, 6), object), "x must hold numbers, got object"),
            ([["a"] * 6], "x must hold numbers, got <U1"),
            (None, "x must hold numbers, got object"),
            (np.ma.masked_array(np.ones((1, 6)), np.eye(1, 6)), "x must have no masked values"),
        ],
    )
    def test_fit_evaluate_and_predict_refuse_the_same_samples(self, x, rule):
        model = Model(configure(columns=2), units=6, task=Classification(3))
        for use in (
            lambda: predict(model, x),
            lambda: model.scores(x),
            lambda: evaluate(model, x, np.zeros(len(x) if np.ndim(x) else 1, int)),
        ):
            with pytest.raises(DataError, match=rule):
                use()
        if np.shape(x)[-1:] == (6,) and len(x):
            with pytest.raises(DataError, match=rule):
                fit(x, np.zeros(len(x), int), epochs=1)

    @pytest.mark.parametrize(
        ("y", "rule"),
        [
            ([[0], [1], [2]], r"y must be .* \(3, 1\); ravel\(\)"),
            (np.eye(3, dtype=int), r"y must be .* \(3, 3\); argmax\(axis=1\)"),
            ([0.0, 1.0, 2.0], r"y must be integers .* float64 .*; astype\(int\)"),
            ([0.5, 1.0, 2.0], r"y must be integers .* float64 of shape \(3,\)$"),
            ([True, False, True], "y must be integers .* bool"),
            ([0, 1, np.nan], "y must be integers .* float64"),
            (["0", "1", "2"], "y must hold numbers"),
            ([0, 1], r"x and y must have equal lengths, got shapes \(3, 6\) and \(2,\)"),
        ],
    )
    def test_fit_and_evaluate_refuse_the_same_labels(self, y, rule):
        model = Model(configure(columns=2), units=6, task=Classification(3))
        for use in (
            lambda: evaluate(model, self.x[:3], y),
            lambda: fit(self.x[:3], y, epochs=1),
        ):
            with pytest.raises(DataError, match=rule):
                use()

    def test_labels_from_1_are_named(self):
        model = Model(configure(columns=2), units=6, task=Classification(3))
        with pytest.raises(DataError, match=r"y must be labels in 0\.\.2, got 3 at index 2"):
            evaluate(model, self.x[:3], [1, 2, 3])
        with pytest.raises(DataError, match=r"y must use every label from 0 .*, got \[1, 2, 3\]"):
            fit(self.x[:3], [1, 2, 3], epochs=1)
        with pytest.raises(DataError, match=r"y of validation must be labels in 0\.\.2, got 3"):
            fit(self.x[:3], [0, 1, 2], epochs=1, validation=(self.x[:1], [3]))
        with pytest.raises(DataError, match="x of validation must be finite"):
            fit(self.x[:3], [0, 1, 2], epochs=1, validation=(self.x[:1] * np.nan, [0]))

    def test_a_regression_takes_numbers_alone(self):
        model = Model(configure(task="regression"), 6, Regression((0.0, 0.0), (1.0, 1.0)))
        with pytest.raises(DataError, match="y must have 2 label dimensions, got 1"):
            evaluate(model, self.x, np.zeros(7))
        with pytest.raises(DataError, match="y must be finite, got inf"):
            evaluate(model, self.x, np.full((7, 2), np.inf))

    def test_scores_that_are_not_finite_are_no_class(self):
        config = configure(meshes=2, columns=2, nonlinearity=lambda fields: fields * np.nan)
        with pytest.raises(DataError, match="scores must be finite, got nan"):
            predict(Model(config, 6, Classification(3)), self.x)

    def test_refuses_what_does_not_fit(self):
        model = Model(configure(columns=2), units=6, task=Classification(3))
        with pytest.raises(ValueError, match=r"x and y .* \(7, 6\) and \(6,\)"):
            evaluate(model, self.x, np.zeros(6, int))
        with pytest.raises(ValueError, match=r"x must have shape \[n, 6\], got \[7, 5\]"):
            predict(model, self.x[:, :5])
