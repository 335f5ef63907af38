"""Training steps of meshes by central differences, outside of TensorFlow's graphs.

What TensorFlow needs for each operation, and its threads while they wait, take longer than the
light through a small mesh. These steps do what those of `training.step` do, up to rounding: losses
and differences are compiled for the CPU, and so is the light of a mesh; NumPy does the rest. A
device is read inside a graph. This module loads Numba, so it is imported only when it is needed.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from meshes import Phases
from meshes._tensorflow import graph, tf
from meshes.engines import native
from photonic_ffzero.goodness.native import native_losses
from photonic_ffzero.gradients.directions import Directions
from photonic_ffzero.gradients.native import both_sides, combined
from photonic_ffzero.layers.blocks import Block
from photonic_ffzero.layers.photonic import Photonic
from photonic_ffzero.optimizers import Optimizer, descend

Losses = Callable[[np.ndarray, np.ndarray], np.ndarray]
Light = Callable[[list[np.ndarray], np.ndarray, Any], np.ndarray]


def steps_of(
    block: Block, loss: Any, optimizer: Optimizer, weight_decay: float
) -> NativeSteps | None:
    """Steps of a block, as `training.step.make_steps` describes them.

    None if the light, the readout or the loss has no kernel, or the optimizer takes no joined
    parameters.
    """
    light, losses = _light(block), native_losses(block.readout, loss)
    if light is None or losses is None or not optimizer.joins:
        return None
    return NativeSteps(block, light, losses, optimizer, weight_decay)


def _light(block: Block) -> Light | None:
    """Intensities [P, B, N] behind one mesh, from its phases [P, ...], inputs and noise.

    A device is read inside a graph, which keeps its errors. Around a simulated mesh, arrays need
    none: so does `SimulatedChip` compute, to the same bits.
    """
    (layer,) = block.layers
    if block.runs_on == "device":
        structure, measure = block.trainable, graph(block.measure, xla=False)

        def on_device(points: list[np.ndarray], x: np.ndarray, noise: Any) -> np.ndarray:
            arrays = tf.nest.pack_sequence_as(structure, points), x, noise
            return np.asarray(measure(*tf.nest.map_structure(tf.constant, arrays)))

        return on_device
    if block.front or type(layer) is not Photonic:
        return None
    unamplified = replace(layer, amplifier=None)  # `_amplifier` comes before
    mesh, is_bare = unamplified.mesh, unamplified.bare

    def simulated(points: list[np.ndarray], x: np.ndarray, noise: Any) -> np.ndarray:
        theta, phi, gamma = points
        if is_bare:  # without the checks of what else there may be
            return native.propagate(mesh, theta, phi, gamma, x[np.newaxis], detect=True)
        return np.asarray(unamplified.measure(Phases(theta, phi, gamma), x, *noise))

    return simulated


def _amplifier(block: Block) -> Callable[[np.ndarray], np.ndarray]:
    """The amplifier in front of a simulated mesh; it takes many samples at once for less."""
    (layer,) = block.layers
    amplifier = layer.amplifier if type(layer) is Photonic else None
    return amplifier or (lambda x: x)


class NativeSteps:
    """Training steps of a block: several in one call, or each in its two halves.

    Args:
        block: Of one mesh.
        light: Intensities behind it, see `_light`.
        losses: Mean losses [P] of intensities [P, B, N] and labels [B].
        optimizer: Of one array with all parameters.
        weight_decay: See `optimizers.descend`.
    """

    def __init__(
        self,
        block: Block,
        light: Light,
        losses: Losses,
        optimizer: Optimizer,
        weight_decay: float,
    ) -> None:
        self._amplified, self._light = _amplifier(block), light
        self._weight_decay = weight_decay
        self._shapes = [np.shape(mask) for mask in tf.nest.flatten(block.trainable)]
        self._losses, self._optimizer = losses, optimizer
        self._points: dict[int, list[np.ndarray]] = {}

    def __call__(
        self,
        params: Any,
        state: Any,
        x: Any,
        y: Any,
        batches: np.ndarray,
        directions: Any,
        noise: Any,
        rates: np.ndarray,
        count: int,
    ) -> tuple[Any, Any, Any]:
        (drawn,), (before,), (drawn_noise,) = directions, state, noise
        lines, w, moments = self._lines(drawn), _joined(params), self._moments(before)
        fields = self._amplified(np.asarray(x).take(batches[:count], axis=0))
        labels, noises = _labels(y), _by_step(drawn_noise, len(batches))
        losses = np.zeros(len(batches), np.float32)
        for index, batch in enumerate(batches[:count]):
            samples = fields[index], labels.take(batch)
            slopes, losses[index] = self._slopes(w, lines, index, *samples, noises[index])
            w, moments = self._moved(w, moments, lines.gradient(slopes, index), rates[index])
        moved = tf.nest.pack_sequence_as(params, _tensors(w, self._shapes))
        return moved, (self._state(moments, before),), tf.constant(losses)

    def slopes(
        self, params: Any, x: Any, y: Any, directions: Directions, noise: Any
    ) -> tuple[np.ndarray, np.float32]:
        """Half differences [K] of the loss along one step's directions, and the mean loss."""
        lines = self._lines(_one_step(directions))
        fields = self._amplified(np.asarray(x))
        return self._slopes(_joined(params), lines, 0, fields, _labels(y), noise)

    def updated(
        self, params: Any, state: Any, slopes: np.ndarray, directions: Directions, rate: Any
    ) -> tuple[Any, Any]:
        """The parameters and the `StepState` that follow from the slopes of one step."""
        gradient = _Lines(_one_step(directions), self._shapes, []).gradient(slopes, 0)
        w, moments = self._moved(_joined(params), self._moments(state), gradient, rate)
        moved = tf.nest.pack_sequence_as(params, _tensors(w, self._shapes))
        return moved, self._state(moments, state)

    @np.errstate(all="ignore")  # as XLA does: the trainer judges the losses
    def _slopes(
        self,
        w: np.ndarray,
        lines: _Lines,
        index: int,
        fields: np.ndarray,
        labels: np.ndarray,
        noise: Any,
    ) -> tuple[np.ndarray, np.float32]:
        losses = self._losses(self._light(lines.points(w, index), fields, noise), labels)
        half = len(losses) // 2
        return (losses[:half] - losses[half:]) / 2, losses.sum() / np.float32(len(losses))

    @np.errstate(all="ignore")
    def _moved(
        self, w: np.ndarray, moments: Any, gradient: np.ndarray, rate: Any
    ) -> tuple[np.ndarray, Any]:
        direction, moments = self._optimizer.update(gradient, moments)
        return descend(w, direction, rate, self._weight_decay), moments

    def _lines(self, drawn: Directions) -> _Lines:
        """The directions of some steps; the memory for points on them is kept from call to call.

        New memory for each step would take as long as a small mesh.
        """
        sets = 2 * tf.nest.flatten(drawn.v)[0].shape[1]
        if sets not in self._points:
            self._points[sets] = [np.empty((sets, *shape), np.float32) for shape in self._shapes]
        return _Lines(drawn, self._shapes, self._points[sets])

    def _moments(self, state: Any) -> Any:
        size = sum(map(math.prod, self._shapes))
        return _joined_state(state.optimizer, self._optimizer, size, len(self._shapes))

    def _state(self, moments: Any, before: Any) -> Any:
        return before._replace(optimizer=_split_state(moments, before.optimizer, self._shapes))


