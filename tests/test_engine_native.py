"""The native engine against the XLA engine, whose gradient is TensorFlow's own tape."""

import os
import subprocess
import sys
import textwrap
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshes import Phases, RectangularMesh
from meshes._tensorflow import tf
from meshes.engines import native as engine_native
from meshes.engines import threads as _threads

NATIVE, XLA = "native", "xla"


def random_fields(*shape: int, seed: int = 0, real: bool = False) -> np.ndarray:
    values = np.random.default_rng(seed).normal(size=(*shape, 2))
    return (values[..., 0] if real else values @ [1, 1j]).astype(
        np.float32 if real else np.complex64
    )


def stacked_phases(mesh: RectangularMesh, count: int) -> Phases:
    sets = [mesh.initial_phases(seed) for seed in range(count)]
    return Phases(*(np.stack(x) for x in zip(*sets, strict=True)))


def outputs_and_gradients(mesh, phases, fields, weights, engine):
    """Fields, and the gradient of Re(sum conj(w) out) with respect to phases and fields."""
    variables = [tf.Variable(x) for x in (*phases, fields)]
    with tf.GradientTape() as tape:
        out = mesh.propagate(variables[3], Phases(*variables[:3]), engine)
        loss = tf.reduce_sum(tf.math.real(out * np.conj(weights)))
    return [x.numpy() for x in (out, *tape.gradient(loss, variables))]


def assert_relative(found, expected, tolerance):
    """As close as ``tolerance`` of the largest entry."""
    np.testing.assert_allclose(found, expected, atol=tolerance * max(np.abs(expected).max(), 1e-3))


@contextmanager
def uncompiled():
    """Let TensorFlow run the XLA engine's code operation by operation: no wait for a compiler."""
    tf.config.run_functions_eagerly(True)
    try:
        yield
    finally:
        tf.config.run_functions_eagerly(False)


cases = st.builds(
    SimpleNamespace,
    mesh=st.tuples(st.integers(2, 20), st.integers(1, 24)),
    sets=st.sampled_from([1, 3]),
    samples=st.sampled_from([1, 15, 16, 17, 200]),
    splitter_error=st.sampled_from([0.0, 0.1]),
    loss=st.sampled_from([0.0, 0.3]),
    real=st.booleans(),
    shared=st.booleans(),
    seed=st.integers(0, 2**16),
)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(case=cases)
def test_fields_and_gradients_equal_the_xla_engine(case):
    mesh = RectangularMesh(*case.mesh, case.splitter_error, insertion_loss_db=case.loss)
    phases = stacked_phases(mesh, case.sets)
    batches = 1 if case.shared else case.sets
    fields = random_fields(batches, case.samples, mesh.units, seed=case.seed, real=case.real)
    weights = random_fields(case.sets, case.samples, mesh.units, seed=case.seed + 1)
    found = outputs_and_gradients(mesh, phases, fields, weights, NATIVE)
    with uncompiled():
        expected = outputs_and_gradients(mesh, phases, fields, weights, XLA)
    assert_relative(found[0], expected[0], 1e-5)
    for gradient, reference in zip(found[1:], expected[1:], strict=True):
        assert gradient.dtype == reference.dtype
        assert_relative(gradient, reference, 1e-4)


@pytest.mark.parametrize("samples", [1, 16, 17])
@pytest.mark.parametrize(("units", "loss"), [(7, 0.0), (20, 0.3), (35, 0.0)])
def test_intensities_and_their_gradients(units, loss, samples):
    mesh = RectangularMesh(units, 6, insertion_loss_db=loss)
    fields = random_fields(samples, units)
    weights = random_fields(samples, units, real=True)
    results = []
    for engine in (NATIVE, XLA):
        variables = [tf.Variable(x) for x in (*mesh.initial_phases(), fields)]
        with uncompiled():
            with tf.GradientTape() as tape:
                out = mesh.intensities(variables[3], Phases(*variables[:3]), engine)
                value = tf.reduce_sum(out * weights)
            results.append((out, *tape.gradient(value, variables)))
    for found, expected in zip(*results, strict=True):
        assert_relative(found.numpy(), expected.numpy(), 1e-4)


