"""The training loop: what is learned, counted, frozen, and repeated exactly."""

import dataclasses

import numpy as np
import pytest

from photonic_ffzero import (
    DataError,
    Model,
    NonFiniteLossError,
    Observer,
    Samples,
    Trainer,
    configure,
    encode,
    evaluate,
    fit,
    load_dataset,
    predict,
)
from photonic_ffzero.config import METHODS
from photonic_ffzero.data.tasks import Classification, Regression
from photonic_ffzero.gradients.directions import LAWS
from photonic_ffzero.optimizers import SCHEDULES
from photonic_ffzero.training import step as training_step
from photonic_ffzero.training import trainer as training

PORTS = 16


@pytest.fixture(scope="module")
def digits():
    data = load_dataset("digits")
    x = encode(data.train_images, "average", 4)
    return Samples(x[:400], data.train_labels[:400]), Samples(
        x[400:600], data.train_labels[400:600]
    )


def settings(**given):
    return {"epochs": 3, "directions": 8, "learning_rate": 0.05, "batch_size": 50} | given


def new_trainer(train, **given):
    return Trainer(Model(configure(**settings(**given)), PORTS, Classification(10)), train)


def without_time(history):
    return [dataclasses.replace(record, seconds=0.0) for record in history]


def trained(method, samples, **given):
    chosen = settings(**given)
    if method.endswith("-ad"):
        del chosen["directions"], chosen["learning_rate"]
    train, validation = samples
    return fit(*train, validation=validation, method=method, **chosen)


@pytest.mark.parametrize(
    "method",
    [pytest.param(m, marks=[pytest.mark.long] * (m in ("ff-ad", "bp-dd"))) for m in METHODS],
)
@pytest.mark.compiled
def test_every_method_learns(method, digits):
    model = trained(method, digits, epochs=20)
    for mesh in {record.mesh for record in model.history}:
        losses = [record.loss for record in model.history if record.mesh == mesh]
        assert losses[-1] < losses[0]
    assert evaluate(model, *digits[1]).accuracy > 0.3  # guessing: 0.1


@pytest.mark.parametrize("method", METHODS)
def test_same_seed_same_figures_other_seed_others(method, digits):
    few = Samples(*(array[:150] for array in digits[0])), digits[1]
    first, again, other = (trained(method, few, epochs=1, seed=seed) for seed in (0, 0, 1))
    assert without_time(first.history) == without_time(again.history)
    np.testing.assert_array_equal(first.scores(digits[1].x), again.scores(digits[1].x))
    assert without_time(first.history) != without_time(other.history)


@pytest.mark.parametrize(
    ("method", "estimator", "meshes_a_block", "blocks", "sets", "frozen"),
    [
        ("ff-dd", "central", 1, 2, 2 * 8, 1),
        ("ff-dd", "forward", 1, 2, 8 + 1, 1),
        ("bp-dd", "central", 2, 1, 2 * 8, 0),
        ("ff-ad", None, 1, 2, 1, 1),
        ("bp-ad", None, 2, 1, 1, 0),
    ],
)
def test_every_mesh_that_light_crosses_and_every_write_counts(
    digits, method, estimator, meshes_a_block, blocks, sets, frozen
):
    """In one epoch of 8 batches of 50, with 400 and 200 images monitored."""
    given = settings(epochs=1, estimator=estimator)
    if estimator is None:
        del given["directions"], given["learning_rate"]
    model = fit(*digits[0], validation=digits[1], method=method, **given)
    passes = blocks * meshes_a_block * (8 * 50 * sets + 400 + 200) + frozen * (400 + 200)
    assert model.usage.forward_passes == model.history[-1].forward_passes == passes
    assert model.usage.phase_writes == blocks * meshes_a_block * (8 * sets + 1)


def test_what_is_monitored_is_of_all_classes_however_the_samples_are_sorted(monkeypatch):
    monkeypatch.setattr(training, "MONITORED", 60)
    x, y = np.random.default_rng(0).random((300, 6), np.float32), np.repeat(np.arange(3), 100)
    samples = Samples(x, y)
    trainer = Trainer(Model(configure(), 6, Classification(3)), samples)
    monitored, again = trainer._monitored(samples), trainer._monitored(samples)
    assert len(monitored.y) == 60
    assert np.bincount(monitored.y).min() > 10
    np.testing.assert_array_equal(again.x, monitored.x)


@pytest.mark.parametrize(("count", "batch", "steps"), [(400, 150, 2), (30, 50, 1)])
def test_only_full_batches_count_but_a_batch_is_at_most_all(digits, count, batch, steps):
    train = Samples(*(array[:count] for array in digits[0]))
    trainer = new_trainer(train, batch_size=batch, epochs=1, meshes=1)
    assert trainer.steps == steps
    assert trainer.run().usage.phase_writes == steps * 16 + 1


