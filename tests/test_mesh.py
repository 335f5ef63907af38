"""The mesh: its conventions, Neurophox as the oracle, and the physics it must obey."""

import numpy as np
import pytest
from neurophox.components import MZI
from neurophox.meshmodel import RectangularMeshModel
from neurophox.tensorflow import MeshLayer

from meshes import Phases, RectangularMesh
from meshes._tensorflow import tf
from meshes.engines.reference import fields_by_column

SHAPES = [(2, 1), (2, 3), (3, 3), (5, 2), (6, 6), (7, 16), (8, 3), (8, 8), (8, 21), (15, 15)]


def random_fields(*shape, seed=0):
    real, imaginary = np.random.default_rng(seed).normal(size=(2, *shape))
    return (real + 1j * imaginary).astype(np.complex64)


def stacked_phases(mesh, count):
    sets = [mesh.initial_phases(seed) for seed in range(count)]
    return Phases(*(np.stack(x) for x in zip(*sets, strict=True)))


def equal_phases(mesh, theta, phi):
    shape = mesh.mask.shape
    return Phases(np.full(shape, theta), np.full(shape, phi), np.zeros(mesh.units))


def reference_matrix(mesh, phases):
    return fields_by_column(mesh, phases, np.eye(mesh.units))[-1]


def assert_every_engine_gives(mesh, phases, expected):
    single = Phases(*(np.asarray(x, np.float32) for x in phases))
    found = [mesh.matrix(single, engine) for engine in ("native", "xla")]
    for matrix in (*found, reference_matrix(mesh, phases)):
        np.testing.assert_allclose(matrix, expected, atol=1e-5)


def test_bloch_basis():
    theta, phi, mesh = 0.7, 1.9, RectangularMesh(2, 1)
    sine, cosine, turn = np.sin(theta / 2), np.cos(theta / 2), np.exp(1j * phi)
    expected = 1j * np.array([[turn * sine, cosine], [turn * cosine, -sine]])
    assert_every_engine_gives(mesh, equal_phases(mesh, theta, phi), expected)


def test_first_coupler_comes_first():
    mesh = RectangularMesh(2, 1, splitter_error=0.3)
    imbalance = np.sin(2 * mesh.splitter_errors[:, 0, 0])
    neurophox = MZI(0.35, -0.35, 1.9, 0.0, hadamard=False, epsilon=tuple(imbalance))
    assert_every_engine_gives(mesh, equal_phases(mesh, 0.7, 1.9), neurophox.matrix)


def test_idle_pair_at_even_units():
    """Ports N - 1 and 0 are multiplied by -i in odd columns and do not mix."""
    mesh = RectangularMesh(6, 2)
    assert mesh.mask.tolist() == [[True] * 3, [True, True, False]]
    places = fields_by_column(mesh, mesh.initial_phases(), np.eye(6))
    np.testing.assert_allclose(places[2][:, [0, 5]], -1j * places[1][:, [0, 5]], atol=1e-12)


def neurophox_matrix(mesh, phases):
    """The matrix of Neurophox's TensorFlow mesh with our phases and our coupler errors."""

    class Model(RectangularMeshModel):
        @property
        def mzi_error_matrices(self):
            if mesh.splitter_errors is None:
                return super().mzi_error_matrices
            first, second = np.sin(2 * mesh.splitter_errors.astype(np.float64))
            return second, first  # its TensorFlow layer swaps them, unlike its MZI (see above)

    layer = MeshLayer(Model(mesh.units, mesh.num_columns))
    for variable, value in zip((layer.theta, layer.phi, layer.gamma), phases, strict=True):
        variable.assign(np.reshape(value, variable.shape))
    return layer.matrix


@pytest.mark.parametrize("splitter_error", [0.0, 0.1])
@pytest.mark.parametrize(("units", "columns"), SHAPES)
def test_equals_neurophox(units, columns, splitter_error):
    mesh = RectangularMesh(units, columns, splitter_error, seed=3)
    phases = mesh.initial_phases(1)
    assert all(x.dtype == np.float32 for x in phases)
    assert_every_engine_gives(mesh, phases, neurophox_matrix(mesh, phases))


@pytest.mark.compiled
@pytest.mark.parametrize("units", [pytest.param(63, marks=pytest.mark.long), 64])
def test_equals_neurophox_when_compiled(units):
    mesh = RectangularMesh(units)
    phases = mesh.initial_phases()
    assert_every_engine_gives(mesh, phases, neurophox_matrix(mesh, phases))


@pytest.mark.parametrize("splitter_error", [0.0, 0.2])
@pytest.mark.parametrize("units", [6, 7])
def test_a_lossless_mesh_is_unitary_and_loss_is_taken_once_a_column(units, splitter_error):
    lossless, lossy = (
        RectangularMesh(units, 10, splitter_error, insertion_loss_db=loss) for loss in (0.0, 0.3)
    )
    phases = lossless.initial_phases()
    matrix = reference_matrix(lossless, phases)
    np.testing.assert_allclose(matrix @ matrix.conj().T, np.eye(units), atol=1e-12)
    assert_every_engine_gives(lossy, phases, matrix * 10 ** (-0.3 * 10 / 20))


