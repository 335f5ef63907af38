"""Phases that program a mesh with a unitary matrix, or two meshes with any matrix (SVD)."""

from __future__ import annotations

import cmath
import math
from dataclasses import dataclass, replace
from typing import Any, overload

import numpy as np

from meshes._tensorflow import tf
from meshes.angles import wrapped
from meshes.calibration import frozen_mask, within_a_turn
from meshes.engines.reference import fields_by_column
from meshes.estimate import ChipEstimate, MeshEstimate, shifted
from meshes.mesh import Phases, RectangularMesh, in_front, to_input
from meshes.validation import number, refuse_masked


@dataclass(frozen=True)
class Mismatch:
    """How far a programmed chip is from its target, divided by the amplitude that its losses leave.

    Attributes:
        largest: Largest magnitude of an entry's error.
        rms: Root mean square of all entries' errors.
        unreachable: Column and number of each interferometer whose couplers do not allow the
            splitting that the target asks for; the others were adapted to make up for it.
    """

    largest: float
    rms: float
    unreachable: tuple[tuple[int, int], ...] = ()


@overload
def decompose(unitary: Any, tolerance: float | None = None) -> tuple[RectangularMesh, Phases]: ...
@overload
def decompose(
    unitary: Any,
    tolerance: float | None = None,
    *,
    on: ChipEstimate | MeshEstimate,
    frozen: Phases | None = None,
) -> tuple[RectangularMesh, Phases, Mismatch]: ...
def decompose(
    unitary: Any,
    tolerance: float | None = None,
    *,
    on: ChipEstimate | MeshEstimate | None = None,
    frozen: Phases | None = None,
) -> Any:
    r"""Program a square mesh with a unitary matrix.

    .. math:: U(\theta, \phi, \gamma) = \mathrm{unitary}, \qquad E_{out} = E_{in} U

    The matrix [N, N] with N at least 2 is real or complex; each entry of U U^H must equal that of
    the identity within 1e-10, or 1e-4 for an array in single precision. Rounded or measured
    matrices need a larger ``tolerance``: then the mesh is that of their `nearest_unitary`.

    The mesh has N columns; its float64 phases are theta in [0, pi], phi and gamma in [0, 2 pi).
    Interferometers that a sparse matrix does not need are set to the bar state, theta = pi.

    With ``on``, the target is programmed on a chip whose offsets, couplers and losses are known.
    Every interferometer is corrected for its couplers, which is exact where the splitting can be
    reached. If any cannot, all phases are fitted to the target. The chip adds its offsets to the
    phases, all in [0, 2 pi), so that the chip's matrix is ``on.matrix(phases)``.

    Args:
        unitary: The target.
        tolerance: See above.
        on: What is known of a chip with one mesh of N ports and N columns.
        frozen: Only with ``on``: Phases of booleans, true for shifters that stay at 0, so that
            only their offset acts.

    Returns:
        The mesh and its phases; with ``on`` also the `Mismatch`, and the mesh has the known
        couplers and losses.

    References: Clements et al., "Optimal design for universal multiport interferometers", Optica 3
    (2016) 1460; Bandyopadhyay et al., "Hardware error correction for programmable photonics",
    Optica 8 (2021) 1247 (correction of couplers).
    """
    work = _checked_unitary(unitary, tolerance)
    target = work.copy()
    mesh = RectangularMesh(len(work))
    theta, inner, outer = _null_lower_triangle(work, mesh)
    screens = in_front(mesh, inner, np.zeros_like(inner))
    column = np.arange(mesh.units)
    screens[column + 1, column] += np.angle(np.diagonal(work))  # D lies on the mesh's diagonal
    idle = np.flatnonzero(~mesh.mask.all(axis=1))
    screens[idle + 1, :: mesh.units - 1] += np.pi / 2  # compensate the -i of idle pairs
    phi, gamma = to_input(mesh, outer, screens)
    phases = Phases(theta, np.where(mesh.mask, wrapped(phi), np.pi), wrapped(gamma))
    if on is not None:
        return _programmed(target, phases, _one_mesh(on, mesh.units), frozen)
    if frozen is not None:
        raise ValueError("frozen needs on, which knows where the shifters that do not move are")
    return mesh, phases


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


