"""Files that are either whole or not there, and models kept in them."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from meshes._tensorflow import tf
from meshes.validation import integer, number
from photonic_ffzero.config import BLACK_BOX, Config, device_name
from photonic_ffzero.data.checks import require_finite
from photonic_ffzero.data.encoding import Encoder
from photonic_ffzero.data.readers import DataError, read_npz
from photonic_ffzero.data.tasks import TASKS, Task
from photonic_ffzero.devices.device import Device
from photonic_ffzero.goodness.readouts import Goodness
from photonic_ffzero.model import EpochRecord, History, Model, Position, Usage
from photonic_ffzero.networks import open_device, parameter_shapes
from photonic_ffzero.optimizers import OPTIMIZERS

_LONGEST_TEXT = 2**24  # bytes of JSON in a model; parsed, they take several times as many


def write_whole(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write a file so that whoever looks finds the old one or the new one, never a part.

    The new content goes to a temporary file in the same folder, is forced to the disk, and takes
    the old one's place in one step.

    Args:
        path: The file.
        write: Writes the content to a binary file object.

    Raises:
        OSError: the disk is full or the folder cannot be written; the old file stands. The error
            names the file.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        with open(partial, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:  # of a full disk it knows the number alone
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error
    finally:
        with suppress(OSError):  # of a folder that has become read-only, and never the first one
            partial.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file; a number that is not finite is an error, not a NaN.

    Raises:
        ValueError: a number is not finite.
        OSError: the file cannot be written.
    """
    text = json.dumps(content, indent=2, allow_nan=False) + "\n"
    write_whole(path, lambda file: file.write(text.encode()))


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]], columns: Sequence[str] = ()) -> None:
    """Write a table, its header first; what a row lacks stays empty.

    Args:
        path: The file.
        rows: Column to value.
        columns: The columns in their order; those of the rows, as they come, if none are given.

    Raises:
        OSError: the file cannot be written.
        ValueError: a row has a column more.
    """
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns or list(dict.fromkeys(chain.from_iterable(rows))))
    writer.writeheader()
    writer.writerows(rows)
    write_whole(path, lambda file: file.write(text.getvalue().encode()))


def read_json(path: Path) -> dict[str, Any] | None:
    """Read a JSON object; None if there is no such file.

    Raises:
        DataError: the file is no JSON object.
    """
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: must be JSON, found {error}") from None
    if not isinstance(content, dict):
        raise DataError(f"{path}: must be a JSON object, found a {type(content).__name__}")
    return content


def save_model(model: Model, path: str | os.PathLike[str]) -> None:
    """Save a model as a ``.npz`` file of plain numbers (nothing pickled).

    It holds ``description`` (configuration, ports, task and encoder, as the bytes of a JSON
    text), every layer's parameters, ``mesh_1_theta``, ``mesh_1_phi``, ``mesh_1_gamma``, ...
    (``dense_1_kernel``, ``conv_1_kernel``, ... of digital layers), and ``prototypes_1``, ....

    Raises:
        OSError: the file cannot be written.
    """
    _save(path, _arrays(model))


def save_checkpoint(model: Model, position: Position, path: str | os.PathLike[str]) -> None:
    """Save a model with all that is needed to train on: such a file loads as a model, too.

    It holds besides ``training`` (position, history, usage and time, as the bytes of a JSON
    text) and the optimizer's state as ``optimizer_1``, ....

    Raises:
        OSError: the file cannot be written; an older one stands.
    """
    training = {
        "block": position.block,
        "epoch": position.epoch,
        "losses": position.losses,
        "epsilon": position.epsilon,
        "history": [asdict(record) for record in model.history],
        "usage": asdict(model.usage),
        "seconds": model.seconds,
    }
    arrays = _arrays(model) | {"training": _as_bytes(training)}
    arrays |= {_optimizer(i): state for i, state in enumerate(position.optimizer)}
    _save(path, arrays)


def _save(path: str | os.PathLike[str], arrays: dict[str, Any]) -> None:
    write_whole(Path(path), lambda file: np.savez(file, **arrays))


def _as_bytes(content: Any) -> np.ndarray:
    return np.frombuffer(json.dumps(content, allow_nan=False).encode(), np.uint8)


def _optimizer(index: int) -> str:
    return f"optimizer_{index + 1}"


