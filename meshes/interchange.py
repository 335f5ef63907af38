r"""Meshes and measured components in the formats that others read: netlists and S-parameters.

A netlist describes a mesh by the stock models of sax: ``coupler_ideal`` (cross amplitude
i sqrt(coupling)), ``phase_shifter`` of length 0 (phase pi voltage) and ``attenuator`` (dB). An
interferometer is a coupler, theta / 2 and -theta / 2 in its arms, a coupler, and phi. S-parameters
are read at one wavelength from Touchstone files (version 1) and Lumerical's ``.sparam``, ``.dat``.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from meshes.angles import wrapped
from meshes.engines.reference import one_set
from meshes.files import DataError, read_text, reading
from meshes.mesh import Phases, RectangularMesh, in_front, to_input
from meshes.validation import choice, closest, number

_LONGEST = 2**26  # bytes of a file
_LIGHT = 299792458.0  # m / s

Netlist = dict[str, Any]

# --- netlists: out ------------------------------------------------------------------------------


def netlist(mesh: RectangularMesh, phases: Phases) -> Netlist:
    """A mesh with one set of phases as a netlist in sax's schema; ports in0, ..., out0, ...."""
    theta, phi, gamma = one_set("phases", phases, mesh)
    drawing = _Drawing(mesh.units)
    for port in range(mesh.units):
        drawing.shift(f"gamma_{port}", port, gamma[port])
    errors = np.zeros((2, *mesh.mask.shape))
    if mesh.splitter_errors is not None:
        errors = np.asarray(mesh.splitter_errors, np.float64)
    for column, active in enumerate(mesh.mask):
        for index in range(mesh.num_interferometers):
            upper = 2 * index + column % 2
            place, lower = f"{column}_{index}", (upper + 1) % mesh.units
            if not active[index]:
                drawing.shift(f"idle_upper_{place}", upper, -np.pi / 2)
                drawing.shift(f"idle_lower_{place}", lower, -np.pi / 2)
                continue
            half = theta[column, index] / 2
            drawing.couple(f"coupler1_{place}", upper, errors[0, column, index])
            drawing.shift(f"theta_upper_{place}", upper, half)
            drawing.shift(f"theta_lower_{place}", lower, -half)
            drawing.couple(f"coupler2_{place}", upper, errors[1, column, index])
            drawing.shift(f"phi_{place}", upper, phi[column, index])
        if mesh.transmission is not None:
            for port, passed in enumerate(np.asarray(mesh.transmission[column], np.float64)):
                settings = {"loss": float(-20 * np.log10(passed))}
                drawing.add(f"loss_{column}_{port}", "attenuator", settings, (port,))
    return drawing.finished()


class _Drawing:
    """A netlist that grows along the ports."""

    def __init__(self, units: int) -> None:
        self.instances: Netlist = {}
        self.connections: dict[str, str] = {}
        self.ports: dict[str, str] = {}
        self.ends = [""] * units  # "instance,port" at which each port stands

    def add(self, name: str, component: str, settings: Netlist, ports: Sequence[int]) -> None:
        self.instances[name] = {"component": component, "settings": settings}
        for arm, port in enumerate(ports):
            if self.ends[port]:
                self.connections[self.ends[port]] = f"{name},in{arm}"
            else:
                self.ports[f"in{port}"] = f"{name},in{arm}"
            self.ends[port] = f"{name},out{arm}"

    def shift(self, name: str, port: int, phase: float) -> None:
        settings = {"length": 0.0, "voltage": float(phase) / np.pi}
        self.add(name, "phase_shifter", settings, (port,))

    def couple(self, name: str, upper: int, error: float) -> None:
        if not abs(error) <= np.pi / 4:
            raise ValueError(
                f"splitter_errors must be within pi / 4 for a netlist, got {error:.3g} in {name}"
            )
        settings = {"coupling": float(np.sin(np.pi / 4 - error) ** 2)}
        self.add(name, "coupler_ideal", settings, (upper, upper + 1))

    def finished(self) -> Netlist:
        outputs = {f"out{port}": end for port, end in enumerate(self.ends)}
        parts = {"instances": self.instances, "connections": self.connections}
        return parts | {"ports": self.ports | outputs}


