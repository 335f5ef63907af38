"""The command line of the experiments that are grids of training runs."""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, fields, replace
from functools import cache, partial
from itertools import product
from pathlib import Path
from types import MappingProxyType
from typing import Any

from rich.console import Console

from meshes.files import DataError
from meshes.validation import counted, one_line, printable
from photonic_ffzero.cli.arguments import (
    PATH,
    LineParser,
    Reader,
    add_data_dir,
    add_directories,
    as_flag,
    check_data_dir,
    check_resumable,
    count,
    takes,
    typed_words,
    with_value,
)
from photonic_ffzero.cli.output import check_place, claim_place
from photonic_ffzero.command import command, say, signals, start_of
from photonic_ffzero.config import configure
from photonic_ffzero.cores import available_cores
from photonic_ffzero.data.datasets import Dataset, load_dataset
from photonic_ffzero.runs.cell import Command, training_command
from photonic_ffzero.runs.claim import CHILDREN_END, Claim
from photonic_ffzero.runs.cluster import Cluster, SchedulerLostError, check_platform
from photonic_ffzero.runs.grid import Cell, Grid, GridDirectory, Label
from photonic_ffzero.runs.job import check_suits
from photonic_ffzero.runs.plan import MOST_SEEDS, Plan, in_words, plan_for
from photonic_ffzero.runs.runner import Runner
from photonic_ffzero.runs.summary import write_results
from photonic_ffzero.settings import one_of, settings_of
from photonic_ffzero.storage import read_json
from photonic_ffzero.training.progress import progress_console

SOME_FAILED = 1  # exit code of a grid that ended; higher ones: stopped, or bad input
IMAGES = ("digits", "mnist", "fashion-mnist")

_HABITS = """\
A grid of training runs, several at a time, each in its own process. If a run
fails, the others go on; the reason is in its log.txt. Ctrl-C stops all runs
after the step in progress, and --resume continues: finished runs are not run
again. --resume with --seeds adds seeds to a grid.

presets:
"""

# What the names of presets promise; a script's own description tells of any others.
_PRESETS = {
    "small": "shows the trend in the least time",
    "medium": "most of what the paper shows; a few hours on 2 cores",
    "full": "all of it; takes hours to days",
    "paper": "the paper's data and sizes; takes hours to days",
}

CLUSTER = tuple(field.name for field in fields(Cluster))
"""The flags that say where the cells run."""
_NOT_REPEATED = ("resume", "data_dir", "quiet", *CLUSTER, "output")  # they do not change the grid
_RESUMABLE = ("resume", "data_dir", "quiet", *CLUSTER, "seeds")


