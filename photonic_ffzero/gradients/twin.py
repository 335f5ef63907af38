r"""The twin: a model of the meshes of a block that fits itself to every reading.

A twin knows the layout of each mesh, the inputs, the phases as they are written, and the readings.
Its parameters o are offsets of the phases, errors of both couplers of each interferometer, and
losses; in front of a later mesh of a device also the parameters of the assumed nonlinearities and
amplifiers. After every reading, one step of Adam on o lowers the squared difference between
predicted and read intensities, each divided by its sum over the ports:

.. math:: m(o) = \operatorname{mean}_{p b n} (q_{pbn}(o) - q^*_{pbn})^2, \qquad
    q_n = N I_n / \textstyle\sum_{n'} I_{n'}

Intensities that are normalised hide a loss that all ports share, which therefore follows the ratio
of the total light. At the same phases, the twin's derivative of the loss of the training is a
gradient that costs no light; `gradients.control` corrects it by slopes that are measured.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from meshes._tensorflow import fused, tf
from meshes.estimate import MeshEstimate, MeshParameters, unseen
from meshes.mesh import Phases, RectangularMesh
from meshes.nonlinearities import Parameter, with_parameters
from meshes.propagation import twice
from photonic_ffzero.gradients.control import MEMORY
from photonic_ffzero.layers.base import one_set
from photonic_ffzero.layers.blocks import Block
from photonic_ffzero.layers.photonic import Photonic
from photonic_ffzero.optimizers import adam, descend

Elements = tuple[dict[str, dict[str, Parameter]], ...]

FIT_RATE = 0.1
"""Step of Adam in units of a parameter's scale, see `Twin.scales`."""

_DARK = float(np.finfo(np.float32).tiny)  # light below it is none to the engines
_LARGE_ERROR = 0.1  # of the prediction, from which on elements make whole steps

# Sizes that the errors of a chip are expected to have, rad and dB: the couplers' are smaller.
_EXPECTED = MeshParameters(theta=0.1, phi=0.1, gamma=0.1, coupler1=0.02, coupler2=0.02, loss=0.1)

# How strongly each is drawn back to what was known at the start, as by Adam's weight decay; the
# loss, which follows the total light, is not.
_PRIOR = MeshParameters(theta=0.05, phi=0.05, gamma=0.05, coupler1=0.05, coupler2=0.05, loss=0)


class TwinState(NamedTuple):
    """What a twin has learned, as tensors.

    Attributes:
        values: `MeshParameters` of each mesh.
        elements: Values of `Twin.elements`.
        moments: Adam's.
        errors: Decaying sums over the steps of 1 and of the relative error of the prediction.
        slopes: Sums over measured slopes, see `gradients.control`.
    """

    values: tuple[MeshParameters, ...]
    elements: Any
    moments: Any
    errors: Any
    slopes: Any

    @property
    def error(self) -> Any:
        """Error of predicted intensities, relative to their deviation from equal ports."""
        return tf.math.divide_no_nan(self.errors[1], self.errors[0])


@dataclass(frozen=True, eq=False)
class FittedChip:
    """A chip as a twin knows it, which takes the place of the true one in a layer.

    Attributes:
        values: Offsets, errors of couplers, and losses.
        drive_step: Smallest change of a phase that the drive can make, rad; 0 if any.
        port_losses: Whether the losses of ports and columns differ; else only their total counts.
    """

    values: MeshParameters
    drive_step: float = 0.0
    port_losses: bool = False

    def mesh(self, units: int, columns: int) -> RectangularMesh:
        """The mesh with these couplers and losses, differentiable in them."""
        mesh = RectangularMesh(units, columns)
        couplers = tf.stack([self.values.coupler1, self.values.coupler2]) * np.float32(mesh.mask)
        passed = 10.0 ** (-self.values.loss / 20.0) if self.port_losses else None
        return RectangularMesh.measured(units, columns, couplers, passed)

    @property
    def without_offsets(self) -> FittedChip:
        """The same chip with offsets of 0."""
        theta, phi, gamma = (tf.zeros_like(o) for o in self.values[:3])
        return replace(self, values=self.values._replace(theta=theta, phi=phi, gamma=gamma))

    def drive(self, phases: Phases, noise: Any) -> Phases:
        """The phases that the light sees; rounding has the slope 1."""
        if step := self.drive_step:
            rounded = (step * tf.round(w / step) for w in phases)
            pairs = zip(phases, rounded, strict=True)
            phases = Phases(*(w + tf.stop_gradient(r - w) for w, r in pairs))
        return Phases(*(w + o for w, o in zip(phases, self.values[:3], strict=True)))

    def emit(self, fields: Any, noise: Any) -> Any:
        """The fields at the input, weaker by the total loss where only that counts."""
        if self.port_losses:
            return fields
        total = tf.stop_gradient(tf.reduce_mean(tf.reduce_sum(self.values.loss, axis=0)))
        return fields * tf.cast(10.0 ** (-total / 20.0), fields.dtype)

    def read(self, intensities: Any, noise: Any) -> Any:
        """The intensities, without noise."""
        return intensities


