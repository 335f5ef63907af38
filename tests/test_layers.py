"""Every kind of layer keeps the contract; and what batch norm and convolution are, by hand."""

import inspect

import numpy as np
import pytest
from scipy.signal import correlate2d

from meshes import Amplifier, BlackBox, ElectroOptic, RectangularMesh
from meshes._tensorflow import tf
from meshes.nonlinearities import Linear
from meshes.propagation import resolve_engine
from photonic_ffzero import layers
from photonic_ffzero.layers.activations import Relu, Tanh
from photonic_ffzero.layers.conv import Conv
from photonic_ffzero.layers.dense import Dense
from photonic_ffzero.layers.mixer import Head, Mixer
from photonic_ffzero.layers.photonic import Modulated, Photonic

pytestmark = pytest.mark.compiled

P, B = 3, 4


def rng(seed=0):
    return np.random.default_rng(seed)


def conv(activation=None, taps=4, **given):
    shape = given.pop("shape", (6, 5, 2))
    sizes = {"kernel_size": 3, "padding": 1, "pool": 2} | given
    pixels = int(np.prod(Conv.map_shape(shape, *sizes.values())))
    projection = np.eye(pixels) if taps is None else rng().normal(size=(pixels, taps))
    return Conv(shape, 3, projection, activation or Relu(), **sizes)


MODULATOR = ElectroOptic(alpha=0.3, g=0.4, phi_b=np.pi / 2)

# Small examples of every kind, and how many inputs each has; a bright mesh, as with the dark one
# nothing passes.
EXAMPLES = {
    "photonic": (
        lambda: Photonic(RectangularMesh(4, 3), ElectroOptic(phi_b=np.pi / 2), "xla"),
        4,
    ),
    "modulated": (
        lambda: Modulated(
            RectangularMesh(4, 3), Linear(), "xla", amplifier=Amplifier(level=2.0), start=MODULATOR
        ),
        4,
    ),
    "dense": (lambda: Dense(5, 6, Tanh(), groups=2), 5),
    "conv": (conv, 60),
    "first mixer": (lambda: Mixer(2, 6, Tanh(), 2, (4, 2)), 32),
    "later mixer": (lambda: Mixer(2, 6, Tanh(), 2), 24),
    "head": (lambda: Head(2, 6, 3), 24),
}
# Where the gradient of the tapped values leads back to none of the parameters, or not to all.
NO_PULLBACK = {
    "photonic": r"perturb must be weights for a mesh: .*phases",
    "modulated": r"perturb must be weights for a mesh: .*phases",
    "first mixer": r"perturb must be weights.* for a mixer: .*last of its maps",
    "later mixer": r"perturb must be weights.* for a mixer: .*last of its maps",
}


def test_every_kind_of_layer_has_an_example_here():
    found = {
        value
        for value in vars(layers).values()
        if inspect.isclass(value)
        and issubclass(value, layers.Layer)
        and not inspect.isabstract(value)
    }
    assert found == {type(make()) for make, _ in EXAMPLES.values()}


def parameters(layer, sets=P, seed=0):
    """Parameter sets in double precision, unlike any that the layer begins with."""
    source = rng(seed)
    arrays = [source.normal(size=(sets, *mask.shape)) for mask in layer.trainable]
    found = type(layer.trainable)(*map(tf.constant, arrays))
    return found._replace(variance=tf.abs(found.variance)) if hasattr(found, "variance") else found


def inputs(kind, *lead, seed=1):
    values = tf.constant(rng(seed).normal(size=(*lead, EXAMPLES[kind][1])))
    return tf.complex(values, 0.5 * values) if kind == "modulated" else values  # behind a mesh


def one_set(params, p=0):
    return tf.nest.map_structure(lambda w: w[p], params)


def lead(params):
    return tf.nest.map_structure(lambda w: tf.convert_to_tensor(w)[tf.newaxis], params)


def doubles(params):
    """`calibrate` returns statistics in single precision."""
    return tf.nest.map_structure(lambda w: tf.cast(w, tf.float64), params)


@pytest.fixture(params=EXAMPLES)
def kind(request):
    return request.param


@pytest.fixture
def layer(kind):
    make, _ = EXAMPLES[kind]
    return make()


FUNCTIONS = ("measure", "transmit")


