"""Mixers: sizes, gradients from loss values alone, parts that judge their own noise."""

import itertools

import numpy as np
import pytest

from meshes._tensorflow import tf
from photonic_ffzero import Model, configure, encode, evaluate, fit, load_dataset, load_model
from photonic_ffzero.cli import train
from photonic_ffzero.cli.train import main
from photonic_ffzero.data.tasks import Classification
from photonic_ffzero.goodness.losses import CrossEntropy
from photonic_ffzero.goodness.prototypes import simplex
from photonic_ffzero.goodness.readouts import Ports
from photonic_ffzero.gradients.directions import Directions, draw
from photonic_ffzero.gradients.estimators import ESTIMATORS, Autodiff, ForwardGradient, estimate
from photonic_ffzero.gradients.objectives import InnerActivations, Weights
from photonic_ffzero.layers import Head, Mixer, Pooled
from photonic_ffzero.layers.activations import Relu, Tanh
from photonic_ffzero.layers.blocks import Block
from photonic_ffzero.layers.mixer import Passage
from photonic_ffzero.networks import build_blocks, parameter_shapes
from photonic_ffzero.seeds import generator
from photonic_ffzero.training.observer import Observer
from photonic_ffzero.training.step import StepState, make_step

B, SIDE, COLOURS, PATCHES, G, SIZE, C = 3, 4, 2, 2, 2, 3, 3
D, P = G * SIZE, PATCHES**2
DIRECTIONAL = ("central", "forward", "jvp")


def rng(*place):
    return generator(0, "tests of mixers", *place)


def doubles(structure):
    return tf.nest.map_structure(lambda a: tf.constant(a, tf.float64), structure)


def body(kind, activation=None):
    """Layers of a block: a first, a later one, or both."""
    activation = activation or Tanh()
    first = Mixer(PATCHES, D, activation, G, (SIDE, COLOURS))
    later = Mixer(PATCHES, D, activation, G)
    return {"first": (first,), "later": (later,), "both": (first, later)}[kind]


def problem(kind, head, joint=False, activation=None):
    """A block in double precision with biases, its inputs and labels."""
    layers, source = body(kind, activation), rng()
    prototypes = np.stack([simplex(C, SIZE, rng(g)) for g in range(G)]).astype(float)
    readout = Pooled(prototypes, "raw", 0, PATCHES, joint)
    if head == "linear":
        layers, readout = (*layers, Head(PATCHES, D, C)), Ports(1, C)
    params = tuple(
        type(layer.shapes)(*(source.normal(size=shape) for shape in layer.shapes))
        for layer in layers
    )
    inputs = SIDE**2 * COLOURS if kind != "later" else P * D
    x, y = source.normal(size=(B, inputs)), source.integers(0, C, (B, 1))
    return Block(layers, readout), doubles(params), tf.constant(x), y


def objective(perturbation, problem):
    block, params, x, y = problem
    return perturbation(block, CrossEntropy(3.0), params, x, y)


def exact(problem):
    return estimate(Autodiff(), objective(Weights(False), problem), None)


def complete(problem, epsilon, grouped):
    """Directions that span what one slope judges: all of a sample, or of a patch and group."""
    sites = InnerActivations(grouped).trainable(problem[0], B)
    flat = tf.nest.flatten(sites)
    total = sum(mask[0].size for mask in flat)
    eye = np.sqrt(total) * np.eye(total)
    arrays, start = [], 0
    for mask in flat:
        size = mask[0].size
        part = eye[:, start : start + size].reshape(total, 1, *mask.shape[1:])
        arrays.append(np.broadcast_to(part, (total, *mask.shape)).copy())
        start += size
    steps = [epsilon] * len(arrays)
    return Directions(*(tf.nest.pack_sequence_as(sites, each) for each in (arrays, steps)))


def close(one, other, **tolerance):
    for a, b in zip(tf.nest.flatten(one), tf.nest.flatten(other), strict=True):
        np.testing.assert_allclose(a, b, **tolerance)


QUICK = [
    ("first", "linear", True),
    ("later", "prototypes", True),
    ("later", "linear", False),
    ("both", "linear", False),
]
CASES = [
    pytest.param(*case, marks=[pytest.mark.long] * (case not in QUICK))
    for case in (
        *itertools.product(("first", "later"), ("linear", "prototypes"), (True, False)),
        *itertools.product(("both",), ("linear", "prototypes"), (False,)),
    )
]


