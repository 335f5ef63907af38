"""Every nonlinearity against its equation and the laws it obeys; black boxes and amplifiers."""

import math

import numpy as np
import pytest

from meshes import NONLINEARITIES, Amplifier, BlackBox, ElectroOptic, Modulus
from meshes._tensorflow import tf
from meshes.nonlinearities import electro_optic as modulator
from meshes.nonlinearities import parameters_of, with_parameters
from meshes.validation import from_spec

pytestmark = pytest.mark.compiled


def electro_optic(E, alpha, g, phi_b):
    """The paper's interferometer: the mean of its two arms."""
    arms = (1 + np.exp(-1j * (g * np.abs(E) ** 2 + phi_b))) / 2
    return np.sqrt(1 - alpha) * arms * E


def saturable_absorber(E, modulation_depth, nonsaturable_loss, saturation_intensity):
    bleaching = 1 + np.abs(E) ** 2 / saturation_intensity
    return np.sqrt(1 - nonsaturable_loss - modulation_depth / bleaching) * E


EQUATIONS = {
    "electro-optic": electro_optic,
    "saturable-absorber": saturable_absorber,
    "kerr": lambda E, phi_nl: E * np.exp(1j * phi_nl * np.abs(E) ** 2),
    "modrelu": lambda E, bias: np.maximum(np.abs(E) + bias, 0) * np.exp(1j * np.angle(E)),
    "zrelu": lambda E: E * ((np.angle(E) >= 0) & (np.angle(E) <= np.pi / 2)),
    "crelu": lambda E: E.real * (E.real > 0) + 1j * E.imag * (E.imag > 0),
    "modulus": lambda E: np.sqrt(E * E.conj()),
    "square-law": lambda E: E * E.conj(),
    "linear": lambda E: E,
}
FOLLOWS_THE_PHASE = {"electro-optic", "saturable-absorber", "kerr", "modrelu", "linear"}
SPECS = [
    *NONLINEARITIES,
    "electro-optic:alpha=0.3,g=0.4,phi_b=1.5707963",
    "electro-optic:alpha=1,g=-2,phi_b=0",
    "saturable-absorber:modulation_depth=0.3,nonsaturable_loss=0.2,saturation_intensity=2.5",
    "saturable-absorber:modulation_depth=0.9999999",
    "kerr:phi_nl=-3",
    "modrelu:bias=0",
    "modrelu:bias=-1.5",
]


def random_fields(shape=(5, 6), scale=2.0, dtype=np.complex64):
    real, imag = np.random.default_rng(0).normal(scale=scale, size=(2, *shape))
    return (real + 1j * imag).astype(dtype)


def gradient(function, fields):
    """d loss / d Re E + i d loss / d Im E of a loss that sees amplitude and phase."""
    fields = tf.convert_to_tensor(fields)
    with tf.GradientTape() as tape:
        tape.watch(fields)
        loss = tf.reduce_sum(tf.abs(function(fields) + (0.6 - 0.3j)) ** 2)
    return tape.gradient(loss, fields)


def compiled(function):
    return tf.function(function, jit_compile=True, autograph=False)


@pytest.mark.parametrize("spec", SPECS)
class TestEveryNonlinearity:
    @pytest.fixture
    def f(self, spec):
        return from_spec("nonlinearity", spec, NONLINEARITIES)

    def test_obeys_its_equation(self, spec, f):
        E = random_fields(dtype=np.complex128)
        expected = EQUATIONS[spec.partition(":")[0]](E, **vars(f))
        np.testing.assert_allclose(f(E), expected, rtol=1e-9, atol=1e-15)

    def test_arrays_tensors_and_compiled_functions_agree_and_keep_the_type(self, f):
        for shape, dtype in [((6,), np.complex128), ((2, 5, 6), np.complex64)]:
            fields = random_fields(shape, dtype=dtype)
            for result in (f(tf.constant(fields)), compiled(f)(tf.constant(fields))):
                assert f(fields).dtype == result.numpy().dtype == dtype
                np.testing.assert_allclose(result, f(fields), rtol=1e-5, atol=1e-6)

    def test_is_passive_if_it_says_so(self, f):
        E = random_fields()
        assert np.all(np.abs(f(E)) <= np.abs(E) * (1 + 1e-6)) == f.passive

    def test_follows_the_phase_of_the_field_unless_it_rectifies_or_detects(self, spec, f):
        """f(e^{i a} E) = e^{i a} f(E): nothing but the power drives it."""
        E, turn = random_fields(), np.complex64(np.exp(0.7j))
        follows = np.allclose(f(turn * E), turn * f(E), atol=1e-5)
        assert follows == (spec.partition(":")[0] in FOLLOWS_THE_PHASE)

    def test_gradient_is_the_slope(self, f):
        E, step = random_fields(dtype=np.complex128), 1e-6

        def loss(fields):
            return np.abs(f(fields) + (0.6 - 0.3j)) ** 2

        slope = loss(E + step) - loss(E - step) + 1j * (loss(E + 1j * step) - loss(E - 1j * step))
        np.testing.assert_allclose(gradient(f, E), slope / (2 * step), rtol=1e-5, atol=1e-6)

    def test_the_dark_and_dim_light_stay_finite(self, f):
        dim = random_fields(scale=1e-20)
        E = np.concatenate([0 * dim, dim, dim.real, 1j * dim.imag]).astype(np.complex64)
        slope = compiled(lambda fields: gradient(f, fields))
        for result in (f(E), f(tf.constant(E)), gradient(f, E), slope(E)):
            assert np.all(np.isfinite(result))
        if f.passive:
            assert np.all(np.abs(f(E)) <= np.abs(E) * (1 + 1e-6))


