"""Time the mesh engines against Neurophox, side by side in one run.

    python benchmarks/engines.py                  all sizes, some minutes
    python benchmarks/engines.py --ports 64 100   some sizes
    python benchmarks/engines.py --reference DIR  the published code, too

Each contender does each task at each size: one forward pass, or a whole
training step. The contenders of a task take turns and every figure is a median,
so that a busy machine slows all of them alike; trust the ratios. The column
cached has the first call of a process that finds compiled code on the disk.
docs/benchmarks.md explains the others.
"""

import argparse
import importlib
import itertools
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
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
from photonic_ffzero.cli.arguments import count

UNROLLED_COLUMNS = 3000  # Neurophox's graphs beyond this take minutes to trace
MATRIX = 2048
PRODUCT = 2 * MATRIX**3  # operations of a product of matrices


class Work(NamedTuple):
    """What a task is: one forward pass, or a training step by a method."""

    method: str | None
    directions: int | None
    forwards: int  # of the baseline, which evaluates the loss once more in a DD step
    counted: int  # forwards in the rate; an AD step has no agreed count


TASKS = {
    "forward": Work(None, None, forwards=1, counted=1),
    "DD step, K = 1": Work("ff-dd", 1, forwards=3, counted=2),
    "DD step, K = 8": Work("ff-dd", 8, forwards=17, counted=16),
    "AD step": Work("ff-ad", None, forwards=3, counted=0),
}
NUMBERS = ("ports", "ms", "ratio", "GFLOP/s", "product", "first s", "cached s")


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


def matrix_product(ports: int, work: Work) -> Task:
    """2048^3 in single precision, whatever the work: what the machine can do."""
    rng = np.random.default_rng(0)
    a = rng.random((MATRIX, MATRIX), dtype=np.float32)
    out = np.empty_like(a)
    return lambda: np.matmul(a, a, out=out)


Builder = Callable[[int, Work], Task]


def contenders(ports: int, work: Work, reference: Path | None) -> dict[str, Builder]:
    """Those that have the task and whose graph can be traced in good time."""
    builders: dict[str, Builder] = {"native": partial(ours, "native"), "xla": partial(ours, "xla")}
    if work.forwards * ports <= UNROLLED_COLUMNS:
        builders["neurophox"] = baseline
    if reference and work.method == "ff-dd":
        builders["published"] = partial(published, reference)
    return builders | {"product": matrix_product}


def first_calls(build: Builder, ports: int, work: Work, columns: tuple[str, ...]) -> timing.Row:
    """Seconds of the first call in fresh processes, which share a cache of compiled code."""
    spawn, row = multiprocessing.get_context("spawn"), {}
    with tempfile.TemporaryDirectory() as cache, patch.dict(os.environ, NUMBA_CACHE_DIR=cache):
        for column in columns:
            with ProcessPoolExecutor(1, mp_context=spawn) as pool:
                row[column] = pool.submit(first_call, build, ports, work).result()
    return row


def first_call(build: Builder, ports: int, work: Work) -> float:
    """Seconds of building a task and doing it once."""
    tf.constant(0.0)  # TensorFlow's start is not a mesh's
    start = time.perf_counter()
    build(ports, work)()
    return time.perf_counter() - start


def whole_run_step(ports: int = 64) -> float:
    """Seconds a step of a whole training run with K = 8, evaluation included."""
    config = configure(epochs=2, meshes=1, directions=8)
    trainer = Trainer(timing.new_model(config, ports), timing.random_images(ports, 9 * 64 * BATCH))
    first, second = trainer.run().history  # the first epoch compiles
    return (second.seconds - first.seconds) / trainer.steps_per_epoch


def measure(arguments: argparse.Namespace) -> Iterator[timing.Row]:
    """Every contender at every task and size, and the step of a whole training run."""
    one_direction: dict[int, float] = {}  # Neurophox's K = 1 step, by ports
    for ports, (task, work) in itertools.product(arguments.ports, TASKS.items()):
        builders = contenders(ports, work, arguments.reference)
        tasks = {name: build(ports, work) for name, build in builders.items()}
        seconds = timing.median_seconds(tasks, arguments.seconds)
        reference = seconds.get("neurophox")
        if reference and work.directions == 1:
            one_direction[ports] = reference
        elif work.directions and ports in one_direction and not reference:
            reference = seconds["neurophox*"] = work.forwards / 3 * one_direction[ports]
        in_mesh = 9 * work.counted * BATCH * ports**2  # operations
        for name, value in seconds.items():
            row = {"ports": ports, "task": task, "engine": name, "ms": 1e3 * value}
            if reference and name != "product":
                row["ratio"] = reference / value
            if operations := PRODUCT if name == "product" else in_mesh:
                rate, best = operations / value, PRODUCT / seconds["product"]
                row |= {"GFLOP/s": rate / 1e9, "product": rate / best}
            if not arguments.no_children and name not in ("product", "neurophox*"):
                columns = ("first s", "cached s") if name == "native" else ("first s",)
                row |= first_calls(builders[name], ports, work, columns)
            yield row
    step = {"task": "whole run, K = 8", "engine": "native", "ms": 1e3 * whole_run_step()}
    yield {"ports": 64, **step}


if __name__ == "__main__":
    parser = timing.command_line(__doc__, seconds=5)
    parser.add_argument("--ports", type=count(CLASSES), nargs="+", default=(64, 100, 196, 784))
    text = "a copy of the published implementation"
    parser.add_argument("--reference", type=Path, metavar="DIR", help=text)
    parser.add_argument("--no-children", action="store_true", help="no first calls")
    timing.run(parser, measure, {"task": 17, "engine": 10}, NUMBERS)