@dataclass(frozen=True, eq=False)
class Twin:
    """The model of a block.

    Attributes:
        block: The block as it was designed: ideal meshes, in the layers and in front of them.
        start: What is known of each mesh of the block.
        front: What is known of each mesh in front, which is not fitted any more.
        drive_step: Smallest change of a phase that the drive can make, rad; 0 if any.
        port_losses: Whether to fit a loss for each port of each column, not one in all.
        elements: What is fitted of the elements between meshes: for each layer, those in front
            first, the parameters of its ``nonlinearity`` and ``amplifier``; nothing of those that
            are known.
    """

    block: Block
    start: tuple[MeshEstimate, ...]
    elements: Elements
    front: tuple[MeshEstimate, ...] = ()
    drive_step: float = 0.0
    port_losses: bool = False

    def init(self, rng: np.random.Generator | None = None) -> TwinState:
        """The state at the start; with ``rng``, values at random within their scales from it."""
        values = tuple(map(_as_tensors, self.start))
        if rng is not None:
            values = tuple(_scattered(*pair, rng) for pair in zip(values, self.scales, strict=True))
        elements = _each(self.elements, lambda parameter: tf.constant(parameter.value, tf.float32))
        moments = adam().init((values, elements))
        return TwinState(values, elements, moments, tf.zeros(2), tf.zeros(4))

    @cached_property
    def scales(self) -> tuple[MeshParameters, ...]:
        """How far each parameter may be off: as errors of chips are, or less if it is known.

        They set the steps of the fit. What is known exactly does not move.
        """
        return tuple(
            MeshParameters(*map(np.minimum, mesh.std, map(np.float64, _EXPECTED)))
            for mesh in self.start
        )

    def elements_of(self, state: TwinState) -> Elements:
        """The elements as a state has them, for another twin that keeps them so.

        Their scale is 0. Readings at phases that hardly move do not tell elements from offsets: in
        a training that goes on to fit both, the twin can run away.
        """
        return _each(
            self.elements, lambda p, x: p._replace(value=float(x), scale=0.0), state.elements
        )

    @property
    def settled(self) -> Twin:
        """The twin of a training that goes on after a calibration: its elements are kept."""
        return replace(self, elements=self.elements_of(self.init()))

    def bound(self, state: TwinState, x: Any, rate: Any) -> BoundTwin:
        """The twin with a state on inputs x; ``rate`` is that of the fit."""
        return BoundTwin(self, state, x, rate)

    def measure(self, known: Any, params: Any, x: Any) -> Any:
        """The intensities [P, B, N] that the twin predicts with values and elements ``known``."""
        values, elements = known
        layers = map(self._fitted, self.block.layers, values, elements[len(self.front) :])
        front = self._fitted_front(elements)
        return replace(self.block, layers=tuple(layers), front=front).measure(params, x)

    def measure_twice(self, known: Any, params: Any, x: Any) -> tuple[Any, Any]:
        """The same intensities twice: with slopes of the parameters, and of what is fitted.

        One mesh computes both at once, see `meshes.propagation.twice`, unless slopes go through it
        to elements in front.
        """
        values, elements = known
        if len(self.block.layers) > 1 or any(elements):
            z = self.measure(known, params, x)
            return z, z
        for layer, layer_params in self._fitted_front(elements):
            x = layer.transmit(one_set(layer_params), x)
        layer = self._fitted(self.block.layers[0], values[0], elements[-1])
        chip: Any = layer.chip
        phases, fields = replace(layer, chip=chip.without_offsets).as_on_chip(params[0], x)
        return twice(layer.mesh, phases, values[0][:3], fields, layer.engine)

    def _fitted_front(self, elements: Any) -> tuple[tuple[Any, Any], ...]:
        values = map(_as_tensors, self.front)
        rows = zip(self.block.front, values, elements, strict=False)  # of all layers
        return tuple((self._fitted(layer, *rest), params) for (layer, params), *rest in rows)

    def _fitted(self, layer: Any, values: MeshParameters, elements: Any) -> Photonic:
        chip = FittedChip(values, self.drive_step, self.port_losses)
        mesh = chip.mesh(layer.mesh.units, layer.mesh.num_columns)
        changed = {
            name: with_parameters(getattr(layer, name), parameters)
            for name, parameters in elements.items()
        }
        return replace(layer, mesh=mesh, chip=chip, **changed)

    def learn(
        self,
        states: Sequence[TwinState],
        points: Any,
        x: Any,
        readings: Any,
        rate: Any,
        weights: Any,
        priors: Sequence[Prior],
    ) -> list[TwinState]:
        """One step of the fit of several twins to readings [P, B, N] of inputs x at some points.

        Each of the S states has its weights of the samples, [S, B], and its prior.
        """
        known = [(state.values, state.elements) for state in states]
        flat = tf.nest.flatten(known)
        with tf.GradientTape() as tape:
            tape.watch(flat)
            predicted = [self.measure(each, points, x) for each in known]
            pairs = fused(_misfits, predicted, readings, weights)
            misfit = tf.add_n([pair[0] for pair in pairs])  # no value of one is one of another
        zero = tf.UnconnectedGradients.ZERO
        slopes = tape.gradient(misfit, flat, unconnected_gradients=zero)
        packed = tf.nest.pack_sequence_as(known, slopes)

        def step(packed: Any, pairs: Any, states: Any, rate: Any) -> Any:
            return [
                self.fitted(state, Comparison(slopes, *rest), rate, prior)
                for slopes, (_, *rest), state, prior in zip(
                    packed, pairs, states, priors, strict=True
                )
            ]

        return fused(step, packed, pairs, list(states), rate)

    def fitted(
        self, state: TwinState, comparison: Comparison, rate: Any, prior: Prior | None = None
    ) -> TwinState:
        """The state after one step of Adam along the slopes of the misfit.

        Adam steps equally far along all parameters. Those that hardly change the readings would
        wander, and the twin would be wrong once training sends light there, so that a prior draws
        all values back to the start. Steps of elements, which change the light of all ports, shrink
        with the error instead.

        Args:
            state: The state before.
            comparison: How the prediction compares with the readings.
            rate: Step of Adam, in units of the scales.
            prior: What the values are drawn back to; by default to those of the start.
        """
        direction, moments = adam().update(comparison.slopes, state.moments)
        scales = tf.nest.map_structure(np.float32, self.scales)
        start, strength = prior or Prior(tuple(map(_as_tensors, self.start)))
        scaled = tf.nest.map_structure(
            lambda u, scale, o, first, pull: scale * u + strength * pull * (o - first),
            *(direction[0], scales, state.values, start, (_PRIOR,) * len(self.start)),
        )
        pace = rate * tf.minimum(comparison.error / _LARGE_ERROR, 1.0)
        elements = _each(
            self.elements,
            lambda p, u, x: tf.clip_by_value(x - pace * np.float32(p.scale) * u, p.least, p.most),
            *(direction[1], state.elements),
        )
        values = descend(state.values, scaled, rate)
        weaker = (1 - MEMORY) * comparison.excess / sum(v.loss.shape[0] for v in values)
        values = tuple(
            v._replace(loss=v.loss + weaker * np.float32(scale.loss > 0))
            for v, scale in zip(values, self.scales, strict=True)
        )
        errors = MEMORY * state.errors + tf.stack([1.0, comparison.error])
        return state._replace(values=values, elements=elements, moments=moments, errors=errors)


