"""A run that stops and goes on ends with exactly the results of one that never stopped."""

import errno
import itertools
import json
import multiprocessing
import os
import random
import resource
import shlex
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path
from shutil import copytree, rmtree

import numpy as np
import pytest

from meshes import files
from meshes._tensorflow import tf
from photonic_ffzero import DataError, Model, Observer, Trainer, configure
from photonic_ffzero.cli.train import main
from photonic_ffzero.data.tasks import Classification
from photonic_ffzero.model import EpochRecord, Position
from photonic_ffzero.runs import RunDirectory, check_new_directory, plan, read_history
from photonic_ffzero.runs.job import Job
from photonic_ffzero.storage import load_checkpoint, load_model, save_checkpoint
from photonic_ffzero.training import step as steps
from photonic_ffzero.training import trainer
from photonic_ffzero.training.observer import StoppedError
from photonic_ffzero.training.step import Samples

SCRIPT = Path(__file__).parents[1] / "experiments" / "mnist_photonic.py"
RUN = ["--dataset", "digits", "--size", "4", "--limit", "200", "--batch-size", "40"]
RUN += ["--directions", "2", "--epochs", "3", "--quiet"]
CNN = ["--recipe", "digital", "--network", "cnn", "--depth", "2", "--channels", "2"]
CNN += ["--kernel-size", "3"]
RESUMES = int(os.environ.get("PHOTONIC_FFZERO_RESUMES", "20"))
TWIN = ["--estimator", "twin", "--calibration", "3", "--imperfections", "ntt-2025:read_noise=0.1"]
KILLS = int(os.environ.get("PHOTONIC_FFZERO_KILLS", "20"))


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(steps, "MOST_STEPS", 2)  # so that runs can stop within an epoch of 5


def figures(folder):
    """The results of a run without its time."""
    found = json.loads((Path(folder) / "results.json").read_text())
    del found["train_seconds"]
    return found


def history(folder):
    return [row.rsplit(",", 1)[0] for row in (Path(folder) / "history.csv").read_text().split()]


class StopAt(Observer):
    def __init__(self, step):
        self.left = step

    def on_steps(self, mesh, losses):
        self.left -= len(losses)
        if self.left <= 0:
            raise StoppedError


def stopped_at(monkeypatch, step, arguments, output):
    """Start a run that stops itself after a step, as by a signal."""
    stopped_by(monkeypatch, StopAt(step), arguments, output)


def stopped_by(monkeypatch, observer, arguments, output):
    """Start a run that an observer stops."""
    run = Trainer.run

    def run_and_stop(self):
        self.observers = (*self.observers, observer)
        return run(self)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "run", run_and_stop)
        main([*arguments, "--output", output])


@pytest.mark.parametrize(
    ("flags", "step"),
    [
        (["--recipe", "digital", "--width", "12", "--optimizer", "adam"], 7),
        ([*CNN, "--method", "bp-ad"], 7),
        pytest.param([], 7, marks=pytest.mark.compiled),
        ([*TWIN, "--epochs", "1", "--meshes", "1"], 3),
        (["--device", "simulated:phase_offset=0.1", "--epochs", "1"], 7),
        *[
            pytest.param(flags, step, marks=pytest.mark.long)
            for flags, step in (
                (["--recipe", "digital", "--width", "12", "--perturb", "activations"], 16),
                (CNN, 7),
                (["--task", "regression"], 16),
                *[(["--optimizer", "adam"], step) for step in (7, 23)],
                *[(TWIN, step) for step in (5, 15)],
                ([*TWIN, "--epochs", "1"], 7),
                ([*TWIN[:4], "--epochs", "1", "--device", "simulated:phase_offset=0.1"], 7),
                ([*TWIN, "--method", "bp-dd", "--directions", "0"], 7),
                *[(["--method", "bp-ad"], step) for step in (5, 7)],
            )
        ],
        *[
            pytest.param([], step, marks=[pytest.mark.long, pytest.mark.compiled])
            for step in (1, 5, 15, 16, 23)
        ],
    ],
)
def test_a_resumed_run_ends_as_one_that_never_stopped(monkeypatch, tmp_path_factory, flags, step):
    """5 steps an epoch, 3 (a twin 1) epochs a mesh: within an epoch, at its or a mesh's end."""
    given = [flag for flag in RUN if "bp-ad" not in flags or flag not in ("--directions", "2")]
    arguments = [*given, *flags]
    whole = whole_run(tmp_path_factory, arguments)
    stopped_at(monkeypatch, step, arguments, "run")
    assert not Path("run/results.json").exists()
    assert main(["--resume", "run", "--quiet"]) == 0
    assert figures("run") == figures(whole)
    assert history("run") == history(whole)


