"""Readers of files that nobody has vouched for: IDX, ``.npz`` (without unpickling), PNG, JPEG.

A header is only a claim. The readers check it against a limit and then read what the file
really holds, piece by piece, so that a few bytes that announce terabytes cost no memory.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import math
import os
import re
import struct
import warnings
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Literal, Protocol

import numpy as np

MAX_BYTES = 2**28
"""Largest array read from a file, in bytes: more than five times MNIST's training images."""
MAX_PIXELS = 2**24
"""Largest single image read from a file, in pixels."""
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")

_PIECE = 2**20
_UNSIGNED_BYTES = 0x08
_MAX_NPY_HEADER = 10_000
# NumPy evaluates this text as Python; a pattern cannot be talked into anything.
_NPY_HEADER = re.compile(
    r"\{'descr': '(?P<dtype>[^']*)', 'fortran_order': (?P<fortran>True|False), "
    r"'shape': \((?P<shape>(?:\d{1,12}(?:, ?\d{1,12})*,?)?)\),? ?\}\s*"
)
_NUMBER_TYPE = re.compile(r"[<>=|]?[iufc]\d{1,2}")
_DAMAGE = (
    OSError,
    EOFError,
    zlib.error,
    struct.error,
    zipfile.BadZipFile,
    NotImplementedError,  # zipfile: a compression or a version it does not know
    RuntimeError,  # zipfile: an encrypted member
    ValueError,  # zipfile: offsets that point outside the file
    OverflowError,
    SyntaxError,  # Pillow: a broken PNG
)


class DataError(ValueError):
    """Data that cannot be used; names the file or argument, the rule and the value found."""


_Order = Literal["C", "F"]


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


def read_idx(path: str | os.PathLike[str], dimensions: int) -> np.ndarray:
    """Read an IDX file of unsigned bytes, gzip-compressed or not (its content decides).

    Args:
        path: the file.
        dimensions: how many axes the array must have (3 for images, 1 for labels).

    Returns:
        uint8 array of the shape in the header.

    Raises:
        DataError: the file cannot be read, is damaged, or is not what its header says.

    Reference: Y. LeCun, C. Cortes, C. Burges, "The MNIST database", section "file formats".
    """
    path = Path(path)
    with _damage_named(path), _content(path) as stream:
        shape = _idx_shape(path, stream, dimensions)
        return _array(path, stream, np.dtype(np.uint8), shape)


def read_npz(
    path: str | os.PathLike[str], names: Iterable[str], most: int = MAX_BYTES
) -> dict[str, np.ndarray]:
    """Read the named arrays of numbers from a NumPy ``.npz`` archive.

    Args:
        path: the file.
        names: the arrays wanted; others are left alone.
        most: bytes that an array may have.

    Returns:
        The arrays by name, in the dtype and shape stored.

    Raises:
        DataError: the file cannot be read, is damaged, lacks an array, or holds Python objects
            where numbers are wanted (nothing is unpickled).
    """
    path = Path(path)
    with _damage_named(path), zipfile.ZipFile(path) as archive:
        return {name: _read_member(path, archive, name, most) for name in names}


def read_image(path: str | os.PathLike[str], size: int | None = None) -> np.ndarray:
    """Read a PNG or JPEG file as grey values; its header is checked before its pixels are read.

    Args:
        path: the file.
        size: pixels; resize to size x size by area averaging. None keeps the image as it is.

    Returns:
        [H, W] float32 in [0, 1].

    Raises:
        DataError: the file is no PNG or JPEG, is damaged, or has more than 2**24 pixels.
    """
    from PIL import Image

    path = Path(path)
    with _damage_named(path), warnings.catch_warnings(), path.open("rb") as stream:
        warnings.simplefilter("ignore")  # Pillow's limit is wider than the one below
        content = io.BytesIO(_whole(path, stream))  # a file would set aside what a chunk announces
        try:
            image = Image.open(content, formats=("PNG", "JPEG"))
        except Image.DecompressionBombError as error:
            raise DataError(f"{path}: {error}") from error
        except Image.UnidentifiedImageError:
            raise DataError(f"{path}: cannot be read: is no PNG or JPEG file") from None
        with image:
            if image.width * image.height > MAX_PIXELS:
                raise DataError(
                    f"{path}: must have at most {MAX_PIXELS} pixels, found {image.size}"
                )
            return _grey(image, size)


