"""Embeddings of every mesh, what a run keeps of them, and the explorer that shows them."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from photonic_ffzero import Model, configure, explore, fit
from photonic_ffzero.cli.train import main
from photonic_ffzero.data.tasks import Classification
from photonic_ffzero.explorer import TRAINED, details
from photonic_ffzero.snapshots import BYTES, IMAGES, LEAST, Snapshots

RNG = np.random.default_rng(0)
X = RNG.uniform(0.1, 1, (60, 9)).astype(np.float32)
Y = np.arange(60) % 3
BRIEF = {"epochs": 2, "batch_size": 20, "meshes": 2}


def trained(**settings):
    return fit(X, Y, embeddings=True, **(BRIEF | settings))


@pytest.fixture(scope="module")
def model():
    return trained(nonlinearity="kerr")


class TestEmbed:
    def test_goodness_is_the_product_with_prototypes(self, model):
        for number, scores in enumerate(model.scores(X), start=1):
            (prototypes,) = model.readout_after(number).prototypes
            points = model.embed(X, number)
            np.testing.assert_allclose(points @ prototypes.T, scores, atol=1e-5)
            np.testing.assert_allclose(np.linalg.norm(points, axis=1), 1, atol=1e-5)

    def test_detectors_see_the_power_of_the_fields(self, model):
        for number in (1, 2):
            fields, power = (model.embed(X, number, what) for what in ("fields", "intensities"))
            assert fields.dtype == np.complex64
            np.testing.assert_allclose(np.abs(fields) ** 2, power, rtol=1e-4, atol=1e-6)

    @pytest.mark.parametrize(
        ("method", "settings"),
        [
            ("bp-ad", {}),
            ("ff-dd", {"device": "simulated"}),
            ("ff-dd", {"imperfections": "source_noise=0.01"}),
        ],
    )
    def test_of_every_network(self, method, settings):
        network = fit(X, Y, method=method, **(BRIEF | {"epochs": 1} | settings))
        for number in (1, 2):
            assert network.embed(X[:5], number).shape == (5, 9)

    def test_of_a_digital_network_too(self):
        network = fit(X, Y, recipe="digital", depth=2, width=6, epochs=1)
        assert network.embed(X, 1, "outputs").shape == (60, 6)
        with pytest.raises(ValueError, match="what must be one of detected, outputs"):
            network.embed(X, 1, "fields")

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            ((X, 3), "mesh must be at most 2, the last, got 3"),
            ((X, 0), "mesh must be at least 1"),
            ((X, 1, "field"), "what must be one of .*fields; .*did you mean fields"),
            ((X[:, :4], 1), r"x must .*9"),
        ],
    )
    def test_what_does_not_fit(self, model, arguments, words):
        with pytest.raises(ValueError, match=words):
            model.embed(*arguments)

    def test_a_device_hides_its_fields(self):
        network = fit(X, Y, device="simulated", **(BRIEF | {"epochs": 1}))
        with pytest.raises(ValueError, match="device simulated hides"):
            network.embed(X, 1, "fields")


class TestSnapshots:
    def test_every_epoch_of_every_mesh_is_kept(self, model):
        assert set(model.snapshots.points) == {(1, 1), (1, 2), (2, 1), (2, 2)}
        last = model.snapshots.points[2, 2]
        np.testing.assert_allclose(last, model.embed(X, 2), atol=1e-3)

    def test_keeping_them_changes_no_figure(self, model):
        alone = fit(X, Y, nonlinearity="kerr", **BRIEF)
        np.testing.assert_array_equal(alone.scores(X), model.scores(X))
        assert alone.usage == model.usage

    @pytest.mark.parametrize(
        "settings",
        [
            {"network": "mlp", "depth": 2, "width": 6, "groups": 2},
            {"network": "cnn", "depth": 2, "channels": 2, "kernel_size": 2},
            {"network": "mixer", "depth": 2, "channels": 6, "groups": 2, "patches": 3},
        ],
        ids=lambda settings: settings["network"],
    )
    def test_of_digital_networks(self, settings):
        network = fit(X, Y, recipe="digital", epochs=1, batch_size=20, embeddings=True, **settings)
        numbers = range(1, 1 + len(list(network.layers)))
        assert set(network.snapshots.points) == {(number, 1) for number in numbers}
        for number in numbers:
            assert np.isfinite(network.snapshots.points[number, 1]).all()

    @pytest.mark.parametrize(
        ("epochs", "units", "meshes"), [(10, 64, 2), (60, 256, 3), (9000, 64, 1)]
    )
    def test_their_size_is_bounded(self, epochs, units, meshes):
        config = configure(epochs=epochs, meshes=meshes, columns=2)
        wide = Model(config, units, Classification(2))
        kept = Snapshots.of(wide, np.zeros((1000, units), "f4"), np.zeros(1000, int))
        count = sum(e % kept.every == 0 or e == epochs for e in range(1, epochs + 1))
        assert LEAST <= len(kept.x) <= IMAGES
        assert 2 * len(kept.x) * units * meshes * count <= 1.5 * BYTES

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (
                {f"mesh_1_epoch_{n}": np.zeros((6, 2**21), "f2") for n in range(9)},
                "at most 67108864",
            ),
            ({"every": np.array([0])}, "every must be at least 1, got 0"),
            ({"every": np.array([1.5])}, r"every must be a whole number, got 1\.5"),
            ({"inputs": np.zeros((6, 3))}, r"found inputs \(6, 3\) and labels \(6,\) for 4 ports"),
            ({"mesh_1_epoch_1": np.zeros((5, 2))}, r"mesh_1_epoch_1 has shape \(5, 2\)"),
        ],
        ids=range(5),
    )
    def test_a_file_that_none_can_have_written_is_refused(self, tmp_path, change, message):
        file = tmp_path / "embeddings.npz"
        kept = Snapshots(np.zeros((6, 4), "f4"), np.zeros(6, int)).arrays()
        np.savez(file, **kept)
        assert Snapshots.load(file, 4).every == 1
        np.savez_compressed(file, **(kept | change))
        with pytest.raises(ValueError, match=message):
            Snapshots.load(file, 4)

    def test_a_run_keeps_them_and_the_explorer_finds_them(self, tmp_path):
        flags = ["--dataset", "digits", "--limit", "200", "--size", "4", "--quiet"]
        run = str(tmp_path / "run")
        assert main([*flags, "--epochs", "2", "--output", run]) == 0
        view = explore(run)
        assert view.epochs(1) == [1, 2, TRAINED]
        assert len(view.y) == len(view.state(2, 1).labels)


class TestExplorer:
    def test_draws_all_meshes_without_a_browser(self, model):
        view = explore(model, X, Y)
        figure = Figure()
        view.draw(figure)
        assert [axes.get_title() for axes in figure.axes] == ["mesh 1", "mesh 2"]
        assert "60 images" in repr(view)

    def test_every_state_has_the_same_scale(self, model):
        view = explore(model, X, Y)
        for mesh in view.meshes:
            for epoch in view.epochs(mesh):
                for points in view.plane(mesh, epoch):
                    assert np.abs(points).max() <= view.limit("PCA")

    def test_says_what_is_under_the_pointer(self, model):
        view = explore(model, X, Y, images=X.reshape(-1, 3, 3))
        html = details(view.state(1), 4, view.names)
        assert html.startswith("<img")
        assert f"true: <b>{Y[4]}</b>" in html
        for goodness in view.state(1).goodness[4]:
            assert f"{goodness:+.2f}" in html

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            ({"x": X[:, :4], "y": Y}, "x must"),
            ({"x": X, "y": Y[:3]}, "y"),
            ({"x": X, "y": Y, "images": X}, r"images must be images \[n, H, W\]"),
        ],
    )
    def test_what_it_cannot_show(self, model, arguments, words):
        with pytest.raises(ValueError, match=words):
            explore(model, **arguments)

    def test_widgets_redraw_on_one_scale(self, model):
        pytest.importorskip("anywidget")
        pytest.importorskip("plotly")
        from photonic_ffzero.explorer_widget import View

        view = View(explore(model, X, Y))
        first, scale = list(view.figure.data[0].x), view.figure.layout.xaxis.range
        view.mesh.value = 1
        assert list(view.figure.data[0].x) != first
        second = list(view.figure.data[0].x)
        view.epoch.value = 1
        assert list(view.figure.data[0].x) != second
        assert view.figure.layout.xaxis.range == scale
        wrong = np.sum(view.explorer.state(1, 1).predicted != Y)
        view.errors.value = True
        assert len(view.figure.data[0].x) == 0
        assert len(view.figure.data[1].x) == wrong
        view.show(0)
        assert "<img" in view.details.value

    def test_the_picture_is_whole_before_a_page_loads_plotly(self, model):
        """anywidget drops what it sends to a module that takes more than two seconds to load."""
        pytest.importorskip("anywidget")
        pytest.importorskip("plotly")
        from photonic_ffzero.explorer_widget import View

        state = View(explore(model, X, Y)).figure.get_state()
        assert [len(trace["x"]) > 0 for trace in state["_widget_data"]][::2] == [True, True]
        assert len(state["_esm"]) < 2000 < 10**6 < len(state["_bundle"])


@pytest.mark.parametrize("shape", [(60, 3, 3), (60, 1, 3, 3), (60, 3, 3, 1), (60, 3, 3, 3)])
def test_images_may_be_bytes_and_have_a_channel(model, shape):
    explorer = explore(model, X, Y, images=np.full(shape, 51, np.uint8))
    assert explorer.state(1).pictures(0).max() == pytest.approx(0.2)
    assert details(explorer.state(1), 0, ("a", "b", "c"))


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (np.zeros((59, 3, 3)), "one for each of 60 inputs, got .*59"),
        (np.zeros((60, 9)), r"\[n, H, W\]"),
        (np.zeros((60, 3, 3, 2)), r"\[n, H, W, 3\]"),
        (np.full((60, 3, 3), 255.0), r"in \[0, 1\], got 255"),  # all of them would look white
    ],
)
def test_other_images_are_refused(model, images, words):
    with pytest.raises(ValueError, match=f"images must be .*{words}"):
        explore(model, X, Y, images=images)


def test_a_single_input_has_no_plane(model):
    with pytest.raises(ValueError, match="x must be two inputs or more"):
        explore(model, X[:1], Y[:1])
