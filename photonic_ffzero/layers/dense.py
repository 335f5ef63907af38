"""Layers: what a block is made of.

A layer offers

* ``init(rng) -> params``: one parameter set, a named tuple of arrays;
* ``trainable``: the same structure of boolean arrays, false where an entry is no parameter;
* ``measure(params, x) -> z [P, B, taps]``: the tapped values a detector sees;
* ``transmit(params, x) -> x'``: what goes on to the next layer, which alone has to understand it;
* ``settles``: whether the layer holds statistics over its inputs; ``statistics(params, x)``: what
  each input adds to them [B, ...], under a stack of one parameter set; ``settled(params, added)``:
  one parameter set that holds them; ``evaluation``: the layer that uses them, as it is outside of
  training. Without statistics, false, the empty tuple, the same parameters and the layer itself;
* ``groups``: how many independent groups of parameters there are, each for a group of outputs;
  with more than one, every array leads with [P, groups];
* ``linear``: whether z is linear in the parameters;
* ``pullback(params, x, g_z)``: the gradient of one parameter set, from that of z [B, taps]; a
  layer that has none says why in an error;
* ``compilable``: whether XLA may compile the layer;
* ``cacheable``: whether what ``transmit`` gives can be kept for later: an array, and the same
  again for the same arguments;
* ``instrument``: whether it is a thing in a laboratory, which takes its time: it is sent nothing
  but what is asked for, and steps are taken one by one, so that they can be stopped and kept;
* ``draw(rng, steps, sets, batch, epochs) -> noise``: random numbers for some steps, each of P
  evaluations of a batch, on a chip of some age; and ``under(noise)``: the layer that uses those of
  one step. Without noise, the empty tuple and the layer itself.

Every array of ``params`` leads with P, the number of parameter sets evaluated side by side;
``x`` is [B, ...], shared by all sets, or [P, B, ...].
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np

from meshes._tensorflow import tf
from meshes.nonlinearities import Nonlinearity
from meshes.validation import integer
from photonic_ffzero.layers.activations import Activation
from photonic_ffzero.layers.base import Noiseless, Steady, merge_last_axes, normal_weights


class DenseParams(NamedTuple):
    """Weights [P, G, inputs, n] and biases [P, G, n] of a dense layer's G groups of outputs."""

    kernel: Any
    bias: Any


@dataclass(frozen=True)
class Dense(Noiseless, Steady):
    r"""A dense layer in independent groups of outputs, tapped before its nonlinearity.

    .. math:: z = x W + b, \qquad x' = f(z / \mathrm{rms}(z))

    The tapped values are scaled to unit mean square, sample by sample, in front of the
    nonlinearity: a goodness does not hold their size, which drifts in training.

    Attributes:
        inputs: Number of inputs.
        outputs: Number of outputs, a multiple of ``groups``.
        activation: f.
        groups: Groups of outputs G, each with prototypes of its own.

    Raises:
        ValueError: ``outputs`` is no multiple of ``groups``.
    """

    inputs: int
    outputs: int
    activation: Activation | Nonlinearity
    groups: int = 1
    name: ClassVar[str] = "dense"
    linear: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.outputs % integer("groups", self.groups, minimum=1):
            raise ValueError(
                f"groups must divide a layer's {self.outputs} outputs, got {self.groups}"
            )

    @property
    def taps(self) -> int:
        """One an output."""
        return self.outputs

    @property
    def compilable(self) -> bool:
        """Whether XLA may compile the layer: not a black box."""
        return self.activation.compilable

    @property
    def trainable(self) -> DenseParams:
        """All of them."""
        size = self.outputs // self.groups
        return DenseParams(
            np.ones((self.groups, self.inputs, size), bool), np.ones((self.groups, size), bool)
        )

    def init(self, rng: np.random.Generator) -> DenseParams:
        """Normal weights of variance 2 / inputs, no bias (He et al., arXiv 1502.01852)."""
        kernel, bias = self.trainable
        scale = math.sqrt(2 / self.inputs)
        return DenseParams(
            normal_weights(rng, kernel.shape, scale), np.zeros(bias.shape, np.float32)
        )

    def measure(self, params: DenseParams, x: Any) -> Any:
        """Outputs [P, B, outputs]."""
        if len(x.shape) == 2:
            z = tf.einsum("bi,pgin->pbgn", x, params.kernel)
        else:
            z = tf.einsum("pbi,pgin->pbgn", x, params.kernel)
        return merge_last_axes(z + params.bias[:, tf.newaxis])

    def transmit(self, params: DenseParams, x: Any) -> Any:
        """The next layer's inputs [P, B, outputs]."""
        z = self.measure(params, x)
        square = tf.reduce_mean(z * z, axis=-1, keepdims=True)
        return self.activation(z * tf.math.rsqrt(square + 1e-12))

    def pullback(self, params: DenseParams, x: Any, g_z: Any) -> DenseParams:
        r"""Of the weights x^T g_z, of the biases the sum of g_z over the batch."""
        g_z = tf.reshape(g_z, [-1, self.groups, self.outputs // self.groups])
        return DenseParams(tf.einsum("bi,bgn->gin", x, g_z), tf.reduce_sum(g_z, axis=0))
