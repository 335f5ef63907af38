"""Where commands write: new directories that they claim."""

from __future__ import annotations

from pathlib import Path

from photonic_ffzero.runs.claim import Claim, claim_new, claim_unique
from photonic_ffzero.runs.directory import check_new_directory, obstacle_to
from photonic_ffzero.runs.names import RESULTS


def check_place(output: Path | None) -> None:
    """Check that a directory can be made: the one that was typed, or without it one in RESULTS."""
    if output is not None:
        check_new_directory(output)
    elif obstacle := obstacle_to(RESULTS):
        raise ValueError(
            f"{RESULTS}/ must be a folder that can be written, found {obstacle} read-only or a "
            "file; --output names another place"
        )


def claim_place(output: Path | None, name: str) -> Claim:
    """Make and claim the directory that was typed, or without it one of this name in RESULTS."""
    return claim_unique(RESULTS / name) if output is None else claim_new(output)
