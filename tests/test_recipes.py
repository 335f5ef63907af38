"""The recipes, value by value, and what a configuration refuses."""

import json
import re
from dataclasses import FrozenInstanceError, asdict, fields
from itertools import product

import pytest

from photonic_ffzero.config import METHODS, NETWORKS, Config, configure
from photonic_ffzero.data.tasks import TASKS
from photonic_ffzero.goodness.decisions import RULES
from photonic_ffzero.goodness.prototypes import PROTOTYPES
from photonic_ffzero.goodness.readouts import READOUTS
from photonic_ffzero.gradients.estimators import ESTIMATORS
from photonic_ffzero.gradients.objectives import PERTURBATIONS
from photonic_ffzero.recipes import PARTS, RECIPES

# What all recipes share in each half of a method.
AD = dict.fromkeys(("perturb", "law", "directions", "epsilon")) | {"estimator": "autodiff"}
DD = {"estimator": "central", "perturb": "weights"}
PUBLISHED_DD = DD | {
    "directions": 1,
    "epsilon": 1e-3,
    "optimizer": "sgd",
    "learning_rate": 1e-3,
}
PUBLISHED_AD = AD | {"optimizer": "adam", "learning_rate": 1e-3}
PUBLISHED = {"batch_size": 128, "epochs": 100, "schedule": "constant"}
PUBLISHED_FF = {"readout": "goodness", "detection": "raw", "norm_size": 0, "rule": "vote"}
PORTS = {"readout": "ports", "rule": None, "loss": "cross-entropy:scale=1"}
PORTS |= dict.fromkeys(("detection", "norm_size"))

# What the method's description fixes; K, epochs and rate of our own recipes are free to improve.
FREE = {"balanced", "digital"}
BALANCED = {
    "batch_size": 128,
    "schedule": "cosine",
    "readout": "goodness",
    "detection": "balanced",
    "norm_size": 0,
    "loss": "cross-entropy:scale=10",
}
BALANCED_DD = DD | {"law": "rademacher", "epsilon": 1e-2, "optimizer": "sgd"}
BALANCED_AD = AD | {"optimizer": "adam"}
DIGITAL = {"batch_size": 256, "schedule": "cosine"}
DIGITAL_DD = DD | {"law": "rademacher", "epsilon": 1e-3, "optimizer": "sgd"}
DIGITAL_AD = AD | {"optimizer": "adam"}
DIGITAL_FF = {
    "readout": "goodness",
    "detection": "raw",
    "norm_size": 5,
    "loss": "cross-entropy:scale=20",
    "rule": "sum",
}

TABLE = {
    ("balanced", "ff-dd"): BALANCED | BALANCED_DD | {"rule": "sum"},
    ("balanced", "ff-ad"): BALANCED | BALANCED_AD | {"rule": "sum"},
    ("balanced", "bp-dd"): BALANCED | BALANCED_DD | {"rule": None},
    ("balanced", "bp-ad"): BALANCED | BALANCED_AD | {"rule": None},
    ("digital", "ff-dd"): DIGITAL | DIGITAL_DD | DIGITAL_FF,
    ("digital", "ff-ad"): DIGITAL | DIGITAL_AD | DIGITAL_FF,
    ("digital", "bp-dd"): DIGITAL | DIGITAL_DD | PORTS,
    ("digital", "bp-ad"): DIGITAL | DIGITAL_AD | PORTS,
}
for recipe, law, loss in [
    ("paper", "gaussian-unit", "margin:margin=0.3"),
    ("published", "gaussian-unit-each", "cosine"),
]:
    TABLE[recipe, "ff-dd"] = PUBLISHED | PUBLISHED_DD | PUBLISHED_FF | {"law": law, "loss": loss}
    TABLE[recipe, "ff-ad"] = PUBLISHED | PUBLISHED_AD | PUBLISHED_FF | {"loss": loss}
    TABLE[recipe, "bp-dd"] = PUBLISHED | PUBLISHED_DD | PORTS | {"law": law}
    TABLE[recipe, "bp-ad"] = PUBLISHED | PUBLISHED_AD | PORTS
# What a network has, and what it has not.
NONE = dict.fromkeys(
    (
        *("meshes", "columns", "train_nonlinearity", "amplifier", "imperfections", "chip"),
        *("reads", "device", "engine"),
        *("depth", "width", "channels", "kernel_size"),
    ),
    None,
)
NETWORK = {
    "photonic": {
        "meshes": 2,
        "nonlinearity": "electro-optic",
        "train_nonlinearity": False,
        "amplifier": "",
        "imperfections": "",
        "reads": 1,
        "engine": "auto",
    },
    "mlp": {"depth": 4, "width": 100, "nonlinearity": "gelu"},
    "cnn": {"depth": 3, "channels": 16, "kernel_size": 6, "nonlinearity": "gelu"},
}
COMMON = {"task": "classification", "groups": 1, "seed": 0}
# What a network has of its own in a recipe: a CNN's last layer decides, where there are several.
OWN = {("digital", "cnn", method): {"rule": "last"} for method in ("ff-dd", "ff-ad")}


