"""Random directions in parameter space, and the step to take along them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from meshes._tensorflow import tf
from meshes.validation import choice, integer, number

SHARD = 8
"""Directions that one worker evaluates together, however many workers there are."""


class Directions(NamedTuple):
    """K directions for a structure of parameters.

    Attributes:
        v: Structured as the parameters, each array with a leading K, E[v v^T] = 1, or Sigma by a
            law that follows the network (`Layered`); zero where an entry is not trained (idle
            interferometers). float32, or int8 from a `Sampler` whose law draws whole numbers.
        step: Structured likewise, one float an array: w moves to w + step v.
    """

    v: Any
    step: Any

    def of_step(self, index: Any) -> Directions:
        """The directions of one step, where the arrays of ``v`` lead with [steps, K]."""
        return self._replace(v=tf.nest.map_structure(lambda array: array[index], self.v))


class Sampler:
    r"""Draws K directions over the D trainable parameters, all laws but one with unit covariance.

    The laws ``gaussian-unit`` and ``gaussian-unit-each`` are the published ones: a unit vector
    u = v / sqrt(D), and an estimate multiplied by D. For them ``epsilon`` is the length of the
    whole step, and every parameter moves by about epsilon / sqrt(D). For the others it is the step
    of each parameter.

    Args:
        law: One of `LAWS`.
        epsilon: Step of the finite difference, in units of the parameters (rad), above 0.
        count: Number of directions K, at least 1; for ``orthonormal`` at most D.
        trainable: The parameters' structure as boolean arrays; false where nothing is moved.

    Reference:
        Guo et al., arXiv 2603.24790, eq. 9 (directional derivative along a unit vector).
    """

    every: int | None
    """See `renewal_of`."""

    def __init__(self, law: str, epsilon: float, count: int, trainable: Any) -> None:
        self._law: Any = LAWS[choice("law", law, LAWS)]
        self._epsilon = number("epsilon", epsilon, above=0)
        self._count = integer("directions", count, minimum=1)
        self._structure = trainable
        masks = [np.asarray(mask) for mask in tf.nest.flatten(trainable)]
        self._shapes = [mask.shape for mask in masks]
        self._sources = [None if mask.all() else _sources(mask) for mask in masks]
        self._sizes = [int(np.count_nonzero(mask)) for mask in masks]
        self._colours: list[_Colour] = []
        self.every = renewal_of(law)
        check_count(law, self._count, trainable)

    def follow(
        self,
        places: Sequence[np.ndarray],
        metric: Sequence[np.ndarray],
        before: Sequence[np.ndarray] = (),
    ) -> list[np.ndarray]:
        """Draw from now on by the metric of the network; return it as the law smooths it.

        Args:
            places: Entries [G, s] of all parameters, one array after the other, in each of G
                blocks of the metric. An entry is in one block at most; in none it stays white.
            metric: The blocks [G, s, s] as they are now.
            before: The smoothed blocks of before; empty at the start, or to go on with ``metric``.
        """
        trained = np.concatenate([np.ravel(mask) for mask in tf.nest.flatten(self._structure)])
        drawn = _sources(trained)
        smoothed = list(map(self._law.smoothed, before, metric)) if before else list(metric)
        self._colours = []
        for part, blocks in zip(places, smoothed, strict=True):
            moved = trained[part]
            kept = blocks * (moved[:, :, np.newaxis] & moved[:, np.newaxis, :])
            self._colours.append(_Colour(drawn[part], self._law.root(kept)))
        return smoothed

    def draw(self, rng: np.random.Generator, steps: int) -> Directions:
        """Draw for several steps: the arrays of ``v`` lead with [steps, K]."""
        lead = (steps, self._count)
        flat, factors = self._law(rng, lead, self._sizes)
        if self._colours:
            flat = _split(_coloured(np.concatenate(flat, axis=-1), self._colours), self._sizes)
        arrays = [
            (values if sources is None else _spread(values, sources)).reshape(*lead, *shape)
            for values, sources, shape in zip(flat, self._sources, self._shapes, strict=True)
        ]
        return Directions(
            tf.nest.pack_sequence_as(self._structure, arrays),
            tf.nest.pack_sequence_as(self._structure, [self._epsilon * f for f in factors]),
        )


def check_count(law: str | None, count: int, trainable: Any) -> None:
    """Refuse more orthonormal directions than there are dimensions."""
    most = sum(int(np.count_nonzero(mask)) for mask in tf.nest.flatten(trainable))
    if law == "orthonormal" and count > most:
        raise ValueError(
            f"directions must be at most the number of parameters, {most}, for the orthonormal "
            f"law; got {count}"
        )


def _sources(mask: np.ndarray) -> np.ndarray:
    """For every entry the place of its value among the D drawn; D, one more, for idle entries."""
    flat = mask.ravel()
    return np.where(flat, np.cumsum(flat) - 1, np.count_nonzero(flat))


def _spread(values: np.ndarray, sources: np.ndarray) -> np.ndarray:
    """Put values [..., D] at their places and zeros elsewhere; `take` is faster than writing."""
    idle = np.zeros((*values.shape[:-1], 1), values.dtype)
    return np.concatenate([values, idle], axis=-1).take(sources, axis=-1)


class _Colour(NamedTuple):
    """The root L of blocks of a metric [G, s, s], and their entries among those drawn [G, s]."""

    places: np.ndarray
    root: np.ndarray

    def __call__(self, white: np.ndarray) -> np.ndarray:
        """z L^-1 for z [n, G, s], which has the covariance (L L^T)^-1."""
        if len(self.root) > 1:
            return np.einsum("ngs,gst->ngt", white, np.linalg.inv(self.root))
        from scipy.linalg import solve_triangular  # SciPy takes a second to import

        lower, columns = self.root[0], white[:, 0].T
        solved = solve_triangular(lower, columns, trans="T", lower=True, check_finite=False)
        return solved.T[:, np.newaxis]


def _coloured(white: np.ndarray, colours: Sequence[_Colour]) -> np.ndarray:
    """Directions [..., D] with the covariance of each part; entries that are idle stay so."""
    idle = np.zeros((*white.shape[:-1], 1), white.dtype)
    padded = np.concatenate([white, idle], axis=-1).reshape(-1, white.shape[-1] + 1)
    result = padded.copy()
    for colour in colours:
        result[:, colour.places] = colour(padded[:, colour.places])
    return result[:, :-1].reshape(white.shape)


def draw(
    law: str, epsilon: float, count: int, trainable: Any, rng: np.random.Generator
) -> Directions:
    """Draw K directions once, see `Sampler`; the arrays of ``v`` lead with [K], float32."""
    drawn = Sampler(law, epsilon, count, trainable).draw(rng, 1).of_step(0)
    return drawn._replace(v=tf.nest.map_structure(np.float32, drawn.v))


Lead = tuple[int, int]  # steps, K

# A law maps (generator, (steps, K), sizes of the arrays) to directions [steps, K, size] for each
# array, and the factors by which epsilon becomes the arrays' steps. What it draws has unit
# covariance; a law with the attributes of `Layered` then gets another one from the network.
Law = Callable[[np.random.Generator, Lead, list[int]], tuple[list[np.ndarray], list[float]]]


def _split(flat: np.ndarray, sizes: list[int]) -> list[np.ndarray]:
    return np.split(flat, np.cumsum(sizes)[:-1], axis=-1)


def _rademacher(rng: np.random.Generator, lead: Lead, sizes: list[int]) -> Any:
    """Every entry -1 or +1."""
    (steps, count), total = lead, sum(sizes)
    words = -(
        -count * total // 64
    )  # whole words a step, so that a step's draws do not depend on the call
    octets = np.frombuffer(rng.bytes(8 * words * steps), np.uint8).reshape(steps, -1)
    signs = 1 - 2 * np.unpackbits(octets, axis=1, count=count * total).view(np.int8)
    return _split(signs.reshape(*lead, total), sizes), [1.0] * len(sizes)


def _gaussian(rng: np.random.Generator, lead: Lead, sizes: list[int]) -> Any:
    """Every entry normal."""
    flat = rng.standard_normal((*lead, sum(sizes)), np.float32)
    return _split(flat, sizes), [1.0] * len(sizes)


def _orthonormal(rng: np.random.Generator, lead: Lead, sizes: list[int]) -> Any:
    """Orthogonal vectors of length sqrt(D), Haar-random."""
    (steps, count), total = lead, sum(sizes)
    q, r = np.linalg.qr(rng.standard_normal((steps, total, count)))
    q *= np.sign(np.diagonal(r, axis1=1, axis2=2))[:, np.newaxis]  # makes q Haar-distributed
    rows = math.sqrt(total) * q.swapaxes(1, 2)
    return _split(rows.astype(np.float32), sizes), [1.0] * len(sizes)


def _normalised(rows: np.ndarray) -> np.ndarray:
    """Scale rows [..., D] to length sqrt(D)."""
    if rows.shape[-1] == 0:  # an array may hold no parameter
        return rows
    length = np.linalg.norm(rows, axis=-1, keepdims=True)
    return rows * (math.sqrt(rows.shape[-1]) / length)


def _gaussian_unit(rng: np.random.Generator, lead: Lead, sizes: list[int]) -> Any:
    """Normal, then scaled to length sqrt(D)."""
    total = sum(sizes)
    rows = _normalised(rng.standard_normal((*lead, total), np.float32))
    return _split(rows, sizes), [1 / math.sqrt(total)] * len(sizes)


def _gaussian_unit_each(rng: np.random.Generator, lead: Lead, sizes: list[int]) -> Any:
    """Normal, then each array (theta, phi, gamma) scaled to the square root of its size."""
    flat = rng.standard_normal((*lead, sum(sizes)), np.float32)
    return [_normalised(rows) for rows in _split(flat, sizes)], [
        1 / math.sqrt(max(size, 1)) for size in sizes
    ]


@dataclass(frozen=True)
class Layered:
    r"""Normal, and longer where the light of an ideal mesh moves less.

    .. math:: \Sigma = (1 + \rho) (F + \rho 1)^{-1}, \qquad F = \langle J^T J \rangle

    with J, the derivative of the fields that leave the mesh, see `meshes.sensitivity`. Where
    nothing is known of the network, F = 1, and the law is ``gaussian``.

    Attributes:
        rho: What is added to F.
        every: Steps after which F is taken anew.
        smoothing: Share of the new F in the mean over all.

    Reference:
        Sawada, Aoyama, Notomi, "Layered-parameter perturbation for zeroth-order optimization of
        optical neural networks", AAAI 2025.
    """

    rho: float = 0.1
    every: int = 100
    smoothing: float = 0.01

    def __call__(self, rng: np.random.Generator, lead: Lead, sizes: list[int]) -> Any:
        return _gaussian(rng, lead, sizes)

    def smoothed(self, before: np.ndarray, now: np.ndarray) -> np.ndarray:
        return before + np.float32(self.smoothing) * (now - before)

    def root(self, metric: np.ndarray) -> np.ndarray:
        """L of Sigma = (L L^T)^-1, for each block [G, s, s]."""
        unit = np.eye(metric.shape[-1], dtype=metric.dtype)
        return np.linalg.cholesky((metric + np.float32(self.rho) * unit) / np.float32(1 + self.rho))


LAWS: dict[str, Law] = {
    "rademacher": _rademacher,
    "gaussian": _gaussian,
    "orthonormal": _orthonormal,
    "gaussian-unit": _gaussian_unit,
    "gaussian-unit-each": _gaussian_unit_each,
    "layered": Layered(),
}


def renewal_of(law: str) -> int | None:
    """Steps after which a law follows the network anew; None for a law that does not."""
    return getattr(LAWS[law], "every", None)
