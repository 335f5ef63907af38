"""Grids on other workers than the local ones: the same figures, whatever dies, and nobody else in.

The workers here are started by hand in folders of their own. Cells run the script of `test_grid`.
"""

import json
import os
import random
import re
import signal
import stat
import subprocess
import sys
import time
from collections import Counter
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from test_grid import but_seconds, children, elsewhere, experiment, rows, start, wait_until, whole

from photonic_ffzero.cli.certificates import main as make_certificates
from photonic_ffzero.cli.certificates import write_certificates
from photonic_ffzero.cli.experiment import Options, grid_of, run_experiment
from photonic_ffzero.runs.cell import FILES, read_files, write_files
from photonic_ffzero.runs.cluster import TLS_FILES, Cluster, read_cluster
from photonic_ffzero.runs.grid import Grid

__all__ = ["elsewhere", "whole"]  # fixtures

ELSEWHERE = "import photonic_ffzero.runs.cell as cell\ncell.sees = lambda probe: False\n"
KILLS = int(os.environ.get("PHOTONIC_FFZERO_CLUSTER_KILLS", "6"))
SEED = int(os.environ.get("PHOTONIC_FFZERO_SEED", "18"))


class Lab:
    """A scheduler and its workers, each in a folder of its own."""

    def __init__(self, tls: Path, shared: bool, workers: int = 2) -> None:
        self.tls, self.shared, self.count = tls.resolve(), shared, workers
        self.processes: list[subprocess.Popen] = []
        self.address = ""

    def _start(self, name: str, *arguments: str) -> subprocess.Popen:
        folder = Path(name).resolve()
        folder.mkdir(exist_ok=True)
        pairs = zip(("--tls-ca-file", "--tls-cert", "--tls-key"), TLS_FILES, strict=True)
        flags = [word for flag, file in pairs for word in (flag, str(self.tls / file))]
        command = [sys.executable, "-m", f"distributed.cli.dask_{name.split('-')[0]}"]
        with open(folder / "log.txt", "ab") as log:
            words = [*command, *arguments, *flags, "--no-dashboard"]
            process = subprocess.Popen(words, cwd=folder, stdout=log, stderr=log)
        self.processes.append(process)
        return process

    def start_scheduler(self, port: str = "0") -> str:
        """Start a scheduler; return the file in which it says where it is."""
        Path("scheduler.json").unlink(missing_ok=True)
        file = str(Path("scheduler.json").resolve())
        self.scheduler = self._start(
            "scheduler", "--host", "127.0.0.1", "--port", port, "--protocol", "tls",
            *("--scheduler-file", file),
        )  # fmt: skip
        return file

    def start(self) -> None:
        file = self.start_scheduler()
        Path("hide.py").write_text(ELSEWHERE)
        preload = [] if self.shared else ["--preload", str(Path("hide.py").resolve())]
        for number in range(self.count):
            name = f"worker-{number}"
            self._start(name, "--scheduler-file", file, "--nthreads", "1", *preload)
        assert wait_until(Path("scheduler.json").exists)
        time.sleep(0.5)  # until it is whole
        self.address = json.loads(Path("scheduler.json").read_text())["address"]

    def stop(self) -> None:
        for process in self.processes:
            process.kill()
        for process in self.processes:
            process.wait()
        self.processes.clear()

    @property
    def flags(self) -> list[str]:
        return ["--scheduler", self.address, "--tls-dir", str(self.tls)]

    def kill_worker(self, rng: random.Random) -> None:
        """Kill a worker, which its nanny starts again."""
        for nanny in rng.sample(self.processes[1:], len(self.processes) - 1):
            for number in children(nanny):
                command = Path(f"/proc/{number}/cmdline").read_bytes()
                if b"spawn_main" in command:
                    os.kill(number, signal.SIGKILL)
                    return


@contextmanager
def lab(shared: bool, workers: int = 2):
    write_certificates(Path("tls"))
    place = Lab(Path("tls"), shared, workers)
    try:
        place.start()
        yield place
    finally:
        place.stop()


pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="no /proc")
both = pytest.mark.parametrize("shared", [True, False], ids=["shared", "apart"])


# --- who may take part ----------------------------------------------------------------------------

