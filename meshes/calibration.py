"""Voltages for phases: the shifters of a mesh, heater laws and measured curves, calibration files.

A calibration is one `Curve` for all shifters of a chip, or a mapping of each `Shifter` to a curve.
"""

from __future__ import annotations

import csv
import math
import os
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from meshes.angles import LARGE, reduced
from meshes.engines import upper_port
from meshes.files import DataError, open_npz
from meshes.mesh import Phases, RectangularMesh, in_front, to_input
from meshes.tables import read_table, whole
from meshes.validation import check_fields, choice, number_field, printable, quoted

ARMS = ("both", "upper")
_TURN = 2 * math.pi
_LEAST_VOLTS, _MOST_VOLTS = 1e-9, 1e6
_MAX_BYTES = 2**24  # of a calibration file: rows take 30 times the memory
_KEPT = 1e-6  # rad by which a frozen phase may seem to move
_MOST_EQUATIONS = 2**22  # numbers in the equations for signs: seconds to solve
_MOST_SIGNS = 2**28  # signs to follow through the mesh for the equations: seconds
_ROUNDING = 1e-9  # rad: a phase less than this below the lowest counts as the lowest


class Shifter(NamedTuple):
    """The position of a phase shifter on a chip."""

    mesh: int  # from 1
    column: int | None  # from 0; None for gamma, which stands before all columns
    interferometer: int | None  # in its column, from 0; None for gamma
    shifter: str  # theta, phi or gamma
    ports: str  # u-v, from 0, with phi on u; for gamma its port

    def __str__(self) -> str:
        place = "" if self.column is None else f" in column {self.column}"
        return f"{self.shifter} of mesh {self.mesh}{place}, ports {self.ports}"


def shifters(mesh: RectangularMesh, number: int = 1) -> list[Shifter]:
    """The phase shifters of the mesh with this number on its chip, in the order of `values`."""
    places = [
        (column, index, f"{(upper := upper_port(column, index))}-{upper + 1}")
        for column, index in np.argwhere(mesh.mask).tolist()
    ]
    inner = [
        Shifter(number, column, index, kind, ports)
        for kind in ("theta", "phi")
        for column, index, ports in places
    ]
    return inner + [Shifter(number, None, None, "gamma", str(port)) for port in range(mesh.units)]


def values(mesh: RectangularMesh, phases: Phases) -> np.ndarray:
    """One set of phases as a flat array, rad: all theta, then phi, by column, then gamma."""
    theta, phi, gamma = (np.asarray(x, np.float64) for x in phases)
    return np.concatenate([theta[mesh.mask], phi[mesh.mask], gamma])


def from_values(mesh: RectangularMesh, listed: np.ndarray) -> Phases:
    """The inverse of `values`: float64 phases, pi at idle interferometers."""
    count = int(mesh.mask.sum())
    theta, phi = np.full((2, *mesh.mask.shape), np.pi)
    theta[mesh.mask], phi[mesh.mask] = listed[:count], listed[count : 2 * count]
    return Phases(theta, phi, np.array(listed[2 * count :], np.float64))


def frozen_mask(mesh: RectangularMesh, frozen: Any, name: str = "frozen") -> Phases:
    """Which shifters do not move: ``frozen`` [L, M], [L, M] and [N], or none, and all idle ones."""
    idle, shape = ~mesh.mask, (mesh.units,)
    masks = (idle, idle, np.zeros(shape, bool))
    if frozen is None:
        return Phases(*masks)
    if not isinstance(frozen, (list, tuple)):
        raise TypeError(f"{name} must be Phases (theta, phi, gamma), got {quoted(frozen)}")
    if len(frozen) != len(masks):
        raise ValueError(f"{name} must be Phases (theta, phi, gamma), got {len(frozen)} arrays")
    parts = zip(Phases._fields, map(np.asarray, frozen), masks, strict=True)
    return Phases(*(_mask(f"{name}.{part}", mask, idle) | idle for part, mask, idle in parts))


