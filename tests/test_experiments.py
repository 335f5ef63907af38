"""Every experiment makes grids that can run."""

import csv
import importlib
import json
import re
import runpy
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from photonic_ffzero.cli.experiment import Options
from photonic_ffzero.config import configure
from photonic_ffzero.data.datasets import load_dataset
from photonic_ffzero.data.tasks import Classification, Regression
from photonic_ffzero.networks import build_blocks
from photonic_ffzero.runs.job import check_suits
from photonic_ffzero.training.step import Samples

FOLDER = Path(__file__).parent.parent / "experiments"
GRIDS = (
    "ablation",
    "cnn_channels",
    "directions",
    "embeddings",
    "epsilon",
    "in_situ",
    "mlp_depth",
    "nonlinearities",
    "photonic_methods",
    "ports",
    "regression",
    "robustness",
)
PIXELS = {"digits": 64, "f1": 2, "f2": 5}


@pytest.fixture(autouse=True)
def scripts(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)


def test_figures_runs_every_grid():
    assert sorted(importlib.import_module("figures").EXPERIMENTS) == sorted(GRIDS)


@pytest.mark.parametrize(
    ("endings", "begun", "told"),
    [
        (("sys.exit(0)", "", "sys.exit(0)"), 3, 0),
        (("sys.exit(1)", "sys.exit(0)", "sys.exit(0)"), 3, 1),
        (("sys.exit(0)", "sys.exit(130)", "sys.exit(0)"), 2, 130),
        (("raise KeyboardInterrupt", "", ""), 1, 130),
        (("sys.exit(2)", "", ""), 1, 2),
    ],
)
def test_figures_reports_in_spite_of_failures_but_stops_when_told(
    monkeypatch, tmp_path, endings, begun, told
):
    figures, names, reports = importlib.import_module("figures"), ("one", "two", "three"), []
    for name, ending in zip(names, endings, strict=True):
        script = f"import pathlib, sys\npathlib.Path(sys.argv[2]).mkdir(parents=True)\n{ending}\n"
        (tmp_path / f"{name}.py").write_text(script)
    monkeypatch.setattr(figures, "SCRIPTS", tmp_path)
    monkeypatch.setattr(figures, "EXPERIMENTS", names)
    monkeypatch.setattr(figures, "write_report", lambda arguments: reports.append(arguments) or 0)
    monkeypatch.setattr(sys, "argv", ["figures.py", "--output", str(tmp_path / "results")])
    assert figures.main() == told
    folders = [str(tmp_path / "results" / "figures" / name) for name in names]
    assert [Path(folder).exists() for folder in folders] == [i < begun for i in range(3)]
    report = [*folders, "--output", str(tmp_path / "results" / "report.html")]
    assert reports == ([report] if told <= 1 else [])


def presets():
    """The presets of every experiment."""
    sys.path.insert(0, str(FOLDER))
    try:
        return [
            (name, preset) for name in GRIDS for preset in importlib.import_module(name).PRESETS
        ]
    finally:
        sys.path.remove(str(FOLDER))


# The settings of the training alone: networks that differ in them only are built once.
TRAINING = {"directions", "epsilon", "law", "learning_rate", "schedule", "epochs", "batch_size"}
TRAINING |= {"optimizer", "estimator", "perturb", "seed", "reads", "calibration", "weight_decay"}
DEEP = [("mlp_depth", "medium"), ("mlp_depth", "paper")]


@pytest.mark.parametrize(
    ("name", "preset"),
    [pytest.param(*p, marks=[pytest.mark.long] * (p in DEEP)) for p in presets()],
)
class TestPresets:
    def test_every_cell_is_a_network_that_fits_its_data(self, name, preset):
        grid = importlib.import_module(name).PRESETS[preset](Options())
        assert len({cell.seed for cell in grid.cells}) >= (3 if preset in ("paper", "full") else 1)
        networks = {}
        for cell in grid.cells:
            plan, settings = cell.plan, vars(cell.plan.config)
            shape = tuple(settings[name] for name in settings if name not in TRAINING)
            networks[shape, plan.dataset, plan.size] = plan.config
        for (_, dataset, size), config in networks.items():
            units = PIXELS.get(dataset, 784) if size is None else min(size, 8) ** 2
            task = Regression((0.0,), (1.0,)) if config.task == "regression" else Classification(10)
            build_blocks(config, units, task)

    def test_a_user_s_seeds_and_epochs_count(self, name, preset):
        make = importlib.import_module(name).PRESETS[preset]
        grid = make(Options(seed=5, seeds=2, epochs=3, limit=100))
        assert {cell.seed for cell in grid.cells} == {5, 6}
        assert {cell.plan.config.epochs for cell in grid.cells} - {0} == {3}  # 0: transferred
        assert {cell.plan.limit for cell in grid.cells} == {100}

    def test_more_seeds_are_those_of_a_grid_that_had_them_from_the_start(self, name, preset):
        make = importlib.import_module(name).PRESETS[preset]
        grid = make(Options(seed=5, seeds=1))
        assert grid.with_seeds(3) == make(Options(seed=5, seeds=3))


