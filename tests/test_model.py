"""A network takes over what another has learned, if both are of one kind."""

import numpy as np
import pytest

from photonic_ffzero import evaluate
from photonic_ffzero.config import configure
from photonic_ffzero.data.tasks import Classification
from photonic_ffzero.model import Model
from photonic_ffzero.training.step import Samples
from photonic_ffzero.training.trainer import Trainer, fit

CLASSES = Classification(3)


def samples(count=24, seed=0):
    rng = np.random.default_rng(seed)
    return rng.random((count, 6)).astype(np.float32), np.arange(count) % 3


def trained(method="ff-ad", **given):
    return fit(*samples(), method=method, epochs=2, batch_size=8, **given)


def fresh(method="ff-dd", units=6, task=CLASSES, **given):
    return Model(configure(method=method, batch_size=8, **given), units, task)


@pytest.mark.parametrize(("first", "second"), [("ff-ad", "ff-dd"), ("bp-ad", "bp-dd")])
def test_on_an_ideal_chip_nothing_is_lost_whatever_its_seed(first, second):
    own, other = fresh(second, epochs=0, directions=1, seed=5), trained(first)
    own.take_over(other)
    x, y = samples()
    before = own.scores(x)
    np.testing.assert_allclose(before, other.scores(x), atol=1e-6)
    Trainer(own, Samples(x, y)).run()
    np.testing.assert_array_equal(own.scores(x), before)
    assert evaluate(own, x, y).accuracy == evaluate(other, x, y).accuracy
    assert own.history == []


def test_another_chip_makes_another_network_of_the_same_phases():
    own, other = fresh(imperfections="phase_offset=0.5"), trained()
    own.take_over(other)
    assert np.abs(own.scores(samples()[0]) - other.scores(samples()[0])).max() > 0.01
    np.testing.assert_array_equal(own.params[0][0].theta, other.params[0][0].theta)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"method": "bp-dd"}, "method bp, got ff"),
        ({"meshes": 3}, "meshes 3, got 2"),
        ({"columns": 4}, "columns 4, got None"),
        ({"detection": "raw"}, "detection raw, got balanced"),
        ({"train_nonlinearity": True}, "train_nonlinearity True, got False"),
        ({"units": 7}, "units 7, got 6"),
        ({"task": Classification(4)}, "task .*4.*, got .*3"),
    ],
)
def test_a_network_of_another_kind_is_refused(given, message):
    with pytest.raises(ValueError, match=f"^start_from must be a network with {message}"):
        fresh(**given).take_over(trained())
