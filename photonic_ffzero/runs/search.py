"""Searches: settings chosen by what networks reach on held-out images, with Optuna.

The test images are left alone. Trials come in batches of fixed size: those of a batch are asked
for one after another, before any of them runs, and told in the same order. Every draw has a seed
of its own. So the trials follow from the search's seed, however many run at a time and however
often it is stopped, also where it was first to have fewer trials. Once three trials of earlier
batches have gone to their end, a trial is given up after an epoch, from its second one on, where
the best accuracy on held-out images that it has had is below the median of theirs at that epoch;
what it reaches while it stops does not count.
"""

from __future__ import annotations

import csv
import io
import statistics
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meshes.files import DataError, read_text, reading
from meshes.validation import closest, counted, one_line, quoted
from photonic_ffzero.config import Config
from photonic_ffzero.runs.grid import Cell, Grid, GridDirectory
from photonic_ffzero.runs.history import HISTORY, read_history
from photonic_ffzero.runs.plan import HELD_OUT, Plan, plan_of
from photonic_ffzero.seeds import generator
from photonic_ffzero.settings import SWITCH, ValueKind, settings_of, synonyms_of
from photonic_ffzero.storage import read_json, write_json

_ERROR = "error"  # names the attribute that says why a trial failed
_BEGUN = "begun"  # the state of a trial that has not ended
_FIRST_EPOCHS = 1  # in which no trial is given up
_LEAST = 3  # trials that went to their end before any is given up
_RANDOM = 10  # trials that are drawn at random before the sampler learns from them


# --- what is searched -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Range:
    """Numbers from ``low`` to ``high``; equally likely in the logarithm if ``log``."""

    low: float
    high: float
    log: bool

    def suggest(self, trial: Any, name: str) -> Any:
        suggest = trial.suggest_int if isinstance(self.low, int) else trial.suggest_float
        return suggest(name, self.low, self.high, log=self.log)

    @property
    def values(self) -> tuple[Any, ...]:
        """Those that stand for all."""
        return self.low, self.high


@dataclass(frozen=True)
class Choice:
    """A few values."""

    values: tuple[Any, ...]

    def suggest(self, trial: Any, name: str) -> Any:
        return trial.suggest_categorical(name, self.values)


Space = dict[str, Range | Choice]
_SWITCH = ("True", "False")
FORM = "NAME=A|B|..., NAME=LOW..HIGH or NAME=log:LOW..HIGH"
_FIXED = ("seed", "seeds", "dataset", "validation", "test_on", "device", "start_from")


def read_space(texts: Sequence[str]) -> Space:
    """What to search from texts, one a setting, of the `FORM`.

    Raises:
        ValueError: a text is wrong; the message has the text, the rule and the nearest right one.
    """
    space: Space = {}
    for text in texts:
        name, equals, values = text.partition("=")
        name = name.strip().removeprefix("--").replace("-", "_")
        known = settings_of(Config) | settings_of(Plan)
        if not equals or not values.strip():
            raise ValueError(f"must be written {FORM}, got {quoted(text)}")
        if name not in known:
            hint = closest(name, known, synonyms_of(Config) | synonyms_of(Plan))
            raise ValueError(f"unknown setting {quoted(name)} in {quoted(text)}{hint}")
        if name in _FIXED:
            raise ValueError(f"{name} must be the same in all trials, got {quoted(text)}")
        if name in space:
            raise ValueError(f"{name} must be named once, got {quoted(text)}")
        space[name] = _values(name, values.strip(), known[name].kind)
    return space


