"""Every command answers signals alike, and no output that cannot be shown ends its work."""

import io
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from photonic_ffzero import command
from photonic_ffzero.command import QuietStream, Signals

# A command of its own, which loads the module alone, as the package takes seconds.
CHILD = f"""
import importlib.util, os, signal, sys
spec = importlib.util.spec_from_file_location("command", {command.__file__!r})
command = importlib.util.module_from_spec(spec)
sys.modules["command"] = command
spec.loader.exec_module(command)
@command.command
def main(argv=None):
"""
# Signals come to another thread, so that this one stays in native code as with a hanging device.
HANGS = """
    import ctypes
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT, signal.SIGTERM])
    os.write(1, b"ready\\n")
    ctypes.CDLL(None).pause()
"""
PRINTS = """
    for index in range(1000):
        print(f"line {index} ☃")
        print(f"line {index} ☃", file=sys.stderr, flush=True)
    with open("result", "w") as file:
        file.write("whole")
    return 0
"""
END = "sys.exit(main())\n"


def child(tmp_path, body, shell=None, **streams):
    (tmp_path / "child.py").write_text(CHILD + body + END)
    words = [sys.executable, "-S", "child.py"]
    if shell is not None:
        words = ["bash", "-c", f"{sys.executable} -S child.py {shell}"]
    return subprocess.Popen(words, cwd=tmp_path, text=True, **streams)


def started(tmp_path, body):
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = child(tmp_path, body, **pipes)
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_a_command_at_once_with_one_line(tmp_path, number, code):
    clean = "    command.signals().cleanups.append(lambda: open('cleaned', 'w').close())\n"
    with started(tmp_path, clean + HANGS) as process:
        process.send_signal(signal.SIGHUP)
        process.send_signal(number)
        assert process.communicate(timeout=60)[1] == "interrupted\n"
    assert process.returncode == code
    assert (tmp_path / "cleaned").exists()


def test_cleanups_that_hang_do_not_hold_a_signal_up(tmp_path):
    hang = "    command._CLEANING = 0.1\n"
    hang += "    command.signals().cleanups.append(lambda: ctypes.CDLL(None).pause())\n"
    with started(tmp_path, "    import ctypes\n" + hang + HANGS) as process:
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=60)[1] == "interrupted\n"
    assert process.returncode == 130


def test_an_error_during_the_cleanups_does_not_change_the_end(tmp_path):
    """As of a device that is closed while the main thread uses it."""
    closes = """
    import threading, time
    closed = threading.Event()
    command.signals().cleanups.append(lambda: [closed.set(), time.sleep(0.5)])
    print("ready", flush=True)
    closed.wait()
    return 1
"""
    with started(tmp_path, closes) as process:
        process.send_signal(signal.SIGTERM)
        assert process.communicate(timeout=60)[1] == "interrupted\n"
    assert process.returncode == 143


def test_cleanups_are_called_once_when_a_command_ends_whatever_happens():
    called = []

    @command.command
    def main(argv):
        for name in ("first", "last"):
            command.signals().cleanups.append(lambda name=name: called.append(name))
        raise ValueError(argv)

    with pytest.raises(ValueError, match="any"):
        main(["any"])
    assert called == ["last", "first"]


def test_ctrl_c_in_a_cleanup_leaves_none_out_and_streams_as_they_were():
    called, streams, before = [], (sys.stdout, sys.stderr), command.signals()

    def interrupted():
        raise KeyboardInterrupt

    @command.command
    def main(argv):
        command.signals().cleanups += [lambda: called.append("device"), interrupted]
        return 0

    with pytest.raises(KeyboardInterrupt):
        main([])
    assert called == ["device"]
    assert (sys.stdout, sys.stderr) == streams
    assert command.signals() is before


def test_errors_that_the_end_itself_causes_are_not_told(tmp_path):
    body = """
    import threading
    closed = threading.Event()

    def close():
        closed.set()
        threading.Event().wait(0.5)

    command.signals().cleanups.append(close)
    os.write(1, b"ready\\n")
    closed.wait()
    command.say("device failed: it is closed")
    threading.Event().wait(60)
"""
    with started(tmp_path, body) as process:
        process.send_signal(signal.SIGTERM)
        told = process.communicate(timeout=60)[1]
    assert told == "interrupted\n"


def test_the_line_about_the_end_shows_while_native_output_is_hidden(tmp_path):
    """As while TensorFlow starts; a path in it may be no text."""
    hidden = """
    command.signals().advice = "go on with \\udcff"
    os.dup2(os.open("hidden", os.O_CREAT | os.O_WRONLY), 2)
"""
    with started(tmp_path, hidden + HANGS) as process:
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=60)[1] == "interrupted; go on with \\udcff\n"
    assert process.returncode == 130
    assert (tmp_path / "hidden").read_text() == ""


