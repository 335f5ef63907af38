"""Meshes of Mach-Zehnder interferometers: physics, usable alone."""

from meshes._former_paths import redirect
from meshes.decomposition import Mismatch, SVDMeshes, decompose, nearest_unitary, svd_decompose
from meshes.estimate import ChipEstimate, MeshEstimate, MeshParameters
from meshes.imperfections import PRESETS, Chip, Imperfections, shot_noise
from meshes.measured import Table
from meshes.mesh import Phases, RectangularMesh
from meshes.nonlinearities import (
    NONLINEARITIES,
    Amplifier,
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
    "PRESETS",
    "Amplifier",
    "BlackBox",
    "CReLU",
    "Chip",
    "ChipEstimate",
    "ElectroOptic",
    "Imperfections",
    "Kerr",
    "Linear",
    "MeshEstimate",
    "MeshParameters",
    "Mismatch",
    "ModReLU",
    "ModulatorParts",
    "Modulus",
    "Nonlinearity",
    "Phases",
    "RectangularMesh",
    "SVDMeshes",
    "SaturableAbsorber",
    "SquareLaw",
    "Table",
    "ZReLU",
    "decompose",
    "intensities",
    "nearest_unitary",
    "propagate",
    "resolve_engine",
    "shot_noise",
    "svd_decompose",
]

redirect(
    "meshes",
    {
        "amplifiers": "nonlinearities",
        "engine_native": "engines.native",
        "engine_xla": "engines.xla",
        "kernels": "engines.kernels",
        "model": "mesh",
        "shifters": "calibration",
        "simd": "engines.simd",
    },
)
