"""Grids of runs: their results are right, whatever happens on the way.

Most cells here run a script of a few lines that behaves as a training run does: it goes on from
its checkpoint, stops after a step, and its results follow from its configuration alone.
"""

import csv
import io
import json
import math
import os
import random
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from itertools import pairwise, product
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread
from rich.console import Console

from meshes.files import DataError
from photonic_ffzero.cli import experiment as module
from photonic_ffzero.cli.experiment import Options, run_experiment
from photonic_ffzero.config import configure
from photonic_ffzero.cores import THREAD_VARIABLES, thread_limits
from photonic_ffzero.data.functions import FUNCTIONS
from photonic_ffzero.runs import cluster
from photonic_ffzero.runs.cell import training_command
from photonic_ffzero.runs.claim import Claim
from photonic_ffzero.runs.cluster import Cluster
from photonic_ffzero.runs.grid import Cell, Grid, GridDirectory
from photonic_ffzero.runs.plan import UNENCODED, plan_for
from photonic_ffzero.runs.progress import GridProgress, epochs_done
from photonic_ffzero.runs.runner import Runner
from photonic_ffzero.runs.summary import plot_grid, runs_table, summarise, write_results
from photonic_ffzero.storage import read_json, write_json

FAKE = """
import fcntl, json, os, signal, sys, threading, time
folder, mode, steps, pause = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
os.chdir(folder)
received = []
def receive(which, frame):
    received.append(which)
    with open("signals.txt", "a") as file:
        file.write(f"{which}\\n")
for which in (signal.SIGINT, signal.SIGTERM):
    signal.signal(which, receive)
def watch():
    os.read(0, 1)
    if not received:
        os.kill(os.getpid(), signal.SIGTERM)
threading.Thread(target=watch, daemon=True).start()
lock = open("lock", "w")  # its claim
fcntl.flock(lock, fcntl.LOCK_EX)
with open("starts.txt", "a") as file:
    file.write(f"{os.getpid()} {time.time()}\\n")
plan = json.load(open("config.json"))
if mode in ("fail-both", f"fail-{plan['method']}"):
    sys.exit("first line\\nno light on port 3")
if mode == f"vanish-{plan['method']}":
    sys.exit(0)
if mode == f"crash-{plan['method']}":
    os.kill(os.getpid(), signal.SIGKILL)
if mode == f"mortal-{plan['method']}" and len(open("starts.txt").readlines()) < 3:
    os.kill(os.getpid(), signal.SIGKILL)
if mode == f"told-{plan['method']}" and len(open("starts.txt").readlines()) < 3:
    sys.exit(128 + signal.SIGTERM)
if mode == f"realtime-{plan['method']}":
    os.kill(os.getpid(), signal.SIGRTMIN + 3)
if mode == f"vandal-{plan['method']}":
    import shutil
    shutil.rmtree(os.getcwd())
    sys.exit(3)
if mode == f"escape-{plan['method']}":
    sys.exit("\\x1b[31mred\\x07 \\x9b2J")
if mode == f"text-{plan['method']}":
    open("results.json", "w").write('{"test_accuracy": 0.5, "train_seconds": "fast"}')
    sys.exit()
done = int(open("model.npz").read()) if os.path.exists("model.npz") else 0
for step in range(done, steps):
    time.sleep(pause)
    if received and mode != "stubborn":
        sys.exit(128 + received[0])
    open("model.npz.partial", "w").write(str(step + 1))
    os.replace("model.npz.partial", "model.npz")
    if "JOURNAL" in os.environ:
        with open(os.environ["JOURNAL"], "a") as file:
            file.write(f"{plan['method']}-{plan['seed']}:{step}\\n")
accuracy = {"ff-dd": 0.7, "ff-ad": 0.9}[plan["method"]] + plan["seed"] / 10
environment = {name: os.environ[name] for name in os.environ if name.endswith("_THREADS")}
content = {"test_accuracy": accuracy, "layers": [1, 2], "rule": None, "method": "hidden",
           "train_seconds": time.time() % 100, "environment": environment}
json.dump(content, open("results.json.partial", "w"))
os.replace("results.json.partial", "results.json")
open("ends.txt", "w").write(str(time.time()))
if mode == "late":
    sys.exit("no way out")
"""
DRIVER = """
import os, sys
sys.path.insert(0, {tests!r})
from photonic_ffzero.runs import runner
from test_grid import experiment
runner._PATIENCE = float(os.environ.get("PATIENCE", runner._PATIENCE))
sys.exit(experiment(None))
"""


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Every test runs in its own folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PHOTONIC_FFZERO_DATA", raising=False)
    return tmp_path


def fake(mode="work", steps=3, pause=0.0):
    """The command of a cell that trains nothing."""
    start = [sys.executable, "-S", "-c", FAKE]
    return lambda folder: [*start, str(folder), mode, str(steps), str(pause)]


def cells(methods=("ff-dd", "ff-ad"), seeds=(0, 1, 2), meshes=(2,)):
    return tuple(
        Cell(
            {"method": method, "meshes": count},
            plan_for("digits", configure(method=method, seed=seed, meshes=count)),
        )
        for seed, method, count in product(seeds, methods, meshes)
    )


def small_grid(**given):
    values = {"cells": cells(), "x": "meshes", "curves": ("method",), "name": "trial"}
    return Grid(**(values | given))


def run_grid(path="grid", grid=None, command=None, jobs=2, console=None, **options):
    """Run a grid in a new directory, or go on with the one that is there."""
    path = Path(path)
    directory = (
        GridDirectory.open(path)
        if path.exists()
        else GridDirectory.create(path, grid or small_grid())
    )
    with Claim(path) as claim:
        console = console or Console(quiet=True)
        Runner(directory, command or fake(), Cluster(jobs), console, claim, **options).run()
    return directory


def experiment(argv, presets=None, command=None, finish=None):
    """The command line of an experiment of fake cells; their mode is in the environment."""
    mode, steps, pause = os.environ.get("FAKE", "work 3 0").split()
    return run_experiment(
        "trial",
        "A trial of 100% nothing.",
        presets or {"small": trial, "paper": trial},
        datasets=("digits", "mnist"),
        command=command or (lambda data_dir: fake(mode, int(steps), float(pause))),
        finish=finish,
        argv=argv,
    )


