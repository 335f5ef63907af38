"""Figures of runs: what was learned, how well, and where the light went."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from meshes.files import write_whole
from meshes.validation import plural
from photonic_ffzero.model import EpochRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Colour-blind readers can tell them apart, on white and on black: six by Okabe and Ito, and four
# more for classes that are drawn as numbers.
_COLOURS = (
    *("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"),
    *("#888888", "#AA4499", "#999933", "#8A70D6"),
)
_MARKERS = "osD^vPX"  # tell curves apart in grey
_LINES = ("-", "--", "-.", ":")
_PANELS_PER_ROW = 4
_SIGNED = "RdBu_r"  # diverging: 0 is white


def curve_style(index: int) -> dict[str, Any]:
    """Colour, marker and line of a curve: distinct for the colour-blind, and in grey."""
    marker, line = _MARKERS[index % len(_MARKERS)], _LINES[index % len(_LINES)]
    return {"color": class_colour(index), "marker": marker, "linestyle": line}


def save_figure(
    path: Path,
    draw: Callable[..., None],
    panels: int = 1,
    title: str = "",
    per_row: int = _PANELS_PER_ROW,
) -> None:
    """Let ``draw(*axes)`` fill the panels of a figure, row by row, and write it as PNG."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    rows = math.ceil(panels / per_row)
    columns = math.ceil(panels / rows)
    size = (1.4 + 4.2 * columns, 0.4 + 4.0 * rows)
    figure = Figure(figsize=size, dpi=150, layout="constrained")
    with rc_context({"text.parse_math": False}):  # names of data, classes and runs may hold a $
        figure.suptitle(textwrap.fill(title, 14 + 60 * columns), fontsize="medium")
        axes = np.ravel(figure.subplots(rows, columns))
        for unused in axes[panels:]:
            unused.remove()
        draw(*axes[:panels])
    for panel in axes[:panels]:
        for scales in (panel, *panel.child_axes):
            _typeset_powers(scales)
    write_whole(path, lambda file: figure.savefig(file, format="png"))


def _typeset_powers(axes: Any) -> None:
    """Let the ticks of logarithmic axes be formulas, as Matplotlib writes 10 to a power."""
    for axis in (axes.xaxis, axes.yaxis):
        if axis.get_scale() == "log":
            for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks()):
                tick.label1.set_parse_math(True)


def plot_loss(axes: Axes, *histories: Sequence[EpochRecord], layer: str = "mesh") -> None:
    """Draw the mean loss of every epoch, one layer after another.

    Of several runs the mean is drawn, in a band from the least to the greatest. ``layer`` is what
    the figure calls a layer.
    """
    curves = list(_by_layer(histories, layer))
    for index, (name, epochs, runs) in enumerate(curves):
        losses = [[record.loss for record in run] for run in runs]
        plot_band(axes, epochs, losses, **_curve(index, len(curves)), label=name)
    _finish_curves(axes, curves, layer, "loss")


def plot_quality(
    axes: Axes, *histories: Sequence[EpochRecord], layer: str = "mesh", task: str = "classification"
) -> None:
    """Draw training and validation accuracy (R^2 of a regression) as `plot_loss` draws losses.

    The colour tells the layer; validation is a whole line, training a dashed one.
    """
    factor, quality = (100, "accuracy (%)") if task == "classification" else (1, "R²")
    curves = list(_by_layer(histories, layer))
    for index, (name, epochs, runs) in enumerate(curves):
        style = _curve(index, len(curves))
        training = [[factor * record.train_accuracy for record in run] for run in runs]
        dashed = style | {"marker": "", "linestyle": "--", "label": f"{name}, training"}
        plot_band(axes, epochs, training, **dashed)
        held_out = [[record.validation_accuracy for record in run] for run in runs]
        if not any(None in values for values in held_out):
            percent = [[factor * value for value in run if value is not None] for run in held_out]
            plot_band(axes, epochs, percent, **style, label=f"{name}, validation")
    together = any("-" in name for name, _, _ in curves)  # by one loss, after the last of them
    where = f"the last {layer}" if together else f"the {layer}"
    _finish_curves(axes, curves, layer, f"{quality} of the readout after {where}", training=True)


