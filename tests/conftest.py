import pytest

from meshes._tensorflow import tf


@pytest.fixture
def eager():
    """Do not compile, which would take longer than a few steps."""
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)
