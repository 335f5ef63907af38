"""MNIST and Fashion-MNIST: find their files, or download them, and read them."""

from __future__ import annotations

import gzip
import logging
import os
import threading
import zlib
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from meshes.files import MAX_BYTES, DataError, read_npz, read_up_to
from meshes.validation import closest
from photonic_ffzero.data.readers import read_idx

DATA_VARIABLE = "PHOTONIC_FFZERO_DATA"
"""Environment variable with the folder that holds mnist/ and fashion-mnist/."""

_TIMEOUT = 5.0  # seconds to reach the server, and between two pieces of its answer
_FILES = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
_ARRAYS = ("x_train", "y_train", "x_test", "y_test")


class Published(NamedTuple):
    """A data set of four gzip-compressed IDX files."""

    url: str
    sha256: tuple[str, str, str, str]  # of the decompressed content: mirrors' .gz files differ
    num_classes: int = 10


PUBLISHED = {
    "mnist": Published(
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
        (
            "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        ),
    ),
    "fashion-mnist": Published(
        "https://storage.googleapis.com/tensorflow/tf-keras-datasets/",
        (
            "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
            "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
            "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
            "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        ),
    ),
}


class DownloadError(DataError):
    """A data set is on none of the default locations and cannot be downloaded."""


Source = tuple[str, dict[str, np.ndarray]]
"""Where data are from, in words, and place -> array: x, y for training, then x, y for testing."""


def read_published(name: str, data_dir: str | os.PathLike[str] | None = None) -> Source:
    """Read a data set of `PUBLISHED`, from the locations that `load_dataset` describes.

    A location that the user names, as an argument or in ``PHOTONIC_FFZERO_DATA``, is binding:
    files that are not there are an error and never a reason to look or download elsewhere.
    """
    folders, named = locations(data_dir)
    places = []
    for folder in folders:
        # Both data sets' files have the same names: mnist/ is never read as Fashion-MNIST.
        belongs_to_another = folder.name in PUBLISHED and folder.name != name
        places += [folder / name] if belongs_to_another else [folder / name, folder]
    for place in places:
        if len(files := _idx_files(place)) == len(_FILES):
            return _read_idx_files(files)
        if os.path.isfile(archive := place / f"{name}.npz"):
            return read_archive(archive)
    if not named:
        return _read_idx_files(_download(name, folders[-1] / name))
    found = ", ".join(str(file) for place in places for file in _idx_files(place)) or "none of them"
    raise DataError(
        f"{named} {folders[0]}: must hold {name} as {'-ubyte, '.join(_FILES)}-ubyte (plain or "
        f".gz) or as {name}.npz, directly or in {name}/; found {found}"
    )


def locations(data_dir: str | os.PathLike[str] | None) -> tuple[list[Path], str]:
    """Where published data sets are looked for, and the argument or variable that names it.

    Without a name, the last location is the cache that downloads go to.
    """
    named = os.environ.get(DATA_VARIABLE) or None if data_dir is None else data_dir
    if named is not None:
        folder, argument = expanded(named), DATA_VARIABLE if data_dir is None else "data_dir"
        if not folder.is_dir():
            beside = [path.name for path in folder.parent.glob("*") if path.is_dir()]
            raise DataError(
                f"{argument} {folder}: must be a folder, found "
                f"{'a file' if folder.exists() else 'none'}{closest(folder.name, beside)}"
            )
        return [folder], argument
    cache = expanded(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "photonic_ffzero"
    return [expanded("~/.keras/datasets"), cache], ""


def read_archive(path: Path) -> Source:
    """Read the arrays x_train, y_train, x_test and y_test of a ``.npz`` file."""
    arrays = read_npz(path, _ARRAYS)
    return f"NumPy file {path}", {f"{path}, array {name}": arrays[name] for name in _ARRAYS}


def expanded(path: str | os.PathLike[str]) -> Path:
    """Return an absolute path, with ``~`` replaced by the home folder."""
    return Path(os.path.abspath(os.path.expanduser(path)))


def open_url(url: str) -> Any:
    """Open a URL, or raise an OSError within the time-out.

    urlopen's time-out holds for each address of a server and not for the look-up of its name;
    where a firewall drops packets they take minutes. A daemon thread can be abandoned.
    """
    import urllib.request

    answer: Future[Any] = Future()

    def ask() -> None:
        try:
            answer.set_result(urllib.request.urlopen(url, timeout=_TIMEOUT))
        except BaseException as error:  # passed on to the thread that waits
            answer.set_exception(error)

    threading.Thread(target=ask, daemon=True).start()
    try:
        return answer.result(_TIMEOUT)
    except TimeoutError:
        raise TimeoutError(f"no answer within {_TIMEOUT:g} s") from None


def _idx_files(place: Path) -> list[Path]:
    """List those of the four files that a folder holds: plain or .gz, with -idx or .idx."""
    present = []
    for file in _FILES:
        pattern = f"{file.replace('-idx', '[-.]idx')}-ubyte"
        paths = [*place.glob(pattern), *place.glob(f"{pattern}.gz")]
        present += [path for path in sorted(paths) if os.path.isfile(path)][:1]
    return present


def _read_idx_files(files: list[Path]) -> Source:
    arrays = {str(file): read_idx(file, 3 if "images" in file.name else 1) for file in files}
    return f"IDX files in {files[0].parent}", arrays


def _download(name: str, folder: Path) -> list[Path]:
    """Download the four files; each appears in the folder, decompressed, once it is checked."""
    published, files = PUBLISHED[name], [f"{file}-ubyte" for file in _FILES]
    for file, sha256 in zip(files, published.sha256, strict=True):
        retrieve(name, f"{published.url}{file}.gz", sha256, folder / file, _save_unpacked)
    return [folder / file for file in files]


def retrieve(
    name: str, url: str, sha256: str, path: Path, save: Callable[[str, str, object], None]
) -> None:
    """Download a file of a data set unless it is there; it appears once its content is checked.

    Args:
        name: The data set.
        url: Where the file is.
        sha256: Checksum of what ``save`` writes.
        path: Where the file goes.
        save: Downloads from an address to a file, see `pooch.retrieve`.
    """
    import http.client

    import pooch

    pooch.get_logger().setLevel(logging.WARNING)  # else it prints a line for each file
    try:
        pooch.retrieve(url, f"sha256:{sha256}", path.name, path.parent, downloader=save)
    except (OSError, EOFError, ValueError, zlib.error, http.client.HTTPException) as error:
        reason = str(error) or type(error).__name__
        raise DownloadError(f"{name} cannot be downloaded from {url}: {reason}") from error


def _save_unpacked(url: str, output_file: str, pooch: object) -> None:
    """Download for pooch; content beyond `MAX_BYTES` is cut off and fails the checksum."""
    with open_url(url) as response, gzip.GzipFile(fileobj=response) as content:
        Path(output_file).write_bytes(read_up_to(content, MAX_BYTES))
