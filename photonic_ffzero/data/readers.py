"""Readers of files from outside: IDX, ``.npz``, PNG, JPEG, and folders of images.

Nothing is unpickled. A header is only a claim, so each reader checks the size that it announces
before it takes memory.
"""

from __future__ import annotations

import gzip
import io
import math
import os
import struct
import warnings
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

MAX_BYTES = 2**28
"""Largest array read from a file, in bytes: more than five times MNIST's training images."""
MAX_PIXELS = 2**24
"""Largest single image read from a file, in pixels."""
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")

_PIECE = 2**20
_MAX_NPY_HEADER = 1000  # characters; NumPy writes 118 for plain numbers


class DataError(ValueError):
    """Data that cannot be used; names the file or argument, the rule and the value found."""


def read_idx(path: str | os.PathLike[str], dimensions: int) -> np.ndarray:
    """Read an IDX file of unsigned bytes [n, H, W] or [n], gzip-compressed or not.

    Reference: Y. LeCun, C. Cortes, C. Burges, "The MNIST database", section "file formats".
    """
    path = Path(path)
    magic = bytes([0, 0, 0x08, dimensions])  # 0x08: unsigned bytes
    with _reading(path, "an IDX file"), path.open("rb") as file:
        compressed = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        stream = gzip.GzipFile(fileobj=file) if compressed else file
        header = stream.read(4 + 4 * dimensions)
        if header[:4] != magic:
            raise DataError(
                f"{path}: the magic number must be 0x{magic.hex()} (unsigned bytes, "
                f"{dimensions} dimensions), found 0x{header[:4].hex()}"
            )
        shape = struct.unpack(f">{dimensions}I", header[4:])
        content = read_up_to(stream, min(math.prod(shape), MAX_BYTES) + 1)
    _check_size(path, shape, np.dtype(np.uint8), len(content), MAX_BYTES)
    return np.frombuffer(content, np.uint8).reshape(shape)


def read_npz(
    path: str | os.PathLike[str], names: Iterable[str], max_bytes: int = MAX_BYTES
) -> dict[str, np.ndarray]:
    """Read the named arrays of numbers, each of at most ``max_bytes``, from a ``.npz`` archive."""
    with open_npz(path, max_bytes) as archive:
        return {name: archive.read(name) for name in names}


@contextmanager
def open_npz(path: str | os.PathLike[str], max_bytes: int = MAX_BYTES) -> Iterator[Archive]:
    """Open a ``.npz`` archive whose arrays have at most ``max_bytes`` each."""
    path = Path(path)
    with _reading(path, "an .npz archive"):
        file = zipfile.ZipFile(path)
    with file:
        yield Archive(path, file, max_bytes)


def read_image(path: str | os.PathLike[str], size: int | None = None) -> np.ndarray:
    """Read a PNG or JPEG file as grey values [H, W], float32 in [0, 1]; ignore transparency.

    With ``size``, the image is resized to ``size`` x ``size`` pixels by area averaging.
    """
    from PIL import Image

    path = Path(path)
    with _reading(path, "a PNG or JPEG image"), path.open("rb") as file:
        # A real file would allocate as many bytes as a chunk of the image announces.
        image = Image.open(io.BytesIO(read_up_to(file, MAX_BYTES)), formats=("PNG", "JPEG"))
        if image.width * image.height > MAX_PIXELS:  # Pillow's own limit is higher
            raise DataError(f"{path}: must have at most {MAX_PIXELS} pixels, found {image.size}")
        deep = image.mode.startswith("I")  # 16 bits, which convert("L") would clip to 8
        grey = np.asarray(image if deep else image.convert("L"))
    grey = np.divide(grey, 65535 if deep else 255, dtype=np.float32)
    if size is None:
        return grey
    resized = Image.fromarray(grey).resize((size, size), Image.Resampling.BOX)
    return np.clip(np.asarray(resized), 0, 1)


