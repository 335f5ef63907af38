"""Checks of arrays, wherever they come from: the user, a file or a folder of images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from meshes.files import DataError
from meshes.validation import integer, refuse_masked

COLOURS = 3
"""Channels of an image in colour: red, green and blue."""
LARGEST = 1e15
"""Largest magnitude of fields: their squares are summed in single precision."""


def check_arrays(
    x: Any,
    y: Any,
    num_classes: int | None = None,
    names: tuple[str, str] = ("x", "y"),
    copy: bool = True,
) -> tuple[np.ndarray, np.ndarray, int]:
    """Check samples of classes; return ``x`` as float32 or complex64, ``y`` as int64, and C.

    Args:
        x: images [n, H, W] or, in colour, [n, H, W, 3], real, or fields [n, N], real or complex.
            Grey images may have an axis for their channel, [n, H, W, 1] or [n, 1, H, W].
        y: labels [n], integers 0..C-1.
        num_classes: C; None takes it from ``y``, in which every class must then occur.
        names: what errors call ``x`` and ``y``, such as the files that hold them.
        copy: whether to copy ``x`` even if it has its precision already.
    """
    x = _check_samples(names[0], x, copy)
    return x, *_check_classes(x, y, num_classes, names)


def check_images(
    x: np.ndarray, y: np.ndarray, num_classes: int | None, names: tuple[str, str]
) -> tuple[np.ndarray, np.ndarray, int]:
    """Check images as `scaled_images` does, and their labels as `check_arrays`."""
    images = scaled_images(names[0], x)
    return images, *_check_classes(images, y, num_classes, names)


def scaled_images(name: str, images: Any) -> np.ndarray:
    """Images [n, H, W] or [n, H, W, 3] in [0, 1], float32, of bytes or of floats in [0, 1]."""
    array = as_numbers(name, images)
    if not _are_images(without_channel(array)):
        raise DataError(f"{name} must be images [n, H, W] or [n, H, W, 3], got {array.shape}")
    if array.dtype.kind != "f" and array.dtype != np.uint8:
        raise DataError(f"{name} must be uint8, or float in [0, 1]; got {array.dtype}")
    scaled = _check_samples(name, array)
    if array.dtype == np.uint8:
        np.divide(scaled, 255, out=scaled)
    elif scaled.min() < 0 or scaled.max() > 1:
        raise DataError(f"{name} must be in [0, 1], got {scaled.min()} to {scaled.max()}")
    return scaled


def check_numbers(
    x: Any,
    y: Any,
    dimensions: int | None = None,
    names: tuple[str, str] = ("x", "y"),
    copy: bool = True,
) -> tuple[np.ndarray, np.ndarray, int]:
    """Check samples labelled with numbers [n] or [n, T]; return ``x``, ``y`` as float64, and T.

    The arguments are those of `check_arrays`, with T in place of C.
    """
    x = _check_samples(names[0], x, copy)
    y, name = _check_length(x, y, names), names[1]
    if y.ndim not in (1, 2) or y.dtype.kind not in "iuf" or y.size == 0:
        raise DataError(
            f"{name} must be numbers of shape [n] or [n, T], got {y.dtype} of shape {y.shape}"
        )
    columns = 1 if y.ndim == 1 else y.shape[1]
    if dimensions not in (None, columns):
        raise DataError(f"{name} must have {dimensions} label dimensions, got {columns}")
    y = y.astype(np.float64)
    require_finite(name, y)
    return x, y, columns


CHECKS: dict[str, Callable[..., tuple[np.ndarray, np.ndarray, int]]] = {
    "classification": check_arrays,
    "regression": check_numbers,
}
"""Task -> check of samples and labels; the third argument is C or T, or None to count them."""


def check_inputs(name: str, x: Any, units: int | None = None, network: str = "photonic") -> Any:
    """Check the inputs [n, N] of a network; return them as float32, or complex64 for meshes."""
    x = _check_samples(name, x, copy=False)
    if x.ndim != 2 or units not in (None, x.shape[-1]):
        raise DataError(
            f"{name} must have shape [n, {units or 'N'}], got {list(x.shape)}; encode makes it "
            "from images"
        )
    if network != "photonic" and np.iscomplexobj(x):
        raise DataError(f"{name} must be real for {network}, got {x.dtype}")
    return x


def check_real_images(name: str, images: Any, colour: bool = False) -> np.ndarray:
    """Check images, real and in any unit, with or without an axis for their one channel.

    Return them as float32 [n, H, W], or with ``colour`` also [n, H, W, 3].
    """
    array = as_numbers(name, images)
    allowed = _are_images if colour else lambda array: array.ndim == 3
    if not allowed(without_channel(array)) or array.dtype.kind == "c":
        shapes = "[n, H, W] or [n, H, W, 3]" if colour else "[n, H, W]"
        raise DataError(
            f"{name} must be real numbers of shape {shapes}, not empty; "
            f"got {array.dtype} of shape {array.shape}"
        )
    return _check_samples(name, array, copy=False)


def in_colour(images: np.ndarray) -> bool:
    """Whether images have red, green and blue, [n, H, W, 3]."""
    return images.ndim == 4 and images.shape[3] == COLOURS


def _are_images(array: np.ndarray) -> bool:
    return array.ndim == 3 or in_colour(array)


def without_channel(array: np.ndarray) -> np.ndarray:
    """Grey images [n, H, W] from [n, H, W, 1] or [n, 1, H, W]; anything else as it is."""
    axes = [axis for axis in (3, 1) if array.ndim == 4 and array.shape[axis] == 1]
    return array.squeeze(axes[0]) if axes else array


def require_finite(name: str, array: np.ndarray) -> None:
    """Raise a `DataError` that names the first NaN or infinity in ``array``."""
    finite = np.isfinite(array)
    if not finite.all():
        index = tuple(int(i) for i in np.argwhere(~finite)[0])
        raise DataError(f"{name} must be finite, got {array[index]} at index {index}")


def to_single(name: str, array: np.ndarray, copy: bool = True) -> np.ndarray:
    """Return finite numbers in single precision."""
    whole = array.dtype.kind in "biu"  # always finite
    with np.errstate(over="ignore"):  # a value out of range becomes infinite and is refused
        array = array.astype(np.complex64 if array.dtype.kind == "c" else np.float32, copy=copy)
    if not whole:
        require_finite(name, array)
    return array


def as_numbers(name: str, value: Any) -> np.ndarray:
    """Return what NumPy, pandas or TensorFlow hold, or nested lists, as an array of numbers."""
    refuse_masked(name, value, DataError)
    try:
        array = np.asarray(value)
    except (ValueError, TypeError, RuntimeError) as error:  # a ragged list, or a tensor elsewhere
        reason = str(error).partition("\n")[0]
        raise DataError(f"{name} must be an array, got {type(value).__name__}: {reason}") from None
    if array.dtype.kind not in "biufc":
        raise DataError(f"{name} must hold numbers, got {array.dtype}")
    return array


def _check_samples(name: str, value: Any, copy: bool = True) -> np.ndarray:
    """Return images [n, H, W] or [n, H, W, 3], float32, or fields [n, N], float32 or complex64."""
    array = as_numbers(name, value)
    x = without_channel(array)
    if not (x.ndim == 2 or _are_images(x)) or x.size == 0:
        raise DataError(
            f"{name} must be images [n, H, W] or [n, H, W, 3], or fields [n, N], not empty; "
            f"got {array.shape}"
        )
    if x.ndim > 2 and x.dtype.kind == "c":
        raise DataError(f"{name} of shape [n, H, W] must be real, got {x.dtype}")
    x = to_single(name, x, copy)
    if x.ndim == 2:
        _check_magnitude(name, x)
    return x


def _check_magnitude(name: str, fields: np.ndarray) -> None:
    parts = (fields.real, fields.imag) if np.iscomplexobj(fields) else (fields,)
    largest = max(max(part.max(), -part.min()) for part in parts)
    if largest > LARGEST:
        raise DataError(f"{name} must be at most {LARGEST:g} in magnitude, got {largest:g}")


def _check_classes(
    x: np.ndarray, y: Any, num_classes: int | None, names: tuple[str, str]
) -> tuple[np.ndarray, int]:
    """Check labels [n] of samples; return them as int64, and C."""
    y, name = _check_length(x, y, names), names[1]
    if y.ndim != 1 or y.dtype.kind not in "iu":
        raise DataError(
            f"{name} must be integers of shape [n], got {y.dtype} of shape {y.shape}{_remedy(y)}"
        )
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
    return y.astype(np.int64), num_classes


def _check_length(x: np.ndarray, y: Any, names: tuple[str, str]) -> np.ndarray:
    y = as_numbers(names[1], y)
    if x.shape[:1] != y.shape[:1]:
        raise DataError(
            f"{' and '.join(names)} must have equal lengths, got shapes {x.shape} and {y.shape}"
        )
    return y


def _remedy(y: np.ndarray) -> str:
    """What makes labels [n] of what people have instead."""
    if y.ndim == 2:
        return "; ravel() makes them so" if y.shape[1] == 1 else "; argmax(axis=1) makes labels"
    whole = y.ndim == 1 and y.dtype.kind == "f" and np.array_equal(y, np.round(y))
    return "; astype(int) makes them so" if whole else ""
