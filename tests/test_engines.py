"""The native engine against the reference, and its gradients against TensorFlow's tape (XLA)."""

import copy
import os
import pickle
import subprocess
import sys
import textwrap
import timeit
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshes import Phases, RectangularMesh
from meshes._tensorflow import tf
from meshes.engines import native
from meshes.engines.reference import fields_by_column

pytestmark = pytest.mark.compiled

NATIVE, XLA = "native", "xla"


def random_fields(*shape, seed=0, real=False):
    values = np.random.default_rng(seed).normal(size=(*shape, 2)).astype(np.float32)
    return values[..., 0] if real else (values @ [1, 1j]).astype(np.complex64)


def stacked_phases(mesh, count):
    sets = [mesh.initial_phases(seed) for seed in range(count)]
    return Phases(*(np.stack(x) for x in zip(*sets, strict=True)))


def outputs_and_gradients(mesh, phases, fields, weights, engine):
    """The output, and the gradient of Re(sum conj(w) out) with respect to phases and fields.

    The output is fields, or intensities if the weights are real.
    """
    variables = [tf.Variable(x) for x in (*phases, fields)]
    through = mesh.propagate if np.iscomplexobj(weights) else mesh.intensities
    with tf.GradientTape() as tape:
        out = through(variables[3], Phases(*variables[:3]), engine)
        loss = tf.reduce_sum(tf.math.real(out * np.conj(weights)))
    return [x.numpy() for x in (out, *tape.gradient(loss, variables))]


def assert_equal(found, expected):
    for one, two in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, two)


def uncompiled_xla(*arguments):
    """Let TensorFlow run the XLA engine's code operation by operation, without a compiler."""
    tf.config.run_functions_eagerly(True)
    try:
        return outputs_and_gradients(*arguments, XLA)
    finally:
        tf.config.run_functions_eagerly(False)


def assert_relative(one, other, tolerance):
    """As close as ``tolerance`` of the largest entry."""
    np.testing.assert_allclose(one, other, atol=tolerance * max(np.abs(other).max(), 1e-3))


def drawn(most_columns, examples):
    """Draw meshes, sets of phases and batches of every kind."""
    draws = given(
        shape=st.tuples(st.integers(2, 20), st.integers(1, most_columns)),
        sets=st.sampled_from([1, 3]),
        samples=st.sampled_from([1, 15, 16, 17, 200]),
        splitter_error=st.sampled_from([0.0, 0.1]),
        loss=st.sampled_from([0.0, 0.3]),
        real=st.booleans(),
        shared=st.booleans(),
        seed=st.integers(0, 2**16),
    )
    return lambda test: settings(max_examples=examples, derandomize=True)(draws(test))


def compare_with_xla(shape, sets, samples, splitter_error, loss, real, shared, seed):
    mesh = RectangularMesh(*shape, splitter_error, insertion_loss_db=loss)
    fields = random_fields(1 if shared else sets, samples, mesh.units, seed=seed, real=real)
    weights = random_fields(sets, samples, mesh.units, seed=seed + 1)
    arguments = mesh, stacked_phases(mesh, sets), fields, weights
    found, expected = outputs_and_gradients(*arguments, NATIVE), uncompiled_xla(*arguments)
    assert_relative(found[0], expected[0], 1e-5)
    for gradient, reference in zip(found[1:], expected[1:], strict=True):
        assert gradient.dtype == reference.dtype
        assert_relative(gradient, reference, 1e-4)


@drawn(most_columns=9, examples=20)
def test_fields_and_gradients_equal_the_xla_engine(**case):
    compare_with_xla(**case)


@pytest.mark.long
@drawn(most_columns=24, examples=60)
def test_fields_and_gradients_of_longer_meshes_equal_the_xla_engine(**case):
    compare_with_xla(**case)


@pytest.mark.parametrize("samples", [1, 16, 17])
@pytest.mark.parametrize(("units", "loss"), [(7, 0.0), (20, 0.3), (35, 0.0)])
def test_intensities_and_their_gradients_equal_the_xla_engine(units, loss, samples):
    mesh = RectangularMesh(units, 6, insertion_loss_db=loss)
    fields = random_fields(1, samples, units)
    weights = random_fields(1, samples, units, real=True)
    arguments = mesh, stacked_phases(mesh, 1), fields, weights
    pairs = zip(outputs_and_gradients(*arguments, NATIVE), uncompiled_xla(*arguments), strict=True)
    for one, two in pairs:
        assert_relative(one, two, 1e-4)


