"""Figures show what was computed."""

import warnings
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread

from photonic_ffzero.model import EpochRecord
from photonic_ffzero.plots import (
    plot_alignment,
    plot_confusion,
    plot_embeddings,
    plot_goodness,
    plot_loss,
    plot_power,
    plot_power_budget,
    plot_predictions,
    plot_quality,
    save_figure,
)
from photonic_ffzero.runs import add_legend

LABELS = np.array([2, 0, 1, 0, 2, 2])
SCORES = np.random.default_rng(0).uniform(-1, 1, (len(LABELS), 3))


@pytest.fixture
def axes():
    return Figure().subplots()


def history(validation=0.75):
    """Two meshes of three and two epochs."""
    return [
        EpochRecord(mesh, epoch, 1 / epoch, 0.5 + epoch / 10, validation, 0, 0, None, 0.0)
        for mesh, epochs in (("1", 3), ("2", 2))
        for epoch in range(1, epochs + 1)
    ]


def assert_distinct(*lines):
    for style in ("color", "marker"):
        assert len({getattr(line, f"get_{style}")() for line in lines}) == len(lines)


class TestCurves:
    def test_the_loss_of_every_mesh_after_the_one_before(self, axes):
        plot_loss(axes, history())
        first, second = axes.lines
        np.testing.assert_array_equal(first.get_xydata(), [(1, 1), (2, 1 / 2), (3, 1 / 3)])
        np.testing.assert_array_equal(second.get_xydata(), [(4, 1), (5, 1 / 2)])
        assert_distinct(first, second)

    def test_accuracy_in_percent_with_and_without_validation(self, axes):
        plot_quality(axes, history())
        assert len(axes.lines) == 4
        np.testing.assert_allclose(axes.lines[0].get_ydata(), [60, 70, 80])
        np.testing.assert_allclose(axes.lines[1].get_ydata(), [75, 75, 75])
        without = Figure().subplots()
        plot_quality(without, history(validation=None))
        assert len(without.lines) == 2

    def test_r_squared_of_a_regression_as_it_is_and_layers_by_their_name(self, axes):
        plot_quality(axes, history(), layer="layer", task="regression")
        np.testing.assert_allclose(axes.lines[0].get_ydata(), [0.6, 0.7, 0.8])
        assert axes.lines[0].get_label() == "layer 1, training"

    def test_the_style_tells_validation_and_the_colour_the_mesh(self, axes):
        plot_quality(axes, history())
        training, validation, _, second = axes.lines
        assert training.get_color() == validation.get_color() != second.get_color()
        assert (training.get_linestyle(), validation.get_linestyle()) == ("--", "-")
        texts = [text.get_text() for text in axes.get_legend().get_texts()]
        assert texts == ["mesh 1", "mesh 2", "validation", "training"]

    @pytest.mark.parametrize("count", [1, 2, 6, 7, 20])
    def test_of_any_number_of_meshes_without_a_legend_over_data(self, count):
        figure = Figure(layout="constrained")
        axes, epochs = figure.subplots(), range(1, 4)
        rows = [(str(mesh), epoch) for mesh in range(1, count + 1) for epoch in epochs]
        records = [EpochRecord(m, e, 1 / e, 0.5, 0.6, 0, 0, None, 0.0) for m, e in rows]
        plot_quality(axes, records)
        figure.canvas.draw()
        legend = axes.get_legend().get_window_extent()
        assert not legend.overlaps(axes.get_window_extent())
        assert len({line.get_color() for line in axes.lines}) == count
        assert len(figure.axes) == 1 + (count > 6)  # the colour bar

    def test_meshes_that_share_a_loss_are_trained_at_once(self, axes):
        records = [EpochRecord("1-2", e, 1 / e, 0.5, 0.6, 0, 0, None, 0.0) for e in (1, 2)]
        plot_loss(axes, records)
        assert axes.get_xlabel() == "epoch"
        assert axes.get_legend().get_texts()[0].get_text() == "meshes 1-2"

    def test_several_runs_are_their_mean_in_a_band_that_spans_them(self, axes):
        """They end with the shortest."""
        halved = [replace(record, loss=record.loss / 2) for record in history()[:-1]]
        plot_loss(axes, history(), halved)
        np.testing.assert_allclose(axes.lines[0].get_ydata(), [0.75, 0.375, 0.25])
        assert len(axes.lines[1].get_xdata()) == 1
        band = axes.collections[0].get_paths()[0].vertices
        assert set(band[band[:, 0] == 2][:, 1]) == {0.25, 0.5}

    def test_power_budgets(self, axes):
        powers = np.array([1.0, 0.1])[:, None] * np.linspace(0, 1, 101)
        plot_power_budget(axes, powers, "first")
        stages = ["input", "mesh 1"]
        plot_power_budget(axes, powers / 2, "second", stages=stages, floor=0.1, unit="W")
        first, second, floor = axes.lines
        np.testing.assert_allclose(first.get_ydata(), [0.5, 0.05])
        assert_distinct(first, second)
        assert floor.get_ydata() == pytest.approx([0.1, 0.1])
        band = axes.collections[0].get_paths()[0].vertices[:, 1]
        assert (band.min(), band.max()) == pytest.approx((0.005, 0.95))
        assert axes.get_yscale() == "log"
        assert axes.get_ylabel().endswith("(W)")
        assert [text.get_text() for text in axes.get_xticklabels()] == stages

    @pytest.mark.parametrize("floor", [None, 1e-6])
    def test_a_power_budget_ends_where_detectors_do(self, axes, floor):
        powers = np.array([1.0, 1e-3, 1e-30])[:, None] * np.ones(5)
        plot_power_budget(axes, powers, floor=floor)
        assert axes.get_ylim()[0] == pytest.approx(1e-7 if floor else 1e-9)