def content_sha256(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a file's content, decompressed first if it is a gzip file.

    The same data set is distributed in gzip files that differ; their content does not.

    Raises:
        DataError: the file cannot be read, is damaged, or holds more than :data:`MAX_BYTES`.
    """
    path = Path(path)
    with _damage_named(path), _content(path) as stream:
        return hashlib.sha256(_whole(path, stream)).hexdigest()


@contextmanager
def _damage_named(path: Path) -> Iterator[None]:
    """Turn whatever the standard library says of a damaged file into a :class:`DataError`."""
    try:
        yield
    except DataError:
        raise
    except _DAMAGE as error:
        reason = getattr(error, "strerror", None) or error or type(error).__name__
        raise DataError(f"{path}: cannot be read: {reason}") from error


@contextmanager
def _content(path: Path) -> Iterator[BinaryIO | gzip.GzipFile]:
    with path.open("rb") as stream:
        compressed = stream.read(2) == b"\x1f\x8b"
        stream.seek(0)
        if not compressed:
            yield stream
            return
        with gzip.GzipFile(fileobj=stream) as content:
            yield content


def _read_up_to(stream: _Readable, count: int) -> bytearray:
    """Read at most ``count`` bytes, taking memory only for those that are really there."""
    data = bytearray()
    while piece := stream.read(min(_PIECE, count - len(data))):
        data += piece
    return data


def _whole(path: Path, stream: _Readable) -> bytearray:
    content = _read_up_to(stream, MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise DataError(f"{path}: must hold at most {MAX_BYTES} bytes, found more")
    return content


def _array(
    where: Path | str,
    stream: _Readable,
    dtype: np.dtype,
    shape: tuple[int, ...],
    order: _Order = "C",
    most: int = MAX_BYTES,
) -> np.ndarray:
    """Read the rest of ``stream`` as an array of exactly this type and shape."""
    size = math.prod(shape) * dtype.itemsize
    if not 0 < size <= most:
        raise DataError(
            f"{where}: the array must have 1 to {most} bytes, "
            f"the header's shape {shape} of {dtype} means {size}"
        )
    data = _read_up_to(stream, size + 1)
    if len(data) != size:
        found = f"only {len(data)}" if len(data) < size else "more"
        raise DataError(
            f"{where}: the header's shape {shape} of {dtype} means {size} bytes, found {found}"
        )
    return np.frombuffer(data, dtype).reshape(shape, order=order)


def _idx_shape(path: Path, stream: _Readable, dimensions: int) -> tuple[int, ...]:
    magic, expected = stream.read(4), bytes([0, 0, _UNSIGNED_BYTES, dimensions])
    if magic != expected:
        raise DataError(
            f"{path}: the magic number must be 0x{expected.hex()} (unsigned bytes, "
            f"{dimensions} dimensions), found 0x{magic.hex()}"
        )
    sizes = stream.read(4 * dimensions)
    if len(sizes) != 4 * dimensions:
        raise DataError(
            f"{path}: the header must have {4 + 4 * dimensions} bytes, found {4 + len(sizes)}"
        )
    return struct.unpack(f">{dimensions}I", sizes)


def _read_member(path: Path, archive: zipfile.ZipFile, name: str, most: int) -> np.ndarray:
    where = f"{path}, array {name}"
    try:
        member = archive.getinfo(f"{name}.npy")
    except KeyError:
        raise DataError(
            f"{path}: must hold an array {name}, found {', '.join(archive.namelist()[:8])}"
        ) from None
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise DataError(f"{where}: must be stored or deflated, found type {member.compress_type}")
    with archive.open(member) as stream:
        return _array(where, stream, *_npy_header(where, stream), most)


def _npy_header(where: str, stream: _Readable) -> tuple[np.dtype, tuple[int, ...], _Order]:
    """Read the header of a ``.npy`` stream."""
    start = stream.read(8)
    if len(start) < 8 or start[:6] != b"\x93NUMPY" or start[6] not in (1, 2, 3):
        raise DataError(f"{where}: must begin as a NumPy array of version 1 to 3, found {start!r}")
    length = int.from_bytes(stream.read(2 if start[6] == 1 else 4), "little")
    if length > _MAX_NPY_HEADER:
        raise DataError(
            f"{where}: the header must have at most {_MAX_NPY_HEADER} bytes, found {length}"
        )
    text = stream.read(length).decode("latin-1")
    header = _NPY_HEADER.fullmatch(text)
    if header is None:
        raise DataError(
            f"{where}: the header must describe one array of numbers, found {text[:80]!r}"
        )
    shape = tuple(int(size) for size in re.findall(r"\d+", header["shape"]))
    order: _Order = "F" if header["fortran"] == "True" else "C"
    return _number_type(where, header["dtype"]), shape, order


def _number_type(where: str, code: str) -> np.dtype:
    try:
        if _NUMBER_TYPE.fullmatch(code):
            return np.dtype(code)
    except TypeError:
        pass  # the right form, but no such size
    raise DataError(f"{where}: must hold plain numbers (nothing is unpickled), found type {code!r}")


def _grey(image: Any, size: int | None) -> np.ndarray:
    from PIL import Image

    deep = image.mode.startswith("I")  # 16 bits, which convert("L") would clip to 8
    grey = np.asarray(image if deep else image.convert("L"))
    grey = np.divide(grey, 65535 if deep else 255, dtype=np.float32)
    if size is None:
        return grey
    resized = Image.fromarray(grey).resize((size, size), Image.Resampling.BOX)
    return np.clip(np.asarray(resized), 0, 1)
