"""``runs`` and ``compare``, names that say what differs, and models with their history."""

import csv
import io
import json
import os
import shutil
import sys
from pathlib import Path

import pytest
from PIL import Image

from meshes import Table
from photonic_ffzero import DataError, configure, load_model
from photonic_ffzero.__main__ import main
from photonic_ffzero.cli import compare, runs
from photonic_ffzero.elements import Named
from photonic_ffzero.runs import Cell, Grid, GridDirectory, read_history
from photonic_ffzero.runs.claim import Claim
from photonic_ffzero.runs.names import newest_first
from photonic_ffzero.runs.plan import dated_name, plan_for

HERE = Path(__file__).parent
TABLE = Table("curve.csv", (0.1, 1.0), (0.1, 0.5), (0.0, 0.1))


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def results_of(plan, seed, accuracy):
    regression = plan.config.task == "regression"
    figure = "test_r2" if regression else "test_accuracy"
    return {
        **{name: plan.as_json()[name] for name in ("dataset", "method", "task", "rule")},
        "seed": seed,
        **{figure: accuracy, f"layer_{figure}": [accuracy]},
        **{"last_validation_accuracy": accuracy - 0.01, "chip_seconds": None},
        **{"forward_passes": 12_345_678, "phase_writes": 4321, "train_seconds": 2.5},
    }


def make(name, *accuracies, dataset="mnist", seconds=10**9, extra=None, **settings):
    """A run directory as a run writes it, of as many seeds as there are accuracies."""
    plan = plan_for(dataset, configure(**settings), validation=5000, seeds=max(len(accuracies), 1))
    folder = Path("results", name)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(
        json.dumps(plan.as_json() | {"source": "x"} | (extra or {}))
    )
    os.utime(folder / "config.json", (seconds, seconds))
    for seed, accuracy in enumerate(accuracies):
        home = folder / f"seed-{seed}" if len(accuracies) > 1 else folder
        home.mkdir(exist_ok=True)
        (home / "results.json").write_text(json.dumps(results_of(plan, seed, accuracy)))
        rows = [("1", e, 1.0, 0.5, accuracy - 0.1 / e, 1000 * e, 10, "", 1.0) for e in (1, 2, 3)]
        write_history(home, rows)
        os.utime(home / "results.json", (seconds, seconds))
    os.utime(folder, (seconds, seconds))
    return folder


def write_history(folder, rows):
    names = ["mesh", "epoch", "loss", "train_accuracy", "validation_accuracy", "forward_passes"]
    names += ["phase_writes", "epsilon", "seconds"]
    with open(folder / "history.csv", "w", newline="") as file:
        csv.writer(file).writerows([names, *rows])


def printed(capsys, *words, code=0):
    assert main([*words]) == code
    return capsys.readouterr()


def as_table(text):
    return list(csv.DictReader(io.StringIO(text), delimiter="\t"))


def test_runs_are_listed_with_what_differs_and_how_they_ended(capsys):
    make("later", 0.9, seconds=10**9, directions=8, learning_rate=0.05)
    make("seeds", 0.8, 0.9, seconds=10**9 - 5, nonlinearity="kerr")
    make("half", seconds=10**9 - 9, recipe="digital", network="cnn")
    rows = as_table(printed(capsys, "runs").out)
    assert [row["name"] for row in rows] == ["half", "seeds", "later"]
    assert [row["state"] for row in rows] == ["stopped", "done", "done"]
    assert [row["result"] for row in rows] == ["", "85.00 ± 7.07 %", "90.00 %"]
    assert [row["passes"] for row in rows] == ["", "12345678", "12345678"]
    assert rows[2]["about"] == "mnist, photonic, ff-dd, directions 8, learning_rate 0.05"
    assert rows[1]["about"] == "mnist, photonic, ff-dd, nonlinearity kerr, seeds 2"
    assert rows[0]["about"] == "mnist, cnn, ff-dd"
    assert [row["name"] for row in as_table(printed(capsys, "runs", "--limit", "1").out)] == [
        "later"
    ]


@pytest.fixture
def terminal(monkeypatch):
    def of(columns):
        monkeypatch.setattr(type(sys.stdout), "isatty", lambda self: True, raising=False)
        monkeypatch.setenv("COLUMNS", str(columns))

    return of