class TestHeatMaps:
    def test_confusion_has_every_count_and_the_shares_of_each_row(self, axes):
        plot_confusion(axes, np.array([[3, 1], [0, 0]]))
        assert [text.get_text() for text in axes.texts] == ["3", "1", "0", "0"]
        np.testing.assert_array_equal(axes.images[0].get_array(), [[0.75, 0.25], [0, 0]])
        rates = [axis.get_yticklabels() or axis.get_xticklabels() for axis in axes.child_axes]
        assert [text.get_text() for text in rates[0]] == ["75", "0"]

    def test_goodness_is_ordered_by_class_and_each_class_is_named_at_its_middle(self, axes):
        plot_goodness(axes, SCORES, LABELS)
        np.testing.assert_array_equal(axes.images[0].get_array(), SCORES[[1, 3, 2, 0, 4, 5]])
        np.testing.assert_array_equal(axes.get_yticks(), [0.5, 2, 4])
        assert [text.get_text() for text in axes.get_yticklabels()] == ["0", "1", "2"]
        assert [line[0, 1] for line in axes.collections[0].get_segments()] == [1.5, 2.5]

    def test_power_is_the_mean_of_each_class(self, axes):
        intensities = np.arange(6 * 4.0).reshape(6, 4)
        plot_power(axes, intensities, LABELS)
        means = [intensities[label == LABELS].mean(axis=0) for label in range(3)]
        np.testing.assert_allclose(axes.images[0].get_array(), means)
        assert "|E|²" in axes.images[0].colorbar.ax.get_ylabel()


@pytest.mark.parametrize("dimensions", [1, 2])
def test_predictions_lie_over_their_true_labels_and_the_ideal_is_a_diagonal(axes, dimensions):
    labels, predicted = np.random.default_rng(0).normal(size=(2, 7, dimensions))
    shape = (7,) if dimensions == 1 else (7, 2)
    plot_predictions(axes, labels.reshape(shape), predicted.reshape(shape))
    *drawn, ideal = axes.lines
    assert_distinct(*drawn)
    for line, *columns in zip(drawn, labels.T, predicted.T, strict=True):
        np.testing.assert_array_equal(line.get_data(), columns)
    np.testing.assert_array_equal(ideal.get_data(), [[labels.min(), labels.max()]] * 2)


