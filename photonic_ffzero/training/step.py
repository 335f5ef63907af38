"""The training of one stage: its compiled step, and the batches and directions of an epoch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from meshes._tensorflow import graph, tensor_of, tf
from meshes.validation import from_spec
from photonic_ffzero.config import Config
from photonic_ffzero.data.datasets import some_of
from photonic_ffzero.goodness.losses import LOSSES
from photonic_ffzero.gradients.directions import SHARD, Directions, Sampler, check_count, draw
from photonic_ffzero.gradients.epsilon import EVALUATIONS, PROBES, probe_step
from photonic_ffzero.gradients.estimators import (
    ESTIMATORS,
    Autodiff,
    CentralDifference,
    Estimate,
    Estimator,
    TwinFacts,
    estimate,
)
from photonic_ffzero.gradients.objectives import (
    PERTURBATIONS,
    Cost,
    InnerActivations,
    Objective,
    Perturbation,
    Weights,
)
from photonic_ffzero.gradients.twin import FIT_RATE, Twin
from photonic_ffzero.layers.base import first_step, one_set
from photonic_ffzero.layers.blocks import Block, Stage
from photonic_ffzero.optimizers import OPTIMIZERS, SCHEDULES, descend
from photonic_ffzero.seeds import generator

if TYPE_CHECKING:
    from photonic_ffzero.training.native import NativeSteps

MOST_STEPS = 64  # in one compiled call
RANDOM_NUMBERS = 2**22  # at most drawn for a call of several steps


class Samples(NamedTuple):
    """Inputs [n, ...] and labels: classes [n], or numbers [n] or [n, T]."""

    x: np.ndarray
    y: np.ndarray


class StepState(NamedTuple):
    """What a step passes on besides the parameters of a block.

    Attributes:
        optimizer: The optimizer's state.
        twin: The twin's; empty without one.
        facts: `TwinFacts` of the step; likewise.
    """

    optimizer: Any
    twin: Any = ()
    facts: Any = ()

    @classmethod
    def first(cls, config: Config, params: Any, twin: Twin | None = None) -> StepState:
        """The state at the start of a block's training."""
        optimizer = OPTIMIZERS[config.optimizer]().init(params)
        if twin is None:
            return cls(optimizer)
        return cls(optimizer, twin.init(), TwinFacts(*map(tf.constant, (0.0, 0.0, 0.0, 1.0))))


def as_arrays(tensors: Any) -> Any:
    return tf.nest.map_structure(lambda tensor: tensor.numpy(), tensors)


def check_directions(config: Config, block: Block) -> None:
    """Check the number of directions of a block before anything is trained."""
    if config.perturb != "activations" and block.body:
        check_count(config.law, config.directions or 0, block.trainable)


def make_steps(stage: Stage, config: Config, twin: Twin | None = None) -> Callable[..., Any]:
    """Compile several training steps of a stage into one call.

    The function maps (params, `StepState` of each block, inputs [n, ...], labels [n, T], batches
    [S, B], directions and noise with leading S, learning rates [S], number of steps to take) to
    (params, states, losses [S]). Random numbers come from outside, because those drawn inside
    would depend on the engine.
    """
    native = native_steps(stage, config, twin)
    if native is not None:
        return native
    step = make_step(stage, config, twin)

    def steps(
        params: Any,
        state: Any,
        x: Any,
        y: Any,
        batches: Any,
        directions: Any,
        noise: Any,
        rates: Any,
        count: Any,
    ) -> tuple[Any, Any, Any]:
        def body(index: Any, params: Any, state: Any, losses: Any) -> tuple[Any, ...]:
            step_directions = [own and own.of_step(index) for own in directions]
            step_noise = tf.nest.map_structure(lambda array: array[index], noise)
            inputs, labels = tf.gather(x, batches[index]), tf.gather(y, batches[index])
            params, state, loss = step(
                params, state, inputs, labels, step_directions, step_noise, rates[index]
            )
            return index + 1, params, state, losses.write(index, loss)

        start = (0, params, state, tf.TensorArray(tf.float32, batches.shape[0]))
        _, params, state, losses = tf.while_loop(lambda index, *_: index < count, body, start)
        return params, state, losses.stack()

    return graph(steps, xla=stage.runs_on == "xla")


