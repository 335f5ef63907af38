"""Meshes, nonlinear elements and detectors as Keras 3 layers.

Keras must run on TensorFlow, its default. ``model.export`` works, too: in a graph that leaves the
process, the XLA engine takes the place of the native one. A loss of the complex fields themselves
is `ComplexMSE`. Import this module before ``keras.models.load_model``. ::

    layers = [
        keras.Input([16]),
        MeshLayer(16),  # fields at the output ports, complex
        NonlinearityLayer("electro-optic:g=0.3"),  # any element of NONLINEARITIES
        MeshLayer(16, seed=1),
        Intensities(),  # |E|^2, what detectors see
        keras.layers.Dense(3, activation="softmax"),
    ]
    model = keras.Sequential(layers)
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(x, y, epochs=5)
    model.save("model.keras")
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np

from meshes._tensorflow import tf
from meshes.measured import Table
from meshes.mesh import Phases, RectangularMesh
from meshes.nonlinearities import (
    NONLINEARITIES,
    BlackBox,
    Nonlinearity,
    quadratures,
    spec_of_element,
)
from meshes.propagation import resolve_engine
from meshes.validation import from_spec


class _FieldLayer(keras.layers.Layer):
    """A layer of complex fields: complex128 with the dtype float64 or complex128, else complex64.

    Keras would cast phases and fields to half precision where its policy says so.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{"autocast": False, **kwargs})
        double = self.variable_dtype in ("float64", "complex128")
        self._real = "float64" if double else "float32"  # of the phases
        self._complex = "complex128" if double else "complex64"  # of the fields

    def compute_output_spec(self, inputs: Any) -> Any:
        return keras.KerasTensor(inputs.shape, dtype=self._complex)


@keras.saving.register_keras_serializable(package="meshes")
class MeshLayer(_FieldLayer):
    r"""A rectangular mesh of Mach-Zehnder interferometers.

    .. math:: E_{out} = E_{in} \, U(\theta, \phi, \gamma)

    Inputs are real or complex fields [B, N], outputs complex fields [B, N]. The weights are the
    phases theta and phi [L, M] and gamma [N], rad, which start Haar-random. Idle interferometers
    have weights, too, but without influence. The arguments are those of
    :class:`meshes.RectangularMesh` and :func:`meshes.propagate`, and of a Keras layer; the seed is
    that of the first phases, too. With the dtype float64 or complex128 the phases are float64 and
    the fields complex128; with any other, float32 and complex64.

    Keras hands real fields alone on from an input that does not say otherwise: complex ones need
    ``keras.Input([N], dtype="complex64")``. Its losses and metrics drop the imaginary part of what
    they compare: ``"mse"`` can be small and the fields wrong. Detect `Intensities` first, or take
    `ComplexMSE`.
    """

    def __init__(
        self,
        units: int,
        num_columns: int | None = None,
        splitter_error: float = 0.0,
        insertion_loss_db: float = 0.0,
        seed: int = 0,
        engine: str = "auto",
        **kwargs: Any,
    ) -> None:
        mesh = RectangularMesh(
            units, num_columns, splitter_error, seed, insertion_loss_db=insertion_loss_db
        )
        prefix = f"mesh_{2 * mesh.mask.sum() + mesh.units}_phases"
        super().__init__(**{"name": _unique(prefix), **kwargs})
        self.mesh, self.engine, self.num_columns = mesh, engine, num_columns
        # Keras asks before it compiles.
        self.supports_jit = resolve_engine(engine, np.dtype(self._real)) == "xla"

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        if len(input_shape) != 2 or input_shape[-1] != self.mesh.units:
            raise ValueError(f"inputs must be [B, {self.mesh.units}], got shape {input_shape}")
        first = self.mesh.initial_phases(self.mesh.seed)
        for name, values in first._asdict().items():
            constant = lambda shape, dtype=None, v=values: tf.constant(v, dtype)  # noqa: E731
            kind = {"dtype": self._real, "autocast": False}
            self.add_weight(name=name, shape=values.shape, initializer=constant, **kind)

    @property
    def phases(self) -> Phases:
        return Phases(*self.weights)

    def call(self, inputs: Any) -> Any:
        phases = Phases(*(tf.convert_to_tensor(phase) for phase in self.weights))
        return self.mesh.propagate(inputs, phases, self.engine)

    def get_config(self) -> dict[str, Any]:
        names = ("units", "splitter_error", "insertion_loss_db", "seed")
        config = {"num_columns": self.num_columns, "engine": self.engine}
        config |= {name: getattr(self.mesh, name) for name in names}
        return super().get_config() | config