def trial(options: Options) -> Grid:
    settings = {"epochs": options.epochs, "meshes": 1}
    made = [
        Cell(
            {"method": method},
            plan_for(
                options.datasets_or("digits")[0],
                configure(method=method, seed=seed, **settings),
                limit=options.limit,
            ),
        )
        for seed, method in product(options.seeds_or(3), ("ff-dd", "ff-ad"))
    ]
    return Grid(cells=tuple(made), x="method")


def rows(path):
    with open(Path(path) / "results.csv", newline="") as file:
        return list(csv.DictReader(file))


def states(directory):
    return [outcome.state for outcome in directory.outcomes()]


def start_times(folder):
    lines = (folder / "starts.txt").read_text().splitlines()
    return [float(line.split()[1]) for line in lines]


def but_seconds(path):
    """The final CSV without what depends on the clock."""
    return [{k: v for k, v in row.items() if k != "train_seconds"} for row in rows(path)]


# --- cells and grids ------------------------------------------------------------------------------

LABELS = ["ff-dd", "FF-DD", "ff/dd", "ff_dd", "../..", "", " ", "a=b,c", "é", "NUL", "x" * 300]
LABELS += ["x" * 301, 1, 1.5, -1, 1e-5, 1e30, "1.", "a\nb", "a-b", "a.b", "~", "*?<>|:"]


class TestCell:
    def test_slugs_are_unique_and_safe_on_every_file_system(self, tmp_path):
        plan = plan_for("digits", configure())
        slugs = [Cell({"label": label, "other": 1}, plan).slug for label in LABELS]
        assert len({slug.lower() for slug in slugs}) == len(LABELS)
        for slug in slugs:
            assert re.fullmatch(r"[a-z0-9][a-z0-9._-]*[a-z0-9]", slug), slug
            assert len(slug) < 150
            (tmp_path / slug).mkdir()

    def test_labels_cannot_be_mistaken_for_each_other(self):
        plan = plan_for("digits", configure())
        pairs = [("a_b-c", "d"), ("a", "c_b-d"), ("a_b", "c"), ("a", "b_c"), ("a-b", "c")]
        slugs = {Cell({"a": first, "b": second}, plan).slug for first, second in pairs}
        assert len(slugs) == len(pairs)

    def test_plain_labels_can_be_read(self):
        cell = Cell({"method": "ff-dd", "rate": 0.1}, plan_for("digits", configure(seed=7)))
        assert cell.slug == "method-ff-dd_rate-0.1_seed-7"
        assert cell.name == "ff-dd, rate 0.1, seed 7"

    def test_a_plan_takes_its_recipes_input_where_there_are_images(self):
        plan = plan_for("digits", configure())
        assert (plan.encoding, plan.size, plan.seeds) == ("average", 8, 1)
        assert plan_for("digits", configure("paper")).encoding == "crop"
        assert plan_for("digits", configure(), size=4).size == 4
        config = configure("digital", task="regression", network="mlp")
        for name in FUNCTIONS:
            plan = plan_for(name, config)
            assert (plan.encoding, plan.size) == (UNENCODED, None)

    def test_several_seeds_and_infinite_labels_are_refused(self):
        with pytest.raises(ValueError, match=r"seeds .* got 2"):
            Cell({}, plan_for("digits", configure(), seeds=2))
        with pytest.raises(ValueError, match=r"rate .* got nan"):
            Cell({"rate": float("nan")}, plan_for("digits", configure()))


class TestGrid:
    def test_it_survives_json(self):
        grid = small_grid(panels=("method",), log_x=True, factor=1.0, unit="rad", title="T")
        first, second, *rest = grid.cells
        grid = replace(grid, cells=(first, replace(second, after=first.slug), *rest))
        assert Grid.from_json(json.loads(json.dumps(grid.as_json()))) == grid

    @pytest.mark.parametrize(("former", "panels"), [("method", ("method",)), (None, ())])
    def test_files_of_former_versions_have_one_panel_label_or_null(self, former, panels):
        content = json.loads(json.dumps(small_grid().as_json())) | {"panels": former}
        assert Grid.from_json(content).panels == panels

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            ({"cells": ()}, "at least one, got none"),
            ({"cells": (replace(cells()[0], after="x"),)}, "after must name an earlier .*'x'"),
            ({"cells": cells() * 2}, "must differ in a label or the seed, got twice method-ff-"),
            ({"x": "depth"}, "axes must be labels of the cells, .*; got 'depth'"),
            ({"panels": ("depth",)}, "got 'depth'"),
            ({"curves": ("depth",)}, "got 'depth'"),
            (
                {"cells": (*cells(), Cell({"method": "x"}, cells()[0].plan))},
                r"must all have the labels \('method', 'meshes'\), got \('method',\)",
            ),
            ({"cells": (Cell({"state": 1}, cells()[0].plan),), "x": "state"}, "named state"),
        ],
    )
    def test_what_breaks_a_rule_is_named(self, given, message):
        with pytest.raises(ValueError, match=message):
            small_grid(**({"curves": ()} | given))

    @pytest.mark.parametrize("text", ["", "[]", "{}", '{"cells": 3}', '{"cells": [{}]}'])
    def test_a_damaged_file_is_named(self, tmp_path, text):
        (tmp_path / "grid.json").write_text(text)
        with pytest.raises(DataError, match=r"grid\.json"):
            GridDirectory.open(tmp_path)
        write_json(tmp_path / "grid.json", small_grid().as_json() | {"colour": 1})
        with pytest.raises(DataError, match="colour"):
            GridDirectory.open(tmp_path)

    def test_what_is_no_number_has_no_value(self):
        grid = small_grid()
        for value in (None, "0.5", True, [0.5], float("nan"), float("inf")):
            assert grid.shown({"test_accuracy": value}) is None
        assert grid.shown({}) is None
        assert grid.shown({"test_accuracy": 0.25}) == 25.0


# --- what comes of the runs -----------------------------------------------------------------------


