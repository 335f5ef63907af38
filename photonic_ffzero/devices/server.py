"""The server of a device, for clients in other processes, see `wire`."""

from __future__ import annotations

import hmac
import ipaddress
import secrets
import socket
import socketserver
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from meshes.validation import integer, one_line
from photonic_ffzero.devices import wire
from photonic_ffzero.devices.device import Device, check_intensities, nameplate_of
from photonic_ffzero.devices.remote import Address, check_host
from photonic_ffzero.devices.session import TOKEN_VARIABLE, derived
from photonic_ffzero.devices.wire import SECRET_BYTES, Kind

_SMALL = 2**20  # bytes; of the messages above, one at a time has memory


@dataclass(frozen=True)
class Limits:
    """What a server grants its clients.

    Attributes:
        clients: How many are connected at a time.
        greeting: Seconds until the first question, the proof of the secret included.
        idle: Seconds between an answer and the next question.
        message: Seconds for the rest of a message, and for an answer to be taken.
    """

    clients: int = 8
    greeting: float = 10.0
    idle: float = 600.0
    message: float = 60.0


@dataclass
class _Place:
    """A connected client: when it was answered last, and whether it waits for an answer."""

    connection: socket.socket
    known: bool = False
    busy: bool = False
    last: float = field(default_factory=time.monotonic)


