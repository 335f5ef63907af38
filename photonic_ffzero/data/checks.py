"""Checks of arrays, wherever they come from: the user, a file or a folder of images."""

from __future__ import annotations

from typing import Any

import numpy as np

from meshes.validation import integer
from photonic_ffzero.data.readers import DataError


def check_arrays(
    x: Any, y: Any, num_classes: int | None = None, names: tuple[str, str] = ("x", "y")
) -> tuple[np.ndarray, np.ndarray, int]:
    """Check samples of classes; return ``x`` as float32 or complex64, ``y`` as int64, and C.

    Args:
        x: images [n, H, W], real, or fields [n, N], real or complex.
        y: labels [n], integers 0..C-1.
        num_classes: C; None takes it from ``y``, in which every class must then occur.
        names: what errors call ``x`` and ``y``, such as the files that hold them.
    """
    x, y = _checked_pair(x, y, names)
    name = names[1]
    if y.ndim != 1 or y.dtype.kind not in "iu":
        raise DataError(f"{name} must be integers of shape [n], got {y.dtype} of shape {y.shape}")
    if num_classes is None:
        classes = np.unique(y)
        num_classes = len(classes)
        if num_classes < 2 or not np.array_equal(classes, np.arange(num_classes)):
            raise DataError(
                f"{name} must use every label from 0 to C-1, at least 2, "
                f"got {classes[:12].tolist()}"
            )
    num_classes = integer("num_classes", num_classes, minimum=2)
    outside = (y < 0) | (y >= num_classes)
    if outside.any():
        raise DataError(
            f"{name} must be labels in 0..{num_classes - 1}, "
            f"got {y[outside][0]} at index {outside.argmax()}"
        )
    return x, y.astype(np.int64), num_classes


def check_images(
    x: np.ndarray, y: np.ndarray, num_classes: int | None, names: tuple[str, str]
) -> tuple[np.ndarray, np.ndarray, int]:
    """Check images [n, H, W] as `check_arrays` does; bytes are divided by 255, floats in [0, 1]."""
    images, labels, num_classes = check_arrays(x, y, num_classes, names)
    name = names[0]
    if images.ndim != 3:
        raise DataError(f"{name} must be images [n, H, W], got {images.shape}")
    if x.dtype == np.uint8:
        np.divide(images, 255, out=images)
    elif x.dtype.kind != "f":
        raise DataError(f"{name} must be uint8, or float in [0, 1]; got {x.dtype}")
    elif images.min() < 0 or images.max() > 1:
        raise DataError(f"{name} must be in [0, 1], got {images.min()} to {images.max()}")
    return images, labels, num_classes


def check_numbers(
    x: Any, y: Any, dimensions: int | None = None
) -> tuple[np.ndarray, np.ndarray, int]:
    """Check samples labelled with numbers [n] or [n, T]; return ``x``, ``y`` as float64, and T."""
    x, y = _checked_pair(x, y, ("x", "y"))
    if y.ndim not in (1, 2) or y.dtype.kind not in "iuf" or y.size == 0:
        raise DataError(
            f"y must be numbers of shape [n] or [n, T], got {y.dtype} of shape {y.shape}"
        )
    columns = 1 if y.ndim == 1 else y.shape[1]
    if dimensions not in (None, columns):
        raise DataError(f"y must have {dimensions} label dimensions, got {columns}")
    require_finite("y", y)
    return x, y.astype(np.float64), columns


def require_finite(name: str, array: np.ndarray) -> None:
    """Raise a `DataError` that names the first NaN or infinity in ``array``."""
    finite = np.isfinite(array)
    if not finite.all():
        index = tuple(int(i) for i in np.argwhere(~finite)[0])
        raise DataError(f"{name} must be finite, got {array[index]} at index {index}")


def to_single(name: str, array: np.ndarray, copy: bool = True) -> np.ndarray:
    """Return finite numbers in single precision."""
    with np.errstate(over="ignore"):  # a value out of range becomes infinite and is refused
        array = array.astype(np.complex64 if array.dtype.kind == "c" else np.float32, copy=copy)
    require_finite(name, array)
    return array


def _checked_pair(x: Any, y: Any, names: tuple[str, str]) -> tuple[np.ndarray, np.ndarray]:
    x_name, y_name = names
    x, y = _as_numbers(x_name, x), _as_numbers(y_name, y)
    if x.ndim not in (2, 3) or x.size == 0:
        raise DataError(
            f"{x_name} must be images [n, H, W] or fields [n, N], not empty; got {x.shape}"
        )
    if x.ndim == 3 and x.dtype.kind == "c":
        raise DataError(f"{x_name} of shape [n, H, W] must be real, got {x.dtype}")
    if x.shape[:1] != y.shape[:1]:
        raise DataError(
            f"{x_name} and {y_name} must have equal lengths, got shapes {x.shape} and {y.shape}"
        )
    return to_single(x_name, x), y


def _as_numbers(name: str, value: Any) -> np.ndarray:
    try:
        array = np.asarray(value)
    except ValueError as error:  # a ragged list
        raise DataError(f"{name} must be an array, got {type(value).__name__}: {error}") from None
    if array.dtype.kind not in "biufc":
        raise DataError(f"{name} must hold numbers, got {array.dtype}")
    return array
