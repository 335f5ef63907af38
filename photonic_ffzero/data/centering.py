"""Photographs and scans of one character, brought to the form of MNIST's images."""

from __future__ import annotations

from typing import Any

import numpy as np

from photonic_ffzero.data.checks import check_real_images

SIDE, BOX = 28, 20
"""Pixels a side of MNIST's images, and of the box in them that holds the ink."""

_INK = 0.3  # share of the strongest ink from which on a pixel belongs to it
_SPECK = 0.05  # share of the largest piece of ink below which a piece is a speck
_NOISE = 4.0  # standard deviations of the paper's noise that are not yet ink


def center(images: Any) -> np.ndarray:
    """Bring images [n, H, W] to the form of MNIST's, [n, 28, 28], float32 in [0, 1].

    The ink becomes light on black, whichever it was; paper and its noise become 0 and the strongest
    ink 1. The box around the ink is scaled so that its longer side has 20 pixels, and its centre
    of mass is put into the middle. An image without ink becomes dark.

    Reference: Y. LeCun, C. Cortes, C. Burges, "The MNIST database", on how it was made.
    """
    return np.stack([_placed(_ink(image)) for image in check_real_images("images", images)])


def looks_uncentered(images: Any) -> np.ndarray:
    """Which images [n] have paper that is not black, or ink that is small or away from the middle.

    These are signs that a network trained on images like MNIST's wants them centred. An image
    without ink is none of them.
    """
    return np.array([_differs(image) for image in check_real_images("images", images)])


def _differs(image: np.ndarray) -> bool:
    peak = image.max()
    if peak == image.min():  # there is no ink
        return False
    if np.median(image) > 0.1 * peak:
        return True
    starts, stops = _box(image > 0.5 * peak)
    sizes = np.array(image.shape)
    shift = np.abs((starts + stops) / 2 - sizes / 2) / sizes
    return bool(((stops - starts) / sizes).max() < 0.5 or shift.max() > 0.2)


def _ink(image: np.ndarray) -> np.ndarray:
    """The ink in its box, from 0 for paper to 1; empty if there is none."""
    from scipy import ndimage  # takes a second to import

    difference = image - np.median(image)  # the paper covers more than half of the image
    noise = np.median(np.abs(difference)) / 0.6745  # standard deviation, if it is normal
    # A small blur makes lines stand out of the noise; single pixels of noise do not count as ink.
    smooth = ndimage.gaussian_filter(difference, 1.0 if min(image.shape) > 2 * SIDE else 0.5)
    if smooth.max() < -smooth.min():
        difference, smooth = -difference, -smooth
    peak = smooth.max()
    pieces, count = ndimage.label(smooth > max(_INK * peak, _NOISE * noise / 2), np.ones((3, 3)))
    if not count or peak <= 0:
        return np.zeros((0, 0), np.float32)
    masses = ndimage.sum_labels(smooth, pieces, np.arange(1, count + 1))
    kept = np.isin(pieces, 1 + np.flatnonzero(masses >= _SPECK * masses.max()))
    (top, left), (bottom, right) = _box(kept)
    near = ndimage.binary_dilation(kept, np.ones((3, 3)))  # the soft edge of the ink
    ink = np.where(near, difference, 0)[top:bottom, left:right]
    return np.clip(ink / peak, 0, 1).astype(np.float32)


def _placed(ink: np.ndarray) -> np.ndarray:
    """Ink of any size in an image of `SIDE` pixels, scaled to `BOX`, its mass in the middle."""
    from PIL import Image

    image = np.zeros((SIDE, SIDE), np.float32)
    if ink.size == 0:
        return image
    height, width = (max(1, round(length * BOX / max(ink.shape))) for length in ink.shape)
    scaled = Image.fromarray(ink).resize((width, height), Image.Resampling.BILINEAR)
    ink = np.clip(np.asarray(scaled) / max(np.asarray(scaled).max(), 1e-6), 0, 1)
    place = []
    for axis, length in enumerate(ink.shape):
        centre = np.average(np.arange(length), weights=ink.sum(axis=1 - axis))
        start = int(np.clip(round(SIDE / 2 - centre), 0, SIDE - length))  # MNIST's is at pixel 14
        place.append(slice(start, start + length))
    image[tuple(place)] = ink
    return image


def _box(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First row and column of the pixels in a mask, and one past the last ones."""
    where = np.argwhere(mask)
    return where.min(axis=0), where.max(axis=0) + 1
