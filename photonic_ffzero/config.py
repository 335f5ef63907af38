"""Configurations: every choice of a training run."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any, TypeVar, get_type_hints

from meshes import NONLINEARITIES, Amplifier, Imperfections, Nonlinearity
from meshes.display import facts_html
from meshes.imperfections import PRESETS, imperfections_of
from meshes.propagation import ENGINES
from meshes.validation import closest, from_spec, number, quoted
from photonic_ffzero.data.encoding import CHANNELS
from photonic_ffzero.data.tasks import TASKS
from photonic_ffzero.devices.remote import SCHEME, Address
from photonic_ffzero.elements import (
    KNOWN_NONLINEARITY,
    NONLINEARITY,
    amplifier_of,
    as_json,
    built,
    each,
    from_file,
    is_function,
    listed,
)
from photonic_ffzero.goodness import DETECTIONS, LOSSES, PROTOTYPES, READOUTS, RULES
from photonic_ffzero.gradients import ESTIMATORS, LAWS, PERTURBATIONS, renewal_of
from photonic_ffzero.layers.activations import ACTIVATIONS
from photonic_ffzero.layers.dense import INITIALIZATIONS, SCALINGS
from photonic_ffzero.optimizers import OPTIMIZERS, SCHEDULES
from photonic_ffzero.recipes import COMMON, DD, FF, METHODS, RECIPES
from photonic_ffzero.rules import AUTO, PRECONDITIONED, check_rules
from photonic_ffzero.settings import (
    NOT_NEGATIVE,
    POSITIVE,
    SWITCH,
    TEXT,
    ValueKind,
    check_scope,
    completed,
    defaults_of,
    keep_checked,
    matches,
    one_of,
    setting,
    settings_of,
    spec_of,
    synonyms_of,
    values_of,
    whole,
)

ELEMENTS = ("nonlinearity", "twin_nonlinearity")  # settings that name nonlinear elements
SIMULATED = "simulated"  # a device that is simulated in this process
GIVEN_DEVICE = "own "  # stands before the class name of a device that was passed as an object
_LEAST_STEP = 1e-30  # single precision holds it, and a slope over it
_MOST_SEED = 2**128 - 1  # more makes no other generator likely

# Settings of one scope. What an external device is made of is its own affair.
_PHOTONIC, _HERE = {"network": "photonic"}, {"device": ("none", SIMULATED)}
_network = partial(setting, group="network")
_photonic = partial(_network, applies=_PHOTONIC)
_photonic_here = partial(_network, applies=_PHOTONIC | _HERE)
_cnn = partial(_network, applies={"network": "cnn"})
_mixer = partial(_network, applies={"network": "mixer"})
_goodness = partial(_network, applies={"readout": "goodness"})
_learning = partial(setting, group="learning")
_derivative = partial(_learning, applies=DD)
_IN_SHARDS = {"estimator": PRECONDITIONED, "device": "none"}  # slopes are one number a direction
_TWIN = {"estimator": "twin"}
_twin = partial(_learning, applies=_TWIN)
_twin_of_device = partial(_learning, applies=_TWIN | {"device": (SIMULATED, "external")})


def device_kind(device: Any) -> str:
    """``none``, ``simulated`` or ``external``."""
    if device is None:
        return "none"
    return SIMULATED if str(device).partition(":")[0] == SIMULATED else "external"


def _device_imperfections(device: str) -> Imperfections:
    name, colon, values = device.partition(":")
    if name.strip() != SIMULATED or (colon and not values):
        from_spec("device", device, {SIMULATED: Imperfections})  # says what is wrong
    imperfections = imperfections_of(f"device {SIMULATED}", values)
    if imperfections.drift:
        raise ValueError(f"device knows no epochs, so that it cannot drift with them, got {device}")
    return imperfections


_DEVICE_TEXT = re.compile(rf"[A-Za-z_][\w.]*:[A-Za-z_]\w*|{GIVEN_DEVICE}\w+")


def _check_device(name: str, device: Any) -> str:
    device = TEXT.check(name, device)
    if device_kind(device) == SIMULATED:
        _device_imperfections(device)
    elif device.startswith(SCHEME):
        Address.of(device)
    elif not _DEVICE_TEXT.fullmatch(device):
        raise ValueError(f"{name} must be {_DEVICE.rule}, got {quoted(device)}")
    return device


def _check_imperfections(name: str, value: Any) -> str:
    imperfections_of(name, words := TEXT.check(name, value))
    return words


def _check_epsilon(name: str, value: Any) -> float | str:
    return (
        AUTO
        if isinstance(value, str) and value == AUTO
        else number(name, value, minimum=_LEAST_STEP)
    )


_DEVICE = ValueKind(
    _check_device,
    f"{SIMULATED}, {SIMULATED}:key=value,..., tcp://host:port or module:factory",
    metavar="NAME",
    lists=True,
    opens=lambda device: device_kind(device) == "external",
)
_IMPERFECTIONS = ValueKind(
    _check_imperfections,
    "key=value,..., NAME of a preset, NAME:key=value,... or empty",
    metavar="key=value,...|NAME",
    lists=True,
)
_EPSILON = ValueKind(
    _check_epsilon,
    f"a number above 0, or {AUTO}",
    lambda text: text if text == AUTO else float(text),
    metavar="EPS",
)


@dataclass(frozen=True, kw_only=True)
class Config:
    """Every choice of a training run; None where a run has no such thing.

    Each field says in its `setting` what it means, which values it takes and where it applies;
    the documentation has them as a table. `configure` fills them from a recipe.
    """

    recipe: str = _learning(
        one_of(RECIPES),
        "where all defaults come from: ours, ours for wide meshes, the paper's, its published "
        "code's, or ours for digital networks",
        default="balanced",
    )
    method: str = _learning(
        one_of(METHODS),
        "local (ff) or global (bp) losses; directional derivatives (dd) or automatic "
        "differentiation (ad)",
        default="ff-dd",
        also=("algorithm", "algo"),
    )
    task: str = _learning(one_of(TASKS), "what the labels are", default="classification")
    network: str = _network(
        one_of(("photonic", "mlp", "cnn", "mixer")),
        "meshes, dense layers, convolutions, or blocks of dense layers over patches and groups",
    )
    meshes: int | None = _photonic(
        whole(1), "meshes in a row", default=2, also=("layers", "num_meshes", "num_layers")
    )
    columns: int | None = _photonic(
        whole(1),
        "columns of a mesh",
        metavar="L",
        default=None,
        default_in_words="as many as ports; recipe wide: 64",
        also=("num_columns",),
    )
    depth: int | None = _network(
        whole(1),
        "layers of a digital network, the last dense one included; blocks of a mixer",
        applies={"network": ("mlp", "cnn", "mixer")},
        default_in_words="mlp 4, cnn 3, mixer 3",
    )
    width: int | None = _network(
        whole(1),
        "outputs of an MLP's layers but the last",
        applies={"network": "mlp"},
        default=100,
        also=("hidden", "hidden_size", "neurons"),
    )
    scaling: str | None = _network(
        one_of(SCALINGS),
        "each layer's outputs to unit mean square in front of the next of an MLP, or as they are",
        applies={"network": "mlp"},
        default="unit",
        later=True,
        also=("layer_norm", "rescale"),
    )
    initialization: str | None = _network(
        one_of(INITIALIZATIONS),
        "first weights of an MLP: normal of variance 2 / inputs, or, with the biases, uniform "
        "within 1 / sqrt(inputs) of 0, as in PyTorch",
        applies={"network": "mlp"},
        default="he",
        later=True,
        also=("init", "initializer", "kernel_initializer"),
    )
    channels: int | None = _network(
        whole(1),
        "channels of a CNN's convolutions, or of a mixer's patches",
        applies={"network": ("cnn", "mixer")},
        default=16,
        default_in_words="cnn 16, mixer 256",
    )
    patches: int | None = _mixer(whole(1), "patches a side", metavar="P", default=4)
    head: str | None = _mixer(
        one_of(("prototypes", "linear")),
        "what judges a block: fixed prototypes, a set for every group, or logits, trained by "
        "their exact local gradient",
        default="linear",
    )
    losses: str | None = _mixer(
        one_of(("global", "block", "grouped")),
        "one loss (bp), one a block, or one a block, patch and group, each of which judges its "
        "own noise in the activations",
        default_in_words="grouped; linear head without perturbed activations: block; bp: global",
    )
    colour: str | None = _network(
        one_of(CHANNELS),
        "what the network sees of colours; rgb: three values a pixel",
        default=None,
        default_in_words="grey; mixer: as the images are",
        also=("color",),
    )
    kernel_size: int | None = _cnn(whole(1), "pixels a side of a CNN's kernels", default=6)
    groups: int = _network(
        whole(1),
        "groups of outputs a label, each with prototypes of its own",
        default=1,
        default_in_words="1; mixer 16",
    )
    nonlinearity: Any = _network(  # noqa: RUF009 - makes a field, which is not shared
        NONLINEARITY,
        f"between meshes: {listed(NONLINEARITIES)} (electro-optic also by its parts, with "
        "--unit-power: tap, responsivity in A/W, gain in ohm, v_pi and bias in V); "
        "table:FILE.csv, a measured element, with the header power,amplitude,phase (|E|^2, "
        "|f(E)|, rad); or module:function, a function of arrays, which differences (-dd) train. "
        f"Between digital layers: {', '.join(ACTIVATIONS)}. Repeat the flag for another one "
        "after each mesh but the last",
        applies=_HERE,
        default_in_words="electro-optic; mlp and cnn: gelu; mixer: relu",
        also=("activation", "nonlin"),
    )
    train_nonlinearity: bool | None = _photonic(
        SWITCH,
        "train the taps, gains and biases of electro-optic modulators, too, one a port",
        default=False,
    )
    amplifier: str | None = _photonic_here(
        values_of(Amplifier),
        "between meshes: a fixed power gain, or each image to a set total power, in units of "
        "|E|^2 (a port's brightest is 1)",
        metavar="gain=G|level=P",
        default="",
        also=("gain", "level"),
    )
    imperfections: str | None = _network(
        _IMPERFECTIONS,
        f"of the chip: {', '.join(f.name for f in fields(Imperfections))}; or those of a chip "
        f"that was published ({', '.join(PRESETS)}), with changes",
        applies=_PHOTONIC | {"device": "none"},
        default="",
        also=("noise", "errors", *(f.name for f in fields(Imperfections))),
    )
    chip: int | None = _photonic_here(
        whole(0, _MOST_SEED),
        "seed of the chip: which one it is",
        default=None,
        default_in_words="that of the run",
    )
    reads: int | None = _photonic(whole(1), "readings averaged into one", default=1)
    device: str | None = _photonic(
        _DEVICE,
        f"train on a device instead of simulating: {SIMULATED}:key=value,... with imperfections "
        f"that training cannot see, {SIMULATED}:NAME for those of a published chip, "
        "tcp://host:port, or module:factory for your own",
        default=None,
    )
    readout: str = _network(
        one_of(READOUTS),
        "cosine with prototypes, or the intensities of the first or the central ports, one a class",
    )
    prototypes: str | None = _goodness(
        one_of(PROTOTYPES), "as far apart as possible, or drawn independently", default="simplex"
    )
    detection: str | None = _goodness(
        one_of(DETECTIONS), "intensities as they are, or minus their mean over ports"
    )
    norm_size: int | None = _goodness(
        whole(0),
        "measured values that the cosine normalises together, 2 or more; 0: all of a group",
        default=0,
        default_in_words="0; recipe digital: 5; mixer: 0",
    )
    loss: str = _learning(spec_of(LOSSES), listed(LOSSES))
    rule: str | None = _network(one_of(RULES), "how the layers of ff decide together", applies=FF)
    estimator: str = _learning(
        one_of(ESTIMATORS),
        "slopes: of -dd by differences (central, forward; cones: central ones of the ports that a "
        "phase of a mesh reaches), from a model of the meshes that fits itself to their readings, "
        "corrected by differences (twin), or exact by forward-mode differentiation (jvp); of -ad "
        "by autodiff",
        default_in_words="central; recipe wide: cones; mixer: forward; -ad: autodiff",
    )
    perturb: str | None = _derivative(
        one_of(PERTURBATIONS),
        "where directions lie; activations: digital ff, and mixers",
        default_in_words="weights; mixer: activations",
    )
    law: str | None = _derivative(
        one_of(LAWS),
        f"law of the directions: {', '.join(LAWS)} (which follows the light in meshes)",
        metavar="NAME",
        also=("distribution",),
    )
    directions: int | None = _derivative(
        whole(0),
        "directions a step; 0: none, with estimator twin alone",
        metavar="K",
        also=("k", "num_directions"),
    )
    calibration: int | None = _twin(
        whole(0),
        "settings of the phases of each mesh, each read with one batch, from which the twin of a "
        "block learns before it is trained",
        default=0,
    )
    twin_nonlinearity: Any = _twin_of_device(  # noqa: RUF009
        KNOWN_NONLINEARITY,
        "what the twin takes for the nonlinearity of a device",
        default="electro-optic",
    )
    twin_amplifier: str | None = _twin_of_device(
        values_of(Amplifier),
        "what the twin takes for the amplifiers of a device",
        metavar="gain=G|level=P",
        default="",
    )
    epsilon: float | str | None = _learning(
        _EPSILON,
        "step of each parameter (of a phase: rad) or activation; for the unit laws, length of "
        "the whole step; auto: from a chip's noise, measured",
        unit="rad for phases",
        applies={"slopes": "differences"},
        also=("eps", "delta", "h"),
    )
    order: str | None = _learning(
        one_of(("sequential", "together")),
        "train layer after layer, each on the final outputs of the one before, or all on the "
        "same batches",
        applies={"network": ("mlp", "cnn", "mixer")} | FF,
        default=None,
        default_in_words="sequential; mixer: together",
    )
    optimizer: str = _learning(one_of(OPTIMIZERS), "how slopes become updates", also=("opt",))
    learning_rate: float = _learning(
        POSITIVE, "first rate, for the mean loss of a batch", also=("lr", "rate", "step_size")
    )
    weight_decay: float | None = _learning(
        NOT_NEGATIVE,
        "share of every parameter that a step takes away, for a learning rate of 1",
        applies={"network": ("mlp", "cnn", "mixer")},
        default=0.0,
        later=True,
        also=("decay", "l2", "wd"),
    )
    schedule: str = _learning(one_of(SCHEDULES), "how the learning rate goes on")
    batch_size: int = _learning(whole(1), "images a step", metavar="B", also=("bs", "batch"))
    epochs: int = _learning(
        whole(0),
        "epochs a block (mesh, layer); 0 trains nothing",
        also=("num_epochs", "iterations", "steps"),
    )
    seed: int = setting(
        whole(0, _MOST_SEED),
        "seed of everything random",
        "run",
        default=0,
        also=("random_seed", "random_state"),
    )
    workers: int | None = setting(
        whole(1),
        "processes that share the directions of a step, in shards of 8 with random numbers of "
        "their own: the figures are the same for any number of them, but not those without",
        group="run",
        metavar="N",
        applies=_PHOTONIC | DD | _IN_SHARDS,
        default=None,
        also=("num_workers", "n_workers", "processes"),
    )
    engine: str | None = _photonic_here(
        one_of(ENGINES),
        "mesh simulator; auto: xla where there is a GPU, else native",
        default="auto",
        also=("backend", "simulator"),
    )

    def __post_init__(self) -> None:
        keep_checked(self)
        check_scope(self, facts(vars(self)), describe(vars(self)))
        _ = self._elements
        check_rules(self)

    def __repr__(self) -> str:
        """The recipe, the method, and what does not follow from them."""
        values = {"recipe": self.recipe, "method": self.method} | changes(vars(self))
        return f"Config({', '.join(f'{name}={value!r}' for name, value in values.items())})"

    def _repr_html_(self) -> str:
        differs = {"recipe": self.recipe, "method": self.method} | changes(vars(self))
        every = {n: v for n in settings_of(Config) if (v := getattr(self, n)) is not None}
        rest = facts_html("all settings", every)
        folded = f"<details><summary>{len(every)} settings</summary>{rest}</details>"
        return facts_html("Config", differs, folded)

    @property
    def slopes(self) -> str | None:
        """What the estimator rests on: ``differences``, ``forward mode`` or ``reverse mode``."""
        return _slopes(self.estimator)

    @property
    def follows_network(self) -> bool:
        """Whether the law of the directions follows the network, see `Layered`."""
        return self.law is not None and renewal_of(self.law) is not None

    def nonlinearity_after(self, layer: int) -> Any:
        """The nonlinearity after a layer, counted from 0; None: the device's.

        That after the last is unused; it is the last one named.
        """
        elements = self._elements
        return elements[min(layer, len(elements) - 1)]

    @property
    def _elements(self) -> list[Any]:
        """The nonlinearities that are named: one for all layers, or one a stage."""
        if self.nonlinearity is None:
            return [None]
        registry = NONLINEARITIES if self.network == "photonic" else ACTIVATIONS
        return [built("nonlinearity", e, registry) for e in each(self.nonlinearity)]

    @property
    def has_function(self) -> bool:
        """Whether a nonlinearity is a function, which nobody can differentiate."""
        return any(map(is_function, each(self.nonlinearity)))

    @property
    def amplification(self) -> Amplifier | None:
        """The amplifier between meshes."""
        return amplifier_of("amplifier", self.amplifier)

    @property
    def twin_model(self) -> tuple[Nonlinearity, Amplifier | None]:
        """What a twin takes for a device's nonlinearities and amplifiers."""
        element = self.twin_nonlinearity or "linear"
        between = built("twin_nonlinearity", element, NONLINEARITIES)
        return between, amplifier_of("twin_amplifier", self.twin_amplifier)

    @property
    def chip_imperfections(self) -> Imperfections:
        """How far from ideal the chip is."""
        return imperfections_of("imperfections", self.imperfections or "")

    @property
    def simulates_device(self) -> bool:
        """Whether the device is a simulation in this process."""
        return device_kind(self.device) == SIMULATED

    @property
    def device_imperfections(self) -> Imperfections:
        """How far from ideal a simulated device is, which training must not look at."""
        return _device_imperfections(self.device or "")

    @property
    def trains(self) -> bool:
        """Whether anything is trained; else the network is tested as it is."""
        return self.epochs > 0

    @property
    def local(self) -> bool:
        """Whether every layer learns by its own loss (FF)."""
        return self.method.startswith("ff-")

    @property
    def takes_colours(self) -> bool:
        """Whether images in colour keep their colours."""
        return self.colour == "rgb" or (self.network == "mixer" and self.colour is None)

    @property
    def layers(self) -> int:
        """Layers of the network: its meshes, or its depth."""
        return self.meshes or self.depth or 0

    @property
    def stages(self) -> int:
        """How many times the epochs are gone through, one part of the network after another."""
        if not self.local or self.order == "together":
            return 1
        return self.layers + (self.head == "linear")

    @property
    def layer_name(self) -> str:
        """What a layer of the network is called."""
        return "mesh" if self.network == "photonic" else "layer"

    @property
    def idle(self) -> dict[str, str]:
        """Settings that would not change this run, each with the reason."""
        reasons: dict[str, str] = {}
        if self.layers == 1 and self.head != "linear":
            reasons["rule"] = "one layer decides alone"
        if self.layers == 1 and self.order is not None:
            reasons["order"] = "there is one layer"
        if self.layers == 1 and self.network != "mixer":
            reasons["nonlinearity"] = "it stands between layers, and there is one layer"
            for name in ("width", "scaling", "channels", "kernel_size"):
                reasons[name] = "it shapes the layers before the last, and there are none"
        chip, simulated_here = self.known_imperfections, self.device is None
        if simulated_here and not chip.noisy_readings:
            reasons["reads"] = "readings without noise are all alike"
        noisy_device = not simulated_here and (chip.noisy_readings or not chip.steady)
        if not (chip.fabricated or noisy_device):
            reasons["chip"] = "chips without random imperfections are all alike"
        if self.directions == 0:
            for name in ("law", "epsilon"):
                reasons[name] = "no directions are drawn"
        if self.estimator == "twin" and self.layers == 1:
            for name in ("twin_nonlinearity", "twin_amplifier"):
                reasons[name] = "it stands between meshes, and there is one mesh"
        return reasons

    @property
    def known_imperfections(self) -> Imperfections:
        """How far from ideal chip or device are, as far as this process can know."""
        return self.device_imperfections if self.simulates_device else self.chip_imperfections

    def moved_to(self, device: str) -> Config:
        """The same run on another device.

        Settings that the device decides are left out; those that the former device decided are as
        the recipe has them.
        """
        before = facts(vars(self))
        after = before | {"device": device_kind(device)}
        entries = settings_of(Config).items()
        left_out: dict[str, Any] = {n: None for n, e in entries if not matches(e.applies, after)}
        chosen = {n: v for n, v in vars(self).items() if v is not None and n not in left_out}
        filled = _filled(chosen | {"device": device})
        new = {n: filled[n] for n, e in entries if not matches(e.applies, before)}
        return replace(self, **(new | left_out | {"device": device}))

    def as_json(self) -> dict[str, Any]:
        """Every field; a function by its name, from which it cannot be restored."""
        content = {field.name: getattr(self, field.name) for field in fields(self)}
        return content | {name: as_json(content[name]) for name in ELEMENTS}


