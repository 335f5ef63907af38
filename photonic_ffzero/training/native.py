"""Training steps of one ideal mesh by central differences, without TensorFlow.

What TensorFlow needs for each operation, and its threads while they wait, take longer than the
light through a small mesh. These steps do what those of `training.step` do, up to rounding: light,
losses and differences are compiled for the CPU, and NumPy does the rest. This module loads Numba,
so it is imported only when it is needed.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from meshes._tensorflow import tf
from meshes.engines import FabricatedMesh, native
from photonic_ffzero.goodness.native import native_losses
from photonic_ffzero.gradients.directions import Directions
from photonic_ffzero.gradients.native import both_sides, combined
from photonic_ffzero.layers.blocks import Block
from photonic_ffzero.optimizers import Optimizer, descend

Losses = Callable[[np.ndarray, np.ndarray], np.ndarray]


def native_steps(block: Block, loss: Any, optimizer: Optimizer) -> NativeSteps | None:
    """Steps of a block of one ideal mesh, as `training.step.make_steps` describes them.

    None if the readout and the loss have no kernel.
    """
    losses = native_losses(block.readout, loss)
    return None if losses is None else NativeSteps(block, losses, optimizer)


class NativeSteps:
    """Several training steps in one call.

    Args:
        block: Of one mesh.
        losses: Mean losses [P] of intensities [P, B, N] and labels [B].
        optimizer: Of one array with all phases.
    """

    def __init__(self, block: Block, losses: Losses, optimizer: Optimizer) -> None:
        self._mesh: FabricatedMesh = block.layers[0].mesh  # type: ignore[attr-defined]
        self._shapes = [np.shape(mask) for mask in tf.nest.flatten(block.trainable)]
        self._losses, self._optimizer = losses, optimizer

    @np.errstate(all="ignore")  # as XLA does: the trainer judges the losses
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
        (drawn,), (before,) = directions, state
        lines, w = _Lines(drawn, self._shapes), _joined(params)
        moments = _joined_state(before.optimizer, self._optimizer, w, len(self._shapes))
        fields, labels = np.asarray(x), np.asarray(y).astype(np.float32).ravel()
        losses = np.zeros(len(batches), np.float32)
        for index, batch in enumerate(batches[:count]):
            samples = fields.take(batch, axis=0), labels.take(batch)
            losses[index], gradient = self._estimate(w, lines, index, *samples)
            direction, moments = self._optimizer.update(gradient, moments)
            w = descend(w, direction, rates[index])
        moved = tf.nest.pack_sequence_as(params, _tensors(w, self._shapes))
        moments = _split_state(moments, before.optimizer, w, self._shapes)
        return moved, (before._replace(optimizer=moments),), tf.constant(losses)

    def _estimate(
        self, w: np.ndarray, lines: _Lines, index: int, fields: np.ndarray, labels: np.ndarray
    ) -> tuple[np.float32, np.ndarray]:
        """The mean loss at the points of a step, and the gradient by central differences."""
        theta, phi, gamma = lines.points(w, index)
        light = native.propagate(self._mesh, theta, phi, gamma, fields[np.newaxis], detect=True)
        losses = self._losses(light, labels)
        plus, minus = np.split(losses, 2)
        return losses.sum() / np.float32(len(losses)), lines.gradient((plus - minus) / 2, index)


class _Lines:
    """The directions of several steps, and the points on them."""

    def __init__(self, drawn: Directions, shapes: list[tuple[int, ...]]) -> None:
        arrays = tf.nest.flatten(drawn.v)
        self._v = [np.ascontiguousarray(v).reshape(*v.shape[:2], -1) for v in arrays]
        self._steps = [np.float32(step) for step in tf.nest.flatten(drawn.step)]
        self._shapes, sets = shapes, 2 * arrays[0].shape[1]
        # New memory for each step would take as long as a small mesh.
        self._points = [np.empty((sets, *shape), np.float32) for shape in shapes]

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


def _joined_state(state: Any, optimizer: Optimizer, w: np.ndarray, count: int) -> Any:
    """An optimizer's state, with one array [D] in place of each of ``count`` arrays."""
    leaves = iter(tf.nest.flatten(state))

    def joined(like: Any) -> Any:
        if like.shape == w.shape:
            return _joined(list(itertools.islice(leaves, count)))
        return np.asarray(next(leaves))

    return tf.nest.map_structure(joined, optimizer.init(w))


def _split_state(joined: Any, like: Any, w: np.ndarray, shapes: list[tuple[int, ...]]) -> Any:
    """The reverse of `_joined_state`, as tensors in the structure ``like``."""
    leaves: list[Any] = []
    for array in tf.nest.flatten(joined):
        leaves += _tensors(array, shapes) if np.shape(array) == w.shape else [tf.constant(array)]
    return tf.nest.pack_sequence_as(like, leaves)


def _tensors(joined: np.ndarray, shapes: list[tuple[int, ...]]) -> list[Any]:
    parts = zip(_parts(joined, shapes), shapes, strict=True)
    return [tf.constant(part.reshape(shape)) for part, shape in parts]
