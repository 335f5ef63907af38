"""What the pictures show is what the mesh computes."""

import re
import subprocess
import sys
from base64 import b64decode

import numpy as np
import pytest
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.style import context

from meshes import NONLINEARITIES, Phases, RectangularMesh
from meshes.plotting import (
    Knob,
    fields_by_column,
    main,
    plot_light,
    plot_matrix,
    plot_phase_distribution,
    plot_phases,
    plot_plane,
    plot_transfer,
)


@pytest.fixture
def axes():
    return Figure().subplots()


@pytest.fixture(params=[6, 5])
def mesh(request):
    return RectangularMesh(request.param, 4)


def colour_bar(axes):
    (bar,) = (other for other in axes.figure.axes if other is not axes)
    return bar


def centres(collection):
    return np.array([path.vertices[:4].mean(axis=0) for path in collection.get_paths()])


def random_fields(shape):
    real, imaginary = np.random.default_rng(0).normal(size=(2, *shape))
    return real + 1j * imaginary


class TestFieldsByColumn:
    def test_every_place_is_the_end_of_a_shorter_mesh(self):
        mesh = RectangularMesh(5, 4)
        phases, fields = mesh.initial_phases(), random_fields((2, 5))
        places = fields_by_column(mesh, phases, fields)
        assert places.shape == (5, 2, 5)
        np.testing.assert_allclose(places[0], fields * np.exp(1j * phases.gamma), atol=1e-6)
        for columns in (1, 2, 3):
            head = Phases(phases.theta[:columns], phases.phi[:columns], phases.gamma)
            shorter = RectangularMesh(5, columns)
            expected = fields_by_column(shorter, head, fields)[-1]
            np.testing.assert_allclose(places[columns], expected, atol=1e-12)

    def test_errors(self):
        mesh = RectangularMesh(4)
        with pytest.raises(ValueError, match=r"fields must be \[B, 4\], got shape \(2, 3\)"):
            fields_by_column(mesh, mesh.initial_phases(), np.ones((2, 3)))
        stacked = Phases(*(np.stack([x, x]) for x in mesh.initial_phases()))
        with pytest.raises(ValueError, match=r"phases must be one set, .* got \(\(2, 4, 2\), "):
            fields_by_column(mesh, stacked, np.eye(4))


def test_light_is_the_mean_intensity_after_every_column(axes, mesh):
    phases, fields = mesh.initial_phases(), random_fields((3, mesh.units))
    assert plot_light(axes, mesh, phases, fields) is axes
    expected = np.mean(np.abs(fields_by_column(mesh, phases, fields)) ** 2, axis=1)
    np.testing.assert_array_equal(axes.images[0].get_array(), expected.T)


class TestPhases:
    def test_interferometers_are_at_their_places_and_idle_pairs_crossed_out(self, axes, mesh):
        phases = mesh.initial_phases()
        assert plot_phases(axes, mesh, phases) is axes
        boxes = axes.collections[0]
        places = {
            (column, 2 * index + column % 2 + 0.5): phases.theta[column, index]
            for column, index in np.argwhere(mesh.mask)
        }
        shown = dict(zip(map(tuple, centres(boxes).round(6)), boxes.get_array(), strict=True))
        assert shown == pytest.approx(places)
        crosses = axes.lines[0].get_xydata().tolist()
        even = [[1, 0], [3, 0], [1, 5], [3, 5]]  # odd columns, first and last port
        assert crosses == (even if mesh.units == 6 else [])
        assert ("idle" in axes.get_xlabel()) == (mesh.units == 6)

    def test_phi_comes_with_gamma_and_modulo_a_turn(self, axes, mesh):
        phases = mesh.initial_phases()
        turned = phases._replace(phi=phases.phi - 2 * np.pi, gamma=phases.gamma + 4 * np.pi)
        plot_phases(axes, mesh, turned, which="phi")
        boxes = axes.collections[0]
        expected = np.concatenate([phases.phi[mesh.mask], phases.gamma])
        np.testing.assert_allclose(boxes.get_array(), expected, atol=1e-5)
        screen = centres(boxes)[-mesh.units :]
        np.testing.assert_allclose(screen, [(-1, port) for port in range(mesh.units)], atol=1e-12)
        axes.figure.canvas.draw()
        ticks = {label.get_text() for label in colour_bar(axes).get_yticklabels()}
        assert {"0", "π/2", "π", "3π/2", "2π"} <= ticks

    def test_lines_have_the_colour_of_the_style(self):
        mesh = RectangularMesh(4)
        for style, colour in (("default", "black"), ("dark_background", "white")):
            with context(style):
                axes = plot_phases(Figure().subplots(), mesh, mesh.initial_phases())
            for collection in axes.collections:
                np.testing.assert_array_equal(collection.get_edgecolor()[0], to_rgba(colour))

    def test_errors(self, axes, mesh):
        with pytest.raises(ValueError, match=r"which .* got 'psi'"):
            plot_phases(axes, mesh, mesh.initial_phases(), "psi")


