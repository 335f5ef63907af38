"""Networks that a configuration can name, cut into blocks by its method."""

from __future__ import annotations

import importlib
import math
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from meshes import NONLINEARITIES, Phases, RectangularMesh
from meshes.nonlinearities import BlackBox, Linear
from meshes.validation import from_spec
from photonic_ffzero.config import SIMULATED, Config
from photonic_ffzero.data.tasks import Task
from photonic_ffzero.devices.device import Device, OnDevice, driver_of
from photonic_ffzero.devices.remote import RemoteDevice
from photonic_ffzero.devices.simulated import SimulatedChip
from photonic_ffzero.goodness.prototypes import PROTOTYPES
from photonic_ffzero.goodness.readouts import Goodness, Ports, Readout
from photonic_ffzero.layers.activations import ACTIVATIONS
from photonic_ffzero.layers.base import Layer
from photonic_ffzero.layers.blocks import Block
from photonic_ffzero.layers.conv import Conv, ConvParams
from photonic_ffzero.layers.dense import Dense, DenseParams
from photonic_ffzero.layers.photonic import Modulated, ModulatedPhases, Photonic, fabricated
from photonic_ffzero.seeds import generator


def nonlinearity(config: Config) -> Any:
    """The nonlinearity of a configuration: by its name, or the callable as a black box."""
    if callable(config.nonlinearity):
        return BlackBox(config.nonlinearity)
    registry = NONLINEARITIES if config.network == "photonic" else ACTIVATIONS
    return from_spec("nonlinearity", config.nonlinearity, registry)


def photonic(config: Config, units: int, task: Task) -> Iterator[Layer]:
    """Rectangular meshes of N ports, one behind the other."""
    between, engine = nonlinearity(config), config.engine or "auto"
    made = fabricated(
        config.layers,
        units,
        config.columns,
        config.chip_imperfections,
        _chip(config),
        config.reads or 1,
    )
    for index, (mesh, chip) in enumerate(made):
        amplifier = config.amplification if index else None
        if not config.train_nonlinearity:
            yield Photonic(mesh, between, engine, chip, amplifier)
        elif index == 0:
            yield Photonic(mesh, Linear(), engine, chip)
        else:
            yield Modulated(mesh, Linear(), engine, chip, amplifier, start=between)


def _chip(config: Config) -> int:
    """Seed of the chip."""
    return config.seed if config.chip is None else config.chip


def open_device(config: Config, units: int) -> Device:
    """The device that a configuration names: ``simulated``, ``tcp://...`` or ``module:factory``.

    Args:
        config: What names it, and what a simulated one is made of.
        units: Ports N of a simulated one.

    Raises:
        DeviceError: it does not answer.
        TypeError, ValueError: there is no such module or factory, or what it makes is no device.
    """
    name, _, rest = (config.device or "").partition(":")
    if name == "tcp":
        return RemoteDevice.at(config.device or "")
    if name != SIMULATED:
        return _made_by(name, rest)
    return SimulatedChip(
        units,
        config.layers,
        config.columns,
        nonlinearity=nonlinearity(config),
        amplifier=config.amplification,
        imperfections=config.device_imperfections,
        seed=_chip(config),
        engine=config.engine or "auto",
    )


def _made_by(module: str, factory: str) -> Device:
    """What the factory of a module makes; modules of the working directory count, too."""
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        make = getattr(importlib.import_module(module), factory)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"device {module}:{factory} cannot be found: {error}") from error
    return make()


def on_device(config: Config, units: int, device: Device | None) -> Iterator[Layer]:
    """The first meshes of a device, or of one that is not here.

    Raises:
        TypeError, ValueError: it is no device, or it has not what the configuration asks for.
    """
    driver, columns = None if device is None else driver_of(device), config.columns or units
    if driver is not None:
        for what, needed, found in (
            ("ports", units, driver.units),
            ("columns in a mesh", columns, driver.columns),
        ):
            if found != needed:
                raise ValueError(f"device must have {needed} {what}, found {found}")
        if driver.meshes < config.layers:
            raise ValueError(f"device must have {config.layers} meshes, found {driver.meshes}")
    for _ in range(config.layers):
        yield OnDevice(RectangularMesh(units, columns), driver, config.reads or 1)


def mlp(config: Config, units: int, task: Task) -> Iterator[Layer]:
    """Dense layers: ``depth - 1`` of some width, and one with the task's outputs.

    Raises:
        ValueError: the width cannot be shared by the groups of outputs.
    """
    between, groups = nonlinearity(config), task.labels * config.groups
    if config.layers > 1 and (config.width or 0) % groups:
        raise ValueError(
            f"width must be a multiple of {groups}, the label dimensions ({task.labels}) times "
            f"groups ({config.groups}), got {config.width}"
        )
    for inputs, outputs in _dense_sizes(config, units, task):
        yield Dense(inputs, outputs, between, groups)


def _dense_sizes(config: Config, units: int, task: Task) -> Iterator[tuple[int, int]]:
    width = config.width or 0
    for _ in range(config.layers - 1):
        yield units, width
        units = width
    yield units, task.outputs * config.groups


def cnn(config: Config, units: int, task: Task) -> Iterator[Layer]:
    """Convolutions on square images, ``depth - 1`` of them, and a dense layer.

    Raises:
        ValueError: the images are not square, or too small for that many convolutions.
    """
    between, size, channels = nonlinearity(config), config.kernel_size or 0, config.channels or 0
    shapes = _conv_shapes(config, units)
    shape = next(shapes)
    for index, behind in enumerate(shapes):
        pixels = math.prod(Conv.map_shape(shape, size, PADDING, POOL))
        rng = generator(config.seed, "projection", index)
        projection = rng.standard_normal((pixels, CHANNEL_TAPS), np.float32) / math.sqrt(pixels)
        yield Conv(shape, channels, projection, between, size, PADDING, POOL)
        shape = behind
    outputs, groups = task.outputs * config.groups, task.labels * config.groups
    yield Dense(math.prod(shape), outputs, between, groups)