def test_a_second_signal_ends_work_that_answers_the_first(tmp_path):
    patient = """
    command.signals().patience = 1
    command.signals().notice = "stopping"
    command.signals().advice = "go on with X"
"""
    with started(tmp_path, patient + HANGS) as process:
        process.send_signal(signal.SIGINT)
        assert process.stderr.readline() == "stopping\n"
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert process.communicate(timeout=60)[1] == "interrupted; go on with X\n"
    assert process.returncode == 130


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
@pytest.mark.parametrize(
    "shell",
    [
        *(">/dev/full", "2>/dev/full", ">/dev/full 2>&1", ">&-", "2>&-", ">&- 2>&- <&-"),
        *("| head -1", "2> >(head -1)", "2>&1 | head -1", "| true", ">/dev/null"),
    ],
)
def test_a_command_works_on_where_its_output_cannot_be_shown(tmp_path, shell):
    process = child(tmp_path, PRINTS, f"{shell}; exit ${{PIPESTATUS[0]}}", stderr=subprocess.PIPE)
    with process:
        errors = process.communicate(timeout=60)[1]
    assert process.returncode == 0
    assert (tmp_path / "result").read_text() == "whole"
    assert "Traceback" not in errors
    assert "Exception ignored" not in errors


def test_characters_that_the_terminal_has_not_are_replaced():
    raw = io.BytesIO()
    stream = QuietStream(io.TextIOWrapper(raw, "ascii"))
    assert stream.write("R² = 0.5\n") == 9
    stream.writelines(["a", "b"])
    stream.flush()
    assert raw.getvalue() == b"R? = 0.5\nab"
    assert stream.error is None


@pytest.mark.parametrize("error", [BrokenPipeError(), OSError(5, "gone"), ValueError("closed")])
def test_a_stream_goes_quiet_at_its_first_error(error):
    class Broken(io.StringIO):
        writes = 0

        def write(self, text):
            self.writes += 1
            raise error

    broken = Broken()
    stream = QuietStream(broken)
    for _ in range(3):
        print("text", file=stream, flush=True)
    assert broken.writes == 1
    assert stream.error is error


def test_a_command_may_have_other_arguments_before_argv(tmp_path):
    experiment = f"""
    return experiment("ports")

@command.command
def experiment(name, argv=None):
    command.signals().patience = 1
    command.signals().notice = name + " stops"
    command.signals().advice = "go on with X"
{HANGS}
"""
    with started(tmp_path, experiment) as process:
        process.send_signal(signal.SIGINT)
        assert process.stderr.readline() == "ports stops\n"
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=60)[1] == "interrupted; go on with X\n"
    assert process.returncode == 130


def test_called_from_python_a_signal_is_a_keyboard_interrupt():
    before = signal.getsignal(signal.SIGINT)

    @command.command
    def main(argv=None):
        own = command.signals()
        own.patience = 1
        os.kill(os.getpid(), signal.SIGINT)
        assert own.received == [signal.SIGINT]
        os.kill(os.getpid(), signal.SIGINT)
        return 0

    with pytest.raises(KeyboardInterrupt):
        main([])
    assert signal.getsignal(signal.SIGINT) is before
    assert command.signals().received == []


def test_a_call_leaves_streams_and_signals_as_they_were(capsys):
    streams = sys.stdout, sys.stderr

    @command.command
    def main(argv=None):
        print("out")
        raise SystemExit(2)

    with pytest.raises(SystemExit):
        main(argv=[])
    assert (sys.stdout, sys.stderr) == streams
    assert capsys.readouterr().out == "out\n"
    assert isinstance(command.signals(), Signals)


@pytest.mark.parametrize(
    ("argv", "words", "is_one"),
    [
        (["-m"], ["python", "-m", "photonic_ffzero.cli.train"], True),
        (["-m"], ["python", "-m", "pytest"], False),
        (["experiments/ablation.py"], [], True),
        (["elsewhere/experiments/ablation.py"], [], False),
        ([""], [], False),
        ([], [], False),
    ],
)
def test_what_is_a_command_is_known_before_its_imports(monkeypatch, argv, words, is_one):
    monkeypatch.chdir(Path(command.__file__).parents[1])
    monkeypatch.setattr(sys, "argv", argv)
    monkeypatch.setattr(sys, "orig_argv", words)
    assert command.is_command() == is_one
