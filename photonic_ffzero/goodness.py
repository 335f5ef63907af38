"""From a layer's tapped values to one score for each class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from meshes._tensorflow import tf

__all__ = ["DETECTIONS", "READOUTS", "Goodness", "Ports", "balanced", "cosine", "raw"]


def raw(z: Any) -> Any:
    """Take the tapped values as they are."""
    return z


def balanced(z: Any) -> Any:
    r"""Subtract each sample's mean over its n tapped values, as a reference detector does.

    .. math:: z_j = I_j - \frac{1}{n} \sum_i I_i

    Intensities are never negative, so that their cosine with an arbitrary prototype stays well
    below 1; balanced values can reach every prototype of the zero-mean subspace.
    """
    return z - tf.reduce_mean(z, axis=-1, keepdims=True)


DETECTIONS = {"balanced": balanced, "raw": raw}


def cosine(z: Any, prototypes: Any) -> Any:
    r"""Goodness of every class: the cosine between tapped values and prototype.

    .. math:: G_c = \frac{\langle z, p_c \rangle}{|z|}, \qquad G_c = 0 \text{ where } z = 0

    Args:
        z: Tapped values [..., n].
        prototypes: Unit vectors [C, n].

    Returns:
        Goodness [..., C] within [-1, 1].

    Reference:
        Guo et al., arXiv 2603.24790, eq. 5.
    """
    peak = tf.reduce_max(tf.abs(z), axis=-1, keepdims=True)
    # The cosine does not depend on the scale, but the square of dim light underflows in float32.
    z = z / tf.stop_gradient(tf.where(peak > 0, peak, tf.ones_like(peak)))
    squared = tf.reduce_sum(z * z, axis=-1, keepdims=True)
    norm = tf.sqrt(tf.where(squared > 0, squared, np.inf))  # in the dark score and slope are 0
    return tf.matmul(z / norm, prototypes, transpose_b=True)


@dataclass(frozen=True)
class Goodness:
    """Scores are the cosines with fixed prototypes.

    Attributes:
        prototypes: Unit vectors [C, n].
        detection: ``"balanced"`` or ``"raw"``.
    """

    prototypes: np.ndarray
    detection: str

    def __call__(self, z: Any) -> Any:
        return cosine(DETECTIONS[self.detection](z), self.prototypes)


@dataclass(frozen=True)
class Ports:
    """Scores are the first C tapped values themselves, as the paper reads out BP.

    Attributes:
        classes: Number of classes C.
    """

    classes: int

    def __call__(self, z: Any) -> Any:
        return z[..., : self.classes]


READOUTS = {"goodness": Goodness, "ports": Ports}