class TestAxes:
    @pytest.mark.parametrize("batches", [None, 1, 3])
    def test_stacked_phases_equal_their_slices(self, batches):
        mesh = RectangularMesh(6, 5)
        fields = random_fields(4, 6) if batches is None else random_fields(batches, 4, 6)
        phases = stacked_phases(mesh, 3)
        out = mesh.propagate(fields, phases, engine="xla")
        assert out.shape == (3, 4, 6)
        for p in range(3):
            batch = fields if batches is None else fields[p % batches]
            alone = mesh.propagate(batch, Phases(*(x[p] for x in phases)), engine="xla")
            np.testing.assert_allclose(out[p], alone, atol=1e-6)

    def test_one_set_of_phases_serves_several_batches(self):
        """Fields are row vectors, out = in @ U; one tensor makes the result a tensor."""
        mesh = RectangularMesh(6)
        fields, phases = random_fields(2, 4, 6), mesh.initial_phases()
        variables = Phases(*(tf.Variable(x) for x in phases))
        symbolic = [(tf.constant(fields), phases), (fields, variables)]
        for index, arguments in enumerate([(fields, phases), *symbolic]):
            out = mesh.propagate(*arguments)
            assert tf.is_tensor(out) == (index > 0)
            np.testing.assert_allclose(out, fields @ reference_matrix(mesh, phases), atol=1e-5)

    def test_float64_phases_give_complex128(self):
        mesh = RectangularMesh(8)
        phases = Phases(*(x.astype(np.float64) for x in mesh.initial_phases()))
        matrix = mesh.matrix(phases)
        assert matrix.dtype == np.complex128
        np.testing.assert_allclose(matrix, reference_matrix(mesh, phases), atol=1e-13)
        with pytest.raises(ValueError, match=r"engine must be xla or auto for float64.*native"):
            mesh.matrix(phases, "native")