def test_points_may_have_fewer_seeds_until_the_user_asks_for_more():
    make = importlib.import_module("photonic_methods").PRESETS["paper"]
    grid = make(Options(seed=5))
    runs = Counter((cell.labels["method"], cell.labels["recipe"]) for cell in grid.cells)
    assert {method: count for (method, _), count in runs.items()} == {
        "ff-dd": 3,
        "bp-dd": 3,
        "ff-ad": 1,
        "bp-ad": 1,
    }
    more, whole = grid.with_seeds(3), make(Options(seed=5, seeds=3))
    assert more.cells[: len(grid.cells)] == grid.cells
    assert {cell.slug: cell for cell in more.cells} == {cell.slug: cell for cell in whole.cells}


def test_a_data_set_that_a_preset_has_not_is_refused_by_name():
    presets = importlib.import_module("regression").PRESETS
    with pytest.raises(ValueError, match=r"dataset .* got mnist"):
        presets["small"](Options(dataset="mnist"))


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT of another process")
def test_a_script_that_is_interrupted_saves_its_runs_and_says_how_to_go_on(tmp_path):
    script = Path(importlib.import_module("photonic_methods").__file__)
    flags = ["--limit", "100", "--epochs", "100000", "--jobs", "1", "--output", "new"]
    words = [sys.executable, script, *flags]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(words, cwd=tmp_path, **pipes) as process:
        while not [*tmp_path.glob("new/cells/*/history.csv")] and process.poll() is None:
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "| method |" in output  # the table of what there is
    assert re.search(r"go on with: .*photonic_methods\.py --resume new", errors)
    assert [*tmp_path.glob("new/cells/*/model.npz")]


@pytest.mark.parametrize("name", GRIDS)
def test_every_script_takes_flags_and_writes_nothing_after_bad_ones(
    name, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(sys, "argv", [name, "--seeds", "0", "--output", str(tmp_path / "new")])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(FOLDER / f"{name}.py"), run_name="__main__")
    assert stop.value.code == 2
    assert capsys.readouterr().err.startswith(f"{name}.py: error: argument --seeds")
    assert not (tmp_path / "new").exists()


def test_slopes_err_by_curvature_at_long_steps_and_by_noise_at_short_ones():
    """As epsilon^2 without noise, as 1 / epsilon under it; auto is near the least."""
    epsilon = importlib.import_module("epsilon")
    rng = np.random.default_rng(0)
    x = rng.random((32, 12)).astype(np.float32)
    samples = Samples(x, Classification(10).targets(np.arange(32) % 10))
    config = configure(
        meshes=1, columns=4, imperfections="read_noise=0.1", batch_size=32, engine="xla"
    )
    noisy, quiet, auto = epsilon.slope_errors(config, samples)
    order = np.diff(np.log(quiet)) / np.diff(np.log(epsilon.STEPS))
    middle = (epsilon.STEPS[1:] > 0.005) & (epsilon.STEPS[1:] < 0.05)
    np.testing.assert_allclose(order[middle], 2, atol=0.15)
    order = np.diff(np.log(noisy)) / np.diff(np.log(epsilon.STEPS))
    np.testing.assert_allclose(order[:2], -1, atol=0.3)
    assert np.interp(np.log(auto), np.log(epsilon.STEPS), noisy) < 1.5 * noisy.min()


PIXELS_OF_MIXERS = {"cifar-10": 3 * 32**2, "mnist": 28**2}


@pytest.mark.parametrize("preset", ["small", "prototypes", "medium", "mnist", "methods", "paper"])
def test_every_cell_of_local_mixer_fits_its_data(preset):
    grid = importlib.import_module("local_mixer").PRESETS[preset](Options(seeds=1))
    assert len({cell.slug for cell in grid.cells}) == len(grid.cells) > 1
    for cell in grid.cells:
        config = cell.plan.config
        if config.network == "mixer" and cell.plan.dataset == "cifar-10":
            config = replace(config, colour="rgb")  # as the run finds the images
        build_blocks(config, PIXELS_OF_MIXERS[cell.plan.dataset], Classification(10))


