"""One HTML page that holds everything worth telling of some grids: no other file, no script.

python -m photonic_ffzero.report results/GRID ... --output report.html
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from photonic_ffzero.cli.arguments import LineParser
from photonic_ffzero.runs.report import grid_section, write_report


def main(argv: Sequence[str] | None = None) -> int:
    """Collect grids into a report; return the exit code.

    Args:
        argv: The arguments; those of the process by default.
    """
    parser = LineParser(
        prog="report",
        description="Collect grids into one HTML file that needs no other.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("grids", nargs="+", type=Path, metavar="GRID", help="a grid's directory")
    parser.add_argument(
        "--output", type=Path, default=Path("report.html"), metavar="FILE", help="the HTML file"
    )
    parser.add_argument("--title", default="Experiments", help="heading of the page")
    arguments = parser.parse_args(argv)
    try:
        sections = [grid_section(path) for path in arguments.grids]
        write_report(arguments.output, sections, arguments.title)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    print(f"report in {arguments.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
