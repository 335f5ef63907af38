r"""Gradient estimators: all see an objective, none sees the model.

An estimator works in three steps: it names the points to look at, looks at them, and concludes.
The first and the last are arithmetic; only the middle one evaluates the layer, so that it may be
a chip. Slopes are taken along the objective's tangents, and carry its groups: with losses [P, G],
loss g depends only on the entries [:, g] of every array, so that one pair of evaluations serves
all groups.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Protocol

from meshes._tensorflow import fused, tf
from photonic_ffzero.gradients.directions import Directions
from photonic_ffzero.gradients.objectives import Objective
from photonic_ffzero.layers.blocks import one_set


class Estimate(NamedTuple):
    """A gradient, structured as the parameters, and the loss it belongs to."""

    gradient: Any
    loss: Any


class Estimator(Protocol):
    """The contract of every estimator.

    ``differentiates`` says what has to be differentiable: nothing (None), or the block, by
    ``"forward"`` or ``"reverse"`` mode.
    """

    differentiates: ClassVar[str | None]

    def parameter_sets(self, directions: int) -> int:
        """Points evaluated in one step with K directions."""

    def points(self, objective: Objective, directions: Any) -> Any:
        """The points to look at."""

    def evaluate(self, objective: Objective, points: Any) -> Any:
        """Look at them."""

    def conclude(self, objective: Objective, evidence: Any, directions: Any) -> Estimate:
        """What the evidence says of the gradient."""


def estimate(
    estimator: Estimator,
    objective: Objective,
    directions: Directions | None,
    then: Callable[[Estimate], Any] = lambda found: found,
) -> Any:
    """Estimate an objective's gradient.

    Args:
        estimator: How.
        objective: Of what.
        directions: K directions, or None where the estimator needs none.
        then: What to make of the estimate; compiled together with its last step.

    Returns:
        What ``then`` returns: the estimate itself unless given.
    """
    points = fused(lambda: estimator.points(objective, directions))
    evidence = estimator.evaluate(objective, points)
    return fused(lambda found: then(estimator.conclude(objective, found, directions)), evidence)


def _stacked(*sets: Any) -> Any:
    return tf.nest.map_structure(lambda *arrays: tf.concat(arrays, axis=0), *sets)


def _total(losses: Any) -> Any:
    """Mean over the points of the sum over the groups."""
    return tf.reduce_sum(losses) / losses.shape[0]


@dataclass(frozen=True)
class CentralDifference:
    r"""Central directional derivatives: two evaluations a direction, error O(epsilon^2).

    .. math::
        d_k = \frac{\ell(w + \epsilon v_k) - \ell(w - \epsilon v_k)}{2 \epsilon}, \qquad
        g = \frac{1}{K} \sum_k d_k v_k, \qquad
        \mathrm{E}[g] = \nabla \ell + O(\epsilon^2)

    The loss reported is the mean of the 2K evaluations.

    Reference:
        Guo et al., arXiv 2603.24790, eq. 9 and 10.
    """

    differentiates: ClassVar[str | None] = None

    def parameter_sets(self, directions: int) -> int:
        """Points evaluated in one step: 2K."""
        return 2 * directions

    def points(self, objective: Objective, directions: Directions) -> Any:
        """Both ends of every direction."""
        here, tangent = objective.origin, objective.tangent(directions)
        return tf.nest.map_structure(lambda w, t: tf.concat([w + t, w - t], axis=0), here, tangent)

    def evaluate(self, objective: Objective, points: Any) -> Any:
        """The tapped values there."""
        return objective.measure(points)

    def conclude(self, objective: Objective, evidence: Any, directions: Directions) -> Estimate:
        """Half the differences are the slopes."""
        losses = objective.losses(evidence)
        plus, minus = tf.split(losses, 2, axis=0)
        return Estimate(objective.lift((plus - minus) / 2, directions), _total(losses))


@dataclass(frozen=True)
class ForwardDifference:
    r"""Forward directional derivatives: K + 1 evaluations, error O(epsilon).

    .. math:: d_k = \frac{\ell(w + \epsilon v_k) - \ell(w)}{\epsilon}
    """

    differentiates: ClassVar[str | None] = None

    def parameter_sets(self, directions: int) -> int:
        """Points evaluated in one step: K + 1."""
        return directions + 1

    def points(self, objective: Objective, directions: Directions) -> Any:
        """The origin, and one end of every direction."""
        here, tangent = objective.origin, objective.tangent(directions)
        moved = tf.nest.map_structure(lambda w, t: w + t, here, tangent)
        return _stacked(one_set(here), moved)

    def evaluate(self, objective: Objective, points: Any) -> Any:
        """The tapped values there."""
        return objective.measure(points)

    def conclude(self, objective: Objective, evidence: Any, directions: Directions) -> Estimate:
        """Differences from the origin are the slopes."""
        losses = objective.losses(evidence)
        return Estimate(objective.lift(losses[1:] - losses[:1], directions), _total(losses[:1]))


@dataclass(frozen=True)
class ForwardGradient:
    r"""Exact directional derivatives, by forward-mode automatic differentiation.

    .. math:: d_k = \langle \nabla \ell, v_k \rangle

    No step, no error of it; but the layer has to be differentiable, which a chip is not.

    Reference:
        Baydin et al., arXiv 2202.08587, eq. 1; Ren et al., arXiv 2210.03310.
    """

    differentiates: ClassVar[str | None] = "forward"

    def parameter_sets(self, directions: int) -> int:
        """Points evaluated in one step: K, each with its tangent."""
        return directions

    def points(self, objective: Objective, directions: Directions) -> Any:
        """The origin K times, and the tangents."""
        tangent = objective.tangent(directions)
        here = tf.nest.map_structure(lambda w, t: w + tf.zeros_like(t), objective.origin, tangent)
        return here, tangent

    def evaluate(self, objective: Objective, points: Any) -> Any:
        """Losses and slopes."""
        here, tangent = (tf.nest.flatten(part) for part in points)
        with tf.autodiff.ForwardAccumulator(here, tangent) as accumulator:
            losses = objective.losses(objective.measure(points[0]))
        return losses, accumulator.jvp(losses, unconnected_gradients="zero")

    def conclude(self, objective: Objective, evidence: Any, directions: Directions) -> Estimate:
        """The slopes are there."""
        losses, slopes = evidence
        return Estimate(objective.lift(slopes, directions), _total(losses))


@dataclass(frozen=True)
class Autodiff:
    """The exact gradient, by reverse-mode automatic differentiation: the upper bound."""

    differentiates: ClassVar[str | None] = "reverse"

    def parameter_sets(self, directions: int) -> int:
        """Points evaluated in one step: 1."""
        return 1

    def points(self, objective: Objective, directions: None) -> Any:
        """The origin alone."""
        return tf.nest.map_structure(tf.convert_to_tensor, objective.origin)

    def evaluate(self, objective: Objective, points: Any) -> Any:
        """Gradient and loss."""
        flat = tf.nest.flatten(points)
        with tf.GradientTape() as tape:
            tape.watch(flat)
            z = objective.measure(one_set(points))
            loss = fused(lambda z: _total(objective.losses(z)), z)
        gradient = tape.gradient(loss, flat, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        return Estimate(tf.nest.pack_sequence_as(points, gradient), loss)

    def conclude(self, objective: Objective, evidence: Any, directions: None) -> Estimate:
        """It is what it is."""
        return evidence


ESTIMATORS: dict[str, Callable[[], Estimator]] = {
    "central": CentralDifference,
    "forward": ForwardDifference,
    "jvp": ForwardGradient,
    "autodiff": Autodiff,
}
