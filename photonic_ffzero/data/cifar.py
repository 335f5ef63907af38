"""CIFAR-10: find its binary files, or download them, and read them."""

from __future__ import annotations

import os
import secrets
import shutil
import tarfile
from pathlib import Path

import numpy as np

from meshes.files import MAX_BYTES, DataError, read_file, read_up_to, write_bytes
from photonic_ffzero.data.published import (
    DownloadError,
    Source,
    locations,
    open_url,
    retrieve,
)

CIFAR_CLASSES = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)

_FOLDER, _ARCHIVE = "cifar-10-batches-bin", "cifar-10-binary.tar.gz"
_PICKLED = ("cifar-10-batches-py", "cifar-10-batches-py.tar.gz", "cifar-10-python.tar.gz")
_URL = f"https://www.cs.toronto.edu/~kriz/{_ARCHIVE}"
_SHA256 = "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"
_FILES = (*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin")
_SIDE, _RECORDS = 32, 10_000
_RECORD = 1 + 3 * _SIDE**2  # bytes: a label, then the red, the green and the blue pixels, by rows


def read_cifar(data_dir: str | os.PathLike[str] | None = None) -> Source:
    """Read CIFAR-10 from the locations that `load_dataset` describes, in its binary version.

    Reference: A. Krizhevsky, "The CIFAR-10 dataset", section "binary version".
    """
    folders, named = locations(data_dir)
    for folder in folders:
        for place in (folder, folder / _FOLDER, folder / "cifar-10" / _FOLDER):
            if all(os.path.isfile(place / file) for file in _FILES):
                return _read_folder(place)
    hint = _hint(folders)
    if named:
        raise DataError(
            f"{named} {folders[0]}: must hold {_FOLDER}/ with {', '.join(_FILES)}; found "
            f"{hint or 'none of them'}"
        )
    try:
        return _read_folder(_download(folders[-1]))
    except DownloadError as error:
        raise DownloadError(f"{error}{hint and f'; found {hint}'}") from error


def _hint(folders: list[Path]) -> str:
    """What to take instead of the version of Python's pickles, if only that is there."""
    for folder in folders:
        for name in _PICKLED:
            if os.path.exists(folder / name):
                return (
                    f"{folder / name}, which is pickled, and nothing is unpickled: take the "
                    f"binary version, {_URL}"
                )
    return ""


def _read_folder(folder: Path) -> Source:
    train = [_read_batch(folder / file) for file in _FILES[:-1]]
    test = _read_batch(folder / _FILES[-1])
    images, labels = (np.concatenate(parts) for parts in zip(*train, strict=True))
    places = (f"{folder / 'data_batch_*.bin'}", f"{folder / _FILES[-1]}")
    return f"binary files in {folder}", {
        f"{places[0]}, images": images,
        f"{places[0]}, labels": labels,
        f"{places[1]}, images": test[0],
        f"{places[1]}, labels": test[1],
    }


def _read_batch(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Images [10000, 32, 32, 3] and labels [10000] as bytes."""
    size = _RECORDS * _RECORD
    content = read_file(path)
    if len(content) != size:
        raise DataError(
            f"{path}: must have {size} bytes, {_RECORDS} records of {_RECORD}, found {len(content)}"
        )
    records = np.frombuffer(content, np.uint8).reshape(_RECORDS, _RECORD)
    labels = records[:, 0]
    if labels.max() >= len(CIFAR_CLASSES):
        index = int(labels.argmax())
        raise DataError(
            f"{path}: labels must be in 0..{len(CIFAR_CLASSES) - 1}, found {labels[index]} in "
            f"record {index}"
        )
    return records[:, 1:].reshape(_RECORDS, 3, _SIDE, _SIDE).transpose(0, 2, 3, 1), labels


def _download(cache: Path) -> Path:
    """Download the archive and unpack its six files; several processes may do so at once."""
    folder, download = cache / _FOLDER, cache / f".{_FOLDER}-{secrets.token_hex(8)}"
    try:
        retrieve("cifar-10", _URL, _SHA256, download / _ARCHIVE, _save)
        folder.mkdir(exist_ok=True)
        with tarfile.open(download / _ARCHIVE) as packed:
            for file in _FILES:
                _unpack(packed, file, folder)
    finally:
        shutil.rmtree(download, ignore_errors=True)
    return folder


def _unpack(packed: tarfile.TarFile, file: str, folder: Path) -> None:
    member = packed.extractfile(f"{_FOLDER}/{file}")
    if member is None:
        raise DataError(f"{_ARCHIVE}: must hold {_FOLDER}/{file} as a file")
    content = read_up_to(member, _RECORDS * _RECORD + 1)
    write_bytes(folder / file, content)


def _save(url: str, output_file: str, pooch: object) -> None:
    """Download for pooch; content beyond `MAX_BYTES` is cut off and fails the checksum."""
    with open_url(url) as response:
        Path(output_file).write_bytes(read_up_to(response, MAX_BYTES))
