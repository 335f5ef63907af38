"""Compiled kernels on disk, by Numba's cache: checked before they are used, and never needed.

Numba unpickles and runs what it finds there. So the folder must belong to this user, to root or to
the owner of this code, others must not be able to write to it, and each file starts with a SHA-256
of the rest. Any error of the cache costs a compilation and one warning.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import stat
import warnings
from typing import Any

from numba import njit
from numba.core.caching import FunctionCache, IndexDataCacheFile

_DIGEST = hashlib.sha256().digest_size
_INLINED = ("kernels.py", "simd.py")  # files whose functions become part of kernels elsewhere
_warned = False


def kernel(function: Any) -> Any:
    """Compile a function at its first call, and keep the code on disk where that is safe."""
    compiled: Any = njit(nogil=True)(function)
    try:
        compiled._cache = _KernelCache(function)
    except Exception as error:  # Numba finds no directory, or the one that it finds is not safe
        _warn(error)
    return compiled


class _KernelCache(FunctionCache):
    def __init__(self, function: Any) -> None:
        super().__init__(function)
        files = self._cache_file
        name = f"{self._impl.filename_base}.checked"
        stamp = (files._source_stamp, *map(_stamp, _INLINED))
        self._cache_file = _CheckedFiles(self._cache_path, name, stamp)

    def load_overload(self, *arguments: Any) -> Any:
        try:
            _check_folder(self._cache_path)
            return super().load_overload(*arguments)
        except Exception as error:
            _warn(error)
            return self._start_anew()

    def save_overload(self, *arguments: Any) -> None:
        try:
            super().save_overload(*arguments)
        except Exception as error:
            _warn(error)
            self.disable()

    def _start_anew(self) -> None:
        try:
            _check_folder(self._cache_path)
            self.flush()
        except Exception:
            self.disable()


class _CheckedFiles(IndexDataCacheFile):
    """Numba's files, each with its digest in front, so that nothing damaged is unpickled."""

    def _load_index(self) -> dict[Any, str]:
        try:
            version, stamp, names = self._load_data(self._index_name)
        except FileNotFoundError:
            return {}
        return names if (version, stamp) == (self._version, self._source_stamp) else {}

    def _save_index(self, names: dict[Any, str]) -> None:
        self._save_data(self._index_name, (self._version, self._source_stamp, names))

    def _load_data(self, name: str) -> Any:
        with open(self._data_path(name), "rb") as file:
            digest, content = file.read(_DIGEST), file.read()
        if hashlib.sha256(content).digest() != digest:
            raise ValueError(f"{self._data_path(name)} is damaged")
        return pickle.loads(content)

    def _dump(self, content: Any) -> bytes:
        pickled = super()._dump(content)
        return hashlib.sha256(pickled).digest() + pickled


def _stamp(name: str) -> tuple[float, int]:
    """What changes with a file of this folder."""
    status = os.stat(os.path.join(os.path.dirname(__file__), name))
    return status.st_mtime, status.st_size


def _check_folder(path: str) -> None:
    if not hasattr(os, "getuid") or not os.path.exists(path):
        return
    status = os.stat(path)
    trusted = (0, os.getuid(), os.stat(__file__).st_uid)
    if status.st_uid not in trusted or status.st_mode & stat.S_IWOTH:
        raise PermissionError(f"{path} belongs to another user, or others may write to it")


def _warn(error: Exception) -> None:
    global _warned
    if not _warned:
        _warned = True
        text = f"kernels are compiled anew, as their cache failed ({type(error).__name__}: {error})"
        warnings.warn(text, RuntimeWarning, stacklevel=3)
