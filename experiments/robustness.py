"""Accuracy on imperfect chips over the imperfections' strengths, for four ways of training."""

import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from photonic_ffzero import configure
from photonic_ffzero.cli.experiment import Options, run_experiment
from photonic_ffzero.plots import curve_style, save_figure
from photonic_ffzero.runs import (
    Cell,
    Grid,
    GridDirectory,
    Label,
    RunDirectory,
    add_legend,
    plan_for,
)

DESCRIPTION = """
Does training survive the chip? Test accuracy on an imperfect chip against the strength
of each imperfection, for four ways of training: in silico by automatic differentiation
and then transferred; the same, and then fine-tuned on the chip by FF+DD; on the chip
from the start, by FF+DD (FFzero) or by BP+DD. Every seed is another chip, the same one
in training and test. read_noise adds Gaussian noise to every reading, source_noise
multiplies every amplitude; splitter_error, phase_offset and loss_imbalance_db are what
tells one device from the next. A second figure, convergence.png, shows the accuracy on
held-out images over the forward passes at every imperfection's greatest strength.
Preset mnist is the middle: four imperfections, two strengths each, on MNIST.
"""

# Every imperfection of `meshes.Imperfections`, its unit, and its strengths, weakest first.
STRENGTHS: Mapping[str, tuple[str, tuple[float, ...]]] = {
    "splitter_error": ("rad", (0.02, 0.05, 0.1, 0.2)),
    "phase_offset": ("rad", (0.05, 0.1, 0.2, 0.5)),
    "loss_imbalance_db": ("dB", (0.05, 0.1, 0.2, 0.5)),
    "crosstalk": ("share", (0.002, 0.005, 0.01, 0.02)),
    "drive_bits": ("bits", (8, 7, 6, 5)),
    "write_noise": ("rad", (0.002, 0.005, 0.01, 0.02)),
    "drift": ("rad an epoch^0.5", (0.001, 0.002, 0.005, 0.01)),
    "read_noise": ("of rms", (0.03, 0.1, 0.3)),
    "source_noise": ("of amplitude", (0.02, 0.05, 0.1, 0.2)),
}
SILICO = "in silico"
WAYS: Mapping[str, dict[str, Any]] = {
    "transferred": {"epochs": 0},
    "fine-tuned on chip": {},
    "FF+DD on chip": {"method": "ff-dd"},
    "BP+DD on chip": {"method": "bp-dd"},
}
STARTED = ("transferred", "fine-tuned on chip")  # from what was trained in silico


def robustness(
    options: Options,
    *,
    dataset: str,
    strengths: Mapping[str, Iterable[float]],
    seeds: int,
    tuning_epochs: int,
    **settings: Any,
) -> Grid:
    """Every way at every strength, and the ideal chip; all of them before the next seed."""
    (dataset,) = options.datasets_or(dataset)
    settings = options.settings_over(settings)
    tuning = {"epochs": options.epochs or tuning_epochs, "learning_rate": 0.02}
    ways = WAYS | {"fine-tuned on chip": tuning}
    cells: list[Cell] = []

    def add(labels: dict[str, Any], way: str, after: str = "", **changes: Any) -> Cell:
        plan = plan_for(dataset, configure(**(settings | changes)), limit=options.limit)
        cells.append(Cell(labels | {"trained": way}, plan, after))
        return cells[-1]

    for seed in options.seeds_or(seeds):
        ideal = {"imperfection": "none", "strength": "ideal"}
        silico = add(ideal, SILICO, method="ff-ad", directions=None, seed=seed)
        for way in (way for way in ways if way not in STARTED):
            add(ideal, way, seed=seed, **ways[way])
        for (labels, chip), (way, changes) in product(_chips(strengths), ways.items()):
            after = silico.slug if way in STARTED else ""
            add(labels, way, after, seed=seed, imperfections=chip, epsilon="auto", **changes)
    return Grid(
        cells=tuple(cells),
        x="strength",
        curves=("trained",),
        panels="imperfection",
        log_x=True,
        title="Robustness against a chip's imperfections",
    )


def _chips(strengths: Mapping[str, Iterable[float]]) -> Iterator[tuple[dict[str, Any], str]]:
    """Labels and specification of every imperfect chip."""
    for name, values in strengths.items():
        for value in values:
            labels = {"imperfection": f"{name} ({STRENGTHS[name][0]})", "strength": value}
            yield labels, f"{name}={value:g}"


def write_convergence(directory: GridDirectory, data_dir: Path | None) -> None:
    """Draw the accuracy on held-out images over the forward passes: convergence.png."""
    cells = directory.done
    strongest = {cell.labels["imperfection"]: cell.labels["strength"] for cell in cells}
    panels: dict[Label, dict[Label, list[np.ndarray]]] = {name: {} for name in strongest}
    for cell in cells:
        name, way = cell.labels["imperfection"], cell.labels["trained"]
        if cell.labels["strength"] == strongest[name] and cell.plan.config.epochs:
            panels[name].setdefault(way, []).append(_history(directory.cell_path(cell)))
    ways = dict.fromkeys(cell.labels["trained"] for cell in cells)  # as in the other figure
    styles = {way: curve_style(index) for index, way in enumerate(ways)}

    def draw(*every: Any) -> None:
        for axes, (name, curves) in zip(every, panels.items(), strict=True):
            for way, runs in curves.items():
                passes, accuracy = np.mean(runs, axis=0).T
                axes.plot(passes, 100 * accuracy, label=way, markersize=4, **styles[way])
            axes.set(xlabel="forward passes", ylabel="accuracy on held-out images (%)")
            axes.set_title(f"{name}: {strongest[name]}", fontsize="medium")
            axes.ticklabel_format(axis="x", style="sci", scilimits=(0, 0))
            axes.grid(alpha=0.3)
        add_legend(every)

    title = (
        "Convergence at every imperfection's greatest strength, mean over chips; "
        "curves drop where the next mesh begins"
    )
    save_figure(directory.path / "convergence.png", draw, panels=len(panels), title=title)


def _history(folder: Path) -> np.ndarray:
    """Forward passes and accuracy on held-out images after every epoch [epochs, 2]."""
    rows = RunDirectory(folder).read_history()
    return np.array([(row.forward_passes, row.validation_accuracy) for row in rows], float)


MNIST = partial(robustness, dataset="mnist", seeds=3, tuning_epochs=3)
PRESETS = {
    "small": partial(
        robustness,
        dataset="digits",
        seeds=2,
        epochs=20,
        directions=16,
        batch_size=32,
        tuning_epochs=4,
        strengths={
            "splitter_error": (0.05, 0.2),
            "phase_offset": (0.1, 0.5),
            "read_noise": (0.1, 0.3),
            "source_noise": (0.1, 0.3),
        },
    ),
    "mnist": partial(
        MNIST,
        strengths={
            "splitter_error": (0.05, 0.2),
            "phase_offset": (0.1, 0.5),
            "drive_bits": (8, 6),
            "read_noise": (0.1, 0.3),
        },
    ),
    "paper": partial(MNIST, strengths={name: values for name, (_, values) in STRENGTHS.items()}),
}

if __name__ == "__main__":
    sys.exit(run_experiment("robustness", DESCRIPTION, PRESETS, finish=write_convergence))
