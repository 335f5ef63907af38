"""The run directory: history, checkpoint and figures of a run."""

from __future__ import annotations

import os
import platform
import zlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from meshes.files import DataError, read_file, write_whole
from photonic_ffzero.config import Config
from photonic_ffzero.data.tasks import NO_LIGHT, Classification
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
from photonic_ffzero.runs.claim import holds_files
from photonic_ffzero.runs.history import write_history
from photonic_ffzero.runs.names import CHIP_ESTIMATE
from photonic_ffzero.snapshots import Snapshots
from photonic_ffzero.storage import read_json, read_run_identity, save_checkpoint
from photonic_ffzero.training.observer import Observer
from photonic_ffzero.training.trainer import Trainer

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_PACKAGES = ("photonic_ffzero", "neurophox", "tensorflow", "keras", "numpy", "scipy", "numba")


def check_new_directory(path: Path) -> None:
    """Check that a run directory can be made without touching existing files."""
    if path.is_dir() and holds_files(path):
        raise ValueError(f"output must be a new or empty directory, found files in {path}")
    if path.exists() and not path.is_dir():
        raise ValueError(f"output must be a directory, found a file: {path}")
    if obstacle := obstacle_to(path):
        raise ValueError(f"output must be a place that can be written, found {obstacle} read-only")


def obstacle_to(path: Path) -> Path | None:
    """What keeps a directory from being made there: a file, or a folder that is read-only."""
    nearest = next(folder for folder in (path, *path.parents) if folder.exists())
    return None if nearest.is_dir() and os.access(nearest, os.W_OK) else nearest


def frozen_phases_of(model: Path, named: Path | None = None) -> Path | None:
    """The file of the phases that do not move in a model: the named one, or that of its run.

    A model of no run may have none: None. One that a run trained with another is a `DataError`.
    """
    folder = model.parent.absolute()
    content = read_json(folder / "config.json")
    if content is None and folder.name.startswith("seed-"):  # one of several
        content = read_json(folder.parent / "config.json")
    of_run = (content or {}).get("frozen_phases")
    file = named or (Path(of_run) if of_run else None)
    try:
        wanted = read_run_identity(model).get("frozen_phases_crc32")
    except DataError:  # a model of no run
        return file
    if wanted is None:
        return file
    rule = f"frozen_phases must name the file that {model} was trained with, found"
    if file is None or not file.exists():
        raise DataError(f"{rule} {'none' if file is None else f'no {file}'}")
    if zlib.crc32(read_file(file)) != wanted:
        raise DataError(f"{rule} another content in {file}")
    return file


class RunDirectory(Observer):
    """The directory of a run, which fills as the run goes on.

    ``config.json`` is written at the start; ``history.csv`` and the checkpoint ``model.npz``
    after every epoch, so that an interrupted run can go on, and with a twin also
    ``chip_estimate.npz``, what is known of the chip, and ``embeddings.npz``, see `Snapshots`;
    ``results.json`` and the figures at the end.
    The checkpoint holds ``run``: what else the results depend on. As an observer of `fit` it keeps
    history and checkpoint of a training that may fail.
    """

    def __init__(self, path: str | Path, run: Mapping[str, Any] | None = None) -> None:
        self.path, self._run = Path(path), run
        self.path.mkdir(parents=True, exist_ok=True)

    @property
    def checkpoint(self) -> Path:
        """The model with the state of its training."""
        return self.path / "model.npz"

    @property
    def results(self) -> Path:
        """The file that marks a finished run."""
        return self.path / "results.json"

    @property
    def embeddings(self) -> Path:
        """The embeddings of some images after every epoch."""
        return self.path / "embeddings.npz"

    def snapshots(self, trainer: Trainer) -> Snapshots | None:
        """Where a run keeps its embeddings, with those from before a resume; None without any."""
        model, monitored = trainer.model, trainer.validation or trainer.train
        if not isinstance(model.task, Classification) or model.config.device:
            return None
        if self.checkpoint.exists():
            with suppress(DataError):  # missing or damaged pictures stop no training
                return Snapshots.load(self.embeddings, model.units)
        return Snapshots.of(model, monitored.x, monitored.y)

    def on_checkpoint(self, model: Model, position: Position) -> None:
        """Write the history as a table, and the checkpoint."""
        write_history(self.path, model.history, twin=bool(model.known))
        save_checkpoint(model, position, self.checkpoint, self._run)
        if model.snapshots is not None and not position.losses:
            kept: dict[str, Any] = model.snapshots.arrays()
            write_whole(self.embeddings, lambda file: np.savez(file, **kept))
        if (known := model.chip_estimate) is not None:
            arrays: dict[str, Any] = known.arrays()
            write_whole(self.path / CHIP_ESTIMATE, lambda file: np.savez(file, **arrays))

    def write_curves(
        self, histories: Sequence[Sequence[EpochRecord]], config: Config, title: str
    ) -> None:
        """Write ``training_curves.png`` of one run, or of several with different seeds."""

        def curves(loss: Axes, quality: Axes) -> None:
            plot_loss(loss, *histories, layer=config.layer_name)
            plot_quality(quality, *histories, layer=config.layer_name, task=config.task)

        if any(histories):
            save_figure(self.path / "training_curves.png", curves, panels=2, title=title)

    def write_figures(
        self, model: Model, labels: np.ndarray, predicted: np.ndarray, title: str
    ) -> None:
        """Write ``training_curves.png``, and ``confusion.png`` or ``predictions.png``."""
        self.write_curves([model.history], model.config, title)
        if isinstance(model.task, Classification):
            counts = np.zeros((model.task.classes, model.task.classes), int)
            seen = predicted != NO_LIGHT
            np.add.at(counts, (labels[seen], predicted[seen]), 1)
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


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that the results depend on."""
    return {"python": platform.python_version()} | {name: version(name) for name in _PACKAGES}
