"""Meshes of Mach-Zehnder interferometers: physics, usable alone."""

from meshes.model import Phases, RectangularMesh
from meshes.propagation import ENGINES, intensities, propagate, resolve_engine

__all__ = [
    "ENGINES",
    "Phases",
    "RectangularMesh",
    "intensities",
    "propagate",
    "resolve_engine",
]
