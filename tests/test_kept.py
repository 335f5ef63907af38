"""Results that are kept: the tables of the pages are those of their files."""

import json
import re
import runpy
import shlex
from itertools import product
from pathlib import Path

import pytest
from PIL import Image

from photonic_ffzero.cli import train
from photonic_ffzero.config import Config, configure
from photonic_ffzero.elements import each
from photonic_ffzero.runs import Cell, Grid, GridDirectory, Plan, plan_for
from photonic_ffzero.settings import settings_of
from photonic_ffzero.storage import write_json

DOCS = Path(__file__).parents[1] / "docs"
KEEP = runpy.run_path(str(DOCS / "keep.py"))
PAGES = {path.name: path.read_text() for path in DOCS.glob("*.md")}
FILES = [path for path in DOCS.glob("results/**/*") if path.is_file()]
TABLE = re.compile(r"^\|.*\|$", re.MULTILINE)


@pytest.mark.parametrize("page", PAGES)
def test_tables_are_those_of_their_files(page):
    assert KEEP["filled"](PAGES[page]) == PAGES[page], "run python docs/keep.py"


def test_no_result_stands_without_a_file():
    assert not TABLE.findall(KEEP["MARKS"].sub("", PAGES["results.md"]))


def test_every_file_is_shown_and_small_and_knows_no_machine_s_folders():
    pages = "".join(PAGES.values())
    for path in FILES:
        name = str(path.relative_to(DOCS))
        assert name in pages or path.name == "about.json", name
        assert path.stat().st_size < (60_000 if path.suffix == ".png" else 100_000), name
        assert path.suffix == ".png" or not re.search(r"(^|[\s\"'=])/\w", path.read_text()), name


def results(seed, accuracy, **settings):
    about = {"dataset": "mnist", "method": "ff-dd", "task": "classification", "rule": "vote"}
    figures = {"test_accuracy": accuracy, "layer_test_accuracy": [accuracy], "train_seconds": 60.0}
    return about | settings | figures | {"seed": seed, "chip_seconds": None, "test_r2": None}


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """Keep runs as the pages would, and show them; returns the folder and the text."""
    monkeypatch.setitem(KEEP["main"].__globals__, "PAGES", tmp_path)
    page = tmp_path / "page.md"

    def keep(*runs, options=""):
        mark = f"<!-- table: results/some/results.csv{options} -->\n<!-- end of table -->\n"
        page.write_text(f"before\n\n{mark}\nafter\n")
        words = ["some", *map(str, runs), "--machine", "a bench", "--commit", "c0ffee"]
        assert KEEP["main"](words) == 0
        return tmp_path / "results" / "some", page.read_text()

    return keep


def run(folder, accuracies, **settings):
    """The files of finished runs that a table needs."""
    inputs = {name: settings.pop(name) for name in ("encoding", "size") if name in settings}
    seeds = len(accuracies)
    plan = plan_for("mnist", configure(**settings), seeds=seeds, validation=5000, **inputs)
    folder.mkdir()
    write_json(folder / "config.json", plan.as_json())
    for seed, accuracy in enumerate(accuracies):
        place = folder / f"seed-{seed}" if seeds > 1 else folder
        place.mkdir(exist_ok=True)
        write_json(place / "results.json", results(seed, accuracy, recipe=plan.config.recipe))
    return folder


def test_runs_become_a_row_each_with_their_command(tmp_path, kept):
    one = run(tmp_path / "a", [0.7, 0.8], recipe="paper")
    two = run(tmp_path / "b", [0.5], recipe="published", epochs=3)
    folder, page = kept(one, two)
    assert "| recipe | epochs | test accuracy (%) | time of a run (s) |" in page
    assert "| paper | 100 | 75.00 ± 7.07 | 60 ± 0 |" in page
    assert "| published | 3 | 50.00 | 60 |" in page
    assert '    make mnist ARGS="--recipe published --epochs 3 --dataset mnist"\n' in page
    assert "seeds 0, 1; some rows have fewer." in page
    assert "commit c0ffee, a bench" in page
    assert len((folder / "results.csv").read_text().splitlines()) == 4
    assert page.startswith("before\n")
    assert page.endswith("\nafter\n")


def test_runs_that_have_not_ended_are_not_kept(tmp_path, kept, capsys):
    folder = run(tmp_path / "a", [0.7, 0.8])
    (folder / "seed-1" / "results.json").unlink()
    with pytest.raises(SystemExit):
        kept(folder)
    assert "must hold 2 finished runs, found 1" in capsys.readouterr().err


