"""The engines that carry light through a mesh, and what they need to know of one.

An engine is a function of a mesh and, in one precision, theta and phi [P, L, M], gamma [P, N], rad,
and fields [P or 1, B, N]. It returns fields or, with ``detect``, intensities [P, B, N].
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Protocol

import numpy as np


class FabricatedMesh(Hashable, Protocol):
    """Layout and fabrication of a mesh of N ports, L columns and M = N // 2 interferometers each.

    :class:`meshes.RectangularMesh` is one; its docstring says what each attribute means.
    """

    units: int
    num_columns: int
    mask: np.ndarray  # bool [L, M]
    splitter_errors: np.ndarray | None  # [2, L, M], rad
    transmission: np.ndarray | None  # [L, N]

    @property
    def num_interferometers(self) -> int: ...
