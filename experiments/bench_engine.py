"""Time the mesh engines against Neurophox, side by side in one run.

    python experiments/bench_engine.py                  all sizes, some minutes
    python experiments/bench_engine.py --ports 64 100   some sizes
    python experiments/bench_engine.py --reference DIR  the published code, too

A cell is one contender doing one thing at one size. The contenders of a size
take turns, and every figure is a median, so that a busy machine slows all of
them alike; trust the ratios. First-call times and peak memory are taken in a
child process of their own for each cell.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from meshes import RectangularMesh
from meshes._tensorflow import tf
from meshes.validation import integer
from photonic_ffzero.config import configure
from photonic_ffzero.data.tasks import Classification
from photonic_ffzero.model import EpochRecord, Model
from photonic_ffzero.plots import save_figure
from photonic_ffzero.runs.directory import check_new_directory, versions
from photonic_ffzero.storage import write_json
from photonic_ffzero.training.step import BlockTraining, Samples

BATCH, CLASSES = 128, 10
SIZES = (64, 100, 196, 784)
UNROLLED_COLUMNS = 3000  # graphs beyond this take minutes to trace: extrapolated instead
MATRIX = 2048

# A task maps to (method, directions); a DD step of K directions costs 2K + 1 forwards where
# the loss is evaluated on its own, as users of Neurophox do, and 2K here.
TASKS = {
    "forward": None,
    "DD step, K = 1": ("ff-dd", 1),
    "DD step, K = 8": ("ff-dd", 8),
    "AD step": ("ff-ad", None),
}
CONTENDERS = ("native", "xla", "neurophox")


def samples(ports: int) -> Samples:
    """Random images as port amplitudes, enough for some full calls of the trainer."""
    rng = np.random.default_rng(0)
    x = rng.random((64 * BATCH, ports), dtype=np.float32)
    return Samples(x, np.arange(64 * BATCH) % CLASSES)


# --- ours: the trainer's own step ---------------------------------------------------------------


def ours(engine: str, ports: int, task: str) -> Callable[[], object]:
    """A function that does the task with one of our engines; it returns how often, if not once."""
    if TASKS[task] is None:
        mesh = RectangularMesh(ports)
        phases, x = mesh.initial_phases(), samples(ports).x[:BATCH]
        return lambda: mesh.propagate(x, phases, engine=engine)
    method, directions = TASKS[task]
    config = configure(method=method, directions=directions, meshes=1, engine=engine, epochs=10**6)
    model = Model(config, ports, Classification(CLASSES))
    data = samples(ports)
    targets = Samples(data.x, model.task.targets(data.y))
    training = BlockTraining(config, model.blocks[0], 0, model.params[0], targets)
    losses = endless(training)
    return lambda: len(next(losses))


def endless(training: BlockTraining) -> Iterator[list[float]]:
    """The losses of call after call, epoch after epoch."""
    for epoch in range(training.config.epochs):
        yield from training.epoch(epoch)


# --- the baseline: what a user of Neurophox does today -------------------------------------------


def baseline(ports: int, task: str) -> Callable[[], object]:
    """The task with Neurophox's MeshLayer, compiled as one function; its tracing is excluded."""
    from neurophox.meshmodel import RectangularMeshModel
    from neurophox.tensorflow import MeshLayer

    layer = MeshLayer(RectangularMeshModel(ports))
    phases = [layer.theta, layer.phi, layer.gamma]
    data = samples(ports)
    x, y = tf.constant(data.x[:BATCH] + 0j, tf.complex64), tf.one_hot(data.y[:BATCH], CLASSES)
    prototypes = tf.math.l2_normalize(tf.random.stateless_normal([CLASSES, ports], [0, 0]), axis=1)

    def loss() -> Any:
        intensities = tf.math.abs(layer(x)) ** 2
        goodness = tf.math.l2_normalize(intensities, axis=1) @ tf.transpose(prototypes)
        return tf.reduce_mean(1 - tf.reduce_sum(goodness * y, axis=1))

    def differences(directions: int) -> Any:
        value = loss()
        gradient = [tf.zeros_like(phase) for phase in phases]
        for _ in range(directions):
            steps = [1e-2 * tf.random.normal(phase.shape) for phase in phases]
            _shift(phases, steps, 1)
            plus = loss()
            _shift(phases, steps, -2)
            slope = (plus - loss()) / (2 * directions * 1e-4)
            _shift(phases, steps, 1)
            gradient = [g + slope * step for g, step in zip(gradient, steps, strict=True)]
        _shift(phases, gradient, -1e-3)
        return value

    optimizer = tf.keras.optimizers.Adam(1e-3)
    optimizer.build(phases)

    def differentiate() -> Any:
        with tf.GradientTape() as tape:
            value = loss()
        optimizer.apply_gradients(zip(tape.gradient(value, phases), phases, strict=True))
        return value

    if TASKS[task] is None:
        body: Callable[[], Any] = lambda: layer(x)  # noqa: E731
    elif TASKS[task][0] == "ff-ad":
        body = differentiate
    else:
        body = lambda: differences(TASKS[task][1])  # noqa: E731
    compiled = tf.function(body, autograph=False)
    return lambda: compiled().numpy()