def read_frozen(path: str | os.PathLike[str], meshes: Sequence[RectangularMesh]) -> list[Phases]:
    """Read which shifters of a chip's meshes do not move.

    A ``.npz`` file has any of the boolean arrays ``mesh1_theta``, ``mesh1_phi`` [L, M],
    ``mesh1_gamma`` [N], ``mesh2_theta``, ...; true: does not move. Shifters without one move.
    """
    masks = {
        f"mesh{number}_{part}": np.zeros(mask.shape, bool)
        for number, mesh in enumerate(meshes, start=1)
        for part, mask in frozen_mask(mesh, None)._asdict().items()
    }
    with open_npz(path, kinds="b") as archive:
        for name in archive.names:
            choice(f"{os.fspath(path)}: an array's name", name, masks)
            shape, _ = archive.header(name)
            if shape != masks[name].shape:
                raise DataError(
                    f"{path}: {name} must have shape {masks[name].shape}, found {shape}"
                )
            masks[name] = archive.read(name)
    listed = list(masks.values())
    return [Phases(*listed[first : first + 3]) for first in range(0, len(listed), 3)]


def _mask(name: str, mask: np.ndarray, like: np.ndarray) -> np.ndarray:
    if mask.dtype != bool or mask.shape != like.shape:
        raise ValueError(
            f"{name} must be booleans of shape {like.shape}, got {mask.dtype} of {mask.shape}"
        )
    return mask


def within_a_turn(
    mesh: RectangularMesh,
    phases: Phases,
    lowest: Any = 0.0,
    arms: str = "both",
    frozen: Any = None,
    number: int = 1,
    ideal: bool = True,
) -> Phases:
    r"""Phases in [lowest, lowest + 2 pi) that give the same matrix.

    Subtracting a turn does not matter to phi and gamma, but it does to theta: with theta / 2 in one
    arm and -theta / 2 in the other, a turn multiplies both ports by -1. A shifter in the upper arm
    alone multiplies both by exp(i theta / 2) at any theta. Such a factor exp(i kappa) moves to the
    input of the interferometer and from there into earlier phi:

    .. math:: \phi' = \phi + a - b, \qquad a' = b' = b - \kappa

    with the phases a, b that both outputs lack; gamma takes what remains at the first column.
    (Crosstalk depends on the phases themselves, so it differs afterwards.) Where a factor would
    move a frozen shifter, other thetas of an ideal mesh are mirrored, see `_mirrored`.

    Args:
        mesh, phases: a mesh and its phases, rad.
        lowest: the lowest phase of all shifters, or of each in the order of `values`, rad.
        arms: where theta shifters will be: in ``both`` arms with opposite signs (Neurophox's
            convention) or in the ``upper`` arm only.
        frozen: Phases of booleans, true for shifters that do not move, but for whole turns of phi
            and gamma; idle ones may be either.
        number: that of the mesh on its chip, for errors.
        ideal: whether the chip has the couplers and the phases of the mesh, without errors; if
            not, only whole turns leave its light unchanged, and no theta is mirrored.

    Raises:
        ValueError: no phases within a turn give the matrix and leave the frozen shifters alone.
    """
    choice("arms", arms, ARMS)
    still = frozen_mask(mesh, frozen)
    listed = reduced(values(mesh, phases))
    low = from_values(mesh, np.broadcast_to(lowest, listed.shape))
    original = from_values(mesh, listed)
    turned = _all_within_a_turn(mesh, original, low, arms)
    wrong = _displaced(mesh, original, turned, still, arms)
    if wrong.any() and ideal and arms == "both" and mesh.splitter_errors is None:
        turned = _all_within_a_turn(mesh, _mirrored(mesh, original, low, still, turned), low, arms)
        wrong = _displaced(mesh, original, turned, still, arms)
    if wrong.any():
        names = [str(name) for name in shifters(mesh, number)]
        first, *more = (names[place] for place in np.flatnonzero(wrong))
        raise ValueError(
            "frozen must allow phases within a turn, but the matrix then needs another phase of "
            + first
            + f" (and {len(more)} more)" * bool(more)
        )
    return turned


