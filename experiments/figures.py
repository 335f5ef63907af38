"""Run the small preset of every experiment and collect them in results/report.html.

    python experiments/figures.py                      all of them
    python experiments/figures.py mlp_depth ablation   some of them

Finished runs are not run again; delete results/figures to start anew. If runs
fail, the others go on, and the report lists the failures.
"""

import runpy
import sys
from pathlib import Path

from photonic_ffzero.cli.arguments import PATH, LineParser, Reader
from photonic_ffzero.cli.experiment import SOME_FAILED
from photonic_ffzero.cli.report import main as write_report
from photonic_ffzero.settings import one_of

EXPERIMENTS = (
    "photonic_methods",
    "mlp_depth",
    "cnn_channels",
    "regression",
    "directions",
    "ablation",
    "embeddings",
    "epsilon",
    "robustness",
    "in_situ",
    "ports",
    "nonlinearities",
)
SCRIPTS = Path(__file__).parent


def main() -> int:
    """Run what is missing, one experiment after another; return the exit code."""
    parser = LineParser(prog="figures.py", description=__doc__)
    name = Reader(one_of(EXPERIMENTS), checks=True)
    parser.add_argument(
        "experiments", nargs="*", type=name, metavar="NAME", help=f"of {', '.join(EXPERIMENTS)}"
    )
    parser.add_argument("--output", type=Reader(PATH), default=Path("results"), metavar="DIR")
    arguments = parser.parse_args()
    names, folder = arguments.experiments or EXPERIMENTS, arguments.output / "figures"
    failed = 0
    for name in names:
        print(f"--- {name}", file=sys.stderr, flush=True)
        if (code := _run(name, folder / name)) > SOME_FAILED:
            return code
        failed |= code
    report = arguments.output / "report.html"
    return write_report([str(folder / name) for name in names] + ["--output", str(report)]) | failed


def _run(name: str, folder: Path) -> int:
    """Run an experiment in this process, so that it receives each signal once."""
    flag = "--resume" if (folder / "grid.json").exists() else "--output"
    sys.argv = [f"{name}.py", flag, str(folder)]
    try:
        runpy.run_path(str(SCRIPTS / f"{name}.py"), run_name="__main__")
    except SystemExit as end:
        return int(end.code or 0)
    except KeyboardInterrupt:  # while nothing could be saved yet
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