def _unique(name: str) -> str:
    """``name``, ``name_1``, ...: as Keras tells the layers of a model apart."""
    number = keras.backend.get_uid(name)
    return name if number == 1 else f"{name}_{number - 1}"


@keras.saving.register_keras_serializable(package="meshes")
class NonlinearityLayer(_FieldLayer):
    """A nonlinear element at every port, from complex or real fields [...] to complex ones.

    Args:
        nonlinearity: The name of an element in `meshes.NONLINEARITIES`, with parameters if wanted
            (``"kerr:phi_nl=0.5"``); an element, such as a `meshes.Table`; or a function of NumPy
            arrays, with which a model computes, but passes no gradient and cannot be saved.
        **kwargs: Those of a Keras layer; for the dtype see `MeshLayer`.
    """

    def __init__(
        self,
        nonlinearity: str | Nonlinearity | Mapping[str, Any] | Callable[[Any], Any],
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        element: Any = nonlinearity
        if isinstance(nonlinearity, str):
            element = from_spec("nonlinearity", nonlinearity, NONLINEARITIES)
        elif isinstance(nonlinearity, Mapping):  # a table in a file
            element = Table.from_json(nonlinearity)
        self.nonlinearity = element if isinstance(element, Nonlinearity) else BlackBox(element)
        self.supports_jit = self.nonlinearity.compilable

    def call(self, inputs: Any) -> Any:
        return self.nonlinearity(tf.cast(inputs, self._complex))

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {"nonlinearity": _as_json(self.nonlinearity)}


def _as_json(element: Nonlinearity) -> str | dict[str, Any]:
    """What `NonlinearityLayer` makes the same element of."""
    if isinstance(element, Table):
        return element.as_json()
    spec = spec_of_element(element, NONLINEARITIES)
    if spec is None:
        what = getattr(element, "function", element)
        raise ValueError(
            f"nonlinearity must be one of {', '.join(NONLINEARITIES)} to be saved, got "
            f"{getattr(what, '__name__', what)}; enter the class of an element of your own there"
        )
    return spec


@keras.saving.register_keras_serializable(package="meshes")
class Intensities(keras.layers.Layer):
    r"""Square-law detectors: :math:`I = |E|^2`, from complex fields [...] to real numbers [...]."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{"autocast": False, **kwargs})

    def call(self, inputs: Any) -> Any:
        _, real, imag = quadratures(tf.convert_to_tensor(inputs))
        return tf.math.square(real) + tf.math.square(imag)

    def compute_output_spec(self, inputs: Any) -> Any:
        kept = inputs.dtype if inputs.dtype in ("float16", "bfloat16", "float64") else "float32"
        dtype = "float64" if inputs.dtype == "complex128" else kept
        return keras.KerasTensor(inputs.shape, dtype=dtype)


@keras.saving.register_keras_serializable(package="meshes")
class ComplexMeanSquaredError(keras.losses.Loss):
    r"""A loss of complex fields [..., N]: :math:`\frac{1}{N} \sum_n |y_n - t_n|^2`.

    As with Keras's losses, the batch's mean is the loss, and ``dtype`` is the type it is computed
    in, float32 by default. Real targets are fields without an imaginary part.
    """

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        targets, fields = _as_reals(y_true), _as_reals(y_pred)
        if not targets.shape.is_compatible_with(fields.shape):
            shapes = f"{fields.shape[:-1]}, got {targets.shape[:-1]}"
            raise ValueError(f"y_true must have the shape of the fields, {shapes}")
        return super().__call__(targets, fields, sample_weight)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        return tf.reduce_mean(tf.reduce_sum(tf.square(y_pred - y_true), axis=-1), axis=-1)


ComplexMSE = ComplexMeanSquaredError
"""The short name, as Keras has them for its losses."""


def _as_reals(fields: Any) -> Any:
    """Real and imaginary parts along a last axis: Keras would drop the latter."""
    fields = tf.convert_to_tensor(fields)
    if not (fields.dtype.is_complex or fields.dtype.is_floating):
        fields = tf.cast(fields, tf.float32)
    return tf.stack([tf.math.real(fields), tf.math.imag(fields)], axis=-1)
