r"""Objectives: what an estimator sees of a block.

A block maps parameters to tapped values z, and z to losses. Directions lie among the parameters,
or among the tapped values, one direction for every sample. Either way an estimator sees a point
(``origin``), the two halves of a function that can be evaluated at many points side by side, and
the way from slopes back to the parameters' gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from meshes._tensorflow import tf
from photonic_ffzero.gradients.directions import Directions
from photonic_ffzero.layers.base import one_set
from photonic_ffzero.layers.blocks import Block


class Objective(NamedTuple):
    """A function of points, each a structure of arrays that leads with P when P are evaluated.

    Attributes:
        origin: The point at which slopes are taken, without P.
        measure: From points to tapped values z: the half that may be a chip.
        losses: From z to losses [P, ...], one for every set P and independent group; their sum is
            the loss.
        tangent: From directions to the K points' displacements from the origin.
        lift: From slopes [K, ...] along directions to the parameters' gradient.
        reach: The entries of z that each entry of the origin moves, as in `Layer.reach`; None
            where all move all.
    """

    origin: Any
    measure: Callable[[Any], Any]
    losses: Callable[[Any], Any]
    tangent: Callable[[Directions], Any]
    lift: Callable[[Any, Directions], Any]
    reach: Any = None

    def slope(self, z: Any) -> tuple[Any, Any]:
        """The derivative of the summed losses with respect to z [1, B, taps], and that sum.

        The readout and the loss are electronics behind the detectors, so that this is known.
        """
        with tf.GradientTape() as tape:
            tape.watch(z)
            loss = tf.reduce_sum(self.losses(z))
        return tape.gradient(loss, z), loss


class Perturbation(Protocol):
    """Where the directions lie."""

    def trainable(self, block: Block, batch_size: int) -> Any:
        """The structure of one direction as boolean arrays, false where nothing is moved."""

    def passes(self, points: int) -> int:
        """How often a sample crosses the block when so many points are evaluated."""

    def __call__(
        self, block: Block, loss: Any, params: Any, x: Any, y: Any, noise: Sequence[Any] = ()
    ) -> Objective:
        """The objective of a block on inputs [B, ...] with labels [B, T]."""


def combine(slopes: Any, directions: Directions) -> Any:
    r"""The gradient estimate that slopes along K directions amount to.

    .. math:: g = \frac{1}{K \epsilon} \sum_k s_k v_k

    The axes of the slopes [K, ...] after K are the leading ones of every array, or 1.
    """

    def gradient(v: Any, step: Any) -> Any:
        lead = slopes.shape[: len(v.shape)]  # an array of single numbers has no group axis
        ones = [1] * (len(v.shape) - len(lead))
        scalars = tf.reshape(slopes, [*lead, *ones])
        return tf.reduce_mean(scalars * tf.cast(v, slopes.dtype), axis=0) / step

    return tf.nest.map_structure(gradient, directions.v, directions.step)


def displacements(directions: Directions) -> Any:
    """step v, as floats where v holds whole numbers."""

    def displaced(v: Any, step: Any) -> Any:
        return step * (v if v.dtype.is_floating else tf.cast(v, tf.float32))

    v = tf.nest.map_structure(tf.convert_to_tensor, directions.v)
    return tf.nest.map_structure(displaced, v, directions.step)


@dataclass(frozen=True)
class Weights:
    r"""Directions among a block's parameters, as in FFzero.

    A layer that is linear in its parameters needs K + 1 products for any number of points along K
    lines, because

    .. math:: x (W + \epsilon V) = x W + \epsilon \, x V,

    so the points are taken among its tapped values instead.

    Attributes:
        shortcut: Whether to use that; not where autodiff needs the parameters themselves.

    Reference:
        Guo et al., arXiv 2603.24790, eq. 9.
    """

    shortcut: bool = True

    def trainable(self, block: Block, batch_size: int) -> Any:
        return block.trainable

    def passes(self, points: int) -> int:
        return points

    def __call__(
        self, block: Block, loss: Any, params: Any, x: Any, y: Any, noise: Sequence[Any] = ()
    ) -> Objective:
        def losses(z: Any) -> Any:
            groups = block.readout.split(z)
            by_group = tf.reduce_mean(_sample_losses(block, loss, groups, y), axis=1)
            if by_group.shape[1] == block.groups:
                return by_group
            # The groups of outputs share parameters: only their total has a slope.
            return tf.reduce_sum(by_group, axis=1, keepdims=True)

        def measure(points: Any) -> Any:
            return block.measure(points, x, noise)

        if not (self.shortcut and block.linear):
            return Objective(params, measure, losses, displacements, combine, block.reach)
        origin = measure(one_set(params))[0]
        return Objective(
            origin, lambda z: z, losses, lambda lines: measure(displacements(lines)), combine
        )


@dataclass(frozen=True)
class Activations:
    r"""Directions among the tapped values, one for every sample; then back through one layer.

    .. math::
        g_z = \frac{1}{K} \sum_k d_k v_k, \quad d_k \in R^{B \times G}, \qquad
        g_W = \frac{1}{B} x^T g_z

    It needs the layer's input and its `pullback`, which a mesh has not.

    Reference:
        Ren et al., arXiv 2210.03310, section 3 ("activity perturbation").
    """

    def trainable(self, block: Block, batch_size: int) -> Any:
        """True for every tapped value of every sample, by group."""
        return np.ones([batch_size, *block.readout.split(np.ones(block.taps)).shape], bool)

    def passes(self, points: int) -> int:
        """One: the values that came out of the block are moved, not its parameters."""
        return 1

    def __call__(
        self, block: Block, loss: Any, params: Any, x: Any, y: Any, noise: Sequence[Any] = ()
    ) -> Objective:
        z = block.measure(one_set(params), x, noise)[0]

        def losses(groups: Any) -> Any:
            return _sample_losses(block, loss, groups, y) / z.shape[0]

        def lift(slopes: Any, directions: Directions) -> Any:
            g_groups = combine(slopes, directions)
            unread = z.shape[-1] // g_groups.shape[1] - g_groups.shape[2]  # values with no slope
            g_z = tf.reshape(tf.pad(g_groups, [[0, 0], [0, 0], [0, unread]]), z.shape)
            return block.pullback(params, x, g_z)

        return Objective(block.readout.split(z), lambda z: z, losses, displacements, lift)


def _sample_losses(block: Block, loss: Any, groups: Any, y: Any) -> Any:
    """Losses [P, B, G] of tapped values [P, B, G, n]; group g is given label g modulo T of y."""
    repeats = groups.shape[-2] // y.shape[-1] if y.shape[-1] > 1 else 1
    return loss(block.readout(groups), tf.concat([y] * repeats, axis=1))


PERTURBATIONS: dict[str, Callable[[], Perturbation]] = {
    "weights": Weights,
    "activations": Activations,
}
