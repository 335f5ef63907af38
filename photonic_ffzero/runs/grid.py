"""Grids of training runs: their cells, their directory, and the table and figure they end in."""

from __future__ import annotations

import io
import math
import re
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from photonic_ffzero import plots
from photonic_ffzero.data.readers import DataError
from photonic_ffzero.runs.plan import Plan, plan_for  # noqa: F401 - for the experiments
from photonic_ffzero.storage import read_json, write_csv, write_json, write_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes


Label = str | int | float
"""What a cell's coordinate may be."""

SECONDS = "train_seconds"
"""The figure of results.json that says how long a run trained."""

_RESERVED = ("seed", "state")  # columns of results.csv that no label may take
_LONGEST = 100  # characters of a slug before its checksum; file systems take 255
_FEW = 8  # so many values of x get a tick each
_WIDE = 45  # characters that fit side by side below a panel
_BESIDE, _APART, _RUNS_BESIDE = 3.0, 12.0, 5.0  # points between curves; to the single runs


@dataclass(frozen=True)
class Cell:
    """One training run of a grid.

    Attributes:
        labels: The cell's coordinates: column name to value, without the seed.
        plan: What to train on what; its configuration holds the seed.
        after: Slug of the cell whose trained network this one starts from; empty for none.

    Raises:
        ValueError: the plan has several seeds, or a label is a number that is not finite.
    """

    labels: Mapping[str, Label]
    plan: Plan
    after: str = ""

    def __post_init__(self) -> None:
        if self.plan.seeds != 1:
            raise ValueError(f"seeds must be 1 in the plan of a cell, got {self.plan.seeds}")
        for name, value in self.labels.items():
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"label {name} must be finite, got {value}")

    @property
    def seed(self) -> int:
        """The seed of the run."""
        return self.plan.config.seed

    @property
    def name(self) -> str:
        """The cell in words: ``mnist, meshes 2, ff-dd, seed 0``."""
        words = (v if isinstance(v, str) else f"{k} {v}" for k, v in self.labels.items())
        return ", ".join([*words, f"seed {self.seed}"])

    @property
    def slug(self) -> str:
        """The name of the cell's directory: letters, digits, dots, dashes and underscores.

        Values that have anything else, capitals included (some file systems do not tell them
        apart), or that are very long, are told apart by a checksum.
        """
        parts = [f"{name}-{value}" for name, value in self.labels.items()]
        given = "_".join(parts)
        clean = "_".join(re.sub(r"[^a-z0-9.-]+", "-", part.lower()).strip(".-") for part in parts)
        if clean != given or len(given) > _LONGEST:
            clean = f"{clean[:_LONGEST]}_{zlib.crc32(repr(parts).encode()):08x}"
        return f"{clean}_seed-{self.seed}"


