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
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, NamedTuple, Protocol, Self

import numpy as np

from meshes import Amplifier, Phases, RectangularMesh
from meshes._tensorflow import fused, tf
from meshes.imperfections import Chip, Imperfections, Noise
from meshes.nonlinearities import ElectroOptic, Linear, Nonlinearity, electro_optic
from meshes.propagation import resolve_engine
from meshes.validation import integer
from photonic_ffzero.activations import Activation
from photonic_ffzero.seeds import generator

__all__ = [
    "Conv",
    "ConvParams",
    "Dense",
    "DenseParams",
    "Layer",
    "Modulated",
    "ModulatedPhases",
    "Noiseless",
    "OfPhases",
    "Photonic",
    "fabricated",
]


class Layer(Protocol):
    """The contract of every layer, see the module's text."""

    name: ClassVar[str]
    settles: ClassVar[bool]

    @property
    def taps(self) -> int: ...
    @property
    def groups(self) -> int: ...
    @property
    def linear(self) -> bool: ...
    @property
    def compilable(self) -> bool: ...
    @property
    def cacheable(self) -> bool: ...
    @property
    def instrument(self) -> bool: ...
    @property
    def evaluation(self) -> Layer: ...
    @property
    def trainable(self) -> Any: ...
    def init(self, rng: np.random.Generator) -> Any: ...
    def measure(self, params: Any, x: Any) -> Any: ...
    def transmit(self, params: Any, x: Any) -> Any: ...
    def statistics(self, params: Any, x: Any) -> Any: ...
    def settled(self, params: Any, added: Any) -> Any: ...
    def pullback(self, params: Any, x: Any, g_z: Any) -> Any: ...
    def draw(
        self, rng: np.random.Generator, steps: int, sets: int, batch: int, epochs: int
    ) -> Any: ...
    def under(self, noise: Any) -> Layer: ...


class Noiseless:
    """What layers share that draw no noise here: numbers, unless they say otherwise."""

    cacheable: ClassVar[bool] = True
    instrument: ClassVar[bool] = False

    def draw(
        self, rng: np.random.Generator, steps: int, sets: int, batch: int, epochs: int
    ) -> tuple[()]:
        """Nothing."""
        return ()

    def under(self, noise: Any) -> Self:
        """The same."""
        return self


class Steady:
    """What layers share that hold no statistics."""

    settles: ClassVar[bool] = False

    @property
    def evaluation(self) -> Self:
        """The same."""
        return self

    def statistics(self, params: Any, x: Any) -> tuple[()]:
        """Nothing."""
        return ()

    def settled(self, params: Any, added: Any) -> Any:
        """The same."""
        return params


class OfPhases(Steady):
    """What layers share whose parameters are the phases of a mesh."""

    mesh: RectangularMesh
    name: ClassVar[str] = "mesh"
    groups: ClassVar[int] = 1
    linear: ClassVar[bool] = False

    @property
    def taps(self) -> int:
        """A detector at every port."""
        return self.mesh.units

    @property
    def trainable(self) -> Any:
        """The phases of idle interferometers are no parameters."""
        return Phases(self.mesh.mask, self.mesh.mask, np.ones(self.mesh.units, bool))

    def init(self, rng: np.random.Generator) -> Any:
        """Haar-random phases."""
        return self.mesh.initial_phases(seed=int(rng.integers(2**31)))

    def pullback(self, params: Phases, x: Any, g_z: Any) -> Any:
        """Refuse.

        Raises:
            ValueError: always; the message says why.
        """
        raise ValueError(
            "perturb must be weights for a mesh: from activations there is no way back to phases, "
            "which act through sines, as there is to a dense layer's weights"
        )


_QUIET = Noise()