def filled(path="grid", accuracies=None, **given):
    """A grid whose runs are written by hand; None for a run that failed."""
    grid = small_grid(**given)
    directory = GridDirectory.create(Path(path), grid)
    for cell, accuracy in zip(grid.cells, accuracies, strict=False):
        folder = directory.prepare(cell)
        if accuracy is None:
            directory.fail(cell, "no light")
        else:
            results = {"test_accuracy": accuracy, "train_seconds": 10 * accuracy, "layers": [1]}
            write_json(folder / "results.json", results | {"rule": None, "engine": "native"})
    return directory


# Seeds 0, 1, 2 of ff-dd: 0.70, 0.80, 0.75; of ff-ad: 0.90, 0.94, failed.
GIVEN = [0.70, 0.90, 0.80, 0.94, 0.75, None]


def summary(directory):
    return summarise(directory.grid, runs_table(directory.grid, directory.outcomes()))


class TestResults:
    def test_mean_and_standard_deviation_are_those_computed_by_hand(self):
        table = summary(filled(accuracies=GIVEN))
        dd, ad = table.itertuples()
        assert list(table.index) == [("ff-dd", 2), ("ff-ad", 2)]
        assert (dd.mean, ad.mean) == (pytest.approx(75.0), pytest.approx(92.0))
        assert dd.sd == pytest.approx(5.0)  # sqrt((25 + 25 + 0) / 2)
        assert ad.sd == pytest.approx(8**0.5)  # sqrt((4 + 4) / 1)
        assert (dd.n, dd.cells, dd.failed) == (3, 3, 0)
        assert (ad.n, ad.cells, ad.failed) == (2, 3, 1)

    def test_the_csv_has_a_row_for_each_run_and_numbers_in_full(self):
        third = 1 / 3
        write_results(filled(accuracies=[third, *GIVEN[1:]]))
        table = rows("grid")
        assert list(table[0]) == [
            *("method", "meshes", "seed", "state"),
            *("test_accuracy", "train_seconds", "rule", "engine", "warnings"),
        ]
        assert float(table[0]["test_accuracy"]) == third
        assert [row["state"] for row in table] == ["done"] * 5 + ["failed"]
        assert [row["method"] for row in table] == ["ff-dd", "ff-ad"] * 3
        assert [row["seed"] for row in table] == [*"001122"]
        assert table[5]["test_accuracy"] == table[0]["rule"] == ""

    def test_the_table_shows_means_spreads_and_missing_runs_and_is_kept(self):
        text = write_results(filled(accuracies=GIVEN))
        assert Path("grid/table.txt").read_text() == text
        assert "| ff-dd  | 2      |     75.00 +- 5.00 |          3 |     7.5 |" in text
        assert "| ff-ad  | 2      |     92.00 +- 2.83 | 2/3 failed |     9.2 |" in text
        text = write_results(filled("one", accuracies=[0.5], cells=cells(seeds=[0])))
        assert "|             50.00 |   1 |" in text
        assert "|                 - | 0/1 |" in text

    def test_other_figures_keep_their_digits_and_labels_their_types(self):
        made = [Cell({"rate": rate}, cells()[0].plan) for rate in (0, 0.1)]
        given = {"factor": 1.0, "unit": "rad", "value": "train_seconds", "value_label": "error"}
        text = write_results(
            filled(accuracies=[1.23456e-4] * 2, cells=tuple(made), x="rate", curves=(), **given)
        )
        assert "error (rad)" in text
        assert "| 0    |    0.001235 |" in text
        assert "| 0.1  |    0.001235 |" in text

    def test_several_labels_tell_panels_apart(self):
        made = filled(accuracies=GIVEN, panels=("method", "meshes"), x="method", curves=())
        text = write_results(made)
        for cell in made.grid.cells:
            assert "method: {method}, meshes: {meshes}\n".format(**cell.labels) in text

    def test_no_line_is_longer_than_80_columns(self):
        label = "a rather long name of something"
        long = [
            Cell({"one": label, "two": f"{label} {i}", "three": label}, cell.plan)
            for i, cell in enumerate(cells())
        ]
        text = write_results(filled(accuracies=GIVEN, cells=tuple(long), x="one", curves=()))
        assert max(map(len, text.splitlines())) <= 80

    def test_a_damaged_results_file_is_no_result(self):
        directory = filled(accuracies=GIVEN)
        (directory.cell_path(directory.grid.cells[0]) / "results.json").write_text("{")
        assert directory.outcomes()[0].state == "stopped"


