"""Light through a mesh: check the arguments, bring them to the form of the engines, run one."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from meshes._tensorflow import exporting, tf
from meshes.engines import FabricatedMesh, fitted, xla
from meshes.validation import choice, counted, refuse_masked


def _native(*arguments: Any, detect: bool) -> Any:
    from meshes.engines import native  # at its first use: it loads Numba

    return native.propagate(*arguments, detect=detect)


_ENGINES: dict[str, Callable[..., Any]] = {"native": _native, "xla": xla.propagate}
ENGINES = ("auto", *_ENGINES)


def propagate(
    mesh: FabricatedMesh, phases: tuple[Any, Any, Any], fields: Any, engine: str = "auto"
) -> Any:
    r"""Propagate fields through a mesh.

    .. math:: E_{out} = E_{in} \, U(\theta, \phi, \gamma)

    Differentiable in the phases and the fields. The result, complex, is a tensor if any argument is
    one, else a NumPy array.

    Args:
        mesh: a mesh of N ports, L columns and M = N // 2 interferometers a column.
        phases: theta, phi [L, M] and gamma [N], rad; or P sets of them, with a leading axis P.
            They set the precision: float64 phases give complex128 fields.
        fields: real or complex amplitudes [B, N], or [P, B, N] for one batch per set of phases,
            or [1, B, N].
        engine: "native" (compiled for the CPU, float32), "xla" (TensorFlow, any device) or
            "auto": native, but XLA where TensorFlow sees a GPU and for float64 phases. A graph that
            is traced for an export gets XLA instead of native.
    """
    return _run(mesh, phases, fields, engine, detect=False)


def intensities(
    mesh: FabricatedMesh, phases: tuple[Any, Any, Any], fields: Any, engine: str = "auto"
) -> Any:
    r"""Propagate fields as :func:`propagate` does and detect real intensities.

    .. math:: I = |E_{in} \, U(\theta, \phi, \gamma)|^2
    """
    return _run(mesh, phases, fields, engine, detect=True)


def twice(
    mesh: FabricatedMesh,
    phases: tuple[Any, Any, Any],
    offsets: tuple[Any, Any, Any],
    fields: Any,
    engine: str = "auto",
) -> tuple[Any, Any]:
    r"""The intensities of a mesh whose couplers are tensors, twice, with two ways back.

    .. math:: I = |E_{in} \, U(\theta + o_\theta, \phi + o_\phi, \gamma + o_\gamma)|^2

    The first has derivatives with respect to phases and fields, the second with respect to offsets,
    couplers and losses. The native engine goes forth once for both, and back once if both have a
    slope.

    Args:
        mesh: a mesh whose `splitter_errors` are a tensor, and its `transmission` a tensor or None.
        phases: tensors theta, phi [P, L, M] and gamma [P, N], rad.
        offsets: tensors [L, M], [L, M] and [N], rad.
        fields: amplitudes [B, N], or [P or 1, B, N].
        engine: as in :func:`propagate`.
    """
    if resolve_engine(engine, _dtype(phases[0])) == "native":
        from meshes.engines import native

        theta, phi, gamma, fields = _one_precision(phases, fields, True)
        fields = fields if len(fields.shape) == 3 else fields[None]
        return native.twice(mesh, theta, phi, gamma, offsets, fields)
    still = tf.nest.map_structure(tf.stop_gradient, (tuple(phases), tuple(offsets), fields))
    moved = [w + o for w, o in zip(phases, still[1], strict=True)]
    fitted_phases = [w + o for w, o in zip(still[0], offsets, strict=True)]
    still_mesh = copy.copy(mesh)
    still_mesh.splitter_errors = tf.stop_gradient(mesh.splitter_errors)
    if mesh.transmission is not None:
        still_mesh.transmission = tf.stop_gradient(mesh.transmission)
    return (
        intensities(still_mesh, tuple(moved), fields, engine),
        intensities(mesh, tuple(fitted_phases), still[2], engine),
    )


def resolve_engine(engine: str, dtype: Any = np.float32) -> str:
    """The engine, "native" or "xla", that one of ENGINES means for phases of a precision."""
    choice("engine", engine, ENGINES)
    double = np.dtype(dtype) == np.float64
    if engine == "native" and double:
        raise ValueError("engine must be xla or auto for float64 phases, got native")
    if engine == "auto":
        return "xla" if double or _sees_gpu() else "native"
    return engine


@functools.cache
def _sees_gpu() -> bool:
    return bool(tf.config.list_physical_devices("GPU"))


def _run(
    mesh: FabricatedMesh, phases: tuple[Any, Any, Any], fields: Any, engine: str, detect: bool
) -> Any:
    symbolic = any(_is_tensor(x) for x in (*phases, fields, *fitted(mesh)))
    theta, phi, gamma, fields = _one_precision(phases, fields, symbolic)
    _check_shapes(mesh, theta, phi, gamma, fields)
    stacked = len(theta.shape) == 3 or len(fields.shape) == 3
    theta, phi, fields = (x if len(x.shape) == 3 else x[None] for x in (theta, phi, fields))
    gamma = gamma if len(gamma.shape) == 2 else gamma[None]
    engine = resolve_engine(engine, _dtype(theta))
    if engine == "native" and symbolic and exporting():
        engine = "xla"  # only this process has the native engine
    function = _ENGINES[engine]
    if theta.shape[0] == 1 and fields.shape[0] != 1:  # join the batches of one set of phases
        width = fields.shape[-1] or tf.shape(fields)[-1]  # which a graph may not know yet
        batch = (tf if symbolic else np).reshape(fields, (1, -1, width))
        result = function(mesh, theta, phi, gamma, batch, detect=detect)
        xp = tf if _is_tensor(result) else np
        result = xp.reshape(result, xp.shape(fields))
    else:
        result = function(mesh, theta, phi, gamma, fields, detect=detect)
    result = result if stacked else result[0]
    return result if symbolic else np.asarray(result)


def _one_precision(phases: tuple[Any, Any, Any], fields: Any, symbolic: bool) -> list[Any]:
    """Tensors or arrays theta, phi, gamma, fields; float64 if any phase is, else float32."""
    if len(phases) != 3:
        raise ValueError(
            f"phases must be theta, phi and gamma, got {counted(len(phases), 'array')}"
        )
    named = dict(zip(_NAMES, (*phases, fields), strict=True))
    for name, x in named.items():
        refuse_masked(name, x)
    convert = tf.convert_to_tensor if symbolic else np.asarray
    arrays = [convert(x) for x in named.values()]
    for name, x in zip(_NAMES[:3], arrays, strict=False):
        if _dtype(x).kind == "c":
            raise TypeError(f"{name} must be real, got {_dtype(x)}")
    double = any(_dtype(x).kind == "f" and _dtype(x).itemsize > 4 for x in arrays[:3])
    real, complex_ = (np.float64, np.complex128) if double else (np.float32, np.complex64)
    types = [complex_ if _dtype(x).kind == "c" else real for x in arrays]
    cast = tf.cast if symbolic else np.asarray
    return [cast(x, dtype) for x, dtype in zip(arrays, types, strict=True)]


_NAMES = ("phases.theta", "phases.phi", "phases.gamma", "fields")


def _is_tensor(x: Any) -> bool:
    """As ``tf.is_tensor``, which takes longer for an array than a small mesh's propagation."""
    return not isinstance(x, np.ndarray) and tf.is_tensor(x)


