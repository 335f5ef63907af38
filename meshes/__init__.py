"""Meshes of Mach-Zehnder interferometers: physics, usable alone."""

from meshes.model import Phases, RectangularMesh
from meshes.nonlinearities import NONLINEARITIES, ElectroOptic, Linear, parse_nonlinearity
from meshes.propagation import ENGINES, intensities, propagate, resolve_engine

__all__ = [
    "ENGINES",
    "NONLINEARITIES",
    "ElectroOptic",
    "Linear",
    "Phases",
    "RectangularMesh",
    "intensities",
    "parse_nonlinearity",
    "propagate",
    "resolve_engine",
]
