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
from meshes.engines.kernels import LANES, read_rows
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
    P, B, N, C = task.sets, task.samples, task.ports, task.classes
    padded = (C + _AT_ONCE - 1) // _AT_ONCE * _AT_ONCE
    chunks = (B + LANES - 1) // LANES
    buffer = np.empty((N + padded + 4) * LANES, np.float32)
    z = next_cache_line(pointer(buffer))
    scores, top = N * LANES, (N + padded) * LANES
    while True:
        index = add_to_counter(pointer(counter), 0)
        if index >= P * chunks:
            break
        p, first = index // chunks, index % chunks * LANES
        samples = min(LANES, B - first)
        read_rows(pointer(intensities), (p * B + first) * N, N, samples, z, LANES)
        # The mean, and the sum of sizes, by which values are divided before they are squared.
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
        norm = square_root(positive_or(squared, fill(np.float32(np.inf))))
        for c in range(0, C, _AT_ONCE):
            k = c * N
            s0, s1, s2, s3 = fill(_ZERO), fill(_ZERO), fill(_ZERO), fill(_ZERO)
            for n in range(N):
                value = load(z, n * LANES)
                s0 = s0 + splat(pointer(prototypes), k + n) * value
                s1 = s1 + splat(pointer(prototypes), k + N + n) * value
                s2 = s2 + splat(pointer(prototypes), k + 2 * N + n) * value
                s3 = s3 + splat(pointer(prototypes), k + 3 * N + n) * value
            to = scores + c * LANES
            store(z, to, s0 / norm)
            store(z, to + LANES, s1 / norm)
            store(z, to + 2 * LANES, s2 / norm)
            store(z, to + 3 * LANES, s3 / norm)
        result = 0.0
        if task.loss == _CROSS_ENTROPY:
            greatest = fill(task.number) * load(z, scores)
            for c in range(C):
                logit = fill(task.number) * load(z, scores + c * LANES)
                store(z, scores + c * LANES, logit)
                greatest = larger(logit, greatest)
            total = fill(_ZERO)
            for c in range(C):
                total = total + exponential(load(z, scores + c * LANES) - greatest)
            store(z, top, total)
            store(z, top + LANES, greatest)
            product = 1.0  # of sums between 1 and C: one logarithm for all samples
            for b in range(samples):
                product *= z[top + b]
                true = z[scores + int(labels[first + b]) * LANES + b]
                result += z[top + LANES + b] - true
            result += math.log(product)
        elif task.loss == _MARGIN:
            for b in range(LANES):
                z[top + b] = _ZERO
            for b in range(samples):
                at = scores + int(labels[first + b]) * LANES + b
                z[top + b] = z[at]
                z[at] = -np.float32(np.inf)  # so that its term vanishes
            less = fill(task.number) - load(z, top)
            total = fill(_ZERO)
            for c in range(C):
                total = total + larger(less + load(z, scores + c * LANES), fill(_ZERO))
            store(z, top, total)
            for b in range(samples):
                result += z[top + b]
        elif task.loss == _COSINE:
            for b in range(samples):
                result += 1.0 - z[scores + int(labels[first + b]) * LANES + b]
        else:
            for b in range(samples):
                difference = labels[first + b] - z[scores + b]
                result += difference * difference
        sums[index] = result
    keep_alive(buffer)
    restore_denormals(before)
