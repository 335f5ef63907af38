"""The phase shifters of a mesh: what each is called, and the phase within a turn that it makes."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from meshes.model import Phases, RectangularMesh
from meshes.validation import choice

__all__ = ["ARMS", "Shifter", "from_values", "shifters", "values", "within_a_turn"]

ARMS = ("both", "upper")
_TURN, _ROUNDING = 2 * np.pi, 1e-9  # rad


class Shifter(NamedTuple):
    """The name of a phase shifter.

    Fields:
        mesh: the mesh, counted from 1.
        column: the column, from 0; None for gamma, which stands in front of all columns.
        interferometer: its place in the column, from 0; None for gamma.
        shifter: theta, phi or gamma.
        ports: the interferometer's ports "u-v", from 0; phi stands on the first, gamma on its own.
    """

    mesh: int
    column: int | None
    interferometer: int | None
    shifter: str
    ports: str

    def __str__(self) -> str:
        place = "" if self.column is None else f" in column {self.column}"
        return f"{self.shifter} of mesh {self.mesh}{place}, ports {self.ports}"


def shifters(mesh: RectangularMesh, number: int = 1) -> list[Shifter]:
    """Name every phase shifter of a mesh, in the order of `values`.

    Idle interferometers have none. For odd N a column's unpaired port has none either.

    Args:
        mesh: a mesh of N ports and L columns.
        number: which one it is on its chip, from 1.
    """
    places = [
        (column, index, f"{2 * index + column % 2}-{2 * index + column % 2 + 1}")
        for column, index in np.argwhere(mesh.mask).tolist()
    ]
    own = [
        Shifter(number, column, index, kind, ports)
        for kind in ("theta", "phi")
        for column, index, ports in places
    ]
    return own + [Shifter(number, None, None, "gamma", str(port)) for port in range(mesh.units)]


def values(mesh: RectangularMesh, phases: Phases) -> np.ndarray:
    """One set of phases as a list, rad: theta, then phi, column after column, then gamma."""
    theta, phi, gamma = (np.asarray(x, np.float64) for x in phases)
    return np.concatenate([theta[mesh.mask], phi[mesh.mask], gamma])


def from_values(mesh: RectangularMesh, listed: np.ndarray) -> Phases:
    """Phases, float64, from a list in the order of `values`; pi at idle interferometers."""
    count = int(mesh.mask.sum())
    theta, phi = np.full((2, *mesh.mask.shape), np.pi)
    theta[mesh.mask], phi[mesh.mask] = listed[:count], listed[count : 2 * count]
    return Phases(theta, phi, np.array(listed[2 * count :], np.float64))


def within_a_turn(
    mesh: RectangularMesh, phases: Phases, lowest: Any = 0.0, arms: str = "both"
) -> Phases:
    r"""Phases within a turn of the lowest that make the same matrix.

    A shifter that makes a turn less leaves phi and gamma as they are, but not theta: with
    theta / 2 in one arm and -theta / 2 in the other, a turn less multiplies both ports by -1. A
    shifter in the upper arm alone multiplies both by exp(i theta / 2) at any theta. Such a factor
    exp(i kappa) is taken back in front of the interferometer, where it meets earlier phi:

    .. math:: \phi' = \phi + a - b, \qquad a' = b' = b - \kappa

    with the phases a, b that both outputs still lack; what is left in front of the first column
    goes to gamma. (Crosstalk follows the phases themselves, and is not the same after that.)

    Args:
        mesh: a mesh of N ports and L columns.
        phases: theta, phi [L, M] and gamma [N], rad.
        lowest: the lowest phase of all shifters, or of each in the order of `values`, rad.
        arms: where a theta shifter stands: in ``both`` arms, driven against each other
            (Neurophox's convention), or in the ``upper`` one alone.

    Returns:
        Phases of float64 arrays, rad; pi at idle interferometers. The matrix is the mesh's own
        for ``both``; for ``upper``, that of a mesh built so.

    Raises:
        ValueError: ``arms`` is unknown.
    """
    choice("arms", arms, ARMS)
    own = values(mesh, phases)
    low = from_values(mesh, np.broadcast_to(lowest, own.shape))
    theta, phi, gamma = from_values(mesh, own)
    turned = _within(theta, low.theta)
    excess = theta / 2 if arms == "upper" else (turned - theta) / 2
    lacking = np.zeros(mesh.units)
    for column in reversed(range(mesh.num_columns)):
        active = np.flatnonzero(mesh.mask[column])
        upper = 2 * active + column % 2
        phi[column, active] += lacking[upper] - lacking[upper + 1]
        lacking[upper] = lacking[upper + 1] = lacking[upper + 1] - excess[column, active]
    return Phases(turned, _within(phi, low.phi), _within(gamma + lacking, low.gamma))


def _within(phases: np.ndarray, lowest: np.ndarray) -> np.ndarray:
    """Turn phases into [lowest, lowest + 2 pi); a rounding below the lowest is the lowest."""
    turns = np.floor((phases - lowest + _ROUNDING) / _TURN)
    return np.maximum(phases - _TURN * turns, lowest)