def write_netlist(path: str | os.PathLike[str], mesh: RectangularMesh, phases: Phases) -> None:
    """Write the `netlist` of a mesh to a ``.json``, ``.yml`` or ``.yaml`` file."""
    content = netlist(mesh, phases)
    suffix = choice("the suffix of a netlist", Path(path).suffix.lower(), _PARSERS)
    if suffix == ".json":
        text = json.dumps(content, indent=1) + "\n"
    else:
        import yaml

        text = yaml.dump(content, Dumper=getattr(yaml, "CSafeDumper", yaml.SafeDumper))
    Path(path).write_text(text, encoding="utf-8")


# --- netlists: in -------------------------------------------------------------------------------


def read_netlist(path: str | os.PathLike[str]) -> tuple[RectangularMesh, Phases]:
    """Read a ``.json``, ``.yml`` or ``.yaml`` netlist; see `from_netlist`."""
    path = Path(path)
    suffix = choice("the suffix of a netlist", path.suffix.lower(), _PARSERS)
    text = read_text(path, "a netlist", _LONGEST)
    with reading(path, "a netlist"):
        content = _PARSERS[suffix](text)
    try:
        return from_netlist(content)
    except (ValueError, TypeError) as error:
        raise DataError(f"{path}: {error}") from None


def _from_yaml(text: str) -> Any:
    import yaml

    if "&" in text:  # an alias of an alias of ... may stand for more than any memory holds
        raise ValueError("a netlist must have no anchors (&)")
    return yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))


_PARSERS: dict[str, Callable[[str], Any]] = {
    ".json": json.loads,
    ".yml": _from_yaml,
    ".yaml": _from_yaml,
}


