"""What a folder of results holds: runs and grids, by what differs in them and how they ended."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from meshes.files import DataError
from meshes.validation import counted, one_line
from photonic_ffzero.config import Config
from photonic_ffzero.model import EpochRecord
from photonic_ffzero.runs.claim import at_work
from photonic_ffzero.runs.grid import GridDirectory
from photonic_ffzero.runs.history import HISTORY, read_history
from photonic_ffzero.runs.names import CHIP_ESTIMATE, RESULTS, runs_in, written
from photonic_ffzero.runs.plan import HELD_OUT, TEST, Plan, changes_of, in_words
from photonic_ffzero.runs.records import PLAN, check, read_results
from photonic_ffzero.runs.search import Search, ended_trials
from photonic_ffzero.settings import settings_of
from photonic_ffzero.storage import read_json

DONE, RUNNING = "done", "running"


@dataclass(frozen=True)
class Run:
    """A run, or one of several seeds.

    Attributes:
        path: Its directory.
        settings: The content of its config.json.
        changes: What differs from the recipe, by name.
        results: The results.json of every seed that is done.
        seconds: When it was last written to, in seconds since 1970.
        running: Whether a process is at work in it.
    """

    path: Path
    settings: dict[str, Any]
    changes: dict[str, Any]
    results: Sequence[dict[str, Any]]
    seconds: float
    running: bool = False

    @property
    def seeds(self) -> int:
        return int(self.settings.get("seeds") or 1)

    @property
    def folders(self) -> list[Path]:
        """The directory of every seed."""
        if self.seeds == 1:
            return [self.path]
        first = int(self.settings.get("seed") or 0)
        return [self.path / f"seed-{seed}" for seed in range(first, first + self.seeds)]

    @property
    def state(self) -> str:
        """``done``, or how far it is."""
        if len(self.results) == self.seeds:
            return DONE
        if self.seeds == 1:
            return RUNNING if self.running else "stopped"
        return _so_far(self.running, f"{len(self.results)} of {self.seeds} seeds")

    @property
    def tested_on(self) -> str:
        """What the figures of its results were measured on: ``test`` or ``held-out`` images."""
        told = self.results[0].get("tested_on") if self.results else self.settings.get("test_on")
        return HELD_OUT if told == HELD_OUT else TEST

    @property
    def regression(self) -> bool:
        return self.settings.get("task") == "regression"

    def values(self, figure: str) -> list[float]:
        """A figure of results.json, seed by seed; those that have none are left out."""
        return [x for result in self.results if (x := result.get(figure)) is not None]

    @property
    def quality(self) -> str:
        """The test accuracy in per cent or R^2, over several seeds with its deviation."""
        factor, unit = (1, "") if self.regression else (100, " %")
        values = [
            factor * x for x in self.values("test_r2" if self.regression else "test_accuracy")
        ]
        if not values:
            return ""
        mean = f"{statistics.fmean(values):.{2 if unit else 4}f}"
        spread = f" ± {statistics.stdev(values):.{2 if unit else 4}f}" if len(values) > 1 else ""
        held_out = " held out" * (self.tested_on == HELD_OUT)
        return f"{mean}{spread}{unit}{held_out}"

    @property
    def ending(self) -> str:
        """How it ended: its quality, and its state unless it is done."""
        return ", ".join(filter(None, [self.quality, "" if self.state == DONE else self.state]))

    @property
    def passes(self) -> float | None:
        """Samples sent through one mesh or layer, the mean of the seeds."""
        counts = self.values("forward_passes")
        return statistics.fmean(counts) if counts else None

    @property
    def about(self) -> str:
        """Data, method and what differs from the recipe, in words."""
        start = [str(self.settings[name]) for name in ("network", "method")]
        recipe = [f"recipe {self.settings['recipe']}"] * (self.settings["recipe"] not in _USUAL)
        data = Path(str(self.settings["dataset"])).stem
        different = {n: v for n, v in self.changes.items() if n not in ("network", "test_on")}
        return one_line(", ".join([data, *start, *recipe, *filter(None, [in_words(different)])]))

    def histories(self) -> list[list[EpochRecord]]:
        """The history of every seed that has one."""
        return [read_history(folder) for folder in self.folders if (folder / HISTORY).exists()]


_USUAL = ("balanced", "digital")  # recipes that are not worth a word


@dataclass(frozen=True)
class GridRuns:
    """A grid, with how many of its runs are done."""

    path: Path
    about: str
    state: str
    seconds: float
    quality: str = ""
    passes: float | None = None


def _so_far(running: bool, words: str) -> str:
    return f"{RUNNING}, {words}" if running else words


@dataclass
class Catalog:
    """What a folder holds.

    Attributes:
        entries: Runs and grids; the newest is last.
        broken: Runs and grids that cannot be read, each with why.
        calibrations: Names of folders that hold what a calibration learned of a chip.
        foreign: Names of other folders.
    """

    entries: list[Run | GridRuns] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    calibrations: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)


def read_run(path: Path) -> Run:
    """Read a run from its directory; a `DataError` says what is wrong with it."""
    file = path / "config.json"
    content = read_json(file)
    if content is None:
        what = " but a grid, whose table is table.txt" if (path / "grid.json").exists() else ""
        raise DataError(f"{path}: is no run{what}, found no config.json")
    check(file, content, PLAN)
    for name in PLAN:
        if name not in content:
            raise DataError(f"{file}: must name {name}, which is missing")
    try:
        for name in ("recipe", "seed", "seeds"):
            (settings_of(Config) | settings_of(Plan))[name].kind.check(name, content.get(name, 1))
        run = Run(path, content, changes_of(content), [], written(path), at_work(path))
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{file}: is no run of this version ({one_line(str(error))})") from None
    read = (read_results(folder / "results.json") for folder in run.folders)
    return replace(run, results=[*filter(None, read)])


def read_grid(path: Path) -> GridRuns:
    """Read a grid from its directory."""
    directory = GridDirectory.open(path)
    grid, done = directory.grid, len(directory.done)
    about = one_line(f"grid {grid.name}, preset {grid.preset}: {grid.heading}")
    total = len(grid.cells)
    state = f"{counted(total, 'run')} done" if done == total else f"{done} of {total} runs done"
    return GridRuns(path, about, _so_far(at_work(path), state), written(path))


def read_search(path: Path) -> GridRuns:
    """Read a search from its directory."""
    search = Search.read(path)
    about = one_line(f"search of {', '.join(search.space)}")
    ended = min(ended_trials(path), search.trials)
    total = counted(search.trials, "trial")
    state = total if ended == search.trials else f"{ended} of {total}"
    return GridRuns(path, about, _so_far(at_work(path), state), written(path))


def read_catalog(folder: Path = RESULTS) -> Catalog:
    """Read all runs and grids of a folder, and of the folders in it that are neither."""
    catalog = Catalog()
    for path, inside in runs_in(folder).items():
        runs = [*filter(_reader, inside)]
        if not runs:
            calibration = (path / CHIP_ESTIMATE).exists()
            (catalog.calibrations if calibration else catalog.foreign).append(path.name)
        for run in runs:
            try:
                catalog.entries.append(_reader(run)(run))
            except (OSError, ValueError, TypeError, KeyError) as error:
                catalog.broken.append(one_line(str(error)))
    catalog.entries.sort(key=lambda entry: entry.seconds)
    return catalog


def _reader(path: Path) -> Any:
    """What reads a directory; None for one that is neither a run nor a grid."""
    readers = {"search.json": read_search, "config.json": read_run, "grid.json": read_grid}
    with suppress(OSError):
        return next((reader for name, reader in readers.items() if (path / name).exists()), None)
    return None


def differing(runs: Sequence[Run]) -> Iterator[tuple[str, list[Any]]]:
    """The settings in which runs differ, each with its values."""
    for name in dict.fromkeys(name for run in runs for name in run.settings):
        values = [run.settings.get(name) for run in runs]
        if any(value != values[0] for value in values) and not name.endswith("_crc32"):
            yield name, values
