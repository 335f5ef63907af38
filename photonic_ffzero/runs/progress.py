"""Progress on the screen: of one training run, and of a grid of them."""

from __future__ import annotations

import time
from pathlib import Path

from rich.console import Console
from rich.progress import TaskID

from meshes.files import DataError
from meshes.validation import one_line
from photonic_ffzero.runs.grid import Cell, Grid
from photonic_ffzero.runs.history import read_history
from photonic_ffzero.training.progress import (
    INTERVAL,
    LiveProgress,
    bars,
    fitting,
    progress_console,
)

__all__ = ["CalibrationProgress", "GridProgress", "LiveProgress", "progress_console"]


class CalibrationProgress:
    """A bar on a terminal; elsewhere one line a mesh. One after another, meshes are calibrated."""

    def __init__(self, console: Console, meshes: int) -> None:
        self._console, self._meshes, self._done, self._updated = console, meshes, 0, 0.0
        self._bar = bars(console)
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
        elif now - self._updated > INTERVAL:
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
        self._bars = bars(console, speed_estimate_period=3600.0)
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
        figures = fitting(figures, self._console)
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
        history = read_history(folder)
        last = history[-1]
    except (DataError, IndexError):
        return 0.0, ""
    config = cell.plan.config
    epochs = config.epochs * config.stages
    figures = f"{config.layer_name} {last.mesh}, epoch {last.epoch:.0f}"
    if last.validation_accuracy is not None:
        figures += f", validation {in_unit(grid, grid.factor * last.validation_accuracy)}"
    return min(len(history) / max(epochs, 1), 1.0), one_line(figures)


def in_unit(grid: Grid, value: float | None) -> str:
    """A value as text with its unit; empty if there is none."""
    return "" if value is None else f"{grid.written(value)} {grid.unit}".rstrip()
