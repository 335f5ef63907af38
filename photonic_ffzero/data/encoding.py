"""Images as light: each pixel, average or Fourier coefficient is one port's field."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from meshes.files import DataError
from meshes.validation import choice, integer, keep, number
from photonic_ffzero.data.checks import COLOURS, check_real_images, in_colour
from photonic_ffzero.data.readers import MAX_PIXELS

MAX_SIDE = 2**14
"""Largest height or width that a network resizes images to, in pixels."""
CHANNELS = {"grey": 1, "rgb": COLOURS}
"""What a network sees of colours -> values a pixel."""
NORMALISATIONS = ("peak", "standard")
"""Each image's largest amplitude is 1, or each colour has mean 0 and deviation 1 in training."""

_CHUNK = 4096  # images encoded at once
_CONSTANT = 1e-6  # deviation, relative to the size, below which a colour is constant
_WEIGHTS = 2**23  # weights of pixels held at once
_GREY = np.array([0.299, 0.587, 0.114], np.float32)  # luma of ITU-R BT.601


def encode(images: Any, encoding: str = "average", size: int = 8) -> np.ndarray:
    r"""Encode images as the fields at N = size^2 ports, with peak normalisation per image.

    "fourier-bins" gives N = size fields. Images in colour become 3 N fields: red, green and blue of
    the first pixel or bin, and so on.

    .. math:: E_p = \frac{A_p}{\max_q |A_q|}

    where A is the image after ``ENCODINGS[encoding]``, row by row; a dark image stays dark.
    Without zero frequency an even grey is dark, too.

    Args:
        images: [n, H, W], [n, H, W, 1] or [n, 1, H, W], or in colour [n, H, W, 3]; real and
            finite, in any unit.
        encoding: a name in :data:`ENCODINGS`; the Fourier ones return complex64, the others
            float32.
        size: rows and columns of the encoded image, at most H and W; for "fourier-bins" the number
            of bins, at most about H W / 2.
    """
    return np.concatenate([_encode(part, encoding, size) for part in _parts(images)])


def _encode(images: Any, encoding: str, size: int) -> np.ndarray:
    fields = _amplitudes(images, encoding, size)
    # In double precision: single has no reciprocal for its smallest numbers.
    amplitudes = np.abs(fields.astype(np.result_type(fields, np.float64)))
    peaks = amplitudes.max(axis=1, keepdims=True)
    if not np.isfinite(peaks).all():
        raise DataError(f"images must be small enough for {encoding} in single precision")
    return np.divide(fields, np.where(peaks > 0, peaks, 1)).astype(fields.dtype)


def _amplitudes(images: Any, encoding: str, size: int) -> np.ndarray:
    """Amplitudes before they are normalised: [n, N], or [n, 3 N] of colours."""
    choice("encoding", encoding, ENCODINGS)
    images = check_real_images("images", images, colour=True)
    size = _checked_size(encoding, size, images.shape[1:3])
    colour = in_colour(images)
    planes = np.moveaxis(images, 3, 1).reshape(-1, *images.shape[1:3]) if colour else images
    with np.errstate(over="ignore", invalid="ignore"):  # refused where they are normalised
        encoded = ENCODINGS[encoding](planes, size)
    if colour:
        encoded = encoded.reshape(len(images), COLOURS, -1).swapaxes(1, 2)
    return encoded.reshape(len(images), -1)