class TestFigure:
    def drawn(self, **given):
        directory = filled(**({"accuracies": GIVEN} | given))
        axes = Figure().subplots()
        plot_grid(axes, directory.grid, runs_table(directory.grid, directory.outcomes()))
        return axes

    def test_numbers_along_x_get_lines_through_the_means(self):
        grid_cells = cells(methods=["ff-dd"], meshes=(4, 1), seeds=(0, 1))
        axes = self.drawn(cells=grid_cells, accuracies=[0.6, 0.5, 0.8, 0.7])
        (bars,) = axes.containers
        np.testing.assert_allclose(bars[0].get_xydata(), [(1, 60), (4, 70)])
        sd = 200**0.5  # of 50 and 70, and of 60 and 80
        ends = [segment[:, 1] for segment in bars[2][0].get_segments()]
        np.testing.assert_allclose(ends, [(60 - sd, 60 + sd), (70 - sd, 70 + sd)])
        assert bars[0].get_linestyle() == "-"
        assert [text.get_text() for text in axes.get_xticklabels()] == ["4", "1"]

    def test_names_along_x_get_points_side_by_side(self):
        axes = self.drawn(x="method", curves=("meshes",))
        (bars,) = axes.containers
        np.testing.assert_allclose(bars[0].get_xydata(), [(0, 75), (1, 92)])
        assert bars[0].get_linestyle() == "None"
        assert [text.get_text() for text in axes.get_xticklabels()] == ["ff-dd", "ff-ad"]

    def test_every_run_shows_besides_the_mean(self):
        axes = self.drawn()
        dots = [line for line in axes.lines if line.get_marker() == "."]
        values = sorted(value for line in dots for value in line.get_ydata())
        np.testing.assert_allclose(values, [70, 75, 80, 90, 94])
        low, high = axes.get_ylim()
        assert low < 70
        assert high > 94

    def test_a_curve_looks_the_same_where_others_are_missing(self):
        """In a panel of its own the second curve keeps its colour."""
        directory, axes = filled(accuracies=GIVEN), Figure().subplots()
        runs = runs_table(directory.grid, directory.outcomes())
        plot_grid(axes, directory.grid, runs[runs["method"] == "ff-ad"])
        (alone,), both = axes.containers, self.drawn().containers[1]
        assert alone[0].get_color() == both[0].get_color()
        assert alone[0].get_marker() == both[0].get_marker()

    def test_points_of_curves_that_coincide_are_apart_on_the_page(self):
        axes = self.drawn(accuracies=[0.5] * 6)
        first, second = (bars[0] for bars in axes.containers)
        np.testing.assert_array_equal(first.get_xydata(), second.get_xydata())
        axes.figure.draw_without_rendering()
        places = [line.get_transform().transform(line.get_xydata())[0] for line in (first, second)]
        assert places[1][0] - places[0][0] > 2
        assert places[1][1] == places[0][1]

    def test_the_axes_say_what_they_are(self):
        axes = self.drawn(log_x=True, x_label="meshes in a row")
        assert axes.get_xlabel() == "meshes in a row"
        assert axes.get_ylabel() == "test accuracy (%)"
        assert axes.get_xscale() == "log"

    def test_a_gap_and_a_cross_stand_where_all_runs_failed(self):
        grid_cells = cells(methods=["ff-dd"], meshes=(1, 2, 4), seeds=(0,))
        directory = filled(cells=grid_cells, accuracies=[0.6, None, 0.8])
        runs, axes = runs_table(directory.grid, directory.outcomes()), Figure().subplots()
        runs.loc[runs["meshes"] == 2, "state"] = "failed"
        plot_grid(axes, directory.grid, runs)
        (bars,) = axes.containers
        np.testing.assert_allclose(bars[0].get_xydata(), [(1, 60), (2, np.nan), (4, 80)])
        (cross,) = (line for line in axes.lines if line.get_marker() == "x")
        assert cross.get_xdata() == [2]
        assert axes.get_ylim()[0] > 50  # the cross stands at the edge, not at a value

    def test_a_grid_of_failures_says_so(self):
        axes = self.drawn(accuracies=[None] * 6)
        assert [text.get_text() for text in axes.texts] == ["no finished runs"]

    @pytest.mark.pictures
    def test_it_is_written_with_a_panel_each(self):
        write_results(filled(accuracies=GIVEN))
        write_results(filled("two", accuracies=GIVEN, panels=("method",), curves=()))
        one, two = (imread(Path(name) / "figure.png") for name in ("grid", "two"))
        assert one.shape[0] == two.shape[0]
        assert one.shape[1] < two.shape[1]
        assert one[..., :3].std() > 0.05


# --- running --------------------------------------------------------------------------------------


