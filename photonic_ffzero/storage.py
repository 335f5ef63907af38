"""Models, checkpoints and tables in files that are either whole or not there."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import stat
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np

from meshes import ChipEstimate
from meshes._tensorflow import tf
from meshes.files import Archive, DataError, open_npz, reading, write_bytes, write_whole
from meshes.validation import instance, integer, number, quoted, switch
from photonic_ffzero.config import Config, device_name, read_config
from photonic_ffzero.data.checks import to_single
from photonic_ffzero.data.encoding import Encoder
from photonic_ffzero.data.tasks import TASKS, Task
from photonic_ffzero.devices.device import Device, check_identity, closed_on_error
from photonic_ffzero.goodness.readouts import Goodness
from photonic_ffzero.model import EpochRecord, History, Model, Position, Usage
from photonic_ffzero.networks import Saved, open_device, parameter_shapes
from photonic_ffzero.training.step import StepState
from photonic_ffzero.training.twins import twin_of

_LONGEST_TEXT = 2**24  # bytes of JSON in a model; parsed, they take several times as many
_INFLATION, _SMALL = 16, 2**22  # arrays may be so many times as large as their file, or so small

PathLike = str | os.PathLike[str]


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file; a number that is not finite is a `ValueError`, not a NaN."""
    text = json.dumps(content, indent=2, allow_nan=False) + "\n"
    write_bytes(path, text.encode())


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]], columns: Sequence[str] = ()) -> None:
    """Write a table with a header: ``columns``, or all those of the rows; missing cells are empty.

    A row with another column is a `ValueError`.
    """
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns or list(dict.fromkeys(chain.from_iterable(rows))))
    writer.writeheader()
    writer.writerows(rows)
    write_bytes(path, text.getvalue().encode())


