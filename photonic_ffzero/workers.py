"""What runs that share workers and grids ask of Dask alike."""

from __future__ import annotations

from typing import Any

LOOPBACK = "127.0.0.1:0"  # any free port that other machines do not reach
NO_PAGES: dict[str, Any] = {
    f"distributed.{role}.http.routes": [] for role in ("scheduler", "worker")
}
"""Settings without which whoever reaches a scheduler or worker could read its pages."""


def workers_of(client: Any, patience: float) -> set[str]:
    """The addresses of a cluster's workers, asked of its scheduler.

    TimeoutError if it does not answer within ``patience`` seconds.
    """
    identity = client.scheduler.identity  # `scheduler_info` may be one without workers
    return set(client.sync(identity, n_workers=-1, callback_timeout=patience)["workers"])