def test_a_large_mesh_stays_close_to_double_precision():
    mesh = RectangularMesh(200)
    phases = mesh.initial_phases()
    exact = fields_by_column(mesh, phases, np.eye(200))[-1]
    np.testing.assert_allclose(mesh.matrix(phases, NATIVE), exact, atol=5e-6)


@settings(max_examples=50, derandomize=True)
@given(angle=st.floats(-2000.0, 2000.0, width=32), small=st.floats(-(2**-10), 2**-10, width=32))
def test_sines_and_cosines(angle, small):
    """Two ports, one interferometer: its matrix shows every sine and cosine."""
    mesh = RectangularMesh(2, 1)
    for theta, phi in [(angle, 0.0), (0.0, angle), (small, angle), (angle, small)]:
        phases = Phases([[theta]], [[phi]], [angle, angle])
        exact = fields_by_column(mesh, phases, np.eye(2))[-1]
        single = Phases(*(np.array(x, np.float32) for x in phases))
        np.testing.assert_allclose(mesh.matrix(single, NATIVE), exact, atol=4e-7)


class TestLargePhases:
    """An engine sees the phase that float32 holds, however large; inf and nan give no light."""

    @pytest.mark.parametrize("engine", [NATIVE, XLA])
    @pytest.mark.parametrize("error", [0.0, 0.1])
    @pytest.mark.parametrize("size", [1e2, 7999.0, 8001.0, 1e5, 1e7, 1.2e8, 1e10, 1e15, 3e38])
    def test_give_the_light_of_double_precision(self, engine, error, size):
        mesh = RectangularMesh(7, splitter_error=error)
        rng = np.random.default_rng(0)
        shapes = [x.shape for x in mesh.initial_phases()]
        phases = Phases(*(rng.uniform(-size, size, shape).astype(np.float32) for shape in shapes))
        fields = random_fields(5, 7)
        expected = fields_by_column(mesh, phases, fields)[-1]
        np.testing.assert_allclose(mesh.propagate(fields, phases, engine), expected, atol=3e-6)

    def test_have_the_gradient_of_their_equals(self):
        mesh, fields = RectangularMesh(6), random_fields(5, 6)
        near = mesh.initial_phases()
        far = Phases(*(x + np.float32(12345.0) for x in near))
        near = Phases(*(np.remainder(x.astype(np.float64), 4 * np.pi) for x in far))
        near = Phases(*(x.astype(np.float32) for x in near))
        weights = random_fields(5, 6, seed=1)
        one, other = (outputs_and_gradients(mesh, x, fields, weights, NATIVE) for x in (far, near))
        for gradient, expected in zip(one, other, strict=True):
            assert_relative(gradient, expected, 1e-5)

    @pytest.mark.parametrize("engine", [NATIVE, XLA])
    @pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
    @pytest.mark.parametrize("place", ["theta", "phi", "gamma"])
    def test_inf_and_nan_never_look_like_light(self, engine, value, place):
        mesh = RectangularMesh(8)
        phases = mesh.initial_phases()
        getattr(phases, place).flat[0] = value
        assert np.isnan(mesh.intensities(random_fields(3, 8), phases, engine)).any(axis=1).all()

    def test_change_nothing_for_their_neighbours(self):
        mesh, fields = RectangularMesh(4), random_fields(3, 4)
        near = mesh.initial_phases()
        beside = Phases(*(np.stack((x, np.full_like(x, 1e9))) for x in near))
        np.testing.assert_array_equal(
            mesh.propagate(fields, beside, NATIVE)[0], mesh.propagate(fields, near, NATIVE)
        )


