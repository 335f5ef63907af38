"""The command line of the photonic experiments."""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from types import FrameType
from typing import Any

from meshes import NONLINEARITIES, Imperfections
from meshes.propagation import ENGINES
from meshes.validation import number
from photonic_ffzero.cli.arguments import (
    LineParser,
    add_data_dir,
    add_directories,
    as_flag,
    checked,
    count,
)
from photonic_ffzero.config import AUTO, METHODS, NETWORKS, SIMULATED, Config, configure
from photonic_ffzero.data.datasets import DATASETS, IMAGE_SIZE
from photonic_ffzero.data.encoding import ENCODINGS
from photonic_ffzero.data.functions import FUNCTIONS
from photonic_ffzero.data.readers import DataError
from photonic_ffzero.data.tasks import TASKS
from photonic_ffzero.devices.device import DeviceError
from photonic_ffzero.devices.remote import SCHEME
from photonic_ffzero.goodness.decisions import RULES
from photonic_ffzero.goodness.losses import LOSSES
from photonic_ffzero.goodness.prototypes import PROTOTYPES
from photonic_ffzero.goodness.readouts import DETECTIONS, READOUTS
from photonic_ffzero.gradients.directions import LAWS
from photonic_ffzero.gradients.objectives import PERTURBATIONS
from photonic_ffzero.layers.activations import ACTIVATIONS
from photonic_ffzero.optimizers import OPTIMIZERS, SCHEDULES
from photonic_ffzero.power import UNIT_POWER, in_units
from photonic_ffzero.recipes import RECIPES
from photonic_ffzero.runs.directory import check_new_directory
from photonic_ffzero.runs.job import Job
from photonic_ffzero.runs.plan import RATES, UNENCODED, Plan
from photonic_ffzero.storage import read_json
from photonic_ffzero.training.trainer import NonFiniteLossError, Observer, StoppedError

PHOTONIC = """\
Train a photonic neural network on MNIST.

Light encodes an image, crosses rectangular meshes of Mach-Zehnder
interferometers with a nonlinearity between them, and is detected behind every
mesh. The phase shifts are trained, by default from forward passes alone:

  ff-dd  (FFzero) each mesh learns by its own loss, by directional derivatives
  ff-ad  each mesh learns by its own loss, by automatic differentiation
  bp-dd  one loss behind the last mesh, by directional derivatives
  bp-ad  one loss behind the last mesh, by automatic differentiation
"""

DIGITAL = """\
Train a digital MLP or CNN on MNIST, or on a function (regression).

The same core as the photonic networks: every layer learns by its own loss from
fixed prototypes and a cosine goodness, by default from forward passes alone:

  ff-dd  (FFzero) each layer learns by its own loss, by directional derivatives
  ff-ad  each layer learns by its own loss, by automatic differentiation
  bp-dd  one loss behind the last layer, by directional derivatives
  bp-ad  backpropagation

Directions lie among the weights (FFzero) or among the activations, one for
every sample (--perturb activations), which is far less noisy.
"""

DIGITAL_EXAMPLES = """\
examples:
  mnist_digital.py --data-dir ~/data --seeds 3
  mnist_digital.py --perturb activations --directions 8
  mnist_digital.py --network cnn --channels 4
  mnist_digital.py --dataset f1 --task regression
  mnist_digital.py --resume results/mnist-mlp-ff-dd-20260101-120000
"""

_OWN_IMAGES = """\
images of your own (--dataset PATH):
  A folder with a sub-folder of PNG or JPEG files for each class, whose names
  become those of the classes; a fifth of each class is for testing, or give the
  folder two sub-folders, train and test. Colours become grey, transparency is
  ignored, and every image, whatever its size and proportions, is made
  --image-size pixels square. Or an .npz file with x_train and x_test,
  [n, H, W], bytes or floats in [0, 1], taken as they are, and y_train and
  y_test, whole numbers from 0.

"""

PHOTONIC_EXAMPLES = """\
examples:
  mnist_photonic.py --data-dir ~/data --seeds 3
  mnist_photonic.py --method ff-ad
  mnist_photonic.py --dataset digits --epochs 5 --quiet
  mnist_photonic.py --dataset ~/leaves --image-size 64 --size 10
  mnist_photonic.py --recipe paper --nonlinearity electro-optic:phi_b=1.57
  mnist_photonic.py --resume results/mnist-photonic-ff-dd-20260101-120000
"""


_SETTINGS = tuple(field.name for field in fields(Config) if field.name not in ("recipe", "method"))


def _dataset(text: str) -> str:
    """An argparse type: the name of a data set, or the whole path of the user's own."""
    if text in DATASETS:
        return text
    path = os.path.abspath(os.path.expanduser(text))
    if not os.path.exists(path):
        raise argparse.ArgumentTypeError(
            f"must be one of {', '.join(DATASETS)}, or an existing folder of images or .npz file; "
            f"got {text!r}"
        )
    return path


