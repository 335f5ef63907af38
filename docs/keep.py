"""Keep finished runs in docs/results/, and fill the tables of the pages from what is kept there.

    python docs/keep.py NAME RUN [RUN ...]    keep a grid, some runs or a table
    python docs/keep.py                       fill the tables of the pages anew

docs/results/NAME/ gets results.csv (a row for each run: its labels, its seed, its state and its
figures), about.json (the commands that repeat the runs, seeds, commit, date and machine) and the
pictures of a grid. An experiment that is no grid leaves these files itself: its results.csv, and
its command in about.json. A page shows a file as a table between two lines,
<!-- table: results/NAME/results.csv --> and <!-- end of table -->.

The table has the mean and the standard deviation over the seeds. "across=LABEL" behind the name
of the file gives every value of that label a column; "show=FIGURE,..." chooses the figures. A
file without a column "seed" is shown as it is. Tables of settings and of registries, such as
<!-- table: settings -->, come from the code.
"""

from __future__ import annotations

import inspect
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from datetime import date
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import pandas as pd
from PIL import Image

from meshes import NONLINEARITIES, Imperfections
from meshes.validation import choice
from photonic_ffzero import data, goodness, gradients, layers, optimizers
from photonic_ffzero.cli.arguments import LineParser, Reader, flag_of
from photonic_ffzero.config import METHODS, Config
from photonic_ffzero.cores import available_cores
from photonic_ffzero.elements import as_text, each, listed
from photonic_ffzero.runs import GridDirectory, Plan
from photonic_ffzero.runs.names import RUN
from photonic_ffzero.runs.plan import changes_of
from photonic_ffzero.runs.records import read_results
from photonic_ffzero.settings import markdown_table, settings_table
from photonic_ffzero.storage import read_json, write_csv, write_json

PAGES = Path(__file__).parent
MARKS = re.compile(r"(?ms)(^<!-- table: (\S+)(.*?) -->\n)(.*?)(^<!-- end of table -->)")

# The figures of results.json that are kept: heading, factor and decimals in a table.
FIGURES = {
    "test_accuracy": ("test accuracy (%)", 100, 2),
    "test_r2": ("test R²", 1, 4),
    "vote_accuracy": ("by vote (%)", 100, 2),
    "goodness_sum_accuracy": ("by summed goodness (%)", 100, 2),
    "last_validation_accuracy": ("held-out accuracy (%)", 100, 2),
    "forward_passes": ("forward passes (million)", 1e-6, 2),
    "phase_writes": ("phase writes (thousand)", 1e-3, 0),
    "train_seconds": ("time of a run (s)", 1, 0),
    # Of experiments/incremental.py: behind the first part of the training, and at its end.
    "old_before": ("classes 0 to 4, learned alone (%)", 100, 1),
    "old": ("then classes 0 to 4 (%)", 100, 1),
    "new": ("then classes 5 to 9 (%)", 100, 1),
}
_PATHS = ("start_from", "frozen_phases", "chip_estimate")
_NO_LABELS = ("seed", "seeds")  # what tells the runs of a row apart

Row = dict[str, Any]

# --- tables -------------------------------------------------------------------------------------


def filled(page: str) -> str:
    """A page with every table as its file has it today."""
    return MARKS.sub(lambda mark: mark[1] + _region(mark[2], mark[3]) + mark[5], page)


def _registry(registry: Mapping[str, Any]) -> str:
    """Each name and the first line of its docstring."""
    rows = [("name", "what it is"), ("---",) * 2]
    for name, entry in registry.items():
        first_line = (inspect.getdoc(entry) or "").partition("\n")[0]
        what = re.sub(r":math:`([^`]*)`", r"$\1$", first_line)
        rows.append((f"`{name}`", what))
    return markdown_table(rows)


def _arguments(cls: type) -> str:
    """The arguments of a class, with their meaning and default, as its docstring has them."""
    documented = (inspect.getdoc(cls) or "").partition("\nArgs:\n")[2].partition("\n\n")[0]
    rows = [("argument", "meaning", "default"), ("---",) * 3]
    for field in fields(cls):
        (text,) = re.findall(rf"(?ms)^ {{4}}{field.name}: (.*?)(?=^ {{4}}\w|\Z)", documented)
        what = " ".join(text.split()).replace("``", "`").replace(r"\|", "|")
        rows.append((f"`{field.name}`", what, str(field.default)))
    return markdown_table(rows)


def _nonlinearities() -> str:
    """Each nonlinearity with the defaults of its parameters, and what it is."""
    table = _registry(NONLINEARITIES)
    for spec in listed(NONLINEARITIES).split(", "):
        table = table.replace(f"| `{spec.partition(':')[0]}` |", f"| `{spec}` |")
    return table


