"""Training on the chip of Sawada et al.: their protocol and ours, accuracy against passes.

How much does a chip learn from every sample that is sent through it? The chip is that of
Sawada, Aoyama and Notomi (AAAI 2025, imperfections ntt-2025), the inputs are the lowest
Fourier bins. Their protocol: one loss after the last mesh, read out at the central
ports, modReLU, one-sided differences along as many directions as ports, normal
(differences) or layered. Ours: local losses from prototypes, by central differences, by
light cones, and by a twin of the chip. The bounds are automatic differentiation that
knows the chip's errors. Every way starts from scratch, and from a network that was
trained on the ideal mesh (transferred). A second figure, passes.png, shows the accuracy
on held-out images against the passes; a pass is one sample through one mesh, and the
upper axis counts the whole network. Every seed is another chip.
"""

import sys
from collections.abc import Mapping
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from photonic_ffzero import configure
from photonic_ffzero.cli.experiment import Options, run_experiment
from photonic_ffzero.plots import curve_style, plot_band, save_figure
from photonic_ffzero.runs import Cell, Grid, GridDirectory, add_legend, plan_for

CHIP, MESHES = {"imperfections": "ntt-2025"}, 2
SCRATCH, TRANSFERRED = "scratch", "transferred"

# The two protocols. Loss and rates were chosen on 2,000 held-out images of MNIST, after 3 to 5
# epochs of 10,000 others at 16 ports; the rate of cones lies between the best there (0.1) and that
# of recipe balanced for 64 ports (0.01), the others of ours are the recipe's.
THEIRS = {"nonlinearity": "modrelu", "readout": "central-ports", "loss": "cross-entropy:scale=10"}
THEIRS |= {"batch_size": 100, "optimizer": "adam", "learning_rate": 0.03}
ONE_SIDED = THEIRS | {"method": "bp-dd", "estimator": "forward"}
AD: dict[str, dict[str, Any]] = {
    "theirs": THEIRS | {"method": "bp-ad"},
    "ours": {"method": "ff-ad"},
}


class Way(NamedTuple):
    """A way of training on the chip.

    Attributes:
        protocol: ``theirs`` or ``ours``.
        settings: How it differs from recipe balanced; with a law, directions are as many as ports.
        tuning: What differs further if it starts from a trained network.
    """

    protocol: str
    settings: dict[str, Any]
    tuning: dict[str, Any]


SLOW = {"learning_rate": 0.01}
CONES = {"method": "ff-dd", "estimator": "cones", "learning_rate": 0.03}
METHODS = {
    "BP differences": Way("theirs", ONE_SIDED | {"law": "gaussian"}, SLOW),
    "BP layered": Way("theirs", ONE_SIDED | {"law": "layered"}, SLOW),
    "BP known errors": Way("theirs", AD["theirs"], SLOW),
    "FF differences": Way("ours", {"method": "ff-dd"}, {"learning_rate": 0.02}),
    "FF cones": Way("ours", CONES, SLOW),
    "FF known errors": Way("ours", AD["ours"], {}),
    "FF twin": Way("ours", {"method": "ff-dd", "estimator": "twin"}, {}),
}


def in_situ(
    options: Options,
    *,
    datasets: tuple[str, ...],
    ports: tuple[int, ...],
    seeds: int,
    silico_epochs: int,
    epochs: Mapping[str, int],
    limit: int | None = None,
    **settings: Any,
) -> Grid:
    """Every method from scratch and transferred, all of them before the next seed.

    Args:
        options: What the user asked for.
        datasets: The data sets.
        ports: Ports of the meshes, as many as bins.
        seeds: How many seeds; each has another chip.
        silico_epochs: Epochs on the ideal mesh before a transfer.
        epochs: Epochs on the chip by protocol; those of ours are for each mesh.
        limit: Training images.
        **settings: Settings of all runs.
    """
    cells: list[Cell] = []
    for seed, dataset, units in product(
        options.seeds_or(seeds), options.datasets_or(*datasets), ports
    ):
        add = partial(_cell, options, dataset, units, seed, limit)
        for protocol, exact in AD.items():
            silico = exact | {"epochs": silico_epochs} | settings
            cells.append(add(f"in silico, {protocol}", "ideal", silico))
        trained = dict(zip(AD, (cell.slug for cell in cells[-len(AD) :]), strict=True))
        for (name, way), start in product(METHODS.items(), (SCRATCH, TRANSFERRED)):
            chosen = way.settings | CHIP | {"epochs": epochs[way.protocol]} | settings
            if "law" in chosen:
                chosen["directions"] = units
            after = trained[way.protocol] if start == TRANSFERRED else ""
            cells.append(add(name, start, chosen | (way.tuning if after else {}), after))
    return Grid(
        cells=tuple(cells),
        x="ports",
        curves=("method", "start"),
        panels=("dataset",),
        title="Training on the chip of Sawada et al.",
    )


