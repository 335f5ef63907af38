"""The one training loop: block after block, epoch after epoch, whatever the method."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import numpy as np

from meshes._tensorflow import tf
from meshes.validation import from_spec
from photonic_ffzero.blocks import Block
from photonic_ffzero.data import check_arrays, split
from photonic_ffzero.directions import Directions, draw
from photonic_ffzero.estimators import ESTIMATORS
from photonic_ffzero.losses import LOSSES
from photonic_ffzero.model import EpochRecord, Model
from photonic_ffzero.optimizers import OPTIMIZERS, SCHEDULES, descend
from photonic_ffzero.recipes import Config, configure
from photonic_ffzero.seeds import generator

__all__ = ["NonFiniteLossError", "Observer", "Samples", "Trainer", "fit", "make_step"]

MONITORED = 5000  # training images on which the training accuracy is measured each epoch


class NonFiniteLossError(ArithmeticError):
    """Training met a loss that is not a finite number."""


class Samples(NamedTuple):
    """Inputs [n, ...] and labels [n]."""

    x: np.ndarray
    y: np.ndarray


class Observer:
    """What a training run reports to; override what you want to hear of."""

    def on_step(self, step: int, mesh: str, loss: float) -> None:
        """Hear of every step: its number in the whole run, from 1, and its loss."""

    def on_epoch(self, record: EpochRecord, model: Model) -> None:
        """Hear of the end of every epoch, with the model as it is then."""


def make_step(block: Block, config: Config) -> Callable[..., Any]:
    """Compile a block's training step.

    The step maps (params, optimizer state, inputs [n, ...], labels [n], indices of the batch
    [B], directions, learning rate) to (params, optimizer state, loss). Random numbers come from
    outside: drawn inside, they would differ between engines.
    """
    estimate = ESTIMATORS[config.estimator]()
    optimizer = OPTIMIZERS[config.optimizer]()
    loss = from_spec("loss", config.loss, LOSSES)

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
            return loss(block.scores(stacked, x), y)[:, tf.newaxis]

        gradient, value = estimate(objective, params, directions)
        direction, state = optimizer.update(gradient, state)
        return descend(params, direction, rate), state, value

    return tf.function(step, autograph=False, jit_compile=block.compilable)


@dataclass
class Trainer:
    """Trains a photonic network on one data set.

    Attributes:
        config: Every choice of the run.
        train: Training samples; fields [n, N], real or complex.
        validation: Held-out training samples, or None.
        observers: Told of every step and epoch.
        model: The network in training, its history and usage.

    Raises:
        ValueError: the classes do not fit the ports.
    """

    config: Config
    train: Samples
    validation: Samples | None = None
    observers: tuple[Observer, ...] = ()
    model: Model = field(init=False)

    def __post_init__(self) -> None:
        classes = int(self.train.y.max()) + 1
        self.model = Model(self.config, self.train.x.shape[-1], classes)

    @property
    def batch_size(self) -> int:
        """Images a step: at most all there are."""
        return min(self.config.batch_size, len(self.train.y))

    @property
    def steps_per_epoch(self) -> int:
        """Full batches in an epoch; what is left over comes first into another epoch's shuffle."""
        return len(self.train.y) // self.batch_size

    @property
    def steps(self) -> int:
        """Steps of the whole run."""
        return len(self.model.blocks) * self.config.epochs * self.steps_per_epoch

    def run(self) -> Model:
        """Train every block in turn, freeze it, and hand its outputs to the next.

        Raises:
            NonFiniteLossError: a loss was not finite; what was learned up to the epoch before
                stands in ``model``.
        """
        self._started = time.perf_counter()
        train, validation = self.train, self.validation
        for index in range(len(self.model.blocks)):
            if index > 0:
                train = self._behind(index - 1, train)
                validation = self._behind(index - 1, validation) if validation else None
            self._train_block(index, train, validation)
        self.model.seconds = time.perf_counter() - self._started
        return self.model

    def _behind(self, index: int, samples: Samples) -> Samples:
        """Send samples through a frozen block: once for the whole of the next block's training."""
        block = self.model.blocks[index]
        self.model.usage.add(block.meshes, len(samples.y))
        return Samples(block.all_outputs(self.model.params[index], samples.x), samples.y)

    def _train_block(self, index: int, train: Samples, validation: Samples | None) -> None:
        block, epochs = self.model.blocks[index], self.config.epochs
        step = make_step(block, self.config)
        x, y = tf.constant(train.x), tf.constant(train.y)
        params = tf.nest.map_structure(tf.constant, self.model.params[index])
        state = OPTIMIZERS[self.config.optimizer]().init(params)
        for epoch in range(epochs):
            losses = []
            for batch, directions, rate in self._plan(index, epoch):
                params, state, loss = step(params, state, x, y, batch, directions, rate)
                losses.append(float(loss))
                self._report(index, epoch, losses)
            self.model.params[index] = tf.nest.map_structure(lambda w: w.numpy(), params)
            self._record(index, epoch, float(np.mean(losses)), train, validation)

    def _plan(self, index: int, epoch: int) -> Iterator[tuple[np.ndarray, Any, np.float32]]:
        """Draw an epoch: every step's batch, directions and learning rate."""
        config, block = self.config, self.model.blocks[index]
        rng = generator(config.seed, "directions", index, epoch)
        order = generator(config.seed, "shuffle", index, epoch).permutation(len(self.train.y))
        for step in range(self.steps_per_epoch):
            batch = order[step * self.batch_size : (step + 1) * self.batch_size]
            progress = (epoch + step / self.steps_per_epoch) / config.epochs
            rate = config.learning_rate * SCHEDULES[config.schedule](progress)
            yield batch.astype(np.int32), self._directions(block, rng), np.float32(rate)

    def _directions(self, block: Block, rng: np.random.Generator) -> Directions | None:
        law, epsilon, count = self.config.law, self.config.epsilon, self.config.directions
        if law is None or epsilon is None or count is None:  # AD perturbs nothing
            return None
        return draw(law, epsilon, count, block.trainable, rng)

    def _report(self, index: int, epoch: int, losses: list[float]) -> None:
        """Count a step, tell the observer, and stop at a loss that is not finite."""
        sets = ESTIMATORS[self.config.estimator]().parameter_sets(self.config.directions or 0)
        self.model.usage.add(self.model.blocks[index].meshes, self.batch_size, sets)
        if not np.isfinite(losses[-1]):
            raise NonFiniteLossError(
                f"the loss of mesh {self._name(index)} became {losses[-1]} in epoch {epoch + 1}, "
                f"step {len(losses)}; try a learning rate below {self.config.learning_rate:g}"
            )
        step = (index * self.config.epochs + epoch) * self.steps_per_epoch + len(losses)
        for observer in self.observers:
            observer.on_step(step, self._name(index), losses[-1])

    def _record(
        self, index: int, epoch: int, loss: float, train: Samples, validation: Samples | None
    ) -> None:
        monitored = Samples(train.x[:MONITORED], train.y[:MONITORED])
        record = EpochRecord(
            mesh=self._name(index),
            epoch=epoch + 1,
            loss=loss,
            train_accuracy=self._accuracy(index, monitored),
            validation_accuracy=self._accuracy(index, validation) if validation else None,
            **asdict(self.model.usage),
            seconds=time.perf_counter() - self._started,
        )
        self.model.history.append(record)
        for observer in self.observers:
            observer.on_epoch(record, self.model)

    def _accuracy(self, index: int, samples: Samples) -> float:
        block = self.model.blocks[index]
        self.model.usage.add(block.meshes, len(samples.y))
        scores = block.all_scores(self.model.params[index], samples.x)
        return float(np.mean(scores.argmax(axis=-1) == samples.y))

    def _name(self, index: int) -> str:
        """The meshes that a block trains, counted from 1."""
        last = self.config.meshes
        return str(index + 1) if self.config.local or last == 1 else f"1-{last}"


