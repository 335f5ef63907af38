"""Propagation in TensorFlow: one compiled loop over pairs of columns."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from meshes._tensorflow import tf
from meshes.engines import FabricatedMesh, fitted


def propagate(
    mesh: FabricatedMesh, theta: Any, phi: Any, gamma: Any, fields: Any, *, detect: bool
) -> Any:
    """Fields or, with ``detect``, intensities [P, B, N] at the mesh's output."""
    theta = tf.convert_to_tensor(theta)
    complex_type = tf.complex128 if theta.dtype == tf.float64 else tf.complex64
    fields = tf.cast(tf.convert_to_tensor(fields), complex_type)
    fabrication = [
        None if x is None else tf.cast(x, theta.dtype)
        for x in (mesh.mask, mesh.splitter_errors, mesh.transmission)
    ]
    # One function for every shape of mesh: TensorFlow warns of one that is traced too often.
    count = 4 + len(fitted(mesh))
    forward, backward, tangent = _compiled(
        count, *(None if x is None else x.shape for x in fabrication)
    )
    mask, *parts = fabrication

    @tf.custom_gradient
    def apply(*arguments: Any) -> Any:
        # Unwatched: no tape must ask the compiled functions for their intermediate values.
        still = [tf.stop_gradient(x) for x in arguments]
        values = [*still[:4], mask, *still[4:], *parts[count - 4 :]]

        @tf.custom_gradient
        def gradient(upstream: Any) -> Any:
            at = (*values, tf.stop_gradient(upstream))

            def transposed(*moved: Any) -> Any:
                """The output's movement along ``moved``, None for arguments that stand still."""
                pairs = zip(still, moved, strict=True)
                return tangent(*at, *(tf.zeros_like(x) if m is None else m for x, m in pairs))

            return backward(*at), transposed

        return forward(*values), gradient

    out = apply(theta, phi, gamma, fields, *parts[: count - 4])
    return tf.math.square(tf.math.real(out)) + tf.math.square(tf.math.imag(out)) if detect else out


@functools.lru_cache(maxsize=32)
def _compiled(count: int, *_shapes: Any) -> list[Any]:
    """The forward function, and its gradients and its tangent for ``count`` arguments."""
    derivatives = (functools.partial(function, count) for function in (_gradients, _tangent))
    return [
        tf.function(function, jit_compile=True, autograph=False)
        for function in (_through_columns, *derivatives)
    ]


def _through_columns(
    theta: Any, phi: Any, gamma: Any, fields: Any, mask: Any, delta: Any, transmission: Any
) -> Any:
    coefficients = _coefficients(theta, phi, mask, delta)
    L = theta.shape[1]

    def column(x: Any, index: Any, parity: int) -> Any:
        at = [c[:, index] for c in coefficients]
        x = _odd_column(x, at) if parity else _couple(x, at)
        return x if transmission is None else x * tf.cast(transmission[index], x.dtype)[:, None]

    def pair_of_columns(index: Any, x: Any) -> Any:
        return index + 2, column(column(x, index, 0), index + 1, 1)

    screen = tf.exp(tf.complex(tf.zeros_like(gamma), gamma))
    x = tf.transpose(fields * screen[:, None], (0, 2, 1))  # [P, N, B]: vectors run along the batch
    if L >= 2:
        _, x = tf.while_loop(
            lambda index, _: index < L - 1, pair_of_columns, (0, x), maximum_iterations=L // 2
        )
    if L % 2:
        x = column(x, L - 1, 0)
    return tf.transpose(x, (0, 2, 1))


def _gradients(count: int, *arguments: Any) -> Any:
    """Gradients by TensorFlow's tape over a second forward.

    The tape's tensors, one per column, cannot leave a compiled function, so both loops are in one.
    """
    *arguments, upstream = arguments  # type: ignore[assignment]
    differentiable = [*arguments[:4], *arguments[5 : 1 + count]]
    with tf.GradientTape() as tape:
        tape.watch(differentiable)
        out = _through_columns(*arguments)
    return tape.gradient(out, differentiable, upstream)


def _tangent(count: int, *arguments: Any) -> Any:
    """How the output moves when ``count`` arguments move; the movements come last.

    The gradients are linear in what comes upstream, and their transpose is the tangent.
    """
    *fixed, upstream = arguments[:-count]
    with tf.GradientTape() as tape:
        tape.watch(upstream)
        gradients = _gradients(count, *fixed, upstream)
    return tape.gradient(gradients, upstream, arguments[-count:])


def _coefficients(theta: Any, phi: Any, mask: Any, delta: Any) -> list[Any]:
    """The coefficients of u' = uu u + uv v and v' = vu u + vv v, each [P, L, M, 1].

    Idle interferometers are in the bar state, theta = phi = pi. With coupler errors a, b:
    uu, vv = cos(theta/2) sin(a + b) +- i sin(theta/2) cos(a - b) and
    uv, vu = i cos(theta/2) cos(a + b) +- sin(theta/2) sin(a - b), uu and uv times e^{i phi}.
    """
    theta, phi = (tf.where(mask > 0, x, tf.constant(np.pi, x.dtype)) for x in (theta, phi))
    cosine, sine, zero = tf.cos(theta / 2), tf.sin(theta / 2), tf.zeros_like(theta)
    phase = tf.complex(tf.cos(phi), tf.sin(phi))
    if delta is None:
        uu, uv, vu, vv = ((zero, sine), (zero, cosine), (zero, cosine), (zero, -sine))
    else:
        total, difference = delta[0] + delta[1], delta[0] - delta[1]
        leak, cross = cosine * tf.sin(total), cosine * tf.cos(total)
        skew, bar = sine * tf.sin(difference), sine * tf.cos(difference)
        uu, uv, vu, vv = ((leak, bar), (skew, cross), (-skew, cross), (leak, -bar))
    matrix = (phase * tf.complex(*uu), phase * tf.complex(*uv), tf.complex(*vu), tf.complex(*vv))
    return [c[..., None] for c in matrix]


def _couple(x: Any, coefficients: list[Any]) -> Any:
    """Couple neighbours (0, 1), (2, 3), ... of [P, N, B]; an unpaired last port is unchanged."""
    M = x.shape[1] // 2
    pairs = tf.reshape(x[:, : 2 * M], (tf.shape(x)[0], M, 2, -1))
    u, v = pairs[:, :, 0], pairs[:, :, 1]
    uu, uv, vu, vv = coefficients
    coupled = tf.stack((uu * u + uv * v, vu * u + vv * v), axis=2)
    coupled = tf.reshape(coupled, (tf.shape(x)[0], 2 * M, -1))
    return tf.concat((coupled, x[:, 2 * M :]), axis=1)


def _odd_column(x: Any, coefficients: list[Any]) -> Any:
    """Couple (1, 2), (3, 4), ...; at even N the idle pair (N - 1, 0) comes last."""
    rotated = _couple(tf.concat((x[:, 1:], x[:, :1]), axis=1), coefficients)
    return tf.concat((rotated[:, -1:], rotated[:, :-1]), axis=1)
