"""``photonic-ffzero``, or ``python -m photonic_ffzero``: all commands by one name.

Only the module of the command that is asked for is imported, so that the overview comes at once.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from functools import partial
from importlib import import_module
from types import MappingProxyType
from typing import Any, NamedTuple

from meshes.validation import closest, one_line, quoted
from photonic_ffzero.command import INSTALLED, command, printed


class Command(NamedTuple):
    """A command: what it does, its module in ``photonic_ffzero.cli``, and what that is told."""

    help: str
    module: str
    settings: Mapping[str, Any] = MappingProxyType({})

    def part(self, name: str) -> Any:
        """A function of its module, ``main`` or ``build_parser``."""
        function = getattr(import_module(f"photonic_ffzero.cli.{self.module}"), name)
        return partial(function, **self.settings)


GROUPS: dict[str, dict[str, Command]] = {
    "train": {
        "train": Command("train a photonic network, on MNIST or images of yours", "train"),
        "digital": Command(
            "train an MLP, a CNN or a mixer the same way", "train", {"recipe": "digital"}
        ),
        "search": Command("search settings, on held-out images alone", "search"),
    },
    "look at what was trained": {
        "runs": Command("list what is in results/", "runs"),
        "compare": Command("show what runs differ in and how they ended", "compare"),
        "predict": Command("classify image files", "predict"),
        "export": Command("write phases and voltages as tables", "export"),
        "report": Command("collect grids in one HTML file", "report"),
    },
    "chips and clusters": {
        "calibrate": Command("learn the errors of a chip from its intensities", "calibrate"),
        "serve": Command("serve a device to other processes", "serve"),
        "certificates": Command("make the TLS files of a cluster", "certificates"),
    },
    "this command": {
        "completion": Command("print what completes it in bash or zsh", "completion"),
    },
}
COMMANDS = {name: entry for group in GROUPS.values() for name, entry in group.items()}
OTHER_NAMES = {"fit": "train", "mnist": "train", "mlp": "digital", "cnn": "digital"}
OTHER_NAMES |= {"classify": "predict", "list": "runs", "ls": "runs", "diff": "compare"}
OTHER_NAMES |= {"sweep": "search", "tune": "search", "optimize": "search"}

_ABOUT = """\
Train photonic neural networks from forward passes alone, in simulation or on a
chip, and look at what they learned.
"""
_EXAMPLES = f"""\
a first hour:
  {INSTALLED} train --dataset digits --epochs 5
  {INSTALLED} train --dataset digits --nonlinearity kerr:phi_nl=2
  {INSTALLED} runs
  {INSTALLED} train --resume last
  {INSTALLED} predict last scan.png --center

{INSTALLED} COMMAND --help tells all of a command.
"""


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that the first word names; return its exit code."""
    words = [*sys.argv[1:]] if argv is None else [*argv]
    name, *rest = words or ["--help"]
    if name in ("-h", "--help", "help"):
        return _printed(overview())
    if name == "--version":
        from importlib.metadata import version

        return _printed(version("photonic_ffzero"))
    if name not in COMMANDS:
        typed = f"{quoted(name)}{closest(name, COMMANDS, OTHER_NAMES)}"
        listed = ", ".join(COMMANDS)
        line = one_line(f"{INSTALLED}: error: the command must be one of {listed}; got {typed}")
        print(line, file=sys.stderr)
        return 2
    run = COMMANDS[name].part("main")
    if argv is not None:
        return run(rest)
    sys.argv = [f"{INSTALLED} {name}", *rest]
    return run()


def _printed(text: str) -> int:
    """Print a text; return the exit code."""
    print(text)
    return 0 if printed() else 1


def overview() -> str:
    """All commands, for ``--help``."""
    lines = [f"usage: {INSTALLED} COMMAND ...", "", _ABOUT]
    for heading, commands in GROUPS.items():
        lines.append(f"{heading}:")
        lines += [f"  {name:13} {entry.help}" for name, entry in commands.items()]
        lines.append("")
    return "\n".join([*lines, _EXAMPLES]).rstrip()


if __name__ == "__main__":
    sys.exit(main())