def test_every_network_has_its_settings_here():
    assert tuple(NETWORK) == NETWORKS


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("network", [None, *NETWORKS])
def test_every_value_of_every_recipe(recipe, method, network):
    """A recipe's own network, or any other with the same learning."""
    own = network or {"digital": "mlp"}.get(recipe, "photonic")
    expected = COMMON | NONE | NETWORK[own] | TABLE[recipe, method]
    expected |= {"recipe": recipe, "method": method, "network": own}
    expected |= OWN.get((recipe, own, method), {})
    expected["prototypes"] = None if expected["readout"] == "ports" else "simplex"
    found = asdict(configure(recipe, method, network=network))
    free = {"directions", "learning_rate", "epochs"} if recipe in FREE else set()
    assert {name: found[name] for name in expected} == expected
    assert found.keys() - expected.keys() <= free
    assert configure(recipe, method).local == method.startswith("ff")


@pytest.mark.parametrize("method", METHODS)
def test_a_regression_changes_the_loss_who_decides_and_the_steps(method):
    classes = configure("digital", method)
    expected = {"task": "regression", "loss": "squared"}
    expected |= {"rule": "last"} if classes.local else {}
    steps = {"ff-dd": {"directions": 16, "learning_rate": 0.5}, "bp-dd": {"learning_rate": 0.003}}
    expected |= steps.get(method, {})
    assert asdict(configure("digital", method, task="regression")) == asdict(classes) | expected


@pytest.mark.parametrize(
    ("recipe", "given", "engine"), [("digital", {}, None), ("balanced", {"meshes": 3}, "xla")]
)
def test_exact_slopes_have_no_step_and_need_an_engine_with_a_forward_mode(recipe, given, engine):
    found = configure(recipe, estimator="jvp", **given)
    assert (found.epsilon, found.engine) == (None, engine)
    with pytest.raises(ValueError, match=r"^epsilon does not apply to .*, estimator jvp, "):
        configure(recipe, estimator="jvp", epsilon=1e-3, **given)


def test_the_inputs_of_the_recipes():
    assert RECIPES["balanced"]["input"] == {"encoding": "average", "size": 8}
    assert RECIPES["digital"]["input"] == {"encoding": "average", "size": None}  # all pixels
    for recipe in ("paper", "published"):
        assert RECIPES[recipe]["input"]["encoding"] == "crop"


def test_every_part_of_every_recipe_belongs_to_some_run():
    """A part under a name that no run asks for would never be heard of."""
    options = {
        **{"method": METHODS, "network": NETWORKS, "task": TASKS, "readout": READOUTS},
        **{"grouping": ("ff", "bp"), "derivative": ("dd", "ad"), "perturb": PERTURBATIONS},
        "slopes": ("differences", "forward-mode", "reverse-mode"),
    }
    every = [dict(zip(options, values, strict=True)) for values in product(*options.values())]
    names = {part.format_map(choices) for part in PARTS for choices in every}
    for parts in RECIPES.values():
        assert parts.keys() <= names | {"input"}


def test_slopes_among_activations_are_good_enough_for_adam():
    found = configure("digital", perturb="activations")
    assert (found.directions, found.optimizer, found.learning_rate) == (16, "adam", 0.01)
    found = configure("digital", perturb="activations", network="cnn")
    assert (found.directions, found.optimizer, found.batch_size) == (8, "adam", 128)
    assert found.rule == "last"


def test_balanced_ff_dd_is_the_default():
    assert configure() == configure("balanced", "ff-dd")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("meshes", 3),
        ("columns", 5),
        ("nonlinearity", "electro-optic:phi_b=1.5"),
        ("prototypes", "random"),
        ("detection", "raw"),
        ("norm_size", 16),
        ("loss", "margin:margin=0.5"),
        ("rule", "vote"),
        ("estimator", "forward"),
        ("law", "orthonormal"),
        ("directions", 3),
        ("epsilon", 5e-3),
        ("optimizer", "momentum"),
        ("learning_rate", 0.5),
        ("schedule", "constant"),
        ("batch_size", 7),
        ("epochs", 2),
        ("seed", 9),
        ("engine", "xla"),
        ("train_nonlinearity", True),
        ("amplifier", "level=3"),
    ],
)
def test_every_setting_can_be_set_alone(name, value):
    before, after = asdict(configure()), asdict(configure(**{name: value}))
    assert after == before | {name: value}
    assert before[name] != value


