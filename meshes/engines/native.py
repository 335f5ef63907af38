"""Propagation by kernels compiled for the CPU, in single precision, with an analytic gradient.

Inside a ``tf.function`` the kernels run as a ``tf.numpy_function``, which XLA cannot compile and no
export can hold. This module loads Numba, so :mod:`meshes.propagation` imports it only when it is
needed.
"""

from __future__ import annotations

import functools
import math
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np

from meshes._tensorflow import in_this_process, tf
from meshes.engines import FabricatedMesh, fitted, kernels, upper_port
from meshes.engines.threads import run_on_threads, threads

_SCRATCH_BYTES = 32 * 2**20  # of coefficients; a call that needs more works through parts of P
_GROUPS = 8  # partial sums of gradients, for any number of threads, so that it changes no result
_SMALL_WORK = 2e7  # operations that take less time than waking a second thread


def propagate(
    mesh: FabricatedMesh, theta: Any, phi: Any, gamma: Any, fields: Any, *, detect: bool
) -> Any:
    """Fields or, with ``detect``, intensities [P, B, N] at the mesh's output."""
    if isinstance(fields, np.ndarray):
        return _forward(mesh, detect, theta, phi, gamma, fields)
    arguments = (theta, phi, gamma, fields, *fitted(mesh))

    @tf.custom_gradient
    def apply(*arguments: Any) -> Any:
        def gradient(upstream: Any) -> Any:
            like = [(x.dtype, x.shape) for x in arguments]
            return _call(functools.partial(_backward, mesh, detect), (*arguments, upstream), like)

        shape = (theta.shape[0], *fields.shape[1:])
        like = [(tf.float32 if detect else tf.complex64, shape)]
        return _call(functools.partial(_forward, mesh, detect), arguments, like)[0], gradient

    return apply(*arguments)


def twice(
    mesh: FabricatedMesh, theta: Any, phi: Any, gamma: Any, offsets: Any, fields: Any
) -> tuple[Any, Any]:
    """The intensities [P, B, N] of a fitted mesh, twice; see `meshes.propagation.twice`."""
    arguments = (theta, phi, gamma, fields, *offsets, *fitted(mesh))

    def moved(theta: Any, phi: Any, gamma: Any, fields: Any, *rest: Any) -> tuple[Any, ...]:
        return theta + rest[0], phi + rest[1], gamma + rest[2], fields, *rest[3:]

    @tf.custom_gradient
    def apply(*arguments: Any) -> Any:
        def gradient(*upstream: Any) -> Any:
            inputs = moved(*arguments)
            like = [(x.dtype, x.shape) for x in (*inputs, *inputs[:3])]
            weights = tf.stack(upstream[::-1])
            slopes = _call(functools.partial(_backward, mesh, True), (*inputs, weights), like)
            fit, light, fabricated, second = slopes[:3], slopes[3], slopes[4:-3], slopes[-3:]
            shared = [tf.reduce_sum(x, axis=0) for x in fit]
            return *second, light, *shared, *fabricated

        inputs = moved(*arguments)
        like = [(tf.float32, (inputs[0].shape[0], *fields.shape[1:]))]
        (light,) = _call(functools.partial(_forward, mesh, True), inputs, like)
        return (light, tf.identity(light)), gradient

    return apply(*arguments)


def _call(function: Any, arguments: Any, like: list[tuple[Any, Any]]) -> list[Any]:
    """Call a function of arrays with tensors; ``like`` lists the results' types and shapes."""
    if tf.executing_eagerly():
        results = function(*(np.asarray(x) for x in arguments))
        results = results if isinstance(results, tuple) else (results,)
        return [tf.convert_to_tensor(x) for x in results]
    types = [dtype for dtype, _ in like]
    name = "the native engine (engine='xla' can be exported)"
    results = in_this_process(name, function, arguments, types, stateful=False)
    for result, (_, shape) in zip(results, like, strict=True):
        result.set_shape(shape)
    return results


def _forward(mesh: FabricatedMesh, detect: bool, *arrays: np.ndarray) -> np.ndarray:
    """Fields or intensities [P, B, N]; arrays of a fitted fabrication follow the fields."""
    _check_shapes(mesh, *arrays)
    arrays, fabricated = arrays[:4], arrays[4:]
    fabrication = _fabrication(mesh, fabricated)
    P, (_, B, N) = len(arrays[0]), arrays[3].shape
    out = _aligned_empty((P, B, N), np.float32 if detect else np.complex64)
    kernel = kernels.forward_ideal if fabrication.ideal else kernels.forward_general
    for sets in _blocks(P, fabrication.rows * arrays[0][:1].nbytes):
        dims = _dimensions(mesh, fabrication.rows, arrays, detect, sets)
        *phases, fields = (flat(_of_sets(x, sets)) for x in arrays)
        inputs = (*phases, fabrication.couplers, fabrication.edges, fields)
        _launch(kernel, dims, inputs, [_flat_out(out[sets])])
    return out


