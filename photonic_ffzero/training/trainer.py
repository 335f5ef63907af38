"""The training loop, the same for every method: block after block, epoch after epoch."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from meshes import ChipEstimate
from meshes._tensorflow import tf
from meshes.validation import instance, integer, quoted, switch
from photonic_ffzero.config import Config, configure, device_name, with_settings
from photonic_ffzero.data.checks import CHECKS, check_inputs
from photonic_ffzero.data.datasets import some_of, split
from photonic_ffzero.data.tasks import Task, task_of
from photonic_ffzero.devices.device import Device
from photonic_ffzero.gradients import Twin
from photonic_ffzero.layers.blocks import Stage
from photonic_ffzero.model import EpochRecord, Model, Position
from photonic_ffzero.networks import open_device
from photonic_ffzero.power import beyond_tables
from photonic_ffzero.seeds import generator
from photonic_ffzero.snapshots import Snapshots
from photonic_ffzero.training.calibration import calibrated, mesh_passes
from photonic_ffzero.training.crew import Crew, SharedTraining, Traffic, hired
from photonic_ffzero.training.memory import check_memory
from photonic_ffzero.training.observer import Observer, StoppedError, check_observers
from photonic_ffzero.training.progress import Course, check_progress, progress_of
from photonic_ffzero.training.step import (
    Samples,
    StageTraining,
    StepState,
    as_arrays,
    check_directions,
)
from photonic_ffzero.training.twins import estimate_of, learned, places, twin_of
from photonic_ffzero.training.warnings import ResultWarning, facts_of, warnings_of

MONITORED = 5000  # training samples on which the training accuracy is measured each epoch
CHECKPOINT_SECONDS = 60.0  # longest time between two checkpoints within an epoch


class NonFiniteLossError(ArithmeticError):
    """Training met a loss that is not a finite number."""


@dataclass
class Trainer:
    """Trains a network on one data set.

    Attributes:
        model: The network; its parameters, history and usage change.
        train: Training samples; fields [n, N], real or complex. They are checked as `fit` checks
            them, and copied only where they have another precision.
        validation: Held-out training samples, or None.
        observers: Told of every step, epoch and checkpoint.
        position: Where the training stands, by default at its start. A model and a position from
            a checkpoint lead to exactly the figures of a run that never stopped.
        traffic: What its workers exchanged, once it has run; None without workers.
    """

    model: Model
    train: Samples
    validation: Samples | None = None
    observers: tuple[Observer, ...] = ()
    position: Position = field(default_factory=Position)
    traffic: Traffic | None = field(init=False, default=None)
    _crew: Crew | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        instance("model", self.model, Model)
        instance("position", self.position, Position)
        self.observers = check_observers(self.observers)
        self.train = self._checked("train", self.train)
        if self.validation is not None:
            self.validation = self._checked("validation", self.validation)
        held_out = len(self.validation.y) if self.validation else 0
        if self.config.task == "regression" and held_out == 1:
            raise ValueError(
                "validation must be 0, or 2 samples or more for a regression, whose R^2 needs two, "
                "got 1"
            )
        if not self.config.trains:
            return
        for block in self.model.blocks:
            check_directions(self.config, block)
        if not self.position.has_begun(0) and (beyond := beyond_tables(self.model, self.train.x)):
            raise ValueError(f"{beyond[0]}; measure further, or dim the light")
        check_memory(self.config, self.model.stages, self.model.params, len(self.train.y))

    def _checked(self, name: str, samples: Samples) -> Samples:
        """Samples that fit the model: compiled code would read beside others."""
        instance(name, samples, Samples)
        task, names = self.model.task, (f"x of {name}", f"y of {name}")
        check = CHECKS[task.name]
        x, y, _ = check(*samples, task.classes * task.labels, names, copy=False)
        return Samples(check_inputs(names[0], x, self.model.units, self.config.network), y)

    @property
    def config(self) -> Config:
        return self.model.config

    @property
    def steps_per_epoch(self) -> int:
        """Full batches in the training samples."""
        return len(self.train.y) // min(self.config.batch_size, len(self.train.y))

    @property
    def steps(self) -> int:
        """Steps of the whole run."""
        return len(self.model.stages) * self.config.epochs * self.steps_per_epoch

    @property
    def steps_done(self) -> int:
        """Steps taken so far."""
        done = sum(stage.end <= self.position.block for stage in self.model.stages)
        epochs = done * self.config.epochs + self.position.epoch
        return epochs * self.steps_per_epoch + len(self.position.losses)

    def course(self, label: str, quality: Callable[[float], str]) -> Course:
        """What a progress shows of this training; see `Course` for the arguments."""
        return Course(self.steps, self.steps_done, label, quality, self._epoch_of)

    def _epoch_of(self, step: int) -> str:
        """``3/40``: the epoch of a step of the whole run, which counts from 1, and the last one."""
        epochs = self.config.epochs
        return f"{(step - 1) // self.steps_per_epoch % epochs + 1}/{epochs}"

    def run(self) -> Model:
        """Train every stage in turn, freeze it, and give its outputs to the next; return the model.

        Raises:
            NonFiniteLossError: a loss was not finite; the last checkpoint is from before it.
            DeviceError: the device failed; likewise.
            CrewError: the workers are gone, or do not agree; likewise.
            StoppedError: an observer stopped the run.
        """
        with hired(self.config) if self._trains_on else nullcontext() as self._crew:
            self._run_stages()
            self.traffic = self._crew.traffic if self._crew else None
        return self.model

    def _run_stages(self) -> None:
        self._started = time.perf_counter() - self.model.seconds
        train, validation = self.train, self.validation
        previous: Stage | None = None
        for stage in self.model.stages:
            if previous is not None and previous.cacheable:
                train = self._outputs(previous, train)
                validation = self._outputs(previous, validation) if validation else None
            elif previous is not None:
                stage = stage.with_front(previous, self._params(previous))
            if stage.index >= self.position.block:
                self._train_stage(stage, train, validation)
            previous = stage
        self.model.seconds = self._elapsed()

    @property
    def _trains_on(self) -> bool:
        return self.config.trains and self.position.block < len(self.model.blocks)

    def _elapsed(self) -> float:
        return time.perf_counter() - self._started

    def _params(self, stage: Stage) -> list[Any]:
        return self.model.params[stage.index : stage.end]

    def _keep(self, stage: Stage, params: Sequence[Any]) -> None:
        self.model.params[stage.index : stage.end] = params

    def _outputs(self, stage: Stage, samples: Samples) -> Samples:
        """Send samples through a trained stage: once for the whole of the next one's training."""
        if not self.position.has_begun(stage.end):  # else these passes are counted already
            self.model.usage.add(stage, 1, len(samples.y), writes=0)  # its phases are written
        return Samples(stage.all_outputs(self._params(stage), samples.x), samples.y)

    def _train_stage(self, stage: Stage, train: Samples, validation: Samples | None) -> None:
        position = self.position
        if self.config.trains:
            self._train_epochs(stage, train, validation)
        elif stage.keeps_statistics:
            self.model.usage.add(stage, 1, len(train.y), writes=0)
            self._keep(stage, stage.with_statistics(self._params(stage), train.x))
        position.block, position.epoch = stage.end, 0
        position.optimizer, position.metric = [], []
        position.epsilon, position.calibrated = None, False
        self._save()

    def _train_epochs(self, stage: Stage, train: Samples, validation: Samples | None) -> None:
        position = self.position
        targets = Samples(train.x, self.model.task.targets(train.y))
        twin = twin_of(self.model, stage.index, stage.blocks[0])
        if twin is not None and self.config.calibration:
            begun = position.has_begun(stage.index)
            twin = twin.settled if begun else self._calibrated(stage, twin, train.x)
        training = self._training(stage, targets, twin)
        training.restore(position.optimizer, position.metric)
        probed = training.probed
        self.model.usage.add(stage, probed, training.batch_size * self._reads, writes=probed)
        position.epsilon = training.epsilon
        monitored = self._monitored(train)
        for epoch in range(position.epoch, self.config.epochs):
            self._train_epoch(training, epoch)
            self._keep_params(training, monitored)
            self._record(training, epoch, monitored, validation)
            position.epoch, position.losses = epoch + 1, []
            self._checkpoint(training)
        self._keep_params(training, train)
        if twin is not None:
            (state,) = training.state
            self.model.known[places(self.model, stage.index)] = learned(twin, state.twin)

    def _monitored(self, train: Samples) -> Samples:
        """The training samples that are judged after every epoch, the same in all stages."""
        rng = generator(self.config.seed, "monitored")
        places = some_of(len(train.y), MONITORED, rng)
        return Samples(*(part[places] for part in train)) if len(places) < len(train.y) else train

    def _training(self, stage: Stage, train: Samples, twin: Twin | None) -> StageTraining:
        """One stage in training, here or by a crew."""
        rest = (self.config, stage, self._params(stage), train, self.position.epsilon, twin)
        return SharedTraining(*rest, crew=self._crew) if self._crew else StageTraining(*rest)

    def _calibrated(self, stage: Stage, twin: Twin, x: np.ndarray) -> Twin:
        """Let the twin of a stage's block learn from readings at random phases."""
        (block,), (params,) = stage.blocks, self._params(stage)
        count, batch = self.config.calibration or 0, min(self.config.batch_size, len(x))
        numbers = range(stage.index, stage.index + len(block.layers))
        rngs = [generator(self.config.seed, "calibration", number) for number in numbers]

        def inputs(rng: np.random.Generator) -> np.ndarray:
            """Amplitudes of both signs, which tell more than images; or those that come in."""
            if np.iscomplexobj(x):
                return x[rng.integers(len(x), size=batch)]
            return rng.standard_normal((batch, x.shape[1]), np.float32)

        def progress(index: int, done: int, total: int) -> None:
            for observer in self.observers:
                observer.on_calibration(str(numbers[index] + 1), done, total)

        age = stage.index * self.config.epochs
        number = stage.index + 1
        twin = calibrated(block, twin, params, inputs, count, rngs, age, progress, number)
        self.model.known[places(self.model, stage.index)] = twin.start
        readings = count * batch * self._reads
        passes = mesh_passes(len(block.layers), readings, len(block.front))
        self.model.usage.forward_passes += passes
        bar_states = len(block.layers) - 1
        self.model.usage.phase_writes += len(block.layers) * count + bar_states
        self._save_calibrated(stage, twin)
        return twin

    def _save_calibrated(self, stage: Stage, twin: Twin) -> None:
        """Let the observers save what many readings told, with the state before the first step."""
        states = [StepState.first(self.config, params, twin) for params in self._params(stage)]
        self.position.optimizer = tf.nest.flatten(as_arrays(states))
        self.position.calibrated = True
        self._save()

    def _keep_params(self, training: StageTraining, samples: Samples) -> None:
        """Put the trained parameters into the model, calibrated on some samples."""
        training.settle()
        if training.stage.keeps_statistics:
            self.model.usage.add(training.stage, 1, len(samples.y), writes=0)
            training.take_statistics(samples.x)
        self._keep(training.stage, as_arrays(training.params))

    def _train_epoch(self, training: StageTraining, epoch: int) -> None:
        taken, saved = self.position.losses, time.perf_counter()
        for losses in training.epoch(epoch, start=len(taken)):
            shots = training.batch_size * len(losses) * self._reads
            for block, cost in zip(training.stage.blocks, training.costs, strict=True):
                self.model.usage.add(block, cost.passes, shots, cost.writes * len(losses))
            taken.extend(losses)
            try:
                self._report(training.stage, epoch, losses)
            except StoppedError:
                self._checkpoint(training)
                raise
            if time.perf_counter() - saved > CHECKPOINT_SECONDS:
                self._checkpoint(training)
                saved = time.perf_counter()

    def _report(self, stage: Stage, epoch: int, losses: list[float]) -> None:
        """Stop at a loss that is not finite; tell the observers of any others."""
        for number, loss in enumerate(losses, len(self.position.losses) - len(losses) + 1):
            if not np.isfinite(loss):
                place = f"epoch {epoch + 1}, step {number}"
                raise self._diverged(stage, f"loss became {loss} in {place}")
        for observer in self.observers:
            observer.on_steps(self._name(stage), losses)

    def _diverged(self, stage: Stage, what: str) -> NonFiniteLossError:
        return NonFiniteLossError(
            f"{self.config.layer_name} {self._name(stage)}: the {what}; "
            f"try a learning rate below {self.config.learning_rate:g}"
        )

    def _checkpoint(self, training: StageTraining) -> None:
        """Put parameters and optimizer state into model and position; let the observers save."""
        training.settle()
        self._keep(training.stage, as_arrays(training.params))
        self.position.optimizer = tf.nest.flatten(as_arrays(training.state))
        self.position.metric = training.metric
        self._save()

    def _save(self) -> None:
        if self.model.snapshots is not None:
            self.model.snapshots.take(self.model, self.position)
        self.model.seconds = self._elapsed()
        for observer in self.observers:
            observer.on_checkpoint(self.model, self.position)

    def _record(
        self,
        training: StageTraining,
        epoch: int,
        monitored: Samples,
        validation: Samples | None,
    ) -> None:
        stage = training.stage
        record = EpochRecord(
            mesh=self._name(stage),
            epoch=epoch + 1,
            loss=float(np.mean(self.position.losses)),
            train_accuracy=self._quality(
                stage, "monitor", monitored, writes=self._writes(training, epoch)
            ),
            validation_accuracy=self._quality(stage, "validate", validation)
            if validation
            else None,
            **asdict(self.model.usage),
            epsilon=training.epsilon,
            seconds=self._elapsed(),
            **training.twin_facts,
        )
        self.model.history.append(record)
        for observer in self.observers:
            observer.on_epoch(record)

    def _writes(self, training: StageTraining, epoch: int) -> int:
        """How often the phases are written to be judged after an epoch.

        A twin without directions measures at these phases next, which are then counted.
        """
        measured_next = training.twin is not None and not self.config.directions
        return int(not measured_next or epoch + 1 == self.config.epochs)

    @property
    def _reads(self) -> int:
        return self.config.reads or 1

    def _quality(self, stage: Stage, purpose: str, samples: Samples, writes: int = 0) -> float:
        """Accuracy or R^2 of a stage's last readout; by default its phases are written already.

        The noise of a chip is drawn for the ``purpose``.
        """
        self.model.usage.add(stage, 1, len(samples.y) * self._reads, writes)
        source = self.model.noise_source(purpose, stage.index, len(samples.y))
        scores = stage.all_scores(self._params(stage), samples.x, source)
        if not np.isfinite(scores).all():
            raise self._diverged(stage, "scores became infinite or not a number")
        return self.model.task.quality(scores, samples.y)

    def _name(self, stage: Stage) -> str:
        """The meshes or layers that a stage trains, counted from 1: ``1``, or ``1-2``."""
        first, last = stage.index + 1, stage.end if self.config.local else self.config.layers
        return str(first) if first == last else f"{first}-{last}"


