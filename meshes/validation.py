"""Checks of arguments, each with an error that names the argument, the rule and the value found."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, field, fields, replace
from decimal import Decimal
from difflib import get_close_matches
from numbers import Integral, Real
from types import MappingProxyType
from typing import Any

import numpy as np

_NO_NUMBERS = (bool, np.timedelta64)  # Python and NumPy count them among the numbers
_LONGEST_VALUE, _LONGEST_LINE = 100, 1000  # characters of a value and of an error in a terminal


def quoted(value: Any) -> str:
    """The ``repr`` of a value on one line; a long one is cut."""
    try:
        text = " ".join(repr(value).split("\n"))
    except Exception:  # foreign objects, and whole numbers of more than 4300 digits
        text = f"a {type(value).__name__} that cannot be printed"
    return text if len(text) <= _LONGEST_VALUE else f"{text[:80]}...{text[-10:]}"


def one_line(text: str) -> str:
    """A text for one line of a terminal: control characters as escapes; cut if it is very long."""
    if len(text) > _LONGEST_LINE:
        text = f"{text[: _LONGEST_LINE - 200]} ... {text[-200:]}"
    return printable(text)


def printable(text: str) -> str:
    """A text with escapes for control characters, which could clear or rewrite a terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def counted(number: int | None, noun: str) -> str:
    """A number of things: ``1 epoch``, ``2 epochs``."""
    return f"{number} {noun if number == 1 else plural(noun)}"


def plural(noun: str) -> str:
    """The plural of a noun: ``epochs``, ``meshes``, ``patches``."""
    return f"{noun}es" if noun in ("mesh", "patch") else f"{noun}s"


def integer(
    name: str, value: Any, *, minimum: int | None = None, maximum: int | None = None
) -> int:
    """Return a whole number of Python, NumPy or TensorFlow as an int; a bool is none."""
    scalar = _scalar(value)
    if isinstance(scalar, _NO_NUMBERS) or not isinstance(scalar, Integral):
        raise TypeError(f"{name} must be a whole number, got {quoted(value)}")
    value = int(scalar)
    if minimum is not None and value < minimum:
        raise ValueError(f"{name} must be at least {minimum}, got {quoted(value)}")
    if maximum is not None and value > maximum:
        raise ValueError(f"{name} must be at most {maximum}, got {quoted(value)}")
    return value


def number(
    name: str,
    value: Any,
    *,
    minimum: float | None = None,
    maximum: float | None = None,
    above: float | None = None,
    below: float | None = None,
) -> float:
    """Return a number as a finite float within ``[minimum, maximum]`` and ``(above, below)``.

    Numbers are those of Python, NumPy and TensorFlow, fractions and decimals too; a bool is none.
    """
    scalar = _scalar(value)
    if isinstance(scalar, _NO_NUMBERS) or not isinstance(scalar, (Real, Decimal)):
        raise TypeError(f"{name} must be a number, got {quoted(value)}")
    try:
        result = float(scalar)
    except (OverflowError, ValueError):  # 10**400, or a signalling NaN
        result = math.nan
    rules = [
        (math.isfinite(result), "finite"),
        (minimum is None or result >= minimum, f"at least {minimum}"),
        (maximum is None or result <= maximum, f"at most {maximum}"),
        (above is None or result > above, f"greater than {above}"),
        (below is None or result < below, f"less than {below}"),
    ]
    for holds, rule in rules:
        if not holds:
            raise ValueError(f"{name} must be {rule}, got {quoted(value)}")
    return result


def switch(name: str, value: Any) -> bool:
    """Return True or False of Python, NumPy or TensorFlow as a bool."""
    scalar = _scalar(value)
    if not isinstance(scalar, (bool, np.bool_)):
        raise TypeError(f"{name} must be True or False, got {quoted(value)}")
    return bool(scalar)


def text(name: str, value: Any) -> str:
    """Return a text of Python or NumPy as a str."""
    scalar = _scalar(value)
    if not isinstance(scalar, str):
        raise TypeError(f"{name} must be a text, got {quoted(value)}")
    return str(scalar)


def instance(name: str, value: Any, *classes: type) -> Any:
    """Return a value of one of these classes."""
    if not isinstance(value, classes):
        words = " or ".join(cls.__name__ for cls in classes)
        raise TypeError(f"{name} must be of class {words}, got {quoted(value)}")
    return value


def refuse_masked(name: str, value: Any, error: type[ValueError] = ValueError) -> None:
    """Refuse an array with masked values, whose hidden numbers NumPy would compute with."""
    if np.ma.is_masked(value):
        raise error(f"{name} must have no masked values, got {np.ma.count_masked(value)}")


def _scalar(value: Any) -> Any:
    """What an array or a tensor without dimensions holds; anything else as it is."""
    if not hasattr(value, "__array__") or np.ndim(value):
        return value
    return np.asarray(value)[()]


def keep(instance: Any, **values: Any) -> None:
    """Replace fields of a frozen dataclass by their checked values, in its ``__post_init__``."""
    for name, value in values.items():
        object.__setattr__(instance, name, value)


def number_field(default: Any = MISSING, **limits: float) -> Any:
    """Declare a dataclass field that `check_fields` requires to pass `number` with these limits.

    Without a default the field is required; a default of None makes it optional.
    """
    return field(default=default, metadata={"limits": limits})


