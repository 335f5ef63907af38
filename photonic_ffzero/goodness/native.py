"""Losses of intensities by a kernel compiled for the CPU: goodness and loss in one pass.

Sixteen samples at a time, in the arithmetic of :mod:`.readouts` and :mod:`.losses`, which differ
by rounding alone. This module loads Numba, so it is imported only when it is needed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from meshes.engines.cache import kernel
from meshes.engines.kernels import LANES, inlined, read_rows
from meshes.engines.native import flat
from meshes.engines.simd import (
    absolute,
    add_to_counter,
    exponential,
    fill,
    flush_denormals,
    keep_alive,
    larger,
    load,
    next_cache_line,
    pointer,
    positive_or,
    restore_denormals,
    splat,
    square_root,
    store,
)
from meshes.engines.threads import run_on_threads, threads
from photonic_ffzero.goodness.losses import Cosine, CrossEntropy, Margin, Squared
from photonic_ffzero.goodness.readouts import Goodness, Readout

_CROSS_ENTROPY, _MARGIN, _COSINE, _SQUARED = range(4)
_AT_ONCE = 4  # scalar products with so many prototypes share the loads of the values
_ZERO, _ONE = np.float32(0), np.float32(1)
_BELOW_FOUR = np.float32(4 - 2**-22)  # divided by any normal number, a normal number
_SMALL_WORK = 2e6  # operations that take less time than waking a second thread


class _Task(NamedTuple):
    sets: int  # P
    samples: int  # B
    ports: int  # N
    classes: int  # C
    balanced: int  # 1 if the mean over the ports is subtracted
    loss: int
    number: Any  # the scale of the cross-entropy, or the margin; float32


def native_losses(
    readout: Readout, loss: Any
) -> Callable[[np.ndarray, np.ndarray], np.ndarray] | None:
    """Mean losses [P] of intensities [P, B, N] and labels [B]; None if there is no kernel."""
    kinds = {
        CrossEntropy: (_CROSS_ENTROPY, "scale"),
        Margin: (_MARGIN, "margin"),
        Cosine: (_COSINE, None),
        Squared: (_SQUARED, None),
    }
    if type(readout) is not Goodness or type(loss) not in kinds:
        return None
    groups, classes, ports = readout.prototypes.shape
    if groups > 1 or (readout.norm_size and ports // readout.norm_size > 1):
        return None
    kind, field = kinds[type(loss)]
    number = np.float32(getattr(loss, field) if field else 0.0)
    missing = -classes % _AT_ONCE
    prototypes = flat(np.pad(readout.prototypes[0], [(0, missing), (0, 0)]))
    balanced = int(readout.detection == "balanced")

    def losses(intensities: np.ndarray, labels: np.ndarray) -> np.ndarray:
        P, B, N = intensities.shape
        if (N, len(labels)) != (ports, B):  # the kernel would read beside them
            raise ValueError(
                f"intensities [P, B, N] and labels [B] must be of {ports} ports, got shapes "
                f"{intensities.shape} and {labels.shape}"
            )
        task = _Task(P, B, N, classes, balanced, kind, number)
        sums = np.empty((P, -(-B // LANES)))
        counter = np.zeros(1, np.int64)
        arrays = (counter, task, flat(intensities), prototypes, flat(labels), sums.reshape(-1))
        count = threads() if 2 * intensities.size * (classes + 4) > _SMALL_WORK else 1
        run_on_threads(lambda: _sum_losses(*arrays), count)
        return (sums.sum(axis=1) / B).astype(np.float32)

    return losses


@kernel
def _sum_losses(counter, task, intensities, prototypes, labels, sums):  # type: ignore
    """The sums [P, chunks] of losses over 16 samples each, taken from a shared counter."""
    before = flush_denormals()
    B, N = task.samples, task.ports
    chunks = (B + LANES - 1) // LANES
    buffer = np.empty((N + task.classes + _AT_ONCE + 3) * LANES, np.float32)
    z = next_cache_line(pointer(buffer))
    while True:
        index = add_to_counter(pointer(counter), 0)
        if index >= task.sets * chunks:
            break
        p, first = index // chunks, index % chunks * LANES
        samples = min(LANES, B - first)
        read_rows(pointer(intensities), (p * B + first) * N, N, samples, z, LANES)
        _scores(z, task, pointer(prototypes), _normalise(z, task))
        sums[index] = _loss(z, task, labels, first, samples)
    keep_alive(buffer)
    restore_denormals(before)


@inlined
def _normalise(z, task):  # type: ignore
    """Scale the values of each sample, so that their squares are normal numbers; their norms.

    With balanced detection the mean over the ports is subtracted first.
    """
    N = task.ports
    total = fill(_ZERO)
    for n in range(N):
        total = total + load(z, n * LANES)
    mean = total / fill(np.float32(N)) if task.balanced else fill(_ZERO)
    size = fill(_ZERO)
    for n in range(N):
        value = load(z, n * LANES) - mean
        size = size + absolute(value)
        store(z, n * LANES, value)
    scale = fill(_BELOW_FOUR) / positive_or(size, fill(_ONE))
    squared = fill(_ZERO)
    for n in range(N):
        value = scale * load(z, n * LANES)
        squared = squared + value * value
        store(z, n * LANES, value)
    return square_root(positive_or(squared, fill(np.float32(np.inf))))


@inlined
def _scores(z, task, prototypes, norm):  # type: ignore
    """Write the cosines with the prototypes after the values [N], some prototypes at once."""
    N = task.ports
    for c in range(0, task.classes, _AT_ONCE):
        k = c * N
        s0, s1, s2, s3 = fill(_ZERO), fill(_ZERO), fill(_ZERO), fill(_ZERO)
        for n in range(N):
            value = load(z, n * LANES)
            s0 = s0 + splat(prototypes, k + n) * value
            s1 = s1 + splat(prototypes, k + N + n) * value
            s2 = s2 + splat(prototypes, k + 2 * N + n) * value
            s3 = s3 + splat(prototypes, k + 3 * N + n) * value
        to = (N + c) * LANES
        store(z, to, s0 / norm)
        store(z, to + LANES, s1 / norm)
        store(z, to + 2 * LANES, s2 / norm)
        store(z, to + 3 * LANES, s3 / norm)


@inlined
def _loss(z, task, labels, first, samples):  # type: ignore
    """The sum of the losses of some samples, whose scores [C] follow the values [N]."""
    if task.loss == _CROSS_ENTROPY:
        return _cross_entropy(z, task, labels, first, samples)
    if task.loss == _MARGIN:
        return _margin(z, task, labels, first, samples)
    result = 0.0
    for b in range(samples):
        if task.loss == _COSINE:
            result += 1.0 - z[_place_of_true(task, labels, first + b) + b]
        else:
            difference = labels[first + b] - z[task.ports * LANES + b]
            result += difference * difference
    return result


@inlined
def _place_of_true(task, labels, sample):  # type: ignore
    """Where the scores of the true class of a sample start."""
    return (task.ports + int(labels[sample])) * LANES


@inlined
def _place_of_results(task):  # type: ignore
    """Where two rows are free, after values and scores."""
    return (task.ports + task.classes + _AT_ONCE - 1) * LANES


@inlined
def _cross_entropy(z, task, labels, first, samples):  # type: ignore
    scores, C = task.ports * LANES, task.classes
    greatest = fill(task.number) * load(z, scores)
    for c in range(C):
        logit = fill(task.number) * load(z, scores + c * LANES)
        store(z, scores + c * LANES, logit)
        greatest = larger(logit, greatest)
    total = fill(_ZERO)
    for c in range(C):
        total = total + exponential(load(z, scores + c * LANES) - greatest)
    top = _place_of_results(task)
    store(z, top, total)
    store(z, top + LANES, greatest)
    result, product = 0.0, 1.0  # of sums between 1 and C: one logarithm for all samples
    for b in range(samples):
        product *= z[top + b]
        result += z[top + LANES + b] - z[_place_of_true(task, labels, first + b) + b]
    return result + math.log(product)


@inlined
def _margin(z, task, labels, first, samples):  # type: ignore
    scores, top = task.ports * LANES, _place_of_results(task)
    store(z, top, fill(_ZERO))
    for b in range(samples):
        at = _place_of_true(task, labels, first + b) + b
        z[top + b] = z[at]
        z[at] = -np.float32(np.inf)  # so that its term vanishes
    less = fill(task.number) - load(z, top)
    total = fill(_ZERO)
    for c in range(task.classes):
        total = total + larger(less + load(z, scores + c * LANES), fill(_ZERO))
    store(z, top, total)
    result = 0.0
    for b in range(samples):
        result += z[top + b]
    return result