def _cell(
    options: Options,
    dataset: str,
    units: int,
    seed: int,
    limit: int | None,
    name: str,
    start: str,
    settings: Mapping[str, Any],
    after: str = "",
) -> Cell:
    chosen = options.settings_over(settings) | {"seed": seed, "meshes": MESHES}
    plan = plan_for(
        dataset,
        configure(**chosen),
        limit=options.limit or limit,
        encoding="fourier-bins",
        size=units,
    )
    labels = {"dataset": dataset, "ports": units, "method": name, "start": start}
    return Cell(labels, plan, after)


def write_passes(directory: GridDirectory, data_dir: Path | None) -> None:
    """Draw the accuracy on held-out images over the passes: passes.png."""
    cells = [cell for cell in directory.done if cell.labels["start"] != "ideal"]
    panels = list(dict.fromkeys(_panel(cell) for cell in cells))
    if not panels:
        return

    def draw(*axes: Any) -> None:
        for plot, panel in zip(axes, panels, strict=True):
            plot.sharey(axes[0])
            for index, name in enumerate(METHODS):
                runs = [c for c in cells if (_panel(c), c.labels["method"]) == (panel, name)]
                if runs:
                    _draw_runs(plot, index, name, [directory.learning_curve(c) for c in runs])
            plot.set(xscale="log", xlabel="passes through a mesh")
            plot.set_ylabel("accuracy on held-out images (%)")
            plot.set_title("{}, {} ports, {}".format(*panel), fontsize="medium")
            network_axis = plot.secondary_xaxis("top", (lambda n: n / MESHES, lambda n: n * MESHES))
            network_axis.set_xlabel("passes through the network", fontsize="small")
            network_axis.tick_params(which="minor", labeltop=False)  # they would overlap
            plot.grid(alpha=0.3)
        add_legend(axes)

    title = (
        "Accuracy against passes on the chip, mean and range over chips; local curves (FF) drop "
        "where the next mesh begins; known errors: the end of a training in silico"
    )
    save_figure(directory.path / "passes.png", draw, panels=len(panels), title=title)


def _panel(cell: Cell) -> tuple[Any, ...]:
    return tuple(cell.labels[name] for name in ("dataset", "ports", "start"))


def _draw_runs(axes: Any, index: int, name: str, histories: list[np.ndarray]) -> None:
    """The mean of some runs in a band from the least to the greatest; bounds as a level."""
    style = curve_style(index)
    rows = min(history.shape[1] for history in histories)
    passes, *_ = np.mean([history[:, :rows] for history in histories], axis=0)
    accuracy = np.stack([history[1, :rows] for history in histories])
    if name.endswith("known errors"):  # its passes are computed, not sent
        axes.axhline(accuracy[:, -1].mean(), color=style["color"], linestyle=":", label=name)
        return
    plot_band(axes, passes, accuracy, label=name, markersize=4, **style)


IMAGES = ("mnist", "fashion-mnist")
PRESETS = {
    "small": partial(
        in_situ,
        datasets=("digits",),
        ports=(16,),
        seeds=2,
        silico_epochs=10,
        epochs={"theirs": 20, "ours": 10},
        batch_size=32,
    ),
    "medium": partial(
        in_situ,
        datasets=IMAGES,
        ports=(16, 64),
        seeds=1,
        silico_epochs=5,
        epochs={"theirs": 10, "ours": 5},
    ),
    "full": partial(
        in_situ,
        datasets=IMAGES,
        ports=(16, 32, 64),
        seeds=8,
        silico_epochs=10,
        epochs={"theirs": 100, "ours": 10},
    ),
}

if __name__ == "__main__":
    sys.exit(run_experiment("in_situ", __doc__, PRESETS, finish=write_passes))
