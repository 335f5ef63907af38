"""Meshes of Mach-Zehnder interferometers: physics, usable alone."""

from meshes.model import Phases, RectangularMesh
from meshes.nonlinearities import (
    NONLINEARITIES,
    BlackBox,
    CReLU,
    ElectroOptic,
    Kerr,
    Linear,
    ModReLU,
    Modulus,
    Nonlinearity,
    SaturableAbsorber,
    SquareLaw,
    ZReLU,
)
from meshes.propagation import ENGINES, intensities, propagate, resolve_engine

__all__ = [
    "ENGINES",
    "NONLINEARITIES",
    "BlackBox",
    "CReLU",
    "ElectroOptic",
    "Kerr",
    "Linear",
    "ModReLU",
    "Modulus",
    "Nonlinearity",
    "Phases",
    "RectangularMesh",
    "SaturableAbsorber",
    "SquareLaw",
    "ZReLU",
    "intensities",
    "propagate",
    "resolve_engine",
]
