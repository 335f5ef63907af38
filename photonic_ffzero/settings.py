"""Settings: dataclass fields that carry their own check, help text, unit and scope.

Checks, command-line flags, signatures and the tables of the documentation are all made from what
a field says in `setting`, so that a new setting is one field and the code that uses it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from typing import Any

from meshes.validation import (
    choice,
    closest,
    from_spec,
    integer,
    keep,
    number,
    quoted,
    switch,
    text,
    with_values,
)

Conditions = Mapping[str, Any]
"""Names of facts, each with the value, or the tuple of values, that it may have."""


def matches(conditions: Conditions, facts: Mapping[str, Any]) -> bool:
    """Whether every fact named in the conditions has one of the values that they list."""
    return all(facts.get(name) in _as_tuple(allowed) for name, allowed in conditions.items())


def in_words(conditions: Conditions) -> str:
    """``network mlp or cnn, readout goodness``."""
    return ", ".join(f"{k} {' or '.join(_as_tuple(v))}" for k, v in conditions.items())


def _as_tuple(allowed: Any) -> tuple[str, ...]:
    return allowed if isinstance(allowed, tuple) else (allowed,)


@dataclass(frozen=True)
class ValueKind:
    """The values that a setting can have.

    Attributes:
        check: Takes a setting's name and value; returns the value as Python's own int, float, bool
            or str, or raises an error if it breaks the rule.
        rule: What the value must be, in words; empty if the options say it.
        parse: Reads a value from the text of a command line, or raises ValueError.
        options: The names to choose from, where the values are names.
        metavar: What stands for the value on a command line.
        suggest: Makes the end of an error from a text that cannot be read, if the options do not.
        lists: Whether texts list ``key=value``, which former versions let end in a colon or comma.
        opens: Whether the use of a value opens a file or a connection, or starts a program. Such a
            value must be named by the user: no file may hold it.
        repeats: Whether a command line may repeat the flag, which makes a list.
    """

    check: Callable[[str, Any], Any]
    rule: str
    parse: Callable[[str], Any] = str
    options: Collection[str] = ()
    metavar: str | None = None
    suggest: Callable[[str], str] | None = None
    lists: bool = False
    opens: Callable[[Any], bool] = lambda value: False
    repeats: bool = False

    @property
    def placeholder(self) -> str:
        """What stands for the value on a command line."""
        return self.metavar or f"{{{','.join(self.options)}}}"

    def read(self, text: str) -> Any:
        """The value that a text stands for, unchecked; the error of another text has the rule."""
        try:
            return self.parse(text)
        except (ValueError, OSError):
            got = f"{quoted(text)}{self.hint(text)}"
            raise ValueError(f"must be {self.rule}, got {got}") from None

    def hint(self, text: str) -> str:
        """The nearest right value to a text that cannot be read, as the end of an error."""
        return self.suggest(text) if self.suggest else closest(text, self.options)


def one_of(options: Collection[str]) -> ValueKind:
    """A name from a registry, as the registry is when the setting is checked."""
    return ValueKind(partial(choice, options=options), "", options=options)


MOST = 2**31 - 1
"""The largest count that TensorFlow and NumPy take everywhere."""


def whole(minimum: int, maximum: int = MOST) -> ValueKind:
    """A whole number within limits."""
    check = partial(integer, minimum=minimum, maximum=maximum)
    return ValueKind(check, f"a whole number from {minimum}", int, metavar="N")


def spec_of(registry: Mapping[str, Callable[..., Any]]) -> ValueKind:
    """``NAME`` or ``NAME:key=value,...``, see `meshes.validation.from_spec`."""
    form = "NAME:key=value,..."

    def check(name: str, value: Any) -> str:
        from_spec(name, spec := text(name, value), registry)
        return spec

    return ValueKind(check, f"NAME or {form}", metavar=form, lists=True)


def values_of(cls: type) -> ValueKind:
    """``key=value,...`` for the fields of a dataclass; or nothing."""
    form = "key=value,..."

    def check(name: str, value: Any) -> str:
        if values := text(name, value):
            with_values(name, "", values, cls)
        return values

    return ValueKind(check, f"{form} or empty", metavar=form, lists=True)


POSITIVE = ValueKind(partial(number, above=0), "a number above 0", float, metavar="X")
NOT_NEGATIVE = ValueKind(partial(number, minimum=0), "a number from 0", float, metavar="X")
SWITCH = ValueKind(switch, "True or False")
TEXT = ValueKind(text, "a text")


VARIES: Any = object()  # the default of a setting that recipes decide


@dataclass(frozen=True)
class Setting:
    """What a field says of itself.

    Attributes:
        kind: The values that it can have.
        help: One phrase for the command line and the documentation.
        group: Heading on the command line.
        metavar: What stands for the value on the command line, if not what its kind says.
        unit: Unit of the value; empty if it has none.
        applies: The runs that have such a setting; in all others it is None.
        default: The default of all recipes; None if the setting may stay unset, `VARIES` if
            recipes decide.
        default_in_words: The default, if its value does not say enough.
        later: Whether there are files from before it existed, where it means its default.
        also: What other programs call it, to suggest its name to who tries those.
    """

    kind: ValueKind
    help: str
    group: str
    metavar: str | None = None
    unit: str = ""
    applies: Conditions = field(default_factory=dict)
    default: Any = VARIES
    default_in_words: str = ""
    later: bool = False
    also: tuple[str, ...] = ()

    @property
    def placeholder(self) -> str:
        """What stands for the value on the command line."""
        return self.metavar or self.kind.placeholder

    @property
    def default_text(self) -> str:
        """The default as help and tables show it."""
        if self.default_in_words:
            return self.default_in_words
        if self.default is VARIES:
            return "recipe's"
        if isinstance(self.default, float):
            return f"{self.default:g}"
        words = {"": "none", "None": "none", "False": "no"}
        return words.get(str(self.default), str(self.default))


def setting(kind: ValueKind, help: str, group: str, **rest: Any) -> Any:
    """A dataclass field with a `Setting`; the arguments are the setting's."""
    return field(metadata={"setting": Setting(kind, help, group, **rest)})


