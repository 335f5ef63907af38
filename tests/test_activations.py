"""Every activation against NumPy, and what all have in common."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import norm

from meshes._tensorflow import tf
from meshes.validation import from_spec
from photonic_ffzero.layers.activations import ACTIVATIONS, Activation

VALUES = arrays(np.float64, (3, 4), elements=st.floats(-20, 20))

# The independent formula of every registered activation.
FORMULAS = {
    "relu": lambda z: np.maximum(z, 0),
    "tanh": np.tanh,
    "gelu": lambda z: z * norm.cdf(z),
    "sine": np.sin,
    "identity": lambda z: z,
}


def test_every_activation_has_its_formula_here():
    assert FORMULAS.keys() == ACTIVATIONS.keys()


@pytest.mark.parametrize("name", ACTIVATIONS)
class TestEveryActivation:
    @given(z=VALUES)
    @settings(deadline=None, derandomize=True, max_examples=30)
    def test_equals_its_formula(self, name, z):
        found = ACTIVATIONS[name]()(tf.constant(z))
        assert found.dtype == tf.float64
        # TensorFlow's gelu has the root of 2 in single precision.
        np.testing.assert_allclose(found, FORMULAS[name](z), rtol=2e-6, atol=1e-12)

    def test_is_a_value_that_xla_compiles_as_it_says(self, name):
        activation = from_spec("nonlinearity", name, ACTIVATIONS)
        assert isinstance(activation, Activation)
        assert activation == ACTIVATIONS[name]()
        assert activation.compilable
        compiled = tf.function(activation, jit_compile=True, autograph=False)
        z = tf.constant(np.linspace(-3, 3, 7, dtype=np.float32))
        np.testing.assert_allclose(compiled(z), activation(z), atol=1e-6)
