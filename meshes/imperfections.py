r"""What fabrication and electronics do to phases, light and readings: a chip instead of a mesh.

What a chip makes of a set of phases, in this order:

1. the drive rounds them to its steps, 2 pi / 2^bits;
2. every write adds noise;
3. heat leaks into the shifters next door;
4. every shifter has an offset of its own, and drifts;

and of light: the source's amplitude fluctuates, couplers are off, every interferometer takes some
light, detectors add noise, and a converter rounds what they read.

Phases are not taken modulo 2 pi anywhere: theta turns an interferometer's arms by theta / 2 against
each other (Neurophox's differential convention), so theta and theta + 2 pi differ by a sign.

Offsets, couplers and losses are the chip's own: drawn once, from its seed. The rest is drawn afresh
at every evaluation, outside of compiled code, as a :class:`Noise`.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import numpy as np
from scipy.special import ndtri

from meshes._tensorflow import tf
from meshes.mesh import Phases, RectangularMesh
from meshes.validation import integer, number

_PLANCK, _LIGHT = 6.62607015e-34, 299792458.0  # J s, m / s


@dataclass(frozen=True, kw_only=True)
class Imperfections:
    r"""How far a chip is from an ideal mesh. Zero stands for none, everywhere.

    Args:
        splitter_error: Deviation of the couplers' angles from pi / 4, rad (standard deviation
            over the chip). 0.05 rad is a power share off by 5 %.
        phase_offset: Offset of every phase shifter, rad (standard deviation over the chip).
        insertion_loss_db: Power that an interferometer takes, dB.
        loss_imbalance_db: Mean of what a path through it takes besides, dB; exponential over the
            chip's paths, so that none gains.
        drive_bits: Bits of the drive over 0 .. 2 pi.
        write_noise: Noise of a phase at every write, rad.
        crosstalk: Share of a shifter's phase that its neighbours in the column get as well.
        drift: Random walk of the offsets, rad per root hour of chip time.
        epoch_hours: Chip time that an epoch of training takes, hours.
        source_noise: Relative noise of every port's amplitude.
        shot_noise: Noise of a reading at an intensity of one unit, in units; grows as its root.
        thermal_noise: Noise of a reading in the dark, in units of \|E\|^2.
        read_noise: Noise of a reading as a share of the root mean square over the sample's ports:
            10^(-SNR / 20 dB), 0.1 at 20 dB.
        adc_bits: Bits of a reading; full scale is the sample's brightest port.

    Raises:
        TypeError, ValueError: a value is not a number or out of range.

    References:
        Fang et al., "Design of optical neural networks with component imprecisions", Opt. Express
        27 (2019) 14009 (splitters, phases). Bandyopadhyay, Hamerly, Englund, "Hardware error
        correction for programmable photonics", Optica 8 (2021) 1247 (static errors). Milanizadeh
        et al., "Canceling thermal cross-talk effects in photonic integrated circuits", J.
        Lightwave Technol. 37 (2019) 1325. Hamerly et al., "Large-scale optical neural networks
        based on photoelectric multiplication", Phys. Rev. X 9 (2019) 021032 (shot noise).
    """

    splitter_error: float = 0.0
    phase_offset: float = 0.0
    insertion_loss_db: float = 0.0
    loss_imbalance_db: float = 0.0
    drive_bits: int = 0
    write_noise: float = 0.0
    crosstalk: float = 0.0
    drift: float = 0.0
    epoch_hours: float = 1.0
    source_noise: float = 0.0
    shot_noise: float = 0.0
    thermal_noise: float = 0.0
    read_noise: float = 0.0
    adc_bits: int = 0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name.endswith("_bits"):
                if integer(field.name, _whole(value), minimum=0) > 24:
                    raise ValueError(f"{field.name} must be at most 24, got {value!r}")
                object.__setattr__(self, field.name, int(value))
            else:
                number(field.name, value, minimum=0.0)
        number("crosstalk", self.crosstalk, maximum=0.5)
        if not self.drift and self.epoch_hours != type(self).epoch_hours:
            raise ValueError(
                f"epoch_hours must be left out without drift, which alone takes time, got "
                f"{self.epoch_hours:g}"
            )

    @property
    def drive_step(self) -> float:
        """Smallest change of a phase, rad; 0 if the drive is analog."""
        return 2 * math.pi / 2**self.drive_bits if self.drive_bits else 0.0

    @property
    def steady(self) -> bool:
        """Whether the same phases and fields give the same light again."""
        return not (self.write_noise or self.source_noise or self.drift)

    @property
    def fabricated(self) -> bool:
        """Whether one chip differs from another: whether its seed matters."""
        return bool(
            self.splitter_error or self.phase_offset or self.loss_imbalance_db or self.drift
        )

    @property
    def noisy_readings(self) -> bool:
        """Whether detectors add noise."""
        return bool(self.shot_noise or self.thermal_noise or self.read_noise)

    @property
    def differentiable(self) -> bool:
        """Whether a gradient passes: not through a rounding."""
        return not (self.drive_bits or self.adc_bits)

    def fabricate(
        self, units: int, num_columns: int | None = None, seed: int = 0, reads: int = 1
    ) -> Chip:
        """Make one mesh with its electronics.

        Args:
            units: Number of ports N.
            num_columns: Number of columns L; N if None.
            seed: The chip's seed: couplers, losses and offsets follow from it.
            reads: Readings that are averaged into one.
        """
        mesh = RectangularMesh(
            units,
            num_columns,
            self.splitter_error,
            seed,
            insertion_loss_db=self.insertion_loss_db,
            loss_imbalance_db=self.loss_imbalance_db,
        )
        return Chip(mesh, self, seed, reads)


def shot_noise(
    *, unit_power_w: float, integration_s: float, wavelength_m: float, efficiency: float = 1.0
) -> float:
    r"""The ``shot_noise`` of a detector that counts photons for some time.

    .. math:: \sigma = \sqrt{h c / (\lambda \eta P T)}

    Args:
        unit_power_w: Power P of a field with \|E\|^2 = 1, W.
        integration_s: Time of one reading T, s.
        wavelength_m: Wavelength, m.
        efficiency: Electrons per photon, in (0, 1].

    Raises:
        TypeError, ValueError: an argument is not a number or out of range.
    """
    for name, value in (
        ("unit_power_w", unit_power_w),
        ("integration_s", integration_s),
        ("wavelength_m", wavelength_m),
    ):
        number(name, value, above=0)
    number("efficiency", efficiency, above=0, maximum=1)
    photons = efficiency * unit_power_w * integration_s * wavelength_m / (_PLANCK * _LIGHT)
    return 1 / math.sqrt(photons)


class Noise(NamedTuple):
    """Random numbers of unit variance for P evaluations of a batch; empty where none are needed.

    Attributes:
        writes: For every shifter, `Phases` of [P, ...].
        walk: Where the offsets have drifted to, `Phases` of [1, ...], rad.
        source: For every amplitude [P, B, N].
        readings: For every reading [R, P, B, N].
    """

    writes: Any = ()
    walk: Any = ()
    source: Any = ()
    readings: Any = ()


@dataclass(frozen=True, eq=False)
class Chip:
    """A mesh as it was made, with its drive, its source and its detectors.

    Attributes:
        mesh: Couplers and losses.
        imperfections: How far from ideal everything is.
        seed: The chip's seed.
        reads: Readings that are averaged into one.
    """

    mesh: RectangularMesh
    imperfections: Imperfections
    seed: int = 0
    reads: int = 1

    @functools.cached_property
    def offsets(self) -> Phases:
        """What every shifter adds to its phase, rad."""
        drawn = _per_shifter(self.mesh, np.random.default_rng([self.seed, _OFFSETS]))
        return Phases(*(np.float32(self.imperfections.phase_offset) * x for x in drawn))

    def draw(
        self, rng: np.random.Generator, steps: int, sets: int, batch: int, epochs: int = 0
    ) -> Noise:
        """Draw what some steps of P evaluations of a batch need; all lead with the steps.

        Args:
            rng: Source of everything fresh.
            steps: Training steps.
            sets: Sets of phases evaluated side by side P.
            batch: Samples B.
            epochs: The chip's age, in epochs of training.
        """
        own, light = self.imperfections, (steps, sets, batch, self.mesh.units)
        readings = (steps, self.reads, *light[1:])
        return Noise(
            _per_shifter(self.mesh, rng, (steps, sets)) if own.write_noise else (),
            _repeated(_walk(self, epochs), steps) if own.drift else (),
            normals(rng, light) if own.source_noise else (),
            normals(rng, readings) if own.noisy_readings else (),
        )

    def drive(self, phases: Phases, noise: Noise) -> Phases:
        """The phases [P, ...] that light meets when ``phases`` are written, rad."""
        own, driven = self.imperfections, list(phases)
        if step := own.drive_step:
            driven = [step * tf.round(w / step) for w in driven]
        if own.write_noise:
            driven = _added(driven, own.write_noise, noise.writes)
        if own.crosstalk:
            driven = [
                w + own.crosstalk * _next_door(mask * w)
                for w, mask in zip(driven, self._shifters, strict=True)
            ]
        if own.phase_offset:
            driven = _added(driven, 1.0, self.offsets)
        if own.drift:
            driven = _added(driven, 1.0, noise.walk)
        return Phases(*driven)

    def emit(self, fields: Any, noise: Noise) -> Any:
        """The fields that enter the first mesh: [P, B, N] if the source is noisy."""
        if not self.imperfections.source_noise:
            return fields
        factors = 1 + self.imperfections.source_noise * noise.source
        return fields * tf.cast(factors, fields.dtype)

    def read(self, intensities: Any, noise: Noise) -> Any:
        """What detectors say of intensities [P, B, N]: the mean of all readings."""
        own = self.imperfections
        if not (own.noisy_readings or own.adc_bits):
            return intensities
        readings = intensities[tf.newaxis]
        if own.noisy_readings:
            square = tf.reduce_mean(tf.square(readings), axis=-1, keepdims=True)
            variance = own.shot_noise**2 * readings + own.thermal_noise**2
            variance += own.read_noise**2 * square
            readings += tf.sqrt(tf.maximum(variance, 0)) * noise.readings
        if own.adc_bits:
            full = tf.reduce_max(intensities, axis=-1, keepdims=True)
            levels = 2**own.adc_bits - 1
            code = tf.round(levels * tf.math.divide_no_nan(readings, full))
            readings = full * tf.clip_by_value(code, 0, levels) / levels
        return tf.reduce_mean(readings, axis=0)

    def walk(self, epochs: int) -> Phases:
        """Where a random walk has led the offsets after some epochs, rad.

        It starts anew from the seed, so that an epoch can be repeated without those before it.
        """
        scale = self.imperfections.drift * math.sqrt(self.imperfections.epoch_hours)
        rngs = (np.random.default_rng([self.seed, _WALK, epoch]) for epoch in range(epochs))
        steps = [_per_shifter(self.mesh, rng) for rng in rngs]
        still = Phases(*(0 * x for x in self.offsets))
        return Phases(*(np.float32(scale) * sum(x) for x in zip(still, *steps, strict=True)))

    @functools.cached_property
    def _shifters(self) -> Phases:
        """1 where there is a shifter, 0 where an interferometer is idle."""
        mask = self.mesh.mask.astype(np.float32)
        return Phases(mask, mask, np.ones(self.mesh.units, np.float32))


_OFFSETS, _WALK = 1, 2  # streams of the chip's own seed


def normals(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Normal numbers of unit variance, float32: one of 65,536 quantiles each.

    Five times as fast as drawing them exactly, and closer to normal than any noise is: the largest
    is 4.3, and no probability is off by more than 2^-17.
    """
    count = math.prod(shape)
    codes = np.frombuffer(rng.bytes(2 * count), np.uint16)
    return _quantiles().take(codes).reshape(shape)