PARTS = {"tap": 0.1, "responsivity_a_per_w": 1.0, "gain_ohm": 5000.0, "v_pi_v": 10.0}
PARTS |= {"bias_v": 10.0, "unit_power_w": 1e-3}


class TestElectroOptic:
    def test_dim_light_keeps_its_precision_at_the_dark_bias(self):
        """|f(E)| = sqrt(1 - alpha) g |E|^3 / 2 at phi_b = pi, down to the dimmest light."""
        f = ElectroOptic()
        E = np.logspace(-8, -2, 13).astype(np.complex64)
        expected = np.sqrt(0.9) * f.g / 2 * np.abs(E) ** 3
        np.testing.assert_allclose(np.abs(f(E)), expected, rtol=1e-5)

    @pytest.mark.parametrize("form", ["array", "tensor", "trained"])
    @pytest.mark.parametrize("phi_b", [7999.0, -8001.0, 1e7, 1e12, 1e15, 1e17, 3e38])
    def test_any_bias_counts_modulo_two_turns(self, phi_b, form):
        fields = random_fields()
        phi_b = float(np.float32(phi_b))
        angle = math.atan2(math.sin(phi_b), math.cos(phi_b))
        if form == "trained":
            out = modulator(tf.constant(fields), 0.3, 0.5, tf.constant(phi_b))
            expected = electro_optic(fields, math.sin(0.3) ** 2, 0.5, angle)
        else:
            light = fields if form == "array" else tf.constant(fields)
            out = ElectroOptic(0.1, 0.5, phi_b)(light)
            expected = electro_optic(fields, 0.1, 0.5, angle)
        np.testing.assert_allclose(out, expected, atol=1e-3 if form == "trained" else 2e-5)

    def test_power_in_watts_is_all_that_counts(self):
        """Light of 4 mW leaves with the same power in every unit."""
        for unit_power_w in (1e-3, 1e-6, 2.0):
            f = ElectroOptic.from_physical(**PARTS | {"unit_power_w": unit_power_w})
            power_w = abs(f(np.array([np.sqrt(4e-3 / unit_power_w)])))[0] ** 2 * unit_power_w
            voltage = 0.1 * 4e-3 * 1.0 * 5000.0 + 10.0
            expected_w = 0.9 * 4e-3 * np.cos(np.pi / 2 * voltage / 10.0) ** 2
            assert power_w == pytest.approx(expected_w, rel=1e-9)

    @pytest.mark.parametrize(
        ("argument", "value"),
        [
            *(("tap", 1.1), ("responsivity_a_per_w", -1), ("gain_ohm", math.inf)),
            *(("v_pi_v", 0.0), ("bias_v", math.nan), ("unit_power_w", 0.0)),
        ],
    )
    def test_refuses_impossible_parts(self, argument, value):
        with pytest.raises(ValueError, match=f"{argument} must .*got {value}"):
            ElectroOptic.from_physical(**PARTS | {argument: value})


def test_the_modulus_of_dim_light_does_not_underflow():
    """Its square would: 1e-40 is no normal number in single precision."""
    E = np.array([3e-20 + 4e-20j, 5e-20j], np.complex64)
    for f in (Modulus(), compiled(Modulus())):
        np.testing.assert_allclose(f(tf.constant(E)), [5e-20, 5e-20], rtol=1e-5)


