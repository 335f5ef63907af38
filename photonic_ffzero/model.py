"""A network with all that is known of it: configuration, parameters, history."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from photonic_ffzero.config import Config
from photonic_ffzero.data.encoding import Encoder
from photonic_ffzero.data.tasks import Task
from photonic_ffzero.devices.device import Device
from photonic_ffzero.layers.base import Layer
from photonic_ffzero.layers.blocks import Block, Chance
from photonic_ffzero.networks import build_blocks
from photonic_ffzero.seeds import generator


@dataclass
class Usage:
    """What a run would ask of a chip.

    Attributes:
        forward_passes: Samples sent through one mesh (or digital layer), summed over them.
        phase_writes: Sets of phases (or weights) written to one, summed over them.
    """

    forward_passes: int = 0
    phase_writes: int = 0

    def add(self, block: Block, passes: int, samples: int, writes: int = 1) -> None:
        """Count samples sent through a block so often, each time with phases written so often."""
        self.forward_passes += block.depth * passes * samples
        self.phase_writes += len(block.layers) * passes * writes


@dataclass(frozen=True)
class EpochRecord:
    """One row of the history; passes, writes and seconds add up over the run.

    Attributes:
        mesh: The mesh or meshes (layers) in training, counted from 1.
        epoch: The epoch, counted from 1.
        loss: Mean over the epoch's steps.
        train_accuracy: Accuracy (R^2 of a regression) of the readout behind these meshes on the
            first training images.
        validation_accuracy: The same on the images held out, or None.
        forward_passes: See `Usage`.
        phase_writes: See `Usage`.
        epsilon: Step of the differences (of a phase: rad), or None.
        seconds: Time since training began.
    """

    mesh: str
    epoch: int
    loss: float
    train_accuracy: float
    validation_accuracy: float | None
    forward_passes: int
    phase_writes: int
    epsilon: float | None
    seconds: float


@dataclass
class Position:
    """Where a training stands. Random states need no place: they follow from it and the seed.

    Attributes:
        block: The block in training, from 0.
        epoch: Its epoch, from 0.
        losses: The losses of the steps taken in that epoch.
        optimizer: The optimizer's state as a flat list; empty at a block's start.
        epsilon: Step of the differences in that block, once it has been chosen.
    """

    block: int = 0
    epoch: int = 0
    losses: list[float] = field(default_factory=list)
    optimizer: list[np.ndarray] = field(default_factory=list)
    epsilon: float | None = None

    def has_begun(self, block: int) -> bool:
        """Whether any step of a block was taken. (The last epoch of one may be done.)"""
        return (self.block, self.epoch, len(self.losses)) > (block, 0, 0)


_STRUCTURE = (
    *("network", "meshes", "columns", "depth", "width", "channels", "kernel_size", "groups"),
    *("train_nonlinearity", "readout", "prototypes", "detection", "norm_size"),
)


@dataclass
class Model:
    """A network, new or trained.

    Attributes:
        config: Every choice of the run.
        units: Number of ports N, or of values of one input.
        task: What it is to tell.
        encoder: How images become its inputs; None for a network trained on inputs as they are.
        device: The device that the configuration names; None if it names none, or is not here:
            then the model cannot be evaluated.
        blocks: The blocks, in the order of the light.
        params: The parameters of each block; random at first.
        history: One record an epoch.
        usage: Forward passes and phase writes of the training.
        seconds: Time of the training.

    Raises:
        ValueError: layers, groups and prototypes do not fit each other, the encoder gives another
            number of values, or the device has other meshes.
    """

    config: Config
    units: int
    task: Task
    encoder: Encoder | None = None
    device: Device | None = None
    blocks: list[Block] = field(init=False)
    params: list[Any] = field(init=False)
    history: list[EpochRecord] = field(init=False, default_factory=list)
    usage: Usage = field(init=False, default_factory=Usage)
    seconds: float = field(init=False, default=0.0)

    def __post_init__(self) -> None:
        if self.device is not None and not self.config.device:
            raise ValueError(f"device does not apply to a configuration without, got {self.device}")
        if self.task.name != self.config.task:
            raise ValueError(f"task must be a {self.config.task}, got {self.task}")
        if self.encoder is not None and self.encoder.values != self.units:
            raise ValueError(f"encoder must give {self.units} values, got {self.encoder}")
        self.blocks, self.params = build_blocks(self.config, self.units, self.task, self.device)

    @property
    def layers(self) -> Iterator[tuple[Layer, Any]]:
        """Every layer with its parameters, in the order of the light."""
        for block, params in zip(self.blocks, self.params, strict=True):
            yield from zip(block.layers, params, strict=True)

    def scores(self, x: Any) -> np.ndarray:
        """Scores of every block's readout [blocks, n, T C] for fields [n, N].

        Raises:
            ValueError: ``x`` has other than N values a sample.
        """
        if np.ndim(x) != 2 or x.shape[-1] != self.units:
            raise ValueError(f"x must have shape [n, {self.units}], got {list(np.shape(x))}")
        scores, front = [], ()
        for index, (block, own) in enumerate(zip(self._evaluated, self.params, strict=True)):
            params = (*front, *own)
            scores.append(block.all_scores(params, x, self.chance("readings", index)))
            front = () if block.cacheable else params
            if block.cacheable and block is not self._evaluated[-1]:
                x = block.all_outputs(params, x)
        return np.stack(scores)

    @cached_property
    def _evaluated(self) -> list[Block]:
        """Every block, behind the layers that its inputs have to cross again to be read there."""
        found: list[Block] = []
        front: tuple[Layer, ...] = ()
        for block in self.blocks:
            found.append(replace(block, layers=(*front, *block.layers)) if front else block)
            front = () if found[-1].cacheable else found[-1].layers
        return found

    def take_over(self, other: Model) -> None:
        """Take parameters and prototypes over from a trained network, to go on from there.

        Raises:
            ValueError: the other is built in another way, or learned other things.
        """
        mine, theirs = self._kind(), other._kind()
        for name, value in mine.items():
            if theirs[name] != value:
                raise ValueError(
                    f"start_from must be a network with {name} {value}, got {theirs[name]}"
                )
        self.params = other.params
        pairs = zip(self.blocks, other.blocks, strict=True)
        self.blocks = [replace(mine, readout=theirs.readout) for mine, theirs in pairs]
        vars(self).pop("_evaluated", None)  # was made of the blocks before

    def _kind(self) -> dict[str, Any]:
        """What networks must share to have parameters and prototypes of the same meaning."""
        own = {name: getattr(self.config, name) for name in _STRUCTURE}
        own["method"] = "ff" if self.config.local else "bp"
        return own | {"units": self.units, "task": self.task}

    def chance(self, purpose: str, *index: int) -> Chance:
        """What a chip's noise comes from when the model as it stands is evaluated."""
        epochs = len(self.history)
        return Chance(generator(self.config.seed, purpose, epochs, *index), epochs)
