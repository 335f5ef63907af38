"""What estimators are given: groups, the linear shortcut, and directions among activations."""

from typing import ClassVar

import numpy as np
import pytest

from meshes._tensorflow import tf
from photonic_ffzero.goodness.losses import CrossEntropy, Squared
from photonic_ffzero.goodness.prototypes import simplex
from photonic_ffzero.goodness.readouts import CentralPorts, Goodness, Ports
from photonic_ffzero.gradients.directions import Directions, draw
from photonic_ffzero.gradients.estimators import ESTIMATORS, Autodiff, ForwardGradient, estimate
from photonic_ffzero.gradients.objectives import PERTURBATIONS, Activations, Weights
from photonic_ffzero.layers.activations import Tanh
from photonic_ffzero.layers.blocks import Block
from photonic_ffzero.layers.conv import Conv
from photonic_ffzero.layers.dense import Dense
from photonic_ffzero.seeds import generator

B, C, GROUPS, TAPS = 5, 2, 3, 4
DIRECTIONAL = ["central", "forward", "jvp"]  # what digital networks may use


def rng(*index):
    return generator(0, "tests of objectives", *index)


def prototypes(groups, dimension, classes=C):
    return np.stack([simplex(classes, dimension, rng(g)) for g in range(groups)]).astype(float)


def dense(groups=GROUPS, inputs=3, taps=TAPS):
    return Dense(inputs, groups * taps, Tanh(), groups)


def conv():
    projection = rng().standard_normal((5 * 4, TAPS))
    return Conv((5, 4, 2), GROUPS, projection, Tanh(), kernel_size=3, padding=1, pool=2)


def doubles(structure):
    """In double precision only the method's own error is seen."""
    return tf.nest.map_structure(lambda a: tf.constant(a, tf.float64), structure)


def problem(layer, batch=B):
    """A block of one layer with a goodness, parameters that differ from the first ones, inputs."""
    block = Block((layer,), Goodness(prototypes(layer.groups, TAPS), "raw"))
    source = rng()
    params = (type(layer.trainable)(*(source.normal(size=m.shape) for m in layer.trainable)),)
    inputs = layer.inputs if isinstance(layer, Dense) else int(np.prod(layer.shape))
    x, y = source.normal(size=(batch, inputs)), source.integers(0, C, (batch, 1))
    return block, doubles(params), tf.constant(x), y


LAYERS = {"dense": dense, "conv": conv}


@pytest.fixture(params=LAYERS)
def given_problem(request):
    return problem(LAYERS[request.param]())


def objective(perturbation, given_problem, loss=None):
    block, params, x, y = given_problem
    return perturbation(block, loss or CrossEntropy(), params, x, y)


def weights_directions(block, count):
    return doubles_of(draw("gaussian", 1e-4, count, block.trainable, rng(count)))


def doubles_of(directions):
    return tf.nest.map_structure(np.float64, directions)


def complete(shape, epsilon):
    """Directions that span every sample's and group's own space, each rotated by itself."""
    *lead, n = shape
    q, _ = np.linalg.qr(rng().normal(size=(*lead, n, n)))
    return Directions(np.moveaxis(np.sqrt(n) * q, -1, 0), epsilon)


def exact(given_problem, loss=None):
    return estimate(Autodiff(), objective(Weights(False), given_problem, loss), None)


def assert_close(found, expected, **tolerance):
    for one, other in zip(tf.nest.flatten(found), tf.nest.flatten(expected), strict=True):
        np.testing.assert_allclose(one, other, **tolerance)


