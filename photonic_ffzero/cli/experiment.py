"""The command line of the experiments that are grids of training runs."""

from __future__ import annotations

import argparse
import shlex
import sys
import textwrap
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from photonic_ffzero.cli.arguments import LineParser, add_data_dir, add_directories, as_flag, count
from photonic_ffzero.data.datasets import load_dataset
from photonic_ffzero.data.readers import DataError
from photonic_ffzero.runs.directory import check_new_directory
from photonic_ffzero.runs.grid import Grid, GridDirectory
from photonic_ffzero.runs.pool import Pool, available_cores, check_platform, training_command

SOME_FAILED = 1  # exit code of a grid that ended; a higher one says that it was stopped or refused

_HABITS = """\
A grid of training runs, several at a time, each in a process of its own. A run
that fails leaves the others alone; its last words are in its log.txt. Ctrl-C
stops all of them in good order, and --resume goes on: runs that are done are
not run again.

presets:
  small  shows the trend within minutes
  paper  the paper's data and sizes; takes hours
"""

_RESUMABLE = ("resume", "data_dir", "jobs", "quiet")
_INCIDENTAL = (*_RESUMABLE, "output")  # no part of the command that gives the same grid again


@dataclass(frozen=True)
class Options:
    """What a user asked of an experiment; None where its preset decides.

    Attributes:
        dataset: Name of the data set.
        seed: The first seed.
        seeds: How many seeds.
        epochs: Epochs of a run.
        limit: Training images of a run.
    """

    dataset: str | None
    seed: int
    seeds: int | None
    epochs: int | None
    limit: int | None

    def seeds_or(self, count: int) -> range:
        """The seeds to run: as many as asked for, or as a preset has it.

        Args:
            count: The preset's number of seeds.
        """
        return range(self.seed, self.seed + (count if self.seeds is None else self.seeds))

    def settings_over(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """A preset's settings of every run, with the epochs asked for in the place of its own.

        Args:
            settings: Fields of `Config`.
        """
        return {**settings} | ({} if self.epochs is None else {"epochs": self.epochs})

    def datasets_or(self, *names: str) -> tuple[str, ...]:
        """The data sets to train on: the one asked for, or a preset's.

        Args:
            *names: The preset's data sets.
        """
        return names if self.dataset is None else (self.dataset,)


def run_experiment(
    name: str,
    description: str,
    presets: Mapping[str, Callable[[Options], Grid]],
    *,
    datasets: Sequence[str] = (),
    finish: Callable[[GridDirectory, Path | None], None] | None = None,
    command: Callable[[Path | None], Callable[[Path], list[str]]] = training_command,
    argv: Sequence[str] | None = None,
) -> int:
    """Run an experiment as its command line says; return the exit code.

    0: done; 1: some runs failed, or a file could not be written, the others stand; 2: bad input,
    nothing was written; 130 or 143: stopped by SIGINT or SIGTERM, all is saved.

    Args:
        name: The experiment's name, that of its script.
        description: What it shows, for ``--help``.
        presets: Makes the grid of each preset, ``small`` and ``paper``, from the options.
        datasets: What ``--dataset`` offers; no such flag if empty.
        finish: What to add to the grid's directory when all runs have ended, from those that are
            done and the folder of the data or None.
        command: Makes, from the folder of the data or None, the `Pool`'s command.
        argv: The arguments; those of the process by default.
    """
    parser = _parser(name, description, presets, datasets)
    arguments = parser.parse_args(argv)
    console = Console(stderr=True, quiet=arguments.quiet, highlight=False)
    try:
        check_platform()
        if arguments.resume:
            directory = _resumed(arguments, parser, name)
        else:
            directory = _prepared(arguments, name, description, presets, console)
    except (ValueError, TypeError, OSError) as error:
        parser.error(as_flag(str(error), parser))
    try:
        code = _run(directory, command(arguments.data_dir), arguments.jobs, console)
        if finish is not None and code <= SOME_FAILED and directory.done:
            finish(directory, arguments.data_dir)
        return code
    except KeyboardInterrupt:  # between the runs and the end, where nobody listens to signals
        print(f"interrupted; go on with: {_go_on(directory)}", file=sys.stderr)
        return 130
    except (DataError, OSError) as error:
        print(f"{parser.prog}: {error}; what was saved is in {directory.path}", file=sys.stderr)
        return SOME_FAILED


def _run(
    directory: GridDirectory,
    command: Callable[[Path], list[str]],
    jobs: int,
    console: Console,
) -> int:
    """Run what is left, write the results, and say what failed."""
    stopped = Pool(directory, command, jobs, console).run()
    print(directory.write_results(), end="", flush=True)
    outcomes = directory.outcomes()
    failed = [outcome for outcome in outcomes if outcome.state == "failed"]
    for outcome in failed:
        log = outcome.directory / "log.txt"
        print(f"failed: {outcome.cell.name}: {outcome.message}; see {log}", file=sys.stderr)
    if stopped:
        print(f"stopped, all is saved; go on with: {_go_on(directory)}", file=sys.stderr)
        return 128 + stopped
    if failed:
        count = f"{len(failed)} of {len(outcomes)} runs failed"
        print(f"{count}; try them again with: {_go_on(directory)}", file=sys.stderr)
    console.print(f"results in {directory.path}", markup=False, soft_wrap=True)
    return SOME_FAILED if failed else 0


def _go_on(directory: GridDirectory) -> str:
    return shlex.join(
        ["python", f"experiments/{directory.grid.name}.py", "--resume", str(directory.path)]
    )


def _prepared(
    arguments: argparse.Namespace,
    name: str,
    description: str,
    presets: Mapping[str, Callable[[Options], Grid]],
    console: Console,
) -> GridDirectory:
    """Check all that can be checked of a new grid, then make its directory.

    Raises:
        TypeError, ValueError, OSError: an argument or a file breaks a rule.
    """
    output = arguments.output or Path("results") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    check_new_directory(output)
    dataset = getattr(arguments, "dataset", None)
    options = Options(dataset, arguments.seed, arguments.seeds, arguments.epochs, arguments.limit)
    grid = _with_data(presets[arguments.preset](options), arguments.data_dir)
    grid = replace(
        grid,
        name=name,
        preset=arguments.preset,
        description=" ".join(description.split()),
        command=_command(arguments, name),
    )
    console.print(f"{grid.heading}: preset {grid.preset}, {len(grid.cells)} runs", markup=False)
    return GridDirectory.create(output, grid)


def _resumed(
    arguments: argparse.Namespace, parser: argparse.ArgumentParser, name: str
) -> GridDirectory:
    """Take a grid up again from its directory; every setting comes from there.

    Raises:
        TypeError, ValueError, OSError: the directory holds no such grid, or a setting was given
            besides.
    """
    for flag, value in vars(arguments).items():
        if value != parser.get_default(flag) and flag not in _RESUMABLE:
            raise ValueError(f"resume takes every setting from the grid; leave out --{flag}")
    directory = GridDirectory.open(arguments.resume)
    if directory.grid.name != name:
        raise ValueError(
            f"resume must name a grid of {name}, found one of {directory.grid.name} in "
            f"{arguments.resume}"
        )
    _with_data(directory.grid, arguments.data_dir)
    return directory


def _with_data(grid: Grid, data_dir: Path | None) -> Grid:
    """Find every data set once, before any run starts; ``auto`` becomes what was found.

    Raises:
        ValueError: a data set is missing or damaged.
    """
    found = {}
    for name in dict.fromkeys(cell.plan.dataset for cell in grid.cells):
        dataset = load_dataset(name, data_dir)
        found[name] = dataset.name
        if dataset.note:
            print(dataset.note, file=sys.stderr)
    plans = (replace(cell.plan, dataset=found[cell.plan.dataset]) for cell in grid.cells)
    cells = (replace(cell, plan=plan) for cell, plan in zip(grid.cells, plans, strict=True))
    return replace(grid, cells=tuple(cells))


def _command(arguments: argparse.Namespace, name: str) -> str:
    """The command line that gives the same grid again, wherever its data and results are."""
    words = ["python", f"experiments/{name}.py"]
    for flag, value in vars(arguments).items():
        if value is not None and flag not in _INCIDENTAL:
            words += ["--" + flag.replace("_", "-"), str(value)]
    return shlex.join(words)


def _parser(
    name: str, description: str, presets: Mapping[str, Any], datasets: Sequence[str]
) -> argparse.ArgumentParser:
    parser = LineParser(
        prog=f"{name}.py",
        description=f"{textwrap.fill(' '.join(description.split()), 79)}\n\n{_HABITS}",
        epilog=_examples(name),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    _add_grid(parser.add_argument_group("grid"), presets, datasets)
    _add_run(parser.add_argument_group("run"))
    return parser


def _examples(name: str) -> str:
    return textwrap.dedent(f"""\
        examples:
          {name}.py
          {name}.py --preset paper --data-dir ~/data --jobs 4
          {name}.py --seeds 1 --epochs 2 --limit 500
          {name}.py --resume results/{name}-20260101-120000
        """)


def _add_grid(group: Any, presets: Mapping[str, Any], datasets: Sequence[str]) -> None:
    group.add_argument(
        "--preset", choices=presets, default="small", help="see above (default: small)"
    )
    if datasets:
        group.add_argument(
            "--dataset", choices=datasets, help="train on this one alone (default: preset's)"
        )
    group.add_argument(
        "--seed", type=count(0), default=0, metavar="N", help="first seed (default: 0)"
    )
    group.add_argument(
        "--seeds", type=count(1), metavar="N", help="seeds from --seed on (default: preset's)"
    )
    group.add_argument(
        "--epochs", type=count(1), metavar="N", help="epochs a block (default: preset's)"
    )
    group.add_argument(
        "--limit",
        type=count(1),
        metavar="N",
        help="train on the first N images (default: preset's)",
    )


def _add_run(group: Any) -> None:
    add_data_dir(group)
    cores = available_cores()
    group.add_argument(
        "--jobs",
        type=count(1),
        default=cores,
        metavar="N",
        help=f"runs at a time; they share the cores (default: as many as cores, {cores})",
    )
    add_directories(group, "grid", "table")
