"""The messages between a `RemoteDevice` and a `DeviceServer`, over TCP, little-endian.

A message begins with ``FFZ2``, its `Kind` and the length of its content in bytes (uint32 each). The
kind and the shape of the device fix the length.

The client asks, the server answers:

* ``HELLO`` -> ``SHAPE`` (units, columns, meshes, uint32; identity, 256 bytes of UTF-8 with zeros
  at the end, all zero if the device has none);
* ``WRITE`` (mesh, uint32; theta, phi, gamma, float32) -> ``DONE``;
* ``MEASURE`` (mesh, uint32; fields [B, N], complex64) -> ``LIGHT`` (intensities [B, N], float32),
  or ``LOST`` unless this connection wrote all meshes up to this one and nobody wrote since; the
  client then writes them again, as it does over a new connection before it asks for light;
* anything -> ``FAILED`` with a text, or ``BUSY`` if all places are taken.

Writing twice is the same as writing once, so a client asks again whatever was not answered. What a
client asked that has hung up before its turn is left undone.

Where there is a secret, both sides first prove that they know it, see `session`:

* ``HELLO`` -> ``CHALLENGE`` (the server's nonce, 32 bytes);
* ``PROOF`` (the client's nonce and proof, 32 bytes each) -> ``PROOF`` (the server's, 32 bytes).

From then on every header and every content is followed by its HMAC-SHA256, 32 bytes.
"""

from __future__ import annotations

import hmac
import socket
import struct
import time
from collections.abc import Callable
from enum import IntEnum

VERSION = 2
MAX_BYTES = 2**26  # of one message; more samples travel in several messages
MAX_TEXT = 500
MESH = struct.Struct("<I")
SHAPE = struct.Struct("<III256s")
SECRET_BYTES = 32  # of a nonce, a proof, a key or a code

_MAGIC = b"FFZ%d" % VERSION
_HEADER = struct.Struct("<4sII")
_COUNTER = struct.Struct("<Q")
_PIECE = 2**20


class Kind(IntEnum):
    """What a message asks or answers."""

    HELLO = 1
    WRITE = 2
    MEASURE = 3
    PROOF = 4
    SHAPE = 11
    DONE = 12
    LIGHT = 13
    LOST = 14
    FAILED = 15
    CHALLENGE = 16
    BUSY = 17


class ProtocolError(Exception):
    """A message that breaks the rules of this module."""


def within(seconds: float, clock: Callable[[], float] = time.monotonic) -> Callable[[], float]:
    """A function that says how many of these seconds are left; a `TimeoutError` if none."""
    end = clock() + seconds

    def seconds_left() -> float:
        if (left := end - clock()) <= 0:
            raise TimeoutError("timed out")
        return left

    return seconds_left


class Channel:
    """One end of a connection.

    Args:
        connection: The socket.
        role: What this end is, ``client`` or ``server``.

    Attributes:
        key: The session's key; while it is empty, messages carry no code.
    """

    def __init__(self, connection: socket.socket, role: str) -> None:
        self.connection, self.key = connection, b""
        self._roles = role, {"client": "server", "server": "client"}[role]
        self._counts = dict.fromkeys(self._roles, 0)
        self._magic = _MAGIC

    def send(self, kind: Kind, content: bytes, seconds: float) -> None:
        """Send a message within some seconds."""
        parts = [_HEADER.pack(self._magic, kind, len(content)), *([content] if content else [])]
        sealed = (piece for part in parts for piece in (part, self._code(self._roles[0], part)))
        message = b"".join(sealed)
        self.connection.settimeout(seconds)
        self.connection.sendall(message)

    def receive_header(self, seconds_left: Callable[[], float]) -> tuple[Kind, int]:
        """Kind and length of the next message.

        After a message of another version, this end answers in that version, so that the other
        side can say what it was told.
        """
        header = self.receive(_HEADER.size, seconds_left)
        magic, kind, length = _HEADER.unpack(header)
        if magic[:3] == _MAGIC[:3] and magic != _MAGIC and not self.key:
            self._magic = magic
            raise ProtocolError(
                f"the {self._roles[1]} speaks version {chr(magic[3])!r} of the protocol, the "
                f"{self._roles[0]} version {VERSION}; use the same release on both sides"
            )
        if magic != _MAGIC or kind not in set(Kind):
            raise ProtocolError(
                f"a message must begin with {_MAGIC!r} and a kind, found {bytes(header[:8])!r}"
            )
        return Kind(kind), length

    def receive(self, size: int, seconds_left: Callable[[], float]) -> bytearray:
        """Read ``size`` bytes whose code is right; an `OSError` when connection or time ends.

        Memory grows with what has arrived, not with what the other side announced.
        """
        content = self._read(size, seconds_left)
        if self.key and size:
            code = self._read(SECRET_BYTES, seconds_left)
            if not hmac.compare_digest(code, self._code(self._roles[1], content)):
                raise ProtocolError("a message must carry the code of this session")
        return content

    def _read(self, size: int, seconds_left: Callable[[], float]) -> bytearray:
        content = bytearray()
        while len(content) < size:
            self.connection.settimeout(seconds_left())
            piece = self.connection.recv(min(size - len(content), _PIECE))
            if not piece:
                raise ConnectionError("the connection was closed")
            content += piece
        return content

    def _code(self, sender: str, content: bytes | bytearray) -> bytes:
        """The code of the next header or content of one side; empty without a key."""
        if not self.key:
            return b""
        code = hmac.new(self.key, sender.encode() + _COUNTER.pack(self._counts[sender]), "sha256")
        code.update(content)
        self._counts[sender] += 1
        return code.digest()
