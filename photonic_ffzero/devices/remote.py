r"""A device in another process, behind a TCP socket that passes nothing but intensities on.

A message is a header, 12 bytes, and its content, little-endian:

====== ======== =====================================================================
bytes  what
====== ======== =====================================================================
4      magic    ``FFZ1``
4      kind     what it is, see `Kind`
4      length   of the content; every kind has one that follows from the device's shape
====== ======== =====================================================================

The client asks, the server answers: ``HELLO`` with ``SHAPE`` (units, columns, meshes, uint32);
``WRITE`` (mesh, uint32, then theta, phi, gamma, float32) with ``DONE``; ``MEASURE`` (mesh, uint32,
then fields [B, N], complex64) with ``LIGHT`` (intensities [B, N], float32), or ``LOST`` if not all
of its meshes were written over this connection, and by nobody else since: whoever gets it writes
them again. ``FAILED`` carries a text. Writing twice is writing once, so that whatever was not
answered is asked again over a new connection.
"""

from __future__ import annotations

import socket
import socketserver
import struct
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Self

import numpy as np

from meshes.validation import number, with_values
from photonic_ffzero.devices.device import Device, DeviceError, readings

SCHEME = "tcp://"
MAX_BYTES = 2**26  # of one message; more samples than that go in several
MAX_TEXT = 2000

_MAGIC = b"FFZ1"
_HEADER = struct.Struct("<4sII")
_MESH = struct.Struct("<I")
_SHAPE = struct.Struct("<III")
_PIECE = 2**20
_PAUSE = 0.5  # seconds before the second attempt; twice as many before each further one


class Kind(IntEnum):
    """What a message is."""

    HELLO = 1
    WRITE = 2
    MEASURE = 3
    SHAPE = 11
    DONE = 12
    LIGHT = 13
    LOST = 14
    FAILED = 15


@dataclass(frozen=True)
class Patience:
    """How long a client waits.

    Args:
        timeout: For an answer, s.
        retries: How often it asks again.

    Raises:
        TypeError, ValueError: a value is no number or out of range.
    """

    timeout: float = 60.0
    retries: float = 3

    def __post_init__(self) -> None:
        number("timeout", self.timeout, above=0, maximum=86400)
        if number("retries", self.retries, minimum=0, maximum=100) % 1:
            raise ValueError(f"retries must be a whole number, got {self.retries}")


@dataclass(frozen=True)
class Address:
    """Where a server is.

    Attributes:
        host: Its name or number.
        port: Its port.
        patience: How long to wait for it.
    """

    host: str
    port: int
    patience: Patience = Patience()

    @classmethod
    def of(cls, text: str) -> Address:
        """Read ``tcp://host:port`` or ``tcp://host:port?timeout=60,retries=3``.

        Raises:
            ValueError: the text is no address.
        """
        place, _, rest = text.removeprefix(SCHEME).partition("?")
        host, _, port = place.rpartition(":")
        if not (text.startswith(SCHEME) and host and port.isascii() and port.isdigit()):
            raise ValueError(f"device must be written {SCHEME}host:port, got {text!r}")
        if not 0 < int(port[:6]) < 2**16:
            raise ValueError(f"device's port must be 1 to 65535, got {port}")
        return cls(host.strip("[]"), int(port), with_values("device", "", rest, Patience))

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{SCHEME}{host}:{self.port}"


class _NonsenseError(Exception):
    """A message that cannot be one."""