def _arrays(model: Model) -> dict[str, np.ndarray]:
    about = {
        "config": model.config.as_json(),
        "units": model.units,
        "task": asdict(model.task),
        "encoder": model.encoder and asdict(model.encoder),
    }
    arrays = {"description": _as_bytes(about)}
    for index, (layer, params) in enumerate(model.layers, start=1):
        names = _names(layer.name, index, params)
        arrays |= {name: np.asarray(own) for name, own in zip(names, params, strict=True)}
    for index, block in enumerate(model.blocks, start=1):
        if isinstance(block.readout, Goodness):
            arrays[f"prototypes_{index}"] = block.readout.prototypes
    return arrays


def model_file(run: Path) -> Path:
    """The model's file in a run directory, or the file itself.

    Raises:
        ValueError: the directory holds none.
    """
    if run.is_dir() and not (run / "model.npz").exists():
        raise ValueError(f"run must hold a model.npz, found none in {run}; name a seed's folder")
    return run / "model.npz" if run.is_dir() else run


def load_model(
    path: str | os.PathLike[str], *, nonlinearity: Any = None, device: Device | str | None = None
) -> Model:
    """Load a model from a file of `save_model` or `save_checkpoint`; it predicts as it did.

    Args:
        path: The file.
        nonlinearity: The function of a model whose nonlinearity was a black box.
        device: Where a model that was trained on a device is to predict: a device, or what
            names one. No file is a reason to talk to another machine or to run a program, so
            that only a simulated device need not be given.

    Raises:
        DataError: the file is missing, damaged, or not such a model.
        DeviceError: the device does not answer.
    """
    with _described(path, "description", "a model of this package") as about:
        config = Config(**_with_nonlinearity(about["config"], nonlinearity))
        units = integer("units", about["units"], minimum=1)
        task = TASKS[config.task](**_tuples(about["task"]))
        encoder = Encoder(**_tuples(about["encoder"])) if about.get("encoder") else None
        # Before anything of the size that the text claims is built, the arrays must have it.
        arrays = _read_shaped(path, _shapes(config, units, task))
        model = _restored(Model(config, units, task, encoder), arrays, path)
    if device is None:
        return _on_device(model, config.device) if config.simulates_device else model
    return _on_device(model, device)


def _on_device(model: Model, device: Any) -> Model:
    """The same network on a device, or on the one that a text names."""
    config = model.config.on(device_name(device))
    opened = open_device(config, model.units) if isinstance(device, str) else device
    moved = Model(config, model.units, model.task, model.encoder, opened)
    moved.take_over(model)
    return moved


def _with_nonlinearity(config: dict[str, Any], function: Any) -> dict[str, Any]:
    """A black box is not in the file; whoever loads it has to bring it along."""
    if not str(config["nonlinearity"]).startswith(BLACK_BOX):
        return config
    if function is None:
        raise ValueError(
            f"the nonlinearity {config['nonlinearity']!r}: load the model with "
            "load_model(path, nonlinearity=the function)"
        )
    return config | {"nonlinearity": function}


def _tuples(content: Any) -> dict[str, Any]:
    """JSON has lists for tuples."""
    if not isinstance(content, dict):
        raise TypeError(f"a {type(content).__name__} for an object")
    return {k: tuple(v) if isinstance(v, list) else v for k, v in content.items()}


def load_checkpoint(
    path: str | os.PathLike[str], *, nonlinearity: Any = None, device: Device | str | None = None
) -> tuple[Model, Position]:
    """Load a model and the position of its training from a file of `save_checkpoint`.

    Args:
        path: The file.
        nonlinearity: As for `load_model`.
        device: As for `load_model`.

    Raises:
        DataError: the file is missing, damaged, or no checkpoint.
    """
    model = load_model(path, nonlinearity=nonlinearity, device=device)
    with _described(path, "training", "the state of a training") as about:
        position = _position(about, model)
        model.history = History(_record(**record) for record in about["history"])
        counts = {name: integer(name, n, minimum=0) for name, n in about["usage"].items()}
        model.usage = Usage(**counts)
        model.seconds = number("seconds", about["seconds"], minimum=0)
    begun = position.epoch or position.losses  # else the block begins, and its optimizer with it
    if position.block < len(model.blocks) and begun:
        state = OPTIMIZERS[model.config.optimizer]().init(model.params[position.block])
        leaves = enumerate(tf.nest.flatten(state))
        arrays = _read_shaped(path, [(_optimizer(i), tuple(leaf.shape)) for i, leaf in leaves])
        position.optimizer = list(arrays.values())
    return model, position