def read_json(path: Path) -> dict[str, Any] | None:
    """Read a JSON object; None if there is no such file, a `DataError` if it is no JSON object."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode) or status.st_size > _LONGEST_TEXT:
            raise DataError(f"{path}: must be a regular file of at most {_LONGEST_TEXT} bytes")
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except DataError:
        raise
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: must be JSON, found {error}") from None
    if not isinstance(content, dict):
        raise DataError(f"{path}: must be a JSON object, found a {type(content).__name__}")
    return content


def save_model(model: Model, path: PathLike) -> None:
    """Save a model as a ``.npz`` file of plain numbers (nothing pickled).

    The file is replaced in one step: it is always one whole model, also where several processes
    save to it, of which the last one wins.

    It holds ``description`` (configuration, ports, task and encoder, as the bytes of a JSON text),
    the parameters of every layer, ``mesh_1_theta``, ``mesh_1_phi``, ``mesh_1_gamma``, ...
    (``dense_1_kernel``, ``conv_1_kernel``, ... of digital layers), ``prototypes_1``, ..., and what
    a twin knows of the chip as ``known_mesh1_theta``, ....
    """
    instance("model", model, Model)
    instance("path", path, str, os.PathLike)
    _save(path, _model_arrays(model))


def save_checkpoint(
    model: Model, position: Position, path: PathLike, run: Mapping[str, Any] | None = None
) -> None:
    """Save a model with all that its training needs to go on; the file loads as a model, too.

    It also holds ``training`` (position, history, usage and time, as the bytes of a JSON text), the
    state of the optimizer, and of a twin, as ``optimizer_1``, ..., and the metric that a law
    follows as ``metric_1``, .... ``run`` is what else the run's results depend on, from name to
    value, see `read_run_identity`.
    """
    training = {
        "block": position.block,
        "epoch": position.epoch,
        "losses": position.losses,
        "epsilon": position.epsilon,
        "calibrated": position.calibrated,
        "history": [asdict(record) for record in model.history],
        "usage": asdict(model.usage),
        "seconds": model.seconds,
        "run": dict(run or {}),
    }
    state = _numbered("optimizer", position.optimizer) | _numbered("metric", position.metric)
    _save(path, _model_arrays(model) | {"training": _as_bytes(training)} | state)


def _numbered(name: str, values: Iterable[Any]) -> dict[str, Any]:
    """``name_1``, ``name_2``, ... with the values."""
    return {f"{name}_{number}": value for number, value in enumerate(values, start=1)}


def model_file(run: Path) -> Path:
    """The model in a run directory, or the file itself."""
    if run.is_dir() and not (run / "model.npz").exists():
        seeds = ", ".join(sorted(path.name for path in run.glob("seed-*"))) or "nothing to load"
        raise DataError(f"{run}: must hold a model.npz, found {seeds}")
    return run / "model.npz" if run.is_dir() else run


ANY_FUNCTION = np.copy
"""Stands for the function between the meshes of a model whose parameters alone are of interest."""


def load_model(
    path: PathLike, *, nonlinearity: Any = None, device: Device | str | None = None
) -> Model:
    """Load a model from a run, or a file of `save_model` or `save_checkpoint`.

    It predicts as before, and knows what it knew of the chip. Of a run or a checkpoint it has its
    ``history``, ``usage`` and ``seconds``, too. A file that is missing, damaged or no model is a
    `DataError`.

    Args:
        path: The file, or the directory of a run.
        nonlinearity: The function of a model whose nonlinearity was one, or a list of them, one
            for each.
        device: A device, or its name, on which a model that was trained on a device predicts.
            Only a simulated device is opened without it: a file must not make this program
            contact another machine or run another program.
    """
    instance("path", path, str, os.PathLike)
    with open_npz(model_file(Path(path))) as archive:
        model = _load_model(archive, nonlinearity, device)
        _restore(archive, model)
        return model


def _load_model(archive: Archive, nonlinearity: Any, device: Device | str | None) -> Model:
    """Load a model from a file that stays open, as another process may replace it meanwhile."""
    with _described(archive, "description", "a model of this package") as about:
        config = read_config(about["config"], nonlinearity)
        units = integer("units", about["units"], minimum=1)
        task = TASKS[config.task](**_with_tuples(about["task"]))
        encoder = Encoder(**_with_tuples(about["encoder"])) if about.get("encoder") else None
        # Memory is taken for a model only after the file was seen to hold the arrays of one.
        saved = _read_saved(archive, config, units, task)
        model = Model(config, units, task, encoder, saved=saved)
        identity = about.get("device_identity")
        model.device_identity = check_identity("device_identity", identity)
    if device is None and config.simulates_device:
        device = config.device
    return model if device is None else _on_device(model, device, saved)


def load_checkpoint(
    path: PathLike, *, nonlinearity: Any = None, device: Device | str | None = None
) -> tuple[Model, Position]:
    """Load a model as `load_model`, and the position of its training, from a checkpoint.

    A device with another identity than that of the training is a `DataError`.
    """
    with open_npz(path) as archive:
        model = _load_model(archive, nonlinearity, device)
        if model.device is not None:
            _check_same_device(archive, model.device_identity)
        return model, _load_position(archive, model)


def _load_position(archive: Archive, model: Model) -> Position:
    """Load the position of a model's training; the model gets its history, usage and time."""
    with _described(archive, "training", "the state of a training") as about:
        position = _position(about, model)
    _restore(archive, model)
    if position.block < len(model.blocks) and position.has_begun(position.block):
        stage = next(stage for stage in model.stages if stage.index == position.block)
        twin = twin_of(model, stage.index, stage.blocks[0])
        params = model.params[stage.index : stage.end]
        state = tuple(StepState.first(model.config, block, twin) for block in params)
        shapes = _numbered("optimizer", (tuple(leaf.shape) for leaf in tf.nest.flatten(state)))
        position.optimizer = list(_read_arrays(archive, shapes.items()).values())
        if model.config.follows_network and position.has_steps:
            places = model.blocks[position.block].together
            shapes = _numbered("metric", ((*part.shape, part.shape[1]) for part in places))
            position.metric = list(_read_arrays(archive, shapes.items()).values())
    return position


def _restore(archive: Archive, model: Model) -> None:
    """Give a model what else a file holds: the history of its training, and what is known."""
    if "training" in archive.names:
        with _described(archive, "training", "the state of a training") as about:
            _remember(model, about)
    _read_known(archive, model)


