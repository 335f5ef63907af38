"""How objects show themselves: short texts, small tables, progress, pictures with a slider."""

import asyncio
import io
from html.parser import HTMLParser

import numpy as np
import pytest
from rich.console import Console

from meshes import RectangularMesh
from meshes.plotting import Knob
from photonic_ffzero import Dataset, Evaluation, Model, Samples, Trainer, configure, fit
from photonic_ffzero.data.tasks import Classification, task_of
from photonic_ffzero.training.progress import Course, LiveProgress, NotebookProgress, progress_of

IMAGES, CLASSES = np.zeros((3, 4, 5), np.float32), np.array([0, 1, 0])
CONFIG = configure(meshes=3, epochs=2, nonlinearity="kerr")
SHOWN = {
    "mesh": (RectangularMesh(4, 3), "RectangularMesh(4, 3)"),
    "drawn mesh": (
        RectangularMesh(4, splitter_error=0.1, seed=2),
        "RectangularMesh(4, 4, splitter_error=0.1, seed=2)",
    ),
    "config": (
        CONFIG,
        "Config(recipe='balanced', method='ff-dd', meshes=3, nonlinearity='kerr', epochs=2)",
    ),
    "data": (
        Dataset("toys", "made here", IMAGES, CLASSES, IMAGES[:1], CLASSES[:1], 2),
        "Dataset(toys: 3 training, 1 test samples of 4 x 5 pixels)",
    ),
    "evaluation": (
        Evaluation(0.924, [0.91, 0.92], confusion=np.eye(2)),
        "Evaluation(accuracy 92.40 %, readouts alone 91.00 %, 92.00 %)",
    ),
    "regression": (Evaluation(0.5, [0.5]), "Evaluation(R^2 0.5000)"),
    "model": (Model(CONFIG, 8, Classification(2)), "Model(photonic: 3 meshes, 8 inputs, "),
}


class Tags(HTMLParser):
    """Checks that every tag is closed."""

    def __init__(self):
        super().__init__()
        self.open = []

    def handle_starttag(self, tag, attributes):
        self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.mark.parametrize("name", SHOWN)
def test_what_is_shown_is_short_and_the_same_as_html(name):
    thing, text = SHOWN[name]
    assert repr(thing).startswith(text)
    assert len(repr(thing)) < 200
    tags = Tags()
    tags.feed(thing._repr_html_())
    assert not tags.open


def test_a_short_configuration_builds_the_same():
    assert eval(repr(CONFIG), {"Config": configure}) == CONFIG


def test_names_cannot_break_the_html():
    data = Dataset("<b>", "<script>", IMAGES, CLASSES, IMAGES, CLASSES, 2)
    assert "<script>" not in data._repr_html_()


class Handle:
    """What IPython returns for an output that can be replaced."""

    def __init__(self):
        self.shown = []

    def update(self, content, raw):
        self.shown.append(content["text/plain"])


def test_a_notebook_shows_a_bar_that_ends_in_a_line(monkeypatch):
    bar, handle = NotebookProgress(Course(4, 0, "mesh", "{:.1%}".format, "{}/4".format)), Handle()
    monkeypatch.setattr("IPython.display.display", lambda *_, **__: handle)
    with bar:
        bar.on_steps("1", [2.0, 1.0])
        bar.on_steps("1", [0.5, 0.4])
    assert handle.shown[0].startswith("50% mesh 1, 2/4, loss 1.000")
    assert handle.shown[-1].startswith("trained: 4 steps in ")


def test_a_notebook_says_where_a_training_was_stopped(monkeypatch):
    bar, handle = NotebookProgress(Course(4, 0, "mesh", "{:.1%}".format, "{}/4".format)), Handle()
    monkeypatch.setattr("IPython.display.display", lambda *_, **__: handle)
    with bar:
        bar.on_steps("1", [2.0, 1.0])
    assert handle.shown[-1].startswith("stopped: 2 of 4 steps in ")


@pytest.mark.parametrize("width", [60, 80])
def test_a_terminal_shows_mesh_epoch_loss_and_accuracy(width):
    x, y = np.random.default_rng(0).uniform(0, 1, (20, 4)), np.arange(20) % 2
    config = configure(meshes=2, epochs=40, batch_size=10)
    model = Model(config, 4, task_of("classification", y, slice(None)))
    trainer = Trainer(model, Samples(x, y))
    console = Console(file=io.StringIO(), width=width, height=9, force_terminal=True)
    with LiveProgress(console, trainer.course("seed 0, mesh", "{:.2%}".format)) as bar:
        bar._validation = ", validation 92.36 %"
        bar.on_steps("2", [0.5] * 142)  # two meshes of 40 epochs of 2 steps
    for part in ("seed 0, mesh 2", "31/40, loss 0.500", "92.36 %", "left"):
        assert part in console.file.getvalue()


@pytest.mark.parametrize("shown", [True, False, "auto"])
def test_progress_changes_no_figure(shown, capfd):
    x = np.random.default_rng(0).uniform(0, 1, (20, 4))
    model = fit(x, np.arange(20) % 2, meshes=1, epochs=1, batch_size=10, progress=shown)
    lines = capfd.readouterr().err.count("mesh 1, epoch 1: loss")
    assert lines == (shown is True)  # no terminal: one line an epoch if it was asked for
    assert len(model.history.to_frame()) == 1


def test_progress_is_one_of_three():
    with pytest.raises(ValueError, match="progress must be auto, True or False, got 'yes'"):
        progress_of("yes", Course(1, 0, "mesh", str, str))


def test_a_slider_draws_only_the_newest_of_the_values_that_wait():
    pytest.importorskip("ipywidgets")
    drawn = []
    knob = Knob(lambda figure, value: drawn.append(value), "x", 0.0, 1.0, 0.5)
    slider, image = knob.widget().children
    assert image.layout.width == "720px"

    async def drag():
        for value in (0.1, 0.2, 0.3):
            slider.value = value
        await asyncio.sleep(0.1)

    asyncio.run(drag())
    assert drawn == [0.5, 0.3]
