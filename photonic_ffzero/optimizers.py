"""Optimizers as pure (init, update) pairs, of tensors or arrays, and learning-rate schedules.

``init(params)`` makes the state; ``update(gradient, state)`` returns the direction to step along
and the next state. `descend` takes the step.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from meshes._tensorflow import tf
from meshes.validation import number


class Optimizer(NamedTuple):
    """A pair of pure functions.

    Attributes:
        init: From parameters to the state.
        update: From a gradient and the state to the direction and the next state.
        joins: Whether they also take all parameters as one NumPy array.
    """

    init: Callable[[Any], Any]
    update: Callable[[Any, Any], tuple[Any, Any]]
    joins: bool = False


def _each(function: Callable[..., Any], *structures: Any) -> Any:
    """A function of each array in structures, or of bare arrays, for which TensorFlow is slow."""
    if isinstance(structures[0], np.ndarray):
        return function(*structures)
    return tf.nest.map_structure(function, *structures)


def _zeros(params: Any) -> Any:
    return tf.nest.map_structure(tf.zeros_like, params)


def _root(x: Any) -> Any:
    return np.sqrt(x) if isinstance(x, np.ndarray) else tf.sqrt(x)


def sgd() -> Optimizer:
    """Follow the gradient: the most robust choice for noisy estimates."""
    return Optimizer(lambda params: (), lambda gradient, state: (gradient, state), joins=True)


def momentum(decay: float = 0.9) -> Optimizer:
    r"""Heavy ball: :math:`m \leftarrow \mu m + g`, along the direction (1 - mu) m.

    The factor keeps the learning rate comparable with plain SGD.
    """
    decay = number("decay", decay, minimum=0, below=1)

    def update(gradient: Any, state: Any) -> tuple[Any, Any]:
        state = _each(lambda m, g: decay * m + g, state, gradient)
        return _each(lambda m: (1 - decay) * m, state), state

    return Optimizer(_zeros, update, joins=True)


def adam(b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8) -> Optimizer:
    r"""Adam.

    .. math::
        m \leftarrow \beta_1 m + (1 - \beta_1) g, \quad
        s \leftarrow \beta_2 s + (1 - \beta_2) g^2, \quad
        u = \frac{m / (1 - \beta_1^t)}{\sqrt{s / (1 - \beta_2^t)} + \varepsilon}

    Reference:
        Kingma and Ba, arXiv 1412.6980, algorithm 1.
    """
    b1 = number("b1", b1, minimum=0, below=1)
    b2 = number("b2", b2, minimum=0, below=1)

    def init(params: Any) -> Any:
        return tf.constant(0.0), _zeros(params), _zeros(params)

    def update(gradient: Any, state: Any) -> tuple[Any, Any]:
        step, mean, square = state
        step = step + 1
        mean = _each(lambda m, g: b1 * m + (1 - b1) * g, mean, gradient)
        square = _each(lambda s, g: b2 * s + (1 - b2) * g * g, square, gradient)
        first, second = 1 - b1**step, 1 - b2**step
        direction = _each(lambda m, s: (m / first) / (_root(s / second) + eps), mean, square)
        return direction, (step, mean, square)

    return Optimizer(init, update, joins=True)


OPTIMIZERS = {"sgd": sgd, "momentum": momentum, "adam": adam}


def descend(params: Any, direction: Any, rate: Any, decay: float = 0.0) -> Any:
    r"""Step along a direction: :math:`w - \eta (u + \lambda w)`, with the weight decay lambda.

    Reference:
        Loshchilov and Hutter, arXiv 1711.05101, algorithm 2: the decay has no part in momenta.
    """

    def step(w: Any, u: Any) -> Any:
        return w - rate * (u + decay * w if decay else u)

    return _each(step, params, direction)


def constant(progress: float) -> float:
    return 1.0


def cosine_decay(progress: float) -> float:
    r"""Half a cosine from 1 to 0: :math:`\tfrac{1}{2} (1 + \cos \pi t)`.

    Reference:
        Loshchilov and Hutter, arXiv 1608.03983, eq. 5 without restarts.
    """
    return 0.5 * (1 + math.cos(math.pi * progress))


# From the part of the training that is done, 0 to 1, to a factor of the learning rate.
SCHEDULES: dict[str, Callable[[float], float]] = {"constant": constant, "cosine": cosine_decay}