class TestEveryLayer:
    def test_begins_with_one_parameter_set_in_single_precision(self, layer):
        first, again, other = layer.init(rng()), layer.init(rng()), layer.init(rng(1))
        tf.nest.assert_same_structure(first, layer.trainable)
        for array, mask in zip(first, layer.trainable, strict=True):
            assert array.shape == mask.shape
            assert array.dtype == np.float32
            assert mask.dtype == bool
        np.testing.assert_array_equal(first[0], again[0])
        assert not np.array_equal(first[0], other[0])

    @pytest.mark.parametrize("name", FUNCTIONS)
    @pytest.mark.parametrize("evaluated", [False, True])
    def test_parameter_sets_side_by_side_are_those_one_by_one(self, kind, layer, name, evaluated):
        function = getattr(layer.evaluation if evaluated else layer, name)
        params = parameters(layer)
        shared, own = inputs(kind, B), inputs(kind, P, B)
        together, each = function(params, shared), function(params, own)
        size = layer.taps if name == "measure" else layer.outgoing
        assert each.shape == together.shape == (P, B, size)
        if name == "measure":
            assert each.dtype == tf.float64
        for p in range(P):
            single = lead(one_set(params, p))
            np.testing.assert_allclose(together[p], function(single, shared)[0], atol=1e-12)
            np.testing.assert_allclose(each[p], function(single, own[p])[0], atol=1e-12)
            np.testing.assert_allclose(each[p], function(single, own[p][tf.newaxis])[0], atol=1e-12)

    def test_says_truly_whether_it_is_linear(self, kind, layer):
        a, b, x = parameters(layer, seed=2), parameters(layer, seed=3), inputs(kind, B)
        mixed = tf.nest.map_structure(lambda v, w: 2 * v - 3 * w, a, b)
        error = layer.measure(mixed, x) - 2 * layer.measure(a, x) + 3 * layer.measure(b, x)
        assert (np.abs(error).max() < 1e-9) == layer.linear

    def test_outputs_of_a_group_depend_on_its_own_parameters_alone(self, kind, layer):
        x, params = inputs(kind, B), parameters(layer)
        before = by_group(layer, layer.measure(params, x))
        for g in range(layer.groups):
            moved = parameters(layer, seed=7)
            if layer.groups > 1:
                own = np.arange(layer.groups) == g
                moved = tf.nest.map_structure(
                    lambda w, m, own=own: tf.where(stretched(own, w), m, w), params, moved
                )
            changed = by_group(layer, layer.measure(moved, x)) != before
            for other in range(layer.groups):
                assert np.any(changed[:, :, other]) == (other == g)

    def test_what_is_no_parameter_changes_nothing_in_training(self, kind, layer):
        x, params = inputs(kind, B), parameters(layer)
        moved = tf.nest.map_structure(
            lambda w, mask: w + tf.where(mask, 0.0, tf.constant(1.0, w.dtype)),
            params,
            layer.trainable,
        )
        for name in FUNCTIONS:
            function = getattr(layer, name)
            np.testing.assert_allclose(function(moved, x), function(params, x), atol=1e-12)

    @pytest.mark.parametrize("name", FUNCTIONS)
    def test_compiles_as_it_says(self, kind, layer, name):
        assert layer.runs_on == (resolve_engine("auto") if kind == "conv" else "xla")
        function, params, x = getattr(layer, name), parameters(layer), inputs(kind, B)
        compiled = tf.function(function, jit_compile=True, autograph=False)
        np.testing.assert_allclose(compiled(params, x), function(params, x), atol=1e-10)

    def test_pulls_the_gradient_back_as_the_tape_does_or_says_why_not(self, kind, layer):
        params, x = one_set(parameters(layer)), inputs(kind, B)
        g_z = tf.constant(rng(4).normal(size=(B, layer.taps)))
        if kind in NO_PULLBACK:
            with pytest.raises(ValueError, match=NO_PULLBACK[kind]):
                layer.pullback(params, x, g_z)
            return
        with tf.GradientTape() as tape:
            tape.watch(params)
            value = tf.reduce_sum(layer.measure(lead(params), x)[0] * g_z)
        expected = tape.gradient(value, params, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        z, trace = layer.traced(params, x)
        np.testing.assert_allclose(z, layer.measure(lead(params), x)[0], atol=1e-12)
        for found, exact in zip(layer.pullback(params, trace, g_z), expected, strict=True):
            np.testing.assert_allclose(found, exact, atol=1e-9)

    def test_outside_of_training_an_input_is_judged_without_the_others(self, kind, layer):
        x = inputs(kind, B)
        params = doubles(lead(layer.with_statistics(one_set(parameters(layer)), np.asarray(x))))
        for name in FUNCTIONS:
            function = getattr(layer.evaluation, name)
            whole = function(params, x)
            for b in range(B):
                alone = function(params, x[b : b + 1])
                np.testing.assert_allclose(whole[:, b : b + 1], alone, rtol=1e-5, atol=1e-9)
        assert layer.evaluation.evaluation.taps == layer.taps


def stretched(mask, w):
    """A mask over the groups as one over the array [P, G, ...]."""
    return np.reshape(mask, [1, -1] + [1] * (len(w.shape) - 2))


def by_group(layer, z):
    return np.reshape(z, [*z.shape[:2], layer.groups, -1])


@pytest.mark.parametrize(
    ("layer", "variance"),
    [
        (Dense(50, 400, Relu(), groups=4), 2 / 50),
        (Conv((9, 9, 4), 200, np.ones((1, 1)), Relu(), kernel_size=3), 2 / 36),
    ],
    ids=["dense", "conv"],
)
def test_digital_weights_begin_with_the_variance_that_keeps_the_signal(layer, variance):
    """Normal, 2 over the number of inputs: its estimate has a relative error of sqrt(2 / n)."""
    kernel = layer.init(rng()).kernel
    error = 5 * np.sqrt(2 / kernel.size)
    np.testing.assert_allclose(kernel.var() / variance, 1, atol=error)
    assert abs(kernel.mean()) < 5 * np.sqrt(variance / kernel.size)


class TestDense:
    @pytest.mark.parametrize(("groups", "size"), [(1, 4), (3, 1), (2, 3)])
    def test_is_a_matrix_product_and_scales_it_in_front_of_its_activation(self, groups, size):
        """To unit mean square, so that a nonlinearity always works in the same range."""
        layer = Dense(5, groups * size, Tanh(), groups)
        params, x = one_set(parameters(layer)), inputs("dense", B)
        matrix = np.concatenate(list(params.kernel.numpy()), axis=1)
        z = x @ matrix + np.ravel(params.bias)
        np.testing.assert_allclose(layer.measure(lead(params), x)[0], z)
        expected = np.tanh(z / np.sqrt(np.mean(z**2, axis=-1, keepdims=True)))
        np.testing.assert_allclose(layer.transmit(lead(params), x)[0], expected)
        dark = tf.nest.map_structure(tf.zeros_like, lead(params))
        assert not np.any(layer.transmit(dark, x))

    def test_groups_that_do_not_divide_the_outputs_are_refused(self):
        with pytest.raises(ValueError, match="groups must divide a layer's 10 outputs, got 3"):
            Dense(5, 10, Relu(), 3)


def maps_by_hand(layer, kernel, x):
    """Convolution [B, H', W', C], channel by channel, as SciPy has it."""
    images = np.reshape(x, (-1, *layer.shape))
    pad = layer.padding
    images = np.pad(images, [(0, 0), (pad, pad), (pad, pad), (0, 0)])
    maps = [
        [
            sum(correlate2d(image[..., i], own[..., i], "valid") for i in range(layer.shape[2]))
            for own in kernel
        ]
        for image in images
    ]
    return np.moveaxis(np.array(maps), 1, -1)


def pooled_by_hand(maps, pool):
    rows, columns = maps.shape[1] // pool, maps.shape[2] // pool
    cut = maps[:, : rows * pool, : columns * pool]
    cut = cut.reshape(len(maps), rows, pool, columns, pool, -1)
    return cut.max(axis=(2, 4)).reshape(len(maps), -1)


class TestConv:
    @pytest.mark.parametrize(
        "given",
        [
            {},
            {"kernel_size": 2, "padding": 0, "pool": 1},
            {"kernel_size": 6, "padding": 2, "pool": 2, "shape": (5, 8, 1)},
            {"kernel_size": 1, "padding": 0, "pool": 3, "shape": (3, 7, 3)},
        ],
        ids=str,
    )
    def test_equals_convolution_batch_norm_and_pools_by_hand(self, given):
        layer = conv(**given)
        params = one_set(parameters(layer))
        x = rng().normal(size=(B, int(np.prod(layer.shape))))
        maps = maps_by_hand(layer, params.kernel.numpy(), x)
        unit = (maps - maps.mean(axis=(0, 1, 2))) / np.sqrt(maps.var(axis=(0, 1, 2)) + 1e-5)
        y = params.scale * unit + params.shift
        tapped = np.einsum("bhwc,hwn->bcn", y, layer.projection.reshape(*y.shape[1:3], -1))
        z = layer.measure(lead(params), tf.constant(x))[0]
        np.testing.assert_allclose(z, tapped.reshape(B, -1), atol=1e-10)
        out = layer.transmit(lead(params), tf.constant(x))[0]
        np.testing.assert_allclose(out, pooled_by_hand(np.maximum(y, 0), layer.pool), atol=1e-10)

    @pytest.mark.parametrize(
        "given", [{}, {"kernel_size": 2, "padding": 0}, {"kernel_size": 1, "padding": 2}], ids=str
    )
    def test_gradients_are_the_slopes_of_central_differences(self, given):
        """Of kernels and of inputs, through batch norm, activation and pools."""
        layer = conv(Tanh(), **given)
        params, x = lead(one_set(parameters(layer))), inputs("conv", B)
        point, weights = (params.kernel, x), rng(4).normal(size=(1, B, layer.outgoing))

        def loss(kernel, x):
            return tf.reduce_sum(layer.transmit(params._replace(kernel=kernel), x) * weights)

        with tf.GradientTape() as tape:
            tape.watch(point)
            value = loss(*point)
        for index, gradient in enumerate(tape.gradient(value, point)):
            direction = rng(7 + index).normal(size=gradient.shape)
            ends = [
                loss(*(w + h * direction if i == index else w for i, w in enumerate(point)))
                for h in (1e-6, -1e-6)
            ]
            slope = (ends[0] - ends[1]) / 2e-6
            np.testing.assert_allclose(slope, np.sum(gradient * direction), rtol=1e-6, atol=1e-7)

    def test_settles_on_the_mean_and_variance_of_the_data_set(self):
        layer = conv()
        params, x = one_set(parameters(layer)), 3 + rng(5).normal(size=(7, 60))
        settled = layer.with_statistics(params, x)
        maps = maps_by_hand(layer, params.kernel.numpy(), x)
        np.testing.assert_allclose(settled.mean, maps.mean(axis=(0, 1, 2)), rtol=1e-6)
        np.testing.assert_allclose(settled.variance, maps.var(axis=(0, 1, 2)), rtol=1e-6)
        assert settled.mean.dtype == settled.variance.dtype == np.float32
        assert all(a is b for a, b in zip(settled[:3], params[:3], strict=True))

    def test_settled_on_the_batch_it_does_outside_what_it_does_in_training(self):
        layer, params, x = conv(), one_set(parameters(conv())), inputs("conv", 9)
        own = doubles(layer.with_statistics(params, np.asarray(x)))
        for name in FUNCTIONS:
            found = getattr(layer.evaluation, name)(lead(own), x)
            np.testing.assert_allclose(found, getattr(layer, name)(lead(params), x), atol=1e-5)

    @pytest.mark.parametrize("constant", [0, 1e4])
    def test_a_constant_map_stays_finite(self, constant):
        """No image at all, and a large constant one whose sums cancel."""
        layer = conv(padding=0)
        params, x = one_set(parameters(layer)), np.full((B, 60), constant, float)
        settled = layer.with_statistics(params, x)
        assert np.all(settled.variance >= 0)
        z, trace = layer.traced(params, tf.constant(x))
        gradient = layer.pullback(params, trace, tf.ones((B, layer.taps), tf.float64))
        for array in (z, settled.mean, settled.variance, *gradient):
            assert np.all(np.isfinite(array))


@pytest.mark.parametrize(
    ("kind", "make"),
    [
        ("dense", lambda f: Dense(5, 6, f)),
        ("conv", conv),
        ("first mixer", lambda f: Mixer(2, 6, f, 2, (4, 2))),
        ("later mixer", lambda f: Mixer(2, 6, f, 2)),
    ],
)
def test_black_boxes_stand_between_real_layers_as_any_activation(kind, make):
    box, known = make(BlackBox(np.tanh)), make(Tanh())
    assert box.runs_on == "native"
    for params, x in (
        (parameters(box), inputs(kind, B)),
        (lead(box.init(rng())), tf.cast(inputs(kind, B), tf.float32)),
    ):
        for function in (box.transmit, tf.function(box.transmit, autograph=False)):
            out = function(params, x)
            assert out.dtype == x.dtype
            np.testing.assert_allclose(out, known.transmit(params, x), atol=1e-6)


def test_a_modulated_mesh_begins_as_a_mesh_behind_the_nonlinearity():
    mesh = RectangularMesh(4, 3)
    x = tf.cast(inputs("modulated", B), tf.complex64)
    modulated = Modulated(mesh, Linear(), "xla", start=MODULATOR)
    plain = Photonic(mesh, Linear(), "xla")
    expected = plain.measure(lead(plain.init(rng())), MODULATOR(x))
    z = modulated.measure(lead(modulated.init(rng())), x)
    np.testing.assert_allclose(z, expected, atol=1e-6)
