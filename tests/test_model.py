"""A network takes over what another has learned, if both are of one kind."""

from functools import cache

import numpy as np
import pytest

from meshes._tensorflow import tf
from photonic_ffzero.config import configure
from photonic_ffzero.data.tasks import Classification
from photonic_ffzero.model import Model
from photonic_ffzero.training.step import Samples
from photonic_ffzero.training.trainer import Trainer, fit

CLASSES = Classification(3)


X = np.random.default_rng(0).random((24, 6)).astype(np.float32)
Y = np.arange(24) % 3


@cache
def trained(method="ff-ad"):
    return fit(X, Y, method=method, epochs=1, batch_size=8)


def fresh(method="ff-dd", units=6, task=CLASSES, **given):
    return Model(configure(method=method, batch_size=8, **given), units, task)


@pytest.mark.parametrize(("first", "second"), [("ff-ad", "ff-dd"), ("bp-ad", "bp-dd")])
def test_on_an_ideal_chip_nothing_is_lost_whatever_its_seed(first, second):
    own, other = fresh(second, epochs=0, directions=1, seed=5), trained(first)
    own.take_over(other)
    before = own.scores(X)
    np.testing.assert_allclose(before, other.scores(X), atol=1e-6)
    Trainer(own, Samples(X, Y)).run()
    np.testing.assert_array_equal(own.scores(X), before)
    assert own.history == []


def test_the_network_that_a_training_starts_from_keeps_its_phases():
    other = trained()
    before = [tf.nest.map_structure(np.copy, params) for params in other.params]
    own = fit(X, Y, epochs=1, batch_size=8, start_from=other)
    for kept, then, now in zip(before, other.params, own.params, strict=True):
        tf.nest.map_structure(np.testing.assert_array_equal, kept, then)
        assert not np.array_equal(kept[0].theta, now[0].theta)


@pytest.mark.parametrize(("own", "other"), [({"columns": 6}, {}), ({}, {"columns": 6})])
def test_a_default_is_as_good_as_its_value(own, other):
    own, other = fresh(**own), fresh(seed=1, **other)
    own.take_over(other)
    np.testing.assert_array_equal(own.params[0][0].theta, other.params[0][0].theta)


def test_so_is_the_default_of_colours():
    given = {"network": "mlp", "recipe": "digital", "depth": 1}
    fresh(**given, colour="grey").take_over(fresh(**given))


def test_a_mixer_takes_prototypes_and_keeps_its_own_losses():
    mixer = {"recipe": "digital", "network": "mixer", "head": "prototypes", "method": "ff-ad"}
    mixer |= {"patches": 1, "channels": 8, "groups": 2, "depth": 1, "units": 4}
    own, other = fresh(losses="block", **mixer), fresh(losses="grouped", seed=1, **mixer)
    own.take_over(other)
    (one,), (two,) = own.blocks, other.blocks
    np.testing.assert_array_equal(one.readout.prototypes, two.readout.prototypes)
    assert one.readout.joint
    assert not two.readout.joint


def test_another_chip_makes_another_network_of_the_same_phases():
    own, other = fresh(imperfections="phase_offset=0.5"), trained()
    own.take_over(other)
    assert np.abs(own.scores(X) - other.scores(X)).max() > 0.01
    np.testing.assert_array_equal(own.params[0][0].theta, other.params[0][0].theta)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"method": "bp-dd"}, "method bp, got ff"),
        ({"meshes": 3}, "meshes 3, got 2"),
        ({"train_nonlinearity": True}, "train_nonlinearity True, got False"),
        ({"units": 7}, "units 7, got 6"),
        ({"task": Classification(4)}, "task .*4.*, got .*3"),
    ],
)
def test_a_network_of_another_kind_is_refused(given, message):
    with pytest.raises(ValueError, match=f"^start_from must be a network with {message}"):
        fresh(**given).take_over(fresh())


def test_a_cnn_of_another_seed_is_refused_as_its_random_matrices_differ():
    given = {"network": "cnn", "depth": 2, "channels": 2, "kernel_size": 2}
    first, other = (Model(configure("digital", seed=seed, **given), 16, CLASSES) for seed in (0, 1))
    with pytest.raises(ValueError, match=r"start_from must be a cnn of the same seed 1, .*got 0"):
        other.take_over(first)
