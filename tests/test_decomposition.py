"""Meshes programmed by decomposition: the matrix that light sees is the matrix asked for."""

import re
from unittest.mock import Mock, patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import block_diag, expm
from scipy.stats import unitary_group

from meshes import (
    ChipEstimate,
    Imperfections,
    Phases,
    RectangularMesh,
    decompose,
    nearest_unitary,
    svd_decompose,
)
from meshes.angles import wrapped
from meshes.calibration import values, within_a_turn


def haar(units, rng):
    return unitary_group.rvs(units, random_state=rng)


def diagonal(units, rng):
    return np.diag(np.exp(1j * rng.uniform(-np.pi, np.pi, units)))


def permutation(units, rng):
    return np.eye(units)[rng.permutation(units)]


def blocks(units, rng):
    first = int(rng.integers(1, units))
    parts = [x if x.ndim == 2 else [[x]] for x in (haar(first, rng), haar(units - first, rng))]
    return block_diag(*parts)


def banded(units, rng):
    """Two columns that mix and bar states behind them: light reaches the nearest ports only."""
    mesh = RectangularMesh(units)
    phases = double(mesh.initial_phases(int(rng.integers(1000))))
    phases.theta[2:] = np.pi
    return mesh.matrix(phases)


def almost_diagonal(units, rng):
    """Entries so small that their squares are zero."""
    unitary = diagonal(units, rng)
    unitary[-1, 0] = 1e-200j
    return unitary


FAMILIES = [haar, diagonal, permutation, blocks, banded, almost_diagonal]


def double(phases):
    return Phases(*(np.asarray(x, np.float64) for x in phases))


def error_of(unitary):
    """Largest error of the programmed mesh; its phases must be legal ones."""
    mesh, phases = decompose(unitary)
    assert (mesh.units, mesh.num_columns) == unitary.shape
    assert all(x.dtype == np.float64 for x in phases)
    assert np.all((phases.theta >= 0) & (phases.theta <= np.pi))
    assert all(np.all((x >= 0) & (x < 2 * np.pi)) for x in (phases.phi, phases.gamma))
    return np.max(np.abs(mesh.matrix(phases) - unitary))


class TestDecompose:
    @pytest.mark.parametrize("family", FAMILIES)
    @settings(max_examples=8)
    @given(units=st.integers(2, 9), seed=st.integers(0, 2**32 - 1))
    def test_programs_the_matrix(self, family, units, seed):
        assert error_of(family(units, np.random.default_rng(seed))) < 1e-13

    @pytest.mark.parametrize(
        ("family", "units"),
        [
            pytest.param(haar, 127, marks=pytest.mark.long),
            (haar, 128),
            (permutation, 32),
            (blocks, 32),
            (banded, 32),
        ],
    )
    def test_programs_large_meshes(self, family, units):
        assert error_of(family(units, np.random.default_rng(units))) < 1e-12

    @pytest.mark.parametrize("units", [2, 5, 8])
    def test_gives_back_the_phases_of_a_mesh(self, units):
        """N^2 phases set N^2 numbers: with theta in [0, pi] there is one solution."""
        mesh = RectangularMesh(units)
        phases = double(mesh.initial_phases(3))
        _, found = decompose(mesh.matrix(phases))
        for x, expected in zip(found, phases, strict=True):
            np.testing.assert_allclose(np.exp(1j * x), np.exp(1j * expected), atol=1e-9)

    def test_light_is_not_sent_where_it_does_not_go(self):
        """Diagonals need no cross state; permutations nothing but cross and bar states."""
        rng = np.random.default_rng(1)
        assert np.all(decompose(diagonal(8, rng))[1].theta == np.pi)
        assert set(decompose(permutation(8, rng))[1].theta.flat) == {0.0, np.pi}
        between = decompose(block_diag(haar(4, rng), haar(4, rng)))[1].theta[1::2, 1]
        assert np.all(between == np.pi)

    def test_takes_single_precision_and_leaves_its_argument_alone(self):
        mesh = RectangularMesh(6)
        unitary = mesh.matrix(mesh.initial_phases())
        before = unitary.copy()
        assert unitary.dtype == np.complex64
        assert error_of(unitary) < 1e-5
        np.testing.assert_array_equal(unitary, before)

    @pytest.mark.parametrize(
        ("unitary", "message"),
        [
            (np.eye(3)[:2], r"got shape \(2, 3\)"),
            (np.eye(1), r"got shape \(1, 1\)"),
            (np.diag([1, 1j * np.inf]), r"finite, got .*inf.* at \(1, 1\)"),
            (1e200 * np.ones((3, 3)), r"1e-10, got .* inf"),
            (np.ones((2, 2), np.float32), r"0.0001, got a deviation of 2"),
            (np.diag([1, 1 + 1e-9]), r"1e-10, got a deviation of 2e-09"),
            ([["a", "b"], ["c", "d"]], "numbers, got an array of <U1"),
        ],
    )
    def test_refuses_what_is_not_unitary(self, unitary, message):
        with pytest.raises(ValueError, match=f"unitary must .*{message}"):
            decompose(unitary)


