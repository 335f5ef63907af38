"""Runs the cells of a grid on the workers of a cluster, one at a time on each."""

from __future__ import annotations

import os
import secrets
import signal
import tempfile
import textwrap
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from meshes.files import TEMPORARY
from meshes.validation import one_line
from photonic_ffzero.command import say, signals
from photonic_ffzero.runs.cell import (
    Command,
    Work,
    read_files,
    run_cell,
    sees,
    stop,
    without_links,
    write_files,
)
from photonic_ffzero.runs.claim import Claim
from photonic_ffzero.runs.cluster import Cluster, SchedulerLostError, dashboard_of
from photonic_ffzero.runs.grid import Cell, GridDirectory
from photonic_ffzero.runs.progress import GridProgress, epochs_done, in_unit
from photonic_ffzero.workers import workers_of

MOST_DEATHS = 3  # of the workers or processes of a cell, after which it has failed
_POLL = 0.1  # seconds between looks at the news
_WORKERS_POLL = 1.0  # seconds between looks at the workers
_PATIENCE = 60.0  # seconds to wait for an answer, and until a worker that failed is asked again
_LAST_WORDS = 5.0  # seconds for the workers to take note of an error here
_HISTORY_POLL = 1.0  # seconds between looks at the histories
_LONGEST_LOG = 2**16  # bytes read from the end of a log
_LONGEST_MESSAGE = 160  # characters of a failure's message; the log has the rest


@dataclass
class _Run:
    """A cell in this session.

    Attributes:
        cell: The cell.
        state: ``waiting``, ``running``, ``done``, ``failed`` or ``stopped``.
        key: Name of its task while it runs.
        future: Its task while it runs.
        worker: The address of the worker that has the task.
        began: Whether the worker has begun with it.
        dropped: Whether it was told to stop, as it is not worth going on with.
        started: When it was sent to the worker.
    """

    cell: Cell
    state: str
    key: str = ""
    future: Any = None
    worker: str = ""
    began: bool = False
    dropped: bool = False
    started: float = 0.0

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.started if self.started else 0.0


