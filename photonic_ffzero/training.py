"""The one training loop: block after block, epoch after epoch, whatever the method."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from meshes._tensorflow import tf
from photonic_ffzero.data import check_arrays, split
from photonic_ffzero.model import EpochRecord, Model
from photonic_ffzero.recipes import Config, configure
from photonic_ffzero.steps import BlockTraining, Samples

__all__ = ["NonFiniteLossError", "Observer", "Trainer", "fit"]

MONITORED = 5000  # training images on which the training accuracy is measured each epoch


class NonFiniteLossError(ArithmeticError):
    """Training met a loss that is not a finite number."""


class Observer:
    """What a training run reports to; override what you want to hear of."""

    def on_step(self, mesh: str, loss: float) -> None:
        """Hear of every step: the mesh or meshes in training and the loss."""

    def on_epoch(self, record: EpochRecord, model: Model) -> None:
        """Hear of the end of every epoch, with the model as it is then."""


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
    def steps(self) -> int:
        """Steps of the whole run."""
        batch = min(self.config.batch_size, len(self.train.y))
        return len(self.model.blocks) * self.config.epochs * (len(self.train.y) // batch)

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
        block = self.model.blocks[index]
        training = BlockTraining(self.config, block, index, self.model.params[index], train)
        for epoch in range(self.config.epochs):
            losses = []
            for loss in training.epoch(epoch):
                self.model.usage.add(block.meshes, training.batch_size, training.parameter_sets)
                losses.append(loss)
                self._report(index, epoch, losses)
            self.model.params[index] = tf.nest.map_structure(lambda w: w.numpy(), training.params)
            self._record(index, epoch, float(np.mean(losses)), train, validation)

    def _report(self, index: int, epoch: int, losses: list[float]) -> None:
        """Stop at a loss that is not finite; tell the observers of any other."""
        if not np.isfinite(losses[-1]):
            raise NonFiniteLossError(
                f"the loss of mesh {self._name(index)} became {losses[-1]} in epoch {epoch + 1}, "
                f"step {len(losses)}; try a learning rate below {self.config.learning_rate:g}"
            )
        for observer in self.observers:
            observer.on_step(self._name(index), losses[-1])

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