def plot_band(axes: Axes, x: np.ndarray, runs: Sequence[Sequence[float]], **style: Any) -> None:
    """Draw the mean over runs at ``x``, and a band from the least to the greatest of them.

    Args:
        axes: Where.
        x: Places of the points [n].
        runs: The values of each run [runs, n].
        **style: How to draw the mean, its ``color`` among it.
    """
    axes.plot(x, np.mean(runs, axis=0), **style)
    if len(runs) > 1:
        low, high = np.min(runs, axis=0), np.max(runs, axis=0)
        axes.fill_between(x, low, high, color=style["color"], alpha=0.2, linewidth=0)


def plot_confusion(axes: Axes, confusion: np.ndarray) -> None:
    """Draw counts of true class by predicted class [C, C], shaded by the share of a true class.

    Right of each row stands the rate of the true class that is found, below each column that of the
    predicted class that is right.
    """
    total = confusion.sum(axis=1, keepdims=True)
    share = confusion / np.maximum(total, 1)
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(confusion):
        colour = "white" if share[row, column] > 0.5 else "black"
        axes.text(column, row, str(count), ha="center", va="center", color=colour, fontsize=7)
    classes = range(len(confusion))
    right = np.diag(confusion)
    rates = {"found": right / np.maximum(total[:, 0], 1)}
    rates["right"] = right / np.maximum(confusion.sum(axis=0), 1)
    axes.set(xticks=classes, yticks=classes, xlabel="predicted class", ylabel="true class")
    found = axes.secondary_yaxis("right")
    found.set_yticks(classes, [f"{100 * rate:.0f}" for rate in rates["found"]])
    found.set_ylabel("of the true class, % found")
    correct = axes.secondary_xaxis("top")
    correct.set_xticks(classes, [f"{100 * rate:.0f}" for rate in rates["right"]])
    correct.set_xlabel("of the predicted class, % right")
    for axis in (found, correct):
        axis.tick_params(length=0, labelsize=8)


def plot_predictions(axes: Axes, labels: np.ndarray, predicted: np.ndarray) -> None:
    """Draw predictions [n] or [n, T] over true labels, and the line on which they should lie."""
    columns = [values.reshape(len(values), -1).T for values in (labels, predicted)]
    for index, (true, prediction) in enumerate(zip(*columns, strict=True)):
        name = f"label {index + 1}" if len(columns[0]) > 1 else None
        style = curve_style(index) | {"linestyle": "", "ms": 2.5, "alpha": 0.6}
        axes.plot(true, prediction, label=name, **style)
    ends = [labels.min(), labels.max()]
    axes.plot(ends, ends, label="ideal", **_reference(axes))
    axes.set(xlabel="true label", ylabel="prediction")
    axes.legend()


def plot_embeddings(
    axes: Axes, points: np.ndarray, labels: np.ndarray, prototypes: np.ndarray | None = None
) -> None:
    """Draw points [n, 2] as the numbers of their classes, and prototypes [C, 2] in circles."""
    from matplotlib import rc_context

    for label in np.unique(labels):
        x, y = points[labels == label].T
        with rc_context({"text.parse_math": True}):  # a formula is what makes a number a marker
            axes.scatter(x, y, s=22, marker=f"${label}$", color=class_colour(label), linewidth=0.3)
    for label, (x, y) in enumerate([] if prototypes is None else prototypes):
        circle = {"boxstyle": "circle", "facecolor": axes.get_facecolor(), "linewidth": 2.5}
        circle["edgecolor"] = class_colour(label)
        axes.text(x, y, str(label), ha="center", va="center", bbox=circle)
        axes.update_datalim([(x, y)])  # text alone does not widen the view
    axes.autoscale_view()


