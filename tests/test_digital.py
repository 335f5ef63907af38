"""Digital networks end to end: every way of training, tasks, black boxes, and files."""

import numpy as np
import pytest

from photonic_ffzero import (
    Model,
    Observer,
    configure,
    evaluate,
    fit,
    load_model,
    predict,
    save_model,
)
from photonic_ffzero.data.datasets import split
from photonic_ffzero.data.tasks import Classification
from photonic_ffzero.gradients.objectives import PERTURBATIONS
from photonic_ffzero.storage import load_checkpoint, save_checkpoint

CLASSES, SIDE, N = 3, 6, 90
NETWORKS = {"mlp": {"depth": 2, "width": 8}, "cnn": {"depth": 2, "channels": 3, "kernel_size": 3}}

LONG = pytest.mark.long
DIRECTIONAL = ["central", "forward", "jvp"]  # light cones are for meshes

# Every way to a gradient: method, estimator and place of the directions.
WAYS = [
    *[("ff-dd", estimator, perturb) for estimator in DIRECTIONAL for perturb in PERTURBATIONS],
    *[("bp-dd", estimator, "weights") for estimator in DIRECTIONAL],
    ("ff-ad", None, None),
    ("bp-ad", None, None),
]
QUICK = {  # those that each network goes in the quick tests; a tangent takes longest to compute
    "mlp": [way for way in WAYS if way[1:] != ("jvp", "weights")],
    "cnn": [WAYS[0], WAYS[3], ("bp-ad", None, None)],
}

AMONG_ACTIVATIONS = {"optimizer": "sgd", "learning_rate": 0.3, "norm_size": 0}  # so few steps


def images(seed=0):
    """Three classes of images: a bright bar at a place of its own, in noise."""
    rng = np.random.default_rng(seed)
    y = np.arange(N) % CLASSES
    x = 0.3 * rng.random((N, SIDE, SIDE), np.float32)
    for image, label in zip(x, y, strict=True):
        image[2 * label : 2 * label + 2, rng.integers(SIDE)] += 1
        image[2 * label] += 0.7
    return x.reshape(N, -1), y


def numbers(dimensions, seed=0):
    """Images and labels that are smooth functions of them, far from [-1, 1]."""
    x, _ = images(seed)
    source = np.random.default_rng(7)
    y = x @ source.normal(size=(SIDE**2, dimensions))
    y = 100 + 10 * np.tanh((y - y.mean(axis=0)) / y.std(axis=0))
    return x, y[:, 0] if dimensions == 1 else y


def trained(network, method="ff-dd", data=None, **given):
    settings = {"recipe": "digital", "epochs": 4, "batch_size": 15} | NETWORKS[network] | given
    if method.endswith("-ad"):
        settings = {"learning_rate": 0.02} | settings
    return fit(*(data or images()), network=network, method=method, **settings)


def losses(model):
    by_layer = {}
    for record in model.history:
        by_layer.setdefault(record.mesh, []).append(record.loss)
    return by_layer


@pytest.mark.parametrize(
    ("network", "method", "estimator", "perturb"),
    [
        pytest.param(network, *way, marks=[LONG] * (way not in QUICK[network]))
        for network in NETWORKS
        for way in WAYS
    ],
)
def test_every_way_to_a_gradient_learns(network, method, estimator, perturb):
    rates = AMONG_ACTIVATIONS if perturb == "activations" else {"learning_rate": 0.05}
    given = rates | {"directions": 8} if method.endswith("-dd") else {}
    model = trained(network, method, estimator=estimator, perturb=perturb, **given)
    for own in losses(model).values():
        assert np.mean(own[-2:]) < own[0]
    assert evaluate(model, *images(1)).accuracy > (0.8 if method.startswith("ff") else 0.5)


