"""Blocks of dense layers over patches, channels and groups (LocalMixer), and linear heads."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np

from meshes._tensorflow import tf
from meshes.nonlinearities import Nonlinearity
from photonic_ffzero.goodness.readouts import DETECTIONS, Goodness, cosine
from photonic_ffzero.layers.activations import Activation, Relu
from photonic_ffzero.layers.base import Layer, Moved, normal_weights, one_set

_EPSILON = 1e-5  # the guard of a norm against constant values


class StemParams(NamedTuple):
    """Weights and biases of the first block: dense [P, G, inputs, n] and [P, G, n], then grouped
    [P, G, n, n] and [P, G, n]."""

    kernel: Any
    bias: Any
    group_kernel: Any
    group_bias: Any


class MixerParams(NamedTuple):
    """Weights and biases of a later block: over patches [P, 1, patches, patches] and
    [P, 1, patches], then as in the first."""

    patch_kernel: Any
    patch_bias: Any
    kernel: Any
    bias: Any
    group_kernel: Any
    group_bias: Any


class _Map(Protocol):
    """A dense map of values [T, B, patches, G, n], with weights [S, G, ...]; T or S is 1, or T = S.

    Attributes:
        axes: What a norm behind it averages over.
    """

    axes: tuple[int, ...]

    def __call__(self, kernel: Any, bias: Any, h: Any) -> Any:
        """The outputs, with the larger of T and S in front."""

    def gradient(self, h: Any, g: Any) -> tuple[Any, Any]:
        """The gradients of weights and biases from that of the outputs, both without T and S."""


class _OverPatches:
    """The same map of the patches for every channel; its outputs are one group."""

    axes = (-2, -1)

    def __call__(self, kernel: Any, bias: Any, h: Any) -> Any:
        flat = tf.reshape(h, [*h.shape[:3], -1])
        mixed = tf.matmul(kernel, flat, transpose_a=True)  # [S, 1, p, q] serves all samples
        return (mixed + bias[..., tf.newaxis])[:, :, :, tf.newaxis]

    def gradient(self, h: Any, g: Any) -> tuple[Any, Any]:
        g = g[:, :, 0]
        by_sample = tf.matmul(tf.reshape(h, [*h.shape[:2], -1]), g, transpose_b=True)  # [B, p, q]
        return tf.reduce_sum(by_sample, [0])[tf.newaxis], tf.reduce_sum(g, [0, 2])[tf.newaxis]


class _OverChannels:
    """A map of all channels of a patch, the same for every patch."""

    axes = (-2, -1)

    def __call__(self, kernel: Any, bias: Any, h: Any) -> Any:
        sets, groups, inputs, size = kernel.shape
        flat = tf.reshape(h, [h.shape[0], -1, inputs])  # [T, B patches, inputs]
        matrix = tf.reshape(tf.transpose(kernel, [0, 2, 1, 3]), [sets, inputs, groups * size])
        if sets == 1:  # one product, which is faster than a batch of them
            product = tf.matmul(tf.reshape(flat, [-1, inputs]), matrix[0])
        else:
            product = tf.matmul(flat, matrix)
        outputs = tf.reshape(product, [-1, *h.shape[1:3], groups, size])
        return outputs + bias[:, tf.newaxis, tf.newaxis]

    def gradient(self, h: Any, g: Any) -> tuple[Any, Any]:
        flat = tf.reshape(h, [h.shape[0] * h.shape[1], -1])
        groups, size = g.shape[2:]
        product = tf.matmul(flat, tf.reshape(g, [-1, groups * size]), transpose_a=True)
        kernel = tf.transpose(tf.reshape(product, [-1, groups, size]), [1, 0, 2])
        return kernel, tf.reduce_sum(g, [0, 1])


class _WithinGroups:
    """A map of the channels of each group."""

    axes = (-1,)

    def __call__(self, kernel: Any, bias: Any, h: Any) -> Any:
        sets, groups, size, _ = kernel.shape
        lead = [1] if sets == 1 else [h.shape[0]]
        by_group = tf.transpose(tf.reshape(h, [*lead, -1, groups, size]), [0, 2, 1, 3])
        product = tf.transpose(tf.matmul(by_group, kernel), [0, 2, 1, 3])
        outputs = tf.reshape(product, [-1, *h.shape[1:3], groups, size])
        return outputs + bias[:, tf.newaxis, tf.newaxis]

    def gradient(self, h: Any, g: Any) -> tuple[Any, Any]:
        groups, size = g.shape[2:]
        left, right = (tf.transpose(tf.reshape(a, [-1, groups, size]), [1, 0, 2]) for a in (h, g))
        return tf.matmul(left, right, transpose_a=True), tf.reduce_sum(g, [0, 1])


class Passage(NamedTuple):
    """What a way through a block leaves behind, map by map; all arrays lead with T.

    Attributes:
        inputs: The inputs of each map [T, B, patches, ...].
        values: Its outputs behind the norm u [T, B, patches, G, n], which directions move.
        scales: 1 / sigma of that norm.
        live: Where the activation behind it has a slope, as numbers; None where everywhere.
        skip: The block's inputs, which it adds at its end; None in the first block.
    """

    inputs: tuple[Any, ...]
    values: tuple[Any, ...]
    scales: tuple[Any, ...]
    live: tuple[Any, ...]
    skip: Any


@dataclass(frozen=True)
class Mixer(Moved):
    r"""A block of LocalMixer: dense maps over patches, over channels and within groups.

    .. math::
        u = \mathrm{norm}(x W + b), \quad x' = f(u); \qquad
        u_{\mathrm{last}} + x_{\mathrm{block}} \text{ instead of } u_{\mathrm{last}}
        \text{ where blocks follow each other}

    The norm subtracts the mean and divides by the standard deviation, over the channels of a patch
    or, behind the last map, of a group in a patch. It has no parameters. The first block cuts the
    image into patches and does not mix them.

    Attributes:
        patches: Patches a side p.
        channels: Channels of a patch D.
        channel_groups: Groups of channels G.
        activation: f.
        image: Pixels a side, and values a pixel; None behind the first block.

    Reference:
        Ren et al., arXiv 2210.03310, section 5.
    """

    patches: int
    channels: int
    activation: Activation | Nonlinearity
    channel_groups: int = 1
    image: tuple[int, int] | None = None
    name: ClassVar[str] = "mixer"

    @property
    def runs_on(self) -> str:
        return "xla" if self.activation.compilable else "native"

    @property
    def taps(self) -> int:
        return self.patches**2 * self.channels

    @property
    def values(self) -> int:
        return len(self._maps) * self.taps

    @property
    def repeats(self) -> int:
        return self.patches**2

    @property
    def parts(self) -> tuple[int, int]:
        return self.patches**2, self.channel_groups

    @cached_property
    def shapes(self) -> Any:
        """The shapes of one parameter set."""
        patches, size = self.patches**2, self.channels // self.channel_groups
        inputs = self.channels
        if self.image:
            side, colours = self.image
            inputs = (side // self.patches) ** 2 * colours
        grouped = (self.channel_groups, size)
        dense = ((self.channel_groups, inputs, size), grouped, (*grouped, size), grouped)
        if self.image:
            return StemParams(*dense)
        return MixerParams((1, patches, patches), (1, patches), *dense)

    @property
    def trainable(self) -> Any:
        return type(self.shapes)(*(np.ones(shape, bool) for shape in self.shapes))

    def init(self, rng: np.random.Generator) -> Any:
        """Draw normal weights of deviation min(2 / sqrt(inputs), 0.1); no biases."""
        return type(self.shapes)(
            *(
                normal_weights(rng, shape, _variance(shape[-2]))
                if name.endswith("kernel")
                else np.zeros(shape, np.float32)
                for name, shape in zip(self.shapes._fields, self.shapes, strict=True)
            )
        )

    def measure(self, params: Any, x: Any, noise: Any = ()) -> Any:
        """The last values before f [P, B, patches D]; a readout takes their mean over patches."""
        tapped, _ = self._passed(params, self._cut(x))
        return self._flat(tapped)

    def transmit(self, params: Any, x: Any, noise: Any = ()) -> Any:
        return self.activation(self.measure(params, x))

    def sites(self, batch: int) -> tuple[np.ndarray, ...]:
        """The values [B, patches, G, n] behind the norm of each map."""
        patches, size = self.patches**2, self.channels // self.channel_groups
        grouped = (self.channel_groups, size)
        over_patches = [] if self.image else [(1, self.channels)]
        shapes = (*over_patches, grouped, grouped)
        return tuple(np.ones((batch, patches, *shape), bool) for shape in shapes)

    def trace(self, params: Any, x: Any, tapped: bool) -> tuple[Any, Any]:
        z, passage = self._passed(one_set(params), self._cut(x))
        outputs = self._flat(z)[0]
        if tapped:
            return outputs, passage._replace(live=(*passage.live[:-1], None))
        return self.activation(outputs), passage

    def displaced(
        self, params: Any, passage: Passage, x: Any, moves: tuple[Any, ...], tapped: bool
    ) -> Any:
        if x is None:
            z, _ = self._passed(one_set(params), passage.skip, moves, passage.values[0])
        else:
            z, _ = self._passed(one_set(params), self._cut(x), moves)
        return self._flat(z) if tapped else self.activation(self._flat(z))

    def pull(self, params: Any, passage: Passage, slopes: tuple[Any, ...]) -> Any:
        gradients = []
        for dense, h, u, scale, live, g in zip(self._maps, *passage[:4], slopes, strict=True):
            h, u, scale = h[0], u[0], scale[0]
            g = g if live is None else g * live[0]
            mean = tf.reduce_mean(g, dense.axes, keepdims=True)
            along = tf.reduce_mean(g * u, dense.axes, keepdims=True)
            gradients += dense.gradient(h, scale * (g - mean - u * along))
        return type(params)(*gradients)

    @property
    def _maps(self) -> tuple[_Map, ...]:
        later = () if self.image else (_OverPatches(),)
        return (*later, _OverChannels(), _WithinGroups())

    def _passed(
        self, params: Any, x: Any, moves: tuple[Any, ...] = (), begun: Any = None
    ) -> tuple[Any, Passage]:
        """The values before the last f [T, B, patches, G, n], and what is left behind.

        Args:
            params: Parameter sets [S, ...].
            x: Inputs [T, B, patches, ...].
            moves: Displacements of the values of each map [T, B, patches, G, n]; or none.
            begun: The first map's values, if they are known.
        """
        h, skip, left = x, None if self.image else x, []
        for index, (dense, kernel, bias) in enumerate(self._with_params(params)):
            inputs = h
            if index == 0 and begun is not None:
                u, scale = begun, None
            else:
                u, scale = _normalised(dense(kernel, bias, h), dense.axes)
            z = u + moves[index] if moves else u
            if skip is not None and index == len(self._maps) - 1:
                z = z + tf.reshape(skip, [skip.shape[0], *z.shape[1:]])
            h = self.activation(z)
            live = tf.cast(z > 0, z.dtype) if isinstance(self.activation, Relu) else None
            left.append((inputs, u, scale, live))
        inputs, values, scales, live = zip(*left, strict=True)
        return z, Passage(inputs, values, scales, live, skip)

    def _with_params(self, params: Any) -> Iterator[tuple[_Map, Any, Any]]:
        return zip(self._maps, params[::2], params[1::2], strict=True)

    def _cut(self, x: Any) -> Any:
        """Inputs [B, N] or [T, B, N] as patches [T, B, patches, N / patches]."""
        x = x if len(x.shape) == 3 else x[tf.newaxis]
        lead, side = list(x.shape[:2]), self.patches
        if self.image is None:
            return tf.reshape(x, [*lead, side**2, -1])
        pixels, colours = self.image
        grid = tf.reshape(x, [*lead, side, pixels // side, side, pixels // side * colours])
        return tf.reshape(tf.transpose(grid, [0, 1, 2, 4, 3, 5]), [*lead, side**2, -1])

    def _flat(self, outputs: Any) -> Any:
        return tf.reshape(outputs, [*outputs.shape[:2], self.taps])


def _normalised(a: Any, axes: tuple[int, ...]) -> tuple[Any, Any]:
    """Values of mean 0 and mean square 1, and the factor that scaled them."""
    centred = a - tf.reduce_mean(a, axes, keepdims=True)
    square = tf.reduce_mean(centred * centred, axes, keepdims=True)
    scale = tf.math.rsqrt(square + _EPSILON)
    return centred * scale, scale


class HeadParams(NamedTuple):
    """Weights [P, D, C] and biases [P, C] of a linear head."""

    kernel: Any
    bias: Any


@dataclass(frozen=True)
class Head(Layer):
    r"""Logits of the mean over the patches, which lets its inputs pass on to the next block.

    .. math:: z = \frac{1}{P} \sum_p x_p W + b

    Attributes:
        patches: Patches a side.
        channels: Channels of a patch D.
        classes: Number of classes C.
        last: Whether it is the network's final one, which starts at zero.
    """

    patches: int
    channels: int
    classes: int
    last: bool = False
    name: ClassVar[str] = "head"
    linear: ClassVar[bool] = True
    exact: ClassVar[bool] = True

    @property
    def taps(self) -> int:
        return self.classes

    @property
    def outgoing(self) -> int:
        return self.patches**2 * self.channels

    @property
    def shapes(self) -> HeadParams:
        """The shapes of one parameter set."""
        return HeadParams((self.channels, self.classes), (self.classes,))

    @property
    def trainable(self) -> HeadParams:
        return HeadParams(*(np.ones(shape, bool) for shape in self.shapes))

    def init(self, rng: np.random.Generator) -> HeadParams:
        """Draw weights as those of the blocks; zeros for the final head."""
        variance = 0.0 if self.last else _variance(self.channels)
        kernel = normal_weights(rng, self.shapes.kernel, variance)
        return HeadParams(kernel, np.zeros(self.classes, np.float32))

    def measure(self, params: HeadParams, x: Any, noise: Any = ()) -> Any:
        """Logits [P, B, C]."""
        return tf.matmul(self._pooled(x), params.kernel) + params.bias[:, tf.newaxis]

    def transmit(self, params: HeadParams, x: Any, noise: Any = ()) -> Any:
        """The inputs [P, B, ...] as they are."""
        return tf.broadcast_to(x, [params.bias.shape[0], *x.shape[-2:]])

    def pullback(self, params: HeadParams, trace: Any, g_z: Any) -> HeadParams:
        """The pooled inputs' products with g_z for the weights; its sum for the biases."""
        return HeadParams(
            tf.matmul(self._pooled(trace), g_z, transpose_a=True), tf.reduce_sum(g_z, axis=0)
        )

    def _pooled(self, x: Any) -> Any:
        return tf.reduce_mean(tf.reshape(x, [*x.shape[:-1], -1, self.channels]), axis=-2)

    def parts(self, params: HeadParams, z: Any, origin: Any, groups: int) -> Any:
        """The logits [K, B, patches, G, C] if of z [K, B, ...] only one patch and group differed
        from the origin [B, ...]."""
        logits = self.measure(one_set(params), origin)[0]
        kernels = tf.split(params.kernel / self.patches**2, groups)

        def moved(change: Any, kernel: Any) -> Any:
            flat = tf.reshape(change, [-1, change.shape[-1]])  # one product, not one a sample
            return tf.reshape(tf.matmul(flat, kernel), [*change.shape[:-1], self.classes])

        changes = _changes(z, origin, self.patches, groups)
        by_group = [moved(*pair) for pair in zip(changes, kernels, strict=True)]
        return logits[:, tf.newaxis, tf.newaxis] + tf.stack(by_group, axis=-2)


