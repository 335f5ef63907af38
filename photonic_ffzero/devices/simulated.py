"""A device that this process simulates."""

from __future__ import annotations

from typing import Any

import numpy as np

from meshes import Amplifier, ElectroOptic, Imperfections, Nonlinearity, Phases
from meshes._tensorflow import tf
from meshes.validation import integer
from photonic_ffzero.layers.photonic import Photonic, fabricated
from photonic_ffzero.seeds import generator


class SimulatedChip:
    """A device whose laboratory is this process, and whose imperfections nobody can look up.

    Write noise is drawn at every write, all other noise at every measurement, from the chip's own
    seed; a reading below the dark is read as dark.

    Args:
        units: Ports N.
        meshes: Meshes.
        columns: Columns of a mesh L; N if None.
        nonlinearity: Behind every mesh.
        amplifier: In front of every mesh but the first.
        imperfections: How far from ideal the chip is.
        seed: The chip's seed: which one was made.
        engine: ``auto``, ``native`` or ``xla``, see `meshes.propagate`.

    Raises:
        TypeError, ValueError: an argument is out of range; or the chip drifts, which a device
            that knows no epochs cannot tell from the training's clock.
    """

    def __init__(
        self,
        units: int,
        meshes: int = 2,
        columns: int | None = None,
        *,
        nonlinearity: Nonlinearity = ElectroOptic(),  # noqa: B008 (frozen)
        amplifier: Amplifier | None = None,
        imperfections: Imperfections = Imperfections(),  # noqa: B008 (frozen)
        seed: int = 0,
        engine: str = "auto",
    ) -> None:
        if imperfections.drift:
            raise ValueError(
                f"drift must be 0 on a device, which knows no epochs, got {imperfections.drift:g}"
            )
        self.units = integer("units", units, minimum=2)
        self.meshes = integer("meshes", meshes, minimum=1)
        self.columns = units if columns is None else integer("columns", columns, minimum=1)
        made = fabricated(meshes, units, columns, imperfections, seed)
        self._layers = tuple(
            Photonic(mesh, nonlinearity, engine, chip, amplifier if index else None)
            for index, (mesh, chip) in enumerate(made)
        )
        self._rng = generator(seed, "device")
        self._written: dict[int, tuple[Phases, Any]] = {}

    def write(self, mesh: int, theta: np.ndarray, phi: np.ndarray, gamma: np.ndarray) -> None:
        """See `Device`."""
        layer = self._layers[mesh - 1]
        phases = Phases(*(w[np.newaxis] for w in (theta, phi, gamma)))
        self._written[mesh] = phases, layer.draw(self._rng, 1, 1, 0, 0).writes

    def measure(self, mesh: int, fields: np.ndarray) -> np.ndarray:
        """See `Device`."""
        light: Any = fields
        for number in range(1, mesh):
            layer, phases = self._now(number, len(fields))
            # Of tensors, so that a nonlinearity computes to the bit as it does in training.
            light = layer.transmit(phases, tf.constant(light)).numpy()
        layer, phases = self._now(mesh, len(fields))
        return np.maximum(layer.measure(phases, light)[0], 0)

    def _now(self, mesh: int, batch: int) -> tuple[Photonic, Phases]:
        """A mesh with the noise of this moment, and its phases as they were written."""
        if mesh not in self._written:
            raise ValueError(f"mesh {mesh} must be written before light is sent through it")
        phases, writes = self._written[mesh]
        layer = self._layers[mesh - 1]
        drawn = layer.draw(self._rng, 1, 1, batch, 0)._replace(writes=writes)
        return layer.under(tf.nest.map_structure(lambda array: array[0], drawn)), phases
