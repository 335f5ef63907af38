"""A step's directions in shards, which several processes evaluate.

Every one of them holds the samples, the parameters and the optimizer's state of the stage in
training. The directions and the noise of a shard follow from the numbers of the step and of the
shard, so that no array travels, whatever the ports: each process returns the slopes of its shards,
gets those of all, and makes the same update as every other.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import pairwise
from typing import Any, NamedTuple, cast

import numpy as np

from meshes._tensorflow import fused, graph, tf
from photonic_ffzero.config import Config
from photonic_ffzero.gradients.directions import Directions, Sampler
from photonic_ffzero.gradients.estimators import Directional, Estimate
from photonic_ffzero.gradients.objectives import combine
from photonic_ffzero.layers.base import first_step
from photonic_ffzero.layers.blocks import Stage
from photonic_ffzero.training.step import (
    BlockStep,
    Samples,
    StageTraining,
    as_arrays,
    native_steps,
    shards_of,
)

_FLOAT = np.dtype("<f4")
_PLACE = struct.Struct("<II")  # epoch, step
_REQUEST = struct.Struct("<IIHH")  # the same, then the first shard and the one after the last


class Place(NamedTuple):
    """A step of a stage's training."""

    epoch: int
    step: int


@dataclass(frozen=True, eq=False)
class Setup:
    """A stage in training, as one process gets it from another.

    Attributes:
        config: Every choice of the run.
        stage: The stage, of one block.
        params: Its parameters.
        state: What `StageTraining.restore` takes; empty at the start.
        train: Its inputs and labels.
        epsilon: The step of the differences.
    """

    config: Config
    stage: Stage
    params: Any
    state: list[np.ndarray]
    train: Samples
    epsilon: float | None


def request(place: Place, shards: range) -> bytes:
    """Ask for the slopes of some shards of a step."""
    return _REQUEST.pack(*place, shards.start, shards.stop)


def update(place: Place, slopes: bytes) -> bytes:
    """Tell the slopes of all directions of a step, in their order."""
    return _PLACE.pack(*place) + slopes


def answer(reply: bytes, shards: int) -> tuple[bytes, np.ndarray]:
    """The slopes in an answer to a `request`, and the loss of each of the shards."""
    cut = len(reply) - shards * _FLOAT.itemsize
    return reply[:cut], np.frombuffer(reply[cut:], _FLOAT)


def parts(count: int, workers: int) -> list[range]:
    """So many shards divided among workers, as evenly as can be."""
    ends = [count * number // workers for number in range(workers + 1)]
    return [range(first, end) for first, end in pairwise(ends)]


class Replica:
    """A stage in training on one worker, the same on all."""

    def __init__(self, setup: Setup) -> None:
        self._training = StageTraining(
            setup.config, setup.stage, setup.params, setup.train, setup.epsilon
        )
        self._training.restore(setup.state, [])
        (self._block,) = setup.stage.blocks
        self._step = BlockStep(self._block, setup.config)
        self._estimator = cast(Directional, self._step.estimator)
        self._shards = shards_of(setup.config)
        if native := native_steps(setup.stage, setup.config):
            self._slopes, self._update = native.slopes, native.updated
        else:
            compiled = partial(graph, xla=setup.stage.runs_on == "xla")
            self._slopes, self._update = compiled(self._slopes_of), compiled(self._updated)
        self._drawn: dict[tuple[Place, int], Directions] = {}
        self._order: tuple[int, np.ndarray] = (-1, np.empty(0))

    def advance(self, updates: bytes, asked: bytes = b"") -> bytes:
        """Make some updates one after another, then evaluate what a request asks for.

        Returns:
            The slopes of its directions, and the loss of each of its shards; without a request a
            checksum of parameters and state.
        """
        size = _PLACE.size + _FLOAT.itemsize * (self._training.config.directions or 0)
        for first in range(0, len(updates), size):
            place = Place(*_PLACE.unpack_from(updates, first))
            slopes = updates[first + _PLACE.size : first + size]
            self._make(place, np.frombuffer(slopes, _FLOAT))
        if not asked:
            return self._checksum().to_bytes(4, "little")
        *numbers, start, stop = _REQUEST.unpack(asked)
        results = [self._evaluate(Place(*numbers), shard) for shard in range(start, stop)]
        slopes, losses = zip(*results, strict=True)
        return np.concatenate([*slopes, losses]).astype(_FLOAT).tobytes()

    def state(self) -> tuple[Any, list[np.ndarray]]:
        """Parameters, and what `StageTraining.restore` takes."""
        training = self._training
        return as_arrays(training.params), tf.nest.flatten(as_arrays(training.state))

    def _checksum(self) -> int:
        checksum = 0
        for array in tf.nest.flatten(self.state()):
            checksum = zlib.crc32(array.tobytes(), checksum)
        return checksum

    def _evaluate(self, place: Place, number: int) -> tuple[np.ndarray, float]:
        """The slopes and the loss of a shard."""
        shard, (params,) = self._shards[number], self._training.params
        sets = self._estimator.parameter_sets(len(shard))
        rng = self._generator("noise", place, shard)
        drawn = self._block.draw_noise(rng, 1, sets, self._training.batch_size, 0)
        noise = first_step(drawn)
        samples, directions = self._batch(place), self._draw(place, number)
        slopes, loss = self._slopes(params, *samples, directions, noise)
        return np.ravel(slopes), float(loss)

    def _make(self, place: Place, slopes: np.ndarray) -> None:
        """Make the update that follows from the slopes of all directions."""
        drawn = [self._draw(place, number) for number in range(len(self._shards))]
        self._drawn.clear()
        v = tf.nest.map_structure(lambda *each: np.concatenate(each), *(d.v for d in drawn))
        training, (rate,) = self._training, self._training.rates(place.epoch, np.array([place[1]]))
        (params,), (state,) = training.params, training.state
        moved = self._update(params, state, slopes, drawn[0]._replace(v=v), rate)
        training.params, training.state = ((part,) for part in moved)

    def _slopes_of(self, params: Any, x: Any, y: Any, directions: Directions, noise: Any) -> Any:
        objective, estimator = self._step.objective(params, x, y, noise), self._estimator
        points = fused(lambda: estimator.points(objective, directions))
        evaluated = estimator.evaluate(objective, points)
        return fused(lambda z: estimator.slopes(objective, z), evaluated)

    def _updated(self, params: Any, state: Any, slopes: Any, directions: Any, rate: Any) -> Any:
        def move() -> Any:
            result = Estimate(combine(slopes[:, tf.newaxis], directions), tf.constant(0.0))
            return self._step.update(params, state, result, rate)[:2]

        return fused(move)

    def _batch(self, place: Place) -> Samples:
        training = self._training
        if self._order[0] != place.epoch:
            self._order = place.epoch, training.order(place.epoch)
        (batch,) = training.batches(self._order[1], np.array([place.step]))
        return training.samples(batch)

    def _draw(self, place: Place, number: int) -> Directions:
        key = place, number
        if key not in self._drawn:
            shard = self._shards[number]
            sampler = self._samplers[len(shard)]
            rng = self._generator("directions", place, shard)
            self._drawn[key] = sampler.draw(rng, 1).of_step(0)
        return self._drawn[key]

    @cached_property
    def _samplers(self) -> dict[int, Sampler]:
        """By the directions of a shard, as the last one may have fewer."""
        return {n: self._training.sampler(self._block, n) for n in map(len, self._shards)}

    def _generator(self, purpose: str, place: Place, shard: range) -> np.random.Generator:
        return self._training.generator(purpose, *place, shard.start)
