r"""Chips: meshes with the imperfections of fabrication and electronics.

A chip changes the phases that are written to it in this order:

1. the drive rounds them to multiples of 2 pi / 2^bits;
2. each write adds noise;
3. thermal crosstalk adds a share of the neighbours' phases;
4. each shifter has a fixed offset, which drifts.

The light passes a source whose amplitude fluctuates, couplers that deviate from 50:50, and
interferometers that absorb. Detectors add noise, and a converter rounds their readings.

Phases are never taken modulo 2 pi, as theta and theta + 2 pi differ by a sign. Offsets, couplers
and losses are drawn once, from the chip's seed. All other noise is drawn anew for each evaluation,
outside of compiled code, as a `Noise`.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from scipy.special import ndtr, ndtri

from meshes._tensorflow import tf
from meshes.mesh import OFFSETS, WALK, Phases, RectangularMesh
from meshes.validation import (
    check_fields,
    choice_field,
    closest,
    from_spec,
    integer,
    keep,
    number,
    number_field,
    quoted,
    with_values,
)

_PLANCK, _LIGHT = 6.62607015e-34, 299792458.0  # J s, m / s


@dataclass(frozen=True, kw_only=True)
class Imperfections:
    r"""How far a chip is from an ideal mesh. Zero always means ideal.

    Args:
        splitter_error: Standard deviation of the couplers' angles from pi / 4, rad. 0.05 rad moves
            5 % of the power to the other output.
        phase_offset: Standard deviation of the phase shifters' offsets, rad; the largest offset
            if their law is uniform.
        phase_law: Law of the offsets: ``normal`` or ``uniform``.
        insertion_loss_db: Power loss of an interferometer, dB.
        loss_imbalance_db: Mean additional loss of a path through an interferometer, dB;
            exponentially distributed over the chip, so that no path gains power.
        shifter_loss: Largest share of the amplitude that the phase shifters of a column take from
            a port; uniform over the chip.
        drive_bits: Resolution of the drive over 0 .. 2 pi, bits.
        write_noise: Noise of a phase at every write, rad.
        crosstalk: Share of a shifter's phase that its neighbours in the column also get.
        drift: Random walk of the offsets, rad per square root of an hour of chip time.
        epoch_hours: Chip time per training epoch, hours; needs a drift.
        source_noise: Relative noise of each port's amplitude.
        shot_noise: Noise of a reading at an intensity of 1; grows as the intensity's square root.
        thermal_noise: Noise of a reading without light, in units of \|E\|^2.
        read_noise: Noise of a reading relative to the root mean square over the sample's ports:
            10^(-SNR / 20 dB), 0.1 at 20 dB.
        adc_bits: Resolution of a reading, bits; full scale is the sample's brightest port.

    References: Fang et al., "Design of optical neural networks with component imprecisions", Opt.
    Express 27 (2019) 14009 (splitters, phases); Bandyopadhyay et al., "Hardware error correction
    for programmable photonics", Optica 8 (2021) 1247 (static errors); Milanizadeh et al.,
    "Canceling thermal cross-talk effects in photonic integrated circuits", J. Lightwave Technol.
    37 (2019) 1325 (crosstalk); Hamerly et al., "Large-scale optical neural networks based on
    photoelectric multiplication", Phys. Rev. X 9 (2019) 021032 (shot noise).
    """

    splitter_error: float = number_field(0.0, minimum=0.0)
    phase_offset: float = number_field(0.0, minimum=0.0)
    phase_law: str = choice_field("normal", ("normal", "uniform"))
    insertion_loss_db: float = number_field(0.0, minimum=0.0)
    loss_imbalance_db: float = number_field(0.0, minimum=0.0)
    shifter_loss: float = number_field(0.0, minimum=0.0, maximum=0.5)
    drive_bits: int = number_field(0, minimum=0, maximum=24)
    write_noise: float = number_field(0.0, minimum=0.0)
    crosstalk: float = number_field(0.0, minimum=0.0, maximum=0.5)
    drift: float = number_field(0.0, minimum=0.0)
    epoch_hours: float = number_field(1.0, minimum=0.0)
    source_noise: float = number_field(0.0, minimum=0.0)
    shot_noise: float = number_field(0.0, minimum=0.0)
    thermal_noise: float = number_field(0.0, minimum=0.0)
    read_noise: float = number_field(0.0, minimum=0.0)
    adc_bits: int = number_field(0, minimum=0, maximum=24)

    def __post_init__(self) -> None:
        for name in ("drive_bits", "adc_bits"):
            bits = number(name, getattr(self, name))
            whole = int(bits) if bits.is_integer() else bits  # numbers in text arrive as floats
            keep(self, **{name: integer(name, whole)})
        check_fields(self)
        if not self.drift and self.epoch_hours != type(self).epoch_hours:
            raise ValueError(f"epoch_hours must come with drift, got {self.epoch_hours:g} alone")
        if not self.phase_offset and self.phase_law != type(self).phase_law:
            raise ValueError(f"phase_law must come with phase_offset, got {self.phase_law} alone")

    @property
    def drive_step(self) -> float:
        """Smallest change of a phase, rad; 0 if the drive is analog."""
        return 2 * math.pi / 2**self.drive_bits if self.drive_bits else 0.0

    @property
    def steady(self) -> bool:
        """Whether the same phases and fields always give the same light."""
        return not (self.write_noise or self.source_noise or self.drift)

    @property
    def at_rest(self) -> Imperfections:
        """The same without write noise, source noise and drift."""
        return replace(self, write_noise=0.0, source_noise=0.0, drift=0.0)

    @property
    def fabricated(self) -> bool:
        """Whether chips differ from each other, so that the seed matters."""
        names = ("splitter_error", "phase_offset", "loss_imbalance_db", "shifter_loss", "drift")
        return any(getattr(self, name) for name in names)

    @property
    def noisy_readings(self) -> bool:
        return any((self.shot_noise, self.thermal_noise, self.read_noise))

    @property
    def differentiable(self) -> bool:
        """Whether a gradient exists: rounding has none."""
        return not (self.drive_bits or self.adc_bits)

    def fabricate(
        self, units: int, num_columns: int | None = None, seed: int = 0, reads: int = 1
    ) -> Chip:
        """Make a chip with a `RectangularMesh` of N ports and L columns (N if None).

        The seed determines couplers, losses, offsets and drift; detectors average ``reads`` times.
        """
        names = ("insertion_loss_db", "loss_imbalance_db", "shifter_loss")
        losses = {name: getattr(self, name) for name in names}
        mesh = RectangularMesh(units, num_columns, self.splitter_error, seed, **losses)
        return Chip(mesh, self, seed, reads)


class Preset(NamedTuple):
    """A chip that was described, and where."""

    imperfections: Imperfections
    reference: str


PRESETS: dict[str, Preset] = {
    "ntt-2025": Preset(
        Imperfections(
            splitter_error=0.005, phase_offset=0.1, phase_law="uniform", shifter_loss=1e-3
        ),
        "Sawada, Aoyama, Notomi, Layered-parameter perturbation for zeroth-order optimization of "
        "optical neural networks, AAAI 2025, at beta = 1; their splitting angles are twice ours",
    ),
    "mit-2017": Preset(
        Imperfections(drive_bits=16, write_noise=5e-3, read_noise=1e-3),
        "Shen et al., Deep learning with coherent nanophotonic circuits, Nature Photonics 11 "
        "(2017) 441: 16-bit drive, phases within 5e-3 rad, detection within 0.1 %",
    ),
    "quix-2023": Preset(
        Imperfections(insertion_loss_db=0.145),
        "Taballione et al., 20-mode universal quantum photonic processor, Quantum 7 (2023) 1071: "
        "2.9 dB on average, couplings to fibres included, here spread over 20 columns",
    ),
}


def imperfections_of(argument: str, text: str) -> Imperfections:
    """The imperfections of ``"key=value,..."`` or ``"NAME:key=value,..."`` with a preset's name.

    Errors name the ``argument`` that the text stands for.
    """
    name = text.partition(":")[0].strip() if isinstance(text, str) else ""
    if "=" in name or not name:
        return with_values(argument, "", text, Imperfections)
    if name not in PRESETS:
        raise ValueError(
            f"{argument} is written key=value,... or NAME:key=value,... with NAME one of "
            f"{', '.join(PRESETS)}; got {quoted(text)}{closest(name, PRESETS)}"
        )
    return from_spec(argument, text, {name: p.imperfections for name, p in PRESETS.items()})


def shot_noise(
    *, unit_power_w: float, integration_s: float, wavelength_m: float, efficiency: float = 1.0
) -> float:
    r"""The ``shot_noise`` of a photon-counting detector, for `Imperfections`.

    .. math:: \sigma = \sqrt{h c / (\lambda \eta P T)}

    A field with \|E\|^2 = 1 has the power P, ``unit_power_w``; a reading takes the time T,
    ``integration_s``; eta is the ``efficiency``, electrons per photon, in (0, 1].
    """
    number("unit_power_w", unit_power_w, above=0)
    number("integration_s", integration_s, above=0)
    number("wavelength_m", wavelength_m, above=0)
    number("efficiency", efficiency, above=0, maximum=1)
    photons = efficiency * unit_power_w * integration_s * wavelength_m / (_PLANCK * _LIGHT)
    return 1 / math.sqrt(photons)


_DARK = np.float32(1e-37)  # below every full scale


class Noise(NamedTuple):
    """Random numbers for P evaluations of a batch; fields that a chip does not need are empty.

    All have unit variance but ``walk``.
    """

    writes: Any = ()  # Phases of [P, ...], for each shifter
    walk: Any = ()  # Phases of [1, ...], the offsets' drift, rad
    source: Any = ()  # [P, B, N], for each input amplitude
    readings: Any = ()  # [R, P, B, N], for each of R readings


@dataclass(frozen=True, eq=False)
class Chip:
    """A fabricated mesh with its drive, source and detectors, which average ``reads`` times."""

    mesh: RectangularMesh
    imperfections: Imperfections
    seed: int = 0
    reads: int = 1

    def __post_init__(self) -> None:
        keep(
            self,
            seed=integer("seed", self.seed, minimum=0),
            reads=integer("reads", self.reads, minimum=1),
        )

    @functools.cached_property
    def offsets(self) -> Phases:
        """The fixed offset of each shifter, rad."""
        drawn = _per_shifter(self.mesh, np.random.default_rng([self.seed, OFFSETS]))
        if self.imperfections.phase_law == "uniform":
            drawn = Phases(*(2 * ndtr(x) - 1 for x in drawn))  # from -1 to 1
        return _scaled(self.imperfections.phase_offset, drawn)

    def draw(
        self, rng: np.random.Generator, steps: int, sets: int, batch: int, epochs: int = 0
    ) -> Noise:
        """Draw the noise of several training steps; each array leads with the steps.

        A step evaluates P = ``sets`` sets of phases on a batch of B samples. The drift is that
        after ``epochs`` training epochs.
        """
        strength, light = self.imperfections, (steps, sets, batch, self.mesh.units)
        readings = (steps, self.reads, *light[1:])
        walk: Any = ()
        if strength.drift:
            walk = Phases(*(np.broadcast_to(x, (steps, 1, *x.shape)) for x in _walk(self, epochs)))
        return Noise(
            _per_shifter(self.mesh, rng, (steps, sets)) if strength.write_noise else (),
            walk,
            normals(rng, light) if strength.source_noise else (),
            normals(rng, readings) if strength.noisy_readings else (),
        )

    def drive(self, phases: Phases, noise: Noise) -> Phases:
        """The phases [P, ...] that the light sees after ``phases`` are written, rad."""
        strength = self.imperfections
        if step := strength.drive_step:
            phases = Phases(*(step * _functions(w).round(w / step) for w in phases))
        if strength.write_noise:
            phases = _sum(phases, noise.writes, strength.write_noise)
        if strength.crosstalk:
            mask = self.mesh.mask.astype(np.float32)  # an idle interferometer has no heaters
            heat = (mask * phases[0], mask * phases[1], phases[2])
            phases = _sum(phases, map(_neighbour_sum, heat), strength.crosstalk)
        if strength.phase_offset:
            phases = _sum(phases, self.offsets)
        if strength.drift:
            phases = _sum(phases, noise.walk)
        return Phases(*phases)

    def emit(self, fields: Any, noise: Noise) -> Any:
        """The fields that enter the first mesh: [P, B, N] if the source is noisy."""
        if not self.imperfections.source_noise:
            return fields
        factors = 1 + self.imperfections.source_noise * noise.source
        if isinstance(factors, np.ndarray) and isinstance(fields, np.ndarray):
            return fields * factors
        return fields * tf.cast(factors, fields.dtype)

    def read(self, intensities: Any, noise: Noise) -> Any:
        """The mean reading of the intensities [P, B, N], in the same shape."""
        strength = self.imperfections
        if not (strength.noisy_readings or strength.adc_bits):
            return intensities
        library, readings = _functions(intensities), intensities[np.newaxis]
        if strength.noisy_readings:
            square = library.mean(readings * readings, axis=-1, keepdims=True)
            variance = strength.shot_noise**2 * readings + strength.thermal_noise**2
            variance += strength.read_noise**2 * square
            readings = (
                readings + library.root(library.maximum(variance, np.float32(0))) * noise.readings
            )
        if strength.adc_bits:
            full_scale = library.largest(intensities, axis=-1, keepdims=True)
            levels = 2**strength.adc_bits - 1
            code = library.round(levels * (readings / library.maximum(full_scale, _DARK)))
            readings = full_scale * library.clip(code, 0, levels) / levels
        return library.mean(readings, axis=0)

    def walk(self, epochs: int) -> Phases:
        """The drift of the offsets after some epochs, rad; each epoch has its random stream."""
        scale = self.imperfections.drift * math.sqrt(self.imperfections.epoch_hours)
        total = Phases(*map(np.zeros_like, self.offsets))
        for epoch in range(epochs):
            rng = np.random.default_rng([self.seed, WALK, epoch])
            total = Phases(*map(np.add, total, _per_shifter(self.mesh, rng)))
        return _scaled(scale, total)


def normals(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Standard normal numbers, float32, drawn from 65,536 equally likely quantiles up to 4.3.

    This is five times as fast as exact draws; no probability is off by more than 2^-17.
    """
    codes = np.frombuffer(rng.bytes(2 * math.prod(shape)), np.uint16)
    return _quantiles().take(codes).reshape(shape)