def fit(
    x: Any,
    y: Any,
    *,
    validation: int | tuple[Any, Any] = 0,
    recipe: str = "balanced",
    method: str = "ff-dd",
    observers: tuple[Observer, ...] = (),
    **settings: Any,
) -> Model:
    """Train a photonic network on the user's own arrays.

    Args:
        x: Fields [n, N], real or complex; `encode` makes them from images.
        y: Labels [n], whole numbers from 0.
        validation: How many samples to hold out of training, or samples (x, y) of their own.
        recipe: ``balanced``, ``paper`` or ``published``.
        method: ``ff-dd``, ``ff-ad``, ``bp-dd`` or ``bp-ad``.
        observers: Told of every step and epoch.
        **settings: Any field of `Config`, instead of the recipe's.

    Returns:
        The trained model.

    Raises:
        TypeError, ValueError: an argument breaks a rule that the message names.
        NonFiniteLossError: training met a loss that is not finite.
    """
    config = configure(recipe, method, **settings)
    train, held_out = _prepared(x, y, validation, config.seed)
    return Trainer(config, train, held_out, observers).run()


def _prepared(
    x: Any, y: Any, validation: int | tuple[Any, Any], seed: int
) -> tuple[Samples, Samples | None]:
    x, y, classes = check_arrays(x, y)
    if isinstance(validation, tuple):
        return Samples(x, y), Samples(*check_arrays(*validation, classes)[:2])
    if validation == 0:
        return Samples(x, y), None
    kept, held_out = split(len(y), validation, seed)
    return Samples(x[kept], y[kept]), Samples(x[held_out], y[held_out])
