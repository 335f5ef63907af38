"""Calibration of a chip on its own, without a training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from meshes import (
    NONLINEARITIES,
    Amplifier,
    Chip,
    ChipEstimate,
    Linear,
    Nonlinearity,
    RectangularMesh,
)
from meshes.validation import from_spec, integer
from photonic_ffzero.devices.device import Device, OnDevice, driver_of
from photonic_ffzero.goodness.readouts import Ports
from photonic_ffzero.layers.blocks import Block
from photonic_ffzero.layers.photonic import PhaseLayer, Photonic
from photonic_ffzero.seeds import generator
from photonic_ffzero.training.calibration import Progress, calibrated, stages
from photonic_ffzero.training.twins import nominal_twin

SETTINGS_A_STAGE = 200
"""Random settings of the phases in each stage, where nobody says how many."""


def calibrate(
    chip: Device | Chip,
    settings: int | None = None,
    *,
    batch_size: int = 128,
    start: ChipEstimate | None = None,
    nonlinearity: str | Nonlinearity = "electro-optic",
    amplifier: Amplifier | None = None,
    port_losses: bool = False,
    drive_step: float = 0.0,
    reads: int = 1,
    seed: int = 0,
    progress: Progress = lambda done, total: None,
) -> ChipEstimate:
    """Learn a chip from the intensities behind each of its meshes, at random phases.

    Each mesh is calibrated after the ones before it, which then stand in the bar state. See
    `training.calibration`.

    Args:
        chip: A device, or one simulated mesh.
        settings: Settings of the phases for each mesh, each read with one batch; 200 for each
            stage of the calibration if None.
        batch_size: Samples of random light read at each setting.
        start: What is known before.
        nonlinearity: What the device is taken to have after each mesh.
        amplifier: What it is taken to have in front of each mesh but the first.
        port_losses: Whether to fit a loss for each port of each column, not one in all.
        drive_step: Smallest change of a phase that the drive can make, rad; 0 if any.
        reads: Readings averaged into one.
        seed: Seed of phases and light.
        progress: Called with how many settings of a mesh are done, and how many there are.

    Returns:
        The estimate, with uncertainties that are infinite for what intensities cannot show.
    """
    batch = integer("batch_size", batch_size, minimum=1)
    layers = _layers(chip, nonlinearity, amplifier, integer("reads", reads, minimum=1))
    units, columns = layers[0].mesh.units, layers[0].mesh.num_columns
    known = start or ChipEstimate.known(units, columns, len(layers))
    known.check_fits(units, columns, len(layers))
    count = SETTINGS_A_STAGE * len(stages(columns)) if settings is None else settings
    integer("settings", count, minimum=1)
    rngs = [
        generator(integer("seed", seed, minimum=0), "calibration", i) for i in range(len(layers))
    ]
    params = [layer.init(rng) for layer, rng in zip(layers, rngs, strict=True)]
    block = Block(tuple(layers), Ports(1, units))
    twin = nominal_twin(block, known.meshes, (), drive_step, port_losses)

    def inputs(rng: np.random.Generator) -> np.ndarray:
        return rng.standard_normal((batch, units), np.float32)

    def told(index: int, done: int, total: int) -> None:
        progress(done, total)

    return ChipEstimate(calibrated(block, twin, params, inputs, count, rngs, progress=told).start)


def _layers(
    chip: Device | Chip, nonlinearity: Any, amplifier: Amplifier | None, reads: int
) -> Sequence[PhaseLayer]:
    """The meshes of a chip, each with its detectors."""
    if isinstance(chip, Chip):
        return [Photonic(chip.mesh, Linear(), "auto", chip)]
    if isinstance(nonlinearity, str):
        nonlinearity = from_spec("nonlinearity", nonlinearity, NONLINEARITIES)
    driver = driver_of(chip)
    mesh = RectangularMesh(driver.units, driver.columns)
    return [
        OnDevice(mesh, driver, reads, nonlinearity, amplifier if index else None)
        for index in range(driver.meshes)
    ]
