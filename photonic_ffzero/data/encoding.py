"""Images as light: each pixel, average or Fourier coefficient is one port's field."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from meshes.validation import choice, integer, keep
from photonic_ffzero.data.checks import check_real_images
from photonic_ffzero.data.readers import MAX_PIXELS, DataError

MAX_SIDE = 2**14
"""Largest height or width that a network resizes images to, in pixels."""


def encode(images: Any, encoding: str = "average", size: int = 8) -> np.ndarray:
    r"""Encode images as the fields at N = size^2 ports, with peak normalisation per image.

    .. math:: E_p = \frac{A_p}{\max_q |A_q|}

    where A is the image after ``ENCODINGS[encoding]``, row by row; a dark image stays dark.

    Args:
        images: [n, H, W], [n, H, W, 1] or [n, 1, H, W], real and finite, in any unit.
        encoding: a name in :data:`ENCODINGS`; "fourier" returns complex64, the others float32.
        size: rows and columns of the encoded image; at most H and W.
    """
    choice("encoding", encoding, ENCODINGS)
    images = check_real_images("images", images)
    size = _checked_size(size, images.shape[1:])
    with np.errstate(over="ignore", invalid="ignore"):  # refused below
        fields = ENCODINGS[encoding](images, size).reshape(len(images), size * size)
    # In double precision: single has no reciprocal for its smallest numbers.
    amplitudes = np.abs(fields.astype(np.result_type(fields, np.float64)))
    peaks = amplitudes.max(axis=1, keepdims=True)
    if not np.isfinite(peaks).all():
        raise DataError(f"images must be small enough for {encoding} in single precision")
    return np.divide(fields, np.where(peaks > 0, peaks, 1)).astype(fields.dtype)


@dataclass(frozen=True)
class Encoder:
    """Encodes images for a network as those for its training, which had ``shape`` (H, W)."""

    encoding: str
    size: int
    shape: tuple[int, int]

    def __post_init__(self) -> None:
        height, width = (integer("shape", length, minimum=1) for length in self.shape)
        if height * width > MAX_PIXELS or max(height, width) > MAX_SIDE:
            raise ValueError(
                f"shape must mean at most {MAX_PIXELS} pixels, {MAX_SIDE} a side, got {self.shape}"
            )
        shape = height, width
        encoding = choice("encoding", self.encoding, ENCODINGS)
        keep(self, encoding=encoding, size=_checked_size(self.size, shape), shape=shape)

    @property
    def values(self) -> int:
        return self.size**2

    def __call__(self, images: Any) -> np.ndarray:
        """Encode images [n, H', W'], first resized to H x W."""
        if np.shape(images)[1:] != self.shape:
            images = resize(images, self.shape)
        return encode(images, self.encoding, self.size)


def resize(images: Any, shape: tuple[int, int]) -> np.ndarray:
    """Resize images [n, H', W'] to [n, H, W], float32, by averaging over equal areas.

    A = R X C^T, where R_ij is the share that pixel row j has in area row i, and C likewise.
    """
    return _areas(check_real_images("images", images), *shape)


def average(images: np.ndarray, size: int) -> np.ndarray:
    """Average over size x size equal areas, as `resize` does: [n, size, size] float32."""
    return _areas(images, size, size)


def crop(images: np.ndarray, size: int) -> np.ndarray:
    """Cut out the centre, as the paper does: [n, size, size] float32.

    Where size and image differ in parity, the cut lies half a pixel towards the start for an even
    size and towards the end for an odd one.

    Reference: Guo et al., "Local learning for stable backpropagation-free neural network training
        towards physical learning", arXiv 2603.24790.
    """
    top, left = (length // 2 - size // 2 for length in images.shape[1:])
    return images[:, top : top + size, left : left + size]


def fourier(images: np.ndarray, size: int) -> np.ndarray:
    """Keep the lowest frequencies of the orthonormal 2-D transform: [n, size, size] complex64.

    A_kl = (H W)^(-1/2) sum_xy X_xy exp(-2 pi i ((k - s) x / H + (l - s) y / W)), s = size // 2:
    the centre of the transform with zero frequency in the middle, at [s, s].

    Reference: Williamson et al., "Reprogrammable electro-optic nonlinear activation functions for
        optical neural networks", arXiv 1903.04579, where MNIST enters a mesh this way.
    """
    rows, columns = (_fourier_weights(length, size) for length in images.shape[1:])
    return rows @ (images @ columns.T)


ENCODINGS: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {
    "average": average,
    "crop": crop,
    "fourier": fourier,
}
"""Name -> function from images [n, H, W] and size to amplitudes [n, size, size]."""


def _areas(images: np.ndarray, height: int, width: int) -> np.ndarray:
    rows, columns = map(_area_weights, images.shape[1:], (height, width))
    return rows @ (images @ columns.T)


def _area_weights(length: int, size: int) -> np.ndarray:
    borders = np.arange(size + 1) * (length / size)
    pixels = np.arange(length)
    end = np.minimum(borders[1:, None], pixels + 1)
    start = np.maximum(borders[:-1, None], pixels)
    return (np.maximum(end - start, 0) * (size / length)).astype(np.float32)


def _fourier_weights(length: int, size: int) -> np.ndarray:
    frequencies = np.arange(size) - size // 2
    turns = np.outer(frequencies, np.arange(length)) / length
    return (np.exp(-2j * np.pi * turns) / np.sqrt(length)).astype(np.complex64)


def _checked_size(size: int, shape: tuple[int, ...]) -> int:
    size = integer("size", size, minimum=1)
    if size > min(shape):
        raise ValueError(f"size must be at most the image's {shape}, got {size}")
    return size