@pytest.mark.parametrize(("kind", "head", "grouped"), CASES)
class TestInnerActivations:
    @pytest.mark.parametrize(
        ("name", "tolerance"),
        [("central", 1e-5), pytest.param("jvp", 1e-9, marks=pytest.mark.long)],
    )
    def test_all_directions_give_the_automatic_gradient(self, kind, head, grouped, name, tolerance):
        here = problem(kind, head, joint=not grouped)
        own = objective(InnerActivations(grouped), here)
        found = estimate(ESTIMATORS[name](), own, complete(here, 1e-5, grouped))
        expected = exact(here)
        close(found.gradient, expected.gradient, atol=tolerance, rtol=tolerance)
        np.testing.assert_allclose(found.loss, expected.loss, rtol=1e-5)
        assert max(np.abs(g).max() for g in tf.nest.flatten(expected.gradient)) > 1e-2

    @pytest.mark.parametrize(
        "name",
        [pytest.param(n, marks=[pytest.mark.long] * (n != "central")) for n in DIRECTIONAL],
    )
    def test_parts_at_once_are_as_good_as_one_after_the_other(self, kind, head, grouped, name):
        """Move one patch and group at a time, and look at its slope."""
        here = problem(kind, head, joint=not grouped)
        own = objective(InnerActivations(grouped), here)
        along = draw("gaussian", 1e-4, 2, InnerActivations(grouped).trainable(here[0], B), rng(1))
        along = tf.nest.map_structure(np.float64, along)
        together = estimate(ESTIMATORS[name](), own, along).gradient
        total = tf.nest.map_structure(tf.zeros_like, together)
        parts = [(p, g) for p in range(P) for g in range(G)] if grouped else [(0, 0)]
        count = len(here[0].moved)
        for p, g in parts:

            def only(array, p=p, g=g):
                shape = np.shape(array)
                mask = np.ones((1, 1, shape[2], shape[3], 1))
                if grouped:
                    mask[:, :, np.arange(P) != p] = 0
                    if shape[3] == G:
                        mask[:, :, :, np.arange(G) != g] = 0
                return array * mask

            alone_along = Directions(tf.nest.map_structure(only, along.v), along.step)

            def alone_losses(moved, p=p, g=g):
                losses = own.losses(moved)
                return losses[:, :, p : p + 1, g : g + 1] if grouped else losses

            known = own.known[:, :, p : p + 1, g : g + 1] if grouped else own.known
            single = own._replace(losses=alone_losses, known=known)
            gradient = estimate(ESTIMATORS[name](), single, alone_along).gradient
            total = tf.nest.map_structure(tf.add, total, gradient)
        close(together[:count], total[:count], rtol=1e-6, atol=1e-8)

    def test_a_relu_s_mask_keeps_the_estimate_unbiased(self, kind, head, grouped):
        here = problem(kind, head, joint=not grouped, activation=Relu())
        own = objective(InnerActivations(grouped), here)
        found = estimate(ForwardGradient(), own, complete(here, 1.0, grouped))
        close(found.gradient, exact(here).gradient, atol=1e-9)


@pytest.mark.parametrize("head", ["linear", "prototypes"])
@pytest.mark.parametrize("grouped", [True, False])
def test_weights_move_as_those_of_any_layer(head, grouped):
    here = problem("later", head, joint=not grouped)
    trainable = here[0].trainable
    count = sum(int(mask.sum()) for mask in tf.nest.flatten(trainable))
    along = tf.nest.map_structure(np.float64, draw("orthonormal", 1e-4, count, trainable, rng(2)))
    found = estimate(ESTIMATORS["central"](), objective(Weights(), here), along)
    close(found.gradient, exact(here).gradient, atol=1e-6)


@pytest.mark.parametrize("grouped", [True, False])
def test_parts_that_judge_their_own_noise_are_less_noisy(grouped):
    """The variance of one estimate, against that of one slope for each sample."""
    here, errors = problem("later", "linear"), []
    own, expected = objective(InnerActivations(grouped), here), exact(here).gradient
    sites, source = InnerActivations(grouped).trainable(here[0], B), rng(3)
    for _ in range(8):
        along = tf.nest.map_structure(np.float64, draw("rademacher", 1.0, 1, sites, source))
        found = estimate(ForwardGradient(), own, along).gradient
        pairs = zip(tf.nest.flatten(found[:1]), tf.nest.flatten(expected[:1]), strict=True)
        errors.append(sum(np.sum((one - other) ** 2) for one, other in pairs))
    size = sum(np.sum(g.numpy() ** 2) for g in tf.nest.flatten(expected[:1]))
    noise = np.mean(errors) / size
    assert noise < 25 if grouped else noise > 40


