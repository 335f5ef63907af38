"""Twins in training: how one begins, and what a run knows at its end."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from meshes.estimate import ChipEstimate, MeshEstimate, MeshParameters
from meshes.nonlinearities import Parameter, parameters_of
from meshes.validation import instance
from photonic_ffzero.gradients import Twin, TwinState, has_twin
from photonic_ffzero.gradients.twin import Elements
from photonic_ffzero.layers.base import Layer
from photonic_ffzero.layers.blocks import Block
from photonic_ffzero.layers.photonic import PhaseLayer
from photonic_ffzero.model import Model


def estimate_of(name: str, value: Any) -> ChipEstimate:
    """An estimate as it is, or that in the file with this path."""
    instance(name, value, ChipEstimate, str, os.PathLike)
    return value if isinstance(value, ChipEstimate) else ChipEstimate.load(value)


def twin_of(model: Model, index: int, block: Block) -> Twin | None:
    """The twin of a block, with what the model knows of the chip; None if none is needed."""
    if not has_twin(model.config.estimator):
        return None
    chip = model.config.known_imperfections
    start, front = model.known[places(model, index)], model.known[: len(block.front)]
    differ = any(np.ptp(mesh.values.loss) > 0 for mesh in (*start, *front))
    twin = nominal_twin(
        block, start, front, chip.drive_step, differ or bool(chip.loss_imbalance_db)
    )
    # A block that was just loaded has no front, and its twin as many parameters to fit.
    layers = [layer for part in model.blocks[: index + 1] for layer in part.layers]
    return replace(twin, elements=assumed_elements(layers))


def nominal_twin(
    block: Block,
    start: Sequence[MeshEstimate],
    front: Sequence[MeshEstimate] = (),
    drive_step: float = 0.0,
    port_losses: bool = False,
) -> Twin:
    """A twin of a block as it was designed, which holds nothing of the chip."""
    layers = tuple(layer.nominal for layer in block.layers if isinstance(layer, PhaseLayer))
    before = tuple((x.nominal, params) for x, params in block.front if isinstance(x, PhaseLayer))
    designed = replace(block, layers=layers, front=before)
    elements = assumed_elements(block.all_layers)
    return Twin(designed, tuple(start), elements, tuple(front), drive_step, port_losses)


def assumed_elements(layers: Sequence[Layer]) -> Elements:
    """What is to be fitted of the elements between layers: of a device nobody knows them."""
    *before, last = layers
    return (
        *(_assumed(layer, "nonlinearity", "amplifier") for layer in before),
        _assumed(last, "amplifier"),
    )


def _assumed(layer: Layer, *names: str) -> dict[str, dict[str, Parameter]]:
    if layer.runs_on != "device":
        return {}
    elements = {name: getattr(layer, name) for name in names}
    parts = {name: parameters_of(element) for name, element in elements.items() if element}
    return {name: part for name, part in parts.items() if part}


def places(model: Model, index: int) -> slice:
    """Where a block's meshes stand among those of the network."""
    return slice(index, index + 1) if model.config.local else slice(0, model.config.layers)


def learned(twin: Twin, state: TwinState) -> tuple[MeshEstimate, ...]:
    """What a twin knows after a training.

    Readings at phases that hardly move do not tell the parameters apart, so that an uncertainty
    does not shrink: it is that of the start, and by how far the value has moved since.
    """
    return tuple(
        as_estimate(after, MeshParameters(*map(_moved, mesh.std, mesh.values, after)))
        for mesh, after in zip(twin.start, state.values, strict=True)
    )


def _moved(std: np.ndarray, before: np.ndarray, after: Any) -> np.ndarray:
    return np.hypot(std, np.float64(after) - before)


def as_estimate(values: MeshParameters, std: MeshParameters) -> MeshEstimate:
    """An estimate from the tensors of a twin."""
    return MeshEstimate(MeshParameters(*map(np.float64, values)), std)
