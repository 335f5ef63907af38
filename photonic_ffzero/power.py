"""Where the light goes: optical power after every element; time and energy on a chip."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

from meshes import ModulatorParts
from meshes._tensorflow import tf
from meshes.measured import Table
from meshes.validation import check_fields, described, from_spec, instance, number_field
from photonic_ffzero.data.checks import check_inputs
from photonic_ffzero.layers.base import first_step, one_set
from photonic_ffzero.layers.photonic import Photonic
from photonic_ffzero.model import Model, Usage

UNIT_POWER = 1e-3
r"""Default watts of a field with \|E\|^2 = 1, which the brightest port of an image has."""
SAMPLE = 512
"""Training images whose power is recorded."""

_QUANTILES = {"low": 0.05, "median": 0.5, "high": 0.95}


@dataclass(frozen=True, eq=False)
class PowerBudget:
    r"""Total power of all ports after every element that the light passes.

    Attributes:
        stages: The elements: ``input``, ``mesh 1``, ``nonlinearity 1``, ``mesh 2``, ....
        powers: Sum of \|E\|^2 over the ports [stages, n].
        ports: Number of ports N.
    """

    stages: tuple[str, ...]
    powers: np.ndarray
    ports: int

    @property
    def after_meshes(self) -> dict[str, float]:
        r"""Power of a port of the median sample after each mesh, in units of \|E\|^2."""
        per_port = np.median(self.powers, axis=1) / self.ports
        pairs = zip(self.stages, per_port.tolist(), strict=True)
        return {stage: power for stage, power in pairs if "mesh" in stage}

    def below(self, floor: float) -> dict[str, float]:
        """The meshes after which that power is less than ``floor``, with the power."""
        return {stage: power for stage, power in self.after_meshes.items() if power < floor}

    def as_json(self, unit_power: float) -> dict[str, Any]:
        r"""Median over the samples and range of nine in ten, in units of ``unit_power`` watts."""
        quantiles = np.quantile(self.powers, list(_QUANTILES.values()), axis=1).T.tolist()
        stages = [
            {"stage": stage, **dict(zip(_QUANTILES, powers, strict=True))}
            for stage, powers in zip(self.stages, quantiles, strict=True)
        ]
        return {"unit_power_w": unit_power, "samples": self.powers.shape[1], "stages": stages}


def in_units(nonlinearity: Any, unit_power: float) -> Any:
    r"""The text of a nonlinearity, with the parts of a modulator replaced by what they result in.

    ``electro-optic:gain=1000,v_pi=5`` (the fields of `meshes.ModulatorParts`, in SI units) becomes
    ``electro-optic:alpha=...,g=...,phi_b=...``; anything else is returned as it is. A field with
    \|E\|^2 = 1 has the power ``unit_power``, W.
    """
    name, _, values = str(nonlinearity).partition(":")
    keys = {item.partition("=")[0].strip() for item in values.split(",")}
    if name.strip() != "electro-optic" or not keys & {part.name for part in fields(ModulatorParts)}:
        return nonlinearity
    parts = from_spec("nonlinearity", nonlinearity, {"electro-optic": ModulatorParts})
    with described("nonlinearity electro-optic"):
        modulator = asdict(parts.at(unit_power))
    return "electro-optic:" + ",".join(f"{key}={value!r}" for key, value in modulator.items())


def power_budget(model: Model, x: Any) -> PowerBudget:
    """Follow the light of samples [n, N] through a simulated photonic network to its last mesh."""
    instance("model", model, Model)
    x = check_inputs("x", x, model.units)
    pairs = [(name, _power(light)) for name, light in passage(model, x)]
    end = max(index for index, (stage, _) in enumerate(pairs) if stage.startswith("mesh"))
    stages, powers = zip(("input", _power(x)), *pairs[: end + 1], strict=True)
    return PowerBudget(stages, np.stack(powers), model.units)


def passage(model: Model, x: Any) -> Iterator[tuple[str, np.ndarray]]:
    """Every element of a simulated photonic network, and the fields [n, N] after it.

    Elements after a mesh have its number: ``mesh 1``, ``nonlinearity 1``, ``mesh 2``, ....
    """
    rng, age = model.noise_source("power")
    light, meshes = x, 0
    for layer, params in model.layers:
        if not isinstance(layer, Photonic):
            what = model.config.device or model.config.network
            raise ValueError(f"model must be a photonic network that is simulated, got {what}")
        drawn = layer.draw_noise(rng, 1, 1, len(x), age)
        noise = first_step(drawn)
        stacked = one_set(tf.nest.map_structure(tf.convert_to_tensor, params))
        for name, after in layer.stages(stacked, light, noise):
            light, meshes = after, meshes + (name == "mesh")
            yield f"{name} {meshes}", np.asarray(light[0] if len(light.shape) == 3 else light)


_CHUNK = 4096  # samples whose fields are held at once


def beyond_tables(model: Model, x: np.ndarray) -> list[str]:
    """What says that light [n, N] is brighter than a measured nonlinearity was measured with."""
    config = model.config
    if config.network != "photonic" or config.device:
        return []  # nobody sees the light inside a device
    elements = map(config.nonlinearity_after, range(config.layers - 1))
    tables = {f"mesh {i}": e for i, e in enumerate(elements, 1) if isinstance(e, Table)}
    brightest = dict.fromkeys(tables, 0.0)
    for start in range(0, len(x) if tables else 0, _CHUNK):
        for name, light in passage(model, x[start : start + _CHUNK]):
            if name in tables:
                power = float(np.max(np.abs(light) ** 2))
                brightest[name] = max(brightest[name], power)
    return [
        f"nonlinearity {table} ends at |E|^2 = {table.highest:g}, but light of up to "
        f"{brightest[name]:.3g} leaves {name}"
        for name, table in tables.items()
        if brightest[name] > table.highest * (1 + 1e-5)
    ]


def _power(light: Any) -> np.ndarray:
    # In double precision: the squares of dim light underflow in single.
    return np.sum(np.abs(np.asarray(light, np.complex128)) ** 2, axis=-1)


@dataclass(frozen=True, kw_only=True)
class ChipRates:
    r"""How fast a chip works and what power it draws, one mesh at a time.

    .. math:: T = F / f + W t_w, \qquad E = P T

    for F forward passes and W phase writes. Light crosses in no time, a pass lasts as long as the
    modulators and detectors need for one sample, and nothing is sent while phases settle.

    Attributes:
        symbol_rate: Samples per second f, Hz.
        write_time: Time t_w in which the phases of one mesh are written and settle, s.
        chip_power: Power P of laser, heaters and electronics together, W; None without an energy.
    """

    symbol_rate: float = number_field(minimum=1e-12)  # so that no time or energy is infinite
    write_time: float = number_field(minimum=0, maximum=1e12)
    chip_power: float | None = number_field(None, minimum=0, maximum=1e12)

    def __post_init__(self) -> None:
        check_fields(self)

    def seconds(self, usage: Usage) -> float:
        return usage.forward_passes / self.symbol_rate + usage.phase_writes * self.write_time

    def joules(self, usage: Usage) -> float | None:
        return None if self.chip_power is None else self.chip_power * self.seconds(usage)
