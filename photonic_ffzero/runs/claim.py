"""Claims: one process at a time works in a directory, on one machine or on several.

A process claims a directory by the hidden file ``.claim-N`` in it, which says who it is. On one
machine a lock on that file tells whether the process lives, and ends with it. Other machines may
not see the lock; there the process counts as dead if the file's time, which it sets every 10 s,
is more than 60 s old. The claim of a dead process, number N, is taken over by whoever creates
number N + 1, which only one process can.
"""

from __future__ import annotations

import json
import os
import random
import socket
import stat
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from meshes.files import TEMPORARY, remove_temporary
from photonic_ffzero.command import signals
from photonic_ffzero.training.observer import Observer

try:
    import fcntl
except ImportError:  # Windows: one machine is told from another, and there are no locks
    fcntl = None  # type: ignore[assignment]

BEAT, EXPIRY = 10.0, 60.0  # seconds between heartbeats; after which a silent process is dead
CHILDREN_END = 10.0  # seconds in which the children of a killed grid or search save and end
_PREFIX = ".claim-"
_LOOKS, _PAUSE = 40, 0.05  # times that a claim in the making is looked at; seconds between them
_JITTER = (
    random.SystemRandom()
)  # rivals must not wait for equally long, whatever they are seeded with
_LONGEST = 4096  # bytes of a claim's text


class ClaimedError(BlockingIOError):
    """Another process is at work in the directory."""


@dataclass(frozen=True)
class Owner:
    """A process: its host, the run of the kernel that it lives in, and its number."""

    host: str
    kernel: str
    pid: int

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


@cache
def _kernel() -> str:
    """What processes share that see each other's locks."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return socket.gethostname()


def this_process() -> Owner:
    return Owner(socket.gethostname(), _kernel(), os.getpid())


class Claim(Observer):
    """The right to write into a directory, until it is released or its process ends.

    As an observer of a training it ends a run whose directory another machine has taken over,
    because this one was silent for too long (asleep, for instance).

    Args:
        folder: The directory, which must exist.
        wait: Seconds to wait while another process is at work in it.
        made: Whether the directory was made for this claim, and is removed with it if it is empty.

    Raises:
        ClaimedError: another process is at work in it.
    """

    def __init__(self, folder: Path, wait: float = 0.0, made: bool = False) -> None:
        self.folder, self._made, self._lost = folder, made, False
        pauses = int(wait / _PAUSE)
        while (number := self._take(patient=pauses > 0)) is None:
            pauses -= 1
            time.sleep(_PAUSE)
        self._file = folder / f"{_PREFIX}{number}"
        remove_temporary(folder)
        self._released = threading.Event()
        signals().cleanups.append(self.release)
        threading.Thread(target=self._beat, name="heartbeat", daemon=True).start()

    def __enter__(self) -> Claim:
        return self

    def __exit__(self, *error: object) -> None:
        self.release()

    def fileno(self) -> int:
        """The locked file; a child process that inherits it keeps the claim alive."""
        return self._descriptor

    def release(self) -> None:
        """Let others work in the directory."""
        if self._released.is_set():
            return
        self._released.set()
        with suppress(ValueError):  # it is being called from there
            signals().cleanups.remove(self.release)
        with suppress(OSError):
            if os.path.samestat(os.fstat(self._descriptor), os.stat(self._file)):
                self._file.unlink()
        os.close(self._descriptor)
        if self._made:
            with suppress(OSError):  # it holds files
                self.folder.rmdir()

    def on_steps(self, mesh: str, losses: list[float]) -> None:
        """End a run that has lost its directory."""
        if self._lost:
            raise ClaimedError(f"{self.folder}: another process has taken it over")

    def _take(self, patient: bool) -> int | None:
        """Create the next claim; None if another process holds one and there is time to wait."""
        for _ in range(_LOOKS):
            numbers = _numbers(self.folder)
            number = max(numbers, default=0) + 1
            owners = _owners(self.folder)
            if not owners and self._create(number):
                rivals = _owners(self.folder, but=number)
                if not rivals:  # else two processes saw different claims end at the same time
                    self._remove(n for n in numbers if n != number)
                    return number
                self._remove([number])
                os.close(self._descriptor)
            if any(owner.pid for owner in owners):
                if patient:
                    return None
                raise ClaimedError(
                    f"{self.folder}: another process ({owners[-1]}) is at work in it"
                )
            time.sleep(_JITTER.uniform(0, _PAUSE))
        raise ClaimedError(f"{self.folder}: another process is at work in it")

    def _create(self, number: int) -> bool:
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0)
        try:
            self._descriptor = os.open(self.folder / f"{_PREFIX}{number}", flags, 0o666)
        except FileExistsError:
            return False
        if fcntl is not None:
            with suppress(OSError):  # a file system without locks
                fcntl.flock(self._descriptor, fcntl.LOCK_EX)
        try:
            os.write(self._descriptor, json.dumps(asdict(this_process())).encode())
        except OSError:  # a full disk
            self._remove([number])
            os.close(self._descriptor)
            raise
        return True

    def _remove(self, numbers: Any) -> None:
        for number in numbers:
            with suppress(OSError):
                (self.folder / f"{_PREFIX}{number}").unlink()

    def _beat(self) -> None:
        """Say that this process lives. Whatever goes wrong with that must not disturb the run."""
        while not self._released.wait(BEAT):
            self.beat()

    def beat(self) -> None:
        """Set the time of the claim's file, and look whether another machine has taken it over."""
        with suppress(OSError):
            os.utime(self._descriptor if os.utime in os.supports_fd else self._file)
        with suppress(OSError):
            mine = int(self._file.name.removeprefix(_PREFIX))
            self._lost = not self._file.exists() and bool(_owners(self.folder, but=mine))


