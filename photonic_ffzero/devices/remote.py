"""The client of a device that another process serves, see `wire` and `DeviceServer`."""

from __future__ import annotations

import hmac
import re
import secrets
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
from photonic_ffzero.devices import wire
from photonic_ffzero.devices.device import DeviceError
from photonic_ffzero.devices.session import TOKEN_VARIABLE, derived, read_secret
from photonic_ffzero.devices.wire import SECRET_BYTES, Kind

SCHEME = "tcp://"

_SECRET_FLAGS = f"--token-file or {TOKEN_VARIABLE}"
_LONGEST_HOST = 253  # characters of a name, by RFC 1035
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
        self._channel: Any = None
        self._written: dict[int, bytes] = {}
        self._shape = b""
        self._shape = self._ask(Kind.HELLO, b"", _SHAPE)[1]
        self.units, self.columns, self.meshes, self.identity = _described(self._shape)

    @classmethod
    def at(cls, text: str, token_file: Path | None = None) -> RemoteDevice:
        """The device at ``tcp://host:port``, with the secret of `session.read_secret`."""
        return cls(Address.of(text), secret=read_secret(token_file))

    def write(self, mesh: int, theta: np.ndarray, phi: np.ndarray, gamma: np.ndarray) -> None:
        """Set the phases of one mesh, see `Device`."""
        phases = (np.asarray(w, "<f4").tobytes() for w in (theta, phi, gamma))
        self._written[mesh] = b"".join((wire.MESH.pack(mesh), *phases))
        self._ask(Kind.WRITE, self._written[mesh], {Kind.DONE: 0})

    def measure(self, mesh: int, fields: np.ndarray) -> np.ndarray:
        """Intensities [B, N] after one mesh, see `Device`."""
        rows = max(wire.MAX_BYTES // (8 * self.units), 1)
        parts = (fields[at : at + rows] for at in range(0, len(fields), rows))
        return np.concatenate([self._measure(mesh, part) for part in parts])

    def close(self) -> None:
        """Hang up; the next question opens a new connection."""
        if self._channel is not None:
            self._channel.connection.close()
            self._channel = None

    def __del__(self) -> None:
        if hasattr(self, "_channel"):
            self.close()

    def _measure(self, mesh: int, fields: np.ndarray) -> np.ndarray:
        content = wire.MESH.pack(mesh) + np.asarray(fields, "<c8").tobytes()
        expected = {Kind.LIGHT: 4 * fields.size, Kind.LOST: 0}
        for _ in range(self._tries):
            kind, answer = self._ask(Kind.MEASURE, content, expected)
            if kind == Kind.LIGHT:
                return np.frombuffer(answer, "<f4").reshape(fields.shape)
            for written in self._written.values():
                self._ask(Kind.WRITE, written, {Kind.DONE: 0})
        raise DeviceError(
            f"device {self.address} has lost the phases written to it, asked "
            f"{counted(self._tries, 'time')}: "
            "does someone else use it?"
        )

    def _ask(self, kind: Kind, content: bytes, expected: dict[Kind, int]) -> tuple[Kind, bytes]:
        """Ask, over new connections if need be, until an answer comes.

        It must be one of the expected kinds, each with its length; any other is a `DeviceError`.
        """
        for attempt in range(self._tries):
            if attempt:
                self._pause(_FIRST_PAUSE * 2 ** (attempt - 1))
            self._seconds_left = wire.within(self.address.patience.timeout, self._clock)
            try:
                if self._channel is None:
                    self._connect()
                return self._exchange(kind, content, expected)
            except BaseException as error:
                self.close()  # so that a late answer is not taken for the next one
                if isinstance(error, DeviceError) or not isinstance(error, OSError):
                    raise
                last = error
        raise DeviceError(
            f"device {self.address} does not answer, asked {counted(self._tries, 'time')}: "
            f"{str(last) or type(last).__name__}{_hint(last)}"
        ) from last

    def _connect(self) -> None:
        """Open a connection, to the same device as before if there was one."""
        address = self.address.host, self.address.port
        connection = socket.create_connection(address, self._seconds_left())
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._channel = wire.Channel(connection, "client")
        if self._secret is not None:
            self._authenticate(self._secret)
        if not self._shape:
            return
        _, answer = self._exchange(Kind.HELLO, b"", _SHAPE)
        names = ("units", "columns", "meshes", "identity")
        for name, before, now in zip(names, *map(_described, (self._shape, answer)), strict=True):
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
        try:
            self._channel.send(kind, content, self._seconds_left())
            kind, length = self._channel.receive_header(self._seconds_left)
            self._check_kind(kind, length, expected)
            answer = bytes(self._channel.receive(length, self._seconds_left))
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


def _hint(error: OSError) -> str:
    """What to look at after an error of the connection."""
    if isinstance(error, ConnectionRefusedError):
        return "; is python -m photonic_ffzero.cli.serve running there, with this --port?"
    return ""


_SHAPE = {Kind.SHAPE: wire.SHAPE.size}


def _described(shape: bytes) -> tuple[int, int, int, str | None]:
    """Units, columns, meshes and identity, as a server tells them."""
    *sizes, identity = wire.SHAPE.unpack(shape)
    text = identity.rstrip(b"\0").decode(errors="replace")
    return *sizes, one_line(text) or None
