"""The command line of the photonic experiments."""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from meshes import NONLINEARITIES
from meshes.propagation import ENGINES
from meshes.validation import integer, number
from photonic_ffzero.data import DATA_VARIABLE, DATASETS
from photonic_ffzero.directions import LAWS
from photonic_ffzero.encoding import ENCODINGS
from photonic_ffzero.formats import DataError
from photonic_ffzero.goodness import DETECTIONS, READOUTS
from photonic_ffzero.inference import RULES
from photonic_ffzero.jobs import Job, Plan
from photonic_ffzero.losses import LOSSES
from photonic_ffzero.optimizers import OPTIMIZERS, SCHEDULES
from photonic_ffzero.recipes import METHODS, RECIPES, Config, configure
from photonic_ffzero.reporting import check_new_directory
from photonic_ffzero.storage import read_json
from photonic_ffzero.training import NonFiniteLossError, Observer, StoppedError

__all__ = ["build_parser", "main"]

DESCRIPTION = """\
Train a photonic neural network on MNIST.

Light encodes an image, crosses rectangular meshes of Mach-Zehnder interferometers
with a nonlinearity between them, and is detected behind every mesh. The phase
shifts are trained, by default from forward passes alone (FFzero):

  ff-dd  every mesh learns by its own loss, from directional derivatives (FFzero)
  ff-ad  every mesh learns by its own loss, from automatic differentiation
  bp-dd  one loss behind the last mesh, from directional derivatives
  bp-ad  one loss behind the last mesh, from automatic differentiation
"""

EXAMPLES = """\
examples:
  mnist_photonic.py --data-dir ~/data --seeds 3
  mnist_photonic.py --method ff-ad
  mnist_photonic.py --dataset digits --epochs 5 --quiet
  mnist_photonic.py --recipe paper --nonlinearity electro-optic:phi_b=1.57
  mnist_photonic.py --resume results/mnist-photonic-ff-dd-20260101-120000
"""


_SETTINGS = tuple(field.name for field in fields(Config) if field.name not in ("recipe", "method"))


class _Parser(argparse.ArgumentParser):
    """Errors in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message}\n")


def _checked(check: Callable[..., Any], kind: Callable[[str], Any], what: str, **rule: Any) -> Any:
    """An argparse type that applies a check of `meshes.validation`."""

    def convert(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"must be {what}, got {text!r}") from None
        try:
            return check("it", value, **rule)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error).removeprefix("it ")) from None

    return convert


def _count(minimum: int) -> Any:
    return _checked(integer, int, "a whole number", minimum=minimum)


_POSITIVE = _checked(number, float, "a number", above=0)


def build_parser() -> argparse.ArgumentParser:
    """The parser; every default that depends on the recipe is None."""
    parser = _Parser(
        prog="mnist_photonic.py",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    _add_data(parser.add_argument_group("data"))
    _add_network(parser.add_argument_group("network"))
    _add_learning(parser.add_argument_group("learning"))
    _add_run(parser.add_argument_group("run"))
    return parser


def _add_data(group: Any) -> None:
    group.add_argument(
        "--dataset",
        choices=DATASETS,
        default="auto",
        help="auto: MNIST, or scikit-learn's 8 x 8 digits where it cannot be had (default: auto)",
    )
    group.add_argument(
        "--data-dir",
        type=Path,
        metavar="DIR",
        help=f"folder that holds mnist/ and fashion-mnist/ (default: {DATA_VARIABLE}, then "
        "Keras's folder, then a download)",
    )
    group.add_argument(
        "--encoding", choices=ENCODINGS, help="image to port amplitudes (default: recipe's)"
    )
    group.add_argument(
        "--size",
        type=_count(1),
        metavar="S",
        help="pixels a side after encoding; S x S ports (default: recipe's, 8)",
    )
    group.add_argument(
        "--validation",
        type=_count(0),
        metavar="N",
        help="training images held out (default: a tenth, at most 5000)",
    )
    group.add_argument("--limit", type=_count(1), metavar="N", help="train on the first N images")


def _add_network(group: Any) -> None:
    group.add_argument("--meshes", type=_count(1), metavar="N", help="meshes in a row (default: 2)")
    group.add_argument(
        "--columns",
        type=_count(1),
        metavar="L",
        help="columns of a mesh (default: as many as ports)",
    )
    group.add_argument(
        "--nonlinearity",
        metavar="NAME:key=value,...",
        help=f"between meshes: {', '.join(NONLINEARITIES)} (default: electro-optic)",
    )
    group.add_argument(
        "--detection",
        choices=DETECTIONS,
        help="intensities as they are, or minus their mean over ports (default: recipe's)",
    )
    group.add_argument(
        "--readout",
        choices=READOUTS,
        help="cosine with prototypes, or the first ports' intensities (default: recipe's)",
    )
    group.add_argument(
        "--rule", choices=RULES, help="how the meshes of FF decide together (default: recipe's)"
    )
    group.add_argument(
        "--engine", choices=ENGINES, help="mesh simulator (default: auto, the fastest here)"
    )


def _add_learning(group: Any) -> None:
    group.add_argument(
        "--recipe",
        choices=RECIPES,
        default="balanced",
        help="where all defaults come from: ours, the paper's, or its published code's "
        "(default: balanced)",
    )
    group.add_argument(
        "--method", choices=METHODS, default="ff-dd", help="see above (default: ff-dd)"
    )
    group.add_argument(
        "--loss", metavar="NAME:key=value,...", help=f"{', '.join(LOSSES)} (default: recipe's)"
    )
    group.add_argument(
        "--estimator", choices=("central", "forward"), help="differences of -dd (default: central)"
    )
    group.add_argument("--law", choices=LAWS, help="law of the directions (default: recipe's)")
    group.add_argument(
        "--directions", type=_count(1), metavar="K", help="directions a step (default: recipe's)"
    )
    group.add_argument(
        "--epsilon",
        type=_POSITIVE,
        metavar="RAD",
        help="step of each phase in rad; for the unit laws, length of the whole step "
        "(default: recipe's)",
    )
    group.add_argument("--optimizer", choices=OPTIMIZERS, help="(default: recipe's)")
    group.add_argument(
        "--learning-rate", type=_POSITIVE, metavar="RATE", help="first rate (default: recipe's)"
    )
    group.add_argument("--schedule", choices=SCHEDULES, help="of the rate (default: recipe's)")
    group.add_argument(
        "--batch-size", type=_count(1), metavar="B", help="images a step (default: 128)"
    )
    group.add_argument(
        "--epochs", type=_count(1), metavar="N", help="epochs a mesh (default: recipe's)"
    )


def _add_run(group: Any) -> None:
    group.add_argument(
        "--seed", type=_count(0), default=0, metavar="N", help="seed of everything (default: 0)"
    )
    group.add_argument(
        "--seeds",
        type=_count(1),
        default=1,
        metavar="N",
        help="run N seeds from --seed on; report mean and spread (default: 1)",
    )
    group.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        help="new directory for the results (default: one in results/, named by date)",
    )
    group.add_argument(
        "--resume", type=Path, metavar="DIR", help="go on with the stopped run in DIR"
    )
    group.add_argument("--quiet", action="store_true", help="print the final result only")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the main job; return the exit code.

    0: done; 1: training or writing failed, what was saved stands; 2: bad input, nothing was
    written; 130 or 143: stopped by SIGINT or SIGTERM, what was learned is saved.
    """
    parser = build_parser()
    arguments = parser.parse_args(argv)
    try:
        job = resumed(arguments, parser) if arguments.resume else prepare(arguments)
    except (ValueError, TypeError, OSError) as error:
        parser.error(_as_flag(str(error), parser))
    if job.dataset.note:
        print(job.dataset.note, file=sys.stderr)
    how = f"go on with: {parser.prog} --resume {job.output}"
    with StopSignals() as signals:
        try:
            job.run((signals,))
        except StoppedError:
            print(f"stopped, all is saved; {how}", file=sys.stderr)
            return 128 + signals.received
        except KeyboardInterrupt:
            print(f"interrupted; {how}", file=sys.stderr)
            return 130
        except (NonFiniteLossError, DataError, OSError) as error:
            print(f"{parser.prog}: {error}; what was saved is in {job.output}", file=sys.stderr)
            return 1
    return 0


