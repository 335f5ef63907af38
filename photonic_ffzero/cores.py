"""How many cores this process may use, and how many threads its child processes start."""

from __future__ import annotations

import os

THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "TF_NUM_INTRAOP_THREADS",
    "TF_NUM_INTEROP_THREADS",
    "NUMBA_NUM_THREADS",
)
"""Environment variables that limit the threads of a run."""


def available_cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def thread_limits(threads: int) -> dict[str, str]:
    """The thread variables of a child; a lower limit that the environment sets stays."""
    limits = {}
    for name in THREAD_VARIABLES:
        limit = os.environ.get(name, "")
        limits[name] = str(min(threads, int(limit) or threads) if limit.isdigit() else threads)
    return limits