def _all_within_a_turn(mesh: RectangularMesh, original: Phases, low: Phases, arms: str) -> Phases:
    """The same matrix from phases within a turn, whichever shifters have to move for it."""
    theta = _in_turn_above(original.theta, low.theta)
    common_phase = original.theta / 2 if arms == "upper" else (theta - original.theta) / 2
    phi, at_input = to_input(mesh, original.phi, in_front(mesh, -common_phase, -common_phase))
    gamma = original.gamma + at_input
    return Phases(theta, _in_turn_above(phi, low.phi), _in_turn_above(gamma, low.gamma))


def _displaced(
    mesh: RectangularMesh, original: Phases, turned: Phases, still: Phases, arms: str
) -> np.ndarray:
    """Which of the shifters, in the order of `values`, are frozen and have another phase now.

    That of a theta in both arms counts modulo two turns.
    """
    period = np.full(len(values(mesh, original)), _TURN)
    if arms == "both":
        period[: mesh.mask.sum()] *= 2
    apart = values(mesh, turned) - values(mesh, original)
    apart -= period * np.round(apart / period)
    return (values(mesh, still) != 0) & (np.abs(apart) > _KEPT)


def _mirrored(
    mesh: RectangularMesh, original: Phases, low: Phases, still: Phases, turned: Phases
) -> Phases:
    r"""The same matrix by mirrored thetas, such that frozen shifters stay within a turn.

    An ideal interferometer H(theta) is H(2 pi - theta) with signs at its upper input and output.
    As all that moves are signs, the thetas to mirror follow from linear equations modulo 2, one
    for each frozen phi and gamma. Phases stay as they are where these have no solution.
    """
    places = np.argwhere(mesh.mask & ~still.theta)
    kept = np.concatenate([still.phi[mesh.mask], still.gamma])
    signs = len(places) * mesh.mask.size
    if len(places) * kept.sum() > _MOST_EQUATIONS or signs > _MOST_SIGNS:
        return original
    mirror = _TURN - original.theta
    turn, other = (theta - _in_turn_above(theta, low.theta) for theta in (original.theta, mirror))
    odd = np.round((turn - other) / _TURN).astype(int) % 2
    columns = [(column, places[places[:, 0] == column, 1]) for column in range(len(odd))]
    effects = np.concatenate([_signs(mesh, *column, odd)[:, kept] for column in columns])
    apart = (values(mesh, turned) - values(mesh, original))[mesh.mask.sum() :]
    wanted = np.round(apart / np.pi).astype(int) % 2
    chosen = _sum_modulo_2(effects, wanted[kept])
    flips = np.zeros(mesh.mask.shape)
    flips[tuple(places[chosen].T)] = np.pi
    theta = np.where(flips, mirror, original.theta)
    phi, moved = to_input(mesh, original.phi + flips, in_front(mesh, flips, np.zeros_like(flips)))
    return Phases(theta, phi, original.gamma + moved)


def _signs(mesh: RectangularMesh, column: int, indices: np.ndarray, odd: np.ndarray) -> np.ndarray:
    """Which phi and gamma change their sign [V, count] if one of V thetas is mirrored.

    ``odd`` [L, M] tells where a mirrored theta takes a turn more or less.
    """
    each, upper = np.arange(len(indices)), upper_port(column, indices)
    screens = np.zeros((len(indices), mesh.num_columns + 1, mesh.units), np.int16)
    screens[each, column, upper + 1] = odd[column, indices]
    screens[each, column, upper] = 1 + odd[column, indices]
    phi = np.zeros((len(indices), *mesh.mask.shape), np.int16)
    phi[each, column, indices] = 1
    phi, gamma = to_input(mesh, phi, screens)
    return np.concatenate([phi[:, mesh.mask], gamma], axis=1) % 2 == 1


