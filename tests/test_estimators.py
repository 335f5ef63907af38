"""Gradient estimators on objectives whose gradient is known: order, bias, variance, cost."""

import numpy as np
import pytest

from meshes._tensorflow import tf
from photonic_ffzero.gradients.directions import LAWS, Directions, draw
from photonic_ffzero.gradients.estimators import (
    ESTIMATORS,
    Autodiff,
    CentralDifference,
    ForwardDifference,
    ForwardGradient,
    estimate,
)
from photonic_ffzero.gradients.objectives import Objective, combine
from photonic_ffzero.seeds import generator

pytestmark = pytest.mark.compiled

# Parameters of two arrays, so that the laws by array differ from the others.
SHAPES = {"a": (2, 3), "b": (4,)}
D = 10
POINT = {name: np.random.default_rng(1).uniform(-1, 1, shape) for name, shape in SHAPES.items()}
TRAINABLE = {name: np.ones(shape, bool) for name, shape in SHAPES.items()}
SLOPE = np.random.default_rng(2).normal(size=D)
DIFFERENCES = {"central": CentralDifference, "forward": ForwardDifference}
DIRECTIONAL = DIFFERENCES | {"jvp": ForwardGradient}


def joined(params):
    """[..., D] from the arrays, whatever axes they lead with."""
    lead = params["a"].shape[:-2]
    return tf.concat([tf.reshape(params[name], [*lead, -1]) for name in SHAPES], axis=-1)


def by_group(params):
    """A sum of sin(w_i + i), and (sum_i w_i)^2 / 10: every derivative differs from zero."""
    w = joined(params)
    return tf.reduce_sum(tf.sin(w + np.arange(D)), axis=-1) + tf.reduce_sum(w, axis=-1) ** 2 / 10


def smooth(params):
    return by_group(params)[:, tf.newaxis]


def linear_by_group(params):
    return tf.reduce_sum(joined(params) * SLOPE, axis=-1)


W = joined(POINT).numpy()
GRADIENT = np.cos(W + np.arange(D)) + W.sum() / 5  # of the smooth objective at POINT


def objective(function, point):
    """An objective whose parameters are perturbed themselves, and whose work is all measured."""

    def tangent(directions):
        return tf.nest.map_structure(lambda v, step: step * v, directions.v, directions.step)

    return Objective(point, function, lambda losses: losses, tangent, combine)


def estimated(estimator, function, point, along=None):
    return estimate(estimator, objective(function, point), along)


def rng():
    return generator(0, "directions")


def tensors(params):
    return tf.nest.map_structure(tf.convert_to_tensor, params)


def doubles(directions):
    """In double precision only the method's own error is seen."""
    return tf.nest.map_structure(np.float64, directions)


def along_all(epsilon):
    """As many orthonormal directions as parameters: no sampling error is left."""
    return doubles(draw("orthonormal", epsilon, D, TRAINABLE, rng()))


def along_some(name, trainable=TRAINABLE, count=4, law="gaussian"):
    """Directions for an estimator of this name, if it takes any."""
    if ESTIMATORS[name]().differentiates == "reverse":
        return None
    return doubles(draw(law, 1e-3, count, trainable, rng()))


def estimates(estimator, function, law, count, repeats, epsilon=1e-5):
    """Independent estimates [repeats, D]: every repetition is a group with its own directions."""
    source = rng()
    draws = [draw(law, epsilon, count, TRAINABLE, source) for _ in range(repeats)]
    v = {name: np.stack([d.v[name] for d in draws], axis=1) for name in SHAPES}
    params = {name: np.stack([POINT[name]] * repeats) for name in SHAPES}
    found = estimated(estimator, function, params, doubles(Directions(v, draws[0].step)))
    return joined(found.gradient).numpy()


@pytest.mark.parametrize(
    "name", sorted(set(ESTIMATORS) - {"cones", "twin"})
)  # which need detectors
class TestEveryEstimator:
    def estimated(self, name, function, params=POINT, trainable=TRAINABLE, count=4):
        along = along_some(name, trainable, count)
        return estimated(ESTIMATORS[name](), function, tensors(params), along)

    def test_single_numbers_have_a_gradient(self, name):
        """A parameter may have no axis at all, as a nonlinearity's bias has."""
        params = {"x": np.float64(0.3), "w": np.array([0.1, 0.2])}
        trainable = {"x": np.array(True), "w": np.ones(2, bool)}

        def function(p):
            return (tf.sin(p["x"]) + tf.reduce_sum(p["w"], axis=1))[:, tf.newaxis]

        along = along_some(name, trainable, 3, "orthonormal")
        gradient = estimated(ESTIMATORS[name](), function, tensors(params), along).gradient
        assert gradient["x"].shape == ()
        np.testing.assert_allclose(gradient["x"], np.cos(0.3), rtol=1e-3)
        np.testing.assert_allclose(gradient["w"], np.ones(2), rtol=1e-3)

    def test_evaluates_as_many_parameter_sets_as_it_says_in_one_go(self, name):
        asked = []

        def counting(params):
            asked.append(params["a"].shape[0])
            return smooth(params)

        for count in (1, 3):
            self.estimated(name, counting, count=count)
        assert asked == [ESTIMATORS[name]().parameter_sets(count) for count in (1, 3)]

    def test_loss_is_that_of_the_parameters(self, name):
        here = smooth(tf.nest.map_structure(lambda w: w[np.newaxis], POINT))[0, 0]
        # The mean over w +- eps v differs by eps^2 |v|^2 / 2 times the curvature.
        np.testing.assert_allclose(self.estimated(name, smooth).loss, here, atol=1e-4)

    def test_compiled_it_gives_the_same(self, name):
        eager = self.estimated(name, smooth)

        @tf.function(jit_compile=True, autograph=False)
        def compiled(params):
            return self.estimated(name, smooth, params)

        found = compiled(tensors(POINT))
        np.testing.assert_allclose(joined(found.gradient), joined(eager.gradient), rtol=1e-8)


