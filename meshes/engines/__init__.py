"""The engines that carry light through a mesh, and what they need to know of one.

An engine is a function of a mesh and, in one precision, theta and phi [P, L, M], gamma [P, N], rad,
and fields [P or 1, B, N]. It returns fields or, with ``detect``, intensities [P, B, N].
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, Protocol

import numpy as np


class FabricatedMesh(Hashable, Protocol):
    """Layout and fabrication of a mesh of N ports, L columns and M = N // 2 interferometers each.

    :class:`meshes.RectangularMesh` is one; its docstring says what each attribute means.
    """

    units: int
    num_columns: int
    mask: np.ndarray  # bool [L, M]
    splitter_errors: Any  # [2, L, M], rad; an array, a tensor or None
    transmission: Any  # [L, N], likewise

    @property
    def num_interferometers(self) -> int: ...


def upper_port(column: Any, index: Any) -> Any:
    """The upper port of an interferometer: odd columns begin one port further down."""
    return 2 * index + column % 2


def fitted(mesh: FabricatedMesh) -> list[Any]:
    """The parts of the fabrication that are tensors: light is differentiable in them."""
    parts = (mesh.splitter_errors, mesh.transmission)
    return [part for part in parts if part is not None and not isinstance(part, np.ndarray)]