def _conv_shapes(config: Config, units: int) -> Iterator[tuple[int, int, int]]:
    """The images' shape, then that behind every convolution."""
    side = math.isqrt(units)
    if side**2 != units:
        raise ValueError(f"cnn needs square images, got {units} values an image")
    shape = (side, side, 1)
    yield shape
    for _ in range(config.layers - 1):
        rows, columns = Conv.map_shape(shape, config.kernel_size or 0, PADDING, POOL)
        shape = (rows // POOL, columns // POOL, config.channels or 0)
        yield shape


CHANNEL_TAPS, PADDING, POOL = 10, 2, 2  # the paper's CNN


def parameter_shapes(config: Config, units: int, task: Task) -> Iterator[tuple[str, Any]]:
    """The name of every layer and the shapes of its parameters, without building any.

    A file's description can so be compared with its arrays before it costs memory.

    Raises:
        ValueError: as `build_blocks`.
    """
    groups = task.labels * config.groups
    if config.network == "photonic":
        grid = (config.columns or units, units // 2)
        phases, own = Phases(grid, grid, (units,)), (units,)
        modulated = ModulatedPhases(*phases, own, own, own)
        for index in range(config.layers):
            trained = config.train_nonlinearity and index > 0
            yield Photonic.name, modulated if trained else phases
        return
    sizes: Iterable[tuple[int, int]] = _dense_sizes(config, units, task)
    if config.network == "cnn":
        shapes = _conv_shapes(config, units)
        shape, channel, size = next(shapes), (config.channels,), config.kernel_size
        for behind in shapes:
            kernel = (config.channels, size, size, shape[2])
            yield Conv.name, ConvParams(kernel, *[channel] * 4)
            shape = behind
        sizes = [(math.prod(shape), task.outputs * config.groups)]
    for inputs, outputs in sizes:
        size = outputs // groups
        yield Dense.name, DenseParams((groups, inputs, size), (groups, size))


# A network's function maps (configuration, values of one input, task) to its layers.
NETWORKS: dict[str, Callable[[Config, int, Task], Iterator[Layer]]] = {
    "photonic": photonic,
    "mlp": mlp,
    "cnn": cnn,
}


def build_blocks(
    config: Config, units: int, task: Task, device: Device | None = None
) -> tuple[list[Block], list[Any]]:
    """Build the network that a configuration describes.

    Args:
        config: What to build.
        units: Ports N, or pixels of an image.
        task: What the network is to tell.
        device: The device that the configuration names. Without it the network cannot be used,
            but its parameters can.

    Returns:
        The blocks in the order of the signal, and the initial parameters of each.

    Raises:
        ValueError: layers, groups and prototypes do not fit each other, or the network is larger
            than any that could be trained here.
    """
    _check_size(config, units, task)
    if config.device:
        layers = list(on_device(config, units, device))
    else:
        layers = list(NETWORKS[config.network](config, units, task))
    initial = [
        layer.init(generator(config.seed, "parameters", index))
        for index, layer in enumerate(layers)
    ]
    if not config.local:
        whole = Block(tuple(layers), _readout(config, layers[-1], task, 0), task.labels)
        return [whole], [tuple(initial)]
    blocks = [
        Block((layer,), _readout(config, layer, task, index), task.labels)
        for index, layer in enumerate(layers)
    ]
    return blocks, [(params,) for params in initial]


MOST_PARAMETERS = 2**27  # a hundred meshes of 784 ports have half as many


def _check_size(config: Config, units: int, task: Task) -> None:
    """Refuse a slip of the keyboard before it costs memory or hours."""
    count = 0
    for layer, (_, shapes) in enumerate(parameter_shapes(config, units, task), start=1):
        count += sum(math.prod(shape) for shape in shapes)
        if count > MOST_PARAMETERS:
            raise ValueError(
                f"network must have at most {MOST_PARAMETERS} parameters, got {count} in the "
                f"first {layer} of {config.layers} layers"
            )


def _readout(config: Config, layer: Layer, task: Task, index: int) -> Readout:
    groups = layer.groups if layer.groups > 1 else task.labels * config.groups
    if groups % task.labels:  # a convolution's, one a channel
        raise ValueError(
            f"channels must be a multiple of the {task.labels} label dimensions, got {groups}"
        )
    if layer.taps % groups:
        raise ValueError(
            f"groups must share {layer.taps} tapped values evenly, got {groups} for "
            f"{task.labels} label dimensions behind {layer.name} {index + 1}"
        )
    dimension = layer.taps // groups
    if task.classes > dimension:
        raise ValueError(
            f"prototypes of {task.classes} classes need at least as many tapped values (ports, "
            f"outputs) a group, got {dimension} behind {layer.name} {index + 1}"
        )
    if config.detection is None:
        return Ports(task.labels, task.classes)
    rng = generator(config.seed, "prototypes", index)
    zero_mean = config.detection == "balanced"
    draw = PROTOTYPES[config.prototypes or ""]
    corners = [draw(task.corners, dimension, rng, zero_mean=zero_mean) for _ in range(groups)]
    prototypes = np.stack(corners)[:, : task.classes]
    return Goodness(prototypes, config.detection, config.norm_size or 0)