@dataclass(frozen=True)
class Options:
    """What the user asked of an experiment; the preset decides where a value is None.

    Attributes:
        dataset: Name of the data set.
        seed: The first seed.
        seeds: How many seeds.
        epochs: Epochs of a run.
        limit: Training images of a run.
    """

    dataset: str | None = None
    seed: int = 0
    seeds: int | None = None
    epochs: int | None = None
    limit: int | None = None

    def seeds_or(self, count: int) -> range:
        """The seeds to run: as many as the user asked for, else ``count``."""
        return range(self.seed, self.seed + (count if self.seeds is None else self.seeds))

    def settings_over(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Settings of a run, with the epochs that the user asked for instead of the preset's."""
        return {**settings} | ({} if self.epochs is None else {"epochs": self.epochs})

    def datasets_or(self, *names: str) -> tuple[str, ...]:
        """The data set that the user asked for, else ``names``."""
        return names if self.dataset is None else (self.dataset,)


def grid_of(
    options: Options,
    points: Iterable[tuple[Mapping[str, Label], Mapping[str, Any]]],
    *,
    seeds: int,
    limit: int | None = None,
    **figure: Any,
) -> Grid:
    """A grid with a run for each point and seed; all points come before the next seed.

    Args:
        options: What the user asked for; it overrides the preset's seeds, limit and epochs.
        points: Labels and settings of the runs: fields of `Plan`, ``dataset`` among them, and of
            `Config`; ``seeds``, if the preset has fewer there.
        seeds: How many seeds the preset has at most.
        limit: Training images of a run in the preset.
        **figure: Other fields of `Grid`.
    """
    cells = []
    for seed, (labels, settings) in product(options.seeds_or(seeds), list(points)):
        values = options.settings_over(settings) | {"seed": seed}
        if seed not in options.seeds_or(values.pop("seeds", seeds)):
            continue
        inputs = {name: values.pop(name) for name in settings_of(Plan) if name in values}
        plan = plan_for(config=configure(**values), limit=options.limit or limit, **inputs)
        cells.append(Cell(labels, plan))
    return Grid(cells=tuple(cells), **figure)


def sweep(
    options: Options,
    *,
    axes: Mapping[str, Iterable[Label]],
    figure: Mapping[str, Any],
    seeds: int,
    settings_of: Callable[[dict[str, Any]], Mapping[str, Any]] = dict,
    by_method: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
    dataset: str = "",
    limit: int | None = None,
    **settings: Any,
) -> Grid:
    """A grid over all combinations of some labels; see `grid_of`.

    Args:
        options: What the user asked for.
        axes: The values of each label; those of the last one vary fastest.
        figure: Other fields of `Grid`.
        seeds: How many seeds the preset has.
        settings_of: The settings that labels stand for; by default labels are settings.
        by_method: Further settings of single methods; see `grid_of` for ``seeds``.
        dataset: The preset's data set, if it is no label; the title names it.
        limit: Training images of a run in the preset.
        **settings: Settings of all runs.
    """
    figure = dict(figure)
    if "dataset" in axes:
        axes = {**axes, "dataset": options.datasets_or(*map(str, axes["dataset"]))}
    else:
        settings["dataset"] = options.dataset or dataset
        figure["title"] += f", {settings['dataset']}"
    points = []
    for values in product(*axes.values()):
        labels: dict[str, Any] = dict(zip(axes, values, strict=True))
        methods = by_method.get(labels.get("method", ""), {})
        points.append((labels, {**settings, **settings_of(labels), **methods}))
    return grid_of(options, points, seeds=seeds, limit=limit, **figure)


@command
def run_experiment(
    name: str,
    description: str,
    presets: Mapping[str, Callable[[Options], Grid]],
    *,
    datasets: Sequence[str] = IMAGES,
    finish: Callable[[GridDirectory, Path | None], None] | None = None,
    command: Callable[[Path | None], Command] = training_command,
    argv: Sequence[str] | None = None,
) -> int:
    """Run an experiment as its command line says; return the exit code.

    0: done; 1: some runs failed or a file could not be written, the other results stand; 2: bad
    input, nothing was written; 130 or 143: stopped by SIGINT or SIGTERM, all is saved.

    Args:
        name: Name of the experiment and of its script.
        description: What it shows, for ``--help``.
        presets: From the name of a preset to a function that makes its grid from the options.
        datasets: What ``--dataset`` offers.
        finish: Adds files to the grid's directory when all runs have ended and some are done,
            from the directory and the folder of the data sets or None.
        command: Makes the `Runner`'s command from the folder of the data sets or None.
        argv: The arguments; those of the process by default.
    """
    parser = _parser(name, description, presets, datasets)
    arguments = parser.parse_args(argv)
    console = progress_console(arguments.quiet)
    with ExitStack() as claims:
        try:
            check_platform()
            cluster = Cluster(**{name: getattr(arguments, name) for name in CLUSTER})
            if arguments.resume:
                directory, claim = _resumed(arguments, parser, name, claims)
            else:
                directory, claim = _prepared(arguments, name, description, presets, claims)
                grid = directory.grid
                line = f"{grid.heading}: preset {grid.preset}, {counted(len(grid.cells), 'run')}"
                console.print(line)
        except (ValueError, TypeError, OSError) as error:
            parser.error(as_flag(str(error), parser))
        runner = Runner(directory, command(arguments.data_dir), cluster, console, claim)
        again = resume_command(f"{directory.grid.name}.py", directory.path, arguments)
        return _run(runner, directory, arguments.data_dir, console, finish, again)


def _run(
    runner: Runner,
    directory: GridDirectory,
    data_dir: Path | None,
    console: Console,
    finish: Callable[[GridDirectory, Path | None], None] | None,
    again: str,
) -> int:
    """Run what is not done, and let the experiment add its files; return the exit code."""
    signals().advice = one_line(f"go on with: {again}")
    try:
        code = _run_cells(runner, directory, console, again)
        if finish is not None and code <= SOME_FAILED and directory.done:
            finish(directory, data_dir)
        return code
    except KeyboardInterrupt:  # called from Python, and not in `Runner.run`
        say(f"interrupted; go on with: {again}")
        return 130
    except (DataError, OSError) as error:
        say(f"{directory.grid.name}.py: {error}; what was saved is in {directory.path}")
        return SOME_FAILED


def _run_cells(runner: Runner, directory: GridDirectory, console: Console, again: str) -> int:
    """Run what is not done, write the results, and say what failed and how to try ``again``."""
    done = len(directory.done) == len(directory.grid.cells)
    stopped, lost = 0, ""
    try:
        stopped = runner.run()
    except SchedulerLostError as error:
        lost = str(error)
    print(write_results(directory), end="", flush=True)
    outcomes = directory.outcomes()
    failed = [outcome for outcome in outcomes if outcome.state == "failed"]
    for outcome in failed:
        log = outcome.directory / "log.txt"
        say(f"failed: {outcome.cell.name}: {outcome.message}; see {log}")
    if stopped:
        say(f"stopped, all is saved; go on with: {again}")
        return 128 + stopped
    if lost:
        say(f"{lost}; all that came is saved; go on with: {again}")
        return SOME_FAILED
    if failed:
        count = f"{len(failed)} of {counted(len(outcomes), 'run')} failed"
        say(f"{count}; try them again with: {again}")
    ending = "this grid was done already, its results are in" if done else "results in"
    console.print(printable(f"{ending} {directory.path}"), soft_wrap=True)
    # The runner also knows of failures that could not be written to the disk.
    return SOME_FAILED if failed or runner.failed else 0


def resume_command(script: str, folder: Path, arguments: argparse.Namespace, name: str = "") -> str:
    """The line that goes on with a stopped grid or search; see `start_of` for the names."""
    path = Path(__file__).resolve().parents[2] / "experiments" / script
    words = start_of(script, [sys.executable, str(path)], name)
    again = typed_words(arguments, "data_dir", *CLUSTER)
    return shlex.join([*words, *with_value("--resume", folder), *again])


def _prepared(
    arguments: argparse.Namespace,
    name: str,
    description: str,
    presets: Mapping[str, Callable[[Options], Grid]],
    claims: ExitStack,
) -> tuple[GridDirectory, Claim]:
    """Check everything about a new grid, then make its directory and claim it."""
    check_place(arguments.output)
    check_data_dir(arguments.data_dir)
    names = (field.name for field in fields(Options))
    options = Options(**{field: getattr(arguments, field) for field in names})
    grid = replace(
        _with_data(presets[arguments.preset](options), arguments.data_dir, check_suits),
        name=name,
        preset=arguments.preset,
        description=" ".join(description.split()),
        command=_command(arguments, name),
    )
    dated = f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    claim = claims.enter_context(claim_place(arguments.output, dated))
    return GridDirectory.create(claim.folder, grid), claim


def _resumed(
    arguments: argparse.Namespace, parser: LineParser, name: str, claims: ExitStack
) -> tuple[GridDirectory, Claim]:
    """Open the directory of a grid that goes on; only the number of seeds may change."""
    check_resumable(arguments, parser, _RESUMABLE, "grid")
    check_data_dir(arguments.data_dir)
    directory = GridDirectory.open(arguments.resume)
    if directory.grid.name != name:
        raise ValueError(
            f"resume must name a grid of {name}, found one of {directory.grid.name} in "
            f"{arguments.resume}"
        )
    claim = claims.enter_context(Claim(arguments.resume, wait=CHILDREN_END))
    _with_data(directory.grid, arguments.data_dir, lambda plan, dataset: None)
    if arguments.seeds:
        grid = directory.grid.with_seeds(arguments.seeds)
        directory = GridDirectory.create(arguments.resume, grid)
    return directory, claim


def _with_data(grid: Grid, data_dir: Path | None, check: Callable[..., None]) -> Grid:
    """Load every data set once, before any run starts; ``auto`` becomes the name of what it is.

    ``check(plan, dataset)`` raises a ValueError where a run cannot use its data.
    """

    @cache
    def loaded(name: str, colour: bool) -> Dataset:
        dataset = load_dataset(name, data_dir, colour=colour)
        if dataset.note:
            say(dataset.note)
        return dataset

    cells, checked = [], set()
    for cell in grid.cells:
        dataset = loaded(cell.plan.dataset, cell.plan.config.takes_colours)
        plan = replace(cell.plan, config=replace(cell.plan.config, seed=0))
        try:
            if plan not in checked:
                check(plan, dataset)
            checked.add(plan)
        except ValueError as error:
            run = f"{dataset.name}, {in_words(cell.labels)}"
            raise ValueError(f"dataset must suit the preset, got {run}: {error}") from None
        cells.append(replace(cell, plan=replace(cell.plan, dataset=dataset.name)))
    return replace(grid, cells=tuple(cells))


def _command(arguments: argparse.Namespace, name: str) -> str:
    """The command line that repeats the grid, wherever its data and results are."""
    repeated = [flag for flag in vars(arguments) if flag not in _NOT_REPEATED]
    return shlex.join(["python", f"experiments/{name}.py", *typed_words(arguments, *repeated)])


def _parser(
    name: str, description: str, presets: Mapping[str, Any], datasets: Sequence[str]
) -> LineParser:
    parser = LineParser(
        prog=f"{name}.py",
        description=f"{' '.join(description.split())}\n\n{_HABITS}"
        + "".join(
            f"  {preset:6}  {_PRESETS[preset]}\n" for preset in presets if preset in _PRESETS
        ),
        epilog=_EXAMPLES.replace("NAME", name),
    )
    group, cores = parser.add_argument_group("grid"), available_cores()
    group.add_argument(
        "--preset", **takes(one_of(presets)), default="small", help="see above (default: small)"
    )
    group.add_argument(
        "--dataset",
        **takes(one_of(datasets)),
        help="train on this one alone (default: preset's)",
    )
    for flag, minimum, default, what, *most in (
        ("--seed", 0, 0, "first seed (default: 0)"),
        ("--seeds", 1, None, "seeds from --seed on (default: preset's)", MOST_SEEDS),
        ("--epochs", 1, None, "epochs a block (default: preset's)"),
        ("--limit", 1, None, "train on the first N images (default: preset's)"),
    ):
        group.add_argument(
            flag, type=count(minimum, *most), default=default, metavar="N", help=what
        )
    group = parser.add_argument_group("run")
    add_data_dir(group)
    group.add_argument(
        "--jobs",
        type=count(1),
        metavar="N",
        help=f"runs at a time; they share the cores (default: as many as cores, {cores})",
    )
    add_directories(group, "grid", "table", partial(_is_grid_of, name))
    add_cluster(parser.add_argument_group("other machines"))
    return parser


def _is_grid_of(name: str, path: Path) -> bool:
    """Whether a path is the directory of a grid of this experiment."""
    with suppress(DataError):
        return (read_json(path / "grid.json") or {}).get("name") == name
    return False


def add_cluster(group: Any) -> None:
    """Add the flags that say on which machines the cells run, other than this one."""
    group.add_argument(
        "--scheduler",
        metavar="ADDRESS",
        help="run on the workers of the Dask scheduler at tls://host:port",
    )
    group.add_argument(
        "--cluster",
        type=Reader(PATH),
        metavar="FILE.yaml",
        help="start --jobs workers on a batch system: kind: SLURMCluster (or another class of "
        "dask-jobqueue) and its keyword arguments",
    )
    group.add_argument(
        "--tls-dir",
        type=Reader(PATH),
        metavar="DIR",
        help="folder with ca.pem, cert.pem and key.pem for either; python -m "
        "photonic_ffzero.cli.certificates makes a set",
    )
    group.add_argument(
        "--insecure",
        action="store_true",
        help="do without TLS: whoever reaches the scheduler can run code on the workers",
    )


_EXAMPLES = """\
examples:
  NAME.py
  NAME.py --preset paper --data-dir ~/data --jobs 4
  NAME.py --seeds 1 --epochs 2 --limit 500
  NAME.py --resume results/NAME-20260101-120000
  NAME.py --resume last --seeds 3
"""
