"""Phases that program a mesh: from a unitary matrix, or from any matrix by its singular values."""

from __future__ import annotations

import cmath
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from meshes.mesh import Phases, RectangularMesh

_TOLERANCE = 1e-10  # of U U^H - 1, entry by entry
_TOLERANCE_SINGLE = 1e-4  # the same for a matrix given in single precision


def decompose(unitary: Any) -> tuple[RectangularMesh, Phases]:
    r"""Program a square mesh with a unitary matrix.

    .. math:: U(\theta, \phi, \gamma) = \mathrm{unitary}, \qquad E_{out} = E_{in} U

    Interferometers that a sparse matrix does not need are left in the bar state, theta = pi.

    Args:
        unitary: real or complex matrix [N, N] with N at least 2. No entry of U U^H may differ
            from the identity's by more than 1e-10, or 1e-4 if it is given in single precision.

    Returns:
        The mesh, of N ports and N columns, and its float64 phases: theta [N, M] in [0, pi], phi
        [N, M] and gamma [N] in [0, 2 pi], rad. Those of idle interferometers are pi.

    Raises:
        ValueError: the matrix is not square, finite or unitary.

    Reference:
        Clements et al., "Optimal design for universal multiport interferometers", Optica 3
        (2016) 1460.
    """
    work = _checked_unitary(unitary)
    mesh = RectangularMesh(len(work))
    theta, inner, outer = _null_lower_triangle(work, mesh)
    phi, gamma = _move_to_input(mesh, inner, outer, np.angle(np.diagonal(work)))
    return mesh, Phases(theta, phi, gamma)


# With row vectors, the interferometer in front of the phase shifter in its upper output is
#
#     T(theta, phi) = H(theta) P(phi),   H = i [[s, c], [c, -s]],   P(phi) = diag(e^{i phi}, 1)
#
# with s, c = sin, cos (theta/2); H is symmetric and H^-1 = -H. The matrix U is nulled below its
# diagonal, one secondary diagonal after the other from the lower left corner. They are undone in
# turns at the output (U <- U T^-1, which mixes two columns of U) and at the input (U <- T'^-1 U,
# which mixes two rows). There the phase shifter has to come first, T' = P(psi) H(theta), since
# the entries to be mixed differ in phase. What remains is a diagonal of phases D:
#
#     U = T' T' ... T' D T T ... T
#
# The turns are such that diagonal N - 2 falls to the input. Then the mesh begins with an even
# column, and its interferometer of column l on ports (m, m + 1) nulls an entry of the row (at the
# output, m < l) or of the column (at the input, m >= l) number l of U. Finally all phases that
# are not phi are moved to the input, where gamma is.


