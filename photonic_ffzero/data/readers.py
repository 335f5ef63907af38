"""Readers of files from outside: IDX, ``.npz``, PNG, JPEG, and folders of images.

Nothing is unpickled. A header is only a claim, so each reader checks the size that it announces
before it takes memory.
"""

from __future__ import annotations

import gzip
import io
import math
import os
import stat
import struct
import warnings
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import chain
from pathlib import Path
from typing import IO, BinaryIO, NamedTuple

import numpy as np

from photonic_ffzero.data.pictures import as_shown

MAX_BYTES = 2**28
"""Most bytes of the arrays read from a file: more than five times MNIST's training images."""
MAX_PIXELS = 2**24
"""Largest single image read from a file, in pixels."""
MAX_FILE = 2**26
"""Largest file read as a whole, in bytes, such as an image."""
MAX_MEMORY = 2**30
"""Most bytes that loading a data set may take."""
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")

_PIECE = 2**20
_NOT_FILES = {
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
_MAX_NPY_HEADER = 1000  # characters; NumPy writes 118 for plain numbers


class DataError(ValueError):
    """Data that cannot be used; names the file or argument, the rule and the value found."""


def open_regular(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a regular file, or a link to one: a device or a pipe may wait or send for ever."""
    _check_regular(path, os.stat(path))  # before it is opened, which may do something to a device

    def opened(name: str, flags: int) -> int:
        descriptor = os.open(name, flags | os.O_NONBLOCK)  # do not wait for the writer of a pipe
        try:
            _check_regular(path, os.fstat(descriptor))  # it may have been replaced in between
        except DataError:
            os.close(descriptor)
            raise
        return descriptor

    return open(path, "rb", opener=opened)


def read_file(path: str | os.PathLike[str], max_bytes: int = MAX_FILE) -> bytearray:
    """Read a regular file of at most ``max_bytes`` as a whole; an `OSError` passes unchanged."""
    with open_regular(path) as file:
        content = read_up_to(file, max_bytes + 1)
    if len(content) > max_bytes:
        raise DataError(f"{path}: must have at most {max_bytes} bytes, found more")
    return content


def read_idx(path: str | os.PathLike[str], dimensions: int) -> np.ndarray:
    """Read an IDX file of unsigned bytes [n, H, W] or [n], gzip-compressed or not.

    Reference: Y. LeCun, C. Cortes, C. Burges, "The MNIST database", section "file formats".
    """
    path = Path(path)
    magic = bytes([0, 0, 0x08, dimensions])  # 0x08: unsigned bytes
    with _reading(path, "an IDX file"), open_regular(path) as file:
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
    """Read the named arrays of numbers, together at most ``max_bytes``, from a ``.npz`` archive."""
    names = list(names)
    with open_npz(path, max_bytes) as archive:
        headers = map(archive.header, names)
        total = sum(math.prod(shape) * dtype.itemsize for shape, dtype in headers)
        if total > max_bytes:
            raise DataError(
                f"{path}: {', '.join(names)} must take at most {max_bytes} bytes, found {total}"
            )
        return {name: archive.read(name) for name in names}


@contextmanager
def open_npz(path: str | os.PathLike[str], max_bytes: int = MAX_BYTES) -> Iterator[Archive]:
    """Open a ``.npz`` archive whose arrays have at most ``max_bytes`` each."""
    path = Path(path)
    with ExitStack() as files:
        with _reading(path, "an .npz archive"):
            archive = zipfile.ZipFile(files.enter_context(open_regular(path)))
        yield Archive(path, archive, max_bytes)


def read_image(path: str | os.PathLike[str], size: int | None = None) -> np.ndarray:
    """Read a PNG or JPEG file as grey values [H, W], float32 in [0, 1], as a viewer shows it.

    It is turned as its EXIF orientation says. A transparent picture lies on white if its ink is
    dark, and on black if it is light. With ``size``, the image is resized to ``size`` x ``size``
    pixels by area averaging.
    """
    from PIL import Image

    path = Path(path)
    with _reading(path, "a PNG or JPEG image"):
        # A real file would allocate as many bytes as a chunk of the image announces.
        content = read_file(path)
        image = Image.open(io.BytesIO(content), formats=("PNG", "JPEG"))
        if image.width * image.height > MAX_PIXELS:  # Pillow's own limit is higher
            raise DataError(f"{path}: must have at most {MAX_PIXELS} pixels, found {image.size}")
        grey = as_shown(image, depth=content[24] if image.format == "PNG" else 8)
    if size is None:
        return grey
    resized = Image.fromarray(grey).resize((size, size), Image.Resampling.BOX)
    return np.clip(np.asarray(resized), 0, 1)


def read_images(files: Sequence[Path], size: int) -> np.ndarray:
    """Read image files [n, size, size]."""
    images = np.empty((len(files), size, size), np.float32)
    for image, file in zip(images, files, strict=True):
        image[:] = read_image(file, size)
    return images


def list_classes(folder: Path) -> tuple[list[Path], np.ndarray, tuple[str, ...]]:
    """List the image files of a folder, their labels [n] and the classes, a sub-folder each.

    Classes and files are taken in the order of their names; names that begin with a dot are
    skipped.
    """
    classes = [entry for entry in _visible(folder) if entry.is_dir()]
    if len(classes) < 2:
        raise DataError(
            f"{folder}: must hold a sub-folder for each of 2 or more classes, found {len(classes)}"
        )
    files = [image_files(entry) for entry in classes]
    labels = np.repeat(np.arange(len(classes)), [len(part) for part in files])
    return list(chain.from_iterable(files)), labels, tuple(entry.name for entry in classes)


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


def _check_regular(path: str | os.PathLike[str], status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        kind = _NOT_FILES.get(stat.S_IFMT(status.st_mode), "something else")
        raise DataError(f"{path}: must be a regular file, found {kind}")


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
