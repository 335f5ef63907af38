"""What a grid shows of its runs: numbers, tables and the figure."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain, compress, repeat
from typing import TYPE_CHECKING, Any

import numpy as np

from meshes.files import write_bytes
from meshes.validation import counted, one_line
from photonic_ffzero.plots import curve_style, save_figure
from photonic_ffzero.runs.grid import Grid, GridDirectory, Label, Outcome, label_text
from photonic_ffzero.storage import write_csv

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from pandas import DataFrame
    from rich.table import Table

_MAX_TICKS = 8  # up to so many values of x, each gets a tick
_TICK_TEXT = 45  # characters that fit side by side below a panel
_LEGEND_ROW = 0.22  # inches
_LINE_SHIFT, _CATEGORY_SHIFT, _RUN_SHIFT = 3.0, 12.0, 5.0  # points to the next curve; to its runs


def write_results(directory: GridDirectory) -> str:
    """Write results.csv, table.txt and figure.png from the runs so far; return the table."""
    grid, outcomes = directory.grid, directory.outcomes()
    runs = runs_table(grid, outcomes)
    table = markdown(grid, runs) + "".join(f"\n{note}\n" for note in footnotes(outcomes))
    write_csv(directory.path / "results.csv", [_csv_row(outcome) for outcome in outcomes])
    write_bytes(directory.path / "table.txt", table.encode())
    panels = _panels(grid, runs)

    def draw(*axes: Axes) -> None:
        for panel, (labels, members) in zip(axes, panels, strict=True):
            panel.sharey(axes[0])
            plot_grid(panel, grid, members)
            panel.set_title(label_text(labels), fontsize="medium")
        add_legend(axes)

    title = f"{grid.heading} (preset {grid.preset})"
    save_figure(directory.path / "figure.png", draw, panels=len(panels), title=title)
    return table


def footnotes(outcomes: Iterable[Outcome]) -> list[str]:
    """What makes figures of the runs meaningless, with how many runs it is true of."""
    lists = [list(map(str, _warnings(outcome))) for outcome in outcomes if outcome.results]
    texts = dict.fromkeys(chain.from_iterable(lists))
    return [
        f"warning in {sum(text in mine for mine in lists)} of {counted(len(lists), 'run')}: {text}"
        for text in texts
    ]


def _warnings(outcome: Outcome) -> Sequence[Any]:
    """The warnings of a run; runs of earlier versions have none."""
    warnings = outcome.results.get("warnings")
    return warnings if isinstance(warnings, list) else []


def _csv_row(outcome: Outcome) -> dict[str, Any]:
    """Labels, seed, state, and every single number or text among the results."""
    row: dict[str, Any] = {**outcome.cell.labels, "seed": outcome.cell.seed, "state": outcome.state}
    for name, value in outcome.results.items():
        if value is None or isinstance(value, str | int | float):
            row.setdefault(name, value)
    row["warnings"] = "; ".join(map(str, _warnings(outcome)))
    return row


# --- numbers and tables ---------------------------------------------------------------------------


def runs_table(grid: Grid, outcomes: Iterable[Outcome]) -> DataFrame:
    """A row for each run: its labels, seed, state, value in the grid's unit, training seconds."""
    from pandas import DataFrame

    rows = [
        {
            **outcome.cell.labels,
            "seed": outcome.cell.seed,
            "state": outcome.state,
            "value": grid.shown(outcome.results),
            "seconds": outcome.results.get("train_seconds"),
        }
        for outcome in outcomes
    ]
    # As objects, labels keep their types: 0 beside 0.1 stays 0.
    return DataFrame(rows, dtype=object).astype({"value": float, "seconds": float})


def summarise(grid: Grid, runs: DataFrame) -> DataFrame:
    """Mean and standard deviation (n - 1 in the denominator) over the seeds.

    Args:
        grid: The grid.
        runs: Rows of `runs_table`.

    Returns:
        A row for each coordinate, in the order of the runs, with the labels as its index: mean
        and sd of the values, n values of so many cells, failed cells, mean seconds.
    """
    groups = runs.groupby([*grid.label_names], sort=False)
    return groups.agg(
        mean=("value", lambda values: values.mean()),  # "mean" itself adds up in another order
        sd=("value", lambda values: values.std()),
        n=("value", "count"),
        cells=("value", "size"),
        failed=("state", lambda states: (states == "failed").sum()),
        seconds=("seconds", lambda values: values.mean()),
    )