def _backward(mesh: FabricatedMesh, detect: bool, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
    """Gradients with respect to theta, phi, gamma, the fields, and a fitted fabrication.

    The last array is the gradient of the output [P, B, N]. Where it is [2, P, B, N], those of the
    second follow: theta, phi, gamma; and the fields' is the second's.
    """
    theta, phi, gamma, fields, *fabricated, upstream = arrays
    _check_shapes(mesh, *arrays[:-1])
    if upstream.shape[-3:] != (shape := (len(theta), *fields.shape[1:])):
        raise ValueError(f"upstream must end in shape {shape}, got {upstream.shape}")
    both, fabrication = upstream.ndim == 4, _fabrication(mesh, fabricated)
    grid, fitted_sizes = [theta[0].size, phi[0].size], [x.size for x in fabricated]
    ports = gamma[0].size
    sizes = [*(grid if both else ()), *grid, *fitted_sizes, *[ports] * (2 if both else 1)]
    gradients = np.empty((len(theta), sum(sizes)), np.float32)
    out = np.empty((len(theta), *fields.shape[1:]), fields.dtype)
    kernel = kernels.backward_ideal if fabrication.ideal else kernels.backward_general
    if fabricated:
        kernel = kernels.backward_both if both else kernels.backward_fitted
    step = fabrication.rows * theta[:1].nbytes + _GROUPS * gradients[:1].nbytes
    for sets in _blocks(len(theta), step):
        dims = _dimensions(mesh, fabrication.rows, arrays, detect, sets)
        *phases, light = (flat(_of_sets(x, sets)) for x in arrays[:4])
        weights = flat(upstream[:, sets] if both else _of_sets(upstream, sets))
        inputs = (*phases, *fabrication.backward_tables, light, weights)
        slopes = np.zeros((dims.sets, _GROUPS, sum(sizes)), np.float32)
        _launch(kernel, dims, inputs, [slopes.reshape(-1), _flat_out(out[sets])])
        slopes.sum(axis=1, out=gradients[sets])
    parts = np.split(gradients, np.cumsum(sizes)[:-1], axis=1)
    second = [parts.pop(0), parts.pop(0), parts.pop()] if both else []
    d_theta, d_phi, *d_fabricated, d_gamma = parts
    return (
        *_shaped((d_theta, d_phi, d_gamma), arrays),
        out if len(fields) == len(out) else out.sum(axis=0, keepdims=True),
        *_shaped([part.sum(axis=0) for part in d_fabricated], fabricated),
        *_shaped(second, arrays),
    )


def _check_shapes(
    mesh: FabricatedMesh,
    theta: np.ndarray,
    phi: np.ndarray,
    gamma: np.ndarray,
    fields: np.ndarray,
    *fabricated: np.ndarray,
) -> None:
    """Refuse arrays that do not fit the mesh: the kernels would read and write beside them.

    A graph may not have known these lengths when it was traced.
    """
    P, (L, M), N = len(theta), mesh.mask.shape, mesh.units
    batches = (1 if len(fields) == 1 else P, *fields.shape[1:2])
    required = [(P, L, M), (P, L, M), (P, N), (*batches, N), (2, L, M), (L, N)]
    shapes = [x.shape for x in (theta, phi, gamma, fields, *fabricated)]
    if shapes != required[: len(shapes)]:
        for name, right, shape in zip(_ARGUMENTS, required, shapes, strict=False):
            if shape != right:
                raise ValueError(f"{name} must have shape {right}, got {shape}")


_ARGUMENTS = (
    *("phases.theta", "phases.phi", "phases.gamma", "fields"),
    *("splitter_errors", "transmission"),
)


def _shaped(gradients: Sequence[np.ndarray], like: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The gradients in the shapes of the first arrays."""
    return [part.reshape(x.shape) for part, x in zip(gradients, like, strict=False)]


def _fabrication(mesh: FabricatedMesh, fabricated: Sequence[np.ndarray]) -> _Fabrication:
    return _tables(mesh, *fabricated) if fabricated else _fabrication_of(mesh)


class _Fabrication(NamedTuple):
    """A mesh's fabrication in the form that the kernels take, see `kernels.Dimensions`."""

    ideal: bool
    rows: int  # of coefficients
    couplers: np.ndarray  # including the loss after each interferometer
    edges: np.ndarray
    backward_tables: tuple[np.ndarray, ...]  # couplers without the loss, the loss, edges without it


_FABRICATIONS: WeakKeyDictionary[FabricatedMesh, tuple[Any, Any, _Fabrication]] = (
    WeakKeyDictionary()
)


def _fabrication_of(mesh: FabricatedMesh) -> _Fabrication:
    """The tables of a mesh, kept until it has other arrays; these are read-only."""
    delta, loss = mesh.splitter_errors, mesh.transmission
    kept = _FABRICATIONS.get(mesh)
    if kept is None or kept[0] is not delta or kept[1] is not loss:
        tables = _tables(mesh, None if delta is None else delta.astype(np.float64), loss)
        kept = _FABRICATIONS[mesh] = delta, loss, tables
    return kept[2]


def _tables(
    mesh: FabricatedMesh, delta: np.ndarray | None, loss: np.ndarray | None = None
) -> _Fabrication:
    """The tables of a fabrication, computed in the precision of ``delta``."""
    none = flat(np.empty(0, np.float32))
    unity = flat(np.ones((mesh.num_columns, 2), np.float32))
    if delta is None and loss is None:
        return _Fabrication(True, kernels.IDEAL_ROWS, none, unity, (none, none, unity))
    a, b = np.zeros((2, *mesh.mask.shape)) if delta is None else delta
    errors = [np.sin(a + b), np.cos(a - b), np.cos(a + b), np.sin(a - b)]
    errors += [np.sin(2 * b), np.cos(2 * b)]
    lossless = couplers = _whole_vectors(*errors, 1.0, 1.0, shape=a.shape)
    losses, edges = none, unity
    if loss is not None:
        couplers = _whole_vectors(*errors, *_passed(mesh, loss), shape=a.shape)
        losses, edges = flat(loss), flat(loss[:, [0, -1]])
    rows, backward_tables = kernels.GENERAL_ROWS, (lossless, losses, unity)
    return _Fabrication(False, rows, couplers, edges, backward_tables)


def _whole_vectors(*rows: Any, shape: tuple[int, int]) -> np.ndarray:
    """Rows [L, M], or numbers, one after another; M is filled up with zeros to whole vectors."""
    columns, count = shape
    table = np.zeros((len(rows), columns, kernels.padded(count)), np.float32)
    for row, values in zip(table, rows, strict=True):
        row[:, :count] = values
    return flat(table)


def _passed(mesh: FabricatedMesh, loss: np.ndarray) -> np.ndarray:
    """Amplitudes [2, L, M] passed after each interferometer's upper and lower port."""
    return loss.reshape(-1)[_pairs(mesh.num_columns, mesh.units)]


@functools.lru_cache(maxsize=32)
def _pairs(columns: int, ports: int) -> np.ndarray:
    """Where [2, L, M] the two ports of each interferometer stand in a flat array [L, N]."""
    column = np.arange(columns)[:, None]
    port = upper_port(column, np.arange(ports // 2))
    return column * ports + np.stack((port, port + 1)) % ports


def _dimensions(
    mesh: FabricatedMesh, rows: int, arrays: tuple[np.ndarray, ...], detect: bool, sets: slice
) -> kernels.Dimensions:
    fields = arrays[3]
    return kernels.Dimensions(
        sets=sets.stop - sets.start,
        batches=1 if len(fields) == 1 else sets.stop - sets.start,
        samples=fields.shape[1],
        ports=mesh.units,
        columns=mesh.num_columns,
        rows=rows,
        real=int(fields.dtype.kind != "c"),
        power=int(detect),
        lossy=int(mesh.transmission is not None),
        groups=_GROUPS,
    )


def _blocks(P: int, bytes_per_set: int) -> Iterator[slice]:
    """Parts of the P sets of phases, each within the scratch memory."""
    step = max(1, _SCRATCH_BYTES // bytes_per_set)
    for first in range(0, P, step):
        yield slice(first, min(first + step, P))


def _launch(
    kernel: Any,
    dims: kernels.Dimensions,
    inputs: Sequence[np.ndarray],
    outputs: Sequence[np.ndarray],
) -> None:
    """Run a kernel on all threads, or on this one if the work is small."""
    operations = 9 * dims.sets * dims.samples * dims.ports * dims.columns
    count = threads() if operations > _SMALL_WORK else 1
    counters = np.zeros(3, np.int64)
    coefficients = dims.columns * dims.rows * kernels.padded(dims.ports // 2)
    screen = 2 * kernels.padded(dims.ports)
    items = dims.sets * (coefficients + screen) + kernels.LANES
    try:
        scratch = _kept_scratch.pop()
    except IndexError:
        scratch = np.empty(0, np.float32)
    if scratch.size < items:
        scratch = np.empty(items, np.float32)
    arrays = (*inputs, scratch[:items], *outputs)
    run_on_threads(lambda: kernel(counters, dims, *arrays), count)
    _kept_scratch.append(scratch)


# Scratch memory for the next call, since new memory from the system takes as long as a propagation;
# for up to four concurrent calls. A deque is safe among threads.
_kept_scratch: deque[np.ndarray] = deque(maxlen=4)


def _of_sets(x: np.ndarray, sets: slice) -> np.ndarray:
    return x if len(x) == 1 else x[sets]


def flat(x: np.ndarray) -> np.ndarray:
    """Read-only floats: always of one Numba type, so that no kernel is compiled twice."""
    dtype = np.complex64 if x.dtype.kind == "c" else np.float32
    flat = np.ascontiguousarray(x, dtype).reshape(-1).view(np.float32)
    flat.flags.writeable = False
    return flat


def _flat_out(x: np.ndarray) -> np.ndarray:
    return x.reshape(-1).view(np.float32)


def _aligned_empty(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """An array that starts at a cache line: TensorFlow takes over only such arrays uncopied."""
    items = math.prod(shape)
    line = 64 // dtype().itemsize
    buffer = np.empty(items + line, dtype)
    skip = -buffer.ctypes.data % 64 // buffer.itemsize
    return buffer[skip : skip + items].reshape(shape)
