"""Saved models: exact, whole, and refused by name where they are not models."""

import csv
import errno
import json
import os

import numpy as np
import pytest
from test_resume import FORKS

from meshes import ChipEstimate
from meshes._tensorflow import tf
from meshes.files import write_whole
from photonic_ffzero import DataError, Model, configure, load_model, networks, save_model
from photonic_ffzero.data.tasks import Classification
from photonic_ffzero.model import Position
from photonic_ffzero.storage import (
    load_checkpoint,
    read_json,
    save_checkpoint,
    write_csv,
    write_json,
)

PORTS, CLASSES = 6, 3
TASK = Classification(CLASSES)


@pytest.fixture(scope="module")
def model():
    model = Model(configure(columns=4, seed=3), PORTS, TASK)
    # Trained phases differ from those that the seed gives.
    model.params[1] = tuple(type(p)(*(array + 0.1 for array in p)) for p in model.params[1])
    return model


@pytest.fixture
def saved(model, tmp_path):
    save_model(model, tmp_path / "model.npz")
    return tmp_path / "model.npz"


def change(path, **arrays):
    """Replace arrays of a file, or remove those that are None."""
    with np.load(path, allow_pickle=False) as file:
        content = dict(file) | arrays
    np.savez(path, **{name: value for name, value in content.items() if value is not None})


def change_description(path, edit):
    with np.load(path) as file:
        about = json.loads(bytes(file["description"]))
    edit(about)
    change(path, description=np.frombuffer(json.dumps(about).encode(), np.uint8))


def test_a_loaded_model_predicts_exactly_as_the_saved_one(model, saved):
    x = np.random.default_rng(0).random((20, PORTS), dtype=np.float32)
    loaded = load_model(saved)
    np.testing.assert_array_equal(model.scores(x), loaded.scores(x))
    assert loaded.config == model.config


def test_prototypes_come_from_the_file_not_from_the_seed(saved):
    """NumPy may change its streams; the prototypes of a trained model must not change with them."""
    other = np.eye(CLASSES, PORTS, dtype=np.float32)[np.newaxis]
    change(saved, prototypes_2=other)
    np.testing.assert_array_equal(load_model(saved).blocks[1].readout.prototypes, other)


SIZES = (1, 2)  # of two networks, which are their seeds, too


def save_often(meet, path, seed, count):
    """In a process of its own: a network of another size for each seed."""
    model = Model(configure(columns=4, seed=seed, meshes=1 + seed), PORTS, TASK)
    meet.wait(300)
    for _ in range(count):
        save_model(model, path)


@pytest.mark.long
def test_of_two_processes_that_save_to_one_file_each_leaves_it_whole(tmp_path):
    """PHOTONIC_FFZERO_SAVES sets how often each of them saves."""
    count = int(os.environ.get("PHOTONIC_FFZERO_SAVES", "200"))
    path, meet, loads, seeds = tmp_path / "model.npz", FORKS.Barrier(3), 0, set()
    processes = [FORKS.Process(target=save_often, args=[meet, path, s, count]) for s in SIZES]
    params = {
        s: Model(configure(columns=4, seed=s, meshes=1 + s), PORTS, TASK).params for s in SIZES
    }
    for process in processes:
        process.start()
    meet.wait(300)
    while any(process.is_alive() for process in processes) or not loads:
        if path.exists():
            loaded = load_model(path)
            expected = params[loaded.config.seed]
            tf.nest.map_structure(np.testing.assert_array_equal, loaded.params, expected)
            loads += 1
            seeds.add(loaded.config.seed)
    assert [process.exitcode for process in processes] == [0, 0]
    assert seeds == {1, 2}
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.npz"]
    print(f"{loads} loads while two processes saved {count} times each")


def test_a_checkpoint_from_before_calibrations_were_saved(model, tmp_path):
    path = tmp_path / "model.npz"
    save_checkpoint(model, Position(), path)
    with np.load(path) as file:
        training = json.loads(bytes(file["training"]))
    assert training.pop("calibrated") is False

    def written(content):
        change(path, training=np.frombuffer(json.dumps(content).encode(), np.uint8))

    written(training)
    assert load_checkpoint(path)[1].calibrated is False
    written(training | {"calibrated": 1})
    with pytest.raises(DataError, match=r"training must describe .* calibrated must be True or"):
        load_checkpoint(path)


