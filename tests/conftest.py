import pytest
from hypothesis import settings

from meshes._tensorflow import tf

settings.register_profile("no-clock", deadline=None)  # a busy machine fails no test
settings.load_profile("no-clock")


@pytest.hookimpl(tryfirst=True)  # before any fixture trains
def pytest_runtest_setup(item):
    """Compile in the tests marked so; in all others it would take longer than their few steps."""
    tf.config.run_functions_eagerly(item.get_closest_marker("compiled") is None)


@pytest.fixture(autouse=True)
def blank_pictures(request, monkeypatch):
    """Fill the pictures of runs and grids but write blank ones, except in tests marked so.

    To lay out and render those of a run takes longer than to train the small networks of tests.
    """
    from photonic_ffzero.runs import directory, summary  # not where tests are only distributed

    if request.node.get_closest_marker("pictures") is None:
        for module in (directory, summary):
            monkeypatch.setattr(module, "save_figure", save_blank)


def save_blank(path, draw, panels=1, **layout):
    import numpy as np
    from matplotlib.figure import Figure
    from PIL import Image

    from meshes.files import write_whole

    draw(*np.ravel(Figure().subplots(1, panels)))
    write_whole(path, lambda file: Image.new("L", (1, 1)).save(file, "png"))


@pytest.fixture
def eager():
    """Compile no more, from here on, in a test that compiles."""
    tf.config.run_functions_eagerly(True)
