"""The user's own images: PNG and JPEG files in a folder with one sub-folder for each class."""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np

from meshes.validation import integer
from photonic_ffzero.data.readers import IMAGE_SUFFIXES, MAX_BYTES, DataError, read_image


def load_image_folder(
    path: str | os.PathLike[str], size: int | None = None
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Load PNG or JPEG files from a folder with one sub-folder for each class.

    Colours become grey, transparency is ignored; classes and files are taken in the order of
    their names; names that begin with a dot are passed over.

    Args:
        path: the folder.
        size: pixels; every image is resized to size x size by area averaging. None demands that
            all have the same size.

    Returns:
        Images [n, H, W] float32 in [0, 1], labels [n] int64, and the names of the classes.

    Raises:
        DataError: fewer than two classes, an empty class, a file that is no PNG or JPEG, is
            damaged, is larger than 2**24 pixels or has another size than the first.
    """
    if size is not None:
        size = integer("size", size, minimum=1)
    folder = Path(path)
    classes = [entry for entry in _visible(folder) if entry.is_dir()]
    if len(classes) < 2:
        raise DataError(
            f"{folder}: must hold a sub-folder for each of 2 or more classes, found {len(classes)}"
        )
    files = [(file, label) for label, entry in enumerate(classes) for file in image_files(entry)]
    images = _read_images([file for file, _ in files], size)
    labels = np.array([label for _, label in files], dtype=np.int64)
    return images, labels, tuple(entry.name for entry in classes)


def image_files(folder: Path) -> list[Path]:
    """List a folder's images in the order of their names, without those that begin with a dot.

    Raises:
        DataError: the folder cannot be read, is empty, or holds anything else.
    """
    files = _visible(folder)
    if not files:
        raise DataError(f"{folder}: must hold at least one image, found none")
    for file in files:
        if file.suffix.lower() not in IMAGE_SUFFIXES:
            raise DataError(
                f"{file}: must be a PNG or JPEG file, found {file.suffix or 'no suffix'}"
            )
    return files


def _visible(folder: Path) -> list[Path]:
    try:
        return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    except OSError as error:
        raise DataError(f"{folder}: must be a readable folder: {error.strerror}") from None


def _read_images(files: list[Path], size: int | None) -> np.ndarray:
    shape = read_image(files[0]).shape if size is None else (size, size)
    if len(files) * math.prod(shape) > MAX_BYTES:
        raise DataError(
            f"{files[0].parent.parent}: must hold at most {MAX_BYTES} pixels, "
            f"found {len(files)} images of {shape}"
        )
    images = np.empty((len(files), *shape), dtype=np.float32)
    for index, file in enumerate(files):
        image = read_image(file, size)
        if image.shape != shape:
            raise DataError(
                f"{file}: must have the size {shape} of {files[0]}, found {image.shape}"
            )
        images[index] = image
    return images