class StopAfterCalibration(Observer):
    """Ends a run when the n-th calibration is saved, before the first step."""

    def __init__(self, number):
        self.left = number

    def on_checkpoint(self, model, position):
        self.left -= position.calibrated and not position.has_steps
        if not self.left:
            raise StoppedError


@pytest.mark.parametrize(
    ("flags", "number"),
    [
        ([*TWIN, "--meshes", "1"], 1),
        pytest.param([*TWIN, "--directions", "4", "--epsilon", "auto"], 2, marks=pytest.mark.long),
        ([*TWIN[:4], "--device", "simulated:phase_offset=0.1"], 2),  # its modulators are fitted
    ],
    ids=["1", "2", "device"],
)
def test_a_finished_calibration_is_saved_before_the_first_step(
    monkeypatch, tmp_path_factory, flags, number
):
    arguments = [*RUN, *flags, "--epochs", "1"]
    whole = whole_run(tmp_path_factory, arguments)
    stopped_by(monkeypatch, StopAfterCalibration(number), arguments, "run")
    assert len(history("run")) == number  # the header, and the meshes before
    calibrate, read = trainer.calibrated, []
    monkeypatch.setattr(trainer, "calibrated", lambda *a: read.append(a[0]) or calibrate(*a))
    assert main(["--resume", "run", "--quiet"]) == 0
    assert not read
    assert figures("run") == figures(whole)
    assert history("run") == history(whole)


_WHOLE: dict[tuple, Path] = {}


def whole_run(factory, arguments):
    """The uninterrupted run, trained once for all steps."""
    key = (*arguments, tf.config.functions_run_eagerly())  # figures differ by rounding
    if key not in _WHOLE:
        folder = factory.mktemp("whole") / "run"
        assert main([*arguments, "--output", str(folder)]) == 0
        _WHOLE[key] = folder
    return _WHOLE[key]


@pytest.mark.long
def test_several_seeds_go_on_where_they_stopped(monkeypatch, tmp_path_factory):
    arguments = [*RUN, "--seeds", "2"]
    whole = tmp_path_factory.mktemp("whole") / "run"
    assert main([*arguments, "--output", str(whole)]) == 0
    stopped_at(monkeypatch, 29, arguments, "run")
    assert main(["--resume", "run", "--quiet"]) == 0
    for seed in ("seed-0", "seed-1"):
        assert figures(f"run/{seed}") == figures(whole / seed)


def test_a_finished_run_on_a_simulated_device_is_reported_again(capsys):
    assert main([*RUN, "--device", "simulated:read_noise=0.1", "--output", "run"]) == 0
    figure = capsys.readouterr().out
    assert main(["--resume", "run", "--quiet"]) == 0
    assert capsys.readouterr().out.startswith(figure.partition(",")[0])


def test_a_finished_run_is_reported_again_and_not_trained(capsys):
    main([*RUN, "--epochs", "1", "--meshes", "1", "--output", "run"])
    first, before = capsys.readouterr().out, Path("run/model.npz").stat().st_mtime_ns
    assert main(["--resume", "run"]) == 0
    again = capsys.readouterr()
    assert again.out == first
    assert again.err.endswith("this run was done already, its results are in run\n")
    assert Path("run/model.npz").stat().st_mtime_ns == before


def wait_for(path, process):
    while not path.exists() and process.poll() is None:
        time.sleep(0.01)


