"""Meshes, nonlinear elements and detectors as Keras 3 layers."""

import re
import subprocess
import sys
import textwrap

import keras
import numpy as np
import pytest

import meshes.keras
from meshes import NONLINEARITIES, BlackBox, ElectroOptic, RectangularMesh, Table
from meshes._tensorflow import exporting, from_python, tf
from meshes.keras import (
    ComplexMeanSquaredError,
    ComplexMSE,
    Intensities,
    MeshLayer,
    NonlinearityLayer,
)

pytestmark = pytest.mark.compiled

N = 6


@pytest.fixture
def fields():
    rng = np.random.default_rng(0)
    return (rng.normal(size=(5, N)) + 1j * rng.normal(size=(5, N))).astype(np.complex64)


def small_model(**settings):
    layers = [keras.Input([N]), MeshLayer(N, **settings), Intensities(), keras.layers.Dense(2)]
    return keras.Sequential(layers)


@pytest.mark.parametrize("engine", ["native", "xla"])
def test_is_the_mesh(fields, engine):
    layer = MeshLayer(N, num_columns=4, splitter_error=0.05, seed=3, engine=engine)
    mesh = RectangularMesh(N, 4, splitter_error=0.05, seed=3)
    for light in (fields, fields.real):
        expected = mesh.propagate(light, mesh.initial_phases(3))
        np.testing.assert_allclose(layer(light), expected, atol=1e-5)


@pytest.mark.parametrize("name", ["model.keras", "model.weights.h5"])
def test_saved_and_restored(tmp_path, fields, name):
    model = small_model(num_columns=4, splitter_error=0.1, seed=2)
    assert [weight.name for weight in model.weights[:3]] == ["theta", "phi", "gamma"]
    for variable in model.trainable_variables:
        variable.assign_add(0.1 * np.ones(variable.shape))
    if name.endswith(".keras"):
        model.save(tmp_path / name)
        other = keras.models.load_model(tmp_path / name)
    else:
        model.save_weights(tmp_path / name)
        other = small_model(num_columns=4, splitter_error=0.1, seed=2)
        other.load_weights(tmp_path / name)
    np.testing.assert_array_equal(model(fields.real), other(fields.real))


