"""What the command lines share."""

from __future__ import annotations

import argparse
import os
import re
import sys
import textwrap
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby, takewhile
from pathlib import Path
from typing import Any, NoReturn

from meshes import NONLINEARITIES
from meshes._tensorflow import set_up_command
from meshes.validation import closest, one_line, quoted
from photonic_ffzero.command import INSTALLED, installed_as
from photonic_ffzero.config import SIMULATED, Config
from photonic_ffzero.data.published import DATA_VARIABLE
from photonic_ffzero.devices.device import Device, close_at_end
from photonic_ffzero.devices.session import TOKEN_VARIABLE
from photonic_ffzero.elements import NONLINEARITY, as_text, is_function
from photonic_ffzero.networks import open_device
from photonic_ffzero.runs.names import LAST, run_with
from photonic_ffzero.settings import MOST, SWITCH, TEXT, ValueKind, settings_of, synonyms_of, whole

_NUMBER = re.compile(r"-\.?\d|-inf|-nan", re.IGNORECASE)  # no flag, although it begins with a dash
_UNITS = 64  # ports of a simulated device that is given no others

_EXAMPLE = re.compile(rf" +(python|{INSTALLED}|[\w.]+\.py)( |$)")  # a line to paste
_ENTRY = re.compile(r" +\S+  +")  # of a list of two columns, up to the second one


