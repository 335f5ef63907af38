"""The command line of the photonic experiments."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from meshes.validation import integer
from photonic_ffzero.data.published import DATA_VARIABLE


class LineParser(argparse.ArgumentParser):
    """A parser whose errors take one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message}\n")


def checked(check: Callable[..., Any], kind: Callable[[str], Any], what: str, **rule: Any) -> Any:
    """An argparse type that applies a check of `meshes.validation`."""

    def convert(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"must be {what}, got {text!r}") from None
        try:
            return check("it", value, **rule)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error).removeprefix("it ")) from None

    return convert


def count(minimum: int) -> Any:
    """An argparse type: whole numbers from a minimum on."""
    return checked(integer, int, "a whole number", minimum=minimum)


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
    """Add the flags that say where the results go, and how much is said of it.

    Args:
        group: Of a parser.
        what: What goes into the directory: a run, a grid.
        end: What is printed in any case at the end.
    """
    group.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        help="new directory for the results (default: one in results/, named by date)",
    )
    group.add_argument(
        "--resume", type=Path, metavar="DIR", help=f"go on with the stopped {what} in DIR"
    )
    group.add_argument("--quiet", action="store_true", help=f"print the final {end} only")


def as_flag(message: str, parser: argparse.ArgumentParser) -> str:
    """Errors begin with the argument's name: show it as the flag that a user typed."""
    name, space, rest = message.partition(" ")
    flag = "--" + name.replace("_", "-")
    return f"argument {flag}{space}{rest}" if flag in parser.format_help() else message
