"""What drives a device: the protocol, the driver that checks it, and a mesh of it as a layer."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable
from weakref import WeakValueDictionary

import numpy as np

from meshes import Amplifier, Linear, Nonlinearity, Phases, RectangularMesh
from meshes._tensorflow import from_python, tf
from meshes.validation import integer, one_line, quoted
from photonic_ffzero.command import signals
from photonic_ffzero.data.checks import as_numbers, to_single
from photonic_ffzero.layers.photonic import PhaseLayer, Photonic


class DeviceError(OSError):
    """A device failed, or its answer breaks a rule of `Device`."""


@runtime_checkable
class Device(Protocol):
    """The smallest thing that can be trained: set the phases of its meshes, read its light.

    ``units`` is the number N of ports of every mesh, ``columns`` the number L of its columns, each
    of M = N // 2 interferometers; ``meshes`` counts the meshes that the light passes in turn. Any
    error in a method ends a training. A command keeps what was learned until its last checkpoint;
    in Python an observer does: ``fit(..., observers=[RunDirectory("run")])``.

    A device may also have an ``identity``, a text of at most 256 bytes that no other device has,
    such as a serial number. A training that goes on compares it with that of its beginning. And it
    may have a method ``close()``: the commands ``train``, ``predict``, ``serve`` and ``calibrate``
    call it once when they end, also at errors and, from another thread, at signals.
    """

    @property
    def units(self) -> int: ...
    @property
    def columns(self) -> int: ...
    @property
    def meshes(self) -> int: ...

    def write(self, mesh: int, theta: np.ndarray, phi: np.ndarray, gamma: np.ndarray) -> None:
        """Set the phases of one mesh, counted from 1: theta, phi [L, M], gamma [N], float32, rad.

        They are not taken modulo 2 pi: theta and theta + 2 pi differ by a sign.
        """

    def measure(self, mesh: int, fields: np.ndarray) -> np.ndarray:
        """Send fields [B, N], complex64, into the first mesh and read the light after one mesh.

        Returns the intensities at its output ports, before its nonlinearity [B, N], at least 0.
        """


MAX_IDENTITY = 256  # bytes


class Nameplate(NamedTuple):
    """What a device says of itself."""

    units: int
    columns: int
    meshes: int
    identity: str | None


def nameplate_of(device: Device) -> Nameplate:
    """Ask a device what it is; an error if it is none, or says what it must not."""
    told = None
    with device_errors("say what it is"):
        if isinstance(device, Device):
            identity = getattr(device, "identity", None)
            told = device.units, device.columns, device.meshes, identity
    if told is None:
        raise TypeError(
            f"device must have units, columns, meshes, write and measure, got {quoted(device)}"
        )
    units, columns, meshes, identity = told
    return Nameplate(
        integer("device's units", units, minimum=2),
        integer("device's columns", columns, minimum=1),
        integer("device's meshes", meshes, minimum=1),
        check_identity("device's identity", identity),
    )


def check_identity(name: str, identity: Any) -> str | None:
    """An identity without white space around it, as instruments answer a line; None if none."""
    if identity is None:
        return None
    text = identity.strip() if isinstance(identity, str) else ""
    if not (text and text.isprintable()):
        raise ValueError(f"{name} must be a printable text, got {quoted(identity)}")
    if len(text.encode()) > MAX_IDENTITY:
        raise ValueError(f"{name} must have at most {MAX_IDENTITY} bytes, got {quoted(identity)}")
    return text


@contextmanager
def device_errors(what: str) -> Iterator[None]:
    """Make a `DeviceError` of one line of any error in a device's own code."""
    try:
        yield
    except DeviceError:
        raise
    except (Exception, SystemExit) as error:
        reason = one_line(f"{type(error).__name__}: {error}")
        raise DeviceError(f"device failed to {what}: {reason}") from error


