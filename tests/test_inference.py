"""Votes, sums of goodness, and what an evaluation says."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from photonic_ffzero.config import configure
from photonic_ffzero.data.tasks import Classification, Regression
from photonic_ffzero.goodness.decisions import (
    RULES,
    decide,
    last_layer,
    majority_vote,
    summed_goodness,
)
from photonic_ffzero.inference import Evaluation, evaluate, predict, score
from photonic_ffzero.model import Model

C = 4


def goodness(layers, samples=3):
    """Distinct goodness, so that every layer has one best class."""
    return arrays(np.float64, (layers, samples, C), elements=st.floats(-1, 1), unique=True)


def winners(decided):
    """The classes that decided scores name."""
    assert decided.shape[-1] == C
    return decided.argmax(axis=-1)


def layers_preferring(*classes):
    """One sample; each layer scores its class 1 and the others by decreasing number."""
    scores = np.tile(np.linspace(0.4, 0.1, C), (len(classes), 1, 1))
    for layer, c in enumerate(classes):
        scores[layer, 0, c] = 1
    return scores


@pytest.mark.parametrize(
    ("preferred", "expected"),
    [
        ((2,), 2),
        ((1, 1, 2), 1),  # a majority outvotes the last layer
        ((1, 2, 3), 3),  # all tied: the last layer's choice
        ((2, 1, 2, 1), 1),  # two tied: the last layer's choice
        ((1, 2, 2, 1, 3), 1),  # two tied, and the last layer prefers a third
        ((2, 1, 1, 2, 0), 1),
        ((3, 3, 2, 2, 0), 2),
    ],
)
def test_the_majority_wins_and_the_last_layer_breaks_ties(preferred, expected):
    assert winners(majority_vote(layers_preferring(*preferred))) == [expected]


def test_among_tied_classes_the_last_layer_s_goodness_decides_not_the_number_of_the_class():
    scores = layers_preferring(1, 1, 3, 3, 0)
    scores[-1, 0] = [0.9, 0.2, 0.5, 0.3]
    assert winners(majority_vote(scores)) == [3]
    scores[-1, 0] = [0.9, 0.3, 0.5, 0.2]
    assert winners(majority_vote(scores)) == [1]


@given(goodness(2))
@settings(deadline=None, derandomize=True, max_examples=40)
def test_two_layers_vote_as_the_last_alone(scores):
    np.testing.assert_array_equal(winners(majority_vote(scores)), scores[-1].argmax(axis=-1))


@given(st.integers(1, 6).flatmap(goodness))
@settings(deadline=None, derandomize=True, max_examples=40)
def test_the_vote_is_equation_6(scores):
    for sample, found in enumerate(winners(majority_vote(scores))):
        votes = Counter(layer.argmax() for layer in scores[:, sample])
        most = max(votes.values())
        tied = [c for c in votes if votes[c] == most]
        assert found == max(tied, key=lambda c: scores[-1, sample, c])


@given(st.integers(1, 6).flatmap(goodness), st.randoms(use_true_random=False))
@settings(deadline=None, derandomize=True, max_examples=40)
def test_the_sum_does_not_depend_on_the_order_of_the_layers(scores, random):
    order = random.sample(range(len(scores)), len(scores))
    total = sum(scores[i] for i in range(len(scores)))
    np.testing.assert_allclose(summed_goodness(scores[order]), total, atol=1e-12)


@pytest.mark.parametrize("rule", RULES)
@given(scores=goodness(1))
@settings(deadline=None, derandomize=True, max_examples=40)
def test_every_rule_leaves_a_single_layer_its_choice(rule, scores):
    np.testing.assert_array_equal(winners(RULES[rule](scores)), scores[0].argmax(axis=-1))


@given(goodness(3))
@settings(deadline=None, derandomize=True, max_examples=20)
def test_the_last_layer_alone_hands_on_its_scores(scores):
    np.testing.assert_array_equal(last_layer(scores), scores[-1])
    np.testing.assert_array_equal(decide(scores, None), scores[-1])


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
        found = score(self.task, self.scores, self.labels, rule)
        assert found.quality == found.accuracy == accuracy
        assert found.vote_accuracy == 0.25
        assert found.goodness_sum_accuracy == 0.75
        assert found.layer_quality == found.layer_accuracy == [0.5, 0.25, 0.25]

    def test_confusion_has_a_row_for_every_true_class(self):
        """Also for classes that no label and no prediction names."""
        expected = np.zeros((C, C), int)
        expected[0, 0] = expected[1, 1] = expected[2, 2] = expected[2, 3] = 1
        found = score(self.task, self.scores, self.labels, "sum").confusion
        np.testing.assert_array_equal(found, expected)

    def test_a_single_readout_has_no_rules(self):
        found = score(self.task, self.scores[-1:], self.labels, None)
        assert found.vote_accuracy is None
        assert found.goodness_sum_accuracy is None
        assert found.layer_accuracy == [found.accuracy] == [0.25]


class TestScoreOfARegression:
    """Two readouts of one label from 0 to 4, whose scores are the label on [-1, 1]."""

    task = Regression((0.0,), (4.0,))
    labels = np.array([0.0, 1.0, 2.0, 3.0, 4.0])
    scores = np.stack([np.zeros((5, 1)), np.linspace(-1, 1, 5)[:, np.newaxis]])

    def test_is_r_squared_of_the_last_layer_and_of_each_alone(self):
        found = score(self.task, self.scores, self.labels, "last")
        assert found == Evaluation(1.0, [0.0, 1.0])

    def test_has_no_accuracy(self):
        found = score(self.task, self.scores, self.labels, "last")
        for name in ("accuracy", "layer_accuracy"):
            with pytest.raises(AttributeError, match=r"a regression has no accuracy; .* R\^2"):
                getattr(found, name)


class TestOnAModel:
    x = np.random.default_rng(0).uniform(size=(7, 6)).astype(np.float32)

    def test_predicts_by_the_rule_of_its_configuration(self):
        model = Model(configure(meshes=3, columns=2), units=6, task=Classification(3))
        scores = model.scores(self.x)
        for rule, function in RULES.items():
            model.config = configure(meshes=3, columns=2, rule=rule)
            expected = function(scores).argmax(axis=-1)
            np.testing.assert_array_equal(predict(model, self.x), expected)
            assert evaluate(model, self.x, expected).accuracy == 1.0

    def test_predicts_by_the_only_readout_there_is(self):
        model = Model(configure(method="bp-dd", columns=2), units=6, task=Classification(3))
        expected = model.scores(self.x)[0].argmax(axis=-1)
        np.testing.assert_array_equal(predict(model, self.x), expected)
        assert evaluate(model, self.x, expected).accuracy == 1.0

    def test_refuses_what_does_not_fit(self):
        model = Model(configure(columns=2), units=6, task=Classification(3))
        with pytest.raises(ValueError, match="x and y must be equally long, got 7 and 6"):
            evaluate(model, self.x, np.zeros(6, int))
        with pytest.raises(ValueError, match=r"x must have shape \[n, 6\], got \[7, 5\]"):
            predict(model, self.x[:, :5])
