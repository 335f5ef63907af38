"""The scripts in benchmarks/ find what they should find."""

import importlib
import json
import time
from pathlib import Path

import numpy as np
import pytest

FOLDER = Path(__file__).parent.parent / "benchmarks"
RESULTS = {"test_accuracy": 0.5, "power": {"stages": [{"low": 1.0}]}, "train_seconds": 3.0}
KERNEL = np.array([0.0, 1.0], np.float32)


@pytest.fixture(autouse=True)
def scripts(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)


def write_run(path, results=RESULTS, loss="0.25", kernel=KERNEL):
    path.mkdir()
    (path / "results.json").write_text(json.dumps(results))
    (path / "config.json").write_text(json.dumps({"method": "ff-dd"}))
    (path / "history.csv").write_text(f"epoch,loss,seconds\n1,{loss},{time.time_ns()}\n")
    np.savez(path / "model.npz", kernel=kernel)
    return path


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({}, None),
        ({"results": RESULTS | {"train_seconds": 9.0, "added": 1}}, None),
        ({"results": RESULTS | {"power": {"stages": [{"low": 2.0}]}}}, "power stages 0 low"),
        ({"results": {"power": RESULTS["power"]}}, "test_accuracy"),
        ({"loss": "0.251"}, "history.csv 0 loss"),
        ({"kernel": np.array([-0.0, 1.0], np.float32)}, "kernel"),
        ({"kernel": KERNEL.astype(np.float64)}, "kernel"),
    ],
)
def test_same_figures_names_the_first_key_that_differs(tmp_path, changes, key):
    difference = importlib.import_module("same_figures").difference
    found = difference(write_run(tmp_path / "old"), write_run(tmp_path / "new", **changes))
    assert found is None if key is None else key in found


def test_same_figures_says_which_run_is_missing(tmp_path):
    difference = importlib.import_module("same_figures").difference
    assert "new" in difference(write_run(tmp_path / "old"), tmp_path / "new")


def test_a_benchmark_that_ends_early_keeps_the_rows_that_it_has(monkeypatch, tmp_path):
    timing = importlib.import_module("timing")

    def measure(arguments):
        yield {"engine": "xla", "ms": 1.0}
        raise KeyboardInterrupt

    output = tmp_path / "bench"
    monkeypatch.setattr("sys.argv", ["x.py", "--output", str(output)])
    with pytest.raises(KeyboardInterrupt):
        timing.run(timing.command_line("", 1.0), measure, {"engine": 9}, ["ms"])
    assert json.loads((output / "bench.json").read_text())["rows"] == [{"engine": "xla", "ms": 1.0}]