@with_settings
def fit(
    x: Any,
    y: Any,
    *,
    validation: int | Sequence[Any] = 0,
    recipe: str = "balanced",
    method: str = "ff-dd",
    device: Device | str | None = None,
    observers: Sequence[Observer] = (),
    start_from: Model | None = None,
    frozen_phases: Any = None,
    chip_estimate: ChipEstimate | str | os.PathLike[str] | None = None,
    embeddings: bool = False,
    progress: bool | str = "auto",
    **settings: Any,
) -> Model:
    """Train a network on the user's own arrays; return the model.

    Args:
        x: Fields [n, N], real or complex; `encode` makes them from images. Digital networks take
            real values.
        y: Labels [n]: classes, whole numbers from 0; for ``task="regression"`` numbers, [n] or
            [n, T].
        validation: How many samples to hold out of training, or a pair (x, y) of samples.
        recipe: ``balanced``, ``wide``, ``paper``, ``published`` or ``digital``.
        method: ``ff-dd``, ``ff-ad``, ``bp-dd`` or ``bp-ad``.
        device: A device to train on instead of a simulation, or its name, see `Config`.
        observers: Told of every step and epoch.
        start_from: A trained model of the same structure, whose parameters and prototypes are
            taken instead of random ones.
        frozen_phases: Which phases of the meshes keep their values, see `Model.freeze`.
        chip_estimate: What is known of the chip, from which estimator ``twin`` starts; or the path
            of a file of `meshes.ChipEstimate.save`.
        embeddings: Whether to keep small embeddings of some images (held-out ones, if there are
            any) after every epoch, for `photonic_ffzero.explore`; of a device nobody can.
        progress: Whether to show a bar; ``auto``: in Jupyter and on terminals.
        **settings: Any field of `Config`, instead of the recipe's value.

    Warns:
        ResultWarning: The figures mean little, for instance because no light reaches a mesh.

    Raises:
        NonFiniteLossError: training met a loss that is not finite.
        DeviceError: the device failed.
    """
    name = None if device is None else device_name(device)
    observers, progress = check_observers(observers), check_progress(progress)
    embeddings = switch("embeddings", embeddings)
    if not isinstance(start_from, Model | None):
        raise TypeError(f"start_from must be a Model (load_model), got {quoted(start_from)}")
    known = None if chip_estimate is None else estimate_of("chip_estimate", chip_estimate)
    config = configure(recipe, method, device=name, **settings)
    if embeddings and config.device:
        raise ValueError(
            f"embeddings would do nothing on a device, which is not asked for them, got {name}"
        )
    task, train, held_out = _prepared(x, y, validation, config)
    units = train.x.shape[-1]
    opened = open_device(config, units) if isinstance(device, str) else device
    model = Model(config, units, task, device=opened)
    if start_from is not None:
        model.take_over(start_from)
    if frozen_phases is not None:
        model.freeze(frozen_phases)
    if known is not None:
        model.know(known)
    if embeddings:
        monitored = held_out or train
        model.snapshots = Snapshots.of(model, monitored.x, monitored.y)
    if config.has_function:
        _try_nonlinearity(model, train.x[:1])
    trainer = Trainer(model, train, held_out, observers)
    quality = "{:.2%}" if config.task == "classification" else "{:.4f}"
    course = trainer.course(config.layer_name, quality.format)
    with progress_of(progress, course) as display:
        trainer.observers = (*observers, display)
        trainer.run()
    _warn(model, train, held_out)
    return model