class TestBlackBox:
    @pytest.fixture
    def f(self):
        def twice(fields):
            return 2 * fields.astype(np.complex128)

        return BlackBox(twice)

    def test_keeps_the_static_shape(self, f):
        shape = tf.TensorSpec([None, 6], tf.complex64)
        traced = tf.function(f, autograph=False).get_concrete_function(shape)
        assert traced.output_shapes.as_list() == [None, 6]

    def test_has_no_gradient_rather_than_a_gradient_of_zero(self, f):
        inside = tf.function(lambda x: gradient(f, x), autograph=False)
        outside = tf.function(f, autograph=False)
        for ask in (inside, lambda x: gradient(outside, x), lambda x: gradient(f, x)):
            with pytest.raises(ValueError, match=r"BlackBox\(.*twice.*\) has no gradient"):
                ask(random_fields())

    def test_passes_beside_a_tape_that_asks_for_something_else(self, f):
        weight = tf.Variable(3.0)
        with tf.GradientTape() as tape:
            loss = weight * tf.math.real(f(tf.constant(random_fields())))[0, 0]
        assert np.isfinite(tape.gradient(loss, weight))

    def test_may_write_to_its_argument(self):
        def clear(fields):
            fields[:] = 0
            return fields

        fields = random_fields()
        for argument in (fields, tf.constant(fields)):
            assert not np.any(BlackBox(clear)(argument))
            np.testing.assert_array_equal(argument, random_fields())

    @pytest.mark.parametrize("dtype", [np.float32, np.float64, np.complex64, np.complex128])
    def test_real_values_stay_real_and_complex_ones_complex(self, dtype):
        """In the precision given, whatever that of the function is."""
        fields = random_fields().real.astype(dtype)
        for function in (lambda z: np.float32(2) * z, lambda z: np.float64(2) * z.astype("D").real):
            f = BlackBox(function)
            graph = tf.function(f, autograph=False)
            for result in (f(fields), f(tf.constant(fields)), graph(tf.constant(fields))):
                assert result.dtype == dtype
                np.testing.assert_allclose(result, 2 * fields, rtol=1e-6)

    def test_real_values_may_become_fields_where_no_graph_needs_to_know_before(self):
        f = BlackBox(lambda z: 1j * z)
        np.testing.assert_array_equal(f(np.ones(3)), 1j * np.ones(3))
        for ask in (f, tf.function(f, autograph=False)):
            with pytest.raises(Exception, match="must return real numbers") as caught:
                ask(tf.ones(3))
            assert isinstance(caught.value, (TypeError, tf.errors.InvalidArgumentError))

    def test_must_be_callable_and_keep_the_shape(self):
        with pytest.raises(TypeError, match=r"function .*got 3"):
            BlackBox(3)
        with pytest.raises(ValueError, match=r"\(5, 6\) .*got \(6,\)"):
            BlackBox(lambda fields: fields[0])(random_fields())


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        ("electro-optic:alpha=1.5", "alpha", 1.5),
        ("modrelu:bias=0.1", "bias", 0.1),
        ("saturable-absorber:modulation_depth=-1", "modulation_depth", -1.0),
        ("saturable-absorber:nonsaturable_loss=-1", "nonsaturable_loss", -1.0),
        ("saturable-absorber:nonsaturable_loss=0.1", "modulation_depth", 1.0),  # and 0.9
        ("saturable-absorber:saturation_intensity=0", "saturation_intensity", 0.0),
    ],
)
def test_refuses_impossible_parameters(text, name, value):
    with pytest.raises(ValueError, match=f"{name}.* got {value}"):
        from_spec("nonlinearity", text, NONLINEARITIES)


def light(scale=1.0, samples=20):
    brightness = np.random.default_rng(1).uniform(0.1, 3, (samples, 1))
    return (random_fields((samples, 8), dtype=complex) * brightness * scale).astype(np.complex64)


def power(fields):
    return np.sum(np.abs(np.asarray(fields, complex)) ** 2, axis=-1)