TLS = ["--tls-dir", "tls"]
REFUSED = [
    (["--scheduler", "tcp://192.0.2.1:8786"], "--scheduler must be at tls:// .*192.0.2.1:8786"),
    (["--scheduler", "tcp://lab.example:8786"], "--scheduler must be at tls:// .*lab.example"),
    (["--scheduler", "tls://127.0.0.1:8786"], "tls://127.0.0.1:8786 needs --tls-dir"),
    (["--scheduler", "tcp://127.0.0.1:8786", *TLS], "must be at tls:// with --tls-dir"),
    (["--scheduler", "127.0.0.1:8786"], "must be written tls://host:port, got '127.0.0.1:8786'"),
    (["--scheduler", "tls://127.0.0.1:x", *TLS], "must be written tls://host:port"),
    (["--scheduler", "tls://127.0.0.1:8786/x", *TLS], "must be written tls://host:port"),
    (["--scheduler", "tls://lab:1", "--tls-dir", "nowhere"], "nowhere/ca.pem"),
    (["--scheduler", "tls://lab:1", "--cluster", "c.yaml", *TLS], "--cluster does not apply"),
    (TLS, "--tls-dir belongs to --scheduler or --cluster"),
    (["--insecure"], "--insecure belongs to --scheduler or --cluster"),
    (["--scheduler", "tls://lab:1", *TLS, "--insecure"], "--insecure does not apply"),
    (["--cluster", "c.yaml", "--jobs", "2"], "--cluster needs --tls-dir"),
    (["--cluster", "c.yaml", *TLS], "--cluster needs --jobs"),
    (["--cluster", "nowhere.yaml", "--jobs", "2", *TLS], "nowhere.yaml"),
    (["--cluster", "c.yaml", "--jobs", "2", *TLS], "c.yaml: kind must be one of .*got 'Local"),
]


@pytest.mark.parametrize(("flags", "message"), REFUSED, ids=lambda value: str(value)[:40])
def test_what_lets_anybody_in_or_cannot_be_is_refused(flags, message, capsys):
    write_certificates(Path("tls"))
    Path("c.yaml").write_text("kind: LocalCluster\n")
    with pytest.raises(SystemExit) as stop:
        experiment([*flags, "--output", "grid"])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert re.search(message, error), error
    assert not Path("grid").exists()


def test_tcp_is_for_this_machine_or_for_whoever_says_so():
    for address in ("tcp://127.0.0.1:8786", "tcp://[::1]:8786", "tcp://localhost:8786"):
        assert Cluster(scheduler=address).security() is None
    assert Cluster(scheduler="tcp://192.0.2.1:8786", insecure=True).security() is None


def test_a_key_that_others_can_read_is_refused():
    write_certificates(Path("tls"))
    Path("tls/key.pem").chmod(0o640)
    with pytest.raises(ValueError, match=r"mode 640; use chmod 600 tls/key\.pem"):
        Cluster(scheduler="tls://lab:8786", tls_dir=Path("tls"))


def no_space(*arguments):
    raise OSError(28, "No space left on device")


def test_a_set_of_certificates_is_made_once_and_for_its_owner(capsys):
    assert make_certificates(["tls", "--days", "3"]) == 0
    assert sorted(os.listdir("tls")) == sorted(TLS_FILES)
    assert {stat.S_IMODE(file.stat().st_mode) for file in Path("tls").iterdir()} == {0o600}
    with pytest.raises(SystemExit):
        make_certificates(["tls"])
    assert "found files in tls" in capsys.readouterr().err
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("photonic_ffzero.cli.certificates._certificate", no_space)
        with pytest.raises(SystemExit) as stop:
            make_certificates(["other"])
    assert (stop.value.code, Path("other").exists()) == (1, False)
    security = Cluster(scheduler="tls://lab:8786", tls_dir=Path("tls")).security()
    assert security.require_encryption
    for role in ("client", "scheduler", "worker"):
        assert security.get_connection_args(role)["ssl_context"] is not None, role


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1, 2]", "must hold settings by name"),
        ("{1: 2}", "must hold settings by name"),
        ("kind: [", "must be YAML"),
        ("!!python/object/apply:os.system ['touch hacked']", "must be YAML"),
        ("kind: SLURMCluster\nsecurity: x", "security follows from --tls-dir"),
        ("kind: SlurmCluster", "did you mean"),
        ("x" * 2**17, "65536"),
    ],
    ids=range(7),
)
def test_a_cluster_file_is_named_with_what_is_wrong(text, message):
    Path("c.yaml").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_cluster(Path("c.yaml"))
    assert not Path("hacked").exists()


