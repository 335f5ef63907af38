"""The client of a device that another process serves, see `wire` and `DeviceServer`."""

from __future__ import annotations

import hmac
import re
import secrets
import socket
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from meshes.validation import (
    check_fields,
    counted,
    described,
    number_field,
    one_line,
    quoted,
    with_values,
)
from photonic_ffzero.data.checks import check_inputs
from photonic_ffzero.devices import wire
from photonic_ffzero.devices.device import (
    DeviceError,
    Nameplate,
    check_mesh,
    check_phases,
    check_written,
)
from photonic_ffzero.devices.session import TOKEN_VARIABLE, derived, read_secret
from photonic_ffzero.devices.wire import SECRET_BYTES, Kind

SCHEME = "tcp://"

_SECRET_FLAGS = f"--token-file or {TOKEN_VARIABLE}"
_LONGEST_HOST = 253  # characters of a name, by RFC 1035
_READ_AGAIN = b""  # in the place of a copy's secret: none is empty
_Answer = TypeVar("_Answer")
_FIRST_PAUSE = 0.5  # seconds before the second attempt; each further pause is twice as long


@dataclass(frozen=True)
class Patience:
    """How long a client waits for an answer (``timeout``, s), and how often it asks again."""

    timeout: float = number_field(60.0, above=0, maximum=86400)
    retries: float = number_field(3, minimum=0, maximum=100)

    def __post_init__(self) -> None:
        check_fields(self)
        if self.retries % 1:
            raise ValueError(f"retries must be a whole number, got {self.retries}")


@dataclass(frozen=True)
class Address:
    """Where a server listens."""

    host: str
    port: int
    patience: Patience = Patience()

    @classmethod
    def of(cls, text: str) -> Address:
        """Read ``tcp://host:port`` or ``tcp://host:port?timeout=60,retries=3``."""
        place, _, rest = text.removeprefix(SCHEME).partition("?")
        host, _, port = place.rpartition(":")
        host = re.sub(r"^\[(.*)\]$", r"\1", host)
        readable = re.fullmatch(r"[\w.:%-]+", host) and port.isascii() and port.isdigit()
        if not (text.startswith(SCHEME) and readable):
            raise ValueError(f"device must be written {SCHEME}host:port, got {text!r}")
        if not 0 < int(port[:6]) < 2**16:
            raise ValueError(f"device's port must be 1 to 65535, got {port}")
        with described("device"):
            check_host(host)
        return cls(host, int(port), with_values("device", "", rest, Patience))

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{SCHEME}{host}:{self.port}"


def check_host(host: str) -> str:
    """Refuse what is no host before the network is asked about it, which takes seconds.

    A name whose last part is a number would be an address of version 4, which this one is not.
    """
    numeric = ":" not in host and host.rstrip(".").rpartition(".")[2].isdecimal()
    try:
        if numeric:
            socket.inet_aton(host)
        if not 0 < len(host.encode("idna")) <= _LONGEST_HOST:
            raise UnicodeError
    except (OSError, UnicodeError):
        raise ValueError(
            f"host must be a name or number of a machine, got {quoted(host)}"
        ) from None
    return host


