r"""Gradient estimators. Each sees an objective, never the model.

An estimator works in three steps: it names points, evaluates them, and combines the results. The
first and the last are arithmetic; only the second uses the layer, so that it may be a chip. Slopes
keep the objective's groups: with losses [P, G], loss g depends only on the entries [:, g] of every
array, so that one pair of evaluations serves all groups.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np

from meshes._tensorflow import fused, tf
from photonic_ffzero.gradients.control import corrected, least_weight, summed, weighting
from photonic_ffzero.gradients.directions import Directions
from photonic_ffzero.gradients.objectives import Objective
from photonic_ffzero.layers.base import one_set


class Estimate(NamedTuple):
    """A gradient, structured as the parameters, and the loss it belongs to.

    Attributes:
        gradient: The gradient.
        loss: The loss.
        state: The next `TwinState` of the objective's twin, if it has one.
        facts: What the history says of the twin, `TwinFacts`.
    """

    gradient: Any
    loss: Any
    state: Any = ()
    facts: Any = ()


class Estimator(ABC):
    """The contract of an estimator.

    Attributes:
        differentiates: The mode of automatic differentiation that the layers must support:
            ``"forward"``, ``"reverse"`` or None.
        at_origin: Whether the first of its points is the objective's origin.
        has_twin: Whether the objective needs a twin.
    """

    differentiates: ClassVar[str | None] = None
    at_origin: ClassVar[bool] = False
    has_twin: ClassVar[bool] = False

    @abstractmethod
    def parameter_sets(self, directions: int) -> int:
        """Number of points that a step with K directions evaluates."""

    @abstractmethod
    def points(self, objective: Objective, directions: Any) -> Any:
        """The points to evaluate."""

    def evaluate(self, objective: Objective, points: Any) -> Any:
        """What the layer gives there: by default its tapped values."""
        return objective.measure(points)

    @abstractmethod
    def conclude(self, objective: Objective, evaluated: Any, directions: Any) -> Estimate:
        """The gradient and the loss that follow from the evaluation."""


class Directional(Estimator):
    """An estimator whose evaluation comes down to a slope for each direction, and a loss.

    Its directions may be evaluated in parts, one after another or in several processes.
    """

    @abstractmethod
    def slopes(self, objective: Objective, evaluated: Any) -> tuple[Any, Any]:
        """Slopes [K, ...] as `Objective.lift` takes them, and the loss."""

    def conclude(self, objective: Objective, evaluated: Any, directions: Any) -> Estimate:
        slopes, loss = self.slopes(objective, evaluated)
        return Estimate(objective.lift(slopes, directions), loss)


def estimate(
    estimator: Estimator,
    objective: Objective,
    directions: Directions | None,
    then: Callable[[Estimate], Any] = lambda result: result,
) -> Any:
    """Estimate an objective's gradient; return ``then`` of the estimate.

    ``then`` is compiled together with the estimator's last step.
    """
    points = fused(lambda: estimator.points(objective, directions))
    evaluated = estimator.evaluate(objective, points)
    return fused(lambda z: then(estimator.conclude(objective, z, directions)), evaluated)


def _total(losses: Any) -> Any:
    """Mean over the points of the sum over the groups."""
    return tf.reduce_sum(losses) / losses.shape[0]


class CentralPoints(Estimator):
    """An estimator that evaluates two points a direction, on either side of the origin."""

    def parameter_sets(self, directions: int) -> int:
        return 2 * directions

    def points(self, objective: Objective, directions: Directions) -> Any:
        tangent = objective.tangent(directions)
        return tf.nest.map_structure(
            lambda w, t: tf.concat([w + t, w - t], axis=0), objective.origin, tangent
        )


@dataclass(frozen=True)
class CentralDifference(CentralPoints, Directional):
    r"""Central directional derivatives: two evaluations a direction, error O(epsilon^2).

    .. math::
        d_k = \frac{\ell(w + \epsilon v_k) - \ell(w - \epsilon v_k)}{2 \epsilon}, \qquad
        g = \frac{1}{K} \sum_k d_k v_k, \qquad
        \mathrm{E}[g] = \nabla \ell + O(\epsilon^2)

    The loss reported is the mean of the 2K evaluations.

    Reference:
        Guo et al., arXiv 2603.24790, eq. 9 and 10.
    """

    def slopes(self, objective: Objective, evaluated: Any) -> tuple[Any, Any]:
        losses = objective.losses(evaluated)
        plus, minus = tf.split(losses, 2, axis=0)
        return (plus - minus) / 2, _total(losses)


@dataclass(frozen=True)
class LightCones(CentralPoints):
    r"""Central differences of the intensities, each phase judged by the ports that it moves.

    The loss's slope s = dl/dI at the detectors is known, as detection and loss are electronics. A
    phase p moves only the ports n within its light cone, so that the changes of all others are
    noise to its estimate:

    .. math::
        g_p = \frac{1}{K} \sum_k v_{kp} \sum_{n \in \mathrm{cone}(p)} \sum_b
            s_{bn} \, \frac{I^+_{kbn} - I^-_{kbn}}{2 \epsilon}, \qquad
        \mathrm{E}[g] = \nabla \ell + O(\epsilon^2)

    s is taken at the mean of the 2K readings, and the loss reported is that of the same mean. The
    layout of the mesh is all that must be known of the chip.
    """

    def conclude(self, objective: Objective, evaluated: Any, directions: Directions) -> Estimate:
        slope, loss = objective.slope(tf.reduce_mean(evaluated, axis=0, keepdims=True))
        plus, minus = tf.split(evaluated, 2, axis=0)
        # XLA's einsum would transpose the readings first, which takes four times as long.
        changes = tf.reduce_sum(slope * (plus - minus), axis=1) / 2
        ports = changes.shape[-1]
        # As a product, because XLA's cumulative sum is slow.
        up_to = tf.matmul(
            changes, np.triu(np.ones((ports, ports + 1), changes.dtype.as_numpy_dtype), 1)
        )

        def gradient(v: Any, step: Any, reach: Any) -> Any:
            first, end = (tf.gather(up_to, reach[..., side], axis=1) for side in (0, 1))
            return tf.reduce_mean((end - first) * tf.cast(v, changes.dtype), axis=0) / step

        return Estimate(
            tf.nest.map_structure(gradient, directions.v, directions.step, objective.reach), loss
        )


@dataclass(frozen=True)
class ForwardDifference(Directional):
    r"""Forward directional derivatives: K + 1 evaluations, error O(epsilon).

    .. math:: d_k = \frac{\ell(w + \epsilon v_k) - \ell(w)}{\epsilon}
    """

    at_origin: ClassVar[bool] = True

    def parameter_sets(self, directions: int) -> int:
        return directions + 1

    def points(self, objective: Objective, directions: Directions) -> Any:
        tangent = objective.tangent(directions)
        if objective.known is not None:
            return tf.nest.map_structure(lambda w, t: w + t, objective.origin, tangent)
        return tf.nest.map_structure(
            lambda w, t: tf.concat([w[tf.newaxis], w + t], axis=0), objective.origin, tangent
        )

    def slopes(self, objective: Objective, evaluated: Any) -> tuple[Any, Any]:
        losses, first = objective.losses(evaluated), objective.known
        if first is None:
            losses, first = losses[1:], losses[:1]
        return losses - first, _total(first)


@dataclass(frozen=True)
class ForwardGradient(Directional):
    r"""Exact directional derivatives, by forward-mode automatic differentiation.

    .. math:: d_k = \langle \nabla \ell, v_k \rangle

    TensorFlow's forward mode takes a compiled mesh for a constant, so the slopes come from reverse
    mode, applied twice: the gradient of a weighted sum of losses is linear in the weights, and its
    derivative with respect to a weight, along a direction, is the slope of that loss.

    Reference:
        Baydin et al., arXiv 2202.08587, eq. 1; Ren et al., arXiv 2210.03310.
    """

    differentiates: ClassVar[str | None] = "forward"
    at_origin: ClassVar[bool] = True

    def parameter_sets(self, directions: int) -> int:
        return directions

    def points(self, objective: Objective, directions: Directions) -> Any:
        """The origin K times, and the tangents."""
        tangent = objective.tangent(directions)
        origins = tf.nest.map_structure(
            lambda w, t: w + tf.zeros_like(t), objective.origin, tangent
        )
        return origins, tangent

    def evaluate(self, objective: Objective, points: Any) -> Any:
        """Losses and slopes."""
        origins, tangent = (tf.nest.flatten(part) for part in points)
        with tf.GradientTape() as outer:
            with tf.GradientTape() as inner:
                inner.watch(origins)
                losses = objective.losses(objective.measure(points[0]))
            weights = tf.ones_like(losses)
            outer.watch(weights)
            gradient = inner.gradient(losses, origins, weights, unconnected_gradients="zero")
        return losses, outer.gradient(gradient, weights, tangent)

    def slopes(self, objective: Objective, evaluated: Any) -> tuple[Any, Any]:
        losses, slopes = evaluated
        return slopes, _total(losses)


@dataclass(frozen=True)
class Autodiff(Estimator):
    """The exact gradient, by reverse-mode automatic differentiation: the upper bound."""

    differentiates: ClassVar[str | None] = "reverse"
    at_origin: ClassVar[bool] = True

    def parameter_sets(self, directions: int) -> int:
        return 1

    def points(self, objective: Objective, directions: None) -> Any:
        return tf.nest.map_structure(tf.convert_to_tensor, objective.origin)

    def evaluate(self, objective: Objective, points: Any) -> Any:
        """Gradient and loss, which need no further step."""
        flat = tf.nest.flatten(points)
        with tf.GradientTape() as tape:
            tape.watch(flat)
            z = objective.measure(one_set(points))
            loss = fused(lambda z: _total(objective.losses(z)), z)
        gradient = tape.gradient(loss, flat, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        return Estimate(tf.nest.pack_sequence_as(points, gradient), loss)

    def conclude(self, objective: Objective, evaluated: Any, directions: None) -> Estimate:
        return evaluated


class TwinFacts(NamedTuple):
    """How much an estimate owes to a twin, and how good the twin is."""

    weight: Any  # w of the measured slopes
    coefficient: Any  # c of the twin's gradient
    error: Any  # of predicted intensities, relative to their deviation from equal ports
    unexplained: Any  # share of the variance of the measured slopes


@dataclass(frozen=True)
class TwinEstimator(CentralPoints):
    """The gradient of the objective's twin, corrected by slopes that are measured on the chip.

    See `gradients.twin` and `gradients.control`. Without directions it is the twin's gradient at
    the origin, where one reading serves the fit of the twin and the loss that is reported.
    """

    has_twin: ClassVar[bool] = True

    def parameter_sets(self, directions: int) -> int:
        return max(2 * directions, 1)

    def points(self, objective: Objective, directions: Directions | None) -> Any:
        if directions is None:
            return one_set(tf.nest.map_structure(tf.convert_to_tensor, objective.origin))
        return super().points(objective, directions)

    def evaluate(self, objective: Objective, points: Any) -> Any:
        """Readings, and how the twin compares with them."""
        readings = objective.measure(points)
        return readings, objective.twin.compare(objective, points, readings)

    def conclude(
        self, objective: Objective, evaluated: Any, directions: Directions | None
    ) -> Estimate:
        readings, (gradient, comparison) = evaluated
        losses = objective.losses(readings)
        twin, before, _, rate = objective.twin
        state, facts = twin.fitted(before, comparison, rate), TwinFacts(0.0, 1.0, before.error, 1.0)
        if directions is not None:
            plus, minus = tf.split(tf.reduce_sum(losses, axis=1), 2, axis=0)
            measured = (plus - minus) / 2
            how = weighting(before.slopes, least_weight(directions))
            sums = summed(before.slopes, gradient, measured, directions)
            gradient = corrected(gradient, measured, directions, how)
            state = state._replace(slopes=sums)
            facts = TwinFacts(how.weight, how.coefficient, before.error, how.unexplained)
        return Estimate(gradient, _total(losses), state, facts)


ESTIMATORS: dict[str, Callable[[], Estimator]] = {
    "central": CentralDifference,
    "cones": LightCones,
    "twin": TwinEstimator,
    "forward": ForwardDifference,
    "jvp": ForwardGradient,
    "autodiff": Autodiff,
}


def has_twin(name: str) -> bool:
    """Whether an estimator needs a twin; one from outside need not say so."""
    return getattr(ESTIMATORS[name](), "has_twin", False)