class _Lines:
    """The directions of several steps, and the points on them.

    Args:
        drawn: The directions; their arrays lead with [steps, K].
        shapes: Of the arrays of parameters.
        points: Memory for the points of one step, [2 K, ...] for each array.
    """

    def __init__(
        self, drawn: Directions, shapes: list[tuple[int, ...]], points: list[np.ndarray]
    ) -> None:
        arrays = tf.nest.flatten(drawn.v)
        self._v = [np.ascontiguousarray(v).reshape(*v.shape[:2], -1) for v in arrays]
        self._steps = [np.float32(step) for step in tf.nest.flatten(drawn.step)]
        self._shapes, self._points = shapes, points

    def points(self, w: np.ndarray, index: int) -> list[np.ndarray]:
        """The phases on both sides of w along the directions of a step, [2 K, ...] each."""
        rows = zip(_parts(w, self._shapes), self._v, self._steps, self._points, strict=True)
        for part, v, step, points in rows:
            both_sides(part, v[index], step, points.reshape(len(points), -1))
        return self._points

    def gradient(self, slopes: np.ndarray, index: int) -> np.ndarray:
        """The gradient [D] of half differences [K] of the loss along the directions of a step."""
        gradient = np.empty(sum(map(math.prod, self._shapes)), np.float32)
        for part, v, step in zip(_parts(gradient, self._shapes), self._v, self._steps, strict=True):
            combined(slopes, v[index], step, part)
        return gradient


def _one_step(directions: Directions) -> Directions:
    """One step's directions as those of several steps."""
    return directions._replace(v=tf.nest.map_structure(lambda v: v[np.newaxis], directions.v))


def _labels(y: Any) -> np.ndarray:
    return np.asarray(y).astype(np.float32).ravel()


def _by_step(noise: Any, steps: int) -> list[Any]:
    """The noise of each step, from arrays that lead with the steps."""
    if not (arrays := tf.nest.flatten(noise)):
        return [noise] * steps
    return [tf.nest.pack_sequence_as(noise, rows) for rows in zip(*arrays, strict=True)]


def _joined(structure: Any) -> np.ndarray:
    """All numbers of a structure of arrays as one array [D]."""
    return np.concatenate([np.ravel(array) for array in tf.nest.flatten(structure)])


def _parts(joined: np.ndarray, shapes: list[tuple[int, ...]]) -> Iterator[np.ndarray]:
    """Views of the arrays in [D], flat."""
    start = 0
    for shape in shapes:
        end = start + math.prod(shape)
        yield joined[start:end]
        start = end


def _joined_state(state: Any, optimizer: Optimizer, size: int, count: int) -> Any:
    """An optimizer's state, with one array [D = size] in place of each of ``count`` arrays."""
    leaves = iter(tf.nest.flatten(state))

    def joined(like: Any) -> Any:
        if len(like.shape):
            return _joined(list(itertools.islice(leaves, count)))
        return np.asarray(next(leaves))

    return tf.nest.map_structure(joined, optimizer.init(np.zeros(size, np.float32)))


def _split_state(joined: Any, like: Any, shapes: list[tuple[int, ...]]) -> Any:
    """The reverse of `_joined_state`, as tensors in the structure ``like``."""
    leaves: list[Any] = []
    for array in tf.nest.flatten(joined):
        leaves += _tensors(array, shapes) if np.ndim(array) else [tf.constant(array)]
    return tf.nest.pack_sequence_as(like, leaves)


def _tensors(joined: np.ndarray, shapes: list[tuple[int, ...]]) -> list[Any]:
    parts = zip(_parts(joined, shapes), shapes, strict=True)
    return [tf.constant(part.reshape(shape)) for part, shape in parts]