class _Formatter(argparse.HelpFormatter):
    """Fills texts to the width of the terminal; examples and lists keep their lines."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        blocks = groupby(text.splitlines(), _block)
        return "\n".join(self._filled([*lines], width) for _, lines in blocks)

    def _filled(self, lines: list[str], width: int) -> str:
        first, *others = lines
        if not first.strip() or _EXAMPLE.match(first):
            return "\n".join(lines)
        entry = _ENTRY.match(first)
        margin = len(entry[0]) if entry else len(first) - len(first.lstrip())
        text = " ".join([first, *map(str.strip, others)])
        return textwrap.fill(text, width, subsequent_indent=" " * margin)


def _block(line: str) -> tuple[int, str]:
    """What the lines of a block share: their indent. A line of a list stands alone."""
    alone = not line.strip() or _ENTRY.match(line) or _EXAMPLE.match(line)
    return len(line) - len(line.lstrip()), line if alone else " "


class LineParser(argparse.ArgumentParser):
    """A parser whose errors take one line, and which suggests the flag that was meant.

    Args:
        prog: The program's name, also in the examples.
        name: Its name as a part of the installed command, which help and examples show to those
            who started that.
        **settings: Other arguments of argparse.

    Attributes:
        synonyms: Names of flags in other programs, each with the flag here.
        typed: Names of the arguments that stood on the command line that was parsed last, also
            where their values are those that they have by default.
    """

    def __init__(self, prog: str | None = None, name: str = "", **settings: Any) -> None:
        if prog and name and installed_as():
            texts = {key: settings[key] for key in ("description", "epilog") if settings.get(key)}
            prog, script = f"{INSTALLED} {name}", prog
            settings |= {
                key: text.replace(f" {script} ", f" {prog} ") for key, text in texts.items()
            }
        super().__init__(prog, allow_abbrev=False, formatter_class=_Formatter, **settings)
        self.synonyms = {"--out": "--output", "--workers": "--jobs", "--silent": "--quiet"}
        self.typed: set[str] = set()
        self._negative_number_matcher = _NUMBER  # argparse's takes -1e-3 for a flag

    @property
    def flags(self) -> list[str]:
        """All of its flags."""
        return [flag for action in self._actions for flag in action.option_strings]

    def error(self, message: str) -> NoReturn:
        """End the command with status 2: bad input, nothing was written."""
        self.exit(2, f"{self.prog}: error: {one_line(message)}\n")

    def fail(self, message: str) -> NoReturn:
        """End the command with status 1: its input was good."""
        self.exit(1, f"{self.prog}: {one_line(message)}\n")

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        set_up_command()  # every command begins here
        words = sys.argv[1:] if args is None else list(args)
        flags = set()
        for word in takewhile(lambda word: word != "--", words):
            flags.add(flag := word.partition("=")[0])
            if len(flag) > 1 and flag[0] == "-" and " " not in word and not _NUMBER.match(flag):
                self._check_flag(flag)
        arguments, unknown = self.parse_known_args(words, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        self.typed = {
            action.dest
            for action in self._actions
            if flags & {*action.option_strings}
            or (not action.option_strings and getattr(arguments, action.dest))
        }
        return arguments

    def _check_flag(self, flag: str) -> None:
        """Suggest a flag for an unknown one before argparse misses what is required."""
        if flag not in self.flags:
            known = {name: ours for name, ours in self.synonyms.items() if ours in self.flags}
            hint = closest(flag, self.flags, known)
            self.error(f"unrecognized arguments: {quoted(flag)[1:-1]}{hint}")


def add_settings(
    parser: LineParser, groups: Mapping[str, Any], cls: type, **shown_defaults: str
) -> None:
    """Add a flag for every setting of a dataclass.

    Values are read here and checked when the dataclass is built; a flag left out is None.

    Args:
        parser: The parser, which learns the settings' names in other programs.
        groups: The groups of the parser by their headings.
        cls: The dataclass.
        **shown_defaults: Defaults in words, in place of those of the settings.
    """
    for name, entry in settings_of(cls).items():
        text = f"{entry.help} (default: {shown_defaults.get(name, entry.default_text)})"
        how: dict[str, Any] = {"type": Reader(entry.kind), "metavar": entry.placeholder}
        if entry.kind.repeats:
            how = takes_several(entry.kind)
        if entry.kind is SWITCH:
            how = {"action": "store_true", "default": None}
        groups[entry.group].add_argument(flag_of(name), help=text.replace("%", "%%"), **how)
    parser.synonyms |= {flag_of(other): flag_of(name) for other, name in synonyms_of(cls).items()}


def typed_settings(arguments: argparse.Namespace, *classes: type) -> dict[str, Any]:
    """The settings of some classes that stand on the command line, by name."""
    names = (name for cls in classes for name in settings_of(cls))
    return {name: value for name in names if (value := getattr(arguments, name)) is not None}


def typed_words(arguments: argparse.Namespace, *names: str) -> list[str]:
    """Those of some flags that were given, as words of a command line, each with its value."""
    words = []
    for name in names:
        value = getattr(arguments, name)
        if value is not None and value is not False:
            words += [flag_of(name)] if value is True else with_value(flag_of(name), value)
    return words


def with_value(flag: str, value: Any) -> list[str]:
    """A flag and its value as words of a command line; a value with a dash would be a flag."""
    text = str(value)
    return [f"{flag}={text}"] if text.startswith("-") else [flag, text]


def flag_of(name: str) -> str:
    return "--" + name.replace("_", "-")


@dataclass(frozen=True, eq=False)  # argparse wants a hash, and kinds may hold dictionaries
class Reader:
    """An argparse type: reads the values of a kind, and checks them if no other class does."""

    kind: ValueKind
    checks: bool = False

    def __call__(self, text: str) -> Any:
        try:
            value = self.kind.read(text)
            if self.checks:
                self.kind.check("", value)
        except (TypeError, ValueError) as error:
            raise argparse.ArgumentTypeError(str(error).strip()) from None
        return value


def takes(kind: ValueKind) -> dict[str, Any]:
    """How argparse reads, checks and shows the values of a flag that is no setting."""
    return {"type": Reader(kind, checks=True), "metavar": kind.placeholder}


def takes_several(kind: ValueKind) -> dict[str, Any]:
    """How argparse reads the values of a flag that may be repeated, which makes a list."""
    return {"type": Reader(kind), "metavar": kind.placeholder, "action": "append"}


def count(minimum: int, maximum: int = MOST) -> Callable[[str], Any]:
    """An argparse type: whole numbers within limits."""
    return Reader(whole(minimum, maximum), checks=True)


def _read_path(text: str) -> Path:
    path = Path(os.path.expanduser(text))
    path.exists()  # an OSError or ValueError if no file can have this name
    if not text or "\0" in text:
        raise ValueError
    return path


PATH = ValueKind(TEXT.check, "a path that a file can have", _read_path)
"""A file or folder that need not exist."""


def written_file(suffix: str) -> ValueKind:
    """A file that a command writes. Its suffix says so, as it replaces no file of another kind."""
    rule = f"a path that ends in {suffix}"
    parse = partial(_read_written_file, suffix)
    return ValueKind(TEXT.check, rule, parse, metavar=f"FILE{suffix}")


def _read_written_file(suffix: str, text: str) -> Path:
    path = _read_path(text)
    if path.suffix.lower() != suffix:
        raise ValueError
    return path


def add_data_dir(group: Any) -> None:
    """Add the flag that says where the data are."""
    group.add_argument(
        "--data-dir",
        type=Reader(PATH),
        metavar="DIR",
        help="folder that holds mnist/, fashion-mnist/, cifar-10-batches-bin/ (default: "
        f"{DATA_VARIABLE}, then Keras's folder, then a download)",
    )


def check_data_dir(folder: Path | None) -> None:
    """Check that the folder of the data sets exists, even if this run reads nothing from it.

    Commands call this after parsing, so that examples in the documentation can be parsed where
    their folders do not exist.
    """
    if folder is not None and not folder.is_dir():
        obstacle = "a file" if folder.exists() else "none"
        raise ValueError(f"data_dir must be an existing folder, found {obstacle} at {folder}")


def check_functions(functions: Sequence[Any] | None) -> None:
    """Check that nonlinearities named beside a file are functions, as the file has all others."""
    for value in functions or ():
        if not is_function(value):
            raise ValueError(
                f"nonlinearity must be module:function here, as the file holds all others, got "
                f"{quoted(as_text(value))}"
            )


def add_device(group: Any) -> None:
    """Add the flags that name a device, and say what a simulated one is like.

    Sizes that are not typed are None, see `opened_device`.
    """
    add = group.add_argument
    device = f"{SIMULATED}:key=value,..., tcp://host:port or module:factory (default: {SIMULATED})"
    add("--device", metavar="NAME", default=SIMULATED, help=device)
    add("--units", type=count(2), metavar="N", help=f"ports of a simulated device ({_UNITS})")
    add("--meshes", type=count(1), metavar="N", help="its meshes (default: 2)")
    add("--columns", type=count(1), metavar="L", help="columns of a mesh (default: N ports)")
    between = f"after its meshes but the last: {', '.join(NONLINEARITIES)} (default: electro-optic)"
    add("--nonlinearity", **(takes_several(NONLINEARITY) | {"metavar": "NAME"}), help=between)
    add("--chip", type=count(0), metavar="N", help="its seed: which chip was made (default: 0)")
    add_token_file(group)


def opened_device(
    arguments: argparse.Namespace, config: Config, token_file: Path | None = None
) -> Device:
    """The device that the flags of `add_device` name.

    One that is not simulated has sizes of its own, which those that are typed must equal. It is
    closed when the command ends.
    """
    device = open_device(config, arguments.units or _UNITS, token_file)
    close_at_end(device)
    for name in ("units", "meshes", "columns"):
        typed_size, device_size = getattr(arguments, name), getattr(device, name)
        if typed_size not in (None, device_size):
            raise ValueError(
                f"{name} must be {device_size} as in {config.device}, got {typed_size}"
            )
    return device


def add_token_file(group: Any) -> None:
    """Add the flag for the secret that both sides of a ``tcp://`` connection share."""
    group.add_argument(
        "--token-file",
        type=Reader(PATH),
        metavar="FILE",
        help="file with the secret that client and server of a tcp:// device share, readable by "
        f"its owner alone (default: the variable {TOKEN_VARIABLE}, or no secret)",
    )


