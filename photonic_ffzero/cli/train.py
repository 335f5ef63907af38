"""The command line of the photonic experiments."""

from __future__ import annotations

import argparse
import re
import shlex
import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from meshes.files import DataError
from meshes.validation import counted, one_line, quoted
from photonic_ffzero.cli.arguments import (
    LineParser,
    Reader,
    add_data_dir,
    add_directories,
    add_settings,
    add_token_file,
    as_flag,
    check_data_dir,
    check_functions,
    check_resumable,
    typed_settings,
    typed_words,
    with_value,
)
from photonic_ffzero.cli.output import check_place, claim_place
from photonic_ffzero.command import command, say, signals, start_of
from photonic_ffzero.config import Config
from photonic_ffzero.devices.device import DeviceError
from photonic_ffzero.elements import each, functions_named, is_function
from photonic_ffzero.model import Model, Position
from photonic_ffzero.runs.claim import Claim
from photonic_ffzero.runs.job import Job
from photonic_ffzero.runs.names import RESULTS, SETTINGS, is_plan
from photonic_ffzero.runs.plan import Plan, dated_name, plan_of, read_settings
from photonic_ffzero.settings import settings_of
from photonic_ffzero.storage import read_json
from photonic_ffzero.training.crew import CrewError
from photonic_ffzero.training.observer import Observer, StoppedError
from photonic_ffzero.training.trainer import NonFiniteLossError

PHOTONIC = """\
Train a photonic neural network on MNIST.

Light encodes an image, crosses rectangular meshes of Mach-Zehnder
interferometers with a nonlinearity between them, and is detected after every
mesh. The phase shifts are trained, by default from forward passes alone:
"""

DIGITAL = """\
Train a digital MLP, CNN or mixer on MNIST, or on a function (regression).

The same core as the photonic networks: every layer learns by its own loss from
fixed prototypes and a cosine goodness, by default from forward passes alone.
Directions lie among the weights (FFzero) or among the activations, one for
every sample (--perturb activations), which is far less noisy.
"""

METHODS = """
  ff-dd  (FFzero) each {layer} learns by its own loss, by directional derivatives
  ff-ad  each {layer} learns by its own loss, by automatic differentiation
  bp-dd  one loss after the last {layer}, by directional derivatives
  bp-ad  one loss after the last {layer}, by automatic differentiation
"""

YOUR_IMAGES = """\
images of your own (--dataset PATH):
  A folder with a sub-folder of PNG or JPEG files for each class, whose names
  become those of the classes; a fifth of each class is for testing, or give the
  folder two sub-folders, train and test. Every image, whatever its size and
  proportions, is made --image-size pixels square. Or an .npz file with x_train
  and x_test, [n, H, W] or [n, H, W, 3], bytes or floats in [0, 1], taken as
  they are, and y_train and y_test, whole numbers from 0. Colours become grey
  unless --colour rgb keeps them, as it does by default for a mixer.

examples:
"""

PHOTONIC_EXAMPLES = """\
  mnist_photonic.py --data-dir ~/data --seeds 3
  mnist_photonic.py --method ff-ad
  mnist_photonic.py --dataset digits --epochs 5 --quiet
  mnist_photonic.py --dataset ~/leaves --image-size 64 --size 10
  mnist_photonic.py --recipe paper --nonlinearity electro-optic:phi_b=1.57
  mnist_photonic.py --resume results/mnist-photonic-ff-dd-20260101-120000
"""

DIGITAL_EXAMPLES = """\
  mnist_digital.py --data-dir ~/data --seeds 3
  mnist_digital.py --perturb activations --directions 8
  mnist_digital.py --network cnn --channels 4
  mnist_digital.py --network mixer --dataset cifar-10 --epochs 12
  mnist_digital.py --dataset f1 --task regression
  mnist_digital.py --resume results/mnist-mlp-ff-dd-20260101-120000
"""

GROUPS = ("data", "network", "learning", "light", "time and energy", "run")


