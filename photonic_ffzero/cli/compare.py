"""Compare runs: the settings in which they differ, how they ended, and one figure."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from string import ascii_uppercase
from textwrap import shorten
from typing import TYPE_CHECKING, Any

import numpy as np

from meshes.validation import one_line, printable, quoted
from photonic_ffzero.cli.arguments import LineParser, Reader, as_flag, written_file
from photonic_ffzero.cli.output import check_file, end_of_output, writing
from photonic_ffzero.cli.runs import filled, in_short, terminal_width
from photonic_ffzero.command import INSTALLED, command
from photonic_ffzero.data.tasks import quality_in_words
from photonic_ffzero.model import EpochRecord
from photonic_ffzero.plots import curve_style, plot_band, save_figure
from photonic_ffzero.runs.catalog import Run, differing, read_run
from photonic_ffzero.runs.history import learning_curve
from photonic_ffzero.runs.names import RESULTS, RUN, is_plan, run_with
from photonic_ffzero.runs.plan import HELD_OUT, TEST, in_words, value_in_words
from photonic_ffzero.runs.summary import add_legend, as_markdown

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_DESCRIPTION = """\
Compare runs: the settings in which they differ, how they ended, and one figure
of accuracy over epochs, over forward passes, and on what the runs were tested
on. Runs that are not done are compared as far as they are. Several seeds of a
run show as their mean, with their range as a band.
"""
_EXAMPLES = f"""\
examples:
  {INSTALLED} compare kerr1 kerr2
  {INSTALLED} compare results/*digits* --output digits.png
"""
_MOST = len(ascii_uppercase)


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Write the figure and print the comparison; return 0. Bad input ends it with status 2."""
    parser = build_parser()
    arguments = parser.parse_args(argv)
    try:
        runs = [read_run(path.parent if path.is_file() else path) for path in arguments.runs]
        _check(runs)
        histories = [run.histories() for run in runs]
        output = arguments.output or RESULTS / f"compare-{time.strftime('%Y%m%d-%H%M%S')}.png"
        check_file("output", output)
    except (ValueError, TypeError, OSError) as error:
        parser.error(as_flag(str(error), parser))
    with writing(parser):
        output.parent.mkdir(parents=True, exist_ok=True)
        _draw(output, runs, histories)
    for letter, run in zip(ascii_uppercase, runs, strict=False):
        print("\n".join(filled(printable(f"{letter}  {run.path}: {run.about}"))))
    print(_table(runs), end="")
    print(printable(f"figure in {output}"))
    return end_of_output(parser)


def build_parser() -> LineParser:
    """The parser of the command."""
    parser = LineParser(f"{INSTALLED} compare", description=_DESCRIPTION, epilog=_EXAMPLES)
    kind = run_with(lambda path: path.is_file() or is_plan(path))
    parser.add_argument("runs", nargs="+", type=Reader(kind), metavar="RUN", help=RUN.rule)
    picture = written_file(".png")
    parser.add_argument(
        "--output",
        type=Reader(picture),
        metavar=picture.metavar,
        help=f"the figure (default: one in {RESULTS}/, named by date)",
    )
    return parser


def _check(runs: Sequence[Run]) -> None:
    if not 2 <= len({run.path.resolve() for run in runs}) == len(runs) <= _MOST:
        names = quoted(", ".join(str(run.path) for run in runs))
        raise ValueError(f"runs must be 2 to {_MOST} different ones, got {names}")
    if len({run.regression for run in runs}) > 1:
        raise ValueError("runs must have one task, got classifications and regressions")


# --- the table ------------------------------------------------------------------------------------


def _table(runs: Sequence[Run]) -> str:
    """Settings that differ and results, a column a run, as Markdown.

    On a terminal as many columns as fit stand side by side, and the others below them.
    """
    settings = (
        (name, ["-" if v is None else one_line(value_in_words(v)) for v in values])
        for name, values in differing(runs)
    )
    rows = [("", [*ascii_uppercase[: len(runs)]]), *settings, *_results(runs)]
    names = [name for name, _ in rows]
    columns = [*zip(*(values for _, values in rows), strict=True)]
    width = terminal_width() if sys.stdout.isatty() else 10**4  # whole lines for a file
    return "\n".join(_markdown(names, block, width) for block in _blocks(names, columns, width))


def _blocks(
    names: Sequence[str], columns: Sequence[Sequence[str]], width: int
) -> Iterator[list[Sequence[str]]]:
    """The columns in groups, each as wide as fits beside the names; one at least."""
    from rich.cells import cell_len

    start = max(map(cell_len, names)) + 4  # with its bars and spaces
    block: list[Sequence[str]] = []
    used = start
    for column in columns:
        needed = max(map(cell_len, column)) + 3
        if block and used + needed > width:
            yield block
            block, used = [], start
        block.append(column)
        used += needed
    yield block


def _markdown(names: Sequence[str], columns: Sequence[Sequence[str]], width: int) -> str:
    """A table of columns, whose first cells are their headings, beside the names of the rows."""
    from rich.table import Table

    table = Table()
    table.add_column(names[0], no_wrap=True)
    for column in columns:
        table.add_column(column[0], justify="right", overflow="fold")
    for row in [*zip(names, *columns, strict=True)][1:]:
        table.add_row(*row)
    return as_markdown(table, width)


def _results(runs: Sequence[Run]) -> Iterator[tuple[str, list[str]]]:
    """How the runs ended: the name of each figure, and its text for every run."""
    yield f"test {_quality_name(runs)}", [run.ending for run in runs]
    held_out = [_mean(run.values("last_validation_accuracy")) for run in runs]
    regression = runs[0].regression
    yield (
        "held out",
        ["-" if x is None else quality_in_words(x, regression) for x in held_out],
    )
    counts = {"forward_passes": _passes(runs)}
    if _with_meshes(runs):
        counts["phase_writes"] = "phase writes"
    for figure, name in counts.items():
        yield name, [in_short(_mean(run.values(figure))) or "-" for run in runs]
    seconds = [_mean(run.values("train_seconds")) for run in runs]
    yield "training time", ["-" if x is None else f"{x:.1f} s" for x in seconds]


def _quality_name(runs: Sequence[Run]) -> str:
    return "R²" if runs[0].regression else "accuracy"


def _passes(runs: Sequence[Run]) -> str:
    return "mesh passes" if _with_meshes(runs) else "forward passes"


def _with_meshes(runs: Sequence[Run]) -> bool:
    return any(run.settings["network"] == "photonic" for run in runs)


def _mean(values: Sequence[float]) -> float | None:
    return statistics.fmean(values) if values else None


# --- the figure -----------------------------------------------------------------------------------


def _draw(path: Path, runs: Sequence[Run], histories: Sequence[Histories]) -> None:
    """Write the figure: accuracy over epochs and over passes, and what the runs ended with."""
    labels = _labels(runs)

    def draw(epochs: Axes, passes: Axes, tested: Axes) -> None:
        passes.sharey(epochs)
        for index, (run, label, seeds) in enumerate(zip(runs, labels, histories, strict=True)):
            _draw_run(index, run, seeds, label, epochs, passes, tested)
        quality = f"{_quality_name(runs)}{'' if runs[0].regression else ' (%)'}"
        epochs.set(
            xlabel="epochs (mark: the last of a mesh or layer)",
            ylabel=f"{quality}, held-out images",
        )
        passes.set(xlabel=f"{_passes(runs)} (million)", ylabel=f"{quality}, held-out images")
        tested.set(ylabel=f"{quality}, {_tested_on(runs)}", xlim=(-0.5, len(runs) - 0.5))
        tested.set_xticks(range(len(runs)), ascii_uppercase[: len(runs)])
        for axes in (epochs, passes, tested):
            axes.grid(alpha=0.3)
        add_legend([epochs, passes, tested])

    data = " and ".join(dict.fromkeys(Path(str(run.settings["dataset"])).stem for run in runs))
    save_figure(path, draw, panels=3, title=f"{data}: runs compared")


def _labels(runs: Sequence[Run]) -> list[str]:
    """A letter for each run, with the settings in which it differs from the others."""
    names = [name for name, _ in differing(runs) if name not in _NO_LABELS]
    labels = []
    for letter, run in zip(ascii_uppercase, runs, strict=False):
        mine = {name: run.settings.get(name) for name in names}
        words = in_words({name: value for name, value in mine.items() if value is not None})
        text = one_line(f"{letter}: {words}") if words else letter
        labels.append(shorten(text, _LONGEST_LABEL, placeholder=" …"))  # never within a number
    return labels


_NO_LABELS = ("source", "seeds")
_LONGEST_LABEL = 80  # characters


def _tested_on(runs: Sequence[Run]) -> str:
    """The images behind the figures of the runs; where they differ, with the runs' letters."""
    images = {TEST: "test images", HELD_OUT: "held-out images"}
    letters: dict[str, list[str]] = {}
    for letter, run in zip(ascii_uppercase, runs, strict=False):
        letters.setdefault(images[run.tested_on], []).append(letter)
    if len(letters) == 1:
        return next(iter(letters))
    return ", ".join(f"{name} ({', '.join(those)})" for name, those in letters.items())


Histories = Sequence[Sequence[EpochRecord]]
"""What every seed of a run recorded."""


def _draw_run(
    index: int,
    run: Run,
    histories: Histories,
    label: str,
    epochs: Axes,
    passes: Axes,
    tested: Axes,
) -> None:
    style = curve_style(index) | {"ms": 4, "label": label}
    factor = 1 if run.regression else 100
    judged = [[r for r in history if r.validation_accuracy is not None] for history in histories]
    curves = [learning_curve(history, factor) for history in judged]
    if curves := [curve for curve in curves if curve.size]:
        shortest = min(curve.shape[1] for curve in curves)
        x, y = np.stack([curve[:, :shortest] for curve in curves], axis=1)
        style["markevery"] = _ends(histories[0], shortest)
        for axes, places in ((epochs, np.arange(1, shortest + 1)), (passes, x.mean(axis=0) / 1e6)):
            plot_band(axes, places, y, **style)
    values = [factor * x for x in run.values("test_r2" if run.regression else "test_accuracy")]
    marker = {"marker": style["marker"], "color": style["color"], "linestyle": ""}
    tested.plot([index] * len(values), values, **marker, alpha=0.5, ms=5)
    if values:
        tested.plot([index], [statistics.fmean(values)], **marker, ms=9)


def _ends(history: Sequence[Any], epochs: int) -> list[int]:
    """Places of the epochs that end the training of a mesh or layer, and of the last one."""
    numbers = [record.mesh for record in history if record.validation_accuracy is not None]
    ends = [at for at, pair in enumerate(pairwise(numbers)) if pair[0] != pair[1]]
    return [*(at for at in ends if at < epochs), epochs - 1]


if __name__ == "__main__":
    sys.exit(main())
