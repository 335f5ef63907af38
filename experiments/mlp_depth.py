"""Accuracy of MLPs over depth and width with the four methods (the paper's figure 4)."""

import sys
from collections.abc import Iterable, Mapping
from functools import partial
from itertools import product
from types import MappingProxyType
from typing import Any

from photonic_ffzero.cli.experiment import Options, run_experiment
from photonic_ffzero.config import METHODS, configure
from photonic_ffzero.runs.grid import Cell, Grid, plan_for

DESCRIPTION = """
Train multilayer perceptrons of growing depth with the four methods. With directional
derivatives (dd) one global loss (bp) perturbs all layers at once, a local one (ff) each
layer alone, which is what the paper's figure 4 is about: does accuracy survive depth?
Preset deep is that question alone: ff-dd and bp-dd, 2 to 10 layers of width 100, MNIST.
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
    by_method: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
    **settings: Any,
) -> Grid:
    """Every method at every depth and width; all of them before the next seed."""
    axes = (options.seeds_or(seeds), options.datasets_or(*datasets), widths, depths, methods)
    cells = []
    for seed, dataset, width, depth, method in product(*axes):
        own = options.settings_over(settings | by_method.get(method, {}))
        config = configure("digital", method, depth=depth, width=width, seed=seed, **own)
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
    "small": partial(  # with higher rates: in so few steps the recipe's would hardly train
        depths, datasets=("digits",), depths=(1, 4), widths=(50,), seeds=2, batch_size=64,
        by_method={"bp-ad": {"learning_rate": 0.01}, "bp-dd": {"learning_rate": 0.1}},
    ),
    "deep": partial(  # one cosine a layer, as the paper has it
        depths, datasets=("mnist",), depths=(2, 4, 6, 8, 10), widths=(100,), seeds=3,
        methods=("ff-dd", "bp-dd"), epochs=20, directions=8,
        by_method={
            "ff-dd": {"learning_rate": 0.05, "norm_size": 0, "loss": "cross-entropy:scale=15"},
            "bp-dd": {"learning_rate": 0.01},
        },
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