def choice_field(default: str, options: Iterable[str]) -> Any:
    """Declare a dataclass field that `check_fields` requires to be one of the options."""
    return field(default=default, metadata={"options": tuple(options)})


def check_fields(instance: Any) -> None:
    """Check every `number_field` and `choice_field` of a dataclass in its ``__post_init__``.

    Numbers become Python's; an int stays one, so that the field prints as it was written.
    """
    for item in fields(instance):
        value = getattr(instance, item.name)
        if "options" in item.metadata:
            keep(instance, **{item.name: choice(item.name, value, item.metadata["options"])})
        if "limits" in item.metadata and not (value is None and item.default is None):
            checked = number(item.name, value, **item.metadata["limits"])
            if type(value) is not int:
                keep(instance, **{item.name: checked})


def choice(name: str, value: Any, options: Iterable[str]) -> str:
    """Return ``value`` if it is one of ``options``; else raise a ValueError that lists them."""
    options, scalar = list(options), _scalar(value)
    if not isinstance(scalar, str) or scalar not in options:
        found = f"{quoted(value)}{closest(value, options)}"
        raise ValueError(f"{name} must be one of {', '.join(options)}; got {found}")
    return str(scalar)


_NO_SYNONYMS: Mapping[str, str] = MappingProxyType({})


def closest(value: Any, options: Iterable[str], synonyms: Mapping[str, str] = _NO_SYNONYMS) -> str:
    """``, did you mean ...?`` with the option that was meant; empty if none is likely.

    That is the one that differs in case or dashes alone, else the value's synonym, else the first
    that begins with the value, else the one that is spelt most like it.
    """
    meant = {_folded(option): option for option in options}
    text = _folded(value)
    named = {_folded(synonym): option for synonym, option in synonyms.items()} | meant
    begins = [name for name in meant if len(text) > 1 and name.startswith(text)]
    near = [text] if text in named else begins or get_close_matches(text, named, n=1)
    return f", did you mean {named[near[0]]}?" if near else ""


def _folded(text: Any) -> str:
    return str(text)[:_LONGEST_VALUE].strip().casefold().replace("_", "-").strip("-")


def from_spec(
    argument: str, text: str, registry: Mapping[str, Any], forms: Sequence[str] = ()
) -> Any:
    """Build one of the registry's dataclasses, see `with_values`, from its specification.

    The text is ``"name"`` or ``"name:key=value,..."``. Errors name the ``argument`` it stands for;
    that of an unknown name also lists ``forms``, what else the caller can read.
    """
    if not isinstance(text, str):
        raise TypeError(
            f"{argument} must be written NAME or NAME:key=value,...; got {quoted(text)}"
        )
    name, colon, values = text.partition(":")
    name = name.strip()
    cls = registry[choice(argument, name, [*registry, *forms])]
    if colon and not values:
        raise ValueError(f"{argument} must have key=value after the colon, got {quoted(text)}")
    return with_values(argument, f"{name}:", values, cls)


def with_values(argument: str, prefix: str, text: str, cls: Any) -> Any:
    """Build a dataclass, whose fields are numbers or choices, from ``"key=value,..."``.

    Fields that are not named keep their defaults, or their values if ``cls`` is an instance. Errors
    name the ``argument`` that the text stands for and the ``prefix``, ``"name:"`` or empty.
    """
    if not isinstance(text, str):
        raise TypeError(f"{argument} must be written key=value,...; got {quoted(text)}")
    owner, form = argument, "key=value,..."
    if prefix:
        owner, form = f"{argument} {prefix[:-1]}", f"NAME:{form}"
    values: dict[str, Any] = {}
    known = {field.name: field for field in fields(cls)}
    for item in text.split(",") if text else ():
        key, equals, value = (part.strip() for part in item.partition("="))
        if not equals:
            raise ValueError(f"{argument} is written {form}; got {quoted(item if key else text)}")
        choice(f"{owner}'s parameter", key, known)
        if key in values:
            raise ValueError(f"{owner}: {key} must be set once, got {quoted(text)}")
        words = "options" in known[key].metadata
        values[key] = value if words else _finite(f"{owner}: {key}", value)
    with described(owner):
        return cls(**values) if isinstance(cls, type) else replace(cls, **values)


_IN_PI = re.compile(r"([+-]?)(?:([\d.]+)\*)?pi(?:/([\d.]+))?")  # pi, pi/2, 2*pi, -3*pi/4


def _finite(name: str, text: str) -> float:
    try:
        if in_pi := _IN_PI.fullmatch(text):
            sign, factor, divisor = in_pi.groups("1")
            return number(name, float(sign + factor) * math.pi / float(divisor))
        return number(name, float(text))
    except (ValueError, ZeroDivisionError):
        raise ValueError(
            f"{name} must be a finite number, such as 0.5 or 2*pi, got {quoted(text)}"
        ) from None


@contextmanager
def described(owner: str) -> Iterator[None]:
    """Let errors begin with what they are about, an argument with a part of its value."""
    try:
        yield
    except (TypeError, ValueError) as error:
        message = str(error)
        raise ValueError(message if message.startswith(owner) else f"{owner}: {message}") from None
