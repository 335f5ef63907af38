"""Keeps the module paths of version 0.1 importable for one release.

`redirect` installs a finder behind Python's own: a name in its table imports the module's new
place, the same module object, and warns.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Mapping, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import CodeType, ModuleType
from typing import Any

__all__ = ["redirect"]


class _FormerPaths(MetaPathFinder, Loader):
    def __init__(self, moved: Mapping[str, str]) -> None:
        self._moved = moved

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name not in self._moved:
            return None
        place = find_spec(self._moved[name])  # ``python -m`` makes its origin sys.argv[0]
        return ModuleSpec(name, self, origin=place.origin if place else None)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        place = self._moved[spec.name]
        warnings.warn(f"{spec.name} has moved to {place}", DeprecationWarning, stacklevel=2)
        module = importlib.import_module(place)
        spec.loader_state = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Give the module back its spec: the import system has put the former path's there."""
        spec = module.__spec__
        if spec is not None:
            module.__spec__ = spec.loader_state

    def get_code(self, name: str) -> CodeType:
        """The code that ``python -m`` runs."""
        place = self._moved[name]
        loader: Any = find_spec(place).loader  # type: ignore[union-attr]
        return loader.get_code(place)


def redirect(package: str, moved: Mapping[str, str]) -> None:
    """Let former module names of a package, without its own, import their new places."""
    table = {f"{package}.{former}": f"{package}.{place}" for former, place in moved.items()}
    sys.meta_path.append(_FormerPaths(table))