def _sum_modulo_2(rows: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Which rows [V, E] add up to ``wanted`` [E] modulo 2, by elimination; none if none do."""
    system = np.column_stack([rows.T, wanted == 1])  # an equation a row
    chosen = np.zeros(len(rows), int) - 1  # the equation that decides on each
    for number, equation in enumerate(system):
        if not equation[:-1].any():
            if equation[-1]:
                return np.zeros(len(rows), bool)
            continue
        pivot = int(equation.argmax())
        others = system[:, pivot] & (np.arange(len(system)) != number)
        system[others] ^= equation
        chosen[pivot] = number
    return (chosen >= 0) & system[chosen, -1]


def _in_turn_above(phases: np.ndarray, lowest: np.ndarray) -> np.ndarray:
    turns = np.floor((phases - lowest + _ROUNDING) / _TURN)
    rest = np.maximum(phases - _TURN * turns, lowest)
    return np.where(rest < lowest + _TURN, rest, lowest)  # rounding may end a turn higher


class Curve(ABC):
    """The phase of a shifter as a rising function of its voltage."""

    @property
    @abstractmethod
    def reach(self) -> tuple[float, float]:
        """The lowest and the highest phase, rad."""

    @abstractmethod
    def phase(self, voltage: Any) -> np.ndarray:
        """The phases, rad, at voltages of any shape, V. An error if a voltage is out of range."""

    @abstractmethod
    def _inverse(self, phase: np.ndarray) -> np.ndarray:
        """The voltages for phases within `reach`."""

    def voltage(self, phase: Any) -> np.ndarray:
        """The lowest voltages, V, for phases of any shape, rad, modulo 2 pi."""
        low, high = self.reach
        phase = np.asarray(phase, np.float64)
        if not np.isfinite(phase).all():
            raise ValueError("phase must be finite, got inf or nan")
        above = np.mod(reduced(phase) - low, _TURN)
        target = low + np.where(above < _TURN - _ROUNDING, above, 0.0)
        if (target > high + _ROUNDING).any():
            raise ValueError(
                f"phase must be from {low:.6g} to {high:.6g} rad modulo 2 pi, which this "
                f"calibration reaches, got {phase[target > high].flat[0]:.6g}"
            )
        return self._inverse(np.minimum(target, high))


@dataclass(frozen=True)
class HeaterLaw(Curve):
    r"""A heater: its phase (rad) grows with the electrical power V^2 / R up to max_voltage (V).

    .. math:: \phi = \phi_0 + \pi (V / V_\pi)^2

    Reference: Harris et al., "Efficient, compact and low loss thermo-optic phase shifter in
    silicon", Opt. Express 22 (2014) 10487.
    """

    v_pi: float = number_field(above=0.0)
    phase_0: float = number_field(0.0, minimum=-LARGE, maximum=LARGE)
    max_voltage: float | None = number_field(None, above=0.0)

    def __post_init__(self) -> None:
        check_fields(self)
        if self.v_pi < _LEAST_VOLTS:  # numbers near the smallest have few digits
            raise ValueError(f"v_pi must be at least {_LEAST_VOLTS:g}, got {self.v_pi:g}")

    @property
    def _limit(self) -> float:
        return math.inf if self.max_voltage is None else self.max_voltage

    @property
    def reach(self) -> tuple[float, float]:
        turns = self._limit / self.v_pi
        return self.phase_0, self.phase_0 + math.pi * turns * turns  # a power could overflow

    def phase(self, voltage: Any) -> np.ndarray:
        """The phases, rad; the sign of a voltage does not matter."""
        voltage = _within("voltage", voltage, -self._limit, self._limit)
        return self.phase_0 + math.pi * (voltage / self.v_pi) ** 2

    def _inverse(self, phase: np.ndarray) -> np.ndarray:
        return self.v_pi * np.sqrt((phase - self.phase_0) / math.pi)


@dataclass(frozen=True, eq=False)
class MeasuredCurve(Curve):
    """Measured voltages [K], V, and unwrapped phases [K], rad; a monotone cubic between (PCHIP).

    Reference: Fritsch and Butland, "A method for constructing local monotone piecewise cubic
    interpolants", SIAM J. Sci. Stat. Comput. 5 (1984) 300.
    """

    voltages: Sequence[float]
    phases: Sequence[float]

    def __post_init__(self) -> None:
        for name, limit in (("voltages", _MOST_VOLTS), ("phases", LARGE)):
            object.__setattr__(self, name, _increasing(name, getattr(self, name), limit))
        if len(self.voltages) != len(self.phases):
            counts = f"{len(self.voltages)} and {len(self.phases)}"
            raise ValueError(f"voltages and phases must be equally many, got {counts}")
        with np.errstate(over="ignore", divide="ignore"):
            cubic = np.diff(self.phases) / np.diff(self.voltages) ** 3
        if not np.isfinite(cubic).all():
            nearest = np.diff(self.voltages).min()
            raise ValueError(f"voltages must not be as near as {nearest:g} V")

    @property
    def reach(self) -> tuple[float, float]:
        return float(self.phases[0]), float(self.phases[-1])

    def phase(self, voltage: Any) -> np.ndarray:
        """The phases, rad, at voltages between the first and the last measured one."""
        return self._interpolant(_within("voltage", voltage, self.voltages[0], self.voltages[-1]))

    @property
    def _interpolant(self) -> Any:
        from scipy.interpolate import PchipInterpolator  # slow to import, rarely needed

        return PchipInterpolator(self.voltages, self.phases)

    def _inverse(self, phase: np.ndarray) -> np.ndarray:
        from scipy.optimize.elementwise import find_root

        curve, voltages = self._interpolant, np.asarray(self.voltages)
        # The two measured points around each phase bracket its voltage.
        right = np.clip(np.searchsorted(self.phases, phase), 1, len(voltages) - 1)
        bracket = (voltages[right - 1], voltages[right])
        # The curve may be rounded to either side of a measured point, where no sign then changes.
        ends = curve(bracket[0]), curve(bracket[1])
        target = np.clip(phase, *ends)
        return find_root(lambda v, target: curve(v) - target, bracket, args=(target,)).x


def _increasing(name: str, values: Any, limit: float) -> np.ndarray:
    values = np.array(values, np.float64)
    if values.ndim != 1 or len(values) < 2:
        raise ValueError(f"{name} must be [K] with K of at least 2, got {values.shape}")
    if not np.isfinite(values).all():
        raise ValueError(f"{name} must be finite, got inf or nan")
    if (far := values[np.abs(values).argmax()]) and abs(far) > limit:
        raise ValueError(f"{name} must be from {-limit:g} to {limit:g}, got {far:g}")
    if (falls := np.flatnonzero(np.diff(values) <= 0)).size:
        first, second = values[falls[0] : falls[0] + 2]
        raise ValueError(f"{name} must increase, got {second:g} after {first:g}")
    return values


def _within(name: str, values: Any, low: float, high: float) -> np.ndarray:
    values = np.asarray(values, np.float64)
    outside = values[~((low <= values) & (values <= high))]
    if outside.size:
        raise ValueError(f"{name} must be from {low:g} to {high:g}, got {outside[0]:g}")
    return values


Calibration = Curve | Mapping[Shifter, Curve]


def lowest_phases(calibration: Calibration, names: Sequence[Shifter]) -> np.ndarray:
    """The lowest phase of each shifter, rad."""
    return np.array([_curve(calibration, name).reach[0] for name in names])


def voltages(calibration: Calibration, names: Sequence[Shifter], phases: np.ndarray) -> np.ndarray:
    """The lowest voltages, V, that set these shifters to these phases, rad, modulo 2 pi."""
    if isinstance(calibration, Curve):
        with suppress(ValueError):  # the first shifter that it does not fit is named below
            return calibration.voltage(phases)
    result = np.empty(len(names))
    for index, (name, phase) in enumerate(zip(names, phases, strict=True)):
        with _located(name):
            result[index] = _curve(calibration, name).voltage(phase)
    return result


@contextmanager
def _located(place: Any) -> Iterator[None]:
    """Prefix the messages of errors with a place, if there is one and they do not name theirs."""
    try:
        yield
    except DataError:
        raise
    except (ValueError, OSError, csv.Error) as error:
        message = printable(str(error))  # a file's header may hold any characters
        raise ValueError(f"{place}: {message}" if place else message) from None


def _curve(calibration: Calibration, name: Shifter) -> Curve:
    if isinstance(calibration, Curve):
        return calibration
    if name not in calibration:
        raise ValueError(f"calibration must hold every shifter, found none for {name}")
    return calibration[name]


def check_shifters(calibration: Calibration, names: Iterable[Shifter]) -> None:
    """Refuse curves of shifters that a chip with these does not have."""
    if isinstance(calibration, Curve):
        return
    if unknown := calibration.keys() - set(names):
        raise ValueError(
            f"calibration must hold shifters of this chip alone, found {min(unknown, key=str)}"
        )


def read_calibration(path: str | os.PathLike[str]) -> Calibration:
    """Read a calibration from a CSV file with a header.

    The columns ``voltage_V, phase_rad`` are a measured curve; ``v_pi_V, phase_0_rad`` a heater law.
    If the file also has the columns ``mesh, column, interferometer, shifter, ports`` of an exported
    phases.csv, each shifter has its own curve; a measured one takes several rows.
    """
    curves: dict[Any, Curve] = {}
    points: dict[Shifter | None, list[list[float]]] = defaultdict(list)
    reader = read_table(path, "a calibration", _MAX_BYTES)
    with _located(f"calibration {os.fspath(path)}"):
        columns = _columns(reader.fieldnames or ())
        for row in reader:
            with _located(f"line {reader.line_num}"):
                points[_shifter(row)].append([_number(row, name) for name in columns])
        if not points:
            raise ValueError("must have a row below its header, found none")
        for name, rows in points.items():
            with _located(name):
                curves[name] = _curve_from(columns, rows)
    return curves.get(None, curves)


_MEASURED, _HEATER_LAW = ("voltage_V", "phase_rad"), ("v_pi_V", "phase_0_rad")


def _columns(header: Sequence[str]) -> tuple[str, str]:
    """The two columns that hold the curves."""
    named = [name for name in Shifter._fields if name in header]
    if named and len(named) < len(Shifter._fields):
        every = ", ".join(Shifter._fields)
        raise ValueError(f"must have all columns {every} or none, found {', '.join(named)}")
    for names in (_MEASURED, _HEATER_LAW):
        if set(names) <= set(header):
            return names
    raise ValueError(
        "must have the columns voltage_V and phase_rad, or v_pi_V and phase_0_rad, found "
        f"{', '.join(header) or 'none'}"
    )


def _curve_from(columns: tuple[str, str], rows: list[list[float]]) -> Curve:
    if columns == _MEASURED:
        return MeasuredCurve(*zip(*rows, strict=True))
    if len(rows) > 1:
        raise ValueError(f"a heater's law takes one row a shifter, found {len(rows)}")
    return HeaterLaw(*rows[0])


def _shifter(row: Mapping[str, str]) -> Shifter | None:
    """The shifter that a row belongs to; None if the file names no shifters."""
    if "mesh" not in row:
        return None
    kind, mesh = choice("shifter", row["shifter"], Phases._fields), whole("mesh", row["mesh"], 1)
    if kind == "gamma":
        for name in ("column", "interferometer"):
            if row[name]:
                raise ValueError(f"{name} must be empty for gamma, found {row[name]!r}")
        return Shifter(mesh, None, None, kind, str(whole("ports", row["ports"], 0)))
    column, index = (whole(name, row[name], 0) for name in ("column", "interferometer"))
    upper = upper_port(column, index)
    if row["ports"] != (ports := f"{upper}-{upper + 1}"):
        place = f"column {column}, interferometer {index}"
        raise ValueError(f"ports must be {ports} in {place}, found {row['ports']!r}")
    return Shifter(mesh, column, index, kind, ports)


def _number(row: Mapping[str, str], name: str) -> float:
    try:
        return float(row[name])
    except ValueError:
        raise ValueError(f"{name} must be a number, found {row[name]!r}") from None
