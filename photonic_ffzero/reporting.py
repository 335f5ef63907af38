"""The run directory: what a run leaves behind, and its figures."""

from __future__ import annotations

import csv
import math
import os
import platform
import textwrap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, fields
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from photonic_ffzero.formats import DataError
from photonic_ffzero.model import EpochRecord, Model, Position
from photonic_ffzero.power import PowerBudget
from photonic_ffzero.recipes import Config
from photonic_ffzero.storage import save_checkpoint, write_csv, write_whole
from photonic_ffzero.tasks import Classification
from photonic_ffzero.training import Observer

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = [
    "RunDirectory",
    "check_new_directory",
    "curve_style",
    "plot_alignment",
    "plot_confusion",
    "plot_embeddings",
    "plot_goodness",
    "plot_loss",
    "plot_power",
    "plot_power_budget",
    "plot_predictions",
    "plot_quality",
    "save_figure",
    "versions",
]

_PACKAGES = ("photonic_ffzero", "neurophox", "tensorflow", "keras", "numpy", "scipy", "numba")

# Told apart by colour-blind readers, on white and on black: Okabe and Ito's six, and four more for
# many classes, which are drawn as numbers.
_COLOURS = (
    *("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"),
    *("#888888", "#AA4499", "#999933", "#8A70D6"),
)
_MARKERS = "osD^vPX"  # a second sign, for grey
_MOST_BESIDE = 4  # panels of a figure in a row
_LINES = ("-", "--", "-.", ":")


def check_new_directory(path: Path) -> None:
    """Check that a run directory can be made without touching what is there.

    Raises:
        ValueError: the path is a file, or a folder that is not empty, or cannot be written.
    """
    if path.is_dir() and any(path.iterdir()):
        raise ValueError(f"output must be a new or empty directory, found files in {path}")
    if path.exists() and not path.is_dir():
        raise ValueError(f"output must be a directory, found a file: {path}")
    parent = next(folder for folder in (path, *path.parents) if folder.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise ValueError(f"output must be a place that can be written, found {parent} read-only")


class RunDirectory(Observer):
    """A directory that fills as the run goes on.

    ``config.json`` at the start; ``history.csv`` and ``model.npz``, the checkpoint, after every
    epoch, so that an interrupted run can go on; ``results.json`` and the figures at the end.

    Args:
        path: The directory; made with its parents.

    Raises:
        OSError: it cannot be made.
    """

    def __init__(self, path: Path) -> None:
        path.mkdir(parents=True, exist_ok=True)
        self.path = path

    @property
    def checkpoint(self) -> Path:
        """The file to resume from, and to load the model from."""
        return self.path / "model.npz"

    @property
    def results(self) -> Path:
        """The file that marks a finished run."""
        return self.path / "results.json"

    def on_checkpoint(self, model: Model, position: Position) -> None:
        """Keep the history as a table, and the model with the state of its training."""
        rows = [{k: _cell(v) for k, v in asdict(record).items()} for record in model.history]
        columns = [field.name for field in fields(EpochRecord)]
        write_csv(self.path / "history.csv", rows, columns)
        save_checkpoint(model, position, self.checkpoint)

    def read_history(self) -> list[EpochRecord]:
        """The history as the table has it, to six digits.

        Raises:
            DataError: the table is damaged.
            OSError: it cannot be read.
        """
        table = self.path / "history.csv"
        try:
            with table.open(newline="", encoding="utf-8") as file:
                return [_record(row) for row in csv.DictReader(file)]
        except (TypeError, ValueError, csv.Error) as error:
            raise DataError(f"{table}: is no table of a run's history ({error})") from None

    def write_curves(
        self, histories: Sequence[Sequence[EpochRecord]], config: Config, title: str
    ) -> None:
        """Write ``training_curves.png``, of one run or of several that differ in the seed."""

        def curves(loss: Axes, quality: Axes) -> None:
            plot_loss(loss, *histories, layer=config.layer_name)
            plot_quality(quality, *histories, layer=config.layer_name, task=config.task)

        if any(histories):  # a run of no epochs has none
            save_figure(self.path / "training_curves.png", curves, panels=2, title=title)

    def write_figures(
        self, model: Model, labels: np.ndarray, predicted: np.ndarray, title: str
    ) -> None:
        """Write ``training_curves.png``, and ``confusion.png`` or ``predictions.png``."""
        self.write_curves([model.history], model.config, title)
        if isinstance(model.task, Classification):
            counts = np.zeros((model.task.classes, model.task.classes), int)
            np.add.at(counts, (labels, predicted), 1)
            draw, name = partial(plot_confusion, confusion=counts), "confusion.png"
        else:
            draw = partial(plot_predictions, labels=labels, predicted=predicted)
            name = "predictions.png"
        save_figure(self.path / name, draw, title=title)

    def write_power_budget(
        self, budget: PowerBudget, unit_power: float, detector_floor: float | None
    ) -> None:
        """Write ``power_budget.png``, in watts."""
        floor = None if detector_floor is None else detector_floor * budget.ports
        draw = partial(
            plot_power_budget,
            powers=budget.powers * unit_power,
            stages=budget.stages,
            floor=floor,
            unit="W",
        )
        save_figure(self.path / "power_budget.png", draw, title="power of training images")


def _cell(value: Any) -> Any:
    return f"{value:.6g}" if isinstance(value, float) else value


def _record(row: dict[str, str]) -> EpochRecord:
    mesh, may_lack = row.pop("mesh", ""), ("validation_accuracy", "epsilon")
    values: dict[str, Any] = {
        name: None if name in may_lack and text == "" else float(text) for name, text in row.items()
    }
    return EpochRecord(mesh, **values)


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that figures depend on."""
    return {"python": platform.python_version()} | {name: version(name) for name in _PACKAGES}


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
