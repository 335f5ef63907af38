r"""Objectives: what an estimator sees of a block.

A block maps parameters to tapped values z, and z to losses. Directions lie among the parameters,
or among the tapped values, one direction for every sample. Either way an estimator sees a point
(``origin``), the two halves of a function that can be evaluated at many points side by side, and
the way from slopes back to the parameters' gradient.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Protocol, cast

import numpy as np

from meshes._tensorflow import tf
from photonic_ffzero.gradients.directions import Directions
from photonic_ffzero.layers.base import Layer, one_set
from photonic_ffzero.layers.blocks import Block
from photonic_ffzero.layers.mixer import Head, Pooled


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
        known: The losses [1, ...] at the origin, if they are computed already; else None.
        twin: A model of the layers with its state, `BoundTwin`; None without one.
    """

    origin: Any
    measure: Callable[[Any], Any]
    losses: Callable[[Any], Any]
    tangent: Callable[[Directions], Any]
    lift: Callable[[Any, Directions], Any]
    reach: Any = None
    known: Any = None
    twin: Any = None

    def slope(self, z: Any) -> tuple[Any, Any]:
        """The derivative of the summed losses with respect to z [1, B, taps], and that sum.

        The readout and the loss are electronics behind the detectors, so that this is known.
        """
        with tf.GradientTape() as tape:
            tape.watch(z)
            loss = tf.reduce_sum(self.losses(z))
        return tape.gradient(loss, z), loss


class Cost(NamedTuple):
    """What a step costs a block.

    Attributes:
        passes: How often a sample crosses it.
        writes: How often its parameters are written.
        at_origin: Whether one of the passes is at the parameters themselves.
    """

    passes: int
    writes: int
    at_origin: bool


class Perturbation(Protocol):
    """Where the directions lie."""

    def trainable(self, block: Block, batch_size: int) -> Any:
        """The structure of one direction as boolean arrays, false where nothing is moved."""

    def cost(self, points: int, at_origin: bool) -> Cost:
        """What it costs to evaluate so many points.

        ``at_origin`` says that the first of them is the origin.
        """

    def __call__(
        self, block: Block, loss: Any, params: Any, x: Any, y: Any, noise: Sequence[Any] = ()
    ) -> Objective:
        """The objective of a block on inputs [B, ...] with labels [B, T]."""


