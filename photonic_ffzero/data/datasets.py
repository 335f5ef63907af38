"""Data sets as arrays: MNIST, Fashion-MNIST, scikit-learn's digits, and the user's own.

A location that was named, as an argument or in ``PHOTONIC_FFZERO_DATA``, is binding: what is not
there is an error and never a reason to look or download elsewhere.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from meshes.validation import integer
from photonic_ffzero.data.checks import Part, checked_labels, count_classes
from photonic_ffzero.data.functions import FUNCTIONS, sample
from photonic_ffzero.data.image_folder import load_image_folder
from photonic_ffzero.data.readers import DataError, read_idx, read_npz

DATASETS = ("auto", "mnist", "fashion-mnist", "digits", *FUNCTIONS)
DATA_VARIABLE = "PHOTONIC_FFZERO_DATA"
"""Environment variable with the folder that holds mnist/ and fashion-mnist/."""

IMAGE_SIZE = 28
"""Pixels a side to which the images of a folder are brought unless asked otherwise: MNIST's."""

_DIGITS_TEST = 500  # images of the digits' 1,797 that are the test set
_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


class _Published(NamedTuple):
    """Where a data set is published, and the SHA-256 of its four files, decompressed."""

    url: str
    sha256: tuple[str, str, str, str]


_PUBLISHED = {
    "mnist": _Published(
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
        (
            "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        ),
    ),
    "fashion-mnist": _Published(
        "https://storage.googleapis.com/tensorflow/tf-keras-datasets/",
        (
            "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
            "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
            "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
            "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        ),
    ),
}
_PARTS = ("train", "test")  # sub-folders of a folder of images that has its own test set
_NPZ_ARRAYS = ("x_train", "y_train", "x_test", "y_test")


class _DownloadError(DataError):
    """A data set that no location holds and that cannot be downloaded."""


@dataclass(frozen=True)
class Dataset:
    """Images and labels for training and testing, and where they came from.

    Args:
        name: the data set: "mnist", "fashion-mnist", "digits", "f1", "f2", or that of a folder or
            file of the user's own.
        source: what it was read from, in words.
        train_images: [n, H, W] float32 in [0, 1]; for "f1" and "f2" numbers [n, D].
        train_labels: [n] int64 in 0..num_classes-1; for "f1" and "f2" float64.
        test_images: [m, H, W] float32 in [0, 1], or [m, D].
        test_labels: [m] int64 in 0..num_classes-1, or float64.
        num_classes: C; None where labels are numbers.
        note: one line for the user if the data are not those first looked for, else empty.
        class_names: what the classes are called, C of them; empty where they are numbers.
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


def load_dataset(
    name: str = "auto",
    data_dir: str | os.PathLike[str] | None = None,
    image_size: int | None = None,
) -> Dataset:
    """Load a data set by its name, or the user's own by its path.

    MNIST and Fashion-MNIST are taken from IDX files (compressed or not) or Keras's ``.npz``, in
    ``data_dir``, else in the folder that ``PHOTONIC_FFZERO_DATA`` names, else in
    ``~/.keras/datasets`` or this package's cache; else they are downloaded into the cache and
    checked against their published content. The digits come with scikit-learn.

    A folder holds a sub-folder of PNG or JPEG files for each class, and a fifth of each class,
    drawn at random but always the same, is for testing; or it holds train/ and test/ with the
    same classes each. Every image becomes grey and is brought to a square of ``image_size`` pixels
    a side by area averaging. A ``.npz`` file holds x_train and x_test, [n, H, W] as bytes or as
    floats in [0, 1], and y_train and y_test, [n] with whole numbers from 0.

    Args:
        name: "mnist", "fashion-mnist", "digits", a function of `sample`, or "auto": MNIST, and
            the digits only where no location was named and MNIST cannot be downloaded (``note``
            then says so); else the path of a folder or a ``.npz`` file.
        data_dir: the folder that holds mnist/ and fashion-mnist/, or directly the files.
        image_size: for a folder; None means `IMAGE_SIZE`.

    Returns:
        The data set.

    Raises:
        ValueError: ``name`` is unknown, or ``image_size`` was given for anything but a folder.
        DataError: the location named does not hold the data, a file is damaged, or the download
            failed.
    """
    own = _expanded(name)
    if name not in DATASETS and os.path.isdir(own):
        size = IMAGE_SIZE if image_size is None else image_size
        return _load_folder(own, integer("image_size", size, minimum=1))
    if image_size is not None:
        raise ValueError(f"image_size does not apply to data set {name}: it is no folder of images")
    if name not in DATASETS and os.path.exists(own):
        return _read_npz_file(own.stem, own, classes=None)
    if name == "digits":
        return _load_digits()
    if name in FUNCTIONS:
        return Dataset(name, "drawn anew, always the same", *sample(name))
    if name in _PUBLISHED:
        return _load_published(name, data_dir)
    if name != "auto":
        raise ValueError(
            f"name must be one of {', '.join(DATASETS)}, or an existing folder of images or .npz "
            f"file; got {name!r}"
        )
    try:
        return _load_published("mnist", data_dir)
    except _DownloadError as error:
        return _load_digits(note=f"{error}; using scikit-learn's 8 x 8 digits instead")


def split(count: int, validation: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Hold images out of training for validation, at random.

    Args:
        count: number of images.
        validation: how many of them to hold out; at least one image must be left to train on.
        seed: of the draw.

    Returns:
        Sorted, disjoint index arrays: training [count - validation] and validation [validation].

    Raises:
        TypeError: an argument is not a whole number.
        ValueError: ``validation`` is negative or not below ``count``.
    """
    count = integer("count", count, minimum=1)
    validation = integer("validation", validation, minimum=0)
    if validation >= count:
        raise ValueError(
            f"validation must leave at least one of {count} images to train on, got {validation}"
        )
    order = np.random.default_rng(integer("seed", seed, minimum=0)).permutation(count)
    return np.sort(order[validation:]), np.sort(order[:validation])


# --- MNIST and Fashion-MNIST: find, download, read --------------------------------------------


def _load_published(name: str, data_dir: str | os.PathLike[str] | None) -> Dataset:
    if data_dir is not None:
        return _read_named("data_dir", data_dir, name)
    if named := os.environ.get(DATA_VARIABLE):
        return _read_named(DATA_VARIABLE, named, name)
    cache = _expanded(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "photonic_ffzero"
    for folder in (_expanded("~/.keras/datasets"), cache):
        if (dataset := _read_from(folder, name)) is not None:
            return dataset
    _download(name, cache / name)
    return _read_idx_files(name, _idx_files(cache / name))


def _expanded(path: str | os.PathLike[str]) -> Path:
    return Path(os.path.abspath(os.path.expanduser(path)))


def _read_named(argument: str, location: str | os.PathLike[str], name: str) -> Dataset:
    folder = _expanded(location)
    dataset = _read_from(folder, name)
    if dataset is None:
        raise DataError(f"{argument} {_not_there(folder, name)}")
    return dataset


def _read_from(folder: Path, name: str) -> Dataset | None:
    """Read the data set from a folder, or return None if it is not there."""
    for place in _places(folder, name):
        files = _idx_files(place)
        if len(files) == len(_FILES):
            return _read_idx_files(name, files)
        if os.path.isfile(npz := place / f"{name}.npz"):
            return _read_npz_file(name, npz)
    return None


def _places(folder: Path, name: str) -> list[Path]:
    """List where in a folder the files may be.

    The two data sets' files have the same names: a folder mnist/ is never read as Fashion-MNIST.
    """
    belongs_to_another = folder.name in _PUBLISHED and folder.name != name
    return [folder / name] if belongs_to_another else [folder / name, folder]


def _idx_files(place: Path) -> dict[str, Path]:
    """Map those of the four file names that a folder holds to the files found."""
    spellings = {
        file: (file, f"{file}.gz", dotted := file.replace("-idx", ".idx"), f"{dotted}.gz")
        for file in _FILES
    }
    return {
        file: place / names[0]
        for file in _FILES
        if (names := [name for name in spellings[file] if os.path.isfile(place / name)])
    }


def _not_there(folder: Path, name: str) -> str:
    found = [str(path) for place in _places(folder, name) for path in _idx_files(place).values()]
    if not os.path.isdir(folder):
        found = ["no such folder"]
    return (
        f"{folder}: must hold {name} as {', '.join(_FILES)} (plain or .gz) or as {name}.npz, "
        f"directly or in {name}/; found {', '.join(found) or 'none of them'}"
    )


def _download(name: str, folder: Path) -> None:
    from photonic_ffzero.data.download import download

    published = _PUBLISHED[name]
    for file, sha256 in zip(_FILES, published.sha256, strict=True):
        url = f"{published.url}{file}.gz"
        try:
            download(url, folder / f"{file}.gz", sha256)
        except DataError as error:
            raise _DownloadError(f"{name} cannot be downloaded from {url}: {error}") from error


def _read_idx_files(name: str, files: Mapping[str, Path]) -> Dataset:
    parts = [
        Part(str(files[file]), read_idx(files[file], 3 if "images" in file else 1))
        for file in _FILES
    ]
    return _dataset(name, f"IDX files in {files[_FILES[0]].parent}", parts, 10)


def _read_npz_file(name: str, path: Path, classes: int | None = 10) -> Dataset:
    arrays = read_npz(path, _NPZ_ARRAYS)
    parts = [Part(f"{path}, array {key}", arrays[key]) for key in _NPZ_ARRAYS]
    return _dataset(name, f"NumPy file {path}", parts, classes)


def _dataset(name: str, source: str, parts: list[Part], classes: int | None) -> Dataset:
    """Check the four parts, alone and against each other; None counts the classes."""
    x_train, y_train, x_test, y_test = parts
    for images, labels in ((x_train, y_train), (x_test, y_test)):
        if images.array.ndim != 3 or labels.array.shape != images.array.shape[:1]:
            raise DataError(
                f"{labels.where}: must have shape [n] for the images [n, H, W] of {images.where}, "
                f"found {labels.array.shape} for {images.array.shape}"
            )
    if x_train.array.shape[1:] != x_test.array.shape[1:]:
        raise DataError(
            f"{x_test.where}: must have images of the training set's size "
            f"{x_train.array.shape[1:]}, found {x_test.array.shape[1:]}"
        )
    classes = classes or count_classes(*y_train)
    return Dataset(
        name=name,
        source=source,
        train_images=_checked_images(x_train),
        train_labels=checked_labels(y_train, classes),
        test_images=_checked_images(x_test),
        test_labels=checked_labels(y_test, classes),
        num_classes=classes,
    )


def _checked_images(part: Part) -> np.ndarray:
    """Return images as float32 in [0, 1]: bytes divided by 255, or floats that already are."""
    where, images = part
    if images.dtype == np.uint8:
        return np.divide(images, 255, dtype=np.float32)
    if images.dtype.kind != "f":
        raise DataError(f"{where}: must be uint8, or float in [0, 1]; found {images.dtype}")
    low, high = images.min(), images.max()
    if not (low >= 0 and high <= 1):  # NaN compares false
        raise DataError(f"{where}: floats must be finite and in [0, 1], found {low} to {high}")
    return images.astype(np.float32)


# --- scikit-learn's digits --------------------------------------------------------------------


def _load_digits(note: str = "") -> Dataset:
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    images = (digits.images / 16).astype(np.float32)
    labels = digits.target.astype(np.int64)
    train, test = train_test_split(
        np.arange(len(labels)), test_size=_DIGITS_TEST, stratify=labels, random_state=0
    )
    return Dataset(
        "digits", "scikit-learn", images[train], labels[train], images[test], labels[test], 10, note
    )


def _load_folder(folder: Path, size: int) -> Dataset:
    """Load a folder of images; the classes are mixed, so that the first few show all of them."""
    own_test_set = all((folder / part).is_dir() for part in _PARTS)
    if own_test_set:
        train, test, names = _load_parts(folder, size)
    else:
        images, labels, names = load_image_folder(folder, size)
        train, test = _hold_out_fifths(folder, images, labels, names)
    order = np.random.default_rng(0).permutation(len(train.y))
    test_set = "test/" if own_test_set else "a fifth of each class"
    return Dataset(
        name=folder.name,
        source=f"folder {folder}, made {size} x {size} grey pixels; for testing {test_set}",
        train_images=train.x[order],
        train_labels=train.y[order],
        test_images=test.x,
        test_labels=test.y,
        num_classes=len(names),
        class_names=names,
    )


class _Labelled(NamedTuple):
    """Images with their labels."""

    x: np.ndarray
    y: np.ndarray


def _load_parts(folder: Path, size: int) -> tuple[_Labelled, _Labelled, tuple[str, ...]]:
    (train, names), (test, others) = (
        (_Labelled(images, labels), names)
        for images, labels, names in (load_image_folder(folder / part, size) for part in _PARTS)
    )
    if names != others:
        raise DataError(
            f"{folder}: train/ and test/ must have the same classes, found "
            f"{', '.join(sorted({*names} ^ {*others}))} in one of them alone"
        )
    return train, test, names


def _hold_out_fifths(
    folder: Path, x: np.ndarray, y: np.ndarray, names: tuple[str, ...]
) -> tuple[_Labelled, _Labelled]:
    """Hold out a fifth of every class, but at least one image."""
    held_out = np.zeros(len(y), bool)
    for label, name in enumerate(names):
        own = np.flatnonzero(y == label)
        if len(own) < 2:
            raise DataError(
                f"{folder / name}: must hold at least 2 images, one of them to test with; found 1"
            )
        held_out[own[split(len(own), max(1, len(own) // 5))[1]]] = True
    return _Labelled(x[~held_out], y[~held_out]), _Labelled(x[held_out], y[held_out])