def noisy(unitary):
    rng = np.random.default_rng(1)
    return unitary + 0.01 * (rng.normal(size=unitary.shape) + 1j * rng.normal(size=unitary.shape))


class TestNearlyUnitary:
    """Matrices as people have them: (what becomes of a unitary, distance of the nearest one)."""

    MATRICES = pytest.mark.parametrize(
        ("spoil", "distance"),
        [
            (lambda u: np.round(u, 6), 1e-6),
            (lambda u: np.round(u, 2), 1e-2),
            (lambda u: u.astype(np.complex64).astype(np.complex128), 1e-7),
            (lambda u: u.astype(np.complex64), 1e-7),
            (noisy, 0.05),
            (lambda u: 10 ** (-0.1 / 20) * u, 1e-12),  # 0.1 dB of loss
            (lambda u: 10 ** (-64 * 0.1 / 20) * u, 1e-12),  # in each of 64 columns
            (lambda u: 1e3 * u, 1e-12),
        ],
    )

    @MATRICES
    def test_the_nearest_unitary_is_programmed(self, spoil, distance):
        unitary = haar(6, np.random.default_rng(0))
        spoilt = spoil(unitary)
        nearest = nearest_unitary(spoilt)
        np.testing.assert_allclose(nearest @ nearest.conj().T, np.eye(6), atol=1e-14)
        np.testing.assert_allclose(nearest, unitary, atol=distance)
        assert error_of(nearest) < 1e-13
        mesh, phases = decompose(spoilt, tolerance=1e7)
        np.testing.assert_allclose(mesh.matrix(phases), nearest, atol=1e-13)

    @MATRICES
    def test_the_error_names_a_tolerance_that_works(self, spoil, distance):
        spoilt = spoil(haar(6, np.random.default_rng(0)))
        if spoilt.dtype == np.complex64:
            spoilt = 1.001 * spoilt  # as it is, it is taken
        with pytest.raises(ValueError, match=r"got a deviation of .*nearest_unitary") as refused:
            decompose(spoilt)
        enough = float(re.search(r"tolerance=(\S+)", str(refused.value))[1])
        assert decompose(spoilt, tolerance=enough)
        with pytest.raises(ValueError, match=r"got a deviation of"):
            decompose(spoilt, tolerance=enough / 4)

    def test_no_other_unitary_is_nearer(self):
        rng = np.random.default_rng(0)
        matrix = noisy(haar(5, rng))
        nearest = nearest_unitary(matrix)
        for _ in range(50):
            generator = rng.normal(size=(5, 5)) + 1j * rng.normal(size=(5, 5))
            other = nearest @ expm(1e-2 * (generator - generator.conj().T))
            assert np.linalg.norm(matrix - other) > np.linalg.norm(matrix - nearest)

    @pytest.mark.parametrize("matrix", [np.zeros((3, 3)), np.ones((3, 3)), np.diag([1, 0.0])])
    def test_refuses_a_matrix_that_many_are_nearest_to(self, matrix):
        with pytest.raises(ValueError, match=r"matrix must have singular values above 0"):
            nearest_unitary(matrix)

    @pytest.mark.parametrize("tolerance", [-1.0, np.nan, np.inf, "0.1", True])
    def test_refuses_a_tolerance_that_is_no_size(self, tolerance):
        with pytest.raises((ValueError, TypeError), match="tolerance must be"):
            decompose(np.eye(2), tolerance=tolerance)