def _phase_bytes(shape: Any) -> int:
    return 4 * (2 * shape.columns * (shape.units // 2) + shape.units)


def pack(kind: Kind, *parts: bytes) -> bytes:
    """A message.

    Args:
        kind: What it is.
        *parts: Its content.
    """
    content = b"".join(parts)
    return _HEADER.pack(_MAGIC, kind, len(content)) + content


def _receive(line: socket.socket, size: int, deadline: float | None) -> bytes:
    """Read so many bytes; memory grows with what has come, not with what was announced.

    Raises:
        OSError: the connection ended, or time did.
    """
    pieces = []
    while size:
        if deadline is not None:
            line.settimeout(max(deadline - time.monotonic(), 1e-3))
        piece = line.recv(min(size, _PIECE))
        if not piece:
            raise ConnectionError("the connection was closed")
        pieces.append(piece)
        size -= len(piece)
    return b"".join(pieces)


def _header(content: bytes) -> tuple[Kind, int]:
    """Kind and length of a message.

    Raises:
        _NonsenseError: it is none.
    """
    magic, kind, length = _HEADER.unpack(content)
    if magic != _MAGIC or kind not in set(Kind):
        raise _NonsenseError(
            f"a message of this protocol must begin with {_MAGIC!r} and its kind, "
            f"found {content[:8]!r}"
        )
    return Kind(kind), length


class RemoteDevice:
    """A `Device` in another process.

    Args:
        address: Where its server is.

    Raises:
        DeviceError: it does not answer, or answers nonsense.
    """

    def __init__(self, address: Address) -> None:
        self.address = address
        self._line: socket.socket | None = None
        self._written: dict[int, bytes] = {}
        self._shape: tuple[int, int, int] | None = None
        self._shape = self.units, self.columns, self.meshes = self._hello()

    @classmethod
    def at(cls, text: str) -> RemoteDevice:
        """The device at ``tcp://host:port``.

        Raises:
            DeviceError: it does not answer, or answers nonsense.
            ValueError: the text is no address.
        """
        return cls(Address.of(text))

    def write(self, mesh: int, theta: np.ndarray, phi: np.ndarray, gamma: np.ndarray) -> None:
        """See `Device`."""
        phases = (np.asarray(w, "<f4").tobytes() for w in (theta, phi, gamma))
        self._written[mesh] = b"".join((_MESH.pack(mesh), *phases))
        self._ask(Kind.WRITE, self._written[mesh], {Kind.DONE: 0})

    def measure(self, mesh: int, fields: np.ndarray) -> np.ndarray:
        """See `Device`."""
        rows = max(MAX_BYTES // (8 * self.units), 1)
        parts = (fields[at : at + rows] for at in range(0, len(fields), rows))
        return np.concatenate([self._measure(mesh, part) for part in parts])

    def close(self) -> None:
        """Hang up; the next question makes a new connection."""
        if self._line is not None:
            self._line.close()
            self._line = None

    def __del__(self) -> None:
        if hasattr(self, "_line"):
            self.close()

    def _measure(self, mesh: int, fields: np.ndarray) -> np.ndarray:
        content = _MESH.pack(mesh) + np.asarray(fields, "<c8").tobytes()
        for _ in range(1 + int(self.address.patience.retries)):
            expected = {Kind.LIGHT: 4 * fields.size, Kind.LOST: 0}
            kind, answer = self._ask(Kind.MEASURE, content, expected)
            if kind == Kind.LIGHT:
                return np.frombuffer(answer, "<f4").reshape(fields.shape)
            for written in self._written.values():
                self._ask(Kind.WRITE, written, {Kind.DONE: 0})
        raise DeviceError(
            f"device {self.address} has not the phases that were written: does someone else use it?"
        )

    def _hello(self) -> tuple[int, int, int]:
        _, answer = self._ask(Kind.HELLO, b"", {Kind.SHAPE: _SHAPE.size})
        return _SHAPE.unpack(answer)

    def _ask(self, kind: Kind, content: bytes, expected: dict[Kind, int]) -> tuple[Kind, bytes]:
        """Send a message and receive its answer; where none comes, over a new connection.

        Args:
            kind: What to ask.
            content: With what.
            expected: The answers it may have, with their lengths.

        Raises:
            DeviceError: no answer came, or one that is none.
        """
        tries = 1 + int(self.address.patience.retries)
        for attempt in range(tries):
            try:
                return self._asked_once(pack(kind, content), expected)
            except DeviceError:
                self.close()
                raise
            except OSError as error:
                self.close()
                last = error
                if attempt + 1 < tries:
                    time.sleep(_PAUSE * 2**attempt)
            except BaseException:
                self.close()  # an answer may be on its way, which is not that of the next question
                raise
        raise DeviceError(
            f"device {self.address} does not answer, asked {tries} times: "
            f"{str(last) or type(last).__name__}"
        ) from last

    def _asked_once(self, message: bytes, expected: dict[Kind, int]) -> tuple[Kind, bytes]:
        deadline = time.monotonic() + self.address.patience.timeout
        if self._line is None:
            self._line = socket.create_connection(
                (self.address.host, self.address.port), self.address.patience.timeout
            )
            if self._shape is not None and (found := self._hello_again(deadline)) != self._shape:
                raise DeviceError(
                    f"device {self.address} must be the one it was, of {self._shape} ports, "
                    f"columns and meshes, found {found}"
                )
        return self._exchange(self._line, message, expected, deadline)

    def _hello_again(self, deadline: float) -> tuple[int, int, int]:
        line = self._line
        _, answer = self._exchange(line, pack(Kind.HELLO), {Kind.SHAPE: _SHAPE.size}, deadline)
        return _SHAPE.unpack(answer)

    def _exchange(
        self, line: Any, message: bytes, expected: dict[Kind, int], deadline: float
    ) -> tuple[Kind, bytes]:
        line.settimeout(max(deadline - time.monotonic(), 1e-3))
        line.sendall(message)
        try:
            kind, length = _header(_receive(line, _HEADER.size, deadline))
        except _NonsenseError as error:
            raise DeviceError(f"device {self.address} answers nonsense: {error}") from None
        if kind == Kind.FAILED and length <= MAX_TEXT:
            text = _receive(line, length, deadline).decode(errors="replace")
            raise DeviceError(f"device {self.address} failed: {text!r}")
        if expected.get(kind) != length:
            wanted = " or ".join(f"{k.name} of {size} bytes" for k, size in expected.items())
            raise DeviceError(
                f"device {self.address} must answer {wanted}, found {kind.name} of {length} bytes"
            )
        return kind, _receive(line, length, deadline)


class DeviceServer(socketserver.ThreadingTCPServer):
    """Serves a device to one client at a time; a new one may come while the old one lingers.

    Args:
        device: The device.
        host: The name or number of this machine that clients may use.
        port: The port; 0 for any that is free.

    Raises:
        OSError: the port cannot be had.
    """

    allow_reuse_address = True
    daemon_threads = True

    def __init__(self, device: Device, host: str = "127.0.0.1", port: int = 0) -> None:
        self.device = device
        self.turn = threading.Lock()
        self.holder: Any = None  # whose phases the device has
        self.written: set[int] = set()  # the meshes that have them
        self._lines: set[Any] = set()
        super().__init__((host, port), _Client)

    @property
    def address(self) -> str:
        """Where it is, ``tcp://host:port``."""
        host, port = self.server_address[:2]
        return str(Address(str(host), int(port)))

    def get_request(self) -> tuple[Any, Any]:
        """A client; it is remembered."""
        line, address = super().get_request()
        self._lines.add(line)
        return line, address

    def shutdown_request(self, request: Any) -> None:
        """A client has gone."""
        self._lines.discard(request)
        super().shutdown_request(request)

    def server_close(self) -> None:
        """Close the port and hang up on all clients."""
        super().server_close()
        for line in tuple(self._lines):
            self.shutdown_request(line)

    def __enter__(self) -> Self:
        return self


class _Client(socketserver.BaseRequestHandler):
    """One client's questions, one after another, until it hangs up or talks nonsense."""

    server: DeviceServer

    def handle(self) -> None:
        with suppress(OSError):  # it hung up
            try:
                while True:
                    self.request.sendall(self._next())
            except _NonsenseError as error:
                self.request.sendall(_failed(error))

    def _next(self) -> bytes:
        """The answer to the next question."""
        kind, length = _header(_receive(self.request, _HEADER.size, None))
        content = _receive(self.request, self._allowed(kind, length), None)
        with self.server.turn:
            return self._answer(kind, content)

    def _allowed(self, kind: Kind, length: int) -> int:
        """The length of a question, if it can have it.

        Raises:
            _NonsenseError: it cannot.
        """
        device, samples = self.server.device, length - _MESH.size
        fits = {
            Kind.HELLO: length == 0,
            Kind.WRITE: samples == _phase_bytes(device),
            Kind.MEASURE: 0 < samples <= max(MAX_BYTES, 8 * device.units)
            and samples % (8 * device.units) == 0,
        }
        if not fits.get(kind, False):
            raise _NonsenseError(f"a question cannot be {kind.name} of {length} bytes")
        return length

    def _answer(self, kind: Kind, content: bytes) -> bytes:
        device = self.server.device
        if kind == Kind.HELLO:
            return pack(Kind.SHAPE, _SHAPE.pack(device.units, device.columns, device.meshes))
        mesh = _MESH.unpack_from(content)[0]
        if not 1 <= mesh <= device.meshes:
            raise _NonsenseError(f"mesh must be 1 to {device.meshes}, got {mesh}")
        do = self._write if kind == Kind.WRITE else self._measure
        try:
            return do(mesh, content[_MESH.size :])
        except Exception as error:
            self.server.written.discard(mesh)
            return _failed(error)

    def _write(self, mesh: int, content: bytes) -> bytes:
        server, device = self.server, self.server.device
        if server.holder is not self:
            server.holder, server.written = self, set()
        server.written.discard(mesh)
        grid = device.columns, device.units // 2
        each = np.split(np.frombuffer(content, "<f4"), [grid[0] * grid[1], 2 * grid[0] * grid[1]])
        device.write(mesh, each[0].reshape(grid), each[1].reshape(grid), each[2])
        server.written.add(mesh)
        return pack(Kind.DONE)

    def _measure(self, mesh: int, content: bytes) -> bytes:
        server = self.server
        if server.holder is not self or not server.written.issuperset(range(1, mesh + 1)):
            return pack(Kind.LOST)
        fields = np.frombuffer(content, "<c8").reshape(-1, server.device.units)
        answer = readings(server.device.measure(mesh, fields), fields.shape, mesh)
        return pack(Kind.LIGHT, answer.astype("<f4").tobytes())


def _failed(error: Exception) -> bytes:
    return pack(Kind.FAILED, f"{type(error).__name__}: {error}".encode()[:MAX_TEXT])