# --- on a chip that is known --------------------------------------------------------------------


def _one_mesh(estimate: ChipEstimate | MeshEstimate, units: int) -> MeshEstimate:
    meshes = (estimate,) if isinstance(estimate, MeshEstimate) else estimate.meshes
    sizes = (len(meshes), meshes[0].units, meshes[0].columns)
    if sizes != (1, units, units):
        raise ValueError(
            f"on must know one mesh of {units} ports and {units} columns, as many as the target "
            "has, got {} meshes of {} ports and {} columns".format(*sizes)
        )
    return meshes[0]


def _programmed(
    target: np.ndarray, ideal: Phases, chip: MeshEstimate, frozen: Phases | None
) -> tuple[RectangularMesh, Phases, Mismatch]:
    """Phases to write to a known chip, from those of an ideal mesh."""
    mesh, still = chip.mesh, frozen_mask(chip.mesh, frozen)
    if all(mask.all() for mask in still):
        raise ValueError("frozen must leave at least one shifter that moves, got none")
    lit, unreachable = _corrected(mesh, ideal)
    without_offsets = (w - offset for w, offset in zip(lit, chip.offsets, strict=True))
    phases = Phases(*(np.where(s, 0.0, w) for s, w in zip(still, without_offsets, strict=True)))
    if _mismatch(target, chip, phases).largest > _EXACT:
        phases = _fitted(target, chip, phases, still)
    phases = within_a_turn(mesh, phases)
    if frozen is not None and any(np.any(w[s]) for w, s in zip(phases, still, strict=True)):
        # `within_a_turn` has moved shifters that must stay at 0: set them back, fit the others.
        phases = Phases(*(np.where(s, 0.0, w) for s, w in zip(still, phases, strict=True)))
        phases = _fitted(target, chip, phases, still, most_theta=_TURN)
        phases = phases._replace(phi=wrapped(phases.phi), gamma=wrapped(phases.gamma))
    places = tuple((int(column), int(index)) for column, index in np.argwhere(unreachable))
    return mesh, phases, replace(_mismatch(target, chip, phases), unreachable=places)


_EXACT = 1e-9  # an error that only rounding explains
_TURN = float(np.nextafter(2 * np.pi, 0))  # the largest phase below a whole turn


def _mismatch(target: np.ndarray, chip: MeshEstimate, phases: Phases) -> Mismatch:
    fields = fields_by_column(chip.mesh, shifted(phases, chip.offsets), np.eye(chip.units))[-1]
    error = np.abs(fields / _amplitude(fields) - target)
    return Mismatch(float(error.max()), float(np.sqrt(np.mean(error**2))))


def _amplitude(matrix: np.ndarray) -> float:
    """The root mean square amplitude that a matrix [N, N] passes: 1 without losses."""
    return float(np.linalg.norm(matrix)) / math.sqrt(len(matrix))


def _corrected(mesh: RectangularMesh, ideal: Phases) -> tuple[Phases, np.ndarray]:
    """Phases that make a mesh with coupler errors split as an ideal one, and where none can.

    With errors a and b, the share cos^2(theta/2) cos^2(a+b) + sin^2(theta/2) sin^2(a-b) of the
    power crosses over. The outputs then differ from the ideal ones by phases alone: H = D F D' with
    diagonal D and D', which are moved to phi and the input.
    """
    none = np.zeros((2, *mesh.mask.shape))
    a, b = none if mesh.splitter_errors is None else np.asarray(mesh.splitter_errors, np.float64)
    most, least = np.cos(a + b) ** 2, np.sin(a - b) ** 2
    share = (np.cos(ideal.theta / 2) ** 2 - least) / (most - least)
    theta = 2 * np.arccos(np.sqrt(np.clip(share, 0, 1)))
    wanted, present = _interferometer(ideal.theta, *none), _interferometer(theta, a, b)
    lag = np.angle(wanted) - np.angle(present)  # of (u to u, v to u, u to v, v to v)
    after_upper, after_lower = lag[1], lag[3]
    before_upper = np.where(
        np.abs(wanted[0]) > np.abs(wanted[2]), lag[0] - after_upper, lag[2] - after_lower
    )
    screens = in_front(mesh, before_upper + after_lower, after_lower)
    phi, gamma = to_input(mesh, ideal.phi + after_upper - after_lower, screens)
    outside = mesh.mask & ((share < -_EXACT) | (share > 1 + _EXACT))
    return Phases(theta, phi, ideal.gamma + gamma), outside