@pytest.mark.parametrize(("name", "order"), [("forward", 1), ("central", 2)])
@pytest.mark.parametrize("head", ["linear", "prototypes"])
def test_slopes_err_by_the_step_to_the_order_of_the_differences(head, name, order):
    """With a smooth activation, against the exact slopes along the same directions."""
    here = problem("later", head)
    own = objective(InnerActivations(True), here)
    sites = InnerActivations(True).trainable(here[0], B)

    def gradient(kind, step):
        along = tf.nest.map_structure(np.float64, draw("rademacher", step, 4, sites, rng(6)))
        found = estimate(ESTIMATORS[kind](), own, along).gradient
        return np.concatenate([np.ravel(g) for g in tf.nest.flatten(found)])

    errors = [
        np.linalg.norm(gradient(name, step) - gradient("jvp", step)) for step in (0.02, 0.01, 0.005)
    ]
    np.testing.assert_allclose(np.log2(np.divide(errors[:-1], errors[1:])), order, atol=0.15)


@pytest.mark.parametrize("grouped", [True, False])
def test_the_variance_is_that_of_as_many_values_as_one_slope_judges(grouped):
    """Of signs v among N values with the gradient g, E |(g v) v|^2 = N |g|^2.

    In a first block N is all values of a sample, or those of a patch and group in both maps.
    """
    here, count = problem("first", "linear"), 4000
    sites = InnerActivations(grouped).trainable(here[0], B)
    along = tf.nest.map_structure(np.float64, draw("rademacher", 1.0, count, sites, rng(7)))
    own = objective(InnerActivations(grouped), here)
    own = own._replace(lift=lambda slopes, directions: (slopes, directions.v))
    slopes, v = estimate(ForwardGradient(), own, along).gradient
    moved = tf.concat(v[0], axis=-1)  # the maps' values [K, B, P, G, 2 n]
    each = slopes[..., tf.newaxis] * moved
    exact = tf.reduce_mean(each, axis=0)  # the mean of the estimates
    values = 2 * SIZE if grouped else 2 * P * D
    unbiased = tf.reduce_sum(exact**2) * (1 + 1 / count) - tf.reduce_sum(each**2) / count**2
    ratio = tf.reduce_mean(tf.reduce_sum(each**2, axis=[1, 2, 3, 4])) / unbiased
    np.testing.assert_allclose(ratio, values, rtol=0.1)


SIZES = {  # side, values a pixel, patches a side, channels, groups, blocks -> parameters
    "S/1/1": ((28, 1, 1, 256, 1, 1), 266_752 + 2 * 2_570),
    "M/1/16": ((28, 1, 1, 512, 16, 1), 28 * 28 * 512 + 512 + 16 * 32**2 + 512 + 2 * 5_130),
    "M/8/16": ((32, 3, 8, 512, 16, 4), None),
    "L/8/64": ((32, 3, 8, 2048, 64, 4), None),
}
ROUNDED = {"S/1/1": 272e3, "M/1/16": 429e3, "M/8/16": 919e3, "L/8/64": 13.1e6}


