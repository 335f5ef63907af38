"""What the JSON files of runs and grids hold: the kind of each value, checked in one place."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from meshes.files import DataError
from meshes.validation import quoted
from photonic_ffzero.storage import read_json


class Kind(NamedTuple):
    """The values that a key may have: in words, and as a test."""

    rule: str
    holds: Callable[[Any], bool]

    @property
    def or_null(self) -> Kind:
        return Kind(f"{self.rule} or null", lambda value: value is None or self.holds(value))


def _is_number(value: Any) -> bool:
    # A whole number may be too large for a float.
    real = isinstance(value, int | float) and not isinstance(value, bool)
    return real and (-1e300 < value < 1e300 and math.isfinite(value))


def list_of(kind: Kind) -> Kind:
    return Kind(
        f"a list, each {kind.rule}",
        lambda value: isinstance(value, list) and all(map(kind.holds, value)),
    )


TEXT = Kind("a text", lambda value: isinstance(value, str))
SWITCH = Kind("true or false", lambda value: isinstance(value, bool))
NUMBER = Kind("a finite number", _is_number)
COUNT = Kind("a whole number from 0", lambda v: _is_number(v) and isinstance(v, int) and v >= 0)
OBJECT = Kind("an object", lambda value: isinstance(value, dict))
TEXTS = Kind(
    "an object of texts", lambda v: isinstance(v, dict) and all(map(TEXT.holds, v.values()))
)
TASK = Kind("classification or regression", lambda v: v in ("classification", "regression"))

Schema = Mapping[str, Kind]

RESULTS: Schema = {
    **dict.fromkeys(("dataset", "method", "recipe", "network", "estimator"), TEXT),
    **dict.fromkeys(("rule", "perturb", "device", "encoding", "engine"), TEXT.or_null),
    **dict.fromkeys(("seed", "forward_passes", "phase_writes"), COUNT),
    **dict.fromkeys(("test_accuracy", "test_r2", "chip_seconds", "chip_joules"), NUMBER.or_null),
    **dict.fromkeys(("vote_accuracy", "goodness_sum_accuracy"), NUMBER.or_null),
    **dict.fromkeys(("layer_test_accuracy", "layer_test_r2"), list_of(NUMBER).or_null),
    "last_validation_accuracy": NUMBER.or_null,
    "tested_on": TEXT,
    "train_seconds": NUMBER,
    "task": TASK,
    "versions": TEXTS,
    "power": OBJECT.or_null,
    "warnings": list_of(TEXT),
}
"""Of results.json; other keys are not used."""

PLAN: Schema = {
    **dict.fromkeys(("dataset", "recipe", "method", "network", "estimator", "encoding"), TEXT),
}
"""Of config.json, what every run has."""

_PANELS = Kind(  # a single one, or null, before there could be several
    "a list of texts", lambda v: v is None or TEXT.holds(v) or list_of(TEXT).holds(v)
)
GRID: Schema = {
    **dict.fromkeys(("x", "name", "preset", "value", "value_label", "unit", "x_label"), TEXT),
    **dict.fromkeys(("title", "description", "command"), TEXT),
    "panels": _PANELS,
    "curves": list_of(TEXT),
    "factor": NUMBER,
    "log_x": SWITCH,
    "cells": list_of(OBJECT),
}
CELL: Schema = {"labels": OBJECT, "plan": OBJECT, "after": TEXT}
FAILURE: Schema = {"message": TEXT}
DEATHS: Schema = {"count": COUNT}

_RESULT_LINE = ("dataset", "method", "seed", "task", "rule", "train_seconds", "chip_seconds")


def check(where: Path | str, content: dict[str, Any], schema: Schema) -> dict[str, Any]:
    """Return the content of a file if every known key has a value of its kind, else raise."""
    for name, kind in schema.items():
        if name in content and not kind.holds(content[name]):
            found = quoted(content[name])
            raise DataError(f"{where}: {name} must be {kind.rule}, found {found}")
    return content


def read_record(path: Path, schema: Schema) -> dict[str, Any] | None:
    """Read a JSON file of ours; None if there is none."""
    content = read_json(path)
    return None if content is None else check(path, content, schema)


def read_results(path: Path) -> dict[str, Any] | None:
    """Read the results of a run, with all that its line shows; None if it is not finished."""
    content = read_record(path, RESULTS)
    if content is None:
        return None
    for name in _RESULT_LINE:
        if name not in content:
            raise DataError(f"{path}: must name {name}, which is missing")
    figure = "test_accuracy" if content["task"] == "classification" else "test_r2"
    for name in (figure, f"layer_{figure}"):
        if content.get(name) is None:
            raise DataError(f"{path}: {name} must be set for a {content['task']}")
    return {"chip_joules": None} | content
