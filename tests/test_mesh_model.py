"""The mesh against Neurophox, the oracle, and against the physics it must obey."""

import numpy as np
import pytest
from neurophox.meshmodel import RectangularMeshModel
from neurophox.tensorflow import MeshLayer

from meshes import Phases, RectangularMesh
from meshes._tensorflow import tf

SHAPES = [(2, 1), (2, 3), (3, 3), (5, 2), (6, 6), (7, 16), (8, 3), (8, 8), (8, 21), (15, 15)]


@pytest.fixture(autouse=True)
def _uncompiled(request):
    """Run TensorFlow operation by operation, to wait for no compiler, but in tests of compiling."""
    tf.config.run_functions_eagerly("compiled" not in request.node.name)
    yield
    tf.config.run_functions_eagerly(False)


def neurophox_matrix(mesh: RectangularMesh, phases: Phases) -> np.ndarray:
    """The matrix of Neurophox's TensorFlow mesh with our phases and our coupler errors."""

    class Model(RectangularMeshModel):
        @property
        def mzi_error_matrices(self):
            if mesh.splitter_errors is None:
                return super().mzi_error_matrices
            first, second = np.sin(2 * mesh.splitter_errors.astype(np.float64))
            return second, first  # its TensorFlow layer swaps them, see test_mesh_conventions.py

    layer = MeshLayer(Model(mesh.units, mesh.num_columns))
    for variable, value in zip((layer.theta, layer.phi, layer.gamma), phases, strict=True):
        variable.assign(np.reshape(value, variable.shape))
    return layer.matrix


