"""Embeddings behind every mesh and their prototypes (the paper's supplement 4).

Train photonic networks with local losses and look at what every mesh does to the test
images: embeddings.png shows the detected intensities in the plane of their two first
principal components with the class prototypes, and how goodness is distributed for the
true class and the others; alignment.csv has the mean goodness of both, mesh by mesh.
"""

import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from photonic_ffzero import Model, encode, load_dataset, load_model
from photonic_ffzero.cli.experiment import run_experiment, sweep
from photonic_ffzero.goodness import DETECTIONS
from photonic_ffzero.plots import plot_alignment, plot_embeddings, save_figure
from photonic_ffzero.runs import GridDirectory
from photonic_ffzero.storage import write_csv

SHOWN = 400  # test images in a scatter plot; more would hide each other


def write_embeddings(directory: GridDirectory, data_dir: Path | None) -> None:
    """Draw the first run's embeddings; write every run's alignment."""
    cells = directory.done
    plan = cells[0].plan
    data = load_dataset(plan.dataset, data_dir)
    x = encode(data.test_images, plan.encoding, plan.size or 1)
    true = np.eye(10, dtype=bool)[data.test_labels]
    models = [load_model(directory.cell_path(cell) / "model.npz") for cell in cells]
    rows = [
        {
            "method": cell.labels["method"],
            "seed": cell.seed,
            "mesh": mesh,
            "true_class": f"{scores[true].mean():.4f}",
            "other_classes": f"{scores[~true].mean():.4f}",
        }
        for cell, model in zip(cells, models, strict=True)
        for mesh, scores in enumerate(model.scores(x), start=1)
    ]
    write_csv(directory.path / "alignment.csv", rows)
    draw = partial(_draw, model=models[0], x=x, labels=data.test_labels)
    title = f"{cells[0].name}, test images"
    panels = 2 * len(models[0].blocks)
    save_figure(directory.path / "embeddings.png", draw, panels=panels, title=title, per_row=2)


def _draw(*axes: Any, model: Model, x: np.ndarray, labels: np.ndarray) -> None:
    for index, (block, params) in enumerate(zip(model.blocks, model.params, strict=True)):
        z = DETECTIONS[block.readout.detection](block.all_measured(params, x)).numpy()
        z /= np.linalg.norm(z, axis=-1, keepdims=True)
        prototypes = block.readout.prototypes[0]
        _, _, components = np.linalg.svd(z - z.mean(axis=0), full_matrices=False)
        plane, scores = components[:2].T, z @ prototypes.T
        plot_embeddings(axes[2 * index], z[:SHOWN] @ plane, labels[:SHOWN], prototypes @ plane)
        plot_alignment(axes[2 * index + 1], scores, labels)
        axes[2 * index].set(
            title=f"mesh {index + 1}", xlabel="first component", ylabel="second component"
        )
        x = block.all_outputs(params, x)


embeddings = partial(
    sweep,
    axes={"method": ("ff-dd", "ff-ad")},
    figure={"x": "method", "title": "Embeddings behind every mesh"},
)
PRESETS = {
    "small": partial(
        embeddings,
        dataset="digits",
        seeds=2,
        epochs=20,
        batch_size=32,
        by_method={"ff-dd": {"directions": 16}},
    ),
    "paper": partial(embeddings, dataset="mnist", seeds=3),
}

if __name__ == "__main__":
    sys.exit(run_experiment("embeddings", __doc__, PRESETS, finish=write_embeddings))