@dataclass(frozen=True, kw_only=True)
class Grid:
    """A set of runs and how to show what comes of them.

    Attributes:
        cells: The runs, in the order in which they start.
        x: The label along the horizontal axis; numbers or, if any is a text, categories.
        curves: The labels that tell curves apart.
        panels: The label that tells panels apart; None for one panel.
        name: Name of the experiment, that of its script; `run_experiment` fills it in.
        preset: ``small`` or ``paper``; filled in, too.
        value: The figure of results.json to show.
        value_label: Its name in words.
        unit: Its unit, once multiplied by ``factor``; empty for none.
        factor: What it is multiplied by to be shown.
        x_label: Text of the horizontal axis, with its unit; the label's name if empty.
        log_x: Whether the horizontal axis is logarithmic.
        title: Heading of the figure and of the report's section.
        description: A paragraph for the report; filled in, too.
        command: The command line that gives this grid again; filled in, too.

    Raises:
        ValueError: there is no cell, cells have different labels or the same ones twice, or a
            role goes to a label that is not there.
    """

    cells: tuple[Cell, ...]
    x: str
    curves: tuple[str, ...] = ()
    panels: str | None = None
    name: str = ""
    preset: str = "small"
    value: str = "test_accuracy"
    value_label: str = "test accuracy"
    unit: str = "%"
    factor: float = 100.0
    x_label: str = ""
    log_x: bool = False
    title: str = ""
    description: str = ""
    command: str = ""

    def __post_init__(self) -> None:
        if not self.cells:
            raise ValueError(f"cells of grid {self.name} must be at least one, got none")
        names = self.label_names
        for cell in self.cells:
            if tuple(cell.labels) != names:
                raise ValueError(f"cells must all have the labels {names}, got {(*cell.labels,)}")
        for role in (self.x, *self.curves, *([self.panels] if self.panels else [])):
            if role not in names:
                raise ValueError(f"axes must be labels of the cells, {names}; got {role!r}")
        if taken := set(names) & set(_RESERVED):
            raise ValueError(f"labels must not be named {' or '.join(sorted(taken))}")
        slugs = [cell.slug for cell in self.cells]
        for place, cell in enumerate(self.cells):
            if cell.after and cell.after not in slugs[:place]:
                raise ValueError(f"after must name an earlier cell, got {cell.after!r}")
        if twice := {slug for slug in slugs if slugs.count(slug) > 1}:
            raise ValueError(f"cells must differ in a label or the seed, got twice {min(twice)}")

    @property
    def label_names(self) -> tuple[str, ...]:
        """The columns that make up a cell's coordinates."""
        return tuple(self.cells[0].labels)

    @property
    def value_axis(self) -> str:
        """Text of the vertical axis, with its unit."""
        return f"{self.value_label} ({self.unit})" if self.unit else self.value_label

    @property
    def heading(self) -> str:
        """The title, or the name where there is none."""
        return self.title or self.name

    def shown(self, results: Mapping[str, Any]) -> float | None:
        """The value of a finished run as it is shown; None if the run has no such number."""
        value = results.get(self.value)
        if isinstance(value, bool) or not isinstance(value, int | float):
            return None
        return self.factor * value if math.isfinite(value) else None

    def written(self, value: float) -> str:
        """A value in text, without its unit."""
        return format(value, {"%": ".2f", "": ".4f"}.get(self.unit, ".4g"))

    def as_json(self) -> dict[str, Any]:
        """The grid as a JSON object."""
        content = {field.name: getattr(self, field.name) for field in fields(self)}
        cells = [
            {"labels": dict(cell.labels), "plan": cell.plan.as_json(), "after": cell.after}
            for cell in self.cells
        ]
        return content | {"curves": list(self.curves), "cells": cells}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Grid:
        """Rebuild a grid from a grid.json.

        Raises:
            DataError: something is missing, unknown or out of range.
        """
        try:
            cells = tuple(
                Cell(dict(cell["labels"]), Plan.from_json(cell["plan"]), str(cell["after"]))
                for cell in content["cells"]
            )
            return cls(**(content | {"cells": cells, "curves": tuple(content["curves"])}))
        except KeyError as error:
            raise DataError(f"grid.json must name {error}, which is missing") from None
        except (TypeError, ValueError, AttributeError) as error:
            raise DataError(f"grid.json: {error}") from None


@dataclass(frozen=True)
class Outcome:
    """What has become of a cell.

    Attributes:
        cell: The cell.
        directory: Its run directory.
        state: ``done``, ``failed``, ``stopped`` (it can go on) or ``waiting``.
        results: Its results.json if it is done, else nothing.
        message: Why it failed.
    """

    cell: Cell
    directory: Path
    state: str
    results: Mapping[str, Any]
    message: str = ""


