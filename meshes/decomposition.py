"""Phases that program a mesh with a unitary matrix, or two meshes with any matrix (SVD)."""

from __future__ import annotations

import cmath
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from meshes.angles import wrapped
from meshes.mesh import Phases, RectangularMesh, in_front, to_input
from meshes.validation import number


def decompose(unitary: Any, tolerance: float | None = None) -> tuple[RectangularMesh, Phases]:
    r"""Program a square mesh with a unitary matrix.

    .. math:: U(\theta, \phi, \gamma) = \mathrm{unitary}, \qquad E_{out} = E_{in} U

    The matrix [N, N] with N at least 2 is real or complex; each entry of U U^H must equal that of
    the identity within 1e-10, or 1e-4 for an array in single precision. Rounded or measured
    matrices need a larger ``tolerance``: then the mesh is that of their `nearest_unitary`.

    The mesh has N columns; its float64 phases are theta in [0, pi], phi and gamma in [0, 2 pi).
    Interferometers that a sparse matrix does not need are set to the bar state, theta = pi.

    Reference: Clements et al., "Optimal design for universal multiport interferometers", Optica 3
    (2016) 1460.
    """
    work = _checked_unitary(unitary, tolerance)
    mesh = RectangularMesh(len(work))
    theta, inner, outer = _null_lower_triangle(work, mesh)
    screens = in_front(mesh, inner, np.zeros_like(inner))
    column = np.arange(mesh.units)
    screens[column + 1, column] += np.angle(np.diagonal(work))  # D lies on the mesh's diagonal
    idle = np.flatnonzero(~mesh.mask.all(axis=1))
    screens[idle + 1, :: mesh.units - 1] += np.pi / 2  # compensate the -i of idle pairs
    phi, gamma = to_input(mesh, outer, screens)
    return mesh, Phases(theta, np.where(mesh.mask, wrapped(phi), np.pi), wrapped(gamma))


def nearest_unitary(matrix: Any) -> np.ndarray:
    r"""The unitary matrix [N, N], complex128, with the least sum of squared differences.

    .. math:: A = V \, \mathrm{diag}(s) \, W^H \; \mapsto \; V W^H

    This is the polar factor of A [N, N], real or complex, whose singular values must exceed 0. It
    takes away a loss that all paths share, and of rounding and noise what no unitary has.

    Reference: Higham, "Computing the polar decomposition - with applications", SIAM J. Sci. Stat.
    Comput. 7 (1986) 1160.
    """
    left, singular, right = np.linalg.svd(_square("matrix", matrix))
    if not singular[-1] > len(singular) * np.finfo(np.float64).eps * singular[0]:
        raise ValueError(
            "matrix must have singular values above 0, or many unitary matrices are as near, got"
            f" {singular[-1]:.3g} beside {singular[0]:.3g}"
        )
    return left @ right


# With row vectors, an interferometer followed by the phase shifter in its upper output is
#
#     T(theta, phi) = H(theta) P(phi),   H = i [[s, c], [c, -s]],   P(phi) = diag(e^{i phi}, 1)
#
# with s, c = sin, cos (theta/2); H is symmetric and H^-1 = -H. The entries of U below its diagonal
# are made zero, one secondary diagonal after the other from the lower left corner. Secondary
# diagonals are treated in turns at the output (U <- U T^-1, which mixes two columns of U) and at
# the input (U <- T'^-1 U, which mixes two rows). At the input the phase shifter comes first,
# T' = P(psi) H(theta), because the entries to mix differ in phase. A diagonal of phases D remains:
#
#     U = T' T' ... T' D T T ... T
#
# The turns are such that diagonal N - 2 is treated at the input. Then the mesh begins with an even
# column, and its interferometer of column l on ports (m, m + 1) nulls an entry of row l (at the
# output, m < l) or of column l (at the input, m >= l) of U. Finally, all phases other than phi are
# moved to the input, where gamma is.


