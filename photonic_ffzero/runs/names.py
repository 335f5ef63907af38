"""Runs by name: where a command finds the run that it is asked for."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from meshes.validation import closest
from photonic_ffzero.settings import TEXT, ValueKind

RESULTS = Path("results")
"""The folder, in the working directory, of results that are given no other place."""

_FILES = ("config.json", "grid.json", "model.npz")  # a run or a grid has one of them
_LISTED = 3  # newest runs to name where one is not found


LAST = "last"
"""What stands for the newest run in RESULTS."""


def _is_run(path: Path) -> bool:
    return path.is_file() or any((path / name).exists() for name in _FILES)


def find_run(text: str, is_meant: Callable[[Path], bool] = _is_run) -> Path:
    """The path of a run, a grid or a model, here or in RESULTS.

    Args:
        text: Its path or name, or `LAST`.
        is_meant: Whether a path is such a thing; others are taken where they alone have the name.

    Raises:
        ValueError: there is none.
    """
    path = Path(os.path.expanduser(text))
    places = [place for place in (path, RESULTS / path) if text and place.exists()]
    if text == LAST and not any(map(_is_run, places)):
        places = [*filter(is_meant, newest_first())][:1]
    if not places:
        raise ValueError
    return next((place for place in places if is_meant(place)), places[0])


def run_with(is_meant: Callable[[Path], bool]) -> ValueKind:
    """A kind as `RUN`, whose `LAST` is the newest for which ``is_meant`` holds."""
    return replace(RUN, parse=partial(find_run, is_meant=is_meant))


def newest_first() -> list[Path]:
    """The folders in RESULTS; the one that was written to last comes first."""
    folders = [path for path in RESULTS.glob("*") if path.is_dir()]
    return sorted(folders, key=_age, reverse=True)


def suggest_run(text: str) -> str:
    """The run that was probably meant, or the newest ones; empty if there is none."""
    newest = [path.name for path in newest_first()]
    listed = f"; newest in {RESULTS}/: {', '.join(newest[:_LISTED])}" if newest else ""
    return closest(Path(text).name, newest) or listed


def _age(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:  # deleted meanwhile
        return 0.0


RUN = ValueKind(
    TEXT.check,
    f"a run's directory or model, its name in {RESULTS}/, or {LAST} for the newest there",
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
