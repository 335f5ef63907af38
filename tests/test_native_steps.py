"""Losses and steps by kernels equal those of TensorFlow up to rounding."""

from __future__ import annotations

import numpy as np
import pytest

from meshes._tensorflow import tf
from photonic_ffzero.goodness import Cosine, CrossEntropy, Goodness, Margin, Squared, simplex
from photonic_ffzero.goodness.native import native_losses

LOSSES = [CrossEntropy(10.0), CrossEntropy(40.0), Margin(0.3), Cosine(), Squared()]


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: f"{type(loss).__name__}")
@pytest.mark.parametrize("detection", ["balanced", "raw"])
@pytest.mark.parametrize(
    ("sets", "samples", "ports", "classes"), [(4, 128, 64, 10), (2, 37, 17, 3)]
)
def test_losses_equal_those_of_tensorflow(sets, samples, ports, classes, detection, loss):
    rng = np.random.default_rng(0)
    prototypes = simplex(classes, ports, rng, zero_mean=detection == "balanced")
    readout = Goodness(prototypes[np.newaxis], detection)
    z = rng.random((sets, samples, ports), dtype=np.float32)
    z[:, 3], z[:, 5], z[:, 7] = 0, 1e-30 * z[:, 5], 1e36 * z[:, 7]  # dark, dim, bright
    z[-1, 9, 1] = np.nan
    labels = rng.integers(classes, size=samples)

    def reference(z):
        scores = readout(readout.split(z))
        y = tf.constant(labels, tf.float32 if isinstance(loss, Squared) else tf.int32)
        return tf.reduce_mean(loss(scores, y[:, tf.newaxis]), axis=[1, 2])

    expected = tf.function(reference, jit_compile=True)(z).numpy()
    kernel = native_losses(readout, loss)
    assert kernel is not None
    result = kernel(z, labels)
    assert np.isnan(result[-1])
    assert np.isnan(expected[-1])
    np.testing.assert_allclose(result[:-1], expected[:-1], rtol=1e-6)
