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

from meshes.mesh import Phases, RectangularMesh, upper_port

_ROWS = 512  # of the metric, computed at once


class _Light(NamedTuple):
    """Fields at the pairs of every column's output [L, R, M], and at the input [R, N]."""

    upper: np.ndarray
    lower: np.ndarray
    entering: np.ndarray


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
    phases = Phases(*(np.asarray(w, np.float64) for w in phases))
    light = _forward(mesh, phases, _inputs(mesh, fields))
    onward = _backward(mesh, phases)
    column, pair = np.nonzero(mesh.mask)
    port = upper_port(column, pair)
    rotation = 0.5 * np.exp(1j * phases.phi[column, pair])
    upper, lower = light.upper[column, :, pair], light.lower[column, :, pair]
    up, down = onward[column + 1, port], onward[column + 1, port + 1]
    # theta acts on both arms, phi and gamma on one each.
    first = [rotation[:, None] * lower, 1j * upper, 1j * light.entering.T]
    one = (np.concatenate(first), np.concatenate([up, up, onward[0]]))
    other = (-rotation.conj()[:, None] * upper, down)
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
    phases = Phases(*(np.asarray(w, np.float64) for w in phases))
    light = _forward(mesh, phases, _inputs(mesh, fields))
    column, pair = np.nonzero(mesh.mask)
    upper, lower = light.upper[column, :, pair], light.lower[column, :, pair]
    powers = [(np.abs(part) ** 2).sum(axis=1) for part in (upper, lower)]
    rotation = 0.5 * np.exp(1j * phases.phi[column, pair])
    both = np.real(np.sum((rotation[:, None] * lower).conj() * 1j * upper, axis=1))
    blocks = np.array([[(powers[0] + powers[1]) / 4, both], [both, powers[0]]])
    entering = (np.abs(light.entering) ** 2).sum(axis=0)
    pairs = np.moveaxis(blocks, 2, 0).astype(np.float32)
    return pairs, entering[:, None, None].astype(np.float32)


def _inputs(mesh: RectangularMesh, fields: Any) -> np.ndarray:
    """At most N inputs [R, N] with the correlations of all, summed, and a mean power of 1 a port.

    F depends on the inputs by their correlations alone.
    """
    if fields is None or not np.any(fields):
        return np.eye(mesh.units, dtype=np.complex128)
    x = np.asarray(fields, np.complex128).reshape(-1, mesh.units)
    x = x / np.sqrt(np.sum(np.abs(x) ** 2) / mesh.units)
    return np.asarray(np.linalg.qr(x, mode="r")) if len(x) > mesh.units else x


def _forward(mesh: RectangularMesh, phases: Phases, fields: np.ndarray) -> _Light:
    entering = fields * np.exp(1j * phases.gamma)
    field, upper, lower = entering.copy(), [], []
    for sin, cos, turn, port, idle in _columns(mesh, phases):
        u, v = field[:, port], field[:, port + 1]
        up, low = 1j * turn * (sin * u + cos * v), 1j * (cos * u - sin * v)
        field[:, port], field[:, port + 1] = up, low
        field[:, idle] *= -1j
        missing = [(0, 0), (0, mesh.num_interferometers - len(port))]
        upper.append(np.pad(up, missing))
        lower.append(np.pad(low, missing))
    return _Light(np.stack(upper), np.stack(lower), entering)


def _backward(mesh: RectangularMesh, phases: Phases) -> np.ndarray:
    """Matrices [L + 1, N, N] from the ports in front of each column, and of the end, to the end."""
    onward = [np.eye(mesh.units, dtype=np.complex128)]
    for sin, cos, turn, port, idle in reversed(list(_columns(mesh, phases))):
        here, (sin, cos, turn) = onward[-1].copy(), (x[:, None] for x in (sin, cos, turn))
        u, v = here[port], here[port + 1]
        here[port] = 1j * (turn * sin * u + cos * v)
        here[port + 1] = 1j * (turn * cos * u - sin * v)
        here[idle] *= -1j
        onward.append(here)
    return np.stack(onward[::-1])


def _columns(mesh: RectangularMesh, phases: Phases) -> Any:
    """Yield sin and cos of theta / 2, exp(i phi), the upper ports, and the ports of idle pairs."""
    for column, mask in enumerate(mesh.mask):
        pairs, resting = np.flatnonzero(mask), np.flatnonzero(~mask)
        half = phases.theta[column, pairs] / 2
        turn = np.exp(1j * phases.phi[column, pairs])
        idle = upper_port(column, resting)
        ports = np.concatenate([idle, idle + 1]) % mesh.units
        yield np.sin(half), np.cos(half), turn, upper_port(column, pairs), ports


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