class GridDirectory:
    """The directory of a grid: ``grid.json``, the run directories in ``cells/``, the results.

    What has become of a cell is told by the files in its directory alone, so that nothing is
    lost whenever the grid is killed.

    Args:
        path: The directory.
        grid: The grid in it.
    """

    def __init__(self, path: Path, grid: Grid) -> None:
        self.path, self.grid = path, grid

    @classmethod
    def create(cls, path: Path, grid: Grid) -> GridDirectory:
        """Make the directory of a new grid.

        Raises:
            OSError: it cannot be made or written.
        """
        path.mkdir(parents=True, exist_ok=True)
        write_json(path / "grid.json", grid.as_json())
        return cls(path, grid)

    @classmethod
    def open(cls, path: Path) -> GridDirectory:
        """Open the directory of a grid.

        Raises:
            ValueError: there is no grid in it.
            DataError: its grid.json is damaged.
        """
        content = read_json(path / "grid.json")
        if content is None:
            raise ValueError(f"a grid's directory must hold a grid.json, found none in {path}")
        try:
            return cls(path, Grid.from_json(content))
        except DataError as error:
            raise DataError(f"{path / 'grid.json'}: {error}") from None

    def cell_path(self, cell: Cell) -> Path:
        """The run directory of a cell."""
        return self.path / "cells" / cell.slug

    def prepare(self, cell: Cell) -> Path:
        """Make the run directory of a cell that is to start or to go on; forget its failure.

        Raises:
            OSError: it cannot be made or written.
        """
        folder = self.cell_path(cell)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "failure.json").unlink(missing_ok=True)
        if not (folder / "config.json").exists():  # a started run has added a checksum to it
            start = {"start_from": f"../{cell.after}"} if cell.after else {}
            write_json(folder / "config.json", cell.plan.as_json() | start)
        return folder

    def fail(self, cell: Cell, message: str) -> None:
        """Write down that a cell failed, and why.

        Raises:
            OSError: the file cannot be written.
        """
        write_json(self.cell_path(cell) / "failure.json", {"message": message})

    def outcome(self, cell: Cell) -> Outcome:
        """What has become of a cell, from the files in its directory."""
        folder = self.cell_path(cell)
        if results := _readable(folder / "results.json"):
            return Outcome(cell, folder, "done", results)
        if failure := _readable(folder / "failure.json"):
            return Outcome(cell, folder, "failed", {}, str(failure.get("message", "")))
        begun = (folder / "config.json").exists()
        return Outcome(cell, folder, "stopped" if begun else "waiting", {})

    def outcomes(self) -> list[Outcome]:
        """What has become of every cell, in the grid's order."""
        return [self.outcome(cell) for cell in self.grid.cells]

    @property
    def done(self) -> list[Cell]:
        """The cells whose runs are done, in the grid's order."""
        return [outcome.cell for outcome in self.outcomes() if outcome.state == "done"]

    def write_results(self) -> str:
        """Write results.csv, table.txt and figure.png from what there is; return the table.

        Raises:
            OSError: a file cannot be written.
        """
        outcomes = self.outcomes()
        summaries = summarise(self.grid, outcomes)
        table = _table(self.grid, summaries)
        write_csv(self.path / "results.csv", [_row(outcome) for outcome in outcomes])
        write_whole(self.path / "table.txt", lambda file: file.write(table.encode()))
        panels = _panels(self.grid, summaries)

        def draw(*axes: Axes) -> None:
            for own, (name, members) in zip(axes, panels.items(), strict=True):
                own.sharey(axes[0])
                plot_grid(own, self.grid, members)
                own.set_title(str(name), fontsize="medium")
            add_legend(axes)

        title = f"{self.grid.heading} (preset {self.grid.preset})"
        plots.save_figure(self.path / "figure.png", draw, panels=len(panels), title=title)
        return table


def _readable(path: Path) -> dict[str, Any] | None:
    """A JSON object, or None where there is none; the run itself reports a damaged one."""
    try:
        return read_json(path)
    except (DataError, OSError):
        return None


# --- what comes of the runs -----------------------------------------------------------------------


