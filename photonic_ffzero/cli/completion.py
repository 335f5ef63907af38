"""Completion of the installed command in a shell: commands, flags, names, files and runs."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from photonic_ffzero.__main__ import COMMANDS
from photonic_ffzero.cli.arguments import LineParser, Reader, takes
from photonic_ffzero.cli.output import end_of_output
from photonic_ffzero.command import INSTALLED, command
from photonic_ffzero.runs.names import RESULTS, RUN
from photonic_ffzero.settings import one_of

SHELLS = ("bash", "zsh")
_DESCRIPTION = f"""\
Print the lines that let a shell complete {INSTALLED}: put them where it looks.

  {INSTALLED} completion bash >> ~/.bash_completion
  {INSTALLED} completion zsh > ~/.zfunc/_{INSTALLED}

Bash reads that file when it starts; of zsh, ~/.zfunc must be in fpath before
compinit. Print them again after an update.
"""
_RUNS = {
    "bash": "_photonic_ffzero_run_files",  # shtab lets bash quote what a function "_file" prints
    "zsh": f"_files -W {RESULTS}",
}
# Names are only compared and printed: compgen -W would expand a name such as $(...).
_PREAMBLE = {
    "bash": f"""\
_photonic_ffzero_run_files() {{
  local run
  [[ last == "$1"* ]] && echo last
  for run in {RESULTS}/*/; do
    run="${{run#{RESULTS}/}}"
    run="${{run%/}}"
    [[ -d "{RESULTS}/$run" && "$run" == "$1"* ]] && printf '%s\\n' "$run"
  done
  compgen -f -- "$1"
}}
""",
}
_FILES = ("FILE", "DIR", "CSV", "IMAGE", "NAME|PATH")


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Print the completion of a shell; return 0."""
    import shtab

    parser = build_parser()
    arguments = parser.parse_args(argv)
    print(
        shtab.complete(
            _whole_parser(), arguments.shell, preamble=_PREAMBLE.get(arguments.shell, "")
        )
    )
    return end_of_output(parser)


def build_parser() -> LineParser:
    """The parser of the command."""
    parser = LineParser(f"{INSTALLED} completion", description=_DESCRIPTION)
    parser.add_argument("shell", **takes(one_of(SHELLS)), help="the shell")
    return parser


def _whole_parser() -> Any:
    """One parser of all commands, whose values can be completed."""
    from argparse import ArgumentParser

    whole = ArgumentParser(INSTALLED)
    commands = whole.add_subparsers()
    for name, entry in COMMANDS.items():
        parser = entry.part("build_parser")()
        for action in parser._actions:
            _complete(action)
        commands.add_parser(name, parents=[parser], add_help=False, help=entry.help)
    return whole


def _complete(action: Any) -> None:
    """Say of an argument how its values are completed."""
    import shtab

    kind = action.type.kind if isinstance(action.type, Reader) else None
    if kind and kind.options:
        action.choices = [*kind.options]
    elif kind and kind.suggest is RUN.suggest:
        action.complete = _RUNS
    elif str(action.metavar).partition(".")[0] in _FILES:  # FILE.npz is one, too
        action.complete = shtab.FILE


if __name__ == "__main__":
    sys.exit(main())