class TestOneTurn:
    """Phases lie in [0, 2 pi), in which 2 pi is not."""

    @pytest.mark.parametrize("units", [2, 3, 4, 5, 8, 9])
    @pytest.mark.parametrize("sign", [1, -1, 1j, -1j])
    def test_of_flips_and_identities(self, units, sign):
        for matrix in (np.eye(units), np.eye(units)[::-1], np.roll(np.eye(units), 1, axis=0)):
            error_of(sign * matrix)

    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    @pytest.mark.parametrize("turns", [-1e6, -2, -1, 0, 1, 2])
    def test_wrapped(self, turns, dtype):
        near = np.array([-1e-7, -1e-16, -1e-17, -5e-324, 0.0, 1e-17, 1e-16, 1e-7], dtype)
        phases = wrapped(near + dtype(turns * 2 * np.pi))
        assert phases.dtype == dtype
        assert np.all((phases >= 0) & (phases < 2 * np.pi))

    @pytest.mark.parametrize("lowest", [0.0, -np.pi, 1e-9, 0.3])
    def test_within_a_turn(self, lowest):
        mesh = RectangularMesh(4)
        for shift in (-1e-8, -1e-10, -1e-17, 0.0, 1e-17, 2 * np.pi, 1e6 * np.pi, 1e10, -1e10):
            phases = Phases(*(0 * x + (lowest + shift) for x in double(mesh.initial_phases())))
            turned = values(mesh, within_a_turn(mesh, phases, lowest))
            assert np.all((turned >= lowest) & (turned < lowest + 2 * np.pi))


def chip_of(units, seed, **strengths):
    chip = Imperfections(**({"splitter_error": 0.05} | strengths)).fabricate(units, seed=seed)
    return ChipEstimate.of_chips([chip]).meshes[0]


def programmed(chip, unitary, **options):
    """The mismatch of a programmed chip, which must be that of the matrix it then makes."""
    mesh, phases, mismatch = decompose(unitary, on=chip, **options)
    assert mesh is chip.mesh
    made = chip.matrix(phases)
    made = made / (np.linalg.norm(made) / np.sqrt(chip.units))
    assert mismatch.largest == pytest.approx(np.abs(made - unitary).max(), abs=1e-9)
    if "frozen" not in options:
        assert all(((x >= 0) & (x < 2 * np.pi)).all() for x in phases)
    return phases, mismatch


class TestKnownChip:
    @pytest.mark.parametrize("family", [haar, diagonal, permutation, blocks])
    @pytest.mark.parametrize("units", [2, 3, 6, 7])
    def test_couplers_and_offsets_are_corrected_exactly(self, family, units):
        """Or the interferometers that cannot split as asked are listed, and the error is small."""
        chip = chip_of(units, seed=units, phase_offset=0.3, insertion_loss_db=0.2)
        unitary = family(units, np.random.default_rng(1))
        with patch("scipy.optimize.minimize", side_effect=lambda f, x, **_: Mock(x=x)):
            _, mismatch = programmed(chip, unitary)
        assert (mismatch.largest < 1e-12) == (not mismatch.unreachable)
        assert mismatch.largest < 0.3

    def test_all_phases_make_up_for_what_cannot_be_reached(self):
        unitary = unitary_group.rvs(5, random_state=113)
        chip = chip_of(5, seed=13)
        with patch("scipy.optimize.minimize", side_effect=lambda f, x, **_: Mock(x=x)):
            _, corrected = programmed(chip, unitary)
        _, fitted = programmed(chip, unitary)
        assert corrected.unreachable == fitted.unreachable == ((0, 1),)
        assert fitted.largest < 0.4 * corrected.largest

    def test_dead_shifters_stay_at_zero(self):
        chip = chip_of(4, seed=0, phase_offset=0.2)
        frozen = Phases(*(np.zeros(x.shape, bool) for x in chip.offsets))
        frozen.theta[1, 0] = frozen.gamma[2] = True
        unitary = haar(4, np.random.default_rng(0))
        phases, mismatch = programmed(chip, unitary, frozen=frozen)
        assert phases.theta[1, 0] == phases.gamma[2] == 0
        pairs = zip(frozen, decompose(unitary)[1], strict=True)
        zeroed = Phases(*(np.where(still, 0, phase) for still, phase in pairs))
        assert mismatch.largest < np.abs(chip.matrix(zeroed) - unitary).max()

    @pytest.mark.parametrize(
        ("chip", "frozen", "message"),
        [
            (ChipEstimate.known(5), None, "on must know one mesh of 4 ports .* got 1 meshes of 5"),
            (ChipEstimate.known(4, 5), None, "got 1 meshes of 4 ports and 5 columns"),
            (ChipEstimate.known(4, 4, 2), None, "got 2 meshes of 4 ports"),
            (None, 0, "frozen needs on"),
            (ChipEstimate.known(4), 1, "frozen must leave at least one shifter that moves"),
            (
                ChipEstimate.known(4),
                2,
                r"frozen.gamma must be booleans of shape \(4,\), got float64",
            ),
        ],
    )
    def test_refuses(self, chip, frozen, message):
        full = Phases(np.ones((4, 2), bool), np.ones((4, 2), bool), np.ones(4, bool))
        frozen = None if frozen is None else [full, full, full._replace(gamma=np.ones(4))][frozen]
        with pytest.raises(ValueError, match=message):
            decompose(np.eye(4), on=chip, frozen=frozen)

    @pytest.mark.long
    def test_the_published_figure(self):
        """20 chips of 6 ports with coupler errors of 0.05 rad, and Haar targets."""
        largest = []
        for seed in range(20):
            chip, unitary = chip_of(6, seed), unitary_group.rvs(6, random_state=100 + seed)
            largest.append(programmed(chip, unitary)[1].largest)
        assert np.median(largest) < 1e-12
        assert max(largest) < 0.02