class TestIndependence:
    """However the work is divided, results are equal to the last bit."""

    @pytest.fixture(params=[(0.0, 0.0), (0.1, 0.2)], ids=["ideal", "general"])
    def case(self, request):
        splitter_error, loss = request.param
        mesh = RectangularMesh(33, 40, splitter_error, insertion_loss_db=loss)
        phases = stacked_phases(mesh, 5)
        return mesh, phases, random_fields(1, 150, 33), random_fields(5, 150, 33)

    def test_of_the_number_of_threads(self, case, monkeypatch):
        monkeypatch.setattr(native, "_SMALL_WORK", 0)  # wake threads for it
        monkeypatch.setattr(native, "threads", lambda: 1)
        alone = outputs_and_gradients(*case, NATIVE)
        for count in (2, 5):
            monkeypatch.setattr(native, "threads", partial(int, count))
            assert_equal(outputs_and_gradients(*case, NATIVE), alone)

    def test_of_the_chunks_of_sets(self, case, monkeypatch):
        whole = outputs_and_gradients(*case, NATIVE)
        monkeypatch.setattr(native, "_SCRATCH_BYTES", 1)
        assert_equal(outputs_and_gradients(*case, NATIVE), whole)

    def test_of_the_other_samples_and_sets(self, case):
        mesh, phases, fields, _ = case
        out = mesh.propagate(fields, phases, NATIVE)
        one = Phases(*(x[3] for x in phases))
        np.testing.assert_array_equal(mesh.propagate(fields[0, 20:50], one, NATIVE), out[3, 20:50])

    def test_of_concurrent_callers(self, case):
        mesh, phases, fields, _ = case
        expected = mesh.propagate(fields, phases, NATIVE)
        with ThreadPoolExecutor(4) as pool:
            jobs = [pool.submit(mesh.propagate, fields, phases, NATIVE) for _ in range(20)]
        for job in jobs:
            np.testing.assert_array_equal(job.result(), expected)


class TestTensorFlow:
    def test_inside_a_function(self):
        mesh = RectangularMesh(6, 7)
        phases, fields = stacked_phases(mesh, 1), random_fields(1, 3, 6)
        weights = random_fields(1, 3, 6, real=True)

        @tf.function(autograph=False)
        def value_and_gradient(theta):
            with tf.GradientTape() as tape:
                tape.watch(theta)
                out = mesh.intensities(fields, phases._replace(theta=theta), NATIVE)
                assert out.shape == (1, 3, 6)
                value = tf.reduce_sum(out * weights)
            return out, tape.gradient(value, theta)

        inside = value_and_gradient(tf.constant(phases.theta))
        assert_equal(inside, outputs_and_gradients(mesh, phases, fields, weights, NATIVE)[:2])

    def test_a_batch_of_unknown_size(self):
        mesh = RectangularMesh(5)
        phases = mesh.initial_phases()
        specification = [tf.TensorSpec([None, 5], tf.float32)]
        function = tf.function(
            lambda x: mesh.propagate(x, phases, NATIVE), specification, autograph=False
        )
        for samples in (1, 4):
            fields = random_fields(samples, 5, real=True)
            np.testing.assert_array_equal(function(fields), mesh.propagate(fields, phases, NATIVE))

    @pytest.mark.parametrize("name", ["fields", "theta", "phi", "gamma"])
    def test_lengths_unknown_until_it_runs_are_checked_then(self, name):
        """The kernels would read and write beside arrays of other lengths than the mesh's."""
        mesh = RectangularMesh(8)
        arguments = {"fields": random_fields(3, 8), **mesh.initial_phases()._asdict()}
        unknown = [tf.TensorSpec([None] * x.ndim, x.dtype) for x in arguments.values()]
        function = tf.function(
            lambda x, *phases: mesh.propagate(x, phases, NATIVE), unknown, autograph=False
        )
        function(*arguments.values())
        wrong = arguments | {name: arguments[name][..., :3]}
        with pytest.raises(tf.errors.InvalidArgumentError, match=rf"{name} must .* 3\)"):
            function(*wrong.values())

    def test_a_gradient_of_another_shape_is_refused(self):
        mesh = RectangularMesh(4)
        arrays = *stacked_phases(mesh, 2), random_fields(2, 3, 4)
        with pytest.raises(ValueError, match=r"upstream must .*\(2, 3, 4\), got \(1, 3, 4\)"):
            native._backward(mesh, True, *arrays, random_fields(1, 3, 4, real=True))