class TestAmplifier:
    @pytest.mark.parametrize("convert", [np.asarray, tf.constant])
    def test_a_gain_multiplies_every_power(self, convert):
        amplified = Amplifier(gain=2.5)(convert(light()))
        np.testing.assert_allclose(power(amplified), 2.5 * power(light()), rtol=1e-6)

    @pytest.mark.parametrize("scale", [1.0, 1e-12, 1e-25, 1e12])
    def test_a_level_makes_all_samples_equally_bright(self, scale):
        fields = Amplifier(level=7.0)(light(scale))
        np.testing.assert_allclose(power(fields), 7.0, rtol=1e-5)
        np.testing.assert_allclose(np.angle(fields), np.angle(light(scale)), atol=1e-6)

    def test_the_gradient_of_a_level_is_that_of_its_differences(self):
        dark = tf.constant(np.zeros((2, 8), np.complex64))
        assert np.all(Amplifier(level=7.0)(dark) == 0)
        assert np.isfinite(gradient(Amplifier(level=7.0), dark)).all()
        amplifier, E = Amplifier(level=3.0), light().astype(complex)
        step = 1e-6 * random_fields(E.shape, dtype=complex)[:, ::-1]

        def loss(fields):
            return np.sum(np.abs(amplifier(fields) + (0.6 - 0.3j)) ** 2)

        slope = np.sum(np.real(np.conj(gradient(amplifier, E)) * step))
        np.testing.assert_allclose(2 * slope, loss(E + step) - loss(E - step), rtol=1e-5)

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({}, "gain or a level, got None"),
            ({"gain": 1.0, "level": 1.0}, "gain or a level, got {'gain': 1.0, 'level': 1.0}"),
            ({"gain": 0.0}, "amplifier gain .*got 0.0"),
            ({"level": -1.0}, "amplifier level .*got -1.0"),
        ],
    )
    def test_takes_one_positive_number(self, settings, message):
        with pytest.raises(ValueError, match=message):
            Amplifier(**settings)


LIGHT = np.array([0.5 + 0.3j, -1.2j, 2 + 1j, 1e-3, 0])
ELEMENTS = [*(from_spec("nonlinearity", spec, NONLINEARITIES) for spec in SPECS)]
ELEMENTS += [Amplifier(gain=2.0), Amplifier(level=3.0)]


@pytest.mark.parametrize("element", ELEMENTS, ids=str)
class TestParameters:
    """Elements whose numbers are fitted."""

    def test_numbers_and_tensors_give_the_same_light(self, element):
        values = {name: p.value for name, p in parameters_of(element).items()}
        assert values == {n: x for n, x in vars(element).items() if x is not None}
        changed = with_parameters(
            element, {n: tf.constant(x, tf.float32) for n, x in values.items()}
        )
        fields = tf.constant(LIGHT, tf.complex64)
        np.testing.assert_allclose(changed(fields), element(fields), rtol=2e-3, atol=2e-3)

    def test_the_slopes_are_finite_within_the_limits(self, element):
        """Also where a parameter has its least or most value, and in the dark."""
        parameters = parameters_of(element)
        fields = tf.constant(LIGHT, tf.complex64)
        for limit in ("value", "least", "most"):
            ends = {n: getattr(p, limit) for n, p in parameters.items()}
            values = {
                n: tf.constant(x if np.isfinite(x) else parameters[n].value, tf.float32)
                for n, x in ends.items()
            }
            with tf.GradientTape() as tape:
                tape.watch(values)
                light = tf.reduce_sum(tf.square(tf.abs(with_parameters(element, values)(fields))))
            slopes = tf.nest.flatten(tape.gradient(light, values, unconnected_gradients="zero"))
            assert np.isfinite([light, *slopes]).all()
        assert all(p.least <= p.value <= p.most and p.scale >= 0 for p in parameters.values())


@pytest.mark.parametrize("dtype", [np.int64, np.uint8, np.int8])
@pytest.mark.parametrize("name", NONLINEARITIES)
def test_whole_numbers_are_numbers(name, dtype):
    least = 0 if dtype == np.uint8 else -20
    element, fields = NONLINEARITIES[name](), np.array([[least, 1, 3, 20]])
    expected = element(fields.astype(np.float64))
    np.testing.assert_allclose(element(fields.astype(dtype)), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("amplifier", [Amplifier(gain=2), Amplifier(level=2)])
def test_an_amplifier_takes_whole_numbers(amplifier):
    fields = np.array([[1, 2, 3, 20]])
    expected = amplifier(fields.astype(np.complex64))
    np.testing.assert_allclose(amplifier(fields.astype(np.uint8)), expected.real, rtol=1e-5)


@pytest.mark.parametrize("name", NONLINEARITIES)
def test_real_tensors_are_fields_as_real_arrays_are(name):
    element = NONLINEARITIES[name]()
    amplitudes = np.linspace(-1, 1, 6).reshape(2, 3)
    np.testing.assert_allclose(element(tf.constant(amplitudes)), element(amplitudes), atol=1e-12)


def test_an_amplifier_keeps_double_precision():
    np.testing.assert_allclose(Amplifier(gain=2.0)(np.ones(3)), np.sqrt(2) * np.ones(3), rtol=1e-15)
