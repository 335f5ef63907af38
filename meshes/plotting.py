"""Pictures of meshes, of the light in them and of nonlinearities.

Each function draws on the axes that it gets and returns them. ``python -m meshes.plotting --output
pictures`` writes one picture of each kind. Colours suit the colour-blind, and lines take the colour
of the axes' labels. Matplotlib is imported when the first picture is drawn.
"""

from __future__ import annotations

import argparse
import asyncio
import io
from base64 import b64encode
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from meshes.angles import wrapped
from meshes.engines import upper_port
from meshes.engines.reference import fields_by_column, one_set
from meshes.estimate import MeshEstimate, MeshParameters, difference
from meshes.mesh import Phases, RectangularMesh
from meshes.nonlinearities import NONLINEARITIES
from meshes.validation import choice

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure


# Colours of Okabe and Ito; distinct in grey, on black and on white.
_BLUE, _ORANGE, _GREEN = "#56B4E9", "#D55E00", "#009E73"
_SEQUENTIAL, _CYCLIC, _DIVERGING = "viridis", "twilight", "RdBu_r"
_SYMBOLS = {"theta": "θ", "phi": "φ", "gamma": "γ"}
_TURN = 2 * np.pi


def plot_phases(axes: Axes, mesh: RectangularMesh, phases: Phases, which: str = "theta") -> Axes:
    """Draw the phases of the interferometers, each at its place between two ports.

    Light runs from left to right. Crosses mark the two ports of a column's idle pair. ``which`` is
    "theta", or "phi" with gamma before the first column, both modulo 2 pi.
    """
    choice("which", which, ("theta", "phi"))
    phases = Phases(*one_set("phases", phases, mesh))
    values, boxes = _active(phases, mesh, which), _interferometers(mesh)
    colours, label = _SEQUENTIAL, "θ (rad)"
    if which == "phi":
        colours, label = _CYCLIC, "φ (rad), and γ in front"
        boxes = np.concatenate([boxes, _ports(mesh, -1)])
        values = np.concatenate([values, _active(phases, mesh, "gamma")])
    _draw_boxes(axes, boxes, label, array=values, clim=_limits(which, values), cmap=colours)
    _label_in_pi(axes.figure.axes[-1].yaxis)
    return _draw_waveguides(axes, mesh, -1 if which == "phi" else 0)


def plot_chip(axes: Axes, estimate: MeshEstimate, which: str = "theta") -> Axes:
    """Draw what is known of a mesh, each parameter at its place; grey where nothing is known.

    ``which`` is a field of `MeshParameters`: offsets and angles in rad, losses in dB.
    """
    from matplotlib import colormaps

    choice("which", which, MeshParameters._fields)
    mesh, values, std = estimate.mesh, estimate.values, estimate.std
    if which in ("gamma", "loss"):
        columns = (-1,) if which == "gamma" else range(mesh.num_columns)
        boxes = np.concatenate([_ports(mesh, column) for column in columns])
        deviations, drawn = getattr(std, which).ravel(), getattr(values, which).ravel()
    else:
        boxes = _interferometers(mesh)
        deviations, drawn = getattr(std, which)[mesh.mask], getattr(values, which)[mesh.mask]
    masked = np.ma.masked_where(np.isinf(deviations), drawn)
    largest = max(np.abs(masked).max(), 1e-6) if masked.count() else 1.0
    lowest = 0.0 if which == "loss" and masked.min() >= 0 else -largest
    colours = colormaps[_SEQUENTIAL if lowest == 0 else _DIVERGING].with_extremes(bad="0.6")
    label = _PARAMETERS[which] + (" (grey: unknown)" if masked.count() < masked.size else "")
    _draw_boxes(axes, boxes, label, array=masked, clim=(lowest, largest), cmap=colours)
    return _draw_waveguides(axes, mesh, -1 if which == "gamma" else 0)


def plot_known_against_true(axes: Axes, estimate: MeshEstimate, truth: MeshEstimate) -> Axes:
    """Draw the estimated offsets and coupler angles over the true ones of a simulated mesh.

    What intensities cannot show, such as phases at the outputs, is fitted before they are compared,
    see `meshes.estimate.difference`. The legend has the root mean square of what remains.
    """
    off = difference(estimate, truth)
    lowest = highest = 0.0
    for names, (label, colour, marker) in _COMPARED.items():
        true, error = (
            np.concatenate([getattr(part, name).ravel() for name in names])
            for part in (truth.values, off)
        )
        true, error = true[np.isfinite(error)], error[np.isfinite(error)]
        if not error.size:
            continue
        name = f"{label}: off by {np.sqrt(np.mean(error**2)):.2g} rad"
        axes.plot(true, true + error, marker, color=colour, markersize=3, alpha=0.6, label=name)
        lowest = min(lowest, true.min(), (true + error).min())
        highest = max(highest, true.max(), (true + error).max())
    axes.plot([lowest, highest], [lowest, highest], ":", color=_ink(axes), linewidth=1)
    axes.set(xlabel="true (rad)", ylabel="known (rad)")
    if axes.get_legend_handles_labels()[0]:
        axes.legend()
    return axes


