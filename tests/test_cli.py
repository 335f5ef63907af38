"""The command line: what a person types, reads, and finds on the disk."""

import csv
import json
import os
import re
import shlex
import subprocess
import sys
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from photonic_ffzero import command
from photonic_ffzero.cli import export, predict, report, serve
from photonic_ffzero.cli.experiment import run_experiment
from photonic_ffzero.cli.train import build_parser, main
from photonic_ffzero.devices import DeviceError
from photonic_ffzero.runs.job import Job
from photonic_ffzero.runs.names import find_run
from photonic_ffzero.training.observer import Observer, StoppedError
from photonic_ffzero.training.trainer import NonFiniteLossError, Trainer

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "experiments" / "mnist_photonic.py"
QUICK = ["--dataset", "digits", "--size", "4", "--limit", "120", "--epochs", "2"]
QUICK += ["--batch-size", "60", "--quiet"]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Every test runs in a folder of its own, so that "nothing written" can be checked."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PHOTONIC_FFZERO_DATA", raising=False)
    return tmp_path


def results(folder):
    return json.loads((Path(folder) / "results.json").read_text())


def refused(arguments, capsys, recipe="balanced"):
    """The error that the command line ends with."""
    with pytest.raises(SystemExit) as stop:
        main(arguments, recipe)
    assert stop.value.code == 2
    return capsys.readouterr().err