class Prior(NamedTuple):
    """What is known of a twin's values before the readings.

    Attributes:
        values: `MeshParameters` of each mesh.
        strength: In units of the usual one.
    """

    values: tuple[MeshParameters, ...]
    strength: Any = 1.0


class Comparison(NamedTuple):
    """How a twin's prediction compares with readings."""

    slopes: Any  # of the misfit, structured as the values and elements
    error: Any  # relative, see `TwinState.error`
    excess: Any  # dB by which the readings are weaker than predicted


class BoundTwin(NamedTuple):
    """A twin with its state on one batch x, and the rate of its fit."""

    twin: Twin
    state: TwinState
    x: Any
    rate: Any

    def compare(self, objective: Any, points: Any, readings: Any) -> tuple[Any, Comparison]:
        """The gradient of an objective's loss on the twin at its origin, and the comparison.

        If the origin is the only point, one prediction serves both.
        """
        origin = tf.nest.map_structure(tf.convert_to_tensor, objective.origin)
        known, sources = (self.state.values, self.state.elements), tf.nest.flatten(origin)
        fitted = tf.nest.flatten(known)
        with tf.GradientTape(persistent=True) as tape:
            tape.watch([sources, fitted])
            here, predicted = self.twin.measure_twice(known, one_set(origin), self.x)
            if readings.shape[0] > 1:
                predicted = self.twin.measure(known, points, self.x)
            loss, misfit, *rest = fused(
                lambda z, p, q: (tf.reduce_sum(objective.losses(z)), *_misfit(p, q)),
                *(here, predicted, readings),
            )
        zero = tf.UnconnectedGradients.ZERO
        if here is predicted:  # each quantity has its way back
            gradient = tape.gradient(loss, sources, unconnected_gradients=zero)
            slopes = tape.gradient(misfit, fitted, unconnected_gradients=zero)
        else:
            both = tape.gradient([loss, misfit], sources + fitted, unconnected_gradients=zero)
            gradient, slopes = both[: len(sources)], both[len(sources) :]
        pack = tf.nest.pack_sequence_as
        return pack(origin, gradient), Comparison(pack(known, slopes), *rest)


