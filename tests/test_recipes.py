"""The three recipes, value by value, and what a configuration refuses."""

import re
from dataclasses import FrozenInstanceError, asdict, fields

import pytest

from photonic_ffzero.recipes import METHODS, RECIPES, Config, configure

# What all recipes share in each half of a method.
AD = {"estimator": "autodiff", "law": None, "directions": None, "epsilon": None}
PUBLISHED_DD = {
    "estimator": "central",
    "directions": 1,
    "epsilon": 1e-3,
    "optimizer": "sgd",
    "learning_rate": 1e-3,
}
PUBLISHED_AD = AD | {"optimizer": "adam", "learning_rate": 1e-3}
PUBLISHED = {"batch_size": 128, "epochs": 100, "schedule": "constant"}
PUBLISHED_FF = {"readout": "goodness", "detection": "raw", "rule": "vote"}
PORTS = {"readout": "ports", "detection": None, "rule": None, "loss": "cross-entropy:scale=1"}

# What the method's description fixes; the balanced recipe's K, epochs and rate of -dd, and its
# epochs of -ad, are free to improve.
BALANCED = {
    "batch_size": 128,
    "schedule": "cosine",
    "readout": "goodness",
    "detection": "balanced",
    "loss": "cross-entropy:scale=10",
}
BALANCED_DD = {"estimator": "central", "law": "rademacher", "epsilon": 1e-2, "optimizer": "sgd"}
BALANCED_AD = AD | {"optimizer": "adam", "learning_rate": 1e-2}

TABLE = {
    ("balanced", "ff-dd"): BALANCED | BALANCED_DD | {"rule": "sum"},
    ("balanced", "ff-ad"): BALANCED | BALANCED_AD | {"rule": "sum"},
    ("balanced", "bp-dd"): BALANCED | BALANCED_DD | {"rule": None},
    ("balanced", "bp-ad"): BALANCED | BALANCED_AD | {"rule": None},
}
for recipe, law, loss in [
    ("paper", "gaussian-unit", "margin:margin=0.3"),
    ("published", "gaussian-unit-each", "cosine"),
]:
    TABLE[recipe, "ff-dd"] = PUBLISHED | PUBLISHED_DD | PUBLISHED_FF | {"law": law, "loss": loss}
    TABLE[recipe, "ff-ad"] = PUBLISHED | PUBLISHED_AD | PUBLISHED_FF | {"loss": loss}
    TABLE[recipe, "bp-dd"] = PUBLISHED | PUBLISHED_DD | PORTS | {"law": law}
    TABLE[recipe, "bp-ad"] = PUBLISHED | PUBLISHED_AD | PORTS
COMMON = {"meshes": 2, "columns": None, "nonlinearity": "electro-optic", "seed": 0}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("recipe", RECIPES)
def test_every_value_of_every_recipe(recipe, method):
    expected = COMMON | TABLE[recipe, method] | {"recipe": recipe, "method": method}
    found = asdict(configure(recipe, method))
    assert {name: found[name] for name in expected} == expected
    free = {"directions", "learning_rate", "epochs"} if recipe == "balanced" else set()
    assert found.keys() - expected.keys() <= free | {"engine"}
    assert configure(recipe, method).local == method.startswith("ff")


def test_the_inputs_of_the_recipes():
    assert RECIPES["balanced"]["input"] == {"encoding": "average", "size": 8}
    for recipe in ("paper", "published"):
        assert RECIPES[recipe]["input"]["encoding"] == "crop"


def test_balanced_ff_dd_is_the_default():
    assert configure() == configure("balanced", "ff-dd")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("meshes", 3),
        ("columns", 5),
        ("nonlinearity", "electro-optic:phi_b=1.5"),
        ("detection", "raw"),
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
    ],
)
def test_every_setting_can_be_set_alone(name, value):
    before, after = asdict(configure()), asdict(configure(**{name: value}))
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
    ],
)
def test_what_does_not_apply_is_refused(method, given):
    *_, name = given
    with pytest.raises(ValueError, match=f"^{name} does not apply to method {method}"):
        configure(method=method, **given)


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
        *["recipe", "method", "nonlinearity", "readout", "detection", "loss", "rule"],
        *["estimator", "law", "optimizer", "schedule", "engine"],
    ],
)
def test_unknown_names_are_refused_with_the_known_ones(name):
    with pytest.raises(ValueError, match=rf"^{name} must be one of .+; got 'unheard-of'$"):
        configure(**{name: "unheard-of"})


@pytest.mark.parametrize("name", ["meshes", "columns", "directions", "batch_size", "epochs"])
def test_counts_start_at_one(name):
    for value in (0, -1):
        with pytest.raises(ValueError, match=f"^{name} must be at least 1, got {value}$"):
            configure(**{name: value})
    for value in (1.0, "1", True):
        with pytest.raises(TypeError, match=f"^{name} must be a whole number, got {value!r}$"):
            configure(**{name: value})


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


def test_seeds_are_whole_numbers_from_zero():
    assert configure(seed=0).seed == 0
    with pytest.raises(ValueError, match=r"^seed must be at least 0, got -1$"):
        configure(seed=-1)


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
