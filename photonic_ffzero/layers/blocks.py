"""Blocks of layers with one loss each: how layers are grouped is what tells FF from BP."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from meshes._tensorflow import graph, tf
from photonic_ffzero.goodness.readouts import Readout
from photonic_ffzero.layers.base import Layer

CHUNK = 1024  # samples evaluated at once where the whole data set is


@dataclass(frozen=True, eq=False)
class Block:
    """Consecutive layers that share one loss, read out behind the last.

    Attributes:
        layers: The layers; FF has one a block, BP all in one.
        readout: From tapped values [P, B, taps] to scores [P, B, G, C].
        labels: Label dimensions T; the groups take turns at them.
        frozen: Layers in front, each with its parameters, that the inputs cross at every
            evaluation, because what is behind them cannot be kept.
    """

    layers: tuple[Layer, ...]
    readout: Readout
    labels: int = 1
    frozen: tuple[tuple[Layer, Any], ...] = ()

    @property
    def _all_layers(self) -> tuple[Layer, ...]:
        return (*(layer for layer, _ in self.frozen), *self.layers)

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
        return all(layer.compilable for layer in self._all_layers)

    @property
    def cacheable(self) -> bool:
        """Whether the next block's inputs can be kept."""
        return not self.frozen and all(layer.cacheable for layer in self.layers)

    @property
    def settles(self) -> bool:
        """Whether any layer needs the statistics of a whole data set."""
        return any(layer.settles for layer in self.layers)

    @property
    def instrument(self) -> bool:
        """Whether any layer is a thing in a laboratory, which takes its time."""
        return any(layer.instrument for layer in self._all_layers)

    @property
    def depth(self) -> int:
        """Layers that the inputs cross at every evaluation."""
        return len(self.frozen) + len(self.layers)

    @property
    def evaluation(self) -> Block:
        """The block as it is outside of training."""
        return replace(self, layers=tuple(layer.evaluation for layer in self.layers))

    def behind(self, block: Block, params: Sequence[Any]) -> Block:
        """This block with another in front, frozen with one set of its parameters."""
        pairs = zip(block.evaluation.layers, params, strict=True)
        return replace(self, frozen=(*block.frozen, *pairs))

    def draw(
        self, rng: np.random.Generator, steps: int, sets: int, batch: int, epochs: int
    ) -> tuple[Any, ...]:
        """The noise of some steps for every layer, frozen ones first; see `layers`."""
        return tuple(layer.draw(rng, steps, sets, batch, epochs) for layer in self._all_layers)

    def under(self, noise: Sequence[Any]) -> Block:
        """The block with the noise of one step."""
        first = len(self.frozen)
        pairs = zip(self.frozen, noise[:first], strict=True)
        layers = zip(self.layers, noise[first:], strict=True)
        return replace(
            self,
            frozen=tuple((layer.under(own), params) for (layer, params), own in pairs),
            layers=tuple(layer.under(own) for layer, own in layers),
        )

    def measure(self, params: Sequence[Any], x: Any) -> Any:
        """Tapped values [P, B, taps] of inputs [B, ...] under parameters [P, ...]."""
        x = self._through(params[:-1], x)
        return self.layers[-1].measure(params[-1], x)

    def transmit(self, params: Sequence[Any], x: Any) -> Any:
        """The next block's inputs [P, B, ...]."""
        return self._through(params, x)

    def _through(self, params: Sequence[Any], x: Any) -> Any:
        """Send inputs through the frozen layers and as many others as there are parameters."""
        for layer, own in self.frozen:
            x = layer.transmit(one_set(own), x)
        for layer, own in zip(self.layers, params, strict=False):
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
        """One parameter set with the statistics of a whole data set x in it, layer after layer."""
        out = list(params)
        last = max((i for i, layer in enumerate(self.layers) if layer.settles), default=-1)
        for index, stage in enumerate(self._stages[: last + 1]):
            if stage.layers[0].settles:
                added = stage._in_chunks(stage._statistics_once, (out[index],), x)
                out[index] = stage.layers[0].settled(out[index], added)
            if index < last:
                x = stage.all_outputs((out[index],), x)
        return tuple(out)

    @cached_property
    def _stages(self) -> tuple[Block, ...]:
        """Every layer as a block of its own."""
        return tuple(Block((layer,), self.readout) for layer in self.layers)

    def all_scores(self, params: Any, x: Any, chance: Chance | None = None) -> np.ndarray:
        """Scores [n, T C] of a whole data set under one parameter set.

        Groups that look at the same label are averaged, which decides as their sum does and
        keeps a layer of many groups from outweighing the others.
        """
        return self._in_chunks(self._scores_once, params, x, chance)

    def all_measured(self, params: Any, x: Any, chance: Chance | None = None) -> np.ndarray:
        """Tapped values [n, taps] of a whole data set under one parameter set."""
        return self._in_chunks(self._measure_once, params, x, chance)

    def all_outputs(self, params: Any, x: Any, chance: Chance | None = None) -> np.ndarray:
        """The next block's inputs [n, ...] for a whole data set: the frozen activations."""
        return self._in_chunks(self._transmit_once, params, x, chance)

    @cached_property
    def _scores_once(self) -> Callable[..., Any]:
        readout, labels = self.readout, self.labels

        def scores(block: Block, params: Any, x: Any) -> Any:
            by_group = readout(readout.split(block.measure(params, x)[0]))
            batch, groups, classes = by_group.shape
            turns = tf.reshape(by_group, [batch, groups // labels, labels * classes])
            return tf.reduce_mean(turns, axis=1)

        return self._compiled(scores)

    @cached_property
    def _measure_once(self) -> Callable[..., Any]:
        return self._compiled(lambda block, params, x: block.measure(params, x)[0])

    @cached_property
    def _statistics_once(self) -> Callable[..., Any]:
        return self._compiled(lambda block, params, x: block.layers[0].statistics(params[0], x))

    @cached_property
    def _transmit_once(self) -> Callable[..., Any]:
        return self._compiled(lambda block, params, x: block.transmit(params, x)[0])

    def _compiled(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Compile a function of the block, a stack of one parameter set, and inputs."""
        block = self.evaluation

        def once(params: Any, x: Any, noise: Any) -> Any:
            own = tf.nest.map_structure(lambda drawn: drawn[0], noise)
            return function(block.under(own), one_set(params), x)

        return graph(once, xla=self.compilable)

    def _in_chunks(
        self, function: Callable[..., Any], params: Any, x: np.ndarray, chance: Chance | None = None
    ) -> np.ndarray:
        """Apply a function to chunks of one size, so that it is compiled for one shape.

        An instrument has no time for what fills the last one up.
        """
        params, outputs = tf.nest.map_structure(tf.convert_to_tensor, params), []
        rng, epochs = chance or Chance(np.random.default_rng(0))
        for start in range(0, len(x), CHUNK):
            chunk = x[start : start + CHUNK]
            size = len(chunk) if self.instrument else CHUNK
            padding = [(0, size - len(chunk))] + [(0, 0)] * (x.ndim - 1)
            noise = self.draw(rng, 1, 1, size, epochs)
            outputs.append(function(params, np.pad(chunk, padding), noise)[: len(chunk)].numpy())
        return np.concatenate(outputs)


class Chance(NamedTuple):
    """What noise comes from.

    Attributes:
        rng: Source of everything fresh.
        epochs: The chip's age, in epochs of training.
    """

    rng: np.random.Generator
    epochs: int = 0


def one_set(params: Any) -> Any:
    """One parameter set as a stack of one, P = 1."""
    return tf.nest.map_structure(lambda w: w[tf.newaxis], params)
