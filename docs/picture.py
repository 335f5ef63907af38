"""Draw the README's picture: an image, its light in a trained mesh, the training, what was learned.

python docs/picture.py      writes docs/picture.png; takes half a minute, needs no download
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.decomposition import PCA

from meshes.plotting import plot_light
from photonic_ffzero import Dataset, Model, encode, evaluate, fit, load_dataset
from photonic_ffzero.goodness.readouts import balanced
from photonic_ffzero.plots import plot_embeddings, plot_quality

SEEDS = (0, 1, 2)
PICTURE = Path(__file__).with_name("picture.png")


def draw_image(axes: Axes, image: np.ndarray) -> None:
    """The image whose pixels become the amplitudes at the ports."""
    axes.imshow(image, cmap="gray")
    axes.set(xticks=[], yticks=[], title="8 × 8 pixels, 64 ports", xlabel="a digit becomes light")


def draw_light(axes: Axes, model: Model, fields: np.ndarray) -> None:
    """Its light on the way through the trained mesh."""
    (layer,), (phases,) = model.blocks[0].layers, model.params[0]
    plot_light(axes, layer.mesh, phases, fields)
    axes.set_title("it crosses the trained mesh 1")


def draw_embeddings(axes: Axes, model: Model, fields: np.ndarray, labels: np.ndarray) -> None:
    """What the detectors behind mesh 1 see, in the plane that shows most of it."""
    block = model.blocks[0]
    signal = np.asarray(balanced(block.all_measured(model.params[0], fields)))
    signal = signal / np.linalg.norm(signal, axis=1, keepdims=True)
    plane = PCA(n_components=2).fit(signal)
    (prototypes,) = block.readout.prototypes
    plot_embeddings(axes, plane.transform(signal), labels, plane.transform(prototypes))
    axes.set(title="digits and prototypes, mesh 1")
    axes.set(xlabel="1st principal component", ylabel="2nd principal component")


def draw(data: Dataset, models: list[Model]) -> Figure:
    """All four panels."""
    fields, labels = encode(data.test_images), data.test_labels
    figure = Figure(figsize=(15.5, 3.9), dpi=75, layout="constrained")
    image, light, curves, embeddings = figure.subplots(1, 4, width_ratios=(1.8, 3, 3, 3))
    draw_image(image, data.test_images[0])
    draw_light(light, models[0], fields[:1])
    plot_quality(curves, *(model.history for model in models))
    accuracies = [100 * evaluate(model, fields, labels).accuracy for model in models]
    curves.set_title(f"forward passes alone: {np.mean(accuracies):.0f} % after mesh 2")
    curves.set_ylabel("accuracy (%), mean and range of 3 seeds")
    draw_embeddings(embeddings, models[0], fields, labels)
    return figure


def main() -> None:
    """Train three networks, draw, write."""
    data = load_dataset("digits")
    fields = encode(data.train_images)
    settings = {"validation": 130, "meshes": 2, "epochs": 15, "batch_size": 64}
    models = [fit(fields, data.train_labels, seed=seed, **settings) for seed in SEEDS]
    draw(data, models).savefig(PICTURE)


if __name__ == "__main__":
    main()
