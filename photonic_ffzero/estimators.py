r"""Gradient estimators: all see an objective and its parameters, none sees the model.

An objective maps parameters whose arrays lead with P (P sets evaluated side by side) to losses
[P, G]. With G = 1 there is one loss a set. With G > 1 loss g depends only on the entries [:, g]
of every array, so that one pair of evaluations serves all groups.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Protocol

from meshes._tensorflow import fused, tf
from photonic_ffzero.directions import Directions

__all__ = [
    "ESTIMATORS",
    "Autodiff",
    "CentralDifference",
    "Estimate",
    "Estimator",
    "ForwardDifference",
]

Objective = Callable[[Any], Any]


class Estimate(NamedTuple):
    """A gradient, structured as the parameters, and the loss it belongs to."""

    gradient: Any
    loss: Any


class Estimator(Protocol):
    """The contract of every estimator."""

    needs_directions: ClassVar[bool]

    def parameter_sets(self, directions: int) -> int:
        """Parameter sets evaluated in one step with K directions."""

    def __call__(self, objective: Objective, params: Any, directions: Any) -> Estimate:
        """Estimate the gradient of the objective at ``params``."""


def _moved(params: Any, directions: Directions, sign: float) -> Any:
    """The K parameter sets w + sign * step * v."""
    return tf.nest.map_structure(
        lambda w, v, step: w + sign * step * v, params, directions.v, directions.step
    )


def _stacked(*sets: Any) -> Any:
    return tf.nest.map_structure(lambda *arrays: tf.concat(arrays, axis=0), *sets)


def _combine(differences: Any, directions: Directions) -> Any:
    """(1/K) sum_k difference_k v_k / step: differences [K, G], arrays [K, ...] or [K, G, ...]."""

    def gradient(v: Any, step: Any) -> Any:
        lead = differences.shape[: len(v.shape)]  # a single number's directions have no G
        scalars = tf.reshape(differences, [*lead, *[1] * (len(v.shape) - 2)])
        return tf.reduce_mean(scalars * v, axis=0) / step

    return tf.nest.map_structure(gradient, directions.v, directions.step)


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

    needs_directions: ClassVar[bool] = True

    def parameter_sets(self, directions: int) -> int:
        """Parameter sets evaluated in one step: 2K."""
        return 2 * directions

    def __call__(self, objective: Objective, params: Any, directions: Directions) -> Estimate:
        losses = objective(fused(self._points, params, directions))
        return Estimate(*fused(self._estimate, losses, directions))

    def _points(self, params: Any, directions: Directions) -> Any:
        return _stacked(_moved(params, directions, 1.0), _moved(params, directions, -1.0))

    def _estimate(self, losses: Any, directions: Directions) -> tuple[Any, Any]:
        plus, minus = tf.split(losses, 2, axis=0)
        return _combine((plus - minus) / 2, directions), _total(losses)


@dataclass(frozen=True)
class ForwardDifference:
    r"""Forward directional derivatives: K + 1 evaluations, error O(epsilon).

    .. math:: d_k = \frac{\ell(w + \epsilon v_k) - \ell(w)}{\epsilon}
    """

    needs_directions: ClassVar[bool] = True

    def parameter_sets(self, directions: int) -> int:
        """Parameter sets evaluated in one step: K + 1."""
        return directions + 1

    def __call__(self, objective: Objective, params: Any, directions: Directions) -> Estimate:
        losses = objective(fused(self._points, params, directions))
        return Estimate(*fused(self._estimate, losses, directions))

    def _points(self, params: Any, directions: Directions) -> Any:
        here = tf.nest.map_structure(lambda w: w[tf.newaxis], params)
        return _stacked(here, _moved(params, directions, 1.0))

    def _estimate(self, losses: Any, directions: Directions) -> tuple[Any, Any]:
        return _combine(losses[1:] - losses[:1], directions), _total(losses[:1])


@dataclass(frozen=True)
class Autodiff:
    """The exact gradient, by reverse-mode automatic differentiation: the upper bound."""

    needs_directions: ClassVar[bool] = False

    def parameter_sets(self, directions: int) -> int:
        """Parameter sets evaluated in one step: 1."""
        return 1

    def __call__(self, objective: Objective, params: Any, directions: None = None) -> Estimate:
        params = tf.nest.map_structure(tf.convert_to_tensor, params)
        flat = tf.nest.flatten(params)
        with tf.GradientTape() as tape:
            tape.watch(flat)
            here = tf.nest.map_structure(lambda w: w[tf.newaxis], params)
            loss = _total(objective(here))
        gradient = tape.gradient(loss, flat, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        return Estimate(tf.nest.pack_sequence_as(params, gradient), loss)


def _total(losses: Any) -> Any:
    """Mean over the parameter sets of the sum over the groups."""
    return tf.reduce_mean(tf.reduce_sum(losses, axis=-1))


ESTIMATORS: dict[str, Callable[[], Estimator]] = {
    "central": CentralDifference,
    "forward": ForwardDifference,
    "autodiff": Autodiff,
}