@pytest.mark.parametrize(
    ("network", "name", "value"),
    [
        ("mlp", "depth", 2),
        ("mlp", "width", 7),
        ("mlp", "groups", 5),
        ("mlp", "nonlinearity", "tanh"),
        ("cnn", "depth", 2),
        ("cnn", "channels", 4),
        ("cnn", "kernel_size", 3),
        ("cnn", "seed", 9),
    ],
)
def test_every_setting_of_a_digital_network_too(network, name, value):
    given = {"recipe": "digital", "network": network}
    before, after = asdict(configure(**given)), asdict(configure(**given, **{name: value}))
    assert after == before | {name: value}
    assert before[name] != value


def test_none_means_as_the_recipe_has_it():
    everything = dict.fromkeys(f.name for f in fields(Config) if f.name not in ("recipe", "method"))
    assert configure("paper", "bp-dd", **everything) == configure("paper", "bp-dd")


@pytest.mark.parametrize(("recipe", "readout"), [("paper", "goodness"), ("balanced", "ports")])
def test_another_readout_brings_the_loss_and_detection_that_fit_it(recipe, readout):
    found = configure(recipe, "bp-ad", readout=readout)
    if readout == "ports":
        assert (found.detection, found.loss) == (None, "cross-entropy:scale=1")
    else:
        assert (found.detection, found.loss) == ("raw", "margin:margin=0.3")


@pytest.mark.parametrize(
    ("method", "given"),
    [
        ("ff-ad", {"directions": 4}),
        ("ff-ad", {"epsilon": 1e-2}),
        ("bp-ad", {"law": "gaussian"}),
        ("bp-dd", {"rule": "sum"}),
        ("bp-ad", {"rule": "vote"}),
        ("bp-ad", {"readout": "ports", "detection": "raw"}),
        ("ff-dd", {"readout": "ports", "detection": "balanced"}),
        ("bp-ad", {"readout": "ports", "prototypes": "random"}),
        ("bp-ad", {"readout": "ports", "norm_size": 4}),
    ],
)
def test_what_does_not_apply_is_refused(method, given):
    *_, name = given
    with pytest.raises(
        ValueError, match=f"^{name} does not apply to photonic with method {method}"
    ):
        configure(method=method, **given)


@pytest.mark.parametrize(
    ("network", "given"),
    [
        ("mlp", {"meshes": 2}),
        ("mlp", {"columns": 4}),
        ("mlp", {"engine": "xla"}),
        ("mlp", {"channels": 4}),
        ("cnn", {"width": 10}),
        ("photonic", {"depth": 2}),
        ("photonic", {"kernel_size": 3}),
    ],
)
def test_what_another_network_has_is_refused(network, given):
    (name,) = given
    with pytest.raises(ValueError, match=f"^{name} does not apply to {network} with method ff-dd"):
        configure("digital", network=network, **given)