def test_embeddings_show_every_sample_and_prototypes_however_far_they_lie(axes):
    points = np.random.default_rng(0).normal(size=(6, 2))
    prototypes = np.array([(0.0, 9.0), (-9.0, 0.0), (9.0, -9.0)])
    plot_embeddings(axes, points, LABELS)
    assert not axes.texts
    plot_embeddings(axes, points, LABELS, prototypes)
    for label, drawn in enumerate(axes.collections[:3]):
        np.testing.assert_array_equal(drawn.get_offsets(), points[label == LABELS])
    np.testing.assert_array_equal([text.get_position() for text in axes.texts], prototypes)
    low, high = np.array([axes.get_xlim(), axes.get_ylim()]).T
    assert ((low < prototypes) & (prototypes < high)).all()


def test_alignment_has_the_shares_of_true_and_other_classes_and_the_ideal(axes):
    """Rounding beyond the ideal is counted."""
    scores = np.where(np.eye(3)[LABELS] == 1, 1.0000002, SCORES)
    plot_alignment(axes, scores, LABELS)
    others, true = (patch.get_data() for patch in axes.patches)
    wrong = scores[np.eye(3)[LABELS] == 0]
    expected, edges = np.histogram(wrong, bins=40, range=(-1, 1))
    np.testing.assert_allclose(others.values, 100 * expected / wrong.size)
    np.testing.assert_allclose(others.edges, edges)
    assert true.values[-1] == 100
    assert [line.get_xdata()[0] for line in axes.lines] == [1, -0.5]


def test_a_figure_is_saved_with_all_its_panels(tmp_path):
    path, panels = tmp_path / "figure.png", []
    save_figure(path, lambda *axes: panels.extend(axes), panels=5, title="title")
    assert len(panels) == len(panels[0].figure.axes) == 5
    height, width, _ = imread(path).shape
    assert width > height
    assert list(tmp_path.iterdir()) == [path]


def test_names_are_no_formulas_but_the_ticks_of_a_logarithm_are(tmp_path):
    seen = []

    def draw(axes):
        axes.plot([1, 1000], [1, 2], label="$a")
        axes.set(xscale="log", title="a_$5_$")
        axes.legend()
        seen.append(axes)

    save_figure(tmp_path / "figure.png", draw, title="price_$5_to_$10")
    (axes,) = seen
    assert not axes.title.get_parse_math()
    assert all(label.get_parse_math() for label in axes.get_xticklabels())


@pytest.mark.pictures
def test_points_of_embeddings_are_the_numbers_of_their_classes(tmp_path):
    """As markers, which are formulas, also in a figure where names are none."""
    sizes = []

    def draw(axes):
        plot_embeddings(axes, np.array([[0.0, 0.0], [1.0, 1.0]]), np.array([1, 1]))
        sizes.append(axes.collections[0].get_paths()[0].vertices.shape)

    draw(Figure().subplots())
    save_figure(tmp_path / "figure.png", draw)
    assert sizes[0] == sizes[1]


def test_a_legend_of_many_curves_leaves_the_panels_their_size(tmp_path):
    """in_situ has 16 curves, and compare takes 26 runs."""
    heights = []
    for count in (2, 26):

        def draw(*panels, count=count):
            for index in range(count):
                panels[0].plot([0, 1], [index, index], label=f"{index}: {'a setting ' * 6}")
            add_legend(panels)
            heights.append(panels[0])

        with warnings.catch_warnings():
            warnings.simplefilter("error")
            save_figure(tmp_path / f"{count}.png", draw, panels=2)
    few, many = (panel.get_window_extent().height for panel in heights)
    assert many > 0.85 * few


@pytest.mark.parametrize(("mesh", "words"), [("1-2", "the last layer"), ("1", "the layer")])
def test_the_axis_says_which_readout_is_meant(axes, mesh, words):
    record = EpochRecord(mesh, 1, 0.5, 0.5, 0.5, 10, 1, None, 1.0)
    plot_quality(axes, [record], layer="layer")
    assert axes.get_ylabel() == f"accuracy (%) of the readout after {words}"