def _values(name: str, text: str, kind: ValueKind) -> Range | Choice:
    scale, colon, ends = text.partition(":")
    log = colon == ":" and scale.strip() == "log"
    low, dots, high = (ends if log else text).partition("..")
    if log and not dots:
        raise ValueError(f"{name} must be log:LOW..HIGH, got {quoted(text)}")
    if not dots:
        values = tuple(_value(name, part.strip(), kind) for part in text.split("|"))
        if len(set(map(repr, values))) < 2:
            raise ValueError(f"{name} must have two values or more, got {quoted(text)}")
        return Choice(values)
    least, most = (_value(name, part.strip(), kind) for part in (low, high))
    if not all(isinstance(end, int | float) and not isinstance(end, bool) for end in (least, most)):
        raise ValueError(f"{name} has no range: it must be a number, got {quoted(text)}")
    if not least < most or (log and least <= 0):
        raise ValueError(
            f"{name} must be a range from a lower to a higher number"
            f"{', above 0,' if log else ''} got {quoted(text)}"
        )
    return Range(least, most, log)


def _value(name: str, text: str, kind: ValueKind) -> Any:
    """One value, as the setting's own flag would read it."""
    if kind.opens(text):
        raise ValueError(f"{name} must open no file and start no program, got {quoted(text)}")
    try:
        value: Any = text == "True" if kind is SWITCH and text in _SWITCH else kind.read(text)
    except ValueError as error:
        raise ValueError(f"{name} {error}") from None
    try:
        kind.check(name, value)
    except (TypeError, ValueError) as error:
        raise ValueError(str(error)) from None
    return value


# --- the search -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Search:
    """A search as its directory's search.json holds it.

    Attributes:
        space: What is searched, as the user wrote it.
        settings: The settings of all trials, by name.
        trials: How many trials there are.
        batch: How many are asked for at a time.
        seed: Seed of the sampler; that of the trainings is among the settings.
        prune: Whether trials that fall behind are given up.
    """

    space: tuple[str, ...]
    settings: Mapping[str, Any]
    trials: int
    batch: int
    seed: int
    prune: bool = True

    def plan(self, chosen: Mapping[str, Any]) -> Plan:
        """What a trial trains; a ValueError if its settings do not go together."""
        return plan_of({**self.settings, **chosen, "test_on": HELD_OUT})

    def first_plan(self) -> Plan:
        """The plan of the lowest or first values, after all of them were tried one by one.

        Values that do not go together make trials that fail; one that is wrong by itself is an
        error.
        """
        space = read_space(self.space)
        first = {name: values.values[0] for name, values in space.items()}
        for name, values in space.items():
            for value in values.values:
                try:
                    self.plan(first | {name: value})
                except (TypeError, ValueError) as error:
                    if str(error).startswith(name):
                        raise
        return self.plan(first)

    def write(self, folder: Path) -> None:
        write_json(folder / "search.json", {**vars(self), "space": [*self.space]})

    @classmethod
    def read(cls, folder: Path) -> Search:
        """Read a search from its directory; a `DataError` names what is wrong with its file."""
        file = folder / "search.json"
        content = read_json(file)
        if content is None:
            raise DataError(f"resume must name a search, found no search.json in {folder}")
        try:
            search = cls(**{**content, "space": tuple(map(str, content["space"]))})
            read_space(search.space)
            search.first_plan()
            for name in ("trials", "batch"):
                if not isinstance(getattr(search, name), int) or getattr(search, name) < 1:
                    raise ValueError(f"{name} must be a whole number from 1")
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(f"{file}: {one_line(str(error))}") from None
        return search