def random_fields(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    real, imaginary = np.random.default_rng(seed).normal(size=(2, *shape))
    return (real + 1j * imaginary).astype(np.complex64)


def stacked_phases(mesh: RectangularMesh, count: int) -> Phases:
    sets = [mesh.initial_phases(seed) for seed in range(count)]
    return Phases(*(np.stack(x) for x in zip(*sets, strict=True)))


@pytest.mark.parametrize("splitter_error", [0.0, 0.1])
@pytest.mark.parametrize(("units", "columns"), SHAPES)
def test_equals_neurophox(units, columns, splitter_error):
    mesh = RectangularMesh(units, columns, splitter_error, seed=3)
    phases = mesh.initial_phases(1)
    expected = neurophox_matrix(mesh, phases)
    for engine in ("native", "xla"):
        np.testing.assert_allclose(mesh.matrix(phases, engine), expected, atol=1e-5)


@pytest.mark.parametrize("units", [63, 64])
def test_equals_neurophox_when_compiled(units):
    mesh = RectangularMesh(units)
    phases = mesh.initial_phases()
    expected = neurophox_matrix(mesh, phases)
    for engine in ("native", "xla"):
        np.testing.assert_allclose(mesh.matrix(phases, engine), expected, atol=1e-5)


def test_the_mask_is_neurophox_s():
    for units, columns in SHAPES:
        mesh = RectangularMesh(units, columns)
        np.testing.assert_array_equal(mesh.mask, RectangularMeshModel(units, columns).mask)


@pytest.mark.parametrize("splitter_error", [0.0, 0.2])
@pytest.mark.parametrize("units", [6, 7])
def test_energy_is_conserved(units, splitter_error):
    mesh = RectangularMesh(units, 9, splitter_error)
    fields = random_fields((11, units))
    out = mesh.propagate(fields, mesh.initial_phases(), engine="xla")
    np.testing.assert_allclose((np.abs(out) ** 2).sum(-1), (np.abs(fields) ** 2).sum(-1), rtol=1e-5)


def test_insertion_loss_is_taken_once_a_column():
    lossless, lossy = (RectangularMesh(6, 10, insertion_loss_db=loss) for loss in (0.0, 0.3))
    phases = lossless.initial_phases()
    expected = lossless.matrix(phases, engine="xla") * 10 ** (-0.3 * 10 / 20)
    np.testing.assert_allclose(lossy.matrix(phases, engine="xla"), expected, atol=1e-6)


def test_intensities_are_squared_moduli():
    mesh = RectangularMesh(5, 4)
    fields, phases = random_fields((3, 5)), mesh.initial_phases()
    expected = np.abs(mesh.propagate(fields, phases, engine="xla")) ** 2
    intensities = mesh.intensities(fields, phases, engine="xla")
    assert intensities.dtype == np.float32
    np.testing.assert_allclose(intensities, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("batches", [None, 1, 3])
def test_stacked_phases_equal_their_slices(batches):
    mesh = RectangularMesh(6, 5)
    fields = random_fields((4, 6) if batches is None else (batches, 4, 6))
    phases = stacked_phases(mesh, 3)
    out = mesh.propagate(fields, phases, engine="xla")
    assert out.shape == (3, 4, 6)
    for p in range(3):
        own = fields if batches is None else fields[p % batches]
        alone = mesh.propagate(own, Phases(*(x[p] for x in phases)), engine="xla")
        np.testing.assert_allclose(out[p], alone, atol=1e-6)


def test_one_set_of_phases_serves_several_batches():
    mesh = RectangularMesh(6)
    fields, phases = random_fields((2, 4, 6)), mesh.initial_phases()
    out = mesh.propagate(fields, phases, engine="xla")
    np.testing.assert_allclose(out, fields @ mesh.matrix(phases, engine="xla"), atol=1e-5)


def test_float64_phases_give_complex128():
    mesh = RectangularMesh(8)
    phases = Phases(*(x.astype(np.float64) for x in mesh.initial_phases()))
    matrix = mesh.matrix(phases)
    assert matrix.dtype == np.complex128
    np.testing.assert_allclose(matrix @ matrix.conj().T, np.eye(8), atol=1e-14)


def test_a_tensor_among_the_arguments_makes_the_result_one():
    mesh = RectangularMesh(4)
    fields, phases = random_fields((2, 4)), mesh.initial_phases()
    assert isinstance(mesh.propagate(fields, phases), np.ndarray)
    assert tf.is_tensor(mesh.propagate(tf.constant(fields), phases))
    variables = Phases(*(tf.Variable(x) for x in phases))
    assert tf.is_tensor(mesh.propagate(fields, variables))


def test_can_be_part_of_a_compiled_function():
    mesh = RectangularMesh(6, 7)
    phases = mesh.initial_phases()

    @tf.function(jit_compile=True, autograph=False)
    def loss_and_gradient(theta, fields):
        with tf.GradientTape() as tape:
            tape.watch(theta)
            out = mesh.intensities(fields, phases._replace(theta=theta), engine="xla")
            loss = tf.reduce_sum(out[:, 0])
        return loss, tape.gradient(loss, theta)

    theta, fields = tf.constant(phases.theta), tf.constant(random_fields((3, 6)))
    with tf.GradientTape() as tape:
        tape.watch(theta)
        out = mesh.intensities(fields, phases._replace(theta=theta), engine="xla")
        loss = tf.reduce_sum(out[:, 0])
    for found, expected in zip(
        loss_and_gradient(theta, fields), (loss, tape.gradient(loss, theta)), strict=True
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_gradient_is_the_limit_of_differences():
    mesh = RectangularMesh(5, 4, splitter_error=0.1, insertion_loss_db=0.2)
    phases = Phases(*(x.astype(np.float64) for x in mesh.initial_phases()))
    fields = random_fields((3, 5)).astype(np.complex128)

    def loss(phases):
        return tf.reduce_sum(mesh.intensities(fields, phases)[:, 1] ** 2)

    variables = Phases(*(tf.Variable(x) for x in phases))
    with tf.GradientTape() as tape:
        value = loss(variables)
    gradient = tape.gradient(value, variables)
    rng = np.random.default_rng(0)
    direction = Phases(*(rng.normal(size=x.shape) for x in phases))
    shifted = [
        loss(Phases(*(x + s * 1e-5 * v for x, v in zip(phases, direction, strict=True))))
        for s in (1, -1)
    ]
    slope = sum(np.sum(g * v) for g, v in zip(gradient, direction, strict=True))
    np.testing.assert_allclose((shifted[0] - shifted[1]) / 2e-5, slope, rtol=1e-7)


def test_idle_interferometers_have_no_influence():
    mesh = RectangularMesh(6, 5)
    phases = mesh.initial_phases()
    changed = phases._replace(
        theta=np.where(mesh.mask, phases.theta, 0.3), phi=np.where(mesh.mask, phases.phi, -9.0)
    )
    np.testing.assert_array_equal(
        mesh.matrix(phases, engine="xla"), mesh.matrix(changed, engine="xla")
    )
    variables = Phases(*(tf.Variable(x) for x in changed))
    with tf.GradientTape() as tape:
        out = mesh.intensities(random_fields((3, 6)), variables, engine="xla")[:, 0]
    gradient = tape.gradient(out, variables)
    assert np.all(gradient.theta.numpy()[~mesh.mask] == 0)
    assert np.all(gradient.phi.numpy()[~mesh.mask] == 0)


class TestRandomness:
    def test_the_global_generator_is_left_alone(self):
        np.random.seed(5)  # noqa: NPY002
        before = np.random.get_state()  # noqa: NPY002
        RectangularMesh(7, 20, 0.1).initial_phases()
        for old, new in zip(before, np.random.get_state(), strict=True):  # noqa: NPY002
            np.testing.assert_array_equal(old, new)

    def test_same_seed_same_draw(self):
        one, two, other = (RectangularMesh(6, 6, 0.1, seed=seed) for seed in (1, 1, 2))
        np.testing.assert_array_equal(one.splitter_errors, two.splitter_errors)
        assert np.any(one.splitter_errors != other.splitter_errors)
        for a, b, c in zip(*(one.initial_phases(s) for s in (1, 1, 2)), strict=True):
            np.testing.assert_array_equal(a, b)
            assert np.any(a != c)

    def test_splitter_errors_have_the_spread_asked_for(self):
        mesh = RectangularMesh(100, splitter_error=0.05)
        assert mesh.splitter_errors.shape == (2, 100, 50)
        for delta in mesh.splitter_errors:
            assert np.std(delta[mesh.mask]) == pytest.approx(0.05, rel=0.05)
            assert np.all(delta[~mesh.mask] == 0)
        first, second = mesh.splitter_errors[:, mesh.mask]
        assert abs(np.corrcoef(first, second)[0, 1]) < 0.06

    @pytest.mark.parametrize(("units", "columns"), [(4, 4), (5, 5), (5, 12), (4, 11)])
    def test_square_and_longer_meshes_are_haar_random(self, units, columns):
        """Haar: |U_ij|^2 has the moments 1/N and 2/(N(N + 1)) everywhere."""
        mesh = RectangularMesh(units, columns)
        power = np.abs(mesh.matrix(stacked_phases(mesh, 4000), engine="xla")) ** 2
        np.testing.assert_allclose(power.mean(0), 1 / units, rtol=0.08)
        np.testing.assert_allclose((power**2).mean(0), 2 / (units * (units + 1)), rtol=0.2)

    @pytest.mark.parametrize("units", [2, 3, 4, 5, 8, 9])
    @pytest.mark.parametrize("columns", [1, 2, 3, 7, 8, 9, 20])
    def test_initial_phases_at_any_length(self, units, columns):
        theta, phi, gamma = RectangularMesh(units, columns).initial_phases()
        assert theta.shape == phi.shape == (columns, units // 2)
        assert gamma.shape == (units,)
        assert all(x.dtype == np.float32 for x in (theta, phi, gamma))
        assert np.all((theta >= 0) & (theta <= np.float32(np.pi)))


class TestErrors:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"units": 1}, "units must be at least 2, got 1"),
            ({"units": 4.0}, "units must be a whole number, got 4.0"),
            ({"units": 4, "num_columns": 0}, "num_columns must be at least 1, got 0"),
            ({"units": 4, "splitter_error": -1}, "splitter_error must be at least 0.0, got -1"),
            ({"units": 4, "insertion_loss_db": np.nan}, "insertion_loss_db must be finite"),
        ],
    )
    def test_of_the_mesh(self, arguments, message):
        with pytest.raises((TypeError, ValueError), match=message):
            RectangularMesh(**arguments)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"theta": np.zeros((4, 3))}, r"phases.theta must be \[L, M\].*got shape \(4, 3\)"),
            ({"phi": np.zeros((2, 4, 2))}, "phases must all lead with the same axis P"),
            ({"gamma": np.zeros((3, 4))}, "phases must all lead with the same axis P"),
            ({"gamma": np.zeros(())}, r"phases.gamma must be \[N\] or \[P, N\]"),
            ({"fields": np.zeros(4)}, r"fields must be \[B, N\].*got shape \(4,\)"),
            ({"fields": np.zeros((3, 5))}, r"ending in \(4\) here, got shape \(3, 5\)"),
            ({"engine": "gpu"}, "engine must be one of auto, native, xla; got 'gpu'"),
        ],
    )
    def test_of_propagate(self, change, message):
        mesh = RectangularMesh(4)
        phases = mesh.initial_phases()
        phases = phases._replace(**{k: v for k, v in change.items() if k in Phases._fields})
        with pytest.raises(ValueError, match=message):
            mesh.propagate(
                change.get("fields", np.zeros((2, 4))), phases, change.get("engine", "auto")
            )

    def test_of_batches_that_do_not_fit_the_sets(self):
        mesh = RectangularMesh(4)
        with pytest.raises(
            ValueError, match=r"fields must lead with 1 or as many.*3, got \(2, 5, 4\)"
        ):
            mesh.propagate(np.zeros((2, 5, 4)), stacked_phases(mesh, 3))
