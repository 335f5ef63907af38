"""The recipes value by value, what a configuration refuses, and what is made from its fields."""

import inspect
import json
import re
from dataclasses import asdict
from itertools import product

import pytest

from photonic_ffzero import configure, fit
from photonic_ffzero.cli.train import build_parser
from photonic_ffzero.config import Config, facts
from photonic_ffzero.networks import NETWORKS
from photonic_ffzero.recipes import COMMON, METHODS, RECIPES, recipe_inputs
from photonic_ffzero.runs.plan import plan_for
from photonic_ffzero.settings import settings_of, settings_table

SETTINGS = settings_of(Config)

# What the papers fix; K, epochs and rates of our own recipes are free to improve.
FREE = {"balanced": {"directions", "learning_rate", "epochs"}}
FREE["digital"] = FREE["balanced"]
FREE["wide"] = FREE["balanced"]
NO_SLOPES = dict.fromkeys(("perturb", "law", "directions", "epsilon"))
AD = NO_SLOPES | {"estimator": "autodiff", "optimizer": "adam"}
DD = {"estimator": "central", "perturb": "weights", "optimizer": "sgd"}
PORTS = {"readout": "ports", "rule": None, "loss": "cross-entropy:scale=1"}
PORTS |= dict.fromkeys(("detection", "norm_size"))
PAPER = {"batch_size": 128, "epochs": 100, "schedule": "constant", "learning_rate": 1e-3}
PAPER_DD = DD | {"directions": 1, "epsilon": 1e-3}
PAPER_FF = {"readout": "goodness", "detection": "raw", "norm_size": 0, "rule": "vote"}
BALANCED = {"batch_size": 128, "schedule": "cosine", "readout": "goodness", "norm_size": 0}
BALANCED |= {"detection": "balanced", "loss": "cross-entropy:scale=10"}
BALANCED_DD = DD | {"law": "rademacher", "epsilon": 1e-2}
DIGITAL = {"batch_size": 256, "schedule": "cosine"}
DIGITAL_DD = DD | {"law": "rademacher", "epsilon": 1e-3}
DIGITAL_FF = {"readout": "goodness", "detection": "raw", "norm_size": 5, "rule": "sum"}
DIGITAL_FF |= {"loss": "cross-entropy:scale=20"}

TABLE = {
    ("balanced", "ff-dd"): BALANCED | BALANCED_DD | {"rule": "sum"},
    ("balanced", "ff-ad"): BALANCED | AD | {"rule": "sum"},
    ("balanced", "bp-dd"): BALANCED | BALANCED_DD | {"rule": None},
    ("balanced", "bp-ad"): BALANCED | AD | {"rule": None},
    ("wide", "ff-ad"): BALANCED | AD | {"rule": "sum"},
    ("wide", "bp-ad"): BALANCED | AD | {"rule": None},
    ("digital", "ff-dd"): DIGITAL | DIGITAL_DD | DIGITAL_FF,
    ("digital", "ff-ad"): DIGITAL | AD | DIGITAL_FF,
    ("digital", "bp-dd"): DIGITAL | DIGITAL_DD | PORTS,
    ("digital", "bp-ad"): DIGITAL | AD | PORTS,
}
for recipe, law, loss in [
    ("paper", "gaussian-unit", "margin:margin=0.3"),
    ("published", "gaussian-unit-each", "cosine"),
]:
    TABLE[recipe, "ff-dd"] = PAPER | PAPER_DD | PAPER_FF | {"law": law, "loss": loss}
    TABLE[recipe, "ff-ad"] = PAPER | AD | PAPER_FF | {"loss": loss}
    TABLE[recipe, "bp-dd"] = PAPER | PAPER_DD | PORTS | {"law": law}
    TABLE[recipe, "bp-ad"] = PAPER | AD | PORTS

CONES = {"estimator": "cones", "optimizer": "adam"}
WIDE = {"columns": 64, "loss": "cross-entropy:scale=40"}
for method in ("ff-dd", "bp-dd"):
    TABLE["wide", method] = TABLE["balanced", method]

ALL = {"task": "classification", "groups": 1, "seed": 0}
CHIP = {"train_nonlinearity": False, "amplifier": "", "imperfections": "", "reads": 1}
NETWORK = {
    "photonic": CHIP | {"meshes": 2, "nonlinearity": "electro-optic", "engine": "auto"},
    "mlp": {
        "depth": 4,
        "width": 100,
        "scaling": "unit",
        "initialization": "he",
        "nonlinearity": "gelu",
    },
    "cnn": {"depth": 3, "channels": 16, "kernel_size": 6, "nonlinearity": "gelu"},
}
for name in ("mlp", "cnn"):
    NETWORK[name]["weight_decay"] = 0.0