class TestRunner:
    def test_every_cell_runs_once_and_its_results_come_back(self):
        console = Console(file=io.StringIO(), width=80, height=20, force_terminal=True)
        directory = run_grid(console=console)
        assert "6 of 6 cells" in console.file.getvalue()
        assert states(directory) == ["done"] * 6
        first, second = summary(directory).itertuples()
        assert (first.mean, first.sd) == (pytest.approx(80.0), pytest.approx(10.0))
        assert second.mean == pytest.approx(100.0)
        for outcome in directory.outcomes():
            assert len(start_times(outcome.directory)) == 1
            assert read_json(outcome.directory / "config.json") == outcome.cell.plan.as_json()

    @pytest.mark.parametrize(("jobs", "pause"), [(1, 0.02), (3, 0.3)])
    def test_no_more_run_at_a_time_than_asked_for(self, jobs, pause):
        directory = run_grid(command=fake(pause=pause), jobs=jobs)
        times = []
        for outcome in directory.outcomes():
            times += [
                (start_times(outcome.directory)[0], 1),
                (float((outcome.directory / "ends.txt").read_text()), -1),
            ]
        at_once = np.cumsum([change for _, change in sorted(times)])
        assert at_once.max() == jobs

    @pytest.mark.parametrize(("runs", "cores"), [(6, 9), (2, 8)])
    def test_children_share_the_cores(self, monkeypatch, runs, cores):
        """Two at a time because no more are asked for, or because there are no more."""
        for name in THREAD_VARIABLES:
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setattr(cluster, "available_cores", lambda: cores)
        grid = small_grid(cells=cells()[:runs])
        directory = run_grid(grid=grid, jobs=2 if runs > 2 else 8)
        environment = directory.outcomes()[0].results["environment"]
        assert {environment[name] for name in THREAD_VARIABLES} == {"4"}

    @pytest.mark.parametrize(
        ("threads", "given", "expected"),
        [(4, "", "4"), (1, "", "1"), (4, "2", "2"), (2, "64", "2"), (2, "0", "2")],
    )
    def test_threads_are_never_more_than_there_are(self, monkeypatch, threads, given, expected):
        monkeypatch.setenv("OMP_NUM_THREADS", given)
        assert thread_limits(threads)["OMP_NUM_THREADS"] == expected

    def test_an_error_after_the_results_is_no_failure(self):
        text = io.StringIO()
        directory = run_grid(command=fake("late"), console=Console(file=text))
        assert states(directory) == ["done"] * 6
        assert text.getvalue().count("done 70.00 %") == 1
        assert not list(Path("grid").glob("cells/*/failure.json"))

    @pytest.mark.parametrize(
        ("mode", "message"),
        [
            ("fail-ff-ad", "no light on port 3"),
            ("vanish-ff-ad", "ended with exit code 0 and no results.json"),
            ("crash-ff-ad", "killed by SIGKILL"),
            ("realtime-ff-ad", f"killed by signal {signal.SIGRTMIN + 3}"),
            ("vandal-ff-ad", "ended with exit code 3 and no results.json"),
            ("escape-ff-ad", r"\x1b[31mred\x07 \x9b2J"),
            ("text-ff-ad", "train_seconds must be a finite number, found 'fast'"),
        ],
    )
    def test_a_failing_cell_leaves_the_others_alone(self, mode, message):
        directory = run_grid(command=fake(mode))
        assert states(directory) == ["done", "failed"] * 3
        assert directory.outcomes()[1].message.endswith(message)
        assert "2      |                 - | 0/3 failed |       - |" in write_results(directory)
        assert [row["state"] for row in rows("grid")] == ["done", "failed"] * 3
        if mode == "fail-ff-ad":
            log = (directory.outcomes()[1].directory / "log.txt").read_text()
            assert log == "first line\nno light on port 3\n"

    @pytest.mark.parametrize(
        ("mode", "reason"), [("mortal", "killed by SIGKILL"), ("told", "stopped by SIGTERM")]
    )
    def test_a_cell_that_dies_goes_on_until_the_third_time(self, mode, reason):
        text = io.StringIO()
        directory = run_grid(command=fake(f"{mode}-ff-ad"), console=Console(file=text))
        assert states(directory) == ["done"] * 6
        starts = [len(start_times(outcome.directory)) for outcome in directory.outcomes()]
        assert starts == [1, 3] * 3
        assert read_json(directory.outcomes()[1].directory / "deaths.json") == {"count": 2}
        assert text.getvalue().count(f"ff-ad, meshes 2, seed 0: {reason}") == 2

    def test_deaths_are_counted_over_sessions_and_anew_after_a_failure(self):
        directory = filled(accuracies=[0.5, 0.5], cells=cells(seeds=[0]))
        _, cell = directory.grid.cells
        folder = directory.cell_path(cell)
        (folder / "results.json").unlink()
        assert [directory.count_death(cell) for _ in range(2)] == [1, 2]
        run_grid(command=fake("crash-ff-ad"))
        assert directory.outcome(cell).message == "died 3 times, at last killed by SIGKILL"
        assert len(start_times(folder)) == 1
        assert not (folder / "deaths.json").exists()

    def test_a_cell_whose_folder_or_log_cannot_be_written_fails_alone(self, tmp_path):
        directory = GridDirectory.create(Path("grid"), small_grid(cells=cells(seeds=[0, 1])))
        first, second, *_ = map(directory.cell_path, directory.grid.cells)
        first.parent.mkdir()
        first.touch()
        second.mkdir()
        (second / "log.txt").symlink_to(tmp_path / "precious")
        run_grid()
        assert states(directory) == ["waiting", "failed", "done", "done"]
        assert not (tmp_path / "precious").exists()
        assert "1/2 failed" in write_results(directory)

    def test_a_cell_that_starts_from_another_waits_for_it(self):
        first, second, third = cells(seeds=[0], methods=["ff-dd"], meshes=(1, 2, 3))
        chain = (first, replace(second, after=first.slug), replace(third, after=second.slug))
        directory = run_grid(grid=small_grid(cells=chain), command=fake(pause=0.05), jobs=3)
        assert states(directory) == ["done"] * 3
        folders = [outcome.directory for outcome in directory.outcomes()]
        for before, folder in pairwise(folders):
            assert start_times(folder)[0] > float((before / "ends.txt").read_text())
            assert read_json(folder / "config.json")["start_from"] == f"../{before.name}"

    def test_what_would_start_from_a_failed_cell_fails_too(self):
        first, second, third, _ = cells(["ff-ad", "ff-dd"], seeds=[0], meshes=(1, 2))
        chain = (first, replace(second, after=first.slug), replace(third, after=second.slug))
        directory = run_grid(grid=small_grid(cells=chain), command=fake("fail-ff-ad"))
        assert states(directory) == ["failed"] * 3
        assert directory.outcomes()[1].message == f"starts from {first.slug}, which failed"
        assert not (directory.outcomes()[1].directory / "starts.txt").exists()
        again = run_grid()
        assert [outcome.state for outcome in again.outcomes()] == ["done"] * 3

    def test_a_failed_cell_runs_again_the_next_time(self):
        run_grid(command=fake("fail-ff-ad"))
        directory = run_grid()
        assert states(directory) == ["done"] * 6
        starts = [len(start_times(outcome.directory)) for outcome in directory.outcomes()]
        assert starts == [1, 2] * 3

    def test_two_grids_are_never_at_work_in_one_directory(self, monkeypatch, capsys):
        monkeypatch.setattr(module, "CHILDREN_END", 0.0)
        GridDirectory.create(Path("grid"), small_grid())
        with Claim(Path("grid")):
            for flag in ("--resume", "--output"):
                with pytest.raises(SystemExit) as stop:
                    experiment([flag, "grid"])
                assert stop.value.code == 2
        errors = capsys.readouterr().err.splitlines()
        assert f"grid: another process (process {os.getpid()} on " in errors[0]
        assert "found files in grid" in errors[1]
        assert experiment(["--resume", "grid", "--quiet"]) == 0

    def test_an_error_here_leaves_no_child_behind(self, monkeypatch):
        def broken(self, progress):
            if len(list(Path("grid").glob("cells/*/starts.txt"))) == 2:
                raise OSError("No space left on device")

        monkeypatch.setattr(Runner, "_take_news", broken)
        with pytest.raises(OSError, match="No space left"):
            run_grid(command=fake(pause=10))
        assert not living(pids("grid"))


