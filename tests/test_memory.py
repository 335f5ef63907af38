"""What would not fit into memory is refused before it takes any."""

import re

import numpy as np
import pytest

from photonic_ffzero import configure, fit
from photonic_ffzero.data import Classification
from photonic_ffzero.model import Model
from photonic_ffzero.training import Samples, Trainer, memory

CLASSES = Classification(3)


def trainer(units=16, samples=1000, **settings):
    data = Samples(np.ones((samples, units), np.float32), np.arange(samples) % 3)
    return Trainer(Model(configure(**settings), units, CLASSES), data)


NOISY = {"imperfections": "read_noise=0.1"}


@pytest.mark.parametrize(
    ("settings", "name", "smallest"),
    [
        ({"directions": 10**8}, "directions", 100),
        ({"directions": 10**8, "method": "bp-dd"}, "directions", 100),
        ({"directions": 10**8, "recipe": "digital"}, "directions", 100),
        ({"directions": 10**8, "recipe": "digital", "perturb": "activations"}, "directions", 100),
        ({"reads": 10**8} | NOISY, "reads", 10),
    ],
    ids=str,
)
def test_the_setting_that_takes_most_is_named_with_a_value_that_fits(
    settings, name, smallest, monkeypatch
):
    monkeypatch.setattr(memory, "available_memory", lambda: 8e9)
    with pytest.raises(ValueError, match=rf"^{name} 100000000 .*GB.*, of 6.4 GB") as error:
        trainer(**settings)
    fits = int(re.search(r"at most (\d+) would fit", str(error.value))[1])
    assert smallest < fits < 10**7
    trainer(**settings | {name: fits})
    with pytest.raises(ValueError, match=f"^{name} {fits + 1} "):
        trainer(**settings | {name: fits + 1})


@pytest.mark.parametrize(
    "settings",
    [
        {"network": "mixer", "patches": 8, "channels": 20, "groups": 2},
        {"network": "mlp", "depth": 2, "width": 300},
    ],
    ids=str,
)
def test_outputs_that_are_stored_between_layers_must_fit(settings, monkeypatch):
    monkeypatch.setattr(memory, "available_memory", lambda: 2e6)
    monkeypatch.setattr(memory, "_ALWAYS", 0)
    settings = {"recipe": "digital", "batch_size": 1, "directions": 1} | settings
    with pytest.raises(ValueError, match=r"^order sequential .* GB .* layer, of .* order together"):
        trainer(units=64, order="sequential", **settings)
    trainer(units=64, order="together", **settings)


def test_what_is_not_trained_takes_no_memory():
    trainer(epochs=0, directions=10**8)
    trainer(reads=10**8, epochs=0, **NOISY)


def test_large_batches_are_no_larger_than_the_data():
    trainer(batch_size=10**9)


def test_more_orthonormal_directions_than_parameters_are_refused_before_training():
    with pytest.raises(ValueError, match=r"^directions must be at most .*256, .* got 5000"):
        trainer(law="orthonormal", directions=5000)


def test_fit_is_refused_too(monkeypatch):
    monkeypatch.setattr(memory, "available_memory", lambda: 0.0)
    with pytest.raises(ValueError, match=r"^directions 2000000 .* of 1.1 GB"):
        fit(np.ones((30, 8)), np.arange(30) % 3, directions=2_000_000)


def test_this_machine_says_how_much_it_has():
    assert 1e8 < memory.available_memory() < 1e15