def _shift(variables: list[Any], steps: list[Any], factor: float) -> None:
    for variable, step in zip(variables, steps, strict=True):
        variable.assign_add(factor * step)


def published(folder: Path, ports: int, task: str) -> Callable[[], object]:
    """The published implementation's own DD step, imported from where the user keeps it."""
    import contextlib
    import importlib
    import io

    sys.path.insert(0, str(folder))
    with contextlib.redirect_stdout(io.StringIO()):
        core = importlib.import_module("core.core_onn")
    model = core.Photonicmodel(ports, CLASSES, 1)
    data = samples(ports)
    x, y = tf.constant(data.x[:BATCH] + 0j, tf.complex64), tf.one_hot(data.y[:BATCH], CLASSES)
    prototypes = core.get_simplex_references(ports, CLASSES, np.random.RandomState(0))
    directions = TASKS[task][1]
    return lambda: core.directional_derivative_ff(
        1e-3, 1e-3, directions, x, y, prototypes, model, 0
    )[1].numpy()


# --- measuring ----------------------------------------------------------------------------------


@dataclass
class Cell:
    """One contender, one task, one size.

    Attributes:
        seconds: Median time of one call.
        extrapolated: Whether ``seconds`` was computed from the K = 1 step, as 17/3 of it.
        first_call_s: Time of the first call, compilation included.
        first_call_cached_s: The same with compiled code on the disk (native only).
        peak_mb: Peak resident memory of a process that does nothing else.
    """

    contender: str
    ports: int
    task: str
    seconds: float
    extrapolated: bool = False
    first_call_s: float | None = None
    first_call_cached_s: float | None = None
    peak_mb: float | None = None


def build(contender: str, ports: int, task: str, reference: Path | None) -> Callable[[], object]:
    """The function that a cell times."""
    if contender == "neurophox":
        return baseline(ports, task)
    if contender == "published":
        return published(reference, ports, task)
    return ours(contender, ports, task)


def unrolled(contender: str, ports: int, task: str) -> bool:
    """Whether the graph would unroll too many columns to be traced in good time."""
    forwards = {"forward": 1, "DD step, K = 1": 3, "DD step, K = 8": 17, "AD step": 3}[task]
    return contender == "neurophox" and forwards * ports > UNROLLED_COLUMNS


def interleaved(functions: dict[str, Callable[[], object]], budget: float) -> dict[str, float]:
    """Median seconds of a call of each function, taking turns until the budget is spent."""
    for function in functions.values():
        function()
    calls = {name: _calls_worth_timing(function) for name, function in functions.items()}
    times: dict[str, list[float]] = {name: [] for name in functions}
    started = time.perf_counter()
    while len(next(iter(times.values()))) < 5 or time.perf_counter() - started < budget:
        for name, function in functions.items():
            time.sleep(0.2)  # the one before leaves threads that spin for work
            function()
            start = time.perf_counter()
            done = sum(_count(function()) for _ in range(calls[name]))
            times[name].append((time.perf_counter() - start) / done)
        if time.perf_counter() - started > 4 * budget and len(next(iter(times.values()))) >= 3:
            break
    return {name: float(np.median(values)) for name, values in times.items()}


def _count(result: object) -> int:
    """How often a call did its task: the trainer takes several steps in one."""
    return result if isinstance(result, int) else 1


def _calls_worth_timing(function: Callable[[], object], seconds: float = 0.1) -> int:
    start = time.perf_counter()
    function()
    return max(1, int(seconds / (time.perf_counter() - start)))


def matrix_product() -> Callable[[], object]:
    """2048^3 in single precision: what the machine can do."""
    rng = np.random.default_rng(0)
    a = rng.random((MATRIX, MATRIX), dtype=np.float32)
    b, out = a.T.copy(), np.empty_like(a)
    return lambda: np.matmul(a, b, out=out)


