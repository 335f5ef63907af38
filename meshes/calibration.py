"""From phases to the voltages that make them: heater laws and measured curves.

A calibration is one `Curve` for all shifters of a chip, or one for each `Shifter`.
"""

from __future__ import annotations

import csv
import math
import os
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from meshes.mesh import Phases, RectangularMesh
from meshes.validation import choice, number

_TURN = 2 * math.pi
_ROUNDING = 1e-9  # rad: a target this little below the lowest phase is that phase
ARMS = ("both", "upper")


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
    turned = _in_turn_above(theta, low.theta)
    excess = theta / 2 if arms == "upper" else (turned - theta) / 2
    lacking = np.zeros(mesh.units)
    for column in reversed(range(mesh.num_columns)):
        active = np.flatnonzero(mesh.mask[column])
        upper = 2 * active + column % 2
        phi[column, active] += lacking[upper] - lacking[upper + 1]
        lacking[upper] = lacking[upper + 1] = lacking[upper + 1] - excess[column, active]
    return Phases(turned, _in_turn_above(phi, low.phi), _in_turn_above(gamma + lacking, low.gamma))


def _in_turn_above(phases: np.ndarray, lowest: np.ndarray) -> np.ndarray:
    """Turn phases into [lowest, lowest + 2 pi); a rounding below the lowest is the lowest."""
    turns = np.floor((phases - lowest + _ROUNDING) / _TURN)
    return np.maximum(phases - _TURN * turns, lowest)


class Curve(ABC):
    """How a shifter's phase rises with its voltage."""

    @property
    @abstractmethod
    def reach(self) -> tuple[float, float]:
        """The lowest and the highest phase, rad."""

    @abstractmethod
    def phase(self, voltage: Any) -> np.ndarray:
        """The phases, rad, that voltages of any shape make, V.

        Raises:
            ValueError: a voltage is out of range.
        """

    @abstractmethod
    def _inverse(self, phase: np.ndarray) -> np.ndarray:
        """The voltages of phases within reach."""

    def voltage(self, phase: Any) -> np.ndarray:
        """The lowest voltages, V, that make phases of any shape, rad, modulo 2 pi.

        Raises:
            ValueError: a phase is not finite, or out of reach.
        """
        low, high = self.reach
        phase = np.asarray(phase, np.float64)
        if not np.isfinite(phase).all():
            raise ValueError("phase must be finite, got inf or nan")
        above = np.mod(phase - low, _TURN)
        target = low + np.where(above < _TURN - _ROUNDING, above, 0.0)
        if (target > high + _ROUNDING).any():
            raise ValueError(
                f"phase must be from {low:.6g} to {high:.6g} rad modulo 2 pi, which is what this "
                f"calibration reaches, got {phase[target > high].flat[0]:.6g}"
            )
        return self._inverse(np.minimum(target, high))


@dataclass(frozen=True)
class HeaterLaw(Curve):
    r"""A heater whose phase follows the electrical power V^2 / R.

    .. math:: \phi = \phi_0 + \pi (V / V_\pi)^2

    Args:
        v_pi: Voltage that adds a phase of pi, V, above 0.
        phase_0: Phase without a voltage, rad.
        max_voltage: Highest voltage of the drive, V; None for any.

    Raises:
        TypeError, ValueError: a value is not a number or out of range.

    Reference:
        Harris et al., "Efficient, compact and low loss thermo-optic phase shifter in silicon",
        Opt. Express 22 (2014) 10487.
    """

    v_pi: float
    phase_0: float = 0.0
    max_voltage: float | None = None

    def __post_init__(self) -> None:
        number("v_pi", self.v_pi, above=0.0)
        number("phase_0", self.phase_0)
        if self.max_voltage is not None:
            number("max_voltage", self.max_voltage, above=0.0)

    @property
    def _limit(self) -> float:
        return math.inf if self.max_voltage is None else self.max_voltage

    @property
    def reach(self) -> tuple[float, float]:
        """The phases without a voltage and at the highest, rad."""
        return self.phase_0, self.phase_0 + math.pi * (self._limit / self.v_pi) ** 2

    def phase(self, voltage: Any) -> np.ndarray:
        """The phases, rad; a voltage's sign does not matter."""
        voltage = _within("voltage", voltage, -self._limit, self._limit)
        return self.phase_0 + math.pi * (voltage / self.v_pi) ** 2

    def _inverse(self, phase: np.ndarray) -> np.ndarray:
        return self.v_pi * np.sqrt((phase - self.phase_0) / math.pi)