def test_a_large_mesh_stays_close_to_double_precision():
    mesh = RectangularMesh(200)
    phases = mesh.initial_phases()
    exact = Phases(*(x.astype(np.float64) for x in phases))
    np.testing.assert_allclose(mesh.matrix(phases, NATIVE), mesh.matrix(exact, XLA), atol=5e-6)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(angle=st.floats(-2000.0, 2000.0, width=32), small=st.floats(-(2**-10), 2**-10, width=32))
def test_sines_and_cosines(angle, small):
    """Two ports, one interferometer: its matrix shows every sine and cosine."""
    mesh = RectangularMesh(2, 1)
    for theta, phi in [(angle, 0.0), (0.0, angle), (small, angle), (angle, small)]:
        phases = Phases(
            np.full((1, 1), theta, np.float32),
            np.full((1, 1), phi, np.float32),
            np.full(2, angle, np.float32),
        )
        exact = mesh.matrix(Phases(*(x.astype(np.float64) for x in phases)), XLA)
        np.testing.assert_allclose(mesh.matrix(phases, NATIVE), exact, atol=4e-7)


class TestIndependence:
    """Results must not depend on how the work is shared out: equal to the last bit."""

    @pytest.fixture(autouse=True)
    def _restore(self):
        yield
        _threads.set_threads(None)

    @pytest.fixture(params=[(0.0, 0.0), (0.1, 0.2)], ids=["ideal", "general"])
    def case(self, request):
        splitter_error, loss = request.param
        mesh = RectangularMesh(33, 40, splitter_error, insertion_loss_db=loss)
        phases = stacked_phases(mesh, 5)
        fields, weights = random_fields(1, 150, 33), random_fields(5, 150, 33)
        return mesh, phases, fields, weights

    def test_of_the_number_of_threads(self, case):
        results = []
        for count in (1, 2, 5):
            _threads.set_threads(count)
            results.append(outputs_and_gradients(*case, NATIVE))
        for other in results[1:]:
            for one, two in zip(results[0], other, strict=True):
                np.testing.assert_array_equal(one, two)

    def test_of_the_chunks_of_sets(self, case, monkeypatch):
        whole = outputs_and_gradients(*case, NATIVE)
        monkeypatch.setattr(engine_native, "_SCRATCH_BYTES", 1)
        for one, two in zip(whole, outputs_and_gradients(*case, NATIVE), strict=True):
            np.testing.assert_array_equal(one, two)

    def test_of_the_other_samples_and_sets(self, case):
        mesh, phases, fields, _ = case
        out = mesh.propagate(fields, phases, NATIVE)
        one = Phases(*(x[3] for x in phases))
        np.testing.assert_array_equal(mesh.propagate(fields[0, 20:50], one, NATIVE), out[3, 20:50])

    def test_of_concurrent_callers(self, case):
        from concurrent.futures import ThreadPoolExecutor

        mesh, phases, fields, _ = case
        expected = mesh.propagate(fields, phases, NATIVE)
        with ThreadPoolExecutor(4) as pool:
            jobs = [pool.submit(mesh.propagate, fields, phases, NATIVE) for _ in range(20)]
        for job in jobs:
            np.testing.assert_array_equal(job.result(), expected)


class TestTensorFlow:
    def test_inside_a_function(self):
        mesh = RectangularMesh(6, 7)
        phases, fields = mesh.initial_phases(), random_fields(3, 6)

        @tf.function(autograph=False)
        def value_and_gradient(theta):
            with tf.GradientTape() as tape:
                tape.watch(theta)
                out = mesh.intensities(fields, phases._replace(theta=theta), NATIVE)
                assert out.shape == (3, 6)
                value = tf.reduce_sum(out[:, 0])
            return value, tape.gradient(value, theta)

        value, gradient = value_and_gradient(tf.constant(phases.theta))
        expected = mesh.intensities(fields, phases, XLA)[:, 0].sum()
        np.testing.assert_allclose(value, expected, rtol=1e-5)
        assert gradient.shape == phases.theta.shape

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

    def test_idle_interferometers_get_no_gradient(self):
        mesh = RectangularMesh(6, 5)
        weights = random_fields(1, 3, 6)
        _, theta, phi, _, _ = outputs_and_gradients(
            mesh, stacked_phases(mesh, 1), random_fields(1, 3, 6), weights, NATIVE
        )
        assert np.all(theta[0][~mesh.mask] == 0)
        assert np.all(phi[0][~mesh.mask] == 0)


