"""Networks that a configuration can name, cut into blocks by its method."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from meshes import Phases, RectangularMesh
from meshes.nonlinearities import Linear
from photonic_ffzero.config import Config
from photonic_ffzero.data.checks import COLOURS
from photonic_ffzero.data.encoding import CHANNELS
from photonic_ffzero.data.tasks import Classification, Task
from photonic_ffzero.devices.device import (
    Device,
    OnDevice,
    closed_on_error,
    device_errors,
    driver_of,
)
from photonic_ffzero.devices.remote import SCHEME, RemoteDevice
from photonic_ffzero.devices.simulated import SimulatedChip
from photonic_ffzero.elements import resolve
from photonic_ffzero.goodness.prototypes import PROTOTYPES
from photonic_ffzero.goodness.readouts import READOUTS, Goodness, Ports, Readout
from photonic_ffzero.layers.base import Layer
from photonic_ffzero.layers.blocks import Block
from photonic_ffzero.layers.conv import Conv, ConvParams
from photonic_ffzero.layers.dense import Dense, DenseParams
from photonic_ffzero.layers.mixer import Head, Mixer, Pooled
from photonic_ffzero.layers.photonic import Modulated, ModulatedPhases, Photonic, fabricated_mesh
from photonic_ffzero.seeds import generator

CHANNEL_TAPS, PADDING, POOL = 10, 2, 2  # the paper's CNN
MOST_PARAMETERS = 2**27  # a hundred meshes of 784 ports have half as many


class Blueprint(NamedTuple):
    """A layer before it is built, so that its size can be checked before it costs memory."""

    name: str
    shapes: Any  # a named tuple, as the layer's parameters
    build: Callable[[], Layer]
    fixed: int = 0  # numbers that it draws besides its parameters
    joins: bool = False  # whether it is in the block of the layer before, whatever the method


class Saved(NamedTuple):
    """The numbers of a trained network: parameters of each layer, prototypes of each goodness."""

    params: list[Any]
    prototypes: list[np.ndarray]


def photonic(config: Config, units: int, task: Task) -> Iterator[Blueprint]:
    """Rectangular meshes of N ports in a row."""
    grid, ports = (config.columns or units, units // 2), (units,)
    phases = Phases(grid, grid, ports)
    for index in range(config.layers):
        modulated = config.train_nonlinearity and index > 0
        shapes = ModulatedPhases(*phases, ports, ports, ports) if modulated else phases
        yield Blueprint(Photonic.name, shapes, partial(_mesh, config, index, units))


def _mesh(config: Config, index: int, units: int) -> Layer:
    how = config.columns, config.chip_imperfections, _chip_seed(config), config.reads or 1
    mesh, chip = fabricated_mesh(index, units, *how)
    engine, amplifier = config.engine or "auto", config.amplification if index else None
    if not config.train_nonlinearity:
        return Photonic(mesh, config.nonlinearity_after(index), engine, chip, amplifier)
    if index == 0:
        return Photonic(mesh, Linear(), engine, chip)
    start = config.nonlinearity_after(index - 1)
    return Modulated(mesh, Linear(), engine, chip, amplifier, start=start)


def mlp(config: Config, units: int, task: Task) -> Iterator[Blueprint]:
    """Dense layers: ``depth - 1`` of the same width, and one with the task's outputs."""
    groups, width = task.labels * config.groups, config.width
    if config.layers > 1 and (width or 0) % groups:
        raise ValueError(
            f"width must be a multiple of {groups}, the label dimensions ({task.labels}) times "
            f"groups ({config.groups}), got {width}"
        )
    for index in range(config.layers - 1):
        yield _dense(config, index, units, width or 0, groups)
        units = width or 0
    yield _dense(config, -1, units, task.outputs * config.groups, groups)


def _dense(config: Config, index: int, inputs: int, outputs: int, groups: int) -> Blueprint:
    size, own = outputs // groups, ("scaling", "initialization")
    shapes = DenseParams((groups, inputs, size), (groups, size))
    chosen = {name: value for name in own if (value := getattr(config, name)) is not None}
    build = partial(
        Dense, inputs, outputs, config.nonlinearity_after(index), groups=groups, **chosen
    )
    return Blueprint(Dense.name, shapes, build)


