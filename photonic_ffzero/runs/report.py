"""One HTML page about some grids: figures, tables and failures, in a single file."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from meshes.files import DataError, reading, write_bytes
from meshes.validation import one_line
from photonic_ffzero.runs.grid import Grid, GridDirectory, Outcome
from photonic_ffzero.runs.summary import footnotes, runs_table, summary_texts


def write_report(
    path: Path, sections: Sequence[Mapping[str, Any]], title: str = "Experiments"
) -> None:
    """Fill the template ``report.html.j2``, which escapes every text, and write the page.

    Args:
        path: The HTML file.
        sections: What the template shows, see `grid_section`.
        title: Heading of the page.
    """
    from jinja2 import Environment, PackageLoader

    environment = Environment(loader=PackageLoader("photonic_ffzero.runs", ""), autoescape=True)
    page = environment.get_template("report.html.j2").render(sections=sections, title=title)
    write_bytes(path, f"{page}\n".encode())


def grid_section(path: Path) -> dict[str, Any]:
    """What the report says of the grid in a directory, finished or not.

    Returns:
        title, description and command, as texts; facts, from name to text; failures and
        warnings, a text each; pictures, each with its base64 and a text; tables, each with
        caption, header, rows and folded (whether a click opens it).
    """
    directory = GridDirectory.open(path)
    grid, outcomes = directory.grid, directory.outcomes()
    unread: list[str] = []
    tables = [*_tables(directory, outcomes, unread)]
    return {
        "title": grid.heading,
        "description": grid.description,
        "command": grid.command,
        "facts": _facts(grid, outcomes),
        "failures": [
            f"{outcome.cell.name}: {outcome.message} ({outcome.directory / 'log.txt'})"
            for outcome in outcomes
            if outcome.state == "failed"
        ],
        "warnings": [*footnotes(outcomes), *unread],
        "pictures": list(_pictures(directory)),
        "tables": tables,
    }


def _facts(grid: Grid, outcomes: Sequence[Outcome]) -> dict[str, str]:
    done = [outcome.results for outcome in outcomes if outcome.state == "done"]
    seconds = sum(float(results.get("train_seconds") or 0) for results in done)
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


def _pictures(directory: GridDirectory) -> Iterator[dict[str, str]]:
    """Embeddings, where an experiment draws them, the grid's figure, then all others."""
    grid, main = directory.grid, directory.path / "figure.png"
    first = directory.path / "embeddings.png"
    rank = {first: 0, main: 1}
    for path in sorted(directory.path.glob("*.png"), key=lambda p: (rank.get(p, 2), p)):
        axes = f"{grid.value_axis} against {grid.x_label or grid.x}, as in the table"
        text = axes if path == main else f"{grid.heading}: {path.stem}"
        yield {"base64": base64.b64encode(path.read_bytes()).decode(), "text": text}


def _tables(
    directory: GridDirectory, outcomes: Sequence[Outcome], unread: list[str]
) -> Iterator[dict[str, Any]]:
    """The means, the tables that the experiment adds, and every run.

    ``unread`` gets a line for each file that is no table, which is left out.
    """
    import pandas as pd

    grid, runs = directory.grid, runs_table(directory.grid, outcomes)
    yield {
        "caption": "Mean and standard deviation over the seeds",
        "header": [*grid.label_names, grid.value_axis, "n", "seconds a run"],
        "rows": summary_texts(grid, runs),
    }
    for path in sorted(set(directory.path.glob("*.csv")) - {directory.path / "results.csv"}):
        try:
            with reading(path, "a table"):
                table = pd.read_csv(path, dtype=str, keep_default_na=False)
        except DataError as error:
            unread.append(f"left out: {one_line(str(error))}")
            continue
        caption = path.stem.replace("_", " ").capitalize()
        yield _folded(caption, list(table), table.to_numpy().tolist())
    for name, write in (("value", grid.written), ("seconds", "{:.1f}".format)):
        runs[name] = runs[name].map(write, na_action="ignore").astype(object).fillna("-")
    header = [*grid.label_names, "seed", "state", grid.value_axis, "seconds"]
    yield _folded(f"Every run ({len(runs)})", header, runs.astype(str).to_numpy().tolist())


def _folded(caption: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> dict[str, Any]:
    return {"caption": caption, "header": header, "rows": rows, "folded": True}
