"""Conventions, each shown by a mesh small enough to be written down."""

import numpy as np
import pytest
from neurophox.components import MZI

from meshes import Phases, RectangularMesh


def phases_of(mesh, theta=np.pi, phi=np.pi, gamma=0.0):
    shape = mesh.mask.shape
    return Phases(
        np.full(shape, theta, np.float32),
        np.full(shape, phi, np.float32),
        np.full(mesh.units, gamma, np.float32),
    )


def bloch(theta, phi, first=0.0, second=0.0):
    """The 2 x 2 matrix for row vectors, from couplers and phase shifters in light's order."""

    def coupler(delta):
        keep, cross = np.cos(np.pi / 4 - delta), np.sin(np.pi / 4 - delta)
        return np.array([[keep, 1j * cross], [1j * cross, keep]])

    internal = np.diag([np.exp(0.5j * theta), np.exp(-0.5j * theta)])
    return coupler(first) @ internal @ coupler(second) @ np.diag([np.exp(1j * phi), 1])


def test_bloch_basis():
    theta, phi = 0.7, 1.9
    expected = 1j * np.array(
        [
            [np.exp(1j * phi) * np.sin(theta / 2), np.cos(theta / 2)],
            [np.exp(1j * phi) * np.cos(theta / 2), -np.sin(theta / 2)],
        ]
    )
    np.testing.assert_allclose(bloch(theta, phi), expected, atol=1e-12)
    mesh = RectangularMesh(2, 1)
    np.testing.assert_allclose(mesh.matrix(phases_of(mesh, theta, phi)), expected, atol=1e-6)


def test_first_coupler_comes_first():
    mesh = RectangularMesh(2, 1, splitter_error=0.3)
    first, second = mesh.splitter_errors[:, 0, 0]
    expected = bloch(0.7, 1.9, first, second)
    np.testing.assert_allclose(mesh.matrix(phases_of(mesh, 0.7, 1.9)), expected, atol=1e-6)
    neurophox = MZI(
        0.35, -0.35, 1.9, 0.0, hadamard=False, epsilon=(np.sin(2 * first), np.sin(2 * second))
    )
    np.testing.assert_allclose(neurophox.matrix, expected, atol=1e-6)


def test_row_vectors():
    mesh = RectangularMesh(4, 3)
    phases = mesh.initial_phases()
    fields = np.array([[1, 2j, -1, 0.5]], np.complex64)
    expected = fields @ mesh.matrix(phases)
    np.testing.assert_allclose(mesh.propagate(fields, phases), expected, atol=1e-5)


def test_gamma_acts_at_the_input():
    mesh = RectangularMesh(4, 3)
    phases = mesh.initial_phases()
    bare = mesh.matrix(phases._replace(gamma=np.zeros(4, np.float32)))
    screen = np.diag(np.exp(1j * phases.gamma))
    np.testing.assert_allclose(mesh.matrix(phases), screen @ bare, atol=1e-6)


def test_theta_pi_is_bar_and_theta_zero_is_cross():
    mesh = RectangularMesh(4, 1)
    bar = mesh.matrix(phases_of(mesh, np.pi, 0.0))
    np.testing.assert_allclose(bar, np.diag([1j, -1j, 1j, -1j]), atol=1e-6)
    cross = mesh.matrix(phases_of(mesh, 0.0, 0.0))
    np.testing.assert_allclose(cross, 1j * np.eye(4)[[1, 0, 3, 2]], atol=1e-6)


@pytest.mark.parametrize("units", [4, 5])
def test_columns_alternate_their_neighbours(units):
    """Cross states carry light from port 0 down one port a column."""
    mesh = RectangularMesh(units, units - 1)
    power = np.abs(mesh.matrix(phases_of(mesh, 0.0, 0.0))) ** 2
    assert power[0, units - 1] == pytest.approx(1.0, abs=1e-6)


def test_idle_pair_at_even_units():
    """Ports N - 1 and 0 are multiplied by -i in odd columns and do not mix."""
    mesh = RectangularMesh(6, 2)
    assert mesh.mask.tolist() == [[True] * 3, [True, True, False]]
    phases = mesh.initial_phases()
    head = Phases(phases.theta[:1], phases.phi[:1], phases.gamma)
    first_column = RectangularMesh(6, 1).matrix(head)
    np.testing.assert_allclose(
        mesh.matrix(phases)[:, [0, 5]], -1j * first_column[:, [0, 5]], atol=1e-6
    )


def test_two_ports_have_only_idle_odd_columns():
    mesh = RectangularMesh(2, 2)
    assert mesh.mask.tolist() == [[True], [False]]
    expected = -1j * bloch(0.7, 1.9)
    np.testing.assert_allclose(mesh.matrix(phases_of(mesh, 0.7, 1.9)), expected, atol=1e-6)


def test_unpaired_port_at_odd_units():
    """Port N - 1 passes even columns and port 0 odd columns unchanged; no pair is idle."""
    assert RectangularMesh(5, 2).mask.all()
    mesh = RectangularMesh(5, 2)
    matrix = mesh.matrix(phases_of(mesh, np.pi, 0.0))  # all bars: i for upper, -i for lower
    np.testing.assert_allclose(matrix, np.diag([1j, 1, 1, 1, -1j]), atol=1e-6)