def prepare(arguments: argparse.Namespace) -> Job:
    """Check every argument of a new run and load the data; write nothing.

    Raises:
        TypeError, ValueError, OSError: an argument or a file breaks a rule.
    """
    settings = {name: getattr(arguments, name) for name in _SETTINGS}
    config = configure(arguments.recipe, arguments.method, **settings)
    output = arguments.output or _dated_directory(arguments.method)
    check_new_directory(output)
    inputs = RECIPES[arguments.recipe]["input"]
    plan = Plan(
        config=config,
        dataset=arguments.dataset,
        encoding=arguments.encoding or inputs["encoding"],
        size=arguments.size or inputs["size"],
        validation=arguments.validation,
        limit=arguments.limit,
        seeds=arguments.seeds,
    )
    return Job.load(plan, arguments.data_dir, output, arguments.quiet)


def resumed(arguments: argparse.Namespace, parser: argparse.ArgumentParser) -> Job:
    """Take a run up again from its directory; every setting comes from there.

    Raises:
        TypeError, ValueError, OSError: the directory holds no such run, the data are others, or
            a setting was given besides.
    """
    for name, value in vars(arguments).items():
        if value != parser.get_default(name) and name not in ("resume", "data_dir", "quiet"):
            raise ValueError(f"resume takes every setting from the run; leave out --{name}")
    written = read_json(arguments.resume / "config.json")
    if written is None:
        raise ValueError(
            f"resume must name a run's directory, no config.json in {arguments.resume}"
        )
    plan = Plan.from_json(written)
    job = Job.load(plan, arguments.data_dir, arguments.resume, arguments.quiet)
    job.check_same(written)
    return job


class StopSignals(Observer):
    """Lets SIGINT and SIGTERM end a run after the step in progress; a second one ends it at once.

    Attributes:
        received: The number of the signal; 0 if none came.
    """

    _SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self.received = 0

    def __enter__(self) -> StopSignals:
        self._before = {which: signal.signal(which, self._receive) for which in self._SIGNALS}
        return self

    def __exit__(self, *error: object) -> None:
        for which, handler in self._before.items():
            signal.signal(which, handler)

    def _receive(self, which: int, frame: FrameType | None) -> None:
        self.received = which
        self.__exit__()
        print("stopping after this step", file=sys.stderr)

    def on_steps(self, mesh: str, losses: list[float]) -> None:
        """Stop here if a signal came."""
        if self.received:
            raise StoppedError


def _dated_directory(method: str) -> Path:
    return Path("results") / f"mnist-photonic-{method}-{time.strftime('%Y%m%d-%H%M%S')}"


def _as_flag(message: str, parser: argparse.ArgumentParser) -> str:
    """Errors begin with the argument's name: show it as the flag that a user typed."""
    name, space, rest = message.partition(" ")
    flag = "--" + name.replace("_", "-")
    return f"argument {flag}{space}{rest}" if flag in parser.format_help() else message