def claim_new(folder: Path) -> Claim:
    """Make a directory, or take an empty one, and claim it."""
    made = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    claim = Claim(folder, made=made)
    if holds_files(folder):
        claim.release()
        raise ValueError(f"output must be a new or empty directory, found files in {folder}")
    return claim


def claim_unique(folder: Path) -> Claim:
    """Make a directory of this name, or with ``-2``, ``-3``, ... at its end, and claim it."""
    path, number = folder, 1
    while True:
        try:
            path.mkdir(parents=True)
            return Claim(path, made=True)
        except (FileExistsError, ClaimedError):
            if not os.path.lexists(path):  # a file has the name of a folder above
                raise
        number += 1
        path = folder.with_name(f"{folder.name}-{number}")


def holds_files(folder: Path) -> bool:
    """Whether a directory holds anything but claims and what a killed process began to write."""
    return any(not name.startswith((_PREFIX, TEMPORARY)) for name in os.listdir(folder))


def at_work(folder: Path) -> bool:
    """Whether a living process has claimed a directory; asking takes no claim."""
    with suppress(OSError):
        return bool(_owners(folder))
    return False


def _owners(folder: Path, but: int = 0) -> list[Owner]:
    """The living processes that hold claims, ``but`` that of this number."""
    found = (_owner(folder, number) for number in _numbers(folder) - {but})
    return [owner for owner in found if owner is not None]


def _owner(folder: Path, number: int) -> Owner | None:
    """The living process that holds a claim, with pid 0 if it is not known yet."""
    try:
        flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0)
        descriptor = os.open(folder / f"{_PREFIX}{number}", flags)
    except OSError:  # gone, or no file that a claim could be
        return None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            return None
        owner = _read_owner(descriptor)
        here, locked = this_process(), _locked(descriptor)
        if locked is None and owner.host == here.host and owner.pid:
            return owner if _lives(owner.pid) else None
        if locked is False and owner.kernel == here.kernel:
            return None
        silent = 0.0 if locked else _disk_time(folder) - status.st_mtime
        return owner if abs(silent) < EXPIRY else None
    finally:
        os.close(descriptor)


def _numbers(folder: Path) -> set[int]:
    names = (name.removeprefix(_PREFIX) for name in os.listdir(folder) if name.startswith(_PREFIX))
    return {int(name) for name in names if name.isascii() and name.isdigit() and len(name) < 18}


def _read_owner(descriptor: int) -> Owner:
    with suppress(OSError, ValueError, TypeError, KeyError, RecursionError):
        content = json.loads(os.read(descriptor, _LONGEST))
        host, kernel, pid = (content[name] for name in ("host", "kernel", "pid"))
        if isinstance(pid, int) and pid > 0 and str(host).isprintable():
            return Owner(str(host), str(kernel), pid)
    return Owner("an unknown host", "", 0)


def _locked(descriptor: int) -> bool | None:
    """Whether a process holds the lock of a claim; None where there are no locks."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return None
    return False


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # it belongs to another user
        return True
    return True


def _disk_time(folder: Path) -> float:
    """The time on the clock that stamps the files of a folder, maybe another machine's."""
    with tempfile.TemporaryFile(dir=folder) as file:
        return os.fstat(file.fileno()).st_mtime