class Driver:
    """Drives a device: writes phases only where they changed, and checks every answer.

    No other driver may use the device, see `driver_of`. Threads take turns: nobody else writes
    between the phases of one and its reading. A new driver asks the device for its ports, columns,
    meshes and identity.
    """

    def __init__(self, device: Device) -> None:
        self.device = device
        self.units, self.columns, self.meshes, self.identity = nameplate_of(device)
        self._written: dict[int, Phases] = {}
        self._turn = threading.Lock()

    def measure(self, fields: np.ndarray, path: Sequence[Phases], reads: int = 1) -> np.ndarray:
        """Write P sets of phases one after another, and read the light after each.

        Args:
            fields: Amplitudes [B, N] or [P, B, N].
            path: For every mesh up to the one whose light is read, P sets of phases or one.
            reads: Readings averaged into one.

        Returns:
            Intensities [P, B, N], float32.
        """
        sets = max(len(phases.theta) for phases in path)
        light = np.broadcast_to(fields.astype(np.complex64), (sets, *fields.shape[-2:]))
        with self._turn:
            try:
                return np.stack([self._read(light[p], path, p, reads) for p in range(sets)])
            except BaseException:
                self._written.clear()  # after an error nobody knows which phases the device has
                raise

    def __reduce__(self) -> tuple[Any, ...]:
        """Copy the device alone: its driver writes all phases anew, as others may have written."""
        return driver_of, (self.device,)

    def _read(self, fields: np.ndarray, path: Sequence[Phases], p: int, reads: int) -> np.ndarray:
        for mesh, phases in enumerate(path, start=1):
            shared = len(phases.theta) == 1
            chosen = Phases(*(w[0 if shared else p] for w in phases))
            # A frozen mesh is written once. Several sets are all written, even equal ones, because
            # every write has its own noise.
            if not (shared and self._has(mesh, chosen)):
                self._write(mesh, chosen)
        return np.mean([self._measure(len(path), fields) for _ in range(reads)], axis=0)

    def _has(self, mesh: int, phases: Phases) -> bool:
        written = self._written.get(mesh)
        return written is not None and all(map(np.array_equal, written, phases))

    def _write(self, mesh: int, phases: Phases) -> None:
        if not all(np.isfinite(w).all() for w in phases):
            raise DeviceError(f"device's phases of mesh {mesh} must be finite before a write")
        self._written.pop(mesh, None)
        self._call("write", mesh, *(np.array(w, np.float32) for w in phases))
        self._written[mesh] = Phases(*map(np.array, phases))

    def _measure(self, mesh: int, fields: np.ndarray) -> np.ndarray:
        return check_intensities(self._call("measure", mesh, fields.copy()), fields.shape, mesh)

    def _call(self, method: str, mesh: int, *arrays: np.ndarray) -> Any:
        with device_errors(f"{method} mesh {mesh}"):
            return getattr(self.device, method)(mesh, *arrays)


def check_intensities(answer: Any, shape: tuple[int, ...], mesh: int) -> np.ndarray:
    """What a device measured after a mesh as float32 [B, N]; a `DeviceError` if it is no light."""
    if np.ma.is_masked(answer):
        raise DeviceError(f"device must read every port after mesh {mesh}, found masked values")
    z = np.asarray(answer)
    if z.dtype.kind not in "fiu" or z.shape != shape:
        raise DeviceError(
            f"device must give real intensities {list(shape)} after mesh {mesh}, found "
            f"{z.dtype} {list(z.shape)}"
        )
    with np.errstate(over="ignore"):
        z = z.astype(np.float32)
    wrong = z[~np.isfinite(z) | (z < 0)]
    if wrong.size:
        raise DeviceError(
            f"device must give finite intensities, at least 0, after mesh {mesh}, found {wrong[0]}"
        )
    return z