def build_parser(recipe: str = "balanced") -> LineParser:
    """The parser of a script whose default recipe this is."""
    digital = recipe == "digital"
    layer = "layer" if digital else "mesh"
    parser = LineParser(
        prog=_script(recipe),
        name=_name(recipe),
        usage="%(prog)s [--flag value ...]",
        description=(DIGITAL if digital else PHOTONIC) + METHODS.format(layer=layer),
        epilog=YOUR_IMAGES + (DIGITAL_EXAMPLES if digital else PHOTONIC_EXAMPLES),
    )
    groups = {name: parser.add_argument_group(name) for name in GROUPS}
    add_settings(parser, groups, Config, recipe=recipe)
    add_settings(parser, groups, Plan)
    add_data_dir(groups["data"])
    add_token_file(groups["network"])
    add_directories(groups["run"], "run", "result", is_plan)
    groups["run"].add_argument(
        "--tensorboard",
        action="store_true",
        help="also write the figures of every epoch for TensorBoard, into the run's directory",
    )
    groups["run"].add_argument(
        "--config",
        type=Reader(SETTINGS),
        metavar="FILE",
        help=f"settings by name: {SETTINGS.rule}; flags beat the file, the file beats the recipe",
    )
    return parser


def _script(recipe: str) -> str:
    """The script that trains what the recipe is for."""
    return "mnist_digital.py" if recipe == "digital" else "mnist_photonic.py"


def _name(recipe: str) -> str:
    """The installed command's name for the same."""
    return "digital" if recipe == "digital" else "train"


@command
def main(argv: Sequence[str] | None = None, recipe: str = "balanced", wait: float = 0.0) -> int:
    """Run the main job; return the exit code.

    0: done; 1: training or writing failed, what was saved stands; 2: bad input, nothing was
    written; 130 or 143: stopped by SIGINT or SIGTERM, what was learned is saved.
    """
    parser = build_parser(recipe)
    arguments = parser.parse_args(argv)
    with ExitStack() as claims:
        try:
            if arguments.resume:
                job, claim = resumed(arguments, parser, claims, wait)
            else:
                job, claim = prepare(arguments, recipe, claims)
        except (ValueError, TypeError, OSError) as error:
            parser.error(as_flag(str(error), parser))
        if job.dataset.note:
            say(job.dataset.note)
        return _run(job, claim, arguments, parser.prog)


def _run(job: Job, claim: Claim, arguments: argparse.Namespace, program: str) -> int:
    """Run a job in a directory that is claimed; return the exit code."""
    recipe = job.plan.config.recipe  # a grid's runs are resumed whatever they are of
    line = _resume_command(recipe, job.output, arguments)
    how = f"go on with: {line}{_named_again(job.plan.config)}"
    signals().advice = one_line(how)
    job = replace(job, tensorboard=arguments.tensorboard)
    try:
        with StopSignals() as stop:
            job.run((claim, stop))
        return 0
    except StoppedError:
        say(f"stopped, all is saved; {how}")
        return 128 + sum(signals().received[:1])
    except KeyboardInterrupt:  # called from Python
        say(f"interrupted; {how}")
        return 130
    except (DeviceError, CrewError) as error:
        say(f"{program}: {error}; what was saved stands; {how}")
        return 1
    except (NonFiniteLossError, DataError, OSError) as error:
        say(f"{program}: {error}; what was saved is in {job.output}")
        return 1


def _resume_command(recipe: str, folder: Path, arguments: argparse.Namespace) -> str:
    """The command that resumes a run, but for what it must name again."""
    words = start_of(_script(recipe), _ANY_RUN, _name(recipe))
    again = typed_words(arguments, "data_dir", "token_file", "tensorboard")
    return shlex.join([*words, *with_value("--resume", folder), *again])


def prepare(arguments: argparse.Namespace, recipe: str, claims: ExitStack) -> tuple[Job, Claim]:
    """Check every argument of a new run and load the data; then make and claim its directory."""
    typed = typed_settings(arguments, Config, Plan)
    in_file = read_settings(arguments.config, typed) if arguments.config else {}
    with _naming(arguments.config, in_file):
        plan = plan_of({"recipe": recipe, "dataset": "auto"} | in_file | typed)
        _check_idle(plan.config, in_file.keys() | typed.keys())
        check_place(arguments.output)
        check_data_dir(arguments.data_dir)
        place = arguments.output or RESULTS / "new"  # until its data give it a name
        job = Job.load(plan, arguments.data_dir, place, arguments.quiet, arguments.token_file)
    name = dated_name(job.written, job.dataset.name)
    claim = claims.enter_context(claim_place(arguments.output, name))
    return replace(job, output=claim.folder), claim


@contextmanager
def _naming(file: Path | None, settings: Collection[str]) -> Iterator[None]:
    """Let errors about the settings of a file name the file."""
    try:
        yield
    except (TypeError, ValueError) as error:
        about = re.match(r"\w+", str(error))
        if about and about[0] in settings:
            raise DataError(f"{file}: {error}") from None
        raise