NONE = dict.fromkeys([*(name for own in NETWORK.values() for name in own)])
NONE |= dict.fromkeys(("columns", "chip", "device", "workers"))
NONE |= dict.fromkeys(("patches", "head", "losses", "order", "colour", "weight_decay"))
NONE |= dict.fromkeys(("calibration", "twin_nonlinearity", "twin_amplifier"))

MIXER = {"patches": 4, "channels": 256, "groups": 16, "depth": 3, "nonlinearity": "relu"}
MIXER |= {"head": "linear", "order": "together", "optimizer": "momentum", "schedule": "cosine"}
MIXER |= {"batch_size": 128, "learning_rate": 0.5, "loss": "cross-entropy:scale=1"}
MIXER |= {"readout": "ports", "detection": None, "rule": "last"}
MIXER_DD = {"estimator": "forward", "directions": 1, "epsilon": 1e-2, "perturb": "activations"}


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("method", METHODS)
def test_meshes_learn_numbers_from_their_goodness(recipe, method):
    config = configure(recipe, method, network="photonic", task="regression")
    assert (config.readout, config.rule or "last") == ("goodness", "last")


@pytest.mark.parametrize("recipe", ["balanced", "wide"])
def test_a_twin_alone_takes_one_reading_a_step(recipe):
    assert configure(recipe, estimator="twin").directions == 0


@pytest.mark.parametrize(
    ("method", "settings", "expected"),
    [
        ("ff-dd", {}, MIXER_DD | {"losses": "grouped"}),
        ("ff-dd", {"perturb": "weights"}, {"directions": 32, "losses": "block"}),
        ("ff-dd", {"head": "prototypes"}, {"readout": "goodness", "learning_rate": 0.5}),
        ("ff-ad", {}, {"estimator": "autodiff", "losses": "block"}),
        ("ff-ad", {"head": "prototypes"}, {"losses": "grouped", "detection": "balanced"}),
        ("bp-dd", {}, MIXER_DD | {"losses": "global", "rule": None, "order": None}),
        ("bp-ad", {"head": "prototypes"}, {"losses": "global", "rule": None, "order": None}),
    ],
)
def test_the_recipe_of_mixers(method, settings, expected):
    values = vars(configure("digital", method, network="mixer", **settings))
    of_both = settings or MIXER
    assert {name: values[name] for name in of_both | expected} == of_both | expected


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("network", [None, "photonic", "mlp", "cnn"])
def test_every_value_of_every_recipe(recipe, method, network):
    """A recipe's own network, or any other with the same learning."""
    kind = network or {"digital": "mlp"}.get(recipe, "photonic")
    expected = ALL | NONE | NETWORK[kind] | TABLE[recipe, method]
    expected |= {"recipe": recipe, "method": method, "network": kind}
    if (recipe, kind, method[:2]) == ("digital", "cnn", "ff"):
        expected["rule"] = "last"  # of several layers, only the last sees the whole image
    if (recipe, kind) == ("wide", "photonic"):
        expected |= WIDE | (CONES if method.endswith("dd") else {})
    expected["prototypes"] = None if expected["readout"] == "ports" else "simplex"
    values = asdict(configure(recipe, method, network=network))
    assert {name: values[name] for name in expected} == expected
    assert values.keys() - expected.keys() <= FREE.get(recipe, set())


@pytest.mark.parametrize("method", METHODS)
def test_a_regression_changes_the_loss_who_decides_and_the_steps(method):
    classes = configure("digital", method)
    expected = {"task": "regression", "loss": "squared"}
    expected |= {"rule": "last"} if classes.local else {}
    steps = {"ff-dd": {"directions": 16, "learning_rate": 0.5}, "bp-dd": {"learning_rate": 0.003}}
    expected |= steps.get(method, {})
    assert asdict(configure("digital", method, task="regression")) == asdict(classes) | expected


def test_slopes_among_activations_are_good_enough_for_adam():
    mlp = configure("digital", perturb="activations")
    assert (mlp.directions, mlp.optimizer, mlp.learning_rate) == (16, "adam", 0.01)
    cnn = configure("digital", perturb="activations", network="cnn")
    assert (cnn.directions, cnn.optimizer, cnn.batch_size, cnn.rule) == (8, "adam", 128, "last")