def test_what_is_not_done_says_so(capsys, terminal):
    """One of two seeds has a figure, which is not that of the run."""
    (make("half", 0.812, 0.9) / "seed-1" / "results.json").unlink()
    make("one", 0.8)
    begun = make("begun")
    with Claim(begun), Claim(Path("results/half")):
        rows = {row["name"]: row["state"] for row in as_table(printed(capsys, "runs").out)}
    assert rows == {"half": "running, 1 of 2 seeds", "one": "done", "begun": "running"}
    out = printed(capsys, "compare", "half", "one", "--output", "c.png").out
    assert "81.20 %, 1 of 2 seeds" in out
    terminal(80)
    lines = printed(capsys, "runs").out
    assert "81.20 %" in lines
    assert "1 of 2 seeds: mnist" in lines
    assert "stopped" in lines


@pytest.mark.parametrize("columns", [60, 80])
def test_wide_figures_fit_the_terminal(columns, capsys, terminal):
    folder = make("kerr1", 0.5, 0.6)
    for file in folder.glob("seed-*/results.json"):
        file.write_text(json.dumps(json.loads(file.read_text()) | {"tested_on": "held-out"}))
    plan = plan_for("digits", configure(), validation=129)
    cells = tuple(Cell({"variant": str(number)}, plan) for number in range(480))
    GridDirectory.create(Path("results/ablation"), Grid(cells=cells, x="variant", name="ablation"))
    terminal(columns)
    lines = printed(capsys, "runs").out.splitlines()
    assert max(map(len, lines)) <= columns
    for word in ("55.00 ± 7.07 % held out", "0 of 480 runs done"):
        assert word in "\n".join(lines)


def test_many_runs_are_compared_in_blocks_that_fit_the_terminal(capsys, terminal):
    names = [f"run{number}" for number in range(16)]
    for number, name in enumerate(names):
        make(name, 0.8123, directions=8 + number, learning_rate=0.05)
    terminal(80)
    lines = printed(capsys, "compare", *names, "--output", "c.png").out.splitlines()
    rows = [line for line in lines if line.startswith("|")]
    assert max(map(len, rows)) <= 80
    assert sum(row.startswith("| directions") for row in rows) > 1
    assert sum(row.count("81.23 %") for row in rows) == 16
    heads = [row for row in rows if row.startswith("|  ")]
    assert "".join(heads).replace("|", "").split() == list("ABCDEFGHIJKLMNOP")


def test_the_figure_says_what_the_runs_were_tested_on():
    read = [compare.read_run(make(name, 0.9)) for name in ("one", "two", "three")]
    assert compare._tested_on(read) == "test images"
    file = Path("results/two/results.json")
    file.write_text(json.dumps(json.loads(file.read_text()) | {"tested_on": "held-out"}))
    read[1] = compare.read_run(Path("results/two"))
    assert compare._tested_on(read) == "test images (A, C), held-out images (B)"
    assert compare._tested_on(read[1:2]) == "held-out images"


def test_the_order_of_the_list_is_not_changed_by_who_looks(capsys):
    make("newer", 0.9, seconds=10**9)
    with Claim(make("older", seconds=10**9 - 5)):
        pass
    assert [row["name"] for row in as_table(printed(capsys, "runs").out)] == ["older", "newer"]
    assert newest_first()[0].name == "newer"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
@pytest.mark.parametrize("words", [["runs"], ["completion", "bash"], ["--help"], ["--version"]])
def test_output_that_is_lost_is_a_failure(words, monkeypatch, capsys):
    make("one", 0.9)
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert main(words) == 1
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("columns", [60, 80])
def test_the_list_fits_the_terminal(columns, capsys, terminal):
    make("a-name-" + "x" * 38, 0.9, 0.8, directions=8, learning_rate=0.05, epochs=3, meshes=4)
    make("kerr1", 0.123)
    terminal(columns)
    lines = printed(capsys, "runs").out.splitlines()
    assert max(map(len, lines)) <= columns
    text = " ".join(" ".join(lines).split())
    for word in ("85.00 ± 7.07 %", "12.3 M", "kerr1", "12.30 %", "directions 8", "2001-09-"):
        assert word in text


