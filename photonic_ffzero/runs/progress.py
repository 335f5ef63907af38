"""Progress on the screen: of one training run, and of a grid of them."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Column

from meshes.files import read_text
from meshes.validation import one_line
from photonic_ffzero.model import EpochRecord
from photonic_ffzero.runs.grid import Cell, Grid
from photonic_ffzero.training.trainer import Observer

_NARROW = 80  # columns; below, a grid's lines have no room for bars
_INTERVAL = 0.1  # seconds between updates, so that showing progress costs no time


def progress_console(quiet: bool) -> Console:
    """Standard error; nothing in a text is an instruction, as texts hold names of files."""
    return Console(stderr=True, quiet=quiet, highlight=False, markup=False, emoji=False)


def _bars(console: Console, bar: bool = True, **settings: Any) -> Progress:
    """Lines of description, bar, figures and time left; nothing if the console is no terminal."""
    description = Column(no_wrap=True, overflow="ellipsis", ratio=1)
    figures = TextColumn("{task.fields[figures]}", markup=False, table_column=Column(no_wrap=True))
    return Progress(
        TextColumn("{task.description}", markup=False, table_column=description),
        *([BarColumn(bar_width=None, table_column=Column(ratio=1))] if bar else []),
        figures,
        TimeRemainingColumn(compact=True, table_column=Column(no_wrap=True)),
        TextColumn("left", table_column=Column(no_wrap=True)),
        console=console,
        refresh_per_second=4,
        disable=not console.is_terminal or console.quiet,
        transient=True,
        expand=True,
        **settings,
    )


class LiveProgress(Observer):
    """A bar on a terminal; elsewhere (a pipe, a log) one line an epoch.

    Args:
        console: Where to write.
        steps: Steps of the whole run.
        done: Steps taken before.
        label: What is trained; a mesh's number follows.
        quality: Formats an accuracy or R^2.
    """

    def __init__(
        self,
        console: Console,
        steps: int,
        done: int,
        label: str,
        quality: Callable[[float], str],
    ) -> None:
        self._console, self._label, self._quality = console, label, quality
        self._steps, self._done, self._updated, self._validation = steps, done, 0.0, ""
        self._bar = _bars(console)
        self._task = self._bar.add_task(label, total=steps, completed=done, figures="compiling")

    def __enter__(self) -> LiveProgress:
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.stop()

    def on_steps(self, mesh: str, losses: list[float]) -> None:
        """Move the bar, a few times a second."""
        self._done += len(losses)
        now = time.perf_counter()
        if now - self._updated < _INTERVAL and self._done < self._steps:
            return
        self._updated = now
        self._bar.update(
            self._task,
            completed=self._done,
            description=f"{self._label} {mesh}",
            figures=f"loss {losses[-1]:.3f}{self._validation}",
        )

    def on_calibration(self, mesh: str, done: int, total: int) -> None:
        """Show the settings that are read; elsewhere than on a terminal, say when all are."""
        now = time.perf_counter()
        if now - self._updated > _INTERVAL:
            self._updated = now
            name, figures = f"{self._label} {mesh}", f"calibrating {done}/{total}"
            self._bar.update(self._task, description=name, figures=figures)
        if done == total and not self._console.is_terminal:
            self._console.print(f"{self._label} {mesh}: calibrated by {total} settings")

    def on_epoch(self, record: EpochRecord) -> None:
        """Show the accuracy on the validation images."""
        quality = record.validation_accuracy
        self._validation = "" if quality is None else f", validation {self._quality(quality)}"
        if not self._console.is_terminal:
            self._console.print(
                f"{self._label} {record.mesh}, epoch {record.epoch}: "
                f"loss {record.loss:.3f}{self._validation}, {record.seconds:.0f} s",
                highlight=False,
            )


class CalibrationProgress:
    """A bar on a terminal; elsewhere one line a mesh. One after another, meshes are calibrated."""

    def __init__(self, console: Console, meshes: int) -> None:
        self._console, self._meshes, self._done, self._updated = console, meshes, 0, 0.0
        self._bar = _bars(console)
        self._task = self._bar.add_task("mesh 1", total=meshes, figures="compiling")

    def __enter__(self) -> CalibrationProgress:
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.stop()

    def update(self, done: int, total: int) -> None:
        """Show how many settings of the mesh in work are read."""
        now, mesh = time.perf_counter(), self._done + 1
        if done == total:
            self._done += 1
            if not self._console.is_terminal:
                self._console.print(f"mesh {mesh}: {total} settings read")
        elif now - self._updated > _INTERVAL:
            self._updated = now
            self._bar.update(
                self._task,
                completed=self._done + done / total,
                description=f"mesh {mesh} of {self._meshes}",
                figures=f"{done}/{total} settings",
            )


class GridProgress:
    """One line for each cell that ends; on a terminal also a bar for each cell that runs."""

    def __init__(self, console: Console, cells: int, done: int) -> None:
        self._console, self._cells, self._ended, self._failed = console, cells, done, 0
        self._wide = console.width >= _NARROW
        self._bars = _bars(console, self._wide, speed_estimate_period=3600.0)
        self._total = self._bars.add_task("", total=cells, completed=done, figures="")
        self._running: dict[str, TaskID] = {}
        self._update_total()

    def __enter__(self) -> GridProgress:
        self._bars.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bars.stop()

    def show(self, cell: str, completed: float, figures: str) -> None:
        """Show a cell that runs: its name, the share of its epochs that are done, and figures.

        Until there are any, the line says that it starts.
        """
        figures = figures or "starting"
        if cell not in self._running:
            self._running[cell] = self._bars.add_task(cell, total=1.0, figures="")
        if not self._wide:
            figures = figures.replace("validation ", "")
        self._bars.update(self._running[cell], completed=completed, figures=figures)
        self._update_total()

    def ended(self, cell: str, state: str, figures: str, seconds: float) -> None:
        """Print the line of a cell that has ended."""
        if cell in self._running:
            self._bars.remove_task(self._running.pop(cell))
        self._ended += 1
        self._failed += state == "failed"
        self._console.print(
            f"[{self._ended}/{self._cells}] {cell}: {f'{state} {figures}'.rstrip()}, "
            f"{seconds:.0f} s",
            markup=False,
            soft_wrap=True,
        )
        self._update_total()

    def interrupted(self, cell: str, reason: str) -> None:
        """Print why a cell is no longer at work, which goes on later."""
        if cell in self._running:
            self._bars.remove_task(self._running.pop(cell))
        self._console.print(f"{cell}: {reason}; it goes on later", markup=False, soft_wrap=True)
        self._update_total()

    def _update_total(self) -> None:
        _, *running = self._bars.tasks
        self._bars.update(
            self._total,
            completed=self._ended + sum(task.completed for task in running),
            description=f"{self._ended} of {self._cells} cells",
            figures=f"{self._failed} failed" if self._failed else "",
        )


def epochs_done(grid: Grid, cell: Cell, folder: Path) -> tuple[float, str]:
    """The share of a run's epochs that are done, and the last of them in words."""
    try:
        text = read_text(folder / "history.csv", "a table")
        rows = list(csv.DictReader(io.StringIO(text, newline="")))
        last = rows[-1]
    except (ValueError, IndexError, csv.Error):
        return 0.0, ""
    config = cell.plan.config
    epochs = config.epochs * config.stages
    figures = f"{config.layer_name} {last.get('mesh')}, epoch {last.get('epoch')}"
    with suppress(KeyError, ValueError, TypeError):
        accuracy = grid.factor * float(last["validation_accuracy"])
        figures += f", validation {in_unit(grid, accuracy)}"
    return min(len(rows) / max(epochs, 1), 1.0), one_line(figures)


def in_unit(grid: Grid, value: float | None) -> str:
    """A value as text with its unit; empty if there is none."""
    return "" if value is None else f"{grid.written(value)} {grid.unit}".rstrip()