@dataclass(frozen=True)
class Summary:
    """The runs of one coordinate: all seeds together.

    Attributes:
        labels: The coordinates.
        values: The values of the finished runs, as they are shown.
        seconds: Their training times.
        cells: How many runs there are, finished or not.
        failed: How many of them failed.
    """

    labels: Mapping[str, Label]
    values: tuple[float, ...]
    seconds: tuple[float, ...]
    cells: int
    failed: int

    @property
    def mean(self) -> float:
        """Mean of the values; not a number if there are none."""
        return float(np.mean(self.values)) if self.values else math.nan

    @property
    def sd(self) -> float:
        """Standard deviation of the values, n - 1 in the denominator; 0 for fewer than two."""
        return float(np.std(self.values, ddof=1)) if len(self.values) > 1 else 0.0

    @property
    def n(self) -> str:
        """How many runs the mean is of; of how many, and whether one failed, if some miss."""
        if len(self.values) == self.cells:
            return str(self.cells)
        return f"{len(self.values)}/{self.cells}" + (" failed" if self.failed else "")

    def written(self, grid: Grid) -> str:
        """Mean and standard deviation in text, without the unit."""
        if not self.values:
            return "-"
        spread = f" +- {grid.written(self.sd)}" if len(self.values) > 1 else ""
        return grid.written(self.mean) + spread

    @property
    def written_seconds(self) -> str:
        """The mean training time in text."""
        return f"{np.mean(self.seconds):.1f}" if self.seconds else "-"


def summarise(grid: Grid, outcomes: Iterable[Outcome]) -> list[Summary]:
    """Mean and spread over the seeds of every coordinate, in the order of the cells.

    Args:
        grid: The grid.
        outcomes: What has become of its cells.
    """
    groups: dict[tuple[Label, ...], list[Outcome]] = {}
    for outcome in outcomes:
        groups.setdefault(tuple(outcome.cell.labels.values()), []).append(outcome)
    return [_summary(grid, members) for members in groups.values()]


def _summary(grid: Grid, members: Sequence[Outcome]) -> Summary:
    values = [grid.shown(member.results) for member in members]
    seconds = [member.results.get(SECONDS) for member in members]
    return Summary(
        labels=members[0].cell.labels,
        values=tuple(value for value in values if value is not None),
        seconds=tuple(float(value) for value in seconds if value is not None),
        cells=len(members),
        failed=sum(member.state == "failed" for member in members),
    )


def _row(outcome: Outcome) -> dict[str, Any]:
    """Labels, seed, state, and what is a single number or text in the results of a cell."""
    own = {**outcome.cell.labels, "seed": outcome.cell.seed, "state": outcome.state}
    single = {
        name: value
        for name, value in outcome.results.items()
        if value is None or isinstance(value, str | int | float)
    }
    return own | {name: value for name, value in single.items() if name not in own}


def _table(grid: Grid, summaries: Sequence[Summary]) -> str:
    """The summaries in at most 80 columns, a table a panel; it is Markdown, too."""
    tables = []
    for name, members in _panels(grid, summaries).items():
        heading = f"{grid.panels}: {name}\n\n" if grid.panels else ""
        tables.append(heading + _panel_table(grid, members))
    return "\n".join(tables)


def _panel_table(grid: Grid, summaries: Sequence[Summary]) -> str:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    names = [name for name in grid.label_names if name != grid.panels]
    table = Table(box=box.MARKDOWN)
    for name in names:
        table.add_column(name, overflow="fold")
    for name in (grid.value_axis, "n", "seconds"):
        table.add_column(name, justify="right", no_wrap=True)
    for summary in summaries:
        labels = [str(summary.labels[name]) for name in names]
        table.add_row(*labels, summary.written(grid), summary.n, summary.written_seconds)
    text = io.StringIO()
    Console(file=text, width=80, color_system=None, markup=False).print(table)
    lines = (line.rstrip() for line in text.getvalue().splitlines())
    return "".join(f"{line}\n" for line in lines if line)


# --- the figure -----------------------------------------------------------------------------------


def _panels(grid: Grid, summaries: Sequence[Summary]) -> dict[Label, list[Summary]]:
    panels: dict[Label, list[Summary]] = {}
    for summary in summaries:
        name = summary.labels[grid.panels] if grid.panels else ""
        panels.setdefault(name, []).append(summary)
    return panels


