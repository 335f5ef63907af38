"""Runs the cells of a grid in child processes, a few at a time, and shows their progress."""

from __future__ import annotations

import csv
import math
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from photonic_ffzero.runs.grid import Cell, Grid, GridDirectory

THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "TF_NUM_INTRAOP_THREADS",
    "TF_NUM_INTEROP_THREADS",
    "NUMBA_NUM_THREADS",
)
"""Environment variables that limit the threads of a run."""

_POLL = 0.1  # seconds between looks at the children
_LOOK = 1.0  # seconds between looks at their histories
_LONGEST = 160  # characters of a failure's message; the log has the rest
_PATIENCE = 10.0  # seconds that the children of a killed grid get to save and end


def check_platform() -> None:
    """Check that runs can be started side by side here.

    Raises:
        OSError: they cannot: Windows has no locks and pipes that children inherit.
    """
    if sys.platform == "win32":
        raise OSError(
            "grids must run on Linux or macOS, whose processes inherit locks and pipes, found "
            "Windows; mnist_photonic.py and mnist_digital.py run there one by one"
        )


def available_cores() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def thread_limits(jobs: int, cores: int) -> dict[str, str]:
    """The thread variables for each of some children that share the cores.

    A lower limit that the environment sets already stands.

    Args:
        jobs: Children at a time.
        cores: Cores there are.
    """
    share = max(1, cores // jobs)
    limits = {}
    for name in THREAD_VARIABLES:
        given = os.environ.get(name, "")
        limits[name] = str(min(share, int(given)) if given.isdigit() and int(given) else share)
    return limits


def training_command(data_dir: Path | None) -> Callable[[Path], list[str]]:
    """The command that trains the run in a directory, as a function of the directory.

    Args:
        data_dir: Folder with the data sets, or None for the usual places.
    """
    flags = [] if data_dir is None else ["--data-dir", str(data_dir)]
    start = [sys.executable, "-m", "photonic_ffzero.cli.worker", "--quiet", *flags]
    return lambda directory: [*start, "--resume", str(directory)]


@dataclass
class _Run:
    """A cell on its way.

    Attributes:
        cell: The cell.
        folder: Its run directory.
        state: ``waiting``, ``running``, ``done``, ``failed`` or ``stopped``.
        figures: What is known of it, in words.
        process: The child, while it runs.
        told: How many signals the child was sent.
        started: When it was started.
        seconds: How long it took in this session.
    """

    cell: Cell
    folder: Path
    state: str
    figures: str = ""
    process: subprocess.Popen[bytes] | None = None
    told: int = 0
    started: float = 0.0
    seconds: float = 0.0


class Pool:
    """Runs what is left of a grid.

    Args:
        directory: The grid's directory.
        command: Gives the command that goes on with the run in a directory; see
            `training_command`. It leaves a results.json at its end, or it has failed.
        jobs: Children at a time.
        console: Where to show progress.
    """

    def __init__(
        self,
        directory: GridDirectory,
        command: Callable[[Path], list[str]],
        jobs: int,
        console: Console,
    ) -> None:
        self._directory, self._command, self._console = directory, command, console
        self._runs = [self._as_found(cell) for cell in directory.grid.cells]
        left = len(self._in_state("waiting"))
        self._jobs = min(jobs, max(left, 1))
        self._environment = os.environ | thread_limits(self._jobs, available_cores())
        self._signals: list[int] = []
        self._announced = False

    def _as_found(self, cell: Cell) -> _Run:
        outcome = self._directory.outcome(cell)
        if outcome.state != "done":
            return _Run(cell, outcome.directory, "waiting")
        value = _value(self._directory.grid, outcome.results)
        return _Run(cell, outcome.directory, "done", value)

    def _in_state(self, *states: str) -> list[_Run]:
        return [run for run in self._runs if run.state in states]

    def run(self) -> int:
        """Run all cells that are not done; return the signal that stopped it, or 0.

        The first SIGINT or SIGTERM is handed on to the children once, which finish their step
        and save; a second one kills them. None of them outlives this call.

        Raises:
            BlockingIOError: another process is at work in the directory.
            OSError: a file could not be written.
        """
        view = _Screen if self._console.is_terminal and not self._console.quiet else _Lines
        with _locked(self._directory.path) as lock, self._listening(), _pipe() as stdin:
            try:
                with view(self._directory.grid, self._runs, self._jobs, self._console) as shown:
                    while self._go_on():
                        self._hand_on_signals()
                        self._start_some(stdin, lock)
                        self._collect(shown)
                        self._give_up(shown)
                        shown.refresh()
                        time.sleep(_POLL)
            finally:
                self._kill()
        return self._signals[0] if self._signals else 0

    def _go_on(self) -> bool:
        states = ("running",) if self._signals else ("running", "waiting")
        return bool(self._in_state(*states))

    def _start_some(self, stdin: int, lock: int) -> None:
        free = self._jobs - len(self._in_state("running"))
        for run in [] if self._signals else self._ready()[:free]:
            self._start(run, stdin, lock)

    def _ready(self) -> list[_Run]:
        """The waiting runs that start from nothing, or from one that is done."""
        done = {"", *(run.cell.slug for run in self._in_state("done"))}
        return [run for run in self._in_state("waiting") if run.cell.after in done]

    def _give_up(self, shown: _Lines) -> None:
        """Fail what would start from a run that failed."""
        lost = {run.cell.slug for run in self._in_state("failed")}
        for run in self._in_state("waiting"):
            if run.cell.after in lost:
                run.state, run.figures = "failed", f"starts from {run.cell.after}, which failed"
                self._directory.prepare(run.cell)
                self._directory.fail(run.cell, run.figures)
                shown.ended(run)

    def _start(self, run: _Run, stdin: int, lock: int) -> None:
        folder = self._directory.prepare(run.cell)
        with open(folder / "log.txt", "ab") as log:
            run.process = subprocess.Popen(
                self._command(folder),
                stdin=stdin,
                stdout=log,
                stderr=log,
                env=self._environment,
                process_group=0,  # Ctrl-C reaches the grid alone, which hands it on once
                pass_fds=[lock],  # the grid is at work until its last child has ended
            )
        run.state, run.started = "running", time.perf_counter()

    def _collect(self, shown: _Lines) -> None:
        """Take note of the children that have ended."""
        for run in self._in_state("running"):
            run.seconds = time.perf_counter() - run.started
            if run.process is None or (code := run.process.poll()) is None:
                continue
            outcome = self._directory.outcome(run.cell)
            run.process, run.state = None, outcome.state
            if outcome.state == "done":  # the results are written last, whatever came then
                run.figures = _value(self._directory.grid, outcome.results)
            elif self._signals:
                run.state = "stopped"
            else:
                run.state, run.figures = "failed", _reason(code, outcome.directory / "log.txt")
                self._directory.fail(run.cell, run.figures)
            shown.ended(run)

    @contextmanager
    def _listening(self) -> Iterator[None]:
        """Receive SIGINT and SIGTERM."""
        numbers = (signal.SIGINT, signal.SIGTERM)
        before = {number: signal.signal(number, self._receive) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self._signals.append(number)  # all else in the loop, where no child is half started

    def _hand_on_signals(self) -> None:
        """Send every child the first signal once, and the second as one that kills."""
        for run in self._in_state("running"):
            if run.process is not None and run.told < min(len(self._signals), 2):
                run.process.send_signal(signal.SIGKILL if self._signals[1:] else self._signals[0])
                run.told = len(self._signals)
        if self._signals and not self._announced:
            self._announced = True
            self._console.print(
                "stopping: every run finishes its step and saves; a second signal kills them"
            )

    def _kill(self) -> None:
        """Leave no child behind, whatever happened here."""
        for run in self._in_state("running"):
            if run.process is not None:
                run.process.kill()
                run.process.wait()


def _value(grid: Grid, results: Any) -> str:
    value = grid.shown(results)
    return "" if value is None else _with_unit(grid, value)


def _with_unit(grid: Grid, value: float) -> str:
    return f"{grid.written(value)} {grid.unit}".rstrip()


def _reason(code: int, log: Path) -> str:
    """Why a child failed: the signal, or the last line it wrote."""
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    lines = log.read_text(errors="replace").split("\n")
    last = next((line.strip() for line in reversed(lines) if line.strip()), "")
    return (
        textwrap.shorten(last, _LONGEST, placeholder=" ...")
        or f"ended with exit code {code} and no results.json"
    )


@contextmanager
def _pipe() -> Iterator[int]:
    """The end of a pipe to read from; it ends when this process does."""
    reading, writing = os.pipe()
    try:
        yield reading
    finally:
        os.close(reading)
        os.close(writing)


@contextmanager
def _locked(path: Path) -> Iterator[int]:
    """Keep every other grid out of a directory; children that inherit the lock keep it, too."""
    folder = os.open(path, os.O_RDONLY)
    try:
        _lock(folder, path)
        yield folder
    finally:
        os.close(folder)


def _lock(folder: int, path: Path) -> None:
    import fcntl  # not on Windows, where `check_platform` has refused before

    end = time.perf_counter() + _PATIENCE
    while True:
        try:
            return fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.perf_counter() > end:
                raise BlockingIOError(f"{path}: another process is at work in it") from None
        except OSError:  # a file system without locks
            return None
        time.sleep(_POLL)


# --- what a person sees ---------------------------------------------------------------------------


class _Lines:
    """One line for every cell that ends: for pipes and logs.

    Args:
        grid: The grid.
        runs: Its cells on their way; watched, not changed, but for their figures.
        jobs: Children at a time.
        console: Where to write.
    """

    def __init__(self, grid: Grid, runs: Sequence[_Run], jobs: int, console: Console) -> None:
        self._grid, self._runs, self._jobs, self._console = grid, runs, jobs, console

    def __enter__(self) -> _Lines:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def refresh(self) -> None:
        """Show how things stand."""

    def ended(self, run: _Run) -> None:
        """Tell that a cell has ended."""
        ended = sum(other.state not in ("waiting", "running") for other in self._runs)
        figures = f" {run.figures}" if run.figures else ""
        self._console.print(
            f"[{ended}/{len(self._runs)}] {run.cell.name}: {run.state}{figures}, "
            f"{run.seconds:.0f} s",
            markup=False,
            soft_wrap=True,
        )


_STYLES = {"waiting": "dim", "running": "bold", "done": "green", "failed": "red", "stopped": "cyan"}


class _Screen(_Lines):
    """A line a cell and a bar for the whole, kept up to date on a terminal."""

    def __enter__(self) -> _Screen:
        self._looked = -math.inf
        self._live = Live(console=self._console, auto_refresh=False, transient=True)
        self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._live.stop()

    def refresh(self) -> None:
        """Draw the screen anew, once a second."""
        if time.perf_counter() - self._looked > _LOOK:
            self._looked = time.perf_counter()
            self._live.update(self.picture(), refresh=True)

    def ended(self, run: _Run) -> None:
        """Draw the screen soon."""
        self._looked = -math.inf

    def picture(self) -> Group:
        """The cells around those that run now, as many as fit, and the bar."""
        table = Table.grid(padding=(0, 1), expand=True)
        table.add_column(no_wrap=True)
        table.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
        table.add_column(no_wrap=True, overflow="ellipsis", max_width=36)
        table.add_column(no_wrap=True, justify="right")
        for run in self._window():
            if run.state == "running":
                run.figures = _progress(self._grid, run)
            seconds = f"{run.seconds:.0f} s" if run.seconds else ""
            words = (run.state, run.cell.name, run.figures, seconds)
            table.add_row(*map(Text, words), style=_STYLES[run.state])  # brackets are no markup
        return Group(table, self._whole())

    def _window(self) -> Sequence[_Run]:
        rows = max(self._console.height - 2, 1)
        active = (i for i, run in enumerate(self._runs) if run.state in ("running", "waiting"))
        first = max(0, min(next(active, 0) - rows // 3, len(self._runs) - rows))
        return self._runs[first : first + rows]

    def _whole(self) -> Table:
        ended = sum(run.state not in ("waiting", "running") for run in self._runs)
        failed = sum(run.state == "failed" for run in self._runs)
        text = f"{ended} of {len(self._runs)} cells" + (f", {failed} failed" if failed else "")
        line = Table.grid(padding=(0, 1), expand=True)
        line.add_column(no_wrap=True)
        line.add_column(ratio=1)
        line.add_column(no_wrap=True)
        line.add_row(text, ProgressBar(total=len(self._runs), completed=ended), self._left())
        return line

    def _left(self) -> str:
        seconds = _seconds_left(self._runs, self._jobs)
        return "" if seconds is None else f"{_duration(seconds)} left"


def _progress(grid: Grid, run: _Run) -> str:
    """How far a run is, from the last row of its history."""
    try:
        with open(run.folder / "history.csv", newline="") as file:
            row = list(csv.DictReader(file))[-1]
    except (OSError, ValueError, IndexError):
        return ""
    words = [f"{run.cell.plan.config.layer_name} {row.get('mesh')}, epoch {row.get('epoch')}"]
    with suppress(KeyError, ValueError):
        held_out = grid.factor * float(row["validation_accuracy"])
        words.append(f"validation {_with_unit(grid, held_out)}")
    return ", ".join(words)


def _seconds_left(runs: Sequence[_Run], jobs: int) -> float | None:
    """A guess from the cells that this session has seen through, best from those alike."""
    seen = [run for run in runs if run.state == "done" and run.seconds]
    if not seen:
        return None
    overall = _mean([run.seconds for run in seen])
    left = []
    for run in (run for run in runs if run.state in ("waiting", "running")):
        alike = [other.seconds for other in seen if other.cell.labels == run.cell.labels]
        left.append(max((_mean(alike) if alike else overall) - run.seconds, 0.0))
    return max(sum(left) / jobs, max(left, default=0.0))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes}:{seconds:02}"
