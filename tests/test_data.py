"""Data sets: where they are looked for, what is refused, and the user's own arrays and images."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_formats import idx_bytes, npz_bytes

from photonic_ffzero.data import datasets as data
from photonic_ffzero.data import download
from photonic_ffzero.data.checks import check_arrays, check_numbers
from photonic_ffzero.data.datasets import DATA_VARIABLE, load_dataset, split
from photonic_ffzero.data.readers import DataError

RNG = np.random.default_rng(0)
ARRAYS = {
    "train-images-idx3-ubyte": RNG.integers(0, 256, (20, 6, 6), dtype=np.uint8),
    "train-labels-idx1-ubyte": np.arange(20, dtype=np.uint8) % 10,
    "t10k-images-idx3-ubyte": RNG.integers(0, 256, (10, 6, 6), dtype=np.uint8),
    "t10k-labels-idx1-ubyte": np.arange(10, dtype=np.uint8),
}
KERAS = dict(zip(["x_train", "y_train", "x_test", "y_test"], ARRAYS.values(), strict=True))
CONTENT = {name: idx_bytes(array) for name, array in ARRAYS.items()}


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """An empty home without network: no test sees the machine's own data or leaves it."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv(DATA_VARIABLE, raising=False)

    def no_network(url):
        raise OSError(f"the tests do not open {url}")

    monkeypatch.setattr(download, "open_url", no_network)
    return home


@pytest.fixture
def server(monkeypatch):
    """A server of the small files under MNIST's names, and the checksums that go with them."""
    served = {f"{name}.gz": gzip.compress(content) for name, content in CONTENT.items()}
    sha256 = tuple(hashlib.sha256(content).hexdigest() for content in CONTENT.values())
    published = data._Published("https://server/mnist/", sha256)
    monkeypatch.setitem(data._PUBLISHED, "mnist", published)
    monkeypatch.setattr(
        download, "open_url", lambda url: io.BytesIO(served[url.rpartition("/")[2]])
    )
    return served


def write_idx(folder: Path, pack=bytes, spelling="{}", **replaced: bytes) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in (CONTENT | replaced).items():
        (folder / spelling.format(name)).write_bytes(pack(content))
    return folder


def assert_small_mnist(dataset, name="mnist"):
    assert (dataset.name, dataset.num_classes, dataset.note) == (name, 10, "")
    assert dataset.train_images.dtype == np.float32
    assert dataset.train_labels.dtype == np.int64
    np.testing.assert_allclose(dataset.train_images, KERAS["x_train"] / 255, rtol=1e-6)
    np.testing.assert_allclose(dataset.test_images, KERAS["x_test"] / 255, rtol=1e-6)
    np.testing.assert_array_equal(dataset.train_labels, KERAS["y_train"])
    np.testing.assert_array_equal(dataset.test_labels, KERAS["y_test"])


