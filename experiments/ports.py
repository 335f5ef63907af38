"""Accuracy over the number of ports: how the cost of learning grows with the mesh.

Train one square mesh on images of 4 x 4 to 28 x 28 pixels, one port a pixel: by central
differences, by light cones, and by automatic differentiation as the bound. In one panel all
runs have as many epochs, so that differences and cones have as many forward passes; in the
other all take about as long, so that narrow meshes, which are fast, have more epochs. The
table shows the seconds that each run took.
"""

import sys
from collections.abc import Mapping
from functools import partial
from typing import Any

from photonic_ffzero.cli.experiment import Options, grid_of, run_experiment
from photonic_ffzero.runs import Grid

PASSES, TIME = "equal passes", "equal time"
# What is compared: how each variant gets its gradients, beyond the recipe's values.
VARIANTS: dict[str, dict[str, Any]] = {
    "differences": {"method": "ff-dd", "estimator": "central", "directions": 16},
    "cones": {"method": "ff-dd", "estimator": "cones", "directions": 16},
    "autodiff": {"method": "ff-ad"},
}


def _epochs(*counts: int) -> dict[str, int]:
    return dict(zip(VARIANTS, counts, strict=True))


def accuracy_over_ports(
    options: Options,
    *,
    dataset: str,
    epochs: Mapping[int, Mapping[str, int]],
    pass_epochs: int,
    seeds: int,
    limit: int | None = None,
    **settings: Any,
) -> Grid:
    """Every variant at every size, with equal passes and with equal time.

    Args:
        options: What the user asked for.
        dataset: The preset's data set.
        epochs: Pixels a side -> variant -> epochs that take the same time at every size.
        pass_epochs: Epochs of every run, in the panel of equal passes.
        seeds: How many seeds the preset has.
        limit: Training images of a run in the preset.
        **settings: Settings of all runs.
    """
    settings |= {"dataset": options.dataset or dataset, "encoding": "average"}
    points = []
    for size, in_time in epochs.items():
        for variant, values in VARIANTS.items():
            for budget, count in ((PASSES, pass_epochs), (TIME, in_time[variant])):
                labels = {"budget": budget, "ports": size**2, "gradient": variant}
                points.append((labels, settings | values | {"size": size, "epochs": count}))
    return grid_of(
        options,
        points,
        seeds=seeds,
        limit=limit,
        x="ports",
        curves=("gradient",),
        panels=("budget",),
        log_x=True,
        title=f"Accuracy over ports, {settings['dataset']}",
    )


# Epochs of 18,000 images, and a look at 2,000 more, that take 70 to 80 seconds on 2 cores: of
# differences, cones (both with 16 directions a step) and automatic differentiation.
IN_TIME = {
    4: (1200, 670, 590),
    6: (580, 380, 470),
    8: (270, 230, 420),
    10: (150, 120, 260),
    14: (38, 33, 160),
    20: (10, 9, 48),
    28: (3, 3, 15),
}
PRESETS = {
    "small": partial(
        accuracy_over_ports,
        dataset="digits",
        epochs={4: _epochs(20, 20, 40), 8: _epochs(10, 10, 20)},
        pass_epochs=10,
        seeds=2,
        meshes=1,
        batch_size=32,
    ),
    "full": partial(
        accuracy_over_ports,
        dataset="mnist",
        epochs={size: _epochs(*counts) for size, counts in IN_TIME.items()},
        pass_epochs=5,
        limit=20_000,
        seeds=3,
        meshes=1,
    ),
}

if __name__ == "__main__":
    sys.exit(run_experiment("ports", __doc__, PRESETS))