TABLES = {
    "settings": partial(settings_table, Config),
    "plan": partial(settings_table, Plan),
    "imperfections": partial(_arguments, Imperfections),
    "nonlinearity_table": _nonlinearities,
    "nonlinearities": partial(_registry, NONLINEARITIES),
    "losses": partial(_registry, goodness.LOSSES),
    "estimators": partial(_registry, gradients.ESTIMATORS),
    "laws": partial(_registry, gradients.LAWS),
    "perturbations": partial(_registry, gradients.PERTURBATIONS),
    "optimizers": partial(_registry, optimizers.OPTIMIZERS),
    "schedules": partial(_registry, optimizers.SCHEDULES),
    "detections": partial(_registry, goodness.DETECTIONS),
    "readouts": partial(_registry, goodness.READOUTS),
    "prototypes": partial(_registry, goodness.PROTOTYPES),
    "rules": partial(_registry, goodness.RULES),
    "encodings": partial(_registry, data.ENCODINGS),
    "tasks": partial(_registry, data.TASKS),
    "activations": partial(_registry, layers.ACTIVATIONS),
}


def _region(name: str, options: str) -> str:
    """A table of the code, or a file; if its rows are runs, commands, date and machine follow."""
    if name in TABLES:
        return f"\n{TABLES[name]()}\n"
    path = PAGES / name
    cells = pd.read_csv(path, dtype=str, keep_default_na=False, header=None)
    cells = cells[1:].set_axis(cells.iloc[0], axis="columns")
    if "seed" not in cells:
        return f"{_markdown(cells)}\n"
    about = json.loads((path.parent / "about.json").read_text())
    table = summary(cells, **dict(word.split("=", 1) for word in options.split()))
    commands = "".join(f"    {command}\n" for command in about["commands"])
    seeds = about["seeds"]
    what = f"{table.attrs['figure']}, {'seeds' if ',' in seeds else 'seed'} {seeds}"
    if not table.attrs["even"]:
        what += "; some rows have fewer"
    facts = f"{about['date']}, commit {about['commit']}, {about['machine']}"
    return f"{_markdown(table)}\n{commands}\n{what}. {facts}. [Every run]({name}).\n"


def _markdown(cells: pd.DataFrame) -> str:
    return markdown_table([[*cells], ["---"] * len(cells.columns), *cells.to_numpy().tolist()])


def summary(runs: pd.DataFrame, across: str = "", show: str = "") -> pd.DataFrame:
    """Mean and standard deviation over the seeds.

    Args:
        runs: The cells of a results.csv, as texts; the labels come before the seed.
        across: The label whose values become columns; then there is one figure.
        show: The figures, with commas between them; by default the first one and the time.

    Returns:
        A row for each place, in the order of the runs. Its attribute ``figure`` names the first
        figure in words, and ``even`` says whether all rows are of as many seeds.
    """
    labels = [*runs][: [*runs].index("seed")]
    present = [name for name in FIGURES if name in runs]
    columns = show.split(",") if show else [present[0], "train_seconds"]
    for option, value, known in (
        *(("show", name, present) for name in columns),
        *([("across", across, labels)] if across else []),
    ):
        choice(option, value, known)
    first = FIGURES[columns[0]][0]
    rows: dict[tuple[str, ...], Row] = {}
    groups = [members for _, members in runs.groupby(labels, sort=False)] if labels else [runs]
    for members in groups:
        place = dict(members[labels].iloc[0])
        figures = {FIGURES[name][0]: _spread(name, members[name]) for name in columns}
        if across:
            figures = {f"{across} {place.pop(across)}": figures[first]}
        rows.setdefault((*place.values(),), place).update(figures)
    table = pd.DataFrame([*rows.values()]).fillna("-")
    table.attrs["figure"] = first[0].upper() + first[1:]
    table.attrs["even"] = len({len(members) for members in groups}) == 1
    return table


def _spread(name: str, texts: pd.Series) -> str:
    """Mean and standard deviation (n - 1 in the denominator); how many runs where some lack."""
    _, factor, decimals = FIGURES[name]
    values = factor * pd.to_numeric(texts).dropna()
    if values.empty:
        return "-"
    text = f"{values.mean():.{decimals}f}"
    if len(values) > 1:
        text += f" ± {values.std():.{decimals}f}"
    return text if len(values) == len(texts) else f"{text} ({len(values)} of {len(texts)} runs)"


# --- keeping ------------------------------------------------------------------------------------


def keep(name: str, runs: Sequence[Path], machine: str, commit: str) -> None:
    """Write docs/results/NAME/ from a grid, from finished runs or from a table."""
    folder = PAGES / "results" / name
    kinds = {"grid.json": _grid, "about.json": _table}
    read = next((kinds[file] for file in kinds if (runs[0] / file).exists()), None)
    if read and len(runs) > 1:
        raise ValueError(f"a grid or a table is kept alone, found {len(runs)} directories")
    rows, commands = read(runs[0]) if read else _runs(runs)
    pictures = sorted(runs[0].glob("*.png")) if read else []
    ended = [path for run in runs for path in run.rglob("results.json")]
    files = ended or [runs[0] / "results.csv"]
    about = {
        "commands": commands,
        "seeds": ", ".join(map(str, sorted({row["seed"] for row in rows}))),
        "commit": commit,
        "date": str(date.fromtimestamp(max(path.stat().st_mtime for path in files))),
        "machine": machine,
    }
    folder.mkdir(parents=True, exist_ok=True)
    write_csv(folder / "results.csv", _without_empty(rows))
    write_json(folder / "about.json", about)
    for picture in pictures:
        shrink(picture, folder / picture.name)


