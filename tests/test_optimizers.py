"""Optimizers against hand-written references, schedules against their shape."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshes import Phases
from meshes._tensorflow import tf
from photonic_ffzero.optimizers import OPTIMIZERS, SCHEDULES, adam, descend, momentum, sgd

STEPS, RATE = 6, 0.05
GRADIENTS = np.random.default_rng(0).normal(size=(STEPS, 3)).astype(np.float32)


def path(optimizer, gradients=GRADIENTS):
    """The parameters after each step, from 1 on."""
    w = tf.ones(gradients.shape[1:])
    state, seen = optimizer.init(w), []
    for gradient in gradients:
        direction, state = optimizer.update(tf.constant(gradient), state)
        w = descend(w, direction, np.float32(RATE))
        seen.append(w.numpy())
    return np.array(seen)


def test_sgd_follows_the_gradient():
    np.testing.assert_allclose(path(sgd()), 1 - RATE * np.cumsum(GRADIENTS, axis=0), rtol=1e-6)


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.9])
def test_momentum_is_the_heavy_ball(decay):
    w, m, expected = np.ones(3), np.zeros(3), []
    for g in GRADIENTS.astype(np.float64):
        m = decay * m + g
        w = w - RATE * (1 - decay) * m
        expected.append(w)
    np.testing.assert_allclose(path(momentum(decay)), expected, rtol=1e-5)


@pytest.mark.parametrize("settings", [{}, {"b1": 0.0, "b2": 0.9}, {"b1": 0.5, "eps": 0.1}])
def test_adam_is_algorithm_1(settings):
    b1, b2, eps = ({"b1": 0.9, "b2": 0.999, "eps": 1e-8} | settings).values()
    w, m, v, expected = np.ones(3), 0.0, 0.0, []
    for t, g in enumerate(GRADIENTS.astype(np.float64), start=1):
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g**2
        w = w - RATE * (m / (1 - b1**t)) / (np.sqrt(v / (1 - b2**t)) + eps)
        expected.append(w)
    # 1 - b2^t is 1e-3 at first, known to 6e-5 in single precision, and enters by its root.
    np.testing.assert_allclose(path(adam(**settings)), expected, atol=1e-4 * RATE * STEPS)


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_weight_decay_takes_away_a_share_of_the_weights(decay):
    w, u = (tf.constant(g) for g in GRADIENTS[:2])
    expected = (1 - RATE * decay) * GRADIENTS[0] - RATE * GRADIENTS[1]
    np.testing.assert_allclose(descend(w, u, np.float32(RATE), decay), expected, rtol=1e-6)
    if not decay:
        np.testing.assert_array_equal(
            descend(w, u, np.float32(RATE), decay), w - np.float32(RATE) * u
        )


@pytest.mark.parametrize("name", OPTIMIZERS)
class TestEveryOptimizer:
    def test_is_pure_and_keeps_the_structure(self, name):
        params = (Phases(tf.ones((2, 3)), tf.ones((2, 3)), tf.ones(4)),)
        gradient = tf.nest.map_structure(lambda w: 0.5 * w, params)
        optimizer = OPTIMIZERS[name]()
        state = optimizer.init(params)
        _, state = optimizer.update(gradient, state)
        first, after_first = optimizer.update(gradient, state)
        again, after_again = optimizer.update(gradient, state)
        tf.nest.assert_same_structure(first, params)
        tf.nest.assert_same_structure(after_first, state)
        tf.nest.map_structure(
            np.testing.assert_array_equal, (first, after_first), (again, after_again)
        )


@pytest.mark.parametrize("make", [momentum, adam, lambda b: adam(b2=b)])
@pytest.mark.parametrize("value", [1.0, -0.1, math.nan])
def test_decays_out_of_range_are_refused(make, value):
    with pytest.raises(ValueError, match=f"(decay|b1|b2) must be .*, got {value}"):
        make(value)


@pytest.mark.parametrize("name", SCHEDULES)
@given(one=st.floats(0, 1), other=st.floats(0, 1))
@settings(derandomize=True, max_examples=40)
def test_every_schedule_starts_at_one_and_never_rises(name, one, other):
    schedule = SCHEDULES[name]
    assert schedule(0.0) == 1.0
    assert 1 >= schedule(min(one, other)) >= schedule(max(one, other)) >= 0


def test_the_cosine_schedule_is_half_a_cosine():
    found = [SCHEDULES["cosine"](t) for t in (0, 1 / 3, 0.5, 2 / 3, 1)]
    np.testing.assert_allclose(found, [1, 0.75, 0.5, 0.25, 0], atol=1e-15)
