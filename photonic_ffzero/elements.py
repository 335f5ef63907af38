"""What stands between layers: a named element, a measured table, a function; one or several."""

from __future__ import annotations

import math
import os
import pkgutil
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

from meshes import NONLINEARITIES, Amplifier, Nonlinearity
from meshes.files import DataError
from meshes.measured import Table
from meshes.nonlinearities import BlackBox, spec_of_element
from meshes.validation import closest, counted, from_spec, quoted, with_values
from photonic_ffzero.layers.activations import ACTIVATIONS
from photonic_ffzero.settings import TEXT, ValueKind

BLACK_BOX = "black box "  # stands before the name of a function in config.json
TABLE = "table:"
_FILE = f"{TABLE}FILE.csv"
_FORMS = (_FILE, "MODULE:FUNCTION")
_FORM = "|".join(["NAME:key=value,...", *_FORMS])
_MODULE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")


@dataclass(frozen=True)
class Named:
    """``module:function`` of a command line, which is imported when the settings are checked."""

    text: str

    @property
    def __name__(self) -> str:
        return self.text

    def __call__(self, fields: Any) -> Any:
        return self.function(fields)

    @cached_property
    def function(self) -> Any:
        found = resolve("nonlinearity", self.text, NONLINEARITIES)
        if not callable(found):
            raise ValueError(f"nonlinearity {self.text} must be a function, found {quoted(found)}")
        return found


def resolve(name: str, text: str, known: Iterable[str] = ()) -> Any:
    """What ``module:name`` stands for; modules of the working directory count, too.

    ``known`` names what else the setting could have meant.
    """
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        return pkgutil.resolve_name(text)
    except Exception as error:  # whatever the module does when it is imported
        hint = closest(text.partition(":")[0], known)
        raise ValueError(f"{name} {text} cannot be found: {error}{hint}") from error


def on_command_line(text: str) -> Any:
    """The text of an element; or, of ``module:function``, a `Named` function."""
    return Named(text) if _names_function(text) and not _is_table(text) else text


def opens(value: Any) -> bool:
    """Whether a value of a file means a function or another file."""
    texts = [element.strip() for element in each(value) if isinstance(element, str)]
    return any(t.startswith(BLACK_BOX) or _is_table(t) or _names_function(t) for t in texts)


def _is_table(text: str) -> bool:
    return text.startswith(TABLE)


def _names_function(text: str) -> bool:
    known = text.partition(":")[0] in (*NONLINEARITIES, *ACTIVATIONS)
    return not known and _MODULE.fullmatch(text) is not None


def _checked_element(name: str, value: Any) -> Any:
    if isinstance(value, Mapping):
        return Table.from_json(value)
    element = value.function if isinstance(value, Named) else value
    if isinstance(element, type):
        raise TypeError(f"{name} must be an element, got the class {element.__name__}; call it")
    for registry in (NONLINEARITIES, ACTIVATIONS):
        if spec := spec_of_element(element, registry):
            return spec
    if isinstance(value, Table) or callable(value):
        return value
    text = TEXT.check(name, value)
    if not _is_table(text):
        return text
    try:
        return Table.read(os.path.expanduser(text.removeprefix(TABLE)))
    except (DataError, OSError) as error:
        raise DataError(f"{name} {text}: {error}") from None


def _checked(name: str, value: Any) -> Any:
    """An element, or a tuple of two or more; which names there are depends on the network."""
    if not isinstance(value, (list, tuple)):
        return _checked_element(name, value)
    stages = tuple(_checked_element(name, element) for element in value)
    if not stages:
        raise ValueError(f"{name} must name an element, got none")
    return stages if len(stages) > 1 else stages[0]


def _checked_known(name: str, value: Any) -> Any:
    if is_function(element := _checked_element(name, value)):
        raise ValueError(f"{name} must be a named element or a table, got {quoted(value)}")
    built(name, element, NONLINEARITIES, (_FILE,))
    return element


NONLINEARITY = ValueKind(
    _checked,
    "NAME, NAME:key=value,..., table:FILE.csv or a function; or a list, one for each stage",
    on_command_line,
    metavar=_FORM,
    lists=True,
    opens=opens,
    repeats=True,
)
"""The values of a setting that names what stands between layers."""
KNOWN_NONLINEARITY = ValueKind(
    _checked_known,
    "NAME, NAME:key=value,... or table:FILE.csv",
    metavar="NAME:key=value,...|table:FILE.csv",
    lists=True,
    opens=opens,
)
"""The values of a setting that names one element that this program can compute with."""


def each(value: Any) -> tuple[Any, ...]:
    """The elements of a value."""
    return tuple(value) if isinstance(value, (list, tuple)) else (value,)