@pytest.mark.parametrize("name", DIRECTIONAL)
class TestGroups:
    def test_all_groups_at_once_are_as_good_as_one_after_the_other(self, name, given_problem):
        """Perturb group g alone and look at the whole loss: the same entries of the gradient."""
        block = given_problem[0]
        along = weights_directions(block, 3)
        own = objective(Weights(), given_problem)
        together = estimate(ESTIMATORS[name](), own, along).gradient
        whole = own._replace(losses=lambda z: tf.reduce_sum(own.losses(z), axis=1, keepdims=True))
        for g in range(GROUPS):
            mask = np.arange(GROUPS) == g
            only = tf.nest.map_structure(lambda v: v * lead_like(mask, v), along.v)  # noqa: B023
            alone = estimate(ESTIMATORS[name](), whole, Directions(only, along.step)).gradient
            for found, expected in zip(together[0], alone[0], strict=True):
                np.testing.assert_allclose(found[g], expected[g], rtol=1e-7, atol=1e-9)
                assert not np.any(expected.numpy()[~mask])
        assert np.abs(together[0].kernel).max() > 1e-2

    def test_the_shortcut_through_a_linear_layer_is_exact(self, name):
        given_problem = problem(dense())
        along = weights_directions(given_problem[0], 3)
        short, plain = (
            estimate(ESTIMATORS[name](), objective(Weights(shortcut), given_problem), along)
            for shortcut in (True, False)
        )
        assert_close(short.gradient, plain.gradient, rtol=1e-7, atol=1e-9)
        np.testing.assert_allclose(short.loss, plain.loss, rtol=1e-12)


def lead_like(values, array, axis=1):
    """Values [G] along an axis of an array."""
    return np.reshape(values, [-1 if i == axis else 1 for i in range(len(array.shape))])


class Counting(Dense):
    """A dense layer that counts the products it is asked for."""

    asked: ClassVar[list] = []

    def measure(self, params, x, noise=()):
        self.asked.append(params.kernel.shape[0])
        return super().measure(params, x, noise)


@pytest.fixture
def counted_problem():
    Counting.asked.clear()
    return problem(Counting(3, GROUPS * TAPS, Tanh(), GROUPS))


@pytest.mark.parametrize("name", DIRECTIONAL)
def test_the_shortcut_costs_one_product_more_than_directions(name, counted_problem):
    """However many points an estimator looks at on each of the K lines."""
    along = weights_directions(counted_problem[0], 5)
    estimate(ESTIMATORS[name](), objective(Weights(), counted_problem), along)
    assert sum(Counting.asked) == 5 + 1


@pytest.mark.parametrize("name", PERTURBATIONS)
class TestEveryPerturbation:
    def test_several_labels_take_turns_at_the_groups(self, name):
        """Four groups of outputs and two label dimensions: 0, 1, 0, 1."""
        layer = dense(groups=4)
        block = Block((layer,), Goodness(prototypes(4, TAPS)[:, :1], "raw"), labels=2)
        _, params, x, _ = problem(layer)
        y = rng().uniform(-1, 1, (B, 2))
        own = PERTURBATIONS[name]()(block, Squared(), params, x, y)
        here = tf.nest.map_structure(lambda w: w[tf.newaxis], own.origin)
        losses = own.losses(own.measure(here))
        z = block.measure(tf.nest.map_structure(lambda w: w[tf.newaxis], params), x)[0]
        scores = block.readout(block.readout.split(z)).numpy()[..., 0]
        expected = (scores - y[:, [0, 1, 0, 1]]) ** 2
        expected = expected.mean(axis=0) if name == "weights" else expected / B
        np.testing.assert_allclose(losses[0], expected)

    @pytest.mark.parametrize("kind", [Ports, CentralPorts])
    @pytest.mark.parametrize(("layers", "readouts"), [(1, 1), (2, 2), (4, 2), (4, 1)])
    def test_ports_are_read_from_the_groups_whose_parameters_they_depend_on(
        self, name, layers, readouts, kind
    ):
        """As many groups of outputs as labels, or some for each: never another's slope."""
        layer = dense(groups=layers)
        _, params, x, _ = problem(layer)
        y = rng().uniform(-1, 1, (B, readouts))
        block = Block((layer,), kind(readouts, 1), labels=readouts)
        here = (block, params, x, y)
        own = objective(PERTURBATIONS[name](), here, Squared())
        if name == "weights":
            along = complete_weights(block, 1e-4)
        else:
            along = complete(own.origin.shape, 1e-4)
        found = estimate(ESTIMATORS["central"](), own, along)
        assert_close(found.gradient, exact(here, Squared()).gradient, rtol=1e-6, atol=1e-9)