def summary_texts(grid: Grid, runs: DataFrame) -> list[list[str]]:
    """The summaries as text: labels, mean +- sd, n, and the mean training time in seconds."""
    rows = []
    summaries = summarise(grid, runs).itertuples()
    for labels, row in zip(_coordinates(grid, runs), summaries, strict=True):
        value = grid.written(row.mean) if row.n else "-"
        spread = f" +- {grid.written(row.sd)}" if row.n > 1 else ""
        count = str(row.n) if row.n == row.cells else f"{row.n}/{row.cells}"
        failed = " failed" if row.failed else ""
        seconds = "-" if row.seconds != row.seconds else f"{row.seconds:.1f}"
        names = (one_line(str(label)) for label in labels)
        rows.append([*names, value + spread, count + failed, seconds])
    return rows


def _coordinates(grid: Grid, runs: DataFrame) -> list[tuple[Label, ...]]:
    return list(dict.fromkeys(runs[[*grid.label_names]].itertuples(index=False, name=None)))


def markdown(grid: Grid, runs: DataFrame) -> str:
    """The summaries as Markdown tables of at most 80 columns, one for each panel."""
    tables = []
    for labels, members in _panels(grid, runs):
        heading = ", ".join(f"{name}: {value}" for name, value in labels.items())
        tables.append((f"{heading}\n\n" if heading else "") + _panel_markdown(grid, members))
    return "\n".join(tables)


