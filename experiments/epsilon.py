"""Accuracy and slope error over the step of the differences, for noises of the detectors.

How long must the step of the differences be? Accuracy of FF+DD over epsilon, for some
noises of the detectors (read_noise, a share of the rms intensity; 0.1 is 20 dB). Short
steps drown in the noise, long ones see the curvature. A second figure, error.png, splits
the error of single slopes at the start of training into noise and curvature, and shows
what --epsilon auto chooses there.
"""

import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from meshes._tensorflow import tf
from meshes.validation import from_spec
from photonic_ffzero import Config, Model, encode, load_dataset
from photonic_ffzero.cli.experiment import run_experiment, sweep
from photonic_ffzero.data import Classification
from photonic_ffzero.goodness import LOSSES
from photonic_ffzero.gradients import ESTIMATORS, Weights, draw, estimate
from photonic_ffzero.plots import curve_style, save_figure
from photonic_ffzero.runs import GridDirectory, add_legend
from photonic_ffzero.seeds import generator
from photonic_ffzero.storage import write_csv
from photonic_ffzero.training.step import Samples, StageTraining, losses_along

STEPS = np.geomspace(1e-3, 1.0, 13)  # rad
DIRECTIONS = 256


def slope_errors(config: Config, samples: Samples) -> tuple[np.ndarray, np.ndarray, float]:
    """The rms errors [steps] of slopes at the first mesh, with noise and without; auto's step.

    Errors are relative to the rms slope along the random directions.
    """
    quiet, noisy = (
        Model(replace(config, imperfections=noise), samples.x.shape[-1], Classification(10))
        for noise in ("", config.imperfections)
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
    for measured in (noisy.blocks[0], block):
        losses = losses_along(v, config, measured, params, samples, rng, age=0)
        slopes = np.array([(losses(h, 1) - losses(h, -1)) / (2 * h) for h in STEPS])
        errors.append(np.sqrt(np.mean((slopes - exact) ** 2, axis=1) / np.mean(exact**2)))
    auto = replace(config, epsilon="auto")
    training = StageTraining(auto, noisy.stages[0], noisy.params[:1], samples)
    return errors[0], errors[1], training.epsilon or 0.0


def write_errors(directory: GridDirectory, data_dir: Path | None) -> None:
    """Measure the error of slopes at every noise; write error.csv and error.png."""
    configs = {cell.labels["noise"]: cell.plan.config for cell in reversed(directory.grid.cells)}
    plan = directory.grid.cells[0].plan
    data = load_dataset(plan.dataset, data_dir)
    x = encode(data.train_images, plan.encoding, plan.size)[: plan.config.batch_size]
    samples = Samples(x, Classification(10).targets(data.train_labels[: len(x)]))
    errors = {noise: slope_errors(configs[noise], samples) for noise in sorted(configs)}
    columns = ("read_noise", "epsilon_rad", "error", "error_without_noise", "auto_epsilon_rad")
    rows = [
        dict(zip(columns, (noise, *row, auto), strict=True))
        for noise, (error, curvature, auto) in errors.items()
        for row in zip(STEPS, error, curvature, strict=True)
    ]
    write_csv(directory.path / "error.csv", rows)

    def draw_errors(axes: Any) -> None:
        for index, (noise, (error, _, auto)) in enumerate(errors.items()):
            style = curve_style(index)
            axes.loglog(STEPS, error, label=f"read_noise {noise:g}", markersize=4, **style)
            axes.axvline(auto, color=style["color"], linestyle="--", linewidth=1)
        _, quiet, _ = next(iter(errors.values()))
        axes.loglog(STEPS, quiet, ":", color="gray", label="without noise")
        axes.axvline(np.nan, color="gray", linestyle="--", linewidth=1, label="--epsilon auto")
        axes.set(xlabel="step of the differences epsilon (rad)", ylabel="rms error / rms slope")
        axes.grid(alpha=0.3, which="both")
        add_legend([axes])

    title = "Error of a slope: noise on the left, curvature on the right"
    save_figure(directory.path / "error.png", draw_errors, title=title)


def settings_of(labels: dict[str, Any]) -> dict[str, Any]:
    """The settings that a noise and a step stand for."""
    noise = labels["noise"]
    return {
        "epsilon": labels["epsilon"],
        "imperfections": f"read_noise={noise:g}" if noise else "",
    }


epsilons = partial(
    sweep,
    settings_of=settings_of,
    figure={
        "x": "epsilon",
        "curves": ("noise",),
        "log_x": True,
        "x_label": "step of the differences epsilon (rad)",
        "title": "The step of the differences under noise",
    },
)
PRESETS = {
    "small": partial(
        epsilons,
        axes={"noise": (0, 0.1, 0.3), "epsilon": (0.003, 0.01, 0.03, 0.1, 0.3)},
        dataset="digits",
        seeds=1,
        meshes=1,
        epochs=20,
        directions=16,
        batch_size=32,
    ),
    "paper": partial(
        epsilons,
        axes={"noise": (0, 0.03, 0.1, 0.3), "epsilon": (0.003, 0.01, 0.02, 0.05, 0.1, 0.2)},
        dataset="mnist",
        seeds=3,
    ),
}

if __name__ == "__main__":
    sys.exit(run_experiment("epsilon", __doc__, PRESETS, finish=write_errors))