@pytest.mark.parametrize(
    ("recipe", "settings", "engine"), [("digital", {}, None), ("balanced", {"meshes": 3}, "xla")]
)
def test_exact_slopes_have_no_step_and_need_an_engine_with_a_forward_mode(recipe, settings, engine):
    config = configure(recipe, estimator="jvp", **settings)
    assert (config.epsilon, config.engine) == (None, engine)
    with pytest.raises(ValueError, match=r"^epsilon does not apply to .*, estimator jvp, "):
        configure(recipe, estimator="jvp", epsilon=1e-3, **settings)


@pytest.mark.parametrize(
    ("recipe", "readout", "expected"),
    [
        ("paper", "goodness", ("raw", "margin:margin=0.3")),
        ("balanced", "ports", (None, "cross-entropy:scale=1")),
        ("balanced", "central-ports", (None, "cross-entropy:scale=1")),
    ],
)
def test_another_readout_brings_the_loss_and_detection_that_fit_it(recipe, readout, expected):
    config = configure(recipe, "bp-ad", readout=readout)
    assert (config.detection, config.loss) == expected


def test_the_inputs_of_the_recipes():
    assert recipe_inputs("balanced", "photonic") == {"encoding": "average", "size": 8}
    assert recipe_inputs("digital", "mlp") == {"encoding": "average", "size": None}  # all pixels
    assert recipe_inputs("wide", "photonic") == {"encoding": "crop", "size": 28}
    for recipe in ("paper", "published"):
        assert recipe_inputs(recipe, "photonic") == {"encoding": "crop", "size": 8}


def test_bins_are_as_many_as_the_ports_of_the_recipe():
    assert plan_for("mnist", configure(), encoding="fourier-bins").size == 64
    assert plan_for("mnist", configure(), encoding="fourier-bins", size=16).size == 16
    assert plan_for("mnist", configure()).size == 8


def test_every_row_of_every_recipe_is_met_by_some_run():
    """A row with a misspelt condition would never be heard of."""
    runs = [facts(vars(configure(law="layered")))]
    for method, network, task, perturb, estimator, head in product(
        METHODS,
        NETWORKS,
        ("classification", "regression"),
        (None, "activations", "weights"),
        (None, "jvp", "cones", "twin"),
        (None, "prototypes"),
    ):
        try:
            run = {"network": network, "task": task, "perturb": perturb, "estimator": estimator}
            run |= {"head": head}
            runs.append(facts(vars(configure("digital", method, **run))))
        except ValueError:
            continue
    for conditions, values in [*COMMON, *(row for rows in RECIPES.values() for row in rows)]:
        assert values.keys() <= SETTINGS.keys()
        met = [
            all(run[k] in (v if isinstance(v, tuple) else (v,)) for k, v in conditions.items())
            for run in runs
        ]
        assert any(met), conditions


def test_none_means_as_the_recipe_has_it():
    everything = dict.fromkeys(SETTINGS.keys() - {"recipe", "method"})
    assert configure("paper", "bp-dd", **everything) == configure("paper", "bp-dd")
    assert configure() == configure("balanced", "ff-dd")


@pytest.mark.parametrize(
    ("network", "method", "settings"),
    [
        ("photonic", "ff-ad", {"directions": 4}),
        ("photonic", "ff-ad", {"epsilon": 1e-2}),
        ("photonic", "bp-ad", {"law": "gaussian"}),
        ("photonic", "bp-dd", {"rule": "sum"}),
        ("photonic", "bp-ad", {"readout": "ports", "detection": "raw"}),
        ("photonic", "ff-dd", {"readout": "ports", "norm_size": 4}),
        ("photonic", "bp-ad", {"readout": "ports", "prototypes": "random"}),
        ("photonic", "ff-dd", {"depth": 2}),
        ("photonic", "ff-dd", {"kernel_size": 3}),
        ("mlp", "ff-dd", {"meshes": 2}),
        ("mlp", "ff-dd", {"engine": "xla"}),
        ("mlp", "ff-dd", {"channels": 4}),
        ("mlp", "ff-ad", {"perturb": "weights"}),
        ("cnn", "ff-dd", {"width": 10}),
    ],
)
def test_what_does_not_apply_is_refused_with_where_it_does(network, method, settings):
    *_, name = settings
    message = f"^{name} does not apply to {network} with method {method}.*; it needs "
    with pytest.raises(ValueError, match=message):
        configure("balanced", method, network=network, **settings)


BOX = {"nonlinearity": abs}
COARSE = {"network": "photonic", "device": "simulated:drive_bits=6"}
MODULATED = {"network": "photonic", "train_nonlinearity": True}