class TestProgress:
    def test_off_a_terminal_every_cell_gets_a_line(self):
        text = io.StringIO()
        run_grid(command=fake("fail-ff-ad"), console=Console(file=text, width=40), jobs=1)
        lines = text.getvalue().splitlines()
        assert len(lines) == 6
        assert re.fullmatch(r"\[1/6\] ff-dd, meshes 2, seed 0: done 70\.00 %, \d+ s", lines[0])
        assert "failed no light on port 3" in lines[1]

    @pytest.mark.parametrize("width", [60, 80])
    def test_on_a_terminal_it_fits_the_screen(self, width):
        console = Console(file=io.StringIO(), width=width, height=12, force_terminal=True)
        with GridProgress(console, cells=60, done=38) as progress:
            progress.ended("ff-ad, seed 9", "failed", "a [/long] reason", 10.0)
            name = "a [/long] name, " * 9
            progress.show(name, 0.25, "mesh 1, epoch 1, validation 90.00 %")
            progress.show("ff-dd, seed 3", 0.5, "mesh 1, epoch 2")
            progress.ended("ff-dd, seed 3", "done", "90.00 %", 4.0)
            progress.show(name, 0.75, "mesh 1, epoch 3, validation 90.00 %")
        text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", console.file.getvalue())
        lines = text.replace("\r", "").replace("left", "left\n").split("\n")
        assert max(map(len, lines)) <= width
        assert any(re.match(r"40 of 60 cells .* 1 failed .* left", line) for line in lines)
        assert any(
            re.match(r"a \[/long\].* mesh 1, epoch 3,( validation)? 90\.00 % +\d.*left", line)
            for line in lines
        )

    def test_a_running_cell_shows_its_epoch(self, tmp_path):
        (tmp_path / "history.csv").write_text(
            "mesh,epoch,loss,train_accuracy,validation_accuracy,forward_passes,phase_writes,epsilon,"
            "seconds\n1,2,0.5,0.5,0.5,10,1,,1\n2,1,0.4,0.5,0.875,20,2,,2\n"
        )
        plan = plan_for("digits", configure(meshes=2, epochs=4))
        share, figures = epochs_done(small_grid(), Cell({"method": "ff-dd"}, plan), tmp_path)
        assert share == 2 / 8  # of two meshes with four epochs each
        assert figures == "mesh 2, epoch 1, validation 87.50 %"
        assert epochs_done(small_grid(), cells()[0], tmp_path / "new") == (0.0, "")


# --- interrupted ----------------------------------------------------------------------------------


