"""What more workers bring: the parts of a step and of a grid, a model fitted to them, predictions.

    python benchmarks/scaling.py
    python benchmarks/scaling.py --ports 64 196 --latency 0.005

Parts are timed in CPU seconds on one core, so that other programs disturb little. --latency says
what one message there and back takes, in seconds; without it this machine's is measured.
See docs/scaling.md.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import timing

from photonic_ffzero import Samples, configure
from photonic_ffzero.cli.arguments import Reader
from photonic_ffzero.cli.arguments import count as count_of
from photonic_ffzero.runs.cell import write_files
from photonic_ffzero.settings import POSITIVE
from photonic_ffzero.training.crew import Crew, hired
from photonic_ffzero.training.shards import Place, Replica, Setup, request

SHARD = 8
COUNTS = (16, 32, 64)  # directions of the updates that are compared
WORKERS = (1, 2, 10, 100, 1000)
MESSAGES = (10**5, 10**6, 10**7)  # bytes of a checkpoint
REPEATS = 5


@dataclass(frozen=True)
class Step:
    """The model of a step.

    Attributes:
        shard: a and b of a shard's seconds t = a + b operations.
        update: Seconds of an update without directions.
        direction: c and d of what each direction adds to it, u = c + d parameters.
        latency: Seconds of a message there and back.
        message: What each worker adds to it.
    """

    shard: tuple[float, float]
    update: float
    direction: tuple[float, float]
    latency: float
    message: float

    def seconds(self, ports: int, batch: int, directions: int, workers: int) -> float:
        """A step's time with one core a worker, on square meshes."""
        shards = -(-directions // SHARD)
        light = np.dot(self.shard, (1, operations(ports, batch)))
        moved = np.dot(self.direction, (1, parameters(ports)))
        talk = self.latency + workers * self.message
        return -(-shards // workers) * light + self.update + directions * moved + talk


def operations(ports: int, batch: int) -> float:
    """Floating-point operations of a shard's light: 9 a port, column, sample and set of phases."""
    return 9.0 * ports * ports * batch * 2 * SHARD


def parameters(ports: int) -> int:
    """Phases of a square mesh: two an interferometer, and one a port."""
    return ports * (ports - 1) + ports


def payload(directions: int, workers: int) -> float:
    """Bytes of a step to and from all workers: requests, slopes of all, own slopes and losses."""
    shards = -(-directions // SHARD)
    return workers * (12 + 8 + 4 * directions) + 4 * directions + 4 * shards


def cpu_seconds(task: Callable[[int], object]) -> float:
    """CPU time of a task on this thread, the least of some calls.

    The time of the whole process would include TensorFlow's threads, which spin while they wait.

    Args:
        task: Takes the number of the call: 0 compiles and is not timed.
    """
    task(0)
    times = []
    for number in range(1, REPEATS + 1):
        start = time.thread_time()
        task(number)
        times.append(time.thread_time() - start)
    return min(times)


@contextmanager
def one_core() -> Iterator[None]:
    """Stay on one core, so that kernels run on this thread; where the system lets one choose."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


def setup_of(ports: int, batch: int, directions: int = 2 * SHARD, workers: int = 1) -> Setup:
    """A mesh in training on random images."""
    config = configure(meshes=1, directions=directions, batch_size=batch, workers=workers)
    config = replace(config, epochs=timing.FOREVER)
    images = timing.random_images(ports, 8 * batch)
    model = timing.new_model(config, ports)
    train = Samples(images.x, model.task.targets(images.y))
    return Setup(config, model.stages[0], model.params[:1], [], train, config.epsilon)


def shard_seconds(ports: int, batch: int) -> float:
    """Seconds of a shard, its draws included."""
    replica = Replica(setup_of(ports, batch))
    return cpu_seconds(lambda step: replica.advance(b"", request(Place(0, step), range(1))))


def update_seconds(ports: int) -> tuple[float, float]:
    """Seconds of an update without directions, and what each of them adds."""
    times = []
    for count in COUNTS:
        replica, slopes = Replica(setup_of(ports, 8, count)), np.zeros(count, "<f4").tobytes()
        times.append(cpu_seconds(partial(_told, replica, slopes)))
    return fitted(COUNTS, times)


def _told(replica: Replica, slopes: bytes, step: int) -> None:
    """Let a replica make an update; it then draws all directions."""
    replica._make(Place(1, step), np.frombuffer(slopes, "<f4"))


def message_seconds() -> tuple[float, float]:
    """Seconds of an answer from one worker, and what each more of them adds."""
    times = []
    for workers in (1, 2):
        setup = setup_of(16, 8, workers=workers)
        with hired(setup.config) as crew:
            assert isinstance(crew, Crew)
            crew.begin(setup)
            waits = []
            for _ in range(30):
                start = time.perf_counter()
                crew._compare()
                waits.append(time.perf_counter() - start)
        times.append(min(waits))
    return times[0], max(times[1] - times[0], 0.0)


def checkpoint_seconds(size: int) -> float:
    """CPU seconds of the leader of a grid for one checkpoint that travels, its scheduler's too."""
    from distributed import Client, LocalCluster, Queue, Security

    security = Security.temporary()
    options = {"n_workers": 1, "threads_per_worker": 1, "dashboard_address": "127.0.0.1:0"}
    with (
        tempfile.TemporaryDirectory() as folder,
        LocalCluster(protocol="tls://", security=security, **options) as cluster,
        Client(cluster, security=security) as client,
    ):
        queue = Queue(client=client)
        client.submit(_send, queue.name, size, 0).result()
        queue.get(batch=True)
        client.submit(_send, queue.name, size, REPEATS).result()
        start = time.process_time()
        for message in queue.get(batch=True):
            write_files(Path(folder), message)
        return (time.process_time() - start) / REPEATS


def _send(name: str, size: int, count: int) -> None:
    from distributed import Queue

    queue, content = Queue(name), os.urandom(size)
    for _ in range(count):
        queue.put({"model.npz": content})


def fitted(x: Sequence[float], y: Sequence[float]) -> tuple[float, float]:
    """y = a + b x by least squares of relative errors; a and b are not negative."""
    from scipy.optimize import nnls

    scale = 1 / np.asarray(y)
    solution, _ = nnls(np.stack([scale, scale * np.asarray(x)], axis=1), np.ones(len(y)))
    return float(solution[0]), float(solution[1])


def measure(arguments: argparse.Namespace) -> Iterator[timing.Row]:
    """The parts, their model, and what it predicts."""
    sizes = [(ports, batch) for ports in arguments.ports for batch in arguments.batch]
    with one_core():
        shards = [shard_seconds(*size) for size in sizes]
        updates, directions = zip(*map(update_seconds, arguments.ports), strict=True)
    latency, message = (
        (arguments.latency, 0.1 * arguments.latency) if arguments.latency else message_seconds()
    )
    shard = fitted([operations(*size) for size in sizes], shards)
    direction = fitted([parameters(ports) for ports in arguments.ports], directions)
    model = Step(shard, float(np.mean(updates)), direction, latency, message)
    yield {"part": "latency", "s": latency}
    yield {"part": "message", "s": message}
    yield {"part": "update", "s": model.update}
    yield {"part": "shard: a + b operations", "s": shard[0], "slope": shard[1]}
    yield {"part": "direction: c + d parameters", "s": direction[0], "slope": direction[1]}
    for (ports, batch), seconds in zip(sizes, shards, strict=True):
        fit = float(np.dot(shard, (1, operations(ports, batch))))
        yield {"part": "shard", "ports": ports, "batch": batch, "s": seconds, "model s": fit}
    for ports, seconds in zip(arguments.ports, directions, strict=True):
        fit = float(np.dot(direction, (1, parameters(ports))))
        yield {"part": "direction", "ports": ports, "s": seconds, "model s": fit}
    for ports in (64, 196, 784):
        for workers in WORKERS:
            k = SHARD * workers
            one, many = (float(model.seconds(ports, 128, k, w)) for w in (1, workers))
            row = {"part": "8 directions a worker", "ports": ports, "K": k, "workers": workers}
            yield row | {"model s": many, "gain": one / many, "bytes": payload(k, workers)}
    costs = [checkpoint_seconds(size) for size in MESSAGES]
    base, byte = fitted(MESSAGES, costs)
    yield {"part": "checkpoint: f + g bytes", "s": base, "slope": byte}


if __name__ == "__main__":
    parser = timing.command_line(__doc__, seconds=1)
    for flag, default in (("--ports", [64, 196, 400]), ("--batch", [32, 128])):
        default_text = " ".join(map(str, default))
        parser.add_argument(
            flag,
            type=count_of(2),
            nargs="+",
            default=default,
            metavar="N",
            help=f"({default_text})",
        )
    parser.add_argument(
        "--latency", type=Reader(POSITIVE, checks=True), metavar="S", help="(measured)"
    )
    columns = ("ports", "batch", "K", "workers", "s", "slope", "model s", "gain", "bytes")
    timing.run(parser, measure, {"part": 28}, columns)
