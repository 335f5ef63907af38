"""Public functions check what they are given first; errors begin with the argument's name."""

import inspect

import numpy as np
import pytest

from photonic_ffzero import (
    Model,
    Observer,
    SimulatedChip,
    calibrate,
    configure,
    explore,
    fit,
    load_model,
    save_model,
)
from photonic_ffzero.data.tasks import Classification
from photonic_ffzero.power import power_budget
from photonic_ffzero.sklearn import (
    DigitalClassifier,
    DigitalRegressor,
    PhotonicClassifier,
    PhotonicRegressor,
)

X, Y = np.ones((12, 4), np.float32), np.arange(12) % 3
SMALL = {"epochs": 1, "batch_size": 6, "directions": 1}


class Foreign:
    """Something that no argument takes."""


def network():
    return Model(configure(), 4, Classification(3))


CALLS = {
    fit: {"x": X, "y": Y, "progress": False} | SMALL,
    configure: {},
    calibrate: {"chip": SimulatedChip(4), "settings": 1},
    SimulatedChip: {"units": 4},
    Model: {"config": configure(), "units": 4, "task": Classification(3)},
    save_model: {"model": network(), "path": "model.npz"},
    load_model: {"path": "model.npz"},
    explore: {"model": network(), "x": X, "y": Y},
    power_budget: {"model": network(), "x": X},
}
# Of a file that is not there nobody asks for a function or a device; a device may be anything that
# has its methods; and a model is restored by this package alone.
UNCHECKED = {load_model: ("nonlinearity", "device"), explore: ("nonlinearity",), Model: ("saved",)}


def parameters():
    for function in CALLS:
        for name in inspect.signature(function).parameters:
            if name not in UNCHECKED.get(function, ()):
                yield pytest.param(function, name, id=f"{function.__name__}-{name}")


@pytest.mark.parametrize("wrong", [Foreign(), [Foreign()]], ids=["object", "list"])
@pytest.mark.parametrize(("function", "name"), parameters())
def test_an_argument_of_a_wrong_type_is_named_first(function, name, wrong):
    with pytest.raises((TypeError, ValueError), match=rf"^{name}\b"):
        function(**(CALLS[function] | {name: wrong}))


@pytest.mark.parametrize(
    "estimator", [PhotonicClassifier, PhotonicRegressor, DigitalClassifier, DigitalRegressor]
)
def test_so_is_a_parameter_of_an_estimator(estimator):
    for name in estimator().get_params():
        with pytest.raises((TypeError, ValueError), match=rf"^{name}\b"):
            estimator(**{name: Foreign()}).fit(X * np.arange(12)[:, None], Y)


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("observers", Observer()),
        ("observers", ("abc",)),
        ("frozen_phases", 5),
        ("chip_estimate", 5),
        ("embeddings", "no"),
        ("validation", [X]),
        ("validation", X),
        ("progress", 0),
        ("progress", np.ones(3)),
    ],
)
def test_what_a_training_would_meet_later_is_refused_at_once(name, wrong):
    with pytest.raises((TypeError, ValueError), match=f"^{name} must be "):
        fit(X, Y, **(SMALL | {name: wrong}))


def test_samples_held_out_may_be_a_list():
    one, other = (fit(X, Y, validation=kind([X, Y]), **SMALL) for kind in (tuple, list))
    assert one.history[-1].validation_accuracy == other.history[-1].validation_accuracy
