"""What all commands share: how they answer signals, and output that cannot be shown.

Ctrl-C (SIGINT) and SIGTERM end a command at once with one line, or, where there is something to
save, after the step in progress; the next one ends it at once. SIGHUP is ignored: a terminal that
goes away ends no run. A stream that cannot be written goes quiet. Exit codes are 128 + the signal.

Only the standard library is imported here, because a command needs this before its slow imports.
"""

from __future__ import annotations

import inspect
import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import wraps
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

INSTALLED = "photonic-ffzero"
"""The command that is installed with the package."""

_CLEANUPS = "cleanups"  # the name of the thread that calls them where a signal ends a process
_CLEANING = 5.0  # seconds that cleanups may take where a signal ends a process
_SHOW_CURSOR = b"\x1b[?25h"  # progress bars hide it


class Signals:
    """SIGINT and SIGTERM as they come to a command.

    Attributes:
        received: The numbers of those that came.
        patience: How many of them the work in progress answers by itself. One more ends it.
        notice: What to say when the work in progress is to answer one.
        advice: What a line about the end adds: how to go on.
        cleanups: Functions to call when the command ends, also at once: the last one first.
        ending: Whether a signal is ending the process.
    """

    def __init__(self) -> None:
        self.received: list[int] = []
        self.patience, self.notice, self.advice = 0, "", ""
        self._stderr = 2
        self.cleanups: list[Callable[[], object]] = []
        self.ending = False
        self._cleaning = threading.Lock()
        self._owns_process = False

    def own_process(self) -> None:
        """Answer signals for the whole process, even while its main thread is in native code.

        Python's own handlers would wait for that. The number of a signal is written to a pipe
        when it comes; a thread reads it.
        """
        with suppress(OSError):  # closed
            self._stderr = os.dup(2)  # which is not that of a terminal while TensorFlow starts
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        self._set_handlers(lambda number, frame: None)
        if hasattr(signal, "SIGHUP"):
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
        self._owns_process = True
        threading.Thread(target=self._watch, args=[reader], name="signals", daemon=True).start()

    @contextmanager
    def guest(self) -> Iterator[None]:
        """Answer signals during a call from Python, which then ends with `KeyboardInterrupt`."""
        if self._owns_process or threading.current_thread() is not threading.main_thread():
            yield
            return
        before = self._set_handlers(self._receive_here)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _set_handlers(self, handler: Any) -> dict[int, Any]:
        return {n: signal.signal(n, handler) for n in (signal.SIGINT, signal.SIGTERM)}

    def _watch(self, reader: int) -> None:
        while number := os.read(reader, 1):
            if number[0] in (signal.SIGINT, signal.SIGTERM):
                self._receive(number[0], self._end)

    def _receive_here(self, number: int, frame: FrameType | None) -> None:
        def end() -> None:
            raise KeyboardInterrupt

        self._receive(number, end)

    def _receive(self, number: int, end: Callable[[], None]) -> None:
        self.received.append(number)
        if len(self.received) > self.patience:
            end()
        elif self.notice:
            print(self.notice, file=sys.stderr, flush=True)

    def clean_up(self) -> None:
        """Call the cleanups, unless a signal is ending the process; then wait for its end."""
        with self._cleaning:
            self._call_cleanups()

    def _call_cleanups(self) -> None:
        """Call each of those that are left once, even if Ctrl-C ends one."""
        try:
            while self.cleanups:
                try:
                    self.cleanups.pop()()
                except Exception as error:
                    say(f"warning: {error}")
        finally:
            if self.cleanups:
                self._call_cleanups()

    def _end(self) -> None:
        """End the process without waiting for its work."""
        self.ending = True
        self._cleaning.acquire(timeout=_CLEANING)  # for good, so that no error ends it otherwise
        cleaning = threading.Thread(target=self._call_cleanups, name=_CLEANUPS, daemon=True)
        cleaning.start()
        cleaning.join(_CLEANING)  # a device may hang
        line = "interrupted" + (f"; {self.advice}" if self.advice else "")
        with suppress(OSError):
            cursor = (_SHOW_CURSOR + b"\r\n") * os.isatty(self._stderr)
            os.write(self._stderr, cursor + f"{line}\n".encode(errors="backslashreplace"))
        os._exit(128 + self.received[0])


