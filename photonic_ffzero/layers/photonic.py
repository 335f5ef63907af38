"""Layers: what a block is made of.

A layer offers

* ``init(rng) -> params``: one parameter set, a named tuple of arrays;
* ``trainable``: the same structure of boolean arrays, false where an entry is no parameter;
* ``measure(params, x) -> z [P, B, taps]``: the tapped values a detector sees;
* ``transmit(params, x) -> x'``: what goes on to the next layer, which alone has to understand it;
* ``settles``: whether the layer holds statistics over its inputs; ``statistics(params, x)``: what
  each input adds to them [B, ...], under a stack of one parameter set; ``settled(params, added)``:
  one parameter set that holds them; ``evaluation``: the layer that uses them, as it is outside of
  training. Without statistics, false, the empty tuple, the same parameters and the layer itself;
* ``groups``: how many independent groups of parameters there are, each for a group of outputs;
  with more than one, every array leads with [P, groups];
* ``linear``: whether z is linear in the parameters;
* ``pullback(params, x, g_z)``: the gradient of one parameter set, from that of z [B, taps]; a
  layer that has none says why in an error;
* ``compilable``: whether XLA may compile the layer;
* ``cacheable``: whether what ``transmit`` gives can be kept for later: an array, and the same
  again for the same arguments;
* ``instrument``: whether it is a thing in a laboratory, which takes its time: it is sent nothing
  but what is asked for, and steps are taken one by one, so that they can be stopped and kept;
* ``draw(rng, steps, sets, batch, epochs) -> noise``: random numbers for some steps, each of P
  evaluations of a batch, on a chip of some age; and ``under(noise)``: the layer that uses those of
  one step. Without noise, the empty tuple and the layer itself.

Every array of ``params`` leads with P, the number of parameter sets evaluated side by side;
``x`` is [B, ...], shared by all sets, or [P, B, ...].
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, NamedTuple

import numpy as np

from meshes import Amplifier, Phases, RectangularMesh
from meshes._tensorflow import fused, tf
from meshes.imperfections import Chip, Imperfections, Noise
from meshes.nonlinearities import ElectroOptic, Linear, Nonlinearity, electro_optic
from meshes.propagation import resolve_engine
from photonic_ffzero.layers.base import Steady
from photonic_ffzero.seeds import generator


class OfPhases(Steady):
    """What layers share whose parameters are the phases of a mesh."""

    mesh: RectangularMesh
    name: ClassVar[str] = "mesh"
    groups: ClassVar[int] = 1
    linear: ClassVar[bool] = False

    @property
    def taps(self) -> int:
        """A detector at every port."""
        return self.mesh.units

    @property
    def trainable(self) -> Any:
        """The phases of idle interferometers are no parameters."""
        return Phases(self.mesh.mask, self.mesh.mask, np.ones(self.mesh.units, bool))

    def init(self, rng: np.random.Generator) -> Any:
        """Haar-random phases."""
        return self.mesh.initial_phases(seed=int(rng.integers(2**31)))

    def pullback(self, params: Phases, x: Any, g_z: Any) -> Any:
        """Refuse.

        Raises:
            ValueError: always; the message says why.
        """
        raise ValueError(
            "perturb must be weights for a mesh: from activations there is no way back to phases, "
            "which act through sines, as there is to a dense layer's weights"
        )


_QUIET = Noise()


@dataclass(frozen=True)
class Photonic(OfPhases):
    r"""A rectangular mesh, tapped by square-law detectors, and the nonlinearity behind it.

    .. math:: z = |E|^2, \qquad x' = f(E), \qquad E = a(x) \, U(\theta, \phi, \gamma)

    Attributes:
        mesh: The mesh.
        nonlinearity: f, from complex fields to complex fields, applied between meshes only.
        engine: ``"auto"``, ``"native"`` or ``"xla"``.
        chip: What the mesh is made of; None if it is ideal.
        amplifier: a, in front of the mesh; None if there is none.
        noise: Random numbers of one step for the chip.
    """

    mesh: RectangularMesh
    nonlinearity: Nonlinearity
    engine: str = "auto"
    chip: Chip | None = None
    amplifier: Amplifier | None = None
    noise: Noise = _QUIET
    instrument: ClassVar[bool] = False

    @property
    def compilable(self) -> bool:
        """Whether XLA may compile the layer: not the native engine, nor a black box."""
        return resolve_engine(self.engine) == "xla" and self.nonlinearity.compilable

    @property
    def cacheable(self) -> bool:
        """Unless the chip's light is noisy."""
        return self.chip is None or self.chip.imperfections.steady

    def draw(
        self, rng: np.random.Generator, steps: int, sets: int, batch: int, epochs: int
    ) -> Noise:
        """What the chip needs, see `meshes.Chip.draw`."""
        return self.chip.draw(rng, steps, sets, batch, epochs) if self.chip else _QUIET

    def under(self, noise: Noise) -> Photonic:
        """The layer with that noise."""
        return replace(self, noise=noise)

    def measure(self, params: Phases, x: Any) -> Any:
        """Intensities at the output ports [P, B, N], as detectors read them."""
        phases, fields = self._on_chip(params, x)
        z = self.mesh.intensities(fields, phases, engine=self.engine)
        return fused(self.chip.read, z, self.noise) if self.chip else z

    def transmit(self, params: Phases, x: Any) -> Any:
        """Fields behind the nonlinearity [P, B, N], complex."""
        phases, fields = self._on_chip(params, x)
        return self.nonlinearity(self.mesh.propagate(fields, phases, engine=self.engine))

    def passage(self, params: Any, x: Any) -> Iterator[tuple[str, Any]]:
        """The fields behind each element that the light passes, and what the element is."""
        yield from self._entrance(params, x)
        phases, fields = self._on_chip(params, x)
        fields = self.mesh.propagate(fields, phases, engine=self.engine)
        yield self.name, fields
        if not isinstance(self.nonlinearity, Linear):
            yield "nonlinearity", self.nonlinearity(fields)

    def _entrance(self, params: Any, x: Any) -> Iterator[tuple[str, Any]]:
        """The same of the elements in front of the mesh."""
        if self.amplifier is not None:
            yield "amplifier", fused(self.amplifier, x)

    def _on_chip(self, params: Any, x: Any) -> tuple[Phases, Any]:
        """Phases and fields as the chip makes them of what it is given."""
        for _, fields in self._entrance(params, x):
            x = fields
        phases = Phases(*params[:3])
        if self.chip is None:
            return phases, x
        return fused(self.chip.drive, phases, self.noise), self.chip.emit(x, self.noise)


