"""Light cones: which ports a phase moves, and the estimator that leaves out the others."""

import numpy as np
import pytest
from test_gradients import CLASSES, axes, photonic_block

from meshes import Amplifier, Imperfections, RectangularMesh
from meshes._tensorflow import tf
from meshes.nonlinearities import ElectroOptic, Linear
from photonic_ffzero.goodness.losses import CrossEntropy
from photonic_ffzero.goodness.prototypes import simplex
from photonic_ffzero.goodness.readouts import Goodness
from photonic_ffzero.gradients.directions import Directions, draw
from photonic_ffzero.gradients.estimators import (
    Autodiff,
    CentralDifference,
    LightCones,
    estimate,
)
from photonic_ffzero.gradients.objectives import Weights
from photonic_ffzero.layers.blocks import Block
from photonic_ffzero.layers.photonic import Modulated, Photonic
from photonic_ffzero.seeds import generator

SHAPES = [(8, 8), (9, 9), (9, 4), (8, 3), (7, 1), (2, 2), (16, 5)]
B = 6
BRIGHT = ElectroOptic(phi_b=np.pi / 2)  # at phi_b = pi a small step changes the light much


def objective(units, columns, meshes=1):
    """Meshes with one loss, in double precision, and their objective on random inputs."""
    block, params = photonic_block(meshes, np.float64, units, columns)
    rng = np.random.default_rng(0)
    x = tf.constant(rng.uniform(size=(B, units)))
    y = rng.integers(0, CLASSES, (B, 1))
    return block, Weights()(block, CrossEntropy(), params, x, y)


def flat(gradient):
    return np.concatenate([np.ravel(g) for g in tf.nest.flatten(gradient)])


@pytest.mark.parametrize(("units", "columns"), SHAPES)
def test_no_port_outside_moves(units, columns):
    mesh = RectangularMesh(units, columns)
    phases = mesh.initial_phases(seed=1)
    fields = np.random.default_rng(0).uniform(size=(3, units)).astype(np.float32)
    before = mesh.intensities(fields, phases, engine="native")
    for name, cones in mesh.light_cones._asdict().items():
        values = getattr(phases, name)
        assert cones.shape == (*values.shape, 2)
        for place in np.ndindex(values.shape):
            moved = values.copy()
            moved[place] += 1.0
            after = mesh.intensities(fields, phases._replace(**{name: moved}), engine="native")
            ports = np.flatnonzero(np.abs(after - before).max(axis=0) > 1e-5)
            first, end = cones[place]
            assert np.isin(ports, np.arange(first, end)).all(), (name, place)


@pytest.mark.parametrize(
    ("units", "columns", "meshes"),
    [
        (4, 4, 2),
        (5, 3, 1),
        *(
            pytest.param(*shape, meshes, marks=pytest.mark.long)
            for shape in SHAPES[:4]
            for meshes in (1, 2)
        ),
    ],
)
def test_along_every_axis_it_is_the_gradient(units, columns, meshes):
    """Nothing that matters is left out, in the last of two meshes and in the first."""
    block, function = objective(units, columns, meshes)
    exact = estimate(Autodiff(), function, None)
    estimated = estimate(LightCones(), function, axes(block, 1e-5))
    np.testing.assert_allclose(flat(estimated.gradient), flat(exact.gradient), atol=1e-7)
    np.testing.assert_allclose(estimated.loss, exact.loss, atol=1e-7)


def on_chip(crosstalk):
    chip = Imperfections(crosstalk=crosstalk).fabricate(8, 3)
    return Photonic(chip.mesh, Linear(), "xla", chip)


@pytest.mark.parametrize(
    "layer",
    [
        on_chip(0.0),
        on_chip(0.1),
        *(
            Modulated(RectangularMesh(8, 3), Linear(), "xla", None, amplifier, BRIGHT)
            for amplifier in (None, Amplifier(gain=2.0), Amplifier(level=4.0))
        ),
    ],
)
def test_they_hold_all_that_crosstalk_and_amplifiers_move(layer):
    """A written phase heats its neighbours, and a level divides by the light of all ports."""
    prototypes = simplex(CLASSES, 8, generator(0, "prototypes"), zero_mean=True)
    block = Block((layer,), Goodness(prototypes[np.newaxis].astype(np.float32), "balanced"))
    params = (tf.nest.map_structure(tf.constant, layer.init(generator(0, "parameters"))),)
    rng = np.random.default_rng(0)
    x, y = tf.constant(rng.uniform(size=(B, 8)), tf.complex64), rng.integers(0, CLASSES, (B, 1))
    function = Weights()(block, CrossEntropy(), params, x, y)
    along = axes(block, 1e-2)
    along = along._replace(v=tf.nest.map_structure(np.float32, along.v))
    central = flat(estimate(CentralDifference(), function, along).gradient)
    cones = flat(estimate(LightCones(), function, along).gradient)
    assert np.abs(cones - central).max() < 0.02 * np.abs(central).max()


def estimates(estimator, block, function, count, repeats, epsilon=1e-4, noise=0.0):
    """Many estimates [repeats, D], with noise of the readings."""

    @tf.function(autograph=False, jit_compile=True)
    def one(v, step, drawn):
        noisy = function._replace(measure=lambda points: function.measure(points) + drawn)
        return estimate(estimator, noisy, Directions(v, step)).gradient

    rng, rows = generator(0, "directions"), []
    for _ in range(repeats):
        drawn = draw("rademacher", epsilon, count, block.trainable, rng)
        v = tf.nest.map_structure(np.float64, drawn.v)
        readings = noise * rng.standard_normal((2 * count, B, block.taps))
        rows.append(flat(one(v, drawn.step, readings)))
    return np.stack(rows)


def deviations(found, exact):
    """The error of the mean of estimates, in its standard errors."""
    return (found.mean(axis=0) - exact) / (found.std(axis=0) / np.sqrt(len(found)) + 1e-9)


@pytest.mark.compiled
@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        pytest.param(16, 0.7, marks=pytest.mark.long),
        pytest.param(8, 0.5, marks=pytest.mark.long),
        pytest.param(4, 0.3, marks=pytest.mark.long),
    ],
)
def test_it_is_unbiased_and_less_noisy_than_central_differences(columns, expected):
    block, function = objective(16, columns)
    exact = flat(estimate(Autodiff(), function, None).gradient)
    ours, central = (
        estimates(estimator, block, function, 8, 300)
        for estimator in (LightCones(), CentralDifference())
    )
    moved = ours.std(axis=0) > 0
    errors = deviations(ours, exact)[moved]
    assert np.abs(errors).max() < 5
    np.testing.assert_allclose(np.mean(errors**2), 1, atol=0.35)
    ratio = ours.var(axis=0).sum() / central.var(axis=0).sum()
    np.testing.assert_allclose(ratio, expected, atol=0.12)


@pytest.mark.compiled
@pytest.mark.long
def test_noise_of_the_readings_does_not_bias_it():
    """The slope sees the mean of the readings, whose noise is not that of their difference."""
    block, function = objective(8, 8)
    exact = flat(estimate(Autodiff(), function, None).gradient)
    found = estimates(LightCones(), block, function, 2, 4000, epsilon=0.03, noise=0.01)
    assert np.abs(deviations(found, exact)).max() < 5
