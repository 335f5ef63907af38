"""What is known of a chip: files, freedoms that intensities leave, and pictures."""

import re

import numpy as np
import pytest
from matplotlib.figure import Figure

from meshes import (
    ChipEstimate,
    Imperfections,
    MeshEstimate,
    MeshParameters,
    Phases,
    RectangularMesh,
)
from meshes.estimate import difference, shifted, unseen
from meshes.mesh import in_front, to_input
from meshes.plotting import fields_by_column, plot_chip, plot_known_against_true

SIZES = [(2, 1), (2, 2), (3, 1), (3, 3), (4, 3), (5, 4), (6, 6), (7, 1), (8, 3)]


def truth_of(units, columns=None, seed=3):
    imperfections = Imperfections(splitter_error=0.05, phase_offset=0.1, loss_imbalance_db=0.1)
    return ChipEstimate.of_chips([imperfections.fabricate(units, columns, seed)])


def powers(estimate, seed):
    """The intensities for complex inputs and one of several settings of the phases."""
    phases = estimate.mesh.initial_phases(seed)
    phases = shifted(phases, estimate.offsets)
    return np.abs(fields_by_column(estimate.mesh, phases, np.eye(estimate.units)))[-1] ** 2


def changed(estimate, **values):
    return MeshEstimate(estimate.values._replace(**values), estimate.std)


def invisible(estimate, seed):
    """The same chip for detectors: outputs turned, a turn of theta, a loss moved on."""
    rng, mesh, values = np.random.default_rng(seed), estimate.mesh, estimate.values
    excess, theta, loss = np.zeros(mesh.mask.shape), values.theta.copy(), values.loss.copy()
    place = tuple(rng.permutation(np.argwhere(mesh.mask))[0])
    theta[place] += 2 * np.pi
    excess[place] -= np.pi  # both ports get -1
    screens = in_front(mesh, -excess, -excess)
    screens[-1] = rng.uniform(-3, 3, mesh.units)
    phi, gamma = to_input(mesh, values.phi, screens)
    if mesh.num_columns > 1:
        active = np.flatnonzero(mesh.mask[1])
        ports = 2 * active[:1, None] + 1 + np.arange(2)  # none if column 1 is idle
        loss[0, ports] += 0.3
        loss[1, ports] -= 0.3
    return changed(estimate, theta=theta, phi=phi, gamma=values.gamma + gamma, loss=loss)


class TestFreedoms:
    @pytest.mark.parametrize(("units", "columns"), SIZES)
    def test_what_never_shows_makes_no_difference(self, units, columns):
        truth = truth_of(units, columns).meshes[0]
        other = invisible(truth, seed=units)
        for seed in range(3):
            # Intensities behind complex inputs: interference of two ports at a time.
            np.testing.assert_allclose(powers(other, seed), powers(truth, seed), atol=1e-12)
        assert max(np.nanmax(np.abs(x), initial=0) for x in difference(other, truth)) < 1e-6

    @pytest.mark.parametrize(("units", "columns"), SIZES)
    def test_intensities_determine_all_but_the_unseen_phases(self, units, columns):
        """The rank of their derivatives; as many phases are free as there are ports."""
        mesh, free = RectangularMesh(units, columns), unseen(RectangularMesh(units, columns))
        rng = np.random.default_rng(0)
        light = rng.normal(size=(4 * units, units)) + 1j * rng.normal(size=(4 * units, units))
        flat_free = np.concatenate([free.theta.ravel(), free.phi.ravel(), free.gamma])
        rows = []
        for seed in range(2):
            start = np.concatenate([x.ravel() for x in mesh.initial_phases(seed)]).astype(float)

            def measured(flat):
                grid = mesh.mask.size
                theta, phi = flat[: 2 * grid].reshape(2, *mesh.mask.shape)
                phases = Phases(theta, phi, flat[2 * grid :])
                return np.abs(fields_by_column(mesh, phases, light)[-1]).ravel() ** 2

            steps = 1e-4 * np.eye(len(start))
            slopes = [(measured(start + s) - measured(start - s)) / 2e-4 for s in steps]
            rows.append(np.array(slopes).T)
        jacobian = np.concatenate(rows)
        shown = int((~flat_free).sum())
        assert np.linalg.matrix_rank(jacobian, tol=1e-5) == shown
        assert np.linalg.matrix_rank(jacobian[:, ~flat_free], tol=1e-5) == shown
        idle = 2 * int((~mesh.mask).sum())
        assert flat_free.sum() - idle == units

    def test_the_difference_is_that_of_what_was_changed(self):
        truth = truth_of(6).meshes[0]
        off = difference(changed(truth, coupler1=truth.values.coupler1 + 0.02), truth)
        np.testing.assert_allclose(off.coupler1[truth.mesh.mask], 0.02, atol=1e-9)
        assert np.isnan(off.coupler1[~truth.mesh.mask]).all()
        np.testing.assert_allclose(off.phi[truth.mesh.mask], 0, atol=1e-9)

    def test_what_is_unknown_is_not_compared(self):
        truth = truth_of(6)
        theta = truth.meshes[0].values.theta + 0.01
        off = difference(ChipEstimate.known(6, mesh1_theta=theta).meshes[0], truth.meshes[0])
        np.testing.assert_allclose(off.theta[truth.meshes[0].mesh.mask], 0.01, atol=1e-9)
        assert all(np.isnan(x).all() for x in off[1:])


