"""The run directory: what a run leaves behind, and its figures."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from photonic_ffzero.model import EpochRecord
from photonic_ffzero.storage import write_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes


# Told apart by colour-blind readers, on white and on black: Okabe and Ito's six, and four more for
# many classes, which are drawn as numbers.
_COLOURS = (
    *("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"),
    *("#888888", "#AA4499", "#999933", "#8A70D6"),
)
_MARKERS = "osD^vPX"  # a second sign, for grey
_MOST_BESIDE = 4  # panels of a figure in a row
_LINES = ("-", "--", "-.", ":")


def curve_style(index: int) -> dict[str, Any]:
    """Colour, marker and line of the curve of that number: apart for the colour-blind, in grey."""
    return {
        "color": _COLOURS[index % len(_COLOURS)],
        "marker": _MARKERS[index % len(_MARKERS)],
        "linestyle": _LINES[index % len(_LINES)],
    }


def save_figure(path: Path, draw: Callable[..., None], panels: int = 1, title: str = "") -> None:
    """Let ``draw(axes, ...)`` fill the panels of a figure, row by row, and write it as PNG."""
    from matplotlib.figure import Figure

    rows = math.ceil(panels / _MOST_BESIDE)
    columns = math.ceil(panels / rows)
    size = (1.4 + 4.2 * columns, 0.4 + 4.0 * rows)
    figure = Figure(figsize=size, dpi=150, layout="constrained")
    figure.suptitle(textwrap.fill(title, 14 + 60 * columns), fontsize="medium")
    every = np.ravel(figure.subplots(rows, columns))
    for axes in every[panels:]:
        axes.remove()
    draw(*every[:panels])
    write_whole(path, lambda file: figure.savefig(file, format="png"))


def _by_mesh(
    histories: Sequence[Sequence[EpochRecord]],
) -> Iterator[tuple[int, str, np.ndarray, list[list[EpochRecord]]]]:
    """Every mesh: its place, its name, its epochs (one mesh after another), each run's records."""
    start = 0
    for index, mesh in enumerate(dict.fromkeys(record.mesh for record in histories[0])):
        runs = [[record for record in history if record.mesh == mesh] for history in histories]
        epochs = min(map(len, runs))
        yield index, mesh, start + np.arange(1, epochs + 1), [rows[:epochs] for rows in runs]
        start += epochs


def _plot_runs(
    axes: Axes, index: int, epochs: np.ndarray, runs: Sequence[Sequence[float]], **style: Any
) -> None:
    """The mean over runs, and a band from the least to the greatest of them."""
    colour = _COLOURS[index % len(_COLOURS)]
    axes.plot(epochs, np.mean(runs, axis=0), ms=4, color=colour, **style)
    if len(runs) > 1:
        low, high = np.min(runs, axis=0), np.max(runs, axis=0)
        axes.fill_between(epochs, low, high, color=colour, alpha=0.2, linewidth=0)


def plot_loss(axes: Axes, *histories: Sequence[EpochRecord], layer: str = "mesh") -> None:
    """Draw the mean loss of every epoch, mesh after mesh (or layer after layer).

    Args:
        axes: The axes to draw on.
        *histories: Of one run; or of several, whose mean is drawn in a band that spans them.
        layer: What a layer is called.
    """
    for index, mesh, epochs, runs in _by_mesh(histories):
        losses = [[row.loss for row in rows] for rows in runs]
        marker = _MARKERS[index % len(_MARKERS)]
        _plot_runs(axes, index, epochs, losses, marker=marker, label=f"{layer} {mesh}")
    axes.set_ylabel("loss")
    _finish_curves(axes, layer)


