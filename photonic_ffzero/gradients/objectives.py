r"""What estimators see of a block: an objective in some perturbed space.

A block maps parameters to tapped values z, and z to losses. Directions may be taken among the
parameters, or among the tapped values themselves, one direction for every sample. Either way an
estimator finds the same things: a point (``origin``), two halves of a function that may be
evaluated at many points side by side, and the way back from slopes to the parameters' gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from meshes._tensorflow import tf
from photonic_ffzero.gradients.directions import Directions
from photonic_ffzero.layers.blocks import Block, one_set


class Objective(NamedTuple):
    """A function of points, each a structure of arrays that leads with P when P are evaluated.

    Attributes:
        origin: The point at which the slopes are taken, without P.
        measure: From points to tapped values z; the half that may run on a chip.
        losses: From z to losses [P, ...]: one number for every set P and independent group, whose
            total is the loss.
        tangent: From directions to the K points' displacements from the origin.
        lift: From slopes [K, ...] along the directions to the parameters' gradient.
    """

    origin: Any
    measure: Callable[[Any], Any]
    losses: Callable[[Any], Any]
    tangent: Callable[[Directions], Any]
    lift: Callable[[Any, Directions], Any]


class Perturbation(Protocol):
    """Where the directions lie."""

    def trainable(self, block: Block, batch_size: int) -> Any:
        """A structure of boolean arrays like one direction, false where nothing is moved."""

    def passes(self, points: int) -> int:
        """How often a sample crosses the block for so many points."""

    def __call__(self, block: Block, loss: Any, params: Any, x: Any, y: Any) -> Objective:
        """The objective of a block on inputs [B, ...] with labels [B, T]."""


def combine(slopes: Any, directions: Directions) -> Any:
    r"""The gradient that slopes along directions amount to.

    .. math:: g = \frac{1}{K \epsilon} \sum_k s_k v_k

    Args:
        slopes: [K, ...]; its axes but K are the leading ones of every array, or 1.
        directions: K directions.
    """

    def gradient(v: Any, step: Any) -> Any:
        lead = slopes.shape[: len(v.shape)]  # a single number's directions have no group
        ones = [1] * (len(v.shape) - len(lead))
        scalars = tf.reshape(slopes, [*lead, *ones])
        return tf.reduce_mean(scalars * tf.cast(v, slopes.dtype), axis=0) / step

    return tf.nest.map_structure(gradient, directions.v, directions.step)


def _displacements(directions: Directions) -> Any:
    """step v; whole numbers become the type of the parameters."""

    def displaced(v: Any, step: Any) -> Any:
        return step * (v if v.dtype.is_floating else tf.cast(v, tf.float32))

    v = tf.nest.map_structure(tf.convert_to_tensor, directions.v)
    return tf.nest.map_structure(displaced, v, directions.step)


@dataclass(frozen=True)
class Weights:
    r"""Directions among a block's parameters: the FFzero of the paper.

    A layer linear in its parameters needs K + 1 products for any number of points on the K lines,

    .. math:: x (W + \epsilon V) = x W + \epsilon \, x V,

    so that its lines are drawn among the tapped values from the start.

    Attributes:
        shortcut: Whether to use that; not where the gradient of the parameters is taken.

    Reference:
        Guo et al., arXiv 2603.24790, eq. 9.
    """

    shortcut: bool = True

    def trainable(self, block: Block, batch_size: int) -> Any:
        """The block's own parameters."""
        return block.trainable

    def passes(self, points: int) -> int:
        """Once for every point, which has weights of its own."""
        return points

    def __call__(self, block: Block, loss: Any, params: Any, x: Any, y: Any) -> Objective:
        def losses(z: Any) -> Any:
            by_group = tf.reduce_mean(
                _sample_losses(block, loss, block.readout.split(z), y), axis=1
            )
            if by_group.shape[1] == block.groups:
                return by_group
            # Scores that share parameters, or fewer of them than groups of parameters.
            return tf.reduce_sum(by_group, axis=1, keepdims=True)

        def measure(points: Any) -> Any:
            return block.measure(points, x)

        if not (self.shortcut and block.linear):
            return Objective(params, measure, losses, _displacements, combine)
        here = measure(one_set(params))[0]
        return Objective(
            here, lambda z: z, losses, lambda lines: measure(_displacements(lines)), combine
        )


@dataclass(frozen=True)
class Activations:
    r"""Directions among the tapped values, one for every sample; then back through one layer.

    .. math::
        g_z = \frac{1}{K} \sum_k d_k v_k, \quad d_k \in R^{B \times G}, \qquad
        g_W = \frac{1}{B} x^T g_z

    Needs the layer's input and its `pullback`; a mesh has none, as its phases act nonlinearly.

    Reference:
        Ren et al., arXiv 2210.03310, section 3 ("activity perturbation").
    """

    def trainable(self, block: Block, batch_size: int) -> Any:
        """Every tapped value of every sample, by group."""
        return np.ones([batch_size, *block.readout.split(np.ones(block.taps)).shape], bool)

    def passes(self, points: int) -> int:
        """Once: what is moved are the values that came out."""
        return 1

    def __call__(self, block: Block, loss: Any, params: Any, x: Any, y: Any) -> Objective:
        z = block.measure(one_set(params), x)[0]

        def losses(groups: Any) -> Any:
            return _sample_losses(block, loss, groups, y) / z.shape[0]

        def lift(slopes: Any, directions: Directions) -> Any:
            g_groups = combine(slopes, directions)
            unread = z.shape[-1] // g_groups.shape[1] - g_groups.shape[2]  # have no slope
            g_z = tf.reshape(tf.pad(g_groups, [[0, 0], [0, 0], [0, unread]]), z.shape)
            return block.pullback(params, x, g_z)

        return Objective(block.readout.split(z), lambda z: z, losses, _displacements, lift)


def _sample_losses(block: Block, loss: Any, groups: Any, y: Any) -> Any:
    """Losses [P, B, G] of tapped values [P, B, G, n] and labels [B, T], taken in turns."""
    turns = groups.shape[-2] // y.shape[-1] if y.shape[-1] > 1 else 1
    return loss(block.readout(groups), tf.concat([y] * turns, axis=1))


PERTURBATIONS: dict[str, Callable[[], Perturbation]] = {
    "weights": Weights,
    "activations": Activations,
}
