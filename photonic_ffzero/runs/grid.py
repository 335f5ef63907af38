"""Grids of training runs: the cells, the grid, and the directory that holds them."""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np

from meshes.files import DataError
from meshes.validation import integer, keep, number, one_line, text
from photonic_ffzero.runs.history import learning_curve, read_history
from photonic_ffzero.runs.plan import Plan
from photonic_ffzero.runs.records import (
    CELL,
    DEATHS,
    FAILURE,
    GRID,
    RESULTS,
    Schema,
    check,
    read_record,
)
from photonic_ffzero.storage import read_json, write_json

Label = str | int | float
"""What a coordinate of a cell may be."""

_RESERVED = ("seed", "state", "value", "seconds")  # columns of a table of runs
_LONGEST_SLUG = 100  # characters before the checksum; file systems take 255


@dataclass(frozen=True)
class Cell:
    """One training run of a grid.

    Attributes:
        labels: Coordinates of the cell, by name; the seed is not among them.
        plan: What to train on which data; its configuration holds the seed.
        after: Slug of the cell whose trained network this one starts from; empty for none.
    """

    labels: Mapping[str, Label]
    plan: Plan
    after: str = ""

    def __post_init__(self) -> None:
        if self.plan.seeds != 1:
            raise ValueError(f"seeds must be 1 in the plan of a cell, got {self.plan.seeds}")
        keep(self, labels={text("label", n): _label(n, v) for n, v in self.labels.items()})

    @property
    def seed(self) -> int:
        return self.plan.config.seed

    @property
    def name(self) -> str:
        """The cell in words: ``mnist, meshes 2, ff-dd, seed 0``."""
        return label_text({**self.labels, "seed": self.seed})

    @property
    def slug(self) -> str:
        """Name of the run directory: letters, digits, dots, dashes and underscores.

        Values with other characters get a checksum to tell them apart. So do capitals, as some
        file systems ignore case, and very long values.
        """
        parts = [f"{name}-{value}" for name, value in self.labels.items()]
        full = "_".join(parts)
        clean = "_".join(re.sub(r"[^a-z0-9.-]+", "-", part.lower()).strip(".-") for part in parts)
        if clean != full or len(full) > _LONGEST_SLUG:
            clean = f"{clean[:_LONGEST_SLUG]}_{zlib.crc32(repr(parts).encode()):08x}"
        return f"{clean}_seed-{self.seed}"

    def with_seed(self, seed: int) -> Cell:
        """The same run with another seed, after the one of that seed."""
        plan = replace(self.plan, config=replace(self.plan.config, seed=seed))
        after = self.after and f"{self.after.removesuffix(f'_seed-{self.seed}')}_seed-{seed}"
        return Cell(self.labels, plan, after)


def _label(name: str, value: Any) -> Label:
    """A coordinate as a text, or as a number of Python."""
    if isinstance(value, str | np.str_):
        return text(f"label {name}", value)
    check = integer if isinstance(value, Integral) else number
    return check(f"label {name}", value)


def label_text(labels: Mapping[str, Label]) -> str:
    """Labels as a list of words; a number is preceded by its name."""
    words = (v if isinstance(v, str) else f"{name} {v}" for name, v in labels.items())
    return one_line(", ".join(words))