class TestLoss:
    def test_a_blocked_path_does_not_spoil_the_gradient(self):
        """The adjoint never divides by the transmission, not even by 0."""
        mesh = RectangularMesh(6, 9, insertion_loss_db=0.1)
        mesh.transmission[4, 2:4] = 0.0
        arguments = (
            mesh, stacked_phases(mesh, 1), random_fields(1, 5, 6), random_fields(1, 5, 6),
        )  # fmt: skip
        found, expected = (outputs_and_gradients(*arguments, e) for e in (NATIVE, XLA))
        for one, two in zip(found, expected, strict=True):
            assert_relative(one, two, 1e-5)

    def test_many_lossy_columns(self):
        """0.1 dB a column, 400 columns: the light is 10,000 times dimmer behind the mesh."""
        mesh = RectangularMesh(4, 400, insertion_loss_db=0.1)
        arguments = (
            mesh, stacked_phases(mesh, 1), random_fields(1, 5, 4), random_fields(1, 5, 4),
        )  # fmt: skip
        found, expected = (outputs_and_gradients(*arguments, e) for e in (NATIVE, XLA))
        for one, two in zip(found, expected, strict=True):
            np.testing.assert_allclose(one, two, atol=1e-4 * np.abs(two).max())


class TestDimLight:
    def test_keeps_its_precision(self):
        mesh = RectangularMesh(8)
        phases, fields = mesh.initial_phases(), random_fields(20, 8)
        bright, dim = (
            mesh.propagate(f, phases, NATIVE) for f in (fields, fields * np.float32(2**-99))
        )
        np.testing.assert_array_equal(dim, bright * np.float32(2**-99))

    def test_does_not_change_the_caller_s_arithmetic(self):
        mesh = RectangularMesh(8)
        mesh.propagate(random_fields(20, 8), mesh.initial_phases(), NATIVE)
        assert np.float32(1e-38) * np.float32(0.01) > 0

    def test_is_as_fast_as_bright_light(self):
        """Denormal numbers take a processor 15 to 100 times as long."""
        from time import perf_counter

        mesh = RectangularMesh(64)
        phases = mesh.initial_phases()

        def seconds(fields):
            times = []
            for _ in range(20):
                start = perf_counter()
                mesh.propagate(fields, phases, NATIVE)
                times.append(perf_counter() - start)
            return min(times)

        fields = random_fields(128, 64)
        assert seconds(fields * np.float32(1e-40)) < 4 * seconds(fields)


def run_in_a_new_process(script: str, cache) -> str:
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        capture_output=True, text=True, check=True,
        env={**os.environ, "NUMBA_CACHE_DIR": str(cache)},
    )  # fmt: skip
    return result.stdout.split()[-1]


def test_kernels_are_compiled_once_and_found_by_the_next_process(tmp_path):
    script = """
        import numpy as np
        from meshes import RectangularMesh, kernels
        mesh = RectangularMesh(4, splitter_error={error})
        phases = mesh.initial_phases()
        for fields in (np.ones((3, 4), np.float32), np.ones((2, 3, 4), np.complex64)):
            fields.flags.writeable = False
            mesh.propagate(fields, phases, "native")
            mesh.intensities(fields.copy(), phases, "native")
        assert len(kernels.{kernel}.signatures) == 1
        print(sum(kernels.{kernel}.stats.cache_hits.values()))
    """
    ideal = script.format(error=0, kernel="forward_ideal")
    general = script.format(error=0.1, kernel="forward_general")
    assert run_in_a_new_process(ideal, tmp_path) == "0"
    assert run_in_a_new_process(general, tmp_path) == "0"
    # Compiled apart, they must not be taken for one another when they meet.
    both = """
        import numpy as np
        from meshes import Phases, RectangularMesh
        for error in (0.0, 0.1):
            mesh = RectangularMesh(4, splitter_error=error)
            phases = mesh.initial_phases()
            exact = Phases(*(x.astype(np.float64) for x in phases))
            np.testing.assert_allclose(mesh.matrix(phases), mesh.matrix(exact), atol=1e-6)
        print("equal")
    """
    assert run_in_a_new_process(both, tmp_path) == "equal"
    assert run_in_a_new_process(ideal, tmp_path) == "1"


def test_importing_meshes_is_quick():
    script = "import sys, meshes; print(*{'tensorflow', 'numba', 'neurophox'} & set(sys.modules))"
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == ""
