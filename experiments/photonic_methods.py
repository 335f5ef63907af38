"""The four methods on the photonic network, over data sets and depths (the paper's figure 7b)."""

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
Compare the four methods on the photonic network, depth by depth: every mesh has its
own loss (ff) or all share the last one's (bp), and gradients come from directional
derivatives, that is from forward passes alone (dd), or from automatic differentiation
(ad). ff-dd is FFzero. The paper shows this in figure 7b.
"""


def methods(
    options: Options,
    *,
    datasets: tuple[str, ...],
    depths: Iterable[int],
    seeds: int,
    limit: int | None = None,
    by_method: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
    **settings: Any,
) -> Grid:
    """Every method at every depth on every data set; all of them before the next seed."""
    axes = (options.seeds_or(seeds), options.datasets_or(*datasets), depths, METHODS)
    cells = []
    for seed, dataset, meshes, method in product(*axes):
        own = options.settings_over(settings | by_method.get(method, {}))
        config = configure("balanced", method, meshes=meshes, seed=seed, **own)
        labels = {"dataset": dataset, "meshes": meshes, "method": method}
        cells.append(Cell(labels, plan_for(dataset, config, limit=options.limit or limit)))
    return Grid(
        cells=tuple(cells),
        x="meshes",
        curves=("method",),
        panels="dataset",
        x_label="meshes in a row",
        title="Four methods on the photonic network",
    )


PRESETS = {
    "small": partial(
        methods, datasets=("digits",), depths=(1, 2), seeds=2, epochs=20, batch_size=32,
        by_method={"ff-dd": {"directions": 16}, "bp-dd": {"directions": 16}},
    ),
    "paper": partial(methods, datasets=("mnist", "fashion-mnist"), depths=(1, 2, 3, 4), seeds=3),
}  # fmt: skip

if __name__ == "__main__":
    names = ("digits", "mnist", "fashion-mnist")
    sys.exit(run_experiment("photonic_methods", DESCRIPTION, PRESETS, datasets=names))
