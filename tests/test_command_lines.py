"""Mutated command lines and settings: done, or refused in one line; never a traceback.

Nothing is trained: what a command line asks for is checked, and ends where the work would begin.
PHOTONIC_FFZERO_LINES and PHOTONIC_FFZERO_SEED set how many lines each command gets, and which.
"""

import os
import random
import re
import runpy
import shutil
import socket
import time
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from meshes.validation import quoted
from photonic_ffzero import Config, Model, configure, save_model
from photonic_ffzero.cli import experiment, export, predict, report, serve, train
from photonic_ffzero.data import published
from photonic_ffzero.data.encoding import Encoder
from photonic_ffzero.data.tasks import Classification
from photonic_ffzero.devices import DeviceServer
from photonic_ffzero.runs.job import Job

SEED = int(os.environ.get("PHOTONIC_FFZERO_SEED", "16"))
LINES = int(os.environ.get("PHOTONIC_FFZERO_LINES", "500"))
QUICK = 50
SECONDS = 10  # for one command line

WORDS = ["", "\n", "\udcff", "a\0b", "\x1b[31m", "9" * 30, "9" * 5000, "x" * 5000]
TEXT = """
0 1 2 3 -1 64 0.5 1e-3 -1e-3 nan inf -inf 1e400 1_0 ٣ 1000000000 99999999999999999999
x -- - a=b = : , :=, é %s / . no/such ~ ~nobody/x /dev/null --lr --metod --help=3 --help -x
digits f1 f2 auto mnist mnits ff-ad FF-DD bp-dd jvp regression ports rademacher paper digital
photonic mlp cnn kerr kerr: kerr:phi_nl=nan kerr:phi_nl electro-optic:alpha=2 electro-optic:g=pi
electro-optic:g=1,,g=2 electro-optic:tap=0.5,gain=1e400 electro-optic:v_pi=0 drive_bits=8
drive_bits=1e9 splitter_error=-1 splitter_error= splitter_eror=1 read_noise=0.1 write_noise=1e300
squared cross-entropy:scale=0 margin:margin=x gain=2 level=0 gain=1,level=1 level=1e400
simulated: simulated:x=1 tcp://[::1]:70000 tcp://:1 a:b localhost 127.0.0.1 model.npz run scan.png
"""
WORDS += TEXT.split()
SUITABLE = ["1", "2", "3", "4", "0.5"]


def training(recipe):
    """Train on the digits, unless the command line names other data or a run."""

    def command(words):
        named = {"--dataset", "--resume"} & {*words}
        return train.main(words if named else ["--dataset", "digits", *words], recipe)

    return command


def grid(name):
    """The command of an experiment's script."""

    def command(words):
        with pytest.MonkeyPatch.context() as patch:
            run = partial(experiment.run_experiment, argv=words)
            patch.setattr(experiment, "run_experiment", run)
            runpy.run_path(str(EXPERIMENTS / f"{name}.py"), run_name="__main__")

    return command


EXPERIMENTS = Path(__file__).parents[1] / "experiments"
GRIDS = [path.stem for path in EXPERIMENTS.glob("*.py") if "run_experiment" in path.read_text()]
COMMANDS = {
    "photonic": training("balanced"),
    "digital": training("digital"),
    **{command.__name__.split(".")[-1]: command.main for command in (predict, export)},
    **{command.__name__.split(".")[-1]: command.main for command in (serve, report)},
    **{name: grid(name) for name in sorted(GRIDS)},
}
GOOD = {  # words that a command needs, half of the time
    "predict": ["run", "scan.png"],
    "export": ["run", "--v-pi", "5", "--output", "phases"],
    "report": ["run"],
}


