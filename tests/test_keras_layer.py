"""The mesh as a Keras 3 layer."""

import re

import keras
import numpy as np
import pytest

import meshes.keras
from meshes import RectangularMesh
from meshes.keras import Intensities, MeshLayer

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


@pytest.mark.parametrize("engine", ["native", "xla"])
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
    names = {"keras": keras, "MeshLayer": MeshLayer, "Intensities": Intensities}
    exec(code, names | {"x": rng.random((32, 16)), "y": rng.integers(0, 3, 32)})
    assert keras.models.load_model("model.keras").count_params() > 0


def test_bad_arguments():
    with pytest.raises(ValueError, match="engine"):
        MeshLayer(4, engine="fast")
    with pytest.raises(ValueError, match=r"inputs .*\[B, 6\], got shape \(2, 5\)"):
        MeshLayer(N)(np.ones((2, 5), np.float32))