class DeviceServer(socketserver.ThreadingTCPServer):
    """Serves a device, one question at a time; a new client may come while an old one lingers.

    When all places are taken, the client that was answered longest ago gives its place to the next
    one, first those that have asked nothing; never the one whose phases the device has.

    Args:
        device: The device.
        host: The name or number of this machine that clients may use. Without a secret it must be
            one that only this machine reaches.
        port: The port; 0 for any free one.
        secret: What clients must know, see `session`; without one nobody proves anything.
        limits: How many clients, and how long they may take.
    """

    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 128

    def __init__(
        self,
        device: Device,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        secret: bytes | None = None,
        limits: Limits = Limits(),
    ) -> None:
        self.device, self.secret, self.limits = device, secret, limits
        *sizes, identity = nameplate_of(device)
        self.units, self.columns, self.meshes = sizes
        self.shape = wire.SHAPE.pack(*sizes, (identity or "").encode())
        self.turn, self._large, self._guard = (threading.Lock() for _ in range(3))
        self.writer: Any = None  # the client that wrote last
        self.written: set[int] = set()  # the meshes whose phases are that client's
        self.places: dict[socket.socket, _Place] = {}
        self.address_family, place = _place(host, port, secret)
        super().__init__(place, _Client)

    @property
    def address(self) -> str:
        """``tcp://host:port``."""
        host, port = self.server_address[:2]
        return str(Address(str(host), int(port)))

    def process_request(self, request: Any, client_address: Any) -> None:
        """Give a new client a place and a thread, or tell it that there is none."""
        if self._has_room():
            self.places[request] = _Place(request)
            super().process_request(request, client_address)
            return
        with suppress(OSError):
            wire.Channel(request, "server").send(Kind.BUSY, b"", 1.0)
        self.shutdown_request(request)

    def _has_room(self) -> bool:
        with self._guard:
            if len(self.places) < self.limits.clients:
                return True
            kept = getattr(self.writer, "request", None)
            others = [p for p in self.places.values() if not p.busy and p.connection is not kept]
            if others:
                self.hang_up(min(others, key=lambda place: (place.known, place.last)).connection)
            return bool(others)

    def hang_up(self, connection: socket.socket) -> None:
        """End a connection; its thread notices, and closes it."""
        self.places.pop(connection, None)
        with suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)

    def shutdown_request(self, request: Any) -> None:
        with self._guard:
            self.places.pop(request, None)
        super().shutdown_request(request)

    def server_close(self) -> None:
        """Close the port and all connections."""
        super().server_close()
        with self._guard:
            for connection in tuple(self.places):
                self.hang_up(connection)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say in one line what went wrong, not by a traceback."""
        error = sys.exception()
        with suppress(OSError):
            print(one_line(f"client lost: {type(error).__name__}: {error}"), file=sys.stderr)

    @contextmanager
    def room_for(self, length: int) -> Iterator[None]:
        """Wait until there is memory for a message of this length, and hold it."""
        if length <= _SMALL:
            yield
            return
        if not self._large.acquire(timeout=self.limits.message):
            raise TimeoutError("no memory in time")
        try:
            yield
        finally:
            self._large.release()


def _place(host: str, port: int, secret: bytes | None) -> tuple[socket.AddressFamily, Any]:
    """Where to listen; without a secret, only where other machines cannot reach."""
    if not host:
        raise ValueError("host must be a name or number of this machine, got an empty text")
    if integer("port", port, minimum=0) >= 2**16:
        raise ValueError(f"port must be 0 to 65535, got {port}")
    check_host(host)
    try:
        family, *_, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError) as error:
        raise ValueError(f"host must be a name or number of this machine, got {host!r}") from error
    if secret is None and not ipaddress.ip_address(place[0]).is_loopback:
        raise ValueError(
            f"host must be one of this machine alone, 127.0.0.1 or ::1, unless clients share a "
            f"secret (--token-file, {TOKEN_VARIABLE}); got {host}"
        )
    return family, place


class _Client(socketserver.BaseRequestHandler):
    """Answers one client until it hangs up, takes too long or breaks the protocol."""

    server: DeviceServer

    def handle(self) -> None:
        place = self.server.places.get(self.request)
        if place is None:  # its place was given to another one before it began
            return
        self.place, self.channel = place, wire.Channel(self.request, "server")
        self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with suppress(OSError):  # the client hung up, or took too long
            try:
                greeting = wire.within(self.server.limits.greeting)
                if self.server.secret is not None:
                    self._authenticate(self.server.secret, greeting)
                self._answer_next(greeting)
                while True:
                    self._answer_next(wire.within(self.server.limits.idle))
            except wire.ProtocolError as error:
                self._send(Kind.FAILED, str(error).encode())

    def _authenticate(self, secret: bytes, seconds_left: Callable[[], float]) -> None:
        """Let both sides prove that they know the secret; from then on, messages carry codes."""
        self._receive_proof(Kind.HELLO, 0, seconds_left)
        nonce = secrets.token_bytes(SECRET_BYTES)
        self._send(Kind.CHALLENGE, nonce)
        answer = self._receive_proof(Kind.PROOF, 2 * SECRET_BYTES, seconds_left)
        nonces, proof = nonce + answer[:SECRET_BYTES], answer[SECRET_BYTES:]
        if not hmac.compare_digest(proof, derived(secret, nonces, "client")):
            raise wire.ProtocolError("the client's secret must be the server's")
        self._send(Kind.PROOF, derived(secret, nonces, "server"))
        self.channel.key = derived(secret, nonces, "session")

    def _receive_proof(self, wanted: Kind, size: int, seconds_left: Callable[[], float]) -> bytes:
        kind, length = self.channel.receive_header(seconds_left)
        if (kind, length) != (wanted, size):
            raise wire.ProtocolError(
                f"a client must first prove that it knows the secret ({wanted.name} of {size} "
                f"bytes), found {kind.name} of {length} bytes"
            )
        return bytes(self.channel.receive(length, seconds_left))

    def _answer_next(self, seconds_left: Callable[[], float]) -> None:
        kind, length = self.channel.receive_header(seconds_left)
        if not self._allows(kind, length):
            raise wire.ProtocolError(f"a question cannot be {kind.name} of {length} bytes")
        with self.server.room_for(length):
            content = self.channel.receive(length, wire.within(self.server.limits.message))
            self.place.busy = True
            self._send(*self._answer(kind, content))
        self.place.known, self.place.busy, self.place.last = True, False, time.monotonic()

    def _send(self, kind: Kind, content: bytes = b"") -> None:
        self.channel.send(kind, content, self.server.limits.message)

    def _allows(self, kind: Kind, length: int) -> bool:
        device, content = self.server, length - wire.MESH.size
        sample = 8 * device.units
        allowed = {
            Kind.HELLO: length == 0,
            Kind.WRITE: content == 4 * (2 * device.columns * (device.units // 2) + device.units),
            Kind.MEASURE: 0 < content <= max(wire.MAX_BYTES, sample) and content % sample == 0,
        }
        return allowed.get(kind, False)

    def _answer(self, kind: Kind, content: bytearray) -> tuple[Kind, bytes]:
        if kind == Kind.HELLO:
            return Kind.SHAPE, self.server.shape
        mesh = wire.MESH.unpack_from(content)[0]
        if not 1 <= mesh <= self.server.meshes:
            raise wire.ProtocolError(f"mesh must be 1 to {self.server.meshes}, got {mesh}")
        answer = self._write if kind == Kind.WRITE else self._measure
        with self.server.turn:
            if self._has_hung_up():
                raise ConnectionError("the client hung up")
            try:
                return answer(mesh, memoryview(content)[wire.MESH.size :])
            except Exception as error:
                self.server.written.discard(mesh)
                text = one_line(f"{type(error).__name__}: {error}")
                return Kind.FAILED, text.encode()[: wire.MAX_TEXT]

    def _has_hung_up(self) -> bool:
        """Whether the client waits no longer; one that does sends nothing more."""
        self.request.settimeout(0)
        try:
            return not self.request.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False

    def _write(self, mesh: int, content: memoryview) -> tuple[Kind, bytes]:
        server = self.server
        if server.writer is not self:
            server.writer, server.written = self, set()
        server.written.discard(mesh)
        grid = server.columns, server.units // 2
        size = grid[0] * grid[1]
        theta, phi, gamma = np.split(np.frombuffer(content, "<f4"), [size, 2 * size])
        server.device.write(mesh, theta.reshape(grid), phi.reshape(grid), gamma)
        server.written.add(mesh)
        return Kind.DONE, b""

    def _measure(self, mesh: int, content: memoryview) -> tuple[Kind, bytes]:
        server = self.server
        if server.writer is not self or not server.written.issuperset(range(1, mesh + 1)):
            return Kind.LOST, b""
        fields = np.frombuffer(content, "<c8").reshape(-1, server.units)
        answer = check_intensities(server.device.measure(mesh, fields), fields.shape, mesh)
        return Kind.LIGHT, answer.astype("<f4", copy=False).tobytes()
