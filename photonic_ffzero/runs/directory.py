"""The run directory: what a run leaves behind, and its figures."""

from __future__ import annotations

import csv
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, fields
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from photonic_ffzero.config import Config
from photonic_ffzero.data.readers import DataError
from photonic_ffzero.data.tasks import Classification
from photonic_ffzero.model import EpochRecord, Model, Position
from photonic_ffzero.plots import (
    plot_confusion,
    plot_loss,
    plot_power_budget,
    plot_predictions,
    plot_quality,
    save_figure,
)
from photonic_ffzero.power import PowerBudget
from photonic_ffzero.storage import save_checkpoint, write_csv
from photonic_ffzero.training.trainer import Observer

if TYPE_CHECKING:
    from matplotlib.axes import Axes


_PACKAGES = ("photonic_ffzero", "neurophox", "tensorflow", "keras", "numpy", "scipy", "numba")


def check_new_directory(path: Path) -> None:
    """Check that a run directory can be made without touching what is there.

    Raises:
        ValueError: the path is a file, or a folder that is not empty, or cannot be written.
    """
    if path.is_dir() and any(path.iterdir()):
        raise ValueError(f"output must be a new or empty directory, found files in {path}")
    if path.exists() and not path.is_dir():
        raise ValueError(f"output must be a directory, found a file: {path}")
    parent = next(folder for folder in (path, *path.parents) if folder.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise ValueError(f"output must be a place that can be written, found {parent} read-only")


class RunDirectory(Observer):
    """A directory that fills as the run goes on.

    ``config.json`` at the start; ``history.csv`` and ``model.npz``, the checkpoint, after every
    epoch, so that an interrupted run can go on; ``results.json`` and the figures at the end.

    Args:
        path: The directory; made with its parents.

    Raises:
        OSError: it cannot be made.
    """

    def __init__(self, path: Path) -> None:
        path.mkdir(parents=True, exist_ok=True)
        self.path = path

    @property
    def checkpoint(self) -> Path:
        """The file to resume from, and to load the model from."""
        return self.path / "model.npz"

    @property
    def results(self) -> Path:
        """The file that marks a finished run."""
        return self.path / "results.json"

    def on_checkpoint(self, model: Model, position: Position) -> None:
        """Keep the history as a table, and the model with the state of its training."""
        rows = [{k: _cell(v) for k, v in asdict(record).items()} for record in model.history]
        columns = [field.name for field in fields(EpochRecord)]
        write_csv(self.path / "history.csv", rows, columns)
        save_checkpoint(model, position, self.checkpoint)

    def read_history(self) -> list[EpochRecord]:
        """The history as the table has it, to six digits.

        Raises:
            DataError: the table is damaged.
            OSError: it cannot be read.
        """
        table = self.path / "history.csv"
        try:
            with table.open(newline="", encoding="utf-8") as file:
                return [_record(row) for row in csv.DictReader(file)]
        except (TypeError, ValueError, csv.Error) as error:
            raise DataError(f"{table}: is no table of a run's history ({error})") from None

    def write_curves(
        self, histories: Sequence[Sequence[EpochRecord]], config: Config, title: str
    ) -> None:
        """Write ``training_curves.png``, of one run or of several that differ in the seed."""

        def curves(loss: Axes, quality: Axes) -> None:
            plot_loss(loss, *histories, layer=config.layer_name)
            plot_quality(quality, *histories, layer=config.layer_name, task=config.task)

        if any(histories):  # a run of no epochs has none
            save_figure(self.path / "training_curves.png", curves, panels=2, title=title)

    def write_figures(
        self, model: Model, labels: np.ndarray, predicted: np.ndarray, title: str
    ) -> None:
        """Write ``training_curves.png``, and ``confusion.png`` or ``predictions.png``."""
        self.write_curves([model.history], model.config, title)
        if isinstance(model.task, Classification):
            counts = np.zeros((model.task.classes, model.task.classes), int)
            np.add.at(counts, (labels, predicted), 1)
            draw, name = partial(plot_confusion, confusion=counts), "confusion.png"
        else:
            draw = partial(plot_predictions, labels=labels, predicted=predicted)
            name = "predictions.png"
        save_figure(self.path / name, draw, title=title)

    def write_power_budget(
        self, budget: PowerBudget, unit_power: float, detector_floor: float | None
    ) -> None:
        """Write ``power_budget.png``, in watts."""
        floor = None if detector_floor is None else detector_floor * budget.ports
        draw = partial(
            plot_power_budget,
            powers=budget.powers * unit_power,
            stages=budget.stages,
            floor=floor,
            unit="W",
        )
        save_figure(self.path / "power_budget.png", draw, title="power of training images")


def _cell(value: Any) -> Any:
    return f"{value:.6g}" if isinstance(value, float) else value


def _record(row: dict[str, str]) -> EpochRecord:
    mesh, may_lack = row.pop("mesh", ""), ("validation_accuracy", "epsilon")
    values: dict[str, Any] = {
        name: None if name in may_lack and text == "" else float(text) for name, text in row.items()
    }
    return EpochRecord(mesh, **values)


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that figures depend on."""
    return {"python": platform.python_version()} | {name: version(name) for name in _PACKAGES}
