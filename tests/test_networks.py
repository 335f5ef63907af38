"""Networks by name: what is built, what is said of it beforehand, and what does not fit."""

import itertools

import numpy as np
import pytest

from meshes import ElectroOptic
from meshes._tensorflow import tf
from meshes.nonlinearities import Linear
from photonic_ffzero import Model, configure
from photonic_ffzero.config import METHODS, Config
from photonic_ffzero.data.tasks import Classification, Regression
from photonic_ffzero.goodness.readouts import Goodness, Ports
from photonic_ffzero.layers.conv import Conv
from photonic_ffzero.layers.dense import Dense
from photonic_ffzero.layers.mixer import Head, Mixer, Pooled
from photonic_ffzero.layers.photonic import Modulated, Photonic
from photonic_ffzero.networks import NETWORKS, build_blocks, parameter_shapes
from photonic_ffzero.settings import settings_of

CLASSES = Classification(3)
TWO = Regression((0.0, -1.0), (1.0, 5.0))
# Small settings of every network, and the values of one of its inputs.
SETTINGS = {
    "photonic": ({"meshes": 3, "columns": 2}, 8),
    "mlp": ({"depth": 3, "width": 8}, 5),
    "cnn": ({"depth": 3, "channels": 4, "kernel_size": 3}, 36),
    "mixer": ({"depth": 3, "channels": 8, "groups": 2, "patches": 2, "head": "prototypes"}, 36),
}
KINDS = {  # by block under ff, and of the one block under bp
    "photonic": ([[Photonic]] * 3, [Photonic] * 3),
    "mlp": ([[Dense]] * 3, [Dense] * 3),
    "cnn": ([[Conv], [Conv], [Dense]], [Conv, Conv, Dense]),
    "mixer": ([[Mixer]] * 3, [Mixer] * 3),
}


def configured(network, method="ff-dd", task=CLASSES, **given):
    own, units = SETTINGS[network]
    return configure("digital", method, network=network, task=task.name, **(own | given)), units


def built(network, method="ff-dd", task=CLASSES, **given):
    config, units = configured(network, method, task, **given)
    return build_blocks(config, units, task)


def test_every_network_that_has_a_name_is_built_and_has_settings_here():
    assert tuple(NETWORKS) == settings_of(Config)["network"].kind.options == tuple(SETTINGS)


@pytest.mark.parametrize("network", NETWORKS)
class TestEveryNetwork:
    @pytest.mark.parametrize("method", METHODS)
    def test_is_cut_into_blocks_by_its_method(self, network, method):
        blocks, params = built(network, method)
        kinds = [[type(layer) for layer in block.layers] for block in blocks]
        by_block, at_once = KINDS[network]
        assert kinds == (by_block if method[:2] == "ff" else [at_once])
        read_out = {"ff": Goodness, "bp": Ports}[method[:2]]
        readout = Pooled if network == "mixer" else read_out
        assert {block.readout.__class__ for block in blocks} == {readout}
        for block, own in zip(blocks, params, strict=True):
            tf.nest.assert_same_structure(own, block.trainable)

    @pytest.mark.parametrize("task", [CLASSES, TWO], ids=["classes", "two numbers"])
    @pytest.mark.parametrize("groups", [1, 2])
    def test_is_described_as_it_is_built(self, network, task, groups):
        """Without building it: a file's description is compared with its arrays first."""
        if network == "mixer" and task is TWO:
            pytest.skip("mixers learn classes")
        config, units = configured(network, "ff-ad", task, groups=groups)
        blocks, params = build_blocks(config, units, task)
        expected = [
            (layer.name, tf.nest.map_structure(np.shape, own))
            for block, layers in zip(blocks, params, strict=True)
            for layer, own in zip(block.layers, layers, strict=True)
        ]
        assert list(parameter_shapes(config, units, task)) == expected
        assert [block.labels for block in blocks] == [task.labels] * len(blocks)
        for block in blocks:
            dimensions = block.readout.prototypes.shape
            assert dimensions[1] == task.classes
            assert dimensions[0] * dimensions[2] * block.layers[-1].repeats == block.taps
            assert dimensions[0] % task.labels == 0

    def test_layers_fit_each_other_whatever_the_method(self, network):
        for method in ("ff-dd", "bp-ad"):
            config, units = configured(network, method)
            x = np.random.default_rng(0).normal(size=(4, units)).astype(np.float32)
            scores = Model(config, units, CLASSES).scores(x)
            assert scores.shape == (3 if method == "ff-dd" else 1, 4, 3)
            assert np.all(np.isfinite(scores))

    def test_the_seed_alone_decides_where_it_begins(self, network):
        def arrays(seed, method="ff-dd"):
            blocks, params = built(network, method, seed=seed)
            constants = [block.readout.prototypes for block in blocks] if method == "ff-dd" else []
            layers = [layer for block in blocks for layer in block.layers]
            constants += [layer.projection for layer in layers if isinstance(layer, Conv)]
            return tf.nest.flatten(params), constants

        (first, fixed), (again, fixed_again), (_, fixed_other) = arrays(3), arrays(3), arrays(4)
        for one, other in zip(first + fixed, again + fixed_again, strict=True):
            np.testing.assert_array_equal(one, other)
        for one, other in zip(fixed, fixed_other, strict=True):
            assert np.all(one != other)
        assert not np.array_equal(first[0], arrays(4)[0][0])
        whole, _ = arrays(3, "bp-dd")  # FF and BP begin alike
        for one, other in zip(first, whole, strict=True):
            np.testing.assert_array_equal(one, other)

    def test_no_two_layers_begin_alike(self, network):
        blocks, params = built(network)
        for (one, a), (other, b) in itertools.combinations(zip(blocks, params, strict=True), 2):
            if a[0][0].shape == b[0][0].shape:
                assert not np.array_equal(a[0][0], b[0][0])
            if network == "mixer":  # its blocks add to one another's values
                assert np.array_equal(one.readout.prototypes, other.readout.prototypes)
            elif one.readout.prototypes.shape == other.readout.prototypes.shape:
                assert not np.array_equal(one.readout.prototypes, other.readout.prototypes)


