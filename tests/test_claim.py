"""One process at a time works in a directory: on one machine, and on several that share a disk."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from meshes.files import write_whole
from photonic_ffzero.runs import check_new_directory
from photonic_ffzero.runs import claim as claims
from photonic_ffzero.runs.claim import Claim, ClaimedError, Owner, claim_new, claim_unique

CHILD = """
import os, signal, sys
from pathlib import Path
from photonic_ffzero.runs.claim import Claim
claim = Claim(Path(sys.argv[1]))
print("claimed", flush=True)
signal.pause()
"""


@pytest.fixture
def clock(monkeypatch):
    """The disk's clock, which the test sets; a claim's file gets its time from it."""

    class Clock:
        now = 1e9

        def stamp(self, folder):
            for file in Path(folder).glob(".claim-*"):
                os.utime(file, (self.now, self.now))

    clock = Clock()
    monkeypatch.setattr(claims, "_disk_time", lambda folder: clock.now)
    return clock


def on(monkeypatch, host, kernel="", pid=7):
    monkeypatch.setattr(claims, "this_process", lambda: Owner(host, kernel or f"boot {host}", pid))


def no_locks(monkeypatch):
    """A disk whose locks other machines do not see."""
    monkeypatch.setattr(claims.fcntl, "flock", lambda *arguments: None)


def files(folder):
    return sorted(path.name for path in folder.iterdir())


def refused(folder, who):
    with pytest.raises(ClaimedError) as error:
        Claim(folder)
    assert str(error.value) == f"{folder}: another process ({who}) is at work in it"


def test_a_second_one_is_told_who_works_there_and_leaves_nothing(tmp_path):
    with Claim(tmp_path):
        before = files(tmp_path)
        refused(tmp_path, f"process {os.getpid()} on {claims.this_process().host}")
        assert files(tmp_path) == before
    assert files(tmp_path) == []
    Claim(tmp_path).release()


def test_whether_a_process_is_at_work_is_asked_without_a_trace(tmp_path):
    assert not claims.at_work(tmp_path)
    with Claim(tmp_path):
        before = files(tmp_path)
        assert claims.at_work(tmp_path)
        assert files(tmp_path) == before
    assert not claims.at_work(tmp_path)
    assert not claims.at_work(tmp_path / "none")


def test_a_claim_that_a_full_disk_does_not_hold_is_none(tmp_path, monkeypatch):
    def full(descriptor, content):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(OSError, match="No space"):
            Claim(tmp_path)
    assert files(tmp_path) == []
    Claim(tmp_path).release()


def test_of_many_at_once_one_gets_it(tmp_path):
    for _ in range(20):

        def attempt(number):
            try:
                return Claim(tmp_path)
            except ClaimedError as error:
                return str(error)

        with ThreadPoolExecutor(8) as pool:
            results = list(pool.map(attempt, range(8)))
        (held,) = [result for result in results if isinstance(result, Claim)]
        assert all(f"process {os.getpid()} on" in text for text in results if text is not held)
        held.release()
        assert files(tmp_path) == []


def test_eight_at_once_get_eight_directories(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        held = list(pool.map(lambda _: claim_unique(tmp_path / "results" / "run"), range(8)))
    names = ["run", *(f"run-{number}" for number in range(2, 9))]
    assert sorted(claim.folder.name for claim in held) == names
    for claim in held:
        claim.release()


def test_no_directory_can_be_made_behind_a_file(tmp_path):
    (tmp_path / "results").touch()
    (tmp_path / "link").symlink_to("nowhere")
    for parent in ("results", "link"):
        with pytest.raises(OSError, match=parent):
            claim_unique(tmp_path / parent / "run")


def test_a_directory_with_files_is_not_new_but_one_with_a_dead_claim_is(tmp_path):
    dead = {"host": "a", "kernel": claims._kernel(), "pid": 1}
    (tmp_path / ".claim-3").write_text(json.dumps(dead))
    (tmp_path / ".photonic_ffzero-0123456789abcdef.partial").touch()
    check_new_directory(tmp_path)
    claim_new(tmp_path).release()
    assert files(tmp_path) == []
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"output .* found files"):
        claim_new(tmp_path)
    assert files(tmp_path) == ["file"]


@pytest.mark.parametrize("claim", [claim_new, claim_unique])
def test_a_directory_made_for_a_claim_stays_only_if_it_holds_files(tmp_path, claim):
    for content in ([], ["file"]):
        with claim(tmp_path / "run") as held:
            for name in content:
                (held.folder / name).touch()
        assert held.folder.exists() == bool(content)


def test_an_empty_directory_that_was_there_stays(tmp_path):
    claim_new(tmp_path).release()
    assert tmp_path.exists()


@pytest.mark.skipif(not hasattr(signal, "pause"), reason="no signals here")
def test_a_killed_process_is_followed_at_once(tmp_path):
    command = [sys.executable, "-c", CHILD, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout.readline() == "claimed\n"
        refused(tmp_path, f"process {child.pid} on {claims.this_process().host}")
        child.kill()
    with Claim(tmp_path):
        assert files(tmp_path) == [".claim-2"]


class TestSeveralMachines:
    @pytest.fixture(autouse=True)
    def shared_disk(self, monkeypatch):
        no_locks(monkeypatch)

    @pytest.mark.parametrize(("silent", "lives"), [(0, True), (59, True), (61, False)])
    def test_another_machine_s_claim_lasts_as_long_as_its_heartbeat(
        self, tmp_path, monkeypatch, clock, silent, lives
    ):
        on(monkeypatch, "a")
        first = Claim(tmp_path)
        clock.stamp(tmp_path)
        clock.now += silent
        on(monkeypatch, "b", pid=8)
        if lives:
            refused(tmp_path, "process 7 on a")
            first.release()
        second = Claim(tmp_path)
        assert files(tmp_path) == [second._file.name]
        second.release()

    def test_one_that_was_asleep_learns_that_it_has_lost(self, tmp_path, monkeypatch, clock):
        on(monkeypatch, "a")
        first = Claim(tmp_path)
        first.beat()
        first.on_steps("1", [0.1])
        clock.stamp(tmp_path)
        clock.now += 100
        on(monkeypatch, "b")
        second = Claim(tmp_path)
        clock.stamp(tmp_path)
        on(monkeypatch, "a")
        first.beat()
        with pytest.raises(ClaimedError, match="taken it over"):
            first.on_steps("1", [0.1])
        first.release()
        assert files(tmp_path) == [second._file.name]
        second.beat()
        second.on_steps("1", [0.1])
        second.release()

    def test_a_machine_without_locks_knows_its_own_dead(self, tmp_path, monkeypatch, clock):
        def refuse(*arguments):
            raise OSError("no locks available")

        monkeypatch.setattr(claims.fcntl, "flock", refuse)
        with Claim(tmp_path):
            refused(tmp_path, f"process {os.getpid()} on {claims.this_process().host}")
        here = claims.this_process()
        dead = {"host": here.host, "kernel": here.kernel, "pid": 2**22 + 1}
        (tmp_path / ".claim-1").write_text(json.dumps(dead))
        Claim(tmp_path).release()

    def test_of_several_that_find_it_dead_one_gets_it(self, tmp_path, monkeypatch):
        """Threads that pause at random between their looks, as slow disks do."""
        rng, look, host = random.Random(0), claims._owner, threading.local()

        def slow(folder, number):
            claims.time.sleep(rng.uniform(0, 0.004))
            return look(folder, number)

        def host_of_thread():
            return Owner(f"host {host.number}", f"boot {host.number}", 7)

        monkeypatch.setattr(claims, "_owner", slow)
        monkeypatch.setattr(claims, "this_process", host_of_thread)
        for _ in range(20):
            dead = tmp_path / ".claim-5"
            dead.write_text('{"host": "a", "kernel": "a", "pid": 3}')
            os.utime(dead, (0, 0))

            def attempt(number):
                host.number = number
                try:
                    return Claim(tmp_path)
                except ClaimedError:
                    return None

            with ThreadPoolExecutor(4) as pool:
                held = [claim for claim in pool.map(attempt, range(4)) if claim]
            assert len(held) == 1
            held[0].release()


def test_a_heartbeat_sets_the_time_and_never_fails(tmp_path):
    claim = Claim(tmp_path)
    os.utime(claim._file, (0, 0))
    claim.beat()
    assert claim._file.stat().st_mtime > 1e9
    claim._file.unlink()
    claim.beat()
    claim.on_steps("1", [0.1])  # nobody else is there
    tmp_path.rename(tmp_path.with_name("moved"))
    claim.beat()
    claim.on_steps("1", [0.1])
    claim.release()


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "7", '{"host": "\\u001b[31m", "kernel": "", "pid": 1}', "[" * 9999, "\xff"],
)
def test_a_damaged_claim_counts_for_a_minute(tmp_path, monkeypatch, clock, text):
    monkeypatch.setattr(claims.time, "sleep", lambda seconds: None)
    (tmp_path / ".claim-1").write_text(text, encoding="latin-1")
    clock.stamp(tmp_path)
    here = claims.this_process()
    monkeypatch.setattr(claims, "this_process", lambda: Owner(here.host, here.kernel, here.pid))
    with pytest.raises(ClaimedError, match="another process is at work in it"):
        Claim(tmp_path)
    clock.now += 61
    Claim(tmp_path).release()


@pytest.mark.parametrize("number", ["", "x", "-1", "²", "9" * 40])
def test_other_names_are_no_claims(tmp_path, number):
    (tmp_path / f".claim-{number}").touch()
    Claim(tmp_path).release()


def test_a_link_or_a_folder_is_no_claim(tmp_path):
    (tmp_path / "target").write_text("precious")
    (tmp_path / ".claim-1").symlink_to("target")
    (tmp_path / ".claim-2").mkdir()
    Claim(tmp_path).release()
    assert (tmp_path / "target").read_text() == "precious"


class TestWholeFilesOfSeveralWriters:
    def test_the_file_is_always_one_writer_s(self, tmp_path):
        path = tmp_path / "file"
        texts = [bytes([65 + n]) * 100_000 for n in range(4)]

        def write(text):
            for _ in range(20):
                write_whole(path, lambda file: [file.write(text[:9]), file.write(text[9:])])
                assert path.read_bytes() in texts

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(write, texts))
        assert files(tmp_path) == ["file"]

    def test_links_are_replaced_and_other_things_left_alone(self, tmp_path):
        (tmp_path / "target").write_text("precious")
        (tmp_path / "link").symlink_to("target")
        write_whole(tmp_path / "link", lambda file: file.write(b"new"))
        assert (tmp_path / "target").read_text() == "precious"
        assert (tmp_path / "link").read_bytes() == b"new"
        os.mkfifo(tmp_path / "pipe")
        for name in ("pipe", ""):
            with pytest.raises(OSError, match="must be a file"):
                write_whole(tmp_path / name, lambda file: file.write(b"new"))
        assert (tmp_path / "pipe").is_fifo()

    def test_what_killed_processes_left_is_swept(self, tmp_path):
        left = tmp_path / ".photonic_ffzero-0123456789abcdef.partial"
        for age, remains in ((0, True), (7200, False)):
            left.touch()
            time = claims.time.time() - age
            os.utime(left, (time, time))
            write_whole(tmp_path / "file", lambda file: file.write(b""))
            assert left.exists() == remains
        for name in (left.name, "film.mp4.partial"):  # a download of the user's
            (tmp_path / name).touch()
        Claim(tmp_path).release()
        assert files(tmp_path) == ["file", "film.mp4.partial"]

    def test_names_may_be_as_long_as_the_system_allows(self, tmp_path):
        path = tmp_path / ("é" * 127)
        write_whole(path, lambda file: np.save(file, np.ones(3)))
        assert np.load(path).sum() == 3
