"""Every registered nonlinearity, and the electro-optic one against its equation."""

import dataclasses
import math

import numpy as np
import pytest

from meshes import NONLINEARITIES, ElectroOptic, Linear, parse_nonlinearity
from meshes._tensorflow import tf


def random_fields(shape=(5, 6), scale=2.0):
    real, imaginary = np.random.default_rng(0).normal(scale=scale, size=(2, *shape))
    return (real + 1j * imaginary).astype(np.complex64)


@pytest.fixture(params=NONLINEARITIES)
def nonlinearity(request):
    return NONLINEARITIES[request.param]()


class TestEveryNonlinearity:
    def test_is_a_frozen_value(self, nonlinearity):
        assert nonlinearity == type(nonlinearity)()
        assert hash(nonlinearity) == hash(type(nonlinearity)())
        assert dataclasses.is_dataclass(nonlinearity)

    def test_takes_any_leading_axes_and_keeps_the_type(self, nonlinearity):
        for shape in [(6,), (5, 6), (2, 5, 6)]:
            out = nonlinearity(tf.constant(random_fields(shape)))
            assert out.shape == shape
            assert out.dtype == tf.complex64
        assert nonlinearity(random_fields()).dtype == np.complex64
        assert nonlinearity(random_fields().astype(np.complex128)).dtype == np.complex128

    def test_arrays_tensors_and_compiled_functions_agree(self, nonlinearity):
        fields = random_fields()
        expected = nonlinearity(fields)
        compiled = tf.function(nonlinearity, jit_compile=True, autograph=False)
        for result in (nonlinearity(tf.constant(fields)), compiled(tf.constant(fields))):
            np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-6)

    def test_is_passive(self, nonlinearity):
        fields = random_fields()
        assert np.all(np.abs(nonlinearity(fields)) <= np.abs(fields) * (1 + 1e-6))

    def test_follows_the_phase_of_the_field(self, nonlinearity):
        """f(e^{i a} E) = e^{i a} f(E): nothing but the power drives it."""
        fields, turn = random_fields(), np.complex64(np.exp(0.7j))
        np.testing.assert_allclose(
            nonlinearity(turn * fields), turn * nonlinearity(fields), atol=1e-5
        )

    def test_has_finite_gradients_also_in_the_dark(self, nonlinearity):
        fields = tf.Variable(np.concatenate([random_fields(), np.zeros((1, 6), np.complex64)]))
        with tf.GradientTape() as tape:
            power = tf.reduce_sum(tf.abs(nonlinearity(fields) + 1.0) ** 2)
        assert np.all(np.isfinite(tape.gradient(power, fields)))

    def test_is_parsed_from_its_name(self, nonlinearity):
        names = [name for name, cls in NONLINEARITIES.items() if isinstance(nonlinearity, cls)]
        assert parse_nonlinearity(names[0]) == nonlinearity


def test_every_nonlinearity_is_registered():
    import meshes.nonlinearities as module

    classes = {value for value in vars(module).values() if dataclasses.is_dataclass(value)}
    assert classes == set(NONLINEARITIES.values())


class TestElectroOptic:
    @pytest.mark.parametrize(
        "parameters", [{}, {"alpha": 0.3, "g": 0.4, "phi_b": 0.5 * math.pi}, {"phi_b": 0.0}]
    )
    def test_equation(self, parameters):
        f = ElectroOptic(**parameters)
        E = random_fields().astype(np.complex128)
        psi = (f.g * np.abs(E) ** 2 + f.phi_b) / 2
        expected = np.sqrt(1 - f.alpha) * np.exp(-1j * psi) * np.cos(psi) * E
        np.testing.assert_allclose(f(E), expected, rtol=1e-12)

    def test_published_defaults(self):
        f = ElectroOptic()
        assert (f.alpha, f.g, f.phi_b) == (0.1, 0.05 * math.pi, math.pi)

    def test_dim_light_keeps_its_precision_at_the_dark_bias(self):
        """|f(E)| = sqrt(1 - alpha) g |E|^3 / 2 at phi_b = pi, down to the dimmest light."""
        f = ElectroOptic()
        E = np.logspace(-8, -2, 13).astype(np.complex64)
        expected = np.sqrt(0.9) * f.g / 2 * np.abs(E) ** 3
        np.testing.assert_allclose(np.abs(f(E)), expected, rtol=1e-5)


def test_linear_is_the_identity():
    fields = random_fields()
    np.testing.assert_array_equal(Linear()(fields), fields)


class TestParsing:
    def test_with_parameters(self):
        expected = ElectroOptic(g=0.1, phi_b=1.57)
        assert parse_nonlinearity("electro-optic:g=0.1, phi_b=1.57") == expected

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("relu", "nonlinearity must be one of electro-optic, linear; got 'relu'"),
            ("", "nonlinearity must be one of electro-optic, linear; got ''"),
            ("electro-optic:h=1", "takes the parameters alpha, g, phi_b; got 'h=1'"),
            ("linear:g=1", "linear takes the parameters none; got 'g=1'"),
            ("electro-optic:g=big", "g must be a number, got 'big'"),
            ("electro-optic:g", "g must be a number, got ''"),
            ("electro-optic:g=inf", "g must be finite"),
            ("electro-optic:alpha=1.5", "alpha must be at most 1.0, got 1.5"),
        ],
    )
    def test_errors(self, text, message):
        with pytest.raises(ValueError, match=message):
            parse_nonlinearity(text)