def _position(about: dict[str, Any], model: Model) -> Position:
    """Where a training stands; it must be within that of the model.

    Raises:
        KeyError, TypeError, ValueError: something is missing or out of range.
    """
    block = integer("block", about["block"], minimum=0)
    epoch = integer("epoch", about["epoch"], minimum=0)
    if block > len(model.blocks) or epoch > model.config.epochs:
        raise ValueError(
            f"block {block}, epoch {epoch} of a training of {len(model.blocks)} blocks, "
            f"{model.config.epochs} epochs each"
        )
    losses = [number("losses", loss) for loss in about["losses"]]
    if block == len(model.blocks) and (epoch or losses):
        raise ValueError(f"epoch {epoch} behind the last of {block} blocks")
    epsilon = about["epsilon"]
    return Position(
        block, epoch, losses, epsilon=None if epsilon is None else number("epsilon", epsilon)
    )


def _record(mesh: Any, epoch: Any, **numbers: Any) -> EpochRecord:
    """A row of the history, if its values are of the kinds they must be.

    Raises:
        TypeError, ValueError: they are not.
    """
    for name, value in numbers.items():
        if value is not None or name not in ("validation_accuracy", "epsilon"):
            number(name, value)
    return EpochRecord(mesh=str(mesh), epoch=integer("epoch", epoch), **numbers)


@contextmanager
def _described(path: str | os.PathLike[str], name: str, what: str) -> Iterator[dict[str, Any]]:
    """Read a JSON text; whatever is wrong with it in the body is an error of the file."""
    text = read_npz(path, [name], _LONGEST_TEXT)[name]
    if text.dtype != np.uint8:
        raise DataError(f"{path}: {name} must be a text as uint8, found {text.dtype}")
    try:
        about = json.loads(text.tobytes())
        if not isinstance(about, dict):
            raise TypeError(f"a {type(about).__name__}")
        yield about
    except DataError:  # of an array, and says so
        raise
    except KeyError as error:
        raise DataError(f"{path}: {name} must describe {what}, {error} is missing") from None
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise DataError(f"{path}: {name} must describe {what}, found {error}") from None


def _shapes(config: Config, units: int, task: Task) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Name and shape of every array of parameters."""
    layers = parameter_shapes(config, units, task)
    for index, (layer, shapes) in enumerate(layers, start=1):
        yield from zip(_names(layer, index, shapes), shapes, strict=True)


def _names(layer: str, index: int, params: Any) -> list[str]:
    return [f"{layer}_{index}_{name}" for name in params._fields]


def _read_shaped(
    path: str | os.PathLike[str], shapes: Iterable[tuple[str, tuple[int, ...]]]
) -> dict[str, np.ndarray]:
    """Read arrays one by one: a description that lies is found out at the first."""
    arrays: dict[str, np.ndarray] = {}
    for name, shape in shapes:
        arrays |= read_npz(path, [name])
        if arrays[name].shape != shape:
            raise DataError(f"{path}: {name} must have shape {shape}, found {arrays[name].shape}")
        arrays[name] = _real(f"{path}: {name}", arrays[name])
    return arrays


def _real(where: str, array: np.ndarray) -> np.ndarray:
    """Finite numbers in single precision.

    Raises:
        DataError: they are not real, or not finite.
    """
    if array.dtype.kind != "f":
        raise DataError(f"{where} must hold real numbers, found {array.dtype}")
    with np.errstate(over="ignore"):  # what does not fit becomes infinite and is refused
        array = array.astype(np.float32)
    require_finite(where, array)
    return array


def _restored(model: Model, arrays: dict[str, np.ndarray], path: str | os.PathLike[str]) -> Model:
    """Put saved parameters and prototypes in the place of the random ones."""
    saved = iter(arrays.values())
    model.params = [
        tuple(type(own)(*(next(saved) for _ in own)) for own in params) for params in model.params
    ]
    for index, block in enumerate(model.blocks):
        if isinstance(block.readout, Goodness):
            shape = block.readout.prototypes.shape
            prototypes = _read_shaped(path, [(f"prototypes_{index + 1}", shape)])
            readout = replace(block.readout, prototypes=next(iter(prototypes.values())))
            model.blocks[index] = replace(block, readout=readout)
    return model
