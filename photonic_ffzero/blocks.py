"""Blocks of layers with one loss each: how layers are grouped is what tells FF from BP."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from meshes._tensorflow import tf
from photonic_ffzero.goodness import Readout
from photonic_ffzero.layers import Layer

__all__ = ["Block", "one_set"]

CHUNK = 1024  # samples evaluated at once where the whole data set is


@dataclass(frozen=True, eq=False)
class Block:
    """Consecutive layers that share one loss, read out behind the last.

    Attributes:
        layers: The layers; FF has one a block, BP all in one.
        readout: From tapped values [P, B, taps] to scores [P, B, G, C].
        labels: Label dimensions T; the groups take turns at them.
    """

    layers: tuple[Layer, ...]
    readout: Readout
    labels: int = 1

    @property
    def trainable(self) -> tuple[Any, ...]:
        """Which entries of the parameters count."""
        return tuple(layer.trainable for layer in self.layers)

    @property
    def taps(self) -> int:
        """Tapped values behind the last layer."""
        return self.layers[-1].taps

    @property
    def groups(self) -> int:
        """Independent groups of parameters: outputs of earlier layers belong to all groups."""
        return self.layers[0].groups if len(self.layers) == 1 else 1

    @property
    def linear(self) -> bool:
        """Whether the tapped values are linear in the parameters."""
        return len(self.layers) == 1 and self.layers[0].linear

    @property
    def compilable(self) -> bool:
        """Whether XLA may compile the whole block."""
        return all(layer.compilable for layer in self.layers)

    @property
    def evaluation(self) -> Block:
        """The block as it is outside of training."""
        return Block(tuple(layer.evaluation for layer in self.layers), self.readout, self.labels)

    def measure(self, params: Sequence[Any], x: Any) -> Any:
        """Tapped values [P, B, taps] of inputs [B, ...] under parameters [P, ...]."""
        for layer, own in zip(self.layers[:-1], params, strict=False):
            x = layer.transmit(own, x)
        return self.layers[-1].measure(params[-1], x)

    def transmit(self, params: Sequence[Any], x: Any) -> Any:
        """The next block's inputs [P, B, ...]."""
        for layer, own in zip(self.layers, params, strict=True):
            x = layer.transmit(own, x)
        return x

    def pullback(self, params: Sequence[Any], x: Any, g_z: Any) -> tuple[Any, ...]:
        """The parameters' gradient from that of the tapped values [B, taps].

        Raises:
            ValueError: the block has several layers, or its layer has no pullback.
        """
        if len(self.layers) > 1:
            raise ValueError(
                f"perturb must be weights for bp: the gradient of the last layer's activations "
                f"would have to be propagated back through {len(self.layers) - 1} layers more"
            )
        return (self.layers[0].pullback(params[0], x, g_z),)

    def settled(self, params: Sequence[Any], x: Any) -> tuple[Any, ...]:
        """One parameter set with the statistics of the inputs x in it, layer after layer."""
        out = []
        for index, layer in enumerate(self.layers):
            out.append(layer.settled(params[index], x))
            if index + 1 < len(self.layers) and out[-1] is not params[index]:
                x = Block((layer.evaluation,), self.readout).all_outputs((out[-1],), x)
        return tuple(out)

    def all_scores(self, params: Any, x: Any) -> np.ndarray:
        """Scores [n, T C] of a whole data set under one parameter set.

        Groups that look at the same label are averaged, which decides as their sum does and
        keeps a layer of many groups from outweighing the others.
        """
        return _in_chunks(self._scores_once, params, x)

    def all_measured(self, params: Any, x: Any) -> np.ndarray:
        """Tapped values [n, taps] of a whole data set under one parameter set."""
        return _in_chunks(self._measure_once, params, x)

    def all_outputs(self, params: Any, x: Any) -> np.ndarray:
        """The next block's inputs [n, ...] for a whole data set: the frozen activations."""
        return _in_chunks(self._transmit_once, params, x)

    @cached_property
    def _scores_once(self) -> Callable[..., Any]:
        block = self.evaluation

        def scores(params: Any, x: Any) -> Any:
            by_group = block.readout(block.readout.split(block.measure(one_set(params), x)[0]))
            batch, groups, classes = by_group.shape
            turns = tf.reshape(by_group, [batch, groups // self.labels, self.labels * classes])
            return tf.reduce_mean(turns, axis=1)

        return self._compiled(scores)

    @cached_property
    def _measure_once(self) -> Callable[..., Any]:
        block = self.evaluation
        return self._compiled(lambda params, x: block.measure(one_set(params), x)[0])

    @cached_property
    def _transmit_once(self) -> Callable[..., Any]:
        block = self.evaluation
        return self._compiled(lambda params, x: block.transmit(one_set(params), x)[0])

    def _compiled(self, function: Callable[..., Any]) -> Callable[..., Any]:
        return tf.function(function, autograph=False, jit_compile=self.compilable)


def one_set(params: Any) -> Any:
    """One parameter set as a stack of one, P = 1."""
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