def _panel_markdown(grid: Grid, runs: DataFrame) -> str:
    from rich.table import Table

    table = Table()
    shown = [name not in grid.panels for name in grid.label_names]
    for name in compress(grid.label_names, shown):
        table.add_column(name, overflow="fold")
    for name in (grid.value_axis, "n", "seconds"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in summary_texts(grid, runs):
        table.add_row(*compress(row, chain(shown, repeat(True))))
    return as_markdown(table)


def as_markdown(table: Table, width: int | None = 80) -> str:
    """A table as lines of at most so many characters; None for the terminal's width."""
    from rich import box
    from rich.console import Console

    table.box, text = box.MARKDOWN, io.StringIO()
    Console(file=text, width=width, color_system=None, markup=False).print(table)
    lines = (line.rstrip() for line in text.getvalue().splitlines())
    return "".join(f"{line}\n" for line in lines if line)


# --- the figure -----------------------------------------------------------------------------------


def _panels(grid: Grid, runs: DataFrame) -> list[tuple[dict[str, Label], DataFrame]]:
    """The labels of each panel and its rows of `runs_table`, in the order of the runs."""
    if not grid.panels:
        return [({}, runs)]
    groups = runs.groupby([*grid.panels], sort=False)
    return [(dict(zip(grid.panels, values, strict=True)), rows) for values, rows in groups]


def plot_grid(axes: Axes, grid: Grid, runs: DataFrame) -> None:
    """Draw the mean at every coordinate with its standard deviation, curve by curve.

    Numbers along x are joined by lines, with a gap where no run has a value; categories get points
    side by side. Small dots beside a mean are the single runs. A cross at the lower edge is a place
    at which all runs failed.

    Args:
        axes: The axes to draw on.
        grid: The grid, which says what each label is for.
        runs: Rows of `runs_table`, of one panel.
    """
    ticks = list(dict.fromkeys(runs[grid.x]))
    categories = any(isinstance(tick, str) for tick in ticks)
    places = {tick: i if categories else float(tick) for i, tick in enumerate(ticks)}
    names = list(dict.fromkeys(_curve_name(grid, cell.labels) for cell in grid.cells))
    members = [_curve_name(grid, row) for row in runs.to_dict("records")]
    for index, name in enumerate(names):  # a curve looks the same in every panel
        curve = runs[[member == name for member in members]]
        shift = (index - (len(names) - 1) / 2) * (_CATEGORY_SHIFT if categories else _LINE_SHIFT)
        style = curve_style(index) | ({"linestyle": ""} if categories else {})
        if not curve.empty:
            _plot_curve(axes, grid, curve, places, shift, **style, label=name)
    if runs["value"].isna().all():
        axes.text(0.5, 0.5, "no finished runs", transform=axes.transAxes, ha="center")
    _finish(axes, grid, places, categories)


def _curve_name(grid: Grid, labels: Mapping[Any, Label]) -> str:
    return label_text({name: labels[name] for name in grid.curves})


def _plot_curve(
    axes: Axes,
    grid: Grid,
    runs: DataFrame,
    places: Mapping[Label, float],
    shift: float,
    **style: Any,
) -> None:
    """Draw means with bars and the runs beside them, shifted so that equal curves stay apart."""
    summary = summarise(grid, runs)
    x = summary.index.get_level_values(grid.x).map(places).to_numpy()
    order = x.argsort(kind="stable")
    mean, sd = summary["mean"].to_numpy()[order], summary["sd"].to_numpy()[order]
    bar = sd if np.isfinite(sd).any() else None  # of single runs there is none, nor in the legend
    line, caps, bars = axes.errorbar(x[order], mean, bar, capsize=4, markersize=6, **style)
    _move(axes, (line, *caps, *bars), shift)
    failed = x[(summary["failed"] == summary["cells"]).to_numpy()]
    if len(failed):
        edge, low = axes.get_xaxis_transform(), np.full(len(failed), 0.03)
        crosses = axes.plot(failed, low, "x", color=style["color"], transform=edge, label="failed")
        _move(axes, crosses, shift)
    several = runs.groupby([*grid.label_names])["value"].transform("count") > 1
    repeated = runs[several & runs["value"].notna()]
    if not repeated.empty:
        x = repeated[grid.x].map(places)
        dots = axes.plot(x, repeated["value"], ".", color=style["color"], markersize=3)
        _move(axes, dots, shift + _RUN_SHIFT)


def _move(axes: Axes, artists: Iterable[Any], points: float) -> None:
    """Shift artists to the right; the limits of the axes still follow the data."""
    from matplotlib.transforms import ScaledTranslation

    figure: Any = axes.figure
    for artist in artists:
        shift = ScaledTranslation(points / 72, 0, figure.dpi_scale_trans)
        artist.set_transform(artist.get_transform() + shift)


def _finish(axes: Axes, grid: Grid, places: Mapping[Label, float], categories: bool) -> None:
    if grid.log_x and not categories:
        axes.set_xscale("log")
    if categories or len(places) <= _MAX_TICKS:
        names = [tick if isinstance(tick, str) else f"{tick:g}" for tick in places]
        crowded = sum(map(len, names)) + 2 * len(names) > _TICK_TEXT
        slant: Any = {"rotation": 30, "ha": "right", "rotation_mode": "anchor"} if crowded else {}
        axes.set_xticks(list(places.values()), names, **slant)
        axes.minorticks_off()
    if categories:
        axes.set_xlim(-0.5, len(places) - 0.5)
    axes.set(xlabel=grid.x_label or grid.x, ylabel=grid.value_axis)
    axes.grid(alpha=0.3)


def add_legend(axes: Sequence[Axes]) -> None:
    """Add one legend for all panels, below them; the figure grows by its rows after the first."""
    entries: dict[str, Any] = {}
    for panel in axes:
        handles, labels = panel.get_legend_handles_labels()
        entries |= {label: h for h, label in zip(handles, labels, strict=True) if label}
    if entries:
        figure: Any = axes[0].figure
        fitting = _TICK_TEXT * len(axes) // (max(map(len, entries)) + 8)  # 8 for a line
        columns = max(1, min(len(entries), 2 * len(axes), fitting))
        width, height = figure.get_size_inches()
        figure.set_size_inches(width, height + _LEGEND_ROW * ((len(entries) - 1) // columns))
        figure.legend(entries.values(), entries, loc="outside lower center", ncols=columns)
