"""What the figures show is what was computed."""

from dataclasses import replace

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread

from photonic_ffzero.data.readers import DataError
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
from photonic_ffzero.runs.directory import RunDirectory

LABELS = np.array([2, 0, 1, 0, 2, 2])


@pytest.fixture
def axes():
    return Figure().subplots()


def colour_bar(axes):
    (bar,) = (other for other in axes.figure.axes if other is not axes)
    return bar.get_ylabel()


def tick_labels(axis):
    return [label.get_text() for label in axis.get_ticklabels()]


def scores(seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, (len(LABELS), 3))


def history(validation=0.75):
    """Two meshes of three and two epochs."""
    return [
        EpochRecord(mesh, epoch, 1 / epoch, 0.5 + epoch / 10, validation, 0, 0, None, 0.0)
        for mesh, epochs in (("1", 3), ("2", 2))
        for epoch in range(1, epochs + 1)
    ]


class TestCurves:
    def test_the_loss_of_every_mesh_after_the_one_before(self, axes):
        plot_loss(axes, history())
        first, second = axes.lines
        np.testing.assert_array_equal(first.get_xydata(), [(1, 1), (2, 1 / 2), (3, 1 / 3)])
        np.testing.assert_array_equal(second.get_xydata(), [(4, 1), (5, 1 / 2)])
        assert first.get_color() != second.get_color()
        assert axes.get_xlabel().startswith("epoch")
        assert axes.get_ylabel() == "loss"

    def test_accuracy_in_percent_with_and_without_validation(self, axes):
        plot_quality(axes, history())
        assert len(axes.lines) == 4
        np.testing.assert_allclose(axes.lines[0].get_ydata(), [60, 70, 80])
        np.testing.assert_allclose(axes.lines[1].get_ydata(), [75, 75, 75])
        assert axes.lines[1].get_label() == "mesh 1, validation"
        without = Figure().subplots()
        plot_quality(without, history(validation=None))
        assert len(without.lines) == 2

    def test_r_squared_of_a_regression_as_it_is_and_layers_by_their_name(self, axes):
        plot_quality(axes, history(), layer="layer", task="regression")
        np.testing.assert_allclose(axes.lines[0].get_ydata(), [0.6, 0.7, 0.8])
        assert axes.lines[0].get_label() == "layer 1, training"
        assert axes.get_ylabel().startswith("R²")
        assert "layer" in axes.get_xlabel()

    def test_several_runs_are_their_mean_in_a_band_that_spans_them(self, axes):
        halved = [replace(record, loss=record.loss / 2) for record in history()]
        plot_loss(axes, history(), halved)
        first, second = axes.lines
        np.testing.assert_allclose(first.get_ydata(), [0.75, 0.375, 0.25])
        assert first.get_marker() != second.get_marker()
        band = axes.collections[0].get_paths()[0].vertices
        at_two = band[band[:, 0] == 2][:, 1]
        assert sorted(set(at_two)) == [0.25, 0.5]
        alone = Figure().subplots()
        plot_loss(alone, history())
        assert not alone.collections

    def test_several_runs_end_with_the_shortest(self, axes):
        plot_quality(axes, history(), history()[:-1])
        assert [len(line.get_xdata()) for line in axes.lines] == [3, 3, 1, 1]

    def test_power_budget(self, axes):
        powers = np.array([1.0, 0.1])[:, None] * np.linspace(0, 1, 101)
        plot_power_budget(axes, powers, "first")
        plot_power_budget(axes, powers / 2, "second")
        np.testing.assert_allclose(axes.lines[0].get_ydata(), [0.5, 0.05])
        corners = axes.collections[0].get_paths()[0].vertices[:, 1]
        assert corners.min() == pytest.approx(0.005)
        assert corners.max() == pytest.approx(0.95)
        assert axes.get_yscale() == "log"
        first, second = axes.lines
        assert first.get_marker() != second.get_marker()
        assert first.get_color() != second.get_color()

    def test_power_budget_with_named_stages_and_the_detectors_floor(self, axes):
        stages = ["input", "mesh 1"]
        plot_power_budget(axes, np.ones((2, 3)), stages=stages, floor=0.1, unit="W")
        assert [text.get_text() for text in axes.get_xticklabels()] == stages
        assert axes.lines[-1].get_ydata() == pytest.approx([0.1, 0.1])
        assert axes.get_ylabel().endswith("(W)")