@dataclass(frozen=True, kw_only=True)
class Grid:
    """A set of training runs, and how to show their results.

    Attributes:
        cells: The runs, in the order in which they start.
        x: The label along the horizontal axis: numbers, or categories if any value is a text.
        curves: The labels that tell curves apart.
        panels: The labels that tell panels apart; none for one panel.
        name: Name of the experiment and of its script, set by `run_experiment`.
        preset: Name of the preset, set by `run_experiment`.
        value: The figure of results.json to show.
        value_label: Its name in words.
        unit: Its unit after multiplication by ``factor``; empty for none.
        factor: What it is multiplied by.
        x_label: Text of the horizontal axis, with its unit; the label's name if empty.
        log_x: Whether the horizontal axis is logarithmic.
        title: Heading of the figure and of the report's section.
        description: A paragraph for the report, set by `run_experiment`.
        command: The command line that repeats this grid, set by `run_experiment`.
    """

    cells: tuple[Cell, ...]
    x: str
    curves: tuple[str, ...] = ()
    panels: tuple[str, ...] = ()
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
        for axis in (self.x, *self.curves, *self.panels):
            if axis not in names:
                raise ValueError(f"axes must be labels of the cells, {names}; got {axis!r}")
        if taken := set(names) & set(_RESERVED):
            raise ValueError(f"labels must not be named {' or '.join(sorted(taken))}")
        slugs: set[str] = set()
        for cell in self.cells:
            if cell.after and cell.after not in slugs:
                raise ValueError(f"after must name an earlier cell, got {cell.after!r}")
            if cell.slug in slugs:
                raise ValueError(f"cells must differ in a label or the seed, got twice {cell.slug}")
            slugs.add(cell.slug)

    @property
    def label_names(self) -> tuple[str, ...]:
        return tuple(self.cells[0].labels)

    @property
    def value_axis(self) -> str:
        """Text of the vertical axis, with its unit."""
        return f"{self.value_label} ({self.unit})" if self.unit else self.value_label

    @property
    def heading(self) -> str:
        """The title, or the name if there is no title."""
        return self.title or self.name

    def shown(self, results: Mapping[str, Any]) -> float | None:
        """The value of a finished run in the grid's unit; None if the run has no such number."""
        value = results.get(self.value)
        if isinstance(value, bool) or not isinstance(value, int | float):
            return None
        return self.factor * value if math.isfinite(value) else None

    def written(self, value: float) -> str:
        """A value as text, without its unit."""
        return format(value, {"%": ".2f", "": ".4f"}.get(self.unit, ".4g"))

    def with_seeds(self, count: int) -> Grid:
        """This grid with ``count`` seeds at every point: those it has, and those it lacks."""
        first, most = self.cells[0].seed, len({cell.seed for cell in self.cells})
        if count < most:
            raise ValueError(f"seeds must be at least the {most} of the grid, got {count}")
        points = [cell for cell in self.cells if cell.seed == first]
        there = {cell.slug for cell in self.cells}
        wanted = (point.with_seed(first + i) for i in range(count) for point in points)
        cells = [cell for cell in wanted if cell.slug not in there]
        command = self.command and f"{re.sub(' --seeds [0-9]+', '', self.command)} --seeds {count}"
        return replace(self, cells=(*self.cells, *cells), command=command)

    def as_json(self) -> dict[str, Any]:
        content = {field.name: getattr(self, field.name) for field in fields(self)}
        cells = [
            {"labels": dict(cell.labels), "plan": cell.plan.as_json(), "after": cell.after}
            for cell in self.cells
        ]
        axes = {"curves": list(self.curves), "panels": list(self.panels)}
        return content | axes | {"cells": cells}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Grid:
        """Rebuild a grid from the content of a grid.json."""
        check("grid.json", content, GRID)
        try:
            cells = tuple(
                Cell(dict(cell["labels"]), Plan.from_json(cell["plan"]), cell["after"])
                for cell in (check("grid.json", cell, CELL) for cell in content["cells"])
            )
            panels = content.get("panels") or ()  # formerly one label, or null
            panels = (panels,) if isinstance(panels, str) else tuple(panels)
            axes = {"curves": tuple(content["curves"]), "panels": panels}
            return cls(**(content | axes | {"cells": cells}))
        except KeyError as error:
            raise DataError(f"grid.json must name {error}, which is missing") from None
        except (TypeError, ValueError, AttributeError) as error:
            raise DataError(f"grid.json: {error}") from None


