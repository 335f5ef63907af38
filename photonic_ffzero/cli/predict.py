"""Classify image files with a saved model, and print a table of classes."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from meshes.validation import counted, one_line
from photonic_ffzero.cli.arguments import (
    PATH,
    LineParser,
    Reader,
    add_token_file,
    as_flag,
    check_functions,
    takes_several,
    written_file,
)
from photonic_ffzero.cli.output import check_file, end_of_output, writing
from photonic_ffzero.command import command, say
from photonic_ffzero.data.centering import center, looks_uncentered
from photonic_ffzero.data.readers import (
    IMAGE_SUFFIXES,
    DataError,
    read_idx,
    read_image,
    visible_files,
)
from photonic_ffzero.data.tasks import NO_LIGHT, Classification
from photonic_ffzero.devices import RemoteDevice
from photonic_ffzero.devices.device import close_at_end
from photonic_ffzero.elements import NONLINEARITY
from photonic_ffzero.goodness.decisions import decide
from photonic_ffzero.inference import LOW_GOODNESS
from photonic_ffzero.model import Model
from photonic_ffzero.runs.names import RUN, is_model, run_with
from photonic_ffzero.storage import load_model, model_file, write_csv

DESCRIPTION = """\
Classify images with a trained model: PNG or JPEG files, folders of them, or
IDX files like MNIST's. Images of any size become grey and are brought to the
size of the training images by averaging over areas; proportions are not kept.
A network for MNIST knows light digits on black that fill the middle: photos
and scans of digits need --center.

The table has a line for each image: its class; the class's goodness, which is
the mean over the network's readouts; and by how much that exceeds the next
best class's. "no light" stands for a class where an image is black, "blank"
where all of its pixels have one value. A file that cannot be read is named,
the others are classified, and the exit status is 1.
"""

EXAMPLES = """\
examples:
  predict.py results/run seven.png
  predict.py results/run scans/ --dark-on-light --csv classes.csv
  predict.py results/run photo.jpg --center
  predict.py results/run/seed-0 data/t10k-images-idx3-ubyte
"""

DARK, BLANK = "no light", "blank"  # are shown instead of a class


class Encoded(NamedTuple):
    """Images as inputs of a model.

    Attributes:
        names: A name for each.
        x: The images [n, N], encoded as the training images were.
        empty: What is shown for a class where an image has no content, else an empty text.
    """

    names: list[str]
    x: np.ndarray
    empty: list[str]


class Prediction(NamedTuple):
    """The class of an image, its score (mean over the readouts), and its lead over the next best.

    The lead is negative where a vote chose a class with a lower score. An image without light has
    the class "no light", one with a single value "blank", and neither a score nor a lead.
    """

    name: str
    label: str
    goodness: float
    margin: float


def read_encoded(
    model: Model,
    paths: Sequence[Path],
    dark_on_light: bool = False,
    centered: bool = False,
    hints: list[str] | None = None,
    failures: list[str] | None = None,
) -> Encoded:
    """Read PNG, JPEG or IDX files or folders of images as inputs of a model.

    Args:
        model: A network that was trained on images.
        paths: Files and folders.
        dark_on_light: Swap dark and light, because a network sees light alone.
        centered: Bring the images to the form of MNIST's, see `center`.
        hints: Receives a line if images look as if they needed that.
        failures: Receives a line for each file that cannot be read, which is an error without it.
    """
    encoder = model.encoder
    if encoder is None:
        raise ValueError("model must be one of images, found one trained on values of no image")
    names: list[str] = []
    inputs, empty, odd = [], [], 0
    colour = encoder.colour == "rgb" and not centered
    for chunk_names, images in _images(paths, colour, failures):
        names += chunk_names
        images = 1 - images if dark_on_light else images
        odd += 0 if centered or colour else looks_uncentered(images).sum()
        shown = center(images) if centered else images
        empty += [_emptiness(a) or _emptiness(b) for a, b in zip(images, shown, strict=True)]
        inputs.append(encoder(shown))
    if hints is not None and odd > len(names) / 10:
        hints.append(
            f"{odd} of {counted(len(names), 'image')} with light paper, or ink that is small or "
            "off-centre: if the network learned MNIST's digits, try --center"
        )
    if not inputs:
        first, *others = failures or ["images must be at least one, got none"]
        more = f" (and {counted(len(others), 'file')} more)" if others else ""
        raise DataError(f"{first}{more}")
    return Encoded(names, np.concatenate(inputs), empty)


def _emptiness(image: np.ndarray) -> str:
    """What an image without content is called; an empty text for all others."""
    if np.ptp(image, axis=(0, 1)).any():  # one colour is no content, either
        return ""
    return BLANK if image.any() else DARK


def classify(
    model: Model, names: Sequence[str], x: np.ndarray, empty: Sequence[str] = ()
) -> list[Prediction]:
    """Classify the model's inputs [n, N], each with a name.

    ``empty`` may say of each image what stands for its class, or nothing; see `Encoded`.
    """
    task = model.task
    if not isinstance(task, Classification):
        raise ValueError(f"model must be one of classes, found one of a {task.name}")
    scores = model.scores(x)
    labels = task.predictions(decide(scores, model.config.rule))
    goodness, chosen = scores.mean(axis=0), labels[:, np.newaxis]
    best = np.take_along_axis(goodness, chosen, axis=1)[:, 0]
    np.put_along_axis(goodness, chosen, -np.inf, axis=1)
    classes = task.names or tuple(map(str, range(task.classes)))
    margins = best - goodness.max(axis=1)
    empty = [
        word or DARK * bool(label == NO_LIGHT)
        for word, label in zip(empty or [""] * len(x), labels, strict=True)
    ]
    words = [word or classes[label] for word, label in zip(empty, labels, strict=True)]
    best, margins = (np.where(list(map(bool, empty)), 0, values) for values in (best, margins))
    return list(map(Prediction, names, words, best, margins))


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Classify the images that the command line names; bad input ends it with status 2."""
    parser = build_parser()
    arguments = parser.parse_args(argv)
    try:
        if arguments.csv:
            check_file("csv", arguments.csv)
        device = arguments.device
        if arguments.token_file is not None:
            device = RemoteDevice.at(device or "", arguments.token_file)
        check_functions(functions := arguments.nonlinearity)
        model = load_model(model_file(arguments.model), device=device, nonlinearity=functions)
        if model.device is not None:
            close_at_end(model.device)
        elif model.config.device is not None:
            raise ValueError(
                f"device must be named for a model that was trained on one, {model.config.device}"
            )
        hints: list[str] = []
        failures: list[str] = []
        encoded = read_encoded(
            model, arguments.images, arguments.dark_on_light, arguments.center, hints, failures
        )
        predictions = classify(model, *encoded)
        rows = [_as_row(prediction) for prediction in predictions]
    except (ValueError, TypeError, OSError) as error:
        parser.error(as_flag(str(error), parser))
    if arguments.csv:
        with writing(parser):
            arguments.csv.parent.mkdir(parents=True, exist_ok=True)
            write_csv(arguments.csv, rows)
    print("\n".join(_lines([[*rows[0]], *([*row.values()] for row in rows)])))
    if code := end_of_output(parser):
        return code
    for hint in [*hints, *_low(model, predictions)]:
        say(f"hint: {hint}")
    for failure in failures:
        say(f"{parser.prog}: {failure}")
    return 1 if failures else 0