@pytest.mark.parametrize(
    ("network", "given"),
    [
        ("cnn", {"perturb": "activations", "estimator": "forward"}),
        pytest.param("mlp", {"perturb": "activations", "estimator": "jvp"}, marks=LONG),
        pytest.param("cnn", {"perturb": "weights"}, marks=LONG),
        pytest.param("cnn", {"method": "bp-ad"}, marks=LONG),
    ],
)
@pytest.mark.compiled
def test_compiled_it_is_the_same(network, given, request):
    """What a graph cannot do, or does otherwise, would show only here."""
    given = {"epochs": 1, "optimizer": "sgd", "learning_rate": 0.05} | given
    compiled = trained(network, **given)
    request.getfixturevalue("eager")
    expected = trained(network, **given)
    for one, other in zip(losses(compiled).values(), losses(expected).values(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3)
    x, _ = images(1)
    np.testing.assert_allclose(compiled.scores(x), expected.scores(x), atol=1e-3)


@pytest.mark.parametrize("method", ["ff-ad", "bp-ad"])
def test_a_convolution_has_statistics_after_every_epoch_and_ends_with_those_of_all_images(method):
    kept = []

    class Keeper(Observer):
        def on_checkpoint(self, model, position):
            kept.append(model.params[0][0].mean)

    model = trained("cnn", method, epochs=2, observers=(Keeper(),))
    layer, params = model.blocks[0].layers[0], model.params[0][0]
    for array, expected in zip(params, layer.with_statistics(params, images()[0]), strict=True):
        np.testing.assert_allclose(array, expected, rtol=1e-5)
    assert len(kept) >= 3
    assert all(np.all(mean != 0) for mean in kept)


class TestRegression:
    @pytest.mark.parametrize(
        ("dimensions", "network", "method", "given"),
        [
            (2, "mlp", "ff-dd", {"perturb": "activations"} | AMONG_ACTIVATIONS),
            (1, "mlp", "bp-ad", {}),
            pytest.param(2, "mlp", "ff-ad", {"readout": "ports", "width": 32}, marks=LONG),
            pytest.param(2, "cnn", "ff-ad", {"channels": 4}, marks=LONG),
        ],
    )
    def test_learns_and_predicts_in_the_labels_own_unit(self, dimensions, network, method, given):
        data = numbers(dimensions)
        model = trained(network, method, data, task="regression", epochs=12, **given)
        predicted = predict(model, data[0])
        assert predicted.shape == data[1].shape
        assert 85 < predicted.min() < predicted.max() < 115
        evaluation = evaluate(model, *data)
        assert evaluation.quality == evaluation.layer_quality[-1] > 0.5  # the mean: 0

    def test_the_scale_comes_from_the_training_samples_alone(self):
        x, y = numbers(1)
        model = trained("mlp", "ff-ad", (x, y), task="regression", epochs=1)
        held_out = trained(
            "mlp", "ff-ad", (x, y), task="regression", epochs=1, validation=(x[:9], 5 * y[:9])
        )
        assert held_out.task == model.task
        assert model.task.low == (y.min(),)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: 1j * x, "must be real for mlp, got complex64"),
        (lambda x: x.reshape(N, SIDE, SIDE), r"must have shape \[n, (N|36)\], got \[90, 6, 6\]"),
    ],
    ids=["complex", "shape"],
)
def test_images_that_do_not_fit_are_refused_by_name(change, message):
    x, y = images()
    with pytest.raises(ValueError, match=f"x {message}"):
        trained("mlp", data=(change(x), y))
    with pytest.raises(ValueError, match=f"x of validation {message}"):
        trained("mlp", validation=(change(x), y))


def test_a_class_that_is_held_out_as_a_whole_is_one_all_the_same():
    x, y = images()
    _, held_out = split(N, 1)
    y[held_out[0]] = CLASSES
    assert trained("mlp", data=(x, y), epochs=1, validation=1).task.classes == CLASSES + 1


@pytest.mark.parametrize(
    ("function", "message"),
    [(lambda z: z[..., :-1], "must keep the shape"), (np.linalg.inv, "square")],
)
def test_a_black_box_that_fails_does_so_before_anything_is_trained(function, message):
    class Nothing(Observer):
        def on_steps(self, mesh, losses):
            pytest.fail("it trained")

    with pytest.raises(Exception, match=message):
        trained("mlp", nonlinearity=function, observers=(Nothing(),))


