"""A training's figures for TensorBoard."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from meshes._tensorflow import tf
from meshes.validation import one_line
from photonic_ffzero.model import EpochRecord
from photonic_ffzero.training.observer import Observer


class TensorBoard(Observer):
    """Writes the numbers of every epoch into a folder, which TensorBoard shows.

    Their names are ``mesh 1/loss``, ``mesh 1/validation_accuracy``, ...: those of `EpochRecord`,
    over the epoch of the mesh. A run that is resumed goes on in the same folder.

    Args:
        folder: Where to write; it is made at the first epoch.
        label: What is trained, ``mesh`` or ``layer``.
    """

    def __init__(self, folder: str | Path, label: str = "mesh") -> None:
        self._folder, self._label = str(folder), label
        self._writer: Any = None

    def on_epoch(self, record: EpochRecord) -> None:
        """Write the numbers of an epoch; an `OSError` names the folder."""
        try:
            self._add(record)
        except tf.errors.OpError as error:  # which is no OSError
            raise OSError(f"{self._folder}: {one_line(error.message)}") from None

    def _add(self, record: EpochRecord) -> None:
        if self._writer is None:
            self._writer = tf.summary.create_file_writer(self._folder)
        numbers = asdict(record)
        place = f"{self._label} {numbers.pop('mesh')}"
        epoch = numbers.pop("epoch")
        with self._writer.as_default(step=epoch):
            for name, value in numbers.items():
                if value is not None:
                    _write(f"{place}/{name}", value)
        self._writer.flush()


def _write(name: str, value: float) -> None:
    """What ``tf.summary.scalar`` does, which needs the package tensorboard; files need it not."""
    metadata = tf.compat.v1.SummaryMetadata()
    metadata.plugin_data.plugin_name = "scalars"
    tf.summary.write(name, tf.constant(value, tf.float32), metadata=metadata)