class TestSamplesOfATrainer:
    x, y = np.ones((12, 5), np.float32), np.arange(12) % 3

    def trainer(self, x, y, task="classification", **rest):
        tasks = {"classification": Classification(3), "regression": Regression((0.0,), (1.0,))}
        chosen = {"meshes": 1, "epochs": 1, "batch_size": 6, "task": task}
        return Trainer(Model(configure(**chosen), 5, tasks[task]), Samples(x, y), **rest)

    @pytest.mark.parametrize(
        ("x", "y", "message"),
        [
            (x[:, :4], y, r"x of train must .*\[n, 5\], got \[12, 4\]"),
            (x, y - 1, r"y of train must .* 0\.\.2, got -1"),
            (x, y + 5, r"y of train must .* 0\.\.2, got 5"),
            (x, y * 10**7, r"y of train must .* 0\.\.2, got 10000000"),
            (x[:6], y, r"x of train and y of train must .* \(6, 5\) and \(12,\)"),
            (x * np.nan, y, "x of train must be finite"),
        ],
    )
    def test_that_do_not_fit_the_model_are_refused(self, x, y, message):
        with pytest.raises(DataError, match=message):
            self.trainer(x, y)
        with pytest.raises(DataError, match=message.replace("train", "validation")):
            self.trainer(self.x, self.y, validation=Samples(x, y))

    def test_of_a_regression_are_checked_too(self):
        assert self.trainer(self.x, self.y / 2, "regression").train.y.dtype == np.float64
        with pytest.raises(DataError, match="y of train must have 1 label"):
            self.trainer(self.x, np.ones((12, 2)), "regression")

    def test_may_be_lists(self):
        trainer = self.trainer(self.x.tolist(), self.y.tolist())
        np.testing.assert_array_equal(trainer.train.x, self.x)

    @pytest.mark.parametrize("dtype", ["f4", "c8"])
    def test_in_single_precision_are_not_copied(self, dtype):
        x = self.x.astype(dtype)
        assert self.trainer(x, self.y).train.x is x

    @pytest.mark.parametrize(
        ("name", "wrong"), [("validation", (x, y)), ("observers", Observer()), ("position", 3)]
    )
    def test_come_with_arguments_of_their_kind(self, name, wrong):
        with pytest.raises(TypeError, match=rf"^{name} must be .*, got"):
            self.trainer(self.x, self.y, **{name: wrong})


class TestLocalLearning:
    def test_a_trained_block_stays_as_it_is_while_the_next_learns(self, digits):
        kept = []

        class Keep(Observer):
            def on_checkpoint(self, model, position):
                kept.append((model.history[-1].mesh, model.params[0][0].theta.copy()))

        fit(*digits[0], observers=(Keep(),), **settings(epochs=2, directions=2, batch_size=100))
        # After every epoch, and when a block is done.
        assert [mesh for mesh, _ in kept] == ["1", "1", "1", "2", "2", "2"]
        assert not np.array_equal(kept[0][1], kept[1][1])
        for _, phases in kept[2:]:
            np.testing.assert_array_equal(kept[1][1], phases)

    def test_idle_interferometers_keep_their_phases(self, digits):
        trainer = new_trainer(digits[0], epochs=1, meshes=1, directions=2)
        before = trainer.model.params[0][0]
        after = trainer.run().params[0][0]
        mask = trainer.model.blocks[0].layers[0].mesh.mask
        np.testing.assert_array_equal(before.theta[~mask], after.theta[~mask])
        assert (before.theta[mask] != after.theta[mask]).all()


@pytest.mark.parametrize(
    ("until", "message", "epochs"),
    [
        (0.5, r"mesh 1: the loss became nan .* 2, step 2; .* 0\.05", [1]),
        (0.9, r"mesh 1: the scores became .*; .* below 0\.05", [1]),
    ],
    ids=["half-way", "in the last step, whose loss is from before it"],
)
def test_figures_that_are_not_finite_stop_the_run(digits, monkeypatch, until, message, epochs):
    """The rate becomes infinite, and the phases with it; the epoch before is kept."""
    monkeypatch.setitem(SCHEDULES, "constant", lambda done: 1.0 if done < until else np.inf)
    trainer = new_trainer(digits[0], epochs=2, schedule="constant")
    with pytest.raises(NonFiniteLossError, match=message):
        trainer.run()
    assert [record.epoch for record in trainer.model.history] == epochs
    if until == 0.5:
        assert np.isfinite(trainer.model.params[0][0].theta).all()


def test_fit_takes_complex_fields_and_holds_out_images(digits):
    x = digits[0].x * np.exp(2j * np.pi * np.random.default_rng(0).random(PORTS))
    model = fit(x, digits[0].y, validation=100, **settings(epochs=1))
    assert model.history[0].validation_accuracy is not None
    assert predict(model, x).shape == (400,)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"recipe": "best"}, "recipe must be one of balanced, .*; got 'best'"),
        ({"temperature": 1}, "unknown setting temperature"),
        ({"validation": 400}, "validation must leave at least one of 400 images"),
    ],
)
def test_fit_refuses_what_it_cannot_do_by_name(digits, change, message):
    with pytest.raises((ValueError, TypeError), match=message):
        fit(*digits[0], **settings(**change))


def test_a_slow_epoch_is_kept_by_time(digits, monkeypatch):
    """With no time allowed between them: after every call, and at the ends of epoch and block."""
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(training_step, "MOST_STEPS", 3)
    positions = []

    class Keep(Observer):
        def on_checkpoint(self, model, position):
            positions.append((position.epoch, len(position.losses)))

    trainer = new_trainer(digits[0], epochs=1, meshes=1)
    trainer.observers = (Keep(),)
    trainer.run()
    assert positions == [(0, 3), (0, 6), (0, 8), (1, 0), (0, 0)]


@pytest.mark.parametrize(
    "law",
    [pytest.param(law, marks=[pytest.mark.long] * (law != "rademacher")) for law in sorted(LAWS)],
)
def test_results_do_not_depend_on_how_many_steps_a_call_takes(digits, monkeypatch, law):
    scores = []
    for most in (1, 3, 16):
        monkeypatch.setattr(training_step, "MOST_STEPS", most)
        trainer = new_trainer(digits[0], epochs=1, meshes=1, directions=3, law=law)
        scores.append(trainer.run().scores(digits[1].x))
    np.testing.assert_allclose(scores[0], scores[1], atol=1e-6)
    np.testing.assert_allclose(scores[0], scores[2], atol=1e-6)
