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
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import numpy as np

from meshes.files import (
    MAX_BYTES,
    DataError,
    check_size,
    open_regular,
    read_file,
    read_npz,  # noqa: F401 (a promised name of this module)
    read_up_to,
    reading,
)
from photonic_ffzero.data.pictures import as_shown

MAX_PIXELS = 2**24
"""Largest single image read from a file, in pixels."""
MAX_MEMORY = 2**30
"""Most bytes that loading a data set may take."""
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")


def read_idx(path: str | os.PathLike[str], dimensions: int) -> np.ndarray:
    """Read an IDX file of unsigned bytes [n, H, W] or [n], gzip-compressed or not.

    Reference: Y. LeCun, C. Cortes, C. Burges, "The MNIST database", section "file formats".
    """
    path = Path(path)
    magic = bytes([0, 0, 0x08, dimensions])  # 0x08: unsigned bytes
    with reading(path, "an IDX file"), open_regular(path) as file:
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
    check_size(path, shape, np.dtype(np.uint8), len(content), MAX_BYTES)
    return np.frombuffer(content, np.uint8).reshape(shape)


def read_image(
    path: str | os.PathLike[str], size: int | None = None, colour: bool = False
) -> np.ndarray:
    """Read a PNG or JPEG file as grey values [H, W], float32 in [0, 1], as a viewer shows it.

    It is turned as its EXIF orientation says. A transparent picture lies on white if its ink is
    dark, and on black if it is light. With ``size``, the image is resized to ``size`` x ``size``
    pixels by area averaging. With ``colour`` it keeps its colours, [H, W, 3].
    """
    from PIL import Image, UnidentifiedImageError

    path = Path(path)
    with reading(path, "a PNG or JPEG image"):
        # A real file would allocate as many bytes as a chunk of the image announces.
        content = read_file(path)
        try:
            image = Image.open(io.BytesIO(content), formats=("PNG", "JPEG"))
        except UnidentifiedImageError:  # it would name the bytes, not the file
            raise ValueError("its content is neither") from None
        if image.width * image.height > MAX_PIXELS:  # Pillow's own limit is higher
            raise DataError(f"{path}: must have at most {MAX_PIXELS} pixels, found {image.size}")
        values = as_shown(image, content[24] if image.format == "PNG" else 8, colour)
    if size is None:
        return values
    planes = np.moveaxis(values, 2, 0) if colour else [values]
    resized = [
        np.asarray(Image.fromarray(plane).resize((size, size), Image.Resampling.BOX))
        for plane in map(np.ascontiguousarray, planes)
    ]
    return np.clip(np.stack(resized, axis=-1) if colour else resized[0], 0, 1)


def read_images(files: Sequence[Path], size: int, colour: bool = False) -> np.ndarray:
    """Read image files [n, size, size], or with their colours [n, size, size, 3]."""
    images = np.empty((len(files), size, size, 3)[: 4 if colour else 3], np.float32)
    for image, file in zip(images, files, strict=True):
        image[:] = read_image(file, size, colour)
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
    files = visible_files(folder)
    for file in files:
        if file.suffix.lower() not in IMAGE_SUFFIXES:
            raise DataError(f"{file}: must be a PNG or JPEG file, found suffix {file.suffix!r}")
    return files


def visible_files(folder: Path) -> list[Path]:
    """List what is in a folder of images, in the order of the names; an empty one is an error."""
    files = _visible(folder)
    if not files:
        raise DataError(f"{folder}: must hold at least one image, found none")
    return files


def _visible(folder: Path) -> list[Path]:
    try:
        return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    except OSError as error:
        raise DataError(f"{folder}: must be a readable folder: {error.strerror}") from None