def test_new_classes_are_learned_with_and_without_a_memory(monkeypatch, tmp_path, capsys):
    """All variants for an epoch on a few digits; what is done is not done again."""
    incremental = importlib.import_module("incremental")
    tiny = {"recipe": "digital", "network": "mlp", "depth": 2, "width": 20}
    monkeypatch.setattr(incremental, "NETWORKS", {"mlp": (tiny, 8)})
    words = ["--epochs", "1", "--limit", "100", "--output", str(tmp_path / "new")]
    assert incremental.main(words) == 0
    printed = capsys.readouterr().out
    table = (tmp_path / "new" / "incremental.csv").read_text()
    rows = list(csv.DictReader(table.splitlines()))
    assert len(rows) == 2 * (2 * 2 + 2 * 1)  # memories; phases of two layers, or one global
    assert {(row["phase"], row["progress"]) for row in rows if row["loss"] == "local"} == {
        (phase, progress) for phase in "12" for progress in ("0.5", "1.0")
    }
    assert (tmp_path / "new" / "incremental.png").stat().st_size > 0
    monkeypatch.setattr(incremental, "train", None)
    assert incremental.main(words) == 0
    assert capsys.readouterr().out == printed
    with pytest.raises(SystemExit):
        incremental.main([*words, "--epochs", "2"])
    assert "--output: must be new or hold runs with epochs 2, found 1" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        incremental.main([*words, "--data-dir", str(tmp_path / "none")])
    assert "argument --data-dir must be an existing folder" in capsys.readouterr().err
    run = {"seed": 1, "progress": 1.0, "old": 0.3, "new": 0.2}
    told = {"phase": 1, "old": 0.9}, {"phase": 2}
    monkeypatch.setattr(incremental, "train", lambda x, *_: [x | run | part for part in told])
    assert incremental.main([*words, "--seeds", "2"]) == 0  # trains the second seed alone
    assert capsys.readouterr().out.startswith(printed[: printed.index("results in")])
    about = json.loads((tmp_path / "new" / "about.json").read_text())
    assert about["command"].endswith("--preset small --seeds 2 --epochs 1 --limit 100")
    ends = list(csv.DictReader((tmp_path / "new" / "results.csv").read_text().splitlines()))
    assert [row["loss"] for row in ends if row["seed"] == "0"] == ["local"] * 2 + ["global"] * 2
    assert [(row["old_before"], row["old"], row["new"]) for row in ends[4:]] == [
        ("0.9", "0.3", "0.2")
    ] * 4


def test_a_memory_brings_as_many_old_samples_as_new_ones():
    incremental = importlib.import_module("incremental")
    labels = np.tile(np.arange(10), 30)
    old, new = incremental.parts(labels, 2)
    assert set(labels[old]) == set(range(5))
    repeated = new[labels[new] < 5]
    assert len(repeated) == len(new) - len(repeated) == 150
    assert np.array_equal(np.unique(repeated), np.arange(20)[labels[:20] < 5])
    assert set(labels[incremental.parts(labels, 0)[1]]) == set(range(5, 10))


@pytest.mark.parametrize(
    ("script", "preset"),
    [("photonic_methods", "paper"), ("ports", "full"), ("in_situ", "medium")],
)
def test_data_that_a_preset_cannot_use_are_refused_at_once(
    script, preset, tmp_path, monkeypatch, capsys
):
    words = [script, "--preset", preset, "--dataset", "digits", "--output", str(tmp_path / "new")]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(FOLDER / f"{script}.py"), run_name="__main__")
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert "argument --dataset must suit the preset, got digits" in error
    assert "images of (8, 8)" in error
    assert not (tmp_path / "new").exists()


def test_new_classes_are_not_written_over_other_results(tmp_path, capsys):
    incremental = importlib.import_module("incremental")
    (tmp_path / "results.csv").write_text("mine")
    with pytest.raises(SystemExit):
        incremental.main(["--output", str(tmp_path)])
    assert "must be a new or empty directory" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["results.csv"]


@pytest.mark.parametrize("content", ["{", "{}"])
def test_a_damaged_run_of_new_classes_is_named(content, tmp_path, monkeypatch, capsys):
    incremental = importlib.import_module("incremental")
    monkeypatch.setattr(incremental, "train", lambda *_: [])
    preset = incremental.PRESETS["small"] | {"epochs": 1, "limit": 100}
    incremental.check_preset(tmp_path / "new", preset)
    labels, seed = next(incremental.runs(preset))
    file = tmp_path / "new" / f"{incremental._name(labels, seed)}.json"
    file.write_text(content)
    words = ["--epochs", "1", "--limit", "100", "--output", str(tmp_path / "new")]
    assert incremental.main(words) == 1
    assert str(file) in capsys.readouterr().err


def test_passes_of_runs_on_a_chip_are_not_drawn_where_there_are_none(tmp_path):
    class Begun:
        done, path = (), tmp_path

    importlib.import_module("in_situ").write_passes(Begun(), None)
    assert not list(tmp_path.iterdir())


def test_a_preset_finds_too_many_classes_before_any_run_starts(tmp_path):
    """Readouts count among what is checked: four ports cannot tell ten classes."""
    grid = importlib.import_module("ports").PRESETS["small"](Options())
    plan = replace(grid.cells[0].plan, size=2)
    with pytest.raises(ValueError, match="10 classes need at least as many tapped values"):
        check_suits(plan, load_dataset("digits"))
    with pytest.raises(ValueError, match="validation must leave at least one of 1297"):
        check_suits(replace(grid.cells[0].plan, validation=1297), load_dataset("digits"))
