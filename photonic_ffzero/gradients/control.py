r"""The control variate: a model's gradient, corrected by slopes that are measured.

With the gradient g_t of the loss on a model of the chip, slopes d_k that are measured on the chip
along directions v_k, a coefficient c and a weight w,

.. math:: g = c \, g_t + \frac{w}{K} \sum_k (d_k - c \, g_t \cdot v_k) \, v_k .

c, w and g_t come from the steps before. With w = 1 the mean of g is then the chip's gradient to
O(epsilon^2) for any model, and its variance falls with the share of the slopes' variance that the
model explains. With w < 1 its bias is (1 - w)(c g_t - gradient).
"""

from __future__ import annotations

from typing import Any, NamedTuple

from meshes._tensorflow import tf
from photonic_ffzero.gradients.directions import Directions
from photonic_ffzero.gradients.objectives import combine

MEMORY = 0.99
"""Share of a decaying sum that the next step keeps."""


class Weighting(NamedTuple):
    """How a model's gradient and measured slopes are combined."""

    coefficient: Any  # c
    weight: Any  # w
    unexplained: Any  # share of the slopes' variance that c times the model's do not explain


def weighting(sums: Any, least: Any) -> Weighting:
    r"""Decide on c and w from slopes that were measured before.

    c is the regression coefficient of the measured slopes d on the predicted ones p, less what
    chance explains of n slopes, 1 / n of their variance, so that it vanishes with the correlation.
    The weight of the least expected squared error, w*, is the same for every model, such as
    K / (K + D - 1) for D parameters and directions of signs; see `least_weight`. It would shrink
    the gradient if the model explained nothing, so that :math:`w = w_*^{1 - u}` with the
    unexplained share u.

    Args:
        sums: Decaying sums over slopes of 1, d^2, d p and p^2.
        least: w*.
    """
    n, dd, dp, pp = tf.unstack(sums)
    square = tf.math.divide_no_nan(dp * dp, dd * pp)
    explained = tf.maximum(square - tf.math.divide_no_nan(1 - square, n), 0)
    c = tf.math.divide_no_nan(dp, pp) * tf.math.divide_no_nan(explained, square)
    return Weighting(c, least**explained, 1 - explained)


def least_weight(directions: Directions) -> Any:
    r"""The weight w* of `weighting`: the best multiple of the estimate without a model.

    .. math:: w_* = \frac{\mathrm{tr} A}{\mathrm{tr} A^2}, \qquad A = \frac1K \sum_k v_k v_k^T

    minimises the mean of :math:`|w A g - g|^2` over gradients g of all orientations. The traces
    follow from the products of the directions with each other, whatever their law.
    """
    arrays = tf.nest.flatten(directions.v)
    count = arrays[0].shape[0]
    rows = [tf.reshape(tf.cast(v, tf.float32), [count, -1]) for v in arrays]
    gram = tf.add_n([tf.matmul(v, v, transpose_b=True) for v in rows]) / count
    return tf.linalg.trace(gram) / tf.reduce_sum(gram * gram)


def products(gradient: Any, directions: Directions) -> Any:
    """Predicted half differences of the loss [K] along directions, epsilon g_t . v_k."""

    def along(g: Any, v: Any, step: Any) -> Any:
        rows = tf.reshape(tf.cast(v, g.dtype), [v.shape[0], -1])
        return step * tf.linalg.matvec(rows, tf.reshape(g, [-1]))

    parts = tf.nest.map_structure(along, gradient, directions.v, directions.step)
    return tf.add_n(tf.nest.flatten(parts))


def corrected(gradient: Any, measured: Any, directions: Directions, how: Weighting) -> Any:
    """The estimate g, from g_t and measured half differences of the loss [K]."""
    rest = measured - how.coefficient * products(gradient, directions)
    correction = combine(rest[:, tf.newaxis], directions)
    c, w = how.coefficient, how.weight
    return tf.nest.map_structure(lambda g, r: c * g + w * r, gradient, correction)


def summed(sums: Any, gradient: Any, measured: Any, directions: Directions) -> Any:
    """The sums for `weighting`, with the slopes of one step more."""
    p = products(gradient, directions)
    terms = (tf.ones_like(p), measured * measured, measured * p, p * p)
    return MEMORY * sums + tf.stack([tf.reduce_sum(term) for term in terms])