def settings_of(cls: type) -> dict[str, Setting]:
    """The settings of a dataclass by the names of their fields, in order."""
    return {f.name: f.metadata["setting"] for f in fields(cls) if "setting" in f.metadata}


def synonyms_of(cls: type) -> dict[str, str]:
    """What other programs call the settings of a dataclass, with their names here."""
    entries = settings_of(cls).items()
    return {other: name for name, entry in entries for other in entry.also}


def defaults_of(cls: type) -> dict[str, Any]:
    """The defaults that all recipes share; None where they differ or there is none."""
    entries = settings_of(cls).items()
    return {name: None if entry.default is VARIES else entry.default for name, entry in entries}


def completed(cls: type, content: Mapping[str, Any]) -> dict[str, Any]:
    """A file's content, with what the settings did that did not exist when it was written.

    That is their default, or None in a run to which they do not apply. No other setting may be
    missing. Lists of values become what the command line takes today.
    """
    known = settings_of(cls)
    absent = {
        name: entry.default if applies else None
        for name, entry in known.items()
        if not (applies := matches(entry.applies, content)) or entry.default is None or entry.later
    }
    lists = {n: v for n, v in content.items() if n in known and known[n].kind.lists}
    tidied = {name: _tidied(value) for name, value in lists.items() if isinstance(value, str)}
    return absent | dict(content) | tidied


def _tidied(text: str) -> str:
    """``NAME:key=value,...`` without a bare colon, empty items, or values that a later one set."""
    *name, values = text.split(":", 1)
    items = [item.strip() for item in values.split(",") if item.strip()]
    last = {item.partition("=")[0].rstrip(): item for item in items}
    return ":".join([*name, ",".join(last.values())]).removesuffix(":")


def keep_checked(instance: Any) -> None:
    """Check the range of every setting of an instance that is set; keep the checked values.

    Numbers of NumPy would overflow, and could not be written down.
    """
    for name, entry in settings_of(type(instance)).items():
        if (value := getattr(instance, name)) is not None:
            keep(instance, **{name: entry.kind.check(name, value)})


def check_scope(instance: Any, facts: Mapping[str, Any], run: str) -> None:
    """Check that every setting of an instance is set where it applies, and there only.

    Args:
        instance: A dataclass with settings.
        facts: What their conditions are matched against.
        run: The run in words, for the errors.

    Raises:
        ValueError: a setting breaks the rule, which the message names.
    """
    for name, entry in settings_of(type(instance)).items():
        value = getattr(instance, name)
        if not matches(entry.applies, facts):
            if value is not None:
                needed = in_words(entry.applies)
                raise ValueError(f"{name} does not apply to {run}; it needs {needed}")
        elif value is None and entry.default is not None:
            raise ValueError(f"{name} must be set for {run}")


def settings_table(*classes: type) -> str:
    """The settings of dataclasses as a Markdown table: name, meaning, values and default."""
    rows = [("setting", "meaning", "values (default)"), ("---",) * 3]
    for cls in classes:
        for name, entry in settings_of(cls).items():
            scope = f"; only for {in_words(entry.applies)}" if entry.applies else ""
            values = entry.kind.rule or ", ".join(entry.kind.options)
            values += f", {entry.unit}" if entry.unit else ""
            values += f" ({entry.default_text})"
            rows.append((f"`{name}`", entry.help + scope, values))
    return markdown_table(rows)


def markdown_table(rows: Iterable[Sequence[str]]) -> str:
    """Rows of texts as lines of a Markdown table."""
    cells = ([cell.replace("|", r"\|") for cell in row] for row in rows)
    return "".join(f"| {' | '.join(row)} |\n" for row in cells)