def test_what_another_computer_sends_is_no_path():
    Path("precious").write_text("x")
    Path("cell").mkdir()
    Path("cell/model.npz").symlink_to(Path("precious").resolve())
    sent = {"../precious": b"1", "/precious": b"2", "sub/x": b"3", ".claim-1": b"4"}
    write_files(Path("cell"), sent | {"model.npz": b"5", "results.json": "no bytes"})
    assert os.listdir("cell") == ["model.npz"]
    assert Path("precious").read_text() == "x"
    assert read_files(Path("cell")) == {"model.npz": b"5"}
    Path("cell/log.txt").symlink_to(Path("precious").resolve())
    with pytest.raises(OSError, match=r"log\.txt"):
        read_files(Path("cell"))
    assert FILES[-1] == "results.json"


def test_a_file_that_is_too_long_to_send_is_named_and_not_cut(monkeypatch):
    monkeypatch.setattr("photonic_ffzero.runs.cell._LONGEST_FILE", 3)
    Path("cell").mkdir()
    for name, content in {"model.npz": b"123", "log.txt": b"1234"}.items():
        Path("cell", name).write_bytes(content)
    assert read_files(Path("cell"), ["model.npz"]) == {"model.npz": b"123"}
    with pytest.raises(OSError, match=r"at most 3 bytes: .*log\.txt"):
        read_files(Path("cell"))


SBATCH = """#!/bin/sh
cp "$1" submitted.sh
echo Submitted batch job 7
"""


def test_a_slurm_script_holds_what_the_file_and_the_flags_say(monkeypatch):
    """There is no SLURM here: `sbatch` keeps the script."""
    pytest.importorskip("dask_jobqueue")
    write_certificates(Path("tls"))
    Path("bin").mkdir()
    for name in ("sbatch", "scancel"):
        Path("bin", name).write_text(SBATCH)
        Path("bin", name).chmod(0o755)
    Path("c.yaml").write_text(
        "kind: SLURMCluster\nqueue: long\ncores: 4\nprocesses: 1\nmemory: 8GB\nwalltime: '10:00'\n"
    )
    settings = {"jobs": 1, "cluster": Path("c.yaml"), "tls_dir": Path("tls")}
    with pytest.raises(ValueError, match="cluster of kind SLURMCluster needs the program sbatch"):
        Cluster(**settings)
    monkeypatch.setenv("PATH", f"{Path('bin').resolve()}:{os.environ['PATH']}")
    with Cluster(**settings).client(cells=5) as client:
        assert wait_until(Path("submitted.sh").exists, 30)
        assert client.scheduler.address.startswith("tls://")
    script = Path("submitted.sh").read_text()
    assert "#SBATCH -p long" in script
    assert "#SBATCH --cpus-per-task=4" in script
    assert f"--tls-key {Path('tls/key.pem').resolve()}" in script
    assert "--protocol tls://" in script
    assert "tls://" in script


# --- other workers --------------------------------------------------------------------------------


@pytest.mark.long
@both
def test_workers_elsewhere_give_the_same_csv(shared, whole, capsys):
    with lab(shared) as place:
        assert experiment(["--output", "grid", "--quiet", *place.flags]) == 0
    assert but_seconds("grid") == whole
    assert capsys.readouterr().err == ""
    assert bool(list(Path("grid").glob("cells/*/starts.txt"))) == shared
    logs = list(Path("grid").glob("cells/*/log.txt"))
    assert len(logs) == 6


@pytest.mark.long
def test_another_set_of_certificates_gets_nowhere(capsys):
    with lab(True, workers=0) as place:
        write_certificates(Path("others"))
        place.tls = Path("others")
        assert experiment(["--output", "grid", "--quiet", *place.flags]) == 1
    error = capsys.readouterr().err
    assert place.address in error
    assert "go on with: " in error
    assert f"--scheduler {place.address} --tls-dir others" in error


@pytest.mark.long
@both
def test_ctrl_c_saves_and_goes_on_here(shared, whole, capsys):
    with lab(shared) as place:
        process = start("--output", "grid", *place.flags, steps=40, pause=0.1)
        assert wait_until(lambda: len(list(Path("grid").glob("cells/*/model.npz"))) == 2)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=120)
    assert process.returncode == 130
    assert f"--resume grid --scheduler {place.address} --tls-dir" in errors
    assert {row["state"] for row in rows("grid")} == {"stopped", "waiting"}
    assert all(int(file.read_text()) < 40 for file in Path("grid").glob("cells/*/model.npz"))
    assert experiment(["--resume", "grid", "--quiet"]) == 0
    assert but_seconds("grid") == whole


