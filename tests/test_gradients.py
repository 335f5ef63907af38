"""Gradients of a photonic block by automatic differentiation and by differences; its scores."""

import numpy as np
import pytest

from meshes import ElectroOptic, Phases, RectangularMesh
from meshes._tensorflow import tf
from meshes.engines.reference import fields_by_column
from photonic_ffzero.config import configure
from photonic_ffzero.data.tasks import Classification
from photonic_ffzero.goodness.losses import CrossEntropy
from photonic_ffzero.goodness.prototypes import simplex
from photonic_ffzero.goodness.readouts import Goodness
from photonic_ffzero.gradients.directions import Directions, draw
from photonic_ffzero.gradients.estimators import (
    Autodiff,
    CentralDifference,
    ForwardGradient,
    estimate,
)
from photonic_ffzero.gradients.objectives import Weights
from photonic_ffzero.layers.base import CHUNK
from photonic_ffzero.layers.blocks import Block
from photonic_ffzero.layers.photonic import Photonic
from photonic_ffzero.model import Model
from photonic_ffzero.seeds import generator

UNITS, COLUMNS, CLASSES, B = 8, 4, 3, 5
D = 2 * (4 + 3 + 4 + 3) + UNITS  # theta and phi of every interferometer that is not idle, gamma
DATA = np.random.default_rng(0)
X = DATA.uniform(size=(B, UNITS))
Y = DATA.integers(0, CLASSES, (B, 1))


def photonic_block(meshes, precision, units=UNITS, columns=COLUMNS):
    """A block and parameters for it; double precision leaves only the method's error."""
    bright = ElectroOptic(phi_b=np.pi / 2)  # at phi_b = pi hardly any light leaves a mesh
    layers = tuple(Photonic(RectangularMesh(units, columns), bright) for _ in range(meshes))
    prototypes = simplex(CLASSES, units, generator(0, "prototypes"), zero_mean=True)
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
    """One mesh as in FF, two as in BP, in double precision: the error is O(epsilon^2)."""
    block, params = photonic_block(meshes, np.float64)
    objective = objective_of(block, params, np.float64)
    exact = estimate(Autodiff(), objective, None)
    along = axes(block, 1e-5)
    assert len(along.v[0].theta) == meshes * D
    found = estimate(CentralDifference(), objective, along)
    assert max(np.abs(g).max() for g in tf.nest.flatten(exact.gradient)) > 0.1
    assert_close(found.gradient, exact.gradient, atol=1e-7)
    np.testing.assert_allclose(found.loss, exact.loss, atol=1e-7)


@pytest.mark.parametrize("run", [lambda f: f, lambda f: tf.function(f, autograph=False)])
@pytest.mark.parametrize("meshes", [1, 2])
def test_exact_slopes_along_the_axes_give_it_too(meshes, run):
    """Slopes through a compiled mesh, in an eager call and in a graph."""
    block, params = photonic_block(meshes, np.float64)
    objective = objective_of(block, params, np.float64)
    exact = estimate(Autodiff(), objective, None).gradient
    along = axes(block, 1.0)
    found = run(lambda: estimate(ForwardGradient(), objective, along).gradient)()
    assert_close(found, exact, atol=1e-10)


def test_random_orthonormal_directions_give_it_in_single_precision():
    block, params = photonic_block(1, np.float32)
    objective = objective_of(block, params, np.float32)
    exact = estimate(Autodiff(), objective, None).gradient
    along = draw("orthonormal", 1e-3, D, block.trainable, generator(0, "directions"))
    found = estimate(CentralDifference(), objective, along).gradient
    # Rounding: a loss near 1 has an error of 1e-7, its difference over a step of 1e-3 sqrt(D) one
    # of 1e-5, and the D directions add up with a weight of sqrt(D) / D each.
    assert_close(found, exact, atol=3e-4)
    idle = ~block.layers[0].mesh.mask
    assert idle.sum() == COLUMNS // 2
    for phases in found[0][:2]:
        np.testing.assert_array_equal(phases.numpy()[idle], 0)


def scores_in_numpy(model, x):
    """Scores of two meshes in double precision, from the meshes' matrices."""
    scores = []
    params = [phases for block in model.params for phases in block]
    layers = [layer for block in model.blocks for layer in block.layers]
    for index, (layer, phases) in enumerate(zip(layers, params, strict=True)):
        fields = fields_by_column(layer.mesh, phases, x)[-1]
        intensities = np.abs(fields) ** 2
        psi = (0.05 * np.pi * intensities + np.pi / 2) / 2
        x = np.sqrt(0.9) * np.exp(-1j * psi) * np.cos(psi) * fields
        if model.config.local or index == len(layers) - 1:
            z = intensities - intensities.mean(axis=1, keepdims=True)
            prototypes = model.blocks[index if model.config.local else 0].readout.prototypes
            scores.append(z @ prototypes[0].T / np.linalg.norm(z, axis=1, keepdims=True))
    return np.stack(scores)


@pytest.mark.parametrize("method", ["ff-dd", "bp-dd"])
def test_scores_are_those_composed_in_numpy(method):
    """More samples than one chunk: none is lost, doubled or changed."""
    config = configure(method=method, columns=COLUMNS, nonlinearity="electro-optic:phi_b=1.5707963")
    model = Model(config, UNITS, Classification(CLASSES))
    x = np.random.default_rng(1).uniform(size=(CHUNK + 3, UNITS)).astype(np.float32)
    scores = model.scores(x)
    assert scores.shape == (2 if method == "ff-dd" else 1, CHUNK + 3, CLASSES)
    np.testing.assert_allclose(scores, scores_in_numpy(model, x), atol=2e-5)


def test_frozen_activations_are_those_that_training_would_recompute():
    block, params = photonic_block(1, np.float32)
    cached = block.all_outputs(params, X.astype(np.float32))
    stacked = tf.nest.map_structure(lambda w: tf.stack([w, w + 1]), params)
    again = block.transmit(stacked, tf.constant(X, tf.float32))
    np.testing.assert_allclose(cached, again[0], atol=1e-6)
    assert np.abs(cached - again[1]).max() > 1e-2  # every parameter set has its own
