"""Decoded pictures as grey or colour values, the way a viewer shows them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

_ORIENTATION = 0x0112  # the EXIF tag

_AS_SHOWN: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    2: lambda values: values[:, ::-1],
    3: lambda values: values[::-1, ::-1],
    4: lambda values: values[::-1],
    5: lambda values: values.swapaxes(0, 1),
    6: lambda values: np.rot90(values, -1),
    7: lambda values: values[::-1, ::-1].swapaxes(0, 1),
    8: lambda values: np.rot90(values),
}
"""EXIF orientation -> the stored picture turned and mirrored as it is meant to be seen."""


def as_shown(image: Any, depth: int, colour: bool = False) -> np.ndarray:
    """Values of a Pillow image, float32 in [0, 1]: opaque, and the right way up.

    Args:
        image: opened from a PNG or JPEG file.
        depth: bits of each channel in the file.
        colour: whether to return red, green and blue [H, W, 3] instead of grey values [H, W].
    """
    deep = image.mode.startswith("I")  # 16 bits of grey, which convert would clip to 8
    alpha = _alpha(image, depth)
    values = np.asarray(image if deep else image.convert("RGB" if colour else "L"))
    values = np.divide(values, 65535 if deep else 255, dtype=np.float32)
    if deep and colour:
        values = np.stack([values] * 3, axis=-1)
    if alpha is not None:
        values = _on_background(values, alpha[..., np.newaxis] if colour else alpha)
    return _AS_SHOWN.get(_orientation(image), np.asarray)(values)


def _alpha(image: Any, depth: int) -> np.ndarray | None:
    """Opacity [H, W] in [0, 1], from an alpha channel, a palette or a transparent colour."""
    key = image.info.get("transparency")
    if image.mode == "P" and key is not None:
        image = image.convert("RGBA")
    if image.mode in ("LA", "RGBA"):
        return np.divide(np.asarray(image.getchannel("A")), 255, dtype=np.float32)
    if key is None or image.mode not in ("1", "L", "I;16", "RGB"):
        return None
    if image.mode == "RGB":
        if depth > 8:
            raise ValueError("a transparent colour of 16 bits a channel is not supported")
        return np.any(np.asarray(image) != key, axis=-1).astype(np.float32)
    if depth in (2, 4):  # Pillow spreads the pixels over 0..255, but not the key
        key *= 255 // (2**depth - 1)
    pixels = np.asarray(image.convert("L") if image.mode == "1" else image)
    return (pixels != key).astype(np.float32)


def _on_background(values: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Lay a picture on white if its ink is dark, and on black if it is light.

    The visible part is the ink, unless it covers most of the picture in two tones: then it is
    paper with ink on it, and the background goes on with the paper.
    """
    cover = alpha.mean(dtype=np.float64)
    if cover == 1:
        return values
    if cover == 0:
        raise ValueError("every pixel is transparent")
    tone = (values * alpha).mean(dtype=np.float64) / cover
    spread = np.sqrt((np.square(values - tone) * alpha).mean(dtype=np.float64) / cover)
    paper = cover > 0.5 and spread > 0.2
    background = np.float32((tone >= 0.5) == paper)
    return values * alpha + background * (1 - alpha)


def _orientation(image: Any) -> Any:
    """The EXIF orientation, which is 1 for upright; None if there is none that can be read."""
    try:
        return image.getexif().get(_ORIENTATION)
    except Exception:  # Pillow raises a dozen types for broken EXIF, which a viewer ignores
        return None