@pytest.mark.long
@pytest.mark.parametrize("how", ["killed", "stopped", "started again"])
def test_a_lost_scheduler_ends_the_grid_with_what_goes_on(how, whole, monkeypatch):
    """Within a bounded time, in one line; nothing is lost."""
    monkeypatch.setenv("PATIENCE", "10")
    with lab(shared=False) as place:
        process = start("--output", "grid", *place.flags, steps=10, pause=1)
        assert wait_until(lambda: len(list(Path("grid").glob("cells/*/model.npz"))) == 2)
        place.scheduler.send_signal(signal.SIGSTOP if how == "stopped" else signal.SIGKILL)
        if how == "started again":
            place.scheduler.wait()
            place.start_scheduler(place.address.rpartition(":")[2])
        _, errors = process.communicate(timeout=240)
        place.scheduler.send_signal(signal.SIGCONT)
    assert process.returncode == 1
    assert "Traceback" not in errors
    last = errors.splitlines()[-1]
    assert re.search("the scheduler (is gone|was started again)", last), errors
    assert re.search(f"go on with: .* --resume grid --scheduler {place.address}", last), errors
    assert len(list(Path("grid").glob("cells/*/model.npz"))) == 2
    assert experiment(["--resume", "grid", "--quiet"]) == 0
    assert but_seconds("grid") == whole


@pytest.mark.long
@both
def test_killed_at_any_moment_a_cluster_goes_on_to_the_same_figures(shared, whole, monkeypatch):
    """SIGKILL a worker, the client, the scheduler; PHOTONIC_FFZERO_CLUSTER_KILLS sets how often.

    A step, which saves, takes a second, as an epoch does; what comes of it travels faster.
    """
    journal = Path("journal").resolve()
    monkeypatch.setenv("JOURNAL", str(journal))
    rng, kills = random.Random(SEED), 0
    with lab(shared) as place:
        while True:
            flag = "--resume" if Path("grid/grid.json").exists() else "--output"
            process = start(flag, "grid", *place.flags, steps=8, pause=1)
            begun = journal.stat().st_size if journal.exists() else 0
            wait_until(
                lambda begun=begun, process=process: (
                    process.poll() is not None
                    or (journal.exists() and journal.stat().st_size > begun)
                )
            )
            while process.poll() is None:
                with suppress(subprocess.TimeoutExpired):
                    limit = 1200 if kills >= KILLS else rng.uniform(0.5, 4)
                    process.communicate(timeout=limit)
                    break
                assert kills < KILLS, "it hangs"
                kills += 1
                if (what := kills % 3) == 1:
                    place.kill_worker(rng)
                elif what == 2:
                    process.kill()
                else:
                    place.scheduler.kill()
                    process.communicate(timeout=600)
                    place.stop()
                    place.start()
            process.communicate()  # closes its pipes
            if process.returncode == 0:
                break
    assert but_seconds("grid") == whole
    steps = Counter(journal.read_text().split())
    repeated = Counter(key.split(":")[0] for key in (steps - Counter(steps.keys())).elements())
    print(f"{kills} kills, seed {SEED}; steps repeated: {dict(repeated)}")
    assert max(repeated.values(), default=0) <= kills


# --- the real thing -------------------------------------------------------------------------------


def pair(options: Options) -> Grid:
    settings = {"dataset": "digits", "size": 4, "epochs": 4, "batch_size": 40, "meshes": 1}
    points = [({"method": name}, settings | {"method": name}) for name in ("ff-ad", "bp-ad")]
    return grid_of(options, points, seeds=1, limit=200, x="method", title="pair")


@pytest.mark.long
@both
def test_real_runs_elsewhere_give_the_same_csv(shared):
    def run(*flags):
        return run_experiment("pair", "Two.", {"small": pair}, argv=[*flags, "--quiet"])

    assert run("--output", "here") == 0
    with lab(shared) as place:
        assert run("--output", "there", *place.flags) == 0
    assert but_seconds("there") == but_seconds("here")
    here, there = (sorted(f.name for f in Path(p).glob("cells/*/*")) for p in ("here", "there"))
    assert here == there
