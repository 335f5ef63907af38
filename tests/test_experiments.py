"""Every experiment: a thin script that says what it does and makes grids that can run."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from photonic_ffzero.experiment import Options
from photonic_ffzero.networks import build_blocks
from photonic_ffzero.tasks import Classification, Regression

FOLDER = Path(__file__).parent.parent / "experiments"
GRIDS = (
    "ablation",
    "cnn_channels",
    "directions",
    "embeddings",
    "mlp_depth",
    "photonic_methods",
    "regression",
    "robustness",
)
OTHERS = {
    *("bench_digital", "bench_engine", "export_phases", "figures"),
    *("mnist_digital", "mnist_photonic"),
}
PIXELS = {"digits": 64, "f1": 2, "f2": 5}


@pytest.fixture(autouse=True)
def scripts(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)


def options(**given):
    return Options(
        **({"dataset": None, "seed": 0, "seeds": None, "epochs": None, "limit": None} | given)
    )


def test_every_script_is_known_here():
    assert {path.stem for path in FOLDER.glob("*.py")} == {*GRIDS, *OTHERS}


def test_figures_runs_every_grid():
    assert sorted(importlib.import_module("figures").EXPERIMENTS) == sorted(GRIDS)


@pytest.mark.parametrize("name", GRIDS)
@pytest.mark.parametrize("preset", ["small", "paper"])
class TestPresets:
    def test_every_cell_is_a_network_that_fits_its_data(self, name, preset):
        grid = importlib.import_module(name).PRESETS[preset](options())
        assert len({cell.seed for cell in grid.cells}) >= (3 if preset == "paper" else 1)
        for config, dataset in {(cell.plan.config, cell.plan.dataset) for cell in grid.cells}:
            small = config.network == "photonic" or dataset == "digits"
            units = PIXELS.get(dataset, 64 if small else 784)
            task = Regression((0.0,), (1.0,)) if config.task == "regression" else Classification(10)
            if config.seed == 0:
                build_blocks(config, units, task)

    def test_a_user_s_seeds_and_epochs_count(self, name, preset):
        make = importlib.import_module(name).PRESETS[preset]
        grid = make(options(seed=5, seeds=2, epochs=3, limit=100))
        assert {cell.seed for cell in grid.cells} == {5, 6}
        assert {cell.plan.config.epochs for cell in grid.cells} - {0} == {3}  # 0: transferred
        assert {cell.plan.limit for cell in grid.cells} == {100}


@pytest.mark.parametrize("name", GRIDS)
def test_bad_input_writes_nothing(name, tmp_path):
    command = [sys.executable, FOLDER / f"{name}.py", "--seeds", "0", "--output", tmp_path / "new"]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 2
    assert run.stderr.startswith(f"{name}.py: error: argument --seeds: must be at least 1")
    assert not (tmp_path / "new").exists()
