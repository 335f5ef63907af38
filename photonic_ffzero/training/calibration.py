"""Calibration: what readings at random phases tell of a chip."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from meshes._tensorflow import graph, tf
from meshes.estimate import MeshEstimate, MeshParameters, difference, unseen
from photonic_ffzero.devices.device import DeviceError
from photonic_ffzero.gradients import Twin, TwinState
from photonic_ffzero.gradients.twin import Prior
from photonic_ffzero.layers.base import one_set
from photonic_ffzero.layers.blocks import Block
from photonic_ffzero.optimizers import cosine_decay
from photonic_ffzero.training.twins import as_estimate, nominal_twin

CALIBRATION_RATE = 0.2
"""Adam's rate at the start of a stage of a calibration, in units of `Twin.scales`."""

SETTINGS_A_STAGE = 200
"""Random settings of the phases in each stage, where nobody says how many."""

_STAGES = (2, 4, 8, 12, 16)  # columns whose phases move; then eight more each
_DARK_SETTINGS = 10  # without any light; a calibration ends there
_MEMBERS = 3  # twins that learn from the same readings

Progress = Callable[[int, int], None]
"""Called with how many settings of a mesh's calibration are done, and how many there are."""


def stages(columns: int) -> list[int]:
    """How many columns move in each stage of a calibration."""
    steps = [*_STAGES, *range(_STAGES[-1] + 8, columns, 8)]
    return [*(c for c in steps if c < columns), columns]


def usual_settings(columns: int) -> int:
    """How many settings of its phases teach a mesh, where nobody says."""
    return SETTINGS_A_STAGE * len(stages(columns))


def mesh_passes(meshes: int, readings: int, front: int = 0) -> int:
    """Passes of one sample through one mesh, for as many ``readings`` behind each of some meshes.

    Light that is read behind the second of them has crossed two, and all those in ``front``.
    """
    return readings * sum(range(front + 1, front + meshes + 1))


def calibrated(
    block: Block,
    twin: Twin,
    params: Sequence[Any],
    inputs: Callable[[np.random.Generator], np.ndarray],
    count: int,
    rngs: Sequence[np.random.Generator],
    age: int = 0,
    progress: Callable[[int, int, int], None] = lambda index, done, total: None,
    first: int = 1,
) -> Twin:
    """Learn the meshes of a block one after another, each from the light behind it.

    The meshes of the block in front of it stand in the bar state meanwhile.

    Args:
        block: The block that is read.
        twin: Its twin, with what is known before.
        params: Parameters of the block; those that are no phases, and frozen ones, stay.
        inputs: Gives a batch [B, N] from a source of random numbers.
        count: Settings of the phases for each mesh; each is read with one batch.
        rngs: For each mesh the source of phases, light, noise, and of where its twins start.
        age: The chip's, in epochs of training.
        progress: `Progress`, after the mesh's index.
        first: The number of the block's first mesh, for errors.

    Returns:
        The twin that starts from what was learned.

    Raises:
        DeviceError: all readings behind a mesh are 0.
    """
    front, known, learned = list(block.front), list(twin.front), twin
    for index, (layer, rng) in enumerate(zip(block.layers, rngs, strict=True)):
        frozen = block.frozen and block.frozen[index : index + 1]
        alone = replace(block, layers=(layer,), front=tuple(front), frozen=frozen)
        start = nominal_twin(alone, [twin.start[index]], known, twin.drive_step, twin.port_losses)
        learned = _calibrated_mesh(
            *(alone, start, (params[index],), partial(inputs, rng), count, rng, age),
            partial(progress, index),
            first + index,
        )
        known += learned.start
        front.append((layer, bar_state(params[index], frozen[0] if frozen else None)))
    return replace(twin, start=tuple(known[len(twin.front) :]), elements=learned.elements)


def _calibrated_mesh(
    block: Block,
    twin: Twin,
    params: Any,
    inputs: Callable[[], np.ndarray],
    count: int,
    rng: np.random.Generator,
    age: int,
    progress: Progress,
    number: int,
) -> Twin:
    """Learn the one mesh of a block from readings at random phases, of few columns, then of more.

    The phases of all other columns are those of the bar state, theta = pi and phi = 0. Several
    twins learn from the same readings, for the uncertainties: all but the first with random
    weights of the samples, and from a start at random, to which its prior draws it back, so that
    they differ as much as the readings leave open. The prior fades with the rate of each stage: it
    keeps the fit from running away, and draws nothing from where the readings have it at the end.

    Reference:
        Osband, Aslanides, Cassirer, "Randomized prior functions for deep reinforcement learning",
        NeurIPS 2018.
    """

    def learn(states: Any, params: Any, x: Any, noise: Any, rate: Any, weights: Any) -> Any:
        noise = tf.nest.map_structure(lambda drawn: drawn[0], noise)
        points = one_set(params)
        readings = block.measure(points, x, noise)
        priors = [Prior(values, rate / CALIBRATION_RATE) for values in starts]
        states = twin.learn(states, points, x, readings, rate, weights, priors)
        return states, tf.reduce_max(readings)

    states = [twin.init(), *(twin.init(rng) for _ in range(_MEMBERS - 1))]
    starts = [state.values for state in states]
    step = graph(learn, xla=block.runs_on == "xla")
    brightest = 0.0
    for done, (setting, rate) in enumerate(_settings(block, params, count, rng)):
        progress(done, count)
        x = tf.constant(inputs())
        noise = block.draw_noise(rng, 1, 1, x.shape[0], age)
        weights = 2 * rng.integers(2, size=(_MEMBERS, x.shape[0])).astype(np.float32)
        weights[0] = 1
        states, bright = step(states, setting, x, noise, np.float32(rate), weights)
        brightest = max(brightest, float(bright))
        if not brightest and done + 1 >= min(count, _DARK_SETTINGS):
            raise DeviceError(f"no light after mesh {number}: all readings are 0")
    progress(count, count)
    best, *others = sorted(states, key=lambda state: float(state.error))
    estimate = _with_uncertainty(twin, best, others)
    return replace(twin, start=(estimate,), elements=twin.elements_of(best))


