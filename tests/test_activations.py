"""Every activation against NumPy."""

import numpy as np
import pytest
from scipy.stats import norm

from meshes._tensorflow import tf
from photonic_ffzero.layers.activations import ACTIVATIONS

pytestmark = pytest.mark.compiled

# The independent formula of every registered activation.
FORMULAS = {
    "relu": lambda z: np.maximum(z, 0),
    "tanh": np.tanh,
    "gelu": lambda z: z * norm.cdf(z),
    "sine": np.sin,
    "identity": lambda z: z,
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_equals_its_formula_and_compiles_as_it_says(name):
    activation, z = ACTIVATIONS[name](), np.linspace(-20, 20, 81)
    values = activation(tf.constant(z))
    assert values.dtype == tf.float64
    # TensorFlow's gelu has the root of 2 in single precision.
    np.testing.assert_allclose(values, FORMULAS[name](z), rtol=2e-6, atol=1e-12)
    assert activation.compilable
    compiled = tf.function(activation, jit_compile=True, autograph=False)
    np.testing.assert_allclose(compiled(tf.constant(z)), values, atol=1e-6)
