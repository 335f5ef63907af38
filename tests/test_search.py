"""Searches: specs, trials that follow from the seed, pruning, stops, and held-out images alone."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from photonic_ffzero import Model
from photonic_ffzero.cli import search as command
from photonic_ffzero.cli.train import main as train
from photonic_ffzero.runs import search as searches
from photonic_ffzero.runs.catalog import read_catalog
from photonic_ffzero.runs.plan import HELD_OUT, plan_of, read_settings
from photonic_ffzero.runs.search import Choice, Range, Search, Study, read_space
from photonic_ffzero.storage import write_csv, write_json

SPACE = ("learning_rate=log:1e-3..1", "directions=8|16|32")
SETTINGS = {"recipe": "balanced", "dataset": "digits", "epochs": 2, "meshes": 2}
EPOCHS = 4


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


# --- specs ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("learning_rate=log:1e-3..1", Range(1e-3, 1.0, True)),
        ("--learning-rate=0.1..0.5", Range(0.1, 0.5, False)),
        ("directions=8|16|32", Choice((8, 16, 32))),
        ("directions=log:1..64", Range(1, 64, True)),
        ("epochs = 2..5", Range(2, 5, False)),
        ("nonlinearity=kerr:phi_nl=2|electro-optic:g=pi,phi_b=1", None),
        ("law=rademacher|gaussian", Choice(("rademacher", "gaussian"))),
        ("train_nonlinearity=True|False", Choice((True, False))),
        ("epsilon=auto|0.1", Choice(("auto", 0.1))),
        ("size=4|8", Choice((4, 8))),
    ],
)
def test_a_spec_says_which_values_a_setting_may_have(text, expected):
    [(name, values)] = read_space([text]).items()
    assert name == text.partition("=")[0].strip().lstrip("-").replace("-", "_")
    assert expected is None or values == expected
    assert len(values.values) >= 2
    for value in values.values:
        assert isinstance(value, str | bool | int | float)


WRONG = [
    ("learning_rate", ["'learning_rate'", "NAME=log:LOW..HIGH"]),
    ("learning_rate=", ["'learning_rate='"]),
    ("lerning_rate=1|2", ["'lerning_rate'", "did you mean learning_rate"]),
    ("lr=log:1e-3..1", ["'lr'", "did you mean learning_rate"]),
    ("learning_rate=log:0..1", ["learning_rate", "got 0.0"]),
    ("learning_rate=1..0.1", ["learning_rate", "'1..0.1'"]),
    ("learning_rate=log:1", ["learning_rate", "'log:1'"]),
    ("learning_rate=-1|1", ["learning_rate", "-1"]),
    ("learning_rate=nan..1", ["learning_rate", "nan"]),
    ("directions=8", ["directions", "two values", "'8'"]),
    ("directions=8|8", ["directions", "two values"]),
    ("directions=8|x", ["directions", "whole number", "'x'"]),
    ("directions=1.5..3", ["directions", "whole number", "'1.5'"]),
    ("law=rademacher..gaussian", ["law", "number"]),
    ("law=rademacher|gausian", ["law", "'gausian'", "did you mean gaussian"]),
    ("nonlinearity=os:getcwd|kerr", ["nonlinearity", "'os:getcwd'"]),
    ("nonlinearity=kerr|table:x.csv", ["nonlinearity", "'table:x.csv'"]),
    ("seed=1|2", ["seed", "same in all trials"]),
    ("dataset=digits|mnist", ["dataset", "same in all trials"]),
]


@pytest.mark.parametrize(("text", "words"), WRONG)
def test_a_wrong_spec_is_one_line_with_the_flag_and_the_value(text, words, capsys, elsewhere):
    with pytest.raises(SystemExit) as stop:
        command.main([text, "--dataset", "digits"])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    for word in ("argument NAME=VALUES", *words):
        assert word in error
    assert error.count("\n") == 1
    assert not [*elsewhere.iterdir()]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "NAME=VALUES must say what to search"),
        ([SPACE[1], SPACE[1]], "directions must be named once"),
        ([SPACE[1], "--directions", "3"], "--directions is searched"),
        ([SPACE[1], "--seeds", "2"], "--seeds does not apply"),
        ([SPACE[1], "--trials", "0"], "--trials"),
        ([SPACE[1], "--device", "simulated"], "--device does not apply"),
        ([SPACE[1], "--validation", "0"], "--test-on must be test where no images are held out"),
        ([SPACE[1], "--method", "bp-ad"], "directions does not apply"),
        (["nonlinearity=kerr|kerrr"], "'kerrr', did you mean kerr"),
        ([SPACE[1], "--wokers", "3"], "did you mean --"),
        (["--resume", "nowhere"], "nowhere"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(words, told, capsys, elsewhere):
    with pytest.raises(SystemExit) as stop:
        command.main([*words] if "--resume" in words else [*words, "--dataset", "digits"])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1
    assert not [*elsewhere.iterdir()]


# --- trials, without training ---------------------------------------------------------------------


def curve(params):
    """What a trial reaches after each epoch: best near a rate of 0.1 and 32 directions."""
    best = 0.9 - 0.1 * abs(np.log10(params["learning_rate"]) + 1) - 0.5 / params["directions"]
    return [best - 0.2 / (epoch + 1) for epoch in range(EPOCHS)]


def run(study, batch, stop_at=EPOCHS):
    """Leave the files of trials that were trained."""
    for cell in batch.grid.cells:
        folder = batch.prepare(cell)
        config = cell.plan.config
        params = {"learning_rate": config.learning_rate, "directions": config.directions}
        rows = [
            dict(zip(HISTORY, ("1", e + 1, 1.0, 0.5, q, 10 * e, e, "", 1.0), strict=True))
            for e, q in enumerate(curve(params)[:stop_at])
        ]
        write_csv(folder / "history.csv", rows)
        if stop_at == EPOCHS:
            write_json(folder / "results.json", {"last_validation_accuracy": rows[-1][QUALITY]})


HISTORY = ["mesh", "epoch", "loss", "train_accuracy", "validation_accuracy", "forward_passes"]
HISTORY += ["phase_writes", "epsilon", "seconds"]
QUALITY = "validation_accuracy"


def finished(folder, search):
    """The rows of a search that goes on to its end."""
    study = Study(folder, search)
    while (batch := study.ask()) is not None:
        run(study, batch)
        study.tell(batch, stopped=False)
    return [*study.rows()]


def searched(name, **changes):
    folder = Path(name)
    folder.mkdir()
    search = Search(SPACE, SETTINGS, **{"trials": 14, "batch": 4, "seed": 3, **changes})
    search.write(folder)
    assert Search.read(folder) == search
    return folder, search


def test_the_same_seed_gives_the_same_trials():
    rows = finished(*searched("a"))
    assert finished(*searched("b")) == rows
    assert [row["learning_rate"] for row in finished(*searched("c", seed=4))] != [
        row["learning_rate"] for row in rows
    ]
    assert len(rows) == 14
    assert {row["directions"] for row in rows} <= {8, 16, 32}
    assert all(1e-3 <= row["learning_rate"] <= 1 for row in rows)


def test_trials_are_the_same_at_once_and_in_two_parts():
    whole = finished(*searched("whole", trials=18, seed=3))
    folder, search = searched("parts", trials=14)  # its last batch is not full
    assert finished(folder, search) == whole[:14]
    assert Study(folder, search).begun == 14
    assert finished(folder, replace(search, trials=18)) == whole


@pytest.mark.parametrize("flags", [["--batch", "4"], ["--search-seed=0"], ["epochs=1|2"]])
def test_a_search_that_goes_on_takes_no_setting_not_even_the_usual_one(flags, capsys):
    searched("a")
    with pytest.raises(SystemExit):
        command.main(["--resume", "a", *flags])
    error = capsys.readouterr().err
    assert "leave out" in error
    assert flags[0].partition("=")[0] in error or "space" in error


def test_fewer_trials_than_are_begun_are_refused(capsys):
    folder, search = searched("a", trials=6)
    study = Study(folder, search)
    run(study, batch := study.ask())
    study.tell(batch, stopped=False)
    command.write_trials(study)
    [entry] = read_catalog(Path()).entries
    assert entry.state == "4 of 6 trials"
    before = (folder / "search.json").read_bytes()
    with pytest.raises(SystemExit) as stop:
        command.main(["--resume", "a", "--trials", "3"])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert "--trials" in error
    assert re.search(r"\b4\b.*\b3\b", error)
    assert (folder / "search.json").read_bytes() == before


class KilledError(Exception):
    pass


@pytest.mark.parametrize("where", ["suggest", "tell", "report", "training"])
@pytest.mark.parametrize("count", [3, *(pytest.param(n, marks=pytest.mark.long) for n in (1, 6))])
def test_a_search_that_was_killed_goes_on_as_if_it_was_not(where, count, monkeypatch):
    import optuna

    expected = finished(*searched("whole", trials=8))
    owner, name = {
        "suggest": (optuna.trial.Trial, "suggest_float"),
        "tell": (optuna.study.Study, "tell"),
        "report": (optuna.trial.Trial, "report"),
        "training": (Study, "tell"),
    }[where]
    original, calls = getattr(owner, name), []

    def killed(*arguments, **named):
        calls.append(1)
        if len(calls) == min(count, 2 if where == "training" else count):
            raise KilledError
        return original(*arguments, **named)

    folder, search = searched("killed", trials=8)
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, killed)
        with pytest.raises(KilledError):
            finished(folder, search)
    assert finished(folder, search) == expected


def test_trials_that_fall_behind_are_given_up_and_no_others():
    folder, search = searched("a", trials=24)
    rows = finished(folder, search)
    states = [row["state"] for row in rows]
    assert set(states[:4]) == {"done"}  # nothing to compare with
    assert states.count("given up") > 3
    everything = finished(*searched("b", trials=24, prune=False))
    assert {row["state"] for row in everything} == {"done"}
    study = Study(folder, search)
    for row in rows:
        complete = [r for r in rows[: row["trial"] - row["trial"] % 4] if r["state"] == "done"]
        qualities = curve(row)
        behind = [
            epoch
            for epoch in range(1, EPOCHS)
            if qualities[epoch] < np.median([curve(r)[epoch] for r in complete] or [0])
        ]
        assert (row["state"] == "given up") == bool(behind)
        if behind:
            assert row["epochs"] == behind[0] + 1
    assert study.done()[0].value == max(row["held_out"] for row in rows if row["state"] == "done")


def test_a_trial_is_told_to_stop_while_it_runs():
    study = Study(*searched("a", trials=24))
    worthless = 0
    while (batch := study.ask()) is not None:
        run(study, batch, stop_at=2)
        for cell in batch.grid.cells:
            worthless += not study.worth(cell)
        run(study, batch)
        study.tell(batch, stopped=False)
    given_up = [row for row in study.rows() if row["state"] == "given up"]
    assert worthless == sum(row["epochs"] == 2 for row in given_up) > 0


def test_what_is_stopped_goes_on_and_what_fails_is_counted():
    folder, search = searched("a", trials=4)
    study = Study(folder, search)
    batch = study.ask()
    run(study, batch, stop_at=2)
    batch.fail(batch.grid.cells[0], "no light")
    study.tell(batch, stopped=True)
    assert [row["state"] for row in study.rows()] == ["failed", "begun", "begun", "begun"]
    rows = finished(folder, search)
    assert [row["state"] for row in rows] == ["failed", "done", "done", "done"]
    assert rows[0]["error"] == "no light"


def test_settings_that_do_not_go_together_fail_alone():
    space = ("estimator=central|twin", "directions=0|8")
    search = Search(space, SETTINGS, trials=12, batch=4, seed=0)
    assert "estimator" in str(searches.read_space(space))
    Path("a").mkdir()
    study = Study(Path("a"), search)
    while (batch := study.ask()) is not None:
        for cell in batch.grid.cells:
            batch.fail(cell, "not trained")
        study.tell(batch, stopped=False)
    errors = {row["error"] for row in study.rows() if row["directions"] == 0}
    assert any("directions must be at least 1" in error for error in errors)


def test_the_end_is_a_table_pictures_and_settings_for_training(capsys):
    folder, search = searched("a")
    finished(folder, search)
    study = Study(folder, search)
    text = command.write_results(study)
    assert max(map(len, text.splitlines())) <= 80
    assert "14 trials: " in text
    for name in ("history.png", "importance.png"):
        with Image.open(folder / name) as picture:
            assert picture.size[0] > 500
    with open(folder / "trials.csv", newline="") as file:
        assert len([*csv.DictReader(file)]) == 14
    best = study.done()[0]
    chosen = read_settings(folder / "config.json")
    assert chosen == {**SETTINGS, **best.params}
    assert plan_of(chosen).config.learning_rate == best.params["learning_rate"]
    shares = study.importances()
    assert sum(shares.values()) == pytest.approx(1)
    assert shares["learning_rate"] > shares["directions"]
    Path("results").mkdir()
    folder.rename("results/a")
    [entry] = read_catalog().entries
    assert "learning_rate" in entry.about


@pytest.mark.parametrize(
    "content",
    ["{", "{}", "[]", '{"space": ["lr=1|2"]}', '{"space": 3, "settings": {}, "trials": 1}'],
)
def test_a_damaged_search_is_one_line(content, capsys):
    Path("s").mkdir()
    Path("s/search.json").write_text(content)
    with pytest.raises(SystemExit) as stop:
        command.main(["--resume", "s"])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert "s/search.json" in error
    assert error.count("\n") == 1


def test_a_damaged_journal_is_named(capsys):
    folder, _ = searched("s")
    (folder / "journal.log").write_text('{"op_code": 99}\n{"x"\n')
    with pytest.raises(SystemExit):
        command.main(["--resume", "s"])
    assert "s/journal.log" in capsys.readouterr().err


# --- with training --------------------------------------------------------------------------------

QUICK = ["--dataset", "digits", "--size", "4", "--limit", "120", "--batch-size", "60"]


def test_a_run_on_held_out_images_leaves_the_test_images_alone(monkeypatch, capsys):
    seen, scores = [], Model.scores

    def counted(self, x):
        seen.append(len(x))
        return scores(self, x)

    monkeypatch.setattr(Model, "scores", counted)
    words = [*QUICK, "--epochs", "1", "--quiet", "--test-on", "held-out", "--output", "run"]
    assert train(words) == 0
    assert set(seen) == {129}  # not the 500 of the test set
    outcome = json.loads(Path("run/results.json").read_text())
    assert outcome["tested_on"] == HELD_OUT
    assert outcome["layer_test_accuracy"][-1] == outcome["last_validation_accuracy"]
    assert "held-out accuracy" in capsys.readouterr().out


SCRIPT = Path(__file__).parents[1] / "experiments" / "search.py"
WORDS = [*SPACE, *QUICK, "--epochs", "2", "--meshes", "1", "--trials", "6", "--batch", "3"]


def started(*words):
    """A search in a process of its own."""
    line = [sys.executable, str(SCRIPT), *words]
    return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def trials(folder):
    return (Path(folder) / "trials.csv").read_text()


@pytest.mark.long
def test_a_search_that_is_killed_or_stopped_ends_in_the_same_trials():
    whole = started(*WORDS, "--output", "whole", "--jobs", "3")
    output, error = whole.communicate(timeout=900)  # it closes the pipes
    assert whole.returncode == 0, error
    assert output.startswith("| trial | held out |")
    for number, name in ((signal.SIGKILL, "killed"), (signal.SIGINT, "stopped")):
        process = started(*WORDS, "--output", name, "--jobs", "1")
        while not list(Path(name).glob("cells/trial-1*/model.npz")):
            time.sleep(0.05)
            assert process.poll() is None
        process.send_signal(number)
        _, error = process.communicate(timeout=300)
        if number == signal.SIGINT:
            assert process.returncode == 130
            assert re.search(rf"go on with: \S+ {SCRIPT} --resume {name} --jobs 1\n", error)
        again = started("--resume", name, "--jobs", "2")
        _, error = again.communicate(timeout=900)
        assert again.returncode == 0, error
        assert trials(name) == trials("whole")
    assert os.path.exists("whole/importance.png")
    assert train(["--config", "whole", "--output", "best", "--quiet"]) == 0


def test_a_search_may_start_from_runs_of_several_seeds(capsys):
    run = [*QUICK, "--epochs", "0", "--seeds", "2", "--test-on", "held-out", "--quiet"]
    assert train([*run, "--output", "a"]) == 0
    words = ["directions=2|4", "--config", "a", "--trials", "2", "--quiet", "--epochs", "1"]
    assert command.main([*words, "--output", "new"]) == 0
    with pytest.raises(SystemExit):
        command.main([*words, "--seeds", "2", "--output", "other"])
    assert "argument --seeds does not apply to a search" in capsys.readouterr().err