def shrink(picture: Path, small: Path) -> None:
    """Write a picture with 256 colours and at most 1,000 pixels across: a few tens of kB."""
    with Image.open(picture) as image:
        image = image.convert("RGB")
        image.thumbnail((1000, 1000))
        image.quantize(256).save(small, optimize=True)


def _grid(folder: Path) -> tuple[list[Row], list[str]]:
    directory = GridDirectory.open(folder)
    rows = [
        {**outcome.cell.labels, "seed": outcome.cell.seed, "state": outcome.state}
        | _figures(outcome.results)
        for outcome in directory.outcomes()
    ]
    return rows, [directory.grid.command]


def _table(folder: Path) -> tuple[list[Row], list[str]]:
    """An experiment's own rows, and its command."""
    rows = pd.read_csv(folder / "results.csv", dtype=str, keep_default_na=False)
    return rows.to_dict("records"), [json.loads((folder / "about.json").read_text())["command"]]


def _runs(folders: Iterable[Path]) -> tuple[list[Row], list[str]]:
    """Labels are the settings in which the commands differ."""
    plans, commands, results_by_plan = [], [], []
    for folder in folders:
        plan = Plan.from_json(read_json(folder / "config.json") or {}, folder / "config.json")
        paths = [*folder.glob("seed-*/results.json")] or [folder / "results.json"]
        finished = [results for path in paths if (results := read_results(path))]
        if len(finished) != plan.seeds:
            raise ValueError(
                f"{folder} must hold {plan.seeds} finished runs, found {len(finished)}"
            )
        plans.append(plan.as_json())
        commands.append(fewest_settings(plan))
        results_by_plan.append(sorted(finished, key=lambda results: results["seed"]))
    labels = [
        name
        for name in dict.fromkeys(chain(*commands))
        if name not in _NO_LABELS and len({repr(plan[name]) for plan in plans}) > 1
    ]
    rows = [
        {name: plan[name] for name in labels}
        | {"seed": results["seed"], "state": "done"}
        | _figures(results)
        for plan, finished in zip(plans, results_by_plan, strict=True)
        for results in finished
    ]
    return rows, [command(settings) for settings in commands]


def _figures(results: Mapping[str, Any]) -> Row:
    """The figures of a run; None for what it has not."""
    return {figure: results.get(figure) for figure in FIGURES}


def fewest_settings(plan: Plan) -> Row:
    """The settings that give a plan again; all others are as its recipe has them."""
    content = plan.as_json()
    named = {"recipe", "dataset", *changes_of(content)}
    named |= {"method"} if content["method"] != METHODS[0] else set()
    return {name: value for name, value in content.items() if name in named}


def command(settings: Row) -> str:
    """The command line that trains with these settings; of a path it has the name alone."""
    target = "digital" if settings["recipe"] == "digital" else "mnist"
    words = []
    for name, value in settings.items():
        if name == "recipe" and value in ("digital", "balanced"):
            continue
        for text in map(str, map(as_text, each(value))):
            short = Path(text).name if name in _PATHS or text.startswith("/") else text
            words += [flag_of(name)] + ([] if value is True else [short])
    return f'make {target} ARGS="{shlex.join(words)}"'


def _without_empty(rows: Sequence[Row]) -> list[Row]:
    kept = [name for name in rows[0] if any(row[name] is not None for row in rows)]
    return [{name: row[name] for name in kept} for row in rows]


def main(argv: Sequence[str] | None = None) -> int:
    """Keep what the arguments name, and fill the pages; return the exit code."""
    parser = LineParser(prog="keep.py", description=__doc__)
    parser.add_argument("name", nargs="?", metavar="NAME", help="folder in docs/results/")
    parser.add_argument("runs", nargs="*", type=Reader(RUN), metavar="RUN", help=RUN.rule)
    parser.add_argument(
        "--machine",
        default=f"{available_cores()} cores",
        metavar="TEXT",
        help="what the runs were made on, and what else it did (default: the cores here)",
    )
    head = ("git", "-C", str(PAGES), "rev-parse", "--short=7", "HEAD")
    parser.add_argument("--commit", metavar="HASH", help="of the code (default: this checkout's)")
    arguments = parser.parse_args(argv)
    if arguments.name and not arguments.runs:
        parser.error("argument RUN: must be named to be kept")
    try:
        if arguments.name:
            commit = arguments.commit or subprocess.check_output(head, text=True).strip()
            keep(arguments.name, arguments.runs, arguments.machine, commit)
        for path in sorted(PAGES.glob("*.md")):
            if (page := filled(old := path.read_text())) != old:
                path.write_text(page)
                print(f"filled {path.name}")
    except (ValueError, KeyError, OSError) as error:
        parser.error(str(error))
    if arguments.name:
        mark = f"<!-- table: results/{arguments.name}/results.csv -->"
        print(f"kept; show it on a page with\n{mark}\n<!-- end of table -->")
    return 0


if __name__ == "__main__":
    sys.exit(main())
