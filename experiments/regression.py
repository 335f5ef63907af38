"""Regression of f1, f2 and the digits' values, with MLPs and CNNs (the paper's figure 6)."""

import sys
from collections.abc import Iterable
from functools import partial
from itertools import product
from typing import Any

from photonic_ffzero.cli.experiment import Options, run_experiment
from photonic_ffzero.config import METHODS, configure
from photonic_ffzero.data.functions import FUNCTIONS
from photonic_ffzero.runs.grid import Cell, Grid, plan_for

DESCRIPTION = """
Learn numbers instead of classes: f1 = sin x0 + cos x1, f2 = exp(x0) sin x1 + x2 cos x3
- x4 x0, and the digit that an image shows as a number from 0 to 9. Two antipodal
prototypes stand for the ends of the scale, and the last layer's goodness is the
prediction. The paper shows this in figure 6. The small preset's CNN takes ff-dd's
directions among the activations, all else among the weights.
"""

FUNCTION_SETTINGS = {"batch_size": 64, "epochs": 30}
DIGITS_CNN = {"batch_size": 64, "kernel_size": 3}  # 8 x 8 pixels
DIGITS_CNN_BY_METHOD = {
    "ff-dd": {"perturb": "activations", "epochs": 20},
    "bp-dd": {"directions": 8},
}


def regressions(
    options: Options,
    *,
    targets: Iterable[tuple[str, str]],
    seeds: int,
    methods: Iterable[str] = METHODS,
    limit: int | None = None,
    **settings: Any,
) -> Grid:
    """Every method on every pair of data set and network; all of them before the next seed."""
    pairs = [pair for pair in targets if options.dataset in (None, pair[0])]
    if not pairs:
        known = ", ".join(dict.fromkeys(dataset for dataset, _ in targets))
        raise ValueError(f"dataset must be one of {known} in this preset, got {options.dataset}")
    cells = []
    for seed, (dataset, network), method in product(options.seeds_or(seeds), pairs, methods):
        own = options.settings_over(settings | _settings(dataset, network, method))
        config = configure("digital", method, task="regression", network=network, seed=seed, **own)
        labels = {"target": f"{dataset} {network}", "method": method}
        cells.append(Cell(labels, plan_for(dataset, config, limit=options.limit or limit)))
    return Grid(
        cells=tuple(cells),
        x="target",
        curves=("method",),
        value="test_r2",
        value_label="test R²",
        unit="",
        factor=1.0,
        title="Regression",
    )


def _settings(dataset: str, network: str, method: str) -> dict[str, Any]:
    """What a target has instead of the recipe's values."""
    if dataset in FUNCTIONS:
        return FUNCTION_SETTINGS
    if (dataset, network) == ("digits", "cnn"):
        return DIGITS_CNN | DIGITS_CNN_BY_METHOD.get(method, {})
    return {}


PRESETS = {
    "small": partial(
        regressions,
        targets=(("f1", "mlp"), ("f2", "mlp"), ("digits", "cnn")),
        seeds=1,
        limit=1000,
    ),
    "paper": partial(
        regressions,
        targets=(("f1", "mlp"), ("f2", "mlp"), ("mnist", "mlp"), ("mnist", "cnn")),
        seeds=3,
    ),
}

if __name__ == "__main__":
    names = ("f1", "f2", "digits", "mnist")
    sys.exit(run_experiment("regression", DESCRIPTION, PRESETS, datasets=names))
