import pytest
from hypothesis import settings

from meshes._tensorflow import tf

settings.register_profile("no-clock", deadline=None)  # a busy machine fails no test
settings.load_profile("no-clock")


@pytest.hookimpl(tryfirst=True)  # before any fixture trains
def pytest_runtest_setup(item):
    """Compile in the tests marked so; in all others it would take longer than their few steps."""
    tf.config.run_functions_eagerly(item.get_closest_marker("compiled") is None)


@pytest.fixture
def eager():
    """Compile no more, from here on, in a test that compiles."""
    tf.config.run_functions_eagerly(True)