_PARAMETERS = {
    "theta": "offset of θ (rad)",
    "phi": "offset of φ (rad)",
    "gamma": "offset of γ (rad)",
    "coupler1": "angle error of the first coupler (rad)",
    "coupler2": "angle error of the second coupler (rad)",
    "loss": "loss (dB)",
}
_COMPARED = {
    ("theta",): ("θ", _BLUE, "o"),
    ("phi", "gamma"): ("φ, γ", _ORANGE, "s"),
    ("coupler1", "coupler2"): ("couplers", _GREEN, "^"),
}


def _interferometers(mesh: RectangularMesh) -> np.ndarray:
    """Boxes of all interferometers but idle ones."""
    columns, index = np.nonzero(mesh.mask)
    return _boxes(columns, upper_port(columns, index) + 0.5, 0.66, 1.66)


def _ports(mesh: RectangularMesh, column: int) -> np.ndarray:
    """A box for each port in a column."""
    return _boxes(np.full(mesh.units, column), np.arange(mesh.units), 0.66, 0.66)


def _draw_waveguides(axes: Axes, mesh: RectangularMesh, first: int) -> Axes:
    """Draw the ports as lines from a column on, and a cross on each port of an idle pair."""
    ink, start, end = _ink(axes), first - 0.5, mesh.num_columns - 0.5
    axes.hlines(range(mesh.units), start, end, colors=ink, linewidths=0.5, zorder=1)
    idle = np.flatnonzero(~mesh.mask[:, -1])
    x, y = np.tile(idle, 2), np.repeat([0, mesh.units - 1], len(idle))
    axes.plot(x, y, "x", color=ink, markersize=min(5.0, 80 / mesh.units))
    axes.set(xlim=(start, end), ylim=(mesh.units - 0.4, -0.6))
    _label_grid(axes, "column (×: idle pair)" if len(idle) else "column", "port")
    axes.xaxis.set_major_formatter(lambda value, _: "γ" if value == -1 else f"{value:g}")
    return axes


def _active(phases: Phases, mesh: RectangularMesh, which: str) -> np.ndarray:
    """The phases of one kind without those of idle pairs; phi and gamma modulo 2 pi."""
    values = getattr(phases, which)
    values = values if which == "gamma" else values[mesh.mask]
    return values if which == "theta" else wrapped(values)


def _limits(which: str, *values: np.ndarray) -> tuple[float, float]:
    """The usual range of a kind of phase, extended to all values."""
    usual = np.pi if which == "theta" else _TURN
    return min(0.0, *map(np.min, values)), max(usual, *map(np.max, values))


def _boxes(x: np.ndarray, y: np.ndarray, width: Any, height: Any) -> np.ndarray:
    """Corners [K, 4, 2] of boxes around their centres."""
    left, right, top, bottom = x - width / 2, x + width / 2, y - height / 2, y + height / 2
    return np.stack([left, top, right, top, right, bottom, left, bottom], axis=-1).reshape(-1, 4, 2)


def _draw_boxes(axes: Axes, boxes: np.ndarray, label: str, **colours: Any) -> None:
    """Draw boxes [K, 4, 2] in the colours of their phases, and the colour bar."""
    from matplotlib.collections import PolyCollection

    edge = min(0.5, 6 / np.sqrt(len(boxes)))
    drawn = PolyCollection(list(boxes), **colours)
    drawn.set(edgecolor=_ink(axes), linewidth=edge, zorder=2)
    axes.add_collection(drawn)
    axes.figure.colorbar(drawn, ax=axes, label=label)