def _null_lower_triangle(
    work: np.ndarray, mesh: RectangularMesh
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Make ``work`` diagonal in place; return theta, psi of all T', phi of all T, each [N, M]."""
    N = mesh.units
    theta = np.full(mesh.mask.shape, np.pi)
    inner, outer = np.zeros((2, *mesh.mask.shape))
    for diagonal in range(N - 1):
        for step in range(diagonal + 1):
            if (N - diagonal) % 2:
                column, port = N - 1 - step, diagonal - step
                pair, arm, phase = work.T[port : port + 2], 0, outer
            else:
                column, port = step, N - 2 - diagonal + step
                pair, arm, phase = work[port : port + 2], 1, inner
            place = column, port // 2
            theta[place], phase[place] = _null(pair, arm, column)
    return theta, inner, outer


def _null(pair: np.ndarray, arm: int, index: int) -> tuple[float, float]:
    """Undo the interferometer that makes ``pair[arm, index]`` zero, in place, for ``pair`` [2, N].

    Return its theta, and the phase of its upper arm on the side that is undone first.
    """
    upper, lower = complex(pair[0, index]), complex(pair[1, index])
    null, keep = (upper, lower) if arm == 0 else (lower, upper)
    if null == 0.0:
        cosine, sine, phase = 0.0, 1.0, 0.0
    else:
        size = math.hypot(abs(null), abs(keep))
        cosine, sine = abs(null) / size, abs(keep) / size
        phase = cmath.phase(upper) - cmath.phase(lower) + (np.pi if arm == 0 else 0.0)
    turned = cmath.exp(-1j * phase) * pair[0]
    pair[:] = -1j * (sine * turned + cosine * pair[1]), -1j * (cosine * turned - sine * pair[1])
    return 2.0 * math.atan2(sine, cosine), phase


@dataclass(frozen=True, eq=False)
class SVDMeshes:
    r"""Any matrix as a mesh, a gain for each port and another mesh.

    .. math:: A = U \, \mathrm{diag}(gains) \, V

    The gains [min(K, N)] are amplitudes in falling order; above 1 they amplify. A mesh for a single
    port (K = 1 or N = 1) has a second one, which stays dark or unused.
    """

    shape: tuple[int, int]
    input_mesh: RectangularMesh
    input_phases: Phases
    gains: np.ndarray
    output_mesh: RectangularMesh
    output_phases: Phases

    def propagate(self, fields: Any) -> np.ndarray:
        """The fields [B, N], complex, that come out for real or complex fields [B, K]."""
        fields = np.asarray(fields)
        inputs, outputs = self.shape
        if fields.ndim != 2 or fields.shape[1] != inputs:
            raise ValueError(f"fields must be [B, {inputs}], got shape {fields.shape}")

        def with_ports(x: np.ndarray, ports: int) -> np.ndarray:
            return np.pad(x, ((0, 0), (0, ports - x.shape[1])))

        x = with_ports(fields, self.input_mesh.units)
        x = self.input_mesh.propagate(x, self.input_phases)
        x = with_ports(x[:, : len(self.gains)] * self.gains, self.output_mesh.units)
        return self.output_mesh.propagate(x, self.output_phases)[:, :outputs]

    def matrix(self) -> np.ndarray:
        """The matrix A [K, N], with out = in @ A for row vectors of fields."""
        return self.propagate(np.eye(self.shape[0]))


def svd_decompose(matrix: Any) -> SVDMeshes:
    r"""Program two meshes and the gains between them with any matrix [K, N], real or complex.

    .. math:: A = U \, \mathrm{diag}(gains) \, V, \qquad E_{out} = E_{in} A

    Reference: Miller, "Self-configuring universal linear optical component", Photonics Research 1
    (2013) 1.
    """
    array = _finite("matrix", matrix)
    if array.ndim != 2 or array.size == 0:
        raise ValueError(f"matrix must be [K, N] with at least one entry, got shape {array.shape}")
    inputs, outputs = array.shape
    padding = [(0, max(2 - size, 0)) for size in array.shape]  # a mesh has at least two ports
    u, gains, v = np.linalg.svd(np.pad(array, padding).astype(np.complex128))
    gains = gains[: min(inputs, outputs)]
    return SVDMeshes((inputs, outputs), *decompose(u), gains, *decompose(v))


def _checked_unitary(unitary: Any, tolerance: float | None) -> np.ndarray:
    array = _square("unitary", unitary)
    single = np.asarray(unitary).dtype in (np.float16, np.float32, np.complex64)
    limit = 1e-4 if single else 1e-10
    if tolerance is not None:
        limit = number("tolerance", tolerance, minimum=0.0)
    with np.errstate(over="ignore", invalid="ignore"):
        deviation = np.max(np.abs(array @ array.conj().T - np.eye(len(array))))
    if not deviation <= limit:  # nan if entries overflow
        enough = f"tolerance={2 * deviation:.1g} or " if np.isfinite(deviation) else ""
        raise ValueError(
            f"unitary must satisfy U U^H = 1 within {limit:g}, got a deviation of {deviation:.3g};"
            f" {enough}nearest_unitary(...) takes the nearest matrix that does"
        )
    return array if tolerance is None else nearest_unitary(array)


def _square(name: str, value: Any) -> np.ndarray:
    """A new complex128 array [N, N]."""
    array = _finite(name, value)
    if array.ndim != 2 or array.shape[0] != array.shape[1] or len(array) < 2:
        raise ValueError(f"{name} must be [N, N] with N at least 2, got shape {array.shape}")
    return array.astype(np.complex128)


def _finite(name: str, value: Any) -> np.ndarray:
    array = np.asarray(value)
    if array.dtype.kind not in "biufc":
        raise ValueError(f"{name} must hold numbers, got an array of {array.dtype}")
    finite = np.isfinite(array)
    if not finite.all():
        index = tuple(map(int, np.argwhere(~finite)[0]))
        raise ValueError(f"{name} must be finite, got {array[index]} at {index}")
    return array
