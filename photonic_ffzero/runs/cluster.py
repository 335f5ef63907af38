"""Where the cells of a grid run: the workers of a Dask cluster, and how one talks to them."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

_LOOPBACK = "127.0.0.1:0"  # any free port
_CONNECT = 10.0  # seconds to wait for a scheduler


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


@dataclass(frozen=True)
class Cluster:
    """Where the cells of a grid run.

    Attributes:
        jobs: How many cells run at a time.
    """

    jobs: int

    @contextmanager
    def client(self, cells: int) -> Iterator[Any]:
        """Start a cluster, or connect to one.

        Args:
            cells: How many cells there are to run.
        """
        import dask
        from distributed.utils import silence_logging_cmgr

        settings: dict[str, Any] = {"distributed.comm.timeouts.connect": _CONNECT}
        if not _has_dashboard():  # what else answers at its port is of no use
            settings |= {f"distributed.{role}.http.routes": [] for role in ("scheduler", "worker")}
        with (
            silence_logging_cmgr(logging.CRITICAL),
            dask.config.set(settings),
            self._local(min(self.jobs, cells)) as client,
        ):
            yield client

    @contextmanager
    def _local(self, workers: int) -> Iterator[Any]:
        """Workers in this process, which share its cores; they talk in memory.

        Each runs its cell in a child process, so that nothing but the cell ends with that.
        """
        from distributed import Client, LocalCluster

        with (
            LocalCluster(
                n_workers=workers,
                threads_per_worker=max(1, available_cores() // workers),
                processes=False,
                memory_limit=0,  # the children's is not seen
                dashboard_address=_LOOPBACK,
                worker_dashboard_address=_LOOPBACK,
                silence_logs=False,
            ) as cluster,
            Client(cluster) as client,
        ):
            yield client


def _has_dashboard() -> bool:
    return find_spec("bokeh") is not None
