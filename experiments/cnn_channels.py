"""Accuracy of CNNs over the channels of their convolutions (the paper's figure 5)."""

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
Train two convolutions and a dense layer with the four methods, for some numbers of
channels. Under a local loss (ff) every channel has prototypes and a loss of its own, so
that one pair of forward passes serves all of them; the paper shows this in figure 5.
The small preset takes ff-dd's directions among the activations: its images are too few
to find a way among the weights, where bp-dd and the paper grid take them.
"""


def channels(
    options: Options,
    *,
    datasets: tuple[str, ...],
    counts: Iterable[int],
    seeds: int,
    methods: Iterable[str] = METHODS,
    limit: int | None = None,
    by_method: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
    **settings: Any,
) -> Grid:
    """Every method with every number of channels; all of them before the next seed."""
    axes = (options.seeds_or(seeds), options.datasets_or(*datasets), counts, methods)
    cells = []
    for seed, dataset, count, method in product(*axes):
        own = options.settings_over(settings | by_method.get(method, {}))
        config = configure("digital", method, network="cnn", channels=count, seed=seed, **own)
        labels = {"dataset": dataset, "channels": count, "method": method}
        cells.append(Cell(labels, plan_for(dataset, config, limit=options.limit or limit)))
    return Grid(
        cells=tuple(cells),
        x="channels",
        curves=("method",),
        panels="dataset",
        x_label="channels a convolution",
        log_x=True,
        title="CNNs over channels",
    )


PRESETS = {
    "small": partial(  # with higher rates: in so few steps the recipe's would hardly train
        channels, datasets=("digits",), counts=(4, 16), seeds=1, kernel_size=3, batch_size=64,
        by_method={
            "ff-dd": {"perturb": "activations", "epochs": 20, "norm_size": 0},
            "ff-ad": {"norm_size": 0},
            "bp-dd": {"directions": 16, "learning_rate": 0.05},
            "bp-ad": {"learning_rate": 0.01},
        },
    ),
    "paper": partial(channels, datasets=("mnist", "fashion-mnist"), counts=(4, 8, 16), seeds=3),
}  # fmt: skip

if __name__ == "__main__":
    names = ("digits", "mnist", "fashion-mnist")
    sys.exit(run_experiment("cnn_channels", DESCRIPTION, PRESETS, datasets=names))
