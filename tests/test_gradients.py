"""Three ways to the gradient of a photonic block, and two ways to a network's scores."""

import numpy as np
import pytest

from meshes import ElectroOptic, Phases, RectangularMesh
from meshes._tensorflow import tf
from photonic_ffzero.config import configure
from photonic_ffzero.data.tasks import Classification
from photonic_ffzero.goodness.losses import CrossEntropy
from photonic_ffzero.goodness.prototypes import simplex
from photonic_ffzero.goodness.readouts import Goodness
from photonic_ffzero.gradients.directions import Directions, draw
from photonic_ffzero.gradients.estimators import Autodiff, CentralDifference, estimate
from photonic_ffzero.gradients.objectives import Weights
from photonic_ffzero.layers.blocks import CHUNK, Block
from photonic_ffzero.layers.photonic import Photonic
from photonic_ffzero.model import Model
from photonic_ffzero.seeds import generator

UNITS, COLUMNS, CLASSES, B = 8, 4, 3, 5
D = 2 * (4 + 3 + 4 + 3) + UNITS  # theta and phi of every interferometer that is not idle, gamma
DATA = np.random.default_rng(0)
X = DATA.uniform(size=(B, UNITS))
Y = DATA.integers(0, CLASSES, (B, 1))


def photonic_block(meshes, precision):
    """A block and parameters for it; in double precision only the method's own error is seen."""
    bright = ElectroOptic(phi_b=np.pi / 2)  # at phi_b = pi hardly any light leaves a mesh
    layers = tuple(Photonic(RectangularMesh(UNITS, COLUMNS), bright) for _ in range(meshes))
    prototypes = simplex(CLASSES, UNITS, generator(0, "prototypes"), zero_mean=True)
    block = Block(layers, Goodness(prototypes[np.newaxis].astype(precision), "balanced"))
    rng = generator(0, "parameters")
    params = tuple(
        Phases(*(tf.constant(w, precision) for w in layer.init(rng))) for layer in layers
    )
    return block, params


def objective_of(block, params, precision):
    return Weights()(block, CrossEntropy(), params, tf.constant(X, precision), Y)


def axes(block, epsilon):
    """The coordinate axes as orthonormal directions: sqrt(D) e_i for every parameter i."""
    masks = tf.nest.flatten(block.trainable)
    total = sum(int(mask.sum()) for mask in masks)
    v, start = [], 0
    for mask in masks:
        array = np.zeros((total, *mask.shape))
        stop = start + int(mask.sum())
        array[np.arange(start, stop), *np.nonzero(mask)] = np.sqrt(total)
        v.append(array)
        start = stop
    pack = tf.nest.pack_sequence_as
    steps = [np.float64(epsilon)] * len(v)
    return Directions(pack(block.trainable, v), pack(block.trainable, steps))


def assert_close(found, expected, **tolerance):
    for one, other in zip(tf.nest.flatten(found), tf.nest.flatten(expected), strict=True):
        np.testing.assert_allclose(one, other, **tolerance)


@pytest.mark.parametrize("meshes", [1, 2])
def test_differences_along_every_axis_are_the_automatic_gradient(meshes):
    """FF's block of one mesh and BP's of two, in double precision: the error is O(epsilon^2)."""
    block, params = photonic_block(meshes, np.float64)
    objective = objective_of(block, params, np.float64)
    exact = estimate(Autodiff(), objective, None)
    along = axes(block, 1e-5)
    assert len(along.v[0].theta) == meshes * D
    found = estimate(CentralDifference(), objective, along)
    assert max(np.abs(g).max() for g in tf.nest.flatten(exact.gradient)) > 0.1
    assert_close(found.gradient, exact.gradient, atol=1e-7)
    np.testing.assert_allclose(found.loss, exact.loss, atol=1e-7)