@pytest.mark.parametrize("engine", ["native", pytest.param("xla", marks=pytest.mark.long)])
def test_fit_trains_the_phases(engine):
    """In each class, one port is brighter than the others."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 256)
    x = rng.random((256, N), dtype=np.float32)
    x[np.arange(256), y] += 1
    model = small_model(engine=engine)
    theta, mask = model.layers[0].phases.theta, model.layers[0].mesh.mask
    before = theta.numpy()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.05), loss)
    losses = model.fit(x, y, epochs=6, verbose=0).history["loss"]
    assert losses[-1] < 0.5 * losses[0]
    assert (theta.numpy()[mask] != before[mask]).any()
    np.testing.assert_array_equal(theta.numpy()[~mask], before[~mask])


def test_the_documented_example_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = re.search(r"\n    layers = .*?\n\Z", meshes.keras.__doc__ + "\n", re.DOTALL)[0]
    code = code.replace("\n    ", "\n").replace("epochs=5", "epochs=5, verbose=0")
    rng = np.random.default_rng(0)
    names = {"keras": keras} | {cls.__name__: cls for cls in (MeshLayer, Intensities)}
    names["NonlinearityLayer"] = NonlinearityLayer
    exec(code, names | {"x": rng.random((32, 16)), "y": rng.integers(0, 3, 32)})
    assert keras.models.load_model("model.keras").count_params() > 0


def test_bad_arguments():
    with pytest.raises(ValueError, match="engine"):
        MeshLayer(4, engine="fast")
    with pytest.raises(ValueError, match=r"inputs .*\[B, 6\], got shape \(2, 5\)"):
        MeshLayer(N)(np.ones((2, 5), np.float32))


def test_a_summary_tells_phases():
    """Of 6 ports and 5 columns: 12 interferometers that are not idle, two phases each, 6 more."""
    lines = []
    model = keras.Sequential([keras.Input([N]), MeshLayer(N, 5), MeshLayer(N), Intensities()])
    model.summary(print_fn=lambda line, **rest: lines.append(line))
    assert re.search(r"mesh_32_phases(_\d+)? .*MeshLayer", "".join(lines))
    assert re.search(r"mesh_36_phases(_\d+)? .*MeshLayer", "".join(lines))
    assert keras.models.clone_model(model).layers[0].name == model.layers[0].name


def two_meshes(element, **rest):
    layers = MeshLayer(N), NonlinearityLayer(element, **rest), MeshLayer(N, 3, seed=1)
    return keras.Sequential([keras.Input([N]), *layers, Intensities(), keras.layers.Dense(2)])


class TestNonlinearityLayer:
    @pytest.mark.parametrize("name", NONLINEARITIES)
    def test_is_the_element_after_loading_too(self, name, fields, tmp_path):
        np.testing.assert_allclose(
            NonlinearityLayer(name)(fields), NONLINEARITIES[name]()(fields), atol=1e-6
        )
        model = two_meshes(name)
        model.save(tmp_path / "model.keras")
        loaded = keras.models.load_model(tmp_path / "model.keras")
        np.testing.assert_allclose(loaded(fields.real), model(fields.real), atol=1e-6)

    @pytest.mark.parametrize(
        "element",
        [
            "electro-optic:alpha=0.2,g=pi/3",
            ElectroOptic(0.2, 1 / 3, -1e-3),
            "kerr:phi_nl=2",
            Table("measured.csv", (0, 1, 2), (0, 0.8, 1.1), (0, 0.3, 1 / 3)),
        ],
        ids=str,
    )
    def test_keeps_its_parameters(self, element):
        layer = NonlinearityLayer(element, name="between")
        again = NonlinearityLayer.from_config(layer.get_config())
        assert (again.nonlinearity, again.name) == (layer.nonlinearity, "between")

    def test_functions_compute_and_are_refused_when_saved(self, fields, tmp_path):
        def measured(light):
            return np.tanh(np.abs(light))

        model = two_meshes(measured)
        assert np.isfinite(model.predict(fields.real, verbose=0)).all()
        with pytest.raises(ValueError, match=r"nonlinearity .*electro-optic.*got measured"):
            model.save(tmp_path / "model.keras")

    @pytest.mark.parametrize("element", ["numpy:tanh", "kerr:phi=1", "ker"])
    def test_no_name_is_imported(self, element):
        with pytest.raises(ValueError, match="nonlinearity"):
            NonlinearityLayer(element)

    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    def test_returns_the_type_that_it_declares(self, fields, dtype):
        light = keras.Input([N], dtype="float32")
        output = NonlinearityLayer("kerr", dtype=dtype)(light)
        found = keras.Model(light, output)(fields.real)
        assert (
            output.dtype
            == found.dtype.name
            == {"4": "complex64", "8": "complex128"}[str(np.dtype(dtype).itemsize)]
        )

    def test_gradients_pass(self, fields):
        model = two_meshes("saturable-absorber")
        model.compile("sgd", "mse")
        first = model.layers[0].phases.theta.numpy()
        model.fit(fields.real, np.ones((5, 2)), verbose=0)
        assert (model.layers[0].phases.theta.numpy() != first).any()

    @pytest.mark.long
    def test_two_meshes_survive_a_new_process(self, fields, tmp_path):
        model = two_meshes("electro-optic:g=0.7")
        model.compile("adam", "mse")
        model.fit(fields.real, np.ones((5, 2)), verbose=0)
        model.save(tmp_path / "model.keras")
        np.savez(tmp_path / "light.npz", x=fields.real, y=model.predict(fields.real, verbose=0))
        script = """
            import keras, numpy as np, meshes.keras
            light = np.load("light.npz")
            found = keras.models.load_model("model.keras").predict(light["x"], verbose=0)
            np.testing.assert_allclose(found, light["y"], atol=1e-6, rtol=0)
        """
        run_in_a_new_process(script, tmp_path)


def operations(concrete):
    """The types of all operations of a function and of those that it calls."""
    definition = concrete.graph.as_graph_def()
    bodies = [definition.node, *(function.node_def for function in definition.library.function)]
    return {node.op for body in bodies for node in body}


class TestExport:
    """A graph that leaves the process gives the same light elsewhere, or is refused."""

    @pytest.fixture
    def model(self, fields):
        model = keras.Sequential([keras.Input([N]), MeshLayer(N, seed=3), Intensities()])
        model.predict(fields.real, verbose=0)  # traces the native engine first
        return model

    def signed(self, model):
        module = tf.Module()
        module.phases = [weight.value for weight in model.weights]  # exporters want them tracked
        module.serve = tf.function(lambda x: model(x), input_signature=[tf.TensorSpec([None, N])])
        return module

    def test_holds_no_python(self, model, fields, tmp_path):
        model.export(tmp_path / "keras", verbose=False)
        tf.saved_model.save(self.signed(model), str(tmp_path / "module"))
        assert not exporting()
        for name in ("keras", "module"):
            loaded = tf.saved_model.load(str(tmp_path / name))
            concrete = loaded.serve.concrete_functions[0]
            assert not {op for op in operations(concrete) if "PyFunc" in op}
            found = loaded.serve(tf.constant(fields.real))
            np.testing.assert_allclose(found, model(fields.real), atol=2e-6)

    @pytest.mark.long
    def test_gives_the_same_light_in_a_new_process(self, model, fields, tmp_path):
        model.export(tmp_path / "exported", verbose=False)
        model.save(tmp_path / "model.keras")
        np.savez(tmp_path / "light.npz", x=fields.real, y=model(fields.real))
        script = """
            import sys, numpy as np, tensorflow as tf
            light = np.load("light.npz")
            exported = tf.saved_model.load("exported")
            served = exported.serve(tf.constant(light["x"]))
            np.testing.assert_allclose(served, light["y"], atol=2e-6)
            assert "meshes" not in sys.modules
            import keras, meshes, meshes.keras
            meshes.RectangularMesh(4)
            loaded = keras.models.load_model("model.keras")(light["x"])
            np.testing.assert_array_equal(loaded, light["y"])
        """
        run_in_a_new_process(script, tmp_path)

    def test_a_graph_traced_before_is_refused(self, tmp_path):
        layer = MeshLayer(N, seed=3, engine="native")
        model = keras.Sequential([keras.Input([N]), layer, Intensities()])
        module = tf.Module()
        module.phases = [weight.value for weight in model.weights]  # exporters want them tracked
        module.serve = tf.function(lambda x: model(x))
        concrete = module.serve.get_concrete_function(tf.TensorSpec([2, N]))
        with pytest.raises(AssertionError, match=r"calls the native engine \(engine='xla'"):
            tf.saved_model.save(module, str(tmp_path / "out"), signatures=concrete)

    @pytest.mark.parametrize("name", ["BlackBox", "a device"])
    @pytest.mark.parametrize("when", ["export", "before"])
    def test_python_functions_are_refused_by_name(self, name, when, tmp_path):
        box = BlackBox(lambda x: 2 * x)
        device = lambda x: from_python("a device", box.function, [x], x.dtype)  # noqa: E731
        call = box if name == "BlackBox" else device
        module = tf.Module()
        module.serve = tf.function(call, input_signature=[tf.TensorSpec([None, N])])
        if when == "before":
            assert module.serve(tf.ones([1, N])).numpy().sum() == 2 * N
        with pytest.raises((ValueError, AssertionError), match=f"must not call Python.*{name}"):
            tf.saved_model.save(module, str(tmp_path / "out"))


class TestDtypes:
    """Keras knows the types of the outputs before they exist."""

    @pytest.mark.parametrize("engine", ["native", "xla"])
    @pytest.mark.parametrize("given", ["float16", "float32", "float64", "complex64", "complex128"])
    @pytest.mark.parametrize(
        "dtype",
        [None, "float16", "float64", "mixed_float16", "mixed_bfloat16", "complex64", "complex128"],
    )
    def test_what_is_declared_is_returned(self, dtype, given, engine):
        double = dtype in ("float64", "complex128")
        if double and engine == "native":
            with pytest.raises(ValueError, match=r"engine must be xla or auto .* got native"):
                MeshLayer(2, engine=engine, dtype=dtype)
            return
        light = keras.Input([2], dtype=given)
        layer = MeshLayer(2, engine=engine, dtype=dtype)
        outputs = [layer(light), Intensities(dtype=dtype)(layer(light))]
        expected = ["complex128", "float64"] if double else ["complex64", "float32"]
        assert [x.dtype for x in outputs] == expected
        found = keras.Model(light, outputs)(np.ones((3, 2), given))
        assert [x.dtype.name for x in found] == expected
        phases = {x.dtype for x in layer.weights}
        assert phases == {"float64" if double else "float32"}


class TestComplexMeanSquaredError:
    def test_sees_errors_that_are_imaginary(self, fields):
        """Through compile and fit, where Keras casts what functions and its losses compare."""
        model = keras.Sequential([keras.Input([N], dtype="complex64"), MeshLayer(N)])
        targets = np.asarray(model(fields)) + 0.5j
        model.compile(keras.optimizers.Adam(0.02), ComplexMSE())
        np.testing.assert_allclose(model.evaluate(fields, targets, verbose=0), 0.25, rtol=1e-5)
        losses = model.fit(fields, targets, epochs=20, verbose=0).history["loss"]
        np.testing.assert_allclose(losses[0], 0.25, rtol=1e-5)
        assert losses[-1] < 0.8 * losses[0]

    @pytest.mark.parametrize("target", ["complex64", "float32", "int32"])
    def test_is_the_mean_squared_modulus(self, fields, target):
        targets = np.round(3 * fields)
        targets = (targets if target == "complex64" else targets.real).astype(target)
        expected = np.mean(np.abs(fields - targets) ** 2)
        np.testing.assert_allclose(ComplexMeanSquaredError()(targets, fields), expected, rtol=1e-6)

    @pytest.mark.long
    def test_teaches_a_unitary_whole(self):
        """The mean squared error of the real parts alone would leave the imaginary ones wrong."""
        rng = np.random.default_rng(0)
        target = RectangularMesh(2)
        model = keras.Sequential([keras.Input([2], dtype="complex64"), MeshLayer(2, seed=1)])
        x = (rng.normal(size=(256, 2)) + 1j * rng.normal(size=(256, 2))).astype(np.complex64)
        y = target.propagate(x, target.initial_phases(7))
        model.compile(keras.optimizers.Adam(0.05), ComplexMeanSquaredError())
        model.fit(x, y, epochs=30, verbose=0)
        assert np.abs(model(x) - y).max() < 0.05

    def test_is_saved_with_its_model(self, fields, tmp_path):
        model = keras.Sequential([keras.Input([N]), MeshLayer(N)])
        model.compile("sgd", ComplexMeanSquaredError())
        model.save(tmp_path / "model.keras")
        loaded = keras.models.load_model(tmp_path / "model.keras")
        light = fields.real, fields
        np.testing.assert_allclose(
            loaded.evaluate(*light, verbose=0), model.evaluate(*light, verbose=0)
        )

    def test_refuses_targets_of_another_shape(self, fields):
        with pytest.raises(ValueError, match=r"y_true must .*\(5, 6\), got \(5, 1\)"):
            ComplexMeanSquaredError()(fields[:, :1], fields)


def run_in_a_new_process(script, folder):
    code = textwrap.dedent(script)
    ended = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


STATE = """
    import json, logging, os, random, signal, sys, threading, warnings

    def snapshot():
        # Attributes of modules that are not loaded are unchanged.
        loaded = sys.modules
        state = {
            "environment": dict(os.environ),
            "files": sorted(os.listdir("/proc/self/fd"))[:-1],
            "stderr": os.readlink("/proc/self/fd/2"),
            "signals": {str(s): str(signal.getsignal(s)) for s in signal.valid_signals()},
            "threads": sorted(t.name for t in threading.enumerate()),
            "filters": [str(f) for f in warnings.filters],
            "python": hash(random.getstate()),
            "loggers": {
                name: (logger.level, [str(h) for h in logger.handlers], logger.disabled)
                for name, logger in [("", logging.root), *logging.root.manager.loggerDict.items()]
                if isinstance(logger, logging.Logger) and (not name or name in WATCHED)
            },
        }
        if "numpy" in loaded:
            state["numpy"] = str(loaded["numpy"].random.get_state()[1:])
            state["errors"] = loaded["numpy"].geterr()
        if "tensorflow" in loaded:
            from tensorflow.python.eager import context
            state["context"] = context.context()._initialized
            state["seed"] = context.context()._seed
        return state

    WATCHED = ("tensorflow", "absl", "keras", "h5py", "numba", "matplotlib")
