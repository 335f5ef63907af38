"""Collect grids into one HTML page.

python -m photonic_ffzero.cli.report results/GRID ... --output report.html
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from photonic_ffzero.cli.arguments import LineParser, Reader, as_flag, written_file
from photonic_ffzero.cli.output import check_file, writing
from photonic_ffzero.command import command
from photonic_ffzero.runs.names import RUN, is_grid, run_with
from photonic_ffzero.runs.report import grid_section, write_report


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Write the report that the arguments ask for; return the exit code."""
    parser = build_parser()
    arguments = parser.parse_args(argv)
    try:
        check_file("output", arguments.output)
        sections = [grid_section(path) for path in arguments.grids]
    except (ValueError, OSError) as error:
        parser.error(as_flag(str(error), parser))
    with writing(parser):
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        write_report(arguments.output, sections, arguments.title)
    print(f"report in {arguments.output}")
    return 0


def build_parser() -> LineParser:
    """The parser of the command."""
    parser = LineParser(
        "report",
        "report",
        description="Collect grids into one HTML file that needs no other.",
    )
    kind = Reader(run_with(is_grid))
    parser.add_argument("grids", nargs="+", type=kind, metavar="GRID", help=RUN.rule)
    page = written_file(".html")
    parser.add_argument(
        "--output",
        type=Reader(page),
        default=Path("report.html"),
        metavar=page.metavar,
        help="the HTML file (default: report.html)",
    )
    parser.add_argument("--title", default="Experiments", help="heading of the page")
    return parser


if __name__ == "__main__":
    sys.exit(main())