class TestEstimate:
    def test_the_truth_is_the_chip(self):
        imperfections = Imperfections(splitter_error=0.1, phase_offset=0.2, insertion_loss_db=0.5)
        chip = imperfections.fabricate(5, 4, seed=1)
        known = ChipEstimate.of_chips([chip]).meshes[0]
        phases = chip.mesh.initial_phases(2)
        expected = chip.mesh.matrix(shifted(phases, chip.offsets))
        np.testing.assert_allclose(known.matrix(phases), expected, atol=1e-6)

    @pytest.mark.parametrize("suffix", ["npz", "csv"])
    @pytest.mark.parametrize(("units", "columns"), [(2, 1), (5, 4), (6, 2)])
    def test_files_hold_everything(self, tmp_path, suffix, units, columns):
        known = ChipEstimate.known(
            units, columns, 2, mesh2_gamma=0.1, mesh2_gamma_std=0.2, mesh1_coupler2=-0.3
        )
        known.save(tmp_path / f"known.{suffix}")
        again = ChipEstimate.load(tmp_path / f"known.{suffix}")
        assert list(again.arrays()) == list(known.arrays())
        for name, array in known.arrays().items():
            np.testing.assert_array_equal(again.arrays()[name], array, err_msg=name)
        assert (again.meshes[1].std.gamma == 0.2).all()
        assert (again.meshes[1].std.theta == np.inf).all()

    def test_a_table_by_hand(self, tmp_path):
        (tmp_path / "x.csv").write_text(
            "mesh,column,ports,theta,theta_std\n1,0,0-1,0.5,\n1,1,1-2,,0.1\n1,2,2-3,-0.25,0.5\n"
        )
        (mesh,) = ChipEstimate.load(tmp_path / "x.csv").meshes
        assert (mesh.units, mesh.columns) == (4, 3)
        np.testing.assert_array_equal(mesh.values.theta, [[0.5, 0], [0, 0], [0, -0.25]])
        inf = np.inf
        np.testing.assert_array_equal(mesh.std.theta, [[0, inf], [0.1, inf], [inf, 0.5]])

    @pytest.mark.parametrize(
        ("arrays", "message"),
        [
            ({"mesh1_teta": 0.0}, "got mesh1_teta"),
            ({"mesh2_theta": 0.0}, "meshes 1 to 1, got mesh2_theta"),
            ({"mesh1_theta": np.zeros(4)}, r"mesh1_theta must have shape \(4, 2\), got \(4,\)"),
            ({"mesh1_phi": np.nan}, "mesh1_phi must be finite, got nan"),
            ({"mesh1_phi_std": -1}, "mesh1_phi_std must be at least 0 .*, got -1"),
            ({"mesh1_gamma_std": np.nan}, "mesh1_gamma_std must be at least 0 .*, got nan"),
            ({"mesh1_loss": "x"}, "mesh1_loss must hold real numbers, got <U1"),
        ],
    )
    def test_refuses(self, tmp_path, arrays, message):
        with pytest.raises((ValueError, TypeError), match=message):
            ChipEstimate.known(4, **arrays)
        np.savez(tmp_path / "x.npz", mesh1_gamma=np.zeros(4), **arrays)
        if "mesh2_theta" not in arrays:
            with pytest.raises(ValueError, match=rf"^{re.escape(str(tmp_path / 'x.npz'))}.*"):
                ChipEstimate.load(tmp_path / "x.npz")

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("a,b\n1,2\n", "must have a column mesh, found a, b"),
            ("mesh,column,ports,theta\n", "must have a row"),
            ("mesh,column,ports,theta\n1,0,1-2,0\n", "line 2: ports must meet in column 0"),
            ("mesh,column,ports,theta\n1,0,0-1,x\n", "line 2: .*'x'"),
            ("mesh,column,ports,theta\n1,,3,1\n", "line 2: theta must be empty .* gamma"),
            ("mesh,column,ports,theta\n1,0,0-1,0,5\n", "line 2: must have 4 .*found 5; decimals"),
            (
                "mesh,column,ports,theta\n1,0,0-1,0\n1,1,1-2,0\n1,1,1-2,1\n",
                "line 4: must name each place once, found theta of mesh 1 in column 1, ports 1-2",
            ),
            ("mesh,column,ports,loss\n1,,2,\n1,,2,\n", "line 3: .*found gamma of mesh 1, ports 2"),
            ("mesh,column,ports,theta\n1,0,0-1,nan\n", "mesh1_theta must be finite, got nan"),
            ("mesh,column,ports,gamma\n1,,9999999,1\n", "at most 4194304"),
            ("mesh,column,ports,gamma\n99999999999,,2,1\n", "at most 4194304"),
            ("mesh,column,ports,gamma\n0,,2,1\n", "line 2: mesh must be a whole number from 1"),
        ],
    )
    def test_refuses_tables(self, tmp_path, text, message):
        (tmp_path / "x.csv").write_text(text)
        with pytest.raises(ValueError, match=f"x.csv.*{message}"):
            ChipEstimate.load(tmp_path / "x.csv")

    def test_refuses_a_chip_of_another_size(self, tmp_path):
        with pytest.raises(ValueError, match="of 4 ports, 6 columns and 1 meshes, found 4 ports"):
            ChipEstimate.known(4).check_fits(4, 6, 1)
        (tmp_path / "x.txt").write_text("kept")
        with pytest.raises(ValueError, match=r"one of \.npz, \.csv; got '\.txt'"):
            ChipEstimate.known(4).save(tmp_path / "x.txt")
        assert (tmp_path / "x.txt").read_text() == "kept"
        with pytest.raises(ValueError, match="at most 4194304, got 10000000000"):
            ChipEstimate.known(10**5)


class TestPictures:
    @pytest.mark.parametrize("which", MeshParameters._fields)
    def test_unknown_places_are_grey(self, which):
        figure = Figure()
        axes = figure.subplots()
        theta = truth_of(5).meshes[0].values.theta
        known = ChipEstimate.known(5, mesh1_theta=theta, mesh1_gamma=0.1).meshes[0]
        assert plot_chip(axes, known, which) is axes
        boxes = axes.collections[0]
        boxes.update_scalarmappable()
        grey = (boxes.get_facecolor()[:, :3] == 0.6).all(axis=1)
        assert grey.all() == (which not in ("theta", "gamma"))
        assert grey.any() == (which not in ("theta", "gamma"))
        assert ("unknown" in figure.axes[1].get_ylabel()) == grey.any()

    def test_known_against_true(self):
        figure = Figure()
        truth = truth_of(6).meshes[0]
        axes = plot_known_against_true(figure.subplots(), invisible(truth, 1), truth)
        assert [x.get_text()[:3] for x in axes.get_legend().get_texts()] == ["θ: ", "φ, ", "cou"]
        for line in axes.lines:
            np.testing.assert_allclose(*line.get_data(), atol=1e-6)