class TestWhereDataAreFound:
    @pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
    @pytest.mark.parametrize(
        ("pack", "spelling"), [(bytes, "{}"), (gzip.compress, "{}.gz"), (gzip.compress, "{}")]
    )
    def test_idx_files_in_data_dir(self, tmp_path, name, pack, spelling):
        folder = write_idx(tmp_path / "here" / name, pack, spelling)
        dataset = load_dataset(name, tmp_path / "here")
        assert_small_mnist(dataset, name)
        assert dataset.source == f"IDX files in {folder}"

    def test_idx_files_directly_in_the_folder_and_with_dots(self, tmp_path):
        write_idx(tmp_path / "here")
        for path in list((tmp_path / "here").iterdir()):
            path.rename(path.with_name(path.name.replace("-idx", ".idx")))
        assert_small_mnist(load_dataset("mnist", str(tmp_path / "here")))

    @pytest.mark.parametrize("compressed", [False, True])
    def test_kerass_npz(self, tmp_path, compressed):
        path = tmp_path / "mnist.npz"
        path.write_bytes(npz_bytes(compressed, **KERAS))
        dataset = load_dataset("mnist", tmp_path)
        assert_small_mnist(dataset)
        assert dataset.source == f"NumPy file {path}"

    def test_npz_with_floats_and_other_integers(self, tmp_path):
        arrays = {name: array.astype(">i8") for name, array in KERAS.items()}
        arrays |= {name: KERAS[name] / 255 for name in ("x_train", "x_test")}
        (tmp_path / "mnist.npz").write_bytes(npz_bytes(**arrays))
        assert_small_mnist(load_dataset("mnist", tmp_path))

    def test_data_dir_comes_before_the_environment_variable(self, tmp_path, monkeypatch):
        write_idx(tmp_path / "one")
        monkeypatch.setenv(DATA_VARIABLE, str(tmp_path / "absent"))
        assert_small_mnist(load_dataset("auto", tmp_path / "one"))

    def test_the_environment_variable_names_a_folder(self, tmp_path, monkeypatch):
        write_idx(tmp_path / "two" / "mnist")
        monkeypatch.setenv(DATA_VARIABLE, str(tmp_path / "two"))
        assert_small_mnist(load_dataset())

    def test_kerass_folder_and_the_cache(self, home):
        write_idx(home / ".cache/photonic_ffzero/mnist")
        assert_small_mnist(load_dataset())
        (home / ".keras/datasets").mkdir(parents=True)
        (home / ".keras/datasets/mnist.npz").write_bytes(npz_bytes(**KERAS))
        assert "mnist.npz" in load_dataset().source
        write_idx(home / ".keras/datasets/fashion-mnist", gzip.compress, "{}.gz")
        assert_small_mnist(load_dataset("fashion-mnist"), "fashion-mnist")

    def test_one_data_set_is_never_read_as_the_other(self, tmp_path):
        folder = write_idx(tmp_path / "mnist")
        with pytest.raises(DataError, match="must hold fashion-mnist"):
            load_dataset("fashion-mnist", folder)

    @pytest.mark.usefixtures("server")  # which would have the data
    @pytest.mark.parametrize("name", ["auto", "mnist", "fashion-mnist"])
    @pytest.mark.parametrize("by_variable", [False, True])
    def test_a_named_location_is_binding(self, tmp_path, monkeypatch, name, by_variable):
        folder = tmp_path / "empty"
        folder.mkdir()
        monkeypatch.setenv(DATA_VARIABLE, str(folder) if by_variable else "")
        with pytest.raises(DataError, match="found none of them") as caught:
            load_dataset(name, None if by_variable else folder)
        message = str(caught.value)
        assert message.startswith(DATA_VARIABLE if by_variable else "data_dir")
        assert all(part in message for part in (str(folder), "t10k-labels-idx1-ubyte", ".npz"))

    def test_what_was_found_is_named(self, tmp_path):
        with pytest.raises(DataError, match="no such folder"):
            load_dataset("mnist", tmp_path / "absent")
        write_idx(tmp_path / "part")
        (tmp_path / "part" / "t10k-images-idx3-ubyte").unlink()
        with pytest.raises(DataError, match=r"found \S+train-images-idx3-ubyte, "):
            load_dataset("mnist", tmp_path / "part")

    def test_an_unknown_name_is_refused(self):
        with pytest.raises(ValueError, match=r"name must be one of auto, mnist, .* got 'cifar'"):
            load_dataset("cifar")


class TestDownload:
    def test_is_kept_and_read_again_without_network(self, server, home):
        assert_small_mnist(load_dataset("mnist"))
        cached = home / ".cache/photonic_ffzero/mnist"
        assert sorted(path.name for path in cached.iterdir()) == sorted(server)
        server.clear()
        assert_small_mnist(load_dataset("auto"))

    @pytest.mark.parametrize(
        "sent",
        [
            gzip.compress(CONTENT["train-images-idx3-ubyte"][:-1] + b"!", mtime=0),
            gzip.compress(CONTENT["train-images-idx3-ubyte"], mtime=0)[:-20],
            b"<html>please log in</html>",
            b"",
        ],
    )
    def test_a_wrong_checksum_keeps_nothing(self, server, home, sent):
        server["train-images-idx3-ubyte.gz"] = sent
        with pytest.raises(DataError, match="mnist cannot be downloaded from https://server"):
            load_dataset("mnist")
        assert list((home / ".cache/photonic_ffzero/mnist").iterdir()) == []

    def test_auto_falls_back_on_the_digits_and_says_so(self):
        dataset = load_dataset("auto")
        assert dataset.name == "digits"
        assert dataset.note.startswith("mnist cannot be downloaded from https://")
        assert dataset.note.endswith("using scikit-learn's 8 x 8 digits instead")
        assert "\n" not in dataset.note

    @pytest.mark.usefixtures("server")
    def test_auto_falls_back_where_the_cache_cannot_be_written(self, home):
        (home / ".cache").write_text("a file where a folder should be")
        assert load_dataset("auto").name == "digits"

    def test_auto_does_not_pass_over_damaged_files(self, home):
        write_idx(home / ".keras/datasets/mnist", lambda content: content[:-1])
        with pytest.raises(DataError, match="found only"):
            load_dataset("auto")

    @pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
    def test_a_data_set_asked_for_by_name_is_never_replaced(self, name):
        with pytest.raises(DataError, match=f"{name} cannot be downloaded"):
            load_dataset(name)

    def test_a_silent_network_costs_the_time_out_and_no_more(self, monkeypatch):
        monkeypatch.undo()
        monkeypatch.setattr(download, "_TIMEOUT", 0.2)
        monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: time.sleep(3))
        started = time.perf_counter()
        with pytest.raises(TimeoutError, match="no answer within"):
            download.open_url("https://server/")
        assert time.perf_counter() - started < 2