class TestMatrix:
    def test_image_of_magnitudes_or_squares_with_phases(self, axes):
        matrix = random_fields((3, 5))
        assert plot_matrix(axes, matrix) is axes
        np.testing.assert_array_equal(axes.images[0].get_array(), np.abs(matrix))
        plot_matrix(axes, matrix, show_phase=True)
        squares = axes.collections[0]
        np.testing.assert_allclose(
            np.exp(1j * squares.get_array()), np.exp(1j * np.angle(matrix)).ravel(), atol=1e-12
        )
        places = [(column, row) for row in range(3) for column in range(5)]
        np.testing.assert_allclose(centres(squares), places, atol=1e-12)
        sides = np.array([np.ptp(path.vertices[:, 0]) for path in squares.get_paths()])
        expected = np.abs(matrix).ravel()
        np.testing.assert_allclose(sides / sides.max(), expected / expected.max(), atol=1e-12)

    @pytest.mark.parametrize("matrix", [np.ones(3), np.ones((0, 2)), [[np.nan]]])
    def test_errors(self, axes, matrix):
        with pytest.raises(ValueError, match="matrix must be"):
            plot_matrix(axes, matrix)


class TestPhaseDistribution:
    @pytest.mark.parametrize("which", ["theta", "phi", "gamma"])
    def test_counts_all_phases_but_idle_ones(self, axes, mesh, which):
        before, after = mesh.initial_phases(0), mesh.initial_phases(1)
        after = Phases(*(x + np.float32(2.5) for x in after))  # out of the usual range
        assert plot_phase_distribution(axes, before, after, mesh, which) is axes
        count = mesh.units if which == "gamma" else mesh.mask.sum()
        assert sum(bar.get_height() for bar in axes.containers[0]) == count
        outline = axes.patches[-1].get_xy()
        assert outline[1:-1:2, 1].sum() == count
        with pytest.raises(ValueError, match="after must be one set"):
            plot_phase_distribution(axes, before, RectangularMesh(8).initial_phases(), mesh)


class TestPlane:
    @pytest.mark.parametrize("name", NONLINEARITIES)
    def test_every_input_phase_is_drawn_where_it_goes(self, axes, name):
        f = NONLINEARITIES[name]()
        assert plot_plane(axes, f, name) is axes
        x, y = axes.lines[4].get_data()  # |E| = 1; an input circle, its output and a dot each
        turns = np.exp(1j * np.linspace(0, 2 * np.pi, 361))
        np.testing.assert_allclose(x + 1j * y, f(turns[:, None])[:, 0], atol=1e-12)


class TestTransfer:
    @pytest.mark.parametrize("name", NONLINEARITIES)
    def test_every_nonlinearity_has_its_curve(self, axes, name):
        f = NONLINEARITIES[name]()
        assert plot_transfer(axes, f, name) is axes
        axes.figure.canvas.draw()
        power, shown = axes.lines[1].get_data()
        out = f(np.sqrt(power)[:, None].astype(np.complex128))[:, 0]
        np.testing.assert_allclose(np.ma.filled(shown, 0.0), np.abs(out) ** 2, rtol=1e-9)
        phase = axes.figure.axes[1].lines[0].get_ydata()
        turns = np.ma.filled(np.exp(1j * phase), 0.0)
        np.testing.assert_allclose(np.abs(out) * turns, out, atol=1e-9 * np.abs(out).max())

    def test_a_band_where_the_input_phase_matters(self, axes):
        plot_transfer(axes, lambda E: np.maximum(E.real, 0.0) + 0j, "real part")
        assert [x.get_text() for x in axes.get_legend().get_texts()][-1] == "any input phase"
        (band,) = axes.collections
        heights = band.get_paths()[0].vertices[:, 1]
        assert heights.max() == pytest.approx(100.0)
        assert 0 < heights.min() <= axes.get_ylim()[0]  # down to the edge


class TestCommandLine:
    def test_writes_a_picture_of_each(self, tmp_path, monkeypatch):
        monkeypatch.setattr("meshes.plotting.NONLINEARITIES", {"kerr": NONLINEARITIES["kerr"]})
        main(["--output", str(tmp_path / "new"), "--ports", "3", "--dark"])
        assert {path.stem for path in (tmp_path / "new").glob("*.png")} == {
            *("phases_theta", "phases_phi", "light", "matrix", "matrix_phase"),
            *("phase_distribution", "transfer_kerr", "plane_kerr"),
        }

    @pytest.mark.parametrize(
        ("ports", "message"),
        [("129", "--ports .* 128, got 129"), ("x", "--ports: .*'x'"), ("8", "--output .*/file: ")],
    )
    def test_errors(self, tmp_path, capsys, ports, message):
        (tmp_path / "file").touch()
        with pytest.raises(SystemExit, match="2"):
            main(["--output", str(tmp_path / "file"), "--ports", ports])
        assert re.search(message, capsys.readouterr().err)

    def test_matplotlib_is_loaded_on_demand(self):
        code = "import sys, meshes.plotting; print(*sys.modules)"
        run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert run.returncode == 0, run.stderr
        assert not {"matplotlib", "tensorflow"} & set(run.stdout.split())


class TestKnob:
    knob = Knob(lambda figure, value: figure.subplots().bar([0], [value]), "height (m)", 0, 2, 1)

    def test_the_slider_redraws_the_picture(self):
        slider, image = self.knob.widget().children
        assert (slider.min, slider.value, slider.max) == (0, 1, 2)
        assert image.value == self.knob.picture(1)
        slider.value = 2
        assert image.value == self.knob.picture(2) != self.knob.picture(1)

    def test_shows_a_picture_where_there_is_no_slider(self, monkeypatch):
        shown = self.knob._repr_mimebundle_()
        assert b64decode(shown["image/png"]) == self.knob.picture(1)
        assert "application/vnd.jupyter.widget-view+json" in shown
        monkeypatch.setitem(sys.modules, "ipywidgets", None)
        assert set(self.knob._repr_mimebundle_()) == {"image/png", "text/plain"}
