"""Configurations: every choice of a training run."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from typing import Any

from meshes import NONLINEARITIES, Amplifier, Imperfections
from meshes.propagation import ENGINES
from meshes.validation import choice, from_spec, integer, number, with_values
from photonic_ffzero.data.tasks import TASKS
from photonic_ffzero.devices.remote import SCHEME, Address
from photonic_ffzero.goodness.decisions import RULES
from photonic_ffzero.goodness.losses import LOSSES
from photonic_ffzero.goodness.prototypes import PROTOTYPES
from photonic_ffzero.goodness.readouts import DETECTIONS, READOUTS
from photonic_ffzero.gradients.directions import LAWS
from photonic_ffzero.gradients.estimators import ESTIMATORS
from photonic_ffzero.gradients.objectives import PERTURBATIONS
from photonic_ffzero.layers.activations import ACTIVATIONS
from photonic_ffzero.optimizers import OPTIMIZERS, SCHEDULES
from photonic_ffzero.recipes import COMMON, PARTS, RECIPES, SLOPES

METHODS = ("ff-dd", "ff-ad", "bp-dd", "bp-ad")
NETWORKS = ("photonic", "mlp", "cnn")

BLACK_BOX = "black box "
AUTO = "auto"  # an epsilon to be chosen
SIMULATED = "simulated"  # a device in this process
OWN_DEVICE = "own "  # one that was given as it is


@dataclass(frozen=True, kw_only=True)
class Config:
    """Every choice of a training run; None where a method has no such thing.

    Attributes:
        recipe: The recipe the values come from.
        method: ``ff-dd``, ``ff-ad``, ``bp-dd`` or ``bp-ad``.
        task: ``classification`` or ``regression``.
        network: ``photonic``, ``mlp`` or ``cnn``.
        meshes: Number of meshes.
        columns: Columns of a mesh L; None means as many as ports.
        depth: Number of layers of a digital network, its last dense one included.
        width: Outputs of an MLP's layers but the last.
        channels: Channels of a CNN's convolutions.
        kernel_size: Pixels a side of their kernels.
        groups: Groups of outputs with prototypes of their own, for each label dimension.
        nonlinearity: ``NAME`` or ``NAME:key=value,...``, applied between layers; or a function
            of NumPy arrays, a black box.
        train_nonlinearity: Whether the electro-optic modulators' taps, gains and biases, one a
            port, are trained with the phases of the mesh behind them.
        amplifier: ``gain=G`` or ``level=P`` between the nonlinearity and the next mesh, see
            `meshes.Amplifier`; empty for none.
        imperfections: The chip's, ``key=value,...`` with the fields of `meshes.Imperfections`;
            empty for an ideal one.
        chip: Seed of the chip: which one was made. None for the run's own seed.
        reads: Readings that are averaged into one.
        device: What measures in the place of the simulation, see `devices`:
            ``simulated:key=value,...`` with the fields of `meshes.Imperfections`,
            ``tcp://host:port``, ``module:factory``, or ``own NAME`` for one given as it is.
        readout: ``goodness`` (cosine with prototypes) or ``ports`` (the first C tapped values).
        prototypes: ``simplex`` or ``random``; None for the readout ``ports``.
        detection: ``balanced`` or ``raw``; None for the readout ``ports``.
        norm_size: Tapped values that the goodness normalises together, see `cosine`: 0 for all of
            a group, as the paper does, or at least 2; None for the readout ``ports``.
        loss: ``NAME`` or ``NAME:key=value,...``.
        rule: How layers decide together, ``sum``, ``vote`` or ``last``; None for BP.
        estimator: ``central``, ``forward``, ``jvp`` or ``autodiff``.
        perturb: Where directions lie, ``weights`` or ``activations``; None for AD.
        law: Law of the directions; None for AD.
        directions: Directions a step K; None for AD.
        epsilon: Step of the differences (of a phase: rad), or ``auto``: chosen from the measured
            noise, see `stepsize`. None for AD.
        optimizer: ``sgd``, ``momentum`` or ``adam``.
        learning_rate: First learning rate, for the mean loss over the batch.
        schedule: ``constant`` or ``cosine``.
        batch_size: Images a step B.
        epochs: Passes over the training images for each block; 0 to train nothing.
        seed: Seed of everything random.
        engine: ``auto``, ``native`` or ``xla``.

    Raises:
        ValueError, TypeError: a value is unknown or out of range.
    """

    recipe: str
    method: str
    task: str
    network: str
    meshes: int | None
    columns: int | None
    depth: int | None
    width: int | None
    channels: int | None
    kernel_size: int | None
    groups: int
    nonlinearity: Any
    train_nonlinearity: bool | None
    amplifier: str | None
    imperfections: str | None
    chip: int | None
    reads: int | None
    device: str | None
    readout: str
    prototypes: str | None
    detection: str | None
    norm_size: int | None
    loss: str
    rule: str | None
    estimator: str
    perturb: str | None
    law: str | None
    directions: int | None
    epsilon: float | str | None
    optimizer: str
    learning_rate: float
    schedule: str
    batch_size: int
    epochs: int
    seed: int
    engine: str | None

    def __post_init__(self) -> None:
        for name, options in _CHOICES.items():
            if (value := getattr(self, name)) is not None:
                choice(name, value, options)
        for name in _COUNTS:
            if (value := getattr(self, name)) is not None:
                integer(name, value, minimum=1)
        for name in ("epochs", "seed", "chip", "norm_size"):
            if (value := getattr(self, name)) is not None:
                integer(name, value, minimum=0)
        if self.norm_size == 1:
            raise ValueError(
                "norm_size must be 0 or at least 2: of one value only the sign is left, got 1"
            )
        number("learning_rate", self.learning_rate, above=0)
        if self.epsilon not in (None, AUTO):
            number("epsilon", self.epsilon, above=0)
        from_spec("loss", self.loss, LOSSES)
        if self.nonlinearity is not None and not callable(self.nonlinearity):
            registry = NONLINEARITIES if self.network == "photonic" else ACTIVATIONS
            from_spec("nonlinearity", self.nonlinearity, registry)
        self._check_device()
        self._check_estimator()
        self._check_all_is_set()
        self._check_task()
        self._check_modulators()
        if self.amplification and self.layers < 2:
            raise ValueError(f"amplifier stands between two meshes or more, got {self.layers}")
        self._check_chip()

    def _check_all_is_set(self) -> None:
        needed = [name for name in _NEEDED[self.network] if name not in _own(self.device)]
        needed += ["perturb", "law", "directions"] if self.method.endswith("-dd") else []
        needed += [] if self._differentiates else ["epsilon"]
        needed += ["rule"] if self.local else []
        needed += ["detection", "prototypes", "norm_size"] if self.readout == "goodness" else []
        for name in needed:
            if getattr(self, name) is None:
                raise ValueError(
                    f"{name} must be set for {self.network} with {self.method}, "
                    f"{self.estimator}, {self.readout}"
                )

    def _check_device(self) -> None:
        if self.device is None:
            return
        if self.network != "photonic":
            raise ValueError(f"device does not apply to {self.network}: it is on no chip")
        if not isinstance(self.device, str):
            raise TypeError(f"device must be a text, got {self.device!r}")
        if self.simulates_device:
            _ = self.device_imperfections
        elif self.device.startswith(SCHEME):
            Address.of(self.device)
        elif not _DEVICE.fullmatch(self.device):
            raise ValueError(
                f"device must be {SIMULATED}, {SIMULATED}:key=value,..., tcp://host:port or "
                f"module:factory, got {self.device!r}"
            )
        if self.method.endswith("-ad") or self._differentiates:
            raise ValueError(
                "device gives intensities and no derivatives: it can be trained by differences "
                f"alone (ff-dd, bp-dd; central, forward), got {self.method}, {self.estimator}"
            )
        if self.train_nonlinearity:
            raise ValueError("train_nonlinearity does not apply to a device: it takes phases alone")
        for name in _own(self.device):
            if getattr(self, name) is not None:
                raise ValueError(f"{name} is the device's own, and cannot be set for {self.device}")

    def _check_estimator(self) -> None:
        mode = self._differentiates
        if (mode == "reverse") != self.method.endswith("-ad"):
            raise ValueError(
                f"estimator {self.estimator} does not fit method {self.method}: the estimators "
                "central, forward and jvp are for -dd methods, autodiff for -ad"
            )
        if mode and not self.local and callable(self.nonlinearity):
            raise ValueError(
                f"nonlinearity is a black box, which estimator {self.estimator} would have to "
                f"differentiate for {self.method}; ff methods and differences never do"
            )
        if mode == "forward" and self.network == "photonic" and self.engine != "xla":
            raise ValueError(
                f"engine must be xla for estimator {self.estimator}: the native engine has no "
                f"forward mode, got {self.engine}"
            )
        if self.perturb == "activations" and self.network == "photonic":
            raise ValueError(
                "perturb must be weights for meshes: from activations there is no way back to "
                "phases, which act through sines, as there is to a dense layer's weights"
            )
        if self.perturb == "activations" and not self.local:
            raise ValueError(
                "perturb must be weights for bp: what the last layer's activations say does not "
                "reach the layers before it without backpropagation"
            )

    def _check_task(self) -> None:
        regression = self.task == "regression"
        if regression != (self.loss.partition(":")[0] == "squared"):
            raise ValueError(f"loss {self.loss} does not fit the task {self.task}")
        if regression and self.rule not in (None, "last"):
            raise ValueError(f"rule must be last for a regression, got {self.rule}")

    def _check_modulators(self) -> None:
        if not self.train_nonlinearity:
            return
        if callable(self.nonlinearity) or self.nonlinearity.partition(":")[0] != "electro-optic":
            raise ValueError(
                f"train_nonlinearity needs electro-optic modulators, got {self.nonlinearity}"
            )
        if self.layers < 2:
            raise ValueError(f"train_nonlinearity needs two meshes or more, got {self.layers}")

    def _check_chip(self) -> None:
        made = self._made
        if self._differentiates and not made.differentiable:
            raise ValueError(
                f"imperfections with drive_bits or adc_bits cannot be differentiated, which "
                f"estimator {self.estimator} does; use differences (-dd)"
            )
        if self.epsilon == AUTO and (self.network != "photonic" or "unit" in (self.law or "")):
            raise ValueError(
                f"epsilon {AUTO} is the step of every phase of a mesh, chosen from a chip's noise; "
                f"it does not apply to {self.network} with law {self.law}"
            )
        if not made.drive_step or self.epsilon is None or isinstance(self.epsilon, str):
            return
        if "unit" in (self.law or ""):
            raise ValueError(
                f"law must give every phase a step of its own where the drive has steps "
                f"(drive_bits={made.drive_bits}), got {self.law}"
            )
        if self.epsilon < made.drive_step:
            raise ValueError(
                f"epsilon must be at least one step of the drive, {made.drive_step:.6g} rad with "
                f"drive_bits={made.drive_bits}, got {self.epsilon:g}"
            )

    @property
    def _differentiates(self) -> str | None:
        """The mode in which the estimator differentiates, None if it does not."""
        return ESTIMATORS[self.estimator]().differentiates

    @property
    def amplification(self) -> Amplifier | None:
        """The amplifier between meshes."""
        return with_values("amplifier", "", self.amplifier, Amplifier) if self.amplifier else None

    @property
    def chip_imperfections(self) -> Imperfections:
        """How far from ideal the chip is."""
        return with_values("imperfections", "", self.imperfections or "", Imperfections)

    @property
    def simulates_device(self) -> bool:
        """Whether the device is a simulation in this process."""
        return self.device is not None and _kind(self.device) == SIMULATED

    @property
    def device_imperfections(self) -> Imperfections:
        """How far from ideal a simulated device is, which is not to be looked at in training."""
        found = from_spec("device", self.device or "", {SIMULATED: Imperfections})
        if found.drift:
            raise ValueError(
                f"device knows no epochs, so that it cannot drift with them, got {self.device}"
            )
        return found

    @property
    def local(self) -> bool:
        """Whether every layer learns by its own loss (FF)."""
        return self.method.startswith("ff-")

    @property
    def layers(self) -> int:
        """Layers of the network: its meshes, or its depth."""
        return self.meshes or self.depth or 0

    @property
    def layer_name(self) -> str:
        """What a layer of the network is called."""
        return "mesh" if self.network == "photonic" else "layer"

    @property
    def idle(self) -> dict[str, str]:
        """Settings that this run would not be changed by, each with the reason."""
        found: dict[str, str] = {}
        if self.layers == 1:
            found["rule"] = "one layer decides alone"
            found["nonlinearity"] = "it stands between layers, of which there is one"
            for name in ("width", "channels", "kernel_size"):
                found[name] = "it is of the layers before the last, of which there are none"
        made, here = self._made, self.device is None
        if here and not made.noisy_readings:
            found["reads"] = "without noise of the readings, all are alike"
        if not (made.fabricated or (not here and (made.noisy_readings or not made.steady))):
            found["chip"] = "without imperfections that differ from chip to chip, all are alike"
        return found

    @property
    def _made(self) -> Imperfections:
        """How far from ideal the chip is, as far as the host can know."""
        return self.device_imperfections if self.simulates_device else self.chip_imperfections

    def on(self, device: str) -> Config:
        """The same on another device.

        Raises:
            ValueError: it cannot be.
        """
        own: dict[str, Any] = dict.fromkeys(_own(device))
        return replace(self, device=device, **own)

    def as_json(self) -> dict[str, Any]:
        """Every field; a black box by its name, which cannot be turned back into it."""
        content = {field.name: getattr(self, field.name) for field in fields(self)}
        if callable(self.nonlinearity):
            content["nonlinearity"] = f"{BLACK_BOX}{getattr(self.nonlinearity, '__name__', '?')}"
        return content


_DEVICE = re.compile(rf"[A-Za-z_][\w.]*:[A-Za-z_]\w*|{OWN_DEVICE}\w+")


def _kind(device: str) -> str:
    return device.partition(":")[0]


def _own(device: Any) -> tuple[str, ...]:
    """What a device settles by itself: one that is simulated here has the rest from here."""
    if not isinstance(device, str):
        return ()
    if _kind(device) == SIMULATED:
        return ("imperfections",)
    return ("imperfections", "chip", "nonlinearity", "amplifier", "engine")


_COUNTS = (
    *("meshes", "columns", "depth", "width", "channels", "kernel_size", "groups"),
    *("reads", "directions", "batch_size"),
)
_NEEDED = {
    "photonic": ("meshes", "nonlinearity", "engine"),
    "mlp": ("depth", "width", "nonlinearity"),
    "cnn": ("depth", "channels", "kernel_size", "nonlinearity"),
}
_CHOICES: dict[str, Iterable[str]] = {
    "recipe": RECIPES,
    "method": METHODS,
    "task": TASKS,
    "network": NETWORKS,
    "readout": READOUTS,
    "prototypes": PROTOTYPES,
    "detection": DETECTIONS,
    "rule": RULES,
    "estimator": ESTIMATORS,
    "perturb": PERTURBATIONS,
    "law": LAWS,
    "optimizer": OPTIMIZERS,
    "schedule": SCHEDULES,
    "engine": ENGINES,
}


def device_name(device: Any) -> str:
    """What a configuration calls a device: what it was named by, or its kind."""
    return device if isinstance(device, str) else f"{OWN_DEVICE}{type(device).__name__}"


def configure(recipe: str = "balanced", method: str = "ff-dd", **given: Any) -> Config:
    """Fill a configuration from a recipe; what is given takes precedence.

    Args:
        recipe: ``balanced``, ``paper``, ``published`` (photonic) or ``digital``.
        method: ``ff-dd``, ``ff-ad``, ``bp-dd`` or ``bp-ad``.
        **given: Fields of `Config`; None means as the recipe has it.

    Raises:
        TypeError: a name is no field of `Config`.
        ValueError: a value is out of range, or does not apply to the rest.
    """
    given = {name: value for name, value in given.items() if value is not None}
    if unknown := given.keys() - {field.name for field in fields(Config)}:
        raise TypeError(f"unknown setting {', '.join(sorted(unknown))}")
    values = _defaults(RECIPES[choice("recipe", recipe, RECIPES)], method, given)
    run = values | given
    for name in given:
        if name not in values:
            on = f" on device {given['device']}" if "device" in given else ""
            raise ValueError(
                f"{name} does not apply to {run['network']}{on} with method {method}, estimator "
                f"{run['estimator']}, readout {run['readout']}"
            )
    blank: dict[str, Any] = dict.fromkeys(field.name for field in fields(Config))
    return Config(**(blank | run | {"recipe": recipe, "method": method}))


def _defaults(
    recipe: dict[str, dict[str, Any]], method: str, given: dict[str, Any]
) -> dict[str, Any]:
    """What applies to a run, as far as it was not given: part after part."""
    values: dict[str, Any] = {}
    for part in PARTS:
        name = part.format_map(_chosen(method, values | given))
        values |= COMMON.get(name, {}) | recipe.get(name, {})
    return {name: value for name, value in values.items() if name not in _own(given.get("device"))}


def _chosen(method: str, values: dict[str, Any]) -> dict[str, Any]:
    """The choices that parts are named after, as far as they are made.

    Raises:
        ValueError: one is not among its options.
    """
    grouping, derivative = choice("method", method, METHODS).split("-")
    chosen = {"method": method, "grouping": grouping, "derivative": derivative}
    for name in ("network", "readout", "perturb", "task", "estimator"):
        chosen[name] = choice(name, values[name], _CHOICES[name]) if name in values else "none"
    if chosen["estimator"] != "none":
        chosen["slopes"] = SLOPES[ESTIMATORS[chosen["estimator"]]().differentiates]
    return chosen
