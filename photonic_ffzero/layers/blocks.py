"""Blocks: consecutive layers that share one loss. FF has one layer a block, BP all in one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from meshes._tensorflow import graph, tf
from photonic_ffzero.goodness.readouts import Readout
from photonic_ffzero.layers.base import (
    RUNS_ON,
    Layer,
    Moved,
    Portable,
    everything,
    in_chunks,
    one_set,
)


class NoiseSource(NamedTuple):
    """Where the noise of an evaluation comes from.

    Attributes:
        rng: Source of all fresh noise.
        age: Age of the chip, in epochs of training.
    """

    rng: np.random.Generator
    age: int = 0


@dataclass(frozen=True, eq=False)
class Block(Portable):
    """Consecutive layers with one loss, read out after the last.

    Parameters are a tuple with one entry a layer; noise likewise, with the layers in front first.

    Attributes:
        layers: The layers that are trained together.
        readout: From tapped values [P, B, taps] to scores [P, B, G, C].
        labels: Label dimensions T; group g belongs to label dimension g modulo T.
        front: Trained layers in front of the block, each with one parameter set, which the inputs
            cross at every evaluation because the light that leaves them cannot be stored.
        frozen: Boolean arrays like the parameters, true for those that keep their values; None if
            all may move.
    """

    layers: tuple[Layer, ...]
    readout: Readout
    labels: int = 1
    front: tuple[tuple[Layer, Any], ...] = ()
    frozen: tuple[Any, ...] | None = None

    @property
    def all_layers(self) -> tuple[Layer, ...]:
        """The layers that the inputs cross, those in front first."""
        return (*(layer for layer, _ in self.front), *self.layers)

    @property
    def trainable(self) -> tuple[Any, ...]:
        """What directions move: nothing of heads, and nothing that is frozen."""
        masks = tuple(
            tf.nest.map_structure(np.zeros_like, layer.trainable)
            if layer.exact
            else layer.trainable
            for layer in self.layers
        )
        if self.frozen is None:
            return masks
        return tf.nest.map_structure(lambda mask, still: mask & ~still, masks, self.frozen)

    @property
    def body(self) -> tuple[Layer, ...]:
        """The layers that a gradient is estimated of; the others, heads, have exact ones."""
        return tuple(layer for layer in self.layers if not layer.exact)

    @property
    def moved(self) -> tuple[Moved, ...]:
        """The layers of the body, if the values inside each of them can be moved; else none."""
        moved = tuple(layer for layer in self.body if isinstance(layer, Moved))
        return moved if len(moved) == len(self.body) else ()

    @property
    def taps(self) -> int:
        return self.layers[-1].taps

    @property
    def reach(self) -> tuple[Any, ...]:
        """The block's tapped values that each parameter moves; see `Layer.reach`."""
        *before, last = self.layers
        return (*(everything(layer.trainable, self.taps) for layer in before), last.reach)

    @property
    def groups(self) -> int:
        """Independent groups of parameters; 1 where layers follow, as they mix the groups."""
        return self.layers[0].groups if len(self.layers) == 1 else 1

    @property
    def linear(self) -> bool:
        return len(self.layers) == 1 and self.layers[0].linear

    @property
    def runs_on(self) -> str:
        """The last of RUNS_ON that any layer asks for."""
        return max((layer.runs_on for layer in self.all_layers), key=RUNS_ON.index)

    @property
    def cacheable(self) -> bool:
        """Whether the next block's inputs can be stored while it trains."""
        return not self.front and all(layer.cacheable for layer in self.layers)

    @property
    def keeps_statistics(self) -> bool:
        return any(layer.keeps_statistics for layer in self.layers)

    @property
    def evaluation(self) -> Block:
        """The block as it is outside of training."""
        return replace(self, layers=tuple(layer.evaluation for layer in self.layers))

    def with_front(self, block: Block, params: Sequence[Any]) -> Block:
        """This block with a trained one in front, whose outputs cannot be stored."""
        pairs = zip(block.evaluation.layers, params, strict=True)
        return replace(self, front=(*block.front, *pairs))

    @property
    def together(self) -> list[np.ndarray]:
        """Entries of all layers' parameters, layer after layer; see `Layer.together`."""
        places, before = [], 0
        for layer in self.layers:
            places += [before + part for part in layer.together]
            before += sum(mask.size for mask in tf.nest.flatten(layer.trainable))
        return places

    def metric(self, params: Sequence[Any], x: Any) -> list[np.ndarray]:
        """The `Layer.metric` of every layer, for one parameter set and inputs [B, ...]."""
        blocks: list[np.ndarray] = []
        front = len(self.front)
        for index, (layer, its_params, _) in enumerate(self._passage(one_set(params), ())):
            if index >= front:
                blocks += layer.metric(params[index - front], x)
            if layer is not self.layers[-1]:
                x = layer.noiseless.transmit(its_params, x)
        return blocks

    def draw_noise(
        self, rng: np.random.Generator, steps: int, sets: int, batch: int, age: int
    ) -> tuple[Any, ...]:
        """Draw the noise of every layer for some steps; see `Layer.draw_noise`."""
        return tuple(layer.draw_noise(rng, steps, sets, batch, age) for layer in self.all_layers)

    def measure(self, params: Sequence[Any], x: Any, noise: Sequence[Any] = ()) -> Any:
        """Tapped values [P, B, taps] of inputs [B, ...] with parameters [P, ...]."""
        *before, (last, last_params, last_noise) = self._passage(params, noise)
        for layer, layer_params, layer_noise in before:
            x = layer.transmit(layer_params, x, layer_noise)
        return last.measure(last_params, x, last_noise)

    def transmit(self, params: Sequence[Any], x: Any, noise: Sequence[Any] = ()) -> Any:
        """The next block's inputs [P, B, ...]."""
        for layer, layer_params, layer_noise in self._passage(params, noise):
            x = layer.transmit(layer_params, x, layer_noise)
        return x

    def _passage(
        self, params: Sequence[Any], noise: Sequence[Any]
    ) -> Iterator[tuple[Layer, Any, Any]]:
        """Yield every layer that the inputs cross, with its parameters and its noise."""
        every = (*(one_set(front_params) for _, front_params in self.front), *params)
        return zip(self.all_layers, every, noise or [()] * len(every), strict=True)

    def trace(self, params: Sequence[Any], x: Any) -> tuple[Any, list[Any]]:
        """The head's inputs [B, ...], or what is tapped; and the trace of each layer in `moved`."""
        traces = []
        for layer, layer_params in zip(self.moved, params, strict=False):
            x, trace = layer.trace(layer_params, x, layer is self.layers[-1])
            traces.append(trace)
        return x, traces

    def displaced(self, params: Sequence[Any], traces: Sequence[Any], moves: Sequence[Any]) -> Any:
        """What `trace` gives, [K, B, ...], if the values inside are displaced [K, B, ...]."""
        x = None
        for layer, layer_params, trace, move in zip(
            self.moved, params, traces, moves, strict=False
        ):
            x = layer.displaced(layer_params, trace, x, move, layer is self.layers[-1])
        return x

    def pull(self, params: Sequence[Any], traces: Sequence[Any], slopes: Any) -> tuple[Any, ...]:
        """The parameters' gradient from that of the values inside; zeros for heads."""
        own = zip(self.moved, params, traces, slopes, strict=False)
        gradients = [layer.pull(*rest) for layer, *rest in own]
        return (*gradients, *tf.nest.map_structure(tf.zeros_like, tuple(params[len(gradients) :])))

    def traced(self, params: Sequence[Any], x: Any) -> tuple[Any, Any]:
        """The tapped values [B, taps] of a block of one layer, and what `pullback` needs."""
        if len(self.layers) > 1:
            raise ValueError(
                "perturb must be weights for bp: the gradient of the last layer's activations "
                f"would have to be propagated back through {len(self.layers) - 1} layers more"
            )
        return self.layers[0].traced(params[0], x)

    def pullback(self, params: Sequence[Any], trace: Any, g_z: Any) -> tuple[Any, ...]:
        """The parameters' gradient from that of the tapped values [B, taps]."""
        return (self.layers[0].pullback(params[0], trace, g_z),)

    def with_statistics(self, params: Sequence[Any], x: np.ndarray) -> tuple[Any, ...]:
        """One parameter set with the statistics of a data set x in it, layer after layer."""
        params = list(params)
        last = max((i for i, layer in enumerate(self.layers) if layer.keeps_statistics), default=-1)
        for index, stage in enumerate(self._single_layers[: last + 1]):
            params[index] = stage.layers[0].with_statistics(params[index], x)
            if index < last:
                x = stage.all_outputs((params[index],), x)
        return tuple(params)

    @cached_property
    def _single_layers(self) -> tuple[Block, ...]:
        return tuple(Block((layer,), self.readout) for layer in self.layers)

    def all_scores(self, params: Any, x: Any, source: NoiseSource | None = None) -> np.ndarray:
        """Scores [n, T C] of a data set with one parameter set.

        Groups of the same label dimension are averaged: that decides as their sum does, and a
        layer of many groups does not outweigh the others.
        """
        return self._of_data_set(self._scores, params, x, source)

    def all_measured(self, params: Any, x: Any, source: NoiseSource | None = None) -> np.ndarray:
        """Tapped values [n, taps] of a data set with one parameter set."""
        return self._of_data_set(self._measure, params, x, source)

    def all_outputs(self, params: Any, x: Any, source: NoiseSource | None = None) -> np.ndarray:
        """The next block's inputs [n, ...] for a data set with one parameter set."""
        return self._of_data_set(self._transmit, params, x, source)

    @cached_property
    def _scores(self) -> Callable[..., Any]:
        readout, labels = self.readout, self.labels

        def scores(block: Block, params: Any, x: Any, noise: Any) -> Any:
            by_group = readout(readout.split(block.measure(params, x, noise)[0]))
            batch, groups, classes = by_group.shape
            by_label = tf.reshape(by_group, [batch, groups // labels, labels * classes])
            return tf.reduce_mean(by_label, axis=1)

        return self._compiled(scores)

    @cached_property
    def _measure(self) -> Callable[..., Any]:
        return self._compiled(lambda block, *inputs: block.measure(*inputs)[0])

    @cached_property
    def _transmit(self) -> Callable[..., Any]:
        return self._compiled(lambda block, *inputs: block.transmit(*inputs)[0])

    def _compiled(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Compile a function of the block, a stack of one parameter set, inputs and noise."""
        block = self.evaluation

        def evaluate(params: Any, x: Any, noise: Any) -> Any:
            first = tf.nest.map_structure(lambda drawn: drawn[0], noise)
            return function(block, one_set(params), x, first)

        return graph(evaluate, xla=self.runs_on == "xla")

    def _of_data_set(
        self, function: Callable[..., Any], params: Any, x: np.ndarray, source: NoiseSource | None
    ) -> np.ndarray:
        params = tf.nest.map_structure(tf.convert_to_tensor, params)
        rng, age = source or NoiseSource(np.random.default_rng(0))

        def evaluate(chunk: np.ndarray) -> Any:
            return function(params, chunk, self.draw_noise(rng, 1, 1, len(chunk), age))

        # A device measures only what it is asked for: no samples to fill up the last chunk.
        return in_chunks(evaluate, x, pad=self.runs_on != "device")


@dataclass(frozen=True, eq=False)
class Stage:
    """Consecutive blocks that are trained at once: on the same batches, each by its own loss.

    Parameters are a tuple with one entry a block.

    Attributes:
        blocks: The blocks.
        index: The number of the first in the network, from 0.
    """

    blocks: tuple[Block, ...]
    index: int

    @property
    def end(self) -> int:
        """The number of the next stage's first block."""
        return self.index + len(self.blocks)

    @property
    def runs_on(self) -> str:
        return max((block.runs_on for block in self.blocks), key=RUNS_ON.index)

    @property
    def cacheable(self) -> bool:
        return all(block.cacheable for block in self.blocks)

    @property
    def keeps_statistics(self) -> bool:
        return any(block.keeps_statistics for block in self.blocks)

    @property
    def layers(self) -> tuple[Layer, ...]:
        return tuple(layer for block in self.blocks for layer in block.layers)

    @property
    def all_layers(self) -> tuple[Layer, ...]:
        return tuple(layer for block in self.blocks for layer in block.all_layers)

    def with_front(self, stage: Stage, params: Sequence[Any]) -> Stage:
        """This stage with a trained one in front, whose outputs cannot be stored."""
        first, *rest = self.blocks
        for block, block_params in zip(stage.blocks, params, strict=True):
            first = first.with_front(block, block_params)
        return replace(self, blocks=(first, *rest))

    def with_statistics(self, params: Sequence[Any], x: np.ndarray) -> tuple[Any, ...]:
        """The blocks' parameters with the statistics of a data set x, block after block."""
        settled = list(params)
        for index, block in enumerate(self.blocks):
            settled[index] = block.with_statistics(settled[index], x)
            if any(later.keeps_statistics for later in self.blocks[index + 1 :]):
                x = block.all_outputs(settled[index], x)
        return tuple(settled)

    def all_outputs(self, params: Sequence[Any], x: np.ndarray) -> np.ndarray:
        """The next stage's inputs [n, ...] for a data set."""
        for block, block_params in zip(self.blocks, params, strict=True):
            x = block.all_outputs(block_params, x)
        return x

    def all_scores(self, params: Sequence[Any], x: np.ndarray, source: NoiseSource) -> np.ndarray:
        """Scores [n, T C] of the last block for a data set."""
        for block, block_params in zip(self.blocks[:-1], params, strict=False):
            x = block.all_outputs(block_params, x)
        return self.blocks[-1].all_scores(params[-1], x, source)