def add_directories(group: Any, what: str, end: str, is_meant: Callable[[Path], bool]) -> None:
    """Add the flags for the directory of a run or a grid, and for printing its ``end`` only.

    ``is_meant`` tells whether a path is a run or a grid that the command can go on with.
    """
    output = "new directory for the results (default: one in results/, named by date)"
    resume = f"go on with this stopped {what}: its directory, its name in results/, or {LAST}"
    group.add_argument("--output", type=Reader(PATH), metavar="DIR", help=output)
    group.add_argument("--resume", type=Reader(run_with(is_meant)), metavar="RUN", help=resume)
    group.add_argument("--quiet", action="store_true", help=f"print the final {end} only")


def as_flag(message: str, parser: LineParser) -> str:
    """Show the argument's name, with which an error begins, as the flag that a user typed.

    Python's ``units`` is ``--units`` or ``--size``.
    """
    begins = re.match(r"(\w+)(?='s |:? )", message)
    name = flag_of(begins[0]) if begins else ""
    flag = name if name in parser.flags else parser.synonyms.get(name)
    return f"argument {flag}{message[len(name) - 2 :]}" if flag else message


def check_resumable(
    arguments: argparse.Namespace, parser: LineParser, allowed: Collection[str], what: str
) -> None:
    """Refuse flags beside ``--resume`` that are not allowed: what goes on has every setting."""
    for name in vars(arguments):
        if name in parser.typed and name not in allowed:
            raise ValueError(
                f"resume takes every setting from the {what}; leave out {flag_of(name)}"
            )
