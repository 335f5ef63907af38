"""What the benchmarks share: the trainer's own steps, fair timing, one table and its file."""

import argparse
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np

from photonic_ffzero import Config, Model, Samples
from photonic_ffzero.cli.arguments import PATH, LineParser, Reader, as_flag
from photonic_ffzero.cli.output import claim_place
from photonic_ffzero.data import Classification
from photonic_ffzero.layers import Stage
from photonic_ffzero.runs import versions
from photonic_ffzero.settings import POSITIVE
from photonic_ffzero.storage import write_json
from photonic_ffzero.training.step import StageTraining
from photonic_ffzero.training.twins import twin_of

BATCH, CLASSES = 128, 10
FOREVER = 10**6  # epochs of a training that is only timed

Task = Callable[[], object]  # an integer that it returns says how often it was done
Row = dict[str, str | int | float]


def random_images(pixels: int, count: int = 64 * BATCH) -> Samples:
    """Random images [count, pixels] and labels; by default enough for one full compiled call."""
    rng = np.random.default_rng(0)
    return Samples(rng.random((count, pixels), dtype=np.float32), np.arange(count) % CLASSES)


def new_model(config: Config, pixels: int) -> Model:
    """An untrained classifier."""
    return Model(config, pixels, Classification(CLASSES))


def training_steps(config: Config, images: Samples, index: int | None = 0) -> Task:
    """The trainer's own steps of one block, or without ``index`` of all that are trained at once.

    Each call takes some and returns how many.
    """
    config = replace(config, epochs=FOREVER)
    model, inputs = new_model(config, images.x.shape[1]), images.x
    stage = model.stages[0] if index is None else Stage((model.blocks[index],), index)
    for block, params in zip(model.blocks[: stage.index], model.params, strict=False):
        inputs = block.all_outputs(params, inputs)
    samples = Samples(inputs, model.task.targets(images.y))
    params = model.params[stage.index : stage.end]
    twin = twin_of(model, stage.index, stage.blocks[0])
    training = StageTraining(config, stage, params, samples, twin=twin)
    losses = chain.from_iterable(map(training.epoch, range(FOREVER)))
    return lambda: len(next(losses))


def median_seconds(tasks: dict[str, Task], budget: float) -> dict[str, float]:
    """Median time of each task; they take turns for `budget` seconds, and five times at least."""
    for task in tasks.values():
        task()  # compiles
    calls = {name: max(1, int(0.1 / _seconds(task))) for name, task in tasks.items()}
    times: dict[str, list[float]] = {name: [] for name in tasks}
    started, turns = time.perf_counter(), 0
    while turns < 5 or time.perf_counter() - started < budget:
        for name, task in tasks.items():
            time.sleep(0.2)  # threads of the task before still spin, waiting for work
            task()
            times[name].append(_seconds(task, calls[name]))
        turns += 1
    return {name: float(np.median(values)) for name, values in times.items()}


def _seconds(task: Task, calls: int = 1) -> float:
    start = time.perf_counter()
    results = [task() for _ in range(calls)]
    done = sum(result if isinstance(result, int) else 1 for result in results)
    return (time.perf_counter() - start) / done


def command_line(description: str | None, seconds: float) -> LineParser:
    """A parser with the flags that all benchmarks have."""
    parser = LineParser(description=description)
    text = f"time of each comparison (default: {seconds:g})"
    parser.add_argument(
        "--seconds", type=Reader(POSITIVE, checks=True), default=seconds, metavar="S", help=text
    )
    text = "new directory for bench.json (default: in results/, by date)"
    parser.add_argument("--output", type=Reader(PATH), metavar="DIR", help=text)
    return parser


def run(
    parser: LineParser,
    measure: Callable[[argparse.Namespace], Iterable[Row]],
    texts: dict[str, int],
    numbers: Iterable[str],
) -> None:
    """Print each row of `measure(arguments)` and write it to bench.json, with versions.

    The table has columns of texts, with their widths, and of numbers; a row may lack some.
    """
    layouts = {name: f"<{width}" for name, width in texts.items()} | dict.fromkeys(numbers, ">8")
    arguments = parser.parse_args()
    name = f"bench-{Path(parser.prog).stem}-{time.strftime('%Y%m%d-%H%M%S')}"
    try:
        claim = claim_place(arguments.output, name)
    except (ValueError, OSError) as error:
        parser.error(as_flag(str(error), parser))
    print(*(format(name, layout) for name, layout in layouts.items()))
    rows = []
    with claim:
        for row in measure(arguments):
            rows.append(row)
            cells = {key: f"{v:.4g}" if isinstance(v, float) else str(v) for key, v in row.items()}
            texts_of_row = (format(cells.get(key, ""), layout) for key, layout in layouts.items())
            print(*texts_of_row, flush=True)
            write_json(claim.folder / "bench.json", {"rows": rows, "versions": versions()})
    print(f"results in {claim.folder}")
