"""A simulated chip with the protocol of a device, to try out training on a chip."""

from __future__ import annotations

import zlib
from dataclasses import asdict, fields
from typing import Any, cast

import numpy as np

from meshes import Amplifier, ElectroOptic, Imperfections, Nonlinearity, Phases
from meshes._tensorflow import tf
from meshes.imperfections import Chip, Noise, imperfections_of
from meshes.propagation import ENGINES
from meshes.validation import choice, integer
from photonic_ffzero.data.checks import check_inputs
from photonic_ffzero.devices.device import check_mesh, check_phases, check_written
from photonic_ffzero.elements import amplifier_of, each, nonlinearity_of
from photonic_ffzero.layers.base import first_step
from photonic_ffzero.layers.photonic import Photonic, fabricated_mesh
from photonic_ffzero.seeds import generator


class SimulatedChip:
    """A device that is simulated in this process; training cannot see its imperfections.

    Write noise is drawn at every write, all other noise at every measurement, from the chip's
    seed. A reading below zero is read as zero.

    Args:
        units: Ports N.
        meshes: Number of meshes.
        columns: Columns of a mesh L; N if None.
        nonlinearity: After every mesh, or a list of one for each of them; each as it is, or as
            the setting ``nonlinearity`` is written.
        amplifier: In front of every mesh but the first; or ``gain=G`` or ``level=P``.
        imperfections: How far from ideal the chip is; or as the setting is written. It cannot
            drift, because a device knows nothing of the training's epochs.
        seed: Which chip was fabricated.
        engine: ``auto``, ``native`` or ``xla``, see `meshes.propagate`.
    """

    def __init__(
        self,
        units: int,
        meshes: int = 2,
        columns: int | None = None,
        *,
        nonlinearity: Any = ElectroOptic(),  # noqa: B008 (frozen)
        amplifier: Amplifier | str | None = None,
        imperfections: Imperfections | str = Imperfections(),  # noqa: B008 (frozen)
        seed: int = 0,
        engine: str = "auto",
    ) -> None:
        if not isinstance(imperfections, Imperfections):
            imperfections = imperfections_of("imperfections", imperfections)
        if imperfections.drift:
            raise ValueError(
                f"drift must be 0 on a device, which knows no epochs, got {imperfections.drift:g}"
            )
        self.units = integer("units", units, minimum=2)
        self.meshes = integer("meshes", meshes, minimum=1)
        self.columns = self.units if columns is None else integer("columns", columns, minimum=1)
        seed = integer("seed", seed, minimum=0)
        fabricated = [
            fabricated_mesh(index, self.units, self.columns, imperfections, seed)
            for index in range(self.meshes)
        ]
        between = [nonlinearity_of("nonlinearity", element) for element in each(nonlinearity)]
        if len(between) not in (1, self.meshes):
            raise ValueError(
                f"nonlinearity must be one for all or each of {self.meshes} meshes, got "
                f"{len(between)}"
            )
        engine, front = choice("engine", engine, ENGINES), amplifier_of("amplifier", amplifier)
        self._layers = tuple(
            Photonic(mesh, between[index % len(between)], engine, chip, front if index else None)
            for index, (mesh, chip) in enumerate(fabricated)
        )
        self.identity = _identity(self, imperfections, seed)
        self._rng = generator(seed, "device")
        self._written: dict[int, tuple[Phases, Any]] = {}

    @property
    def chips(self) -> list[Chip]:
        """The truth about each mesh, which no training looks at."""
        ideal = Imperfections()
        return [layer.chip or Chip(layer.mesh, ideal) for layer in self._layers]

    def write(self, mesh: int, theta: np.ndarray, phi: np.ndarray, gamma: np.ndarray) -> None:
        mesh = check_mesh(self, mesh)
        phases = Phases(*(w[np.newaxis] for w in check_phases(self, theta, phi, gamma)))
        self._written[mesh] = phases, self._draw_noise(mesh, 0).writes

    def measure(self, mesh: int, fields: np.ndarray) -> np.ndarray:
        mesh = check_mesh(self, mesh)
        check_written(mesh, self._written)
        light = fields = check_inputs("fields", fields, self.units)
        for number in range(1, mesh):
            phases, noise = self._phases_and_noise(number, len(fields))
            # A tensor, so that a nonlinearity computes to the bit as it does in training.
            light = tf.constant(light)
            light = self._layers[number - 1].transmit(phases, light, noise).numpy()
        phases, noise = self._phases_and_noise(mesh, len(fields))
        return np.maximum(self._layers[mesh - 1].measure(phases, light, noise)[0], 0)

    def _phases_and_noise(self, mesh: int, batch: int) -> tuple[Phases, Noise]:
        """A mesh's phases as they were written, and the noise of this moment."""
        phases, writes = self._written[mesh]
        noise = self._draw_noise(mesh, batch)._replace(writes=writes)
        return phases, first_step(noise)

    def _draw_noise(self, mesh: int, batch: int) -> Noise:
        return self._layers[mesh - 1].draw_noise(self._rng, 1, 1, batch, 0) or Noise()


def _identity(chip: SimulatedChip, imperfections: Imperfections, seed: int) -> str:
    """Which chip it is: its seed, and a checksum of its size, imperfections and elements."""
    ideal = asdict(Imperfections())
    deviations = {k: v for k, v in asdict(imperfections).items() if v != ideal[k]}
    facts = repr((chip.units, chip.meshes, chip.columns, sorted(deviations.items())))
    for layer in chip._layers:
        if (layer.nonlinearity, layer.amplifier) != (ElectroOptic(), None):
            facts += repr((_facts(layer.nonlinearity), _facts(layer.amplifier)))
    return f"simulated chip {seed}, {zlib.crc32(facts.encode()):08x}"


def _facts(element: Nonlinearity | Amplifier | None) -> list[Any]:
    """The kind of an element and its settings, a function by its name."""
    settings = (
        [getattr(element, field.name) for field in fields(cast(Any, element))] if element else []
    )
    return [type(element).__name__, *(getattr(s, "__qualname__", s) for s in settings)]