def _low(model: Model, predictions: Sequence[Prediction]) -> Iterator[str]:
    """A line if goodness is so low that no class fits; other scores than goodness have no unit."""
    lit = [prediction for prediction in predictions if prediction.label not in (DARK, BLANK)]
    low = sum(prediction.goodness < LOW_GOODNESS for prediction in lit)
    if low and model.config.readout == "goodness":
        images = counted(len(predictions), "image")
        yield f"no class fits {low} of {images}: goodness below {LOW_GOODNESS}"


def _as_row(prediction: Prediction) -> dict[str, str]:
    name, label, goodness, margin = prediction
    return {"file": name, "class": label, "goodness": f"{goodness:.4f}", "margin": f"{margin:.4f}"}


def _images(
    paths: Sequence[Path], colour: bool, failures: list[str] | None
) -> Iterator[tuple[list[str], np.ndarray]]:
    """Names and images of each file, in [0, 1]: [n, H, W], or with their colours [n, H, W, 3]."""
    for path in paths:
        try:
            files = visible_files(path) if path.is_dir() else [path]
        except DataError as error:
            files = _failed(error, failures)
        for file in files:
            try:
                yield _read(file, colour)
            except (DataError, OSError) as error:
                _failed(error, failures)


def _failed(error: Exception, failures: list[str] | None) -> list[Path]:
    """Note an error of a file where there is a list for it; nothing is read."""
    if failures is None:
        raise error
    failures.append(str(error))
    return []


def _read(file: Path, colour: bool) -> tuple[list[str], np.ndarray]:
    """Names and images of one file."""
    if file.suffix.lower() in IMAGE_SUFFIXES:
        return [str(file)], read_image(file, colour=colour)[np.newaxis]
    try:
        images = np.divide(read_idx(file, 3), 255, dtype=np.float32)
    except DataError as error:
        kinds = ", ".join(IMAGE_SUFFIXES)
        why = f" (an IDX file, as its name ends in none of {kinds})" if file.is_file() else ""
        raise DataError(f"{error}{why}") from None
    return [f"{file}[{index}]" for index in range(len(images))], images


def _lines(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Lines of a table whose first two columns are texts; numbers are aligned to the right.

    Names of files and classes may hold control characters, which show as escapes.
    """
    rows = [[one_line(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = zip(row, "<<>>", widths, strict=True)
        yield "  ".join(f"{cell:{side}{width}}" for cell, side, width in cells)


def build_parser() -> LineParser:
    """The parser of the command."""
    parser = LineParser(
        "predict.py",
        "predict",
        description=DESCRIPTION,
        epilog=EXAMPLES,
    )
    add = parser.add_argument
    add("model", type=Reader(run_with(is_model)), metavar="MODEL", help=RUN.rule)
    kinds = "PNG or JPEG file, folder of them, or IDX file"
    add("images", type=Reader(PATH), nargs="+", metavar="IMAGE", help=kinds)
    device = "where a model that was trained on a device predicts: tcp://host:port, module:factory"
    add("--device", metavar="NAME", help=device)
    add_token_file(parser)
    function = "module:function of a model whose nonlinearity is one, as no file holds it"
    add(
        "--nonlinearity",
        **takes_several(NONLINEARITY) | {"metavar": "MODULE:FUNCTION"},
        help=function,
    )
    ink = "swap dark and light: ink on paper, for a network trained on MNIST's white on black"
    add("--dark-on-light", action="store_true", help=ink)
    form = "find the ink, dark or light, scale it and centre it as MNIST's images were made"
    add("--center", action="store_true", help=form)
    table = written_file(".csv")
    add("--csv", type=Reader(table), metavar=table.metavar, help="write the table there, too")
    return parser


if __name__ == "__main__":
    sys.exit(main())
