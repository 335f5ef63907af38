"""Dense layers of a digital network."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np

from meshes._tensorflow import tf
from meshes.nonlinearities import Nonlinearity
from meshes.validation import integer
from photonic_ffzero.layers.activations import Activation
from photonic_ffzero.layers.base import Layer, merge_last_axes, normal_weights

SCALINGS = ("unit", "none")
INITIALIZATIONS = ("he", "uniform")


class DenseParams(NamedTuple):
    """Weights [P, G, inputs, n] and biases [P, G, n] of a dense layer's G groups of outputs."""

    kernel: Any
    bias: Any


@dataclass(frozen=True)
class Dense(Layer):
    r"""A dense layer in independent groups of outputs, tapped before its nonlinearity.

    .. math:: z = x W + b, \qquad x' = f(z / \mathrm{rms}(z))

    The tapped values of each sample are scaled to unit mean square before the nonlinearity,
    because a goodness does not fix their size, which would drift in training. The published
    script leaves them as they are: scaling ``"none"``, x' = f(z).

    Attributes:
        inputs: Number of inputs.
        outputs: Number of outputs, a multiple of ``groups``.
        activation: f.
        groups: Groups of outputs G, each with its own prototypes.
        scaling: ``"unit"`` or ``"none"``.
        initialization: ``"he"`` or ``"uniform"``, see `init`.
    """

    inputs: int
    outputs: int
    activation: Activation | Nonlinearity
    groups: int = 1
    scaling: str = "unit"
    initialization: str = "he"
    name: ClassVar[str] = "dense"
    linear: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.outputs % integer("groups", self.groups, minimum=1):
            raise ValueError(
                f"groups must divide a layer's {self.outputs} outputs, got {self.groups}"
            )

    @property
    def taps(self) -> int:
        return self.outputs

    @property
    def runs_on(self) -> str:
        return "xla" if self.activation.compilable else "native"

    @property
    def trainable(self) -> DenseParams:
        size = self.outputs // self.groups
        return DenseParams(
            np.ones((self.groups, self.inputs, size), bool), np.ones((self.groups, size), bool)
        )

    def init(self, rng: np.random.Generator) -> DenseParams:
        """Draw normal weights of variance 2 / inputs; no bias (He et al., arXiv 1502.01852).

        ``"uniform"``: weights and biases between -1 / sqrt(inputs) and 1 / sqrt(inputs), which is
        what PyTorch's layers start from, and with them the published script.
        """
        kernel, bias = self.trainable
        if self.initialization == "uniform":
            most = 1 / math.sqrt(self.inputs)
            drawn = (rng.uniform(-most, most, part.shape) for part in (kernel, bias))
            return DenseParams(*(values.astype(np.float32) for values in drawn))
        weights = normal_weights(rng, kernel.shape, 2 / self.inputs)
        return DenseParams(weights, np.zeros(bias.shape, np.float32))

    def measure(self, params: DenseParams, x: Any, noise: Any = ()) -> Any:
        """Outputs before the nonlinearity [P, B, outputs]."""
        product = "bi,pgin->pbgn" if len(x.shape) == 2 else "pbi,pgin->pbgn"
        z = tf.einsum(product, x, params.kernel)
        return merge_last_axes(z + params.bias[:, tf.newaxis])

    def transmit(self, params: DenseParams, x: Any, noise: Any = ()) -> Any:
        """The next layer's inputs [P, B, outputs]."""
        z = self.measure(params, x)
        if self.scaling == "none":
            return self.activation(z)
        square = tf.reduce_mean(z * z, axis=-1, keepdims=True)
        return self.activation(z * tf.math.rsqrt(square + 1e-12))

    def pullback(self, params: DenseParams, trace: Any, g_z: Any) -> DenseParams:
        """x^T g_z for the weights; the sum of g_z over the batch for the biases."""
        g_z = tf.reshape(g_z, [-1, self.groups, self.outputs // self.groups])
        return DenseParams(tf.einsum("bi,bgn->gin", trace, g_z), tf.reduce_sum(g_z, axis=0))
