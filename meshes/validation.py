"""Checks of arguments, each with an error that names the argument, the rule and the value found."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, field, fields
from decimal import Decimal
from difflib import get_close_matches
from numbers import Integral, Real
from typing import Any

import numpy as np

_NO_NUMBERS = (bool, np.timedelta64)  # Python and NumPy count them among the numbers


def integer(name: str, value: Any, *, minimum: int | None = None) -> int:
    """Return a whole number of Python, NumPy or TensorFlow as an int; a bool is none."""
    scalar = _scalar(value)
    if isinstance(scalar, _NO_NUMBERS) or not isinstance(scalar, Integral):
        raise TypeError(f"{name} must be a whole number, got {value!r}")
    value = int(scalar)
    if minimum is not None and value < minimum:
        raise ValueError(f"{name} must be at least {minimum}, got {value}")
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
        raise TypeError(f"{name} must be a number, got {value!r}")
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
            raise ValueError(f"{name} must be {rule}, got {value!r}")
    return result


def switch(name: str, value: Any) -> bool:
    """Return True or False of Python, NumPy or TensorFlow as a bool."""
    scalar = _scalar(value)
    if not isinstance(scalar, (bool, np.bool_)):
        raise TypeError(f"{name} must be True or False, got {value!r}")
    return bool(scalar)


def text(name: str, value: Any) -> str:
    """Return a text of Python or NumPy as a str."""
    scalar = _scalar(value)
    if not isinstance(scalar, str):
        raise TypeError(f"{name} must be a text, got {value!r}")
    return str(scalar)


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


def check_fields(instance: Any) -> None:
    """Check every `number_field` of a dataclass in its ``__post_init__``; keep Python's numbers.

    An int stays one, so that the field prints as it was written.
    """
    for item in fields(instance):
        value = getattr(instance, item.name)
        if "limits" in item.metadata and not (value is None and item.default is None):
            checked = number(item.name, value, **item.metadata["limits"])
            if type(value) is not int:
                keep(instance, **{item.name: checked})


def choice(name: str, value: Any, options: Iterable[str]) -> str:
    """Return ``value`` if it is one of ``options``; else raise a ValueError that lists them."""
    options, scalar = list(options), _scalar(value)
    if not isinstance(scalar, str) or scalar not in options:
        raise ValueError(
            f"{name} must be one of {', '.join(options)}; got {value!r}{closest(value, options)}"
        )
    return str(scalar)


def closest(value: Any, options: Iterable[str]) -> str:
    """``, did you mean ...?`` with the option that is spelt most like the value; else empty."""
    near = get_close_matches(str(value), options, n=1)
    return f", did you mean {near[0]}?" if near else ""


def from_spec(argument: str, text: str, registry: Mapping[str, Callable[..., Any]]) -> Any:
    """Build one of the registry's dataclasses, whose fields are numbers, from its specification.

    The text is ``"name"`` or ``"name:key=value,..."``. Errors name the ``argument`` it stands for.
    """
    if not isinstance(text, str):
        raise TypeError(f"{argument} must be written NAME or NAME:key=value,...; got {text!r}")
    name, _, values = text.partition(":")
    cls = registry[choice(argument, name.strip(), registry)]
    return with_values(argument, f"{name.strip()}:", values, cls)


def with_values(argument: str, prefix: str, text: str, cls: Any) -> Any:
    """Build a dataclass, whose fields are numbers, from ``"key=value,..."``.

    Errors name the ``argument`` that the text stands for and the ``prefix``, ``"name:"`` or empty.
    """
    if not isinstance(text, str):
        raise TypeError(f"{argument} must be written key=value,...; got {text!r}")
    owner = f"{argument} {prefix[:-1]}" if prefix else argument
    values = {}
    for item in filter(None, (part.strip() for part in text.split(","))):
        key, equals, value = (part.strip() for part in item.partition("="))
        if not equals:
            form = "NAME:key=value,..." if prefix else "key=value,..."
            raise ValueError(f"{argument} is written {form}; got {item!r}")
        choice(f"{owner}'s parameter", key, [field.name for field in fields(cls)])
        where = f"{owner}: {key}" if prefix else f"{owner} {key}"
        try:
            values[key] = number(where, float(value))
        except ValueError:
            raise ValueError(f"{where} must be a finite number, got {value!r}") from None
    return cls(**values)