@dataclass(frozen=True)
class Photonic(OfPhases):
    r"""A rectangular mesh, tapped by square-law detectors, and the nonlinearity behind it.

    .. math:: z = |E|^2, \qquad x' = f(E), \qquad E = a(x) \, U(\theta, \phi, \gamma)

    Attributes:
        mesh: The mesh.
        nonlinearity: f, from complex fields to complex fields, applied between meshes only.
        engine: ``"auto"``, ``"native"`` or ``"xla"``.
        chip: What the mesh is made of; None if it is ideal.
        amplifier: a, in front of the mesh; None if there is none.
        noise: Random numbers of one step for the chip.
    """

    mesh: RectangularMesh
    nonlinearity: Nonlinearity
    engine: str = "auto"
    chip: Chip | None = None
    amplifier: Amplifier | None = None
    noise: Noise = _QUIET
    instrument: ClassVar[bool] = False

    @property
    def compilable(self) -> bool:
        """Whether XLA may compile the layer: not the native engine, nor a black box."""
        return resolve_engine(self.engine) == "xla" and self.nonlinearity.compilable

    @property
    def cacheable(self) -> bool:
        """Unless the chip's light is noisy."""
        return self.chip is None or self.chip.imperfections.steady

    def draw(
        self, rng: np.random.Generator, steps: int, sets: int, batch: int, epochs: int
    ) -> Noise:
        """What the chip needs, see `meshes.Chip.draw`."""
        return self.chip.draw(rng, steps, sets, batch, epochs) if self.chip else _QUIET

    def under(self, noise: Noise) -> Photonic:
        """The layer with that noise."""
        return replace(self, noise=noise)

    def measure(self, params: Phases, x: Any) -> Any:
        """Intensities at the output ports [P, B, N], as detectors read them."""
        phases, fields = self._on_chip(params, x)
        z = self.mesh.intensities(fields, phases, engine=self.engine)
        return fused(self.chip.read, z, self.noise) if self.chip else z

    def transmit(self, params: Phases, x: Any) -> Any:
        """Fields behind the nonlinearity [P, B, N], complex."""
        phases, fields = self._on_chip(params, x)
        return self.nonlinearity(self.mesh.propagate(fields, phases, engine=self.engine))

    def passage(self, params: Any, x: Any) -> Iterator[tuple[str, Any]]:
        """The fields behind each element that the light passes, and what the element is."""
        yield from self._entrance(params, x)
        phases, fields = self._on_chip(params, x)
        fields = self.mesh.propagate(fields, phases, engine=self.engine)
        yield self.name, fields
        if not isinstance(self.nonlinearity, Linear):
            yield "nonlinearity", self.nonlinearity(fields)

    def _entrance(self, params: Any, x: Any) -> Iterator[tuple[str, Any]]:
        """The same of the elements in front of the mesh."""
        if self.amplifier is not None:
            yield "amplifier", fused(self.amplifier, x)

    def _on_chip(self, params: Any, x: Any) -> tuple[Phases, Any]:
        """Phases and fields as the chip makes them of what it is given."""
        for _, fields in self._entrance(params, x):
            x = fields
        phases = Phases(*params[:3])
        if self.chip is None:
            return phases, x
        return fused(self.chip.drive, phases, self.noise), self.chip.emit(x, self.noise)


class ModulatedPhases(NamedTuple):
    """Phases of a mesh, and of the modulators at its N inputs [P, N]: taps, gains, biases, rad."""

    theta: Any
    phi: Any
    gamma: Any
    tap: Any
    g: Any
    phi_b: Any


@dataclass(frozen=True)
class Modulated(Photonic):
    r"""A mesh behind electro-optic modulators whose settings are trained with its phases.

    .. math:: z = |f(x; t, g, \varphi_b) \, U(\theta, \phi, \gamma)|^2

    Every port has a modulator of its own, see `meshes.electro_optic`. They stand in front of the
    mesh, not behind the one before it, because what they do is first seen behind this one.

    Attributes:
        start: What all modulators are at first.

    Reference:
        Williamson et al., arXiv 1903.04579, which leaves the settings fixed.
    """

    start: ElectroOptic = field(default_factory=ElectroOptic)

    @property
    def trainable(self) -> ModulatedPhases:
        """The mesh's, and all of the modulators'."""
        phases: Phases = super().trainable
        every = np.ones(self.mesh.units, bool)
        return ModulatedPhases(*phases, every, every, every)

    def init(self, rng: np.random.Generator) -> ModulatedPhases:
        """Haar-random phases; modulators alike."""
        ones = np.ones(self.mesh.units, np.float32)
        own = (self.start.tap, self.start.g, self.start.phi_b)
        return ModulatedPhases(*super().init(rng), *(np.float32(value) * ones for value in own))

    def _entrance(self, params: ModulatedPhases, x: Any) -> Iterator[tuple[str, Any]]:
        tap, g, phi_b = (value[:, tf.newaxis] for value in params[3:])
        fields = electro_optic(x, tap, g, phi_b)
        yield "nonlinearity", fields
        yield from super()._entrance(params, fields)