@pytest.mark.parametrize(
    ("method", "kinds"),
    [("ff-dd", [[Mixer, Head], [Mixer, Head], [Head]]), ("bp-dd", [[Mixer, Mixer, Head]])],
)
def test_linear_heads_stand_behind_their_blocks(method, kinds):
    blocks, params = built("mixer", method, head="linear", depth=2)
    assert [[type(layer) for layer in block.layers] for block in blocks] == kinds
    assert {block.readout.__class__ for block in blocks} == {Ports}
    assert not params[-1][-1].kernel.any()
    if method == "ff-dd":
        assert params[0][-1].kernel.any()


def test_trained_modulators_stand_in_front_of_every_mesh_but_the_first():
    config = configure(meshes=3, train_nonlinearity=True, nonlinearity="electro-optic:g=0.2")
    (first,), (second,), (third,) = (block.layers for block in build_blocks(config, 8, CLASSES)[0])
    assert [type(layer) for layer in (first, second, third)] == [Photonic, Modulated, Modulated]
    assert second.start == third.start == ElectroOptic(g=0.2)
    assert {layer.nonlinearity for layer in (first, second, third)} == {Linear()}
    shapes = [own for _, own in parameter_shapes(config, 8, CLASSES)]
    built = [tf.nest.map_structure(np.shape, own) for (own,) in build_blocks(config, 8, CLASSES)[1]]
    assert shapes == built


def test_groups_of_one_layer_have_prototypes_of_their_own():
    for blocks, _ in (built("mlp", groups=2), built("cnn")):
        for block in blocks:
            for one, other in itertools.combinations(block.readout.prototypes, 2):
                assert np.abs(one - other).max() > 0.1


def test_prototypes_are_drawn_by_the_law_of_the_configuration():
    """On a simplex all cosines are alike, at random none."""
    for law, alike in (("simplex", True), ("random", False)):
        blocks, _ = built("mlp", prototypes=law)
        first = blocks[0].readout.prototypes[0]
        cosines = (first @ first.T)[np.triu_indices(3, 1)]
        assert np.allclose(cosines, -1 / 2, atol=1e-5) == alike
    blocks, _ = built("mlp", task=TWO)
    assert blocks[0].readout.prototypes.shape == (2, 1, 4)  # p+ alone


def test_the_depth_counts_the_last_layer():
    for depth in (1, 2, 4):
        blocks, _ = built("mlp", depth=depth)
        assert [block.taps for block in blocks] == [8] * (depth - 1) + [3]
    blocks, _ = built("cnn", depth=1)
    assert [type(block.layers[0]) for block in blocks] == [Dense]


KERNEL, TAPS = "kernel_size must", "readout goodness: 3 classes .* got 2 behind dense 1"


@pytest.mark.parametrize(
    ("network", "units", "settings", "task", "message"),
    [
        ("cnn", 35, {}, CLASSES, "cnn needs square images, got 35 values"),
        ("cnn", 4, {"kernel_size": 7}, CLASSES, f"{KERNEL} be at most the padded image's 6"),
        ("cnn", 4, {"kernel_size": 6}, CLASSES, f"{KERNEL} leave 2 rows .*, which leaves 1"),
        ("cnn", 36, {"kernel_size": 6, "depth": 5}, CLASSES, f"{KERNEL} (be at most|leave)"),
        ("mlp", 5, {"groups": 3}, CLASSES, "width must be a multiple of 3, .* got 8"),
        ("mlp", 5, {"width": 9}, TWO, "width must be a multiple of 2, .* got 9"),
        ("mlp", 5, {"width": 2}, CLASSES, TAPS),
        ("mlp", 5, {"groups": 4}, CLASSES, TAPS),
        ("cnn", 36, {}, Classification(11), "readout goodness: 11 classes .* got 10 behind conv 1"),
        ("cnn", 36, {"channels": 3}, TWO, "channels must be a multiple of the 2 label .*, got 3"),
        ("photonic", 6, {"groups": 4}, CLASSES, "groups must share 6 tapped .* behind mesh 1"),
        ("mlp", 5, {"width": 10**6}, CLASSES, "width must be smaller: .* in the first 2 of 3"),
        ("cnn", 36, {"channels": 10**8}, CLASSES, "channels must be smaller: .* parameters, got"),
        ("photonic", 6, {"columns": 10**8}, CLASSES, "columns must be smaller: .* parameters, got"),
        ("photonic", 1000, {"meshes": 999, "columns": 1000}, CLASSES, "meshes must be .* got 999"),
        ("mlp", 5, {"depth": 99, "width": 8000}, CLASSES, "depth must be at most 3 .*, got 99"),
    ],
)
def test_what_does_not_fit_is_one_error_before_any_training(
    network, units, settings, task, message
):
    config, _ = configured(network, "ff-dd", task, **settings)
    with pytest.raises(ValueError, match=message):
        Model(config, units, task)


def test_the_task_is_that_of_the_configuration():
    config, units = configured("mlp")
    with pytest.raises(ValueError, match="task must be a classification, got Regression"):
        Model(config, units, TWO)