@pytest.mark.parametrize(("which", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_finishes_the_step_and_says_how_to_go_on(monkeypatch, capsys, which, code):
    class Signalled(Observer):
        def on_steps(self, mesh, losses):
            os.kill(os.getpid(), which)

    run = Trainer.run

    def run_and_signal(self):
        self.observers = (*self.observers, Signalled())
        return run(self)

    monkeypatch.setattr(Trainer, "run", run_and_signal)
    assert main([*RUN, "--output", "run"]) == code
    position = load_checkpoint("run/model.npz")[1]
    assert (position.block, position.epoch, len(position.losses)) == (0, 0, 4)  # in calls of 2
    stopping, stopped = capsys.readouterr().err.splitlines()
    assert stopping == "stopping after this step"
    assert stopped.startswith("stopped, all is saved; go on with: ")


@pytest.mark.long
@pytest.mark.parametrize(("which", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_to_a_process_finish_the_step_and_say_how_to_go_on(which, code):
    command = [sys.executable, str(SCRIPT), *RUN, "--epochs", "4000", "--output", "run"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        wait_for(Path("run/model.npz"), process)
        process.send_signal(which)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == code
    assert load_checkpoint("run/model.npz")[1].block == 0
    line = errors.splitlines()[-1].partition("go on with: ")[2]
    assert shlex.split(line) == [sys.executable, str(SCRIPT), "--resume", "run"]


FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["tensorflow", "neurophox", "numba"])


def run_in_fork(*arguments):
    """A run in a process that has its libraries already and compiles nothing: it takes a second."""
    with open("log.txt", "a") as log, redirect_stdout(log), redirect_stderr(log):
        tf.config.run_functions_eagerly(True)
        steps.MOST_STEPS = 2
        raise SystemExit(main([*arguments]))


@pytest.mark.long
def test_killed_at_any_moment_a_run_goes_on_to_the_same_results():
    """SIGKILL at random times of runs; PHOTONIC_FFZERO_KILLS sets how often, seed 0 when."""
    for _ in range(2):  # the first one also starts the server of the forks
        rmtree("whole", ignore_errors=True)
        begun = time.perf_counter()
        assert ended(start("whole"), "whole")
    duration = time.perf_counter() - begun
    rng, run, process = random.Random(0), 0, start("run-0")
    for _ in range(KILLS):
        if killed_after(process, rng.uniform(0, duration)):
            process = start(f"run-{run}", resume=Path(f"run-{run}/config.json").exists())
        else:
            assert ended(process, f"run-{run}")
            run += 1
            process = start(f"run-{run}")
    assert ended(process, f"run-{run}")


def start(output, resume=False):
    flags = ["--resume", output, "--quiet"] if resume else [*RUN, "--output", output]
    process = FORKS.Process(target=run_in_fork, args=flags)
    process.start()
    return process


def killed_after(process, seconds):
    """Kill a process if it still runs then; its checkpoint must load."""
    process.join(seconds)
    if process.exitcode is not None:
        return False
    process.kill()
    process.join()
    for checkpoint in Path().glob("run-*/model.npz"):
        load_checkpoint(checkpoint)
    return True


def ended(process, output):
    """Whether a run ended with the results of the whole one."""
    process.join(300)
    assert process.exitcode == 0, Path("log.txt").read_text()
    return figures(output) == figures("whole") and history(output) == history("whole")


def at_once(meet, log, *arguments):
    """A run in a process that waits for others, and takes its name in the same second as they."""
    plan.time.strftime = lambda form: "20260101-120000"
    meet.wait(300)
    os.dup2(os.open(log, os.O_CREAT | os.O_WRONLY), 2)
    sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115
    tf.config.run_functions_eagerly(True)
    raise SystemExit(main([*arguments]))


def begun_at_once(*commands):
    """The exit codes of runs that begin at the same moment, and what each one says."""
    meet, logs = FORKS.Barrier(len(commands)), [f"log-{n}.txt" for n in range(len(commands))]
    processes = [
        FORKS.Process(target=at_once, args=[meet, log, *arguments])
        for log, arguments in zip(logs, commands, strict=True)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(600)
    told = [
        (process.pid, Path(log).read_text()) for process, log in zip(processes, logs, strict=True)
    ]
    return [process.exitcode for process in processes], told


@pytest.mark.long
def test_eight_runs_of_one_second_leave_eight_results():
    codes, told = begun_at_once(*[RUN] * 8)
    assert codes == [0] * 8, told
    folders = sorted(path.name for path in Path("results").iterdir())
    name = "digits-photonic-ff-dd-directions-2-batch-size-40-20260101-120000"
    assert folders == [name, *(f"{name}-{number}" for number in range(2, 9))]
    first, *others = (figures(f"results/{folder}") for folder in folders)
    assert others == [first] * 7


@pytest.mark.long
def test_of_two_that_resume_a_run_at_once_one_works_and_one_says_so():
    """PHOTONIC_FFZERO_RESUMES sets how often."""
    assert ended(start("whole"), "whole")
    process = start("begun")
    while not Path("begun/model.npz").exists():
        time.sleep(0.01)
    process.kill()
    process.join()
    assert not Path("begun/results.json").exists()
    for number in range(RESUMES):
        copytree("begun", run := f"run-{number}")
        codes, told = begun_at_once(*[["--resume", run, "--quiet"]] * 2)
        assert sorted(codes) == [0, 2], told
        (worker, _), (_, refusal) = told if codes[1] else told[::-1]
        assert f"{run}: another process (process {worker} on " in refusal
        assert figures(run) == figures("whole")
        assert history(run) == history("whole")


@contextmanager
def small_disk(monkeypatch):
    """The operating system limits files to less than a checkpoint needs."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def full_disk(monkeypatch):
    """The disk is full after two more files."""
    sync, calls = os.fsync, itertools.count()

    def sync_two(descriptor):
        if next(calls) >= 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", sync_two)
        yield


@contextmanager
def read_only(monkeypatch):
    """The file system is read-only; for root, no permission has that effect."""

    def refuse(path, mode, **rest):
        if mode == "rb":
            return open(path, mode, **rest)
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    with monkeypatch.context() as patch:
        patch.setattr(files, "open", refuse, raising=False)
        yield


def test_a_full_or_read_only_disk_costs_nothing_that_was_saved(
    monkeypatch, tmp_path_factory, capsys
):
    brief = [*RUN, "--epochs", "2", "--meshes", "1"]
    whole = whole_run(tmp_path_factory, brief)
    stopped_at(monkeypatch, 7, brief, "run")
    before = Path("run/model.npz").read_bytes()
    for trouble, file, reason in (
        (small_disk, "model.npz", "File too large"),
        (full_disk, "model.npz", "No space left on device"),
        (read_only, "config.json", "Read-only file system"),
    ):
        with trouble(monkeypatch):
            assert main(["--resume", "run", "--quiet"]) == 1
        error = capsys.readouterr().err.splitlines()[-1]
        assert error.startswith("mnist_photonic.py: [Errno ")
        assert error.endswith(f"{reason}: 'run/{file}'; what was saved is in run")
        assert Path("run/model.npz").read_bytes() == before
        assert not list(Path("run").glob("*.partial"))
    assert main(["--resume", "run", "--quiet"]) == 0
    assert figures("run") == figures(whole)


class TestNewDirectory:
    def test_a_read_only_place_a_file_and_a_full_folder_are_refused(self, monkeypatch, tmp_path):
        (tmp_path / "file").touch()
        for path, reason in ((tmp_path / "file", "found a file"), (tmp_path, "found files")):
            with pytest.raises(ValueError, match=f"output .* {reason}"):
                check_new_directory(path)
        check_new_directory(tmp_path / "new" / "run")
        monkeypatch.setattr(os, "access", lambda path, mode: False)
        with pytest.raises(ValueError, match=r"output .* read-only"):
            check_new_directory(tmp_path / "new")
        assert not (tmp_path / "new").exists()


class TestHistoryTable:
    HEAD = "mesh,epoch,loss,train_accuracy,validation_accuracy,forward_passes,phase_writes"

    def test_it_is_written_with_six_digits_and_read_again(self, tmp_path):
        model = Model(configure(), 16, Classification(10))
        model.history = [EpochRecord("1-2", 1, 1 / 3, 0.25, None, 640, 5, 0.01, 1.5)]
        directory = RunDirectory(tmp_path)
        directory.on_checkpoint(model, Position())
        table = f"{self.HEAD},epsilon,seconds\r\n1-2,1,0.333333,0.25,,640,5,0.01,1.5\r\n"
        assert (tmp_path / "history.csv").read_bytes() == table.encode()
        assert read_history(tmp_path) == [replace(model.history[0], loss=0.333333)]

    @pytest.mark.parametrize("row", ["1,one,0.5,0.25,,640,5,0.01,1.5", "1,1", "1" + 9 * ",1"])
    def test_a_damaged_one_is_named(self, tmp_path, row):
        (tmp_path / "history.csv").write_text(f"{self.HEAD},epsilon,seconds\n{row}\n")
        with pytest.raises(DataError, match=r"history\.csv: is no table"):
            read_history(tmp_path)


class TestRefused:
    @pytest.fixture(scope="class")
    def begun(self, tmp_path_factory):
        folder = tmp_path_factory.mktemp("begun") / "run"
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(steps, "MOST_STEPS", 2)
            stopped_at(patch, 7, RUN, str(folder))
        return folder

    @pytest.fixture
    def run(self, begun):
        return Path(copytree(begun, "run"))

    def refused(self, capsys, *flags):
        with pytest.raises(SystemExit) as stop:
            main(["--resume", "run", *flags])
        assert stop.value.code == 2
        return capsys.readouterr().err

    def test_a_setting_besides(self, run, capsys):
        assert "--resume takes every setting from the run; leave out --epochs" in self.refused(
            capsys, "--epochs", "9"
        )

    def test_a_nonlinearity_that_is_no_function_is_the_flag_s_fault(self, run, capsys):
        error = self.refused(capsys, "--nonlinearity", "kerr:phi_nl=3")
        assert "--nonlinearity must be module:function" in error
        assert "'kerr:phi_nl=3'" in error
        assert "config.json" not in error
        error = self.refused(capsys, "--nonlinearity", "numpy:tanh")
        assert "--nonlinearity must be 0 functions" in error
        assert "config.json" not in error

    def test_no_run(self, capsys):
        assert "argument --resume: must be a run's directory" in self.refused(capsys)
        assert not Path("run").exists()

    @pytest.mark.parametrize("text", ["", "[]", "{}", '{"epochs": 3}', "{" * 100000])
    def test_a_damaged_configuration(self, run, capsys, text):
        (run / "config.json").write_text(text)
        assert "config.json" in self.refused(capsys)

    def test_other_data(self, run, capsys):
        config = json.loads((run / "config.json").read_text())
        config["training_data_crc32"] += 1
        (run / "config.json").write_text(json.dumps(config))
        assert "the training data must have the checksum" in self.refused(capsys)

    @pytest.mark.parametrize(
        ("name", "value"),
        [("validation", 100), ("limit", 100), ("unit_power", 0.5), ("detector_floor", 1e-6)],
    )
    def test_another_setting_than_when_it_began(self, run, capsys, name, value):
        config = json.loads((run / "config.json").read_text())
        before = (run / "model.npz").read_bytes()
        (run / "config.json").write_text(json.dumps(config | {name: value}))
        assert f"model.npz: {name} must be {config[name]}" in self.refused(capsys)
        assert (run / "model.npz").read_bytes() == before

    @pytest.mark.parametrize(
        ("name", "value"), [("dataset", "nosuch"), ("seeds", 0), ("epochs", "x"), ("size", [])]
    )
    def test_a_setting_that_none_can_have(self, run, capsys, name, value):
        config = json.loads((run / "config.json").read_text())
        (run / "config.json").write_text(json.dumps(config | {name: value}))
        error = self.refused(capsys)
        assert f"error: run/config.json: {name} " in error
        assert error.endswith(f" {value!r}\n")

    def test_a_finished_run_with_another_setting(self, capsys):
        main([*RUN, "--output", "run"])
        config = json.loads(Path("run/config.json").read_text())
        Path("run/config.json").write_text(json.dumps(config | {"epochs": 4}))
        assert main(["--resume", "run", "--quiet"]) == 1
        assert "epochs must be 3, found 4" in capsys.readouterr().err

    def test_other_test_labels(self, run, capsys, monkeypatch):
        load = Job.load

        def load_others(*arguments):
            job = load(*arguments)
            return replace(job, test=Samples(job.test.x, np.roll(job.test.y, 1)))

        monkeypatch.setattr(Job, "load", load_others)
        assert "the test data must have the checksum" in self.refused(capsys)
        config = json.loads((run / "config.json").read_text())
        del config["test_data_crc32"]
        (run / "config.json").write_text(json.dumps(config))
        assert "model.npz: test_data_crc32 must be" in self.refused(capsys)

    def test_a_checkpoint_of_another_run(self, run, capsys):
        save_checkpoint(*load_changed(run / "model.npz"), run / "model.npz")
        assert main(["--resume", "run"]) == 1
        assert "is a checkpoint of another run" in capsys.readouterr().err

    def test_a_damaged_checkpoint(self, run, capsys):
        damaged = bytearray((run / "model.npz").read_bytes())
        damaged[len(damaged) // 2] ^= 0xFF
        (run / "model.npz").write_bytes(damaged)
        assert main(["--resume", "run"]) == 1
        assert "model.npz" in capsys.readouterr().err

    def test_a_model_that_is_no_checkpoint(self, run):
        with np.load(run / "model.npz") as file:
            arrays = {name: array for name, array in file.items() if name != "training"}
        np.savez(run / "model.npz", **arrays)
        assert load_model(run / "model.npz").units == 16
        with pytest.raises(DataError, match="training"):
            load_checkpoint(run / "model.npz")


def load_changed(path):
    """The checkpoint of a run with another seed."""
    _, position = load_checkpoint(path)
    other = Model(configure(seed=9, epochs=3, directions=2, batch_size=40), 16, Classification(10))
    return other, position


def test_a_run_goes_on_without_what_it_started_from(monkeypatch):
    assert main([*RUN, "--epochs", "1", "--output", "source"]) == 0
    arguments = [*RUN, "--start-from", "source"]
    assert main([*arguments, "--output", "whole"]) == 0
    stopped_at(monkeypatch, 8, arguments, "run")
    rmtree("source")
    assert main(["--resume", "run", "--quiet"]) == 0
    assert figures("run") == figures("whole")