@dataclass(frozen=True, eq=False)
class MeasuredCurve(Curve):
    """Measured pairs of voltage and phase, with a monotone cubic (PCHIP) between them.

    Args:
        voltages: K voltages, V, increasing.
        phases: K phases, rad, increasing too: unwrapped.

    Raises:
        ValueError: the lengths differ or are below 2, or a value is not finite or no larger than
            the one before.

    Reference:
        Fritsch and Butland, "A method for constructing local monotone piecewise cubic
        interpolants", SIAM J. Sci. Stat. Comput. 5 (1984) 300.
    """

    voltages: Sequence[float]
    phases: Sequence[float]

    def __post_init__(self) -> None:
        for name in ("voltages", "phases"):
            values = np.array(getattr(self, name), np.float64)
            object.__setattr__(self, name, values)
            if values.ndim != 1 or len(values) < 2:
                raise ValueError(f"{name} must be [K] with K of at least 2, got {values.shape}")
            if not np.isfinite(values).all():
                raise ValueError(f"{name} must be finite, got inf or nan")
            if (falls := np.flatnonzero(np.diff(values) <= 0)).size:
                first, second = values[falls[0] : falls[0] + 2]
                raise ValueError(f"{name} must increase, got {second:g} after {first:g}")
        if len(self.voltages) != len(self.phases):
            raise ValueError(
                f"voltages and phases must be equally many, got {len(self.voltages)} and "
                f"{len(self.phases)}"
            )

    @property
    def reach(self) -> tuple[float, float]:
        """The first and the last phase, rad."""
        return float(self.phases[0]), float(self.phases[-1])

    def phase(self, voltage: Any) -> np.ndarray:
        """The phases, rad, of voltages within those measured."""
        return self._interpolant(_within("voltage", voltage, self.voltages[0], self.voltages[-1]))

    @property
    def _interpolant(self) -> Any:
        from scipy.interpolate import PchipInterpolator  # slow to import, rarely needed

        return PchipInterpolator(self.voltages, self.phases)

    def _inverse(self, phase: np.ndarray) -> np.ndarray:
        from scipy.optimize.elementwise import find_root

        curve = self._interpolant
        # One bracket an element: the two measured points around it.
        right = np.clip(np.searchsorted(self.phases, phase), 1, len(self.phases) - 1)
        voltages = np.asarray(self.voltages)
        bracket = (voltages[right - 1], voltages[right])
        return find_root(lambda v, target: curve(v) - target, bracket, args=(phase,)).x


Calibration = Curve | Mapping[Shifter, Curve]


def lowest_phases(calibration: Calibration, names: Sequence[Shifter]) -> np.ndarray:
    """The lowest phase, rad, that each of some shifters reaches.

    Raises:
        ValueError: a shifter is not calibrated.
    """
    if isinstance(calibration, Curve):
        return np.full(len(names), calibration.reach[0])
    return np.array([_curve(calibration, name).reach[0] for name in names])


def voltages(calibration: Calibration, names: Sequence[Shifter], phases: np.ndarray) -> np.ndarray:
    """The lowest voltages, V, with which shifters make phases, rad, modulo 2 pi.

    Raises:
        ValueError: a shifter is not calibrated, or a phase is out of its reach.
    """
    if isinstance(calibration, Curve):
        return calibration.voltage(phases)
    found = np.empty(len(names))
    for index, (name, phase) in enumerate(zip(names, phases, strict=True)):
        try:
            found[index] = _curve(calibration, name).voltage(phase)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
    return found