def test_global_networks_too(tmp_path):
    model = Model(configure(method="bp-ad", readout="ports"), PORTS, TASK)
    save_model(model, tmp_path / "m.npz")
    x = np.ones((2, PORTS), np.float32)
    np.testing.assert_array_equal(load_model(tmp_path / "m.npz").scores(x), model.scores(x))


class TestWhatIsKnownOfTheChip:
    @pytest.fixture(params=[save_model, lambda *to: save_checkpoint(to[0], Position(), to[1])])
    def twin(self, request, tmp_path):
        """A model with a twin, and its file."""
        model = Model(configure(estimator="twin", columns=4), PORTS, TASK)
        errors = {"mesh1_theta": 0.2, "mesh2_loss": 0.5, "mesh2_loss_std": 0.1}
        model.know(ChipEstimate.known(PORTS, 4, 2, **errors))
        request.param(model, tmp_path / "model.npz")
        return model, tmp_path / "model.npz"

    def test_is_loaded_again(self, twin):
        model, path = twin
        loaded = load_model(path).chip_estimate.arrays()
        assert loaded["mesh1_theta"].any()
        for name, array in model.chip_estimate.arrays().items():
            np.testing.assert_array_equal(loaded[name], array)

    @pytest.mark.parametrize(
        ("array", "message"),
        [
            (None, "must hold an array known_mesh2_phi, found none"),
            (np.zeros((4, 2)), r"known_mesh2_phi .*\(4, 3\), found \(4, 2\)"),
            (np.full((4, 3), np.nan), "mesh2_phi must be finite"),
        ],
        ids=range(3),
    )
    def test_is_checked(self, twin, array, message):
        _, path = twin
        change(path, known_mesh2_phi=array)
        with pytest.raises(DataError, match=message):
            load_model(path)

    def test_is_nothing_in_a_file_of_a_former_version(self, tmp_path):
        model, path = Model(configure(estimator="twin"), PORTS, TASK), tmp_path / "model.npz"
        save_model(model, path)
        change(path, **{f"known_{name}": None for name in model.chip_estimate.arrays()})
        assert not load_model(path).chip_estimate.meshes[0].values.theta.any()


