r"""The step of the differences, chosen from the measured noise.

Half the difference of two losses, :math:`D(\epsilon) = (\ell_+ - \ell_-) / 2`, is
:math:`a \epsilon + b \epsilon^3` plus noise of variance :math:`\sigma^2 / 2`, where
:math:`\sigma^2` is the variance of one loss. The mean square error of the slope
:math:`D / \epsilon` is

.. math:: \mathrm{E}[b^2] \, \epsilon^4 + \frac{\sigma^2}{2 \epsilon^2},

which is least at

.. math:: \epsilon^* = \left( \frac{\sigma^2}{4 \, \mathrm{E}[b^2]} \right)^{1/6}.

A forward difference :math:`\ell_+ - \ell_0` is :math:`a \epsilon + c \epsilon^2` plus noise of
variance :math:`2 \sigma^2`. The mean square error :math:`\mathrm{E}[c^2] \, \epsilon^2 + 2 \sigma^2
/ \epsilon^2` of its slope is least at

.. math:: \epsilon^* = \left( \frac{2 \sigma^2}{\mathrm{E}[c^2]} \right)^{1/4}.

Reference:
    More and Wild, "Estimating derivatives of noisy simulations", ACM Trans. Math. Softw. 38 (2012)
    19.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

LADDER = np.array([0.02, 0.04, 0.08])  # rad; steps at which a loss is nearly cubic
PROBES = 64  # directions
EVALUATIONS = PROBES * (2 * len(LADDER) + 2)  # parameter sets that a probe evaluates
SHORTEST = 1e-3  # rad; shorter steps drown in single precision
_ROUNDING = 2.0**-23  # of a loss, relative


def probe_step(
    losses: Callable[[float, int], np.ndarray], quantum: float = 0.0, one_sided: bool = False
) -> float:
    """The step for a block, rad, chosen from some of its losses.

    Args:
        losses: From a step and a sign to the losses [M] at w +- step v along the same M
            directions, with fresh noise each time.
        quantum: Smallest change of a phase that the drive can make, rad, or 0; the step is a
            multiple of it.
        one_sided: Whether the step is for forward differences, not for central ones.
    """
    second, first = losses(0.0, 1), losses(0.0, 1)
    noise = max(float(np.mean((second - first) ** 2)) / 2, (_ROUNDING * abs(first.mean())) ** 2)
    sides = [(losses(step, 1), losses(step, -1)) for step in LADDER]
    plus, minus = map(np.stack, zip(*sides, strict=True))
    halves = (plus - minus) / 2
    noise = max(noise, 2 * scatter(LADDER, halves))
    if one_sided:
        best = best_forward_step(LADDER, (plus + minus - first - second) / 2, noise)
    else:
        best = best_step(LADDER, halves, noise)
    best = max(best, SHORTEST)
    return math.ceil(best / quantum) * quantum if quantum else best


def _cubic(steps: np.ndarray) -> np.ndarray:
    """The powers [J, 2] of a epsilon + b epsilon^3 at some steps [J]."""
    return np.stack([steps, steps**3], axis=1)


def scatter(steps: np.ndarray, halves: np.ndarray) -> float:
    """The variance of half the differences [J, M] about the cubics a epsilon + b epsilon^3.

    A drive that rounds phases makes no noise that two readings at the same phases would show, but
    a loss that jumps from step to step.
    """
    powers = _cubic(steps)
    left = halves - powers @ np.linalg.lstsq(powers, halves, rcond=None)[0]
    return float(np.sum(left**2) / (halves.shape[1] * (len(steps) - 2)))


def best_step(steps: np.ndarray, halves: np.ndarray, noise: float) -> float:
    r""":math:`\epsilon^*` of the module's text, at most the longest of ``steps``.

    Args:
        steps: Steps [J].
        halves: Half the differences of losses [J, M] at these steps, along M directions.
        noise: Variance of one loss.
    """
    powers = _cubic(steps)
    inverse = np.linalg.inv(powers.T @ powers)
    cubic = (inverse @ powers.T @ halves)[1]
    curvature = np.mean(cubic**2) - inverse[1, 1] * noise / 2  # minus the share of noise
    least = noise / (4 * steps.max() ** 6)
    return min(float((noise / (4 * max(curvature, least))) ** (1 / 6)), float(steps.max()))


def best_forward_step(steps: np.ndarray, bends: np.ndarray, noise: float) -> float:
    r""":math:`\epsilon^*` of forward differences, at most the longest of ``steps``.

    Args:
        steps: Steps [J].
        bends: Half of l+ + l- - 2 l0 [J, M] at these steps, along M directions, where l0 is the
            mean of two losses.
        noise: Variance of one loss.
    """
    squares, quartic = steps**2, np.sum(steps**4)
    bend = squares @ bends / quartic
    of_noise = noise / 2 * (1 / quartic + (squares.sum() / quartic) ** 2)  # sides, and l0
    least = 2 * noise / steps.max() ** 4
    best = (2 * noise / max(np.mean(bend**2) - of_noise, least)) ** (1 / 4)
    return min(float(best), float(steps.max()))
