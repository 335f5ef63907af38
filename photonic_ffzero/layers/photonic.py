"""Meshes as layers: light in, intensities at the detectors out."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, NamedTuple

import numpy as np

from meshes import Amplifier, Phases, RectangularMesh, sensitivity
from meshes._tensorflow import fused, tf
from meshes.imperfections import Chip, Imperfections, Noise
from meshes.nonlinearities import ElectroOptic, Linear, Nonlinearity, electro_optic
from meshes.propagation import resolve_engine
from photonic_ffzero.layers.base import Layer, everything, one_set
from photonic_ffzero.seeds import generator

_NO_NOISE = Noise()
MOST_TOGETHER = 64**2
"""Phases of the largest mesh whose metric is taken whole: those of 64 ports and columns."""


class PhaseLayer(Layer):
    """A layer whose parameters are the phases of a mesh, simulated or on a device."""

    mesh: RectangularMesh
    name: ClassVar[str] = "mesh"

    @property
    def taps(self) -> int:
        return self.mesh.units

    @property
    def trainable(self) -> Any:
        """True for all phases but those of idle interferometers."""
        return Phases(self.mesh.mask, self.mesh.mask, np.ones(self.mesh.units, bool))

    @property
    def reach(self) -> Any:
        """The light cones of the phases."""
        return self.mesh.light_cones

    @property
    @abstractmethod
    def nominal(self) -> Photonic:
        """The layer as it was designed, without imperfections: all that a twin may know."""

    @property
    def together(self) -> list[np.ndarray]:
        """All phases, or above `MOST_TOGETHER` the theta and phi of each interferometer."""
        mask = self.mesh.mask
        internal = np.flatnonzero(mask)
        external, screen = mask.size + internal, 2 * mask.size + np.arange(self.mesh.units)
        if self._is_small:
            return [np.concatenate([internal, external, screen])[np.newaxis]]
        return [np.stack([internal, external], axis=1), screen[:, np.newaxis]]

    def metric(self, params: Any, x: Any) -> list[np.ndarray]:
        """How the fields that leave the ideal mesh move with its phases, see `meshes.sensitivity`.

        If the light that enters is not known, that of all ports is taken to be equal.
        """
        arguments = self.mesh, Phases(*params[:3]), self.entering(params, x)
        if self._is_small:
            return [sensitivity.metric(*arguments)[np.newaxis]]
        return list(sensitivity.pair_metric(*arguments))

    @property
    def _is_small(self) -> bool:
        return 2 * int(self.mesh.mask.sum()) + self.mesh.units <= MOST_TOGETHER

    @abstractmethod
    def entering(self, params: Any, x: Any) -> Any:
        """The fields [..., N] that enter the mesh; None if they are not known."""

    def init(self, rng: np.random.Generator) -> Any:
        """Draw Haar-random phases."""
        return self.mesh.initial_phases(seed=int(rng.integers(2**31)))

    def pullback(self, params: Phases, trace: Any, g_z: Any) -> Any:
        raise ValueError(
            "perturb must be weights for a mesh: intensities depend on its phases through sines, "
            "so that a gradient of the intensities does not lead back to the phases"
        )


@dataclass(frozen=True)
class Photonic(PhaseLayer):
    r"""A simulated mesh with detectors at its ports, and the nonlinearity that follows it.

    .. math:: z = |E|^2, \qquad x' = f(E), \qquad E = a(x) \, U(\theta, \phi, \gamma)

    Attributes:
        mesh: The mesh.
        nonlinearity: f, from complex fields to complex fields, applied between meshes only.
        engine: ``"auto"``, ``"native"`` or ``"xla"``.
        chip: The fabricated mesh with its drive, source and detectors; None for an ideal one.
        amplifier: a, in front of the mesh; None for none.
    """

    mesh: RectangularMesh
    nonlinearity: Nonlinearity
    engine: str = "auto"
    chip: Chip | None = None
    amplifier: Amplifier | None = None

    @property
    def runs_on(self) -> str:
        compiles = resolve_engine(self.engine) == "xla" and self.nonlinearity.compilable
        return "xla" if compiles else "native"

    @property
    def bare(self) -> bool:
        """Whether it measures what the native engine gives for its mesh, and nothing else."""
        no_parts = type(self) is Photonic and self.chip is None and self.amplifier is None
        return no_parts and resolve_engine(self.engine) == "native"

    @property
    def reach(self) -> Any:
        """The light cones of the phases; by crosstalk a phase also moves its neighbours'."""
        cones = self.mesh.light_cones
        if self.chip is None or not self.chip.imperfections.crosstalk:
            return cones
        return Phases(*map(_with_neighbours, cones))

    @property
    def cacheable(self) -> bool:
        """Unless the chip's light is noisy."""
        return self.chip is None or self.chip.imperfections.steady

    @property
    def noiseless(self) -> Photonic:
        if self.chip is None or self.cacheable:
            return self
        return replace(self, chip=replace(self.chip, imperfections=self.chip.imperfections.at_rest))

    @property
    def nominal(self) -> Photonic:
        mesh = RectangularMesh(self.mesh.units, self.mesh.num_columns)
        return replace(self, mesh=mesh, chip=None)

    def draw_noise(
        self, rng: np.random.Generator, steps: int, sets: int, batch: int, age: int
    ) -> Any:
        return self.chip.draw(rng, steps, sets, batch, age) if self.chip else ()

    def measure(self, params: Phases, x: Any, noise: Any = ()) -> Any:
        """Intensities at the output ports [P, B, N], as the chip's detectors read them."""
        phases, fields = self.as_on_chip(params, x, noise)
        z = self.mesh.intensities(fields, phases, engine=self.engine)
        return fused(self.chip.read, z, noise or _NO_NOISE) if self.chip else z

    def transmit(self, params: Phases, x: Any, noise: Any = ()) -> Any:
        """Complex fields after the nonlinearity [P, B, N]."""
        phases, fields = self.as_on_chip(params, x, noise)
        return self.nonlinearity(self.mesh.propagate(fields, phases, engine=self.engine))

    def entering(self, params: Any, x: Any) -> Any:
        for _, fields in self._entrance(one_set(params), x):
            x = fields
        return x

    def stages(self, params: Any, x: Any, noise: Any = ()) -> Iterator[tuple[str, Any]]:
        """Yield the name of each element that the light passes, and the fields after it."""
        yield from self._entrance(params, x)
        phases, fields = self.as_on_chip(params, x, noise)
        fields = self.mesh.propagate(fields, phases, engine=self.engine)
        yield self.name, fields
        if not isinstance(self.nonlinearity, Linear):
            yield "nonlinearity", self.nonlinearity(fields)

    def _entrance(self, params: Any, x: Any) -> Iterator[tuple[str, Any]]:
        """Yield the elements in front of the mesh, with the fields after each."""
        if self.amplifier is not None:
            yield "amplifier", fused(self.amplifier, x)

    def as_on_chip(self, params: Any, x: Any, noise: Any = ()) -> tuple[Phases, Any]:
        """The phases and the input fields that the chip makes of those it is given."""
        for _, fields in self._entrance(params, x):
            x = fields
        phases = Phases(*params[:3])
        if self.chip is None:
            return phases, x
        noise = noise or _NO_NOISE
        return fused(self.chip.drive, phases, noise), self.chip.emit(x, noise)


