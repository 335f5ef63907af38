"""Names of phase shifters, and phases within a turn that make the same matrix."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshes import Phases, RectangularMesh
from meshes.calibration import Shifter, from_values, shifters, values, within_a_turn
from meshes.plotting import fields_by_column

TURN = 2 * np.pi


def any_phases(mesh, seed):
    rng, grid = np.random.default_rng(seed), mesh.mask.shape
    return Phases(*(rng.uniform(-15, 15, shape) for shape in (grid, grid, mesh.units)))


def matrix(mesh, phases):
    """In NumPy: the engines would be compiled for every size."""
    return fields_by_column(mesh, phases, np.eye(mesh.units))[-1]


@settings(deadline=None, max_examples=30)
@given(st.integers(2, 7), st.integers(1, 8), st.integers(0, 99), st.sampled_from([0, 0.2]))
def test_a_turn_less_changes_no_matrix(units, columns, seed, error):
    mesh = RectangularMesh(units, columns, error, insertion_loss_db=error)
    phases = any_phases(mesh, seed)
    lowest = values(mesh, any_phases(mesh, seed + 1))  # every shifter has its own
    turned = within_a_turn(mesh, phases, lowest)
    np.testing.assert_allclose(matrix(mesh, turned), matrix(mesh, phases), atol=1e-9)
    own = values(mesh, turned)
    assert (lowest <= own).all()
    assert (own < lowest + TURN).all()


@settings(deadline=None, max_examples=20)
@given(st.integers(2, 6), st.integers(1, 6), st.integers(0, 99))
def test_a_shifter_in_the_upper_arm_alone_makes_the_matrix_of_both(units, columns, seed):
    mesh = RectangularMesh(units, columns)
    phases = any_phases(mesh, seed)
    turned = within_a_turn(mesh, phases, arms="upper")
    np.testing.assert_allclose(upper_arm_matrix(mesh, turned), matrix(mesh, phases), atol=1e-9)


def upper_arm_matrix(mesh, phases):
    """Each column multiplied by what theta in one arm adds to theta / 2 and -theta / 2."""
    fields = np.exp(1j * phases.gamma)[:, None] * np.eye(mesh.units)
    for column in range(mesh.num_columns):
        one = RectangularMesh(mesh.units, 2)  # its columns alternate as the mesh's do
        theta, phi = (np.full(one.mask.shape, np.pi) for _ in range(2))
        which = column % 2
        theta[which], phi[which] = phases.theta[column], phases.phi[column]
        still = Phases(theta, phi, np.zeros(mesh.units))
        before, after = fields_by_column(one, still, np.eye(mesh.units))[which : which + 2]
        common = np.ones(mesh.units, complex)
        for index in np.flatnonzero(mesh.mask[column]):
            first = 2 * index + which
            common[first : first + 2] = np.exp(0.5j * phases.theta[column, index])
        fields = fields @ np.linalg.solve(before, after) * common
    return fields


def test_phases_within_a_turn_stay_as_they_are():
    mesh = RectangularMesh(6)
    phases = mesh.initial_phases(3)
    for before, after in zip(phases, within_a_turn(mesh, phases), strict=True):
        np.testing.assert_allclose(after, before, atol=1e-6)


def test_a_phase_a_rounding_below_zero_is_zero():
    mesh = RectangularMesh(2)
    phases = Phases(np.zeros((2, 1)), np.full((2, 1), -1e-20), np.full(2, -1e-20))
    assert (values(mesh, within_a_turn(mesh, phases)) == 0).all()


def test_arms_are_both_or_the_upper():
    mesh = RectangularMesh(2)
    with pytest.raises(ValueError, match="arms must be one of both, upper; got 'lower'"):
        within_a_turn(mesh, mesh.initial_phases(), arms="lower")


@pytest.mark.parametrize("units", [4, 5])
def test_every_shifter_has_a_name_and_idle_ones_have_none(units):
    mesh = RectangularMesh(units, 3)
    names = shifters(mesh, 2)
    count = 2 * mesh.mask.sum() + units
    assert len(set(names)) == len(names) == count
    assert names[0] == Shifter(2, 0, 0, "theta", "0-1")
    assert names[-1] == Shifter(2, None, None, "gamma", str(units - 1))
    assert Shifter(2, 1, 0, "phi", "1-2") in names
    listed = values(mesh, mesh.initial_phases())
    assert len(listed) == count
    np.testing.assert_array_equal(values(mesh, from_values(mesh, listed)), listed)


def test_values_stand_in_the_order_of_the_names():
    mesh = RectangularMesh(4)
    phases = any_phases(mesh, 0)
    for name, value in zip(shifters(mesh), values(mesh, phases), strict=True):
        array = getattr(phases, name.shifter)
        place = int(name.ports) if name.column is None else (name.column, name.interferometer)
        assert value == array[place]