class TestRefused:
    @pytest.mark.parametrize(
        ("arrays", "message"),
        [
            ({"mesh_1_theta": np.zeros((4, 2), np.float32)}, r"mesh_1_theta .*\(4, 3\)"),
            ({"mesh_1_theta": np.zeros((4, 3), int)}, "mesh_1_theta .*int64"),
            ({"mesh_1_theta": np.full((4, 3), 1e300)}, "mesh_1_theta .*finite"),
            ({"mesh_2_gamma": None}, "must hold an array mesh_2_gamma, found none"),
            ({"prototypes_2": None}, "must hold an array prototypes_2, found none"),
            ({"prototypes_2": np.ones((1, 3, 5))}, r"prototypes_2 .*\(1, 3, 6\)"),
            ({"description": np.zeros(3)}, "description .*float64"),
        ],
        ids=range(7),
    )
    def test_wrong_arrays(self, saved, arrays, message):
        change(saved, **arrays)
        with pytest.raises(DataError, match=message):
            load_model(saved)

    @pytest.mark.parametrize("text", [b"\xff", b"[]", b'{"config": {"meshes": 2}}'])
    def test_a_description_that_describes_nothing(self, saved, text):
        change(saved, description=np.frombuffer(text, np.uint8))
        with pytest.raises(DataError, match=r"model\.npz: description"):
            load_model(saved)

    def test_files_that_are_no_models(self, saved, tmp_path):
        np.savez(tmp_path / "data.npz", x=np.ones(3))
        saved.write_bytes(saved.read_bytes()[:-200])
        for name in ("none.npz", "data.npz", "model.npz"):
            with pytest.raises(DataError, match=name):
                load_model(tmp_path / name)

    @pytest.mark.parametrize(
        ("settings", "lie"),
        [
            ({}, lambda about: about.update(units=10**9)),
            # Padded images keep their size, so no depth would ever be too much.
            ({"kernel_size": 1}, lambda about: about["config"].update(depth=10**9)),
            ({"kernel_size": 5}, lambda about: about["config"].update(depth=10**9)),
        ],
        ids=["units", "depth", "depth of a large kernel"],
    )
    def test_a_description_that_lies_about_the_size_costs_nothing(self, tmp_path, settings, lie):
        cnn = {"recipe": "digital", "network": "cnn", "depth": 2, "channels": 2} | settings
        path = tmp_path / "model.npz"
        save_model(Model(configure(**(cnn if settings else {})), 64, TASK), path)
        change_description(path, lie)
        with pytest.raises(DataError, match=r"model\.npz"):
            load_model(path)

    @pytest.mark.parametrize(
        ("settings", "units", "message"),
        [
            ({"columns": 1}, 12000, "prototypes_1"),
            ({"columns": 1, "method": "bp-dd"}, 12000, "prototypes_1"),
            ({"columns": 1000}, 4000, "must unpack to at most"),
            ({"recipe": "digital", "network": "cnn", "depth": 12}, 2**26, "at most 1342177"),
            ({"recipe": "digital", "network": "mlp", "width": 300}, 10**5, "must unpack to at"),
        ],
        ids=["no prototypes", "bp", "zeros", "projections", "dense zeros"],
    )
    def test_a_small_file_of_a_large_network_draws_nothing(
        self, tmp_path, monkeypatch, settings, units, message
    ):
        """Its compressed arrays have the announced shapes, and all of them are zero."""
        config = configure(**({"meshes": 1} if "recipe" not in settings else {}), **settings)
        shapes = enumerate(networks.parameter_shapes(config, units, TASK), start=1)
        arrays = {
            f"{layer}_{index}_{name}": np.broadcast_to(np.float32(0), shape)
            for index, (layer, params) in shapes
            for name, shape in params._asdict().items()
        }
        about = {"config": config.as_json(), "units": units, "task": {"classes": CLASSES}}
        text = np.frombuffer(json.dumps(about).encode(), np.uint8)
        if "cnn" in str(settings):
            arrays |= {f"prototypes_{i}": np.zeros((4, 3, 10), np.float32) for i in range(1, 13)}
        np.savez_compressed(tmp_path / "model.npz", description=text, **arrays)
        monkeypatch.setattr(networks, "generator", None)
        with pytest.raises(DataError, match=rf"model\.npz.*{message}"):
            load_model(tmp_path / "model.npz")

    def test_a_model_is_loaded_without_a_draw(self, saved, model, monkeypatch):
        monkeypatch.setattr(networks, "generator", None)
        np.testing.assert_array_equal(load_model(saved).params[1][0].phi, model.params[1][0].phi)

    @pytest.mark.parametrize("task", [7, {"classes": 3, "low": [0]}, {"classes": 10**9}])
    def test_a_task_that_does_not_fit(self, saved, task):
        change_description(saved, lambda about: about.update(task=task))
        with pytest.raises(DataError, match=r"model\.npz"):
            load_model(saved)


class TestWholeFiles:
    @pytest.mark.parametrize("known", [True, False])
    def test_a_failed_write_names_the_file_and_leaves_the_old_one(self, tmp_path, known):
        path = tmp_path / "file"
        path.write_bytes(b"old")

        def fail(file):
            file.write(b"half")
            raise OSError(errno.ENOSPC, "disk full") if known else OSError("disk full")

        with pytest.raises(OSError, match=r"disk full.*file'") as caught:
            write_whole(path, fail)
        assert caught.value.errno == (errno.ENOSPC if known else None)
        assert path.read_bytes() == b"old"
        assert list(tmp_path.iterdir()) == [path]

    def test_tables_have_the_columns_of_all_rows_or_those_asked_for(self, tmp_path):
        write_csv(tmp_path / "t.csv", [{"a": 1, "b": "x,y"}, {"c": 0.1, "a": None}])
        with open(tmp_path / "t.csv", newline="") as file:
            assert list(csv.reader(file)) == [["a", "b", "c"], ["1", "x,y", ""], ["", "", "0.1"]]
        write_csv(tmp_path / "t.csv", [], ["b", "a"])
        assert (tmp_path / "t.csv").read_bytes() == b"b,a\r\n"
        with pytest.raises(ValueError, match="'c'"):
            write_csv(tmp_path / "t.csv", [{"c": 1}], ["b", "a"])

    def test_json_objects_are_read_as_written(self, tmp_path):
        path = tmp_path / "file.json"
        assert read_json(path) is None
        write_json(path, {"a": [1, 0.1, None]})
        assert read_json(path) == {"a": [1, 0.1, None]}
        with pytest.raises(ValueError, match="JSON compliant"):
            write_json(path, {"a": np.nan})
        for text in ("{", "[]"):
            path.write_text(text)
            with pytest.raises(DataError, match=r"file\.json"):
                read_json(path)