def _warn(model: Model, train: Samples, held_out: Samples | None) -> None:
    """Say what makes the figures meaningless."""
    labels = {"training": train.y} | ({"validation": held_out.y} if held_out else {})
    for text in warnings_of(facts_of(model, train.x, labels)):
        warnings.warn(text, ResultWarning, stacklevel=3)


def _try_nonlinearity(model: Model, x: np.ndarray) -> None:
    """Call a black box once now, so that its errors surface before training."""
    for block, params in zip(model.blocks[:-1], model.params, strict=False):
        x = block.all_outputs(params, x)


def _prepared(
    x: Any, y: Any, validation: int | Sequence[Any], config: Config
) -> tuple[Task, Samples, Samples | None]:
    """The task, the training samples and those held out."""
    check = CHECKS[config.task]
    *arrays, count = check(x, y)
    samples = Samples(*arrays)
    check_inputs("x", samples.x, network=config.network)
    if isinstance(validation, (list, tuple)):
        if len(validation) != 2:
            raise ValueError(f"validation must be a pair (x, y), got {len(validation)} arrays")
        names = ("x of validation", "y of validation")
        held_out = Samples(*check(*validation, count, names)[:2])
        check_inputs(names[0], held_out.x, samples.x.shape[-1], config.network)
        return task_of(config.task, samples.y, slice(None)), samples, held_out
    validation = integer("validation", validation, minimum=0)
    if validation == 0:
        return task_of(config.task, samples.y, slice(None)), samples, None
    kept, rest = split(len(samples.y), validation, config.seed)
    train, held_out = (Samples(samples.x[part], samples.y[part]) for part in (kept, rest))
    return task_of(config.task, samples.y, kept), train, held_out
