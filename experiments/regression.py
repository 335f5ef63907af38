"""Regression of f1, f2 and the digits' values, with MLPs and CNNs (the paper's figure 6).

Learn numbers instead of classes: f1 = sin x0 + cos x1, f2 = exp(x0) sin x1 + x2 cos x3
- x4 x0, and the digit that an image shows as a number from 0 to 9. Two antipodal
prototypes stand for the ends of the scale, and the last layer's goodness is the
prediction. The paper shows this in figure 6. The CNNs of the presets small
and medium take ff-dd's directions among the activations, all else among the weights.
"""

import sys
from collections.abc import Mapping
from functools import partial
from itertools import product
from typing import Any

from photonic_ffzero import METHODS
from photonic_ffzero.cli.experiment import Options, grid_of, run_experiment
from photonic_ffzero.runs import Grid

# Data set and network of each target, with what it has instead of the recipe's values.
Targets = Mapping[tuple[str, str], Mapping[str, Any]]
FUNCTION = {"batch_size": 64, "epochs": 30}
FUNCTIONS: Targets = {("f1", "mlp"): FUNCTION, ("f2", "mlp"): FUNCTION}
DIGITS: Targets = {
    ("digits", "cnn"): {
        "batch_size": 64,
        "kernel_size": 3,  # of 8 x 8 pixels
        "by_method": {
            "ff-dd": {"perturb": "activations", "epochs": 20},
            "bp-dd": {"directions": 8},
        },
    },
}
MNIST: Targets = {("mnist", "mlp"): {}, ("mnist", "cnn"): {}}
MNIST_IN_HOURS: Targets = {
    ("mnist", "mlp"): {},
    ("mnist", "cnn"): {
        "epochs": 5,
        "by_method": {
            "ff-dd": {"perturb": "activations"},
            "bp-dd": {"directions": 8, "epochs": 3, "learning_rate": 0.001},
            "bp-ad": {"learning_rate": 0.003},
        },
    },
}


def regressions(options: Options, *, targets: Targets, **preset: Any) -> Grid:
    """Every method on every pair of data set and network."""
    pairs = [pair for pair in targets if options.dataset in (None, pair[0])]
    if not pairs:
        known = ", ".join(dict.fromkeys(dataset for dataset, _ in targets))
        raise ValueError(f"dataset must be one of {known} in this preset, got {options.dataset}")
    points = []
    for (dataset, network), method in product(pairs, METHODS):
        settings = {"recipe": "digital", "task": "regression", "dataset": dataset}
        settings |= {"network": network, "method": method, **targets[dataset, network]}
        settings |= settings.pop("by_method", {}).get(method, {})
        points.append(({"target": f"{dataset} {network}", "method": method}, settings))
    return grid_of(
        options,
        points,
        x="target",
        curves=("method",),
        value="test_r2",
        value_label="test R²",
        unit="",
        factor=1.0,
        title="Regression",
        **preset,
    )


PRESETS = {
    "small": partial(regressions, targets={**FUNCTIONS, **DIGITS}, seeds=1, limit=1000),
    "medium": partial(regressions, targets={**FUNCTIONS, **MNIST_IN_HOURS}, seeds=2),
    "paper": partial(regressions, targets={**FUNCTIONS, **MNIST}, seeds=3),
}

if __name__ == "__main__":
    names = ("f1", "f2", "digits", "mnist")
    sys.exit(run_experiment("regression", __doc__, PRESETS, datasets=names))