def plot_quality(
    axes: Axes,
    *histories: Sequence[EpochRecord],
    layer: str = "mesh",
    task: str = "classification",
) -> None:
    """Draw training and validation accuracy (R^2 of a regression) of every epoch.

    Args:
        axes: The axes to draw on.
        *histories: Of one run; or of several, whose mean is drawn in a band that spans them.
        layer: What a layer is called.
        task: ``classification`` or ``regression``.
    """
    factor = 100 if task == "classification" else 1
    for index, mesh, epochs, runs in _by_mesh(histories):
        marker = _MARKERS[index % len(_MARKERS)]
        train = [[factor * row.train_accuracy for row in rows] for rows in runs]
        label = f"{layer} {mesh}, training"
        _plot_runs(axes, index, epochs, train, marker="x", linestyle="--", label=label)
        held_out = [[row.validation_accuracy for row in rows] for rows in runs]
        if not any(None in values for values in held_out):
            values = [[factor * value for value in run if value is not None] for run in held_out]
            label = f"{layer} {mesh}, validation"
            _plot_runs(axes, index, epochs, values, marker=marker, label=label)
    what = "accuracy (%)" if task == "classification" else "R²"
    axes.set_ylabel(f"{what} of the readout behind the {layer}")
    _finish_curves(axes, layer)


def _finish_curves(axes: Axes, layer: str) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_xlabel(f"epoch, one {layer} after another")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    axes.legend()


def plot_confusion(axes: Axes, confusion: np.ndarray) -> None:
    """Draw a confusion matrix: counts, shaded by the share of each true class."""
    share = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    classes = len(confusion)
    for row, column in np.ndindex(classes, classes):
        colour = "white" if share[row, column] > 0.5 else "black"
        text = str(confusion[row, column])
        axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=7)
    axes.set_xticks(range(classes))
    axes.set_yticks(range(classes))
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")


def plot_predictions(axes: Axes, labels: np.ndarray, predicted: np.ndarray) -> None:
    """Draw predictions against true labels, and the line on which they should lie.

    Args:
        axes: The axes to draw on.
        labels: True labels [n] or [n, T].
        predicted: Predictions of the same shape, in the same unit.
    """
    columns = list(zip(_columns(labels), _columns(predicted), strict=True))
    for index, (true, found) in enumerate(columns):
        mark, colour = _MARKERS[index % len(_MARKERS)], _COLOURS[index % len(_COLOURS)]
        name = f"label {index + 1}" if len(columns) > 1 else None
        axes.plot(true, found, mark, ms=2.5, alpha=0.6, color=colour, label=name)
    ends = [labels.min(), labels.max()]
    axes.plot(ends, ends, ":", color=axes.xaxis.label.get_color(), label="ideal")
    axes.set(xlabel="true label", ylabel="prediction")
    axes.legend()


def _columns(values: np.ndarray) -> np.ndarray:
    return values.reshape(len(values), -1).T


def plot_embeddings(
    axes: Axes, points: np.ndarray, labels: np.ndarray, prototypes: np.ndarray | None = None
) -> None:
    """Draw samples in the plane, each as the number of its class, and the prototypes in circles.

    Args:
        axes: The axes to draw on.
        points: Coordinates [n, 2].
        labels: Classes [n], whole numbers from 0.
        prototypes: Coordinates [C, 2], or None where they have none.
    """
    for label in np.unique(labels):
        colour, marker = _COLOURS[label % len(_COLOURS)], f"${label}$"
        x, y = points[labels == label].T
        axes.scatter(x, y, s=22, marker=marker, color=colour, linewidth=0.3)
    for label, (x, y) in enumerate([] if prototypes is None else prototypes):
        colour = _COLOURS[label % len(_COLOURS)]
        style = {"boxstyle": "circle", "facecolor": axes.get_facecolor(), "edgecolor": colour}
        axes.text(x, y, str(label), ha="center", va="center", bbox=style | {"linewidth": 2.5})
        axes.update_datalim([(x, y)])  # text alone does not widen the view
    axes.autoscale_view()