def _existing(text: str) -> str:
    """An argparse type: the whole path of something that is there."""
    path = os.path.abspath(os.path.expanduser(text))
    if not os.path.exists(path):
        raise argparse.ArgumentTypeError(f"must be a run's directory or a model, got {text!r}")
    return path


_POSITIVE = checked(number, float, "a number", above=0)


def build_parser(recipe: str = "balanced") -> argparse.ArgumentParser:
    """The parser; every default that depends on the recipe is None.

    Args:
        recipe: The default one; ``digital`` makes it the parser of ``mnist_digital.py``.
    """
    digital = recipe == "digital"
    parser = LineParser(
        prog=_script(recipe),
        description=DIGITAL if digital else PHOTONIC,
        epilog=_OWN_IMAGES + (DIGITAL_EXAMPLES if digital else PHOTONIC_EXAMPLES),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    _add_data(parser.add_argument_group("data"))
    _add_network(parser.add_argument_group("network"))
    _add_learning(parser.add_argument_group("learning"), recipe)
    _add_light(parser.add_argument_group("power of the light"))
    _add_chip(parser.add_argument_group("time and energy on the chip, for the results"))
    _add_run(parser.add_argument_group("run"))
    return parser


def _script(recipe: str) -> str:
    """The experiment whose default the recipe is, or that has its defaults for the other ones."""
    return "mnist_digital.py" if recipe == "digital" else "mnist_photonic.py"


def _add_data(group: Any) -> None:
    group.add_argument(
        "--dataset",
        type=_dataset,
        metavar="NAME|PATH",
        default="auto",
        help=f"{', '.join(DATASETS)}, or images of your own, see below. auto: MNIST, or "
        "scikit-learn's 8 x 8 digits where it cannot be had; f1, f2: functions to learn, with "
        "--task regression (default: auto)",
    )
    group.add_argument(
        "--image-size",
        type=count(1),
        metavar="P",
        help="make a folder's images P x P grey pixels by averaging over areas (default: "
        f"{IMAGE_SIZE})",
    )
    add_data_dir(group)
    group.add_argument(
        "--encoding", choices=ENCODINGS, help="image to port amplitudes (default: recipe's)"
    )
    group.add_argument(
        "--size",
        type=count(1),
        metavar="S",
        help="pixels a side after encoding; S x S ports (default: recipe's, 8)",
    )
    group.add_argument(
        "--validation",
        type=count(0),
        metavar="N",
        help="training images held out (default: a tenth, at most 5000)",
    )
    group.add_argument("--limit", type=count(1), metavar="N", help="train on the first N images")


def _add_network(group: Any) -> None:
    group.add_argument(
        "--network", choices=NETWORKS, help="meshes, dense layers, convolutions (default: recipe's)"
    )
    group.add_argument("--meshes", type=count(1), metavar="N", help="meshes in a row (default: 2)")
    group.add_argument(
        "--columns",
        type=count(1),
        metavar="L",
        help="columns of a mesh (default: as many as ports)",
    )
    for name, what, default in (
        ("depth", "layers of a digital network, the last included", "mlp 4, cnn 3"),
        ("width", "outputs of an MLP's layers but the last", "100"),
        ("channels", "channels of a CNN's convolutions", "16"),
        ("kernel-size", "pixels a side of their kernels", "6"),
        ("groups", "groups of outputs with prototypes of their own", "1"),
    ):
        group.add_argument(
            f"--{name}", type=count(1), metavar="N", help=f"{what} (default: {default})"
        )
    group.add_argument(
        "--nonlinearity",
        metavar="NAME:key=value,...",
        help=f"between meshes: {', '.join(NONLINEARITIES)} (default: electro-optic, also by "
        "its parts, with --unit-power: tap, responsivity in A/W, gain in ohm, v_pi and bias in V); "
        f"between digital layers: {', '.join(ACTIVATIONS)} (default: gelu)",
    )
    group.add_argument(
        "--train-nonlinearity",
        action="store_true",
        default=None,
        help="train the taps, gains and biases of electro-optic modulators, too (default: no)",
    )
    group.add_argument(
        "--amplifier",
        metavar="gain=G|level=P",
        help="between meshes: a fixed power gain, or each image to a set total power, in units of "
        "|E|^2 (a port's brightest is 1) (default: none)",
    )
    group.add_argument(
        "--imperfections",
        metavar="key=value,...",
        help=f"of the chip: {', '.join(f.name for f in fields(Imperfections))} (default: none)",
    )
    group.add_argument(
        "--chip", type=count(0), metavar="N", help="seed of the chip (default: that of the run)"
    )
    group.add_argument(
        "--reads", type=count(1), metavar="N", help="readings averaged into one (default: 1)"
    )
    group.add_argument(
        "--device",
        metavar="NAME",
        help=f"train on a device instead of simulating: {SIMULATED}:key=value,... with "
        "imperfections that training cannot see, tcp://host:port, or module:factory for your own "
        "(default: none)",
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
        "--prototypes",
        choices=PROTOTYPES,
        help="as far apart as they can be, or drawn independently (default: simplex)",
    )
    group.add_argument(
        "--norm-size",
        type=count(0),
        metavar="N",
        help="tapped values that the cosine normalises together; 0: all (default: recipe's)",
    )
    group.add_argument(
        "--rule", choices=RULES, help="how the meshes of FF decide together (default: recipe's)"
    )
    group.add_argument(
        "--engine", choices=ENGINES, help="mesh simulator (default: auto, the fastest here)"
    )


def _add_learning(group: Any, recipe: str) -> None:
    group.add_argument(
        "--recipe",
        choices=RECIPES,
        default=recipe,
        help="where all defaults come from: ours, the paper's, its published code's, or ours for "
        f"digital networks (default: {recipe})",
    )
    group.add_argument(
        "--method", choices=METHODS, default="ff-dd", help="see above (default: ff-dd)"
    )
    group.add_argument(
        "--task", choices=TASKS, help="what the labels are (default: classification)"
    )
    group.add_argument(
        "--loss", metavar="NAME:key=value,...", help=f"{', '.join(LOSSES)} (default: recipe's)"
    )
    group.add_argument(
        "--estimator",
        choices=("central", "forward", "jvp"),
        help="slopes of -dd: differences, or exact ones by forward-mode differentiation "
        "(default: central)",
    )
    group.add_argument(
        "--perturb",
        choices=PERTURBATIONS,
        help="where directions lie; activations: digital ff only (default: weights)",
    )
    group.add_argument("--law", choices=LAWS, help="law of the directions (default: recipe's)")
    group.add_argument(
        "--directions", type=count(1), metavar="K", help="directions a step (default: recipe's)"
    )
    group.add_argument(
        "--epsilon",
        type=lambda text: text if text == AUTO else _POSITIVE(text),
        metavar="EPS",
        help="step of each parameter (of a phase: rad) or activation; for the unit laws, length "
        "of the whole step; auto: from a chip's noise, measured (default: recipe's)",
    )
    group.add_argument("--optimizer", choices=OPTIMIZERS, help="(default: recipe's)")
    group.add_argument(
        "--learning-rate", type=_POSITIVE, metavar="RATE", help="first rate (default: recipe's)"
    )
    group.add_argument("--schedule", choices=SCHEDULES, help="of the rate (default: recipe's)")
    group.add_argument(
        "--batch-size", type=count(1), metavar="B", help="images a step (default: recipe's)"
    )
    group.add_argument(
        "--epochs",
        type=count(0),
        metavar="N",
        help="epochs a mesh; 0 trains nothing (default: recipe's)",
    )
    group.add_argument(
        "--start-from",
        type=_existing,
        metavar="DIR|FILE",
        help="run or model.npz to start from, for instance one trained in silico, instead of "
        "random parameters; its prototypes are taken, too",
    )


def _add_light(group: Any) -> None:
    group.add_argument(
        "--unit-power",
        type=_POSITIVE,
        metavar="W",
        help="watts of one unit of |E|^2, which the brightest port of an image has (default: "
        f"{UNIT_POWER:g})",
    )
    group.add_argument(
        "--detector-floor",
        type=_POSITIVE,
        metavar="W",
        help="watts a port that detectors need; warn where they see less (default: unknown)",
    )


def _add_chip(group: Any) -> None:
    for name, what in (
        ("symbol-rate HZ", "samples a second through a mesh"),
        ("write-time S", "seconds in which the phases of a mesh are written and settle"),
        ("chip-power W", "watts of laser, heaters and electronics together"),
    ):
        flag, _, unit = name.partition(" ")
        group.add_argument(f"--{flag}", type=float, metavar=unit, help=f"{what} (default: unknown)")


def _add_run(group: Any) -> None:
    group.add_argument(
        "--seed", type=count(0), default=0, metavar="N", help="seed of everything (default: 0)"
    )
    group.add_argument(
        "--seeds",
        type=count(1),
        default=1,
        metavar="N",
        help="run N seeds from --seed on; report mean and spread (default: 1)",
    )
    add_directories(group, "run", "result")


def main(argv: Sequence[str] | None = None, recipe: str = "balanced") -> int:
    """Run the main job; return the exit code.

    0: done; 1: training or writing failed, what was saved stands; 2: bad input, nothing was
    written; 130 or 143: stopped by SIGINT or SIGTERM, what was learned is saved.
    """
    parser = build_parser(recipe)
    arguments = parser.parse_args(argv)
    try:
        job = resumed(arguments, parser) if arguments.resume else prepare(arguments)
    except (ValueError, TypeError, OSError) as error:
        parser.error(as_flag(str(error), parser))
    if job.dataset.note:
        print(job.dataset.note, file=sys.stderr)
    script = _script(job.plan.config.recipe)  # a grid's runs are resumed whatever they are of
    how = f"go on with: {script} --resume {job.output}{_on_device(job.plan.config)}"
    with StopSignals() as signals:
        try:
            job.run((signals,))
        except StoppedError:
            print(f"stopped, all is saved; {how}", file=sys.stderr)
            return 128 + signals.received
        except KeyboardInterrupt:
            print(f"interrupted; {how}", file=sys.stderr)
            return 130
        except DeviceError as error:
            print(f"{script}: {error}; what was saved stands; {how}", file=sys.stderr)
            return 1
        except (NonFiniteLossError, DataError, OSError) as error:
            print(f"{script}: {error}; what was saved is in {job.output}", file=sys.stderr)
            return 1
    return 0


def prepare(arguments: argparse.Namespace) -> Job:
    """Check every argument of a new run and load the data; write nothing.

    Raises:
        TypeError, ValueError, OSError: an argument or a file breaks a rule.
    """
    settings = {name: getattr(arguments, name) for name in _SETTINGS}
    if arguments.nonlinearity is not None:
        unit = arguments.unit_power or UNIT_POWER
        settings["nonlinearity"] = in_units(arguments.nonlinearity, unit)
    config = configure(arguments.recipe, arguments.method, **settings)
    for name, why in config.idle.items():
        if settings[name] is not None:
            raise ValueError(f"{name} would do nothing: {why}")
    output = arguments.output or _dated_directory(arguments.dataset, config)
    check_new_directory(output)
    inputs = _input_settings(arguments)
    plan = Plan(
        config=config,
        dataset=arguments.dataset,
        image_size=arguments.image_size,
        **inputs,
        validation=arguments.validation,
        limit=arguments.limit,
        seeds=arguments.seeds,
        start_from=arguments.start_from,
        unit_power=arguments.unit_power,
        detector_floor=arguments.detector_floor,
        **{name: getattr(arguments, name) for name in RATES},
    )
    return Job.load(plan, arguments.data_dir, output, arguments.quiet)


def _input_settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """Encoding and size: the recipe's unless given; numbers that are no images have none."""
    given = {"encoding": arguments.encoding, "size": arguments.size}
    if arguments.dataset not in FUNCTIONS:
        return {k: v or RECIPES[arguments.recipe]["input"][k] for k, v in given.items()}
    for name, value in given.items():
        if value is not None:
            raise ValueError(f"{name} does not apply to data set {arguments.dataset}: no images")
    return {"encoding": UNENCODED, "size": None}


def resumed(arguments: argparse.Namespace, parser: argparse.ArgumentParser) -> Job:
    """Take a run up again from its directory; every setting comes from there.

    Raises:
        TypeError, ValueError, OSError: the directory holds no such run, the data are others, or
            a setting was given besides.
    """
    for name, value in vars(arguments).items():
        if value != parser.get_default(name) and name not in _RESUMABLE:
            raise ValueError(f"resume takes every setting from the run; leave out --{name}")
    written = read_json(arguments.resume / "config.json")
    if written is None:
        raise ValueError(
            f"resume must name a run's directory, no config.json in {arguments.resume}"
        )
    plan = _with_device(Plan.from_json(written), arguments.device)
    job = Job.load(plan, arguments.data_dir, arguments.resume, arguments.quiet)
    job.check_same(written)
    return job


def _on_device(config: Config) -> str:
    """The flag that says where the device is, which may have moved."""
    named = config.device and not config.simulates_device
    return f" --device {shlex.quote(config.device or '')}" if named else ""


_RESUMABLE = ("resume", "data_dir", "quiet", "device")


def _with_device(plan: Plan, device: str | None) -> Plan:
    """The plan on the device where it is now: it may have moved since the run began.

    No file is a reason to run a program: a factory has to be named again.

    Raises:
        ValueError: the run is on no device, or on one that has to be named.
    """
    named = plan.config.device
    if device is None and (named is None or plan.config.simulates_device or SCHEME in named):
        return plan
    if named is None:
        raise ValueError("device does not apply to a run that began without one")
    if device is None:
        raise ValueError(f"device must be named again, as it is a program: --device {named}")
    return replace(plan, config=plan.config.on(device))


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


def _dated_directory(dataset: str, config: Config) -> Path:
    data = "mnist" if dataset == "auto" else Path(dataset).stem
    now = time.strftime("%Y%m%d-%H%M%S")
    return Path("results") / f"{data}-{config.network}-{config.method}-{now}"


if __name__ == "__main__":
    sys.exit(main())