def plot_light(
    axes: Axes, mesh: RectangularMesh, phases: Phases, fields: Any, limit: float | None = None
) -> Axes:
    """Draw the mean intensity of fields [B, N] or [N] before and after each column of a mesh.

    ``limit`` is the end of the colour scale, by default the highest intensity; pictures that are
    to be compared need the same.
    """
    places = fields_by_column(mesh, phases, np.atleast_2d(fields))
    intensity = np.mean(np.abs(places) ** 2, axis=1)
    label = "intensity |E|² (arb. units)"
    _draw_image(axes, intensity.T, label, aspect="auto", vmax=limit)
    _label_grid(axes, "columns passed", "port")
    return axes


def plot_matrix(axes: Axes, matrix: Any, show_phase: bool = False) -> Axes:
    """Draw a real or complex transfer matrix of K input and N output ports, [K, N].

    It draws an image of the magnitudes or, with ``show_phase``, squares whose sides are the
    magnitudes, coloured by the phase; these suit matrices of up to about 30 ports.
    """
    matrix = np.asarray(matrix)
    if matrix.ndim != 2 or matrix.size == 0:
        raise ValueError(f"matrix must be [K, N] with an entry, got shape {matrix.shape}")
    if not np.isfinite(matrix).all():
        raise ValueError("matrix must be finite, got inf or nan")
    if show_phase:
        _draw_squares(axes, matrix)
    else:
        _draw_image(axes, np.abs(matrix), "amplitude |U|")
    _label_grid(axes, "output port", "input port")
    return axes


def _draw_image(axes: Axes, values: np.ndarray, label: str, **settings: Any) -> None:
    image = axes.imshow(values, cmap=_SEQUENTIAL, vmin=0.0, **settings)
    axes.figure.colorbar(image, ax=axes, label=label)


def _draw_squares(axes: Axes, matrix: np.ndarray) -> None:
    rows, columns = (index.ravel() for index in np.indices(matrix.shape))
    magnitude, phase = np.abs(matrix).ravel(), wrapped(np.angle(matrix)).ravel()
    side = 0.95 * magnitude / max(magnitude.max(), np.finfo(float).tiny)
    boxes, label = _boxes(columns, rows, side, side), "phase arg U (rad); side: |U|"
    _draw_boxes(axes, boxes, label, array=phase, clim=(0, _TURN), cmap=_CYCLIC)
    _label_in_pi(axes.figure.axes[-1].yaxis)
    height, width = matrix.shape
    axes.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5), aspect="equal")


def plot_phase_distribution(
    axes: Axes, before: Phases, after: Phases, mesh: RectangularMesh, which: str = "theta"
) -> Axes:
    """Draw histograms of theta, or of phi or gamma modulo 2 pi, before and after training."""
    choice("which", which, _SYMBOLS)
    old, new = (
        _active(Phases(*one_set(name, phases, mesh)), mesh, which)
        for name, phases in (("before", before), ("after", after))
    )
    bins = np.linspace(*_limits(which, old, new), 25).tolist()
    axes.hist(old, bins, color=_BLUE, alpha=0.6, label="before")
    axes.hist(new, bins, color=_ORANGE, histtype="step", linewidth=2, label="after")
    counted = "ports" if which == "gamma" else "interferometers"
    _label_grid(axes, f"{_SYMBOLS[which]} (rad)", f"number of {counted}")
    axes.legend()
    _label_in_pi(axes.xaxis)
    return axes


def plot_transfer(axes: Axes, nonlinearity: Callable[[Any], Any], name: str) -> Axes:
    r"""Draw a nonlinearity's output intensity \|f(E)\|^2 and phase arg f(E) / E over \|E\|^2.

    The curves are for E > 0. If the input phase matters, a band spans the output intensities over
    all input phases. The phase has its ordinate on the right (twin axes) and is not drawn where no
    light leaves. The nonlinearity maps complex fields [..., N] to fields; its name is the title.
    """
    power = np.logspace(-3, 2, 1001)
    turns = np.exp(1j * np.linspace(0, _TURN, 16, endpoint=False))
    fields = np.sqrt(power)[:, None, None] * turns[:, None]  # each field is a sample of one port
    out = np.asarray(nonlinearity(fields))[..., 0]  # [1001, 16]
    intensity, dark = np.abs(out) ** 2, out[:, 0] == 0.0
    axes.set(xscale="log", yscale="log", xlabel="input intensity |E|² (arb. units)", title=name)
    axes.set_ylabel("output intensity |f(E)|² (arb. units)")
    shown = np.ma.masked_where(dark, intensity[:, 0])
    handles = {
        "f(E) = E": axes.plot(power, power, ":", color=_ink(axes), linewidth=1)[0],
        "intensity": axes.plot(power, shown, color=_BLUE, linewidth=2)[0],
        "phase": _plot_unwrapped(axes.twinx(), power, np.angle(out[:, 0]), dark),
    }
    if not np.allclose(intensity, intensity[:, :1], rtol=1e-6, atol=0.0):
        handles["any input phase"] = _plot_band(axes, power, intensity)
    axes.legend(handles.values(), handles.keys())
    return axes


