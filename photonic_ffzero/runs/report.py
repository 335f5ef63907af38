"""One HTML page that holds everything worth telling of some grids: no other file, no script.

python -m photonic_ffzero.report results/GRID ... --output report.html
"""

from __future__ import annotations

import base64
import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

from photonic_ffzero.runs.grid import SECONDS, Grid, GridDirectory, Outcome, summarise
from photonic_ffzero.storage import write_whole

_STYLE = """
:root { color-scheme: light dark; --text: #1b1b1b; --faint: #5c5c5c; --back: #ffffff;
  --line: #c8c8c8; --bad: #a51d00; --soft: #f3f3f3; }
@media (prefers-color-scheme: dark) { :root { --text: #e6e6e6; --faint: #a8a8a8;
  --back: #161616; --line: #444444; --bad: #ff9d85; --soft: #222222; } }
body { max-width: 50rem; margin: 2rem auto; padding: 0 1rem; color: var(--text);
  background: var(--back); font: 1rem/1.5 system-ui, sans-serif; }
h1, h2 { line-height: 1.2; }
section { border-top: 1px solid var(--line); margin-top: 2rem; }
figure { margin: 1rem 0; }
img { max-width: 100%; height: auto; background: #ffffff; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
caption { text-align: left; color: var(--faint); padding-bottom: 0.3rem; }
th, td { border-bottom: 1px solid var(--line); padding: 0.2rem 0.8rem 0.2rem 0; text-align: left; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 0.1rem 1rem; }
dt { color: var(--faint); }
dd { margin: 0; overflow-wrap: anywhere; }
code { background: var(--soft); padding: 0 0.2rem; overflow-wrap: anywhere; }
.failed { color: var(--bad); }
summary { cursor: pointer; color: var(--faint); }
"""


@dataclass(frozen=True)
class ReportTable:
    """A table of the report.

    Attributes:
        caption: What it shows.
        header: Names of the columns.
        rows: Their cells; as many as the header has.
        folded: Whether it is to be opened with a click first.
    """

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    folded: bool = False


@dataclass(frozen=True)
class Picture:
    """A picture of the report.

    Attributes:
        png: The content of its file.
        text: What it shows, for those who cannot see it.
    """

    png: bytes
    text: str


@dataclass(frozen=True)
class Section:
    """What the report tells of one experiment; all of it plain text but the figure.

    Attributes:
        title: Its heading.
        description: A paragraph.
        command: The command line that gives it again.
        facts: Names and values: seeds, time, versions.
        failures: What did not work, a line each.
        pictures: What is to be seen.
        tables: Its tables.
    """

    title: str
    description: str = ""
    command: str = ""
    facts: Mapping[str, str] = field(default_factory=dict)
    failures: Sequence[str] = ()
    pictures: Sequence[Picture] = ()
    tables: Sequence[ReportTable] = ()


def write_report(path: Path, sections: Sequence[Section], title: str = "Experiments") -> None:
    """Write the page: figures as base64, tables as tables, every text escaped.

    Args:
        path: The HTML file.
        sections: What it tells, in this order.
        title: Its heading.

    Raises:
        OSError: the file cannot be written; an older one stands.
    """
    page = "\n".join(_page(sections, title)) + "\n"
    write_whole(path, lambda file: file.write(page.encode()))


def _page(sections: Sequence[Section], title: str) -> Iterable[str]:
    yield "<!DOCTYPE html>"
    yield '<html lang="en"><head><meta charset="utf-8">'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    yield f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>"
    yield f"<h1>{escape(title)}</h1>"
    if len(sections) > 1:
        links = (f'<li><a href="#s{i}">{escape(s.title)}</a></li>' for i, s in enumerate(sections))
        yield f"<nav><ul>{''.join(links)}</ul></nav>"
    for index, section in enumerate(sections):
        yield f'<section id="s{index}">'
        yield from _section(section)
        yield "</section>"
    yield "</body></html>"


def _section(section: Section) -> Iterable[str]:
    yield f"<h2>{escape(section.title)}</h2>"
    if section.description:
        yield f"<p>{escape(section.description)}</p>"
    if section.failures:
        yield f'<p class="failed"><strong>Failed: {len(section.failures)}</strong></p>'
        lines = (f"<li>{escape(line)}</li>" for line in section.failures)
        yield f'<ul class="failed">{"".join(lines)}</ul>'
    for picture in section.pictures:
        content = base64.b64encode(picture.png).decode()
        yield f'<figure><img src="data:image/png;base64,{content}"'
        yield f' alt="{escape(picture.text)}"></figure>'
    for table in section.tables:
        yield from _table(table)
    if section.command:
        yield f"<p>To reproduce: <code>{escape(section.command)}</code></p>"
    if section.facts:
        facts = (f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in section.facts.items())
        yield f"<dl>{''.join(facts)}</dl>"