@pytest.fixture
def nothing_runs(tmp_path, monkeypatch):
    """A folder with a model and an image, in which no command does more than to check its line."""
    (tmp_path / "run").mkdir()
    encoder = Encoder("average", 3, (6, 6))
    save_model(Model(configure(), 9, Classification(3), encoder), tmp_path / "run" / "model.npz")
    Image.fromarray(np.eye(6, dtype=np.uint8)).save(tmp_path / "scan.png")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PHOTONIC_FFZERO_DATA", str(tmp_path))
    monkeypatch.setattr(Job, "run", lambda *arguments: [])
    monkeypatch.setattr(experiment, "_run", lambda *arguments: 0)
    monkeypatch.setattr(Model, "scores", lambda self, x: np.ones((2, len(x), 3)))
    monkeypatch.setattr(DeviceServer, "serve_forever", lambda self: None)

    def offline(*arguments, **options):
        raise OSError("no network in tests")

    monkeypatch.setattr(published, "open_url", offline)
    look_up = socket.getaddrinfo

    def look_up_here(host, *arguments, **options):
        local = host in (None, "", "localhost", "127.0.0.1", "::1")
        return (look_up if local else offline)(host, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", look_up_here)
    return tmp_path


def attempt(name, words):
    """The exit code of a command."""
    try:
        return COMMANDS[name](words)
    except SystemExit as end:
        return end.code or 0


def flags_of(text):
    """From each flag in a help to values that it takes, or to numbers."""
    found = re.findall(r"(?<!\S)(--[a-z][\w-]*)(?: \{(\S+)\})?", text)
    return {flag: [*options.split(",")] if options else SUITABLE for flag, options in found}


def mutated(rng, name, flags):
    """A command line of one to four flags, some misspelt, whose values may suit them."""
    words = list(GOOD.get(name, ())) if rng.random() < 0.7 else []
    for _ in range(rng.randint(1, 4)):
        flag = rng.choice([*flags])
        value = rng.choice(flags[flag] if rng.random() < 0.6 else WORDS)
        if rng.random() < 0.1:
            place = rng.randrange(len(flag))
            flag = flag[:place] + rng.choice("axé-_\n\udcff") + flag[place + 1 :]
        added = rng.choice([[flag, value]] * 12 + [[f"{flag}={value}"], [flag], [value]])
        place = rng.randint(0, len(words))
        words[place:place] = added
    return words


def content(folder):
    return sorted(path.relative_to(folder) for path in folder.rglob("*"))


def check(name, words, folder, capsys, before):
    """Run a command line; remove what it wrote if it was accepted."""
    start = time.perf_counter()
    code = attempt(name, list(words))
    error = capsys.readouterr().err
    case = f"seed {SEED}: {name} {words!r} -> {code}: {error!r}"
    assert time.perf_counter() - start < SECONDS, case
    # predict.py classifies the images that it can read beside others.
    assert code in (0, 2) or (code, name) == (1, "predict"), case
    assert "Traceback" not in error, case
    if code == 2:
        assert re.match(r"[\w. -]+: error: .{10}", error), case
        assert error.count("\n") == 1, case
        assert error[:-1].isprintable(), case
        assert len(error) < 1300, case
        assert content(folder) == before, case
    for path in set(content(folder)) - set(before):
        target = folder / path
        shutil.rmtree(target) if target.is_dir() else target.unlink(missing_ok=True)
    return code


def check_many(name, count, folder, capsys):
    rng, before = random.Random(f"{SEED} {name}"), content(folder)
    attempt(name, ["--help"])
    flags = flags_of(capsys.readouterr().out)
    codes = [check(name, mutated(rng, name, flags), folder, capsys, before) for _ in range(count)]
    with capsys.disabled():
        refused = sum(code == 2 for code in codes)
        print(f"\n{name}: {count} command lines, seed {SEED}: {refused} refused", end="")
    return codes


@pytest.mark.parametrize("name", [name for name in COMMANDS if name not in GRIDS[1:]])
def test_a_few_mutated_command_lines(name, nothing_runs, capsys):
    check_many(name, QUICK, nothing_runs, capsys)


@pytest.mark.long
@pytest.mark.parametrize("name", COMMANDS)
def test_mutated_command_lines(name, nothing_runs, capsys):
    assert set(check_many(name, LINES, nothing_runs, capsys)) >= {0, 2}


@pytest.mark.parametrize(
    ("name", "flags"),
    [
        *(("photonic", [flag]) for flag in ("--meshes", "--columns", "--directions", "--seeds")),
        *(("digital", [flag]) for flag in ("--width", "--depth", "--directions", "--seeds")),
        ("digital", ["--network", "cnn", "--channels"]),
        ("ablation", ["--seeds"]),
    ],
)
def test_a_slip_of_the_keyboard_takes_no_memory(name, flags, nothing_runs, capsys):
    words = [*flags, "1000000000"]
    assert check(name, words, nothing_runs, capsys, content(nothing_runs)) == 2


VALUES = [None, 0, -1, 1, 2.0, 10**30, 10**5000, 1.5, float("nan"), float("inf"), True, b"x", 1j]
VALUES += ["auto", [], {}, (1,), ["kerr"], np.int64(3), np.float32("nan"), np.zeros(3), object()]
VALUES += WORDS


def error_of(build):
    """The error of a call for what it was called with; None without one."""
    try:
        build()
    except (TypeError, ValueError) as error:
        return error
    return None


def check_settings(count, capsys):
    """Settings as a file or a program may hand them over: accepted, or refused by their name."""
    rng = random.Random(f"{SEED} settings")
    originals = [asdict(configure(recipe)) for recipe in ("balanced", "paper", "digital")]
    refused = 0
    for _ in range(count):
        names = rng.sample([*originals[0]], rng.randint(1, 3))
        known = rng.choice(originals)
        changed = {n: known[n] if rng.random() < 0.5 else rng.choice(VALUES) for n in names}
        whole = rng.choice(originals) | changed
        for build in (partial(Config, **whole), partial(configure, **changed)):
            case = f"seed {SEED}: { {name: quoted(value) for name, value in changed.items()} }"
            error = error_of(build)
            refused += error is not None
            assert "\n" not in str(error), case
    with capsys.disabled():
        print(f"\nsettings: {count}, seed {SEED}: {refused} of {2 * count} refused", end="")
    assert 0 < refused < 2 * count


def test_a_few_mutated_settings(capsys):
    check_settings(200, capsys)


@pytest.mark.long
def test_mutated_settings(capsys):
    check_settings(6 * LINES, capsys)
