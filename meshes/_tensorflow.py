"""TensorFlow, imported at its first use, and functions of arrays inside its graphs.

Importing it takes seconds. Every module takes ``tf`` from here, so that ``--help`` answers at once
and that importing a module of ours changes nothing.
"""

from __future__ import annotations

import functools
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

_hushed = False


def set_up_command() -> None:
    """Hide TensorFlow's start-up messages and warnings, and share a GPU's memory.

    Only command-line programs call this. A grid has many of them at a time, and by default
    TensorFlow would take all of the memory for the first.
    """
    global _hushed
    _hushed = True
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")


@contextmanager
def _hidden_stderr() -> Iterator[None]:
    """Hide what native code writes to standard error, which no setting does, unless it fails.

    Some of TensorFlow's lines come before its logger is set up and heed no variable. They can be
    hidden only by another file in place of descriptor 2, which belongs to the whole process. So
    only commands do it, where this package started the process and no thread of somebody else's
    writes there meanwhile; what the command itself must say then, it writes to a copy of 2.
    """
    try:
        sys.stderr.flush()
        saved = os.dup(2)
    except (AttributeError, OSError, ValueError):  # closed: nothing shows anyway
        yield
        return
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


@functools.cache
def _tensorflow() -> Any:
    """The module, imported and set up once."""
    with _hidden_stderr() if _hushed else nullcontext():
        import tensorflow
    if _hushed:
        tensorflow.get_logger().setLevel("ERROR")  # hides warnings of many compiled shapes
    # GPUs would round the factors of products to 11 bits (TF32), an error of 1e-4 and more: losses
    # at both ends of a step differ by little more, and their difference is the slope.
    tensorflow.config.experimental.enable_tensor_float_32_execution(False)
    return tensorflow


class _LazyTensorFlow:
    """The module ``tensorflow``, imported when the first attribute is read."""

    def __getattr__(self, name: str) -> Any:
        value = getattr(_tensorflow(), name)
        setattr(self, name, value)  # so that the next read does not come here
        return value


if TYPE_CHECKING:
    import tensorflow as tf
else:
    tf = _LazyTensorFlow()


def fused(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function of tensors; inside a graph, XLA compiles it as one operation.

    Around what XLA cannot compile, or not well, single operations would take too long.
    """
    if tf.executing_eagerly() or _all_xla.get():
        return function(*arguments)
    return tf.function(function, autograph=False, jit_compile=True)(*arguments)


_kept_errors: ContextVar[list[Exception] | None] = ContextVar("kept_errors", default=None)
_all_xla: ContextVar[bool] = ContextVar("all_xla", default=False)  # of the graph being traced


def graph(function: Callable[..., Any], *, xla: bool) -> Callable[..., Any]:
    """Compile a function of tensors, with XLA or without.

    A call raises the exception that `from_python` met itself, not TensorFlow's text of it.
    """
    kept_errors: list[Exception] = []

    def traced(*arguments: Any) -> Any:
        errors_before, xla_before = _kept_errors.set(kept_errors), _all_xla.set(xla)
        try:
            return function(*arguments)
        finally:
            _kept_errors.reset(errors_before)
            _all_xla.reset(xla_before)

    compiled = tf.function(traced, autograph=False, jit_compile=xla)
    # TensorFlow counts how often the same code is traced, and warns; here it is another function.
    compiled._omit_frequent_tracing_warning = True

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


def tensor_of(array: Any) -> Any:
    """A copy of a large array as a tensor, where TensorFlow computes.

    Directly, `tf.constant` would keep two copies, and `tf.identity` make two for a moment.
    """
    if tf.is_tensor(array):
        return array
    once, dtype = [array], array.dtype  # TensorFlow keeps the function, which must not keep it
    return tf.identity(graph(lambda: tf.numpy_function(once.pop, [], dtype), xla=False)())


def from_python(name: str, function: Callable[..., Any], arguments: Any, dtype: Any) -> Any:
    """Call a function of arrays with tensors, also inside a graph, and every time.

    An exception of the function reaches the caller as it is, see `graph`. ``name`` is what the
    error calls the function where a graph with it is exported.
    """
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

    return in_this_process(name, keeping_errors, arguments, dtype, stateful=True)


# Programs that trace a graph in order to write it to a file.
_EXPORTERS = ("keras.src.export.", "tensorflow.python.saved_model.", "tensorflow.lite.")


def exporting() -> bool:
    """Whether the graph in work is being exported: an exporter then stands in the call stack."""
    frame: Any = None if tf.executing_eagerly() else sys._getframe()
    while frame is not None:
        if frame.f_globals.get("__name__", "").startswith(_EXPORTERS):
            return True
        frame = frame.f_back
    return False


def in_this_process(
    name: str, function: Callable[..., Any], arguments: Any, types: Any, *, stateful: bool
) -> Any:
    """``tf.numpy_function`` in a graph that cannot be exported; errors call the function ``name``.

    An exported graph would hold no more than the function's number in this process. One traced
    for an export is refused here; one traced earlier holds a resource that exporters refuse.
    """
    if exporting():
        raise ValueError(f"a graph to export must not call Python, got {name}")
    if not tf.executing_eagerly():
        tf.compat.v1.get_default_graph().capture(_pin(name))
    return tf.numpy_function(function, arguments, types, stateful=stateful)


@functools.cache
def _pin(name: str) -> Any:
    """A resource that belongs to no model. Exporters show its name."""
    with tf.init_scope():
        text = f"a graph to export must not call Python, but this one calls {name}"
        return tf.raw_ops.VarHandleOp(dtype=tf.int32, shape=[], shared_name=text)