def _check_idle(config: Config, chosen: Collection[str]) -> None:
    for name in config.idle.keys() & chosen:
        raise ValueError(f"{name} would do nothing: {config.idle[name]}")


def resumed(
    arguments: argparse.Namespace, parser: LineParser, claims: ExitStack, wait: float = 0.0
) -> tuple[Job, Claim]:
    """Take a run up again from its directory, from which every setting comes.

    ``wait`` is for how many seconds another process may still be at work there.
    """
    check_resumable(arguments, parser, _RESUMABLE, "run")
    check_data_dir(arguments.data_dir)
    check_functions(arguments.nonlinearity)
    file = arguments.resume / "config.json"
    written = read_json(file)
    if written is None:
        raise ValueError(
            f"resume must name a run's directory, no config.json in {arguments.resume}"
        )
    _check_functions_named_again(arguments, written)
    claim = claims.enter_context(Claim(arguments.resume, wait))
    plan = Plan.from_json(written, file, arguments.nonlinearity)
    plan = _with_device(plan, arguments.device)
    kind = settings_of(Plan)["dataset"].kind
    try:
        kind.parse(plan.dataset)
    except ValueError:
        found = quoted(plan.dataset)
        raise DataError(f"{file}: dataset must be {kind.rule}, found {found}") from None
    job = Job.load(
        plan, arguments.data_dir, arguments.resume, arguments.quiet, arguments.token_file
    )
    job.check_same(written)
    return job, claim


_ANY_RUN = (sys.executable, "-m", "photonic_ffzero.cli")
_RESUMABLE = ("resume", "data_dir", "quiet", "tensorboard", "device", "nonlinearity", "token_file")


def _check_functions_named_again(
    arguments: argparse.Namespace, settings: dict[str, object]
) -> None:
    """Check that the functions of a run are named again, and no others: no file may import one."""
    names, typed = functions_named(settings.get("nonlinearity")), arguments.nonlinearity
    if typed is not None and len(typed) != len(names):
        needed = f"{counted(len(names), 'function')}, as many as the run has"
        raise ValueError(f"nonlinearity must be {needed}, got {len(typed)}")
    if names and typed is None:
        words = typed_words(arguments, "device")
        words += [word for name in names for word in with_value("--nonlinearity", name)]
        start = _resume_command(str(settings.get("recipe")), arguments.resume, arguments)
        raise ValueError(
            "nonlinearity must be named again, as no file holds a function: "
            f"{start} {shlex.join(words)}"
        )


def _with_device(plan: Plan, device: str | None) -> Plan:
    """The plan on the device where it is now, which may not be where the run began.

    A file must start no program and open no connection, so that a device is named again.
    """
    named = plan.config.device
    if device is None and (named is None or plan.config.simulates_device):
        return plan
    if named is None:
        raise ValueError("device does not apply to a run that began without one")
    if device is None:
        raise ValueError(
            "device must be named again, as a file must start no program and open no connection: "
            f"use{_named_again(plan.config)}"
        )
    return replace(plan, config=plan.config.moved_to(device))


def _named_again(config: Config) -> str:
    """The flags that a command to resume needs: the device may have moved; functions in no file."""
    named = config.device and not config.simulates_device
    flags = with_value("--device", config.device) if named else []
    for function in filter(is_function, each(config.nonlinearity)):
        flags += with_value("--nonlinearity", getattr(function, "__name__", function))
    return "".join(f" {shlex.quote(word)}" for word in flags)


class StopSignals(Observer):
    """Lets the first signal end a run after the step in progress, while a block is in training.

    Before its first step and after its last, nothing would be saved: a signal ends it at once.
    """

    def __enter__(self) -> StopSignals:
        signals().notice = "stopping after this step"
        return self

    def __exit__(self, *error: object) -> None:
        signals().patience = 0

    def on_calibration(self, mesh: str, done: int, total: int) -> None:
        """Stop here if a signal came; what was saved stands."""
        if signals().received:
            raise StoppedError

    def on_steps(self, mesh: str, losses: list[float]) -> None:
        """Stop here if a signal came."""
        if signals().received:
            raise StoppedError
        signals().patience = 1

    def on_checkpoint(self, model: Model, position: Position) -> None:
        """After the last checkpoint all is saved."""
        signals().patience = int(position.block < len(model.blocks))


if __name__ == "__main__":
    sys.exit(main())