class QuietStream:
    """A text stream that goes quiet once it cannot be written, and keeps the error."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.error: Exception | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        self._try(self._write, text)
        return len(text)

    def writelines(self, lines: Any) -> None:
        self.write("".join(lines))

    def flush(self) -> None:
        self._try(self._stream.flush)

    def _write(self, text: str) -> None:
        try:
            self._stream.write(text)
        except UnicodeEncodeError as error:  # write what its encoding can hold
            self._stream.write(text.encode(error.encoding, "replace").decode(error.encoding))

    def _try(self, action: Callable[..., Any], *arguments: Any) -> None:
        if self.error is not None:
            return
        try:
            action(*arguments)
        except (OSError, ValueError) as error:  # a closed stream is a ValueError
            self.error = error
            with suppress(OSError, ValueError):  # Python flushes what is left when it ends
                os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())


def _quiet(stream: Any) -> QuietStream:
    """A stream that goes quiet; that of a command which calls this one has the error, too."""
    return stream if isinstance(stream, QuietStream) else QuietStream(stream)


_Main = TypeVar("_Main", bound=Callable[..., int])
current = Signals()
"""The signals of the command that runs; those of a call from Python are its own."""


def command(main: _Main) -> _Main:
    """Decorate the main function of a command, whose argument ``argv`` is the process's if None.

    Called with ``argv``, from Python, it ends with `KeyboardInterrupt` where a process would end.
    """

    signature = inspect.signature(main)

    @wraps(main)
    def run(*arguments: Any, **named: Any) -> int:
        global current
        argv = signature.bind(*arguments, **named).arguments.get("argv")
        if argv is None and threading.current_thread() is threading.main_thread():
            own_process()
        before, current = current, current if argv is None else Signals()
        streams = sys.stdout, sys.stderr
        sys.stdout, sys.stderr = (out, err) = tuple(map(_quiet, streams))  # type: ignore
        try:
            with current.guest():
                return main(*arguments, **named)
        finally:
            try:
                current.clean_up()
            finally:
                out.flush()
                err.flush()
                sys.stdout, sys.stderr = streams
                current.advice = ""  # the next command of this process gives its own
                current = before

    return run  # type: ignore[return-value]


def signals() -> Signals:
    """The signals of the command that runs."""
    return current


def say(text: str) -> None:
    """Print a line to standard error.

    Names of files and messages of devices may hold control characters, which show as escapes.
    While a signal ends the process, only what cleanups say is printed: the end itself causes other
    errors.
    """
    if current.ending and threading.current_thread().name != _CLEANUPS:
        return
    from meshes.validation import one_line  # it imports NumPy, for which a command need not wait

    print(one_line(text), file=sys.stderr)


def printed() -> bool:
    """Whether all that was printed could be written; a reader that has stopped reading counts."""
    sys.stdout.flush()
    error = getattr(sys.stdout, "error", None)
    return error is None or isinstance(error, BrokenPipeError)


def own_process() -> None:
    """Let this process be a command: answer its signals, and open streams that were closed."""
    if current._owns_process:
        return
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:  # the next file would get this number, and what is printed with it
            os.open(os.devnull, os.O_RDWR)
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "r+"))  # noqa: SIM115
    current.own_process()


def is_command() -> bool:
    """Whether this process is a command: a script, installed, or ``-m`` a module of this package.

    Scripts are those of ``experiments``.
    """
    if sys.argv[:1] == ["-m"]:  # while the package is imported
        return any(word.partition(".")[0] == __package__ for word in sys.orig_argv)
    path = Path(sys.argv[0] if sys.argv else "")
    return path.stem == INSTALLED or _is_script(path)


def _is_script(path: Path) -> bool:
    return path.parent.resolve() == Path(__file__).resolve().parents[1] / "experiments"


_start = sys.orig_argv[: len(sys.orig_argv) - len(sys.argv[1:])]  # before a script changes them


def installed_as() -> list[str]:
    """The words that started this process if it is the installed command; empty if it is not."""
    if _start[-2:] == ["-m", __package__]:
        return _start
    script = Path(_start[-1] if _start else "")
    if script.stem != INSTALLED:
        return []
    on_path = shutil.which(INSTALLED)
    return [INSTALLED] if on_path and script.resolve() == Path(on_path).resolve() else [str(script)]


def start_of(script: str, otherwise: Sequence[str], name: str = "") -> list[str]:
    """The words that start a script of ``experiments``, for lines to paste into a terminal.

    They name the interpreter and the folder as this process was started with.

    Args:
        script: The script's name.
        otherwise: The words if this process was not started by one of these scripts.
        name: The installed command's name for what the script does.
    """
    if name and installed_as():
        return [*installed_as(), name]
    path = Path(_start[-1] if _start else "")
    here = path.suffix == ".py" and _is_script(path)  # a module's name is no path
    return [*_start[:-1], str(path.with_name(script))] if here else [*otherwise]


if is_command():  # the imports take seconds
    own_process()
