"""TensorFlow on first use, without its log noise.

Importing TensorFlow takes seconds and prints start-up messages that no setting silences. Every
module here takes ``tf`` from this one, so that ``--help`` answers at once and the terminal stays
clean; what TensorFlow printed is shown only if the import fails.
"""

from __future__ import annotations

import itertools
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any


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


def graph(function: Callable[..., Any], *, xla: bool) -> Callable[..., Any]:
    """Compile a function of tensors; what `from_python` meets inside comes out as it was raised.

    Args:
        function: The function.
        xla: Whether XLA compiles it as a whole.
    """
    compiled = tf.function(function, autograph=False, jit_compile=xla)

    def call(*arguments: Any) -> Any:
        try:
            return compiled(*arguments)
        except tf.errors.OpError as error:
            kept = _MARK.search(error.message or "")
            if kept is None:
                raise
        raise _KEPT.pop(int(kept[1]))

    return call


def from_python(function: Callable[..., Any], arguments: Any, dtype: Any) -> Any:
    """Call a function of arrays that is not the same twice (an instrument) with tensors.

    Inside of a graph TensorFlow makes a text of every error; here the error itself is kept, for
    `graph` to raise.
    """

    def kept(*arrays: Any) -> Any:
        try:
            return function(*arrays)
        except Exception as error:
            number = next(_NUMBERS)
            _KEPT[number] = error
            raise RuntimeError(f"{error} [kept {number}]") from error

    if tf.executing_eagerly():
        return tf.convert_to_tensor(function(*(x.numpy() for x in arguments)), dtype)
    return tf.numpy_function(kept, arguments, dtype, stateful=True)


_KEPT: dict[int, Exception] = {}  # on their way from from_python to graph
_NUMBERS = itertools.count()
_MARK = re.compile(r"\[kept (\d+)\]")
