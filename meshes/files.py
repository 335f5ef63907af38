"""Files from outside: nothing is unpickled, and sizes are checked before they cost memory."""

from __future__ import annotations

import math
import os
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

MAX_BYTES = 2**28
"""Largest array read from a file, in bytes, and largest text."""
_MAX_NPY_HEADER = 1000  # characters; NumPy writes 118 for plain numbers


class FileError(ValueError):
    """A file that cannot be used; names the file, the rule and the value found."""


@contextmanager
def reading(path: Path, kind: str) -> Iterator[None]:
    """Turn the errors of zipfile, NumPy and parsers, of a dozen types, into a `FileError`."""
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    except FileError:
        raise
    except Exception as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise FileError(f"{path}: cannot be read as {kind}: {reason.splitlines()[0]}") from error


def read_text(path: str | os.PathLike[str], kind: str, max_bytes: int = MAX_BYTES) -> str:
    """Read a regular file of at most ``max_bytes`` as text in UTF-8."""
    path = Path(path)
    with reading(path, kind):
        if not path.is_file():
            raise FileError(f"{path}: must be a regular file")
        if (size := path.stat().st_size) > max_bytes:
            raise FileError(f"{path}: must have at most {max_bytes} bytes, found {size}")
        return path.read_text(encoding="utf-8-sig")


class Archive(Mapping[str, np.ndarray]):
    """The arrays of an open ``.npz`` archive, each read when it is asked for."""

    def __init__(self, path: Path, file: zipfile.ZipFile) -> None:
        self.path, self._file = path, file
        self._names = [name[:-4] for name in file.namelist() if name.endswith(".npy")]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of an array, which is checked against the bytes that are there."""
        with self._member(name) as stream:
            shape, dtype = self._header(name, stream)
            size = math.prod(shape) * dtype.itemsize
            present = self._file.getinfo(f"{name}.npy").file_size - stream.tell()
        if not 0 < size <= MAX_BYTES or size != present:
            raise FileError(
                f"{self.path}, array {name}: the header's shape {shape} of {dtype} means {size} "
                f"bytes, which must be in 1..{MAX_BYTES} and follow the header; found {present}"
            )
        return shape

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self._names:
            raise KeyError(name)
        self.shape(name)
        with self._member(name) as stream:
            return np.lib.format.read_array(stream, allow_pickle=False)

    def _header(self, name: str, stream: Any) -> tuple[tuple[int, ...], np.dtype]:
        where = f"{self.path}, array {name}"
        member = self._file.getinfo(f"{name}.npy")
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise FileError(f"{where}: must be stored or deflated")
        if (version := np.lib.format.read_magic(stream)) != (1, 0):
            raise FileError(f"{where}: must be in NumPy's format 1.0, found {version}")
        shape, _, dtype = np.lib.format.read_array_header_1_0(stream, _MAX_NPY_HEADER)
        if dtype.kind not in "biuf":
            raise FileError(f"{where}: must hold real numbers, found {dtype}")
        return shape, dtype

    @contextmanager
    def _member(self, name: str) -> Iterator[Any]:
        with (
            reading(Path(f"{self.path}, array {name}"), "numbers"),
            self._file.open(f"{name}.npy") as stream,
        ):
            yield stream


@contextmanager
def open_npz(path: str | os.PathLike[str]) -> Iterator[Archive]:
    """Open a ``.npz`` archive of real numbers."""
    path = Path(path)
    with reading(path, "an .npz archive"):
        if not path.is_file():
            raise FileError(f"{path}: must be a regular file")
        file = zipfile.ZipFile(path)
    with file:
        yield Archive(path, file)