def _curve(calibration: Mapping[Shifter, Curve], name: Shifter) -> Curve:
    if name not in calibration:
        raise ValueError(f"calibration must hold every shifter, found none for {name}")
    return calibration[name]


def read_calibration(path: str | os.PathLike[str]) -> Calibration:
    """Read a calibration from a CSV file with a header.

    Columns ``voltage_V, phase_rad`` hold a measured curve, ``v_pi_V, phase_0_rad`` a heater's law.
    With ``mesh, column, interferometer, shifter, ports`` besides, as an export has them, every
    shifter has its own; a measured one takes several rows.

    Returns:
        A curve for all shifters, or one for each.

    Raises:
        ValueError: the file cannot be read, lacks a column, or holds something that is no curve.
    """
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            make, columns = _kind(reader.fieldnames or ())
            points: dict[Shifter | None, list[list[float]]] = defaultdict(list)
            for row in reader:
                points[_name(row)].append([_cell(row, name, float) for name in columns])
        if not points:
            raise ValueError("must have a row below its header, found none")
        curves = {name: _named(make, name, rows) for name, rows in points.items()}
    except (OSError, UnicodeDecodeError, csv.Error, ValueError) as error:
        raise ValueError(f"calibration {os.fspath(path)}: {error}") from None
    return curves[None] if None in curves else {k: v for k, v in curves.items() if k is not None}


def _kind(header: Sequence[str]) -> tuple[Any, tuple[str, str]]:
    """What the rows are: a function that makes a curve of them, and the columns it takes."""
    kind = next((kind for kind in _KINDS if set(kind[1]) <= set(header)), None)
    if kind is None:
        raise ValueError(
            "must have the columns voltage_V and phase_rad, or v_pi_V and phase_0_rad, found "
            f"{', '.join(header) or 'none'}"
        )
    named = [name for name in Shifter._fields if name in header]
    if named and len(named) < len(Shifter._fields):
        raise ValueError(
            f"must have all columns {', '.join(Shifter._fields)} or none of them, found "
            f"{', '.join(named)}"
        )
    return kind


def _law(rows: list[list[float]]) -> HeaterLaw:
    if len(rows) > 1:
        raise ValueError(f"a heater's law takes one row a shifter, found {len(rows)}")
    return HeaterLaw(*rows[0])


def _measured(rows: list[list[float]]) -> MeasuredCurve:
    return MeasuredCurve(*zip(*rows, strict=True))


_KINDS = ((_measured, ("voltage_V", "phase_rad")), (_law, ("v_pi_V", "phase_0_rad")))


def _name(row: Mapping[str, str]) -> Shifter | None:
    """The shifter that a row is of; None if the file names none."""
    if "mesh" not in row:
        return None
    column, index = (_cell(row, k, int) if row[k] else None for k in ("column", "interferometer"))
    return Shifter(_cell(row, "mesh", int), column, index, row["shifter"], row["ports"])


def _cell(row: Mapping[str, str], name: str, kind: type) -> Any:
    try:
        return kind(row[name])
    except (TypeError, ValueError):
        raise ValueError(f"{name} must be a number, found {row[name]!r}") from None


def _named(make: Any, name: Shifter | None, rows: list[list[float]]) -> Curve:
    try:
        return make(rows)
    except ValueError as error:
        raise ValueError(f"{name}: {error}" if name else str(error)) from None


def _within(name: str, values: Any, low: float, high: float) -> np.ndarray:
    values = np.asarray(values, np.float64)
    if not ((low <= values) & (values <= high)).all():
        raise ValueError(
            f"{name} must be from {low:g} to {high:g}, got a range from {values.min():g} to "
            f"{values.max():g}"
        )
    return values