def facts(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values, the kind of device, and ``slopes``: what the estimator rests on."""
    derived = {"device": device_kind(values["device"]), "slopes": _slopes(values["estimator"])}
    return {**values, **derived}


# What an estimator rests on, by the mode in which it differentiates.
_SLOPES = {None: "differences", "forward": "forward mode", "reverse": "reverse mode"}


def _slopes(estimator: Any) -> str | None:
    """None for no known estimator."""
    if estimator not in tuple(ESTIMATORS):
        return None
    return _SLOPES[ESTIMATORS[estimator]().differentiates]


def describe(values: Mapping[str, Any]) -> str:
    """A run as errors name it."""
    device = f" on device {values['device']}" if values["device"] else ""
    return (
        f"{values['network']}{device} with method {values['method']}, estimator "
        f"{values['estimator']}, readout {values['readout']}"
    )


# --- from a recipe ----------------------------------------------------------------------------

_Function = TypeVar("_Function", bound=Callable[..., Any])


def with_settings(function: _Function) -> _Function:
    """Let the signature of a function that takes ``**settings`` list every setting by name."""
    signature, hints = inspect.signature(function), get_type_hints(Config)
    named = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
    listed = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=hint)
        for name, hint in ((name, hints[name] | None) for name in settings_of(Config))
        if name not in signature.parameters
    ]
    function.__signature__ = signature.replace(parameters=[*named, *listed])  # type: ignore
    return function


@with_settings
def configure(recipe: str = "balanced", method: str = "ff-dd", **settings: Any) -> Config:
    """Fill a configuration from a recipe; settings that are given take precedence.

    Args:
        recipe: ``balanced``, ``wide``, ``paper``, ``published`` (photonic) or ``digital``.
        method: ``ff-dd``, ``ff-ad``, ``bp-dd`` or ``bp-ad``.
        **settings: Fields of `Config`; None means as the recipe has it.

    Raises:
        TypeError: a name is no field of `Config`.
        ValueError: a value is out of range, or does not apply to the rest.
    """
    known = settings_of(Config)
    for name in settings.keys() - known.keys():
        raise TypeError(f"unknown setting {name}{closest(name, known, synonyms_of(Config))}")
    settings = {n: v for n, v in settings.items() if v is not None}
    settings |= {"recipe": recipe, "method": method}
    chosen = {n: known[n].kind.check(n, v) for n, v in settings.items()}
    return Config(**_filled(chosen))


def _filled(chosen: dict[str, Any]) -> dict[str, Any]:
    """Every setting: as it is chosen, else as ``recipe`` and ``method``, which are, have it."""
    known, values = settings_of(Config), defaults_of(Config)
    for conditions, row in (*RECIPES[chosen["recipe"]], *COMMON):
        if matches(conditions, facts(values | chosen)):
            values |= row
    met = facts(values | chosen)
    applicable = {n: v for n, v in values.items() if matches(known[n].applies, met)}
    return dict.fromkeys(known) | applicable | chosen


def changes(values: Mapping[str, Any]) -> dict[str, Any]:
    """Of a run's settings, those that do not follow from its recipe, its method and each other.

    ``configure(recipe, method, **changes(vars(config)))`` gives the configuration again.
    """
    chosen = {n: values[n] for n in settings_of(Config) if values.get(n) is not None}
    whole = _filled(chosen)
    for name in [n for n in chosen if n not in ("recipe", "method")]:
        fewer = {n: v for n, v in chosen.items() if n != name}
        if _filled(fewer) == whole:
            chosen = fewer
    return {n: v for n, v in chosen.items() if n not in ("recipe", "method")}


def device_name(device: Any) -> str:
    """What a configuration calls a device: the text that names it, or its class."""
    return device if isinstance(device, str) else f"{GIVEN_DEVICE}{type(device).__name__}"


def read_config(content: Mapping[str, Any], functions: Any = None) -> Config:
    """The configuration of a file, see `photonic_ffzero.elements.from_file` for its functions."""
    known = completed(Config, content)
    known["nonlinearity"] = from_file(known["nonlinearity"], functions)
    known["twin_nonlinearity"] = from_file(known["twin_nonlinearity"])
    return Config(**known)