def fabricated(
    count: int, units: int, columns: int | None, made: Imperfections, seed: int, reads: int = 1
) -> Iterator[tuple[RectangularMesh, Chip | None]]:
    """Meshes in a row, each with what it is made of unless it is ideal.

    Args:
        count: Meshes.
        units: Ports N.
        columns: Columns of a mesh L; N if None.
        made: How far from ideal they are.
        seed: Which ones were made.
        reads: Readings that are averaged into one.
    """
    for index in range(count):
        if made == Imperfections():
            yield RectangularMesh(units, columns), None
            continue
        own = int(generator(seed, "fabrication", index).integers(2**31))
        chip = made.fabricate(units, columns, own, reads)
        yield chip.mesh, chip
        made = replace(made, source_noise=0.0)  # there is one source, in front of all


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
        return DenseParams(_normal(rng, kernel.shape, scale), np.zeros(bias.shape, np.float32))

    def measure(self, params: DenseParams, x: Any) -> Any:
        """Outputs [P, B, outputs]."""
        if len(x.shape) == 2:
            z = tf.einsum("bi,pgin->pbgn", x, params.kernel)
        else:
            z = tf.einsum("pbi,pgin->pbgn", x, params.kernel)
        return _flat(z + params.bias[:, tf.newaxis])

    def transmit(self, params: DenseParams, x: Any) -> Any:
        """The next layer's inputs [P, B, outputs]."""
        z = self.measure(params, x)
        square = tf.reduce_mean(z * z, axis=-1, keepdims=True)
        return self.activation(z * tf.math.rsqrt(square + 1e-12))

    def pullback(self, params: DenseParams, x: Any, g_z: Any) -> DenseParams:
        r"""Of the weights x^T g_z, of the biases the sum of g_z over the batch."""
        g_z = tf.reshape(g_z, [-1, self.groups, self.outputs // self.groups])
        return DenseParams(tf.einsum("bi,bgn->gin", x, g_z), tf.reduce_sum(g_z, axis=0))


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
        weights = _normal(rng, kernel.shape, math.sqrt(2 / kernel[0].size))
        return ConvParams(weights, one, 0 * one, 0 * one, one)

    def measure(self, params: ConvParams, x: Any) -> Any:
        """Tapped values of all channels [P, B, C n], channel by channel."""
        maps = self._convolved(params.kernel, x)
        factor, offset = (value[:, tf.newaxis, tf.newaxis] for value in self._norm(params, maps))
        dark = tf.reduce_sum(self.projection, axis=0)[:, tf.newaxis]
        z = factor * self._tapped(maps) + offset * dark  # [S, B, n, Q]: no map is normalised
        shared, batch, n, _ = z.shape
        if shared == params.scale.shape[0]:  # every set has its own inputs, or there is but one
            return _flat(tf.transpose(z, [0, 1, 3, 2]))
        z = tf.reshape(z, [batch, n, -1, self.channels])
        return _flat(tf.transpose(z, [2, 0, 3, 1]))

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


def _normal(rng: np.random.Generator, shape: tuple[int, ...], scale: float) -> np.ndarray:
    return np.float32(scale) * rng.standard_normal(shape, np.float32)


def _flat(z: Any) -> Any:
    """The last two axes as one."""
    return tf.reshape(z, [*z.shape[:-2], z.shape[-2] * z.shape[-1]])


def _pairs(kernel: Any, x: Any) -> Any:
    """Every parameter set with its inputs."""
    return zip(tf.unstack(kernel), tf.unstack(x), strict=True)
