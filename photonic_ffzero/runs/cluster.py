"""Where the cells of a grid run: the workers of a Dask cluster, and who may talk to them.

Whoever can talk to a scheduler can run code on its workers. Local workers live in the client's
process and listen nowhere; any others need TLS, with which each side shows a certificate.
"""

from __future__ import annotations

import ipaddress
import logging
import stat
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from shutil import which
from typing import Any
from urllib.parse import urlsplit

from meshes.files import DataError, read_text
from meshes.validation import choice, one_line
from photonic_ffzero.cores import available_cores
from photonic_ffzero.workers import LOOPBACK, NO_PAGES

KINDS = (
    *("HTCondorCluster", "LSFCluster", "MoabCluster", "OARCluster"),
    *("PBSCluster", "SGECluster", "SLURMCluster"),
)
"""The classes of dask-jobqueue that a cluster's file may name."""

TLS_FILES = ("ca.pem", "cert.pem", "key.pem")
"""In the folder of certificates: who signs, this side's certificate, and its private key."""

_CONNECT = 10.0  # seconds to wait for a scheduler
_CLOSE = 10.0  # seconds to take leave of one
_LONGEST_FILE = 2**16  # bytes of a cluster's settings
_FROM_FLAGS = ("security", "protocol")  # of a cluster's settings


class SchedulerLostError(OSError):
    """There is no connection to the scheduler."""


def check_platform() -> None:
    """Check that child processes can inherit locks and pipes here, as grids need."""
    if sys.platform == "win32":
        raise OSError(
            "grids must run on Linux or macOS, whose processes inherit locks and pipes, found "
            "Windows; mnist_photonic.py and mnist_digital.py run there one by one"
        )


