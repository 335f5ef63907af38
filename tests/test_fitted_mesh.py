"""Meshes whose couplers and losses are tensors: light is differentiable in them."""

import numpy as np
import pytest

from meshes import Phases, RectangularMesh
from meshes._tensorflow import tf
from meshes.propagation import twice

SHAPES = [
    (5, 4, True),
    pytest.param(8, 8, False, marks=pytest.mark.long),
    pytest.param(18, 20, True, marks=pytest.mark.long),
    pytest.param(9, 7, False, marks=pytest.mark.long),
]


def case(units, columns, lossy, dtype=np.float64, sets=2, samples=3):
    mesh = RectangularMesh(units, columns)
    rng = np.random.default_rng(units)
    one = [mesh.initial_phases(seed) for seed in range(sets)]
    phases = [np.stack(arrays) for arrays in zip(*one, strict=True)]
    fields = rng.normal(size=(samples, units)) + 1j * rng.normal(size=(samples, units))
    couplers = 0.1 * rng.normal(size=(2, *mesh.mask.shape)) * mesh.mask
    loss = rng.uniform(0.7, 1.0, (columns, units))
    parts = [x.astype(dtype) for x in (*phases, couplers, *([loss] if lossy else []))]
    weights = rng.normal(size=(sets, samples, units)).astype(dtype)
    return mesh, [tf.constant(x) for x in parts], fields, weights


def total(mesh, parts, fields, weights, engine):
    theta, phi, gamma, *fabrication = parts
    fitted = RectangularMesh.measured(mesh.units, mesh.num_columns, *fabrication)
    light = fitted.intensities(fields, Phases(theta, phi, gamma), engine=engine)
    return tf.reduce_sum(light * weights)


def gradients(mesh, parts, *rest):
    with tf.GradientTape() as tape:
        tape.watch(parts)
        value = total(mesh, parts, *rest)
    return tape.gradient(value, parts)


@pytest.mark.parametrize(("units", "columns", "lossy"), SHAPES)
def test_engines_agree_on_every_gradient(units, columns, lossy):
    mesh, parts, fields, weights = case(units, columns, lossy)
    exact = gradients(mesh, parts, fields, weights, "xla")
    single = [tf.cast(x, tf.float32) for x in parts]
    native = gradients(mesh, single, fields, weights.astype(np.float32), "native")
    for one, other in zip(native, exact, strict=True):
        masked = other * mesh.mask if other.shape[-2:] == mesh.mask.shape else other
        np.testing.assert_allclose(one * 1.0, masked, atol=2e-4 * np.abs(masked).max() + 1e-6)


def test_gradients_are_those_of_differences():
    mesh, parts, fields, weights = case(5, 4, lossy=True)
    rest = (fields, weights, "xla")
    exact = gradients(mesh, parts, *rest)
    for index, part in enumerate(parts[3:], start=3):
        direction = np.random.default_rng(1).normal(size=part.shape)
        plus, minus = (
            total(mesh, [*parts[:index], part + h * direction, *parts[index + 1 :]], *rest)
            for h in (1e-6, -1e-6)
        )
        slope = np.sum(direction * exact[index])
        np.testing.assert_allclose((plus - minus) / 2e-6, slope, rtol=1e-6)


def test_values_are_those_of_a_mesh_of_arrays():
    mesh, parts, fields, weights = case(5, 4, True, np.float32)
    arrays = [x.numpy() for x in parts]
    for engine in ("native", "xla"):
        np.testing.assert_allclose(
            total(mesh, parts, fields, weights, engine),
            total(mesh, arrays, fields, weights, engine),
            rtol=1e-6,
        )


@pytest.mark.parametrize("lossy", [False, True])
@pytest.mark.parametrize(("units", "columns"), [(5, 4), (8, 8), (20, 9)])
def test_one_way_forth_and_two_ways_back(units, columns, lossy):
    """Phases and fields have the slopes of the first result; offsets and parts of the second."""
    mesh, parts, fields, weights = case(units, columns, lossy)
    inputs = tf.constant(np.abs(fields))
    offsets = [0.1 * x[0] for x in parts[:3]]
    found = {}
    for engine, dtype in (("xla", tf.float64), ("native", tf.float32)):
        values = [tf.cast(x, dtype) for x in (*parts, *offsets, inputs, weights)]
        w = values.pop()
        with tf.GradientTape() as tape:
            tape.watch(values)
            *phases_and_parts, o1, o2, o3, light = values
            theta, phi, gamma, *fabrication = phases_and_parts
            fitted = RectangularMesh.measured(units, columns, *fabrication)
            phases, moved = Phases(theta, phi, gamma), (o1, o2, o3)
            one, other = twice(fitted, phases, moved, light, engine)
            total = tf.reduce_sum(one * w) + tf.reduce_sum(tf.square(other) * w)
        found[engine] = tape.gradient(total, values)
    for native, exact in zip(found["native"], found["xla"], strict=True):
        exact = exact * mesh.mask if exact.shape[-2:] == mesh.mask.shape else exact
        np.testing.assert_allclose(native, exact, atol=4e-4 * np.abs(exact).max())