def load_image_folder(
    path: str | os.PathLike[str], size: int
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Read images [n, size, size], labels [n] and the names of classes, a sub-folder each.

    Classes and files are taken in the order of their names; names that begin with a dot are
    skipped.
    """
    folder = Path(path)
    classes = [entry for entry in _visible(folder) if entry.is_dir()]
    if len(classes) < 2:
        raise DataError(
            f"{folder}: must hold a sub-folder for each of 2 or more classes, found {len(classes)}"
        )
    files = [(file, label) for label, entry in enumerate(classes) for file in image_files(entry)]
    if len(files) * size**2 > MAX_BYTES:
        raise DataError(
            f"{folder}: must hold at most {MAX_BYTES} pixels, "
            f"found {len(files)} images of {(size, size)}"
        )
    images = np.empty((len(files), size, size), np.float32)
    for index, (file, _) in enumerate(files):
        images[index] = read_image(file, size)
    labels = np.array([label for _, label in files], dtype=np.int64)
    return images, labels, tuple(entry.name for entry in classes)


def image_files(folder: Path) -> list[Path]:
    """List a folder's images in the order of their names; any other file is an error."""
    files = _visible(folder)
    if not files:
        raise DataError(f"{folder}: must hold at least one image, found none")
    for file in files:
        if file.suffix.lower() not in IMAGE_SUFFIXES:
            raise DataError(f"{file}: must be a PNG or JPEG file, found suffix {file.suffix!r}")
    return files


def read_up_to(stream: IO[bytes] | gzip.GzipFile, count: int) -> bytearray:
    """Read at most ``count`` bytes, taking memory only for those that are really there."""
    data = bytearray()
    while piece := stream.read(min(_PIECE, count - len(data))):
        data += piece
    return data


@contextmanager
def _reading(where: Path | str, kind: str) -> Iterator[None]:
    """Turn the errors of gzip, zipfile, NumPy and Pillow, of a dozen types, into a `DataError`."""
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    except DataError:
        raise
    except Exception as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise DataError(f"{where}: cannot be read as {kind}: {reason.splitlines()[0]}") from error


def _check_size(
    where: Path | str, shape: tuple[int, ...], dtype: np.dtype, present: int, max_bytes: int
) -> None:
    """Compare the size that a header announces with the limit and with the bytes present."""
    size = math.prod(shape) * dtype.itemsize
    if not 0 < size <= max_bytes or size != present:
        raise DataError(
            f"{where}: the header's shape {shape} of {dtype} means {size} bytes, "
            f"which must be in 1..{max_bytes} and follow the header; found {present}"
        )


class Archive(NamedTuple):
    """An open ``.npz`` archive of numbers, in NumPy's format 1.0 (later headers have no limit)."""

    path: Path
    file: zipfile.ZipFile
    max_bytes: int

    def header(self, name: str) -> tuple[tuple[int, ...], np.dtype]:
        """Shape and type of an array, checked against the bytes that are there."""
        with self._stream(name) as stream:
            member = self.file.getinfo(f"{name}.npy")
            where = f"{self.path}, array {name}"
            if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise DataError(f"{where}: must be stored or deflated")
            if (version := np.lib.format.read_magic(stream)) != (1, 0):
                raise DataError(f"{where}: must be in NumPy's format 1.0, found {version}")
            shape, _, dtype = np.lib.format.read_array_header_1_0(stream, _MAX_NPY_HEADER)
            if dtype.kind not in "iufc":
                raise DataError(f"{where}: must hold numbers (nothing is unpickled), found {dtype}")
            _check_size(where, shape, dtype, member.file_size - stream.tell(), self.max_bytes)
        return shape, dtype

    def read(self, name: str) -> np.ndarray:
        """An array, after its header was checked."""
        self.header(name)
        with self._stream(name) as stream:
            return np.lib.format.read_array(stream, allow_pickle=False)

    @contextmanager
    def _stream(self, name: str) -> Iterator[IO[bytes]]:
        if f"{name}.npy" not in self.file.NameToInfo:
            raise DataError(f"{self.path}: must hold an array {name}, found none")
        where = f"{self.path}, array {name}"
        with _reading(where, "numbers"), self.file.open(f"{name}.npy") as stream:
            yield stream


def _visible(folder: Path) -> list[Path]:
    try:
        return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    except OSError as error:
        raise DataError(f"{folder}: must be a readable folder: {error.strerror}") from None
