r"""How the fields that leave an ideal mesh move with its phases: the metric of phase space.

With J, the derivative of the real and imaginary parts of the output fields with respect to the
phases, the metric is the mean over the inputs,

.. math:: F = \langle J^T J \rangle, \qquad
    F_{pq} = \mathrm{Re} \sum_n \langle \partial_p E_n^* \, \partial_q E_n \rangle

A phase acts on one or two arms. The light in an arm, and the way from there to the outputs, are
factors of J, so that F needs products of N numbers for each pair of phases and no J.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from meshes.engines import upper_port
from meshes.engines.reference import fields_by_column
from meshes.mesh import Phases, RectangularMesh

_ROWS = 512  # of the metric, computed at once


class _Arms(NamedTuple):
    """The light in both arms behind each of the D interferometers that are not idle.

    Attributes:
        column: The interferometer's column [D].
        port: Its upper port [D].
        upper: The fields that leave it at this port [D, R], for R inputs.
        lower: The fields that leave it at the port below [D, R].
        entering: The fields in front of the first column [R, N].
        rotation: Half of exp(i phi) [D], by which theta turns one arm into the other.
    """

    column: np.ndarray
    port: np.ndarray
    upper: np.ndarray
    lower: np.ndarray
    entering: np.ndarray
    rotation: np.ndarray


def metric(mesh: RectangularMesh, phases: Phases, fields: Any = None) -> np.ndarray:
    """The metric of the phases that act: theta and phi where the mask is true, and gamma.

    Only the layout of the mesh counts. Inputs are scaled to a mean power of 1 a port, so that
    their brightness does not matter.

    Args:
        mesh: N ports, L columns.
        phases: One set of phases.
        fields: Inputs [B, N]; None for equal and independent light at all ports.

    Returns:
        F [D, D], float32.
    """
    arms, onward = _arms(mesh, phases, fields), _onward(mesh, phases)
    up, down = (onward[arms.column + 1, port] for port in (arms.port, arms.port + 1))
    # theta acts on both arms, phi and gamma on one each.
    first = [arms.rotation[:, None] * arms.lower, 1j * arms.upper, 1j * arms.entering.T]
    one = (np.concatenate(first), np.concatenate([up, up, onward[0]]))
    other = (-arms.rotation.conj()[:, None] * arms.upper, down)
    single = [tuple(part.astype(np.complex64) for part in arm) for arm in (one, other)]
    return _joined(*single)


def pair_metric(
    mesh: RectangularMesh, phases: Phases, fields: Any = None
) -> tuple[np.ndarray, np.ndarray]:
    """The part of the `metric` within each column, which an ideal mesh cuts into interferometers.

    What leaves one interferometer stays orthogonal to what leaves the others of its column, so
    that F couples theta and phi of the same one alone; gammas are not coupled.

    Returns:
        Blocks [interferometers, 2, 2] of theta and phi in the order of the mask, and [N, 1, 1] of
        gamma, float32.
    """
    arms = _arms(mesh, phases, fields)
    powers = [(np.abs(part) ** 2).sum(axis=1) for part in (arms.upper, arms.lower)]
    turned = (arms.rotation[:, None] * arms.lower).conj()
    both = np.real(np.sum(turned * 1j * arms.upper, axis=1))
    blocks = np.array([[(powers[0] + powers[1]) / 4, both], [both, powers[0]]])
    entering = (np.abs(arms.entering) ** 2).sum(axis=0)
    pairs = np.moveaxis(blocks, 2, 0).astype(np.float32)
    return pairs, entering[:, None, None].astype(np.float32)


def _arms(mesh: RectangularMesh, phases: Phases, fields: Any) -> _Arms:
    """The light in all arms of the ideal mesh."""
    ideal = RectangularMesh(mesh.units, mesh.num_columns)
    light = fields_by_column(ideal, phases, _inputs(mesh, fields))
    column, pair = np.nonzero(mesh.mask)
    port = upper_port(column, pair)
    upper, lower = light[column + 1, :, port], light[column + 1, :, port + 1]
    rotation = 0.5 * np.exp(1j * np.asarray(phases.phi, np.float64)[column, pair])
    return _Arms(column, port, upper, lower, light[0], rotation)


def _inputs(mesh: RectangularMesh, fields: Any) -> np.ndarray:
    """At most N inputs [R, N] with the correlations of all, summed, and a mean power of 1 a port.

    F depends on the inputs by their correlations alone.
    """
    if fields is None or not np.any(fields):
        return np.eye(mesh.units, dtype=np.complex128)
    x = np.asarray(fields, np.complex128).reshape(-1, mesh.units)
    x = x / np.sqrt(np.sum(np.abs(x) ** 2) / mesh.units)
    return np.asarray(np.linalg.qr(x, mode="r")) if len(x) > mesh.units else x


def _onward(mesh: RectangularMesh, phases: Phases) -> np.ndarray:
    """Matrices [L + 1, N, N] from the ports in front of each column, and of the end, to the end."""
    onward = [np.eye(mesh.units, dtype=np.complex128)]
    for column in reversed(range(mesh.num_columns)):
        pairs, resting = np.flatnonzero(mesh.mask[column]), np.flatnonzero(~mesh.mask[column])
        half = np.asarray(phases.theta, np.float64)[column, pairs, None] / 2
        turn = np.exp(1j * np.asarray(phases.phi, np.float64)[column, pairs, None])
        port, idle = upper_port(column, pairs), upper_port(column, resting)
        here = onward[-1].copy()
        u, v = here[port], here[port + 1]
        here[port] = 1j * (turn * np.sin(half) * u + np.cos(half) * v)
        here[port + 1] = 1j * (turn * np.cos(half) * u - np.sin(half) * v)
        here[np.concatenate([idle, idle + 1]) % mesh.units] *= -1j
        onward.append(here)
    return np.stack(onward[::-1])


def _joined(one: tuple[Any, ...], other: tuple[Any, ...]) -> np.ndarray:
    """The metric of phases with one arm each, of which the first ones have another."""
    size, twice = len(one[0]), len(other[0])
    total = np.empty((size, size), np.float32)
    for start in range(0, size, _ROWS):
        rows = slice(start, start + _ROWS)
        arm = [part[rows] for part in one]
        total[rows] = _products(arm, one)
        total[rows, :twice] += _products(arm, other)
        if start < twice:
            second = [part[rows] for part in other]
            stop = min(start + _ROWS, twice)
            total[start:stop] += _products(second, one)
            total[start:stop, :twice] += _products(second, other)
    return total


def _products(left: Any, right: Any) -> np.ndarray:
    """Re(<a, a'> <t, t'>) of arms with light a and a way t to the outputs."""
    light, way = (x.conj() @ y.T for x, y in zip(left, right, strict=True))
    return np.real(light) * np.real(way) - np.imag(light) * np.imag(way)