def _remember(model: Model, about: dict[str, Any]) -> None:
    """Give a model the history of its training, what that used, and its time."""
    model.history = History(_epoch_record(**record) for record in about["history"])
    counts = {name: integer(name, n, minimum=0) for name, n in about["usage"].items()}
    model.usage = Usage(**counts)
    model.seconds = number("seconds", about["seconds"], minimum=0)


_KNOWN = "known_"  # stands before the names of a chip estimate's arrays in a file


def _known_arrays(model: Model) -> dict[str, np.ndarray]:
    arrays = model.chip_estimate.arrays() if model.chip_estimate else {}
    return {_KNOWN + name: array for name, array in arrays.items()}


def _read_known(archive: Archive, model: Model) -> None:
    """Put what a file knows of the chip into a model with a twin.

    A checkpoint always knows it, a file of `save_model` of former versions does not.
    """
    shapes = {name: array.shape for name, array in _known_arrays(model).items()}
    held = any(name == "training" or name.startswith(_KNOWN) for name in archive.names)
    if shapes and held:
        read = _read_reals(archive, shapes.items())
        arrays: Any = {name.removeprefix(_KNOWN): array for name, array in read}
        sizes = model.units, model.config.columns, len(model.known)
        with reading(archive.path, "what is known of a chip"):
            model.known = list(ChipEstimate.known(*sizes, **arrays).meshes)


def read_run_identity(path: PathLike) -> dict[str, Any]:
    """What the results of a checkpoint's run depend on; empty for a checkpoint from before that."""
    with (
        open_npz(path) as archive,
        _described(archive, "training", "the state of a training") as about,
    ):
        run = about.get("run", {})
        if not isinstance(run, dict):
            raise TypeError(f"a {type(run).__name__} for run")
    return run


def _check_same_device(archive: Archive, present: str | None) -> None:
    """Compare a device with that of the training; an older file says nothing of it."""
    with _described(archive, "description", "a model of this package") as about:
        if "device_identity" not in about:
            warnings.warn(
                f"{archive.path} is from before devices had an identity: whether this one is the "
                "same is not checked",
                stacklevel=3,
            )
        before = check_identity("device_identity", about.get("device_identity"))
    if None not in (before, present) and before != present:
        raise DataError(
            f"{archive.path}: device_identity must be {quoted(before)}, that of the device the "
            f"training began on, found {quoted(present)}"
        )


def _save(path: PathLike, arrays: dict[str, Any]) -> None:
    write_whole(Path(path), lambda file: np.savez(file, **arrays))


def _as_bytes(content: Any) -> np.ndarray:
    return np.frombuffer(json.dumps(content, allow_nan=False).encode(), np.uint8)


def _array_names(layer: str, index: int, params: Any) -> list[str]:
    return [f"{layer}_{index}_{field}" for field in params._fields]


def _model_arrays(model: Model) -> dict[str, np.ndarray]:
    about = {
        "config": model.config.as_json(),
        "units": model.units,
        "task": asdict(model.task),
        "encoder": model.encoder and asdict(model.encoder),
    }
    if model.config.device:
        about["device_identity"] = model.device_identity
    arrays = {"description": _as_bytes(about)}
    for index, (layer, params) in enumerate(model.layers, start=1):
        names = _array_names(layer.name, index, params)
        arrays |= zip(names, map(np.asarray, params), strict=True)
    for index, block in enumerate(model.blocks, start=1):
        if isinstance(block.readout, Goodness):
            arrays[f"prototypes_{index}"] = block.readout.prototypes
    return arrays | _known_arrays(model)


def _read_saved(archive: Archive, config: Config, units: int, task: Task) -> Saved:
    kinds: list[Any] = []  # a layer's named tuple of parameters

    def expected() -> Iterator[tuple[str, tuple[int, ...] | None]]:
        for index, (layer, shapes) in enumerate(parameter_shapes(config, units, task), start=1):
            kinds.append(type(shapes))
            yield from zip(_array_names(layer, index, shapes), shapes, strict=True)
        if config.detection is not None:
            for index in range(config.layers if config.local else 1):
                yield f"prototypes_{index + 1}", None

    arrays = iter(_read_arrays(archive, expected()).values())
    params = [kind(*islice(arrays, len(kind._fields))) for kind in kinds]
    return Saved(params, list(arrays))