def combine(slopes: Any, directions: Directions) -> Any:
    r"""The gradient estimate that slopes along K directions amount to.

    .. math:: g = \frac{1}{K \epsilon} \sum_k s_k v_k

    The axes of the slopes [K, ...] after K are the leading ones of every array, or 1. An array of
    size 1 along such an axis acts on all its entries, so that its slope is their sum.
    """

    def gradient(v: Any, step: Any) -> Any:
        lead = slopes.shape[: len(v.shape)]  # an array of single numbers has no group axis
        shared = [axis for axis, size in enumerate(lead) if v.shape[axis] == 1 < size]
        own = tf.reduce_sum(slopes, shared, keepdims=True) if shared else slopes
        ones = [1] * (len(v.shape) - len(lead))
        scalars = tf.reshape(own, [*own.shape[: len(v.shape)], *ones])
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

    def cost(self, points: int, at_origin: bool) -> Cost:
        return Cost(points, points, at_origin)

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

        def lift(slopes: Any, directions: Directions) -> Any:
            gradient = combine(slopes, directions)
            if len(block.body) == len(block.layers):
                return gradient
            return _exact_heads(
                block, loss, params, block.transmit(one_set(params), x)[0], y, gradient
            )

        if not (self.shortcut and block.linear):
            return Objective(params, measure, losses, displacements, lift, block.reach)
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

    It needs the layer's `pullback`, which a mesh has not.

    Reference:
        Ren et al., arXiv 2210.03310, section 3 ("activity perturbation").
    """

    def trainable(self, block: Block, batch_size: int) -> Any:
        """True for every tapped value of every sample, by group."""
        return np.ones([batch_size, *block.readout.split(np.ones(block.taps)).shape], bool)

    def cost(self, points: int, at_origin: bool) -> Cost:
        """One pass: the values that came out of the block are moved, not its parameters."""
        return Cost(1, 1, True)

    def __call__(
        self, block: Block, loss: Any, params: Any, x: Any, y: Any, noise: Sequence[Any] = ()
    ) -> Objective:
        z, trace = block.traced(params, x)

        def losses(groups: Any) -> Any:
            return _sample_losses(block, loss, groups, y) / z.shape[0]

        def lift(slopes: Any, directions: Directions) -> Any:
            g_z = block.readout.join(combine(slopes, directions), z.shape[-1])
            return block.pullback(params, trace, g_z)

        return Objective(block.readout.split(z), lambda z: z, losses, displacements, lift)


@dataclass(frozen=True)
class InnerActivations:
    r"""Directions among the values inside a block, of all its maps at once, for every sample.

    .. math::
        g_u = \frac{1}{K} \sum_k d_k v_k, \quad d_k \in R^{B \times P \times G}

    for the patches P and groups G. With ``grouped``, every patch and group is judged by the loss
    as it would be if nothing else had moved: its own part of the noise, which the others' do not
    drown. The parts' losses are

    .. math:: \ell_{pg} = \ell(z + \delta_{pg}) - \ell(z) + \tfrac{1}{PG} \ell(z),

    so that their sum at the origin is the loss, and their slopes are those of the loss. Without,
    d is the slope of the whole loss, for every sample.

    It needs the inputs of each map, from which the gradient of the weights follows as in
    `Activations`, and exact gradients through norms that have no parameters.

    Attributes:
        grouped: Whether each patch and group is judged alone.

    Reference:
        Ren et al., arXiv 2210.03310, sections 3 and 4.
    """

    grouped: bool = False

    def trainable(self, block: Block, batch_size: int) -> Any:
        return tuple(layer.sites(batch_size) for layer in block.moved)

    def cost(self, points: int, at_origin: bool) -> Cost:
        """A pass for the origin, which is evaluated in any case, and for every other point."""
        return Cost(points + (not at_origin), 1, True)

    def __call__(
        self, block: Block, loss: Any, params: Any, x: Any, y: Any, noise: Sequence[Any] = ()
    ) -> Objective:
        z, traces = block.trace(params, x)
        batch = z.shape[0]

        def sample_losses(z: Any) -> Any:
            """[K, B, 1, G] of what leaves the body [K, B, ...]."""
            head, head_params = block.layers[-1], params[-1]
            tapped = head.measure(one_set(head_params), z) if head.exact else z
            return _sample_losses(block, loss, block.readout.split(tapped), y)[:, :, tf.newaxis]

        here = sample_losses(z[tf.newaxis]) / batch
        parts = block.moved[-1].parts if self.grouped else (1, 1)
        share = here.shape[3] / math.prod(parts)
        known = tf.broadcast_to(here * share, [1, batch, *parts])

        def losses(moved: Any) -> Any:
            if not self.grouped:
                return tf.reduce_sum(sample_losses(moved), axis=3, keepdims=True) / batch
            scores = _part_scores(block, params[-1], moved, z)
            each = block.readout.share * loss(scores, y[:, tf.newaxis]) / batch
            return each - here + known

        def lift(slopes: Any, directions: Directions) -> Any:
            gradient = block.pull(params, traces, combine(slopes, directions))
            return _exact_heads(block, loss, params, z, y, gradient)

        origin = tf.nest.map_structure(
            lambda mask: tf.zeros(mask.shape, z.dtype), self.trainable(block, batch)
        )
        measure = partial(block.displaced, params, traces)
        return Objective(origin, measure, losses, displacements, lift, known=known)


def _part_scores(block: Block, head_params: Any, z: Any, origin: Any) -> Any:
    """Scores [K, B, patches, G, C] if only one patch and group of z had moved."""
    head = block.layers[-1]
    if isinstance(head, Head):
        return head.parts(head_params, z, origin, block.moved[-1].parts[1])
    return cast(Pooled, block.readout).parts(z, origin)


def _exact_heads(
    block: Block, loss: Any, params: Sequence[Any], z: Any, y: Any, gradient: Sequence[Any]
) -> tuple[Any, ...]:
    """A gradient, with the exact ones of heads that read z [B, ...]."""

    def exact(layer: Layer, own: Any) -> Any:
        own = tf.nest.map_structure(tf.convert_to_tensor, own)
        with tf.GradientTape() as tape:
            tape.watch(tf.nest.flatten(own))
            tapped = layer.measure(one_set(own), z)
            each = _sample_losses(block, loss, block.readout.split(tapped), y)
            total = tf.reduce_sum(each) / z.shape[0]
        return tape.gradient(total, own)

    entries = zip(block.layers, params, gradient, strict=True)
    return tuple(exact(layer, own) if layer.exact else g for layer, own, g in entries)


def _sample_losses(block: Block, loss: Any, groups: Any, y: Any) -> Any:
    """Losses [P, B, G] of tapped values [P, B, G, n]; group g is given label g modulo T of y."""
    repeats = groups.shape[-2] // y.shape[-1] if y.shape[-1] > 1 else 1
    losses = loss(block.readout(groups), tf.concat([y] * repeats, axis=1))
    return losses if block.readout.share == 1 else block.readout.share * losses


PERTURBATIONS: dict[str, Callable[[], Perturbation]] = {
    "weights": Weights,
    "activations": Activations,
}