def plot_grid(axes: Axes, grid: Grid, summaries: Sequence[Summary]) -> None:
    """Draw the mean of every coordinate with its standard deviation, a curve at a time.

    Categories along x get points side by side, numbers get lines. Single runs are drawn as small
    points besides.

    Args:
        axes: The axes to draw on.
        grid: The grid, with the roles of its labels.
        summaries: What to draw, of one panel.
    """
    ticks = list(dict.fromkeys(summary.labels[grid.x] for summary in summaries))
    categories = any(isinstance(tick, str) for tick in ticks)
    places = range(len(ticks)) if categories else [float(tick) for tick in ticks]
    place_of = dict(zip(ticks, places, strict=True))
    names = list(dict.fromkeys(_curve(grid, cell.labels) for cell in grid.cells))
    for index, name in enumerate(names):  # a curve looks the same in every panel
        own = [s for s in summaries if s.values and _curve(grid, s.labels) == name]
        own.sort(key=lambda member: place_of[member.labels[grid.x]])
        if not own:
            continue
        x = [place_of[member.labels[grid.x]] for member in own]
        offset = (index - (len(names) - 1) / 2) * (_APART if categories else _BESIDE)
        style = plots.curve_style(index) | ({"linestyle": ""} if categories else {})
        _plot_curve(axes, x, own, offset, **style, label=name)
    if not any(summary.values for summary in summaries):
        axes.text(0.5, 0.5, "no finished runs", transform=axes.transAxes, ha="center")
    _finish(axes, grid, place_of, categories)


def _curve(grid: Grid, labels: Mapping[str, Label]) -> str:
    """The name in the legend of the curve to which these labels belong."""
    values = [(name, labels[name]) for name in grid.curves]
    return ", ".join(v if isinstance(v, str) else f"{name} {v}" for name, v in values)


def _plot_curve(
    axes: Axes, x: Sequence[float], members: Sequence[Summary], offset: float, **style: Any
) -> None:
    """Draw means with bars, some points to the side so that curves that coincide show."""
    mean = [member.mean for member in members]
    sd = [member.sd if len(member.values) > 1 else math.nan for member in members]
    line, caps, bars = axes.errorbar(x, mean, sd, capsize=4, markersize=6, **style)
    _move(axes, (line, *caps, *bars), offset)
    runs = [
        (place, value)
        for place, member in zip(x, members, strict=True)
        for value in (member.values if len(member.values) > 1 else ())
    ]
    if runs:
        dots = axes.plot(*zip(*runs, strict=True), ".", color=style["color"], markersize=3)
        _move(axes, dots, offset + _RUNS_BESIDE)


def _move(axes: Axes, artists: Iterable[Any], points: float) -> None:
    """Move what is drawn to the right; the axes keep to the data, which have been seen by now."""
    from matplotlib.transforms import ScaledTranslation

    figure: Any = axes.figure
    for artist in artists:
        shift = ScaledTranslation(points / 72, 0, figure.dpi_scale_trans)
        artist.set_transform(artist.get_transform() + shift)


def _finish(axes: Axes, grid: Grid, place_of: Mapping[Label, float], categories: bool) -> None:
    if grid.log_x and not categories:
        axes.set_xscale("log")
    if categories or len(place_of) <= _FEW:
        names = [tick if isinstance(tick, str) else f"{tick:g}" for tick in place_of]
        crowded = sum(map(len, names)) + 2 * len(names) > _WIDE
        slant: Any = {"rotation": 30, "ha": "right", "rotation_mode": "anchor"} if crowded else {}
        axes.set_xticks(list(place_of.values()), names, **slant)
        axes.minorticks_off()
    if categories:
        axes.set_xlim(-0.5, len(place_of) - 0.5)
    axes.set(xlabel=grid.x_label or grid.x, ylabel=grid.value_axis)
    axes.grid(alpha=0.3)


def add_legend(axes: Sequence[Axes]) -> None:
    """One legend for all panels, below them, where it hides nothing."""
    entries: dict[str, Any] = {}
    for own in axes:
        handles, labels = own.get_legend_handles_labels()
        entries |= {label: h for h, label in zip(handles, labels, strict=True) if label}
    if entries:
        figure: Any = axes[0].figure
        columns = min(len(entries), 2 * len(axes))
        figure.legend(entries.values(), entries, loc="outside lower center", ncols=columns)