def plot_alignment(axes: Axes, scores: np.ndarray, labels: np.ndarray) -> None:
    """Draw how the goodness of the true class and that of the others are distributed.

    Dotted lines mark what a perfectly aligned network has: 1, and -1 / (C - 1) for the others.

    Args:
        axes: The axes to draw on.
        scores: Goodness [n, C].
        labels: True classes [n].
    """
    true = np.eye(scores.shape[-1], dtype=bool)[labels]
    for mask, name, colour, fill in (
        (~true, "other classes", _COLOURS[5], True),
        (true, "true class", _COLOURS[1], False),
    ):
        cosines = np.clip(scores[mask], -1, 1)  # rounding may step over the edge
        counts, edges = np.histogram(cosines, bins=40, range=(-1, 1))
        share = 100 * counts / counts.sum()
        axes.stairs(share, edges, fill=fill, color=colour, linewidth=2, label=name)
    for ideal in (1, -1 / (scores.shape[-1] - 1)):
        axes.axvline(ideal, linestyle=":", color=axes.xaxis.label.get_color())
    axes.set(xlabel="goodness (cosine with the prototype)", ylabel="share (%)")
    axes.set_xticks([-1, -0.5, 0, 0.5, 1])  # more of them touch in a narrow panel
    axes.legend(loc="upper left")


def plot_goodness(axes: Axes, scores: np.ndarray, labels: np.ndarray) -> None:
    """Draw the goodness of all samples as a heat map, ordered by their true class.

    Args:
        axes: The axes to draw on.
        scores: Goodness [n, C].
        labels: True classes [n].
    """
    order = np.argsort(labels, kind="stable")
    image = axes.imshow(scores[order], aspect="auto", interpolation="nearest")
    axes.figure.colorbar(image, ax=axes, label="goodness (cosine)")
    ends = np.cumsum(np.bincount(labels, minlength=scores.shape[-1]))
    axes.hlines(ends[:-1] - 0.5, *axes.get_xlim(), colors="white", linewidth=0.8)
    axes.set_yticks(
        (ends + np.append(0, ends[:-1]) - 1) / 2, [str(label) for label in range(len(ends))]
    )
    axes.set_xticks(range(len(ends)))
    axes.set(xlabel="class of the prototype", ylabel="samples, by true class")


def plot_power(axes: Axes, intensities: np.ndarray, labels: np.ndarray) -> None:
    """Draw the mean intensity at every port, class by class.

    Args:
        axes: The axes to draw on.
        intensities: [n, N].
        labels: Classes [n].
    """
    classes = np.unique(labels)
    mean = np.stack([intensities[labels == label].mean(axis=0) for label in classes])
    image = axes.imshow(mean, aspect="auto", interpolation="nearest", vmin=0)
    axes.figure.colorbar(image, ax=axes, label="mean intensity |E|² (arb. units)")
    axes.set_yticks(range(len(classes)), classes)
    axes.set(xlabel="port", ylabel="class")


def plot_power_budget(
    axes: Axes,
    powers: np.ndarray,
    label: str = "median, and 90 % of the samples",
    stages: Sequence[str] = (),
    floor: float | None = None,
    unit: str = "units of |E|²",
) -> None:
    """Draw the total power behind each stage: the median over the samples, and 90 % of them.

    Args:
        axes: The axes to draw on.
        powers: Total power of the ports [stages, n], the input first; the dark is left out.
        label: Name in the legend.
        stages: What the stages are called; without, they count as meshes passed.
        floor: Total power that the detectors need, or None.
        unit: Unit of all powers.
    """
    from matplotlib.ticker import MaxNLocator

    low, median, high = np.percentile(powers, (5, 50, 95), axis=1)
    places, style = np.arange(len(powers)), curve_style(len(axes.lines))
    axes.semilogy(places, median, label=label, **style)
    axes.fill_between(places, low, high, color=style["color"], alpha=0.2, linewidth=0)
    axes.set(xlabel="meshes passed", ylabel=f"total power of the ports ({unit})")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if len(stages):
        axes.set_xlabel("behind")
        axes.set_xticks(places, stages, rotation=60, ha="right", rotation_mode="anchor")
    if floor is not None:
        axes.axhline(
            floor, linestyle=":", color=axes.xaxis.label.get_color(), label="detectors' floor"
        )
    axes.legend()