class TestDamagedFiles:
    @pytest.mark.parametrize(
        ("name", "array", "rule"),
        [
            ("train-labels-idx1-ubyte", np.arange(19) % 10, r"found \(19,\) for \(20, 6, 6\)"),
            ("t10k-labels-idx1-ubyte", np.arange(10) + 1, "in 0..9, found 10 at index 9"),
            ("t10k-images-idx3-ubyte", np.zeros((10, 6, 5)), r"found \(6, 5\)"),
            ("train-images-idx3-ubyte", np.zeros((20, 36)), "found 0x00000802"),
        ],
    )
    def test_idx(self, tmp_path, name, array, rule):
        folder = write_idx(tmp_path / "mnist", **{name: idx_bytes(array)})
        with pytest.raises(DataError, match=rule) as caught:
            load_dataset("mnist", folder)
        assert str(folder) in str(caught.value)

    @pytest.mark.parametrize(
        ("name", "array", "rule"),
        [
            ("x_train", np.full((20, 6, 6), np.nan), r"finite and in \[0, 1\], found nan"),
            ("x_test", np.full((10, 6, 6), np.inf), "found inf"),
            ("x_test", np.full((10, 6, 6), 7.5), "found 7.5"),
            ("x_test", np.zeros((10, 6, 6), int), "must be uint8, or float"),
            ("x_test", np.zeros((10, 6, 6, 1), np.uint8), r"\(10, 6, 6, 1\)"),
            ("y_test", np.zeros(10), "labels must be integers, found float64"),
            ("y_test", np.full(10, -1), "in 0..9, found -1 at index 0"),
            ("y_train", np.array([{}] * 20), "nothing is unpickled"),
        ],
    )
    def test_npz(self, tmp_path, name, array, rule):
        (tmp_path / "mnist.npz").write_bytes(npz_bytes(**(KERAS | {name: array})))
        with pytest.raises(DataError, match=rule) as caught:
            load_dataset("mnist", tmp_path)
        assert name in str(caught.value)


class TestDigits:
    def test_split_is_stratified_fixed_and_complete(self):
        digits, again = load_dataset("digits"), load_dataset("digits")
        assert digits.source == "scikit-learn"
        assert digits.train_images.shape == (1297, 8, 8)
        assert digits.test_images.shape == (500, 8, 8)
        assert digits.train_images.min() == 0
        assert digits.train_images.max() == 1
        np.testing.assert_array_equal(digits.test_images, again.test_images)
        shares = [
            np.bincount(labels) / len(labels)
            for labels in (digits.train_labels, digits.test_labels)
        ]
        np.testing.assert_allclose(*shares, atol=2e-3)
        together = np.concatenate([digits.train_images, digits.test_images]).sum(dtype=np.float64)
        from sklearn.datasets import load_digits

        assert together * 16 == load_digits().images.sum()


def real_data() -> Path | None:
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    named = os.environ.get(DATA_VARIABLE)
    return Path(named).resolve() if named else beside if beside.is_dir() else None


REAL_DATA = real_data()


@pytest.mark.parametrize(("name", "mean"), [("mnist", 0.1307), ("fashion-mnist", 0.2860)])
def test_the_real_data_set(name, mean):
    if REAL_DATA is None or not (REAL_DATA / name).is_dir():
        pytest.skip(f"{name} is not here: {DATA_VARIABLE} names no folder that holds it")
    dataset = load_dataset(name, REAL_DATA)
    assert dataset.train_images.shape == (60_000, 28, 28)
    assert dataset.test_images.shape == (10_000, 28, 28)
    assert dataset.train_images.mean() == pytest.approx(mean, abs=1e-4)
    if name == "fashion-mnist":
        np.testing.assert_array_equal(np.bincount(dataset.train_labels), 6000)


class TestSplit:
    @given(count=st.integers(1, 200), seed=st.integers(0, 2**32), part=st.floats(0, 1))
    def test_is_a_partition(self, count, seed, part):
        validation = int(part * (count - 1))
        train, held_out = split(count, validation, seed)
        assert (len(train), len(held_out)) == (count - validation, validation)
        np.testing.assert_array_equal(np.sort(np.r_[train, held_out]), np.arange(count))

    def test_depends_on_the_seed_alone(self):
        np.testing.assert_array_equal(split(100, 30, 1)[1], split(100, 30, 1)[1])
        assert not np.array_equal(split(100, 30, 1)[1], split(100, 30, 2)[1])

    @pytest.mark.parametrize("validation", [-1, 10, 11])
    def test_leaves_something_to_train_on(self, validation):
        with pytest.raises(ValueError, match=f"validation must .*, got {validation}"):
            split(10, validation)

    def test_refuses_fractions(self):
        with pytest.raises(TypeError, match="validation must be a whole number"):
            split(10, 0.5)


