"""What a person sees while a network trains."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from photonic_ffzero.model import EpochRecord
from photonic_ffzero.training.trainer import Observer

_INTERVAL = 0.1  # seconds between updates: the bar must not cost what it shows


class LiveProgress(Observer):
    """A live bar on a terminal; elsewhere (a pipe, a log) one line an epoch.

    Args:
        console: Where to write.
        steps: Steps of the whole run.
        done: How many of them were taken before.
        label: What is in training, in front of every line: ends in ``mesh`` or ``layer``.
        quality: How to write an accuracy or R^2.
    """

    def __init__(
        self,
        console: Console,
        steps: int,
        done: int,
        label: str,
        quality: Callable[[float], str],
    ) -> None:
        self._console, self._steps, self._label, self._format = console, steps, label, quality
        self._done, self._drawn = done, 0.0
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[figures]}"),
            TimeRemainingColumn(compact=True),
            TextColumn("left"),
            console=console,
            refresh_per_second=4,
            disable=not console.is_terminal,
            transient=True,
        )
        self._task = self._bar.add_task(label, total=steps, completed=done, figures="compiling")
        self._validation = ""

    def __enter__(self) -> LiveProgress:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def on_steps(self, mesh: str, losses: list[float]) -> None:
        """Move the bar, a few times a second."""
        self._done += len(losses)
        now = time.perf_counter()
        if now - self._drawn < _INTERVAL and self._done < self._steps:
            return
        self._drawn = now
        self._bar.update(
            self._task,
            completed=self._done,
            description=f"{self._label} {mesh}",
            figures=f"loss {losses[-1]:.3f}{self._validation}",
        )

    def on_epoch(self, record: EpochRecord) -> None:
        """Show the accuracy on the images held out."""
        quality = record.validation_accuracy
        self._validation = "" if quality is None else f", validation {self._format(quality)}"
        if not self._console.is_terminal:
            self._console.print(
                f"{self._label} {record.mesh}, epoch {record.epoch}: "
                f"loss {record.loss:.3f}{self._validation}, {record.seconds:.0f} s",
                highlight=False,
            )
