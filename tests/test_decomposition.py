"""Meshes programmed by decomposition: the matrix that light sees is the matrix asked for."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import block_diag
from scipy.stats import unitary_group

from meshes import Phases, RectangularMesh, decompose, svd_decompose


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
    return np.max(np.abs(mesh.matrix(phases) - unitary))


class TestDecompose:
    @pytest.mark.parametrize("family", FAMILIES)
    @settings(max_examples=20, deadline=None)
    @given(units=st.integers(2, 9), seed=st.integers(0, 2**32 - 1))
    def test_programs_the_matrix(self, family, units, seed):
        assert error_of(family(units, np.random.default_rng(seed))) < 1e-13

    @pytest.mark.parametrize(
        ("family", "units"),
        [(haar, 127), (haar, 128), (permutation, 32), (blocks, 32), (banded, 32)],
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