@pytest.mark.parametrize(("units", "columns", "blocked"), [(6, 9, True), (4, 40, False)])
def test_gradients_never_divide_by_the_transmission(units, columns, blocked):
    """It may be 0; and after 40 columns of 1 dB the light is 10,000 times dimmer."""
    mesh = RectangularMesh(units, columns, insertion_loss_db=1.0)
    if blocked:
        passed = mesh.transmission.copy()
        passed[4, 2:4] = 0.0
        mesh.transmission = passed
    fields, weights = random_fields(1, 5, units), random_fields(1, 5, units)
    arguments = mesh, stacked_phases(mesh, 1), fields, weights
    found, expected = outputs_and_gradients(*arguments, NATIVE), uncompiled_xla(*arguments)
    for one, two in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, two, atol=1e-4 * np.abs(two).max())


def test_the_order_of_bytes_changes_no_precision():
    mesh = RectangularMesh(4)
    phases = Phases(*(x.astype(np.float64) for x in mesh.initial_phases()))
    fields = random_fields(2, 4)
    for dtype in (">f8", np.longdouble):
        swapped = Phases(*(x.astype(dtype) for x in phases))
        found = mesh.propagate(fields, swapped)
        assert found.dtype == np.complex128
        np.testing.assert_array_equal(found, mesh.propagate(fields, phases))


def test_hidden_values_are_no_phases_and_no_light():
    mesh, fields = RectangularMesh(4), random_fields(2, 4)
    phases = mesh.initial_phases()
    masked = np.ma.masked_array(phases.theta, mask=True)
    with pytest.raises(ValueError, match="theta must have no masked values"):
        mesh.propagate(fields, phases._replace(theta=masked))
    with pytest.raises(ValueError, match="fields must have no masked values"):
        mesh.propagate(np.ma.masked_array(fields, mask=True), phases)
    errors = np.ma.masked_array(np.full((2, 4, 2), 99.0), mask=True)
    with pytest.raises(ValueError, match="splitter_errors must have no masked values"):
        RectangularMesh.measured(4, splitter_errors=errors)
    with pytest.raises(ValueError, match="phases must be theta, phi and gamma, got 2 arrays"):
        mesh.propagate(fields, phases[:2])


@pytest.mark.parametrize("engine", [NATIVE, "xla"])
@pytest.mark.parametrize("axes", [2, 3])
def test_a_graph_that_does_not_know_the_ports_refuses_other_widths(engine, axes):
    mesh = RectangularMesh(8)
    phases = Phases(*map(tf.constant, mesh.initial_phases()))
    signature = [tf.TensorSpec([None] * axes, tf.complex64)]
    through = tf.function(lambda x: mesh.propagate(x, phases, engine), input_signature=signature)
    lead = (2,) * (axes - 2)
    assert through(np.ones((*lead, 4, 8), np.complex64)).shape == (*lead, 4, 8)
    with pytest.raises(tf.errors.InvalidArgumentError, match="shape"):
        through(np.ones((*lead, 4, 16), np.complex64))  # as many values as 8 fields of 8 ports


