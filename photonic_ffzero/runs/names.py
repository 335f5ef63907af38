"""Runs by name: where a command finds the run that it is asked for."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from meshes.validation import closest
from photonic_ffzero.settings import TEXT, ValueKind

RESULTS = Path("results")
"""The folder, in the working directory, of results that are given no other place."""

_FILES = ("config.json", "grid.json", "model.npz")  # a run or a grid has one of them
_LISTED = 3  # newest runs to name where one is not found


def find_run(text: str) -> Path:
    """The path of a run, a grid or a model, here or in RESULTS.

    Raises:
        ValueError: there is none.
    """
    path = Path(os.path.expanduser(text))
    places = [place for place in (path, RESULTS / path) if text and place.exists()]
    if not places:
        raise ValueError
    return next((place for place in places if _is_run(place)), places[0])


def _is_run(path: Path) -> bool:
    return path.is_file() or any((path / name).exists() for name in _FILES)


def suggest_run(text: str) -> str:
    """The run that was probably meant, or the newest ones; empty if there is none."""
    folders = [path for path in RESULTS.glob("*") if path.is_dir()]
    newest = [path.name for path in sorted(folders, key=_age, reverse=True)]
    listed = f"; newest in {RESULTS}/: {', '.join(newest[:_LISTED])}" if newest else ""
    return closest(Path(text).name, newest) or listed


def _age(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:  # deleted meanwhile
        return 0.0


RUN = ValueKind(
    TEXT.check,
    f"a run's directory or model, or its name in {RESULTS}/",
    find_run,
    metavar="RUN",
    suggest=suggest_run,
)


def _find_settings(text: str) -> Path:
    path = find_run(text)
    return path / "config.json" if path.is_dir() else path


SETTINGS = replace(
    RUN,
    rule=f"a JSON file, such as a run's config.json, or a run's directory or name in {RESULTS}/",
    parse=_find_settings,
)
"""A file of settings, or a run whose settings they are."""
