"""Equivalent phases: into one turn, and from where floats are coarse."""

from __future__ import annotations

from typing import Any

import numpy as np

LARGE = 8000.0  # rad; phases up to here are used as they are


def wrapped(phases: np.ndarray) -> np.ndarray:
    """Phases in [0, 2 pi). The remainder alone rounds -1e-17, and to float32 more, up to 2 pi."""
    rest = np.mod(phases, 2 * np.pi)
    return np.where(rest < 2 * np.pi, rest, np.zeros_like(rest))


def reduced(phases: Any, xp: Any = np) -> Any:
    """Phases of any size as phases up to `LARGE`, equal modulo 4 pi, as theta / 2 enters a mesh.

    A multiple of 2 pi in floats would be wrong by 0.04 rad at 1e15; sine and cosine are exact.
    ``xp`` is NumPy for arrays and numbers, or TensorFlow for tensors.
    """
    half = 0.5 * phases
    near = 2.0 * xp.atan2(xp.sin(half), xp.cos(half))
    return xp.where(xp.abs(phases) > LARGE, near, phases)