def is_function(element: Any) -> bool:
    return callable(element) and not isinstance(element, Table)


def built(
    name: str, element: Any, registry: Mapping[str, Any], forms: Sequence[str] = _FORMS
) -> Any:
    """The nonlinearity of a checked element.

    ``forms`` is what an error names beside the registry: it tells who guesses what else there is.
    """
    if is_function(element):
        return BlackBox(element)
    if isinstance(element, Table):
        if registry is not NONLINEARITIES:
            raise ValueError(f"{name} {element} is for meshes: its table is of light, not numbers")
        return element
    if _names_function(element):
        raise ValueError(
            f"{name} {element}: a function is named on the command line alone, never in a file; "
            f"in Python pass the function itself{closest(element.partition(':')[0], registry)}"
        )
    return from_spec(name, element, registry, forms)


def nonlinearity_of(name: str, value: Any, kind: ValueKind = NONLINEARITY) -> Any:
    """A nonlinearity of meshes as it is, or the one that a value of a setting stands for."""
    if isinstance(value, Nonlinearity):
        return value
    return built(name, kind.check(name, value), NONLINEARITIES)


def amplifier_of(name: str, value: Amplifier | str | None) -> Amplifier | None:
    """An amplifier as it is, or the one that ``gain=G`` or ``level=P`` stands for."""
    if value is None or isinstance(value, Amplifier):
        return value
    return None if value == "" else with_values(name, "", value, Amplifier)


def as_json(value: Any) -> Any:
    """A checked value as JSON: texts, whole tables, and functions by their names alone."""
    if isinstance(value, tuple):
        return [as_json(element) for element in value]
    if isinstance(value, Table):
        return value.as_json()
    return f"{BLACK_BOX}{getattr(value, '__name__', '?')}" if callable(value) else value


def as_text(value: Any) -> Any:
    """An element of `as_json` as a command line names it; any other value as it is."""
    if isinstance(value, Mapping):
        return f"{TABLE}{value.get('table')}"
    return value.removeprefix(BLACK_BOX) if isinstance(value, str) else value


def functions_named(value: Any) -> list[str]:
    """``module:function`` for each function of a value of `as_json`, as a command line names it."""
    texts = [element for element in each(value) if isinstance(element, str)]
    names = [text.removeprefix(BLACK_BOX) for text in texts if text.startswith(BLACK_BOX)]
    return [name if _MODULE.fullmatch(name) else "MODULE:FUNCTION" for name in names]


def from_file(value: Any, functions: Any = None) -> Any:
    """A value of a file, with its functions, which no file holds; a file opens no other file.

    Args:
        value: What `as_json` made.
        functions: The function, or one for each of them.
    """
    elements = list(value) if isinstance(value, (list, tuple)) else [value]
    for element in elements:
        if isinstance(element, str) and _is_table(element):
            raise ValueError(f"the nonlinearity {element!r}: a file must hold the table itself")
    boxes = [i for i, e in enumerate(elements) if isinstance(e, str) and e.startswith(BLACK_BOX)]
    if boxes and functions is None:
        function = elements[boxes[0]].removeprefix(BLACK_BOX)
        again = functions_named(value)
        names = again[0] if len(again) == 1 else f"[{', '.join(again)}]"
        flags = " ".join(f"--nonlinearity {name}" for name in again)
        raise ValueError(
            f"nonlinearity {quoted(function)} is a function, which no file holds: name it again, "
            f"in Python nonlinearity={names.replace(':', '.')}, on a command line {flags}"
        )
    new = list(functions) if isinstance(functions, Sequence) else [functions] * len(boxes)
    if functions is not None and len(new) != len(boxes):
        raise ValueError(f"nonlinearity must be {counted(len(boxes), 'function')}, got {len(new)}")
    for place, function in zip(boxes, new, strict=True):
        elements[place] = function
    return elements if isinstance(value, (list, tuple)) else elements[0]


def listed(registry: Mapping[str, Any]) -> str:
    """The names of a registry, with the parameters of each and their defaults."""
    defaults = {
        name: ",".join(f"{item.name}={_exact(item.default)}" for item in fields(cls))
        for name, cls in registry.items()
    }
    return ", ".join(":".join(filter(None, entry)) for entry in defaults.items())


def _exact(value: Any) -> str:
    """A number as a flag takes it: short where that changes nothing, or as a multiple of pi."""
    for unit, suffix in ((1.0, ""), (math.pi, "*pi")):
        text = f"{value / unit:.4g}"
        if math.isclose(float(text) * unit, value, rel_tol=1e-12):
            return f"{text}{suffix}".removeprefix("1*")
    return repr(value)
