"""Accuracy on imperfect chips over the imperfections' strengths, for four ways of training.

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

import sys
from collections.abc import Iterable, Mapping
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
    add_legend,
    plan_for,
)

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
# Ways of training and what their settings change. The first one is on the ideal chip, where two
# others start on imperfect ones; the last two are on every chip.
SILICO, STARTED = "in silico", ("transferred", "fine-tuned on chip")
WAYS: Mapping[str, dict[str, Any]] = {
    SILICO: {"method": "ff-ad", "directions": None},
    "transferred": {"epochs": 0},
    "fine-tuned on chip": {"learning_rate": 0.02},
    "FF+DD on chip": {"method": "ff-dd"},
    "BP+DD on chip": {"method": "bp-dd"},
}


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
    tuning = {"epochs": options.epochs or tuning_epochs}
    ways = WAYS | {"fine-tuned on chip": WAYS["fine-tuned on chip"] | tuning}
    chips = [("none", "ideal", {})]
    for name, values in strengths.items():
        label = f"{name} ({STRENGTHS[name][0]})"
        for value in values:
            chips.append((label, value, {"imperfections": f"{name}={value:g}", "epsilon": "auto"}))
    cells: list[Cell] = []
    silico: dict[int, str] = {}  # slug of the run in silico, by seed
    for seed, chip, way in product(options.seeds_or(seeds), chips, ways):
        name, strength, imperfect = chip
        if way in ((SILICO,) if imperfect else STARTED):
            continue
        config = configure(**(settings | imperfect | ways[way]), seed=seed)
        labels = {"imperfection": name, "strength": strength, "trained": way}
        plan = plan_for(dataset, config, limit=options.limit)
        cells.append(Cell(labels, plan, silico[seed] if way in STARTED else ""))
        silico.setdefault(seed, cells[-1].slug)
    return Grid(
        cells=tuple(cells),
        x="strength",
        curves=("trained",),
        panels=("imperfection",),
        log_x=True,
        title="Robustness against a chip's imperfections",
    )


def write_convergence(directory: GridDirectory, data_dir: Path | None) -> None:
    """Draw the accuracy on held-out images over the forward passes: convergence.png."""
    cells = directory.done
    strongest = {cell.labels["imperfection"]: cell.labels["strength"] for cell in cells}
    ways = list(dict.fromkeys(cell.labels["trained"] for cell in cells))  # as in the other figure
    histories: dict[tuple[Label, ...], list[np.ndarray]] = {}
    for cell in cells:
        if cell.plan.config.epochs:
            curve = directory.learning_curve(cell)
            histories.setdefault((*cell.labels.values(),), []).append(curve)

    def draw(*panels: Any) -> None:
        for axes, chip in zip(panels, strongest.items(), strict=True):
            axes.sharey(panels[0])
            for index, way in enumerate(ways):
                if runs := histories.get((*chip, way)):
                    passes, accuracy = np.mean(runs, axis=0)
                    style = curve_style(index)
                    axes.plot(passes, accuracy, label=way, markersize=4, **style)
            axes.set(xlabel="forward passes", ylabel="accuracy on held-out images (%)")
            axes.set_title("{}: {}".format(*chip), fontsize="medium")
            axes.ticklabel_format(axis="x", style="sci", scilimits=(0, 0))
            axes.grid(alpha=0.3)
        add_legend(panels)

    title = (
        "Convergence at every imperfection's greatest strength, mean over chips; "
        "curves drop where the next mesh begins"
    )
    save_figure(directory.path / "convergence.png", draw, panels=len(strongest), title=title)


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
    sys.exit(run_experiment("robustness", __doc__, PRESETS, finish=write_convergence))
