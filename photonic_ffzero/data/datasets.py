"""Data sets by name, and the user's images by path.

A new data set is a function that returns a `Dataset`, and a row of `DATASETS`.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from meshes.display import facts_html
from meshes.files import DataError
from meshes.validation import integer, switch
from photonic_ffzero.data.checks import COLOURS, check_images, in_colour
from photonic_ffzero.data.cifar import CIFAR_CLASSES, read_cifar
from photonic_ffzero.data.functions import FUNCTIONS, TRAIN, sample
from photonic_ffzero.data.published import (
    PUBLISHED,
    DownloadError,
    expanded,
    read_archive,
    read_published,
)
from photonic_ffzero.data.readers import MAX_MEMORY, list_classes, read_images

IMAGE_SIZE = 28
"""Default pixels a side for the images of a folder: MNIST's."""

DataFolder = str | os.PathLike[str] | None


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images and labels for training and testing.

    Attributes:
        name: the data set, or the name of the user's folder or file.
        source: what it was read from, in words.
        train_images, test_images: [n, H, W], or in colour [n, H, W, 3], float32 in [0, 1]; for
            "f1" and "f2" numbers [n, D].
        train_labels, test_labels: [n] int64 in 0..num_classes-1; for "f1" and "f2" float64.
        num_classes: None where labels are numbers.
        note: one line for the user if other data were loaded than asked for, else empty.
        class_names: empty where the classes are called by their numbers.
    """

    name: str
    source: str
    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    num_classes: int | None = None
    note: str = ""
    class_names: tuple[str, ...] = ()

    def __repr__(self) -> str:
        train, test = len(self.train_labels), len(self.test_labels)
        return f"Dataset({self.name}: {train} training, {test} test samples of {self._form})"

    def _repr_html_(self) -> str:
        facts = {
            "source": self.source,
            "training samples": len(self.train_labels),
            "test samples": len(self.test_labels),
            "each": self._form,
            "classes": ", ".join(self.class_names) or self.num_classes,
            "note": self.note,
        }
        return facts_html(f"Data set {self.name}", facts)

    @property
    def _form(self) -> str:
        shape = " x ".join(map(str, self.train_images.shape[1:3]))
        kind = {2: "numbers", 3: "pixels", 4: "pixels in colour"}[self.train_images.ndim]
        return f"{shape} {kind}"


def load_dataset(
    name: str = "auto",
    data_dir: DataFolder = None,
    image_size: int | None = None,
    colour: bool = False,
) -> Dataset:
    """Load a data set by its name, or the user's images by their path.

    MNIST and Fashion-MNIST are read from IDX files (compressed or not) or Keras's ``.npz``, in
    ``data_dir``, else in the folder that ``PHOTONIC_FFZERO_DATA`` names, else in
    ``~/.keras/datasets`` or this package's cache; else they are downloaded into the cache and
    checked against their published content. CIFAR-10 is read from its binary version, a folder
    cifar-10-batches-bin in the same places; else its archive is downloaded and checked.

    A folder of images holds train/ and test/, each with a sub-folder of PNG or JPEG files for
    each class; or it holds these sub-folders directly, and a fifth of each class, drawn at random
    but always the same, is for testing. A ``.npz`` file holds x_train and x_test, [n, H, W] or in
    colour [n, H, W, 3], as bytes or as floats in [0, 1], and y_train and y_test, [n] with whole
    numbers from 0.

    Args:
        name: a name in `DATASETS`, or the path of a folder or a ``.npz`` file. "auto" is MNIST,
            or the digits if no location was named and MNIST cannot be downloaded; ``note`` then
            says so.
        data_dir: the folder that holds mnist/ and fashion-mnist/, or directly the files.
        image_size: pixels a side to which a folder's images are resized by area averaging; None
            means `IMAGE_SIZE`.
        colour: keep the colours of a folder's images, if it has any; else they become grey.
    """
    path, colour = expanded(name), switch("colour", colour)
    if name not in DATASETS and os.path.isdir(path):
        size = IMAGE_SIZE if image_size is None else image_size
        return _load_folder(path, integer("image_size", size, minimum=1), colour)
    if image_size is not None:
        raise ValueError(f"image_size applies to folders of images alone, not to data set {name}")
    if name in DATASETS:
        return DATASETS[name](data_dir)
    if os.path.exists(path):
        return _checked(path.stem, *read_archive(path))
    raise ValueError(
        f"name must be one of {', '.join(DATASETS)}, or an existing folder of images or .npz "
        f"file; got {name!r}"
    )


def split(count: int, validation: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Draw ``validation`` of ``count`` images; return sorted indices to train on and of those."""
    count = integer("count", count, minimum=1)
    validation = integer("validation", validation, minimum=0)
    if validation >= count:
        raise ValueError(
            f"validation must leave at least one of {count} images to train on, got {validation}"
        )
    order = np.random.default_rng(integer("seed", seed, minimum=0)).permutation(count)
    return np.sort(order[validation:]), np.sort(order[:validation])


def some_of(count: int, most: int, rng: np.random.Generator) -> np.ndarray:
    """Draw at most ``most`` of ``count`` samples; return sorted indices.

    The first ones may all be of one class.
    """
    return np.sort(rng.permutation(count)[:most]) if most < count else np.arange(count)