class TestCheckArrays:
    @pytest.mark.parametrize(
        ("x", "dtype"),
        [
            (np.ones((4, 3, 3)), np.float32),
            (np.ones((4, 5), np.uint8), np.float32),
            (np.ones((4, 5), np.complex128), np.complex64),
            (np.ones((4, 5)).tolist(), np.float32),
        ],
    )
    def test_brings_arrays_into_the_training_types(self, x, dtype):
        checked, labels, num_classes = check_arrays(x, [0, 1, 2, 1])
        assert (checked.dtype, labels.dtype, num_classes) == (dtype, np.int64, 3)
        np.testing.assert_array_equal(checked, x)

    def test_a_given_number_of_classes_need_not_all_occur(self):
        assert check_arrays(np.ones((2, 3)), [0, 4], num_classes=5)[2] == 5

    @pytest.mark.parametrize(
        ("x", "y", "rule"),
        [
            (np.array([[1, 2], [3, np.nan]]), [0, 1], r"x must be finite, got nan at .* \(1, 1\)"),
            (np.array([[1, 2], [3, 1e300]]), [0, 1], "x must be finite, got inf"),
            (np.array([[1, 2], [3, 1j * np.inf]]), [0, 1], "x must be finite"),
            (np.ones(2), [0, 1], r"x must be images .* got \(2,\)"),
            (np.ones((0, 3)), [], "not empty"),
            (np.ones((2, 2, 2), complex), [0, 1], "x .* must be real, got complex128"),
            (np.array([["a"], ["b"]]), [0, 1], "x must hold numbers, got <U1"),
            ([[1], [2, 3]], [0, 1], "x must be an array, got list"),
            (np.ones((2, 2)), [0.0, 1.0], "y must be integers .* got float64"),
            (np.ones((2, 2)), [[0], [1]], r"y must be integers .* \(2, 1\)"),
            (np.ones((2, 2)), [0, 1, 1], "equal lengths, got 2 and 3"),
            (np.ones((2, 2)), [1, 1], r"every label from 0 to C-1, got \[1\]"),
            (np.ones((2, 2)), [0, 10**9], r"every label .* got \[0, 1000000000\]"),
            (np.ones((2, 2)), [-1, 0], r"every label .* got \[-1, 0\]"),
            (np.ones((2, 2)), [0, 0], "y must have at least 2 classes, got 1"),
        ],
    )
    def test_names_the_argument_the_rule_and_the_value(self, x, y, rule):
        with pytest.raises(DataError, match=rule):
            check_arrays(x, y)

    def test_labels_outside_the_given_classes(self):
        with pytest.raises(DataError, match=r"y: labels must be in 0\.\.1, found 2 at index 1"):
            check_arrays(np.ones((2, 2)), [0, 2], num_classes=2)
        with pytest.raises(ValueError, match="num_classes must be at least 2, got 1"):
            check_arrays(np.ones((2, 2)), [0, 0], num_classes=1)


class TestNumbers:
    """The user's own arrays for a regression."""

    @pytest.mark.parametrize(("y", "dimensions"), [([0, 1], 1), ([[0.5, 2], [1, 3]], 2)])
    def test_labels_keep_their_shape_in_double_precision(self, y, dimensions):
        x, labels, found = check_numbers(np.ones((2, 3)), y)
        assert (x.dtype, labels.dtype, found) == (np.float32, np.float64, dimensions)
        np.testing.assert_array_equal(labels, y)

    @pytest.mark.parametrize(
        ("y", "rule"),
        [
            ([0.0, np.nan], "y must be finite, got nan at index"),
            ([0.0, 1.0, 2.0], "x and y must have equal lengths, got 2 and 3"),
            ([1j, 2.0], "y must be numbers of shape .*, got complex128"),
            ([True, False], "y must be numbers of shape .*, got bool"),
            (np.ones((2, 0)), "y must be numbers of shape"),
            (np.ones((2, 1, 1)), r"y must be numbers .* of shape \(2, 1, 1\)"),
            (["a", "b"], "y must hold numbers"),
        ],
    )
    def test_what_is_none_is_refused_by_name(self, y, rule):
        with pytest.raises(DataError, match=rule):
            check_numbers(np.ones((2, 3)), y)

    def test_held_out_labels_have_the_dimensions_of_the_training(self):
        with pytest.raises(DataError, match="y must have 2 label dimensions, got 1"):
            check_numbers(np.ones((2, 3)), [0.0, 1.0], 2)


def test_the_modules_import_numpy_and_no_network_code():
    code = (
        "import sys, photonic_ffzero.formats, photonic_ffzero.data; "
        "print(sorted({'PIL', 'sklearn', 'tensorflow', 'urllib.request'} & sys.modules.keys()))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"