def _settings(
    block: Block, params: Any, count: int, rng: np.random.Generator
) -> Iterator[tuple[Any, float]]:
    """Parameters of the block and rates of the fit."""
    columns = stages(len(params[0].theta))
    for number in range(count):
        place = number * len(columns) / count
        drawn = tuple(random_phases(layer, columns[int(place)], rng) for layer in params)
        if block.frozen is not None:
            drawn = tf.nest.map_structure(np.where, block.frozen, tuple(params), drawn)
        yield drawn, CALIBRATION_RATE * cosine_decay(place % 1)


def random_phases(params: Any, moving: int, rng: np.random.Generator) -> Any:
    """One mesh's parameters with uniform phases in its first columns and bar states after them."""
    turn = 2 * math.pi
    theta, phi, gamma = (
        rng.uniform(0, turn, np.shape(value)).astype(np.float32) for value in params[:3]
    )
    theta[moving:], phi[moving:] = math.pi, 0.0
    return type(params)(theta, phi, gamma, *params[3:])


def _with_uncertainty(twin: Twin, best: TwinState, others: Sequence[TwinState]) -> MeshEstimate:
    """The best of several twins of one mesh, with uncertainties from how the others differ.

    Noise of the readings makes twins differ that weigh the samples differently (the bootstrap).
    Parameters that the readings do not determine stay as far apart as they were at the start, where
    the twins were scattered by the scales s. If the errors of the chip turn out larger than s, the
    differences are multiplied by that ratio. All interferometers of a column share one
    uncertainty, the root mean square.
    """
    (values,), (scales,), (start,) = best.values, twin.scales, twin.start
    if not twin.port_losses:  # the fit used the mean alone, whatever the ports started from
        loss = np.asarray(values.loss)
        values = values._replace(loss=np.full_like(loss, loss.mean()))
    hidden = unseen(start.mesh)
    if twin.block.front:  # it stands for the output phases of the mesh in front, too
        hidden = hidden._replace(gamma=np.ones_like(hidden.gamma))
    if not twin.port_losses:  # only the sum over all columns is known
        hidden = hidden._replace(loss=np.ones_like(hidden.loss))
    blank = MeshParameters(*(np.where(hide, np.inf, 0.0) for hide in hidden))
    differences = [
        difference(as_estimate(other.values[0], blank), as_estimate(values, blank))
        for other in others
    ]
    parts = zip(values, scales, hidden, start.values, *differences, strict=True)
    return as_estimate(values, MeshParameters(*(_deviations(*part) for part in parts)))


def _deviations(
    values: Any, scale: np.ndarray, hide: np.ndarray, start: Any, *apart: Any
) -> np.ndarray:
    """The uncertainties of one kind of parameter; see `_with_uncertainty`.

    Args:
        values: The values of the best twin.
        scale: Their scales s.
        hide: Where intensities do not show them; the uncertainty is infinite there.
        start: The values at the start.
        *apart: By how much each of the other twins differs.
    """
    spread = np.mean([np.square(x) for x in apart], axis=0)
    seen = np.where(hide, np.nan, spread)
    errors = np.where(hide, 0.0, np.float64(values) - start)
    size = np.sqrt(np.sum(errors**2) / max(np.sum(scale[~hide] ** 2), 1e-30))
    lines = seen if seen.ndim > 1 else seen[np.newaxis]
    with np.errstate(invalid="ignore"):
        counts = np.sum(~np.isnan(lines), axis=-1, keepdims=True)
        mean = np.nansum(lines, axis=-1, keepdims=True) / np.maximum(counts, 1)
    smooth = np.broadcast_to(np.sqrt(mean), lines.shape).reshape(seen.shape)
    return np.where(hide | np.isnan(seen), np.inf, max(size, 1.0) * smooth)


def bar_state(params: Any, frozen: Any = None) -> Any:
    """Parameters of a mesh whose phases leave the light of every port where it is.

    Those that are ``frozen`` stay.
    """
    theta, phi, gamma = (np.zeros(np.shape(value), np.float32) for value in params[:3])
    bar = type(params)(theta + np.float32(math.pi), phi, gamma, *params[3:])
    return bar if frozen is None else tf.nest.map_structure(np.where, frozen, params, bar)