class TestAccounting:
    """Of one epoch of 6 steps of 15 images, all 90 of which are monitored."""

    @pytest.mark.parametrize(("estimator", "sets"), [("central", 16), ("forward", 9), ("jvp", 8)])
    def test_weights_are_written_for_every_point_but_activations_come_from_one_pass(
        self, estimator, sets
    ):
        for perturb, passes in (("weights", sets), ("activations", 1)):
            given = {"perturb": perturb, "estimator": estimator, "directions": 8}
            usage = trained("mlp", epochs=1, **given).usage
            assert usage.forward_passes == 2 * (6 * 15 * passes + N) + N  # once to the next layer
            assert usage.phase_writes == 2 * (6 * passes + 1)

    @pytest.mark.parametrize(("estimator", "sets"), [("central", 16), ("forward", 9), ("jvp", 8)])
    def test_layers_that_learn_together_hand_on_what_no_difference_measures(self, estimator, sets):
        """Central differences are never at the weights themselves, the others are."""
        given = {"estimator": estimator, "directions": 8, "order": "together", "epochs": 1}
        usage = trained("mlp", **given).usage
        handed = estimator == "central"
        assert usage.forward_passes == 6 * 15 * (2 * sets + handed) + 2 * N
        assert usage.phase_writes == 6 * (2 * sets + handed) + 2

    @pytest.mark.parametrize("directions", [1, 4])
    def test_the_weights_of_a_mixer_stand_still_while_its_activations_move(self, directions):
        given = {"depth": 2, "patches": 2, "channels": 8, "groups": 2, "head": "prototypes"}
        x, y = images()
        given |= {"directions": directions, "epochs": 1, "batch_size": 15, "recipe": "digital"}
        usage = fit(x, y, network="mixer", **given).usage
        assert usage.phase_writes == 2 * (6 + 1)
        assert usage.forward_passes == 2 * (6 * 15 * (directions + 1) + N)

    def test_so_do_the_passes_for_batch_norm_s_statistics(self):
        """Behind every epoch, and once when the convolution's training ends."""
        usage = trained("cnn", "ff-ad", epochs=2).usage
        convolution, dense = 2 * (6 * 15 + N + N) + N, 2 * (6 * 15 + N)
        assert usage.forward_passes == convolution + N + dense
        assert usage.phase_writes == 2 * 2 * (6 + 1)


class TestBlackBox:
    @pytest.mark.parametrize(
        ("network", "method"),
        [
            ("mlp", "ff-ad"),
            pytest.param("mlp", "bp-dd", marks=LONG),
            pytest.param("cnn", "ff-dd", marks=LONG),
        ],
    )
    @pytest.mark.compiled
    def test_trains_as_the_function_that_it_hides(self, network, method, request):
        given = {"epochs": 1, "optimizer": "sgd", "learning_rate": 0.05}
        hidden = trained(network, method, nonlinearity=np.tanh, **given)
        request.getfixturevalue("eager")
        known = trained(network, method, nonlinearity="tanh", **given)
        x, _ = images(1)
        np.testing.assert_allclose(hidden.scores(x), known.scores(x), atol=1e-3)
        assert not np.allclose(hidden.scores(x), Model(hidden.config, 36, hidden.task).scores(x))

    def test_comes_back_with_the_function_and_asks_for_it(self, tmp_path):
        path = tmp_path / "model.npz"

        class Keep(Observer):
            def on_checkpoint(self, model, position):
                save_checkpoint(model, position, path)

        model = trained("mlp", nonlinearity=np.tanh, epochs=1, observers=(Keep(),))
        with pytest.raises(ValueError, match=r"'tanh' is a function.* nonlinearity="):
            load_model(path)
        loaded, position = load_checkpoint(path, nonlinearity=np.tanh)
        x, _ = images(1)
        np.testing.assert_array_equal(loaded.scores(x), model.scores(x))
        assert loaded.config == model.config
        assert (position.block, position.epoch) == (2, 0)  # both are done


class TestFiles:
    @pytest.mark.parametrize(
        ("network", "method", "dimensions"),
        [("mlp", "ff-ad", 0), ("mlp", "bp-ad", 1), ("cnn", "ff-ad", 2), ("cnn", "bp-ad", 0)],
    )
    def test_a_loaded_model_predicts_exactly_as_the_saved_one(
        self, tmp_path, network, method, dimensions
    ):
        task = {"task": "regression"} if dimensions else {}
        data = numbers(dimensions) if dimensions else images()
        task |= {"channels": 4} if network == "cnn" else {}
        model, path = trained(network, method, data, epochs=1, **task), tmp_path / "model.npz"
        save_model(model, path)
        loaded = load_model(path)
        assert loaded.task == model.task
        assert loaded.config == model.config
        np.testing.assert_array_equal(loaded.scores(data[0]), model.scores(data[0]))
        np.testing.assert_array_equal(predict(loaded, data[0]), predict(model, data[0]))

    def test_arrays_are_named_by_layer(self, tmp_path):
        config = configure("digital", network="cnn", **NETWORKS["cnn"])
        save_model(Model(config, SIDE**2, Classification(CLASSES)), tmp_path / "model.npz")
        with np.load(tmp_path / "model.npz", allow_pickle=False) as file:
            shapes = {name: array.shape for name, array in file.items()}
        assert shapes.pop("description")
        assert shapes == {
            "conv_1_kernel": (3, 3, 3, 1),
            **{f"conv_1_{name}": (3,) for name in ("scale", "shift", "mean", "variance")},
            "dense_2_kernel": (1, 4 * 4 * 3, CLASSES),
            "dense_2_bias": (1, CLASSES),
            "prototypes_1": (3, CLASSES, 10),
            "prototypes_2": (1, CLASSES, CLASSES),
        }
