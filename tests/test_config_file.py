"""``--config FILE``: a run's settings, or a few of them, from a file; flags beat it."""

import json
import os
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from photonic_ffzero import configure
from photonic_ffzero.cli.train import build_parser, main, prepare
from photonic_ffzero.config import METHODS, changes
from photonic_ffzero.runs.plan import changes_of, plan_for, read_settings

QUICK = {"dataset": "digits", "size": 4, "limit": 120, "epochs": 1, "batch_size": 60}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(content, name="c.json"):
    Path(name).write_text(content if isinstance(content, str) else json.dumps(content))
    return name


def plan(*flags, recipe="balanced"):
    """What a command line trains."""
    arguments = build_parser(recipe).parse_args([*flags])
    with ExitStack() as claims:
        return prepare(arguments, recipe, claims)[0].plan


def refused(capsys, *flags):
    with pytest.raises(SystemExit) as stop:
        main([*flags])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert not Path("results").exists()
    return error


def test_flags_beat_the_file_which_beats_the_recipe():
    file = write(QUICK | {"directions": 8, "method": "bp-dd"})
    config = plan("--config", file, "--directions", "16").config
    assert (config.directions, config.method, config.epochs) == (16, "bp-dd", 1)
    assert config.recipe == "balanced"
    assert plan("--config", write(QUICK), recipe="digital").config.network == "mlp"


def test_the_file_of_a_run_gives_the_run_again():
    first = plan("--config", write(QUICK | {"directions": 8, "law": "layered"}), "--output", "a")
    written = first.as_json() | {"source": "scikit-learn", "training_data_crc32": 1}
    assert plan("--config", write(written), "--output", "b") == first
    Path("results/kerr1").mkdir(parents=True)
    write(written, "results/kerr1/config.json")
    assert plan("--config", "kerr1", "--output", "c") == first


def test_of_a_run_another_method_takes_its_own_optimizer():
    """What followed from the recipe follows from it again."""
    file = write(plan("--config", write(QUICK), "--output", "a").as_json() | {"source": "x"})
    config = plan("--config", file, "--method", "bp-ad", "--output", "b").config
    assert (config.estimator, config.optimizer, config.epochs) == ("autodiff", "adam", 1)


WRONG = [
    ({"lerning_rate": 1}, ["c.json", "'lerning_rate'", "learning_rate"]),
    ({"lr": 1}, ["c.json", "'lr'", "did you mean learning_rate"]),
    ({"directions": "8"}, ["c.json", "directions", "'8'"]),
    ({"directions": 1.5}, ["c.json", "directions", "1.5"]),
    ({"learning_rate": -1}, ["c.json", "learning_rate", "-1"]),
    ('{"learning_rate": NaN}', ["c.json", "learning_rate", "nan"]),
    ({"method": "ff"}, ["c.json", "method", "'ff'", "ff-dd"]),
    ({"method": ["ff-dd"]}, ["c.json", "method", "['ff-dd']"]),
    ({"nonlinearity": "electro-optics"}, ["c.json", "nonlinearity", "electro-optic"]),
    ({"dataset": "mnits"}, ["c.json", "dataset", "'mnits'", "mnist"]),
    ({"depth": 3}, ["c.json", "depth does not apply"]),
    ({"dataset": "digits", "validation": 1297}, ["c.json", "validation", "1297"]),
    ({"dataset": "digits", "size": 9}, ["9"]),
    ("[1]", ["c.json", "JSON object", "list"]),
    ("{", ["c.json", "JSON"]),
    ({"source": "x"}, ["c.json", "must name"]),
    ({"source": "x", "recipe": "papr"}, ["c.json", "recipe", "'papr'", "paper"]),
]


@pytest.mark.parametrize(("content", "words"), WRONG, ids=str)
def test_a_wrong_setting_is_named_with_its_file(content, words, capsys):
    error = refused(capsys, "--config", write(content))
    for word in words:
        assert word in error


OPENED = {
    "dataset": "/etc",
    "device": "tcp://127.0.0.1:1",
    "start_from": "run",
    "frozen_phases": "a.npz",
    "chip_estimate": "a.npz",
    "nonlinearity": "os:getcwd",
}


@pytest.mark.parametrize("name", OPENED)
def test_nothing_is_opened_because_a_file_says_so(name, capsys):
    error = refused(capsys, "--config", write(QUICK | {name: OPENED[name]}))
    assert f"c.json: {name} must be named on the command line" in error
    assert repr(OPENED[name]) in error


def test_what_the_command_line_names_the_file_need_not():
    file = write(QUICK | {"dataset": "/nowhere", "device": "tcp://127.0.0.1:1"})
    flags = ["--config", file, "--dataset", "digits", "--device", "simulated"]
    assert plan(*flags).config.device == "simulated"


@pytest.mark.parametrize("kind", ["missing", "folder", "pipe", "huge"])
def test_only_a_regular_file_of_bounded_size_is_read(kind, capsys):
    if kind == "folder":
        Path("c.json").mkdir()
    elif kind == "pipe":
        os.mkfifo("c.json")
    elif kind == "huge":
        with open("c.json", "wb") as file:
            file.truncate(2**24 + 1)
    error = refused(capsys, "--config", "c.json")
    assert "c.json" in error


def test_a_resume_takes_no_file(capsys):
    Path("run").mkdir()
    write({}, "run/config.json")
    assert "leave out --config" in refused(capsys, "--resume", "run", "--config", write({}))


RUNS = st.fixed_dictionaries(
    {"recipe": st.sampled_from(["balanced", "wide", "paper", "published"])},
    optional={
        "method": st.sampled_from(METHODS),
        "estimator": st.sampled_from(["central", "twin", "cones"]),
        "law": st.sampled_from(["layered", "gaussian", "rademacher"]),
        "directions": st.integers(1, 3),
        "optimizer": st.sampled_from(["sgd", "adam"]),
        "readout": st.sampled_from(["goodness", "ports"]),
        "learning_rate": st.sampled_from([0.1, 0.01, 3.0]),
        "seed": st.integers(0, 2),
    },
)


@given(RUNS)
@settings(max_examples=60)
def test_what_differs_from_the_recipe_is_all_that_a_run_needs(chosen):
    try:
        config = configure(**chosen)
    except ValueError:
        return
    different = changes(asdict(config))
    assert configure(config.recipe, config.method, **different) == config
    assert different.keys() <= chosen.keys()
    again = plan_for("mnist", config, validation=5000)
    assert changes_of(again.as_json()).keys() <= different.keys()


def test_a_few_settings_count_as_they_are_written():
    """Those of a run that follow from its recipe do not, but these are no run's."""
    assert read_settings(Path(write({"optimizer": "sgd"}))) == {"optimizer": "sgd"}


def test_what_own_data_decide_is_no_setting():
    """Held-out images follow from the number of images."""
    images = np.zeros((40, 6, 4), np.uint8)
    images[:, 0, 0] = range(40)
    labels = np.arange(40) % 2
    np.savez("own.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    words = ["--dataset", "own.npz", "--epochs", "0", "--quiet", "--depth", "1", "--output", "run"]
    assert main(words, "digital") == 0
    content = json.loads(Path("run/config.json").read_text())
    assert content["validation"] == 4
    assert changes_of(content) == {"depth": 1, "epochs": 0}
    assert "validation" not in read_settings(Path("run/config.json"), ("dataset",))
