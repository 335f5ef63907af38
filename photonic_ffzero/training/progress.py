"""Progress of a training: a bar on a terminal or in a notebook, else one line an epoch."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

from meshes.validation import quoted, switch
from photonic_ffzero.model import EpochRecord
from photonic_ffzero.training.observer import Observer

if TYPE_CHECKING:  # imported at its first use: it draws from Python's global random numbers
    from rich.console import Console
    from rich.progress import Progress

INTERVAL = 0.1  # seconds between updates, so that showing progress costs no time


def progress_console(quiet: bool) -> Console:
    """Standard error; nothing in a text is an instruction, as texts hold names of files."""
    from rich.console import Console

    return Console(stderr=True, quiet=quiet, highlight=False, markup=False, emoji=False)


def is_narrow(console: Console) -> bool:
    """Whether its lines have no room for bars."""
    return console.width < 80


def bars(console: Console, **settings: Any) -> Progress:
    """Lines of description, bar, figures and time left; nothing if the console is no terminal."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
    from rich.table import Column

    bar = not is_narrow(console)
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


def fitting(figures: str, console: Console) -> str:
    """Figures in as many words as a line of the console has room for."""
    return figures.replace("validation ", "") if is_narrow(console) else figures


@dataclass(frozen=True)
class Course:
    """How far a training has to go, and how to say where it is.

    Attributes:
        steps: Steps of the whole run.
        done: Steps taken before.
        label: What is trained; a mesh's number follows.
        quality: Formats an accuracy or R^2.
        epoch: The epoch of a step, in words.
    """

    steps: int
    done: int
    label: str
    quality: Callable[[float], str]
    epoch: Callable[[int], str]


class _CourseProgress(Observer):
    """What all that show a training keep of it."""

    def __init__(self, course: Course) -> None:
        self._course, self._done = course, course.done
        self._updated, self._validation = 0.0, ""

    def _figures(self, losses: list[float]) -> str:
        epoch = self._course.epoch(self._done)
        return f"{epoch}, loss {losses[-1]:.3f}{self._validation}"

    def on_epoch(self, record: EpochRecord) -> None:
        """Take note of the accuracy on the validation images."""
        if record.validation_accuracy is not None:
            quality = self._course.quality(record.validation_accuracy)
            self._validation = f", validation {quality}"


class LiveProgress(_CourseProgress):
    """A bar on a terminal; elsewhere (a pipe, a log) one line an epoch.

    Args:
        console: Where to write.
        course: What to show.
    """

    def __init__(self, console: Console, course: Course) -> None:
        super().__init__(course)
        self._console, self._bar = console, bars(console)
        self._task = self._bar.add_task(
            course.label, total=course.steps, completed=course.done, figures="compiling"
        )

    def __enter__(self) -> LiveProgress:
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.stop()

    def on_steps(self, mesh: str, losses: list[float]) -> None:
        """Move the bar, a few times a second."""
        self._done += len(losses)
        now = time.perf_counter()
        if now - self._updated < INTERVAL and self._done < self._course.steps:
            return
        self._updated = now
        name = f"{self._course.label} {mesh}"
        figures = fitting(self._figures(losses), self._console)
        self._bar.update(self._task, completed=self._done, description=name, figures=figures)

    def on_calibration(self, mesh: str, done: int, total: int) -> None:
        """Show the settings that are read; elsewhere than on a terminal, say when all are."""
        now = time.perf_counter()
        if now - self._updated > INTERVAL:
            self._updated = now
            name, figures = f"{self._course.label} {mesh}", f"calibrating {done}/{total}"
            self._bar.update(self._task, description=name, figures=figures)
        if done == total and not self._console.is_terminal:
            self._console.print(f"{self._course.label} {mesh}: calibrated by {total} settings")

    def on_epoch(self, record: EpochRecord) -> None:
        """Show the accuracy on the validation images."""
        super().on_epoch(record)
        if not self._console.is_terminal:
            self._console.print(
                f"{self._course.label} {record.mesh}, epoch {record.epoch}: "
                f"loss {record.loss:.3f}{self._validation}, {record.seconds:.0f} s",
                highlight=False,
            )


class NotebookProgress(_CourseProgress):
    """A bar below the cell of a notebook, which ends as one line of figures."""

    def __init__(self, course: Course) -> None:
        super().__init__(course)
        self._began = time.perf_counter()

    def __enter__(self) -> NotebookProgress:
        from IPython.display import display

        self._handle = display(_bar(0, "compiling"), raw=True, display_id=True)
        return self

    def __exit__(self, *error: object) -> None:
        seconds = time.perf_counter() - self._began
        steps = self._course.steps
        ended = f"trained: {steps}" if self._done >= steps else f"stopped: {self._done} of {steps}"
        text = f"{ended} steps in {seconds:.0f} s{self._validation}"
        self._handle.update({"text/plain": text, "text/html": escape(text)}, raw=True)

    def on_steps(self, mesh: str, losses: list[float]) -> None:
        """Move the bar, a few times a second."""
        self._done += len(losses)
        now = time.perf_counter()
        if now - self._updated > INTERVAL:
            self._updated = now
            left = (now - self._began) * (self._course.steps / self._done - 1)
            text = f"{self._course.label} {mesh}, {self._figures(losses)}, {left:.0f} s left"
            self._handle.update(_bar(self._done / self._course.steps, text), raw=True)


def _bar(share: float, text: str) -> dict[str, str]:
    bar = f'<progress max="1" value="{share:.4f}" style="width:240px"></progress>'
    return {"text/plain": f"{share:.0%} {text}", "text/html": f"{bar} {escape(text)}"}


class NoProgress(Observer):
    """Shows nothing."""

    def __enter__(self) -> NoProgress:
        return self

    def __exit__(self, *error: object) -> None:
        pass


def check_progress(progress: Any) -> bool | str:
    """Return True, False or ``auto``."""
    if isinstance(progress, str) and progress == "auto":
        return progress
    try:
        return switch("progress", progress)
    except TypeError:
        raise ValueError(f"progress must be auto, True or False, got {quoted(progress)}") from None


def progress_of(progress: bool | str, course: Course) -> Any:
    """What shows a training: a context whose value is an observer.

    Args:
        progress: True, False, or ``auto``: in Jupyter and on terminals.
        course: What to show.
    """
    progress = check_progress(progress)
    if progress is False or (progress == "auto" and not (_in_notebook() or sys.stderr.isatty())):
        return NoProgress()
    if _in_notebook():
        return NotebookProgress(course)
    return LiveProgress(progress_console(False), course)


def _in_notebook() -> bool:
    """Whether a notebook's kernel runs this process."""
    if "IPython" not in sys.modules:
        return False
    from IPython import get_ipython

    return type(get_ipython()).__name__ == "ZMQInteractiveShell"
