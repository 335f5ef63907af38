r"""What is known of a fabricated chip: offsets, couplers and losses, with their uncertainties.

Intensities do not show everything. Nobody sees a phase at an output port. If both outputs of an
interferometer turn by the same phase, its inputs could as well, so that such phases can stand
further inside, too. A mesh of N ports has N of these freedoms: N parameters can be set at will, and
intensities determine the others. `unseen` names those that are set to 0: phi of the last two
columns and gamma of port 0. Losses have freedoms of the same kind, as a loss that both outputs of
an interferometer share could be one of both inputs.
"""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from meshes.angles import wrapped
from meshes.engines import upper_port
from meshes.files import DataError, open_npz, reading, write_whole
from meshes.imperfections import Chip
from meshes.mesh import Phases, RectangularMesh, in_front, to_input, upper_ports
from meshes.tables import read_table, whole
from meshes.validation import choice, integer, refuse_masked

MOST_PLACES = 2**22
"""Largest number of ports times columns of an estimate."""


class MeshParameters(NamedTuple):
    """One number for each part of a mesh of N ports, L columns and M = N // 2 interferometers."""

    theta: Any  # offsets of the internal phases [L, M], rad
    phi: Any  # offsets of the external phases [L, M], rad
    gamma: Any  # offsets of the input phases [N], rad
    coupler1: Any  # errors of the first couplers' angles [L, M], rad
    coupler2: Any  # errors of the second couplers' angles [L, M], rad
    loss: Any  # losses of power at each port after each column [L, N], dB

    @staticmethod
    def shapes(units: int, columns: int) -> MeshParameters:
        """The shape of each array."""
        grid = (columns, units // 2)
        return MeshParameters(grid, grid, (units,), grid, grid, (columns, units))


@dataclass(frozen=True, eq=False)
class MeshEstimate:
    """What is known of one mesh; float64 arrays.

    Attributes:
        values: The estimated parameters; 0 where nothing is known.
        std: Their standard deviations; infinite where nothing is known.
    """

    values: MeshParameters
    std: MeshParameters

    @property
    def units(self) -> int:
        """Ports N."""
        return len(self.values.gamma)

    @property
    def columns(self) -> int:
        """Columns L."""
        return len(self.values.theta)

    @cached_property
    def mesh(self) -> RectangularMesh:
        """The mesh with the estimated couplers and losses."""
        couplers = np.stack([self.values.coupler1, self.values.coupler2])
        transmission = 10.0 ** (-self.values.loss / 20.0)
        return RectangularMesh.measured(
            self.units,
            self.columns,
            couplers if couplers.any() else None,
            transmission if self.values.loss.any() else None,
        )

    @property
    def offsets(self) -> Phases:
        """The estimated offset of each phase, rad."""
        return Phases(*self.values[:3])

    def matrix(self, phases: Phases) -> np.ndarray:
        """The matrix [N, N] that one set of phases makes on the mesh that is known."""
        return np.asarray(self.mesh.matrix(shifted(phases, self.offsets)))


def shifted(phases: Phases, offsets: Phases) -> Phases:
    """Phases plus offsets, in double precision."""
    both = zip(phases, offsets, strict=True)
    return Phases(*(np.asarray(phase, np.float64) + offset for phase, offset in both))


@dataclass(frozen=True, eq=False)
class ChipEstimate:
    """What is known of a chip: a `MeshEstimate` for each of its meshes, all of one size.

    Files have the arrays ``mesh1_theta``, ``mesh1_theta_std``, ``mesh1_phi``, ... of
    `MeshParameters`; a table (CSV) has a row for each interferometer, input port and port of a
    column, and the columns ``theta``, ``theta_std``, .... Phases and angles are in rad, losses in
    dB.
    """

    meshes: tuple[MeshEstimate, ...]

    def __post_init__(self) -> None:
        sizes = {(mesh.units, mesh.columns) for mesh in self.meshes}
        if len(sizes) != 1:
            raise ValueError(f"meshes must be one or more of one size, got {sorted(sizes)}")

    @property
    def units(self) -> int:
        """Ports N."""
        return self.meshes[0].units

    @property
    def columns(self) -> int:
        """Columns L of each mesh."""
        return self.meshes[0].columns

    @classmethod
    def known(
        cls, units: int, columns: int | None = None, meshes: int = 1, **arrays: Any
    ) -> ChipEstimate:
        """An estimate of what was measured; nothing is known of the rest.

        Args:
            units: Ports N.
            columns: Columns L of each mesh; N if None.
            meshes: Number of meshes.
            **arrays: Any of ``mesh1_theta``, ``mesh1_theta_std``, ..., as arrays or as one number
                for all places. Values without a ``_std`` count as exact.
        """
        integer("units", units, minimum=2)
        columns = units if columns is None else integer("columns", columns, minimum=1)
        _check_places("units times columns", units * columns * integer("meshes", meshes, minimum=1))
        return cls(_from_arrays(units, columns, meshes, arrays))

    @classmethod
    def of_chips(cls, chips: Iterable[Chip]) -> ChipEstimate:
        """All that is true of simulated chips, one for each mesh, with no uncertainty."""
        return cls(tuple(map(_exact, chips)))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> ChipEstimate:
        """Read a file of `save`, or one of the same form in which arrays may lack.

        A ``.npz`` file must hold ``mesh1_gamma`` or ``mesh1_loss``, which say how many ports there
        are; without an array of columns there are as many as ports.
        """
        return cls(_FORMATS[_format(path)][0](Path(path)))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a ``.npz`` or a ``.csv`` file."""
        write = _FORMATS[_format(path)][1]
        write_whole(Path(path), lambda file: write(self, file))

    def arrays(self) -> dict[str, np.ndarray]:
        """All arrays by the names that they have in a file."""
        return {
            f"mesh{number}_{name}{suffix}": array
            for number, mesh in enumerate(self.meshes, start=1)
            for suffix, part in (("", mesh.values), ("_std", mesh.std))
            for name, array in part._asdict().items()
        }

    def check_fits(self, units: int, columns: int, meshes: int) -> None:
        """Refuse to stand for a chip of another size."""
        sizes = (self.units, self.columns, len(self.meshes))
        if sizes != (units, columns, meshes):
            raise ValueError(
                f"chip_estimate must be of {units} ports, {columns} columns and {meshes} meshes, "
                "found {} ports, {} columns and {} meshes".format(*sizes)
            )


def unseen(mesh: RectangularMesh) -> MeshParameters:
    """Where intensities leave a parameter free: boolean arrays.

    These are N phases: phi of the last two columns and gamma of port 0, or of one port of each
    interferometer if there is one column. Idle interferometers are true everywhere.
    """
    idle = ~mesh.mask
    phi, gamma = idle.copy(), np.zeros(mesh.units, bool)
    phi[-2:] = True
    gamma[0] = True
    if mesh.num_columns == 1:
        gamma[::2] = True  # also an unpaired last port's
    return MeshParameters(idle, phi, gamma, idle, idle, np.zeros((len(idle), mesh.units), bool))


def difference(estimate: MeshEstimate, truth: MeshEstimate) -> MeshParameters:
    """How far an estimate is off, as far as intensities can show; nan where either is unknown.

    What no intensity shows is fitted before the parameters are compared: the phases at the outputs,
    turns, and losses that both ports of an interferometer share.
    """
    mesh, parts = truth.mesh, zip(estimate.values, truth.values, strict=True)
    off = MeshParameters(*(a - b for a, b in parts))
    known = MeshParameters(
        *(np.isfinite(a) & np.isfinite(b) for a, b in zip(estimate.std, truth.std, strict=True))
    )
    theta = _within_half_a_turn(off.theta)
    excess = (theta - off.theta) / 2
    phi, gamma = to_input(mesh, off.phi, in_front(mesh, -excess, -excess))
    gamma = off.gamma + gamma
    phi, gamma = map(_within_half_a_turn, _reference_gauge(mesh, phi, gamma))
    phases = _best(_phase_freedoms(mesh), [phi, gamma], [known.phi, known.gamma])
    (loss,) = _best(_loss_freedoms(mesh), [off.loss], [known.loss])
    phi, gamma = map(_within_half_a_turn, phases)
    off = off._replace(theta=theta, phi=phi, gamma=gamma, loss=loss)
    compared = (np.where(k, x, np.nan) for k, x in zip(known, off, strict=True))
    return MeshParameters(*compared)


def _within_half_a_turn(phases: np.ndarray) -> np.ndarray:
    return wrapped(phases + np.pi) - np.pi


def _at_output(mesh: RectangularMesh, phases: np.ndarray) -> np.ndarray:
    """Screens for `to_input` with these phases [..., N] at the output."""
    inside = np.zeros((*phases.shape[:-1], mesh.num_columns, mesh.units), phases.dtype)
    return np.concatenate([inside, phases[..., None, :]], axis=-2)


def _reference_gauge(
    mesh: RectangularMesh, phi: np.ndarray, gamma: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Turn the outputs such that the `unseen` phases are 0."""
    upper, steps = upper_ports(mesh, -1 % mesh.num_columns), np.zeros(mesh.units)
    if mesh.num_columns == 1:
        screen = -gamma
        screen[upper + 1] = screen[upper]
    else:
        before = upper_ports(mesh, mesh.num_columns - 2)
        steps[before] = -phi[-2, before // 2]
        screen = np.cumsum(steps[::-1])[::-1].copy()  # in front of the last column
    screen[upper] -= phi[-1, upper // 2]
    phi, moved = to_input(mesh, phi, _at_output(mesh, screen))
    gamma = gamma + moved
    return phi, gamma - (gamma[0] if mesh.num_columns > 1 else 0.0)


def _best(
    freedoms: Any, parts: Sequence[np.ndarray], known: Sequence[np.ndarray]
) -> list[np.ndarray]:
    """Subtract what the freedoms [K, free] explain of the known numbers, by least squares."""
    from scipy.sparse.linalg import lsqr

    flat = np.concatenate([part.ravel() for part in parts])
    weights = np.concatenate([part.ravel() for part in known]).astype(float)
    if weights.any() and freedoms.shape[1]:
        weighted = freedoms.multiply(weights[:, None]).tocsr()
        flat = flat - freedoms @ lsqr(weighted, weights * flat, 0.0, 1e-12, 1e-12)[0]
    ends = np.cumsum([part.size for part in parts])[:-1]
    pieces = zip(np.split(flat, ends), parts, strict=True)
    return [piece.reshape(part.shape) for piece, part in pieces]


def _phase_freedoms(mesh: RectangularMesh) -> Any:
    """What each output's phase does to phi and gamma, sparse [L M + N, N]."""
    from scipy.sparse import csr_array, vstack

    start = np.zeros((mesh.units, *mesh.mask.shape), np.int8)
    outputs = np.eye(mesh.units, dtype=np.int8)
    phi, gamma = to_input(mesh, start, _at_output(mesh, outputs))
    return vstack([csr_array(phi.reshape(mesh.units, -1).T), csr_array(gamma.T)], format="csr")


def _loss_freedoms(mesh: RectangularMesh) -> Any:
    """A loss that moves through a column: from its inputs to its outputs, sparse [L N, free]."""
    from scipy.sparse import csr_array

    L, N = mesh.num_columns, mesh.units
    column, port = np.mgrid[1:L, :N].reshape(2, -1)
    lower = (port > 0) & ((port - column) % 2 == 1)  # of an interferometer
    group = (column - 1) * N + port - lower
    entries = np.concatenate([np.ones(len(port)), -np.ones(len(port))])
    rows = np.concatenate([(column - 1) * N + port, column * N + port])
    return csr_array((entries, (rows, np.tile(group, 2))), shape=(L * N, (L - 1) * N))


# --- arrays and files ---------------------------------------------------------------------------


def _exact(chip: Chip) -> MeshEstimate:
    """The truth about a simulated chip."""
    mesh = chip.mesh
    shapes = MeshParameters.shapes(mesh.units, mesh.num_columns)
    couplers = np.zeros((2, *mesh.mask.shape))
    if mesh.splitter_errors is not None:
        couplers = mesh.splitter_errors
    passed = np.ones(shapes.loss) if mesh.transmission is None else mesh.transmission
    arrays = {
        f"mesh1_{name}": value
        for name, value in zip(
            MeshParameters._fields, (*chip.offsets, *couplers, -20 * np.log10(passed)), strict=True
        )
    }
    return _from_arrays(mesh.units, mesh.num_columns, 1, arrays)[0]


_NAME = re.compile(rf"mesh([1-9]\d{{0,6}})_({'|'.join(MeshParameters._fields)})(_std)?")


def _from_arrays(
    units: int, columns: int, meshes: int, arrays: Mapping[str, Any]
) -> tuple[MeshEstimate, ...]:
    """Estimates of the meshes 1, 2, ... from any of their arrays."""
    shapes = MeshParameters.shapes(units, columns)._asdict()
    mask = RectangularMesh(units, columns).mask
    for name in arrays:
        match = _NAME.fullmatch(name)
        if not match or int(match[1]) > meshes:
            raise ValueError(
                f"an array of the estimate must be named mesh1_theta, mesh1_theta_std, ... for "
                f"meshes 1 to {meshes}, got {name}"
            )

    def part(number: int, name: str) -> tuple[np.ndarray, np.ndarray]:
        key, shape = f"mesh{number}_{name}", shapes[name]
        std = arrays.get(f"{key}_std", 0.0 if key in arrays else np.inf)
        value = _checked(key, arrays.get(key, 0.0), shape)
        std = _checked(f"{key}_std", std, shape, uncertainty=True)
        if shape == mask.shape:  # there is nothing to know of idle interferometers
            value[~mask], std[~mask] = 0.0, np.inf
        return value, std

    result = []
    for number in range(1, meshes + 1):
        values, stds = zip(*(part(number, name) for name in shapes), strict=True)
        result.append(MeshEstimate(MeshParameters(*values), MeshParameters(*stds)))
    return tuple(result)


def _checked(
    name: str, value: Any, shape: tuple[int, ...], *, uncertainty: bool = False
) -> np.ndarray:
    """A new float64 array of this shape; one number fills it."""
    refuse_masked(name, value)
    array = np.asarray(value)
    if array.dtype.kind not in "biuf":
        raise TypeError(f"{name} must hold real numbers, got {array.dtype}")
    if array.shape not in ((), shape):
        raise ValueError(f"{name} must have shape {shape}, got {array.shape}")
    good = array >= 0 if uncertainty else np.isfinite(array)
    if not good.all():
        rule = "at least 0 (inf: unknown)" if uncertainty else "finite"
        raise ValueError(f"{name} must be {rule}, got {array[~good].flat[0]}")
    return np.array(np.broadcast_to(array, shape), np.float64)


def _check_places(what: str, count: int) -> None:
    if count > MOST_PLACES:
        raise ValueError(f"{what} must be at most {MOST_PLACES}, got {count}")


def _read_npz(path: Path) -> tuple[MeshEstimate, ...]:
    with open_npz(path) as archive, reading(path, "an estimate of a chip"):
        names = {name: _NAME.fullmatch(name) for name in archive.names}
        if odd := [name for name, match in names.items() if not match]:
            raise DataError(f"{path}: must hold mesh1_theta, ... of an estimate, found {odd[0]}")
        numbers = [int(match[1]) for match in names.values() if match]
        shapes = {name: archive.header(name)[0] for name in names}
        units, columns = _size(path, shapes)
        meshes = max(numbers)
        _check_places("ports times columns of all meshes", units * columns * meshes)
        expected = MeshParameters.shapes(units, columns)._asdict()
        for name, match in names.items():
            if match and shapes[name] not in ((), wanted := expected[match[2]]):
                raise DataError(f"{path}: {name} must have shape {wanted}, found {shapes[name]}")
        return _from_arrays(units, columns, meshes, {n: archive.read(n) for n in names})


def _size(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, int]:
    """Ports and columns, from the shapes of the arrays in a file."""
    screens = [s for name, s in shapes.items() if "_gamma" in name and len(s) == 1]
    grids = [s for s in shapes.values() if len(s) == 2]
    losses = [s for name, s in shapes.items() if "_loss" in name and len(s) == 2]
    if not screens + losses:
        raise DataError(f"{path}: must hold mesh1_gamma or mesh1_loss, which tell the ports")
    units = (screens + losses)[0][-1]
    if units < 2:
        raise DataError(f"{path}: must have at least 2 ports, found {units}")
    return units, grids[0][0] if grids else units


def _write_npz(estimate: ChipEstimate, file: Any) -> None:
    np.savez(file, **estimate.arrays())  # type: ignore[arg-type]


_PLACE = ("mesh", "column", "interferometer", "ports")
_COLUMNS = tuple(f"{name}{end}" for name in MeshParameters._fields for end in ("", "_std"))
_PLACE_AND_COLUMNS = (*_PLACE, *_COLUMNS)
_OF_PAIRS = ("theta", "phi", "coupler1", "coupler2")


def _places(mesh: RectangularMesh) -> Iterator[tuple[dict[str, Any], tuple[str, ...], Any]]:
    """The cells that name a row of a table, the parameters in it, and their index."""
    for column, index in np.argwhere(mesh.mask).tolist():
        upper = upper_port(column, index)
        cells = {"column": column, "interferometer": index, "ports": f"{upper}-{upper + 1}"}
        yield cells, _OF_PAIRS, (column, index)
    for port in range(mesh.units):
        yield {"ports": port}, ("gamma",), port
    for column, port in np.ndindex(mesh.num_columns, mesh.units):
        yield {"column": column, "ports": port}, ("loss",), (column, port)


def _write_csv(estimate: ChipEstimate, file: Any) -> None:
    text = io.TextIOWrapper(file, encoding="utf-8", newline="")
    writer = csv.DictWriter(text, _PLACE_AND_COLUMNS)
    writer.writeheader()
    for number, mesh in enumerate(estimate.meshes, start=1):
        for cells, names, index in _places(RectangularMesh(mesh.units, mesh.columns)):
            row = {"mesh": number} | cells
            for name in names:
                row[name] = float(getattr(mesh.values, name)[index])
                row[f"{name}_std"] = float(getattr(mesh.std, name)[index])
            writer.writerow(row)
    text.flush()
    text.detach()


def _read_csv(path: Path) -> tuple[MeshEstimate, ...]:
    """Read a table; nothing is known of a parameter whose row is missing or whose cell is empty."""
    kind = "a table of an estimate"
    reader = read_table(path, kind, _LONGEST_TABLE)
    with reading(path, kind):
        header = reader.fieldnames or ()
        for needed in ({"mesh"}, {"column"}, {"ports"}, set(_COLUMNS)):
            if not needed & set(header):
                lacking = min(needed, key=_PLACE_AND_COLUMNS.index)
                raise DataError(f"{path}: must have a column {lacking}, found {', '.join(header)}")
        rows: dict[Any, _Row] = {}  # by their places
        for cells in reader:
            try:
                row = _Row.of(cells)
                if rows.setdefault((row.mesh, row.names, row.place), row) is not row:
                    raise ValueError(f"must name each place once, found {row.where} again")
            except ValueError as error:
                raise DataError(f"{path}, line {reader.line_num}: {error}") from None
        if not rows:
            raise DataError(f"{path}: must have a row below its header, found none")
        return _from_rows([*rows.values()])


class _Row(NamedTuple):
    """A row of a table: of an interferometer, of an input port or of a port of a column."""

    mesh: int
    column: int | None
    last_port: int
    names: tuple[str, ...]
    place: tuple[int, ...]
    numbers: dict[str, float]

    @property
    def where(self) -> str:
        column = "" if self.column is None else f" in column {self.column}"
        first = f"{self.last_port - 1}-" if self.names == _OF_PAIRS else ""
        return f"{self.names[0]} of mesh {self.mesh}{column}, ports {first}{self.last_port}"

    @classmethod
    def of(cls, cells: Mapping[str, str]) -> _Row:
        mesh = whole("mesh", cells["mesh"], 1)
        column = whole("column", cells["column"], 0) if cells["column"] else None
        first, dash, second = cells["ports"].partition("-")
        port = last = whole("ports", first, 0)
        place: tuple[int, ...] = (port,) if column is None else (column, port)
        names: tuple[str, ...] = ("gamma",) if column is None else ("loss",)
        if dash:
            last = whole("ports", second, 1)
            if column is None or last != port + 1 or (port - column) % 2:
                raise ValueError(f"ports must meet in column {column}, found {cells['ports']}")
            names, place = _OF_PAIRS, (column, port // 2)
        numbers = {name: float(cells[name]) for name in _COLUMNS if cells.get(name)}
        for name in numbers:
            if name.removesuffix("_std") not in names:
                raise ValueError(f"{name} must be empty in a row of {', '.join(names)}")
        return cls(mesh, column, last, names, place, numbers)


def _from_rows(rows: Sequence[_Row]) -> tuple[MeshEstimate, ...]:
    units, meshes = max(row.last_port for row in rows) + 1, max(row.mesh for row in rows)
    columns = max((row.column for row in rows if row.column is not None), default=units - 1) + 1
    _check_places("ports times columns of all meshes", units * columns * meshes)
    if units < 2:
        raise ValueError(f"ports must be at least 2, found {units}")
    shapes = MeshParameters.shapes(units, columns)._asdict()
    arrays: dict[str, np.ndarray] = {}
    for row in rows:
        for name in row.names:
            key, shape = f"mesh{row.mesh}_{name}", shapes[name]
            if name in row.numbers:
                values = arrays.setdefault(key, np.zeros(shape))
                values[row.place] = row.numbers[name]
            if name in row.numbers or f"{name}_std" in row.numbers:
                stds = arrays.setdefault(f"{key}_std", np.full(shape, np.inf))
                stds[row.place] = row.numbers.get(f"{name}_std", 0.0)
    return _from_arrays(units, columns, meshes, arrays)


_LONGEST_TABLE = 2**26  # bytes
_FORMATS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    ".npz": (_read_npz, _write_npz),
    ".csv": (_read_csv, _write_csv),
}


def _format(path: str | os.PathLike[str]) -> str:
    return choice("the suffix of an estimate's file", Path(path).suffix.lower(), _FORMATS)
