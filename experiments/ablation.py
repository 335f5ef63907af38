"""What each ingredient of local learning brings: leave one out at a time."""

import sys
from functools import partial
from itertools import product
from typing import Any

from photonic_ffzero.cli.experiment import Options, run_experiment
from photonic_ffzero.config import configure
from photonic_ffzero.runs.grid import Cell, Grid, plan_for

DESCRIPTION = """
Train the photonic network with one ingredient changed at a time: one global loss
instead of a local one for each mesh, prototypes drawn at random instead of a simplex,
raw instead of balanced detection, pools of 8 ports that are normalised on their own
instead of one cosine, and each loss.
"""

VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "global loss": {"method": "bp-dd"},
    "random prototypes": {"prototypes": "random"},
    "raw detection": {"detection": "raw"},
    "pools of 8": {"norm_size": 8},
    "margin loss": {"loss": "margin:margin=0.3"},
    "cosine loss": {"loss": "cosine"},
}


def ablation(
    options: Options,
    *,
    dataset: str,
    seeds: int,
    limit: int | None = None,
    **settings: Any,
) -> Grid:
    """Every variant; all of them before the next seed."""
    settings = options.settings_over(settings)
    (dataset,) = options.datasets_or(dataset)
    cells = []
    for seed, (name, changes) in product(options.seeds_or(seeds), VARIANTS.items()):
        config = configure("balanced", **({"method": "ff-dd", "seed": seed} | settings | changes))
        plan = plan_for(dataset, config, limit=options.limit or limit)
        cells.append(Cell({"variant": name}, plan))
    return Grid(
        cells=tuple(cells),
        x="variant",
        title=f"Ablation, {dataset}",
    )


PRESETS = {
    "small": partial(ablation, dataset="digits", seeds=3, epochs=12, batch_size=32, directions=16),
    "paper": partial(ablation, dataset="mnist", seeds=3),
}

if __name__ == "__main__":
    names = ("digits", "mnist", "fashion-mnist")
    sys.exit(run_experiment("ablation", DESCRIPTION, PRESETS, datasets=names))