def _dtype(x: Any) -> np.dtype:
    return np.dtype(getattr(x.dtype, "as_numpy_dtype", x.dtype))


def _check_shapes(mesh: FabricatedMesh, theta: Any, phi: Any, gamma: Any, fields: Any) -> None:
    L, M, N = mesh.num_columns, mesh.num_interferometers, mesh.units
    sets = [
        _leading_axes("phases.theta", theta, "L, M", (L, M)),
        _leading_axes("phases.phi", phi, "L, M", (L, M)),
        _leading_axes("phases.gamma", gamma, "N", (N,)),
    ]
    if any(x != sets[0] for x in sets):
        shapes = ", ".join(str(tuple(x.shape)) for x in (theta, phi, gamma))
        raise ValueError(f"phases must all lead with the same axis P or with none, got {shapes}")
    batches = _leading_axes("fields", fields, "B, N", (None, N))
    if len({*batches, *sets[0]} - {1, None}) > 1:
        raise ValueError(
            f"fields must lead with 1 or as many batches as there are sets of phases,"
            f" {sets[0][0]}, got {tuple(fields.shape)}"
        )


def _leading_axes(
    name: str, value: Any, form: str, last: tuple[int | None, ...]
) -> tuple[int | None, ...]:
    """The axis P before ``last``, if there is one; a length of None fits any."""
    shape = tuple(value.shape)
    lead = len(shape) - len(last)
    fits = lead in (0, 1) and all(
        size == expected or None in (size, expected)
        for size, expected in zip(shape[lead:], last, strict=True)
    )
    if not fits:
        raise ValueError(f"{name} must be [{form}] or [P, {form}], here {last}, got shape {shape}")
    return shape[:lead]
