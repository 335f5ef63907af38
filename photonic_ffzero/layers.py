"""Layers: what a block is made of.

A layer offers

* ``init(rng) -> params``: one parameter set, a structure of arrays;
* ``trainable``: the same structure of boolean arrays, false where an entry is no parameter;
* ``measure(params, x) -> z [P, B, n]``: the tapped values a detector sees;
* ``transmit(params, x) -> x'``: what goes on to the next layer;
* ``taps``: n; ``meshes``: how many meshes light crosses in it; ``compilable``: whether XLA may
  compile it.

Every array of ``params`` leads with P, the number of parameter sets evaluated side by side;
``x`` is [B, ...], shared by all sets, or [P, B, ...].
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np

from meshes import Phases, RectangularMesh
from meshes.nonlinearities import Nonlinearity
from meshes.propagation import resolve_engine

__all__ = ["Layer", "Photonic"]


class Layer(Protocol):
    """The contract of every layer, see the module's text."""

    @property
    def taps(self) -> int: ...
    @property
    def meshes(self) -> int: ...
    @property
    def compilable(self) -> bool: ...
    @property
    def trainable(self) -> Any: ...
    def init(self, rng: np.random.Generator) -> Any: ...
    def measure(self, params: Any, x: Any) -> Any: ...
    def transmit(self, params: Any, x: Any) -> Any: ...


@dataclass(frozen=True)
class Photonic:
    r"""A rectangular mesh, tapped by square-law detectors, and the nonlinearity behind it.

    .. math:: z = |E|^2, \qquad x' = f(E), \qquad E = x U(\theta, \phi, \gamma)

    Attributes:
        mesh: The mesh.
        nonlinearity: f, from complex fields to complex fields, applied between meshes only.
        engine: ``"auto"``, ``"native"`` or ``"xla"``.
    """

    mesh: RectangularMesh
    nonlinearity: Nonlinearity
    engine: str = "auto"
    meshes: ClassVar[int] = 1

    @property
    def taps(self) -> int:
        """Detectors, one a port."""
        return self.mesh.units

    @property
    def compilable(self) -> bool:
        """Whether XLA may compile the layer: not the native engine, nor a black box."""
        return resolve_engine(self.engine) == "xla" and self.nonlinearity.compilable

    @property
    def trainable(self) -> Phases:
        """The phases of idle interferometers are no parameters."""
        return Phases(self.mesh.mask, self.mesh.mask, np.ones(self.mesh.units, bool))

    def init(self, rng: np.random.Generator) -> Phases:
        """Haar-random phases."""
        return self.mesh.initial_phases(seed=int(rng.integers(2**31)))

    def measure(self, params: Phases, x: Any) -> Any:
        """Intensities at the output ports [P, B, N]."""
        return self.mesh.intensities(x, params, engine=self.engine)

    def transmit(self, params: Phases, x: Any) -> Any:
        """Fields behind the nonlinearity [P, B, N], complex."""
        return self.nonlinearity(self.mesh.propagate(x, params, engine=self.engine))