@pytest.mark.parametrize("name", SIZES)
def test_networks_have_as_many_parameters_as_published(name):
    (side, colours, patches, channels, groups, depth), count = SIZES[name]
    shape = {"patches": patches, "channels": channels, "groups": groups, "depth": depth}
    config = configure(
        "digital", network="mixer", head="linear", colour="rgb" if colours == 3 else "grey", **shape
    )
    layers = list(parameter_shapes(config, side**2 * colours, Classification(10)))
    found = sum(int(np.prod(shape)) for _, shapes in layers for shape in shapes)
    first = (side // patches) ** 2 * colours * channels + channels
    grouped, dense = channels**2 // groups + channels, channels**2 + channels
    over_patches, heads = patches**4 + patches**2, (depth + 1) * (10 * channels + 10)
    assert found == first + depth * grouped + (depth - 1) * (dense + over_patches) + heads
    assert count in (None, found)
    assert found == pytest.approx(ROUNDED[name], rel=3e-3)


def numpy_forward(block, params, x, moves, tapped):
    """A block's outputs, or tapped values, and what its gradient needs, by NumPy alone."""
    layer = block.moved[0]
    h, left = x.reshape(len(x), P, -1), []
    if layer.image:
        cells = x.reshape(len(x), PATCHES, SIDE // PATCHES, PATCHES, -1)
        h = cells.transpose(0, 1, 3, 2, 4).reshape(len(x), P, -1)
    maps = [np.asarray(array) for array in params[0]]
    for index, (kernel, bias, move) in enumerate(zip(maps[::2], maps[1::2], moves, strict=True)):
        if kernel.shape[0] == 1:
            a = (np.einsum("bpd,pq->bqd", h, kernel[0]) + bias[0][:, None])[..., None, :]
        elif kernel.shape[1] == D or index == 0:
            a = np.einsum("bpi,gin->bpgn", h, kernel) + bias
        else:
            a = np.einsum("bpgi,gin->bpgn", h.reshape(len(x), P, G, SIZE), kernel) + bias
        axes = (-1,) if index == len(moves) - 1 else (-2, -1)
        scale = 1 / np.sqrt(a.var(axis=axes, keepdims=True) + 1e-5)
        u = (a - a.mean(axis=axes, keepdims=True)) * scale
        left.append((h, u, scale))
        z = u + move
        if layer.image is None and index == len(moves) - 1:
            z = z + x.reshape(z.shape)
        h = np.tanh(z).reshape(len(x), P, -1)
    return (z if tapped else h).reshape(len(x), -1), left


@pytest.mark.parametrize("kind", ["first", "later"])
@pytest.mark.parametrize("head", ["linear", "prototypes"])
@pytest.mark.parametrize("grouped", [True, False])
def test_gradients_come_from_a_black_box_s_outputs(kind, head, grouped, monkeypatch):
    """A block's forward by NumPy, which nothing can differentiate, gives the same gradient."""
    here = problem(kind, head, joint=not grouped)
    block, params, x, _ = here
    sites = InnerActivations(grouped).trainable(block, B)
    along = tf.nest.map_structure(np.float64, draw("rademacher", 1e-4, 2, sites, rng(4)))
    step = ESTIMATORS["central"]()
    expected = estimate(step, objective(InnerActivations(grouped), here), along)
    calls = []

    def displaced(layer, layer_params, trace, inputs, moves, tapped):
        calls.append(len(moves[0]))
        each = [
            numpy_forward(block, params, x.numpy(), [np.asarray(m[k]) for m in moves], tapped)[0]
            for k in range(len(moves[0]))
        ]
        return tf.constant(np.stack(each))

    def trace(layer, layer_params, inputs, tapped):
        still = [np.zeros(mask.shape) for mask in layer.sites(B)]
        outputs, left = numpy_forward(block, params, x.numpy(), still, tapped)
        inputs, values, scales = zip(*tf.nest.map_structure(lambda a: a[None], left), strict=True)
        return tf.constant(outputs), Passage(inputs, values, scales, [None] * len(left), None)

    monkeypatch.setattr(Mixer, "displaced", displaced)
    monkeypatch.setattr(Mixer, "trace", trace)
    found = estimate(step, objective(InnerActivations(grouped), here), along)
    assert calls == [4]
    close(found.gradient, expected.gradient, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(found.loss, expected.loss, rtol=1e-9)


def largest_array(head, losses, monkeypatch, **shape):
    """Numbers in the largest array of a compiled step, and in its parts' losses."""
    config = configure("digital", network="mixer", head=head, losses=losses, depth=1, **shape)
    model = Model(config, 32 * 32 * 3, Classification(10))
    batch, patches = 4, config.patches**2
    stage = model.stages[0]
    sites = InnerActivations(losses == "grouped").trainable(stage.blocks[0], batch)
    step = make_step(stage, config)
    params = [tf.nest.map_structure(tf.constant, p) for p in model.params]
    state = [StepState.first(config, p, None) for p in params]
    directions = [draw("rademacher", 1e-2, 1, sites, rng(5)), None][: len(model.params)]
    compiled = tf.function(
        lambda x, y: step(params, state, x, y, directions, [()] * 2, 0.1), autograph=False
    )
    graph = compiled.get_concrete_function(
        tf.zeros([batch, 32 * 32 * 3]), tf.zeros([batch, 1], tf.int32)
    ).graph
    found = max(
        int(np.prod(out.shape))
        for op in graph.get_operations()
        for out in op.outputs
        if out.shape.is_fully_defined()
    )
    return found, 2 * batch * patches * max(config.channels, config.groups * 10)


@pytest.mark.parametrize("head", ["linear", "prototypes"])
def test_the_parts_take_no_more_memory_than_the_values_or_their_scores(head, monkeypatch):
    found, bound = largest_array(
        head, "grouped", monkeypatch, patches=8, channels=64, groups=4, colour="rgb"
    )
    assert found <= bound


@pytest.mark.parametrize("head", ["linear", "prototypes"])
def test_the_losses_take_no_more_memory_than_their_scores(head):
    """Nothing is as large as all values that moved, except these themselves."""
    patches, channels, groups, batch, points = 2, 64, 4, 3, 2
    config = configure(
        "digital", network="mixer", head=head, patches=patches, channels=channels, groups=groups,
        depth=1, colour="grey",
    )  # fmt: skip
    model = Model(config, 8**2, Classification(10))
    block, params = model.blocks[0], tf.nest.map_structure(tf.constant, model.params[0])
    x, y = np.ones((batch, 64), np.float32), np.zeros((batch, 1), np.int32)
    losses = InnerActivations(True)(block, CrossEntropy(1.0), params, x, y).losses
    moved = tf.TensorSpec([points, batch, patches**2 * channels])
    graph = tf.function(losses, autograph=False).get_concrete_function(moved).graph
    sizes = {
        (op.type, int(np.prod(out.shape)))
        for op in graph.get_operations()
        for out in op.outputs
        if op.type not in ("Placeholder", "Const", "Reshape", "Identity")
    }
    assert (
        max(size for _, size in sizes)
        <= points * batch * patches**2 * groups * 10
        < np.prod(moved.shape)
    )


DIGITS = {"recipe": "digital", "network": "mixer", "channels": 64, "groups": 4, "depth": 2}


@pytest.fixture(scope="module")
def digits():
    data = load_dataset("digits")
    images = (data.train_images[:600], data.test_images)
    return *(encode(x, size=8) - 0.3 for x in images), data.train_labels[:600], data.test_labels


@pytest.mark.long
@pytest.mark.parametrize("head", ["linear", "prototypes"])
def test_mixers_learn_without_differentiation(digits, head):
    x, x_test, y, y_test = digits
    model = fit(x, y, **DIGITS, head=head, epochs=10, batch_size=30, patches=2)
    assert evaluate(model, x_test, y_test).accuracy > 0.6


@pytest.mark.long
@pytest.mark.parametrize(
    "words", [["--head", "linear"], ["--order", "sequential"], ["--method", "bp-dd"]], ids=str
)
def test_a_run_that_stops_ends_in_the_same_figures(words, tmp_path):
    """From a checkpoint within the training to the same file; the model loads and predicts."""
    words = ["--network", "mixer", "--channels", "40", "--groups", "4", "--depth", "2", *words]
    words += ["--dataset", "digits", "--epochs", "2", "--limit", "300", "--quiet"]
    assert main([*words, "--output", str(tmp_path / "whole")], recipe="digital") == 0

    class Stop(Observer):
        def on_epoch(self, record):
            raise KeyboardInterrupt

    original = train.Job.run
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train.Job, "run", lambda job, seen: original(job, (*seen, Stop())))
        assert main([*words, "--output", str(tmp_path / "run")], recipe="digital") == 130
    assert main(["--resume", str(tmp_path / "run"), "--quiet"], recipe="digital") == 0
    whole, again = (load_model(tmp_path / name / "model.npz") for name in ("whole", "run"))
    for one, other in zip(
        tf.nest.flatten(whole.params), tf.nest.flatten(again.params), strict=True
    ):
        np.testing.assert_array_equal(one, other)
    assert again.encoder.mean


@pytest.mark.parametrize(
    ("settings", "rule"),
    [
        ({"patches": 3}, "patches must divide the image's 8 pixels a side, got 3; the nearest is"),
        ({"groups": 7}, "groups must divide the 64 channels, got 7; the nearest is 8"),
        ({"groups": 8}, "readout goodness: 10 classes .* got 8 behind mixer 1"),
        ({"losses": "global"}, "losses must be block or grouped for ff-dd, got global"),
        ({"losses": "block", "method": "bp-dd"}, "losses must be global for bp-dd, got block"),
        ({"readout": "ports"}, "readout must be goodness for head prototypes, got ports"),
        (
            {"head": "linear", "perturb": "weights", "losses": "grouped"},
            "losses must be block for head linear",
        ),
        ({"task": "regression"}, "task must be classification for mixer"),
        ({"network": "cnn", "patches": 2}, "patches does not apply to cnn"),
        ({"network": "cnn", "method": "bp-dd", "order": "together"}, "order does not apply"),
    ],
)
def test_what_does_not_fit_is_refused_before_training(settings, rule):
    values = {"recipe": "digital", "network": "mixer", "channels": 64, "head": "prototypes"}
    values |= settings
    if values["network"] != "mixer":
        del values["head"]
    with pytest.raises(ValueError, match=rule):
        build_blocks(configure(**values), 64, Classification(10))