def from_netlist(content: Any) -> tuple[RectangularMesh, Phases]:
    """The mesh and the phases, within a turn, that have the matrix of a netlist.

    The netlist is a rectangular mesh of the models named above, in ``instances``, ``connections``
    or ``nets``, and ``ports``. Phase shifters may stand anywhere: those that a mesh does not have
    are moved to phi and gamma. Attenuators stand between interferometers, or equal ones in both
    arms of one.
    """
    circuit = _Circuit(content)
    units = circuit.units
    columns: list[_Column] = []
    gamma = np.zeros(units)
    for port in range(2 * (units // 2)):  # an unpaired last port has its first column before it
        gamma[port], lost = circuit.pass_singles(port)
        if lost:
            raise ValueError(f"in{port} must lose no light before its first coupler, found {lost}")
    while circuit.unfinished:
        columns.append(_Column.of(circuit, len(columns) % 2))
    if not columns:
        raise ValueError("a netlist must have couplers, found none")
    return _as_mesh(units, gamma, columns)


class _Column(NamedTuple):
    """A column of a netlist: of each interferometer, and of each port after it."""

    errors: np.ndarray  # [2, M], rad
    theta: np.ndarray  # [M], rad
    common: np.ndarray  # phase that both arms share [M], rad
    phases: np.ndarray  # [N], rad
    loss: np.ndarray  # [N], dB

    @classmethod
    def of(cls, circuit: _Circuit, parity: int) -> _Column:
        units, pairs = circuit.units, circuit.units // 2
        column = cls(*(np.zeros(shape) for shape in ((2, pairs), pairs, pairs, units, units)))
        for upper in range(parity, units - 1, 2):
            index = upper // 2
            column.errors[0, index] = circuit.pass_coupler(upper)
            arms = [circuit.pass_singles(port) for port in (upper, upper + 1)]
            (up, lost), (down, also_lost) = arms
            if abs(lost - also_lost) > 1e-9:
                raise ValueError(
                    f"a netlist must lose as much in both arms, found {lost:g} and {also_lost:g} "
                    f"dB between ports {upper} and {upper + 1}"
                )
            column.errors[1, index] = circuit.pass_coupler(upper)
            column.theta[index], column.common[index] = up - down, (up + down) / 2
            column.loss[[upper, upper + 1]] = lost
        for port in range(units):
            phase, loss = circuit.pass_singles(port)
            column.phases[port] += phase
            column.loss[port] += loss
        return column


def _as_mesh(
    units: int, gamma: np.ndarray, columns: Sequence[_Column]
) -> tuple[RectangularMesh, Phases]:
    errors = np.stack([column.errors for column in columns], axis=1)
    loss = np.stack([column.loss for column in columns])
    mesh = RectangularMesh.measured(
        units,
        len(columns),
        errors if np.abs(errors).max() > 1e-12 else None,
        10 ** (-loss / 20) if loss.any() else None,
    )
    common = np.stack([column.common for column in columns])
    screens = in_front(mesh, common, common)
    screens[1:] += np.stack([column.phases for column in columns])
    idle = np.flatnonzero(~mesh.mask.all(axis=1))
    screens[idle + 1, :: units - 1] += np.pi / 2  # the mesh multiplies an idle pair by -i itself
    phi, first = to_input(mesh, np.zeros(mesh.mask.shape), screens)
    theta = np.where(mesh.mask, np.stack([column.theta for column in columns]), np.pi)
    return mesh, Phases(theta, np.where(mesh.mask, wrapped(phi), np.pi), wrapped(gamma + first))


_SETTINGS = {  # of each model: the settings that are read, with their defaults
    "coupler_ideal": {"coupling": 0.5},
    "phase_shifter": {"length": 10.0, "voltage": 0.0},
    "attenuator": {"loss": 0.0},
}
_UNREAD = ("wl", "neff", "loss")  # of phase shifters without a length: they change nothing


class _Circuit:
    """A netlist that is walked from its inputs to its outputs."""

    def __init__(self, content: Any) -> None:
        instances = _mapping(_mapping(content, "a netlist").get("instances"), "instances")
        self.instances = {str(name): _instance(name, part) for name, part in instances.items()}
        self.links = _links(content)
        ports = _mapping(content.get("ports"), "ports")
        self.units = len(ports) // 2
        expected = {f"{way}{port}" for way in ("in", "out") for port in range(self.units)}
        if set(ports) != expected or self.units < 2:
            raise ValueError(
                "ports must be in0, in1, ... and as many out0, out1, ..., two or more, found "
                f"{len(ports)} that begin with {', '.join(sorted(map(str, ports))[:4])}"
            )
        self.ends = {_end(ports[f"out{port}"]): port for port in range(self.units)}
        # Where each port stands: an instance and its end, or the number of the port, at the output.
        self.at: list[Any] = [_end(ports[f"in{port}"]) for port in range(self.units)]
        self.used: set[str] = set()

    @property
    def unfinished(self) -> bool:
        """Whether a port has not reached its output. Every instance must be passed by then."""
        reached = [isinstance(at, int) for at in self.at]
        if all(reached) and (unused := self.instances.keys() - self.used):
            raise ValueError(f"instances must all be on a path of light, not {min(unused)}")
        return not all(reached)

    def pass_singles(self, port: int) -> tuple[float, float]:
        """Move on to a coupler or the output: the phase, rad, and the loss, dB, on the way."""
        phase = loss = 0.0
        while not isinstance(self.at[port], int):
            name, _ = self.at[port]
            component, settings = self._part(name)
            if component == "coupler_ideal":
                break
            phase += np.pi * settings.get("voltage", 0.0)
            loss += settings.get("loss", 0.0)
            self._leave(port, name, 0)
        return phase, loss

    def pass_coupler(self, upper: int) -> float:
        """Move two neighbouring ports through the coupler that joins them; its angle's error."""
        (name, arm), (other, other_arm) = self._before(upper), self._before(upper + 1)
        if name != other or {arm, other_arm} != {0, 1} or name in self.used:
            raise ValueError(
                f"a netlist must be a rectangular mesh, but ports {upper} and {upper + 1} do not "
                f"meet in one coupler at {name} and {other}"
            )
        _, settings = self._part(name)
        self._leave(upper, name, arm)
        self._leave(upper + 1, name, other_arm)
        coupling = number(f"coupling of {name}", settings["coupling"], minimum=0, maximum=1)
        return np.pi / 4 - float(np.arcsin(np.sqrt(coupling)))

    def _before(self, port: int) -> tuple[str, int]:
        at = self.at[port]
        if isinstance(at, int):
            raise ValueError(
                f"a netlist must be a rectangular mesh, but port {port} ends a column early"
            )
        return at

    def _part(self, name: str) -> tuple[str, dict[str, float]]:
        if name not in self.instances:
            raise ValueError(f"instances must have {name}, which a port or connection names")
        return self.instances[name]

    def _leave(self, port: int, name: str, arm: int) -> None:
        single = self.instances[name][0] != "coupler_ideal"
        if single and (name in self.used or self.at[port] != (name, 0)):
            raise ValueError(f"{name} must be passed once, from in0 to out0")
        self.used.add(name)
        out = (name, arm + _OUT)
        if out in self.ends:
            if self.ends[out] != port:
                raise ValueError(f"out{self.ends[out]} must be the end of in{self.ends[out]}")
            self.at[port] = port
        elif out in self.links:
            self.at[port] = self.links[out]
        else:
            raise ValueError(f"connections must say where {name},out{arm} leads")


_OUT = 2  # ends of instances are numbered 0, 1 (in) and 2, 3 (out)
_ENDS = {"in0": 0, "in1": 1, "out0": 2, "out1": 3}


def _end(text: Any) -> tuple[str, int]:
    """``"instance,port"``."""
    name, _, port = str(text)[:1000].partition(",")
    if not isinstance(text, str) or port.strip() not in _ENDS:
        raise ValueError(
            f"a connection must be instance,in0 (or in1, out0, out1), found {str(text)[:60]!r}"
        )
    return name.strip(), _ENDS[port.strip()]


def _links(content: Mapping[str, Any]) -> dict[tuple[str, int], tuple[str, int]]:
    """Both directions of every connection."""
    pairs = list(_mapping(content.get("connections") or {}, "connections").items())
    nets = content.get("nets") or []
    if not isinstance(nets, list):
        raise ValueError(f"nets must be a list, found a {type(nets).__name__}")
    pairs += [(_mapping(net, "a net").get("p1"), net.get("p2")) for net in nets]
    links: dict[tuple[str, int], tuple[str, int]] = {}
    for first, second in pairs:
        one, other = _end(first), _end(second)
        if one in links or other in links or one == other:
            raise ValueError(f"connections must join two free ends, found {first} and {second}")
        links |= {one: other, other: one}
    return links


def _instance(name: Any, part: Any) -> tuple[str, dict[str, float]]:
    part = {"component": part} if isinstance(part, str) else _mapping(part, f"instance {name}")
    component = choice(f"component of {name}", part.get("component"), _SETTINGS)
    defaults = _SETTINGS[component]
    written = _mapping(part.get("settings") or {}, f"settings of {name}")
    unread = _UNREAD if component == "phase_shifter" else ()
    for key in written:
        if key not in defaults and key not in unread:
            raise ValueError(f"settings of {name} must be {', '.join(defaults)}, found {key!s:.40}")
    settings = {
        key: number(f"{key} of {name}", written.get(key, default))
        for key, default in defaults.items()
    }
    if settings.pop("length", 0.0):
        raise ValueError(f"length of {name} must be 0, so that its phase is pi times its voltage")
    if settings.get("loss", 0.0) < 0:
        raise ValueError(f"loss of {name} must be at least 0, found {settings['loss']:g}")
    return component, settings


def _mapping(value: Any, name: str) -> Mapping[Any, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{name} must be a mapping, found a {type(value).__name__}")
    return value


# --- S-parameters -------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class SParameters:
    """S-parameters of N ports over F frequencies, in rising order.

    Attributes:
        frequencies: [F], Hz.
        matrices: [F, N, N], complex; entry (i, j) is the amplitude that port i gets from port j.
    """

    frequencies: np.ndarray
    matrices: np.ndarray

    def at(self, wavelength_nm: float) -> np.ndarray:
        """The matrix [N, N] at one wavelength, linear between the measured frequencies."""
        frequency = _LIGHT / number("wavelength_nm", wavelength_nm, above=0) * 1e9
        low, high = self.frequencies[[0, -1]]
        if not low * (1 - 1e-9) <= frequency <= high * (1 + 1e-9):
            raise ValueError(
                f"wavelength_nm must be from {_LIGHT / high * 1e9:.6g} to "
                f"{_LIGHT / low * 1e9:.6g}, got {wavelength_nm:g}"
            )
        after = int(np.clip(np.searchsorted(self.frequencies, frequency), 1, None))
        if after >= len(self.frequencies):
            return self.matrices[-1]
        start, end = self.frequencies[after - 1 : after + 1]
        share = np.clip((frequency - start) / (end - start), 0, 1)
        return (1 - share) * self.matrices[after - 1] + share * self.matrices[after]


def linear_layer(
    matrix: Any, inputs: Sequence[int] | None = None, outputs: Sequence[int] | None = None
) -> np.ndarray:
    """The matrix A [K, N] of a measured block, with out = in @ A for row vectors of fields.

    Args:
        matrix: S-parameters at one wavelength.
        inputs: its K ports that light enters; the first half if None.
        outputs: its N ports that light leaves; the second half if None.
    """
    matrix = np.asarray(matrix)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or len(matrix) < 2:
        raise ValueError(f"matrix must be [N, N] with N at least 2, got shape {matrix.shape}")
    half = len(matrix) // 2
    inputs = range(half) if inputs is None else inputs
    outputs = range(half, len(matrix)) if outputs is None else outputs
    for name, ports in (("inputs", inputs), ("outputs", outputs)):
        known = all(0 <= port < len(matrix) for port in ports)
        if not known or len(set(ports)) != len(ports) or not len(ports):
            raise ValueError(
                f"{name} must be different ports from 0 to {len(matrix) - 1}, got {list(ports)}"
            )
    return matrix[np.ix_(outputs, inputs)].T


class TwoByTwo(NamedTuple):
    r"""A measured component of two inputs and two outputs, in the terms of a mesh.

    Its matrix is that of a coupler or of an interferometer between phases and a loss:
    out = in @ (P M Q), with P = diag(e^{i before}, 1), Q = diag(e^{i after}, 1) e^{i common}.
    """

    error: float  # angle error of a coupler that splits so, rad
    theta: float  # internal phase of an interferometer that splits so, rad
    before: float  # phase at the upper input, rad, if it is taken for a coupler
    after: float  # phase at the upper output, rad, if it is taken for a coupler
    common: float  # phase of both outputs, rad, if it is taken for a coupler
    loss: float  # mean loss of power, dB
    misfit: float  # largest error of an entry of the matrix, divided by its mean amplitude


def two_by_two(layer: Any) -> TwoByTwo:
    """What a measured coupler or interferometer is, from its `linear_layer` [2, 2].

    A coupler sends the share sin^2(pi/4 - error) of the power across, an ideal interferometer
    cos^2(theta/2).
    """
    layer = np.asarray(layer, np.complex128)
    if layer.shape != (2, 2) or not np.isfinite(layer).all() or not np.abs(layer).sum():
        raise ValueError(f"layer must be [2, 2], finite and not dark, got shape {layer.shape}")
    amplitude = float(np.linalg.norm(layer)) / np.sqrt(2)
    squares = np.abs(layer) ** 2
    angle = np.arctan2(*np.sqrt([squares[0, 1] + squares[1, 0], squares[0, 0] + squares[1, 1]]))
    cos, sin = np.cos(angle), 1j * np.sin(angle)
    lag = np.angle(layer) - np.array([[0, np.pi / 2], [np.pi / 2, 0]])
    # lag = [[before + after, before], [after, 0]] + common; each pair that is dark says nothing.
    if cos >= abs(sin):
        common, turned = lag[1, 1], lag[0, 0] - lag[1, 1]
        before = (lag[0, 1] - common) if abs(sin) > 1e-9 else 0.0
        after = turned - before
    else:
        before_common, after_common = lag[0, 1], lag[1, 0]
        common = lag[1, 1] if cos > 1e-9 else 0.0
        before, after = before_common - common, after_common - common
    ideal = np.array([[cos, sin], [sin, cos]])
    left, right = np.exp([1j * before, 0]), np.exp([1j * after, 0]) * np.exp(1j * common)
    misfit = np.abs(layer / amplitude - left[:, None] * ideal * right).max()
    loss = -20 * np.log10(amplitude) + 0.0
    before, after, common = wrapped(np.array([before, after, common])).tolist()
    error, theta = float(np.pi / 4 - angle), float(np.pi - 2 * angle)
    return TwoByTwo(error, theta, before, after, common, float(loss), float(misfit))


def read_sparameters(path: str | os.PathLike[str], gain: float = 0.01) -> SParameters:
    """Read a Touchstone file (``.s1p``, ``.s2p``, ...) or Lumerical's (``.sparam``, ``.dat``).

    The ports of a Lumerical file are taken in the order of their names, numbers by their value;
    entries that it lacks are 0. ``gain`` is by how much amplitudes may exceed those of a passive
    component, as measured ones do.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    touchstone = re.fullmatch(r"\.s([1-9]\d{0,3})p", suffix)
    if not touchstone and suffix not in (".sparam", ".dat"):
        raise ValueError(
            f"the suffix of S-parameters must be .s1p, .s2p, ..., .sparam or .dat; got {suffix!r}"
        )
    text = read_text(path, "S-parameters", _LONGEST)
    rows = text.split("\n")
    parts = _touchstone(path, rows, int(touchstone[1])) if touchstone else _lumerical(path, rows)
    lines, frequencies, matrices = parts
    for line, matrix in zip(lines, matrices, strict=True):
        largest = float(np.linalg.norm(matrix, 2)) if np.isfinite(matrix).all() else np.inf
        if not largest <= 1 + gain:
            raise DataError(
                f"{path}, line {line}: S-parameters must not gain, found an amplitude of "
                f"{largest:.4g}; measured ones may with gain={largest - 1:.2g}"
            )
    return SParameters(frequencies, matrices)


def _numbers(path: Path, line: int, words: Sequence[str]) -> list[float]:
    try:
        values = [float(word) for word in words]
    except ValueError:
        raise DataError(f"{path}, line {line}: must hold numbers, found {words[0]!r:.60}") from None
    if not np.isfinite(values).all():
        raise DataError(f"{path}, line {line}: must hold finite numbers, found inf or nan")
    return values


_UNITS = {"HZ": 1.0, "KHZ": 1e3, "MHZ": 1e6, "GHZ": 1e9, "THZ": 1e12}
_FORMS = {
    "RI": lambda a, b: a + 1j * b,
    "MA": lambda a, b: a * np.exp(1j * np.deg2rad(b)),
    "DB": lambda a, b: 10 ** (a / 20) * np.exp(1j * np.deg2rad(b)),
}
_Table = tuple[list[int], np.ndarray, np.ndarray]  # line and frequency of each matrix


def _touchstone(path: Path, rows: Sequence[str], ports: int) -> _Table:
    """Version 1: an option line, then a frequency and N^2 pairs of numbers, over several lines."""
    unit, form = "GHZ", "MA"
    needed = 1 + 2 * ports**2
    lines: list[int] = []
    values: list[float] = []
    optioned = False
    for line, row in enumerate(rows, start=1):
        row = row.partition("!")[0].strip()
        if row.startswith("[") or row.startswith("#"):
            if row.startswith("["):
                raise DataError(
                    f"{path}, line {line}: must be Touchstone version 1, found {row:.40}"
                )
            if not optioned:  # the first one counts
                unit, form = _options(path, line, row)
            optioned = True
        elif row:
            if len(values) % needed == 0:
                lines.append(line)
            values += _numbers(path, line, row.split())
            if len(values) > needed * len(lines):
                raise DataError(
                    f"{path}, line {line}: must end with the {needed} numbers of a frequency of "
                    f"{ports} ports, found {len(values) - needed * (len(lines) - 1)}"
                )
    if not values or len(values) % needed:
        raise DataError(
            f"{path}, line {len(rows)}: must hold {needed} numbers for each frequency of {ports} "
            f"ports, found {len(values) % needed} at the end"
        )
    table = np.array(values).reshape(-1, needed)
    with np.errstate(over="ignore", invalid="ignore"):
        matrices = _FORMS[form](table[:, 1::2], table[:, 2::2]).reshape(-1, ports, ports)
    if ports == 2:
        matrices = matrices.swapaxes(1, 2)  # S11 S21 S12 S22
    return lines, _rising(path, lines, table[:, 0] * _UNITS[unit]), matrices


def _options(path: Path, line: int, row: str) -> tuple[str, str]:
    """Unit and form of the numbers in ``# GHZ S MA R 50``."""
    unit, form = "GHZ", "MA"
    words = iter(row[1:].upper().split())
    for word in words:
        if word in _UNITS:
            unit = word
        elif word in _FORMS:
            form = word
        elif word == "R":
            _numbers(path, line, [next(words, "")])
        elif word != "S":
            hint = closest(word, [*_UNITS, *_FORMS])
            raise DataError(
                f"{path}, line {line}: must be # UNIT S FORM R x, found {word:.40}{hint}"
            )
    return unit, form


def _rising(path: Path, lines: Sequence[int], frequencies: np.ndarray) -> np.ndarray:
    falls = np.flatnonzero(np.diff(frequencies, prepend=0.0) <= 0)
    if falls.size:
        raise DataError(
            f"{path}, line {lines[falls[0]]}: frequencies must rise from above 0, found "
            f"{frequencies[falls[0]]:g} Hz"
        )
    return frequencies


_BLOCK = re.compile(
    r'\(\s*"([^"]+)"\s*,\s*"([^"]*)"\s*,\s*(\d+)\s*,\s*"([^"]+)"\s*,\s*(\d+)\s*,\s*"[^"]*"\s*\)'
)
_SHAPE = re.compile(r"\(\s*(\d{1,9})\s*,\s*3\s*\)")
_HEADER = re.compile(r'\[\s*"([^"]+)"\s*,\s*"[^"]*"\s*\]')


def _lumerical(path: Path, rows: Sequence[str]) -> _Table:
    """Blocks: ports and mode, (F, 3), F rows of frequency (Hz), magnitude and phase (rad)."""
    blocks: dict[tuple[str, str], tuple[int, np.ndarray]] = {}
    names: dict[str, None] = {}  # in the order of the file
    modes = set()
    line = 0
    while line < len(rows):
        row = rows[line].strip()
        line += 1
        if header := _HEADER.fullmatch(row):
            names[header[1]] = None
            continue
        if not row:
            continue
        found = _BLOCK.fullmatch(row)
        shape = _SHAPE.fullmatch(rows[line].strip()) if found and line < len(rows) else None
        if not found or not shape:
            where, text = (line, row) if not found else (line + 1, "".join(rows[line : line + 1]))
            form = '("out","mode",1,"in",1,"transmission")' if not found else "(count, 3)"
            raise DataError(f"{path}, line {where}: must be {form}, found {text!r:.60}")
        modes.add(found.group(2, 3, 5))
        if len(modes) > 1 or found[3] != found[5]:
            raise DataError(f"{path}, line {line}: must have one mode, found {found[2]} {found[5]}")
        start, count = line + 1, int(shape[1])
        present = enumerate(rows[start : start + count], start=start + 1)
        table = [_numbers(path, number, row.split()) for number, row in present]
        bad = next((n for n, r in enumerate(table) if len(r) != 3), len(table))
        if bad < count or not count:
            raise DataError(
                f"{path}, line {start + bad + 1}: must be frequency, magnitude and phase, one of "
                f"{count} rows"
            )
        pair = (found[1], found[4])
        if pair in blocks:
            raise DataError(f"{path}, line {line}: must have each pair of ports once")
        blocks[pair] = start + 1, np.array(table)
        line = start + count
    if not blocks:
        raise DataError(f"{path}, line {len(rows)}: must have a block of S-parameters, found none")
    return _joined(path, blocks, names)


def _joined(
    path: Path, blocks: Mapping[tuple[str, str], tuple[int, np.ndarray]], names: Mapping[str, None]
) -> _Table:
    ports = sorted({*names, *(port for pair in blocks for port in pair)}, key=_natural)
    (first, table), *_ = blocks.values()
    if len(ports) ** 2 * len(table) * 16 > _LONGEST:
        raise DataError(f"{path}: must have fewer ports, found {len(ports)} and {len(table)} rows")
    matrices = np.zeros((len(table), len(ports), len(ports)), np.complex128)
    for (out, source), (line, rows) in blocks.items():
        if not np.array_equal(rows[:, 0], table[:, 0]):
            raise DataError(f"{path}, line {line}: must have the frequencies of line {first}")
        matrices[:, ports.index(out), ports.index(source)] = rows[:, 1] * np.exp(1j * rows[:, 2])
    lines = list(range(first, first + len(table)))
    if len(table) > 1 and table[0, 0] > table[-1, 0]:
        lines, table, matrices = lines[::-1], table[::-1], matrices[::-1]
    return lines, _rising(path, lines, table[:, 0]), matrices


def _natural(name: str) -> list[tuple[int, str]]:
    """A key that sorts port 2 before port 10."""
    parts = re.findall(r"\d+|\D+", name)
    return [(int(part[:18]), "") if part.isdecimal() else (-1, part) for part in parts]


def write_touchstone(path: str | os.PathLike[str], parameters: SParameters) -> None:
    """Write S-parameters as a Touchstone file of version 1; its suffix must be that of N ports."""
    path, ports = Path(path), parameters.matrices.shape[-1]
    choice("the suffix of these S-parameters", path.suffix.lower(), [f".s{ports}p"])
    matrices = parameters.matrices.swapaxes(1, 2) if ports == 2 else parameters.matrices
    lines = ["# HZ S RI R 50"]
    for frequency, matrix in zip(parameters.frequencies.tolist(), matrices, strict=True):
        pairs = [f"{z.real!r} {z.imag!r}" for z in matrix.ravel().tolist()]
        lines += _wrapped_lines(f"{frequency!r}", pairs, ports)
    path.write_text("\n".join(lines) + "\n", encoding="ascii")


def _wrapped_lines(frequency: str, pairs: Sequence[str], ports: int) -> Iterator[str]:
    """At most four pairs a line; from three ports on, each row of the matrix begins a line."""
    row = ports if ports > 2 else len(pairs)
    for start in range(0, len(pairs), row):
        for first in range(start, start + row, 4):
            lead = frequency if first == 0 else " "
            yield " ".join([lead, *pairs[first : min(first + 4, start + row)]])