def start(*flags, steps=5, pause=0.02, mode="work"):
    """The grid in another process."""
    Path("driver.py").write_text(DRIVER.format(tests=str(Path(__file__).parent)))
    return subprocess.Popen(
        [sys.executable, "driver.py", *flags],
        env=os.environ | {"FAKE": f"{mode} {steps} {pause}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def pids(path):
    texts = [file.read_text() for file in Path(path).glob("cells/*/starts.txt")]
    return [int(line.split()[0]) for text in texts for line in text.splitlines()]


def living(numbers):
    """Those of some processes that run; zombies have ended."""
    found = []
    for number in numbers:
        try:
            state = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        found += [number] if state != "Z" else []
    return found


def wait_until(condition, seconds=120.0):
    end = time.perf_counter() + seconds
    while not condition() and time.perf_counter() < end:
        time.sleep(0.01)
    return condition()


def finished_files(path):
    """Inode and time of each result, which change if it is written again."""
    files = [*Path(path).glob("cells/*/results.json")]
    stats = {file: file.stat() for file in files}
    return {file: (stat.st_ino, stat.st_mtime_ns) for file, stat in stats.items()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The CSV of a grid that nothing stopped."""
    folder = tmp_path_factory.mktemp("whole") / "grid"
    assert experiment(["--output", str(folder), "--quiet", "--jobs", "2"]) == 0
    return but_seconds(folder)


needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="no /proc")


@needs_proc
@pytest.mark.parametrize(
    ("which", "code", "children_too"),
    [
        (signal.SIGINT, 130, False),
        (signal.SIGTERM, 143, True),  # as where a machine goes down
        *[
            pytest.param(*case, marks=pytest.mark.long)
            for case in ((signal.SIGTERM, 143, False), (signal.SIGKILL, -9, False))
        ],
    ],
)
def test_an_interrupted_grid_goes_on_to_the_same_csv(which, code, children_too, whole, capsys):
    process = start("--output", "grid", "--jobs", "2", steps=20)
    assert wait_until(lambda: len(pids("grid")) >= 4)
    for number in living(pids("grid")) if children_too else ():
        os.kill(number, which)
    process.send_signal(which)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == code
    if which != signal.SIGKILL:
        assert not living(pids("grid"))
        assert re.search(r"go on with: \S*python\S* \S*experiments/trial.py --resume grid", errors)
        assert "| ff-dd" in output  # the table of what there is
        assert {row["state"] for row in rows("grid")} == {"done", "stopped", "waiting"}
        signals = [file.read_text().split() for file in Path("grid").glob("cells/*/signals.txt")]
        assert {*map(tuple, signals)} == {(str(int(signal.SIGTERM)),)}  # each child once
    before = finished_files("grid")
    assert 0 < len(before) < 6
    assert experiment(["--resume", "grid", "--quiet", "--jobs", "2"]) == 0
    assert not living(pids("grid"))
    assert before.items() <= finished_files("grid").items()
    assert but_seconds("grid") == whole
    assert capsys.readouterr().err == ""


def test_a_cell_that_is_not_worth_it_saves_and_leaves_its_place_to_others():
    """So does one that starts from it; the rest of the grid is done."""
    first, second, third, _ = cells(seeds=(0, 1))
    trials = small_grid(cells=(second, replace(third, after=second.slug), first))
    saved = Path("grid/cells", second.slug, "model.npz").resolve()
    long, short = fake(steps=10**6, pause=0.02), fake()

    def command(folder):
        return (long if folder == saved.parent else short)(folder)

    directory = run_grid(
        grid=trials, command=command, worth=lambda cell: not (cell == second and saved.exists())
    )
    assert states(directory) == ["stopped", "waiting", "done"]
    assert saved.exists()
    assert states(run_grid()) == ["done"] * 3


@needs_proc
@pytest.mark.long
def test_a_second_signal_kills_what_does_not_listen():
    process = start("--output", "grid", "--jobs", "2", mode="stubborn", steps=1, pause=60)
    assert wait_until(lambda: len(pids("grid")) == 2)
    process.send_signal(signal.SIGTERM)
    assert wait_until(lambda: len(list(Path("grid").glob("cells/*/signals.txt"))) == 2)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 143
    assert not living(pids("grid"))


def children(process):
    """The numbers of a grid's children; none after its end."""
    with suppress(OSError):
        files = Path(f"/proc/{process.pid}/task").glob("*/children")  # of each of its threads
        return [int(number) for file in files for number in file.read_text().split()]
    return []


def kill_all(process):
    """Kill a grid and all of its children, as when the power fails."""
    for number in (process.pid, *children(process)):
        with suppress(ProcessLookupError):
            os.kill(number, signal.SIGKILL)


def goes_on_after_kills(begin, count, grid_of, expected):
    """Kill grids at random moments, some with their children; each must end in the same figures.

    Args:
        begin: From flags to the process of a grid.
        count: How many kills.
        grid_of: From the number of a grid to its directory.
        expected: The figures of a grid that nothing stopped.
    """
    rng, number, kills, duration = random.Random(GRID_SEED), 0, 0, math.inf
    while True:
        folder = grid_of(number)
        flag = "--resume" if Path(folder, "grid.json").exists() else "--output"
        process = begin(flag, folder)
        while not children(process) and process.poll() is None:
            time.sleep(0.01)  # imports and data take longer than the work that is to be hit
        started, last = time.perf_counter(), number == 0 or kills == count
        try:
            process.communicate(timeout=600 if last else rng.uniform(0, duration))
        except subprocess.TimeoutExpired:
            (kill_all if rng.random() < 0.5 else subprocess.Popen.kill)(process)
            process.communicate()
            kills += 1
            continue
        assert process.returncode == 0
        assert expected(folder) == expected(grid_of(0))
        if kills == count:
            return number + 1
        if flag == "--output":  # a whole grid; other processes may make the next one slower
            duration = time.perf_counter() - started
        number += 1


GRID_KILLS = int(os.environ.get("PHOTONIC_FFZERO_GRID_KILLS", "30"))
GRID_SEED = int(os.environ.get("PHOTONIC_FFZERO_SEED", "16"))


@needs_proc
@pytest.mark.long
def test_killed_at_any_moment_a_grid_goes_on_to_the_same_figures(whole):
    """PHOTONIC_FFZERO_GRID_KILLS sets how often."""

    def begin(*flags):
        return start(*flags, "--jobs", "2", steps=20)

    count = goes_on_after_kills(begin, GRID_KILLS, "grid-{}".format, but_seconds)
    print(f"{GRID_KILLS} kills of {count} grids, seed {GRID_SEED}")
    assert but_seconds("grid-0") == whole


# --- the command line -----------------------------------------------------------------------------

BAD = [
    (["--preset", "huge"], "argument --preset: must be one of small, paper; got 'huge'"),
    (["--dataset", "cifar"], "argument --dataset: must be one of digits, mnist; got 'cifar'"),
    (["--seeds", "0"], "argument --seeds: must be at least 1, got 0"),
    (["--epochs", "x"], "argument --epochs: must be a whole number from 1, got 'x'"),
    (["--limit", "0"], "argument --limit: must be at least 1, got 0"),
    (["--jobs", "0"], "argument --jobs: must be at least 1, got 0"),
    (["--dataset", "mnist", "--data-dir", "nowhere"], "nowhere"),
    (["--resume", "nowhere"], "argument --resume: must be a run's directory"),
    (["--resume", ".", "--epochs", "3"], "leave out --epochs"),
]


class TestCommandLine:
    @pytest.mark.parametrize(("flags", "message"), BAD, ids=[" ".join(flags) for flags, _ in BAD])
    def test_bad_input_is_one_line_exit_2_and_nothing_written(
        self, flags, message, capsys, elsewhere
    ):
        with pytest.raises(SystemExit) as stop:
            experiment(flags)
        errors = capsys.readouterr().err
        assert stop.value.code == 2
        assert message in errors
        assert errors.startswith("trial.py: error: ")
        assert errors.count("\n") == 1
        assert list(elsewhere.iterdir()) == []

    def test_where_runs_cannot_go_side_by_side_it_says_so(self, monkeypatch, capsys, elsewhere):
        monkeypatch.setattr(sys, "platform", "win32")
        with pytest.raises(SystemExit) as stop:
            experiment([])
        assert stop.value.code == 2
        assert "error: grids must run on Linux or macOS, " in capsys.readouterr().err
        assert list(elsewhere.iterdir()) == []

    @pytest.mark.parametrize(
        ("mode", "methods", "code"),
        [("work", ["ff-dd", "ff-ad"], 0), ("fail-ff-ad", ["ff-dd"], 1), ("fail-both", [], 1)],
    )
    def test_what_an_experiment_adds_is_made_of_the_runs_that_are_done(
        self, monkeypatch, tmp_path, mode, methods, code
    ):
        monkeypatch.setenv("FAKE", f"{mode} 1 0")
        found = []

        def finish(directory, data_dir):
            found.append(([cell.labels["method"] for cell in directory.done], data_dir))

        flags = ["--output", "grid", "--quiet", "--seeds", "1", "--data-dir", str(tmp_path)]
        assert experiment(flags, finish=finish) == code
        assert found == ([(methods, tmp_path)] if methods else [])

    def test_data_that_are_gone_at_the_end_cost_nothing_and_are_named(self, monkeypatch, capsys):
        monkeypatch.setenv("FAKE", "work 1 0")

        def finish(directory, data_dir):
            raise DataError("nowhere: must hold MNIST")

        assert experiment(["--output", "grid", "--quiet", "--seeds", "1"], finish=finish) == 1
        errors = capsys.readouterr().err
        assert errors == "trial.py: nowhere: must hold MNIST; what was saved is in grid\n"
        assert Path("grid/results.csv").exists()

    def test_flags_come_before_the_preset(self):
        flags = ["--seed", "4", "--seeds", "2", "--epochs", "7", "--limit", "99", "--quiet"]
        assert experiment([*flags, "--preset", "paper", "--output", "grid"]) == 0
        grid = GridDirectory.open(Path("grid")).grid
        assert [cell.seed for cell in grid.cells] == [4, 4, 5, 5]
        assert {cell.plan.config.epochs for cell in grid.cells} == {7}
        assert {cell.plan.limit for cell in grid.cells} == {99}
        assert (grid.name, grid.preset) == ("trial", "paper")
        assert grid.command == (
            "python experiments/trial.py --preset paper --seed 4 --seeds 2 --epochs 7 --limit 99"
        )

    def test_the_table_is_the_output_and_the_rest_is_not(self, capsys):
        assert experiment(["--output", "grid"]) == 0
        output, errors = capsys.readouterr()
        assert output == Path("grid/table.txt").read_text()
        assert errors.splitlines()[0] == "trial: preset small, 6 runs"
        assert errors.splitlines()[-1] == "results in grid"
        assert len(errors.splitlines()) == 1 + 6 + 1

    def test_failures_are_named_with_their_logs(self, monkeypatch, capsys):
        monkeypatch.setenv("FAKE", "fail-ff-dd 1 0")
        assert experiment(["--output", "grid", "--quiet", "--seeds", "1"]) == 1
        errors = capsys.readouterr().err.splitlines()
        log = Path("grid/cells/method-ff-dd_seed-0/log.txt")
        assert errors[0] == f"failed: ff-dd, seed 0: no light on port 3; see {log}"
        told, _, command = errors[1].partition(": ")
        assert told == "1 of 2 runs failed; try them again with"
        assert command.endswith("experiments/trial.py --resume grid")
        assert log.exists()

    def test_a_finished_grid_is_shown_again_and_not_run(self, capsys):
        experiment(["--output", "grid", "--quiet"])
        first, before = capsys.readouterr().out, finished_files("grid")
        assert experiment(["--resume", "grid"]) == 0
        again = capsys.readouterr()
        assert again.out == first
        assert again.err == "this grid was done already, its results are in grid\n"
        assert finished_files("grid") == before

    def test_a_finished_grid_takes_more_seeds(self, capsys):
        flags = ["--quiet", "--seed", "4", "--seeds"]
        experiment([*flags, "1", "--output", "grid"])
        experiment([*flags, "3", "--output", "whole"])
        before = finished_files("grid")
        assert experiment(["--resume", "grid", "--quiet", "--seeds", "3"]) == 0
        assert before.items() <= finished_files("grid").items()
        assert read_json(Path("grid/grid.json")) == read_json(Path("whole/grid.json"))
        assert [row["state"] for row in rows("grid")] == ["done"] * 6
        capsys.readouterr()
        with pytest.raises(SystemExit):
            experiment(["--resume", "grid", "--seeds", "2"])
        assert "argument --seeds must be at least the 3 of the grid, got 2" in (
            capsys.readouterr().err
        )

    def test_another_experiments_grid_is_refused(self, capsys):
        GridDirectory.create(Path("grid"), small_grid(name="other"))
        with pytest.raises(SystemExit):
            experiment(["--resume", "grid"])
        assert "argument --resume must name a grid of trial, found one of other in grid" in (
            capsys.readouterr().err
        )

    def test_a_data_set_that_was_looked_for_is_written_down(self, monkeypatch):
        from photonic_ffzero.data.datasets import load_dataset

        monkeypatch.setattr(module, "load_dataset", lambda *_, **__: load_dataset("digits"))
        automatic = lambda options: trial(replace(options, dataset="auto"))  # noqa: E731
        assert experiment(["--output", "grid", "--quiet"], {"small": automatic}) == 0
        grid = GridDirectory.open(Path("grid")).grid
        assert {cell.plan.dataset for cell in grid.cells} == {"digits"}

    def test_help_answers_before_the_heavy_libraries_are_loaded(self):
        code = "import sys, photonic_ffzero.cli.experiment; print(*sys.modules)"
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True
        )
        heavy = {*("tensorflow", "keras", "neurophox", "numba", "sklearn"), "matplotlib.pyplot"}
        assert not set(done.stdout.split()) & {*heavy, "pandas"}


# --- the real thing -------------------------------------------------------------------------------


def twins(options: Options) -> Grid:
    """The same run twice."""
    config = configure(epochs=60, batch_size=40, meshes=1, directions=2)
    plan = plan_for("digits", config, size=4, limit=200)
    return Grid(cells=tuple(Cell({"twin": name}, plan) for name in ("a", "b")), x="twin")


def drive(preset, *flags):
    """A grid of real runs in another process."""
    text = DRIVER.replace("None)", f"None, {{{{'small': {preset}}}}}, training_command)")
    text = text.replace("import experiment", f"import experiment, training_command, {preset}")
    Path("driver.py").write_text(text.format(tests=str(Path(__file__).parent)))
    return subprocess.Popen([sys.executable, "driver.py", *flags], stderr=subprocess.DEVNULL)


@needs_proc
@pytest.mark.long
def test_a_real_run_saves_when_the_grid_is_killed_and_ends_as_its_twin(monkeypatch):
    """SIGKILL the grid; its child saves and ends; the twin runs without a stop."""
    monkeypatch.setattr(module, "CHILDREN_END", 120.0)  # for busy machines
    process = drive("twins", "--output", "grid", "--jobs", "1")
    stopped, other = (Path(f"grid/cells/twin-{name}_seed-0") for name in ("a", "b"))
    assert wait_until((stopped / "model.npz").exists, 600)
    process.kill()
    process.wait()
    flags = ["--resume", "grid", "--quiet", "--jobs", "2"]
    assert experiment(flags, {"small": twins}, training_command) == 0
    assert "stopped, all is saved" in (stopped / "log.txt").read_text()
    assert "stopped" not in (other / "log.txt").read_text()
    here, there = (read_json(folder / "results.json") for folder in (stopped, other))
    assert {**here, "train_seconds": 0} == {**there, "train_seconds": 0}
    assert [row["state"] for row in rows("grid")] == ["done", "done"]


def pair(options: Options) -> Grid:
    """Two short runs."""
    config = configure(epochs=8, batch_size=40, meshes=1, directions=2)
    plan = plan_for("digits", config, size=4, limit=200)
    plans = {seed: replace(plan, config=replace(config, seed=seed)) for seed in (0, 1)}
    return Grid(cells=tuple(Cell({"of": "two"}, plan) for plan in plans.values()), x="of")


@needs_proc
@pytest.mark.long
def test_killed_at_any_moment_real_runs_go_on_to_the_same_figures():
    """A third of PHOTONIC_FFZERO_GRID_KILLS, as each takes some seconds."""

    def begin(*flags):
        return drive("pair", *flags, "--jobs", "2", "--quiet")

    count = goes_on_after_kills(begin, max(GRID_KILLS // 3, 1), "grid-{}".format, but_seconds)
    print(f"{max(GRID_KILLS // 3, 1)} kills of {count} grids, seed {GRID_SEED}")
