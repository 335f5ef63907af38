"""From a block's tapped values to scores: one for each class, in each group of outputs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np

from meshes._tensorflow import tf


def raw(z: Any) -> Any:
    """Take the tapped values as they are."""
    return z


def balanced(z: Any) -> Any:
    r"""Subtract each sample's mean over its n tapped values, as a reference detector does.

    .. math:: z_j = I_j - \frac{1}{n} \sum_i I_i

    Intensities are never negative, so their cosine with an arbitrary prototype stays well below 1.
    Balanced values can reach every prototype whose entries sum to zero.
    """
    return z - _row_sums(z) / z.shape[-1]


def _row_sums(z: Any) -> Any:
    """Sums [..., 1] as a matrix product, because XLA adds rows up one number at a time."""
    return tf.matmul(z, tf.ones([z.shape[-1], 1], z.dtype))


DETECTIONS = {"balanced": balanced, "raw": raw}


def cosine(z: Any, prototypes: Any, norm_size: int = 0) -> Any:
    r"""Goodness of every class within [-1, 1]: the cosine of tapped values and prototype.

    .. math:: G_c = \frac{\langle z, p_c \rangle}{|z|}, \qquad G_c = 0 \text{ where } z = 0

    With ``norm_size`` the tapped values are normalised in pools h of so many neighbours; what is
    left over joins the last pool:

    .. math:: G_c = \sum_h \sqrt{\frac{n_h}{n}} \, \frac{\langle z_h, p_{c,h} \rangle}{|z_h|}

    One cosine ranks classes by a function linear in z, so that a dense layer is a linear
    classifier. A sum over pools is not linear in z.

    Args:
        z: Tapped values [..., n], or [..., G, n] for G groups of outputs.
        prototypes: Unit vectors [C, n], or [G, C, n]: every group has its own.
        norm_size: Values of a pool; 0 for one pool of all n.

    Returns:
        [..., C], or [..., G, C].

    Reference:
        Guo et al., arXiv 2603.24790, eq. 5. The pools are ours, after the divisive normalisation
        of Carandini and Heeger, Nature Reviews Neuroscience 13, 51 (2012).
    """
    return _projected(unit_vectors(z, norm_size), prototypes)


def unit_vectors(z: Any, norm_size: int = 0) -> Any:
    """Tapped values [..., n] divided by their norm, in pools as `cosine` has them; 0 where z = 0.

    Their scalar products with prototypes are the goodness.
    """
    size = _row_sums(tf.abs(z))
    # The cosine does not depend on the scale, but the square of dim light underflows in float32.
    z = z / tf.stop_gradient(tf.where(size > 0, size, tf.ones_like(size)))
    return _normalised(z, norm_size or z.shape[-1])


def _normalised(z: Any, size: int) -> Any:
    """Values [..., n] as unit vectors, each pool of them contributing its share of the length."""
    count = z.shape[-1]
    pools = count // size
    if pools <= 1:
        return z / _norm(_row_sums(z * z))
    pool_of = np.minimum(np.arange(count) // size, pools - 1)
    members = np.eye(pools, dtype=z.dtype.as_numpy_dtype)[pool_of]
    scale = np.sqrt(members.mean(axis=0)) / _norm(tf.matmul(z * z, members))
    # Not tf.pad, tf.repeat or tf.gather: their gradients take a hundred times as long in a loop.
    if count % size:
        return z * tf.matmul(scale, members, transpose_b=True)
    even = tf.broadcast_to(scale[..., tf.newaxis], [*scale.shape, size])  # faster for equal pools
    return z * tf.reshape(even, z.shape)


def _norm(squared: Any) -> Any:
    """Square roots; infinity for zero, so that a dark sample has score and slope 0."""
    return tf.sqrt(tf.where(squared > 0, squared, np.inf))


def _projected(z: Any, prototypes: Any) -> Any:
    """Scalar products; for one group as one matrix product, which is faster than a batch."""
    if len(prototypes.shape) == 2:
        return tf.matmul(z, prototypes, transpose_b=True)
    if prototypes.shape[0] == 1:
        return _projected(z[..., 0, :], prototypes[0])[..., tf.newaxis, :]
    return tf.einsum("...gn,gcn->...gc", z, prototypes)


class Readout(ABC):
    """From a block's tapped values [..., T] to scores [..., G, C], in two steps."""

    @property
    def share(self) -> float:
        """What the losses of the groups are multiplied by before they are added up."""
        return 1.0

    @abstractmethod
    def split(self, z: Any) -> Any:
        """The tapped values of every group of outputs [..., G, n]."""

    def join(self, groups: Any, taps: int) -> Any:
        """The T = ``taps`` tapped values that `split` makes such groups of; 0 if not read."""
        return tf.reshape(groups, [*groups.shape[:-2], taps])

    @abstractmethod
    def __call__(self, groups: Any) -> Any:
        """The scores [..., G, C] of the groups' values [..., G, n]."""

    def with_prototypes_of(self, other: Readout) -> Readout:
        """The readout with the prototypes of a trained one, if it has any."""
        return self


@dataclass(frozen=True)
class Goodness(Readout):
    """Scores are the cosines with fixed prototypes [G, C, n]; see `cosine` for ``norm_size``."""

    prototypes: np.ndarray
    detection: str
    norm_size: int = 0

    def split(self, z: Any) -> Any:
        groups, _, dimension = self.prototypes.shape
        return tf.reshape(z, [*z.shape[:-1], groups, dimension])

    def __call__(self, groups: Any) -> Any:
        return cosine(DETECTIONS[self.detection](groups), self.prototypes, self.norm_size)

    def with_prototypes_of(self, other: Readout) -> Readout:
        return replace(self, prototypes=cast(Goodness, other).prototypes)


@dataclass(frozen=True)
class Ports(Readout):
    """Scores are the first C tapped values of each label dimension, as the paper reads out BP."""

    groups: int
    classes: int

    def first(self, size: int) -> int:
        """The first of the values that are read, of so many in a group."""
        return 0

    def split(self, z: Any) -> Any:
        """Cut T = G n tapped values into G groups of n, and take C of each."""
        size = z.shape[-1] // self.groups
        by_group = tf.reshape(z, [*z.shape[:-1], self.groups, size])
        first = self.first(size)
        return by_group[..., first : first + self.classes]

    def join(self, groups: Any, taps: int) -> Any:
        size = taps // self.groups
        before = self.first(size)
        ends = [[0, 0]] * (len(groups.shape) - 1) + [[before, size - before - self.classes]]
        return super().join(tf.pad(groups, ends), taps)

    def __call__(self, groups: Any) -> Any:
        return groups


@dataclass(frozen=True)
class CentralPorts(Ports):
    """Scores are the C central tapped values of each label dimension, as Sawada et al. read out.

    Of n values, those from (n - C) // 2 on: where they cannot lie in the middle, one more value
    stands after them than before.

    Reference:
        Sawada, Aoyama, Notomi, "Layered-parameter perturbation for zeroth-order optimization of
        optical neural networks", AAAI 2025.
    """

    def first(self, size: int) -> int:
        return (size - self.classes) // 2


READOUTS = {"goodness": Goodness, "ports": Ports, "central-ports": CentralPorts}