@dataclass(frozen=True)
class Cluster:
    """Where the cells of a grid run; by default here.

    Attributes:
        jobs: How many cells run at a time; None for as many as there are cores or workers.
        scheduler: Address of a scheduler that runs: ``tls://host:port``, or ``tcp://`` on this
            machine.
        cluster: A YAML file with the settings of a cluster to start: ``kind``, one of `KINDS`, and
            the keyword arguments of that class.
        tls_dir: Folder with `TLS_FILES`, which both of these need.
        insecure: Whether to do without TLS.
    """

    jobs: int | None = None
    scheduler: str | None = None
    cluster: Path | None = None
    tls_dir: Path | None = None
    insecure: bool = False

    def __post_init__(self) -> None:
        if self.scheduler is not None and self.cluster is not None:
            raise ValueError("cluster does not apply with --scheduler, which has its own workers")
        for name in ("tls_dir", "insecure"):
            if getattr(self, name) and self.scheduler is None and self.cluster is None:
                raise ValueError(f"{name} belongs to --scheduler or --cluster, found neither")
        if self.tls_dir is not None and self.insecure:
            raise ValueError("insecure does not apply with --tls-dir")
        if self.scheduler is not None:
            self._check_address(self.scheduler)
        if self.cluster is not None:
            self._check_cluster()
        if self.tls_dir is not None:
            _check_certificates(self.tls_dir)

    def _check_address(self, address: str) -> None:
        try:
            parts = urlsplit(address)
            readable = bool(parts.scheme in ("tls", "tcp") and parts.hostname and parts.port)
        except ValueError:  # of its port
            readable = False
        if not readable or parts.path or parts.query:
            raise ValueError(f"scheduler must be written tls://host:port, got {address!r}")
        if parts.scheme == "tls" and self.tls_dir is None:
            raise ValueError(f"scheduler at {address} needs --tls-dir")
        if parts.scheme == "tcp" and self.tls_dir is not None:
            raise ValueError(f"scheduler must be at tls:// with --tls-dir, got {address}")
        if parts.scheme == "tcp" and not (self.insecure or _is_loopback(parts.hostname or "")):
            raise ValueError(
                f"scheduler must be at tls:// with --tls-dir, or on this machine, got {address}; "
                "with --insecure, whoever reaches it can run code on the workers"
            )

    def _check_cluster(self) -> None:
        if self.tls_dir is None and not self.insecure:
            raise ValueError(
                "cluster needs --tls-dir in a folder that its machines share; with --insecure, "
                "whoever reaches it can run code on them"
            )
        if self.jobs is None:
            raise ValueError("cluster needs --jobs, the number of workers to start")
        kind, _ = read_cluster(self.cluster)
        if find_spec("dask_jobqueue") is None:
            raise ValueError("cluster needs the package dask-jobqueue: pip install dask-jobqueue")
        import dask_jobqueue

        program = getattr(dask_jobqueue, kind).job_cls.submit_command.split()[0]
        if which(program) is None:
            raise ValueError(f"cluster of kind {kind} needs the program {program}, found none here")

    @contextmanager
    def client(self, cells: int) -> Iterator[Any]:
        """Start a cluster, or connect to one.

        Args:
            cells: How many cells there are to run.

        Raises:
            SchedulerLostError: no scheduler answers, or none can be started.
        """
        import dask
        from distributed import Client
        from distributed.utils import silence_logging_cmgr

        settings: dict[str, Any] = {"distributed.comm.timeouts.connect": _CONNECT}
        if not _has_dashboard():  # what else answers at its port is of no use
            settings |= NO_PAGES
        with ExitStack() as stack:
            stack.enter_context(silence_logging_cmgr(logging.CRITICAL))
            stack.enter_context(dask.config.set(settings))
            try:
                address = self.scheduler or stack.enter_context(self._started(cells))
                client = Client(address, security=self.security(), timeout=_CONNECT)
            except Exception as error:  # of a package, which takes the settings of a file
                where = self.scheduler or self.cluster or "local workers"
                raise SchedulerLostError(f"{where}: {error}") from None
            stack.callback(_close, client)
            yield client

    def _started(self, cells: int) -> AbstractContextManager[Any]:
        from distributed import LocalCluster

        if self.cluster is not None:
            return self._queued()
        workers = min(self.jobs or available_cores(), cells)
        return LocalCluster(
            n_workers=workers,
            threads_per_worker=max(1, available_cores() // workers),
            processes=False,  # they talk in memory; each has a child process for its cell
            memory_limit=0,  # as this process is small
            dashboard_address=LOOPBACK,
            worker_dashboard_address=LOOPBACK,
            silence_logs=False,
        )

    def _queued(self) -> Any:
        """A cluster whose workers are jobs of a batch system."""
        import dask_jobqueue

        kind, settings = read_cluster(self.cluster)
        options = {"dashboard_address": LOOPBACK} | settings.pop("scheduler_options", {})
        if self.tls_dir is not None:
            settings |= {"security": self.security(), "protocol": "tls://"}
        cluster = getattr(dask_jobqueue, kind)(scheduler_options=options, **settings)
        cluster.scale(self.jobs)
        return cluster

    def security(self) -> Any:
        """The certificates for Dask; None without TLS."""
        from distributed import Security

        if self.tls_dir is None:
            return None
        authority, certificate, key = (str((self.tls_dir / name).resolve()) for name in TLS_FILES)
        roles = ("client", "scheduler", "worker")
        pairs = {f"tls_{role}_cert": certificate for role in roles}
        pairs |= {f"tls_{role}_key": key for role in roles}
        return Security(tls_ca_file=authority, require_encryption=True, **pairs)


def read_cluster(file: Path | None) -> tuple[str, dict[str, Any]]:
    """The kind of a cluster, and the keyword arguments of its class, from a YAML file."""
    import yaml

    if file is None:
        raise ValueError("cluster must name a YAML file")
    try:
        content = yaml.safe_load(read_text(file, "a cluster's settings", _LONGEST_FILE))
    except (yaml.YAMLError, RecursionError) as error:
        raise DataError(f"{file}: must be YAML, found {one_line(str(error))}") from None
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        raise DataError(f"{file}: must hold settings by name, such as kind: SLURMCluster")
    kind = choice(f"{file}: kind", content.pop("kind", ""), KINDS)
    for name in _FROM_FLAGS:
        if name in content:
            raise DataError(f"{file}: {name} follows from --tls-dir; leave it out")
    return kind, content


def _close(client: Any) -> None:
    with suppress(TimeoutError):  # its scheduler does not answer; there is an error that says so
        client.close(timeout=_CLOSE)


def dashboard_of(client: Any) -> str:
    """Where a browser on this machine sees the cluster at work; empty if nowhere."""
    cluster = getattr(client, "cluster", None)
    if cluster is None or not _has_dashboard():
        return ""
    port = client.scheduler_info()["services"].get("dashboard")
    return f"http://127.0.0.1:{port}/status" if port else ""


def _has_dashboard() -> bool:
    return find_spec("bokeh") is not None


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _check_certificates(folder: Path) -> None:
    for name in TLS_FILES:
        status = (folder / name).stat()  # an OSError names the file
        if not stat.S_ISREG(status.st_mode):
            raise ValueError(f"tls_dir must hold the file {name}, found no file in {folder}")
    if status.st_mode & 0o077:  # of the last one, the key
        raise ValueError(
            f"tls_dir must hold a key that no other user can read, found mode "
            f"{status.st_mode & 0o777:o}; use chmod 600 {folder / TLS_FILES[-1]}"
        )