@functools.cache
def _quantiles() -> np.ndarray:
    middle = ndtri((np.arange(2**16) + 0.5) / 2**16)
    return (middle / np.sqrt(np.mean(middle**2))).astype(np.float32)


_walk = functools.lru_cache(maxsize=8)(Chip.walk)  # every draw of an epoch needs the same walk


def _per_shifter(
    mesh: RectangularMesh, rng: np.random.Generator, lead: tuple[int, ...] = ()
) -> Phases:
    """A normal number for each shifter."""
    grid = mesh.mask.shape
    return Phases(*(normals(rng, (*lead, *shape)) for shape in (grid, grid, (mesh.units,))))


def _scaled(scale: float, phases: Phases) -> Phases:
    return Phases(*(np.float32(scale) * x for x in phases))


def _sum(phases: Phases, others: Any, scale: float = 1.0) -> Phases:
    return Phases(*(w + scale * other for w, other in zip(phases, others, strict=True)))


class _Functions(NamedTuple):
    """Functions of arrays or of tensors."""

    mean: Any
    root: Any
    maximum: Any
    largest: Any
    round: Any
    clip: Any


def _functions(x: Any) -> _Functions:
    """NumPy's functions for an array, which are faster on small ones, TensorFlow's for a tensor."""
    if isinstance(x, np.ndarray):
        return _Functions(np.mean, np.sqrt, np.maximum, np.max, np.round, np.clip)
    mean, largest = tf.reduce_mean, tf.reduce_max
    return _Functions(mean, tf.sqrt, tf.maximum, largest, tf.round, tf.clip_by_value)


def _neighbour_sum(phases: Any) -> Any:
    """The sum of both neighbours along the last axis."""
    if isinstance(phases, np.ndarray):
        total = np.zeros_like(phases)
        total[..., :-1] = phases[..., 1:]
        total[..., 1:] += phases[..., :-1]
        return total
    lead = [[0, 0]] * (len(phases.shape) - 1)
    return tf.pad(phases[..., 1:], [*lead, [0, 1]]) + tf.pad(phases[..., :-1], [*lead, [1, 0]])