class TestSVD:
    @pytest.mark.parametrize("shape", [(1, 1), (1, 4), (4, 1), (4, 4), (3, 4), (2, 7)])
    @pytest.mark.parametrize("kind", ["real", "complex", "singular"])
    @pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
    def test_programs_any_matrix(self, shape, kind, scale):
        real, imag = scale * np.random.default_rng(0).normal(size=(2, *shape))
        matrix = {"real": real, "complex": real + 1j * imag, "singular": real[:1] + 0 * imag}[kind]
        meshes = svd_decompose(matrix)
        np.testing.assert_allclose(meshes.matrix(), matrix, atol=1e-13 * scale)
        assert meshes.gains.shape == (min(shape),)
        assert np.all(meshes.gains >= 0)

    def test_fields_pass_the_matrix(self):
        rng = np.random.default_rng(0)
        matrix, fields = rng.normal(size=(5, 3)), rng.normal(size=(7, 5)) + 1j
        meshes = svd_decompose(matrix)
        np.testing.assert_allclose(meshes.propagate(fields), fields @ matrix, atol=1e-13)
        with pytest.raises(ValueError, match=r"fields must be \[B, 5\], got shape \(4, 3\)"):
            meshes.propagate(np.ones((4, 3)))

    def test_refuses_what_is_no_matrix(self):
        with pytest.raises(ValueError, match=r"matrix must .*got shape \(0, 3\)"):
            svd_decompose(np.ones((0, 3)))


def test_phases_beside_frozen_shifters_lie_within_a_turn():
    imperfections = Imperfections(splitter_error=0.05, phase_offset=0.5)
    chip = ChipEstimate.of_chips([imperfections.fabricate(4)])
    still = Phases(np.zeros((4, 2), bool), np.zeros((4, 2), bool), np.zeros(4, bool))
    still.phi[3, 0] = True
    target = unitary_group.rvs(4, random_state=3)
    _, phases, mismatch = decompose(target, on=chip, frozen=still)
    assert phases.phi[3, 0] == 0
    for part in phases:
        assert (part >= 0).all()
        assert (part < 2 * np.pi).all()
    assert mismatch.rms < 0.1


def test_the_tolerance_is_that_of_the_precision_whatever_the_order_of_bytes():
    unitary = RectangularMesh(4).matrix(RectangularMesh(4).initial_phases()).real
    rotation = np.linalg.qr(unitary)[0].astype(np.float32)
    for dtype in ("<f4", ">f4"):
        decompose(rotation.astype(dtype))
    with pytest.raises(ValueError, match="unitary must have no masked values"):
        decompose(np.ma.masked_array(rotation, mask=True))
