"""Fixed class prototypes: unit vectors that the tapped values of a class are drawn towards."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from meshes.validation import integer


def simplex(
    classes: int, dimension: int, rng: np.random.Generator, *, zero_mean: bool = False
) -> np.ndarray:
    r"""Draw the corners of a regular simplex: unit vectors as far apart as possible.

    .. math:: \langle p_c, p_{c'} \rangle = -\frac{1}{C - 1} \quad (c \ne c'), \qquad |p_c| = 1

    The simplex is rotated by a Haar-random orthogonal matrix of R^n or, with ``zero_mean``, of the
    (n - 1)-dimensional subspace whose entries sum to zero, where balanced detection puts signals.

    Args:
        classes: Number of classes C, at least 2.
        dimension: Number of tapped values n (ports), at least C.
        rng: Source of the rotation.
        zero_mean: Whether every prototype's entries sum to zero.

    Returns:
        Prototypes [C, n], float32.

    Reference:
        Guo et al., arXiv 2603.24790, section "Prototypes".
    """
    from scipy.linalg import helmert  # SciPy takes a second to import

    _check_fit(classes, dimension)
    corners = np.sqrt(classes / (classes - 1)) * helmert(classes).T  # [C, C - 1]
    freedom = dimension - 1 if zero_mean else dimension
    rotated = corners @ _haar_rotation(freedom, rng)[: classes - 1]
    return (rotated @ helmert(dimension) if zero_mean else rotated).astype(np.float32)


def independent(
    classes: int, dimension: int, rng: np.random.Generator, *, zero_mean: bool = False
) -> np.ndarray:
    """Draw prototypes independently, uniform on the unit sphere, to compare the simplex with.

    Arguments and result are those of `simplex`.
    """
    _check_fit(classes, dimension)
    vectors = rng.standard_normal((classes, dimension))
    vectors -= zero_mean * vectors.mean(axis=1, keepdims=True)
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


PROTOTYPES: dict[str, Callable[..., np.ndarray]] = {"simplex": simplex, "random": independent}


def _check_fit(classes: int, dimension: int) -> None:
    if integer("classes", classes, minimum=2) > integer("dimension", dimension):
        raise ValueError(
            f"a layer needs at least as many tapped values as classes: {classes} prototypes do "
            f"not fit into dimension {dimension}"
        )


def _haar_rotation(dimension: int, rng: np.random.Generator) -> np.ndarray:
    from scipy.stats import ortho_group

    if dimension == 1:  # O(1) is {-1, +1}, which SciPy leaves out
        return rng.choice([-1.0, 1.0], size=(1, 1))
    return ortho_group.rvs(dimension, random_state=rng)