def plot_plane(axes: Axes, nonlinearity: Callable[[Any], Any], name: str) -> Axes:
    r"""Draw where a nonlinearity takes fields of all phases: its picture of the complex plane.

    Each closed line is the output of all input phases at one amplitude \|E\|, dotted circles are
    the inputs, and the dot is where an input without a phase, E = \|E\|, goes. An element that
    follows the phase makes circles, which it may turn; one that does not makes other shapes.
    """
    from matplotlib import colormaps

    turns = np.exp(1j * np.linspace(0, _TURN, 361))
    for shade, modulus in zip(np.linspace(0.15, 0.85, 4), (0.5, 1.0, 1.5, 2.0), strict=True):
        circle = modulus * turns
        out = np.asarray(nonlinearity(circle[:, None]))[:, 0]
        colour = colormaps[_SEQUENTIAL](shade)
        axes.plot(circle.real, circle.imag, ":", color=_ink(axes), linewidth=0.5)
        axes.plot(out.real, out.imag, color=colour, linewidth=2, label=f"|E| = {modulus:g}")
        axes.plot(out.real[0], out.imag[0], "o", color=colour, markersize=5)
    axes.set(xlabel="Re f(E)", ylabel="Im f(E)", title=name, aspect="equal")
    axes.legend(fontsize="small", loc="upper left", ncols=2)
    bottom, top = axes.get_ylim()
    axes.set_ylim(bottom, top + 0.25 * (top - bottom))  # room for the legend
    return axes


def _plot_band(axes: Axes, x: np.ndarray, values: np.ndarray) -> Any:
    """Fill the range of values [K, any]; zero is at the bottom edge of the logarithmic axis."""
    bottom = axes.get_ylim()[0]
    darkest = np.finfo(float).tiny  # the axis may get a lower bottom later
    lowest, highest = np.maximum(values.min(axis=1), darkest), values.max(axis=1)
    band = axes.fill_between(x, lowest, highest, color=_BLUE, alpha=0.3)
    axes.set_ylim(bottom=bottom)
    return band


def _plot_unwrapped(axes: Axes, x: np.ndarray, phase: np.ndarray, hidden: np.ndarray) -> Any:
    phase = np.unwrap(phase)
    axes.set_ylabel("phase arg f(E)/E (rad)")
    axes.set_ylim(min(-np.pi, phase.min()) - 0.3, max(np.pi, phase.max()) + 0.3)
    if np.ptp(phase) < 2 * _TURN:
        _label_in_pi(axes.yaxis)
    shown = np.ma.masked_where(hidden, phase)
    return axes.plot(x, shown, "--", color=_ORANGE, linewidth=2)[0]


class _Newest:
    """Calls a function with the newest of the values that came while it was busy.

    The loop of a kernel first takes the messages that wait, and then draws.
    """

    def __init__(self, function: Callable[[float], Any]) -> None:
        self._function, self._waiting = function, False

    def __call__(self, value: float) -> None:
        self._value = value
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:  # no kernel
            self._function(value)
            return
        if not self._waiting:
            self._waiting = True
            loop.call_later(_PATIENCE, self._draw)

    def _draw(self) -> None:
        self._waiting = False
        self._function(self._value)


_DPI, _PATIENCE = 90, 0.02  # of a picture with a slider; s