def test_a_forward_gradient_has_no_step_error():
    """The differences' error grows with the step; a slope along a direction has none."""
    for epsilon in (1e-3, 1.0, 30.0):
        gradient = estimated(ForwardGradient(), smooth, POINT, along_all(epsilon)).gradient
        np.testing.assert_allclose(joined(gradient), GRADIENT, rtol=1e-5)


def test_autodiff_is_exact_also_where_a_parameter_does_not_enter():
    gradient = estimated(Autodiff(), smooth, tensors(POINT)).gradient
    np.testing.assert_allclose(joined(gradient), GRADIENT, rtol=1e-12)
    gradient = estimated(Autodiff(), lambda p: smooth(p | {"b": 0 * POINT["b"]}), tensors(POINT))
    np.testing.assert_array_equal(gradient.gradient["b"], np.zeros(4))


@pytest.mark.parametrize(("name", "order"), [("central", 2), ("forward", 1)])
def test_error_falls_with_the_order_of_the_difference(name, order):
    """Measured by regression of log error on log epsilon."""
    steps = np.array([1e-3, 3e-3, 1e-2, 3e-2])
    errors = []
    for epsilon in steps:
        found = estimated(DIFFERENCES[name](), smooth, POINT, along_all(epsilon)).gradient
        errors.append(np.linalg.norm(joined(found) - GRADIENT))
    slope, _ = np.polyfit(np.log(steps), np.log(errors), 1)
    assert abs(slope - order) < 0.05


@pytest.mark.parametrize(
    ("law", "name"),
    [
        pytest.param(
            law, name, marks=[pytest.mark.long] * (law != "rademacher" and name != "central")
        )
        for law in LAWS
        for name in DIRECTIONAL
    ],
)
def test_the_expected_estimate_is_the_gradient(law, name):
    """Also where every array has a step of its own. Every average is judged by its own spread."""
    found = estimates(DIRECTIONAL[name](), by_group, law, 2, 2500)
    standard_error = found.std(axis=0) / np.sqrt(len(found))
    assert np.all(standard_error < 0.1)  # small enough to tell: the gradient's entries are near 1
    assert np.all(np.abs(found.mean(axis=0) - GRADIENT) < 4.5 * standard_error)


def crosstalk():
    r"""Relative squared error at K = 1 where the step is epsilon / sqrt(D_a) for array a.

    d v_a / step_a = v_a (v_a \cdot s_a) + (step_b / step_a) v_a (v_b \cdot s_b): the second term
    makes D_a (D_a / D_b) |s_b|^2 where equal steps would make D_a |s_b|^2.
    """
    (size_a, size_b), (a, b) = (6, 4), (np.sum(SLOPE[:6] ** 2), np.sum(SLOPE[6:] ** 2))
    own = (size_a - 1) * a + (size_b - 1) * b
    return (own + size_a**2 / size_b * b + size_b**2 / size_a * a) / (a + b)


@pytest.mark.parametrize("count", [1, pytest.param(4, marks=pytest.mark.long), 8])
@pytest.mark.parametrize(
    ("law", "expected"),
    [
        ("gaussian", lambda K: (D + 1) / K),
        ("rademacher", lambda K: (D - 1) / K),
        ("gaussian-unit", lambda K: (D - 1) / K),
        ("gaussian-unit-each", lambda K: crosstalk() / K),
        ("orthonormal", lambda K: D / K - 1),
    ],
)
def test_mean_squared_error_falls_with_the_directions_as_predicted(law, expected, count):
    """On a linear objective, where directions are the only source of error."""
    found = estimates(CentralDifference(), linear_by_group, law, count, 2500)
    errors = np.sum((found - SLOPE) ** 2, axis=1) / np.sum(SLOPE**2)
    standard_error = errors.std() / np.sqrt(len(errors))
    assert standard_error < 0.05 * expected(count)  # tells D + 1 from D - 1
    assert abs(errors.mean() - expected(count)) < 4.5 * standard_error
