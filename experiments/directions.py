"""Accuracy and gradient error over directions, laws, spaces and estimators (supplement 3).

Train an MLP from directional derivatives at equal numbers of evaluated losses, which
are forward passes where directions lie among the weights (among activations, one pass
serves them all): the more directions a step takes, the fewer epochs it gets. Curves
tell apart where directions lie, their law, and the estimator; each place has its
recipe's optimizer and rate, whatever K. A second figure, error.png, shows the relative
error of one step's gradient against automatic differentiation. --epochs gives all runs
as many, and fewer evaluations to those of few directions.
"""

import sys
from collections.abc import Iterable
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from pandas import DataFrame

from meshes._tensorflow import tf
from meshes.validation import from_spec
from photonic_ffzero import Config, Model, encode, load_dataset
from photonic_ffzero.cli.experiment import Options, grid_of, run_experiment
from photonic_ffzero.data import Classification
from photonic_ffzero.goodness import LOSSES
from photonic_ffzero.gradients import ESTIMATORS, PERTURBATIONS, Weights, draw, estimate
from photonic_ffzero.plots import curve_style, save_figure
from photonic_ffzero.runs import Grid, GridDirectory, add_legend
from photonic_ffzero.seeds import generator
from photonic_ffzero.storage import write_csv

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
    **settings: Any,
) -> Grid:
    """Every variant with every number of directions, at so many losses an image and layer."""
    settings |= {"recipe": "digital", "dataset": options.dataset or dataset}
    points = []
    for (space, law, estimator), count in product(VARIANTS, counts):
        labels = {"perturb": space, "law": law, "estimator": estimator}
        epochs = max(1, round(losses / ESTIMATORS[estimator]().parameter_sets(count)))
        run = settings | labels | {"directions": count, "epochs": epochs}
        points.append(({"K": count} | labels, run))
    return grid_of(
        options,
        points,
        seeds=seeds,
        x="K",
        curves=("perturb", "law", "estimator"),
        log_x=True,
        x_label="directions a step K",
        title=f"Directions at equal numbers of losses, {settings['dataset']}",
    )


def gradient_error(config: Config, x: np.ndarray, y: np.ndarray, draws: int = 8) -> float:
    """Relative error |g - grad| / |grad| of a step's estimate at the first layer, rms of draws."""
    model = Model(config, x.shape[-1], Classification(int(y.max()) + 1))
    block, loss = model.blocks[0], from_spec("loss", config.loss, LOSSES)
    params = tf.nest.map_structure(tf.constant, model.params[0])
    batch = slice(config.batch_size)
    inputs = tf.constant(x[batch]), tf.constant(model.task.targets(y[batch]))
    reference = Weights(shortcut=False)(block, loss, params, *inputs)
    exact = tf.nest.flatten(estimate(ESTIMATORS["autodiff"](), reference, None).gradient)
    perturbation, rng = PERTURBATIONS[config.perturb](), generator(config.seed, "gradient error")
    objective = perturbation(block, loss, params, *inputs)
    moved = perturbation.trainable(block, len(inputs[0]))
    errors = []
    for _ in range(draws):
        drawn = draw(config.law, config.epsilon or 1.0, config.directions, moved, rng)
        estimated = estimate(ESTIMATORS[config.estimator](), objective, drawn).gradient
        difference = list(map(tf.subtract, tf.nest.flatten(estimated), exact))
        errors.append(
            float(tf.linalg.global_norm(difference)) / float(tf.linalg.global_norm(exact))
        )
    return float(np.sqrt(np.mean(np.square(errors))))


def write_errors(directory: GridDirectory, data_dir: Path | None) -> None:
    """Measure the gradient error of every variant; write error.csv and error.png."""
    plan = directory.grid.cells[0].plan
    data = load_dataset(plan.dataset, data_dir)
    x = encode(data.train_images, plan.encoding, min(data.train_images.shape[1:]))
    rows = [
        {
            "variant": " ".join(str(cell.labels[key]) for key in directory.grid.curves),
            "directions": cell.labels["K"],
            "relative_error": gradient_error(cell.plan.config, x, data.train_labels),
        }
        for cell in directory.grid.cells
        if cell.seed == plan.config.seed
    ]
    write_csv(directory.path / "error.csv", rows)

    def draw_errors(axes: Any) -> None:
        table = DataFrame(rows)
        for index, (name, curve) in enumerate(table.groupby("variant", sort=False)):
            points = curve["directions"], curve["relative_error"]
            axes.loglog(*points, ms=4, label=name, **curve_style(index))
        counts = sorted(set(table["directions"]))
        axes.set_xticks(counts, counts)
        axes.xaxis.minorticks_off()
        axes.set(xlabel="directions a step K", ylabel="relative error of the gradient")
        axes.grid(alpha=0.3, which="both")
        add_legend([axes])

    save_figure(directory.path / "error.png", draw_errors)


PRESETS = {
    "small": partial(
        directions,
        dataset="digits",
        counts=(4, 16),
        losses=512,
        seeds=1,
        depth=2,
        width=32,
        batch_size=64,
    ),
    "paper": partial(directions, dataset="mnist", counts=(1, 2, 4, 8, 16, 32), losses=320, seeds=3),
}

if __name__ == "__main__":
    sys.exit(run_experiment("directions", __doc__, PRESETS, finish=write_errors))
