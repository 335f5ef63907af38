"""Runs one cell of a grid on a worker of a Dask cluster, in a child process.

The child is a training run as any other: it claims its directory, goes on from its checkpoint and
saves after every epoch. What a cell leaves on a disk that the client does not see travels to it.
"""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from meshes.files import write_bytes
from photonic_ffzero.cores import thread_limits
from photonic_ffzero.runs.names import CHIP_ESTIMATE

FILES = (
    *("log.txt", "config.json", "history.csv", "model.npz", CHIP_ESTIMATE),
    "embeddings.npz",
    *("training_curves.png", "confusion.png", "predictions.png", "power_budget.png"),
    "results.json",  # last, as it marks a finished run
)
"""The files of a run directory that travel between client and worker; there are no others."""

Command = Callable[[Path], list[str]]
"""From a run directory to the command that goes on with that run, on the machine that calls it."""

_LONGEST_FILE = 2**30  # bytes
_POLL = 0.1  # seconds between looks at a child
_children: dict[str, subprocess.Popen[bytes]] = {}  # those of this process, by the keys of tasks
_stopped: set[str] = set()  # keys of the tasks that are to stop
_turns: dict[str, threading.Lock] = defaultdict(threading.Lock)  # by the addresses of workers


@dataclass(frozen=True)
class Work:
    """What a worker is told of a cell.

    Attributes:
        command: The command to run. It has failed unless it leaves a results.json.
        folder: The cell's run directory where the client is.
        files: The content of that directory by name, if the worker does not see it.
        start: Name of the neighbouring run to start from, and its model.npz, likewise.
        claim: Descriptor of the grid's claim, if the worker lives in the client's process; it
            lives until the last child has ended.
    """

    command: Command
    folder: Path
    files: Mapping[str, bytes] | None = None
    start: tuple[str, Mapping[str, bytes]] | None = None
    claim: int | None = None


def training_command(data_dir: Path | None) -> Command:
    """A function from a run directory to the command that trains the run in it."""
    folder = None if data_dir is None else data_dir.absolute()

    def command(directory: Path) -> list[str]:
        flags = [] if folder is None else ["--data-dir", str(folder)]
        start = [sys.executable, "-m", "photonic_ffzero.cli.worker", "--quiet", *flags]
        return [*start, "--resume", str(directory)]

    return command


def sees(probe: Path) -> bool:
    """Whether this worker shares the client's disk: it finds a new file there, and may write."""
    return probe.exists() and os.access(probe.parent, os.W_OK)


def run_cell(work: Work, queue: str) -> None:
    """Run a cell to its end, or until it is to stop; one at a time on a worker.

    It is to stop if `stop` says so, if its client is gone, or if the worker closes. The queue gets
    a message at the start, one after each checkpoint with ``files`` that the client does not see,
    and one at the end with the ``code`` of the child.
    """
    from distributed import Queue, get_worker

    worker, news = get_worker(), Queue(queue)
    key = str(worker.get_current_task())
    sent = 0  # time of the last checkpoint that was sent

    def tell(code: int | None = None, files: Mapping[str, bytes] = MappingProxyType({})) -> None:
        news.put({"key": key, "code": code, "files": dict(files)})

    def wanted() -> bool:
        task = worker.state.tasks.get(key)  # cancelled if its client is gone
        closed = worker.status.name not in ("running", "paused")
        return not (closed or key in _stopped or task is None or task.state != "executing")

    def send_checkpoint() -> None:
        nonlocal sent
        if work.files is not None and (time_saved := _checkpoint_time(folder)) != sent:
            sent = time_saved
            tell(files=read_files(folder))

    try:
        with _turns[worker.address], _run_directory(work, worker.local_directory) as folder:
            sent, code = _checkpoint_time(folder), 128 + signal.SIGTERM
            if wanted():
                tell()
                child = _Child(work, folder, worker.state.nthreads)
                _children[key] = child.process
                code = child.run_while(wanted, send_checkpoint)
            tell(code, {} if work.files is None else read_files(folder))
    finally:
        _stopped.discard(key)
        _children.pop(key, None)
        news.close()


class _Child:
    """The process of a cell."""

    def __init__(self, work: Work, folder: Path, threads: int) -> None:
        with open(folder / "log.txt", "ab", opener=without_links) as log:
            self.process = subprocess.Popen(
                work.command(folder),
                stdin=subprocess.PIPE,  # closes with this process, which tells the child to end
                stdout=log,
                stderr=log,
                env=os.environ | thread_limits(threads),
                process_group=0,  # so that Ctrl-C reaches the client alone
                pass_fds=[] if work.claim is None else [work.claim],
            )

    def run_while(self, wanted: Callable[[], bool], look: Callable[[], None]) -> int:
        """Look at the child until it ends; return its exit code.

        Once it is not wanted any more, the pipe is closed: it finishes its step and saves. A signal
        would be its second one where all processes of this machine are told to end.
        """
        try:
            goes_on = True
            while self.process.poll() is None:
                if goes_on and not wanted():
                    goes_on = False
                    self.process.stdin.close()  # type: ignore[union-attr]
                look()
                time.sleep(_POLL)
        finally:
            self.process.kill()
            self.process.communicate()  # closes the pipe
        return self.process.returncode


def stop(keys: Iterable[str], kill: bool = False) -> None:
    """Let the cells of some tasks finish their step and save, or end their children at once."""
    for key in keys:
        _stopped.add(key)
        if kill and (child := _children.get(key)):
            child.kill()
            child.wait()


@contextmanager
def _run_directory(work: Work, scratch: str) -> Iterator[Path]:
    """The cell's run directory: the client's, or a copy of it on the worker's disk."""
    if work.files is None:
        yield work.folder
        return
    with tempfile.TemporaryDirectory(dir=scratch) as root:
        for name, files in ((work.folder.name, work.files), *filter(None, [work.start])):
            write_files(Path(root, name), files)
        yield Path(root, work.folder.name)


def _checkpoint_time(folder: Path) -> int:
    try:
        return (folder / "model.npz").stat().st_mtime_ns
    except OSError:
        return 0


def read_files(folder: Path, names: Iterable[str] = FILES) -> dict[str, bytes]:
    """The content of those files of a run directory that are there."""
    files = {}
    for name in names:
        try:
            with open(folder / name, "rb", opener=without_links) as file:
                content = file.read(_LONGEST_FILE + 1)
        except FileNotFoundError:
            continue
        if len(content) > _LONGEST_FILE:
            raise OSError(errno.EFBIG, f"must have at most {_LONGEST_FILE} bytes", folder / name)
        files[name] = content
    return files


def write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write files into a run directory. Another computer sent them: only known names count."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        content = files.get(name)
        if isinstance(content, bytes):
            write_bytes(folder / name, content)


def without_links(path: str, flags: int) -> int:
    """Open a regular file, not what a link or a pipe in its place leads to."""
    descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    raise OSError(errno.EINVAL, "must be a regular file", str(path))