class RemoteDevice:
    """A `Device` in another process.

    A copy or a pickle of it has neither its connection nor its secret. It connects at its next
    question, with the secret of the same token file, or of the environment as it then is.

    Args:
        address: Where its server listens; a `DeviceError` says that no device answers there.
        secret: What the server must know and prove, see `session`; None for a server without one.
        clock: Seconds on a clock that never goes back.
        pause: Waits for some seconds.
    """

    def __init__(
        self,
        address: Address,
        *,
        secret: bytes | None = None,
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self.address = address
        self._tries = 1 + int(address.patience.retries)
        self._secret, self._clock, self._pause = secret, clock, pause
        self._token_file: Path | None = None
        self._channel: Any = None
        self._written: dict[int, bytes] = {}  # the phases of each mesh, as they travel
        self._sent: set[int] = set()  # the meshes whose phases this connection has written
        self._shape = b""
        self._shape = self._ask(lambda: self._exchange(Kind.HELLO, b"", _SHAPE))[1]
        self.units, self.columns, self.meshes, self.identity = _described(self._shape)

    @classmethod
    def at(cls, text: str, token_file: Path | None = None) -> RemoteDevice:
        """The device at ``tcp://host:port``, with the secret of `session.read_secret`."""
        device = cls(Address.of(text), secret=read_secret(token_file))
        device._token_file = token_file and token_file.absolute()
        return device

    def write(self, mesh: int, theta: np.ndarray, phi: np.ndarray, gamma: np.ndarray) -> None:
        """Set the phases of one mesh, see `Device`."""
        mesh = check_mesh(self, mesh)
        phases = check_phases(self, theta, phi, gamma)
        content = (w.astype("<f4", copy=False).tobytes() for w in phases)
        self._written[mesh] = b"".join((wire.MESH.pack(mesh), *content))
        self._sent.discard(mesh)
        self._ask(lambda: self._send_phases([mesh]))

    def measure(self, mesh: int, fields: np.ndarray) -> np.ndarray:
        """Intensities [B, N] after one mesh, see `Device`."""
        mesh = check_mesh(self, mesh)
        check_written(mesh, self._written)
        light = check_inputs("fields", fields, self.units).astype("<c8", copy=False)
        rows = max(wire.MAX_BYTES // (8 * self.units), 1)
        parts = (light[at : at + rows] for at in range(0, len(light), rows))
        return np.concatenate([self._measure(mesh, part) for part in parts])

    def close(self) -> None:
        """Hang up; the next question opens a new connection."""
        if self._channel is not None:
            self._channel.connection.close()
            self._channel = None

    def __del__(self) -> None:
        if hasattr(self, "_channel"):
            self.close()

    def __getstate__(self) -> dict[str, Any]:
        secret = None if self._secret is None else _READ_AGAIN
        shared = vars(self) | {"_secret": secret, "_channel": None}
        return shared | {"_written": dict(self._written), "_sent": set()}

    def _measure(self, mesh: int, fields: np.ndarray) -> np.ndarray:
        content = wire.MESH.pack(mesh) + fields.tobytes()
        tries = max(self._tries, 2)  # what another client wrote over is not a lost connection
        for _ in range(tries):
            answer = self._ask(lambda: self._light(mesh, content, 4 * fields.size))
            if answer is not None:
                return np.frombuffer(answer, "<f4").reshape(fields.shape)
        raise DeviceError(
            f"device {self.address} has lost the phases written to it, asked "
            f"{counted(tries, 'time')}: does someone else use it?"
        )

    def _light(self, mesh: int, content: bytes, size: int) -> bytes | None:
        """What the detectors read; None if another client has written phases meanwhile."""
        self._send_phases(range(1, mesh + 1))
        expected = {Kind.LIGHT: size, Kind.LOST: 0}
        kind, answer = self._exchange(Kind.MEASURE, content, expected)
        if kind == Kind.LIGHT:
            return answer
        self._sent.clear()
        return None

    def _send_phases(self, meshes: Iterable[int]) -> None:
        """Write the phases of some meshes unless this connection has."""
        for mesh in meshes:
            if mesh not in self._sent:
                self._exchange(Kind.WRITE, self._written[mesh], {Kind.DONE: 0})
                self._sent.add(mesh)

    def _ask(self, question: Callable[[], _Answer]) -> _Answer:
        """Ask, over new connections if need be, until an answer comes."""
        for attempt in range(self._tries):
            if attempt:
                self._pause(_FIRST_PAUSE * 2 ** (attempt - 1))
            try:
                if self._channel is None:
                    self._connect()
                return question()
            except BaseException as error:
                self.close()  # so that a late answer is not taken for the next one
                if isinstance(error, DeviceError) or not isinstance(error, OSError):
                    raise
                last = error
        raise DeviceError(
            f"device {self.address} does not answer, asked {counted(self._tries, 'time')}: "
            f"{self._reason(last)}"
        ) from last

    def _reason(self, error: OSError) -> str:
        """Why no answer came, and what to look at."""
        text, timeout = str(error) or type(error).__name__, self.address.patience.timeout
        if isinstance(error, TimeoutError):
            return (
                f"timed out after {timeout:g} s; for a slower device use "
                f"{self.address}?timeout={2 * timeout:g}"
            )
        if isinstance(error, ConnectionRefusedError):
            return (
                f"{text}; is python -m photonic_ffzero.cli.serve running there, with this --port?"
            )
        return text

    def _connect(self) -> None:
        """Open a connection, to the same device as before if there was one."""
        place = self.address.host, self.address.port
        connection = socket.create_connection(place, self.address.patience.timeout)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._channel = wire.Channel(connection, "client")
        self._sent.clear()
        known = self._secret
        secret = read_secret(self._token_file) if known == _READ_AGAIN else known
        if secret is not None:
            self._authenticate(secret)
        if not self._shape:
            return
        _, answer = self._exchange(Kind.HELLO, b"", _SHAPE)
        plates = map(_described, (self._shape, answer))
        for name, before, now in zip(Nameplate._fields, *plates, strict=True):
            if before != now:
                raise DeviceError(
                    f"device {self.address} must be the one it was, with {name} {before}, "
                    f"found {now}"
                )

    def _authenticate(self, secret: bytes) -> None:
        """Let both sides prove that they know the secret; from then on, messages carry codes."""
        _, challenge = self._exchange(Kind.HELLO, b"", {Kind.CHALLENGE: SECRET_BYTES})
        nonce = secrets.token_bytes(SECRET_BYTES)
        nonces, size = challenge + nonce, {Kind.PROOF: SECRET_BYTES}
        _, proof = self._exchange(Kind.PROOF, nonce + derived(secret, nonces, "client"), size)
        if not hmac.compare_digest(proof, derived(secret, nonces, "server")):
            raise DeviceError(f"device {self.address} must prove that it knows the secret")
        self._channel.key = derived(secret, nonces, "session")

    def _exchange(
        self, kind: Kind, content: bytes, expected: dict[Kind, int]
    ) -> tuple[Kind, bytes]:
        """One question, and its answer in time.

        It must be one of the expected kinds, each with its length; any other is a `DeviceError`.
        """
        seconds_left = wire.within(self.address.patience.timeout, self._clock)
        try:
            self._channel.send(kind, content, seconds_left())
            kind, length = self._channel.receive_header(seconds_left)
            self._check_kind(kind, length, expected)
            answer = bytes(self._channel.receive(length, seconds_left))
        except wire.ProtocolError as error:
            raise DeviceError(f"device {self.address} answers nonsense: {error}") from None
        if kind == Kind.FAILED:
            raise DeviceError(f"device {self.address} failed: {answer.decode(errors='replace')!r}")
        return kind, answer

    def _check_kind(self, kind: Kind, length: int, expected: dict[Kind, int]) -> None:
        """Refuse an answer by its header; too many clients are an error of the connection."""
        if kind == Kind.BUSY:
            raise ConnectionError("its server has no place for another client")
        if expected.get(kind) == length or (kind == Kind.FAILED and length <= wire.MAX_TEXT):
            return
        if kind == Kind.CHALLENGE:
            raise DeviceError(f"device {self.address} wants a secret: use {_SECRET_FLAGS}")
        if kind == Kind.SHAPE and Kind.CHALLENGE in expected:
            raise DeviceError(
                f"device {self.address} asks for no secret: start its server with {_SECRET_FLAGS}, "
                "or leave it out here"
            )
        wanted = " or ".join(f"{k.name} of {size} bytes" for k, size in expected.items())
        raise DeviceError(
            f"device {self.address} must answer {wanted}, found {kind.name} of {length} bytes"
        )


_SHAPE = {Kind.SHAPE: wire.SHAPE.size}


def _described(shape: bytes) -> Nameplate:
    """A nameplate as a server tells it, which may not be true to its rules."""
    units, columns, meshes, identity = wire.SHAPE.unpack(shape)
    text = identity.rstrip(b"\0").decode(errors="replace")
    return Nameplate(units, columns, meshes, one_line(text) or None)