@dataclass(frozen=True)
class Pooled(Goodness):
    """The goodness of the mean over the patches.

    Attributes:
        patches: Patches a side.
        joint: Whether all groups have one score for each class, the mean of theirs.
    """

    patches: int = 1
    joint: bool = False

    def split(self, z: Any) -> Any:
        groups = self.prototypes.shape[0]
        return tf.reduce_mean(_by_part(z, self.patches, groups), axis=-3)

    def __call__(self, groups: Any) -> Any:
        scores = super().__call__(groups)
        return tf.reduce_mean(scores, axis=-2, keepdims=True) if self.joint else scores

    @property
    def share(self) -> float:
        """The mean over the groups, so that the loss does not grow with their number."""
        return 1.0 if self.joint else 1 / self.prototypes.shape[0]

    def parts(self, z: Any, origin: Any) -> Any:
        """The scores [K, B, patches, G, C] if of z [K, B, ...] only one patch and group differed
        from the origin [B, ...]."""
        still = tf.unstack(self.split(origin)[:, tf.newaxis], axis=-2)
        changes = _changes(z, origin, self.patches, len(still))
        by_group = [
            cosine(
                DETECTIONS[self.detection](pooled + change / self.patches**2),
                corners,
                self.norm_size,
            )
            for pooled, change, corners in zip(still, changes, self.prototypes, strict=True)
        ]
        return tf.stack(by_group, axis=-2)


def _by_part(z: Any, patches: int, groups: int) -> Any:
    """Values [..., patches D] by patch and group, [..., patches, G, n]."""
    size = z.shape[-1] // (patches**2 * groups)
    return tf.reshape(z, [*z.shape[:-1], patches**2, groups, size])


def _changes(z: Any, origin: Any, patches: int, groups: int) -> Iterator[Any]:
    """The changes [K, B, patches, n] of z [K, B, ...] from its origin [B, ...], group by group.

    Each is one group's alone, so that no other array of the size of z is needed for the losses.
    """
    by_patch = (tf.reshape(a, [*a.shape[:-1], patches**2, -1]) for a in (z, origin))
    parts = (tf.split(a, groups, axis=-1) for a in by_patch)
    return (moved - still for moved, still in zip(*parts, strict=True))


def _variance(inputs: int) -> float:
    """Weights have a deviation of 2 / sqrt(inputs), at most 0.1."""
    return min(4 / inputs, 0.01)
