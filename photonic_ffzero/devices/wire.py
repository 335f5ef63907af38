"""The messages between a `RemoteDevice` and a `DeviceServer`, over TCP, little-endian.

A message begins with ``FFZ1``, its `Kind` and the length of its content in bytes (uint32 each). The
kind and the shape of the device fix the length.

The client asks, the server answers:

* ``HELLO`` -> ``SHAPE`` (units, columns, meshes, uint32);
* ``WRITE`` (mesh, uint32; theta, phi, gamma, float32) -> ``DONE``;
* ``MEASURE`` (mesh, uint32; fields [B, N], complex64) -> ``LIGHT`` (intensities [B, N], float32),
  or ``LOST`` unless this connection wrote all meshes up to this one and nobody wrote since; the
  client then writes them again;
* anything -> ``FAILED`` with a text.

Writing twice is the same as writing once, so a client asks again whatever was not answered.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable
from enum import IntEnum

MAX_BYTES = 2**26  # of one message; more samples travel in several messages
MAX_TEXT = 2000
MESH = struct.Struct("<I")
SHAPE = struct.Struct("<III")

_MAGIC = b"FFZ1"
_HEADER = struct.Struct("<4sII")
_PIECE = 2**20


class Kind(IntEnum):
    """What a message asks or answers."""

    HELLO = 1
    WRITE = 2
    MEASURE = 3
    SHAPE = 11
    DONE = 12
    LIGHT = 13
    LOST = 14
    FAILED = 15


class ProtocolError(Exception):
    """A message that breaks the rules of this module."""


def pack(kind: Kind, content: bytes = b"") -> bytes:
    """The bytes of a message."""
    return _HEADER.pack(_MAGIC, kind, len(content)) + content


def receive(
    connection: socket.socket, size: int, seconds_left: Callable[[], float] | None = None
) -> bytes:
    """Read ``size`` bytes, or raise an `OSError` when the connection or the time ends.

    Memory grows with what has arrived, not with what the other side announced.
    """
    pieces = []
    while size:
        if seconds_left is not None:
            connection.settimeout(seconds_left())
        piece = connection.recv(min(size, _PIECE))
        if not piece:
            raise ConnectionError("the connection was closed")
        pieces.append(piece)
        size -= len(piece)
    return b"".join(pieces)


def receive_header(
    connection: socket.socket, seconds_left: Callable[[], float] | None = None
) -> tuple[Kind, int]:
    """Kind and length of the next message."""
    header = receive(connection, _HEADER.size, seconds_left)
    magic, kind, length = _HEADER.unpack(header)
    if magic != _MAGIC or kind not in set(Kind):
        raise ProtocolError(
            f"a message must begin with {_MAGIC!r} and a kind, found {header[:8]!r}"
        )
    return Kind(kind), length