def test_random_orthonormal_directions_give_it_in_single_precision_as_training_has_it():
    block, params = photonic_block(1, np.float32)
    objective = objective_of(block, params, np.float32)
    exact = estimate(Autodiff(), objective, None).gradient
    along = draw("orthonormal", 1e-3, D, block.trainable, generator(0, "directions"))
    found = estimate(CentralDifference(), objective, along).gradient
    # A loss near 1 is known to 1e-7, its difference over a step of 1e-3 sqrt(D) to 1e-5, and the
    # D directions add up with a weight of sqrt(D) / D each.
    assert_close(found, exact, atol=3e-4)


@pytest.mark.parametrize("name", ["autodiff", "central"])
def test_idle_interferometers_have_gradient_zero(name):
    block, params = photonic_block(1, np.float32)
    objective = objective_of(block, params, np.float32)
    if name == "autodiff":
        gradient = estimate(Autodiff(), objective, None).gradient
    else:
        along = draw("rademacher", 1e-2, 3, block.trainable, generator(0, "directions"))
        gradient = estimate(CentralDifference(), objective, along).gradient
    idle = ~block.layers[0].mesh.mask
    assert idle.sum() == COLUMNS // 2
    for found in gradient[0][:2]:
        np.testing.assert_array_equal(found.numpy()[idle], 0)
        assert np.abs(found.numpy()[~idle]).min() > 0


def by_hand(model, x):
    """Scores of two meshes, in NumPy and double precision, from the meshes' matrices."""
    scores = []
    phases = [own for block in model.params for own in block]
    layers = [layer for block in model.blocks for layer in block.layers]
    for index, (layer, own) in enumerate(zip(layers, phases, strict=True)):
        fields = x @ layer.mesh.matrix(Phases(*(np.float64(w) for w in own)))
        intensities = np.abs(fields) ** 2
        psi = (0.05 * np.pi * intensities + np.pi / 2) / 2
        x = np.sqrt(0.9) * np.exp(-1j * psi) * np.cos(psi) * fields
        if model.config.local or index == len(layers) - 1:
            z = intensities - intensities.mean(axis=1, keepdims=True)
            prototypes = model.blocks[index if model.config.local else 0].readout.prototypes
            scores.append(z @ prototypes[0].T / np.linalg.norm(z, axis=1, keepdims=True))
    return np.stack(scores)


@pytest.mark.parametrize("method", ["ff-dd", "bp-dd"])
def test_scores_are_those_composed_by_hand(method):
    """More samples than are evaluated at once: none is lost, doubled or changed by its chunk."""
    config = configure(method=method, columns=COLUMNS, nonlinearity="electro-optic:phi_b=1.5707963")
    model = Model(config, UNITS, Classification(CLASSES))
    x = np.random.default_rng(1).uniform(size=(CHUNK + 3, UNITS)).astype(np.float32)
    scores = model.scores(x)
    assert scores.shape == (2 if method == "ff-dd" else 1, CHUNK + 3, CLASSES)
    np.testing.assert_allclose(scores, by_hand(model, x), atol=2e-5)


def test_frozen_activations_are_those_that_training_would_recompute():
    block, params = photonic_block(1, np.float32)
    cached = block.all_outputs(params, X.astype(np.float32))
    stacked = tf.nest.map_structure(lambda w: tf.stack([w, w + 1]), params)
    again = block.transmit(stacked, tf.constant(X, tf.float32))
    np.testing.assert_allclose(cached, again[0], atol=1e-6)
    assert np.abs(cached - again[1]).max() > 1e-2  # every parameter set has its own


def test_an_interferometer_that_is_idle_changes_no_score():
    block, params = photonic_block(1, np.float32)
    idle = ~block.layers[0].mesh.mask
    theta, phi, gamma = params[0]
    moved = (Phases(theta + tf.where(idle, 1.0, 0.0), phi + tf.where(idle, 1.0, 0.0), gamma),)
    x = X.astype(np.float32)
    np.testing.assert_array_equal(block.all_scores(moved, x), block.all_scores(params, x))