class Runner:
    """Runs the cells of a grid that are not done.

    Args:
        directory: The grid's directory.
        command: The command of a cell, see `photonic_ffzero.runs.cell.training_command`.
        cluster: Where the cells run.
        console: Where to show progress.
        claim: That of the directory, which lives until the last local child has ended.
        worth: Whether a cell that runs is worth going on with; asked once a second. One that is
            not stops as at a signal: it saves, and its state is ``stopped``.
    """

    def __init__(
        self,
        directory: GridDirectory,
        command: Command,
        cluster: Cluster,
        console: Console,
        claim: Claim,
        worth: Callable[[Cell], bool] = lambda cell: True,
    ) -> None:
        self._directory, self._command, self._console = directory, command, console
        self._cluster, self._claim, self._worth = cluster, claim, worth
        states = [(outcome.cell, outcome.state) for outcome in directory.outcomes()]
        self._runs = [_Run(cell, "done" if s == "done" else "waiting") for cell, s in states]
        self._signals, self._signals_sent = signals().received, 0
        self._workers: dict[str, bool] = {}  # those that are fit: whether each sees the directory
        self._unfit: dict[str, float] = {}  # the others: when each was asked last
        self._looked = self._shown = 0.0

    @property
    def failed(self) -> list[Cell]:
        """The cells that have failed in this session."""
        return [run.cell for run in self._in_state("failed")]

    def _in_state(self, *states: str) -> list[_Run]:
        return [run for run in self._runs if run.state in states]

    def run(self) -> int:
        """Run all cells that are not done; return the signal that stopped them, or 0.

        After the first SIGINT or SIGTERM every cell finishes its step and saves; the second kills
        them. All local children have ended when this returns.

        Raises:
            SchedulerLostError: the connection to the scheduler broke; all that came is saved.
        """
        if waiting := len(self._in_state("waiting")):
            signals().patience = 2
            try:
                with self._cluster.client(waiting) as client:
                    self.run_on(client)
            finally:
                signals().patience = 0
        return self._signals[0] if self._signals else 0

    def run_on(self, client: Any) -> None:
        """Run all cells that are not done on the workers of a client of Dask."""
        progress = GridProgress(self._console, len(self._runs), len(self._in_state("done")))
        self._client = client
        with progress:
            self._run(progress)

    def _run(self, progress: GridProgress) -> None:
        from distributed import Queue
        from distributed.comm import CommClosedError

        if address := dashboard_of(self._client):
            self._console.print(f"dashboard at {address}", soft_wrap=True)
        try:
            self._news = Queue(client=self._client)
            try:
                self._watch(progress)
            finally:  # all have ended, or there was an error
                with suppress(OSError):
                    self._stop(kill=True, callback_timeout=_LAST_WORDS)
                    self._news.close()
        except (CommClosedError, TimeoutError) as error:
            reason = one_line(str(error)) or "no answer"
            raise SchedulerLostError(f"the scheduler is gone ({reason})") from None

    def _watch(self, progress: GridProgress) -> None:
        """Start cells, and take what they tell, until all have ended."""
        while self._goes_on():
            self._pass_signals_on()
            self._look_for_workers(progress)
            self._start_ready(progress)
            self._take_news(progress)
            self._end_dependent(progress)
            self._look_at_running(progress)
            time.sleep(_POLL)

    def _goes_on(self) -> bool:
        return bool(self._in_state("running", *([] if self._signals else ["waiting"])))

    # --- workers ----------------------------------------------------------------------------------

    def _look_for_workers(self, progress: GridProgress) -> None:
        """Try new workers, and start the cells of lost ones again."""
        now = time.perf_counter()
        if now - self._looked < _WORKERS_POLL:
            return
        present, before = workers_of(self._client, _PATIENCE), bool(self._workers)
        self._take_news(progress)  # what a lost worker told last
        for address in self._workers.keys() - present:
            del self._workers[address]
            for run in self._in_state("running"):
                if run.worker == address:
                    self._died(run, f"its worker at {address} is gone", progress)
        for address in present - self._workers.keys():
            if now - self._unfit.get(address, -_PATIENCE) >= _PATIENCE:
                self._try_worker(address)
        if not self._workers and (not self._looked or before):
            self._console.print("there is no worker yet; waiting for one")
        self._looked = now

    def _try_worker(self, address: str) -> None:
        """Take a worker, unless it cannot do what every cell needs; it is then asked again."""
        try:
            self._workers[address] = self._shares_disk(address)
            self._unfit.pop(address, None)
        except Exception as error:  # whatever is wrong there, such as a missing package
            if address not in self._unfit:
                say(f"worker {address} is left out: {one_line(str(error)) or 'no answer'}")
            self._unfit[address] = time.perf_counter()

    def _shares_disk(self, address: str) -> bool:
        """Whether a worker reads and writes the grid's directory."""
        folder = self._directory.path.resolve()
        with tempfile.NamedTemporaryFile(dir=folder, prefix=TEMPORARY, suffix=".partial") as probe:
            return self._on_workers(sees, Path(probe.name), workers=[address])[address]

    def _on_workers(self, function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        """Call a function on workers; TimeoutError if there is no answer."""
        return self._client.run(function, *arguments, **{"callback_timeout": _PATIENCE} | options)

    def _died(self, run: _Run, reason: str, progress: GridProgress) -> None:
        """Start a cell again whose worker or process died, unless it did so too often."""
        deaths = self._directory.count_death(run.cell) if run.began else 0
        if deaths >= MOST_DEATHS:
            self._failed(run, f"died {deaths} times, at last {reason}", progress)
            return
        self._release(run)
        run.state = "stopped" if self._signals or run.dropped else "waiting"
        progress.interrupted(run.cell.name, one_line(reason))

    # --- cells ------------------------------------------------------------------------------------

    def _start_ready(self, progress: GridProgress) -> None:
        """Start waiting runs that depend on no other or on one that is done."""
        if self._signals:
            return
        done = {"", *(run.cell.slug for run in self._in_state("done"))}
        busy = {run.worker for run in self._in_state("running")}
        ready = [run for run in self._in_state("waiting") if run.cell.after in done]
        free = [address for address in self._workers if address not in busy]
        most = (self._cluster.jobs or len(self._workers)) - len(busy)
        for run, worker in zip(ready[: max(most, 0)], free, strict=False):
            try:
                self._start(run, worker)
            except OSError as error:  # its folder cannot be written
                self._failed(run, str(error), progress)

    def _start(self, run: _Run, worker: str) -> None:
        """Send a cell to a free worker, and to no other: none waits at a worker that may die."""
        folder = self._directory.prepare(run.cell).resolve()
        run.state, run.worker, run.began = "running", worker, False
        run.started, run.key = time.perf_counter(), f"{run.cell.slug}-{secrets.token_hex(8)}"
        run.future = self._client.submit(
            run_cell,
            self._work(run, folder),
            self._news.name,
            key=run.key,
            workers=[worker],
            pure=False,
        )

    def _work(self, run: _Run, folder: Path) -> Work:
        claim = self._claim.fileno() if run.worker.startswith("inproc://") else None
        if self._workers[run.worker]:
            return Work(self._command, folder, claim=claim)
        before = folder.parent / run.cell.after
        start = (before.name, read_files(before, ["model.npz"])) if run.cell.after else None
        return Work(self._command, folder, read_files(folder), start)

    def _take_news(self, progress: GridProgress) -> None:
        """Write what workers sent, and record the cells that have ended."""
        if self._client.status != "running":
            raise SchedulerLostError("the scheduler is gone")
        try:
            messages = self._news.get(batch=True, callback_timeout=_PATIENCE)
        except KeyError:  # the client has connected to another scheduler at this address
            raise SchedulerLostError("the scheduler was started again") from None
        running = {run.key: run for run in self._in_state("running")}
        for message in messages:
            if run := running.get(message["key"]):
                run.began = True
                if message["files"]:
                    write_files(self._directory.cell_path(run.cell), message["files"])
                if message["code"] is not None:
                    self._ended(run, int(message["code"]), progress)
        for run in self._in_state("running"):
            if run.future.status == "error":
                self._failed(run, str(run.future.exception()), progress)

    def _ended(self, run: _Run, code: int, progress: GridProgress) -> None:
        """Record a cell whose child has ended."""
        folder = self._directory.cell_path(run.cell)
        with suppress(OSError):
            os.listdir(folder)  # so that a network's disk looks for new files
        outcome = self._directory.outcome(run.cell)
        if outcome.state == "done":  # results.json comes last; an error after it is none
            self._release(run)
            run.state, grid = "done", self._directory.grid
            figures = in_unit(grid, grid.shown(outcome.results))
            progress.ended(run.cell.name, run.state, figures, run.seconds)
        elif self._signals or run.dropped:
            self._release(run)
            run.state = "stopped"
            progress.ended(run.cell.name, run.state, "", run.seconds)
        elif code < 0:
            self._died(run, f"killed by {_signal_name(-code)}", progress)
        elif code - 128 in (signal.SIGINT, signal.SIGTERM):  # by somebody else
            self._died(run, f"stopped by {_signal_name(code - 128)}", progress)
        else:
            self._failed(run, outcome.message or _reason(code, folder / "log.txt"), progress)

    def _failed(self, run: _Run, reason: str, progress: GridProgress) -> None:
        self._release(run)
        run.state = "failed"
        self._directory.fail(run.cell, reason)
        progress.ended(run.cell.name, run.state, one_line(reason), run.seconds)

    def _release(self, run: _Run) -> None:
        if run.future is not None:
            run.future.release()
        run.future, run.key, run.worker = None, "", ""

    def _end_dependent(self, progress: GridProgress) -> None:
        """Fail the runs that would start from one that failed; leave out those of a stopped one."""
        ended = {run.cell.slug: run.state for run in self._in_state("failed", "stopped")}
        for run in self._in_state("waiting"):
            if (state := ended.get(run.cell.after)) == "failed":
                self._failed(run, f"starts from {run.cell.after}, which failed", progress)
            elif state:
                run.state = state

    def _look_at_running(self, progress: GridProgress) -> None:
        """Show how far every cell is, and drop those that are not worth going on with."""
        now = time.perf_counter()
        if now - self._shown < _HISTORY_POLL:
            return
        self._shown = now
        for run in self._in_state("running"):
            folder = self._directory.cell_path(run.cell)
            if self._console.is_terminal:
                progress.show(run.cell.name, *epochs_done(self._directory.grid, run.cell, folder))
            if not (run.dropped or self._worth(run.cell)):
                run.dropped = True
                self._on_workers(stop, [run.key], workers=[run.worker], on_error="ignore")

    # --- the end ----------------------------------------------------------------------------------

    def _pass_signals_on(self) -> None:
        """Let every cell stop at the first signal, and kill them at the second."""
        if self._signals and not self._signals_sent:
            self._console.print(
                "stopping: every run finishes its step and saves; a second signal kills them"
            )
            self._stop()
        if len(self._signals) > 1 and self._signals_sent < 2:
            self._stop(kill=True)
        self._signals_sent = min(len(self._signals), 2)

    def _stop(self, kill: bool = False, **options: Any) -> None:
        """Let the cells that run save and end, or end them at once."""
        if running := {run.key: run.worker for run in self._in_state("running")}:
            workers = sorted(set(running.values()))
            self._on_workers(stop, [*running], kill, workers=workers, on_error="ignore", **options)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"


def _end_of(log: Path) -> str:
    """The last lines of a log; empty if it is gone."""
    try:
        with open(log, "rb", opener=without_links) as file:
            file.seek(-min(_LONGEST_LOG, os.fstat(file.fileno()).st_size), os.SEEK_END)
            return file.read(_LONGEST_LOG).decode(errors="replace")
    except OSError:
        return ""


def _reason(code: int, log: Path) -> str:
    """Why a child failed: the last line that it wrote."""
    lines = [line.strip() for line in _end_of(log).split("\n") if line.strip()]
    last = textwrap.shorten(lines[-1], _LONGEST_MESSAGE, placeholder=" ...") if lines else ""
    return one_line(last) or f"ended with exit code {code} and no results.json"
