"""Keeps the module paths of version 0.1 importable for one release.

Importing a former path warns and gives the module at its present path, the same object.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Mapping
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any


class _FormerPaths(MetaPathFinder, Loader):
    def __init__(self, moved: Mapping[str, str]) -> None:
        self._moved = moved

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name not in self._moved:
            return None
        present: Any = find_spec(self._moved[name])
        return ModuleSpec(name, self, origin=present.origin)  # sys.argv[0] of ``python -m``

    def exec_module(self, module: ModuleType) -> None:
        former = module.__name__
        present = self._moved[former]
        warnings.warn(f"{former} has moved to {present}", DeprecationWarning, stacklevel=2)
        sys.modules[former] = importlib.import_module(present)  # the import system returns this one

    def get_code(self, name: str) -> Any:
        """The code that ``python -m`` runs."""
        present: Any = find_spec(self._moved[name])
        return present.loader.get_code(present.name)


def redirect(package: str, moved: Mapping[str, str]) -> None:
    """Let former module names, relative to a package, import their present places."""
    table = {f"{package}.{former}": f"{package}.{present}" for former, present in moved.items()}
    sys.meta_path.append(_FormerPaths(table))
