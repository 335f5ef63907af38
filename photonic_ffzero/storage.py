"""Files that are either whole or not there, and models kept in them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from meshes import Phases
from meshes.validation import integer
from photonic_ffzero.formats import DataError, read_npz
from photonic_ffzero.goodness import Goodness
from photonic_ffzero.model import Model
from photonic_ffzero.recipes import Config

__all__ = ["load_model", "save_model", "write_whole"]


def write_whole(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write a file so that whoever looks finds the old one or the new one, never a part.

    The new content goes to a temporary file in the same folder, is forced to the disk, and takes
    the old one's place in one step.

    Args:
        path: The file.
        write: Writes the content to a binary file object.

    Raises:
        OSError: the disk is full or the folder cannot be written; the old file stands.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        with open(partial, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def save_model(model: Model, path: str | os.PathLike[str]) -> None:
    """Save a model as a ``.npz`` file of plain numbers (nothing pickled).

    It holds ``description`` (configuration, ports and classes, as the bytes of a JSON text),
    ``mesh_1_theta``, ``mesh_1_phi``, ``mesh_1_gamma``, ... and ``prototypes_1``, ....

    Raises:
        OSError: the file cannot be written.
    """
    arrays: dict[str, Any] = _arrays(model)
    write_whole(Path(path), lambda file: np.savez_compressed(file, **arrays))


def _arrays(model: Model) -> dict[str, np.ndarray]:
    about = {"config": asdict(model.config), "units": model.units, "classes": model.classes}
    arrays = {"description": np.frombuffer(json.dumps(about).encode(), np.uint8)}
    for index, phases in enumerate((own for block in model.params for own in block), start=1):
        arrays |= {_phases(index)[i]: np.asarray(values) for i, values in enumerate(phases)}
    for index, block in enumerate(model.blocks, start=1):
        if isinstance(block.readout, Goodness):
            arrays[f"prototypes_{index}"] = block.readout.prototypes
    return arrays


def _phases(index: int) -> list[str]:
    return [f"mesh_{index}_{name}" for name in Phases._fields]


def load_model(path: str | os.PathLike[str]) -> Model:
    """Load a model that `save_model` saved; it predicts as it did, without its history.

    Raises:
        DataError: the file is missing, damaged, or not such a model.
    """
    description = read_npz(path, ["description"])["description"]
    try:
        about = json.loads(bytes(description.astype(np.uint8)))
        config = Config(**about["config"])
        units = integer("units", about["units"], minimum=2)
        classes = integer("classes", about["classes"], minimum=2)
    except (ValueError, TypeError, KeyError) as error:
        raise DataError(f"{path}: must describe a model of this package, found {error}") from None
    columns = config.columns or units
    shapes: dict[str, Any] = {}
    for index in range(config.meshes):
        theta, phi, gamma = _phases(index + 1)
        shapes |= {theta: (columns, units // 2), phi: (columns, units // 2), gamma: (units,)}
    if config.readout == "goodness":
        blocks = config.meshes if config.local else 1
        shapes |= {f"prototypes_{index + 1}": (classes, units) for index in range(blocks)}
    arrays = read_npz(path, shapes)  # before building anything of the size that the text claims
    for name, shape in shapes.items():
        if arrays[name].shape != shape:
            raise DataError(f"{path}: {name} must have shape {shape}, found {arrays[name].shape}")
    return _restored(Model(config, units, classes), arrays)


def _restored(model: Model, arrays: dict[str, np.ndarray]) -> Model:
    """Put saved phases and prototypes in the place of the random ones."""
    sets = iter(
        Phases(*(arrays[name].astype(np.float32) for name in _phases(index + 1)))
        for index in range(model.config.meshes)
    )
    model.params = [tuple(next(sets) for _ in block.layers) for block in model.blocks]
    for index, block in enumerate(model.blocks):
        if isinstance(block.readout, Goodness):
            prototypes = arrays[f"prototypes_{index + 1}"].astype(np.float32)
            readout = replace(block.readout, prototypes=prototypes)
            model.blocks[index] = replace(block, readout=readout)
    return model
