"""Calibration of a chip on its own, without a training."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from meshes import (
    Amplifier,
    Chip,
    ChipEstimate,
    Linear,
    MeshEstimate,
    Nonlinearity,
    RectangularMesh,
)
from meshes.validation import instance, integer, number, quoted, switch
from photonic_ffzero.devices.device import Device, OnDevice, driver_of
from photonic_ffzero.elements import KNOWN_NONLINEARITY, amplifier_of, nonlinearity_of
from photonic_ffzero.goodness.readouts import Ports
from photonic_ffzero.layers.blocks import Block
from photonic_ffzero.layers.photonic import PhaseLayer, Photonic
from photonic_ffzero.seeds import generator
from photonic_ffzero.training.calibration import Progress, calibrated, usual_settings
from photonic_ffzero.training.twins import estimate_of, nominal_twin
from photonic_ffzero.training.warnings import ResultWarning

_GAIN_DB = 1.0  # of a mesh, from which on it is none of the errors of a fit


def calibrate(
    chip: Device | Chip,
    settings: int | None = None,
    *,
    batch_size: int = 128,
    start: ChipEstimate | str | os.PathLike[str] | None = None,
    nonlinearity: str | Nonlinearity | None = None,
    amplifier: str | Amplifier | None = None,
    port_losses: bool = False,
    drive_step: float = 0.0,
    reads: int | None = None,
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
        start: What is known before; or the path of a file of `meshes.ChipEstimate.save`.
        nonlinearity: What a device is taken to have after each mesh, as it is or as the setting
            is written; ``electro-optic`` if None. One simulated mesh takes none.
        amplifier: What it is taken to have in front of each mesh but the first; likewise.
        port_losses: Whether to fit a loss for each port of each column, not one in all.
        drive_step: Smallest change of a phase that the drive can make, rad; 0 if any.
        reads: Readings averaged into one; if None one, and of a simulated mesh as many as its
            chip has.
        seed: Seed of phases and light.
        progress: Called with how many settings of a mesh are done, and how many there are.

    Returns:
        The estimate, with uncertainties that are infinite for what intensities cannot show.

    Warns:
        ResultWarning: A mesh seems to amplify, as where readings are in other units than |E|^2.

    Raises:
        DeviceError: the device failed, or no light comes out behind a mesh.
    """
    batch = integer("batch_size", batch_size, minimum=1)
    seed, step = integer("seed", seed, minimum=0), number("drive_step", drive_step, minimum=0)
    port_losses = switch("port_losses", port_losses)
    if not callable(progress):
        raise TypeError(f"progress must be a function, got {quoted(progress)}")
    layers = _layers(chip, nonlinearity, amplifier, reads)
    units, columns = layers[0].mesh.units, layers[0].mesh.num_columns
    count = usual_settings(columns) if settings is None else settings
    count = integer("settings", count, minimum=1)
    known = ChipEstimate.known(units, columns, len(layers))
    if start is not None:
        known = estimate_of("start", start)
        known.check_fits(units, columns, len(layers))
    rngs = [generator(seed, "calibration", index) for index in range(len(layers))]
    params = [layer.init(rng) for layer, rng in zip(layers, rngs, strict=True)]
    block = Block(tuple(layers), Ports(1, units))
    twin = nominal_twin(block, known.meshes, (), step, port_losses)

    def inputs(rng: np.random.Generator) -> np.ndarray:
        return rng.standard_normal((batch, units), np.float32)

    def told(index: int, done: int, total: int) -> None:
        progress(done, total)

    learned = calibrated(block, twin, params, inputs, count, rngs, progress=told).start
    _warn_of_gain(learned)
    return ChipEstimate(learned)


def _warn_of_gain(meshes: Sequence[MeshEstimate]) -> None:
    """Say where a mesh, which is passive, seems to amplify."""
    for index, mesh in enumerate(meshes, start=1):
        if (gain := -mesh.values.loss.sum(axis=0).mean()) > _GAIN_DB:
            warnings.warn(
                f"mesh {index} seems to amplify by {gain:.2g} dB: readings must be in units of "
                "|E|^2, divided by the gain of the detectors",
                ResultWarning,
                stacklevel=3,
            )


def _layers(
    chip: Device | Chip, nonlinearity: Any, amplifier: Any, reads: int | None
) -> Sequence[PhaseLayer]:
    """The meshes of a chip, each with its detectors."""
    if reads is not None:
        reads = integer("reads", reads, minimum=1)
    if isinstance(chip, Chip):
        for name, value in (("nonlinearity", nonlinearity), ("amplifier", amplifier)):
            if value is not None:
                raise ValueError(f"{name} does not apply to one simulated mesh; it needs a device")
        return [Photonic(chip.mesh, Linear(), "auto", replace(chip, reads=reads or chip.reads))]
    driver = driver_of(instance("chip", chip, Device, Chip))
    element = "electro-optic" if nonlinearity is None else nonlinearity
    between = nonlinearity_of("nonlinearity", element, KNOWN_NONLINEARITY)
    front = amplifier_of("amplifier", amplifier)
    mesh = RectangularMesh(driver.units, driver.columns)
    return [
        OnDevice(mesh, driver, reads or 1, between, front if index else None)
        for index in range(driver.meshes)
    ]