def _table(table: ReportTable) -> Iterable[str]:
    if table.folded:
        yield f"<details><summary>{escape(table.caption)}</summary>"
    yield '<div class="wide"><table>'
    if not table.folded:
        yield f"<caption>{escape(table.caption)}</caption>"
    header = (f'<th scope="col">{escape(name)}</th>' for name in table.header)
    yield f"<thead><tr>{''.join(header)}</tr></thead><tbody>"
    for row in table.rows:
        yield f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>"
    yield "</tbody></table></div>"
    if table.folded:
        yield "</details>"


# --- grids ----------------------------------------------------------------------------------------


def grid_section(path: Path) -> Section:
    """What to tell of the grid in a directory, finished or not.

    Args:
        path: The grid's directory.

    Raises:
        ValueError: there is no grid in it.
        DataError: its grid.json is damaged.
        OSError: its figure cannot be read.
    """
    directory = GridDirectory.open(path)
    grid, outcomes = directory.grid, directory.outcomes()
    return Section(
        title=grid.heading,
        description=grid.description,
        command=grid.command,
        facts=_facts(grid, outcomes),
        failures=[
            f"{outcome.cell.name}: {outcome.message} ({outcome.directory / 'log.txt'})"
            for outcome in outcomes
            if outcome.state == "failed"
        ],
        pictures=list(_pictures(directory)),
        tables=[_means(grid, outcomes), *_others(directory), _runs(grid, outcomes)],
    )


def _pictures(directory: GridDirectory) -> Iterable[Picture]:
    """The grid's figure, then whatever its experiment drew besides."""
    grid, main = directory.grid, directory.path / "figure.png"
    if main.exists():
        text = f"{grid.value_axis} against {grid.x_label or grid.x}, as in the table"
        yield Picture(main.read_bytes(), text)
    for path in sorted(set(directory.path.glob("*.png")) - {main}):
        yield Picture(path.read_bytes(), f"{grid.heading}: {path.stem}")


def _others(directory: GridDirectory) -> Iterable[ReportTable]:
    """What the experiment wrote in tables of its own."""
    for path in sorted(set(directory.path.glob("*.csv")) - {directory.path / "results.csv"}):
        with open(path, newline="", encoding="utf-8") as file:
            header, *rows = csv.reader(file)
        yield ReportTable(path.stem.replace("_", " ").capitalize(), header, rows, folded=True)


def _facts(grid: Grid, outcomes: Sequence[Outcome]) -> dict[str, str]:
    done = [outcome.results for outcome in outcomes if outcome.state == "done"]
    seconds = sum(float(results.get(SECONDS) or 0) for results in done)
    versions: dict[str, set[str]] = {}
    for results in done:
        for name, version in dict(results.get("versions") or {}).items():
            versions.setdefault(name, set()).add(str(version))
    return {
        "Preset": grid.preset,
        "Runs": f"{len(done)} of {len(outcomes)} done",
        "Seeds": ", ".join(map(str, sorted({outcome.cell.seed for outcome in outcomes}))),
        "Training time": f"{seconds:.0f} s, all runs added up",
        "Versions": ", ".join(f"{n} {' and '.join(sorted(v))}" for n, v in versions.items()) or "-",
    }


def _means(grid: Grid, outcomes: Sequence[Outcome]) -> ReportTable:
    rows = [
        [*map(str, s.labels.values()), s.written(grid), s.n, s.written_seconds]
        for s in summarise(grid, outcomes)
    ]
    return ReportTable(
        "Mean and standard deviation over the seeds",
        [*grid.label_names, grid.value_axis, "n", "seconds a run"],
        rows,
    )


def _runs(grid: Grid, outcomes: Sequence[Outcome]) -> ReportTable:
    rows = []
    for outcome in outcomes:
        cell, value = outcome.cell, grid.shown(outcome.results)
        seconds = outcome.results.get(SECONDS)
        figures = ["-" if value is None else grid.written(value)]
        figures += ["-" if seconds is None else f"{seconds:.1f}"]
        rows.append([*map(str, cell.labels.values()), str(cell.seed), outcome.state, *figures])
    header = [*grid.label_names, "seed", "state", grid.value_axis, "seconds"]
    return ReportTable(f"Every run ({len(rows)})", header, rows, folded=True)