def native_steps(stage: Stage, config: Config, twin: Twin | None = None) -> NativeSteps | None:
    """The steps outside of graphs, see `training.native`; None where something has no kernel."""
    block, *others = stage.blocks
    step = BlockStep(block, config)
    if (
        twin is not None
        or others
        or len(block.layers) > 1
        or stage.runs_on == "xla"
        or type(step.estimator) is not CentralDifference
        or type(step.perturbation) is not Weights
    ):
        return None
    from photonic_ffzero.training import native  # it loads Numba

    return native.steps_of(block, step.loss, step.optimizer, config.weight_decay or 0.0)


def make_step(stage: Stage, config: Config, twin: Twin | None = None) -> Callable[..., Any]:
    """One training step of a stage, of tensors; no block's loss moves another's parameters.

    It maps (params, `StepState`s, inputs [B, ...], labels [B, T], directions, noise, learning
    rate) to (params, states, mean loss); all but inputs, labels and rate have one entry a block.
    """
    steps = [BlockStep(block, config, twin) for block in stage.blocks]

    def step(
        params: Any, states: Any, x: Any, y: Any, directions: Any, noise: Any, rate: Any
    ) -> tuple[Any, Any, Any]:
        results = []
        for index, take in enumerate(steps):
            if index:
                x = stage.blocks[index - 1].transmit(one_set(params[index - 1]), x)[0]
            result = take(params[index], states[index], x, y, directions[index], noise[index], rate)
            results.append(result)
        new_params, new_states, losses = zip(*results, strict=True)
        return new_params, new_states, tf.add_n(losses) / len(losses)

    return step


@dataclass(frozen=True, eq=False)
class BlockStep:
    """One training step of a block, of tensors: as that of a stage, but without axes of blocks."""

    block: Block
    config: Config
    twin: Twin | None = None

    @cached_property
    def estimator(self) -> Estimator:
        return _estimator(self.config, self.block)

    @cached_property
    def optimizer(self) -> Any:
        return OPTIMIZERS[self.config.optimizer]()

    @cached_property
    def loss(self) -> Any:
        return from_spec("loss", self.config.loss, LOSSES)

    @cached_property
    def perturbation(self) -> Perturbation:
        return _perturbation(self.config, self.block)

    def objective(self, params: Any, x: Any, y: Any, noise: Any = ()) -> Objective:
        """The objective on inputs [B, ...] with labels [B, T]."""
        return self.perturbation(self.block, self.loss, params, x, y, noise)

    def update(self, params: Any, state: StepState, result: Estimate, rate: Any) -> Any:
        """The parameters and the state that follow from an estimate, and its loss."""
        gradient = result.gradient
        if self.block.frozen is not None:  # which autodiff does not know
            gradient = tf.nest.map_structure(
                lambda slope, still: tf.where(still, tf.zeros_like(slope), slope),
                gradient,
                self.block.frozen,
            )
        direction, moments = self.optimizer.update(gradient, state.optimizer)
        new_state = StepState(moments, result.state, result.facts)
        moved = descend(params, direction, rate, self.config.weight_decay or 0.0)
        return moved, new_state, result.loss

    def __call__(
        self,
        params: Any,
        state: StepState,
        x: Any,
        y: Any,
        directions: Directions | None,
        noise: Any,
        rate: Any,
    ) -> Any:
        objective = self.objective(params, x, y, noise)
        if self.twin is not None:  # its fit slows down as the training does
            fit_rate = rate * (FIT_RATE / self.config.learning_rate)
            objective = objective._replace(twin=self.twin.bound(state.twin, x, fit_rate))

        def then(result: Estimate) -> Any:
            return self.update(params, state, result, rate)

        return estimate(self.estimator, objective, directions, then)