DAMAGE = {
    "config.json": ["", "{", "[]", "{}", '{"dataset": 1}', '{"dataset": "mnist"}', '{"seeds": -1}'],
    "results.json": ["", "{", "[]", "{}", '{"test_accuracy": "x"}'],
}


@pytest.mark.parametrize(
    ("file", "content"), [(file, text) for file, texts in DAMAGE.items() for text in texts]
)
def test_a_damaged_run_is_one_line(file, content, capsys):
    make("good", 0.9)
    (make("bad", 0.8) / file).write_text(content)
    for folder in ("foreign", "chip-7"):
        Path("results", folder).mkdir()
    Path("results/chip-7/chip_estimate.npz").touch()
    Path("results/picture.png").touch()
    out, err = printed(capsys, "runs")
    assert [row["name"] for row in as_table(out)] == ["good"]
    lines = err.splitlines()
    assert f"results/bad/{file}" in lines[0]
    assert lines[1:] == ["calibrations: chip-7", "no runs or grids: foreign"]


@pytest.mark.parametrize(
    "change",
    [
        *({"seeds": value} for value in (10**9, "x", [1], 1.5)),
        *({name: value} for name in ("recipe", "estimator") for value in ("x", [], None)),
        *({"seed": value} for value in (-1, {}, 10**50)),
        *({"device": value} for value in ([], "tcp://x", 3)),
    ],
    ids=str,
)
def test_any_value_in_a_file_is_answered(change, capsys):
    make("odd", 0.8, extra=change)
    out, err = printed(capsys, "runs")
    assert len(as_table(out)) + err.count("cannot be read: results/odd/config.json") == 1


def test_grids_and_runs_in_folders_are_listed(capsys):
    plan = plan_for("digits", configure(), validation=129)
    cells = tuple(Cell({"variant": name}, plan) for name in ("a", "b"))
    grid = Grid(cells=cells, x="variant", name="ablation", preset="small")
    Path("results/figures").mkdir(parents=True)
    GridDirectory.create(Path("results/figures/ablation"), grid)
    [row] = as_table(printed(capsys, "runs").out)
    assert (row["name"], row["state"]) == ("figures/ablation", "0 of 2 runs done")
    with pytest.raises(SystemExit):
        main(["compare", "figures/ablation", "figures/ablation"])
    assert "is no run but a grid" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["runs", "nowhere"], "nowhere"),
        (["compare", "kerr1"], "2 to 26"),
        (["compare", "kerr1", "results/kerr1"], "2 to 26"),
        (["compare", "kerr1", "kerr2"], "'kerr2', did you mean kerr1"),
        (["compare", "kerr1", "values"], "one task"),
        (["compare", "kerr1", "other", "--output", "results"], "results"),
        (["compare", "kerr1", "other", "--output", "c.pdf"], "--output: must be a path that ends"),
        (["compare", "kerr1", "other", "--output", "results/kerr1/model.npz"], "'results/kerr1/mo"),
        (["compare", "kerr1", "other", "--output", "results/kerr1/config.json/c.png"], "config.js"),
    ],
)
def test_bad_input_is_one_line(words, told, capsys):
    make("kerr1", 0.9)
    make("other", 0.8)
    make("values", 0.8, dataset="f1", recipe="digital", task="regression")
    before = sorted(Path().rglob("*"))
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1
    assert sorted(Path().rglob("*")) == before


def test_a_comparison_has_what_differs_a_table_and_a_figure(capsys):
    make("one", 0.9, directions=8, learning_rate=0.05)
    make("two", 0.8, 0.9, directions=32)
    make("half", directions=4)
    out = printed(capsys, "compare", "one", "two", "half", "--output", "c.png").out
    rows = {
        cells[0]: cells[1:]
        for line in out.splitlines()
        if len(cells := [cell.strip() for cell in line.strip("|").split("|")]) == 4
    }
    assert rows["directions"] == ["8", "32", "4"]
    assert rows["learning_rate"] == ["0.05", "0.1", "0.1"]
    assert rows["test accuracy"] == ["90.00 %", "85.00 ± 7.07 %", "stopped"]
    assert rows["held out"] == ["89.00 %", "84.00 %", "-"]
    assert rows["mesh passes"] == ["12.3 M", "12.3 M", "-"]
    assert not {"epochs", "dataset"} & rows.keys()
    assert out.startswith("A  results/one: mnist, photonic, ff-dd, directions 8")
    assert out.endswith("figure in c.png\n")
    with Image.open("c.png") as picture:
        assert picture.size[0] > 1000


