"""Collect grids into one HTML page.

python -m photonic_ffzero.cli.report results/GRID ... --output report.html
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from photonic_ffzero.cli.arguments import PATH, LineParser, reader
from photonic_ffzero.command import command
from photonic_ffzero.runs.names import RUN
from photonic_ffzero.runs.report import grid_section, write_report


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Write the report that the arguments ask for; return the exit code."""
    parser = build_parser()
    arguments = parser.parse_args(argv)
    try:
        sections = [grid_section(path) for path in arguments.grids]
        write_report(arguments.output, sections, arguments.title)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    print(f"report in {arguments.output}")
    return 0


def build_parser() -> LineParser:
    """The parser of the command."""
    parser = LineParser(
        "report",
        "report",
        description="Collect grids into one HTML file that needs no other.",
    )
    parser.add_argument("grids", nargs="+", type=reader(RUN), metavar="GRID", help=RUN.rule)
    parser.add_argument(
        "--output",
        type=reader(PATH),
        default=Path("report.html"),
        metavar="FILE",
        help="the HTML file",
    )
    parser.add_argument("--title", default="Experiments", help="heading of the page")
    return parser


if __name__ == "__main__":
    sys.exit(main())