def plot_alignment(axes: Axes, scores: np.ndarray, labels: np.ndarray) -> None:
    """Draw the distributions of the goodness [n, C] of the true class and of the others.

    Dotted lines mark perfect alignment: 1, and -1 / (C - 1) for the other classes.
    """
    true = np.eye(scores.shape[-1], dtype=bool)[labels]
    for mask, name, index, fill in (
        (~true, "other classes", 5, True),
        (true, "true class", 1, False),
    ):
        cosines = np.clip(scores[mask], -1, 1)  # rounding may step over the edge
        counts, edges = np.histogram(cosines, bins=40, range=(-1, 1))
        share = 100 * counts / counts.sum()
        axes.stairs(share, edges, fill=fill, color=class_colour(index), linewidth=2, label=name)
    for ideal in (1, -1 / (scores.shape[-1] - 1)):
        axes.axvline(ideal, **_reference(axes))
    axes.set(xlabel="goodness (cosine with the prototype)", ylabel="share (%)")
    axes.set_xticks([-1, -0.5, 0, 0.5, 1])  # more of them touch in a narrow panel
    axes.legend(loc="upper left")


def plot_goodness(axes: Axes, scores: np.ndarray, labels: np.ndarray) -> None:
    """Draw the goodness [n, C] of all samples as a heat map, ordered by their true class [n]."""
    ordered, limit = scores[np.argsort(labels, kind="stable")], float(np.abs(scores).max())
    _heat_map(axes, ordered, "goodness (cosine)", cmap=_SIGNED, vmin=-limit, vmax=limit)
    ends = np.cumsum(np.bincount(labels, minlength=scores.shape[-1]))
    axes.hlines(ends[:-1] - 0.5, *axes.get_xlim(), colors="black", linewidth=0.8)
    middles = (ends + np.append(0, ends[:-1]) - 1) / 2
    axes.set_yticks(middles, list(map(str, range(len(ends)))))
    axes.set_xticks(range(len(ends)))
    axes.set(xlabel="class of the prototype", ylabel="samples, by true class")


def plot_power(axes: Axes, intensities: np.ndarray, labels: np.ndarray) -> None:
    """Draw the mean of the intensities [n, N] at every port, class by class."""
    classes = np.unique(labels)
    mean = np.stack([intensities[labels == label].mean(axis=0) for label in classes])
    _heat_map(axes, mean, "mean intensity |E|² (arb. units)", vmin=0)
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
    """Draw the total power after each stage: the median over the samples, and 90 % of them.

    Args:
        axes: The axes to draw on.
        powers: Total power of the ports [stages, n], the input first.
        label: Name in the legend.
        stages: Names of the stages; without, they count as meshes passed.
        floor: Total power that the detectors need, or None.
        unit: Unit of all powers.
    """
    low, median, high = np.percentile(powers, (5, 50, 95), axis=1)
    places, style = np.arange(len(powers)), curve_style(len(axes.lines))
    axes.semilogy(places, median, label=label, **style)
    axes.fill_between(places, low, high, color=style["color"], alpha=0.2, linewidth=0)
    axes.set(xlabel="meshes passed", ylabel=f"total power of the ports ({unit})")
    _whole_ticks(axes)
    if len(stages):
        axes.set_xlabel("after")
        axes.set_xticks(places, stages, rotation=60, ha="right", rotation_mode="anchor")
    if floor is not None:
        axes.axhline(floor, label="detectors' floor", **_reference(axes))
    _cut_below(axes, powers, floor)
    axes.legend(fontsize="small")


_DECADES = 9  # of power that are drawn: detectors do not span more


def _cut_below(axes: Axes, powers: np.ndarray, floor: float | None) -> None:
    """End the axis a decade below the detectors' floor, or where no detector sees anything."""
    highest = float(np.max(powers))
    bottom = floor / 10 if floor else highest * 10.0**-_DECADES
    if highest > 0 and axes.get_ylim()[0] < bottom < highest:
        axes.set_ylim(bottom=bottom)
        dark = np.median(powers, axis=1) < bottom
        if dark.any():
            ink = axes.xaxis.label.get_color()
            axes.plot(
                np.flatnonzero(dark),
                np.full(dark.sum(), 1.6 * bottom),
                "v",
                color=ink,
                ms=5,
                label="darker",
            )


