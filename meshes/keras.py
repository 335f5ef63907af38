"""A mesh as a Keras 3 layer.

Keras must run on TensorFlow, its default. ::

    layers = [
        keras.Input([16]),
        MeshLayer(16),  # fields at the output ports, complex
        Intensities(),  # |E|^2, what detectors see
        keras.layers.Dense(3, activation="softmax"),
    ]
    model = keras.Sequential(layers)
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(x, y, epochs=5)
    model.save("model.keras")
"""

from __future__ import annotations

from typing import Any

from meshes._tensorflow import tf
from meshes.mesh import Phases, RectangularMesh
from meshes.propagation import resolve_engine

tf.constant(0)  # imports TensorFlow without its messages, before Keras imports it
import keras  # noqa: E402


@keras.saving.register_keras_serializable(package="meshes")
class MeshLayer(keras.layers.Layer):
    r"""A rectangular mesh of Mach-Zehnder interferometers.

    .. math:: E_{out} = E_{in} \, U(\theta, \phi, \gamma)

    Inputs are real or complex fields [B, N], outputs complex fields [B, N]. The weights are the
    phases theta and phi [L, M] and gamma [N], rad, which start Haar-random. Idle interferometers
    have weights, too, but without influence. The arguments are those of
    :class:`meshes.RectangularMesh` and :func:`meshes.propagate`, and of a Keras layer; the seed is
    that of the first phases, too.
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
        super().__init__(**kwargs)
        self.mesh = RectangularMesh(
            units, num_columns, splitter_error, seed, insertion_loss_db=insertion_loss_db
        )
        self.engine, self.num_columns = engine, num_columns
        self.supports_jit = resolve_engine(engine) == "xla"  # Keras asks before it compiles

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        if len(input_shape) != 2 or input_shape[-1] != self.mesh.units:
            raise ValueError(f"inputs must be [B, {self.mesh.units}], got shape {input_shape}")
        first = self.mesh.initial_phases(self.mesh.seed)
        for name, values in first._asdict().items():
            constant = lambda shape, dtype=None, v=values: tf.constant(v, dtype)  # noqa: E731
            self.add_weight(name=name, shape=values.shape, initializer=constant)

    @property
    def phases(self) -> Phases:
        return Phases(*self.weights)

    def call(self, inputs: Any) -> Any:
        phases = Phases(*(tf.convert_to_tensor(phase) for phase in self.weights))
        return self.mesh.propagate(inputs, phases, self.engine)

    def compute_output_spec(self, inputs: Any) -> Any:
        return keras.KerasTensor(inputs.shape, dtype="complex64")

    def get_config(self) -> dict[str, Any]:
        names = ("units", "splitter_error", "insertion_loss_db", "seed")
        config = {"num_columns": self.num_columns, "engine": self.engine}
        config |= {name: getattr(self.mesh, name) for name in names}
        return super().get_config() | config


@keras.saving.register_keras_serializable(package="meshes")
class Intensities(keras.layers.Layer):
    r"""Square-law detectors: :math:`I = |E|^2`, from complex fields [...] to real numbers [...]."""

    def call(self, inputs: Any) -> Any:
        return tf.math.square(tf.math.real(inputs)) + tf.math.square(tf.math.imag(inputs))

    def compute_output_spec(self, inputs: Any) -> Any:
        return keras.KerasTensor(inputs.shape, dtype="float32")
