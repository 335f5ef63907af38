"""Search settings: trials of training runs, judged on held-out images alone."""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from meshes.files import DataError, write_bytes
from meshes.validation import counted, one_line, printable
from photonic_ffzero.cli.arguments import (
    LineParser,
    Reader,
    add_data_dir,
    add_directories,
    add_settings,
    as_flag,
    check_data_dir,
    check_resumable,
    count,
    typed_settings,
    with_value,
)
from photonic_ffzero.cli.experiment import CLUSTER, add_cluster, resume_command
from photonic_ffzero.cli.output import check_place, claim_place
from photonic_ffzero.command import command, say, signals, start_of
from photonic_ffzero.config import Config
from photonic_ffzero.data.tasks import quality_in_words
from photonic_ffzero.plots import curve_style, save_figure
from photonic_ffzero.runs.cell import training_command
from photonic_ffzero.runs.claim import CHILDREN_END, Claim
from photonic_ffzero.runs.cluster import Cluster, SchedulerLostError, check_platform
from photonic_ffzero.runs.job import Job
from photonic_ffzero.runs.names import RESULTS, SETTINGS
from photonic_ffzero.runs.plan import Plan, read_settings, value_in_words
from photonic_ffzero.runs.runner import Runner
from photonic_ffzero.runs.search import FORM, Search, Study, read_space
from photonic_ffzero.runs.summary import as_markdown
from photonic_ffzero.settings import settings_of
from photonic_ffzero.storage import write_csv, write_json
from photonic_ffzero.training.progress import progress_console

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_DESCRIPTION = """\
Search settings by trials of training runs (Optuna), on held-out images alone: the
test images are left alone, for one run with the best settings.

Name what to search, and keep the rest by flags or --config:
  NAME=A|B|C           one of these values
  NAME=LOW..HIGH       a number in between
  NAME=log:LOW..HIGH   the same, equally likely in the logarithm

Trials are asked for in batches, so that the same seed gives the same trials, on
any number of workers. Once 3 trials of earlier batches are done, one is given up
after an epoch, from its second on, where the best that it has reached is below
the median of what those had at that epoch. Ctrl-C stops all after the step in
progress, and --resume goes on.

The new directory gets search.json, journal.log (Optuna's storage), trials.csv,
table.txt, history.png, importance.png, and config.json, the best settings:
train --config DIR uses them.
"""
_EXAMPLES = """\
examples:
  search.py 'learning_rate=log:1e-3..1' --dataset digits
  search.py 'directions=8|16|32' --config kerr1
  search.py 'nonlinearity=electro-optic|kerr' --trials 8 --epochs 3
  search.py --resume last
"""
_TRIALS, _BATCH = 24, 4
_SHOWN = 10  # trials in the table
_RESUMABLE = ("resume", "data_dir", "quiet", "trials", *CLUSTER)


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Search as the command line says; return the exit code.

    0: done; 1: no trial was done, or the scheduler is gone; 2: bad input, nothing was written; 130
    or 143: stopped by SIGINT or SIGTERM, all is saved.
    """
    parser = build_parser()
    arguments = parser.parse_args(argv)
    console = progress_console(arguments.quiet)
    with ExitStack() as claims:
        try:
            check_platform()
            if find_spec("optuna") is None:
                raise ValueError("a search needs the package optuna: pip install optuna")
            cluster = Cluster(**{name: getattr(arguments, name) for name in CLUSTER})
            begin = _resumed if arguments.resume else _prepared
            search, claim = begin(arguments, parser, claims)
            study = _study(claim.folder, search)
        except (ValueError, TypeError, OSError) as error:
            parser.error(as_flag(str(error), parser))
        again = resume_command("search.py", claim.folder, arguments, "search")
        signals().advice = one_line(f"go on with: {again}")
        try:
            return _run(study, cluster, claim, arguments.data_dir, console, again)
        except KeyboardInterrupt:  # called from Python
            say(f"interrupted; go on with: {again}")
            return 130
        except (DataError, OSError) as error:
            say(f"{parser.prog}: {error}; what was saved is in {claim.folder}")
            return 1


def build_parser() -> LineParser:
    """The parser of the command."""
    parser = LineParser(
        "search.py",
        "search",
        usage="%(prog)s NAME=VALUES ... [--flag value ...]",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
    )
    parser.add_argument("space", nargs="*", metavar="NAME=VALUES", help=f"what to search: {FORM}")
    names = ("search", "run", "data", "network", "learning", "light", "time and energy")
    groups = {name: parser.add_argument_group(name) for name in (*names, "other machines")}
    add = groups["search"].add_argument
    add("--trials", type=count(1), metavar="N", help=f"trials in all (default: {_TRIALS})")
    size = f"trials asked for at a time, before any of them is done (default: {_BATCH})"
    add("--batch", type=count(1), default=_BATCH, metavar="N", help=size)
    add("--search-seed", type=count(0), default=0, metavar="N", help="of the trials (default: 0)")
    keep = "go on with trials that fall behind"
    add("--keep-all", action="store_true", help=keep)
    settings = f"settings of all trials: {SETTINGS.rule}"
    add("--config", type=Reader(SETTINGS), metavar="FILE", help=settings)
    jobs = "trials that run at a time (default: as many as cores)"
    groups["run"].add_argument("--jobs", type=count(1), metavar="N", help=jobs)
    add_directories(groups["run"], "search", "table", _is_search)
    add_settings(parser, groups, Config)
    add_settings(parser, groups, Plan)
    add_data_dir(groups["data"])
    add_cluster(groups["other machines"])
    return parser


def _is_search(path: Path) -> bool:
    return (path / "search.json").is_file()


def _study(folder: Path, search: Search) -> Study:
    """The study in a directory, whose journal may be damaged."""
    try:
        return Study(folder, search)
    except Exception as error:  # of Optuna, whatever is in the file
        raise DataError(f"{folder / 'journal.log'}: is no journal of a search ({error})") from None


def _prepared(
    arguments: argparse.Namespace, parser: LineParser, claims: ExitStack
) -> tuple[Search, Claim]:
    """Check everything about a new search and load the data; then make its directory."""
    if not arguments.space:
        raise ValueError(f"NAME=VALUES must say what to search: {FORM}")
    try:
        space = read_space(arguments.space)
    except ValueError as error:
        raise ValueError(f"argument NAME=VALUES: {error}") from None
    typed = typed_settings(arguments, Config, Plan)
    in_file = read_settings(arguments.config, typed) if arguments.config else {}
    settings = {"recipe": "balanced", "dataset": "auto"} | in_file | typed
    for name in space.keys() & typed.keys():
        raise ValueError(f"{name} is searched, so that it must not be set, got {typed[name]!r}")
    reported = ("seeds", "test_on")  # what a run tells at its end
    if dropped := [name for name in reported if name in in_file and name not in typed]:
        say(f"{arguments.config}: {' and '.join(dropped)} left out, which no search has")
    for name in (*reported, "device", "start_from"):
        value = (typed if name in reported else settings).get(name)
        if value is not None:
            raise ValueError(f"{name} does not apply to a search, got {value!r}")
    left_out = {*space, *reported}
    kept = {name: value for name, value in settings.items() if name not in left_out}
    if settings_of(Config)["nonlinearity"].kind.opens(kept.get("nonlinearity", "")):
        raise ValueError("nonlinearity must be one of ours for a search, no file and no function")
    search = Search(
        tuple(arguments.space),
        kept,
        arguments.trials or _TRIALS,
        arguments.batch,
        arguments.search_seed,
        not arguments.keep_all,
    )
    check_place(arguments.output)
    check_data_dir(arguments.data_dir)
    name = f"search-{time.strftime('%Y%m%d-%H%M%S')}"
    place = arguments.output or RESULTS / name
    job = Job.load(search.first_plan(), arguments.data_dir, place, arguments.quiet)
    if job.dataset.note:
        say(job.dataset.note)
    search = replace(search, settings=kept | {"dataset": job.plan.dataset})
    claim = claims.enter_context(claim_place(arguments.output, name))
    search.write(claim.folder)
    return search, claim


def _resumed(
    arguments: argparse.Namespace, parser: LineParser, claims: ExitStack
) -> tuple[Search, Claim]:
    """Open the directory of a search that goes on; only the number of trials may change."""
    check_resumable(arguments, parser, _RESUMABLE, "search")
    check_data_dir(arguments.data_dir)
    search = Search.read(arguments.resume)
    claim = claims.enter_context(Claim(arguments.resume, wait=CHILDREN_END))
    if arguments.trials:
        begun = _study(arguments.resume, search).begun
        if arguments.trials < begun:
            raise ValueError(
                f"trials must be at least {begun}, as so many are begun, got {arguments.trials}"
            )
        search = replace(search, trials=arguments.trials)
        search.write(arguments.resume)
    return search, claim


# --- the trials -----------------------------------------------------------------------------------


def _run(
    study: Study,
    cluster: Cluster,
    claim: Claim,
    data_dir: Path | None,
    console: Console,
    again: str,
) -> int:
    """Run batch after batch, and write what was found; return the exit code."""
    received = signals().received
    signals().patience = 2
    lost = ""
    try:
        with cluster.client(study.search.batch) as client:
            while not received and (batch := study.ask()) is not None:
                runner = Runner(
                    batch, training_command(data_dir), cluster, console, claim, study.worth
                )
                runner.run_on(client)
                study.tell(batch, stopped=bool(received))
                write_trials(study)
                console.print(_so_far(study), soft_wrap=True)
    except SchedulerLostError as error:
        lost = str(error)
    finally:
        signals().patience = 0
    print(write_results(study), end="", flush=True)
    if received or lost:
        say(f"{lost or 'stopped'}, all is saved; go on with: {again}")
        return 128 + received[0] if received else 1
    if not study.done():
        say(f"no trial went to its end; see {study.folder / 'trials.csv'}")
        return 1
    console.print(printable(f"results in {study.folder}"), soft_wrap=True)
    words = start_of("mnist_photonic.py", [sys.executable, "-m", "photonic_ffzero.cli"], "train")
    line = shlex.join([*words, *with_value("--config", study.folder)])
    console.print(printable(f"train with the best: {line}"), soft_wrap=True)
    return 0


def _so_far(study: Study) -> str:
    best = study.done()[:1]
    reached = (
        f", best {quality_in_words(best[0].value, study.regression)} (trial {best[0].number})"
        if best
        else ""
    )
    return f"{study.state()}{reached}"


# --- what is written ------------------------------------------------------------------------------


def write_results(study: Study) -> str:
    """Write trials.csv, table.txt, the pictures and config.json; return the table."""
    rows, folder = write_trials(study), study.folder
    table = _table(study, rows)
    write_bytes(folder / "table.txt", table.encode())
    if study.done():
        write_json(folder / "config.json", study.best_settings())
        title = f"search of {', '.join(read_space(study.search.space))}: {study.state()}"
        draw = partial(_draw_history, rows=rows, study=study)
        save_figure(folder / "history.png", draw, title=title)
        shares = study.importances()
        save_figure(
            folder / "importance.png", lambda axes: _draw_importances(axes, shares), title=title
        )
    return table


def write_trials(study: Study) -> list[dict[str, Any]]:
    """Write trials.csv; return its rows."""
    rows = [*study.rows()]
    write_csv(study.folder / "trials.csv", rows)
    return rows


def _table(study: Study, rows: Sequence[dict[str, Any]]) -> str:
    """The best trials as a Markdown table of at most 80 columns, and what became of the others."""
    from rich.table import Table

    numbers = [trial.number for trial in study.done()[:_SHOWN]]
    names = [*read_space(study.search.space)]
    table = Table()
    table.add_column("trial", justify="right", no_wrap=True)
    table.add_column("held out", justify="right", no_wrap=True)
    for name in names:
        table.add_column(name, justify="right", overflow="fold")
    for row in (rows[number] for number in numbers):
        reached = quality_in_words(row["held_out"], study.regression)
        values = (one_line(value_in_words(row[name])) for name in names)
        table.add_row(str(row["trial"]), reached, *values)
    lines = as_markdown(table).splitlines()
    states = [row["state"] for row in rows]
    counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    lines.append(f"\n{counted(len(rows), 'trial')}: {counts}")
    errors = dict.fromkeys(row["error"] for row in rows if row["error"])
    lines += [f"failed: {error}" for error in errors]
    return "".join(f"{line}\n" for line in lines)


def _draw_history(axes: Axes, rows: Sequence[dict[str, Any]], study: Study) -> None:
    """Draw what every trial reached, and the best so far."""
    best: list[tuple[int, float]] = []
    for index, state in enumerate(("done", "given up")):
        points = [
            (row["trial"], study.factor * row["held_out"])
            for row in rows
            if row["state"] == state and row["held_out"] is not None
        ]
        style = curve_style(index) | {"linestyle": "", "label": state}
        if points:
            axes.plot(*zip(*points, strict=True), **style)
        best += points if state == "done" else []
    highest = [max(value for n, value in best if n <= number) for number, _ in best]
    axes.step([n for n, _ in best], highest, where="post", color="#888888", label="best so far")
    axes.set(
        xlabel="trial", ylabel=f"{study.quality} ({study.unit})" if study.unit else study.quality
    )
    axes.grid(alpha=0.3)
    axes.legend()


def _draw_importances(axes: Axes, shares: dict[str, float]) -> None:
    """Draw the share of the variance that each setting explains."""
    if not shares:
        axes.text(0.5, 0.5, "too few trials", transform=axes.transAxes, ha="center")
        return
    names = [*shares][::-1]
    axes.barh(names, [100 * shares[name] for name in names], color=curve_style(0)["color"])
    axes.set(xlabel="share of the variance among trials (%)")


if __name__ == "__main__":
    sys.exit(main())