@pytest.mark.parametrize(
    ("method", "settings", "message"),
    [
        ("ff-dd", {"perturb": "activations", "network": "photonic"}, "perturb must be weights for"),
        ("bp-dd", {"perturb": "activations"}, "perturb must be weights for bp"),
        ("ff-dd", {"estimator": "jvp", "network": "photonic", "engine": "auto"}, "engine must be"),
        ("ff-ad", {"estimator": "central"}, "estimator central does not fit method ff-ad"),
        ("bp-dd", {"estimator": "autodiff"}, "estimator autodiff does not fit method bp-dd"),
        ("bp-ad", BOX, "nonlinearity is a black box, which estimator autodiff"),
        ("bp-dd", BOX | {"estimator": "jvp"}, "nonlinearity is a black box"),
        ("ff-dd", {"loss": "squared"}, "loss squared does not fit the task classification"),
        ("ff-dd", {"task": "regression", "loss": "cosine"}, "loss cosine does not fit the task"),
        ("ff-dd", {"task": "regression", "rule": "sum"}, "rule must be last for a regression"),
        ("ff-dd", MODULATED | {"nonlinearity": "kerr"}, "train_nonlinearity needs .* got kerr"),
        ("ff-dd", MODULATED | BOX, "train_nonlinearity needs .* got <built-in"),
        ("ff-dd", MODULATED | {"meshes": 1}, "train_nonlinearity needs two meshes .* got 1"),
        ("bp-dd", {"groups": 2}, "groups must be 1 for readout ports"),
        (
            "bp-ad",
            {"network": "photonic", "task": "regression", "readout": "ports"},
            "readout must be goodness for a regression of meshes",
        ),
        ("ff-dd", {"norm_size": 1}, "norm_size must be 0 or at least 2"),
        ("ff-dd", COARSE, "epsilon must be at least one step of the drive, .* rad"),
        ("ff-dd", COARSE | {"law": "gaussian-unit"}, "law must give every phase its own step"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_trained(method, settings, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        configure("digital", method, **settings)


TESTED_ONLY = [
    ("ff-dd", {"imperfections": "drive_bits=8"}),
    ("ff-dd", {"imperfections": "drive_bits=8", "law": "gaussian-unit"}),
    ("ff-dd", {"device": "simulated:drive_bits=6"}),
    ("ff-ad", {"imperfections": "drive_bits=8"}),
    ("bp-ad", {"imperfections": "adc_bits=6"}),
    ("bp-ad", {"device": "simulated"}),
    ("bp-ad", BOX),
    ("ff-dd", {"estimator": "jvp", "engine": "auto"}),
    ("ff-dd", {"task": "regression", "loss": "cosine"}),
    ("ff-dd", {"epsilon": "auto", "law": "gaussian-unit"}),
]


@pytest.mark.parametrize(("method", "settings"), TESTED_ONLY, ids=str)
def test_what_only_training_needs_is_not_asked_of_a_test(method, settings):
    assert not configure("balanced", method, epochs=0, **settings).trains
    with pytest.raises(ValueError):
        configure("balanced", method, epochs=1, **settings)


@pytest.mark.parametrize(
    "settings",
    [MODULATED | {"meshes": 1}, {"norm_size": 1}, {"amplifier": "gain=2", "meshes": 1}],
    ids=str,
)
def test_what_every_network_needs_is_asked_of_a_test_too(settings):
    with pytest.raises(ValueError):
        configure(epochs=0, **settings)


@pytest.mark.parametrize("method", ["ff-dd", "ff-ad", "bp-dd"])
def test_a_black_box_is_welcome_where_nothing_differentiates_it(method):
    assert configure("digital", method, nonlinearity=abs).nonlinearity is abs


def test_a_configuration_is_written_down_with_the_name_of_its_black_box():
    """Whatever the box is: an instrument can be neither copied nor turned into text."""

    class Instrument:
        def __call__(self, fields):
            return fields

        def __deepcopy__(self, memo):
            raise TypeError("there is but one")

    assert configure("digital", nonlinearity=abs).as_json()["nonlinearity"] == "black box abs"
    content = configure("digital", nonlinearity=Instrument()).as_json()
    assert content["nonlinearity"].startswith("black box ")
    json.dumps(content)


@pytest.mark.parametrize("name", [n for n, s in SETTINGS.items() if s.kind.options] + ["loss"])
def test_unknown_names_are_refused_with_the_known_ones(name):
    with pytest.raises(ValueError, match=rf"^{name} must be one of .+; got 'unheard-of'$"):
        configure(**{name: "unheard-of"})


@pytest.mark.parametrize(
    ("settings", "error", "meant"),
    [
        ({"network": "photonics"}, ValueError, "photonic"),
        ({"loss": "cross-entrpy:scale=2"}, ValueError, "cross-entropy"),
        ({"loss": "margin:margn=1"}, ValueError, "margin"),
        ({"imperfections": "phase_ofset=0.1"}, ValueError, "phase_offset"),
        ({"learning_rat": 0.1}, TypeError, "learning_rate"),
    ],
)
def test_misspelt_names_are_answered_with_the_likely_one(settings, error, meant):
    with pytest.raises(error, match=f", did you mean {meant}\\?$"):
        configure(**settings)


OF_NETWORK = {"depth": "mlp", "width": "mlp", "channels": "cnn", "kernel_size": "cnn"}
COUNTS = dict.fromkeys(("meshes", "columns", "reads", "batch_size", "groups"), 1)
COUNTS |= dict.fromkeys(OF_NETWORK, 1) | dict.fromkeys(("seed", "chip", "epochs", "norm_size"), 0)


@pytest.mark.parametrize(("name", "minimum"), COUNTS.items())
def test_counts_are_whole_numbers_from_a_minimum(name, minimum):
    network = OF_NETWORK.get(name)
    assert getattr(configure(network=network, **{name: minimum}), name) == minimum
    with pytest.raises(ValueError, match=f"^{name} must be at least {minimum}, got -1$"):
        configure(network=network, **{name: -1})
    for value in (1.0, "1", True):
        with pytest.raises(TypeError, match=f"^{name} must be a whole number, got {value!r}$"):
            configure(network=network, **{name: value})


@pytest.mark.parametrize(
    ("name", "positive"), [("learning_rate", "greater than 0"), ("epsilon", "at least 1e-30")]
)
def test_rates_and_steps_are_positive_finite_numbers(name, positive):
    for value, rule in [(0, positive), (-1.0, positive), (float("nan"), "finite")]:
        with pytest.raises(ValueError, match=f"^{name} must be {rule}, got {value!r}$"):
            configure(**{name: value})
    for value in (True, [1.0], "0.1"):  # a number in quotes would break only in training
        with pytest.raises(TypeError, match=f"^{name} must be a number, got "):
            configure(**{name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("loss", "margin:depth=1"),
        ("nonlinearity", "electro-optic:depth=1"),
        ("loss", 3),
        ("nonlinearity", 3),
        ("device", 3),
        ("amplifier", 3),
        ("train_nonlinearity", 1),
    ],
)
def test_texts_are_checked_to_the_end(name, value):
    with pytest.raises((TypeError, ValueError), match=f"^{name}"):
        configure(**{name: value})


@pytest.mark.parametrize("function", [configure, fit])
def test_signatures_list_every_setting_with_its_type(function):
    parameters = inspect.signature(function).parameters
    assert SETTINGS.keys() <= parameters.keys()
    assert parameters["directions"].annotation == int | None
    assert not any(p.kind is p.VAR_KEYWORD for p in parameters.values())


def test_every_setting_is_in_the_table_and_on_the_command_line():
    table, flags = settings_table(Config), build_parser().flags
    assert len(table.splitlines()) == 2 + len(SETTINGS)
    for name, entry in SETTINGS.items():
        (row,) = (line for line in table.splitlines() if line.startswith(f"| `{name}` |"))
        assert all(option in row for option in entry.kind.options)
        assert f"--{name.replace('_', '-')}" in flags


def _is_of(phrase, recipe, network):
    """Whether a phrase names this recipe and this network, or none."""
    words = {*re.findall(r"[\w-]+", phrase)}
    networks, recipes = words & {*NETWORKS}, words & {*RECIPES}
    return (not networks or network in networks) and (not recipes or recipe in recipes)


@pytest.mark.parametrize(("recipe", "method", "network"), product(RECIPES, METHODS, NETWORKS))
def test_defaults_in_words_have_the_values_of_the_recipes(recipe, method, network):
    config = configure(recipe, method, network=network)
    for name, entry in SETTINGS.items():
        value = getattr(config, name)
        phrases = re.split("[;,] ", entry.default_in_words)
        mine = [phrase for phrase in phrases if _is_of(phrase, recipe, network)]
        if entry.default_in_words and value is not None:
            assert str(value) in re.findall(r"[\w-]+", " ".join(mine)), name


def test_a_device_takes_over_what_it_decides():
    config = configure(nonlinearity="kerr", chip=3)
    moved = config.moved_to("tcp://localhost:5025")
    assert (moved.device, moved.reads) == ("tcp://localhost:5025", 1)
    assert {moved.nonlinearity, moved.chip, moved.engine, moved.imperfections} == {None}
    assert config.moved_to("simulated").nonlinearity == "kerr"
