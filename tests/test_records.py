"""JSON files of wrong types: a DataError with file and field, never a traceback."""

import json
import os
import random
from functools import reduce
from pathlib import Path

import pytest

from photonic_ffzero import DataError
from photonic_ffzero.cli.report import main as write_report
from photonic_ffzero.config import configure
from photonic_ffzero.runs import Cell, Grid, GridDirectory, Plan, plan_for, read_history
from photonic_ffzero.runs import write_results as summarise
from photonic_ffzero.runs.job import _result_line
from photonic_ffzero.runs.progress import epochs_done
from photonic_ffzero.runs.records import RESULTS, read_record, read_results
from photonic_ffzero.storage import read_json, write_json

HERE = Path(__file__).parent
SEED, MUTATIONS = 16, 550
VALUES = [None, True, 7, -1, 0.5, 1e308, 10**400, "text", "\x1b[2J\n", "", [], [1], {}, {"a": 1}]
READ = "grid.json config.json results.json history.csv"
RESULT = {
    **{"dataset": "digits", "method": "ff-dd", "seed": 0, "task": "classification", "rule": "sum"},
    **{"test_accuracy": 0.5, "layer_test_accuracy": [0.4, 0.5], "train_seconds": 1.5},
    **{"chip_seconds": None, "chip_joules": None, "versions": {"numpy": "2"}, "power": None},
}


def grid():
    plan = plan_for("digits", configure(meshes=1))
    cells = (Cell({"a": 1, "b": "x"}, plan), Cell({"a": 2, "b": "x"}, plan))
    return Grid(cells=cells, x="a", curves=("b",), name="trial")


def places(content, path=()):
    """The path of every value in a JSON content."""
    if path:
        yield path
    pairs = content.items() if isinstance(content, dict) else enumerate(content)
    for key, value in pairs:
        if isinstance(value, dict | list):
            yield from places(value, (*path, key))
        else:
            yield (*path, key)


def refusal(read, *arguments):
    """Why a file was refused; it may also be read."""
    try:
        read(*arguments)
    except DataError as error:
        return str(error)
    return READ


def mutated(content, rng):
    """A copy with one value replaced or removed."""
    content = json.loads(json.dumps(content))
    *path, key = rng.choice(list(places(content)))
    parent = reduce(lambda inner, name: inner[name], path, content)
    if isinstance(parent, dict) and rng.random() < 0.2:
        del parent[key]
    else:
        parent[key] = rng.choice(VALUES)
    return content


def test_mutated_grids_and_plans_are_read_or_refused_by_name(tmp_path):
    rng, original = random.Random(SEED), grid().as_json()
    plan = original["cells"][0]["plan"]
    for number in range(MUTATIONS):
        write_json(tmp_path / "grid.json", mutated(original, rng))
        error = refusal(GridDirectory.open, tmp_path)
        assert "grid.json" in error, f"seed {SEED}, mutation {number}"
        assert error.isprintable()
        assert "config.json" in refusal(Plan.from_json, mutated(plan, rng))


def test_mutated_results_are_read_or_refused_by_file_and_field(tmp_path):
    rng, refused = random.Random(SEED), 0
    for number in range(MUTATIONS):
        write_json(tmp_path / "results.json", mutated(RESULT, rng))
        error = refusal(lambda path: _result_line(read_results(path)), tmp_path / "results.json")
        assert "results.json" in error, f"seed {SEED}, mutation {number}"
        refused += error != READ
    assert refused > 100


def test_a_grid_shows_what_it_can_whatever_its_results_hold(tmp_path):
    rng = random.Random(SEED)
    directory = GridDirectory.create(tmp_path, grid())
    folders = [directory.prepare(cell) for cell in directory.grid.cells]
    write_json(folders[1] / "results.json", RESULT)
    for _ in range(12):  # each draws a figure
        write_json(folders[0] / "results.json", mutated(RESULT, rng))
        assert "50.00" in summarise(directory)
        assert write_report([str(tmp_path), "--output", str(tmp_path / "report.html")]) == 0


@pytest.mark.parametrize(
    ("name", "value", "rule"),
    [
        ("train_seconds", "fast", "a finite number, found 'fast'"),
        ("train_seconds", True, "a finite number"),
        ("test_accuracy", "0.9", "a finite number or null"),
        ("versions", {"numpy": 2}, "an object of texts"),
        ("versions", [], "an object of texts"),
        ("seed", -1, "a whole number from 0"),
        ("task", "poetry", "classification or regression"),
    ],
)
def test_the_message_names_file_field_and_rule(tmp_path, name, value, rule):
    write_json(tmp_path / "results.json", RESULT | {name: value})
    with pytest.raises(DataError, match=rf"results\.json: {name} must be {rule}"):
        read_record(tmp_path / "results.json", RESULTS)


def test_results_of_former_runs_are_read(tmp_path):
    former = read_json(HERE / "former_results.json")
    assert former
    for name, content in former.items():
        if isinstance(content, dict) and "train_seconds" in content:
            write_json(tmp_path / f"{name}.json", content)
            assert read_record(tmp_path / f"{name}.json", RESULTS) == content


def test_only_regular_files_of_a_bounded_size_are_read(tmp_path):
    (tmp_path / "a.json").symlink_to("/dev/zero")
    (tmp_path / "b.json").mkdir()
    with open(tmp_path / "c.json", "wb") as file:
        file.truncate(2**30)
    for name in "abc":
        with pytest.raises(DataError, match=rf"{name}\.json: must be a regular file"):
            read_json(tmp_path / f"{name}.json")
    os.mkfifo(tmp_path / "history.csv")
    with pytest.raises(DataError, match=r"history\.csv: must be a regular file, found a pipe"):
        read_history(tmp_path)
    assert epochs_done(grid(), grid().cells[0], tmp_path) == (0.0, "")


def test_mutated_histories_are_read_or_refused(tmp_path):
    rng = random.Random(SEED)
    text = (HERE / "former_run" / "history.csv").read_bytes()
    for _ in range(MUTATIONS):
        damaged = bytearray(text)
        for _ in range(rng.randint(1, 5)):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        (tmp_path / "history.csv").write_bytes(damaged)
        assert "history.csv" in refusal(lambda: read_history(tmp_path))
