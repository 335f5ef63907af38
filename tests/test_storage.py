"""Saved models: exact, whole, and refused by name where they are not models."""

import csv
import errno
import json

import numpy as np
import pytest

from photonic_ffzero import DataError, Model, configure, load_model, predict, save_model
from photonic_ffzero.data.tasks import Classification
from photonic_ffzero.storage import write_csv, write_whole

PORTS, CLASSES = 6, 3


@pytest.fixture(scope="module")
def model():
    model = Model(configure(columns=4, seed=3), PORTS, Classification(CLASSES))
    # Trained phases differ from those that the seed gives.
    model.params[1] = tuple(type(p)(*(array + 0.1 for array in p)) for p in model.params[1])
    return model


@pytest.fixture
def saved(model, tmp_path):
    save_model(model, tmp_path / "model.npz")
    return tmp_path / "model.npz"


def changed(path, **arrays):
    with np.load(path, allow_pickle=False) as file:
        content = dict(file) | arrays
    np.savez(path, **{name: value for name, value in content.items() if value is not None})


def test_a_loaded_model_predicts_exactly_as_the_saved_one(model, saved):
    x = np.random.default_rng(0).random((20, PORTS), dtype=np.float32)
    loaded = load_model(saved)
    np.testing.assert_array_equal(model.scores(x), loaded.scores(x))
    np.testing.assert_array_equal(predict(model, x), predict(loaded, x))
    assert loaded.config == model.config


def test_prototypes_come_from_the_file_not_from_the_seed(saved):
    """NumPy may change its streams; what was trained against must not change with them."""
    other = np.eye(CLASSES, PORTS, dtype=np.float32)[np.newaxis]
    changed(saved, prototypes_2=other)
    np.testing.assert_array_equal(load_model(saved).blocks[1].readout.prototypes, other)


@pytest.mark.parametrize("method", ["bp-ad", "bp-dd"])
@pytest.mark.parametrize("readout", ["ports", "goodness"])
def test_global_networks_too(tmp_path, method, readout):
    model = Model(configure(method=method, readout=readout), PORTS, Classification(CLASSES))
    save_model(model, tmp_path / "m.npz")
    x = np.ones((2, PORTS), np.float32)
    np.testing.assert_array_equal(load_model(tmp_path / "m.npz").scores(x), model.scores(x))


def test_nothing_is_pickled(saved):
    with np.load(saved, allow_pickle=False) as file:
        assert all(array.dtype.kind in "fu" for array in file.values())


class TestRefused:
    def test_missing(self, tmp_path):
        with pytest.raises(DataError, match=r"no\.npz"):
            load_model(tmp_path / "no.npz")

    def test_truncated(self, saved):
        saved.write_bytes(saved.read_bytes()[:-200])
        with pytest.raises(DataError, match=r"model\.npz"):
            load_model(saved)

    def test_foreign(self, tmp_path):
        np.savez(tmp_path / "data.npz", x=np.ones(3))
        with pytest.raises(DataError, match="description"):
            load_model(tmp_path / "data.npz")

    def test_wrong_shape(self, saved):
        changed(saved, mesh_1_theta=np.zeros((4, 2), np.float32))
        with pytest.raises(DataError, match=r"mesh_1_theta must have shape \(4, 3\)"):
            load_model(saved)

    def test_lacking_an_array(self, saved):
        changed(saved, mesh_2_gamma=None)
        with pytest.raises(DataError, match="mesh_2_gamma"):
            load_model(saved)

    @pytest.mark.parametrize(
        "description", [b"\xff", b"[]", b"{}", b'{"config": {"meshes": 2}}', b'{"config": 7}']
    )
    def test_description_that_describes_nothing(self, saved, description):
        changed(saved, description=np.frombuffer(description, np.uint8))
        with pytest.raises(DataError, match="must describe a model"):
            load_model(saved)

    def test_a_description_that_lies_about_the_size_costs_nothing(self, saved):
        with np.load(saved) as file:
            about = json.loads(bytes(file["description"]))
        about["units"] = 10**9
        about["config"]["columns"] = 10**9
        changed(saved, description=np.frombuffer(json.dumps(about).encode(), np.uint8))
        with pytest.raises(DataError, match="must have shape"):
            load_model(saved)

    @pytest.mark.parametrize("kernel", [1, 3, 5])
    def test_nor_does_one_that_lies_about_the_depth(self, tmp_path, kernel):
        """Small kernels leave padded images as they are: no depth would ever be too much."""
        given = {"depth": 2, "channels": 2, "kernel_size": kernel}
        model = Model(configure("digital", network="cnn", **given), 64, Classification(CLASSES))
        save_model(model, tmp_path / "model.npz")
        with np.load(tmp_path / "model.npz") as file:
            about = json.loads(bytes(file["description"]))
        about["config"]["depth"] = 10**9
        text = np.frombuffer(json.dumps(about).encode(), np.uint8)
        changed(tmp_path / "model.npz", description=text)
        with pytest.raises(DataError, match=r"model\.npz"):
            load_model(tmp_path / "model.npz")

    @pytest.mark.parametrize(
        "task", [{}, {"classes": 3, "low": [0]}, {"classes": 10**9}, {"low": [0], "high": [1]}]
    )
    def test_a_task_that_does_not_fit(self, saved, task):
        with np.load(saved) as file:
            about = json.loads(bytes(file["description"]))
        about["task"] = task
        changed(saved, description=np.frombuffer(json.dumps(about).encode(), np.uint8))
        with pytest.raises(DataError, match=r"model\.npz"):
            load_model(saved)


class TestWholeFiles:
    def test_a_failed_write_leaves_the_old_file_and_nothing_else(self, tmp_path):
        path = tmp_path / "file"
        path.write_bytes(b"old")

        def fail(file):
            file.write(b"half")
            raise OSError("disk full")

        with pytest.raises(OSError, match="disk full"):
            write_whole(path, fail)
        assert path.read_bytes() == b"old"
        assert list(tmp_path.iterdir()) == [path]

    def test_the_error_names_the_file(self, tmp_path):
        def fail(file):
            raise OSError(errno.ENOSPC, "No space left on device")

        with pytest.raises(OSError, match=r"No space left on device: '.*file'") as caught:
            write_whole(tmp_path / "file", fail)
        assert caught.value.errno == errno.ENOSPC


class TestTables:
    def test_has_the_columns_of_all_rows_as_they_come(self, tmp_path):
        write_csv(tmp_path / "t.csv", [{"a": 1, "b": "x,y"}, {"c": 0.1, "a": None}])
        with open(tmp_path / "t.csv", newline="") as file:
            assert list(csv.reader(file)) == [
                *(["a", "b", "c"], ["1", "x,y", ""], ["", "", "0.1"]),
            ]

    def test_has_the_columns_asked_for_even_without_a_row(self, tmp_path):
        write_csv(tmp_path / "t.csv", [], ["b", "a"])
        assert (tmp_path / "t.csv").read_bytes() == b"b,a\r\n"
        with pytest.raises(ValueError, match="'c'"):
            write_csv(tmp_path / "t.csv", [{"c": 1}], ["b", "a"])