def _misfits(predictions: Any, readings: Any, weights: Any) -> list[tuple[Any, Any, Any]]:
    return [_misfit(p, readings, weights[index]) for index, p in enumerate(predictions)]


def _misfit(predicted: Any, readings: Any, weights: Any = 1.0) -> tuple[Any, Any, Any]:
    """The squared difference of normalised intensities, the relative error, and the excess, dB."""
    ports = readings.shape[-1]
    totals = [tf.reduce_sum(z, axis=-1, keepdims=True) for z in (predicted, readings)]
    p, q = (
        tf.math.divide_no_nan(z * ports, total)
        for z, total in zip((predicted, readings), totals, strict=True)
    )
    by_sample = tf.reduce_mean(tf.square(p - q), axis=-1)
    misfit = tf.reduce_mean(weights * by_sample)
    # Nobody asks for slopes of the rest, which a compiled function would compute all the same: the
    # square root has none where the twin is exact.
    square, spread = (tf.stop_gradient(tf.reduce_mean(x)) for x in (by_sample, tf.square(q - 1)))
    sent, read = (tf.stop_gradient(tf.reduce_sum(total)) for total in totals)
    ratio = tf.maximum(sent, _DARK) / tf.maximum(read, _DARK)  # no light read is a loss, not a gain
    excess = 10 / np.log(10.0) * tf.math.log(tf.clip_by_value(ratio, 1e-3, 1e3))
    return misfit, tf.sqrt(tf.math.divide_no_nan(square, spread)), excess


def _each(elements: Elements, function: Callable[..., Any], *values: Any) -> Any:
    """The structure of elements with a function of each parameter, and of values like them."""
    return tuple(
        {
            name: {key: function(p, *(v[at][name][key] for v in values)) for key, p in part.items()}
            for name, part in layer.items()
        }
        for at, layer in enumerate(elements)
    )


def _scattered(
    values: MeshParameters, scales: MeshParameters, rng: np.random.Generator
) -> MeshParameters:
    """Values at random around these, but for those that intensities do not show."""
    mesh = RectangularMesh(values.gamma.shape[0], values.theta.shape[0])
    away = (
        np.float32(scale * ~hidden * rng.standard_normal(scale.shape))
        for scale, hidden in zip(scales, unseen(mesh), strict=True)
    )
    return MeshParameters(*(value + a for value, a in zip(values, away, strict=True)))


def _as_tensors(estimate: MeshEstimate) -> MeshParameters:
    return MeshParameters(*(tf.constant(x, tf.float32) for x in estimate.values))
