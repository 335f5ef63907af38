"""The training of one block: its compiled step, and the batches and directions it is given."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from meshes._tensorflow import fused, tf
from meshes.validation import from_spec
from photonic_ffzero.blocks import Block
from photonic_ffzero.directions import Directions, Sampler
from photonic_ffzero.estimators import ESTIMATORS
from photonic_ffzero.losses import LOSSES
from photonic_ffzero.optimizers import OPTIMIZERS, SCHEDULES, descend
from photonic_ffzero.recipes import Config
from photonic_ffzero.seeds import generator

__all__ = ["BlockTraining", "Samples", "as_arrays", "make_step"]


class Samples(NamedTuple):
    """Inputs [n, ...] and labels [n]."""

    x: np.ndarray
    y: np.ndarray


def as_arrays(tensors: Any) -> Any:
    """The same structure with NumPy arrays."""
    return tf.nest.map_structure(lambda tensor: tensor.numpy(), tensors)


def make_step(block: Block, config: Config) -> Callable[..., Any]:
    """Compile a block's training step.

    The step maps (params, optimizer state, inputs [n, ...], labels [n], indices of the batch
    [B], directions, learning rate) to (params, optimizer state, loss). Random numbers come from
    outside: drawn inside, they would differ between engines.
    """
    estimate = ESTIMATORS[config.estimator]()
    optimizer = OPTIMIZERS[config.optimizer]()
    loss = from_spec("loss", config.loss, LOSSES)

    def losses(z: Any, y: Any) -> Any:
        return loss(block.readout(z), y)[:, tf.newaxis]

    def move(params: Any, gradient: Any, state: Any, rate: Any) -> tuple[Any, Any]:
        direction, state = optimizer.update(gradient, state)
        return descend(params, direction, rate), state

    def step(
        params: Any,
        state: Any,
        x: Any,
        y: Any,
        batch: Any,
        directions: Directions | None,
        rate: Any,
    ) -> tuple[Any, Any, Any]:
        x, y = tf.gather(x, batch), tf.gather(y, batch)

        def objective(stacked: Any) -> Any:
            return fused(losses, block.measure(stacked, x), y)

        gradient, value = estimate(objective, params, directions)
        return *fused(move, params, gradient, state, rate), value

    return tf.function(step, autograph=False, jit_compile=block.compilable)


@dataclass
class BlockTraining:
    """One block in training.

    Everything random in an epoch follows from the seed, the block's index and the epoch, so that
    an epoch can be repeated without those before it.

    Attributes:
        config: Every choice of the run.
        block: The block.
        index: Which block it is, from 0.
        params: Its parameters, moved by every step.
        train: Its inputs and labels.
        state: The optimizer's state.
    """

    config: Config
    block: Block
    index: int
    params: Any
    train: Samples
    state: Any = field(init=False)

    def __post_init__(self) -> None:
        self._step = make_step(self.block, self.config)
        self._x, self._y = tf.constant(self.train.x), tf.constant(self.train.y)
        self.params = tf.nest.map_structure(tf.constant, self.params)
        self.state = OPTIMIZERS[self.config.optimizer]().init(self.params)
        self._sampler = self._build_sampler()

    @property
    def batch_size(self) -> int:
        """Samples a step: at most all there are."""
        return min(self.config.batch_size, len(self.train.y))

    @property
    def parameter_sets(self) -> int:
        """Parameter sets evaluated in a step."""
        return ESTIMATORS[self.config.estimator]().parameter_sets(self.config.directions or 0)

    def restore(self, optimizer: list[np.ndarray]) -> None:
        """Put back the optimizer's state, as a flat list; an empty one is a new start."""
        if optimizer:
            self.state = tf.nest.pack_sequence_as(self.state, [tf.constant(a) for a in optimizer])

    def epoch(self, epoch: int, start: int = 0) -> Iterator[float]:
        """Go through the samples once, in full batches of a new order; yield every step's loss.

        Args:
            epoch: Which epoch, from 0.
            start: Steps of it that were taken before: drawn again, not taken again.
        """
        config, steps = self.config, len(self.train.y) // self.batch_size
        order = generator(config.seed, "shuffle", self.index, epoch).permutation(len(self.train.y))
        rng = generator(config.seed, "directions", self.index, epoch)
        for step in range(steps):
            directions = self._sampler.draw(rng) if self._sampler else None
            if step < start:
                continue
            batch = order[step * self.batch_size : (step + 1) * self.batch_size].astype(np.int32)
            part_done = (epoch + step / steps) / config.epochs
            rate = np.float32(config.learning_rate * SCHEDULES[config.schedule](part_done))
            self.params, self.state, loss = self._step(
                self.params, self.state, self._x, self._y, batch, directions, rate
            )
            yield float(loss)

    def _build_sampler(self) -> Sampler | None:
        law, epsilon, count = self.config.law, self.config.epsilon, self.config.directions
        if law is None or epsilon is None or count is None:  # AD perturbs nothing
            return None
        return Sampler(law, epsilon, count, self.block.trainable)