def default_validation(count: int) -> int:
    """How many of ``count`` training images are held out where no number is named.

    A single one, of which there is no R^2, is none.
    """
    tenth = min(5000, count // 10)
    return tenth if tenth > 1 else 0


def load_digits(data_dir: DataFolder = None, note: str = "") -> Dataset:
    """Return scikit-learn's 1,797 digits of 8 x 8 pixels, 500 of them for testing."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    images = (digits.images / 16).astype(np.float32)
    labels = digits.target.astype(np.int64)
    train, test = train_test_split(
        np.arange(len(labels)), test_size=500, stratify=labels, random_state=0
    )
    return Dataset(
        "digits", "scikit-learn", images[train], labels[train], images[test], labels[test], 10, note
    )


def load_samples(name: str, data_dir: DataFolder = None) -> Dataset:
    return Dataset(name, "drawn anew, always the same", *sample(name))


def load_published(name: str, data_dir: DataFolder = None) -> Dataset:
    return _checked(name, *read_published(name, data_dir), PUBLISHED[name].num_classes)


def load_cifar(data_dir: DataFolder = None) -> Dataset:
    dataset = _checked("cifar-10", *read_cifar(data_dir), len(CIFAR_CLASSES))
    return replace(dataset, class_names=CIFAR_CLASSES)


def load_auto(data_dir: DataFolder = None) -> Dataset:
    """Return MNIST, or the digits if MNIST is on no default location and cannot be downloaded."""
    try:
        return load_published("mnist", data_dir)
    except DownloadError as error:
        return load_digits(note=f"{error}; using scikit-learn's 8 x 8 digits instead")


DATASETS: dict[str, Callable[[DataFolder], Dataset]] = {
    "auto": load_auto,
    **{name: partial(load_published, name) for name in PUBLISHED},
    "cifar-10": load_cifar,
    "digits": load_digits,
    **{name: partial(load_samples, name) for name in FUNCTIONS},
}
"""Name -> function from ``data_dir`` to the data set; ``data_dir`` is for published files alone."""

SHAPES: dict[str, tuple[int, int | None]] = {
    **dict.fromkeys(PUBLISHED, (60_000, 28)),
    "cifar-10": (50_000, 32),
    "digits": (1_297, 8),
    **dict.fromkeys(FUNCTIONS, (TRAIN, None)),
}
"""Name -> training samples of a data set, and pixels a side where it has images."""


def _checked(
    name: str, source: str, arrays: dict[str, np.ndarray], num_classes: int | None = None
) -> Dataset:
    """Check four arrays by their places; without ``num_classes``, count the training labels'."""
    places = list(arrays)
    _check_memory(source, arrays[places[0]], arrays[places[2]])
    # Taken out of the dictionary, so that their bytes are free once they are numbers.
    x, y, num_classes = check_images(
        arrays.pop(places[0]), arrays.pop(places[1]), num_classes, (places[0], places[1])
    )
    test_x, test_y, _ = check_images(
        arrays.pop(places[2]), arrays.pop(places[3]), num_classes, (places[2], places[3])
    )
    if x.shape[1:] != test_x.shape[1:]:
        raise DataError(
            f"{places[2]}: must have images of the training set's size {x.shape[1:]}, "
            f"found {test_x.shape[1:]}"
        )
    return Dataset(name, source, x, y, test_x, test_y, num_classes)


def _check_memory(source: str, x: np.ndarray, test_x: np.ndarray) -> None:
    """Check the most that the images as read and as float32 take at one time."""
    needed = test_x.nbytes + max(x.nbytes + 4 * x.size, 4 * x.size + 4 * test_x.size)
    if needed > MAX_MEMORY:
        raise DataError(
            f"{source}: images of shapes {x.shape} and {test_x.shape} would take {needed} bytes "
            f"of memory, must take at most {MAX_MEMORY}"
        )


def _load_folder(folder: Path, size: int, colour: bool) -> Dataset:
    """Load a folder of images; the classes are mixed, so that the first few show all of them."""
    if (folder / "train").is_dir() and (folder / "test").is_dir():
        for_testing = "test/"
        files, y, names = list_classes(folder / "train")
        test_files, test_y, test_names = list_classes(folder / "test")
        if names != test_names:
            raise DataError(
                f"{folder}: train/ and test/ must have the same classes, found "
                f"{', '.join(sorted({*names} ^ {*test_names}))} in one of them alone"
            )
    else:
        for_testing = "a fifth of each class"
        files, y, names = list_classes(folder)
        test = np.zeros(len(y), bool)
        for label, name in enumerate(names):
            members = np.flatnonzero(y == label)
            if len(members) < 2:
                raise DataError(f"{folder / name}: must hold at least 2 images, found 1")
            test[members[split(len(members), max(1, len(members) // 5))[1]]] = True
        test_files = [files[index] for index in np.flatnonzero(test)]
        files = [files[index] for index in np.flatnonzero(~test)]
        y, test_y = y[~test], y[test]
    _check_image_size(folder, size, len(files) + len(test_files), COLOURS if colour else 1)
    order = np.random.default_rng(0).permutation(len(y))
    mixed = [files[index] for index in order]
    x, test_x = (read_images(part, size, colour) for part in (mixed, test_files))
    if colour and all(np.all(part == part[..., :1]) for part in (x, test_x)):
        x, test_x = (read_images(part, size) for part in (mixed, test_files))
    pixels = f"{size} x {size} {'' if in_colour(x) else 'grey '}pixels"
    source = f"folder {folder}, made {pixels}; for testing {for_testing}"
    return Dataset(folder.name, source, x, y[order], test_x, test_y, len(names), class_names=names)


def _check_image_size(folder: Path, size: int, count: int, channels: int) -> None:
    """Check what the images of a folder will take; half of the limit is for reading one file."""
    needed, limit = 4 * count * channels * size**2, MAX_MEMORY // 2
    if needed > limit:
        largest = math.isqrt(limit // (4 * count * channels))
        raise DataError(
            f"image_size must be at most {largest} for the {count} images of {folder}, "
            f"got {size}: they would take {needed} bytes of memory, the limit is {limit}"
        )