def _estimator(config: Config, block: Block) -> Estimator:
    """The estimator of a block; a block of heads alone has its exact gradient."""
    return ESTIMATORS[config.estimator]() if block.body else Autodiff()


def _perturbation(config: Config, block: Block) -> Perturbation:
    """Where directions lie; autodiff differentiates with respect to the weights themselves."""
    if config.perturb is None or not block.body:
        return Weights(shortcut=False)
    if config.perturb == "activations" and block.moved:
        return InnerActivations(grouped=config.losses == "grouped")
    return PERTURBATIONS[config.perturb]()


def shards_of(config: Config) -> list[range]:
    """The directions that are evaluated together: all, or shards of them where workers share."""
    count = config.directions or 0
    size = SHARD if config.workers else max(count, 1)
    return [range(first, min(first + size, count)) for first in range(0, max(count, 1), size)]


def _cost(config: Config, block: Block, hands_on: bool) -> Cost:
    """What a step costs a block, which may hand its outputs on to another one in training.

    The next block, and heads that are trained exactly, take the values at the block's parameters
    themselves.
    """
    estimator = _estimator(config, block)
    points = sum(estimator.parameter_sets(len(shard)) for shard in shards_of(config))
    at_origin = getattr(estimator, "at_origin", False)  # an estimator from outside need not have it
    cost = _perturbation(config, block).cost(points, at_origin)
    extra = not cost.at_origin and (hands_on or 0 < len(block.body) < len(block.layers))
    return Cost(cost.passes + extra, cost.writes + extra, cost.at_origin or extra)


