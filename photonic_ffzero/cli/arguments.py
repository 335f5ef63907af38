"""What the command lines share."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

from meshes.validation import closest
from photonic_ffzero.data.published import DATA_VARIABLE
from photonic_ffzero.settings import SWITCH, ValueKind, settings_of


class LineParser(argparse.ArgumentParser):
    """A parser whose errors take one line, and which suggests the flag that was meant."""

    @property
    def flags(self) -> list[str]:
        """All of its flags."""
        return [flag for action in self._actions for flag in action.option_strings]

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message}\n")

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        arguments, unknown = self.parse_known_args(args, namespace)
        if unknown:
            hint = closest(unknown[0].partition("=")[0], self.flags)
            self.error(f"unrecognized arguments: {' '.join(unknown)}{hint}")
        return arguments


def add_settings(groups: Mapping[str, Any], cls: type, **shown: str) -> None:
    """Add a flag for every setting of a dataclass.

    Values are read here and checked when the dataclass is built; a flag left out is None.

    Args:
        groups: The groups of a parser by their headings.
        cls: The dataclass.
        **shown: Defaults in words, in place of those of the settings.
    """
    for name, entry in settings_of(cls).items():
        text = f"{entry.help} (default: {shown.get(name, entry.default_text)})"
        how: dict[str, Any] = {"type": _reader(entry.kind), "metavar": entry.placeholder}
        if entry.kind is SWITCH:
            how = {"action": "store_true", "default": None}
        groups[entry.group].add_argument(_flag(name), help=text.replace("%", "%%"), **how)


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _reader(kind: ValueKind) -> Callable[[str], Any]:
    """An argparse type that reads a value of a setting, but leaves the check to its class."""

    def read(text: str) -> Any:
        try:
            return kind.parse(text)
        except ValueError:
            hint = closest(text, kind.options)
            raise argparse.ArgumentTypeError(f"must be {kind.rule}, got {text!r}{hint}") from None

    return read


def count(minimum: int) -> Any:
    """An argparse type: whole numbers from a minimum on."""

    def read(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"must be a whole number, got {text!r}") from None
        if value < minimum:
            raise argparse.ArgumentTypeError(f"must be at least {minimum}, got {value}")
        return value

    return read


def add_data_dir(group: Any) -> None:
    """Add the flag that says where the data are."""
    group.add_argument(
        "--data-dir",
        type=Path,
        metavar="DIR",
        help=f"folder that holds mnist/ and fashion-mnist/ (default: {DATA_VARIABLE}, then "
        "Keras's folder, then a download)",
    )


def add_directories(group: Any, what: str, end: str) -> None:
    """Add the flags for the directory of a run or a grid, and for printing its ``end`` only."""
    output = "new directory for the results (default: one in results/, named by date)"
    resume = f"go on with the stopped {what} in DIR"
    group.add_argument("--output", type=Path, metavar="DIR", help=output)
    group.add_argument("--resume", type=Path, metavar="DIR", help=resume)
    group.add_argument("--quiet", action="store_true", help=f"print the final {end} only")


def as_flag(message: str, parser: argparse.ArgumentParser) -> str:
    """Show the argument's name, with which an error begins, as the flag that a user typed."""
    name, space, rest = message.partition(" ")
    flag = _flag(name)
    return f"argument {flag}{space}{rest}" if flag in parser.format_help() else message