def _with_neighbours(cones: np.ndarray) -> np.ndarray:
    """The ports [..., 2] within the cones of each phase or of those next to it in the column."""
    edges = [(0, 0)] * (cones.ndim - 2) + [(1, 1), (0, 0)]
    wide = np.pad(cones, edges, mode="edge")
    three = np.stack([wide[..., :-2, :], wide[..., 1:-1, :], wide[..., 2:, :]])
    return np.stack([three[..., 0].min(axis=0), three[..., 1].max(axis=0)], axis=-1)


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
    r"""A mesh after electro-optic modulators, one a port, that are trained with its phases.

    .. math:: z = |f(x; t, g, \varphi_b) \, U(\theta, \phi, \gamma)|^2

    The modulators belong to the mesh that follows them because its detectors are the first to see
    what they do. See `meshes.electro_optic` for f.

    Attributes:
        start: The settings of all modulators before training.

    Reference:
        Williamson et al., arXiv 1903.04579, where the settings are fixed.
    """

    start: ElectroOptic = field(default_factory=ElectroOptic)

    @property
    def trainable(self) -> ModulatedPhases:
        phases: Phases = super().trainable
        every = np.ones(self.mesh.units, bool)
        return ModulatedPhases(*phases, every, every, every)

    @property
    def reach(self) -> ModulatedPhases:
        """Those of a modulator, which stands at an input, are those of gamma there.

        An amplifier that keeps a level divides by the light of all ports, so that it leads the
        light of each modulator to all of them.
        """
        cones: Phases = super().reach
        mixes = self.amplifier is not None and self.amplifier.level is not None
        modulator = everything(cones.gamma[:, 0], self.taps) if mixes else cones.gamma
        return ModulatedPhases(*cones, modulator, modulator, modulator)

    def init(self, rng: np.random.Generator) -> ModulatedPhases:
        """Draw Haar-random phases; all modulators start alike."""
        ones = np.ones(self.mesh.units, np.float32)
        settings = (self.start.tap, self.start.g, self.start.phi_b)
        return ModulatedPhases(*super().init(rng), *(np.float32(s) * ones for s in settings))

    def _entrance(self, params: ModulatedPhases, x: Any) -> Iterator[tuple[str, Any]]:
        tap, g, phi_b = (value[:, tf.newaxis] for value in params[3:])
        fields = electro_optic(x, tap, g, phi_b)
        yield "nonlinearity", fields
        yield from super()._entrance(params, fields)


def fabricated_mesh(
    index: int,
    units: int,
    columns: int | None,
    imperfections: Imperfections,
    seed: int,
    reads: int = 1,
) -> tuple[RectangularMesh, Chip | None]:
    """A chip's mesh, counted from 0 in the order of the light, and its `Chip` unless it is ideal.

    Every mesh has N = ``units`` ports and L = ``columns`` columns (None: N); ``seed`` says which
    chip was fabricated, and ``reads`` how many readings are averaged into one.
    """
    if index:  # the one source is in front
        imperfections = replace(imperfections, source_noise=0.0)
    if imperfections == Imperfections():
        return RectangularMesh(units, columns), None
    mesh_seed = int(generator(seed, "fabrication", index).integers(2**31))
    chip = imperfections.fabricate(units, columns, mesh_seed, reads)
    return chip.mesh, chip