def class_colour(index: int) -> str:
    """The colour of a class, or of a curve."""
    return _COLOURS[index % len(_COLOURS)]


def _reference(axes: Axes) -> dict[str, Any]:
    """Style of a line that marks a value to compare with."""
    return {"linestyle": ":", "color": axes.xaxis.label.get_color()}


Curves = tuple[str, np.ndarray, list[Sequence[EpochRecord]]]
"""Of a layer: its name, epochs on the axis, and as many records of each run."""


def _by_layer(histories: Sequence[Sequence[EpochRecord]], layer: str) -> Iterator[Curves]:
    start = 0
    for mesh in dict.fromkeys(record.mesh for record in histories[0]):
        runs = [[record for record in history if record.mesh == mesh] for history in histories]
        epochs = min(map(len, runs))
        several = "-" in mesh  # those of a global loss are trained at once
        name = f"{plural(layer)} {mesh}" if several else f"{layer} {mesh}"
        yield name, start + np.arange(1, epochs + 1), [run[:epochs] for run in runs]
        start += epochs


_FEW = 6  # curves that a legend can name


def _curve(index: int, count: int) -> dict[str, Any]:
    """Style of one of ``count`` curves: of many, colours run from dark to light."""
    if count <= _FEW:
        return curve_style(index) | {"linestyle": "-", "ms": 4}
    from matplotlib import colormaps

    colour = colormaps["viridis"](0.92 * index / (count - 1))
    return {"color": colour, "marker": _MARKERS[index % len(_MARKERS)], "linestyle": "-", "ms": 3}


def _finish_curves(
    axes: Axes, curves: Sequence[Curves], layer: str, quantity: str, training: bool = False
) -> None:
    """Label the axes; say beside them, never over data, which curve is which."""
    axes.set(xlabel=f"epoch, one {layer} after another" if len(curves) > 1 else "epoch")
    axes.set_ylabel(quantity)
    _whole_ticks(axes)
    axes.grid(alpha=0.3)
    handles = _handles(curves) if len(curves) <= _FEW else []
    if len(curves) > _FEW:
        _colour_bar(axes, len(curves), layer)
    if training:
        handles += _kinds(axes)
    if handles:
        place: Any = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.16)}
        axes.legend(handles=handles, ncols=min(len(handles), 4), fontsize="small", **place)


def _handles(curves: Sequence[Curves]) -> list[Any]:
    from matplotlib.lines import Line2D

    styles = (_curve(index, len(curves)) for index in range(len(curves)))
    pairs = zip(styles, curves, strict=True)
    return [Line2D([], [], label=name, **style) for style, (name, *_) in pairs]


def _kinds(axes: Axes) -> list[Any]:
    """Lines that tell training from validation."""
    from matplotlib.lines import Line2D

    ink, drawn = axes.xaxis.label.get_color(), {line.get_linestyle() for line in axes.lines}
    kinds = {"-": "validation", "--": "training"}
    return [Line2D([], [], color=ink, linestyle=k, label=v) for k, v in kinds.items() if k in drawn]


def _colour_bar(axes: Axes, count: int, layer: str) -> None:
    """A bar of the layers' colours, which names the first, the last and some between."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import ListedColormap, Normalize

    colours = ListedColormap([_curve(index, count)["color"] for index in range(count)])
    scale = ScalarMappable(Normalize(0.5, count + 0.5), colours)
    ticks = np.unique(np.linspace(1, count, min(count, 6)).round().astype(int))
    axes.figure.colorbar(scale, ax=axes, label=layer, ticks=ticks)


def _whole_ticks(axes: Axes) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _heat_map(axes: Axes, values: np.ndarray, quantity: str, **style: Any) -> None:
    image = axes.imshow(values, aspect="auto", interpolation="nearest", **style)
    axes.figure.colorbar(image, ax=axes, label=quantity)
