"""Accuracy and gradient error over directions, laws, spaces and estimators (supplement 3)."""

import sys
from collections.abc import Iterable
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from meshes._tensorflow import tf
from meshes.validation import from_spec
from photonic_ffzero.cli.experiment import Options, run_experiment
from photonic_ffzero.config import Config, configure
from photonic_ffzero.data.datasets import load_dataset
from photonic_ffzero.data.encoding import encode
from photonic_ffzero.data.tasks import Classification
from photonic_ffzero.goodness.losses import LOSSES
from photonic_ffzero.gradients.directions import draw
from photonic_ffzero.gradients.estimators import ESTIMATORS, estimate
from photonic_ffzero.gradients.objectives import PERTURBATIONS, Weights
from photonic_ffzero.model import Model
from photonic_ffzero.plots import curve_style, save_figure
from photonic_ffzero.runs.grid import Cell, Grid, GridDirectory, add_legend, plan_for
from photonic_ffzero.seeds import generator
from photonic_ffzero.storage import write_csv

DESCRIPTION = """
Train an MLP from directional derivatives at equal numbers of evaluated losses, which
are forward passes where directions lie among the weights (among activations, one pass
serves them all): the more directions a step takes, the fewer epochs it gets. Curves
tell apart where directions lie, their law, and the estimator; each place has its
recipe's optimizer and rate, whatever K. A second figure, error.png, shows the relative
error of one step's gradient against automatic differentiation. --epochs gives all runs
as many, and fewer evaluations to those of few directions.
"""

# What is compared: space, law, estimator.
VARIANTS = (
    ("weights", "rademacher", "central"),
    ("weights", "gaussian", "central"),
    ("weights", "orthonormal", "central"),
    ("weights", "rademacher", "forward"),
    ("weights", "rademacher", "jvp"),
    ("activations", "rademacher", "central"),
    ("activations", "rademacher", "jvp"),
)


def directions(
    options: Options,
    *,
    dataset: str,
    counts: Iterable[int],
    losses: int,
    seeds: int,
    limit: int | None = None,
    **settings: Any,
) -> Grid:
    """Every variant with every number of directions, at so many losses an image and layer."""
    (dataset,) = options.datasets_or(dataset)
    cells = []
    for seed, variant, count in product(options.seeds_or(seeds), VARIANTS, counts):
        space, law, estimator = variant
        points = ESTIMATORS[estimator]().parameter_sets(count)
        epochs = options.epochs or max(1, round(losses / points))
        config = configure(
            "digital", perturb=space, law=law, estimator=estimator, directions=count, seed=seed,
            epochs=epochs, **settings,
        )  # fmt: skip
        labels = {"K": count, "perturb": space, "law": law, "estimator": estimator}
        cells.append(Cell(labels, plan_for(dataset, config, limit=options.limit or limit)))
    return Grid(
        cells=tuple(cells),
        x="K",
        curves=("perturb", "law", "estimator"),
        log_x=True,
        x_label="directions a step K",
        title=f"Directions at equal numbers of losses, {dataset}",
    )


def gradient_error(config: Config, x: np.ndarray, y: np.ndarray, draws: int = 8) -> float:
    """Relative error |g - grad| / |grad| of a step's estimate at the first layer, rms of draws."""
    model = Model(config, x.shape[-1], Classification(int(y.max()) + 1))
    block, loss = model.blocks[0], from_spec("loss", config.loss, LOSSES)
    params = tf.nest.map_structure(tf.constant, model.params[0])
    batch = slice(config.batch_size)
    inputs = tf.constant(x[batch]), tf.constant(model.task.targets(y[batch]))
    exact = estimate(
        ESTIMATORS["autodiff"](), Weights(shortcut=False)(block, loss, params, *inputs), None
    ).gradient
    perturbation, rng = PERTURBATIONS[config.perturb](), generator(config.seed, "gradient error")
    objective = perturbation(block, loss, params, *inputs)
    moved = perturbation.trainable(block, len(inputs[0]))
    errors = []
    for _ in range(draws):
        drawn = draw(config.law, config.epsilon or 1.0, config.directions, moved, rng)
        found = estimate(ESTIMATORS[config.estimator](), objective, drawn).gradient
        apart = tf.nest.map_structure(tf.subtract, found, exact)
        errors.append(_norm(apart) / _norm(exact))
    return float(np.sqrt(np.mean(np.square(errors))))


def _norm(gradient: Any) -> float:
    """Of all its arrays together."""
    return float(tf.linalg.global_norm(tf.nest.flatten(gradient)))


def write_errors(directory: GridDirectory, data_dir: Path | None) -> None:
    """Measure the gradient error of every variant; write error.csv and error.png."""
    curves: dict[str, list[tuple[int, float]]] = {}
    cells = directory.grid.cells
    data = load_dataset(cells[0].plan.dataset, data_dir)
    x = encode(data.train_images, cells[0].plan.encoding, min(data.train_images.shape[1:]))
    for cell in cells:
        if cell.seed == cells[0].seed:
            name = " ".join(str(cell.labels[key]) for key in directory.grid.curves)
            error = gradient_error(cell.plan.config, x, data.train_labels)
            curves.setdefault(name, []).append((int(cell.labels["K"]), error))
    rows = [
        {"variant": name, "directions": count, "relative_error": error}
        for name, points in curves.items()
        for count, error in points
    ]
    write_csv(directory.path / "error.csv", rows)
    save_figure(directory.path / "error.png", lambda axes: _plot(axes, curves))


def _plot(axes: Any, curves: dict[str, list[tuple[int, float]]]) -> None:
    for index, (name, points) in enumerate(curves.items()):
        axes.loglog(*zip(*points, strict=True), ms=4, label=name, **curve_style(index))
    counts = sorted({count for points in curves.values() for count, _ in points})
    axes.set_xticks(counts, counts)
    axes.xaxis.minorticks_off()
    axes.set(xlabel="directions a step K", ylabel="relative error of the gradient")
    axes.grid(alpha=0.3, which="both")
    add_legend([axes])


PRESETS = {
    "small": partial(
        directions, dataset="digits", counts=(4, 16), losses=512, seeds=1, depth=2, width=32,
        batch_size=64,
    ),
    "paper": partial(
        directions, dataset="mnist", counts=(1, 2, 4, 8, 16, 32), losses=320, seeds=3,
    ),
}  # fmt: skip

if __name__ == "__main__":
    names = ("digits", "mnist", "fashion-mnist")
    sys.exit(
        run_experiment("directions", DESCRIPTION, PRESETS, datasets=names, finish=write_errors)
    )
