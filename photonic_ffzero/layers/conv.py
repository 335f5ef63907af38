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
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple

import numpy as np

from meshes._tensorflow import tf
from meshes.nonlinearities import Nonlinearity
from photonic_ffzero.layers.activations import Activation
from photonic_ffzero.layers.base import Noiseless, merge_last_axes, normal_weights


class ConvParams(NamedTuple):
    """Kernels [P, C, k, k, inputs], and for every channel [P, C] batch norm's scale, shift, and
    the running mean and variance, which are no parameters."""

    kernel: Any
    scale: Any
    shift: Any
    mean: Any
    variance: Any


@dataclass(frozen=True, eq=False)
class Conv(Noiseless):
    r"""A convolution with batch norm whose channels are independent groups, tapped one by one.

    .. math::
        y_c = s_c \frac{u_c - \mu_c}{\sqrt{\sigma_c^2 + \varepsilon}} + t_c, \quad
        u_c = W_c * x, \qquad z_c = y_c A, \qquad x' = \mathrm{pool}(f(y))

    A is a fixed random matrix from the map's pixels to a few tapped values, the same for all
    channels. In training, mean and variance are those of the batch; outside, those settled.

    Attributes:
        shape: Rows, columns and channels of the input; it comes flattened.
        channels: Number of channels C.
        projection: A, [H' W', taps of a channel].
        activation: f.
        kernel_size: Rows and columns of the kernels k.
        padding: Rows and columns of zeros on each side.
        pool: Rows and columns of the pools.
        frozen: Whether mean and variance are those settled.

    Raises:
        ValueError: the kernel is larger than the padded image, or a pool than the map.
    """

    shape: tuple[int, int, int]
    channels: int
    projection: np.ndarray
    activation: Activation | Nonlinearity
    kernel_size: int = 6
    padding: int = 2
    pool: int = 2
    frozen: bool = False
    name: ClassVar[str] = "conv"
    settles: ClassVar[bool] = True
    linear: ClassVar[bool] = False

    @staticmethod
    def map_shape(
        shape: tuple[int, int, int], kernel_size: int, padding: int, pool: int
    ) -> tuple[int, int]:
        """Rows and columns of the map in front of the pools.

        Raises:
            ValueError: the kernel is larger than the padded image, or a pool than the map.
        """
        rows, columns = (size + 2 * padding - kernel_size + 1 for size in shape[:2])
        if min(rows, columns) < 1:
            raise ValueError(
                f"kernel_size must be at most the padded image's {min(shape[:2]) + 2 * padding} "
                f"pixels, got {kernel_size}"
            )
        if min(rows, columns) < pool:
            raise ValueError(
                f"kernel_size must leave {pool} rows and columns or more to pool, "
                f"got {kernel_size}, which leaves {min(rows, columns)}"
            )
        return rows, columns

    @property
    def _map(self) -> tuple[int, int]:
        return self.map_shape(self.shape, self.kernel_size, self.padding, self.pool)

    @property
    def output_shape(self) -> tuple[int, int, int]:
        """Rows, columns and channels behind the pools."""
        rows, columns = self._map
        return rows // self.pool, columns // self.pool, self.channels

    @property
    def taps(self) -> int:
        """Some a channel."""
        return self.channels * self.projection.shape[1]

    @property
    def groups(self) -> int:
        """One a channel."""
        return self.channels

    @property
    def compilable(self) -> bool:
        """Whether XLA may compile the layer: not a black box."""
        return self.activation.compilable

    @property
    def evaluation(self) -> Conv:
        """The layer with settled mean and variance."""
        return replace(self, frozen=True)

    @property
    def trainable(self) -> ConvParams:
        """Kernels, scales and shifts."""
        channel = np.ones(self.channels, bool)
        kernel = (self.channels, self.kernel_size, self.kernel_size, self.shape[2])
        return ConvParams(np.ones(kernel, bool), channel, channel, ~channel, ~channel)

    def init(self, rng: np.random.Generator) -> ConvParams:
        """Normal kernels of variance 2 / (k^2 inputs), scale 1, shift 0."""
        kernel = self.trainable.kernel
        one = np.ones(self.channels, np.float32)
        weights = normal_weights(rng, kernel.shape, math.sqrt(2 / kernel[0].size))
        return ConvParams(weights, one, 0 * one, 0 * one, one)

    def measure(self, params: ConvParams, x: Any) -> Any:
        """Tapped values of all channels [P, B, C n], channel by channel."""
        maps = self._convolved(params.kernel, x)
        factor, offset = (value[:, tf.newaxis, tf.newaxis] for value in self._norm(params, maps))
        dark = tf.reduce_sum(self.projection, axis=0)[:, tf.newaxis]
        z = factor * self._tapped(maps) + offset * dark  # [S, B, n, Q]: no map is normalised
        shared, batch, n, _ = z.shape
        if shared == params.scale.shape[0]:  # every set has its own inputs, or there is but one
            return merge_last_axes(tf.transpose(z, [0, 1, 3, 2]))
        z = tf.reshape(z, [batch, n, -1, self.channels])
        return merge_last_axes(tf.transpose(z, [2, 0, 3, 1]))

    def transmit(self, params: ConvParams, x: Any) -> Any:
        """The next layer's inputs [P, B, H'' W'' C]."""
        maps = self._convolved(params.kernel, x)
        maps = self.activation(self._affine(*self._norm(params, maps), maps))
        sets, batch, rows, columns, channels = maps.shape
        images = tf.reshape(maps, [-1, rows, columns, channels])
        pooled = tf.nn.max_pool2d(images, self.pool, self.pool, "VALID")
        rows, columns = pooled.shape[1:3]
        pooled = tf.reshape(pooled, [sets, batch, rows * columns, -1, self.channels])
        split = tf.transpose(pooled, [0, 3, 1, 2, 4])  # [S, P / S, B, pixels, C]
        return tf.reshape(split, [-1, batch, rows * columns * self.channels])

    def statistics(self, params: ConvParams, x: Any) -> Any:
        """Every input's sums of its maps and of their squares [B, 2, C], in double precision."""
        maps = tf.cast(self._convolved(params.kernel, x)[0], tf.float64)
        return tf.stack([tf.reduce_sum(power, [1, 2]) for power in (maps, maps * maps)], axis=1)

    def settled(self, params: ConvParams, added: np.ndarray) -> ConvParams:
        """Mean and variance over all inputs, from what each adds [n, 2, C]."""
        mean, square = added.sum(axis=0) / (len(added) * math.prod(self._map))
        variance = np.maximum(square - mean**2, 0)
        return params._replace(mean=mean.astype(np.float32), variance=variance.astype(np.float32))

    def pullback(self, params: ConvParams, x: Any, g_z: Any) -> ConvParams:
        """The gradient through taps, batch norm and convolution, step by step back."""
        maps = self._convolved(params.kernel[tf.newaxis], x)[0]
        mean, variance = (value[0] for value in self._moments(maps[tf.newaxis]))
        unit = (maps - mean) * tf.math.rsqrt(variance + _EPSILON)
        g_z = tf.reshape(g_z, [-1, self.channels, self.projection.shape[1]])
        g_y = tf.reshape(tf.einsum("bcn,mn->bmc", g_z, self.projection), maps.shape)
        shift, scale = tf.reduce_sum(g_y, [0, 1, 2]), tf.reduce_sum(g_y * unit, [0, 1, 2])
        pixels = maps.shape[0] * math.prod(self._map)
        g_u = params.scale * tf.math.rsqrt(variance + _EPSILON)
        g_u = g_u * (g_y - shift / pixels - unit * scale / pixels)
        kernel = self._correlated(x, g_u)
        return ConvParams(kernel, scale, shift, tf.zeros_like(scale), tf.zeros_like(scale))

    def _correlated(self, x: Any, g_u: Any) -> Any:
        """The kernels' gradient [C, k, k, inputs], one product a row of them.

        XLA's own gradient of a convolution is up to ten times slower inside a loop on a CPU.
        """
        size, (rows, columns) = self.kernel_size, self._map
        edges = [self.padding, self.padding]
        padded = tf.pad(self._images(x), [[0, 0], edges, edges, [0, 0]])
        beside = tf.concat([padded[:, :, j : j + columns] for j in range(size)], axis=-1)
        seen = size * self.shape[2]  # values of a kernel's row
        flat = tf.reshape(g_u, [-1, self.channels])
        products = [
            tf.matmul(flat, tf.reshape(beside[:, i : i + rows], [-1, seen]), transpose_a=True)
            for i in range(size)
        ]
        return tf.reshape(tf.stack(products, axis=1), [self.channels, size, size, self.shape[2]])

    @property
    def _geometry(self) -> dict[str, Any]:
        pad = [0, 0, self.padding, self.padding, self.padding, self.padding, 0, 0]
        return {"strides": [1, 1, 1, 1], "padding": "EXPLICIT", "explicit_paddings": pad}

    def _images(self, x: Any) -> Any:
        return tf.reshape(x, [-1, *self.shape])

    def _convolved(self, kernel: Any, x: Any) -> Any:
        """Maps [S, B, H', W', Q]: S = 1 and Q = P C for shared inputs, else S = P and Q = C."""
        if len(x.shape) == 3:
            each = [self._convolve(own[tf.newaxis], inputs) for own, inputs in _pairs(kernel, x)]
            return tf.stack(each)
        return self._convolve(kernel, x)[tf.newaxis]

    def _convolve(self, kernel: Any, x: Any) -> Any:
        filters = tf.reshape(
            tf.transpose(kernel, [2, 3, 4, 0, 1]), [*kernel.shape[2:], math.prod(kernel.shape[:2])]
        )
        return tf.raw_ops.Conv2D(input=self._images(x), filter=filters, **self._geometry)

    def _moments(self, maps: Any) -> tuple[Any, Any]:
        """Mean and variance of every map [S, Q]."""
        pixels = tf.reshape(maps, [maps.shape[0], -1, maps.shape[4]])
        mean = tf.reduce_mean(pixels, axis=1, keepdims=True)
        return mean[:, 0], tf.reduce_mean(tf.square(pixels - mean), axis=1)

    def _norm(self, params: ConvParams, maps: Any) -> tuple[Any, Any]:
        """Batch norm's factor and offset [S, Q], with the batch's own or settled statistics."""
        lead = [maps.shape[0], maps.shape[4]]
        if self.frozen:
            mean, variance = tf.reshape(params.mean, lead), tf.reshape(params.variance, lead)
        else:
            mean, variance = self._moments(maps)
        factor = tf.reshape(params.scale, lead) * tf.math.rsqrt(variance + _EPSILON)
        return factor, tf.reshape(params.shift, lead) - factor * mean

    def _affine(self, factor: Any, offset: Any, maps: Any) -> Any:
        lead = [maps.shape[0], 1, 1, 1, maps.shape[4]]
        return tf.reshape(factor, lead) * maps + tf.reshape(offset, lead)

    def _tapped(self, maps: Any) -> Any:
        sets, batch, rows, columns, channels = maps.shape
        flat = tf.reshape(maps, [sets, batch, rows * columns, channels])
        return tf.matmul(self.projection, flat, transpose_a=True)


_EPSILON = 1e-5  # batch norm's guard against constant maps


def _pairs(kernel: Any, x: Any) -> Any:
    """Every parameter set with its inputs."""
    return zip(tf.unstack(kernel), tf.unstack(x), strict=True)