def cnn(config: Config, units: int, task: Task) -> Iterator[Blueprint]:
    """Convolutions on square images, ``depth - 1`` of them, and a dense layer."""
    size, channels = config.kernel_size or 0, config.channels or 0
    side, colours = square_images(config, units)
    shape = (side, side, colours)
    for index in range(config.layers - 1):
        rows, columns = Conv.map_shape(shape, size, PADDING, POOL)
        shapes = ConvParams((channels, size, size, shape[2]), *[(channels,)] * 4)
        between = config.nonlinearity_after(index)
        build = partial(_conv, config, index, shape, rows * columns, between)
        yield Blueprint(Conv.name, shapes, build, fixed=rows * columns * CHANNEL_TAPS)
        shape = (rows // POOL, columns // POOL, channels)
    outputs, groups = task.outputs * config.groups, task.labels * config.groups
    yield _dense(config, -1, math.prod(shape), outputs, groups)


def mixer(config: Config, units: int, task: Task) -> Iterator[Blueprint]:
    """Blocks of LocalMixer on square images; with linear heads one behind each, and a final one.

    The final head is a block of its own, as it is not what judges the last block's directions.
    With a global loss it is the only one.
    """
    side, colours = square_images(config, units)
    patches, channels, groups = config.patches or 0, config.channels or 0, config.groups
    _check_divides("patches", patches, side, "the image's {} pixels a side")
    _check_divides("groups", groups, channels, "the {} channels")
    heads = partial(Head, patches, channels, task.classes)
    local_heads = config.head == "linear" and config.local
    for index in range(config.layers):
        image = None if index else (side, colours)
        layer = Mixer(patches, channels, config.nonlinearity_after(index), groups, image)
        yield Blueprint(Mixer.name, layer.shapes, partial(replace, layer))
        if local_heads:
            yield Blueprint(Head.name, heads().shapes, heads, joins=True)
    if config.head == "linear":
        yield Blueprint(Head.name, heads().shapes, partial(heads, last=True))


def _check_divides(name: str, value: int, total: int, what: str) -> None:
    if total % value:
        divisors = [number for number in range(1, total + 1) if total % number == 0]
        nearest = min(divisors, key=lambda number: abs(number - value))
        raise ValueError(
            f"{name} must divide {what.format(total)}, got {value}; the nearest is {nearest}"
        )


def square_images(config: Config, units: int) -> tuple[int, int]:
    """Pixels a side and values a pixel of a network's images."""
    colours = CHANNELS[config.colour or "grey"]
    side = math.isqrt(units // colours)
    if colours * side**2 != units:
        coloured = COLOURS * math.isqrt(units // COLOURS) ** 2 == units and colours == 1
        raise ValueError(
            f"{config.network} needs square images, got {units} values an image of "
            f"{colours} {'colours' if colours > 1 else 'colour'}"
            f"{'; colour rgb would fit' if coloured else ''}"
        )
    return side, colours


def _conv(
    config: Config, index: int, shape: tuple[int, int, int], pixels: int, between: Any
) -> Layer:
    rng = generator(config.seed, "projection", index)
    projection = rng.standard_normal((pixels, CHANNEL_TAPS), np.float32)
    projection /= math.sqrt(pixels)
    size, channels = config.kernel_size or 0, config.channels or 0
    return Conv(shape, channels, projection, between, size, PADDING, POOL)


# A network's function maps (configuration, values of one input, task) to blueprints of its layers,
# in the order of the signal. `Config.network` lists the same names.
NETWORKS: dict[str, Callable[[Config, int, Task], Iterator[Blueprint]]] = {
    "photonic": photonic,
    "mlp": mlp,
    "cnn": cnn,
    "mixer": mixer,
}


def open_device(config: Config, units: int, token_file: Path | None = None) -> Device:
    """The device that a configuration names: ``simulated``, ``tcp://...`` or ``module:factory``.

    Args:
        config: What names it, and what a simulated one is made of.
        units: Ports N of a simulated one.
        token_file: The file with the secret that the server at ``tcp://...`` shares, see
            `photonic_ffzero.devices.session.read_secret`.
    """
    name = config.device or ""
    if name.startswith(SCHEME):
        return RemoteDevice.at(name, token_file)
    if token_file is not None:
        raise ValueError(f"token_file belongs to a device at {SCHEME}host:port, got {name}")
    if not config.simulates_device:
        return _from_factory(name)
    _checked_size(photonic(config, units, Classification(2)), config)
    return SimulatedChip(
        units,
        config.layers,
        config.columns,
        nonlinearity=[config.nonlinearity_after(index) for index in range(config.layers)],
        amplifier=config.amplification,
        imperfections=config.device_imperfections,
        seed=_chip_seed(config),
        engine=config.engine or "auto",
    )


def _chip_seed(config: Config) -> int:
    return config.seed if config.chip is None else config.chip


def _from_factory(name: str) -> Device:
    """Call ``module:factory``; an error if what it makes is no device."""
    factory = resolve("device", name)
    with device_errors(f"open {name}"):
        device = factory()
    with closed_on_error(device):
        return driver_of(device).device


def on_device(config: Config, units: int, device: Device | None) -> Iterator[Layer]:
    """The first meshes of a device, which must be as large as the configuration says.

    Without a device the layers have parameters, but cannot be used.
    """
    driver, columns = None if device is None else driver_of(device), config.columns or units
    if driver is not None:
        sizes = {"ports": (units, driver.units), "columns in a mesh": (columns, driver.columns)}
        for what, (needed, present) in sizes.items():
            if present != needed:
                raise ValueError(f"device must have {needed} {what}, found {present}")
        if driver.meshes < config.layers:
            raise ValueError(
                f"device must have {config.layers} meshes, found {driver.meshes}; a network with "
                f"meshes {driver.meshes} fits it"
            )
    between, amplifier = config.twin_model
    for index in range(config.layers):
        mesh = RectangularMesh(units, columns)
        front = amplifier if index else None
        yield OnDevice(mesh, driver, config.reads or 1, between, front)


def parameter_shapes(config: Config, units: int, task: Task) -> Iterator[tuple[str, Any]]:
    """The name of every layer and the shapes of its parameters, without building any.

    A file's description can be compared with its arrays before it costs memory.
    """
    for blueprint in NETWORKS[config.network](config, units, task):
        yield blueprint.name, blueprint.shapes


def build_blocks(
    config: Config,
    units: int,
    task: Task,
    device: Device | None = None,
    saved: Saved | None = None,
) -> tuple[list[Block], list[Any]]:
    """Build the network that a configuration describes.

    Args:
        config: What to build.
        units: Ports N, or pixels of an image.
        task: What the network learns.
        device: The device that the configuration names. Without it the network cannot be used,
            but its parameters can.
        saved: What to use instead of random parameters and prototypes, so that none are drawn.

    Returns:
        The blocks in the order of the signal, and the parameters of each.

    Raises:
        ValueError: layers, groups and prototypes do not fit each other, or the network is larger
            than any that could be trained here.
    """
    blueprints = _checked_size(NETWORKS[config.network](config, units, task), config)
    if config.device:
        layers = list(on_device(config, units, device))
    else:
        layers = [blueprint.build() for blueprint in blueprints]
    initial = (
        saved.params
        if saved
        else [
            layer.init(generator(config.seed, "parameters", index))
            for index, layer in enumerate(layers)
        ]
    )
    groups: list[tuple[Layer, ...]] = [()]
    for blueprint, layer in zip(blueprints, layers, strict=True):
        if groups[-1] and config.local and not blueprint.joins:
            groups.append(())
        groups[-1] += (layer,)
    prototypes = iter(saved.prototypes if saved else ())
    blocks = [
        Block(group, _readout(config, group[-1], task, index, prototypes), task.labels)
        for index, group in enumerate(groups)
    ]
    parts = iter(initial)
    return blocks, [tuple(islice(parts, len(group))) for group in groups]


def _checked_size(blueprints: Iterable[Blueprint], config: Config) -> list[Blueprint]:
    """Refuse a slip of the keyboard before it costs memory or hours."""
    accepted, count = [], 0
    for blueprint in blueprints:
        accepted.append(blueprint)
        size = blueprint.fixed + sum(math.prod(shape) for shape in blueprint.shapes)
        count += size
        if count > MOST_PARAMETERS:
            rule = f"a network has at most {MOST_PARAMETERS} parameters"
            if 2 * size <= MOST_PARAMETERS:
                name = "meshes" if config.meshes else "depth"
                most, layers = len(accepted) - 1, config.layers
                raise ValueError(f"{name} must be at most {most} here: {rule}, got {layers}")
            raise ValueError(
                f"{_wide_setting(config)} must be smaller: {rule}, got {count} in the first "
                f"{len(accepted)} of {config.layers} layers"
            )
    return accepted


def _wide_setting(config: Config) -> str:
    """The setting that makes a layer of a network large."""
    if config.network == "photonic":
        return "columns" if config.columns else "units"
    return "width" if config.network == "mlp" else "channels"


def _readout(
    config: Config, layer: Layer, task: Task, index: int, saved: Iterator[np.ndarray]
) -> Readout:
    """The readout behind a layer, with the next of the saved prototypes, or with random ones."""
    if isinstance(layer, Head):
        return Ports(task.labels, task.classes)
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
    dimension = layer.taps // layer.repeats // groups
    if task.classes > dimension:
        raise ValueError(
            f"readout {config.readout}: {task.classes} classes need at least as many tapped values "
            f"(ports, outputs) a group, got {dimension} behind {layer.name} {index + 1}"
        )
    if config.detection is None:
        return READOUTS[config.readout](task.labels, task.classes)
    prototypes = next(saved, None)
    if prototypes is None:
        prototypes = _draw_prototypes(config, groups, task, dimension, index)
    if prototypes.shape != (shape := (groups, task.classes, dimension)):
        raise ValueError(f"prototypes_{index + 1} must have shape {shape}, got {prototypes.shape}")
    how = prototypes, config.detection, config.norm_size or 0
    if isinstance(layer, Mixer):
        return Pooled(*how, layer.patches, joint=config.losses != "grouped")
    return Goodness(*how)


def _draw_prototypes(
    config: Config, groups: int, task: Task, dimension: int, index: int
) -> np.ndarray:
    # The blocks of a mixer add to one another's values, so that their prototypes are the same.
    rng = generator(config.seed, "prototypes", 0 if config.network == "mixer" else index)
    zero_mean = config.detection == "balanced"
    draw = PROTOTYPES[config.prototypes or ""]
    corners = [draw(task.corners, dimension, rng, zero_mean=zero_mean) for _ in range(groups)]
    return np.stack(corners)[:, : task.classes]