@pytest.mark.pictures
def test_a_run_leaves_its_results_and_says_them_in_one_line(capsys):
    assert main([*QUICK, "--output", "run"]) == 0
    printed = capsys.readouterr()
    assert printed.out.startswith("digits, ff-dd, seed 0: test accuracy ")
    assert (len(printed.out.splitlines()), printed.err) == (1, "")
    names = {"config.json", "history.csv", "model.npz", "embeddings.npz", "results.json"}
    pictures = {"training_curves.png", "confusion.png", "power_budget.png"}
    assert {path.name for path in Path("run").iterdir()} == names | pictures
    assert all(Path("run", name).stat().st_size > 10_000 for name in pictures)

    outcome = results("run")
    expected = {"dataset": "digits", "method": "ff-dd", "recipe": "balanced", "ports": 16}
    expected |= {"encoding": "average", "meshes": 2, "epochs": 2, "seed": 0}
    assert expected.items() <= outcome.items()
    assert len(outcome["layer_test_accuracy"]) == 2
    for name in ("test_accuracy", "vote_accuracy", "goodness_sum_accuracy"):
        assert 0 <= outcome[name] <= 1
    assert outcome["test_accuracy"] == outcome["goodness_sum_accuracy"]
    assert outcome["engine"] in ("native", "xla")
    assert {"tensorflow", "neurophox", "numpy"} <= outcome["versions"].keys()
    # 2 steps of 60 images and 64 sets, 120 + 129 images monitored, 2 epochs, 2 meshes; then
    # the first mesh hands 120 + 129 images on.
    assert outcome["forward_passes"] == 2 * 2 * (2 * 60 * 64 + 120 + 129) + 120 + 129

    with open("run/history.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["mesh"], row["epoch"]) for row in rows] == list(product("12", "12"))
    for name in ("loss", "train_accuracy", "validation_accuracy", "seconds"):
        assert all(np.isfinite(float(row[name])) for row in rows)

    before = {path: path.stat().st_mtime_ns for path in Path("run").iterdir()}
    error = refused([*QUICK, "--output", "run"], capsys)
    assert "argument --output must be a new or empty directory" in error
    assert before == {path: path.stat().st_mtime_ns for path in Path("run").iterdir()}

    main([*QUICK, "--output", "again"])
    assert results("again") | {"train_seconds": 0} == outcome | {"train_seconds": 0}


def test_what_a_method_does_not_have_is_null():
    assert main([*QUICK, "--method", "bp-ad", "--output", "run"]) == 0
    outcome = results("run")
    for name in ("directions", "rule", "vote_accuracy", "goodness_sum_accuracy"):
        assert outcome[name] is None


@pytest.mark.parametrize(
    ("recipe", "flags", "quality"),
    [
        ("balanced", ["--dataset", "digits", "--size", "4"], "accuracy"),
        ("digital", ["--dataset", "f2", "--task", "regression", "--width", "12"], "r2"),
    ],
)
def test_several_seeds_end_in_mean_and_spread(recipe, flags, quality, capsys):
    flags = [*flags, "--limit", "120", "--epochs", "1", "--batch-size", "60", "--quiet"]
    assert main([*flags, "--seeds", "2", "--seed", "5", "--output", "run"], recipe) == 0
    values = [results(f"run/seed-{seed}")[f"test_{quality}"] for seed in (5, 6)]
    summary = json.loads(Path("run/summary.json").read_text())
    assert summary["seeds"] == [5, 6]
    spread = {"mean": pytest.approx(np.mean(values)), "sd": pytest.approx(np.std(values, ddof=1))}
    assert summary[f"test_{quality}"] == spread
    assert summary[{"accuracy": "test_r2", "r2": "test_accuracy"}[quality]] is None
    assert Path("run/training_curves.png").exists()
    mean = f"R^2 {np.mean(values):.4f}" if quality == "r2" else f"{100 * np.mean(values):.2f} %"
    assert f"{mean} (standard deviation" in capsys.readouterr().out


BAD = [
    (["--size", "0"], "argument --size must be at least 1, got 0"),
    (["--size", "9"], "9"),  # larger than the image
    (["--size", "x"], "argument --size: must be a whole number from 1, got 'x'"),
    (["--epsilon", "nan"], "argument --epsilon must be finite, got nan"),
    (["--epsilon", "1e-46"], "argument --epsilon must be at least 1e-30, got 1e-46"),
    (["--symbol-rate", "1e-300", "--write-time", "1"], "argument --symbol-rate must be at least"),
    (["--symbol-rate", "1", "--write-time", "1e300"], "argument --write-time must be at most"),
    (
        ["--recipe", "digital", "--encoding", "fourier"],
        "argument --encoding must be average or crop",
    ),
    (["--epsilon", "x"], "argument --epsilon: must be a number above 0, or auto, got 'x'"),
    (["--learning-rate", "-1"], "argument --learning-rate must be greater than 0"),
    (["--seeds", "0"], "argument --seeds must be at least 1"),
    (["--dataset", ""], "argument --dataset: must be one of auto, mnist, "),
    (["--dataset", "cifar"], "argument --dataset: must be one of auto, mnist, "),
    (["--dataset", "fashion-mnst"], "did you mean fashion-mnist?"),
    (["--method", "ff"], "argument --method must be one of ff-dd, ff-ad, bp-dd, bp-ad; got 'ff'"),
    (["--loss", "hinge"], "argument --loss must be one of cross-entropy, margin, cosine"),
    (["--loss", "margin:m=1"], "argument --loss margin's parameter must be one of margin; got 'm'"),
    (["--nonlinearity", "electro-optic:alpha=2"], "alpha"),
    (["--method", "ff-ad", "--directions", "3"], "argument --directions does not apply to"),
    (["--readout", "ports", "--detection", "raw"], "argument --detection does not apply to"),
    (["--method", "ff-ad", "--estimator", "central"], "argument --estimator central does not fit"),
    (["--encoding", "crp"], "argument --encoding must be one of"),
    (["--validation", "1297"], "argument --validation must leave at least one of 1297 images"),
    (["--start-from", "nowhere"], "argument --start-from: must be a run's directory or model"),
    (["--size", "3"], "10 classes need at least as many tapped values"),
    (
        ["--readout", "central-ports", "--encoding", "fourier-bins", "--size", "9"],
        "argument --readout central-ports: 10 classes need at least as many tapped values",
    ),
    (
        ["--encoding", "fourier-bins", "--size", "40"],
        "argument --size must be at most 33 for fourier-bins of images of (8, 8), got 40",
    ),
    (["--dataset", "mnist", "--data-dir", "nowhere"], "nowhere"),
    (
        ["--data-dir", "nowhere"],
        "argument --data-dir must be an existing folder, found none at now",
    ),
    (["--epoch", "3"], "unrecognized arguments: --epoch, did you mean --epochs?"),
]
BY_NAME = [("train", ["--resume"]), ("train", ["--start-from"]), ("grid", ["--resume"])]
BY_NAME += [("predict", []), ("export", []), ("report", [])]
F1 = ["--dataset", "f1", "--task", "regression"]
BAD_DIGITAL = [
    (["--dataset", "f1"], "argument --task must be regression for a data set whose labels are"),
    ([*F1, "--encoding", "crop"], "argument --encoding does not apply to data set f1"),
    ([*F1, "--size", "4"], "argument --size does not apply to data set f1"),
    ([*F1, "--network", "cnn"], "cnn needs square images, got 2 values an image"),
    ([*F1, "--rule", "sum"], "argument --rule must be last for a regression, got sum"),
    (["--loss", "squared"], "argument --loss squared does not fit the task classification"),
    (["--groups", "3"], "argument --width must be a multiple of 3, the label dimensions (1) times"),
    (["--meshes", "2"], "argument --meshes does not apply to mlp with method ff-dd"),
    (["--unit-power", "1"], "argument --unit-power does not apply to mlp"),
    (["--network", "cnn", "--kernel-size", "13"], "argument --kernel-size must be at most the"),
    (["--perturb", "activations", "--method", "bp-dd"], "argument --perturb must be weights for"),
    (["--nonlinearity", "kerr"], "argument --nonlinearity must be one of relu, tanh"),
]
EVERY_BAD = [*(("balanced", *pair) for pair in BAD), *(("digital", *pair) for pair in BAD_DIGITAL)]


@pytest.mark.parametrize(("recipe", "flags", "message"), EVERY_BAD, ids=str)
def test_bad_input_is_one_line_exit_2_and_nothing_written(
    recipe, flags, message, capsys, elsewhere
):
    arguments = [*flags] if "--dataset" in flags else ["--dataset", "digits", *flags]
    error = refused(arguments, capsys, recipe)
    assert message in error
    assert error.startswith(f"mnist_{'digital' if recipe == 'digital' else 'photonic'}.py: error:")
    assert error.count("\n") == 1
    assert list(elsewhere.iterdir()) == []


MEANT = [
    (["--lr", "1"], "--lr", "--learning-rate"),
    (["--metod", "ff-dd"], "--metod", "--method"),
    (["--batch_size=3"], "--batch_size", "--batch-size"),
    (["--splitter-error", "0.1"], "--splitter-error", "--imperfections"),
    (["--out", "run"], "--out", "--output"),
    (["--val", "3"], "--val", "--validation"),
    (["--method", "ffdd"], "--method", "ff-dd"),
    (["--method", "BP-AD"], "--method", "bp-ad"),
    (["--dataset", "mnits"], "--dataset", "mnist"),
    (["--dataset", "MNIST"], "--dataset", "mnist"),
    (["--imperfections", "splitter_eror=1"], "--imperfections", "splitter_error"),
    (["--device", "simulated:read_nois=1"], "--device", "read_noise"),
    (["--nonlinearity", "electrooptic"], "--nonlinearity", "electro-optic"),
    (["--amplifier", "gian=2"], "--amplifier", "gain"),
]


@pytest.mark.parametrize(("flags", "named", "meant"), MEANT, ids=str)
def test_what_is_misspelt_is_answered_with_what_was_meant(flags, named, meant, capsys):
    error = refused(["--dataset", "digits", *flags], capsys)
    assert named in error
    assert error.endswith(f", did you mean {meant}?\n")


# Every error in a specification names the flag and the value.
SPECS = [
    (["--nonlinearity", "electro-optic:"], "'electro-optic:'"),
    (["--nonlinearity", "electro-optic:g=1,,alpha=0"], "'g=1,,alpha=0'"),
    (["--nonlinearity", "electro-optic:g=1,g=2"], "'g=1,g=2'"),
    (["--nonlinearity", "electro-optic:gain=1e300,v_pi=1e-300"], "inf"),
    (["--nonlinearity", "kerr:phi_nl=1e400"], "'1e400'"),
    (["--loss", "margin:margin=-1"], "-1.0"),
    (["--imperfections", "splitter_error="], "''"),
    (["--imperfections", "splitter_error"], "'splitter_error'"),
    (["--imperfections", "splitter_error=-1"], "-1.0"),
    (["--imperfections", "phase_offset=0.1,phase_law=unifrm"], "'unifrm', .*uniform"),
    (["--imperfections", "phase_law=uniform"], "uniform alone"),
    (["--imperfections", "shifter_loss=0.6"], "0.6"),
    (["--imperfections", "ntt-2024"], "'ntt-2024', .*ntt-2025"),
    (["--imperfections", "ntt-2025:"], "'ntt-2025:'"),
    (["--imperfections", "ntt-2025:beta=1"], "'beta'"),
    (["--device", "simulated:ntt_2025"], "'ntt_2025', .*ntt-2025"),
    (["--imperfections", "drive_bits=8.5"], "8.5"),
    (["--imperfections", ","], "','"),
    (["--imperfections", " "], "' '"),
    (["--device", "simulated:"], "'simulated:'"),
    (["--amplifier", "gain=0"], "0.0"),
    (["--learning-rate", "-1e-3"], "-0.001"),
    (["--meshes", "1000000", "--columns", "100000"], "1000000"),
    (["--columns", "1000000000"], r"\d+ in the first 1 of 2 layers"),
    (["--width", "1000000000", "--recipe", "digital"], r"\d+ in the first 1 of 4"),
    (["--learning-rate", "-inf"], "-inf"),
    (["--learning-rate", "1e400"], "inf"),
    (["--seed", "9" * 40], "9" * 40),
    (["--seed", "9" * 5000], r"'999999+\.\.\.9+'"),
    (["--epochs", "9" * 20], "9" * 20),
    (["--output", "a\0b"], r"'a\\x00b'"),
    (["--output", "x" * 300], r"'xxx+\.\.\.x+'"),
    (["--output", ""], "''"),
]


@pytest.mark.parametrize(("flags", "value"), SPECS, ids=str)
def test_errors_name_the_flag_that_the_value_came_from(flags, value, capsys):
    error = refused(["--dataset", "digits", *flags], capsys)
    assert re.search(f"argument {flags[0]}\\b.* got {value}", error), error
    assert error.count("\n") == 1
    assert len(error) < 600


@pytest.mark.parametrize("flag", ["--a\nb", "--a\x1b[31m", "--a\udcff"])
def test_an_error_is_one_printable_line(flag, capsys):
    error = refused([flag], capsys)
    assert error[:-1].isprintable()


GRID = partial(run_experiment, "grid", "What it shows.", {"small": None})
SCRIPTS = {"train": main, "grid": lambda argv: GRID(argv=argv), "predict": predict.main}
SCRIPTS |= {"export": export.main, "report": report.main, "serve": serve.main}


@pytest.mark.parametrize(
    ("script", "flags", "message"),
    [
        ("grid", ["--lr", "1"], "--lr"),
        ("grid", ["--preset", "smal"], "--preset.*'smal', did you mean small"),
        ("grid", ["--dataset", "mnits"], "--dataset.*'mnits', did you mean mnist"),
        ("grid", ["--workers", "2"], "--workers, did you mean --jobs"),
        ("predict", ["--devise"], "--devise, did you mean --device"),  # before what is required
        ("export", ["--arm", "both"], "--arm, did you mean --arms"),
        ("export", ["kerr1", "--arms", "uper"], "--arms.*'uper', did you mean upper"),
        ("export", ["kerr1", "--v-pi", "-1e-3", "--output", "o"], "--v-pi .*-0.001"),
        ("export", ["kerr1", "--v-pi", "nan", "--output", "o"], "--v-pi .*nan"),
        ("report", ["--titel", "x"], "--titel, did you mean --title"),
        ("serve", ["--port", "70000"], "--port.* 65535, got 70000"),
        ("serve", ["--units", "9" * 20], f"--units.* got {'9' * 20}"),
        *((s, [*flag, "kerr2"], "kerr2.*did you mean kerr1") for s, flag in BY_NAME),
        *((s, [*flag, "xyzzy"], "xyzzy.*newest in results/: kerr1, other") for s, flag in BY_NAME),
    ],
)
def test_every_script_answers_a_slip(script, flags, message, capsys, elsewhere):
    for age, name in enumerate(("kerr1", "other")):
        (elsewhere / "results" / name).mkdir(parents=True)
        os.utime(elsewhere / "results" / name, (0, 10**9 - age))
    (elsewhere / "results" / "kerr1" / "config.json").write_text("{}")
    with pytest.raises(SystemExit) as stop:
        SCRIPTS[script](flags)
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert re.search(message, error), error
    assert error.count("\n") == 1


def test_runs_go_by_their_names_in_results(elsewhere):
    run = elsewhere / "results" / "kerr1"
    (run / "seed-0").mkdir(parents=True)
    (run / "config.json").write_text("{}")
    for text in ("kerr1", "results/kerr1", str(run)):
        assert find_run(text).resolve() == run
    assert find_run("kerr1/seed-0").resolve() == run / "seed-0"
    (elsewhere / "kerr1").mkdir()  # a folder of that name here that is no run
    assert find_run("kerr1").resolve() == run
    for text in ("", "kerr", "\0", "x" * 300, "~nobody-of-this-name/run"):
        with pytest.raises((ValueError, OSError)):
            find_run(text)


def test_a_folder_that_a_user_made_in_results_is_in_nobody_s_way(monkeypatch):
    Path("results/new").mkdir(parents=True)
    Path("results/new/notes.txt").touch()
    monkeypatch.setattr(Job, "run", lambda *arguments: [])
    assert main(QUICK) == 0


def test_without_a_place_for_results_the_folder_is_named_and_no_flag(capsys):
    Path("results").touch()
    error = refused(QUICK, capsys)
    assert "results" in error
    assert "argument" not in error


def test_nan_in_the_data_is_refused_by_name(tmp_path, capsys):
    folder = tmp_path / "data" / "mnist"
    folder.mkdir(parents=True)
    images, labels = np.full((20, 28, 28), np.nan), np.arange(20) % 10
    arrays = {"x_train": images, "y_train": labels, "x_test": images, "y_test": labels}
    np.savez(folder / "mnist.npz", **arrays)
    arguments = ["--dataset", "mnist", "--data-dir", str(tmp_path / "data")]
    assert "mnist.npz" in refused(arguments, capsys)


class TestDigital:
    """The command line of the digital experiments: the same one with another recipe."""

    def run(self, *flags):
        brief = ["--epochs", "1", "--depth", "2", "--batch-size", "60", "--limit", "120", "--quiet"]
        assert main([*brief, *flags, "--output", "run"], recipe="digital") == 0
        return results("run")

    def test_an_mlp_by_default(self, capsys):
        outcome = self.run("--dataset", "digits", "--width", "12", "--perturb", "activations")
        expected = {"network": "mlp", "recipe": "digital", "depth": 2, "width": 12, "ports": 64}
        expected |= {"meshes": None, "columns": None, "engine": None, "channels": None}
        expected |= {"perturb": "activations", "task": "classification", "test_r2": None}
        assert expected.items() <= outcome.items()
        assert len(outcome["layer_test_accuracy"]) == 2
        assert capsys.readouterr().out.startswith("digits, ff-dd, seed 0: test accuracy ")

    def test_a_cnn(self):
        flags = ["--network", "cnn", "--channels", "2", "--kernel-size", "3", "--method", "ff-ad"]
        outcome = self.run("--dataset", "digits", *flags)
        assert {"network": "cnn", "channels": 2, "perturb": None}.items() <= outcome.items()

    def test_a_function_to_learn(self, capsys):
        outcome = self.run("--dataset", "f1", "--task", "regression", "--width", "12")
        expected = {"dataset": "f1", "task": "regression", "rule": "last", "ports": 2}
        expected |= {"encoding": "none", "size": None}
        expected |= dict.fromkeys(("test_accuracy", "vote_accuracy", "goodness_sum_accuracy"))
        assert expected.items() <= outcome.items()
        assert outcome["test_r2"] == outcome["layer_test_r2"][-1] <= 1
        assert f"test R^2 {outcome['test_r2']:.4f} by last" in capsys.readouterr().out
        names = {path.name for path in Path("run").iterdir()}
        assert "predictions.png" in names
        assert "confusion.png" not in names
        assert json.loads(Path("run/config.json").read_text())["dataset"] == "f1"

    def test_classes_may_be_taken_for_numbers(self):
        outcome = self.run("--dataset", "digits", "--task", "regression", "--method", "bp-ad")
        assert (outcome["rule"], outcome["test_accuracy"]) == (None, None)
        assert outcome["test_r2"] <= 1


class Stop(Observer):
    """Raise an error in the second epoch's first step."""

    def __init__(self, error):
        self.error, self.steps = error, 0

    def on_steps(self, mesh, losses):
        self.steps += len(losses)
        if self.steps >= 3:
            raise self.error


@pytest.mark.parametrize("kind", [DeviceError, OSError, NonFiniteLossError, StoppedError])
def test_texts_from_elsewhere_do_nothing_to_the_terminal(monkeypatch, capsys, kind):
    """Neither what a device says nor the name of a folder; both show as they are written."""

    def stop(self):
        raise kind("light\x1b[2J\nlost")

    monkeypatch.setattr(Trainer, "run", stop)
    folder = "a[/b]:smile:\x1b]0;x\x07"
    assert main([*[flag for flag in QUICK if flag != "--quiet"], "--output", folder]) in (1, 128)
    out, err = capsys.readouterr()
    assert not re.search(r"[^\n -~]", out + err)
    assert r"a[/b]:smile:\x1b]0;x\x07" in err
    assert kind is StoppedError or r"light\x1b[2J\nlost" in err


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (KeyboardInterrupt(), 130, " -m photonic_ffzero.cli --resume run"),
        (NonFiniteLossError("the loss became nan"), 1, "the loss became nan"),
        (OSError("No space left on device"), 1, "No space left on device"),
    ],
)
def test_a_run_that_stops_keeps_what_it_learned(monkeypatch, capsys, error, code, text):
    run = Trainer.run

    def run_and_stop(self):
        self.observers = (Stop(error), *self.observers)
        return run(self)

    monkeypatch.setattr(Trainer, "run", run_and_stop)
    assert main([*QUICK, "--output", "run"]) == code
    message = capsys.readouterr().err
    assert text in message
    assert "run" in message
    assert {path.name for path in Path("run").iterdir()} == {
        "config.json",
        "history.csv",
        "model.npz",
        "embeddings.npz",
    }