class Study:
    """The trials of a search, kept in the journal of its directory.

    Args:
        folder: The directory, which the process has claimed.
        search: The search.
    """

    def __init__(self, folder: Path, search: Search) -> None:
        import optuna
        from optuna.storages.journal import JournalFileBackend

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.folder, self.search, self._space = folder, search, read_space(search.space)
        backend = JournalFileBackend(str(folder / "journal.log"))
        self.study = optuna.create_study(
            study_name="search",
            storage=optuna.storages.JournalStorage(backend),
            direction="maximize",
            load_if_exists=True,
        )
        self._states = optuna.trial.TrialState

    # --- a batch ----------------------------------------------------------------------------------

    @property
    def trials(self) -> list[Any]:
        """All trials so far, by their numbers."""
        return self.study.get_trials(deepcopy=False)

    def ask(self) -> GridDirectory | None:
        """The trials of the next batch, or of one that was begun; None after the last one.

        Those whose settings do not go together fail at once. A batch is asked for as a whole, also
        where only its first trials are to run, so that the others do not know how these end.
        """
        while (batch := self._next_batch()) is not None:
            for number in batch:
                self._ask_one(number)
            wanted = [self.trials[number] for number in batch if number < self.search.trials]
            running = [trial for trial in wanted if not trial.state.is_finished()]
            if cells := [cell for trial in running for cell in self._cell(trial)]:
                return GridDirectory(self.folder, self._grid(tuple(cells)))
        return None

    def _next_batch(self) -> range | None:
        """The numbers of the trials of the first batch that is not done."""
        going = (trial.number for trial in self.trials if not trial.state.is_finished())
        first = next(going, len(self.trials))
        if first >= self.search.trials:
            return None
        start = first - first % self.search.batch
        return range(start, start + self.search.batch)

    @property
    def begun(self) -> int:
        """How many trials are begun or done; those asked for with them, to run later, are not."""
        return min(len(self.trials), self.search.trials)

    def _ask_one(self, number: int) -> None:
        """Ask for a trial, or for the rest of one whose process ended in between."""
        import optuna

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Optuna, about what it calls experimental
            self._seed(number, 0)
            if number == len(self.trials):
                trial = self.study.ask()
            elif self.trials[number].state.is_finished():
                return
            else:
                trial = optuna.trial.Trial(self.study, self.trials[number]._trial_id)
            for index, (name, values) in enumerate(self._space.items(), start=1):
                self._seed(number, index)
                values.suggest(trial, name)

    def _seed(self, number: int, index: int) -> None:
        """Let the next draw follow from the number of a trial and the index of a setting."""
        from optuna.samplers import TPESampler

        seed = int(generator(self.search.seed, "search", number, index).integers(2**31))
        startup = max(_RANDOM, self.search.batch)
        self.study.sampler = TPESampler(seed=seed, n_startup_trials=startup, constant_liar=True)

    def _cell(self, trial: Any) -> list[Cell]:
        """The cell of a trial; none, and the trial fails, if its settings do not go together."""
        try:
            return [Cell({"trial": trial.number}, self.search.plan(trial.params))]
        except (TypeError, ValueError) as error:
            self._fail(trial.number, str(error))
            return []

    def _grid(self, cells: tuple[Cell, ...]) -> Grid:
        quality: dict[str, Any] = {
            "value_label": self.quality,
            "unit": self.unit,
            "factor": self.factor,
        }
        value = "last_validation_accuracy"
        return Grid(cells=cells, x="trial", name="search", preset="search", value=value, **quality)

    @property
    def regression(self) -> bool:
        """Whether trials are judged by R^2."""
        return self.search.settings.get("task") == "regression"

    @property
    def quality(self) -> str:
        """What trials are judged by."""
        return "held-out R²" if self.regression else "held-out accuracy"

    @property
    def unit(self) -> str:
        """Its unit, after multiplication by `factor`."""
        return "" if self.regression else "%"

    @property
    def factor(self) -> int:
        return 1 if self.regression else 100

    # --- what became of them ----------------------------------------------------------------------

    def worth(self, cell: Cell) -> bool:
        """Whether a trial is worth going on with."""
        number = int(cell.labels["trial"])
        return self._given_up(number, self._qualities(cell)) is None

    def tell(self, directory: GridDirectory, stopped: bool) -> None:
        """Keep what became of the trials of a batch, in their order.

        Where the search was ``stopped``, those that are not done go on later.
        """
        for outcome in directory.outcomes():
            number = int(outcome.cell.labels["trial"])
            qualities = self._qualities(outcome.cell)
            end = self._given_up(number, qualities)
            if end is not None:
                self._end(number, qualities[: end + 1], self._states.PRUNED)
            elif outcome.state == "done" and not qualities:
                self._fail(number, "no epoch was trained")
            elif outcome.state == "done":
                self._end(number, qualities, self._states.COMPLETE)
            elif outcome.state == "failed":
                self._fail(number, outcome.message)
            elif not stopped:
                self._fail(number, "ended without results")

    def _given_up(self, number: int, qualities: Sequence[float]) -> int | None:
        """The epoch, from 0, at which a trial falls behind; None for one that does not."""
        earlier = self.trials[: number - number % self.search.batch]
        complete = [trial for trial in earlier if trial.state == self._states.COMPLETE]
        if not self.search.prune or len(complete) < _LEAST:
            return None
        for epoch in range(_FIRST_EPOCHS, len(qualities)):
            reached = (trial.intermediate_values.get(epoch) for trial in complete)
            others = [value for value in reached if value is not None]
            if others and max(qualities[: epoch + 1]) < statistics.median(others):
                return epoch
        return None

    def _qualities(self, cell: Cell) -> list[float]:
        """Accuracy on held-out images (R^2 of a regression) after each epoch so far."""
        folder = self.folder / "cells" / cell.slug
        if not (folder / HISTORY).exists():
            return []
        accuracies = (record.validation_accuracy for record in read_history(folder))
        return [accuracy for accuracy in accuracies if accuracy is not None]

    def _end(self, number: int, qualities: Sequence[float], state: Any) -> None:
        import optuna

        trial = optuna.trial.Trial(self.study, self.trials[number]._trial_id)
        for epoch, quality in enumerate(qualities):
            if epoch not in self.trials[number].intermediate_values:
                trial.report(quality, epoch)
        self.study.tell(number, qualities[-1] if state == self._states.COMPLETE else None, state)

    def _fail(self, number: int, reason: str) -> None:
        self.study.set_user_attr(f"{_ERROR} {number}", one_line(reason))
        self.study.tell(number, state=self._states.FAIL)

    # --- the end ----------------------------------------------------------------------------------

    def done(self) -> list[Any]:
        """The trials that went to their end, the best one first."""
        complete = [trial for trial in self.trials if trial.state == self._states.COMPLETE]
        return sorted(complete, key=lambda trial: (-trial.value, trial.number))

    def rows(self) -> Iterator[dict[str, Any]]:
        """A row for each trial: number, state, value, epochs and settings."""
        attributes = self.study.user_attrs
        names = {"COMPLETE": "done", "PRUNED": "given up", "FAIL": "failed", "RUNNING": _BEGUN}
        for trial in self.trials[: self.search.trials]:
            values = trial.intermediate_values
            yield {
                "trial": trial.number,
                "state": names.get(trial.state.name, trial.state.name.lower()),
                "held_out": trial.value if trial.value is not None else values.get(len(values) - 1),
                "epochs": len(values),
                **{name: trial.params.get(name) for name in self._space},
                "error": attributes.get(f"{_ERROR} {trial.number}"),
            }

    def best_settings(self) -> dict[str, Any]:
        """The settings of the best trial, for ``--config``."""
        return {**self.search.settings, **self.done()[0].params}

    def importances(self) -> dict[str, float]:
        """The share of the variance among the trials that each setting explains (fANOVA)."""
        import optuna

        if len({trial.value for trial in self.done()}) < 2:
            return {}
        evaluator = optuna.importance.FanovaImportanceEvaluator(seed=self.search.seed % 2**31)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return optuna.importance.get_param_importances(self.study, evaluator=evaluator)

    def state(self) -> str:
        """How far the search is, in words."""
        ended = [trial for trial in self.trials if trial.state.is_finished()]
        return f"{len(ended)} of {counted(self.search.trials, 'trial')}"


def ended_trials(folder: Path) -> int:
    """How many trials of a search have ended, as the trials.csv in its directory says."""
    file = folder / "trials.csv"
    if not file.exists():
        return 0
    text = read_text(file, "a table")
    with reading(file, "a table"):
        rows = [*csv.DictReader(io.StringIO(text, newline=""))]
    return sum(row.get("state") != _BEGUN for row in rows)
