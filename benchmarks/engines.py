"""Time the mesh engines against Neurophox, side by side in one run.

    python benchmarks/engines.py                  all sizes, some minutes
    python benchmarks/engines.py --ports 64 100   some sizes
    python benchmarks/engines.py --reference DIR  the published code, too

Each contender does each task at each size: one forward pass, or a whole
training step. The contenders of a task take turns and every figure is a median,
so that a busy machine slows all of them alike; trust the ratios. First calls
and peak memory are measured in processes that do nothing else.

ratio: how many times faster than Neurophox. GFLOP/s: 9 operations a port, column
and sample, also relative to a matrix product on this machine. first call:
with compilation / with compiled code on the disk. *: 17/3 of the K = 1 step.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import itertools
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
import timing
from timing import BATCH, CLASSES, Task

from meshes import RectangularMesh, propagate
from meshes._tensorflow import tf
from photonic_ffzero import Trainer, configure

SIZES = (64, 100, 196, 784)
UNROLLED_COLUMNS = 3000  # Neurophox's graphs beyond this take minutes to trace
MATRIX = 2048


class Work(NamedTuple):
    """What a task is: one forward pass, or a training step by a method."""

    method: str | None
    directions: int | None
    forwards: int  # of the baseline, which evaluates the loss on its own in a DD step
    counted: int  # forwards in the rate; an AD step has no agreed count


TASKS = {
    "forward": Work(None, None, forwards=1, counted=1),
    "DD step, K = 1": Work("ff-dd", 1, forwards=3, counted=2),
    "DD step, K = 8": Work("ff-dd", 8, forwards=17, counted=16),
    "AD step": Work("ff-ad", None, forwards=3, counted=0),
}


@dataclass
class Cell:
    """One contender, one task, one size: a line of the table."""

    contender: str
    ports: int
    task: str
    seconds: float  # median
    extrapolated: bool = False
    first_call_s: float | None = None  # compilation included
    first_call_cached_s: float | None = None  # with compiled code on the disk (native only)
    peak_mb: float | None = None  # of a process that does nothing else (Linux only)


# --- the contenders -----------------------------------------------------------------------------


def ours(engine: str, ports: int, work: Work) -> Task:
    """The task with one of our engines: the trainer's own step."""
    images = timing.random_images(ports)
    if work.method is None:
        mesh, x = RectangularMesh(ports), images.x[:BATCH]
        return partial(propagate, mesh, mesh.initial_phases(), x, engine=engine)
    config = configure(method=work.method, directions=work.directions, meshes=1, engine=engine)
    return timing.training_steps(config, images)


def baseline(ports: int, work: Work) -> Task:
    """What a user of Neurophox does today: its MeshLayer in one compiled function."""
    from neurophox.meshmodel import RectangularMeshModel
    from neurophox.tensorflow import MeshLayer

    layer = MeshLayer(RectangularMeshModel(ports))
    phases = [layer.theta, layer.phi, layer.gamma]
    x, y = _batch(ports)
    prototypes = tf.math.l2_normalize(tf.random.stateless_normal([CLASSES, ports], [0, 0]), axis=1)
    optimizer = tf.keras.optimizers.Adam(1e-3)
    optimizer.build(phases)

    def loss() -> Any:
        intensities = tf.math.abs(layer(x)) ** 2
        goodness = tf.math.l2_normalize(intensities, axis=1) @ tf.transpose(prototypes)
        return tf.reduce_mean(1 - tf.reduce_sum(goodness * y, axis=1))

    def shift(steps: list[Any], factor: float) -> None:
        for phase, step in zip(phases, steps, strict=True):
            phase.assign_add(factor * step)

    def difference_step() -> Any:
        value = loss()
        gradient = [tf.zeros_like(phase) for phase in phases]
        for _ in range(work.directions or 0):
            steps = [1e-2 * tf.random.normal(phase.shape) for phase in phases]
            shift(steps, 1)
            plus = loss()
            shift(steps, -2)
            slope = (plus - loss()) / (2 * (work.directions or 0) * 1e-4)
            shift(steps, 1)
            gradient = [g + slope * step for g, step in zip(gradient, steps, strict=True)]
        shift(gradient, -1e-3)
        return value

    def gradient_step() -> Any:
        with tf.GradientTape() as tape:
            value = loss()
        optimizer.apply_gradients(zip(tape.gradient(value, phases), phases, strict=True))
        return value

    bodies = {None: lambda: layer(x), "ff-dd": difference_step, "ff-ad": gradient_step}
    compiled = tf.function(bodies[work.method], autograph=False)
    return lambda: compiled().numpy()


def published(folder: Path, ports: int, work: Work) -> Task:
    """The DD step of the published implementation, imported from the user's copy."""
    sys.path.insert(0, str(folder))
    with contextlib.redirect_stdout(io.StringIO()):
        core = importlib.import_module("core.core_onn")
    model = core.Photonicmodel(ports, CLASSES, 1)
    prototypes = core.get_simplex_references(ports, CLASSES, np.random.RandomState(0))
    x, y = _batch(ports)
    return lambda: core.directional_derivative_ff(
        1e-3, 1e-3, work.directions, x, y, prototypes, model, 0
    )[1].numpy()


def _batch(ports: int) -> tuple[Any, Any]:
    images = timing.random_images(ports, BATCH)
    return tf.constant(images.x + 0j, tf.complex64), tf.one_hot(images.y, CLASSES)


Builder = Callable[[int, Work], Task]
CONTENDERS: dict[str, Builder] = {
    "native": partial(ours, "native"),
    "xla": partial(ours, "xla"),
    "neurophox": baseline,
}