def _null_lower_triangle(
    work: np.ndarray, mesh: RectangularMesh
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Make ``work`` diagonal in place; return theta, psi of all T' and phi of all T, [N, M]."""
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
            at = column, port // 2
            theta[at], phase[at] = _null(pair, arm, column)
    return theta, inner, outer


def _null(pair: np.ndarray, arm: int, at: int) -> tuple[float, float]:
    """Undo the interferometer that makes ``pair[arm, at]`` zero, in place, for ``pair`` [2, N].

    Returns:
        Its theta and the phase at the side of the upper arm that is undone first.
    """
    upper, lower = complex(pair[0, at]), complex(pair[1, at])
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


def _move_to_input(
    mesh: RectangularMesh, inner: np.ndarray, outer: np.ndarray, diagonal: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Sweep a phase screen from the output to the input; return phi [N, M] and gamma [N].

    Phases (a, b) behind an interferometer equal b before it and phi + a - b in its phase shifter.
    """
    N = mesh.units
    phi, screen = outer.copy(), np.zeros(N)
    for column in reversed(range(N)):
        screen[column] += diagonal[column]  # D lies on the diagonal of the mesh, port = column
        if N % 2 == 0 and column % 2 == 1:
            screen[[0, -1]] += np.pi / 2  # make up for the -i of the idle pair
        upper = np.arange(column % 2, N - 1, 2)
        phi[column, upper // 2] += screen[upper] - screen[upper + 1]
        screen[upper] = screen[upper + 1] + inner[column, upper // 2]
    phi = np.where(mesh.mask, np.mod(phi, 2 * np.pi), np.pi)
    return phi, np.mod(screen, 2 * np.pi)


@dataclass(frozen=True, eq=False)
class SVDMeshes:
    r"""Any matrix as light sees it: a mesh, a gain for every port, another mesh.

    .. math:: A = U \, \mathrm{diag}(gains) \, V

    Fields:
        shape: of the matrix A, input ports K and output ports N.
        input_mesh, input_phases: U, of K ports (2 if K = 1, the second one dark).
        gains: real amplitudes, at least 0 and falling [min(K, N)]; above 1 they amplify.
        output_mesh, output_phases: V, of N ports (2 if N = 1, the second one unused).
    """

    shape: tuple[int, int]
    input_mesh: RectangularMesh
    input_phases: Phases
    gains: np.ndarray
    output_mesh: RectangularMesh
    output_phases: Phases

    def propagate(self, fields: Any) -> np.ndarray:
        r"""Send fields through both meshes.

        .. math:: E_{out} = E_{in} U \, \mathrm{diag}(gains) \, V

        Args:
            fields: real or complex amplitudes [B, K].

        Returns:
            Complex fields [B, N].

        Raises:
            ValueError: fields have another shape.
        """
        fields = np.asarray(fields)
        inputs, outputs = self.shape
        if fields.ndim != 2 or fields.shape[1] != inputs:
            raise ValueError(f"fields must be [B, {inputs}], got shape {fields.shape}")
        x = _with_ports(fields, self.input_mesh.units)
        x = self.input_mesh.propagate(x, self.input_phases)
        x = _with_ports(x[:, : len(self.gains)] * self.gains, self.output_mesh.units)
        return self.output_mesh.propagate(x, self.output_phases)[:, :outputs]

    def matrix(self) -> np.ndarray:
        """The matrix A [K, N] that light sees, with out = in @ A for row vectors of fields."""
        return self.propagate(np.eye(self.shape[0]))


def svd_decompose(matrix: Any) -> SVDMeshes:
    r"""Program two meshes and a diagonal of gains with any matrix, by singular values.

    .. math:: A = U \, \mathrm{diag}(gains) \, V, \qquad E_{out} = E_{in} A

    Args:
        matrix: real or complex matrix [K, N], K and N at least 1.

    Returns:
        The meshes, their phases and the gains; its ``matrix()`` equals the argument.

    Raises:
        ValueError: the matrix is empty, has not two axes or is not finite.

    Reference:
        Miller, "Self-configuring universal linear optical component", Photonics Research 1
        (2013) 1.
    """
    array = _finite("matrix", matrix)
    if array.ndim != 2 or array.size == 0:
        raise ValueError(f"matrix must be [K, N] with at least one entry, got shape {array.shape}")
    inputs, outputs = array.shape
    padding = [(0, max(2 - size, 0)) for size in array.shape]  # no mesh has less than two ports
    u, gains, v = np.linalg.svd(np.pad(array, padding).astype(np.complex128))
    gains = gains[: min(inputs, outputs)]
    return SVDMeshes((inputs, outputs), *decompose(u), gains, *decompose(v))


def _with_ports(fields: np.ndarray, ports: int) -> np.ndarray:
    """Fields [B, ...] with dark ports added up to [B, ports]."""
    return np.pad(fields, ((0, 0), (0, ports - fields.shape[1])))


def _checked_unitary(unitary: Any) -> np.ndarray:
    """A copy in double precision."""
    array = _finite("unitary", unitary)
    if array.ndim != 2 or array.shape[0] != array.shape[1] or len(array) < 2:
        raise ValueError(f"unitary must be [N, N] with N at least 2, got shape {array.shape}")
    single = array.dtype in (np.float16, np.float32, np.complex64)
    tolerance = _TOLERANCE_SINGLE if single else _TOLERANCE
    array = array.astype(np.complex128)
    with np.errstate(over="ignore", invalid="ignore"):
        deviation = np.max(np.abs(array @ array.conj().T - np.eye(len(array))))
    if not deviation <= tolerance:  # it is nan where huge entries overflow
        raise ValueError(
            f"unitary must satisfy U U^H = 1 within {tolerance:g}, got a deviation of"
            f" {deviation:.3g}"
        )
    return array


def _finite(name: str, value: Any) -> np.ndarray:
    array = np.asarray(value)
    if array.dtype.kind not in "biufc":
        raise ValueError(f"{name} must hold numbers, got an array of {array.dtype}")
    finite = np.isfinite(array)
    if not finite.all():
        at = tuple(map(int, np.argwhere(~finite)[0]))
        raise ValueError(f"{name} must be finite, got {array[at]} at {at}")
    return array
