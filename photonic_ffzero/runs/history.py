"""The table of a run's history, ``history.csv``: a row an epoch, numbers with six digits."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np

from meshes.files import DataError, read_text
from photonic_ffzero.model import EpochRecord
from photonic_ffzero.storage import write_csv

HISTORY = "history.csv"
_COLUMNS = [field.name for field in fields(EpochRecord)]


def write_history(folder: Path, history: Iterable[EpochRecord], twin: bool) -> None:
    """Write the table into a run directory; only runs with a ``twin`` have its columns."""
    columns = [name for name in _COLUMNS if twin or not name.startswith("twin_")]
    rows = [asdict(record) for record in history]
    write_csv(folder / HISTORY, [{n: _short(row[n]) for n in columns} for row in rows], columns)


def read_history(folder: Path) -> list[EpochRecord]:
    """Read the table in a run directory; a `DataError` if it is missing or damaged."""
    table = folder / HISTORY
    text = read_text(table, "a table")
    try:
        return [_parsed(row) for row in csv.DictReader(io.StringIO(text, newline=""))]
    except (TypeError, ValueError, csv.Error) as error:
        raise DataError(f"{table}: is no table of a run's history ({error})") from None


def learning_curve(history: Sequence[EpochRecord], factor: float) -> np.ndarray:
    """Forward passes, and ``factor`` times the accuracy on held-out images [2, epochs].

    The epochs are those of all meshes or layers, one after another; accuracies are NaN where no
    images are held out.
    """
    points = [(record.forward_passes, record.validation_accuracy) for record in history]
    return np.array(points, float).reshape(-1, 2).T * [[1], [factor]]


def _short(value: Any) -> Any:
    return f"{value:.6g}" if isinstance(value, float) else value


def _parsed(row: dict[str, str]) -> EpochRecord:
    mesh, optional = row.pop("mesh", ""), EpochRecord.optional()
    numbers: dict[str, Any] = {
        name: None if name in optional and text == "" else float(text) for name, text in row.items()
    }
    return EpochRecord(mesh, **numbers)