@pytest.mark.parametrize(
    ("method", "given", "message"),
    [
        ("ff-dd", {"perturb": "activations", "network": "photonic"}, "perturb must be weights for"),
        ("bp-dd", {"perturb": "activations"}, "perturb must be weights for bp"),
        ("ff-ad", {"perturb": "weights"}, "perturb does not apply to mlp with method ff-ad"),
        ("ff-dd", {"estimator": "jvp", "network": "photonic", "engine": "auto"}, "engine must be"),
        ("bp-ad", {"nonlinearity": abs}, "nonlinearity is a black box, which estimator autodiff"),
        ("bp-dd", {"nonlinearity": abs, "estimator": "jvp"}, "nonlinearity is a black box"),
        ("ff-dd", {"loss": "squared"}, "loss squared does not fit the task classification"),
        ("ff-dd", {"task": "regression", "loss": "cosine"}, "loss cosine does not fit the task"),
        ("ff-dd", {"task": "regression", "rule": "sum"}, "rule must be last for a regression"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_trained(method, given, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        configure("digital", method, **given)


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
    found = configure("digital", nonlinearity=Instrument()).as_json()
    assert found["nonlinearity"].startswith("black box ")
    json.dumps(found)


@pytest.mark.parametrize(
    ("method", "estimator"),
    [("ff-ad", "central"), ("bp-ad", "forward"), ("ff-dd", "autodiff"), ("bp-dd", "autodiff")],
)
def test_estimators_of_the_other_kind_are_refused(method, estimator):
    with pytest.raises(ValueError, match=f"^estimator {estimator} does not fit method {method}"):
        configure(method=method, estimator=estimator)


@pytest.mark.parametrize(
    "name",
    [
        *["recipe", "method", "task", "network", "nonlinearity", "readout", "detection", "loss"],
        *["prototypes"],
        *["rule", "estimator", "perturb", "law", "optimizer", "schedule", "engine"],
    ],
)
def test_unknown_names_are_refused_with_the_known_ones(name):
    with pytest.raises(ValueError, match=rf"^{name} must be one of .+; got 'unheard-of'$"):
        configure(**{name: "unheard-of"})


@pytest.mark.parametrize(
    ("name", "network"),
    [
        *[(name, None) for name in ("meshes", "columns", "directions", "batch_size")],
        *[(name, "mlp") for name in ("depth", "width", "groups")],
        *[(name, "cnn") for name in ("channels", "kernel_size")],
    ],
)
def test_counts_start_at_one(name, network):
    for value in (0, -1):
        with pytest.raises(ValueError, match=f"^{name} must be at least 1, got {value}$"):
            configure(network=network, **{name: value})
    for value in (1.0, "1", True):
        with pytest.raises(TypeError, match=f"^{name} must be a whole number, got {value!r}$"):
            configure(network=network, **{name: value})


@pytest.mark.parametrize("name", ["learning_rate", "epsilon"])
def test_rates_and_steps_are_positive_finite_numbers(name):
    for value, rule in [(0, "greater than 0"), (-1.0, "greater than 0"), (float("nan"), "finite")]:
        with pytest.raises(ValueError, match=f"^{name} must be {rule}, got {value!r}$"):
            configure(**{name: value})
    for value in (True, [1.0], "small"):
        with pytest.raises(TypeError, match=f"^{name} must be a number, got "):
            configure(**{name: value})


@pytest.mark.parametrize("name", ["learning_rate", "epsilon"])
def test_a_number_in_quotes_is_no_number(name):
    """Accepted as text it would break only in the middle of training."""
    with pytest.raises(TypeError, match=f"^{name} must be a number, got '0.1'$"):
        configure(**{name: "0.1"})


@pytest.mark.parametrize("name", ["seed", "chip", "epochs", "norm_size"])
def test_some_whole_numbers_start_at_zero(name):
    assert getattr(configure(**{name: 0}), name) == 0
    with pytest.raises(ValueError, match=rf"^{name} must be at least 0, got -1$"):
        configure(**{name: -1})


def test_a_pool_of_one_value_is_refused():
    with pytest.raises(ValueError, match=r"^norm_size must be 0 or at least 2: .*, got 1$"):
        configure(norm_size=1)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"nonlinearity": "kerr"}, "electro-optic modulators, got kerr"),
        ({"nonlinearity": abs}, "electro-optic modulators, got <built-in"),
        ({"meshes": 1}, "two meshes or more, got 1"),
    ],
)
def test_only_modulators_between_meshes_can_be_trained(given, message):
    with pytest.raises(ValueError, match=f"^train_nonlinearity needs {message}"):
        configure(train_nonlinearity=True, **given)


@pytest.mark.parametrize("name", ["loss", "nonlinearity"])
def test_the_values_behind_a_name_are_checked_too(name):
    known = {"loss": "margin", "nonlinearity": "electro-optic"}[name]
    with pytest.raises(ValueError, match="'depth'"):
        configure(**{name: f"{known}:depth=1"})
    with pytest.raises((TypeError, ValueError), match=name):
        configure(**{name: 3})  # no text at all


def test_unknown_settings_are_refused_by_name():
    with pytest.raises(TypeError, match=r"^unknown setting momentum, size$"):
        configure(size=8, momentum=0.9)


def test_a_configuration_cannot_change():
    with pytest.raises(FrozenInstanceError):
        configure().epochs = 3


def test_every_field_is_documented():
    documented = re.findall(r"^ {8}(\w+): ", Config.__doc__, flags=re.MULTILINE)
    assert documented == [field.name for field in fields(Config)]


def test_the_names_in_the_documentation_are_those_that_are_taken():
    for recipe in RECIPES:
        assert f"``{recipe}``" in configure.__doc__
    for method in METHODS:
        assert f"``{method}``" in configure.__doc__
        assert f"``{method}``" in Config.__doc__
    for names in (NETWORKS, TASKS, ESTIMATORS, PERTURBATIONS, READOUTS, PROTOTYPES, RULES):
        for name in names:
            assert f"``{name}``" in Config.__doc__, name
