"""Runs the cells of a grid in child processes, a few at a time."""

from __future__ import annotations

import csv
import errno
import io
import os
import signal
import stat
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from meshes.files import read_text
from meshes.validation import one_line
from photonic_ffzero.command import signals
from photonic_ffzero.runs.claim import Claim
from photonic_ffzero.runs.grid import Cell, Grid, GridDirectory
from photonic_ffzero.runs.progress import GridProgress

THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "TF_NUM_INTRAOP_THREADS",
    "TF_NUM_INTEROP_THREADS",
    "NUMBA_NUM_THREADS",
)
"""Environment variables that limit the threads of a run."""

_POLL = 0.1  # seconds between looks at the children
_HISTORY_POLL = 1.0  # seconds between looks at their histories
_LONGEST_LOG = 2**16  # bytes read from the end of a log
_LONGEST_MESSAGE = 160  # characters of a failure's message; the log has the rest


def check_platform() -> None:
    """Check that child processes can inherit locks and pipes here, as grids need."""
    if sys.platform == "win32":
        raise OSError(
            "grids must run on Linux or macOS, whose processes inherit locks and pipes, found "
            "Windows; mnist_photonic.py and mnist_digital.py run there one by one"
        )


def available_cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def thread_limits(children: int, cores: int) -> dict[str, str]:
    """The thread variables of one of some children that share the cores.

    A lower limit that the environment sets stays.
    """
    share = max(1, cores // children)
    limits = {}
    for name in THREAD_VARIABLES:
        limit = os.environ.get(name, "")
        limits[name] = str(min(share, int(limit) or share) if limit.isdigit() else share)
    return limits


def training_command(data_dir: Path | None) -> Callable[[Path], list[str]]:
    """A function from a run directory to the command that trains the run in it."""
    flags = [] if data_dir is None else ["--data-dir", str(data_dir)]
    start = [sys.executable, "-m", "photonic_ffzero.cli.worker", "--quiet", *flags]
    return lambda directory: [*start, "--resume", str(directory)]


@dataclass
class _Run:
    """A cell in this session; ``process`` is its child while the state is ``running``."""

    cell: Cell
    state: str
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.started if self.started else 0.0


class Pool:
    """Runs the cells of a grid that are not done.

    Args:
        directory: The grid's directory.
        command: A function from a run directory to the command that goes on with that run, see
            `training_command`. It has failed unless it leaves a results.json.
        children: How many child processes run at a time.
        console: Where to show progress.
        claim: That of the directory, which lives until the last child has ended.
    """

    def __init__(
        self,
        directory: GridDirectory,
        command: Callable[[Path], list[str]],
        children: int,
        console: Console,
        claim: Claim,
    ) -> None:
        self._directory, self._command, self._console = directory, command, console
        self._claim = claim
        states = [(outcome.cell, outcome.state) for outcome in directory.outcomes()]
        self._runs = [_Run(cell, "done" if s == "done" else "waiting") for cell, s in states]
        self._children = min(children, max(len(self._in_state("waiting")), 1))
        self._environment = os.environ | thread_limits(self._children, available_cores())
        self._signals, self._signals_sent = signals().received, 0
        self._shown = 0.0

    def _in_state(self, *states: str) -> list[_Run]:
        return [run for run in self._runs if run.state in states]

    def run(self) -> int:
        """Run all cells that are not done; return the signal that stopped them, or 0.

        The first SIGINT or SIGTERM is passed on to the children, which finish their step and
        save; the second kills them. All children have ended when this returns.
        """
        progress = GridProgress(self._console, len(self._runs), len(self._in_state("done")))
        with progress:
            signals().patience = 2
            try:
                while self._goes_on():
                    self._pass_signals_on()
                    self._start_ready(progress)
                    self._collect(progress)
                    self._fail_dependent(progress)
                    self._show_running(progress)
                    time.sleep(_POLL)
            finally:
                self._kill()
                signals().patience = 0
        return self._signals[0] if self._signals else 0

    def _goes_on(self) -> bool:
        return bool(self._in_state("running", *([] if self._signals else ["waiting"])))

    def _start_ready(self, progress: GridProgress) -> None:
        """Start waiting runs that depend on no other or on one that is done."""
        done = {"", *(run.cell.slug for run in self._in_state("done"))}
        ready = [run for run in self._in_state("waiting") if run.cell.after in done]
        free = self._children - len(self._in_state("running"))
        for run in [] if self._signals else ready[:free]:
            try:
                self._start(run)
            except OSError as error:  # its folder or log cannot be written
                self._failed(run, str(error), progress)

    def _failed(self, run: _Run, reason: str, progress: GridProgress) -> None:
        run.state = "failed"
        self._directory.fail(run.cell, reason)
        progress.ended(run.cell.name, run.state, one_line(reason), run.seconds)

    def _start(self, run: _Run) -> None:
        folder = self._directory.prepare(run.cell)
        with open(folder / "log.txt", "ab", opener=_without_links) as log:
            run.process = subprocess.Popen(
                self._command(folder),
                stdin=subprocess.PIPE,  # closes with this process, which tells the child to end
                stdout=log,
                stderr=log,
                env=self._environment,
                process_group=0,  # so that Ctrl-C reaches this process alone
                pass_fds=[self._claim.fileno()],  # which lives until the last child has ended
            )
        run.state, run.started = "running", time.perf_counter()

    def _collect(self, progress: GridProgress) -> None:
        """Record the children that have ended."""
        for run in self._in_state("running"):
            if run.process is None or (code := run.process.poll()) is None:
                continue
            run.process.communicate()  # closes the pipe
            outcome = self._directory.outcome(run.cell)
            run.process, run.state, figures = None, outcome.state, ""
            if outcome.state == "done":  # results.json comes last; an error after it is none
                figures = _in_unit(
                    self._directory.grid, self._directory.grid.shown(outcome.results)
                )
            elif self._signals:
                run.state = "stopped"
            else:
                reason = outcome.message or _reason(code, outcome.directory / "log.txt")
                self._failed(run, reason, progress)
                continue
            progress.ended(run.cell.name, run.state, figures, run.seconds)

    def _fail_dependent(self, progress: GridProgress) -> None:
        """Fail the runs that would start from a run that failed."""
        failed = {run.cell.slug for run in self._in_state("failed")}
        for run in self._in_state("waiting"):
            if run.cell.after in failed:
                self._failed(run, f"starts from {run.cell.after}, which failed", progress)

    def _show_running(self, progress: GridProgress) -> None:
        now = time.perf_counter()
        if self._console.is_terminal and now - self._shown > _HISTORY_POLL:
            self._shown = now
            for run in self._in_state("running"):
                folder = self._directory.cell_path(run.cell)
                progress.show(run.cell.name, *epochs_done(self._directory.grid, run.cell, folder))

    def _pass_signals_on(self) -> None:
        """Send the first signal to every child, and SIGKILL after a second one."""
        if self._signals and not self._signals_sent:
            self._console.print(
                "stopping: every run finishes its step and saves; a second signal kills them"
            )
        if self._signals_sent < min(len(self._signals), 2):
            self._signals_sent = min(len(self._signals), 2)
            number = self._signals[0] if self._signals_sent == 1 else signal.SIGKILL
            for run in self._in_state("running"):
                if run.process is not None:
                    run.process.send_signal(number)

    def _kill(self) -> None:
        """End the children that still run, whatever happened here."""
        for run in self._in_state("running"):
            if run.process is not None:
                run.process.kill()
                run.process.communicate()


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
        figures += f", validation {_in_unit(grid, accuracy)}"
    return min(len(rows) / max(epochs, 1), 1.0), one_line(figures)


def _in_unit(grid: Grid, value: float | None) -> str:
    return "" if value is None else f"{grid.written(value)} {grid.unit}".rstrip()


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"


def _end_of(log: Path) -> str:
    """The last lines of a log; empty if it is gone."""
    try:
        with open(log, "rb", opener=_without_links) as file:
            file.seek(-min(_LONGEST_LOG, os.fstat(file.fileno()).st_size), os.SEEK_END)
            return file.read(_LONGEST_LOG).decode(errors="replace")
    except OSError:
        return ""


def _without_links(path: str, flags: int) -> int:
    """Open a regular file, not what a link or a pipe in its place leads to."""
    descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    raise OSError(errno.EINVAL, "must be a regular file", str(path))


def _reason(code: int, log: Path) -> str:
    """Why a child failed: the signal, or the last line it wrote."""
    if code < 0:
        return f"killed by {_signal_name(-code)}"
    lines = [line.strip() for line in _end_of(log).split("\n") if line.strip()]
    last = textwrap.shorten(lines[-1], _LONGEST_MESSAGE, placeholder=" ...") if lines else ""
    return one_line(last) or f"ended with exit code {code} and no results.json"
