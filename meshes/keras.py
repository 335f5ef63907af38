"""A mesh as a Keras 3 layer: tracked, trained, summarised, saved and restored by Keras.

Import it by itself, ``from meshes.keras import MeshLayer``: it needs Keras and TensorFlow at once.
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

tf.constant(0)  # brings TensorFlow in without its noise, before Keras does it with
import keras  # noqa: E402

__all__ = ["Intensities", "MeshLayer"]


@keras.saving.register_keras_serializable(package="meshes")
class MeshLayer(keras.layers.Layer):
    r"""A rectangular mesh of Mach-Zehnder interferometers between its input and output ports.

    .. math:: E_{out} = E_{in} \, U(\theta, \phi, \gamma)

    The phases are the layer's weights: theta and phi [L, M] and gamma [N], rad, Haar-random at
    first. Those of idle interferometers are there but do nothing.

    Args:
        units: number of ports N, at least 2.
        num_columns: columns of interferometers L; None means N.
        splitter_error: standard deviation of the couplers' angles, rad.
        insertion_loss_db: loss of power in every column, dB.
        seed: of the couplers' errors and of the first phases.
        engine: "native", "xla" or "auto".
        **kwargs: of a Keras layer, such as ``name``.

    Raises:
        TypeError, ValueError: an argument is out of range, or the inputs have other than N ports.
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
        self._arguments: dict[str, Any] = {
            "units": units,
            "num_columns": num_columns,
            "splitter_error": splitter_error,
            "insertion_loss_db": insertion_loss_db,
            "seed": seed,
            "engine": engine,
        }
        self.supports_jit = resolve_engine(engine) == "xla"  # Keras asks before it compiles

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Create the phases."""
        if len(input_shape) != 2 or input_shape[-1] != self.mesh.units:
            raise ValueError(f"inputs must be [B, {self.mesh.units}], got shape {input_shape}")
        first = self.mesh.initial_phases(self._arguments["seed"])
        for name, values in first._asdict().items():
            constant = lambda shape, dtype=None, v=values: tf.constant(v, dtype)  # noqa: E731
            self.add_weight(name=name, shape=values.shape, initializer=constant)

    @property
    def phases(self) -> Phases:
        """The phases as Keras variables."""
        return Phases(*self.weights)

    def call(self, inputs: Any) -> Any:
        """Propagate fields [B, N], real or complex; return complex fields [B, N]."""
        phases = Phases(*(tf.convert_to_tensor(phase) for phase in self.weights))
        return self.mesh.propagate(inputs, phases, self._arguments["engine"])

    def compute_output_spec(self, inputs: Any) -> Any:
        """Complex fields of the inputs' shape."""
        return keras.KerasTensor(inputs.shape, dtype="complex64")

    def get_config(self) -> dict[str, Any]:
        """The arguments that make the layer again."""
        return super().get_config() | self._arguments


@keras.saving.register_keras_serializable(package="meshes")
class Intensities(keras.layers.Layer):
    r"""Square-law detectors: :math:`I = |E|^2`."""

    def call(self, inputs: Any) -> Any:
        """Map complex fields [...] to real intensities [...]."""
        return tf.math.square(tf.math.real(inputs)) + tf.math.square(tf.math.imag(inputs))

    def compute_output_spec(self, inputs: Any) -> Any:
        """Real numbers of the inputs' shape."""
        return keras.KerasTensor(inputs.shape, dtype="float32")
