"""One piece of work done by all cores at once, by threads that sleep in between."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from meshes.validation import integer

_chosen: int | None = None


def threads() -> int:
    """Number of threads that native kernels run on: the cores of this process unless set."""
    if _chosen is not None:
        return _chosen
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def set_threads(count: int | None) -> None:
    """Run native kernels on ``count`` threads, or on as many as there are cores if None.

    No result depends on it.
    """
    global _chosen
    _chosen = None if count is None else integer("count", count, minimum=1)


def run_on_threads(work: Callable[[], None], count: int) -> None:
    """Call ``work`` here and in up to ``count - 1`` other threads; return when all are done.

    ``work`` shares itself out. A helper that has not even started when the calling thread is
    done has nothing left to do and is called off.
    """
    helpers = [_helpers(count - 1).submit(work) for _ in range(count - 1)]
    try:
        work()
    finally:
        pending = [helper for helper in helpers if not helper.cancel()]
    for helper in pending:
        helper.result()


@functools.cache
def _helpers(count: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(count, thread_name_prefix="mesh")


if hasattr(os, "register_at_fork"):  # a forked process has no threads but its own
    os.register_at_fork(after_in_child=_helpers.cache_clear)
