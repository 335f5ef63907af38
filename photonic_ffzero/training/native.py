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
from meshes.engines import native
from photonic_ffzero.goodness.native import native_losses
from photonic_ffzero.gradients.native import both_sides, combined
from photonic_ffzero.layers.blocks import Block
from photonic_ffzero.optimizers import Optimizer, descend


def native_steps(
    block: Block, loss: Any, optimizer: Optimizer, decay: float
) -> Callable[..., Any] | None:
    """Steps of a block of one ideal mesh, as `training.step.make_steps` describes them.

    None if the readout and the loss have no kernel.
    """
    losses_of = native_losses(block.readout, loss)
    if losses_of is None:
        return None
    mesh = block.layers[0].mesh  # type: ignore[attr-defined]
    shapes = [np.shape(mask) for mask in tf.nest.flatten(block.trainable)]

    @np.errstate(all="ignore")  # as XLA does: the trainer judges the losses
    def steps(
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
        (drawn,), (step_state,) = directions, state
        w = _joined(params)
        moments = _joined_state(step_state.optimizer, optimizer, w, len(shapes))
        x, labels = np.asarray(x), np.asarray(y, np.float32)[:, 0]
        lengths = [np.float32(length) for length in tf.nest.flatten(drawn.step)]
        v = [np.ascontiguousarray(a).reshape(*a.shape[:2], -1) for a in tf.nest.flatten(drawn.v)]
        sets = 2 * v[0].shape[1]
        points = [np.empty((sets, math.prod(shape)), np.float32) for shape in shapes]
        phases = [a.reshape(sets, *shape) for a, shape in zip(points, shapes, strict=True)]
        losses = np.zeros(len(batches), np.float32)
        for index in range(count):
            gradient, batch = np.empty_like(w), batches[index]
            for part, *arrays in zip(_parts(w, shapes), v, lengths, points, strict=True):
                both_sides(part, arrays[0][index], *arrays[1:])
            light = native.propagate(mesh, *phases, x.take(batch, axis=0)[np.newaxis], detect=True)
            at_points = losses_of(light, labels.take(batch))
            slopes = (at_points[: sets // 2] - at_points[sets // 2 :]) / 2
            for part, *arrays in zip(_parts(gradient, shapes), v, lengths, strict=True):
                combined(slopes, arrays[0][index], arrays[1], part)
            direction, moments = optimizer.update(gradient, moments)
            w = descend(w, direction, rates[index], decay)
            losses[index] = at_points.sum() / sets
        moved = tf.nest.pack_sequence_as(params, _tensors(w, shapes))
        moments = _split_state(moments, step_state.optimizer, w, shapes)
        return moved, (step_state._replace(optimizer=moments),), tf.constant(losses)

    return steps


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
