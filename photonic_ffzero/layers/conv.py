"""Convolutions with batch norm, whose channels learn independently."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial, reduce
from itertools import product
from typing import Any, ClassVar, NamedTuple

import numpy as np

from meshes._tensorflow import fused, graph, tf
from meshes.nonlinearities import Nonlinearity
from meshes.propagation import resolve_engine
from photonic_ffzero.layers.activations import Activation
from photonic_ffzero.layers.base import (
    Layer,
    in_chunks,
    merge_last_axes,
    normal_weights,
    one_set,
)


class ConvParams(NamedTuple):
    """Kernels [P, C, k, k, inputs], and [P, C] of batch norm: scale and shift, which are trained,
    and the mean and variance of a data set, which are not."""

    kernel: Any
    scale: Any
    shift: Any
    mean: Any
    variance: Any


@dataclass(frozen=True, eq=False)
class Conv(Layer):
    r"""A convolution with batch norm; every channel is an independent group with its own taps.

    .. math::
        y_c = s_c \frac{u_c - \mu_c}{\sqrt{\sigma_c^2 + \varepsilon}} + t_c, \quad
        u_c = W_c * x, \qquad z_c = y_c A, \qquad x' = \mathrm{pool}(f(y))

    A is a fixed random matrix from the map's pixels to a few tapped values, the same for all
    channels. While training, mean and variance are those of the batch; else those of the
    parameters, which `calibrate` computes.

    Attributes:
        shape: Rows, columns and channels of the input, which comes flattened.
        channels: Number of channels C.
        projection: A, [H' W', taps of a channel].
        activation: f.
        kernel_size: Rows and columns of the kernels k.
        padding: Rows and columns of zeros on each side.
        pool: Rows and columns of the pools.
        in_training: Whether mean and variance are those of the batch.
    """

    shape: tuple[int, int, int]
    channels: int
    projection: np.ndarray
    activation: Activation | Nonlinearity
    kernel_size: int = 6
    padding: int = 2
    pool: int = 2
    in_training: bool = True
    name: ClassVar[str] = "conv"
    keeps_statistics: ClassVar[bool] = True

    @staticmethod
    def map_shape(
        shape: tuple[int, int, int], kernel_size: int, padding: int, pool: int
    ) -> tuple[int, int]:
        """Rows and columns of the map before it is pooled."""
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
    def taps(self) -> int:
        return self.channels * self.projection.shape[1]

    @property
    def values(self) -> int:
        rows, columns = self._map
        return rows * columns * self.channels

    @property
    def outgoing(self) -> int:
        return math.prod(size // self.pool for size in self._map) * self.channels

    @property
    def groups(self) -> int:
        return self.channels

    @property
    def runs_on(self) -> str:
        """Native on a CPU, where TensorFlow's own convolutions of few channels are 1.4 to 6 times
        as fast as those of XLA."""
        compiles = resolve_engine("auto") == "xla" and self.activation.compilable
        return "xla" if compiles else "native"

    @property
    def evaluation(self) -> Conv:
        return replace(self, in_training=False)

    @property
    def trainable(self) -> ConvParams:
        """True for kernels, scales and shifts."""
        channel = np.ones(self.channels, bool)
        kernel = (self.channels, self.kernel_size, self.kernel_size, self.shape[2])
        return ConvParams(np.ones(kernel, bool), channel, channel, ~channel, ~channel)

    def init(self, rng: np.random.Generator) -> ConvParams:
        """Draw normal kernels of variance 2 / (k^2 inputs); scale 1, shift 0."""
        kernel = self.trainable.kernel
        one = np.ones(self.channels, np.float32)
        weights = normal_weights(rng, kernel.shape, 2 / kernel[0].size)
        return ConvParams(weights, one, 0 * one, 0 * one, one)

    def measure(self, params: ConvParams, x: Any, noise: Any = ()) -> Any:
        """Tapped values [P, B, C n], channel by channel."""
        return self._tapped(params, self._convolved(params.kernel, x))

    def _tapped(self, params: ConvParams, maps: Any) -> Any:
        """Tapped values [P, B, C n] of maps [S, B, H', W', Q]."""
        sets, batch, rows, columns, channels = maps.shape
        flat = tf.reshape(maps, [sets, batch, rows * columns, channels])
        tapped = tf.matmul(self.projection, flat, transpose_a=True)  # [S, B, n, Q]
        return fused(partial(self._normed, params), maps, tapped)

    def _normed(self, params: ConvParams, maps: Any, tapped: Any) -> Any:
        """Batch norm of what is tapped of the maps, which are not normalised themselves."""
        factor, offset = (value[:, tf.newaxis, tf.newaxis] for value in self._norm(params, maps))
        z = factor * tapped + offset * tf.reduce_sum(self.projection, axis=0)[:, tf.newaxis]
        sets, batch = maps.shape[:2]
        if sets == params.scale.shape[0]:  # each set has its own inputs, or there is one set
            return merge_last_axes(tf.transpose(z, [0, 1, 3, 2]))
        z = tf.reshape(z, [batch, z.shape[2], -1, self.channels])
        return merge_last_axes(tf.transpose(z, [2, 0, 3, 1]))

    def transmit(self, params: ConvParams, x: Any, noise: Any = ()) -> Any:
        """The next layer's inputs [P, B, H'' W'' C]."""
        maps = self._convolved(params.kernel, x)
        activated = partial(self._activated, params)
        pooled = fused(activated, maps) if self.activation.compilable else activated(maps)
        sets, batch, rows, columns, _ = pooled.shape
        pooled = tf.reshape(pooled, [sets, batch, rows * columns, -1, self.channels])
        split = tf.transpose(pooled, [0, 3, 1, 2, 4])  # [S, P / S, B, pixels, C]
        return tf.reshape(split, [-1, batch, rows * columns * self.channels])

    def _activated(self, params: ConvParams, maps: Any) -> Any:
        """What follows on maps, up to the pools [S, B, H'', W'', Q]."""
        lead = [maps.shape[0], 1, 1, 1, maps.shape[4]]
        factor, offset = (tf.reshape(value, lead) for value in self._norm(params, maps))
        return self._pooled(self.activation(factor * maps + offset))

    def with_statistics(self, params: ConvParams, x: np.ndarray) -> ConvParams:
        """Compute mean and variance of every channel's maps over a data set [n, ...]."""
        sums = in_chunks(lambda chunk: self._map_sums(params, chunk), x, pad=True)
        mean, square = sums.sum(axis=0) / (len(x) * math.prod(self._map))
        variance = np.maximum(square - mean**2, 0)
        return params._replace(mean=mean.astype(np.float32), variance=variance.astype(np.float32))

    @cached_property
    def _map_sums(self) -> Callable[..., Any]:
        """Each input's sums of its maps and of their squares [B, 2, C], in double precision."""

        def sums(params: ConvParams, x: Any) -> Any:
            maps = tf.cast(self._convolved(one_set(params).kernel, x)[0], tf.float64)
            return tf.stack([tf.reduce_sum(power, [1, 2]) for power in (maps, maps * maps)], axis=1)

        return graph(sums, xla=self.runs_on == "xla")

    def traced(self, params: ConvParams, x: Any) -> tuple[Any, Any]:
        """The trace: the inputs, and the maps [B, H', W', C]."""
        maps = self._convolved(params.kernel[tf.newaxis], x)
        return self._tapped(one_set(params), maps)[0], (x, maps[0])

    def pullback(self, params: ConvParams, trace: Any, g_z: Any) -> ConvParams:
        """Propagate g_z back through the projection, batch norm and the convolution."""
        x, maps = trace
        mean, variance = (value[0] for value in self._moments(maps[tf.newaxis]))
        unit = (maps - mean) * tf.math.rsqrt(variance + _EPSILON)
        g_z = tf.reshape(g_z, [-1, self.channels, self.projection.shape[1]])
        g_y = tf.reshape(tf.einsum("bcn,mn->bmc", g_z, self.projection), maps.shape)
        shift, scale = tf.reduce_sum(g_y, [0, 1, 2]), tf.reduce_sum(g_y * unit, [0, 1, 2])
        pixels = maps.shape[0] * math.prod(self._map)
        g_u = params.scale * tf.math.rsqrt(variance + _EPSILON)
        g_u = g_u * (g_y - shift / pixels - unit * scale / pixels)
        kernel = tf.transpose(self._filters_gradient(self._images(x), g_u), [3, 0, 1, 2])
        return ConvParams(kernel, scale, shift, tf.zeros_like(scale), tf.zeros_like(scale))

    def _images(self, x: Any) -> Any:
        return tf.reshape(x, [-1, *self.shape])

    def _convolved(self, kernel: Any, x: Any) -> Any:
        """Maps [S, B, H', W', Q]: S = 1 and Q = P C where sets share inputs, else S = P, Q = C."""
        if len(x.shape) == 3:
            pairs = zip(tf.unstack(kernel), tf.unstack(x), strict=True)
            return tf.stack([self._convolve(one[tf.newaxis], inputs) for one, inputs in pairs])
        return self._convolve(kernel, x)[tf.newaxis]

    def _convolve(self, kernel: Any, x: Any) -> Any:
        """Maps [B, H', W', P C] of P stacked kernels.

        The gradients are written out, because XLA derives ones that are up to twenty times slower
        inside a loop on a CPU.
        """

        @tf.custom_gradient
        def convolve(images: Any, filters: Any) -> tuple[Any, Callable[[Any], Any]]:
            return _conv2d(images, filters, self.padding), lambda g_u: (
                self._images_gradient(filters, g_u),
                self._filters_gradient(images, g_u),
            )

        filters = tf.reshape(
            tf.transpose(kernel, [2, 3, 4, 0, 1]), [*kernel.shape[2:], math.prod(kernel.shape[:2])]
        )
        return convolve(self._images(x), filters)

    def _images_gradient(self, filters: Any, g_u: Any) -> Any:
        """The gradient [B, H, W, inputs], by a convolution with the turned filters."""
        turned = tf.transpose(filters[::-1, ::-1], [0, 1, 3, 2])
        padded = _conv2d(g_u, turned, self.kernel_size - 1)
        rows, columns = self.shape[:2]
        return padded[:, self.padding :, self.padding :][:, :rows, :columns]

    def _filters_gradient(self, images: Any, g_u: Any) -> Any:
        """The gradient [k, k, inputs, Q], by one matrix product for each row of the filters."""
        size, (rows, columns) = self.kernel_size, self._map
        edges = [self.padding, self.padding]
        padded = tf.pad(images, [[0, 0], edges, edges, [0, 0]])
        beside = tf.concat([padded[:, :, j : j + columns] for j in range(size)], axis=-1)
        flat = tf.reshape(g_u, [-1, g_u.shape[-1]])
        products = [
            tf.matmul(
                tf.reshape(beside[:, i : i + rows], [-1, beside.shape[-1]]), flat, transpose_a=True
            )
            for i in range(size)
        ]
        return tf.reshape(tf.stack(products), [size, size, self.shape[2], -1])

    def _pooled(self, maps: Any) -> Any:
        """Each pool's largest value [S, B, H'', W'', Q]; rows and columns left over fall away.

        Entry by entry, because XLA's max pools and reductions are five times slower on a CPU.
        """
        size = self.pool
        rows, columns = (length // size * size for length in maps.shape[2:4])
        corners = product(range(size), repeat=2)
        return reduce(tf.maximum, [maps[:, :, i:rows:size, j:columns:size] for i, j in corners])

    def _moments(self, maps: Any) -> tuple[Any, Any]:
        """Mean and variance of every map [S, Q]."""
        pixels = tf.reshape(maps, [maps.shape[0], -1, maps.shape[4]])
        mean = tf.reduce_mean(pixels, axis=1, keepdims=True)
        return mean[:, 0], tf.reduce_mean(tf.square(pixels - mean), axis=1)

    def _norm(self, params: ConvParams, maps: Any) -> tuple[Any, Any]:
        """Batch norm's factor and offset [S, Q]."""
        lead = [maps.shape[0], maps.shape[4]]
        if self.in_training:
            mean, variance = self._moments(maps)
        else:
            mean, variance = tf.reshape(params.mean, lead), tf.reshape(params.variance, lead)
        factor = tf.reshape(params.scale, lead) * tf.math.rsqrt(variance + _EPSILON)
        return factor, tf.reshape(params.shift, lead) - factor * mean


def _conv2d(images: Any, filters: Any, padding: int) -> Any:
    return tf.raw_ops.Conv2D(
        input=images,
        filter=filters,
        strides=[1, 1, 1, 1],
        padding="EXPLICIT",
        explicit_paddings=[0, 0, *[padding] * 4, 0, 0],
    )


_EPSILON = 1e-5  # batch norm's guard against constant maps
