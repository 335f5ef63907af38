"""The rules between the settings of a configuration.

Each rule is a pair: whether a run breaks it, and the message. The first broken one is the error.
Whatever a network is for, it must be possible to build and test it: so say the rules of networks.
The others are about gradients, and a run of no epochs needs none.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import TYPE_CHECKING

from meshes.validation import counted
from photonic_ffzero.elements import each
from photonic_ffzero.gradients import SHARD

if TYPE_CHECKING:
    from photonic_ffzero.config import Config

AUTO = "auto"  # epsilon is chosen from the measured noise
PRECONDITIONED = ("central", "forward", "jvp")  # right with directions of any covariance

Rules = Iterator[tuple[bool, str]]


def check_rules(run: Config) -> None:
    """Raise a ValueError for the first rule that a run breaks."""
    groups = (*_OF_NETWORKS, *(_OF_TRAINING if run.trains else ()))
    for broken, message in chain.from_iterable(rules(run) for rules in groups):
        if broken:
            raise ValueError(message)


# --- networks -------------------------------------------------------------------------------------


def _readout_rules(run: Config) -> Rules:
    yield run.norm_size == 1, "norm_size must be 0 or at least 2: one value is a sign, got 1"
    yield (
        run.task == "regression" and run.rule not in (None, "last"),
        f"rule must be last for a regression, got {run.rule}",
    )
    if run.network == "mixer":
        yield from _mixer_rules(run)
    elif run.readout != "goodness":
        yield (
            run.groups > 1,
            f"groups must be 1 for readout {run.readout}, which has no prototypes, got "
            f"{run.groups}",
        )
        yield (
            run.task == "regression" and run.network == "photonic",
            "readout must be goodness for a regression of meshes, as intensities are never below "
            f"0, got {run.readout}",
        )


def _mixer_rules(run: Config) -> Rules:
    yield run.task == "regression", "task must be classification for mixer, got regression"
    readout = "ports" if run.head == "linear" else "goodness"
    yield (
        run.readout != readout,
        f"readout must be {readout} for head {run.head}, got {run.readout}",
    )
    losses = "global" if not run.local else "block or grouped"
    yield (
        run.losses not in losses.split(" or "),
        f"losses must be {losses} for {run.method}, got {run.losses}",
    )
    yield (
        run.losses == "grouped" and run.head == "linear" and run.perturb != "activations",
        "losses must be block for head linear unless perturb is activations, as all groups share "
        "that head; got grouped",
    )


def _between_rules(run: Config) -> Rules:
    between, count = run.nonlinearity, run.layers
    if run.train_nonlinearity:
        electro_optic = all(str(e).partition(":")[0] == "electro-optic" for e in each(between))
        yield run.device is not None, "train_nonlinearity does not apply to a device: phases alone"
        yield not electro_optic, f"train_nonlinearity needs electro-optic modulators, got {between}"
        yield count < 2, f"train_nonlinearity needs two meshes or more, got {count}"
    several, stages = len(each(between)), max(count - 1, 1)
    yield (
        several not in (1, stages),
        f"nonlinearity must be one for all, or one for each of the {stages} stages between "
        f"{counted(count, run.layer_name)}, got {several}",
    )
    amplified = run.amplification is not None
    yield amplified and count < 2, f"amplifier stands between two meshes or more, got {count}"


_OF_NETWORKS = (_readout_rules, _between_rules)

# --- training -------------------------------------------------------------------------------------


def _estimator_rules(run: Config) -> Rules:
    exact, photonic = run.slopes != "differences", run.network == "photonic"
    yield (
        (run.task == "regression") != (run.loss.partition(":")[0] == "squared"),
        f"loss {run.loss} does not fit the task {run.task}",
    )
    yield (
        run.device is not None and (exact or run.method.endswith("-ad")),
        "device gives intensities and no derivatives; train by differences (ff-dd, bp-dd; "
        f"central, forward), got {run.method}, {run.estimator}",
    )
    yield (
        (run.slopes == "reverse mode") != run.method.endswith("-ad"),
        f"estimator {run.estimator} does not fit method {run.method}: autodiff is "
        "for -ad methods, every other estimator for -dd",
    )
    yield (
        exact and not run.local and run.has_function,
        f"nonlinearity is a black box, which estimator {run.estimator} would have to "
        f"differentiate for {run.method}; ff methods and differences never do",
    )
    yield (
        run.slopes == "forward mode" and photonic and run.engine != "xla",
        f"engine must be xla for estimator {run.estimator}: the native engine has no forward "
        f"mode, got {run.engine}",
    )
    yield (
        run.estimator in ("cones", "twin") and not photonic,
        f"estimator {run.estimator} is for meshes, whose layout it uses, got {run.network}",
    )
    yield (
        run.estimator == "twin" and not run.local and run.has_function,
        "nonlinearity is a black box, which estimator twin would have to differentiate for "
        f"{run.method}; ff-dd never does",
    )


def _direction_rules(run: Config) -> Rules:
    photonic, activations = run.network == "photonic", run.perturb == "activations"
    yield (
        run.directions == 0 and run.estimator != "twin",
        f"directions must be at least 1 for estimator {run.estimator}, got 0",
    )
    yield (
        run.directions == 0 and run.epsilon == AUTO,
        "directions must be at least 1 for epsilon auto, got 0",
    )
    yield (
        run.follows_network and not photonic,
        f"law {run.law} is for meshes, whose layout it uses, got {run.network}",
    )
    yield (
        run.follows_network and run.estimator not in PRECONDITIONED,
        f"estimator must be {', '.join(PRECONDITIONED)} for law {run.law}, whose estimate is the "
        f"gradient times the covariance, got {run.estimator}",
    )
    yield (
        activations and photonic,
        "perturb must be weights for meshes: a phase acts through sines, so that its slope does "
        "not follow from those of activations, as a dense layer's weight's does",
    )
    yield (
        activations and not run.local and run.network != "mixer",
        "perturb must be weights for bp: slopes of the last layer's activations do not reach "
        "the layers before it without backpropagation",
    )


def _step_rules(run: Config) -> Rules:
    chip, unit_law = run.known_imperfections, "unit" in (run.law or "")
    yield (
        run.slopes != "differences" and not chip.differentiable,
        "imperfections with drive_bits or adc_bits cannot be differentiated, which estimator "
        f"{run.estimator} does; use differences (-dd)",
    )
    yield (
        run.epsilon == AUTO and (run.network != "photonic" or unit_law),
        f"epsilon {AUTO} is the step of every phase of a mesh, chosen from a chip's noise; it "
        f"does not apply to {run.network} with law {run.law}",
    )
    if not chip.drive_step or run.epsilon is None or isinstance(run.epsilon, str):
        return
    bits = f"drive_bits={chip.drive_bits}"
    yield unit_law, f"law must give every phase its own step with {bits}, got {run.law}"
    yield (
        run.epsilon < chip.drive_step,
        f"epsilon must be at least one step of the drive, {chip.drive_step:.6g} rad with "
        f"{bits}, got {run.epsilon:g}",
    )


def _worker_rules(run: Config) -> Rules:
    if run.workers is None:
        return
    most = -(-(run.directions or 0) // SHARD)
    yield (
        run.workers > most,
        f"workers must be at most {most}, one a shard of {SHARD} of {run.directions} directions, "
        f"got {run.workers}",
    )
    yield (
        run.law == "orthonormal" or run.follows_network,
        f"law must draw each direction alone for workers, got {run.law}",
    )
    yield (
        bool(run.chip_imperfections.drift),
        f"imperfections must not drift for workers, got drift={run.chip_imperfections.drift:g}",
    )
    yield callable(run.nonlinearity), "nonlinearity must have a name for workers, got a function"


_OF_TRAINING = (_estimator_rules, _direction_rules, _step_rules, _worker_rules)
