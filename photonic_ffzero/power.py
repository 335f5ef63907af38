"""Where the light goes: total optical power behind every element of a photonic network."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

from meshes import ModulatorParts
from meshes._tensorflow import tf
from meshes.validation import from_spec, number
from photonic_ffzero.layers.base import one_set
from photonic_ffzero.layers.photonic import Photonic
from photonic_ffzero.model import Model, Usage

UNIT_POWER = 1e-3
r"""Watts of a field with \|E\|^2 = 1, which an image's brightest port has; the default."""
SAMPLE = 512
"""Training images of which the power is recorded."""

_QUANTILES = {"low": 0.05, "median": 0.5, "high": 0.95}


@dataclass(frozen=True)
class PowerBudget:
    r"""Total power behind every element that the light passes.

    Attributes:
        stages: The elements: ``input``, ``mesh 1``, ``nonlinearity 1``, ``mesh 2``, ....
        powers: Sum of \|E\|^2 over the ports [stages, n].
        ports: Number of ports N.
    """

    stages: tuple[str, ...]
    powers: np.ndarray
    ports: int

    def below(self, floor: float) -> dict[str, float]:
        r"""The meshes behind which a detector sees too little, and how much it sees.

        Args:
            floor: Least power of a port, in units of \|E\|^2.

        Returns:
            Mean power of a port for the median sample, in the same units, of those below it.
        """
        seen = np.median(self.powers, axis=1) / self.ports
        pairs = zip(self.stages, seen.tolist(), strict=True)
        return {stage: power for stage, power in pairs if "mesh" in stage and power < floor}

    def as_json(self, unit_power: float) -> dict[str, Any]:
        r"""The median over the samples and the range of nine in ten, in units of \|E\|^2.

        Args:
            unit_power: Power of one unit, W.
        """
        quantiles = np.quantile(self.powers, list(_QUANTILES.values()), axis=1).T.tolist()
        stages = [
            {"stage": stage} | dict(zip(_QUANTILES, found, strict=True))
            for stage, found in zip(self.stages, quantiles, strict=True)
        ]
        return {"unit_power_w": unit_power, "samples": self.powers.shape[1], "stages": stages}


def in_units(nonlinearity: str, unit_power: float) -> str:
    r"""A nonlinearity's text with a modulator's parts turned into what they make.

    ``electro-optic:gain=1000,v_pi=5`` (the fields of `meshes.ModulatorParts`, in SI units) becomes
    ``electro-optic:alpha=...,g=...,phi_b=...``; any other text stays as it is.

    Args:
        nonlinearity: ``NAME`` or ``NAME:key=value,...``.
        unit_power: Power of a field with \|E\|^2 = 1, W.

    Raises:
        ValueError: a part is out of range, or stands beside what is no part.
    """
    name, _, values = nonlinearity.partition(":")
    keys = {item.partition("=")[0].strip() for item in values.split(",")}
    if name.strip() != "electro-optic" or not keys & {part.name for part in fields(ModulatorParts)}:
        return nonlinearity
    parts = from_spec("nonlinearity", nonlinearity, {"electro-optic": ModulatorParts})
    made = asdict(parts.at(unit_power))
    return "electro-optic:" + ",".join(f"{key}={value!r}" for key, value in made.items())


def power_budget(model: Model, x: np.ndarray) -> PowerBudget:
    """Follow the light of some samples through a photonic network as it stands.

    Args:
        model: The network.
        x: Its inputs [n, N].

    Raises:
        ValueError: the network has no light in it, or hides it in a device.
    """
    pairs = list(_passage(model, x))
    # As far as the last detectors: what is behind them plays no part.
    end = max(index for index, (stage, _) in enumerate(pairs) if stage.startswith("mesh"))
    stages, powers = zip(("input", _power(x)), *pairs[: end + 1], strict=True)
    return PowerBudget(stages, np.stack(powers), model.units)


def _passage(model: Model, x: Any) -> Iterator[tuple[str, np.ndarray]]:
    """Every element with the power behind it; one that is behind a mesh has that mesh's number."""
    rng, age = model.noise_source("power")
    light, passed = x, 0
    for layer, params in model.layers:
        if not isinstance(layer, Photonic):
            what = model.config.device or model.config.network
            raise ValueError(f"model must be a photonic network that is simulated, got {what}")
        drawn = layer.draw_noise(rng, 1, 1, len(x), age)
        noise = tf.nest.map_structure(lambda array: array[0], drawn)
        own = one_set(tf.nest.map_structure(tf.convert_to_tensor, params))
        for name, behind in layer.stages(own, light, noise):
            light, passed = behind, passed + (name == "mesh")
            yield f"{name} {passed}", _power(light[0] if len(light.shape) == 3 else light)


def _power(light: Any) -> np.ndarray:
    # In double precision: the squares of dim light underflow in single.
    return np.sum(np.abs(np.asarray(light, np.complex128)) ** 2, axis=-1)


@dataclass(frozen=True, kw_only=True)
class ChipRates:
    r"""How fast a chip works and what it draws, one mesh at a time.

    .. math:: T = F / f + W t_w, \qquad E = P T

    for F forward passes and W phase writes: light crosses in no time, a pass lasts as long as its
    modulators and detectors take for one sample, and nothing is sent while phases settle.

    Attributes:
        symbol_rate: Samples a second f, Hz.
        write_time: Time in which the phases of one mesh are written and settle t_w, s.
        chip_power: Power of laser, heaters and electronics together P, W; None where the energy
            is not asked for.

    Raises:
        TypeError, ValueError: a value is not a number or out of range.
    """

    symbol_rate: float
    write_time: float
    chip_power: float | None = None

    def __post_init__(self) -> None:
        number("symbol_rate", self.symbol_rate, above=0)
        number("write_time", self.write_time, minimum=0)
        if self.chip_power is not None:
            number("chip_power", self.chip_power, minimum=0)

    def seconds(self, usage: Usage) -> float:
        """The time that a usage takes, s."""
        return usage.forward_passes / self.symbol_rate + usage.phase_writes * self.write_time

    def joules(self, usage: Usage) -> float | None:
        """The energy that a usage takes, J; None without a power."""
        return None if self.chip_power is None else self.chip_power * self.seconds(usage)
