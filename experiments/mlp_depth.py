"""Accuracy of MLPs over depth and width with the four methods (the paper's figure 4)."""

import sys
from collections.abc import Iterable, Mapping
from functools import partial
from itertools import product
from types import MappingProxyType
from typing import Any

from photonic_ffzero.experiment import Options, run_experiment
from photonic_ffzero.grid import Cell, Grid, plan_for
from photonic_ffzero.recipes import METHODS, configure

DESCRIPTION = """
Train multilayer perceptrons of growing depth with the four methods. With directional
derivatives (dd) one global loss (bp) perturbs all layers at once, a local one (ff) each
layer alone, which is what the paper's figure 4 is about: does accuracy survive depth?
"""


def depths(
    options: Options,
    *,
    datasets: tuple[str, ...],
    depths: Iterable[int],
    widths: Iterable[int],
    seeds: int,
    methods: Iterable[str] = METHODS,
    limit: int | None = None,
    learning_rates: Mapping[str, float] = MappingProxyType({}),
    **settings: Any,
) -> Grid:
    """Every method at every depth and width; all of them before the next seed."""
    settings = options.settings_over(settings)
    axes = (options.seeds_or(seeds), options.datasets_or(*datasets), widths, depths, methods)
    cells = []
    for seed, dataset, width, depth, method in product(*axes):
        own = settings | {"depth": depth, "width": width, "seed": seed}
        config = configure("digital", method, learning_rate=learning_rates.get(method), **own)
        labels = {"dataset": dataset, "width": width, "depth": depth, "method": method}
        cells.append(Cell(labels, plan_for(dataset, config, limit=options.limit or limit)))
    return Grid(
        cells=tuple(cells),
        x="depth",
        curves=("method", "width"),
        panels="dataset",
        x_label="layers",
        title="MLPs over depth",
    )


PRESETS = {
    "small": partial(  # with faster rates where so few steps would show nothing but their number
        depths, datasets=("digits",), depths=(1, 3, 5), widths=(50,), seeds=2, batch_size=64,
        learning_rates={"bp-ad": 0.01, "bp-dd": 0.1},
    ),
    "deep": partial(
        depths, datasets=("mnist",), depths=(2, 4, 6, 8, 10), widths=(100,), seeds=3,
        methods=("ff-dd", "bp-dd"), epochs=20, directions=8,
        learning_rates={"ff-dd": 0.05, "bp-dd": 0.01},
    ),
    "paper": partial(
        depths,
        datasets=("mnist", "fashion-mnist"),
        depths=range(1, 11),
        widths=(10, 50, 100),
        seeds=3,
    ),
}  # fmt: skip

if __name__ == "__main__":
    names = ("digits", "mnist", "fashion-mnist")
    sys.exit(run_experiment("mlp_depth", DESCRIPTION, PRESETS, datasets=names))