def takes_part(contender: str, ports: int, work: Work) -> bool:
    """Whether the contender has the task, and its graph can be traced in good time."""
    if contender == "published":
        return work.method == "ff-dd"
    return contender != "neurophox" or work.forwards * ports <= UNROLLED_COLUMNS


# --- measuring ----------------------------------------------------------------------------------


def matrix_product() -> Task:
    """2048^3 in single precision: what the machine can do."""
    rng = np.random.default_rng(0)
    a = rng.random((MATRIX, MATRIX), dtype=np.float32)
    b, out = a.T.copy(), np.empty_like(a)
    return lambda: np.matmul(a, b, out=out)


def measure_alone(cell: Cell, build: Builder) -> None:
    """First call and peak memory of a cell, in fresh processes (native: without, with cache)."""
    spawn = multiprocessing.get_context("spawn")

    def in_child() -> tuple[float, float | None]:
        with ProcessPoolExecutor(1, mp_context=spawn) as pool:
            return pool.submit(first_call, build, cell.ports, TASKS[cell.task]).result()

    with (
        tempfile.TemporaryDirectory() as cache,
        patch.dict(os.environ, NUMBA_CACHE_DIR=cache),
    ):
        cell.first_call_s, cell.peak_mb = in_child()
        if cell.contender == "native":
            cell.first_call_cached_s, _ = in_child()


def first_call(build: Builder, ports: int, work: Work) -> tuple[float, float | None]:
    """Seconds of building and the first call, and the peak memory of this process in MB."""
    tf.constant(0.0)  # TensorFlow's start is not a mesh's
    start = time.perf_counter()
    build(ports, work)()
    seconds, status = time.perf_counter() - start, Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    peaks = [int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")]
    return seconds, peaks[0] if peaks else None


def whole_run_step(ports: int = 64) -> float:
    """Seconds a step of a whole training run with K = 8, evaluation included."""
    config = configure(epochs=2, meshes=1, directions=8)
    trainer = Trainer(timing.new_model(config, ports), timing.random_images(ports, 9 * 64 * BATCH))
    first, second = trainer.run().history  # the first epoch compiles
    return (second.seconds - first.seconds) / trainer.steps_per_epoch


def measure_task(
    ports: int, task: str, contenders: dict[str, Builder], budget: float
) -> tuple[list[Cell], float]:
    """The cells of one task at one size, and the rate of the matrix product meanwhile, GFLOP/s."""
    tasks = {
        name: build(ports, TASKS[task])
        for name, build in contenders.items()
        if takes_part(name, ports, TASKS[task])
    }
    seconds = timing.median_seconds(tasks | {"product": matrix_product()}, budget)
    rate = 2 * MATRIX**3 / seconds.pop("product") / 1e9
    return [Cell(name, ports, task, value) for name, value in seconds.items()], rate


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure all cells; print one line each."""
    if min(arguments.ports) < CLASSES:
        raise SystemExit(f"--ports must be at least {CLASSES}, got {min(arguments.ports)}")
    contenders = dict(CONTENDERS)
    if arguments.reference:
        contenders["published"] = partial(published, arguments.reference)
    cells: dict[tuple[str, int, str], Cell] = {}
    products: dict[int, list[float]] = {ports: [] for ports in arguments.ports}
    print(HEAD)
    for ports, task in itertools.product(arguments.ports, TASKS):
        row, product = measure_task(ports, task, contenders, arguments.seconds)
        products[ports].append(product)
        for cell in row:
            if not arguments.no_children:
                measure_alone(cell, contenders[cell.contender])
        cells |= {(cell.contender, ports, task): cell for cell in row}
        baseline, single = (cells.get(("neurophox", ports, t)) for t in (task, "DD step, K = 1"))
        if task == "DD step, K = 8" and single and not baseline:
            seconds = TASKS[task].forwards / 3 * single.seconds
            baseline = Cell("neurophox", ports, task, seconds, extrapolated=True)
            cells["neurophox", ports, task] = baseline
            row.append(baseline)
        print(*(line(cell, baseline, product) for cell in row), sep="\n", flush=True)
    step = whole_run_step()
    rates = {ports: float(np.median(values)) for ports, values in products.items()}
    print(f"matrix product: {np.median(list(rates.values())):.0f} GFLOP/s")
    print(f"a whole training run, 64 ports, K = 8: {1e3 * step:.3g} ms a step")
    return {
        "cells": [vars(cell) for cell in cells.values()],
        "matrix_product_gflops": rates,
        "trainer_step_s": step,
    }


HEAD = "ports task           engine         ms    ratio GFLOP/s product first call    MB"


def line(cell: Cell, baseline: Cell | None, product: float) -> str:
    """A cell as a line of the table."""
    counted = TASKS[cell.task].counted
    rate = 9 * counted * BATCH * cell.ports**2 / cell.seconds / 1e9
    first = [f"{s:.1f}" for s in (cell.first_call_s, cell.first_call_cached_s) if s is not None]
    columns = (
        f"{cell.ports:5} {cell.task:14} {cell.contender:9}",
        f"{1e3 * cell.seconds:7.4g}{'*' if cell.extrapolated else ' '}",
        f"{baseline.seconds / cell.seconds:6.1f}x" if baseline else " " * 7,
        f"{rate:7.1f} {rate / product:7.2f}" if counted else " " * 15,
        f"{' / '.join(first):>10} {cell.peak_mb or 0:5.0f}" if first else "",
    )
    return " ".join(columns).rstrip()


if __name__ == "__main__":
    parser = timing.command_line(__doc__, seconds=5)
    parser.add_argument("--ports", type=int, nargs="+", default=SIZES, metavar="N", help="sizes")
    text = "a copy of the published implementation"
    parser.add_argument("--reference", type=Path, metavar="DIR", help=text)
    parser.add_argument("--no-children", action="store_true", help="no first calls, no memory")
    timing.run(parser, measure)
