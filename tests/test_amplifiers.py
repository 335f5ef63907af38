"""Amplifiers: what they do to the light, and to its gradient."""

import numpy as np
import pytest

from meshes import Amplifier
from meshes._tensorflow import tf

PORTS = 8


def light(scale=1.0, samples=20):
    rng = np.random.default_rng(0)
    shape = (samples, PORTS)
    brightness = rng.uniform(0.1, 3, (samples, 1))
    fields = (rng.normal(size=shape) + 1j * rng.normal(size=shape)) * brightness * scale
    return fields.astype(np.complex64)


def power(fields):
    return np.sum(np.abs(np.asarray(fields, complex)) ** 2, axis=-1)


@pytest.mark.parametrize("convert", [np.asarray, tf.constant])
def test_a_gain_multiplies_every_power(convert):
    np.testing.assert_allclose(power(Amplifier(gain=2.5)(convert(light()))), 2.5 * power(light()))


@pytest.mark.parametrize("scale", [1.0, 1e-12, 1e-25, 1e12])
def test_a_level_makes_all_samples_equally_bright(scale):
    fields = Amplifier(level=7.0)(light(scale))
    np.testing.assert_allclose(power(fields), 7.0, rtol=1e-5)
    np.testing.assert_allclose(np.angle(fields), np.angle(light(scale)), atol=1e-6)


def test_a_level_leaves_the_dark_dark_and_its_gradient_finite():
    dark = tf.Variable(np.zeros((2, PORTS), np.complex64))
    with tf.GradientTape() as tape:
        fields = Amplifier(level=7.0)(dark)
        bright = tf.reduce_sum(tf.math.real(fields))
    assert np.all(fields == 0)
    assert np.isfinite(tape.gradient(bright, dark).numpy()).all()


def test_the_gradient_of_a_level_is_that_of_its_differences():
    amplifier, weights = Amplifier(level=3.0), np.random.default_rng(1).normal(size=PORTS)
    at, step = light(1.0, 1).astype(complex), 1e-6 * light(1.0, 2)[1:].astype(complex)

    def loss(fields):
        return tf.reduce_sum(weights * tf.math.real(amplifier(fields)))

    fields = tf.Variable(at)
    with tf.GradientTape() as tape:
        value = loss(fields)
    slope = tape.gradient(value, fields).numpy()
    expected = loss(tf.constant(at + step)) - loss(tf.constant(at - step))
    found = 2 * np.sum(slope.real * step.real + slope.imag * step.imag)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "either a gain or a level"),
        ({"gain": 1.0, "level": 1.0}, "either a gain or a level"),
        ({"gain": 0.0}, "gain must be greater than 0"),
        ({"level": -1.0}, "level must be greater than 0"),
        ({"level": float("nan")}, "level must be finite"),
    ],
)
def test_refuses_what_is_no_amplifier(given, message):
    with pytest.raises(ValueError, match=message):
        Amplifier(**given)