@dataclass(frozen=True)
class Outcome:
    """The state of a cell.

    Attributes:
        cell: The cell.
        directory: Its run directory.
        state: ``done``, ``failed``, ``stopped`` (it can go on) or ``waiting``.
        results: Content of results.json if the cell is done, else empty.
        message: Why it failed, or what is wrong with its results, on one line.
    """

    cell: Cell
    directory: Path
    state: str
    results: Mapping[str, Any]
    message: str = ""


class GridDirectory:
    """The directory of a grid: ``grid.json``, run directories in ``cells/``, and the results.

    The state of a cell follows from the files in its run directory alone, so that nothing is
    lost when the grid is killed.
    """

    def __init__(self, path: Path, grid: Grid) -> None:
        self.path, self.grid = path, grid

    @classmethod
    def create(cls, path: Path, grid: Grid) -> GridDirectory:
        """Make the directory of a new grid."""
        path.mkdir(parents=True, exist_ok=True)
        write_json(path / "grid.json", grid.as_json())
        return cls(path, grid)

    @classmethod
    def open(cls, path: Path) -> GridDirectory:
        """Open the directory of a grid; ValueError if it has no grid.json."""
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
        """Make the run directory of a cell that starts or goes on; forget an earlier failure."""
        folder = self.cell_path(cell)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "failure.json").unlink(missing_ok=True)
        if not _read_if_valid(folder / "results.json", RESULTS)[0]:
            (folder / "results.json").unlink(missing_ok=True)  # damaged; its run tests again
        if not (folder / "config.json").exists():  # the run itself adds a checksum to it
            start = {"start_from": f"../{cell.after}"} if cell.after else {}
            write_json(folder / "config.json", cell.plan.as_json() | start)
        return folder

    def fail(self, cell: Cell, message: str) -> None:
        """Write down that a cell failed, and why."""
        folder = self.cell_path(cell)
        with suppress(FileExistsError, NotADirectoryError):  # a file has taken its place
            folder.mkdir(parents=True, exist_ok=True)
            write_json(folder / "failure.json", {"message": message})
            (folder / "deaths.json").unlink(missing_ok=True)  # the next try starts at none

    def count_death(self, cell: Cell) -> int:
        """Write down that a cell's worker or process died; return how often one did."""
        file = self.cell_path(cell) / "deaths.json"
        before, _ = _read_if_valid(file, DEATHS)
        count = 1 + (before or {}).get("count", 0)
        with suppress(FileNotFoundError, NotADirectoryError):  # so that its folder is gone, too
            write_json(file, {"count": count})
        return count

    def outcome(self, cell: Cell) -> Outcome:
        """The state of a cell, from the files in its run directory."""
        folder = self.cell_path(cell)
        results, damage = _read_if_valid(folder / "results.json", RESULTS)
        if results:
            return Outcome(cell, folder, "done", results)
        failure, _ = _read_if_valid(folder / "failure.json", FAILURE)
        if failure:
            return Outcome(cell, folder, "failed", {}, one_line(failure.get("message", "")))
        started = (folder / "config.json").exists()
        return Outcome(cell, folder, "stopped" if started else "waiting", {}, damage)

    def outcomes(self) -> list[Outcome]:
        """The state of every cell, in the grid's order."""
        return [self.outcome(cell) for cell in self.grid.cells]

    def learning_curve(self, cell: Cell) -> np.ndarray:
        """The `learning_curve` of a cell, in the grid's unit."""
        return learning_curve(read_history(self.cell_path(cell)), self.grid.factor)

    @property
    def done(self) -> list[Cell]:
        """The cells whose runs are done, in the grid's order."""
        return [outcome.cell for outcome in self.outcomes() if outcome.state == "done"]


def _read_if_valid(path: Path, schema: Schema) -> tuple[dict[str, Any] | None, str]:
    """The content of a JSON file, or None and what is wrong with it."""
    try:
        return read_record(path, schema), ""
    except (DataError, OSError) as error:
        return None, one_line(str(error))
