import pytest
from hypothesis import settings

from meshes._tensorflow import tf

settings.register_profile("no-clock", deadline=None)  # a busy machine fails no test
settings.load_profile("no-clock")


@pytest.fixture
def eager():
    """Do not compile, which would take longer than a few steps."""
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)
