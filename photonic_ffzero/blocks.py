"""Blocks of layers with one loss each: how layers are grouped is what tells FF from BP."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from meshes import NONLINEARITIES, RectangularMesh
from meshes._tensorflow import tf
from meshes.validation import from_spec
from photonic_ffzero.goodness import Goodness, Ports
from photonic_ffzero.layers import Layer, Photonic
from photonic_ffzero.prototypes import simplex
from photonic_ffzero.recipes import Config
from photonic_ffzero.seeds import generator

__all__ = ["Block", "build_blocks"]

CHUNK = 1024  # samples evaluated at once where the whole data set is


@dataclass(frozen=True, eq=False)
class Block:
    """Consecutive layers that share one loss, read out behind the last.

    Attributes:
        layers: The layers; FF has one a block, BP all in one.
        readout: From tapped values [P, B, n] to scores [P, B, C].
    """

    layers: tuple[Layer, ...]
    readout: Callable[[Any], Any]

    @property
    def trainable(self) -> tuple[Any, ...]:
        """Which entries of the parameters count."""
        return tuple(layer.trainable for layer in self.layers)

    @property
    def meshes(self) -> int:
        """Meshes that light crosses in the block."""
        return sum(layer.meshes for layer in self.layers)

    @property
    def compilable(self) -> bool:
        """Whether XLA may compile the whole block."""
        return all(layer.compilable for layer in self.layers)

    def measure(self, params: Sequence[Any], x: Any) -> Any:
        """Tapped values [P, B, n] of inputs [B, ...] under parameters [P, ...]."""
        for layer, own in zip(self.layers[:-1], params, strict=False):
            x = layer.transmit(own, x)
        return self.layers[-1].measure(params[-1], x)

    def transmit(self, params: Sequence[Any], x: Any) -> Any:
        """The next block's inputs [P, B, ...]."""
        for layer, own in zip(self.layers, params, strict=True):
            x = layer.transmit(own, x)
        return x

    def all_scores(self, params: Any, x: Any) -> np.ndarray:
        """Scores [n, C] of a whole data set under one parameter set."""
        return _in_chunks(self._scores_once, params, x)

    def all_outputs(self, params: Any, x: Any) -> np.ndarray:
        """The next block's inputs [n, ...] for a whole data set: the frozen activations."""
        return _in_chunks(self._transmit_once, params, x)

    @cached_property
    def _scores_once(self) -> Callable[..., Any]:
        return self._compiled(lambda params, x: self.readout(self.measure(_one_set(params), x))[0])

    @cached_property
    def _transmit_once(self) -> Callable[..., Any]:
        return self._compiled(lambda params, x: self.transmit(_one_set(params), x)[0])

    def _compiled(self, function: Callable[..., Any]) -> Callable[..., Any]:
        return tf.function(function, autograph=False, jit_compile=self.compilable)


def _one_set(params: Any) -> Any:
    return tf.nest.map_structure(lambda w: w[tf.newaxis], params)


def _in_chunks(function: Callable[..., Any], params: Any, x: np.ndarray) -> np.ndarray:
    """Apply a function to chunks of one size, so that it is compiled for one shape."""
    params = tf.nest.map_structure(tf.convert_to_tensor, params)
    outputs = []
    for start in range(0, len(x), CHUNK):
        chunk = x[start : start + CHUNK]
        padding = [(0, CHUNK - len(chunk))] + [(0, 0)] * (x.ndim - 1)
        outputs.append(function(params, np.pad(chunk, padding))[: len(chunk)].numpy())
    return np.concatenate(outputs)


def build_blocks(config: Config, units: int, classes: int) -> tuple[list[Block], list[Any]]:
    """Build the photonic network that a configuration describes.

    Args:
        config: What to build.
        units: Number of ports N.
        classes: Number of classes C.

    Returns:
        The blocks in the order of the light, and the initial parameters of each.

    Raises:
        ValueError: there are more classes than ports.
    """
    nonlinearity = from_spec("nonlinearity", config.nonlinearity, NONLINEARITIES)
    layers: list[Layer] = [
        Photonic(RectangularMesh(units, config.columns), nonlinearity, config.engine)
        for _ in range(config.meshes)
    ]
    initial = [
        layer.init(generator(config.seed, "parameters", index))
        for index, layer in enumerate(layers)
    ]
    if not config.local:
        return [Block(tuple(layers), _readout(config, units, classes, 0))], [tuple(initial)]
    blocks = [
        Block((layer,), _readout(config, layer.taps, classes, index))
        for index, layer in enumerate(layers)
    ]
    return blocks, [(params,) for params in initial]


def _readout(config: Config, taps: int, classes: int, index: int) -> Callable[[Any], Any]:
    if classes > taps:
        raise ValueError(f"{classes} classes need at least as many ports, got {taps}")
    if config.detection is None:
        return Ports(classes)
    rng = generator(config.seed, "prototypes", index)
    prototypes = simplex(classes, taps, rng, zero_mean=config.detection == "balanced")
    return Goodness(prototypes, config.detection)
