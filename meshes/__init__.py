"""Meshes of Mach-Zehnder interferometers: physics, usable alone."""

from meshes.amplifiers import Amplifier
from meshes.decomposition import SVDMeshes, decompose, svd_decompose
from meshes.imperfections import Chip, Imperfections, shot_noise
from meshes.model import Phases, RectangularMesh
from meshes.nonlinearities import (
    NONLINEARITIES,
    BlackBox,
    CReLU,
    ElectroOptic,
    Kerr,
    Linear,
    ModReLU,
    ModulatorParts,
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
    "Amplifier",
    "BlackBox",
    "CReLU",
    "Chip",
    "ElectroOptic",
    "Imperfections",
    "Kerr",
    "Linear",
    "ModReLU",
    "ModulatorParts",
    "Modulus",
    "Nonlinearity",
    "Phases",
    "RectangularMesh",
    "SVDMeshes",
    "SaturableAbsorber",
    "SquareLaw",
    "ZReLU",
    "decompose",
    "intensities",
    "propagate",
    "resolve_engine",
    "shot_noise",
    "svd_decompose",
]