def _on_device(model: Model, device: Any, saved: Saved) -> Model:
    config = model.config.moved_to(device_name(device))
    build = partial(Model, config, model.units, model.task, model.encoder)
    if not isinstance(device, str):
        return build(device, saved)
    with closed_on_error(open_device(config, model.units)) as opened:
        return build(opened, saved)


def _with_tuples(content: Any) -> dict[str, Any]:
    """A JSON object with tuples for its lists."""
    if not isinstance(content, dict):
        raise TypeError(f"a {type(content).__name__} for an object")
    return {k: tuple(v) if isinstance(v, list) else v for k, v in content.items()}


def _position(about: dict[str, Any], model: Model) -> Position:
    block = integer("block", about["block"], minimum=0)
    epoch = integer("epoch", about["epoch"], minimum=0)
    losses = [number("losses", loss) for loss in about["losses"]]
    epsilon = about["epsilon"] if about["epsilon"] is None else number("epsilon", about["epsilon"])
    calibrated = switch("calibrated", about.get("calibrated", False))  # not in older files
    blocks, epochs = len(model.blocks), model.config.epochs
    done, starts = block == blocks, [stage.index for stage in model.stages]
    if (
        block not in (*starts, blocks)
        or epoch > epochs
        or (done and (epoch or losses or calibrated))
    ):
        raise ValueError(
            f"block {block}, epoch {epoch} of a training of {blocks} blocks, {epochs} epochs each"
        )
    return Position(block, epoch, losses, epsilon=epsilon, calibrated=calibrated)


def _epoch_record(mesh: Any, epoch: Any, **numbers: Any) -> EpochRecord:
    for name, value in numbers.items():
        if value is not None or name not in EpochRecord.optional():
            number(name, value)
    return EpochRecord(mesh=str(mesh), epoch=integer("epoch", epoch), **numbers)


@contextmanager
def _described(archive: Archive, name: str, what: str) -> Iterator[dict[str, Any]]:
    """Yield a JSON object of a file; an error of the body becomes one of the file."""
    path, text = archive.path, archive._replace(max_bytes=_LONGEST_TEXT).read(name)
    if text.dtype != np.uint8:
        raise DataError(f"{path}: {name} must be a text as uint8, found {text.dtype}")
    try:
        about = json.loads(text.tobytes())
        if not isinstance(about, dict):
            raise TypeError(f"a {type(about).__name__}")
        yield about
    except DataError:  # names the file already
        raise
    except KeyError as error:
        raise DataError(f"{path}: {name} must describe {what}, {error} is missing") from None
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise DataError(f"{path}: {name} must describe {what}, found {error}") from None


def _read_arrays(
    archive: Archive, shapes: Iterable[tuple[str, tuple[int, ...] | None]]
) -> dict[str, np.ndarray]:
    """Read finite arrays, of any shape where None, in single precision."""
    read = _read_reals(archive, shapes)
    return {name: to_single(f"{archive.path}: {name}", array) for name, array in read}


def _read_reals(
    archive: Archive, shapes: Iterable[tuple[str, tuple[int, ...] | None]]
) -> Iterator[tuple[str, np.ndarray]]:
    """Read arrays of real numbers, of any shape where None; check all headers before."""
    path, limit = archive.path, _SMALL + _INFLATION * archive.bytes_on_disk
    names, size = [], 0
    for name, shape in shapes:
        present, dtype = archive.header(name)
        if shape not in (None, present):
            raise DataError(f"{path}: {name} must have shape {shape}, found {present}")
        if dtype.kind != "f":
            raise DataError(f"{path}: {name} must hold real numbers, found {dtype}")
        names.append(name)
        size += math.prod(present) * dtype.itemsize
        if size > limit:
            raise DataError(f"{path}: must unpack to at most {limit} bytes, found {size}")
    for name in names:
        yield name, archive.read(name)
