r"""Meshes as netlists in sax's schema, out and in.

A netlist describes a mesh by the stock models of sax: ``coupler_ideal`` (cross amplitude
i sqrt(coupling)), ``phase_shifter`` of length 0 (phase pi voltage) and ``attenuator`` (dB). An
interferometer is a coupler, theta / 2 and -theta / 2 in its arms, a coupler, and phi.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from meshes.calibration import within_a_turn
from meshes.engines import upper_port
from meshes.engines.reference import one_set
from meshes.files import DataError, read_text, reading, write_bytes
from meshes.mesh import Phases, RectangularMesh, in_front, to_input
from meshes.validation import choice, number

_LONGEST = 2**26  # bytes of a file

Netlist = dict[str, Any]

# --- out ----------------------------------------------------------------------------------------


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
            upper = upper_port(column, index)
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
                drawing.attenuate(f"loss_{column}_{port}", port, passed)
    return drawing.finished()


_ROUNDED = 1e-6  # by which a transmission of 1 in single precision may be off


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

    def attenuate(self, name: str, port: int, passed: float) -> None:
        if not 0 < passed <= 1 + _ROUNDED:
            raise ValueError(
                "transmission must be above 0 and at most 1 for a netlist, "
                f"got {passed:.3g} in {name}"
            )
        self.add(name, "attenuator", {"loss": max(float(-20 * np.log10(passed)), 0.0)}, (port,))

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
    write_bytes(Path(path), text.encode())


# --- in -----------------------------------------------------------------------------------------


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
    theta = np.stack([column.theta for column in columns])
    return mesh, within_a_turn(mesh, Phases(theta, phi, gamma + first))


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