"""


def check_import(name, first, then, tmp_path):
    """Import some modules, compare the process before and after another import, then do more."""
    script = f"""
    import numpy, scipy.special{first}
    before = snapshot()
    import {name}
    after = snapshot()
    for key in before:
        assert before[key] == after[key], (key, before[key], after[key])
    {then}
    """
    run_in_a_new_process(STATE + script, tmp_path)


@pytest.mark.long
class TestImports:
    """Importing changes nothing beyond what importing TensorFlow and Keras changes."""

    @pytest.mark.parametrize("name", ["meshes", "meshes.keras", "photonic_ffzero"])
    def test_change_nothing(self, name, tmp_path):
        still_possible = """
    tensorflow.config.threading.set_intra_op_parallelism_threads(1)
    tensorflow.config.threading.set_inter_op_parallelism_threads(1)
    for device in tensorflow.config.list_physical_devices("GPU"):
        tensorflow.config.experimental.set_memory_growth(device, True)"""
        check_import(name, ", tensorflow, keras, h5py", still_possible, tmp_path)

    @pytest.mark.parametrize("name", ["meshes", "photonic_ffzero"])
    def test_do_not_need_tensorflow(self, name, tmp_path):
        absent = 'assert "tensorflow" not in sys.modules and "matplotlib" not in sys.modules'
        check_import(name, "", absent, tmp_path)


def test_detectors_take_whole_numbers():
    assert meshes.keras.Intensities()(np.array([[20]], np.uint8)).numpy() == [[400]]