@functools.cache
def _quantiles() -> np.ndarray:
    middle = ndtri((np.arange(2**16) + 0.5) / 2**16)
    return (middle / np.sqrt(np.mean(middle**2))).astype(np.float32)


_walk = functools.lru_cache(maxsize=8)(Chip.walk)  # asked for at every call of an epoch


def _repeated(phases: Phases, steps: int) -> Phases:
    return Phases(*(np.broadcast_to(x, (steps, 1, *x.shape)) for x in phases))


def _per_shifter(
    mesh: RectangularMesh, rng: np.random.Generator, lead: tuple[int, ...] = ()
) -> Phases:
    """A normal number for every shifter."""
    grid = mesh.mask.shape
    return Phases(*(normals(rng, (*lead, *shape)) for shape in (grid, grid, (mesh.units,))))


def _added(phases: list[Any], scale: float, others: Phases) -> list[Any]:
    return [w + scale * other for w, other in zip(phases, others, strict=True)]


def _next_door(phases: Any) -> Any:
    """The sum over both neighbours along the last axis."""
    none = [[0, 0]] * (len(phases.shape) - 1)
    return tf.pad(phases[..., 1:], [*none, [0, 1]]) + tf.pad(phases[..., :-1], [*none, [1, 0]])


def _whole(value: Any) -> Any:
    """A number of bits as an int, which a command line gives as a float."""
    return int(value) if isinstance(value, float) and value.is_integer() else value