def complete_weights(block, epsilon):
    """As many orthonormal directions as parameters, all of them trainable."""
    masks = tf.nest.flatten(block.trainable)
    ends = np.cumsum([mask.size for mask in masks])
    q, _ = np.linalg.qr(rng().normal(size=(ends[-1], ends[-1])))
    parts = np.split(np.sqrt(ends[-1]) * q, ends[:-1], axis=1)
    arrays = [part.reshape(-1, *mask.shape) for part, mask in zip(parts, masks, strict=True)]
    steps = [epsilon] * len(masks)
    return Directions(
        *(tf.nest.pack_sequence_as(block.trainable, leaf) for leaf in (arrays, steps))
    )


def flat(gradient):
    return np.concatenate([np.ravel(g) for g in tf.nest.flatten(gradient)])


class TestActivations:
    @pytest.mark.parametrize(("name", "tolerance"), [("central", 1e-6), ("jvp", 1e-12)])
    def test_all_directions_give_the_automatic_gradient(self, given_problem, name, tolerance):
        """Also through batch norm in training, where samples depend on each other."""
        own = objective(Activations(), given_problem)
        assert own.origin.shape == (B, GROUPS, TAPS)
        found = estimate(ESTIMATORS[name](), own, complete(own.origin.shape, 1e-4))
        expected = exact(given_problem)
        assert np.abs(flat(expected.gradient)).max() > 0.1
        assert_close(found.gradient, expected.gradient, atol=tolerance, rtol=tolerance)
        np.testing.assert_allclose(found.loss, expected.loss, rtol=1e-6)

    def test_are_less_noisy_than_weights(self):
        """A direction for every sample averages over the batch, and has fewer entries."""
        block, *_ = here = problem(dense(inputs=6), batch=20)
        gradient, errors = flat(exact(here).gradient), {}
        for name, perturbation in PERTURBATIONS.items():
            own, source = objective(perturbation(), here), rng(1)
            estimates = [
                flat(estimate(ForwardGradient(), own, doubles_of(drawn)).gradient)
                for drawn in (
                    draw("rademacher", 1.0, 16, perturbation().trainable(block, 20), source)
                    for _ in range(10)
                )
            ]
            errors[name] = np.mean(np.sum((np.stack(estimates) - gradient) ** 2, axis=1))
        assert errors["activations"] < errors["weights"] / 3

    def test_need_no_second_look_at_the_layer(self, counted_problem):
        """Only z is measured, once; what follows is arithmetic."""
        own = objective(Activations(), counted_problem)
        estimate(ESTIMATORS["central"](), own, complete(own.origin.shape, 1e-4))
        assert Counting.asked == [1]

    def test_are_refused_through_several_layers(self):
        first, last = dense(), Dense(GROUPS * TAPS, TAPS, Tanh())
        block = Block((first, last), Goodness(prototypes(1, TAPS), "raw"))
        params = doubles((first.init(rng()), last.init(rng())))
        _, _, x, y = problem(first)
        with pytest.raises(ValueError, match=r"weights for bp: .* back through 1 layers more"):
            Activations()(block, CrossEntropy(), params, x, y)


def test_blocks_of_several_layers_share_all_parameters():
    """One loss then, however many groups the last layer has; and nothing is linear."""
    first, last = dense(), Dense(GROUPS * TAPS, GROUPS * TAPS, Tanh(), GROUPS)
    block = Block((first, last), Goodness(prototypes(GROUPS, TAPS), "raw"))
    assert (block.groups, block.linear) == (1, False)
    _, _, x, y = problem(first)
    params = doubles((first.init(rng()), last.init(rng())))
    here = (block, params, x, y)
    along = complete_weights(block, 1e-5)
    found = estimate(ESTIMATORS["central"](), objective(Weights(), here), along).gradient
    assert_close(found, exact(here).gradient, rtol=1e-6, atol=1e-7)
