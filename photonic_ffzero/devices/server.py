"""The server of a device, for clients in other processes, see `wire`."""

from __future__ import annotations

import socketserver
import threading
from contextlib import suppress
from typing import Any

import numpy as np

from photonic_ffzero.devices import wire
from photonic_ffzero.devices.device import Device, check_intensities
from photonic_ffzero.devices.remote import Address
from photonic_ffzero.devices.wire import Kind


class DeviceServer(socketserver.ThreadingTCPServer):
    """Serves a device, one question at a time; a new client may come while an old one lingers.

    Args:
        device: The device.
        host: The name or number of this machine that clients may use.
        port: The port; 0 for any free one.
    """

    allow_reuse_address = True
    daemon_threads = True

    def __init__(self, device: Device, host: str = "127.0.0.1", port: int = 0) -> None:
        self.device = device
        self.turn = threading.Lock()
        self.writer: Any = None  # the client that wrote last
        self.written: set[int] = set()  # the meshes whose phases are that client's
        self._connections: set[Any] = set()  # closed with the server
        super().__init__((host, port), _Client)

    @property
    def address(self) -> str:
        """``tcp://host:port``."""
        host, port = self.server_address[:2]
        return str(Address(str(host), int(port)))

    def get_request(self) -> tuple[Any, Any]:
        connection, address = super().get_request()
        self._connections.add(connection)
        return connection, address

    def shutdown_request(self, request: Any) -> None:
        self._connections.discard(request)
        super().shutdown_request(request)

    def server_close(self) -> None:
        """Close the port and all connections."""
        super().server_close()
        for connection in tuple(self._connections):
            self.shutdown_request(connection)


class _Client(socketserver.BaseRequestHandler):
    """Answers one client until it hangs up or breaks the protocol."""

    server: DeviceServer

    def handle(self) -> None:
        with suppress(OSError):  # the client hung up
            try:
                while True:
                    self.request.sendall(self._answer_next())
            except wire.ProtocolError as error:
                self.request.sendall(_failed(error))

    def _answer_next(self) -> bytes:
        kind, length = wire.receive_header(self.request)
        if not self._allows(kind, length):
            raise wire.ProtocolError(f"a question cannot be {kind.name} of {length} bytes")
        content = wire.receive(self.request, length)
        with self.server.turn:
            return self._answer(kind, content)

    def _allows(self, kind: Kind, length: int) -> bool:
        device, content = self.server.device, length - wire.MESH.size
        sample = 8 * device.units
        allowed = {
            Kind.HELLO: length == 0,
            Kind.WRITE: content == 4 * (2 * device.columns * (device.units // 2) + device.units),
            Kind.MEASURE: 0 < content <= max(wire.MAX_BYTES, sample) and content % sample == 0,
        }
        return allowed.get(kind, False)

    def _answer(self, kind: Kind, content: bytes) -> bytes:
        device = self.server.device
        if kind == Kind.HELLO:
            return wire.pack(
                Kind.SHAPE, wire.SHAPE.pack(device.units, device.columns, device.meshes)
            )
        mesh = wire.MESH.unpack_from(content)[0]
        if not 1 <= mesh <= device.meshes:
            raise wire.ProtocolError(f"mesh must be 1 to {device.meshes}, got {mesh}")
        answer = self._write if kind == Kind.WRITE else self._measure
        try:
            return answer(mesh, content[wire.MESH.size :])
        except Exception as error:
            self.server.written.discard(mesh)
            return _failed(error)

    def _write(self, mesh: int, content: bytes) -> bytes:
        server, device = self.server, self.server.device
        if server.writer is not self:
            server.writer, server.written = self, set()
        server.written.discard(mesh)
        grid = device.columns, device.units // 2
        size = grid[0] * grid[1]
        theta, phi, gamma = np.split(np.frombuffer(content, "<f4"), [size, 2 * size])
        device.write(mesh, theta.reshape(grid), phi.reshape(grid), gamma)
        server.written.add(mesh)
        return wire.pack(Kind.DONE)

    def _measure(self, mesh: int, content: bytes) -> bytes:
        server = self.server
        if server.writer is not self or not server.written.issuperset(range(1, mesh + 1)):
            return wire.pack(Kind.LOST)
        fields = np.frombuffer(content, "<c8").reshape(-1, server.device.units)
        answer = check_intensities(server.device.measure(mesh, fields), fields.shape, mesh)
        return wire.pack(Kind.LIGHT, answer.astype("<f4").tobytes())


def _failed(error: Exception) -> bytes:
    return wire.pack(Kind.FAILED, f"{type(error).__name__}: {error}".encode()[: wire.MAX_TEXT])