def test_digital_networks_have_forward_passes_and_no_phases(capsys):
    make("one", 0.9, recipe="digital", network="mlp", width=10)
    make("two", 0.8, recipe="digital", network="mlp", width=20)
    out = printed(capsys, "compare", "one", "two", "--output", "c.png").out
    assert "| forward passes |  12.3 M |  12.3 M |" in out
    assert "mesh" not in out
    assert "phase" not in out


def test_the_figure_names_runs_by_what_differs():
    read = [
        compare.read_run(make(name, 0.9, directions=k)) for name, k in (("one", 8), ("two", 16))
    ]
    assert compare._labels(read) == ["A: directions 8", "B: directions 16"]


def test_elements_are_shown_as_a_command_line_names_them(capsys):
    make("table", 0.9, nonlinearity=TABLE)
    make("function", 0.9, nonlinearity=Named("os:fsync"))
    make("both", 0.9, nonlinearity=["modulus", TABLE], meshes=3)
    for out in (printed(capsys, "runs").out, printed(capsys, "compare", "table", "both").out):
        assert "nonlinearity table:curve.csv" in out
        assert "nonlinearity modulus, table:curve.csv" in out
        assert "'power'" not in out
    assert "nonlinearity os:fsync" in printed(capsys, "runs").out


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (None, ""),
        (0, "0"),
        (999, "999"),
        (999.9, "1 k"),
        (999_999, "1 M"),
        (12_345, "12.3 k"),
        (1.2e9, "1.2 G"),
        (3e12, "3 T"),
    ],
)
def test_counts_in_short(number, text):
    assert runs.in_short(number) == text


@pytest.mark.parametrize(
    ("settings", "inputs", "name"),
    [
        ({}, {}, "digits-photonic-ff-dd-"),
        ({"directions": 8}, {}, "digits-photonic-ff-dd-directions-8-"),
        ({"method": "bp-ad", "seed": 3}, {}, "digits-photonic-bp-ad-seed-3-"),
        (
            {"nonlinearity": "kerr:phi_nl=2"},
            {},
            "digits-photonic-ff-dd-nonlinearity-kerr-phi-nl-2-",
        ),
        ({"nonlinearity": TABLE}, {}, "digits-photonic-ff-dd-nonlinearity-table-curve-"),
        ({"nonlinearity": Named("os:fsync")}, {}, "digits-photonic-ff-dd-nonlinearity-os-fsync-"),
        ({}, {"start_from": "/home/x/silico"}, "digits-photonic-ff-dd-start-from-silico-"),
        ({"recipe": "digital", "network": "cnn"}, {}, "digits-cnn-ff-dd-"),
    ],
)
def test_the_name_of_a_run_says_what_differs(settings, inputs, name):
    plan = plan_for("digits", configure(**settings), validation=129, **inputs)
    given = dated_name(plan.as_json(), "digits")
    assert given[: -len("20260101-120000")] == name


def test_a_long_name_is_cut_between_settings():
    many = {"directions": 3, "learning_rate": 0.123456, "epochs": 77, "batch_size": 99}
    name = dated_name(plan_for("digits", configure(**many)).as_json(), "digits")
    assert len(name) <= 75
    assert name.startswith("digits-photonic-ff-dd-directions-3-")


def test_a_model_is_loaded_from_its_run_with_its_history(tmp_path):
    run = shutil.copytree(HERE / "former_run", tmp_path / "run")
    model = load_model(run)
    table = read_history(run)
    assert len(model.history) == len(table) > 0
    assert model.history[-1].loss == pytest.approx(table[-1].loss, rel=1e-5)
    assert model.usage.forward_passes > 0
    assert model.seconds > 0
    assert load_model(run / "model.npz").history == model.history


@pytest.mark.parametrize("inside", [[], ["seed-0", "seed-1"]])
def test_a_folder_without_a_model_says_what_it_holds(inside, tmp_path):
    for name in inside:
        (tmp_path / name).mkdir()
    with pytest.raises(DataError, match=", ".join(inside) or "nothing to load"):
        load_model(tmp_path)
