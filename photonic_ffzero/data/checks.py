"""Data sets as arrays: MNIST, Fashion-MNIST, scikit-learn's digits, and the user's own.

A location that was named, as an argument or in ``PHOTONIC_FFZERO_DATA``, is binding: what is not
there is an error and never a reason to look or download elsewhere.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from meshes.validation import integer
from photonic_ffzero.data.readers import DataError


class Part(NamedTuple):
    """An array as it was read, and the words that say where."""

    where: str
    array: np.ndarray


def check_arrays(
    x: Any, y: Any, num_classes: int | None = None
) -> tuple[np.ndarray, np.ndarray, int]:
    """Check the user's own arrays and bring them into the types used for training.

    Args:
        x: images [n, H, W], real, or fields [n, N], real or complex.
        y: labels [n], integers 0..C-1.
        num_classes: C; None takes it from ``y``, in which every class must then occur.

    Returns:
        ``x`` as float32 or complex64, ``y`` as int64, and C.

    Raises:
        DataError: an array breaks a rule; the message names the argument, the rule and the value.
        TypeError, ValueError: ``num_classes`` is not a whole number of at least 2.
    """
    x, y = _checked_inputs(_as_array("x", x)), _as_array("y", y)
    if y.ndim != 1 or y.dtype.kind not in "iu":
        raise DataError(f"y must be integers of shape [n], got {y.dtype} of shape {y.shape}")
    if len(x) != len(y):
        raise DataError(f"x and y must have equal lengths, got {len(x)} and {len(y)}")
    if num_classes is None:
        num_classes = count_classes("y", y)
    num_classes = integer("num_classes", num_classes, minimum=2)
    return x, checked_labels(Part("y", y), num_classes), num_classes


def check_numbers(
    x: Any, y: Any, dimensions: int | None = None
) -> tuple[np.ndarray, np.ndarray, int]:
    """Check the user's own arrays for a regression, as `check_arrays` does for classes.

    Args:
        x: as there.
        y: labels [n] or [n, T], real numbers.
        dimensions: T; None takes it from ``y``.

    Returns:
        ``x`` as float32 or complex64, ``y`` as float64 in the shape given, and T.

    Raises:
        DataError: an array breaks a rule; the message names the argument, the rule and the value.
    """
    x, y = _checked_inputs(_as_array("x", x)), _as_array("y", y)
    if y.ndim not in (1, 2) or y.dtype.kind not in "iuf" or y.size == 0:
        raise DataError(
            f"y must be numbers of shape [n] or [n, T], got {y.dtype} of shape {y.shape}"
        )
    if len(x) != len(y):
        raise DataError(f"x and y must have equal lengths, got {len(x)} and {len(y)}")
    found = 1 if y.ndim == 1 else y.shape[1]
    if dimensions not in (None, found):
        raise DataError(f"y must have {dimensions} label dimensions, got {found}")
    require_finite("y", y)
    return x, y.astype(np.float64), found


def require_finite(name: str, array: np.ndarray) -> None:
    """Raise a :class:`DataError` that names the first NaN or infinity in ``array``."""
    finite = np.isfinite(array)
    if not finite.all():
        index = tuple(int(i) for i in np.argwhere(~finite)[0])
        raise DataError(f"{name} must be finite, got {array[index]} at index {index}")


def checked_labels(part: Part, num_classes: int) -> np.ndarray:
    where, labels = part
    if labels.dtype.kind not in "iu":
        raise DataError(f"{where}: labels must be integers, found {labels.dtype}")
    outside = (labels < 0) | (labels >= num_classes)
    if outside.any():
        raise DataError(
            f"{where}: labels must be in 0..{num_classes - 1}, "
            f"found {labels[outside][0]} at index {outside.argmax()}"
        )
    return labels.astype(np.int64)


# --- the user's own arrays and images ---------------------------------------------------------


def _as_array(name: str, value: Any) -> np.ndarray:
    try:
        array = np.asarray(value)
    except ValueError as error:  # a ragged list
        raise DataError(f"{name} must be an array, got {type(value).__name__}: {error}") from None
    if array.dtype.kind not in "biufc":
        raise DataError(f"{name} must hold numbers, got {array.dtype}")
    return array


def _checked_inputs(x: np.ndarray) -> np.ndarray:
    if x.ndim not in (2, 3) or x.size == 0:
        raise DataError(f"x must be images [n, H, W] or fields [n, N], not empty; got {x.shape}")
    if x.ndim == 3 and x.dtype.kind == "c":
        raise DataError(f"x of shape [n, H, W] are images and must be real, got {x.dtype}")
    with np.errstate(over="ignore"):  # what does not fit becomes infinite and is refused below
        x = x.astype(np.complex64 if x.dtype.kind == "c" else np.float32)
    require_finite("x", x)
    return x


def count_classes(where: str, y: np.ndarray) -> int:
    classes = np.unique(y)
    if not np.array_equal(classes, np.arange(len(classes))):
        raise DataError(f"{where} must use every label from 0 to C-1, got {classes[:12].tolist()}")
    if len(classes) < 2:
        raise DataError(f"{where} must have at least 2 classes, got {len(classes)}")
    return len(classes)