@dataclass
class StageTraining:
    """One stage in training.

    All random numbers of an epoch follow from the seed, the stage's index and the epoch, so that
    an epoch can be repeated without those before it.

    Attributes:
        config: Every choice of the run.
        stage: The blocks.
        params: Their parameters, which every step replaces.
        train: Their inputs, and labels [n, T] as the losses take them.
        epsilon: The step of the differences; chosen here if the configuration says ``auto`` and
            None is given. None for autodiff.
        twin: The model of the one block whose estimator needs one; else None.
        probed: Parameter sets that were evaluated to choose epsilon.
        state: A `StepState` for each block.
        metric: The smoothed metric of a law that follows the network, see `Sampler.follow`.
        steps_per_call: Steps compiled into one call.
    """

    config: Config
    stage: Stage
    params: Any
    train: Samples
    epsilon: float | None = None
    twin: Twin | None = None
    probed: int = field(init=False, default=0)
    state: Any = field(init=False)
    metric: list[np.ndarray] = field(init=False, default_factory=list)
    steps_per_call: int = field(init=False)

    def __post_init__(self) -> None:
        self._steps = make_steps(self.stage, self.config, self.twin)
        self._x, self._y = map(tensor_of, self.train)
        self.params = tf.nest.map_structure(tf.constant, tuple(self.params))
        self.state = tuple(StepState.first(self.config, p, self.twin) for p in self.params)
        self.steps_per_call = self._fitting_steps()
        if not isinstance(self.config.epsilon, str):
            self.epsilon = self.config.epsilon
        elif self.epsilon is None:
            self.epsilon, self.probed = self._choose_epsilon(), EVALUATIONS
        self._samplers = list(map(self._sampler, self.stage.blocks))

    @property
    def batch_size(self) -> int:
        """Samples a step: at most all there are."""
        return min(self.config.batch_size, len(self.train.y))

    @property
    def steps(self) -> int:
        """Steps of an epoch, which takes full batches alone."""
        return len(self.train.y) // self.batch_size

    @property
    def parameter_sets(self) -> int:
        """Parameter sets evaluated in a step."""
        return ESTIMATORS[self.config.estimator]().parameter_sets(self.config.directions or 0)

    @property
    def costs(self) -> list[Cost]:
        """What a step costs each block."""
        *others, last = self.stage.blocks
        return [_cost(self.config, b, hands_on=True) for b in others] + [
            _cost(self.config, last, hands_on=False)
        ]

    def restore(self, optimizer: list[np.ndarray], metric: list[np.ndarray]) -> None:
        """Put back the state, as a flat list, and the metric; empty for a new start."""
        if optimizer:
            self.state = tf.nest.pack_sequence_as(self.state, [tf.constant(a) for a in optimizer])
        if metric:
            self.metric = self._follow(metric)

    def settle(self) -> None:
        """Bring parameters and state here, if they are elsewhere while steps are taken."""

    def take_statistics(self, x: np.ndarray) -> None:
        """Put the statistics of some inputs into the parameters."""
        params = self.stage.with_statistics(as_arrays(self.params), x)
        self.params = tf.nest.map_structure(tf.constant, params)

    @property
    def twin_facts(self) -> dict[str, Any]:
        """What the history says of the twin, by the names of `EpochRecord`; empty without one."""
        if self.twin is None:
            return {}
        (state,) = self.state
        facts = state.facts._asdict() | ({} if self.config.directions else {"unexplained": None})
        return {f"twin_{k}": None if v is None else float(v) for k, v in facts.items()}

    def epoch(self, epoch: int, start: int = 0) -> Iterator[list[float]]:
        """Go through the samples once, in full batches of a new order.

        Args:
            epoch: Which epoch, from 0.
            start: Steps of it that were taken before, in whole calls: their directions are drawn
                again, the steps not taken again.

        Yields:
            The losses of the steps of each call, up to `steps_per_call` of them.
        """
        order, rng = self.order(epoch), self.generator("directions", epoch)
        for first in range(0, self.steps, self.steps_per_call):
            if first >= start and self._is_due(first):
                x = tf.gather(self._x, order[first * self.batch_size :][: self.batch_size])
                now = self.stage.blocks[0].metric(self.params[0], x)
                self.metric = self._follow(now, self.metric)
            directions = [
                sampler.draw(rng, self.steps_per_call) if sampler else None
                for sampler in self._samplers
            ]
            if first >= start:
                yield self._take(epoch, first, order, directions)

    def _is_due(self, first: int) -> bool:
        """Whether the law takes the metric anew in front of a call, so many steps after the last.

        It begins with the epoch, so that a run that goes on does so at the same steps.
        """
        (sampler, *_), size = self._samplers, self.steps_per_call
        every = sampler.every if sampler else None
        return every is not None and (first == 0 or first // every > (first - size) // every)

    def _follow(
        self, metric: list[np.ndarray], before: Sequence[np.ndarray] = ()
    ) -> list[np.ndarray]:
        """Let the directions of a stage of one block, a mesh's, follow the network."""
        (block,), (sampler,) = self.stage.blocks, self._samplers
        return sampler.follow(block.together, metric, before) if sampler else metric

    def _noise(self, steps: int, epoch: int, first: int = 0) -> list[tuple[Any, ...]]:
        rng = self.generator("noise", epoch, first)
        age = self.stage.index * self.config.epochs + epoch
        return [
            block.draw_noise(rng, steps, self.parameter_sets, self.batch_size, age)
            for block in self.stage.blocks
        ]

    def generator(self, purpose: str, *place: int) -> np.random.Generator:
        """The source of one of the stage's random draws."""
        return generator(self.config.seed, purpose, self.stage.index, *place)

    def _take(
        self, epoch: int, first: int, order: np.ndarray, directions: list[Directions | None]
    ) -> list[float]:
        """Take a call's steps; steps beyond the epoch's end are prepared but not taken."""
        numbers = first + np.arange(self.steps_per_call)
        batches, rates = self.batches(order, numbers), self.rates(epoch, numbers)
        count = min(self.steps_per_call, self.steps - first)
        self.params, self.state, losses = self._steps(
            *(self.params, self.state, self._x, self._y),
            *(batches, directions, self._noise(len(numbers), epoch, first)),
            *(rates, np.int32(count)),
        )
        return losses.numpy()[:count].tolist()

    def order(self, epoch: int) -> np.ndarray:
        """The samples of an epoch in the order in which it takes them."""
        return self.generator("shuffle", epoch).permutation(len(self.train.y))

    def batches(self, order: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        """The samples [S, B] of some steps of an epoch."""
        places = numbers[:, np.newaxis] * self.batch_size + np.arange(self.batch_size)
        return order.take(places, mode="wrap").astype(np.int32)

    def samples(self, batch: np.ndarray) -> Samples:
        """Those samples as tensors."""
        return Samples(tf.gather(self._x, batch), tf.gather(self._y, batch))

    def rates(self, epoch: int, numbers: np.ndarray) -> np.ndarray:
        """The learning rates [S] of some steps of an epoch."""
        schedule, epochs = SCHEDULES[self.config.schedule], self.config.epochs
        factors = [schedule((epoch + number / self.steps) / epochs) for number in numbers]
        return np.array(factors, np.float32) * np.float32(self.config.learning_rate)

    def _fitting_steps(self) -> int:
        """Steps a call, as many as divide an epoch evenly and draw no more than RANDOM_NUMBERS.

        On a device one, so that training can stop and be saved after every step.
        """
        if self.stage.runs_on == "device":
            return 1
        moved = sum(
            mask.size for block in self.stage.blocks for mask in tf.nest.flatten(self._moved(block))
        )
        noise = sum(array.size for array in tf.nest.flatten(self._noise(1, 0)))
        numbers = moved * (self.config.directions or 1) + noise
        most = max(RANDOM_NUMBERS // numbers, 1)
        calls = math.ceil(self.steps / min(most, MOST_STEPS))
        return math.ceil(self.steps / calls)

    def _moved(self, block: Block) -> Any:
        """The structure of boolean arrays that says which numbers a direction moves."""
        return _perturbation(self.config, block).trainable(block, self.batch_size)

    def _sampler(self, block: Block) -> Sampler | None:
        law, count = self.config.law, self.config.directions
        if law is None or not count or not block.body:  # autodiff, or a twin alone
            return None
        return self.sampler(block, count)

    def sampler(self, block: Block, count: int) -> Sampler:
        """What draws so many directions for a block."""
        return Sampler(self.config.law or "", self.epsilon or 1.0, count, self._moved(block))

    def _choose_epsilon(self) -> float:
        """Choose the step from the losses of some samples, see `gradients.epsilon`."""
        rng = self.generator("probes")
        batch = some_of(len(self.train.y), self.batch_size, rng)
        samples = Samples(*(tf.gather(part, batch) for part in (self._x, self._y)))
        block = self.stage.blocks[0]  # of a mesh, which is trained alone
        v = draw("rademacher", 1.0, PROBES, self._moved(block), rng).v
        age = self.stage.index * self.config.epochs
        losses = losses_along(v, self.config, block, self.params[0], samples, rng, age)
        one_sided = getattr(ESTIMATORS[self.config.estimator](), "at_origin", False)
        return probe_step(losses, self.config.known_imperfections.drive_step, one_sided)


def losses_along(
    v: Any,
    config: Config,
    block: Block,
    params: Any,
    samples: Samples,
    rng: np.random.Generator,
    age: int,
) -> Callable[[float, int], np.ndarray]:
    """A block's losses [M] at w + sign step v, as a function of step and sign.

    Args:
        v: M directions among the parameters.
        config: The configuration.
        block: The block.
        params: Its parameters w.
        samples: One batch, with labels as the losses take them.
        rng: Source of the noise, which is drawn anew at every call.
        age: That of the chip, in epochs of training.
    """
    loss, count = from_spec("loss", config.loss, LOSSES), len(tf.nest.flatten(v)[0])

    def losses(step: float, sign: int) -> np.ndarray:
        drawn = block.draw_noise(rng, 1, count, len(samples.y), age)
        noise = first_step(drawn)
        objective = Weights(shortcut=False)(block, loss, params, *samples, noise)
        points = tf.nest.map_structure(lambda w, u: w + sign * step * u, params, v)
        return np.sum(objective.losses(objective.measure(points)), axis=1)

    return losses