def test_a_grid_keeps_all_its_runs_and_small_pictures(tmp_path, kept):
    cells = [
        Cell({"depth": depth}, plan_for("mnist", configure(recipe="digital", depth=depth, seed=s)))
        for depth, s in product((2, 4), (0, 1))
    ]
    grid = Grid(cells=tuple(cells), x="depth", command="python experiments/x.py")
    directory = GridDirectory.create(tmp_path / "grid", grid)
    for cell in cells[:-1]:
        accuracy = 0.9 - 0.01 * cell.labels["depth"]
        cell_results = results(cell.seed, accuracy, network="mlp", forward_passes=2_500_000)
        write_json(directory.prepare(cell) / "results.json", cell_results)
    Image.new("RGB", (1200, 300)).save(directory.path / "figure.png")
    folder, page = kept(directory.path, options=" across=depth")
    assert "| depth 2 | depth 4 |" in page
    assert "| 88.00 ± 0.00 | 86.00 (1 of 2 runs) |" in page
    assert "    python experiments/x.py\n" in page
    with Image.open(folder / "figure.png") as picture:
        assert picture.size == (1000, 250)
    _, page = kept(directory.path, options=" show=test_accuracy,forward_passes")
    assert "| 2 | 88.00 ± 0.00 | 2.50 ± 0.00 |" in page


def test_rows_with_fewer_seeds_are_named(tmp_path, kept):
    folder = tmp_path / "new"
    folder.mkdir()
    rows = "dd,0,0.7\ndd,1,0.8\nad,0,0.9\n"
    (folder / "results.csv").write_text(f"method,seed,test_accuracy\n{rows}")
    write_json(folder / "about.json", {"command": "python experiments/y.py"})
    _, page = kept(folder, options=" show=test_accuracy")
    assert "| dd | 75.00 ± 7.07 |\n| ad | 90.00 |\n" in page
    assert "Test accuracy (%), seeds 0, 1; some rows have fewer." in page


def test_an_experiment_s_own_table_is_kept_alone(tmp_path, kept, capsys):
    folder = tmp_path / "new"
    folder.mkdir()
    (folder / "results.csv").write_text("loss,seed,old,new\nlocal,0,0.5,0.9\nlocal,1,0.6,0.9\n")
    write_json(folder / "about.json", {"command": "python experiments/y.py --seeds 2"})
    Image.new("RGB", (20, 30)).save(folder / "y.png")
    place, page = kept(folder, options=" show=old,new")
    assert "| local | 55.0 ± 7.1 | 90.0 ± 0.0 |" in page
    assert "    python experiments/y.py --seeds 2\n" in page
    assert "seeds 0, 1." in page
    assert (place / "y.png").exists()
    with pytest.raises(SystemExit):
        kept(folder, folder)
    assert "kept alone, found 2" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "told"), [("across=dept", "across .* depth.*dept"), ("show=x", "show .* got 'x'")]
)
def test_unknown_options_are_named(tmp_path, kept, capsys, option, told):
    with pytest.raises(SystemExit):
        kept(run(tmp_path / "a", [0.7], meshes=1), options=f" {option}")
    error = capsys.readouterr().err
    assert error.startswith("keep.py: error: ")
    assert option.split("=")[1] in error


@pytest.mark.parametrize(
    "settings",
    [
        {"recipe": "wide", "epochs": 3},
        {"estimator": "twin", "imperfections": "ntt-2025", "calibration": 1650},
        {"recipe": "digital", "network": "cnn", "method": "bp-dd", "channels": 16},
        {"recipe": "digital", "network": "mixer", "patches": 1, "channels": 64, "seed": 2},
        {"nonlinearity": ("kerr", "zrelu"), "meshes": 3},
        {"train_nonlinearity": True, "engine": "xla", "meshes": 3, "method": "bp-ad"},
    ],
    ids=lambda settings: "-".join(map(str, settings.values())),
)
def test_the_command_of_a_run_gives_it_again(settings):
    """Through the parser of the command line."""
    plan = plan_for("mnist", configure(**settings), seeds=3)
    command = KEEP["command"](KEEP["fewest_settings"](plan))
    _, target, arguments = shlex.split(command)
    recipe = "digital" if target == "digital" else "balanced"
    words = shlex.split(arguments.removeprefix("ARGS="))
    parsed = vars(train.build_parser(recipe).parse_args(words))
    chosen = {"recipe": recipe} | {n: value for n, value in parsed.items() if value is not None}
    config, inputs = (
        {name: chosen[name] for name in settings_of(kind) if name in chosen}
        for kind in (Config, Plan)
    )
    assert plan_for(config=configure(**config), **inputs) == plan
    assert len(words) <= 2 * (sum(len(each(value)) for value in settings.values()) + 2)


def test_a_folder_of_this_machine_is_not_written_down():
    plan = plan_for("mnist", configure(), start_from="/home/someone/silico")
    command = KEEP["command"](KEEP["fewest_settings"](plan))
    assert "--start-from silico" in command


def test_about_says_how(tmp_path, kept):
    folder, _ = kept(run(tmp_path / "a", [0.7]))
    about = json.loads((folder / "about.json").read_text())
    assert list(about) == ["commands", "seeds", "commit", "date", "machine"]
