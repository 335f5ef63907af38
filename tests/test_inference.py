"""Votes, sums of goodness, and what an evaluation says."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from photonic_ffzero.config import configure
from photonic_ffzero.data.tasks import Classification, Regression
from photonic_ffzero.goodness.decisions import RULES, decide, majority_vote
from photonic_ffzero.inference import Evaluation, evaluate, predict, score
from photonic_ffzero.model import Model

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
        for name in ("accuracy", "layer_accuracy"):
            with pytest.raises(AttributeError, match=r"regression has no accuracy"):
                getattr(evaluation, name)


class TestOnAModel:
    x = np.random.default_rng(0).uniform(size=(7, 6)).astype(np.float32)

    @pytest.mark.parametrize("rule", [*RULES, None])
    def test_predicts_by_the_rule_of_its_configuration(self, rule):
        chosen = {"meshes": 3, "rule": rule} if rule else {"method": "bp-dd"}
        model = Model(configure(columns=2, **chosen), units=6, task=Classification(3))
        expected = decide(model.scores(self.x), rule).argmax(axis=-1)
        np.testing.assert_array_equal(predict(model, self.x), expected)
        assert evaluate(model, self.x, expected).accuracy == 1.0

    def test_refuses_what_does_not_fit(self):
        model = Model(configure(columns=2), units=6, task=Classification(3))
        with pytest.raises(ValueError, match="x and y must be equally long, got 7 and 6"):
            evaluate(model, self.x, np.zeros(6, int))
        with pytest.raises(ValueError, match=r"x must have shape \[n, 6\], got \[7, 5\]"):
            predict(model, self.x[:, :5])
