"""TensorFlow, imported at its first use and without its start-up messages.

Importing it takes seconds and prints messages that no setting silences. Every module takes ``tf``
from here, so that ``--help`` answers at once.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any


@contextmanager
def _hidden_stderr() -> Iterator[None]:
    """Hide what native code writes to standard error, unless the body raises."""
    sys.stderr.flush()
    saved = os.dup(2)
    with tempfile.TemporaryFile() as hidden:
        os.dup2(hidden.fileno(), 2)
        try:
            yield
        except BaseException:
            hidden.seek(0)
            os.write(saved, hidden.read())
            raise
        finally:
            os.dup2(saved, 2)
            os.close(saved)


class _LazyTensorFlow:
    """The module ``tensorflow``, imported when the first attribute is read."""

    def __getattr__(self, name: str) -> Any:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        with _hidden_stderr():
            import tensorflow
        tensorflow.get_logger().setLevel("ERROR")  # hides warnings of many compiled shapes
        value = getattr(tensorflow, name)
        setattr(self, name, value)  # so that the next read does not come here
        return value


if TYPE_CHECKING:
    import tensorflow as tf
else:
    tf = _LazyTensorFlow()


def fused(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function of tensors; inside a graph, XLA compiles it as one operation.

    Around the native engine, which XLA cannot compile, single operations would take too long.
    """
    if tf.executing_eagerly():
        return function(*arguments)
    return tf.function(function, autograph=False, jit_compile=True)(*arguments)


_kept_errors: ContextVar[list[Exception] | None] = ContextVar("kept_errors", default=None)


def graph(function: Callable[..., Any], *, xla: bool) -> Callable[..., Any]:
    """Compile a function of tensors, with XLA or without.

    A call raises the exception that `from_python` met itself, not TensorFlow's text of it.
    """
    kept_errors: list[Exception] = []

    def traced(*arguments: Any) -> Any:
        token = _kept_errors.set(kept_errors)
        try:
            return function(*arguments)
        finally:
            _kept_errors.reset(token)

    compiled = tf.function(traced, autograph=False, jit_compile=xla)

    def call(*arguments: Any) -> Any:
        try:
            return compiled(*arguments)
        except tf.errors.OpError:
            if not kept_errors:
                raise
        first, *_ = kept_errors
        kept_errors.clear()
        raise first

    return call


def from_python(function: Callable[..., Any], arguments: Any, dtype: Any) -> Any:
    """Call a function of arrays with tensors, also inside a graph, and every time."""
    if tf.executing_eagerly():
        return tf.convert_to_tensor(function(*(x.numpy() for x in arguments)), dtype)
    kept_errors = _kept_errors.get()

    def keeping_errors(*arrays: Any) -> Any:
        try:
            return function(*arrays)
        except Exception as error:
            if kept_errors is not None:
                kept_errors.append(error)
            raise

    return tf.numpy_function(keeping_errors, arguments, dtype, stateful=True)
