"""Runs by name: where a command finds the run that it is asked for."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path

from meshes.validation import closest
from photonic_ffzero.settings import TEXT, ValueKind

RESULTS = Path("results")
"""The folder, in the working directory, of results that are given no other place."""

CHIP_ESTIMATE = "chip_estimate.npz"
"""What is known of a chip: the file of a calibration, and of a run with a twin."""

_FILES = ("config.json", "grid.json", "search.json", "model.npz")  # one of these makes a run
_WRITTEN = ("results.json", "model.npz", "summary.json", "results.csv", "trials.csv")
_LISTED = 3  # newest runs to name where one is not found


LAST = "last"
"""What stands for the newest run in RESULTS."""


def _is_run(path: Path) -> bool:
    return path.is_file() or any((path / name).exists() for name in _FILES)


def is_model(path: Path) -> bool:
    """Whether a path is a network: a file, or the directory of one run."""
    return path.is_file() or (path / "model.npz").exists()


def is_trained(path: Path) -> bool:
    """Whether a path is a network, or a run of several seeds that holds some."""
    return is_model(path) or any(path.glob("seed-*/model.npz"))


def is_plan(path: Path) -> bool:
    """Whether a path is a run, maybe of several seeds, and neither a search nor a grid."""
    return (path / "config.json").is_file() and not (path / "search.json").exists()


def is_grid(path: Path) -> bool:
    """Whether a path is the directory of a grid."""
    return (path / "grid.json").is_file()


def has_settings(path: Path) -> bool:
    """Whether a path is a file, or a run or a search with settings to use."""
    return path.is_file() or (path / "config.json").is_file()


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


def runs_in(folder: Path) -> dict[Path, list[Path]]:
    """For each folder in a folder: itself if it is a run, a grid or a search, else those in it."""

    def folders(place: Path) -> list[Path]:
        return sorted(path for path in place.glob("*") if path.is_dir())

    return {
        path: [path] if _is_run(path) else [*filter(_is_run, folders(path))]
        for path in folders(folder)
    }


def newest_first() -> list[Path]:
    """What is in RESULTS; the one that was written to last comes first, no runs come last."""
    found = (inside or [path] for path, inside in runs_in(RESULTS).items())
    return sorted(chain.from_iterable(found), key=written)[::-1]


def suggest_run(text: str) -> str:
    """The run that was probably meant, or the newest ones; empty if there is none."""
    newest = [str(path.relative_to(RESULTS)) for path in newest_first()]
    listed = f"; newest in {RESULTS}/: {', '.join(newest[:_LISTED])}" if newest else ""
    return closest(Path(text).name, newest) or listed


def written(path: Path) -> float:
    """When a run, a grid or a search got its last results, or began, in seconds since 1970.

    The time of the directory itself tells nothing: every process that works in it changes that.
    """
    places = (path, *path.glob("seed-*"), *path.glob("cells/*"))
    times = [_time(place / name) for place in places for name in _WRITTEN]
    return max(times) or max(_time(path / name) for name in _FILES)


def _time(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:  # there is none, or it was deleted meanwhile
        return 0.0


RUN = ValueKind(
    TEXT.check,
    f"a run's directory or model, its name in {RESULTS}/, or {LAST} for the newest there",
    find_run,
    metavar="RUN",
    suggest=suggest_run,
)


def _find_settings(text: str) -> Path:
    path = find_run(text, has_settings)
    return path / "config.json" if path.is_dir() else path


SETTINGS = replace(
    RUN,
    rule=f"a JSON file, such as a run's config.json, or a run's directory or name in {RESULTS}/",
    parse=_find_settings,
)
"""A file of settings, or a run whose settings they are."""