@dataclass(frozen=True)
class Encoder:
    """Encodes images for a network as those for its training.

    Attributes:
        encoding: A name in `ENCODINGS`.
        size: Rows and columns of the encoded image, or its number of bins.
        shape: Height and width of the images for training.
        colour: ``grey`` or ``rgb``; grey images have three equal colours, and colours become grey
            by their luma.
        mean, deviation: Of the amplitudes of each colour over the images for training, see
            `fitted`; without them each image is normalised by its peak.
    """

    encoding: str
    size: int
    shape: tuple[int, int]
    colour: str = "grey"
    mean: tuple[float, ...] = ()
    deviation: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        height, width = (integer("shape", length, minimum=1) for length in self.shape)
        if height * width > MAX_PIXELS or max(height, width) > MAX_SIDE:
            raise ValueError(
                f"shape must mean at most {MAX_PIXELS} pixels, {MAX_SIDE} a side, got {self.shape}"
            )
        shape = height, width
        encoding = choice("encoding", self.encoding, ENCODINGS)
        keep(self, encoding=encoding, size=_checked_size(encoding, self.size, shape), shape=shape)
        channels = CHANNELS[choice("colour", self.colour, CHANNELS)]
        mean = tuple(number("mean", value) for value in self.mean)
        deviation = tuple(number("deviation", value, above=0) for value in self.deviation)
        if not len(mean) == len(deviation) in (0, channels) or (mean and form_of(encoding).complex):
            raise ValueError(
                f"mean and deviation must be of {channels} real channels or none, got {self.mean} "
                f"and {self.deviation} for {encoding}"
            )
        keep(self, mean=mean, deviation=deviation)

    @property
    def values(self) -> int:
        return CHANNELS[self.colour] * form_of(self.encoding).values(self.size)

    def __call__(self, images: Any) -> np.ndarray:
        """Encode images [n, H', W'] or [n, H', W', 3], first resized to H x W."""
        return np.concatenate([self._encoded(part) for part in _parts(images)])

    def fitted(self, images: Any) -> Encoder:
        """The encoder that gives these images mean 0 and deviation 1 in each colour."""
        if form_of(self.encoding).complex:
            raise ValueError(
                f"normalisation must be peak for {self.encoding}, whose amplitudes are complex"
            )
        count, total, square = 0, np.zeros(1), np.zeros(1)
        for part in _parts(images):
            values = self._raw(part).reshape(-1, CHANNELS[self.colour]).astype(np.float64)
            count += len(values)
            total, square = total + values.sum(axis=0), square + np.square(values).sum(axis=0)
        mean = total / count
        spread = np.sqrt(np.maximum(square / count - mean**2, 0))
        constant = spread < _CONSTANT * np.sqrt(square / count)  # of it rounding errors are left
        deviation = np.where(constant | (spread == 0), 1, spread)
        return replace(self, mean=tuple(mean.tolist()), deviation=tuple(deviation.tolist()))

    def _encoded(self, images: Any) -> np.ndarray:
        if not self.mean:
            return _encode(self._as_trained(images), self.encoding, self.size)
        values = self._raw(images).reshape(-1, CHANNELS[self.colour])
        mean, deviation = (np.array(each, np.float32) for each in (self.mean, self.deviation))
        scaled = (values - mean) / deviation
        return scaled.reshape(len(images), -1)

    def _raw(self, images: Any) -> np.ndarray:
        """Amplitudes in the unit of the images; bytes count as 0 to 1, as data sets hold them."""
        values = _amplitudes(self._as_trained(images), self.encoding, self.size)
        return values / 255 if np.asarray(images).dtype == np.uint8 else values

    def _as_trained(self, images: Any) -> Any:
        """Images in the size and the colours of those for training."""
        if np.ndim(images) == 4 or self.colour != "grey":
            images = _in_channels(check_real_images("images", images, colour=True), self.colour)
        return images if np.shape(images)[1:3] == self.shape else resize(images, self.shape)


def _in_channels(images: np.ndarray, colour: str) -> np.ndarray:
    """Images in grey [n, H, W] or in colour [n, H, W, 3], whichever they are."""
    if in_colour(images) == (colour == "rgb"):
        return images
    return images @ _GREY if colour == "grey" else np.stack([images] * COLOURS, axis=-1)


def _parts(images: Any) -> Iterator[Any]:
    """Some images at a time, as those of large data sets take several times their memory."""
    if not isinstance(images, np.ndarray) or images.ndim == 0:
        yield images
        return
    for start in range(0, max(len(images), 1), _CHUNK):
        yield images[start : start + _CHUNK]


def resize(images: Any, shape: tuple[int, int]) -> np.ndarray:
    """Resize images [n, H', W'] to [n, H, W], float32, by averaging over equal areas.

    A = R X C^T, where R_ij is the share that pixel row j has in area row i, and C likewise.
    Images in colour, [n, H', W', 3], keep their colours.
    """
    images = check_real_images("images", images, colour=True)
    if in_colour(images):
        return np.moveaxis(_areas(np.moveaxis(images, 3, 1), *shape), 1, 3)
    return _areas(images, *shape)


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
    frequencies = np.arange(size) - size // 2
    rows, columns = (_fourier_weights(length, frequencies) for length in images.shape[1:])
    return rows @ (images @ columns.T)


