"""Votes, sums of goodness, and what an evaluation says."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from photonic_ffzero.config import configure
from photonic_ffzero.data.tasks import Classification, Regression
from photonic_ffzero.goodness.decisions import RULES, decide, majority_vote, summed_goodness
from photonic_ffzero.inference import Evaluation, evaluate, predict, score
from photonic_ffzero.model import Model

C = 4
EXAMPLES = settings(deadline=None, derandomize=True, max_examples=40)


def goodness(layers, samples=3):
    """Distinct goodness, so that every layer has one best class."""
    return arrays(np.float64, (layers, samples, C), elements=st.floats(-1, 1), unique=True)


def winners(decided):
    assert decided.shape[-1] == C
    return decided.argmax(axis=-1)


@pytest.mark.parametrize(
    ("preferred", "last_prefers", "winner"),
    [
        ((1, 1, 2), (2, 0, 1, 3), 1),  # a majority outvotes the last layer
        ((1, 2, 3), (3, 0, 1, 2), 3),  # all tied: the last layer's choice
        ((2, 1, 2, 1), (1, 2, 0, 3), 1),  # two tied: the last layer's choice
        ((1, 1, 3, 3, 0), (0, 2, 3, 1), 3),  # two tied: that which the last layer prefers
        ((1, 1, 3, 3, 0), (0, 2, 1, 3), 1),
    ],
)
def test_the_majority_wins_and_the_last_layer_breaks_ties(preferred, last_prefers, winner):
    scores = np.eye(C)[list(preferred)][:, np.newaxis]
    scores[-1, 0, list(last_prefers)] = [1, 0.5, 0.3, 0.1]
    assert winners(majority_vote(scores)) == [winner]


@given(goodness(2))
@EXAMPLES
def test_two_layers_vote_as_the_last_alone(scores):
    np.testing.assert_array_equal(winners(majority_vote(scores)), scores[-1].argmax(axis=-1))


@given(st.integers(1, 6).flatmap(goodness))
@EXAMPLES
def test_the_vote_is_equation_6(scores):
    for sample, winner in enumerate(winners(majority_vote(scores))):
        votes = Counter(layer.argmax() for layer in scores[:, sample])
        tied = [c for c in votes if votes[c] == max(votes.values())]
        assert winner == max(tied, key=lambda c: scores[-1, sample, c])


@given(st.integers(1, 6).flatmap(goodness), st.randoms(use_true_random=False))
@EXAMPLES
def test_the_sum_does_not_depend_on_the_order_of_the_layers(scores, random):
    order = random.sample(range(len(scores)), len(scores))
    np.testing.assert_allclose(summed_goodness(scores[order]), sum(scores), atol=1e-12)


@pytest.mark.parametrize("rule", [*RULES, None])
@given(scores=goodness(1))
@EXAMPLES
def test_every_rule_leaves_a_single_layer_its_choice(rule, scores):
    np.testing.assert_array_equal(winners(decide(scores, rule)), scores[0].argmax(axis=-1))


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
