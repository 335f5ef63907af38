r"""Devices: a chip in a laboratory, or what behaves like one, in the place of simulated meshes.

A device holds all meshes of a network with their nonlinearities. Its phases can be written, light
sent in at the first mesh and read behind any of them, and that is all: a detector hands no complex
fields on, and nothing has a derivative. To train mesh l, the encoded images therefore cross meshes
1 .. l - 1 again at every evaluation.

Your own device is a class with three numbers and two methods. Here a simulated mesh stands where
your instruments would be::

    import numpy as np

    from meshes import Phases, RectangularMesh
    from photonic_ffzero import encode, evaluate, fit, load_dataset


    class MyChip:
        units, columns, meshes = 16, 16, 2  # ports, columns of a mesh, meshes

        def __init__(self):
            self.mesh, self.phases = RectangularMesh(16, splitter_error=0.05), {}

        def write(self, mesh, theta, phi, gamma):  # meshes count from 1; phases in rad
            self.phases[mesh] = Phases(theta, phi, gamma)  # yours: set the heaters, wait

        def measure(self, mesh, fields):  # [B, 16], complex: the encoded images
            for number in range(1, mesh + 1):  # yours: modulate the light, read the detectors
                fields = self.mesh.propagate(fields, self.phases[number])
            return np.abs(fields) ** 2  # behind that mesh [B, 16]


    digits = load_dataset("digits")
    x, y = encode(digits.train_images, "average", size=4), digits.train_labels
    model = fit(x[:400], y[:400], device=MyChip(), epochs=1, directions=4)
    print(evaluate(model, x[:400], y[:400]).accuracy)

On the command line it is ``--device module:MyChip``, in a module of the working directory, and
from another process ``--device tcp://host:port``, see `remote`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable
from weakref import WeakValueDictionary

import numpy as np

from meshes import Phases, RectangularMesh
from meshes._tensorflow import from_python, tf
from meshes.validation import integer
from photonic_ffzero.layers.base import Noiseless
from photonic_ffzero.layers.photonic import OfPhases


class DeviceError(OSError):
    """A device does not do what it is asked for, or answers nonsense."""


@runtime_checkable
class Device(Protocol):
    """The smallest thing that can be trained: meshes whose phases are set and whose light is read.

    Any error in one of the methods ends a training; what was learned until then is kept.

    Attributes:
        units: Ports of every mesh N.
        columns: Columns of every mesh L, of M = N // 2 interferometers each.
        meshes: Meshes, in the order of the light.
    """

    @property
    def units(self) -> int: ...
    @property
    def columns(self) -> int: ...
    @property
    def meshes(self) -> int: ...

    def write(self, mesh: int, theta: np.ndarray, phi: np.ndarray, gamma: np.ndarray) -> None:
        """Set the phases of one mesh; those of the others stay.

        Not modulo 2 pi: theta and theta + 2 pi differ by a sign.

        Args:
            mesh: Which one, from 1.
            theta: Internal phases [L, M], float32, rad.
            phi: External phases [L, M], float32, rad.
            gamma: Input phase screen [N], float32, rad.
        """

    def measure(self, mesh: int, fields: np.ndarray) -> np.ndarray:
        """Send light in at the first mesh, and read it behind a mesh, before its nonlinearity.

        Args:
            mesh: Which one, from 1.
            fields: Amplitudes at the input ports [B, N], complex64.

        Returns:
            Intensities at the output ports [B, N], finite, at least 0.
        """


class Driver:
    """The host's side of a device: writes what is not there yet, and checks what comes back.

    Args:
        device: The device; it is nobody else's as long as it is used.

    Raises:
        TypeError, ValueError: it is none, or its numbers of ports, columns or meshes are none.
    """

    def __init__(self, device: Device) -> None:
        if not isinstance(device, Device):
            raise TypeError(
                f"device must have units, columns, meshes, write and measure, got {device!r}"
            )
        self.device = device
        self.units = integer("device's units", device.units, minimum=2)
        self.columns = integer("device's columns", device.columns, minimum=1)
        self.meshes = integer("device's meshes", device.meshes, minimum=1)
        self._written: dict[int, Phases] = {}

    def measure(self, fields: np.ndarray, path: Sequence[Phases], reads: int = 1) -> np.ndarray:
        """Write sets of phases one after another, and read the light of each.

        Args:
            fields: Amplitudes [B, N], or [P, B, N].
            path: P sets of phases, or one, for every mesh up to the one to read behind.
            reads: Readings that are averaged into one.

        Returns:
            Intensities [P, B, N], float32.

        Raises:
            DeviceError: the device failed, or its answer breaks a rule of `Device`.
        """
        sets = max(len(phases.theta) for phases in path)
        light = np.broadcast_to(fields.astype(np.complex64), (sets, *fields.shape[-2:]))
        try:
            return np.stack([self._read(light[p], path, p, reads) for p in range(sets)])
        except BaseException:
            self._written.clear()  # who knows what is written now
            raise

    def _read(self, fields: np.ndarray, path: Sequence[Phases], p: int, reads: int) -> np.ndarray:
        for mesh, phases in enumerate(path, start=1):
            alone = len(phases.theta) == 1
            own = Phases(*(w[0 if alone else p] for w in phases))
            if not (alone and self._has(mesh, own)):
                self._write(mesh, own)
        return np.mean([self._measure(len(path), fields) for _ in range(reads)], axis=0)

    def _has(self, mesh: int, phases: Phases) -> bool:
        """Whether phases are there already, as those of a frozen mesh are.

        Sets that are evaluated side by side are all written, be they the same: each write has a
        noise of its own.
        """
        there = self._written.get(mesh)
        return there is not None and all(map(np.array_equal, there, phases))

    def _write(self, mesh: int, phases: Phases) -> None:
        if not all(np.isfinite(w).all() for w in phases):
            raise DeviceError(f"device was to get phases of mesh {mesh} that are not finite")
        self._written.pop(mesh, None)
        with _asked("write the phases of", mesh):
            self.device.write(mesh, *(np.array(w, np.float32) for w in phases))
        self._written[mesh] = Phases(*map(np.array, phases))

    def _measure(self, mesh: int, fields: np.ndarray) -> np.ndarray:
        with _asked("read the light behind", mesh):
            answer = self.device.measure(mesh, fields.copy())
        return readings(answer, fields.shape, mesh)


@contextmanager
def _asked(what: str, mesh: int) -> Iterator[None]:
    """Whatever goes wrong in a laboratory is a `DeviceError`, of which the cause is kept."""
    try:
        yield
    except DeviceError:
        raise
    except Exception as error:
        raise DeviceError(
            f"device failed to {what} mesh {mesh}: {type(error).__name__}: {error}"
        ) from error


def readings(answer: Any, shape: tuple[int, ...], mesh: int) -> np.ndarray:
    """A device's answer, if it is what an answer must be.

    Args:
        answer: What it gave.
        shape: [B, N].
        mesh: Behind which mesh, from 1.

    Returns:
        Intensities [B, N], float32.

    Raises:
        DeviceError: it is not.
    """
    found = np.asarray(answer)
    if found.dtype.kind not in "fiu" or found.shape != shape:
        raise DeviceError(
            f"device must give real intensities {list(shape)} behind mesh {mesh}, found "
            f"{found.dtype} {list(found.shape)}"
        )
    with np.errstate(over="ignore"):
        found = found.astype(np.float32)
    if not np.isfinite(found).all() or found.min(initial=0) < 0:
        worst = found.min() if np.isfinite(found).all() else found[~np.isfinite(found)][0]
        raise DeviceError(
            f"device must give finite intensities, at least 0, behind mesh {mesh}, found {worst}"
        )
    return found


def driver_of(device: Device) -> Driver:
    """The driver of a device: one and the same for all models on it, as it has one set of phases.

    Raises:
        TypeError, ValueError: see `Driver`.
    """
    driver = _DRIVERS.get(id(device))
    if driver is None:
        driver = _DRIVERS[id(device)] = Driver(device)
    return driver


_DRIVERS: WeakValueDictionary[int, Driver] = WeakValueDictionary()  # each keeps its device alive


class Sent(NamedTuple):
    """Light on its way through a device: what was sent in, and the phases it is to cross.

    Attributes:
        fields: Amplitudes at the first mesh's ports [B, N] or [P, B, N].
        path: Phases [P or 1, ...] of each mesh.
    """

    fields: Any
    path: tuple[Phases, ...] = ()


@dataclass(frozen=True, eq=False)
class OnDevice(Noiseless, OfPhases):
    """One mesh of a device, as a layer.

    What it hands on is the encoded fields themselves, with the phases of the meshes they are to
    cross: they are written and crossed when a detector is read behind the last of them.

    Attributes:
        mesh: Its ports and columns; what it is made of is the device's secret.
        driver: The device's, which has noise of its own; None where a model is loaded without it,
            which then cannot predict.
        reads: Readings that are averaged into one.
    """

    mesh: RectangularMesh
    driver: Driver | None
    reads: int = 1
    compilable: ClassVar[bool] = False
    cacheable: ClassVar[bool] = False
    instrument: ClassVar[bool] = True

    def measure(self, params: Phases, x: Any) -> Any:
        """Intensities at the output ports [P, B, N], as the device reads them."""
        fields, path = self.transmit(params, x)
        sets = max(phases.theta.shape[0] for phases in path)
        arguments = [fields, *tf.nest.flatten(path)]
        z = from_python(self._measure, arguments, tf.float32)
        return tf.ensure_shape(z, [sets, *fields.shape[-2:]])

    def transmit(self, params: Phases, x: Any) -> Sent:
        """The light that came, which has one mesh more to cross."""
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
