"""Directions over workers: the same figures for any number of them, whatever is lost."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from distributed import Client, LocalCluster
from test_grid import children

from meshes._tensorflow import tf
from photonic_ffzero.config import configure
from photonic_ffzero.data.tasks import task_of
from photonic_ffzero.model import Model, Position
from photonic_ffzero.training import crew, trainer
from photonic_ffzero.training.crew import Crew, CrewError
from photonic_ffzero.training.observer import Observer, StoppedError
from photonic_ffzero.training.shards import Place, Replica, Setup, answer, parts, request, update
from photonic_ffzero.training.step import BlockStep, Samples, shards_of
from photonic_ffzero.training.trainer import Trainer

pytestmark = pytest.mark.filterwarnings("ignore:Creating scratch directories:UserWarning")
PORTS, SAMPLES = 6, 60
ANYWHERE = "127.0.0.1:0"
NOISY = "splitter_error=0.02,read_noise=0.01,source_noise=0.02,write_noise=0.01"


def config(workers=1, **settings):
    values = {"directions": 20, "meshes": 2, "epochs": 2, "batch_size": 20, "readout": "goodness"}
    return configure(workers=workers, **(values | settings))


def samples():
    rng = np.random.default_rng(3)
    x = rng.standard_normal((SAMPLES, PORTS)).astype(np.float32)
    return Samples(x, np.arange(SAMPLES) % 3)


def a_trainer(chosen, **options):
    train = samples()
    task = task_of("classification", train.y, slice(None))
    return Trainer(Model(chosen, PORTS, task), train, None, **options)


def setup(chosen):
    trained = a_trainer(chosen)
    stage = trained.model.stages[0]
    targets = Samples(trained.train.x, trained.model.task.targets(trained.train.y))
    return Setup(chosen, stage, trained.model.params[:1], [], targets, chosen.epsilon)


# --- shards ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 2, 3])
@pytest.mark.parametrize("count", [1, 7, 8, 9, 20, 32])
def test_every_direction_is_in_one_shard_and_every_shard_with_one_worker(count, workers):
    shards = shards_of(replace(config(1), directions=count))
    assert [k for shard in shards for k in shard] == list(range(count))
    assert {len(shard) for shard in shards[:-1]} <= {8}
    divided = parts(len(shards), workers)
    assert [number for part in divided for number in part] == list(range(len(shards)))
    assert max(map(len, divided)) - min(map(len, divided)) <= 1


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"estimator": "forward"},
        {"method": "bp-dd", "train_nonlinearity": True, "law": "gaussian"},
        {"imperfections": NOISY},
    ],
    ids=["central", "forward", "bp", "noisy"],
)
def test_slopes_do_not_depend_on_who_is_asked(settings):
    chosen = config(**settings)
    first, second = Replica(setup(chosen)), Replica(setup(chosen))
    place = Place(1, 2)
    slopes, losses = answer(first.advance(b"", request(place, range(3))), 3)
    assert len(slopes) == 4 * 20
    one, two = range(2), range(2, 3)
    halves = [answer(second.advance(b"", request(place, part)), len(part)) for part in (one, two)]
    assert b"".join(own for own, _ in halves) == slopes
    assert np.array_equal(np.concatenate([loss for _, loss in halves]), losses)
    told = update(place, slopes)
    assert first.advance(told) == second.advance(told)  # one had drawn all directions before
    late = Replica(setup(chosen))
    assert late.advance(b"") != first.advance(b"")
    assert late.advance(told) == first.advance(b"")
    other = Place(1, 1)
    assert first.advance(b"", request(other, range(3)))[:80] != slopes


def test_an_update_is_that_of_all_directions_at_once():
    chosen = config()
    start, place = setup(chosen), Place(0, 1)
    replica = Replica(start)
    drawn = [replica._draw(place, number) for number in range(3)]
    v = tf.nest.map_structure(lambda *each: np.concatenate(each), *(part.v for part in drawn))
    step = BlockStep(start.stage.blocks[0], chosen)
    (params,), (state,) = replica._training.params, replica._training.state
    rate = replica._training.rates(0, np.array([1]))[0]
    directions = drawn[0]._replace(v=v)
    expected, _, loss = step(params, state, *replica._batch(place), directions, (), rate)
    slopes, losses = answer(replica.advance(b"", request(place, range(3))), 3)
    assert np.average(losses, weights=[8, 8, 4]) == pytest.approx(float(loss), rel=1e-5)
    replica.advance(update(place, slopes))
    for ours, theirs in zip(*map(tf.nest.flatten, (replica.state()[0], (expected,))), strict=True):
        assert np.allclose(ours, theirs, atol=1e-6)


# --- a crew ---------------------------------------------------------------------------------------


@pytest.fixture
def here(monkeypatch):
    """Workers in this process, which start at once."""
    clusters = []

    @contextmanager
    def hired(chosen):
        if chosen.workers is None:
            yield None
            return
        options = {"dashboard_address": ANYWHERE, "worker_dashboard_address": ANYWHERE}
        options |= {"n_workers": chosen.workers, "threads_per_worker": 1}
        with (
            LocalCluster(processes=False, silence_logs=50, **options) as cluster,
            Client(cluster) as client,
        ):
            clusters.append(cluster)
            yield Crew(client, chosen.workers)

    monkeypatch.setattr(trainer, "hired", hired)
    monkeypatch.setattr(crew, "_POLL", 0.1)
    return clusters


def figures(model):
    numbers = [np.ravel(a) for block in model.params for layer in block for a in layer]
    records = [replace(record, seconds=0.0) for record in model.history]
    return np.concatenate(numbers).tobytes(), records


class At(Observer):
    """Does something after a number of steps."""

    def __init__(self, step, action):
        self.steps, self.action = step, action

    def on_steps(self, mesh, losses):
        self.steps -= len(losses)
        if self.steps == 0:
            self.action()


def test_any_number_of_workers_give_the_same_figures(here, monkeypatch):
    """Also when a worker is lost on the way."""
    alone = a_trainer(config(1))
    expected = figures(alone.run())
    together = a_trainer(config(3))
    assert figures(together.run()) == expected
    traffic = together.traffic
    assert traffic.steps == 12
    assert traffic.largest < 64
    assert traffic.payload < 12 * 3 * 64 * 20
    assert "bytes a direction and worker" in str(traffic)
    assert here

    def lose():
        cluster = here[-1]
        cluster.sync(next(iter(cluster.workers.values())).close)

    monkeypatch.setattr(crew, "_REPLACED", 0.5)
    shaken = a_trainer(config(2), observers=(At(3, lose),))
    assert figures(shaken.run()) == expected


def test_a_run_stops_after_a_step_and_goes_on_to_the_same_figures(here):
    expected = figures(a_trainer(config(1)).run())

    def stop():
        raise StoppedError

    begun = a_trainer(config(2), observers=(At(4, stop),))
    with pytest.raises(StoppedError):
        begun.run()
    assert begun.position.epoch == 1
    assert len(begun.position.losses) == 1
    going_on = Trainer(begun.model, begun.train, None, (), begun.position)
    assert figures(going_on.run()) == expected


def test_a_run_goes_on_from_the_last_checkpoint_of_a_mesh(here):
    """All its epochs are done, so that no worker is asked for a step of it."""
    done = a_trainer(config(2))
    model = done.run()
    first = tf.nest.map_structure(np.copy, model.params[0])
    Trainer(model, done.train, None, (), Position(0, model.config.epochs)).run()
    tf.nest.map_structure(np.testing.assert_array_equal, model.params[0], first)


def test_workers_that_do_not_agree_are_noticed(here, monkeypatch):
    made = []

    def differs(self):
        made.append(self)
        return len(made)

    monkeypatch.setattr(Replica, "_checksum", differs)
    with pytest.raises(CrewError, match=r"workers must make the same update, found .* checksums"):
        a_trainer(config(2)).run()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"device": "simulated"}, "workers does not apply .*device simulated"),
        ({"imperfections": "drift=0.01"}, "must not drift for workers, got drift=0.01"),
        ({"estimator": "twin"}, "workers does not apply .*estimator twin"),
        ({"estimator": "cones"}, "workers does not apply .*estimator cones"),
        ({"method": "ff-ad"}, "workers does not apply .*method ff-ad"),
        ({"law": "orthonormal"}, "law must draw each direction alone for workers, got orthonormal"),
        ({"law": "layered"}, "law must draw each direction alone for workers, got layered"),
        ({"network": "mlp", "recipe": "digital"}, "workers does not apply to mlp"),
        ({"directions": 16, "workers": 3}, "workers must be at most 2, .* got 3"),
        ({"workers": 0}, "workers must be at least 1, got 0"),
        ({"nonlinearity": np.sin}, "nonlinearity must have a name for workers"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_workers_do_not_serve_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        configure(**({"workers": 2} | settings))


# --- processes ------------------------------------------------------------------------------------

RUN = ["--dataset", "digits", "--limit", "200", "--epochs", "2", "--directions", "16", "--quiet"]


SCRIPT = Path(__file__).parents[1] / "experiments" / "mnist_photonic.py"


def command(*flags):
    return [sys.executable, str(SCRIPT), *flags]


def history(folder):
    lines = Path(folder, "history.csv").read_text().splitlines()
    return [line.rpartition(",")[0] for line in lines]  # seconds come last


def workers_of(process):
    """The processes of a run's workers, which Python's `multiprocessing` starts."""
    return [
        n for n in children(process) if b"spawn_main" in Path(f"/proc/{n}/cmdline").read_bytes()
    ]


@pytest.mark.long
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="no /proc")
@pytest.mark.parametrize("what", ["nothing", "worker", "leader", "ctrl-c"])
def test_processes_give_the_figures_of_one(what, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    subprocess.run(command(*RUN, "--workers", "1", "--output", "one"), check=True)
    process = subprocess.Popen(
        command(*RUN, "--workers", "2", "--output", "two"), stderr=subprocess.PIPE, text=True
    )
    end = time.monotonic() + 120
    while not Path("two/model.npz").exists() and time.monotonic() < end:
        time.sleep(0.05)
    if what == "worker":
        os.kill(workers_of(process)[0], signal.SIGKILL)
    elif what != "nothing":
        process.send_signal(signal.SIGKILL if what == "leader" else signal.SIGINT)
    _, errors = process.communicate(timeout=240)
    if what in ("leader", "ctrl-c"):
        assert process.returncode == (-9 if what == "leader" else 130)
        if what == "ctrl-c":
            assert re.fullmatch(r"stopping after this step\nstopped, all is saved; .*\n", errors)
        subprocess.run(command("--resume", "two", "--quiet"), check=True)
    else:
        assert process.returncode == 0
        assert errors == ""
    assert history("two") == history("one")
    assert json.loads(Path("two/config.json").read_text())["workers"] == 2