@pytest.mark.compiled
def test_can_be_part_of_a_compiled_function():
    mesh = RectangularMesh(5, 3)
    phases, fields = mesh.initial_phases(), tf.constant(random_fields(3, 5))

    def loss_and_gradient(theta):
        with tf.GradientTape() as tape:
            tape.watch(theta)
            out = mesh.intensities(fields, phases._replace(theta=theta), engine="xla")
            loss = tf.reduce_sum(out[:, 0])
        return loss, tape.gradient(loss, theta)

    theta = tf.constant(phases.theta)
    compiled = tf.function(loss_and_gradient, jit_compile=True, autograph=False)
    for found, expected in zip(compiled(theta), loss_and_gradient(theta), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_intensities_and_their_gradient_are_those_of_the_reference():
    """The gradient is the limit of the reference's differences."""
    mesh = RectangularMesh(5, 4, splitter_error=0.1, insertion_loss_db=0.2)
    phases = Phases(*(x.astype(np.float64) for x in mesh.initial_phases()))
    fields = random_fields(3, 5).astype(np.complex128)
    variables = Phases(*(tf.Variable(x) for x in phases))
    with tf.GradientTape() as tape:
        value = tf.reduce_sum(mesh.intensities(fields, variables)[:, 1] ** 2)
    gradient = tape.gradient(value, variables)
    rng = np.random.default_rng(0)
    direction = [rng.normal(size=x.shape) for x in phases]

    def loss(step):
        moved = [x + step * v for x, v in zip(phases, direction, strict=True)]
        return np.sum(np.abs(fields_by_column(mesh, moved, fields)[-1][:, 1]) ** 4)

    np.testing.assert_allclose(value, loss(0.0), rtol=1e-12)
    slope = sum(np.sum(g * v) for g, v in zip(gradient, direction, strict=True))
    np.testing.assert_allclose((loss(1e-5) - loss(-1e-5)) / 2e-5, slope, rtol=1e-7)


@pytest.mark.parametrize("engine", ["native", "xla"])
def test_idle_interferometers_have_no_influence(engine):
    mesh = RectangularMesh(6, 5)
    phases = mesh.initial_phases()
    theta, phi = (np.where(mesh.mask, x, np.float32(0.3)) for x in phases[:2])
    changed = Phases(theta, phi, phases.gamma)
    np.testing.assert_array_equal(mesh.matrix(phases, engine), mesh.matrix(changed, engine))
    variables = Phases(*(tf.Variable(x) for x in changed))
    with tf.GradientTape() as tape:
        out = mesh.intensities(random_fields(3, 6), variables, engine)[:, 0]
    gradient = tape.gradient(out, variables)
    assert np.all(gradient.theta.numpy()[~mesh.mask] == 0)
    assert np.all(gradient.phi.numpy()[~mesh.mask] == 0)


class TestRandomness:
    def test_the_global_generator_is_left_alone(self):
        before = np.random.get_state()  # noqa: NPY002
        RectangularMesh(7, 20, 0.1, loss_imbalance_db=0.1).initial_phases()
        for old, new in zip(before, np.random.get_state(), strict=True):  # noqa: NPY002
            np.testing.assert_array_equal(old, new)

    def test_same_seed_same_draw(self):
        def draw(seed):
            mesh = RectangularMesh(6, 6, 0.1, seed=seed, loss_imbalance_db=0.1)
            return mesh.splitter_errors, mesh.transmission, *mesh.initial_phases(seed)

        for one, two, other in zip(*map(draw, (1, 1, 2)), strict=True):
            np.testing.assert_array_equal(one, two)
            assert np.any(one != other)

    def test_splitter_errors_have_the_spread_asked_for(self):
        mesh = RectangularMesh(100, splitter_error=0.05)
        assert mesh.splitter_errors.shape == (2, 100, 50)
        assert np.all(mesh.splitter_errors[:, ~mesh.mask] == 0)
        first, second = mesh.splitter_errors[:, mesh.mask]
        assert [np.std(first), np.std(second)] == pytest.approx([0.05, 0.05], rel=0.05)
        assert abs(np.corrcoef(first, second)[0, 1]) < 0.06

    @pytest.mark.parametrize(
        ("units", "columns"),
        [
            (4, 4),
            (5, 12),
            pytest.param(5, 5, marks=pytest.mark.long),
            pytest.param(4, 11, marks=pytest.mark.long),
        ],
    )
    def test_square_and_longer_meshes_are_haar_random(self, units, columns):
        """Haar: |U_ij|^2 has the moments 1/N and 2/(N(N + 1)) everywhere."""
        mesh = RectangularMesh(units, columns)
        power = np.abs(mesh.matrix(stacked_phases(mesh, 4000), engine="native")) ** 2
        np.testing.assert_allclose(power.mean(0), 1 / units, rtol=0.08)
        np.testing.assert_allclose((power**2).mean(0), 2 / (units * (units + 1)), rtol=0.2)


class TestErrors:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"units": 1}, "units .* 2, got 1"),
            ({"units": 4, "num_columns": 0}, "num_columns .* 1, got 0"),
            ({"units": 4, "splitter_error": -1}, "splitter_error .* 0.0, got -1"),
            ({"units": 4, "insertion_loss_db": -1}, "insertion_loss_db .* 0.0, got -1"),
        ],
    )
    def test_of_the_mesh(self, arguments, message):
        with pytest.raises((TypeError, ValueError), match=message):
            RectangularMesh(**arguments)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"theta": np.zeros((4, 3))}, r"phases.theta .*\[L, M\].* \(4, 3\)"),
            ({"phi": np.zeros((2, 4, 2))}, "phases .* axis P"),
            ({"gamma": np.zeros(())}, r"phases.gamma .*\[N\] or \[P, N\]"),
            ({"fields": np.zeros((3, 5))}, r"fields .* \(None, 4\), got shape \(3, 5\)"),
            ({"engine": "gpu"}, "engine .* auto, native, xla; got 'gpu'"),
        ],
    )
    def test_of_propagate(self, change, message):
        mesh = RectangularMesh(4)
        arguments = mesh.initial_phases()._asdict() | {"fields": np.zeros((2, 4)), "engine": "auto"}
        *phases, fields, engine = (arguments | change).values()
        with pytest.raises(ValueError, match=message):
            mesh.propagate(fields, Phases(*phases), engine)
        with pytest.raises(ValueError, match=r"fields .*3, got \(2, 5, 4\)"):
            mesh.propagate(np.zeros((2, 5, 4)), stacked_phases(mesh, 3))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("transmission", np.ones((8, 4))),
        ("transmission", np.ones((2, 8))),
        ("transmission", np.ones((4, 8), complex)),
        ("transmission", np.full((4, 8), np.nan)),
        ("splitter_errors", np.zeros((2, 3, 4))),
        ("splitter_errors", np.zeros((2, 1, 1))),
        ("splitter_errors", np.zeros((4, 4))),
        ("splitter_errors", [["a"]]),
    ],
)
def test_measured_arrays_of_another_mesh_are_refused(name, value):
    with pytest.raises(ValueError, match=f"{name} must be"):
        RectangularMesh.measured(8, 4, **{name: value})


def test_measured_arrays_may_be_lists_of_whole_numbers():
    mesh = RectangularMesh.measured(3, 2, [[[0], [0]]] * 2, [[1, 1, 1]] * 2)
    assert_every_engine_gives(
        mesh,
        mesh.initial_phases(),
        RectangularMesh(3, 2).propagate(np.eye(3, dtype=np.complex64), mesh.initial_phases()),
    )


@pytest.mark.parametrize("name", Phases._fields)
@pytest.mark.parametrize("as_given", [np.asarray, tf.convert_to_tensor])
def test_complex_phases_are_refused(name, as_given):
    mesh = RectangularMesh(4)
    phases = mesh.initial_phases()
    wrong = phases._replace(**{name: as_given(getattr(phases, name).astype(np.complex64))})
    with pytest.raises(TypeError, match=f"phases.{name} must be real, got complex64"):
        mesh.propagate(np.eye(4), wrong)