def measure_size(
    ports: int, contenders: list[str], reference: Path | None, budget: float
) -> tuple[list[Cell], float]:
    """All cells of one size, and the rate of the matrix product meanwhile in GFLOP/s."""
    cells, rates = [], []
    for task in TASKS:
        functions = {
            name: build(name, ports, task, reference)
            for name in contenders
            if not unrolled(name, ports, task) and (name != "published" or "DD" in task)
        }
        functions["matrix product"] = matrix_product()
        seconds = interleaved(functions, budget)
        rates.append(2 * MATRIX**3 / seconds.pop("matrix product") / 1e9)
        cells += [Cell(name, ports, task, value) for name, value in seconds.items()]
        show(
            f"  {ports} ports, {task}: "
            + ", ".join(_brief(cell) for cell in cells[-len(seconds) :])
        )
    return cells + _extrapolated(cells, contenders), float(np.median(rates))


def _extrapolated(cells: list[Cell], contenders: list[str]) -> list[Cell]:
    """The baseline's K = 8 step where its graph is too large: 17 forwards instead of 3."""
    known = {(cell.contender, cell.task): cell for cell in cells}
    single, eight = known.get(("neurophox", "DD step, K = 1")), ("neurophox", "DD step, K = 8")
    if "neurophox" not in contenders or single is None or eight in known:
        return []
    return [Cell("neurophox", single.ports, eight[1], 17 / 3 * single.seconds, extrapolated=True)]


def _brief(cell: Cell) -> str:
    return f"{cell.contender} {1e3 * cell.seconds:.3g} ms"


def show(text: str) -> None:
    """Progress, apart from the result."""
    print(text, file=sys.stderr, flush=True)


# --- children: first call and memory ------------------------------------------------------------


def measure_alone(cell: Cell, reference: Path | None) -> None:
    """First call and peak memory of a cell, in a fresh process (native: two, cold and cached)."""
    import tempfile

    with tempfile.TemporaryDirectory() as cache:
        first = _child(cell, reference, cache)
        cell.first_call_s, cell.peak_mb = first["first_call_s"], first["peak_mb"]
        if cell.contender == "native":
            cell.first_call_cached_s = _child(cell, reference, cache)["first_call_s"]


def _child(cell: Cell, reference: Path | None, cache: str) -> dict[str, float]:
    command = [sys.executable, __file__, "--cell", cell.contender, str(cell.ports), cell.task]
    if reference:
        command += ["--reference", str(reference)]
    environment = os.environ | {"NUMBA_CACHE_DIR": cache}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def run_child(contender: str, ports: int, task: str, reference: Path | None) -> None:
    """What a child does: build, call once, print the time and the memory."""
    tf.constant(0.0)  # TensorFlow's own start is not a mesh's
    start = time.perf_counter()
    build(contender, ports, task, reference)()
    seconds = time.perf_counter() - start
    print(json.dumps({"first_call_s": seconds, "peak_mb": peak_memory_mb()}))


def peak_memory_mb() -> float:
    """Peak resident memory of this process; getrusage would tell the parent's, if it is higher."""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def trainer_step(ports: int = 64) -> float:
    """Seconds a step of a whole run of the main job's default, evaluation and all included."""
    from photonic_ffzero.training.trainer import Observer, Trainer

    class Watch(Observer):
        seconds: ClassVar[list[float]] = []

        def on_epoch(self, record: EpochRecord) -> None:
            self.seconds.append(record.seconds)

    data = samples(ports)
    many = Samples(np.tile(data.x, (9, 1)), np.tile(data.y, 9))
    config = configure(epochs=2, meshes=1, directions=8)
    trainer = Trainer(Model(config, ports, Classification(CLASSES)), many, observers=(Watch(),))
    trainer.run()
    return (Watch.seconds[1] - Watch.seconds[0]) / trainer.steps_per_epoch  # the first compiles


# --- the report ---------------------------------------------------------------------------------