def fourier_bins(images: np.ndarray, size: int) -> np.ndarray:
    """Keep the lowest bins of the transform of `fourier` without 0 Hz: [n, size] complex64.

    Bins (k, l), in cycles an image, stand in the order of rising |frequency| (cycles a pixel),

    f^2 = (k / H)^2 + (l / W)^2,

    those of the same one in the order of rising k. A real image says the same at (k, l) and
    (-k, -l); of these the one with l > 0 is kept, or with k > 0 where l is 0 or W / 2.

    Reference: Sawada, Aoyama, Notomi, "Layered-parameter perturbation for zeroth-order optimization
        of optical neural networks", AAAI 2025, where images enter a mesh this way.
    """
    frequencies = lowest_bins(images.shape[1], images.shape[2], size)
    (rows, row), (columns, column) = (np.unique(f, return_inverse=True) for f in frequencies)
    # 0 Hz is left out, and would leave rounding errors, the only light of an even grey.
    images = images - images.min(axis=(1, 2), keepdims=True)
    across = images @ _fourier_weights(images.shape[2], columns).T
    return (_fourier_weights(images.shape[1], rows) @ across)[:, row, column]


@lru_cache(maxsize=8)
def lowest_bins(height: int, width: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The frequencies k and l, in cycles an image, of so many bins; see `fourier_bins`."""
    # The lowest bins have no frequency above their number, as lower ones would come before.
    most, half = min(count, height // 2), min(count, width // 2)
    down, across = np.meshgrid(np.arange(-most, most + 1), np.arange(half + 1), indexing="ij")
    alone = (across == 0) | (2 * across == width)  # where -across is the same frequency
    kept = (2 * down > -height) & (~alone | (down >= 0)) & ((down != 0) | (across != 0))
    down, across = down[kept], across[kept]
    order = np.lexsort((down, (down * width) ** 2 + (across * height) ** 2))[:count]
    return down[order], across[order]


def _number_of_bins(shape: tuple[int, ...]) -> int:
    """Bins without 0 Hz and without the conjugates of others."""
    height, width = shape
    real = (2 - height % 2) * (2 - width % 2)  # bins that are their own conjugates
    return (height * width + real) // 2 - 1


ENCODINGS: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {
    "average": average,
    "crop": crop,
    "fourier": fourier,
    "fourier-bins": fourier_bins,
}
"""Name -> function from images [n, H, W] and size to amplitudes [n, ...], as `form_of` says."""


class Form(NamedTuple):
    """What an encoding makes of an image, and what its size means.

    Attributes:
        square: Whether the size is the side of a square of values, else their number.
        complex: Whether the values are complex.
        most: From the height and width of an image to the largest size.
    """

    square: bool = True
    complex: bool = False
    most: Callable[[tuple[int, ...]], int] = min

    def values(self, size: int) -> int:
        """Values of an image in grey."""
        return size**2 if self.square else size


_FORMS = {
    "fourier": Form(complex=True),
    "fourier-bins": Form(square=False, complex=True, most=_number_of_bins),
}


def form_of(encoding: str) -> Form:
    """The form of an encoding; a square of real values if nothing else is said."""
    return _FORMS.get(encoding, Form())


def _areas(images: np.ndarray, height: int, width: int) -> np.ndarray:
    rows, columns = images.shape[-2:]
    narrow = [images[..., part] @ weights.T for part, weights in _area_weights(columns, width)]
    wide = np.concatenate(narrow, axis=-1)
    low = [weights @ wide[..., part, :] for part, weights in _area_weights(rows, height)]
    return np.concatenate(low, axis=-2)


def _area_weights(length: int, size: int) -> Iterator[tuple[slice, np.ndarray]]:
    """Pixels of some areas at a time, and each one's share in each area.

    All areas at once, if the weights of a side of millions of pixels would not take gigabytes.
    """
    borders = np.arange(size + 1) * (length / size)
    count = size if length * size <= _WEIGHTS else math.isqrt(_WEIGHTS * size // length) or 1
    for first in range(0, size, count):
        own = borders[first : first + count + 1]
        part = slice(int(own[0]), math.ceil(own[-1])) if count < size else slice(0, length)
        pixels = np.arange(part.start, min(part.stop, length))
        end = np.minimum(own[1:, None], pixels + 1)
        start = np.maximum(own[:-1, None], pixels)
        yield part, (np.maximum(end - start, 0) * (size / length)).astype(np.float32)


def _fourier_weights(length: int, frequencies: np.ndarray) -> np.ndarray:
    turns = np.outer(frequencies, np.arange(length)) / length
    return (np.exp(-2j * np.pi * turns) / np.sqrt(length)).astype(np.complex64)


def _checked_size(encoding: str, size: int, shape: tuple[int, ...]) -> int:
    size, most = integer("size", size, minimum=1), form_of(encoding).most(shape)
    if size > most:
        raise ValueError(
            f"size must be at most {most} for {encoding} of images of {shape}, got {size}"
        )
    return size