def test_a_run_of_any_network_names_its_own_script_when_it_stops(monkeypatch, capsys):
    """As the process was started, with the folder of the data, so that the line can be pasted."""
    monkeypatch.setattr(command, "_start", ["my python", "-u", str(SCRIPT.parent / "predict.py")])

    def stop(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(Trainer, "run", stop)
    Path("my data").mkdir()
    flags = ["--recipe", "digital", "--output", "a run", "--data-dir", "my data"]
    assert main([*QUICK, *flags]) == 130
    line = f"'my python' -u {SCRIPT.parent}/mnist_digital.py --resume 'a run' --data-dir 'my data'"
    assert f"go on with: {line}\n" in capsys.readouterr().err


def test_a_name_with_a_dash_is_printed_so_that_it_can_be_resumed(monkeypatch, capsys):
    def stop(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(Trainer, "run", stop)
    assert main([*QUICK, "--output=-dash"]) == 130
    told = capsys.readouterr().err
    assert "--resume=-dash" in told
    words = shlex.split(told.partition("photonic_ffzero.cli ")[2])
    assert build_parser().parse_args(words).resume == Path("-dash")


@pytest.mark.parametrize("name", ["", "-c", "photonic_ffzero.cli.worker", "elsewhere/predict.py"])
def test_another_process_names_what_it_is_told(monkeypatch, name):
    monkeypatch.chdir(SCRIPT.parent)
    monkeypatch.setattr(command, "_start", ["python", name][: 1 + bool(name)])
    assert command.start_of("ablation.py", ["x", "y"]) == ["x", "y"]


@pytest.mark.parametrize("recipe", ["balanced", "digital"])
def test_help_teaches_within_80_columns(recipe, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as stop:
        main(["--help"], recipe)
    text = capsys.readouterr().out
    assert stop.value.code == 0
    assert max(map(len, text.splitlines())) <= 80
    for word in ("rad", "ports", "ff-dd", "jvp", "examples:", f"(default: {recipe})"):
        assert word in text
    assert ("Mach" in text) == (recipe == "balanced")
    assert all(action.help for action in build_parser(recipe)._actions)


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("columns", [60, 80])
def test_every_help_fits_the_terminal(script, columns, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    with pytest.raises(SystemExit) as stop:
        SCRIPTS[script](["--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    told, *examples = text.split("examples:\n")
    long = [line for line in told.splitlines() if len(line) > columns]
    assert all(columns == 60 and re.match(r" +\[?--", line) for line in long)  # a flag's names
    if columns == 80:
        assert max(map(len, text.splitlines())) <= columns
    for example in examples:  # a line each, to paste
        assert all(re.match(r"  [\w.]+\.py", line) for line in example.splitlines())
    assert "\n\n" in told


def test_a_newcomer_sees_no_noise(tmp_path):
    """In a process of its own: TensorFlow's messages come from native code."""
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *QUICK[:-1], "--meshes", "1", "--output", "run"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    assert len(done.stdout.splitlines()) == 1
    lines = done.stderr.splitlines()
    assert lines[0] == "digits (scikit-learn)"
    assert lines[-1] == "results in run"
    assert len(lines) == 4 + 2 + 1  # what will be done, an epoch a line, where the results are


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--validation", "1"], "argument --validation must be 0, or 2 samples or more"),
        (["--dataset", "one.npz"], "argument --task must be classification with a single test"),
    ],
)
def test_a_regression_that_has_no_r2_is_refused(flags, message, capsys):
    images = np.zeros((30, 4, 4), np.uint8)
    images[:, 0, 0] = range(30)
    labels = np.arange(30) % 3
    arrays = {"x_test": images[:1], "y_test": labels[:1]}
    np.savez("one.npz", x_train=images, y_train=labels, **arrays)
    words = ["--dataset", "digits", "--task", "regression", *flags, "--output", "new"]
    assert message in refused(words, capsys, "digital")
    assert not Path("new").exists()


def test_a_few_images_are_all_for_training():
    images = np.random.default_rng(0).integers(0, 255, (12, 4, 4), np.uint8)
    labels = np.arange(12) % 3
    np.savez("few.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    words = ["--dataset", "few.npz", "--task", "regression", "--epochs", "1", "--quiet"]
    assert main([*words, "--depth", "1", "--output", "run"], "digital") == 0
    assert json.loads(Path("run/config.json").read_text())["validation"] == 0


def test_every_seed_is_checked_before_the_first_is_trained(capsys):
    assert main([*QUICK, "--epochs", "0", "--seeds", "2", "--output", "source"]) == 0
    words = [*QUICK, "--start-from", "source", "--output", "new"]
    error = refused([*words, "--seeds", "3"], capsys)
    assert "source: must hold a model.npz, found seed-0, seed-1" in error
    alone = [*QUICK, "--seeds", "2", "--seed", str(2**128 - 1), "--output", "new"]
    error = refused(alone, capsys)
    assert "argument --seed must be at most" in error
    assert not Path("new").exists()


def test_a_run_starts_from_one_with_a_function_between_its_meshes(monkeypatch):
    Path("lab_optics.py").write_text("def soft(fields):\n    return 0.9 * fields\n")
    monkeypatch.syspath_prepend(".")
    words = [*QUICK, "--epochs", "0", "--meshes", "2", "--nonlinearity", "lab_optics:soft"]
    assert main([*words, "--output", "source"]) == 0
    assert main([*words, "--start-from", "source", "--output", "new"]) == 0
    assert main([*words[:-2], "--start-from", "source", "--output", "other"]) == 0
    with np.load("source/model.npz") as first, np.load("new/model.npz") as second:
        same = [np.array_equal(first[name], second[name]) for name in first if "theta" in name]
    assert same == [True, True]


@pytest.mark.pictures
def test_a_name_with_the_signs_of_a_formula_is_a_name():
    images = np.random.default_rng(0).integers(0, 255, (20, 4, 4), np.uint8)
    labels = np.arange(20) % 2
    np.savez("price_$5_to_$10.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    words = ["--dataset", "price_$5_to_$10.npz", "--epochs", "1", "--batch-size", "10", "--quiet"]
    assert main([*words, "--size", "4", "--output", "run"]) == 0
    assert Path("run/results.json").exists()


@pytest.mark.parametrize("name", ["数字.npz", "---.npz"])
def test_a_run_on_data_of_any_name_can_be_named(name):
    images = np.random.default_rng(0).integers(0, 255, (20, 4, 4), np.uint8)
    labels = np.arange(20) % 2
    np.savez(name, x_train=images, y_train=labels, x_test=images, y_test=labels)
    words = ["--dataset", f"./{name}", "--epochs", "0", "--quiet", "--size", "4"]
    assert main(words) == 0
    (run,) = Path("results").iterdir()
    assert run.name.removeprefix("数字-").startswith("photonic-ff-dd-epochs-0-size-4-2")
    assert main(["--resume", run.name, "--quiet"]) == 0