def table(cells: list[Cell], rates: dict[int, float]) -> str:
    """The cells as text: times, ratios to the baseline and to the matrix product."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    by_key = {(cell.contender, cell.ports, cell.task): cell for cell in cells}
    grid = Table(box=box.SIMPLE_HEAD, padding=(0, 1))
    for name in ("ports", "task", "engine", "ms", "ratio", "GFLOP/s", "of product"):
        grid.add_column(name, justify="left" if name in ("task", "engine") else "right")
    grid.add_column("first call s", justify="right")
    grid.add_column("peak MB", justify="right")
    for cell in cells:
        base = by_key.get(("neurophox", cell.ports, cell.task))
        rate = gflops(cell)
        first = [f"{t:.1f}" for t in (cell.first_call_s, cell.first_call_cached_s) if t is not None]
        grid.add_row(
            str(cell.ports),
            cell.task,
            cell.contender,
            f"{1e3 * cell.seconds:.4g}" + ("*" if cell.extrapolated else ""),
            f"{base.seconds / cell.seconds:.1f}x" if base else "",
            f"{rate:.1f}" if rate else "",
            f"{rate / rates[cell.ports]:.2f}" if rate else "",
            " / ".join(first),
            f"{cell.peak_mb:.0f}" if cell.peak_mb else "",
        )
    console = Console(width=100, highlight=False)
    with console.capture() as text:
        console.print(grid)
    return text.get() + "* extrapolated from the K = 1 step.  first call: cold / cached on disk\n"


def gflops(cell: Cell) -> float | None:
    """9 P B N L floating-point operations a forward; an AD step has no agreed count."""
    sets = {"forward": 1, "DD step, K = 1": 2, "DD step, K = 8": 16}.get(cell.task)
    return sets and 9 * sets * BATCH * cell.ports**2 / cell.seconds / 1e9


def plot(axes: Any, cells: list[Cell]) -> None:
    """Time against ports, log-log; dashed where extrapolated cells take part."""
    colours = dict(
        zip((*CONTENDERS, "published"), ("#0072B2", "#009E73", "#D55E00", "#CC79A7"), strict=True)
    )
    marks = dict(zip(TASKS, "os^D", strict=True))
    for contender, colour in colours.items():
        for task, mark in marks.items():
            line = sorted(
                (c.ports, 1e3 * c.seconds)
                for c in cells
                if (c.contender, c.task) == (contender, task)
            )
            if line:
                axes.loglog(
                    *zip(*line, strict=True),
                    mark + "-",
                    color=colour,
                    lw=1,
                    ms=4,
                    label=f"{contender}, {task}",
                )
    axes.set_xlabel("ports N (num_columns = N)")
    axes.set_ylabel(f"time (ms), batch {BATCH}")
    axes.grid(alpha=0.3, which="both")
    axes.legend(fontsize=5, ncols=2)


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ports", type=int, nargs="+", default=SIZES, metavar="N", help="sizes")
    parser.add_argument(
        "--seconds", type=float, default=5, metavar="S", help="time for each task at each size"
    )
    parser.add_argument(
        "--reference", type=Path, metavar="DIR", help="a copy of the published implementation"
    )
    parser.add_argument("--no-children", action="store_true", help="no first calls, no memory")
    parser.add_argument(
        "--output", type=Path, metavar="DIR", help="new directory (default: in results/, by date)"
    )
    parser.add_argument("--cell", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    try:
        for ports in arguments.ports:
            integer("--ports", ports, minimum=CLASSES)
    except ValueError as error:
        parser.error(str(error))
    return arguments


def main(argv: list[str] | None = None) -> int:
    """Run all cells; write JSON and a figure; print the table."""
    arguments = parse(argv)
    if arguments.cell:
        contender, ports, task = arguments.cell
        run_child(contender, int(ports), task, arguments.reference)
        return 0
    output = arguments.output or Path("results") / f"bench-{time.strftime('%Y%m%d-%H%M%S')}"
    check_new_directory(output)
    output.mkdir(parents=True, exist_ok=True)
    contenders = [*CONTENDERS, *(["published"] if arguments.reference else [])]
    cells, rates = [], {}
    for ports in arguments.ports:
        found, rates[ports] = measure_size(
            ports, contenders, arguments.reference, arguments.seconds
        )
        cells += found
    if not arguments.no_children:
        for cell in cells:
            if not cell.extrapolated:
                show(f"  alone: {cell.contender}, {cell.ports} ports, {cell.task}")
                measure_alone(cell, arguments.reference)
    step, bare = (
        trainer_step(),
        next(
            (
                c.seconds
                for c in cells
                if (c.contender, c.ports, c.task) == ("native", 64, "DD step, K = 8")
            ),
            None,
        ),
    )
    print(table(cells, rates))
    print(f"matrix product: {np.median(list(rates.values())):.0f} GFLOP/s")
    print(
        f"a whole training run, 64 ports, K = 8: {1e3 * step:.3g} ms a step"
        + (f", {step / bare:.2f} of the step above" if bare else "")
    )
    write_json(
        output / "bench.json",
        {
            "cells": [vars(cell) for cell in cells],
            "matrix_product_gflops": rates,
            "trainer_step_s": step,
            "versions": versions(),
        },
    )
    save_figure(output / "bench.png", lambda axes: plot(axes, cells))
    print(f"results in {output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
