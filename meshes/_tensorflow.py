"""TensorFlow on first use, without its log noise.

Importing TensorFlow takes seconds and prints start-up messages that no setting silences. Every
module here takes ``tf`` from this one, so that ``--help`` answers at once and the terminal stays
clean; what TensorFlow printed is shown only if the import fails.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

__all__ = ["fused", "tf"]


@contextmanager
def _held_back_stderr() -> Iterator[None]:
    """Hold back what native code writes to standard error; show it if the body raises."""
    sys.stderr.flush()
    saved = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        except BaseException:
            held.seek(0)
            os.write(saved, held.read())
            raise
        finally:
            os.dup2(saved, 2)
            os.close(saved)


class _LazyTensorFlow:
    """Stands for the module ``tensorflow`` and imports it at the first attribute."""

    def __getattr__(self, name: str) -> Any:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        with _held_back_stderr():
            import tensorflow
        tensorflow.get_logger().setLevel("ERROR")  # it warns of functions compiled for many shapes
        value = getattr(tensorflow, name)
        setattr(self, name, value)  # the next access does not come here
        return value


if TYPE_CHECKING:
    import tensorflow as tf
else:
    tf = _LazyTensorFlow()


def fused(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function of tensors; where a graph is being built, XLA compiles it as one piece.

    A graph that calls the native engine cannot be compiled as a whole, and many small operations
    around the engine would cost more than the light.
    """
    if tf.executing_eagerly():
        return function(*arguments)
    return tf.function(function, autograph=False, jit_compile=True)(*arguments)
