"""A saved model at work: image files or an IDX file in, a table of classes out."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from photonic_ffzero.cli.arguments import LineParser, as_flag
from photonic_ffzero.data.readers import (
    IMAGE_SUFFIXES,
    DataError,
    image_files,
    read_idx,
    read_image,
)
from photonic_ffzero.data.tasks import Classification
from photonic_ffzero.goodness.decisions import decide
from photonic_ffzero.model import Model
from photonic_ffzero.storage import load_model, model_file, write_csv

DESCRIPTION = """\
Classify images with a trained model: PNG or JPEG files, folders of them, or
IDX files like MNIST's. Images of any size become grey and are brought to the
size of the training images by averaging over areas; proportions are not kept.

The table has a line for each image: its class; the class's goodness, which is
the mean over the network's readouts; and by how much that exceeds the next
best class's.
"""

EXAMPLES = """\
examples:
  predict.py results/run seven.png
  predict.py results/run scans/ --dark-on-light --csv classes.csv
  predict.py results/run/seed-0/model.npz data/mnist/t10k-images-idx3-ubyte
"""


@dataclass(frozen=True)
class Prediction:
    """What a network says of one image.

    Attributes:
        name: Which image.
        label: Its class.
        goodness: That class's score, the mean over the readouts.
        margin: How far it lies above the next best class; a vote may be won below it.
    """

    name: str
    label: str
    goodness: float
    margin: float

    def as_row(self) -> dict[str, str]:
        """As a row of a table."""
        return {
            "file": self.name,
            "class": self.label,
            "goodness": f"{self.goodness:.4f}",
            "margin": f"{self.margin:.4f}",
        }


def read_encoded(
    model: Model, paths: Sequence[Path], dark_on_light: bool = False
) -> tuple[list[str], np.ndarray]:
    """Read images and encode them as the model's training images were.

    Args:
        model: The model.
        paths: PNG, JPEG or IDX files, or folders of images.
        dark_on_light: Whether to swap dark and light: a network sees light alone.

    Returns:
        A name for each image, and the model's inputs [n, N].

    Raises:
        ValueError: the model was not trained on images.
        DataError: a file is missing or damaged, or no image.
    """
    encoder = model.encoder
    if encoder is None:
        raise ValueError("model must be one of images, found one trained on values of no image")
    names, inputs = [], []
    for found, images in _images(paths):
        names += found
        inputs.append(encoder(1 - images if dark_on_light else images))
    return names, np.concatenate(inputs)


def classify(model: Model, names: Sequence[str], x: np.ndarray) -> list[Prediction]:
    """Classify encoded images.

    Args:
        model: A model of classes.
        names: A name for each image, n of them.
        x: The model's inputs [n, N].

    Raises:
        ValueError: the model is one of a regression, or ``x`` has other than N values an image.
    """
    task = model.task
    if not isinstance(task, Classification):
        raise ValueError(f"model must be one of classes, found one of a {task.name}")
    scores = model.scores(x)
    labels = task.predictions(decide(scores, model.config.rule))
    goodness = scores.mean(axis=0)
    best = np.take_along_axis(goodness, labels[:, np.newaxis], axis=1)[:, 0]
    np.put_along_axis(goodness, labels[:, np.newaxis], -np.inf, axis=1)
    margins = best - goodness.max(axis=1)
    classes = task.names or tuple(map(str, range(task.classes)))
    return [
        Prediction(name, classes[label], float(own), float(margin))
        for name, label, own, margin in zip(names, labels, best, margins, strict=True)
    ]


def main(argv: Sequence[str] | None = None) -> int:
    """Classify what the command line names; errors end it with status 2 and write nothing."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    try:
        model = load_model(model_file(arguments.model), device=arguments.device)
        names, x = read_encoded(model, arguments.images, arguments.dark_on_light)
        rows = [found.as_row() for found in classify(model, names, x)]
        if arguments.csv:
            write_csv(arguments.csv, rows)
    except (ValueError, TypeError, OSError) as error:
        parser.error(as_flag(str(error), parser))
    _show("\n".join(_lines([[*rows[0]], *([*row.values()] for row in rows)])))
    return 0


def _show(text: str) -> None:
    """Print; a reader such as ``head`` may have seen enough before the end."""
    try:
        print(text, flush=True)
    except BrokenPipeError:  # and nothing may complain of it again at the exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _images(paths: Sequence[Path]) -> Iterator[tuple[list[str], np.ndarray]]:
    """Images [n, H, W] that share a size, in [0, 1], each with a name."""
    for path in paths:
        files = image_files(path) if path.is_dir() else [path]
        for file in files:
            if file.suffix.lower() in IMAGE_SUFFIXES:
                yield [str(file)], read_image(file)[np.newaxis]
            else:
                images = _read_images_idx(file)
                yield [f"{file}[{index}]" for index in range(len(images))], images


def _read_images_idx(path: Path) -> np.ndarray:
    try:
        return np.divide(read_idx(path, 3), 255, dtype=np.float32)
    except DataError as error:
        kinds = ", ".join(IMAGE_SUFFIXES)
        raise DataError(f"{error} (an IDX file, as its name ends in none of {kinds})") from None


def _lines(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """A table's lines: texts to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        texts = [text.ljust(width) for text, width in zip(row[:2], widths[:2], strict=True)]
        numbers = [text.rjust(width) for text, width in zip(row[2:], widths[2:], strict=True)]
        yield "  ".join(texts + numbers)


def _parser() -> LineParser:
    parser = LineParser(
        prog="predict.py",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("model", type=Path, metavar="MODEL", help="run directory or model.npz")
    parser.add_argument(
        "images",
        type=Path,
        nargs="+",
        metavar="IMAGE",
        help="PNG or JPEG file, folder of them, or IDX file",
    )
    parser.add_argument(
        "--device",
        metavar="NAME",
        help="where a model that was trained on a device is to predict: tcp://host:port or "
        "module:factory",
    )
    parser.add_argument(
        "--dark-on-light",
        action="store_true",
        help="swap dark and light: ink on paper, for a network trained on MNIST's white on black",
    )
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write the table there, too")
    return parser


if __name__ == "__main__":
    sys.exit(main())
