"""List what is in ``results/``: runs and grids, what differs in them, and how they ended."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path

from meshes.validation import one_line
from photonic_ffzero.cli.arguments import PATH, LineParser, Reader, count
from photonic_ffzero.cli.output import end_of_output
from photonic_ffzero.command import INSTALLED, command
from photonic_ffzero.runs.catalog import DONE, Catalog, GridRuns, Run, read_catalog
from photonic_ffzero.runs.names import RESULTS

_DESCRIPTION = """\
List the runs and grids in results/, the newest last: name, test accuracy (R^2 of
a regression), forward passes, date, and below it the data, the method and the
settings that differ from the recipe. Into a file or a pipe goes a table with a
line each, whose columns tabs divide.
"""
_EXAMPLES = f"""\
examples:
  {INSTALLED} runs
  {INSTALLED} runs --limit 5
  {INSTALLED} runs | grep digits | sort -t$'\\t' -k 4
"""
_COLUMNS = ("name", "about", "state", "result", "passes", "date")
_LEAST = 50  # characters of a line


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Print the list; return 0. Bad input ends it with status 2."""
    parser = build_parser()
    arguments = parser.parse_args(argv)
    folder = arguments.folder or RESULTS
    if not folder.is_dir():
        hint = f"; `{INSTALLED} train` makes it" if folder == RESULTS else ""
        parser.error(f"there is no folder {folder} here{hint}")
    catalog = read_catalog(folder)
    catalog.entries = catalog.entries[-(arguments.limit or len(catalog.entries)) :]
    on_terminal = sys.stdout.isatty()
    lines = _for_people(catalog, folder) if on_terminal else _for_programs(catalog, folder)
    print("\n".join(lines))
    for line in _left_out(catalog):
        print("\n".join(filled(line)), file=sys.stdout if on_terminal else sys.stderr)
    return end_of_output(parser)


def build_parser() -> LineParser:
    """The parser of the command."""
    parser = LineParser(f"{INSTALLED} runs", description=_DESCRIPTION, epilog=_EXAMPLES)
    parser.add_argument(
        "folder",
        nargs="?",
        type=Reader(PATH),
        metavar="DIR",
        help=f"another folder (default: {RESULTS})",
    )
    parser.add_argument("--limit", type=count(1), metavar="N", help="the N newest (default: all)")
    return parser


def _for_people(catalog: Catalog, folder: Path) -> Iterator[str]:
    """Two lines an entry or more, as wide as the terminal."""
    figures = [("result", "passes", "date"), *map(_figures, catalog.entries)]
    widths = [max(map(len, column)) for column in zip(*figures, strict=True)]
    names = max(terminal_width() - sum(widths) - 3 * 2, 0)
    yield _row("run", figures[0], names, widths)
    for entry, row in zip(catalog.entries, figures[1:], strict=True):
        name = one_line(str(entry.path.relative_to(folder)))
        if len(name) > names:  # a line of its own
            yield name
            name = ""
        yield _row(name, row, names, widths)
        state = f"{entry.state}: " if entry.quality and entry.state != DONE else ""
        yield from filled(f"  {state}{entry.about}")
    if not catalog.entries:
        yield f"no runs in {folder}"


def filled(text: str) -> list[str]:
    """A text as lines of the terminal's width, the later ones indented; one line for a file."""
    if not sys.stdout.isatty():
        return [text]
    return textwrap.wrap(
        text,
        terminal_width(),
        subsequent_indent="  ",
        break_long_words=False,
        break_on_hyphens=False,
        drop_whitespace=True,
    )


def terminal_width() -> int:
    """The columns of the terminal, or somewhat more than those of a very narrow one."""
    return max(shutil.get_terminal_size().columns, _LEAST)


def _row(name: str, figures: Sequence[str], names: int, widths: Sequence[int]) -> str:
    cells = (f"{text:>{width}}" for text, width in zip(figures, widths, strict=True))
    return "  ".join([name.ljust(names), *cells])


def _figures(entry: Run | GridRuns) -> tuple[str, str, str]:
    date = datetime.fromtimestamp(entry.seconds)
    return entry.quality or entry.state, in_short(entry.passes), f"{date:%Y-%m-%d %H:%M}"


def in_short(number: float | None) -> str:
    """A count with three digits: ``12.3 M``; empty for None."""
    if number is None:
        return ""
    number = float(f"{number:.3g}")  # rounding may reach the next unit
    for unit, name in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= unit:
            return f"{number / unit:.3g} {name}"
    return f"{number:.3g}"


def _for_programs(catalog: Catalog, folder: Path) -> Iterator[str]:
    """A line an entry; tabs divide its columns."""
    yield "\t".join(_COLUMNS)
    for entry in catalog.entries:
        date = datetime.fromtimestamp(entry.seconds).isoformat(timespec="seconds")
        passes = "" if entry.passes is None else f"{entry.passes:.0f}"
        name = str(entry.path.relative_to(folder))
        row = (name, entry.about, entry.state, entry.quality, passes, date)
        yield "\t".join(map(one_line, row))


def _left_out(catalog: Catalog) -> Iterator[str]:
    """A line for each that cannot be read, and one for all other folders of a kind."""
    for problem in catalog.broken:
        yield f"cannot be read: {problem}"
    others = {"calibrations": catalog.calibrations, "no runs or grids": catalog.foreign}
    for kind, names in others.items():
        if names:
            yield one_line(f"{kind}: {', '.join(names)}")


if __name__ == "__main__":
    sys.exit(main())