@pytest.mark.parametrize(("units", "columns"), [(4, 4), (6, 5), (5, 3)])
def test_an_idle_interferometer_has_no_couplers(units, columns):
    """A table of measured errors may have numbers there; all engines leave them out alike."""
    errors = np.random.default_rng(0).normal(0, 0.1, (2, columns, units // 2))
    mesh = RectangularMesh.measured(units, columns, errors)
    active = RectangularMesh.measured(units, columns, errors * mesh.mask)
    np.testing.assert_array_equal(mesh.splitter_errors, active.splitter_errors)
    phases, fields = mesh.initial_phases(1), random_fields(5, units)
    expected = fields_by_column(active, phases, fields)[-1]
    np.testing.assert_allclose(fields_by_column(mesh, phases, fields)[-1], expected, atol=1e-12)
    for engine in (NATIVE, "xla"):
        np.testing.assert_allclose(mesh.propagate(fields, phases, engine), expected, atol=2e-6)


@pytest.mark.parametrize("engine", [NATIVE, "xla"])
def test_another_fabrication_counts_from_then_on(engine):
    mesh, fields = RectangularMesh(6), random_fields(5, 6)
    phases = mesh.initial_phases()
    before = mesh.propagate(fields, phases, engine)
    passed = np.full((6, 6), 0.5, np.float32)
    mesh.transmission = passed
    passed[:] = 1.0
    halved = mesh.propagate(fields, phases, engine)
    np.testing.assert_allclose(halved, before / 2**6, rtol=1e-4, atol=1e-7)
    with pytest.raises(ValueError, match="read-only"):
        mesh.transmission[0] = 0.0


@pytest.mark.parametrize(
    "again", [copy.copy, copy.deepcopy, lambda mesh: pickle.loads(pickle.dumps(mesh))]
)
def test_the_arrays_of_a_copy_are_read_only_too(again):
    """The engines keep what follows from them."""
    mesh = RectangularMesh(6, splitter_error=0.1, insertion_loss_db=0.1)
    copied, phases, fields = again(mesh), mesh.initial_phases(), random_fields(5, 6)
    for name in ("splitter_errors", "transmission"):
        np.testing.assert_array_equal(getattr(copied, name), getattr(mesh, name))
        with pytest.raises(ValueError, match="read-only"):
            getattr(copied, name)[0] = 0.5
    expected = mesh.propagate(fields, phases, NATIVE)
    np.testing.assert_array_equal(copied.propagate(fields, phases, NATIVE), expected)


class TestDimLight:
    def test_keeps_its_precision_and_the_caller_its_arithmetic(self):
        mesh = RectangularMesh(8)
        phases, fields, dim = mesh.initial_phases(), random_fields(20, 8), np.float32(2**-99)
        bright = mesh.propagate(fields, phases, NATIVE)
        np.testing.assert_array_equal(mesh.propagate(fields * dim, phases, NATIVE), bright * dim)
        assert np.float32(1e-38) * np.float32(0.01) > 0

    def test_is_as_fast_as_bright_light(self):
        """Denormal numbers take a processor 15 to 100 times as long."""
        mesh, fields = RectangularMesh(64), random_fields(128, 64)
        phases = mesh.initial_phases()
        bright, dim = (
            min(timeit.repeat(partial(mesh.propagate, x, phases, NATIVE), number=1, repeat=20))
            for x in (fields, fields * np.float32(1e-40))
        )
        assert dim < 4 * bright


def run_in_a_new_process(script, **environment):
    command = [sys.executable, "-c", textwrap.dedent(script)]
    return subprocess.check_output(command, text=True, env=os.environ | environment)


@pytest.mark.long
def test_kernels_are_compiled_once_and_found_by_the_next_process(tmp_path):
    script = """
        import numpy as np
        from meshes import RectangularMesh
        from meshes.engines import kernels, reference
        compiled = {"forward_ideal": 0.0, "forward_general": 0.1}
        for name in NAMES:
            mesh = RectangularMesh(4, splitter_error=compiled[name])
            phases = mesh.initial_phases()
            for fields in (np.ones((3, 4), np.float32), np.ones((2, 3, 4), np.complex64)):
                fields.flags.writeable = False
                mesh.propagate(fields, phases, "native")
                mesh.intensities(fields.copy(), phases, "native")
            exact = reference.fields_by_column(mesh, phases, np.eye(4))[-1]
            np.testing.assert_allclose(mesh.matrix(phases, "native"), exact, atol=1e-6)
            kernel = getattr(kernels, name)
            assert len(kernel.signatures) == 1
            print(sum(kernel.stats.cache_hits.values()))
    """
    results = [
        run_in_a_new_process(script.replace("NAMES", str(names)), NUMBA_CACHE_DIR=str(tmp_path))
        for names in (["forward_ideal"], ["forward_general"], ["forward_ideal", "forward_general"])
    ]  # compiled apart, they must not be taken for one another when they meet
    assert [result.split() for result in results] == [["0"], ["0"], ["1", "1"]]


def test_importing_meshes_is_quick():
    script = "import sys, meshes; print(*{'tensorflow', 'numba', 'neurophox'} & set(sys.modules))"
    assert run_in_a_new_process(script).strip() == ""


def test_former_paths_are_the_modules_themselves():
    with pytest.warns(DeprecationWarning, match=r"meshes.engine_xla .* meshes.engines.xla"):
        import meshes.engine_xla as former
    assert former is sys.modules["meshes.engines.xla"]
