"""Accuracy and slope error over the step of the differences, for noises of the detectors."""

import sys
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from meshes._tensorflow import tf
from meshes.validation import from_spec
from photonic_ffzero.cli.experiment import Options, run_experiment
from photonic_ffzero.config import AUTO, Config, configure
from photonic_ffzero.data.datasets import load_dataset
from photonic_ffzero.data.encoding import encode
from photonic_ffzero.data.tasks import Classification
from photonic_ffzero.goodness.losses import LOSSES
from photonic_ffzero.gradients.directions import draw
from photonic_ffzero.gradients.estimators import ESTIMATORS, estimate
from photonic_ffzero.gradients.objectives import Weights
from photonic_ffzero.model import Model
from photonic_ffzero.plots import curve_style, save_figure
from photonic_ffzero.runs.grid import Cell, Grid, GridDirectory, add_legend, plan_for
from photonic_ffzero.seeds import generator
from photonic_ffzero.storage import write_csv
from photonic_ffzero.training.step import BlockTraining, Samples, losses_along

DESCRIPTION = """
How long must the step of the differences be? Accuracy of FF+DD over epsilon, for some
noises of the detectors (read_noise, a share of the rms intensity; 0.1 is 20 dB). Short
steps drown in the noise, long ones see the curvature. A second figure, error.png, takes
the error of single slopes at the start of training apart into noise and curvature, and
shows what --epsilon auto chooses there.
"""

STEPS = np.geomspace(1e-3, 1.0, 13)  # rad
DIRECTIONS = 256


def epsilons(
    options: Options,
    *,
    dataset: str,
    noises: Iterable[float],
    steps: Iterable[float],
    seeds: int,
    limit: int | None = None,
    **settings: Any,
) -> Grid:
    """Every step at every noise; all of them before the next seed."""
    (dataset,) = options.datasets_or(dataset)
    settings = options.settings_over(settings)
    cells = []
    for seed, noise, step in product(options.seeds_or(seeds), noises, steps):
        made = f"read_noise={noise:g}" if noise else ""
        config = configure(epsilon=step, imperfections=made, seed=seed, **settings)
        labels = {"noise": noise, "epsilon": step}
        cells.append(Cell(labels, plan_for(dataset, config, limit=options.limit or limit)))
    return Grid(
        cells=tuple(cells),
        x="epsilon",
        curves=("noise",),
        log_x=True,
        x_label="step of the differences epsilon (rad)",
        title=f"The step of the differences under noise, {dataset}",
    )


def slope_errors(config: Config, samples: Samples) -> tuple[np.ndarray, np.ndarray, float]:
    """Errors of slopes along random directions at the first mesh, relative to their rms.

    Returns:
        Errors [steps] with noise and without, both rms, and the step that `auto` chooses.
    """
    quiet, noisy = (
        Model(replace(config, imperfections=made), samples.x.shape[-1], Classification(10))
        for made in ("", config.imperfections)
    )
    block, params = quiet.blocks[0], tf.nest.map_structure(tf.constant, quiet.params[0])
    rng = generator(config.seed, "slopes")
    v = draw("rademacher", 1.0, DIRECTIONS, block.trainable, rng).v
    loss = from_spec("loss", config.loss, LOSSES)
    objective = Weights(shortcut=False)(block, loss, params, *samples)
    gradient = estimate(ESTIMATORS["autodiff"](), objective, None).gradient
    exact = sum(
        np.tensordot(u, g, g.ndim)
        for u, g in zip(tf.nest.flatten(v), map(np.asarray, tf.nest.flatten(gradient)), strict=True)
    )
    errors = []
    for own in (noisy.blocks[0], block):
        losses = losses_along(v, config, own, params, samples, rng)
        slopes = np.array([(losses(h, 1) - losses(h, -1)) / (2 * h) for h in STEPS])
        errors.append(np.sqrt(np.mean((slopes - exact) ** 2, axis=1) / np.mean(exact**2)))
    auto = replace(config, epsilon=AUTO)
    chosen = BlockTraining(auto, noisy.blocks[0], 0, noisy.params[0], samples).epsilon
    return errors[0], errors[1], chosen or 0.0


def write_errors(directory: GridDirectory, data_dir: Path | None) -> None:
    """Measure the error of slopes at every noise; write error.csv and error.png."""
    cells = {cell.labels["noise"]: cell for cell in reversed(directory.grid.cells)}
    plan = directory.grid.cells[0].plan
    data = load_dataset(plan.dataset, data_dir)
    x = encode(data.train_images, plan.encoding, plan.size)[: plan.config.batch_size]
    y = Classification(10).targets(data.train_labels[: len(x)])
    found = {
        noise: slope_errors(cells[noise].plan.config, Samples(x, y)) for noise in sorted(cells)
    }
    columns = ("read_noise", "epsilon_rad", "error", "error_without_noise", "auto_epsilon_rad")
    rows = [
        dict(zip(columns, (noise, *row, auto), strict=True))
        for noise, (error, curvature, auto) in found.items()
        for row in zip(STEPS, error, curvature, strict=True)
    ]
    write_csv(directory.path / "error.csv", rows)
    save_figure(directory.path / "error.png", lambda axes: _plot(axes, found), title=_TITLE)


_TITLE = "Error of a slope: noise on the left, curvature on the right"


def _plot(axes: Any, found: dict[Any, tuple[np.ndarray, np.ndarray, float]]) -> None:
    for index, (noise, (error, _, auto)) in enumerate(found.items()):
        style = curve_style(index)
        axes.loglog(STEPS, error, label=f"read_noise {noise:g}", markersize=4, **style)
        axes.axvline(auto, color=style["color"], linestyle="--", linewidth=1)
    _, quiet, _ = next(iter(found.values()))
    axes.loglog(STEPS, quiet, ":", color="gray", label="without noise")
    axes.axvline(np.nan, color="gray", linestyle="--", linewidth=1, label="--epsilon auto")
    axes.set(xlabel="step of the differences epsilon (rad)", ylabel="rms error / rms slope")
    axes.grid(alpha=0.3, which="both")
    add_legend([axes])


PRESETS = {
    "small": partial(
        epsilons, dataset="digits", noises=(0, 0.1, 0.3), steps=(0.003, 0.01, 0.03, 0.1, 0.3),
        seeds=1, meshes=1, epochs=20, directions=16, batch_size=32,
    ),
    "paper": partial(
        epsilons, dataset="mnist", noises=(0, 0.03, 0.1, 0.3),
        steps=(0.003, 0.01, 0.02, 0.05, 0.1, 0.2), seeds=3,
    ),
}  # fmt: skip

if __name__ == "__main__":
    names = ("digits", "mnist", "fashion-mnist")
    sys.exit(run_experiment("epsilon", DESCRIPTION, PRESETS, datasets=names, finish=write_errors))
