"""Threads that share the work of one kernel call and sleep between calls."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor


def threads() -> int:
    """The number of threads that native kernels run on: the cores of this process."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_on_threads(work: Callable[[], None], count: int) -> None:
    """Call ``work``, which takes tasks until none is left, on ``count`` threads with this one."""
    helpers = [_helpers(count - 1).submit(work) for _ in range(count - 1)]
    try:
        work()
    finally:  # no task is left for helpers that have not started
        pending = [helper for helper in helpers if not helper.cancel()]
    for helper in pending:
        helper.result()


@functools.cache
def _helpers(count: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(count, thread_name_prefix="mesh")


if hasattr(os, "register_at_fork"):  # a forked process starts without the threads
    os.register_at_fork(after_in_child=_helpers.cache_clear)
