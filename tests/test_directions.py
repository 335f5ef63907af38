"""Directions are tested by their distribution, for every registered law."""

import numpy as np
import pytest

from meshes import Phases
from photonic_ffzero.gradients.directions import LAWS, draw
from photonic_ffzero.seeds import generator

# Two arrays of different size, one with idle entries, in the structure of real parameters.
MASK = np.array([[True, True, False], [True, False, True]])
TRAINABLE = (Phases(MASK, np.ones((2, 2), bool), np.ones(3, bool)),)
SIZES = [4, 4, 3]
D = sum(SIZES)
UNIT = ("orthonormal", "gaussian-unit", "gaussian-unit-each")  # laws that fix a length


def rng(seed=0):
    return generator(seed, "directions")


def flat(directions, trainable=TRAINABLE):
    """Directions as a matrix [K, D] over the trainable entries."""
    pairs = zip(directions.v[0], trainable[0], strict=True)
    return np.concatenate([v[:, mask] for v, mask in pairs], axis=1)


def many(law, count):
    """``count`` draws, as independent as the law has them."""
    source = rng()
    if law != "orthonormal":
        return flat(draw(law, 1e-2, count, TRAINABLE, source))
    return np.concatenate([flat(draw(law, 1e-2, 1, TRAINABLE, source)) for _ in range(count)])


@pytest.mark.parametrize("law", LAWS)
class TestEveryLaw:
    def test_has_mean_zero_and_unit_covariance(self, law):
        count = 20_000 if law != "orthonormal" else 4000
        v = many(law, count).astype(np.float64)
        # Products of entries have a variance of at most 2 (a normal's square), so five standard
        # errors are 5 sqrt(2 / n); those of the mean are smaller.
        tolerance = 5 * np.sqrt(2 / count)
        np.testing.assert_allclose(v.mean(axis=0), 0, atol=tolerance)
        np.testing.assert_allclose(v.T @ v / count, np.eye(D), atol=tolerance)

    def test_idle_entries_are_zero_and_have_no_share(self, law):
        """The same draw without the idle entries: they count neither in D nor in the stream."""
        directions = draw(law, 1e-2, 3, TRAINABLE, rng())
        assert isinstance(directions.v[0], Phases)
        for v, step, mask in zip(*directions.v, *directions.step, *TRAINABLE, strict=True):
            assert v.shape == (3, *mask.shape)
            assert v.dtype == np.float32
            assert isinstance(step, float)  # part of the compiled step, not its input
            assert np.all((v != 0) == mask)
        dense = (Phases(np.ones(4, bool), *TRAINABLE[0][1:]),)
        expected = draw(law, 1e-2, 3, dense, rng())
        np.testing.assert_array_equal(flat(directions), flat(expected, dense))
        assert directions.step[0] == expected.step[0]

    def test_an_array_without_any_parameter_has_no_share(self, law):
        """As the mean and variance of a batch norm."""
        directions = draw(law, 1e-2, 3, (*TRAINABLE, np.zeros(5, bool)), rng())
        assert directions.v[1].shape == (3, 5)
        assert not np.any(directions.v[1])
        expected = draw(law, 1e-2, 3, TRAINABLE, rng())
        np.testing.assert_array_equal(flat(directions), flat(expected))
        assert directions.step[0] == expected.step[0]


def test_rademacher_entries_are_signs():
    assert set(many("rademacher", 1000).ravel()) == {-1.0, 1.0}


def test_gaussian_entries_are_normal():
    """Beyond the covariance: the fourth moment, which is 3 (its estimate has variance 96 / n)."""
    v = many("gaussian", 20_000).astype(np.float64)
    assert abs(np.mean(v**4) - 3) < 5 * np.sqrt(96 / v.size)


def test_orthonormal_directions_are_orthogonal():
    for count in (1, 5, D):
        v = flat(draw("orthonormal", 1e-2, count, TRAINABLE, rng()))
        np.testing.assert_allclose(v @ v.T, D * np.eye(count), atol=1e-5)


@pytest.mark.parametrize(
    ("epsilon", "count", "error", "message"),
    [
        (1e-2, 0, ValueError, "directions must be at least 1, got 0"),
        (1e-2, 1.5, TypeError, "directions must be a whole number, got 1.5"),
        (0.0, 1, ValueError, "epsilon must be greater than 0, got 0.0"),
        (1e-2, D + 1, ValueError, f"at most the number of parameters, {D}, .* got {D + 1}"),
    ],
)
def test_names_what_is_out_of_range(epsilon, count, error, message):
    """Idle entries make no room for another orthonormal direction."""
    with pytest.raises(error, match=message):
        draw("orthonormal", epsilon, count, TRAINABLE, rng())


def test_directions_of_fixed_length_have_it():
    for law in UNIT:
        v = flat(draw(law, 1e-2, 5, TRAINABLE, rng()))
        np.testing.assert_allclose(np.linalg.norm(v, axis=1), np.sqrt(D), rtol=1e-6)
    each = draw("gaussian-unit-each", 1e-2, 5, TRAINABLE, rng()).v[0]
    for v, size in zip(each, SIZES, strict=True):
        lengths = np.linalg.norm(v.reshape(5, -1), axis=1)
        np.testing.assert_allclose(lengths, np.sqrt(size), rtol=1e-6)
    whole = draw("gaussian-unit", 1e-2, 5, TRAINABLE, rng()).v[0]
    assert np.ptp(np.linalg.norm(whole.gamma, axis=1)) > 1e-2  # no array for itself


@pytest.mark.parametrize(
    ("law", "expected"),
    [
        ("rademacher", [1, 1, 1]),
        ("gaussian", [1, 1, 1]),
        ("orthonormal", [1, 1, 1]),
        ("gaussian-unit", [1 / np.sqrt(D)] * 3),
        ("gaussian-unit-each", [1 / np.sqrt(size) for size in SIZES]),
    ],
)
def test_epsilon_is_the_step_of_a_parameter_or_of_the_whole(law, expected):
    steps = draw(law, 0.01, 1, TRAINABLE, rng()).step[0]
    np.testing.assert_allclose(steps, 0.01 * np.array(expected), rtol=1e-6)