def _interferometer(theta: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Coefficients [4, L, M] of u and v in u', then in v', without phi."""
    cosine, sine = np.cos(theta / 2), np.sin(theta / 2)
    leak, bar = cosine * np.sin(a + b), 1j * sine * np.cos(a - b)
    cross, skew = 1j * cosine * np.cos(a + b), sine * np.sin(a - b)
    return np.stack([leak + bar, cross + skew, cross - skew, leak - bar])


def _fitted(
    target: np.ndarray,
    chip: MeshEstimate,
    phases: Phases,
    still: Phases,
    most_theta: float | None = None,
) -> Phases:
    """Move all phases but the still ones to the least squared error, by the mesh's adjoint.

    If that does not lower the mismatch, the phases are returned as they were. With ``most_theta``
    theta stays between 0 and there, because subtracting a turn from it would change the matrix.
    """
    from scipy.optimize import minimize

    mesh, start = chip.mesh, np.concatenate([w.ravel() for w in phases])
    moving = np.flatnonzero(~np.concatenate([s.ravel() for s in still]))
    ends, shapes = np.cumsum([w.size for w in phases])[:-1], [w.shape for w in phases]
    # A loss is no error: the target is as dim as the chip.
    dim = target * _amplitude(chip.matrix(phases))
    light = np.eye(chip.units, dtype=np.float32)

    def as_phases(free: np.ndarray) -> Phases:
        flat = start.copy()
        flat[moving] = free
        parts = zip(np.split(flat, ends), shapes, strict=True)
        return Phases(*(part.reshape(shape) for part, shape in parts))

    def squared_error(free: np.ndarray) -> tuple[float, np.ndarray]:
        lit = [tf.constant(w, tf.float32) for w in shifted(as_phases(free), chip.offsets)]
        with tf.GradientTape() as tape:
            tape.watch(lit)
            fields = mesh.propagate(tf.constant(light), Phases(*lit))
        error = fields.numpy() - dim
        slopes = tape.gradient(fields, lit, tf.constant(2 * error, fields.dtype))
        flat = np.concatenate([slope.numpy().ravel() for slope in slopes])
        return float(np.sum(np.abs(error) ** 2)), flat[moving].astype(np.float64)

    options = {"maxiter": 500, "maxfun": 1000, "ftol": 1e-12, "gtol": 1e-7, "maxcor": 20}
    of_theta = (None if most_theta is None else 0.0, most_theta)
    bounds = [of_theta if index < phases.theta.size else (None, None) for index in moving]
    fit = minimize(
        squared_error, start[moving], jac=True, method="L-BFGS-B", bounds=bounds, options=options
    )
    return min(phases, as_phases(fit.x), key=lambda w: _mismatch(target, chip, w).rms)


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
    kind = np.asarray(unitary).dtype
    single = kind.kind in "fc" and np.finfo(kind).eps > 1e-8  # whatever its byte order
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
    refuse_masked(name, value)
    array = np.asarray(value)
    if array.dtype.kind not in "biufc":
        raise ValueError(f"{name} must hold numbers, got an array of {array.dtype}")
    finite = np.isfinite(array)
    if not finite.all():
        index = tuple(map(int, np.argwhere(~finite)[0]))
        raise ValueError(f"{name} must be finite, got {array[index]} at {index}")
    return array
