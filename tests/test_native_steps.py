"""Losses and steps by kernels equal those of TensorFlow up to rounding."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from meshes._tensorflow import tf
from photonic_ffzero import Model, Samples, configure
from photonic_ffzero.data import Classification
from photonic_ffzero.goodness import Cosine, CrossEntropy, Goodness, Margin, Squared, simplex
from photonic_ffzero.goodness.losses import LOSSES as LOSSES_BY_NAME
from photonic_ffzero.goodness.native import native_losses
from photonic_ffzero.optimizers import OPTIMIZERS, adam
from photonic_ffzero.training import step
from photonic_ffzero.training.native import NativeSteps
from photonic_ffzero.training.step import StageTraining, make_steps

COURSE = {"epochs": 2, "batch_size": 10, "learning_rate": 0.01}
LOSSES = [CrossEntropy(10.0), CrossEntropy(40.0), Margin(0.3), Cosine(), Squared()]


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: f"{type(loss).__name__}")
@pytest.mark.parametrize("detection", ["balanced", "raw"])
@pytest.mark.parametrize(
    ("sets", "samples", "ports", "classes"), [(4, 128, 64, 10), (2, 37, 17, 3)]
)
def test_losses_equal_those_of_tensorflow(sets, samples, ports, classes, detection, loss):
    rng = np.random.default_rng(0)
    prototypes = simplex(classes, ports, rng, zero_mean=detection == "balanced")
    readout = Goodness(prototypes[np.newaxis], detection)
    z = rng.random((sets, samples, ports), dtype=np.float32)
    z[:, 3], z[:, 5], z[:, 7] = 0, 1e-30 * z[:, 5], 1e36 * z[:, 7]  # dark, dim, bright
    z[-1, 9, 1] = np.nan
    labels = rng.integers(classes, size=samples)

    def reference(z):
        scores = readout(readout.split(z))
        y = tf.constant(labels, tf.float32 if isinstance(loss, Squared) else tf.int32)
        return tf.reduce_mean(loss(scores, y[:, tf.newaxis]), axis=[1, 2])

    expected = tf.function(reference, jit_compile=True)(z).numpy()
    kernel = native_losses(readout, loss)
    assert kernel is not None
    result = kernel(z, labels)
    assert np.isnan(result[-1])
    assert np.isnan(expected[-1])
    np.testing.assert_allclose(result[:-1], expected[:-1], rtol=1e-6)


@pytest.mark.parametrize(("ports", "labels"), [(4, 9), (6, 5)])
def test_losses_of_other_shapes_are_refused(ports, labels):
    readout = Goodness(simplex(3, 6, np.random.default_rng(0))[np.newaxis], "raw")
    kernel = native_losses(readout, CrossEntropy(10.0))
    assert kernel is not None
    with pytest.raises(ValueError, match=rf"labels .* 6 ports, .*\({labels},\)"):
        kernel(np.ones((2, 9, ports), np.float32), np.zeros(labels, int))


def trained(config, frozen=None):
    """The losses of some steps, and what they leave."""
    rng = np.random.default_rng(0)
    model = Model(config, 8, Classification(3))
    samples = Samples(rng.random((80, 8), np.float32), np.arange(80) % 3)
    *_, stage = model.stages
    if frozen is not None:
        (block,) = stage.blocks
        stage = replace(stage, blocks=(replace(block, frozen=frozen),))
    targets = Samples(samples.x, model.task.targets(samples.y))
    training = StageTraining(config, stage, model.params[-1:], targets)
    losses = [loss for epoch in range(2) for part in training.epoch(epoch) for loss in part]
    return losses, tf.nest.flatten((training.params, training.state))


@pytest.mark.parametrize(
    "settings",
    [
        {"directions": 1, "optimizer": "sgd"},
        {"directions": 4, "optimizer": "adam"},
        {"directions": 3, "optimizer": "momentum", "law": "gaussian"},
        {"directions": 3, "columns": 3, "loss": "margin"},
        {"directions": 3, "recipe": "paper"},
        {"directions": 3, "imperfections": "splitter_error=0.1,read_noise=0.1"},
        {"directions": 3, "meshes": 2, "amplifier": "level=3"},
        {"directions": 3, "imperfections": "phase_offset=0.1,crosstalk=0.02,source_noise=0.05"},
    ],
    ids=str,
)
@pytest.mark.parametrize("still", [False, True])
def test_steps_equal_those_of_the_graph(settings, still, monkeypatch):
    """Sixteen steps: batches of 10, one call and the rest of an epoch."""
    config = configure(**{"meshes": 1, "engine": "native", **COURSE} | settings)
    model = Model(config, 8, Classification(3))
    assert isinstance(make_steps(model.stages[-1], config), NativeSteps)
    rng, frozen = np.random.default_rng(1), None
    if still:
        frozen = tf.nest.map_structure(lambda w: rng.random(w.shape) < 0.3, model.params[-1])
    ours = trained(config, frozen)
    monkeypatch.setattr(step, "native_steps", lambda *arguments: None)
    theirs = trained(config, frozen)
    assert len(ours[0]) == 16
    np.testing.assert_allclose(ours[0], theirs[0], rtol=1e-4)
    for one, other in zip(ours[1], theirs[1], strict=True):
        assert (one.shape, one.dtype) == (other.shape, other.dtype)
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "settings",
    [
        {"estimator": "cones"},
        {"method": "ff-ad"},
        {"method": "bp-dd", "meshes": 2},
        {"engine": "xla"},
    ],
    ids=str,
)
def test_everything_else_keeps_the_graph(settings):
    config = configure(**{"meshes": 1, "epochs": 2} | settings)
    model = Model(config, 8, Classification(3))
    assert not isinstance(make_steps(model.stages[0], config), NativeSteps)


@pytest.mark.parametrize(
    ("registry", "name", "setting"),
    [
        (OPTIMIZERS, "adam", lambda: adam()._replace(joins=False)),
        (LOSSES_BY_NAME, "margin", type("Mine", (Margin,), {})),
    ],
)
def test_what_users_register_runs_in_the_graph(registry, name, setting, monkeypatch):
    config = configure(meshes=1, epochs=2, optimizer="adam", loss="margin", engine="native")
    stage = Model(config, 8, Classification(3)).stages[0]
    assert isinstance(make_steps(stage, config), NativeSteps)
    monkeypatch.setitem(registry, name, setting)
    assert not isinstance(make_steps(stage, config), NativeSteps)
