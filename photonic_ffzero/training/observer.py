"""Who is told of a training as it goes on."""

from __future__ import annotations

from typing import Any

from meshes.validation import quoted
from photonic_ffzero.model import EpochRecord, Model, Position


class StoppedError(Exception):
    """An observer stops the run; the trainer lets the observers save a checkpoint first."""


class Observer:
    """Is told of a training run as it goes on; override what you need."""

    def on_steps(self, mesh: str, losses: list[float]) -> None:
        """Receive the losses of some steps, and the name of the mesh or meshes in training.

        Raise `StoppedError` to stop the run here, with a checkpoint.
        """

    def on_calibration(self, mesh: str, done: int, total: int) -> None:
        """Receive how many settings of a calibration are done, and the name of the mesh.

        Raise `StoppedError` to stop the run here; the calibration then begins anew.
        """

    def on_epoch(self, record: EpochRecord) -> None:
        """Receive the record of every epoch at its end."""

    def on_checkpoint(self, model: Model, position: Position) -> None:
        """Save what is needed to go on: called after every epoch, now and then, and at a stop."""


def check_observers(observers: Any) -> tuple[Observer, ...]:
    """Return a list or tuple of observers as a tuple."""
    listed = isinstance(observers, (list, tuple))
    if not (listed and all(isinstance(observer, Observer) for observer in observers)):
        raise TypeError(f"observers must be a list of Observers, got {quoted(observers)}")
    return tuple(observers)