class ModulatedPhases(NamedTuple):
    """Phases of a mesh, and of the modulators at its N inputs [P, N]: taps, gains, biases, rad."""

    theta: Any
    phi: Any
    gamma: Any
    tap: Any
    g: Any
    phi_b: Any


@dataclass(frozen=True)
class Modulated(Photonic):
    r"""A mesh behind electro-optic modulators whose settings are trained with its phases.

    .. math:: z = |f(x; t, g, \varphi_b) \, U(\theta, \phi, \gamma)|^2

    Every port has a modulator of its own, see `meshes.electro_optic`. They stand in front of the
    mesh, not behind the one before it, because what they do is first seen behind this one.

    Attributes:
        start: What all modulators are at first.

    Reference:
        Williamson et al., arXiv 1903.04579, which leaves the settings fixed.
    """

    start: ElectroOptic = field(default_factory=ElectroOptic)

    @property
    def trainable(self) -> ModulatedPhases:
        """The mesh's, and all of the modulators'."""
        phases: Phases = super().trainable
        every = np.ones(self.mesh.units, bool)
        return ModulatedPhases(*phases, every, every, every)

    def init(self, rng: np.random.Generator) -> ModulatedPhases:
        """Haar-random phases; modulators alike."""
        ones = np.ones(self.mesh.units, np.float32)
        own = (self.start.tap, self.start.g, self.start.phi_b)
        return ModulatedPhases(*super().init(rng), *(np.float32(value) * ones for value in own))

    def _entrance(self, params: ModulatedPhases, x: Any) -> Iterator[tuple[str, Any]]:
        tap, g, phi_b = (value[:, tf.newaxis] for value in params[3:])
        fields = electro_optic(x, tap, g, phi_b)
        yield "nonlinearity", fields
        yield from super()._entrance(params, fields)


def fabricated(
    count: int, units: int, columns: int | None, made: Imperfections, seed: int, reads: int = 1
) -> Iterator[tuple[RectangularMesh, Chip | None]]:
    """Meshes in a row, each with what it is made of unless it is ideal.

    Args:
        count: Meshes.
        units: Ports N.
        columns: Columns of a mesh L; N if None.
        made: How far from ideal they are.
        seed: Which ones were made.
        reads: Readings that are averaged into one.
    """
    for index in range(count):
        if made == Imperfections():
            yield RectangularMesh(units, columns), None
            continue
        own = int(generator(seed, "fabrication", index).integers(2**31))
        chip = made.fabricate(units, columns, own, reads)
        yield chip.mesh, chip
        made = replace(made, source_noise=0.0)  # there is one source, in front of all