@dataclass
class Knob:
    """A picture with a slider, for the last line of a notebook cell.

    ``draw`` fills a figure for a value of the slider. Without ipywidgets, or where the page is only
    read, the picture is that of the initial ``value``.
    """

    draw: Callable[[Figure, float], Any]
    label: str
    low: float
    high: float
    value: float
    figsize: tuple[float, float] = (8.0, 3.6)

    def picture(self, value: float) -> bytes:
        """The picture for a value, as PNG."""
        from matplotlib.figure import Figure

        figure, file = Figure(figsize=self.figsize, dpi=_DPI, layout="constrained"), io.BytesIO()
        self.draw(figure, value)
        figure.savefig(file, format="png")
        return file.getvalue()

    def widget(self) -> Any:
        """The slider above the picture; needs ipywidgets."""
        from ipywidgets import FloatSlider, Image, Layout, VBox

        width, height = (round(_DPI * inches) for inches in self.figsize)
        # Its natural size: a picture that is scaled is blurred.
        size = Layout(width=f"{width}px", height=f"{height}px", max_width="none", flex="none")
        image = Image(value=self.picture(self.value), layout=size)
        slider = FloatSlider(self.value, min=self.low, max=self.high, description=self.label)
        slider.step = (self.high - self.low) / 50
        slider.style.description_width = "initial"
        slider.layout.width = f"{min(width, 480)}px"
        newest = _Newest(lambda value: image.set_trait("value", self.picture(value)))
        slider.observe(lambda change: newest(change.new), "value")
        return VBox([slider, image], layout=Layout(overflow="auto"))

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        # The notebook shows the richest of these forms that it supports.
        picture = b64encode(self.picture(self.value)).decode()
        still = {"image/png": picture, "text/plain": f"{self.label} = {self.value:.3g}"}
        try:
            return self.widget()._repr_mimebundle_() | still
        except ImportError:
            return still


def _ink(axes: Axes) -> Any:
    return axes.xaxis.label.get_color()


def _label_grid(axes: Axes, across: str, down: str) -> None:
    """Label both axes, with ticks at whole numbers."""
    from matplotlib.ticker import MaxNLocator

    for axis, label in ((axes.xaxis, across), (axes.yaxis, down)):
        axis.set_label_text(label)
        axis.set_major_locator(MaxNLocator(integer=True))


def _label_in_pi(axis: Axis) -> None:
    """Put ticks at multiples of pi / 2."""
    from matplotlib.ticker import MultipleLocator

    def label(value: float, _: Any) -> str:
        halves = round(2 * value / np.pi)
        count, unit = (halves // 2, "π") if halves % 2 == 0 else (halves, "π/2")
        number = {1: "", -1: "−"}.get(count, f"{count}".replace("-", "−"))
        return number + unit if count else "0"

    axis.set_major_locator(MultipleLocator(np.pi / 2))
    axis.set_major_formatter(label)


def _pictures(ports: int) -> dict[str, Callable[[Axes], Axes]]:
    """The name of each file, and the function that draws it."""
    mesh = RectangularMesh(ports)
    phases, before = mesh.initial_phases(), mesh.initial_phases(1)
    matrix = fields_by_column(mesh, phases, np.eye(ports))[-1]
    light = np.eye(ports)[ports // 2]
    pictures: dict[str, Callable[[Axes], Axes]] = {
        "phases_theta": lambda axes: plot_phases(axes, mesh, phases),
        "phases_phi": lambda axes: plot_phases(axes, mesh, phases, "phi"),
        "light": lambda axes: plot_light(axes, mesh, phases, light),
        "matrix": lambda axes: plot_matrix(axes, matrix),
        "matrix_phase": lambda axes: plot_matrix(axes, matrix, show_phase=True),
        "phase_distribution": lambda axes: plot_phase_distribution(axes, before, phases, mesh),
    }
    for name, cls in NONLINEARITIES.items():
        pictures[f"transfer_{name}"] = partial(plot_transfer, nonlinearity=cls(), name=name)
        pictures[f"plane_{name}"] = partial(plot_plane, nonlinearity=cls(), name=name)
    return pictures


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the pictures that the command line asks for; exit with status 2 on an error."""
    parser = argparse.ArgumentParser(
        prog="python -m meshes.plotting",
        description="Write one picture of each kind as PNG: a small mesh with random phases, the "
        "light in it, its matrix, and the transfer curves of all nonlinearities.",
    )
    add = parser.add_argument
    add("--output", type=Path, required=True, metavar="DIR", help="directory for the pictures")
    ports_help = "ports of the mesh, 2 to 128 (default: 8)"
    add("--ports", type=int, default=8, metavar="N", help=ports_help)
    add("--dark", action="store_true", help="draw on a dark background")
    options = parser.parse_args(arguments)
    if not 2 <= options.ports <= 128:
        parser.error(f"--ports must be from 2 to 128, got {options.ports}")
    from matplotlib import style
    from matplotlib.figure import Figure

    try:
        options.output.mkdir(parents=True, exist_ok=True)
        with style.context("dark_background" if options.dark else "default"):
            for name, draw in _pictures(options.ports).items():
                figure = Figure(figsize=(6.0, 4.4), dpi=150, layout="constrained")
                draw(figure.subplots())
                figure.savefig(options.output / f"{name}.png")
    except OSError as error:
        parser.error(f"--output {options.output}: {error.strerror}")


if __name__ == "__main__":
    main()
