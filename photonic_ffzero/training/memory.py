"""How much memory a training takes, estimated before any of it is taken."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from typing import Any

from meshes._tensorflow import tf
from photonic_ffzero.config import Config
from photonic_ffzero.gradients.estimators import ESTIMATORS
from photonic_ffzero.layers.base import CHUNK
from photonic_ffzero.layers.blocks import Block, Stage

# Bytes a number, with the copies that are alive at once; measured as the growth of the process.
_LIGHT, _LIGHT_COMPLEX, _PARAMETER, _DIRECTION = 12, 24, 8, 4
_READING, _SOURCE, _WRITE = 16, 32, 16  # noise of a reading, of a port's light, of a phase
_METRIC = 20  # of a law that follows the network: five copies of its metric
_STORED, _STORED_COMPLEX = 8, 16  # outputs: as an array, and as a tensor
_SHARE = 0.8  # of the memory that is available
_ALWAYS = 2**30  # bytes that are not worth an error

_SETTINGS = ("directions", "reads", "batch_size")  # what a step's memory is proportional to


def check_memory(config: Config, stages: Sequence[Stage], params: list[Any], samples: int) -> None:
    """Refuse a training that would not fit into the memory of this machine.

    Raises:
        ValueError: names the setting that takes most, and a value that would fit.
    """
    sizes = {name: getattr(config, name) or 1 for name in _SETTINGS}
    sizes["batch_size"] = min(sizes["batch_size"], samples)
    limit = max(_SHARE * available_memory(), _ALWAYS)
    if (stored := samples * _stored_bytes(config, stages)) > limit:
        what, remedy = f"x of {samples} samples", "fewer would fit"
        if config.order:
            what, remedy = f"order {config.order}", f"order together stores none of {samples}"
        raise ValueError(
            f"{what} would need about {stored / 1e9:,.1f} GB of memory for the outputs of a "
            f"{config.layer_name}, of {limit / 1e9:,.1f} GB that this machine can spare; {remedy}"
        )
    limit -= stored

    def needed(**changed: int) -> float:
        return max(
            sum(
                _step_bytes(config, block, own, **(sizes | changed))
                for block, own in zip(stage.blocks, params[stage.index : stage.end], strict=True)
            )
            for stage in stages
        )

    if needed() <= limit:
        return
    name = min(_SETTINGS, key=lambda name: needed(**{name: 1}))
    smaller = range(1, sizes[name])
    fits = bisect_left(smaller, True, key=lambda value: needed(**{name: value}) > limit)
    remedy = f"at most {fits} would fit" if fits else "a smaller network would fit"
    raise ValueError(
        f"{name} {sizes[name]} would need about {needed() / 1e9:,.1f} GB of memory a step, of "
        f"{limit / 1e9:,.1f} GB that this machine can spare; {remedy}"
    )


def _stored_bytes(config: Config, stages: Sequence[Stage]) -> float:
    """Bytes a sample of the outputs on which a stage trains, of the stage before."""
    number = _STORED_COMPLEX if config.network == "photonic" else _STORED
    sizes = (stage.layers[-1].outgoing for stage in stages[:-1] if stage.cacheable)
    return number * max(sizes, default=0)


def _step_bytes(
    config: Config, block: Block, params: Any, *, directions: int, reads: int, batch_size: int
) -> float:
    """Bytes of a step: light (or activations), parameter sets, directions and noise."""
    sets = ESTIMATORS[config.estimator]().parameter_sets(directions)
    numbers = sum(math.prod(array.shape) for array in tf.nest.flatten(params))
    values = max(layer.values for layer in block.all_layers)
    complex_light = len(block.all_layers) > 1 or block.runs_on == "xla"
    light = _LIGHT_COMPLEX if complex_light else _LIGHT
    chip, sent = config.chip_imperfections, max(sets * batch_size, CHUNK) * block.taps
    noise = (
        sent * reads * _READING * bool(chip.noisy_readings)
        + sent * _SOURCE * bool(chip.source_noise)
        + sets * numbers * _WRITE * bool(chip.write_noise)
    )
    inside = sum(layer.values for layer in block.moved) or block.taps
    moved = batch_size * inside if config.perturb == "activations" else numbers
    metric = sum(part.size * part.shape[1] for part in block.together)
    copies = 1 if config.perturb == "activations" else sets
    return (
        sets * batch_size * values * light
        + copies * numbers * _PARAMETER
        + directions * moved * _DIRECTION
        + metric * _METRIC * config.follows_network
        + noise
    )


def available_memory() -> float:
    """Bytes that a new program can have without swapping."""
    import psutil

    return float(psutil.virtual_memory().available)
