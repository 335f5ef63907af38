"""Files: nothing is unpickled, sizes are checked before they cost memory, and what is written is
either whole or not there."""

from __future__ import annotations

import errno
import gzip
import io
import math
import os
import secrets
import stat
import time
import warnings
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, BinaryIO, NamedTuple

import numpy as np

MAX_BYTES = 2**28
"""Most bytes of the arrays read from a file: more than five times MNIST's training images."""
MAX_FILE = 2**26
"""Largest file read as a whole, in bytes, such as an image."""

TEMPORARY = ".photonic_ffzero-"
"""Begins the names of temporary files."""
_STALE = 3600.0  # seconds after which nobody writes a temporary file any more
_PIECE = 2**20
_NOT_FILES = {
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
_MAX_READ = 2**22  # bytes of an archive's directory; a member takes some 80
_LISTED = 4  # arrays that an error names
_MAX_NPY_HEADER = 1000  # characters; NumPy writes 118 for plain numbers


class DataError(ValueError):
    """Data that cannot be used; names the file or argument, the rule and the value found."""


def open_regular(path: str | os.PathLike[str]) -> io.BufferedReader:
    """Open a regular file, or a link to one: a device or a pipe may wait or send for ever."""
    _check_regular(path, os.stat(path))  # before it is opened, which may do something to a device

    def opened(name: str, flags: int) -> int:
        descriptor = os.open(name, flags | os.O_NONBLOCK)  # do not wait for the writer of a pipe
        try:
            _check_regular(path, os.fstat(descriptor))  # it may have been replaced in between
        except DataError:
            os.close(descriptor)
            raise
        return descriptor

    return open(path, "rb", opener=opened)


def read_file(path: str | os.PathLike[str], max_bytes: int = MAX_FILE) -> bytearray:
    """Read a regular file of at most ``max_bytes`` as a whole; an `OSError` passes unchanged."""
    with open_regular(path) as file:
        content = read_up_to(file, max_bytes + 1)
    if len(content) > max_bytes:
        raise DataError(f"{path}: must have at most {max_bytes} bytes, found more")
    return content


def read_text(path: str | os.PathLike[str], kind: str, max_bytes: int = MAX_FILE) -> str:
    """Read a regular file of at most ``max_bytes`` as text in UTF-8; ``kind`` is for errors."""
    with reading(path, kind):
        return read_file(path, max_bytes).decode("utf-8-sig")


def read_npz(
    path: str | os.PathLike[str], names: Iterable[str], max_bytes: int = MAX_BYTES
) -> dict[str, np.ndarray]:
    """Read the named arrays of numbers, together at most ``max_bytes``, from a ``.npz`` archive."""
    with open_npz(path, max_bytes) as archive:
        return archive.read_all(list(names))


@contextmanager
def open_npz(
    path: str | os.PathLike[str], max_bytes: int = MAX_BYTES, kinds: str = "iufc"
) -> Iterator[Archive]:
    """Open a ``.npz`` archive whose arrays have at most ``max_bytes`` each, of these kinds."""
    path = Path(path)
    with ExitStack() as files:
        with reading(path, "an .npz archive"):
            raw = open_regular(path).detach()
            archive = zipfile.ZipFile(files.enter_context(_SmallReads(raw)))
        yield Archive(path, archive, max_bytes, kinds)


def read_up_to(stream: IO[bytes] | gzip.GzipFile, count: int) -> bytearray:
    """Read at most ``count`` bytes, taking memory only for those that are really there."""
    data = bytearray()
    while piece := stream.read(min(_PIECE, count - len(data))):
        data += piece
    return data


@contextmanager
def reading(where: str | os.PathLike[str], kind: str) -> Iterator[None]:
    """Turn the errors of gzip, zipfile, NumPy and Pillow, of a dozen types, into a `DataError`."""
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    except DataError:
        raise
    except FileNotFoundError as error:
        raise DataError(f"{where}: No such file or directory") from error
    except Exception as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise DataError(f"{where}: cannot be read as {kind}: {reason.splitlines()[0]}") from error


def check_size(
    where: Path | str, shape: tuple[int, ...], dtype: np.dtype, present: int, max_bytes: int
) -> None:
    """Compare the size that a header announces with the limit and with the bytes present."""
    size = math.prod(shape) * dtype.itemsize
    if not 0 < size <= max_bytes or size != present:
        raise DataError(
            f"{where}: the header's shape {shape} of {dtype} means {size} bytes, "
            f"which must be in 1..{max_bytes} and follow the header; found {present}"
        )


def _check_regular(path: str | os.PathLike[str], status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        kind = _NOT_FILES.get(stat.S_IFMT(status.st_mode), "something else")
        raise DataError(f"{path}: must be a regular file, found {kind}")


class _SmallReads(io.BufferedReader):
    """A file that is read in pieces, so that no header can ask for much memory at once.

    zipfile reads an archive's directory as a whole, and takes 20 times its size for it.
    """

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > _MAX_READ:
            raise DataError(
                f"{self.name}: an archive's directory must have at most {_MAX_READ} bytes, "
                f"found {size}"
            )
        return super().read(size)


class Archive(NamedTuple):
    """An open ``.npz`` archive of numbers, in NumPy's format 1.0 (later headers have no limit)."""

    path: Path
    file: zipfile.ZipFile
    max_bytes: int
    kinds: str = "iufc"  # of the arrays' types, as NumPy abbreviates them

    @property
    def names(self) -> list[str]:
        """The names of all arrays."""
        return [name[:-4] for name in self.file.namelist() if name.endswith(".npy")]

    @property
    def bytes_on_disk(self) -> int:
        """The size of the file."""
        return os.fstat(self.file.fp.fileno()).st_size  # type: ignore[union-attr]

    def header(self, name: str) -> tuple[tuple[int, ...], np.dtype]:
        """Shape and type of an array, checked against the bytes that are there."""
        with self._stream(name) as stream:
            member = self.file.getinfo(f"{name}.npy")
            where = f"{self.path}, array {name}"
            if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise DataError(f"{where}: must be stored or deflated")
            if (version := np.lib.format.read_magic(stream)) != (1, 0):
                raise DataError(f"{where}: must be in NumPy's format 1.0, found {version}")
            shape, _, dtype = np.lib.format.read_array_header_1_0(stream, _MAX_NPY_HEADER)
            if dtype.kind not in self.kinds:
                raise DataError(f"{where}: must hold numbers (nothing is unpickled), found {dtype}")
            check_size(where, shape, dtype, member.file_size - stream.tell(), self.max_bytes)
        return shape, dtype

    def read(self, name: str) -> np.ndarray:
        """An array, after its header was checked."""
        self.header(name)
        with self._stream(name) as stream:
            return np.lib.format.read_array(stream, allow_pickle=False)

    def read_all(self, names: Sequence[str]) -> dict[str, np.ndarray]:
        """Arrays that together have at most ``max_bytes``, all headers of which are read first."""
        headers = map(self.header, names)
        total = sum(math.prod(shape) * dtype.itemsize for shape, dtype in headers)
        if total > self.max_bytes:
            listed = ", ".join(names[:_LISTED]) + ", ..." * (len(names) > _LISTED)
            raise DataError(
                f"{self.path}: {listed} must take at most {self.max_bytes} bytes, found {total}"
            )
        return {name: self.read(name) for name in names}

    @contextmanager
    def _stream(self, name: str) -> Iterator[IO[bytes]]:
        if f"{name}.npy" not in self.file.NameToInfo:
            raise DataError(f"{self.path}: must hold an array {name}, found none")
        where = f"{self.path}, array {name}"
        with reading(where, "numbers"), self.file.open(f"{name}.npy") as stream:
            yield stream


def write_whole(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Let ``write(file)`` write a file, of which a reader sees the old or the new, never a part.

    The new content goes to a temporary file in the same folder, is forced to the disk, and then
    replaces the old file in one step. An `OSError` names the file and leaves the old one. Several
    processes may write the same file; the last one wins. A link is replaced, not followed.
    """
    partial = path.with_name(f"{TEMPORARY}{secrets.token_hex(8)}.partial")
    remove_temporary(path.parent, _STALE)
    try:
        if path.exists() and not path.is_file():  # root could replace a device
            raise OSError(errno.EINVAL, "must be a file or new")
        with open(partial, "xb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:  # the error of a full disk does not name the file
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error
    finally:
        with suppress(OSError):  # a folder that became read-only must not hide the first error
            partial.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes | bytearray) -> None:
    """Write a file's content, see `write_whole`."""
    write_whole(path, lambda file: file.write(content))


def remove_temporary(folder: Path, age: float = 0.0) -> None:
    """Remove temporary files that are at least ``age`` seconds old: those of killed processes.

    With an age of 0 nobody else may write into the folder. Files of other names stay.
    """
    for partial in folder.glob(f"{TEMPORARY}*.partial"):
        with suppress(OSError):
            if time.time() - partial.lstat().st_mtime >= age:
                partial.unlink()
