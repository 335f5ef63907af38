"""Regression of f1, f2 and the digits' values, with MLPs and CNNs (the paper's figure 6)."""

import sys
from collections.abc import Iterable
from functools import partial
from typing import Any

from photonic_ffzero import METHODS
from photonic_ffzero.cli.experiment import Options, grid_of, run_experiment
from photonic_ffzero.runs import Grid

DESCRIPTION = """
Learn numbers instead of classes: f1 = sin x0 + cos x1, f2 = exp(x0) sin x1 + x2 cos x3
- x4 x0, and the digit that an image shows as a number from 0 to 9. Two antipodal
prototypes stand for the ends of the scale, and the last layer's goodness is the
prediction. The paper shows this in figure 6. The small preset's CNN takes ff-dd's
directions among the activations, all else among the weights.
"""

FUNCTION = {"batch_size": 64, "epochs": 30}
SETTINGS: dict[tuple[str, str], dict[str, Any]] = {
    ("f1", "mlp"): FUNCTION,
    ("f2", "mlp"): FUNCTION,
    ("digits", "cnn"): {"batch_size": 64, "kernel_size": 3},  # 8 x 8 pixels
}
DIGITS_CNN_BY_METHOD = {
    "ff-dd": {"perturb": "activations", "epochs": 20},
    "bp-dd": {"directions": 8},
}


def regressions(options: Options, *, targets: Iterable[tuple[str, str]], **preset: Any) -> Grid:
    """Every method on every pair of data set and network."""
    pairs = [pair for pair in targets if options.dataset in (None, pair[0])]
    if not pairs:
        known = ", ".join(dict.fromkeys(dataset for dataset, _ in targets))
        raise ValueError(f"dataset must be one of {known} in this preset, got {options.dataset}")
    points = [
        (
            {"target": f"{dataset} {network}", "method": method},
            {"recipe": "digital", "method": method, "task": "regression"}
            | {"dataset": dataset, "network": network}
            | _settings(dataset, network, method),
        )
        for dataset, network in pairs
        for method in METHODS
    ]
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


def _settings(dataset: str, network: str, method: str) -> dict[str, Any]:
    """What a target has instead of the recipe's values."""
    settings = SETTINGS.get((dataset, network), {})
    if (dataset, network) == ("digits", "cnn"):
        return settings | DIGITS_CNN_BY_METHOD.get(method, {})
    return settings


FUNCTIONS = (("f1", "mlp"), ("f2", "mlp"))
PRESETS = {
    "small": partial(regressions, targets=(*FUNCTIONS, ("digits", "cnn")), seeds=1, limit=1000),
    "paper": partial(
        regressions, targets=(*FUNCTIONS, ("mnist", "mlp"), ("mnist", "cnn")), seeds=3
    ),
}

if __name__ == "__main__":
    names = ("f1", "f2", "digits", "mnist")
    sys.exit(run_experiment("regression", DESCRIPTION, PRESETS, datasets=names))
