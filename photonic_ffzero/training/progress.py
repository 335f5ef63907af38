"""Progress of a training: a bar on a terminal or in a notebook, else one line an epoch."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from html import escape
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column

from meshes.validation import quoted
from photonic_ffzero.model import EpochRecord
from photonic_ffzero.training.observer import Observer

INTERVAL = 0.1  # seconds between updates, so that showing progress costs no time


def progress_console(quiet: bool) -> Console:
    """Standard error; nothing in a text is an instruction, as texts hold names of files."""
    return Console(stderr=True, quiet=quiet, highlight=False, markup=False, emoji=False)


def is_narrow(console: Console) -> bool:
    """Whether its lines have no room for bars."""
    return console.width < 80


def bars(console: Console, **settings: Any) -> Progress:
    """Lines of description, bar, figures and time left; nothing if the console is no terminal."""
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


class LiveProgress(Observer):
    """A bar on a terminal; elsewhere (a pipe, a log) one line an epoch.

    Args:
        console: Where to write.
        steps: Steps of the whole run.
        done: Steps taken before.
        label: What is trained; a mesh's number follows.
        quality: Formats an accuracy or R^2.
        epoch: The epoch of a step, in words.
    """

    def __init__(
        self,
        console: Console,
        steps: int,
        done: int,
        label: str,
        quality: Callable[[float], str],
        epoch: Callable[[int], str],
    ) -> None:
        self._console, self._label, self._quality, self._epoch = console, label, quality, epoch
        self._steps, self._done, self._updated, self._validation = steps, done, 0.0, ""
        self._bar = bars(console)
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
        if now - self._updated < INTERVAL and self._done < self._steps:
            return
        self._updated = now
        figures = f"{self._epoch(self._done)}, loss {losses[-1]:.3f}{self._validation}"
        if is_narrow(self._console):
            figures = figures.replace("validation ", "")
        name = f"{self._label} {mesh}"
        self._bar.update(self._task, completed=self._done, description=name, figures=figures)

    def on_calibration(self, mesh: str, done: int, total: int) -> None:
        """Show the settings that are read; elsewhere than on a terminal, say when all are."""
        now = time.perf_counter()
        if now - self._updated > INTERVAL:
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


class NotebookProgress(Observer):
    """A bar below the cell of a notebook, which ends as one line of figures."""

    def __init__(
        self,
        steps: int,
        done: int,
        label: str,
        quality: Callable[[float], str],
        epoch: Callable[[int], str],
    ) -> None:
        self._label, self._quality, self._epoch = label, quality, epoch
        self._steps, self._done, self._updated, self._validation = steps, done, 0.0, ""
        self._began = time.perf_counter()

    def __enter__(self) -> NotebookProgress:
        from IPython.display import display

        self._handle = display(_bar(0, "compiling"), raw=True, display_id=True)
        return self

    def __exit__(self, *error: object) -> None:
        seconds = time.perf_counter() - self._began
        ended = "trained" if self._done >= self._steps else f"stopped at step {self._done}"
        text = f"{ended}: {self._steps} steps in {seconds:.0f} s{self._validation}"
        self._handle.update({"text/plain": text, "text/html": escape(text)}, raw=True)

    def on_steps(self, mesh: str, losses: list[float]) -> None:
        """Move the bar, a few times a second."""
        self._done += len(losses)
        now = time.perf_counter()
        if now - self._updated > INTERVAL:
            self._updated = now
            left = (now - self._began) * (self._steps / self._done - 1)
            figures = f"{self._epoch(self._done)}, loss {losses[-1]:.3f}{self._validation}"
            text = f"{self._label} {mesh}, {figures}, {left:.0f} s left"
            self._handle.update(_bar(self._done / self._steps, text), raw=True)

    def on_epoch(self, record: EpochRecord) -> None:
        """Show the accuracy on the validation images."""
        if record.validation_accuracy is not None:
            self._validation = f", validation {self._quality(record.validation_accuracy)}"


def _bar(share: float, text: str) -> dict[str, str]:
    bar = f'<progress max="1" value="{share:.4f}" style="width:240px"></progress>'
    return {"text/plain": f"{share:.0%} {text}", "text/html": f"{bar} {escape(text)}"}


class NoProgress(Observer):
    """Shows nothing."""

    def __enter__(self) -> NoProgress:
        return self

    def __exit__(self, *error: object) -> None:
        pass


def progress_of(
    progress: bool | str,
    steps: int,
    done: int,
    label: str,
    quality: Callable[[float], str],
    epoch: Callable[[int], str],
) -> Any:
    """What shows a training: a context whose value is an observer.

    Args:
        progress: True, False, or ``auto``: in Jupyter and on terminals.
        steps: Steps of the whole run.
        done: Steps taken before.
        label: What is trained; a mesh's number follows.
        quality: Formats an accuracy or R^2.
        epoch: The epoch of a step, in words.
    """
    if progress not in (True, False, "auto"):
        raise ValueError(f"progress must be auto, True or False, got {quoted(progress)}")
    if progress is False or (progress == "auto" and not (_in_notebook() or sys.stderr.isatty())):
        return NoProgress()
    if _in_notebook():
        return NotebookProgress(steps, done, label, quality, epoch)
    return LiveProgress(progress_console(False), steps, done, label, quality, epoch)


def _in_notebook() -> bool:
    """Whether a notebook's kernel runs this process."""
    if "IPython" not in sys.modules:
        return False
    from IPython import get_ipython

    return type(get_ipython()).__name__ == "ZMQInteractiveShell"