class TestHeatMaps:
    def test_confusion_has_every_count_and_each_row_s_shares(self, axes):
        confusion = np.array([[3, 1], [0, 0]])
        plot_confusion(axes, confusion)
        assert [text.get_text() for text in axes.texts] == ["3", "1", "0", "0"]
        np.testing.assert_array_equal(axes.images[0].get_array(), [[0.75, 0.25], [0, 0]])

    def test_goodness_is_ordered_by_class_and_each_class_is_named_at_its_middle(self, axes):
        plot_goodness(axes, given := scores(), LABELS)
        np.testing.assert_array_equal(axes.images[0].get_array(), given[[1, 3, 2, 0, 4, 5]])
        np.testing.assert_array_equal(axes.get_yticks(), [0.5, 2, 4])
        assert tick_labels(axes.yaxis) == ["0", "1", "2"]
        lines = axes.collections[0].get_segments()
        assert [segment[0, 1] for segment in lines] == [1.5, 2.5]
        assert colour_bar(axes) == "goodness (cosine)"

    def test_power_is_the_mean_of_each_class(self, axes):
        intensities = np.arange(6 * 4.0).reshape(6, 4)
        plot_power(axes, intensities, LABELS)
        shown = axes.images[0].get_array()
        np.testing.assert_allclose(shown[0], intensities[[1, 3]].mean(axis=0))
        np.testing.assert_allclose(shown[1], intensities[2])
        assert tick_labels(axes.yaxis) == ["0", "1", "2"]
        assert colour_bar(axes) == "mean intensity |E|² (arb. units)"


class TestPredictions:
    @pytest.mark.parametrize("dimensions", [1, 2])
    def test_every_label_dimension_lies_by_its_true_label_and_the_ideal_is_a_diagonal(
        self, axes, dimensions
    ):
        labels, predicted = np.random.default_rng(0).normal(size=(2, 7, dimensions))
        flat = (slice(None), 0) if dimensions == 1 else slice(None)
        plot_predictions(axes, labels[flat], predicted[flat])
        *drawn, ideal = axes.lines
        assert len(drawn) == dimensions
        for index, line in enumerate(drawn):
            np.testing.assert_array_equal(line.get_xdata(), labels[:, index])
            np.testing.assert_array_equal(line.get_ydata(), predicted[:, index])
        assert len({line.get_marker() for line in drawn}) == dimensions
        np.testing.assert_array_equal(ideal.get_xdata(), [labels.min(), labels.max()])
        np.testing.assert_array_equal(ideal.get_xdata(), ideal.get_ydata())


class TestEmbeddings:
    def test_every_sample_is_its_class_s_number_where_it_lies(self, axes):
        points = np.random.default_rng(0).normal(size=(6, 2))
        plot_embeddings(axes, points, LABELS)
        for label, drawn in enumerate(axes.collections):
            np.testing.assert_array_equal(drawn.get_offsets(), points[label == LABELS])
        assert not axes.texts

    def test_prototypes_are_seen_however_far_they_lie(self, axes):
        prototypes = np.array([(0.0, 9.0), (-9.0, 0.0), (9.0, -9.0)])
        plot_embeddings(axes, np.zeros((6, 2)), LABELS, prototypes)
        assert [text.get_text() for text in axes.texts] == ["0", "1", "2"]
        np.testing.assert_array_equal([text.get_position() for text in axes.texts], prototypes)
        low, high = np.array([axes.get_xlim(), axes.get_ylim()]).T
        assert (low < prototypes).all()
        assert (prototypes < high).all()


class TestAlignment:
    def test_shares_of_true_and_other_classes(self, axes):
        given = scores()
        plot_alignment(axes, given, LABELS)
        others, true = (patch.get_data() for patch in axes.patches)
        own = given[np.arange(6), LABELS]
        expected, edges = np.histogram(own, bins=40, range=(-1, 1))
        np.testing.assert_allclose(true.values, 100 * expected / 6)
        np.testing.assert_allclose(true.edges, edges)
        assert others.values.sum() == pytest.approx(100)

    def test_the_ideal_is_marked_and_rounding_beyond_it_is_counted(self, axes):
        plot_alignment(axes, np.where(np.eye(3)[LABELS] == 1, 1.0000002, -0.5), LABELS)
        assert [line.get_xdata()[0] for line in axes.lines] == [1, -0.5]
        assert axes.patches[1].get_data().values[-1] == 100


class TestHistoryTable:
    HEAD = "mesh,epoch,loss,train_accuracy,validation_accuracy,forward_passes,phase_writes"

    def test_it_is_read_as_it_was_written(self, tmp_path):
        table = f"{self.HEAD},epsilon,seconds\n1-2,1,0.5,0.25,,640,5,0.01,1.5\n"
        (tmp_path / "history.csv").write_text(table)
        expected = EpochRecord("1-2", 1, 0.5, 0.25, None, 640, 5, 0.01, 1.5)
        assert RunDirectory(tmp_path).read_history() == [expected]

    @pytest.mark.parametrize("row", ["1,one,0.5,0.25,,640,5,0.01,1.5", "1,1", "1" + 9 * ",1"])
    def test_a_damaged_one_is_named(self, tmp_path, row):
        (tmp_path / "history.csv").write_text(f"{self.HEAD},epsilon,seconds\n{row}\n")
        with pytest.raises(DataError, match=r"history\.csv: is no table"):
            RunDirectory(tmp_path).read_history()


def test_a_figure_is_saved_with_all_its_panels(tmp_path):
    path, panels = tmp_path / "figure.png", []
    save_figure(path, lambda *axes: panels.extend(axes), panels=3, title="title")
    assert len(panels) == 3
    assert panels[0].figure.get_suptitle() == "title"
    height, width, _ = imread(path).shape
    assert width > 2 * height
    assert [file.name for file in tmp_path.iterdir()] == ["figure.png"]