def check_phases(device: Device, theta: Any, phi: Any, gamma: Any) -> Phases:
    """Phases of one mesh of a device as copies, float32; a `ValueError` if they are no such."""
    grid, ports = (device.columns, device.units // 2), (device.units,)
    return Phases(
        _real("theta", theta, grid), _real("phi", phi, grid), _real("gamma", gamma, ports)
    )


def _real(name: str, value: Any, shape: tuple[int, ...]) -> np.ndarray:
    array = to_single(name, as_numbers(name, value))
    if array.shape != shape or array.dtype.kind == "c":
        raise ValueError(
            f"{name} must be real numbers of shape {list(shape)}, got {array.dtype} of shape "
            f"{list(array.shape)}"
        )
    return array


def check_mesh(device: Device, mesh: Any) -> int:
    """The number of a mesh that a device has."""
    return integer("mesh", mesh, minimum=1, maximum=device.meshes)


def check_written(mesh: int, written: Collection[int]) -> None:
    """Refuse to send light after a mesh while it, or one before it, has no phases."""
    for number in range(1, mesh + 1):
        if number not in written:
            raise ValueError(f"mesh {number} must be written before light is sent through it")


@runtime_checkable
class _Closable(Protocol):
    def close(self) -> object: ...


def close_device(device: Device) -> None:
    """Let go of a device that has a method for it."""
    if isinstance(device, _Closable):
        with device_errors("close"):
            device.close()


def close_at_end(device: Device) -> None:
    """Close a device when the command that is running ends, whatever ends it."""
    signals().cleanups.append(partial(close_device, device))


@contextmanager
def closed_on_error(device: Device) -> Iterator[Device]:
    """Close the device if an error ends the block, which it was opened for."""
    try:
        yield device
    except Exception:
        close_device(device)
        raise


def driver_of(device: Device) -> Driver:
    """The driver of a device: the same for all models on it, as it has one set of phases."""
    with _DRIVING:
        driver = _DRIVERS.get(id(device))
        if driver is None:
            driver = _DRIVERS[id(device)] = Driver(device)
        return driver


_DRIVING = threading.Lock()
_DRIVERS: WeakValueDictionary[int, Driver] = WeakValueDictionary()  # each keeps its device alive


class Sent(NamedTuple):
    """Light that has not been sent yet: fields at the first mesh, phases of the meshes to cross.

    ``fields`` are [B, N] or [P, B, N], and the phases of each mesh lead with P or 1.
    """

    fields: Any
    path: tuple[Phases, ...] = ()


@dataclass(frozen=True, eq=False)
class OnDevice(PhaseLayer):
    """One mesh of a device, as a layer.

    `transmit` sends nothing. It returns the encoded fields with the phases of the meshes that they
    must cross; `measure` writes these phases and sends the light through all of the meshes.

    Attributes:
        mesh: Its ports and columns; nobody but the device knows its imperfections.
        driver: The driver of the device; None in a model that was loaded without its device, and
            cannot predict.
        reads: Readings averaged into one.
        nonlinearity: What a twin takes for the device's nonlinearity after the mesh.
        amplifier: What a twin takes for the amplifier in front of it.
    """

    mesh: RectangularMesh
    driver: Driver | None
    reads: int = 1
    nonlinearity: Nonlinearity = Linear()  # noqa: RUF009 (frozen)
    amplifier: Amplifier | None = None
    runs_on: ClassVar[str] = "device"
    cacheable: ClassVar[bool] = False

    @property
    def nominal(self) -> Photonic:
        return Photonic(self.mesh, self.nonlinearity, amplifier=self.amplifier)

    def entering(self, params: Phases, x: Any) -> Any:
        """The encoded fields; what enters a later mesh only the device knows."""
        return None if isinstance(x, Sent) else x

    def measure(self, params: Phases, x: Any, noise: Any = ()) -> Any:
        """Intensities at the output ports [P, B, N], as the device reads them."""
        fields, path = self.transmit(params, x)
        sets = max(phases.theta.shape[0] for phases in path)
        arguments = [fields, *tf.nest.flatten(path)]
        z = from_python("a device", self._measure, arguments, tf.float32)
        return tf.ensure_shape(z, [sets, *fields.shape[-2:]])

    def transmit(self, params: Phases, x: Any, noise: Any = ()) -> Sent:
        """The light that came, with one mesh more to cross."""
        sent = x if isinstance(x, Sent) else Sent(tf.convert_to_tensor(x))
        phases = Phases(*map(tf.convert_to_tensor, params))
        return Sent(sent.fields, (*sent.path, phases))

    def _measure(self, fields: np.ndarray, *phases: np.ndarray) -> np.ndarray:
        if self.driver is None:
            raise ValueError(
                "device must be given to a model that was trained on one, to predict: "
                "load_model(path, device=the device)"
            )
        path = [Phases(*phases[at : at + 3]) for at in range(0, len(phases), 3)]
        return self.driver.measure(fields, path, self.reads)
