"""Data sets: where they are looked for, what is refused, and the user's own arrays and images."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from test_readers import idx_bytes, npz_bytes

from meshes.files import DataError
from photonic_ffzero.data import datasets, published, readers
from photonic_ffzero.data.checks import check_arrays, check_numbers
from photonic_ffzero.data.datasets import load_dataset, split
from photonic_ffzero.data.published import DATA_VARIABLE

RNG = np.random.default_rng(0)
ARRAYS = {
    "train-images-idx3-ubyte": RNG.integers(0, 256, (20, 6, 6), dtype=np.uint8),
    "train-labels-idx1-ubyte": np.arange(20, dtype=np.uint8) % 10,
    "t10k-images-idx3-ubyte": RNG.integers(0, 256, (10, 6, 6), dtype=np.uint8),
    "t10k-labels-idx1-ubyte": np.arange(10, dtype=np.uint8),
}
KERAS = dict(zip(["x_train", "y_train", "x_test", "y_test"], ARRAYS.values(), strict=True))
CONTENT = {name: idx_bytes(array) for name, array in ARRAYS.items()}
TWO = np.ones((2, 2))


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """An empty home without network: no test sees the machine's data or leaves it."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv(DATA_VARIABLE, raising=False)

    def no_network(url):
        raise OSError(f"the tests do not open {url}")

    monkeypatch.setattr(published, "open_url", no_network)
    return home


@pytest.fixture
def server(monkeypatch):
    """A server of the small files in MNIST's names, and the checksums that go with them."""
    served = {f"{name}.gz": gzip.compress(content) for name, content in CONTENT.items()}
    sha256 = tuple(hashlib.sha256(content).hexdigest() for content in CONTENT.values())
    data_set = published.Published("https://server/mnist/", sha256)
    monkeypatch.setitem(published.PUBLISHED, "mnist", data_set)
    monkeypatch.setattr(
        published, "open_url", lambda url: io.BytesIO(served[url.rpartition("/")[2]])
    )
    return served


def write_idx(folder: Path, pack=bytes, spelling="{}") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in CONTENT.items():
        (folder / spelling.format(name)).write_bytes(pack(content))
    return folder


def assert_small_mnist(dataset, name="mnist"):
    assert (dataset.name, dataset.num_classes, dataset.note) == (name, 10, "")
    assert (dataset.train_images.dtype, dataset.train_labels.dtype) == (np.float32, np.int64)
    np.testing.assert_allclose(dataset.train_images, KERAS["x_train"] / 255, rtol=1e-6)
    np.testing.assert_allclose(dataset.test_images, KERAS["x_test"] / 255, rtol=1e-6)
    np.testing.assert_array_equal(dataset.train_labels, KERAS["y_train"])
    np.testing.assert_array_equal(dataset.test_labels, KERAS["y_test"])


class TestWhereDataAreFound:
    @pytest.mark.parametrize(
        ("folder", "pack", "spelling"),
        [
            ("mnist", bytes, "{}"),
            ("mnist", gzip.compress, "{}.gz"),
            ("fashion-mnist", gzip.compress, "{}"),
            ("", bytes, "{}"),
        ],
    )
    @pytest.mark.parametrize("separator", "-.")
    def test_idx_files_in_data_dir(self, tmp_path, folder, pack, spelling, separator):
        name = folder or "mnist"
        write_idx(tmp_path / folder, pack, spelling)
        for path in (tmp_path / folder).iterdir():
            path.rename(path.with_name(path.name.replace("-idx", f"{separator}idx")))
        dataset = load_dataset(name, str(tmp_path))
        assert_small_mnist(dataset, name)
        assert str(tmp_path / folder) in dataset.source

    @pytest.mark.parametrize("compressed", [False, True])
    def test_kerass_npz(self, tmp_path, compressed):
        floats = {name: KERAS[name] / 255 for name in ("x_train", "x_test")}
        labels = {name: KERAS[name].astype(">i8") for name in ("y_train", "y_test")}
        for arrays in (KERAS, floats | labels):
            (tmp_path / "mnist.npz").write_bytes(npz_bytes(compressed, **arrays))
            assert_small_mnist(load_dataset("mnist", tmp_path))

    def test_data_dir_comes_before_the_environment_variable(self, tmp_path, monkeypatch):
        write_idx(tmp_path / "mnist")
        monkeypatch.setenv(DATA_VARIABLE, str(tmp_path / "absent"))
        assert_small_mnist(load_dataset("auto", tmp_path))
        monkeypatch.setenv(DATA_VARIABLE, str(tmp_path))
        assert_small_mnist(load_dataset())

    @pytest.mark.parametrize("variable", [None, "XDG_CACHE_HOME"])
    def test_kerass_folder_and_the_cache(self, home, monkeypatch, variable):
        cache = home / (".cache" if variable is None else "elsewhere")
        if variable:
            monkeypatch.setenv(variable, str(cache))
        write_idx(cache / "photonic_ffzero/mnist", gzip.compress, "{}.gz")  # as version 0.1 did
        assert_small_mnist(load_dataset())
        (home / ".keras/datasets").mkdir(parents=True)
        (home / ".keras/datasets/mnist.npz").write_bytes(npz_bytes(**KERAS))
        assert "mnist.npz" in load_dataset().source

    @pytest.mark.usefixtures("server")  # which would have the data
    @pytest.mark.parametrize("name", ["auto", "fashion-mnist"])
    @pytest.mark.parametrize("argument", ["data_dir", DATA_VARIABLE])
    def test_a_named_location_is_binding(self, tmp_path, monkeypatch, name, argument):
        named = argument == "data_dir"
        monkeypatch.setenv(DATA_VARIABLE, "" if named else str(tmp_path))
        with pytest.raises(DataError, match=f"{argument} {tmp_path}: .* found none"):
            load_dataset(name, tmp_path if named else None)

    def test_what_was_found_is_named(self, tmp_path):
        (tmp_path / "datasets").mkdir()
        for name in ("mnist", "cifar-10"):
            with pytest.raises(DataError, match=r"datsets: must be a folder.*, did you mean datas"):
                load_dataset(name, tmp_path / "datsets")
        (tmp_path / "file").touch()
        with pytest.raises(DataError, match="must be a folder, found a file"):
            load_dataset("mnist", tmp_path / "file")
        folder = write_idx(tmp_path / "mnist")
        with pytest.raises(DataError, match=r"fashion-mnist .* none"):  # files of the same names
            load_dataset("fashion-mnist", folder)
        (folder / "t10k-images-idx3-ubyte").unlink()
        with pytest.raises(DataError, match=r"found \S+train-images-idx3-ubyte, "):
            load_dataset("mnist", folder)
        with pytest.raises(ValueError, match=r"name must be one of auto, mnist, .*'cifar'"):
            load_dataset("cifar")


class TestDownload:
    def test_is_kept_and_read_again_without_network(self, server, home):
        assert_small_mnist(load_dataset("mnist"))
        cached = home / ".cache/photonic_ffzero/mnist"
        assert {path.name: path.read_bytes() for path in cached.iterdir()} == CONTENT
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
    def test_wrong_content_leaves_nothing(self, server, home, sent):
        server["train-images-idx3-ubyte.gz"] = sent
        with pytest.raises(DataError, match="mnist cannot be downloaded from https://server"):
            load_dataset("mnist")
        assert list((home / ".cache/photonic_ffzero/mnist").iterdir()) == []

    def test_a_gzip_bomb_stops_at_the_limit(self, server, monkeypatch):
        server["train-images-idx3-ubyte.gz"] = gzip.compress(bytes(2**20))
        monkeypatch.setattr(published, "MAX_BYTES", 2**10)
        written = []
        monkeypatch.setattr(Path, "write_bytes", lambda path, data: written.append(len(data)))
        with pytest.raises(DataError, match="mnist cannot be downloaded"):
            load_dataset("mnist")
        assert written == [2**10]

    def test_without_network_only_auto_is_replaced_and_says_so(self):
        dataset = load_dataset("auto")
        assert dataset.name == "digits"
        assert re.fullmatch(
            "mnist cannot be downloaded from https://.*digits instead", dataset.note
        )
        with pytest.raises(DataError, match="fashion-mnist cannot be downloaded"):
            load_dataset("fashion-mnist")

    @pytest.mark.usefixtures("server")
    def test_auto_falls_back_where_the_cache_cannot_be_written(self, home):
        (home / ".cache").write_text("a file where a folder should be")
        assert load_dataset("auto").name == "digits"

    def test_auto_does_not_pass_over_damaged_files(self, home):
        write_idx(home / ".keras/datasets/mnist", lambda content: content[:-1])
        with pytest.raises(DataError, match=r"720.*found 719"):
            load_dataset("auto")

    def test_a_silent_network_costs_the_time_out_and_no_more(self, monkeypatch):
        monkeypatch.undo()
        monkeypatch.setattr(published, "_TIMEOUT", 0.2)
        monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: time.sleep(3))
        started = time.perf_counter()
        with pytest.raises(TimeoutError, match="no answer within"):
            published.open_url("https://server/")
        assert time.perf_counter() - started < 2
        monkeypatch.undo()
        with pytest.raises(OSError, match="refused"):
            published.open_url("http://127.0.0.1:9/")


@pytest.mark.parametrize(
    ("name", "array", "value"),
    [
        ("x_test", np.full((10, 6, 6), 7.5), "got 7.5"),
        ("x_test", np.full((10, 6, 6), -0.5), "got -0.5"),
        ("x_test", np.zeros((10, 6, 6), int), "got int64"),
        ("x_test", np.zeros((10, 6), np.uint8), r"\(10, 6\)"),
        ("x_test", np.zeros((10, 6, 5)), r"\(6, 5\)"),
        ("x_test", np.zeros((10, 6, 6, 3), np.uint8), r"\(6, 6, 3\)"),
        ("x_test", np.zeros((10, 3, 6, 6), np.uint8), r"\(10, 3, 6, 6\)"),
        ("x_test", np.zeros((10, 6, 6, 0), np.uint8), r"1..\d+ .* found 0"),
        ("x_train", np.zeros((20, 1, 6, 3), np.float32), r"\(1, 3\)|\(20, 1, 6, 3\)|\(6, 3\)"),
        ("x_train", np.zeros((20, 6, 6), complex), "got complex128"),
        ("x_train", np.full((20, 6, 6), np.nan), "got nan"),
        ("y_train", np.zeros((20, 1), int), r"\(20, 1\); ravel"),
        ("y_test", np.arange(10) + 1, "10 at index 9"),
    ],
)
def test_damaged_arrays_are_named(tmp_path, name, array, value):
    path = tmp_path / "mnist.npz"
    path.write_bytes(npz_bytes(**(KERAS | {name: array})))
    with pytest.raises(DataError, match=f"{path}, array {name}.*{value}"):
        load_dataset("mnist", tmp_path)


@pytest.mark.parametrize("axis", [1, 3])
def test_images_of_an_archive_may_have_an_axis_for_their_channel(tmp_path, axis):
    images = {name: np.expand_dims(KERAS[name], axis) for name in ("x_train", "x_test")}
    (tmp_path / "mnist.npz").write_bytes(npz_bytes(**(KERAS | images)))
    assert_small_mnist(load_dataset("mnist", tmp_path))


def test_the_split_of_the_digits_is_stratified_fixed_and_complete():
    from sklearn.datasets import load_digits

    digits, again = load_dataset("digits"), load_dataset("digits")
    assert digits.train_images.shape == (1297, 8, 8)
    assert digits.test_images.shape == (500, 8, 8)
    np.testing.assert_array_equal(digits.test_images, again.test_images)
    shares = [np.bincount(y) / len(y) for y in (digits.train_labels, digits.test_labels)]
    np.testing.assert_allclose(*shares, atol=2e-3)
    together = np.concatenate([digits.train_images, digits.test_images]).sum(dtype=np.float64)
    assert together * 16 == load_digits().images.sum()


REAL_DATA = Path(os.environ.get(DATA_VARIABLE) or Path(__file__).parents[2] / "shared/data")
REAL_DATA = REAL_DATA.resolve()  # before a test changes the variable


@pytest.mark.parametrize(("name", "mean"), [("mnist", 0.1307), ("fashion-mnist", 0.2860)])
def test_the_real_data_set(name, mean):
    if not (REAL_DATA / name).is_dir():
        pytest.skip(f"{name} is not here: {DATA_VARIABLE} names no folder that holds it")
    dataset = load_dataset(name, REAL_DATA)
    assert dataset.train_images.shape == (60_000, 28, 28)
    assert dataset.test_images.shape == (10_000, 28, 28)
    assert dataset.train_images.mean() == pytest.approx(mean, abs=1e-4)


class TestSplit:
    @settings(max_examples=25)
    @given(count=st.integers(1, 200), seed=st.integers(0, 2**32), part=st.floats(0, 1))
    def test_is_a_partition_that_depends_on_the_seed(self, count, seed, part):
        validation = int(part * (count - 1))
        train, held_out = split(count, validation, seed)
        assert (len(train), len(held_out)) == (count - validation, validation)
        np.testing.assert_array_equal(np.sort(np.r_[train, held_out]), np.arange(count))
        np.testing.assert_array_equal(split(count, validation, seed)[1], held_out)
        if 30 < validation < count - 30:
            assert not np.array_equal(split(count, validation, seed + 1)[1], held_out)

    @pytest.mark.parametrize("validation", [-1, 10])
    def test_leaves_something_to_train_on(self, validation):
        with pytest.raises(ValueError, match=f"validation must .*, got {validation}"):
            split(10, validation)


class TestChecks:
    @pytest.mark.parametrize(
        ("x", "dtype"),
        [
            (np.ones((4, 3, 3)), np.float32),
            (np.ones((4, 5), np.uint8), np.float32),
            (np.ones((4, 5), np.complex128), np.complex64),
        ],
    )
    def test_bring_arrays_into_the_training_types(self, x, dtype):
        assert check_arrays(x, [0, 1, 2, 4], num_classes=5)[2] == 5  # 3 need not occur
        checked, labels, num_classes = check_arrays(x, [0, 1, 2, 1])
        assert (checked.dtype, labels.dtype, num_classes) == (dtype, np.int64, 3)
        np.testing.assert_array_equal(checked, x)

    @pytest.mark.parametrize(("y", "dimensions"), [([0, 1], 1), ([[0.5, 2], [1, 3]], 2)])
    def test_keep_the_shape_of_numbers_in_double_precision(self, y, dimensions):
        x, labels, columns = check_numbers(np.ones((2, 3)), y)
        assert (x.dtype, labels.dtype, columns) == (np.float32, np.float64, dimensions)
        np.testing.assert_array_equal(labels, y)

    @pytest.mark.parametrize(
        ("check", "x", "y", "count", "rule"),
        [
            (check_arrays, [[1], [np.nan]], [0, 1], None, r"x must be finite, got nan .* \(1, 0\)"),
            (check_arrays, [[1, 2], [3, 1e300]], [0, 1], None, "x must be finite, got inf"),
            (check_arrays, np.ones(2), [0, 1], None, r"x must be images .* got \(2,\)"),
            (check_arrays, np.ones((0, 3)), [], None, "not empty"),
            (check_arrays, np.ones((2, 2, 2), complex), [0, 1], None, "real, got complex128"),
            (check_arrays, [["a"], ["b"]], [0, 1], None, "x must hold numbers, got <U1"),
            (check_arrays, [[1], [2, 3]], [0, 1], None, "x must be an array, got list"),
            (check_arrays, TWO, [0.0, 1.0], None, "y must be integers .* got float64"),
            (check_arrays, TWO, [[0], [1]], None, r"y must be integers .* \(2, 1\)"),
            (check_arrays, TWO, [0, 1, 1], None, r"equal lengths, got .*\(2, 2\) and \(3,\)"),
            (check_arrays, TWO, [0, 10**9], None, r"every label .* got \[0, 1000000000\]"),
            (check_arrays, TWO, [-1, 0], None, r"every label .* got \[-1, 0\]"),
            (check_arrays, TWO, [0, 0], None, r"at least 2, got \[0\]"),
            (check_arrays, TWO, [0, 2], 2, r"y must be labels in 0\.\.1, got 2 at index 1"),
            (check_numbers, TWO, [0.0, np.nan], None, "y must be finite, got nan at index"),
            (check_numbers, TWO, [True, False], None, "y must be numbers .*, got bool"),
            (check_numbers, TWO, np.ones((2, 0)), None, "y must be numbers of shape"),
            (check_numbers, TWO, np.ones((2, 1, 1)), None, r"numbers .* of shape \(2, 1, 1\)"),
            (check_numbers, TWO, [0.0, 1.0], 2, "y must have 2 label dimensions, got 1"),
        ],
    )
    def test_name_the_argument_the_rule_and_the_value(self, check, x, y, count, rule):
        with pytest.raises(DataError, match=rule):
            check(x, y, count)


def write_images(folder, **counts):
    """Grey images for each class, whose one value is the class's and the image's number."""
    for label, (name, count) in enumerate(counts.items()):
        (folder / name).mkdir(parents=True)
        for index in range(count):
            pixels = np.full((5, 7), 100 * label + index, np.uint8)
            suffix = ".PNG" if index == 1 else ".png"
            Image.fromarray(pixels).save(folder / name / f"{index:02}{suffix}")
    return folder


class TestFolderOfImages:
    def test_a_fifth_of_each_class_is_for_testing(self, tmp_path):
        folder = write_images(tmp_path / "leaves", ash=10, oak=7, yew=2)
        (folder / ".hidden").mkdir()
        leaves, again = load_dataset(str(folder)), load_dataset(str(folder))
        assert (leaves.name, leaves.class_names) == ("leaves", ("ash", "oak", "yew"))
        np.testing.assert_array_equal(np.bincount(leaves.test_labels), [2, 1, 1])
        # Which image each is, from `write_images`.
        train, test = (
            np.round(images[:, 0, 0] * 255).astype(int)
            for images in (leaves.train_images, leaves.test_images)
        )
        assert sorted([*train, *test]) == [*range(10), *range(100, 107), 200, 201]
        np.testing.assert_array_equal(train // 100, leaves.train_labels)
        assert {*leaves.train_labels[:6]} >= {0, 1}  # mixed, as ``--limit`` takes the first
        np.testing.assert_array_equal(leaves.test_images, again.test_images)
        np.testing.assert_array_equal(leaves.train_images, again.train_images)

    def test_may_have_a_test_set(self, tmp_path):
        write_images(tmp_path / "leaves" / "train", ash=3, oak=2)
        write_images(tmp_path / "leaves" / "test", ash=1, oak=4)
        leaves = load_dataset(str(tmp_path / "leaves"))
        np.testing.assert_array_equal(np.bincount(leaves.train_labels), [3, 2])
        np.testing.assert_array_equal(leaves.test_labels, [0, 1, 1, 1, 1])

    @pytest.mark.parametrize(("image_size", "side"), [(None, 28), (3, 3)])
    def test_every_image_gets_one_size(self, tmp_path, image_size, side):
        folder = write_images(tmp_path / "leaves", ash=2, oak=2)
        Image.new("RGBA", (90, 31), (255, 0, 0, 9)).save(folder / "oak" / "big.png")
        Image.new("RGB", (8, 9), (255, 0, 0)).save(folder / "oak" / "small.jpg")
        leaves = load_dataset(str(folder), image_size=image_size)
        assert leaves.train_images.shape == (4, side, side)

    def test_what_cannot_be_used_is_named(self, tmp_path):
        folder = write_images(tmp_path / "leaves", ash=2, oak=1)
        with pytest.raises(DataError, match=r"oak: .* at least 2 images"):
            load_dataset(str(folder))
        with pytest.raises(DataError, match=r"ash: .* 2 or more classes, found 0"):
            load_dataset(str(folder / "ash"))
        (folder / "elm").mkdir()
        with pytest.raises(DataError, match="elm: must hold at least one image"):
            load_dataset(str(folder))
        (folder / "elm" / "notes.txt").write_text("hello")
        with pytest.raises(
            DataError, match=r"notes.txt: must be a PNG or JPEG file, found .*'\.txt'"
        ):
            load_dataset(str(folder))
        (folder / "elm" / "notes.txt").rename(folder / "elm" / "notes.png")
        write_images(folder, **{"elm/more": 1, "oak/more": 1})
        for name in ("elm", "oak"):
            (folder / name / "more" / "00.png").rename(folder / name / "more.png")
            (folder / name / "more").rmdir()
        with pytest.raises(DataError, match=r"notes\.png: cannot be read"):
            load_dataset(str(folder))
        write_images(folder / "train", ash=2, oak=2)
        write_images(folder / "test", ash=2, yew=2)
        with pytest.raises(DataError, match="same classes, found oak, yew"):
            load_dataset(str(folder))
        with pytest.raises(DataError, match=r"image_size .* 5792 .* 4 images .*, got 100000: "):
            load_dataset(str(folder / "test"), image_size=100_000)
        with pytest.raises(DataError, match="absent: must be a readable folder"):
            readers.list_classes(folder / "absent")

    def test_a_pipe_among_the_images_is_no_image(self, tmp_path):
        folder = write_images(tmp_path / "leaves", ash=2, oak=2)
        os.mkfifo(folder / "oak" / "pipe.png")
        with pytest.raises(DataError, match=r"pipe\.png: must be a regular file, found a pipe"):
            load_dataset(str(folder))

    def test_its_size_is_checked_and_belongs_to_folders_alone(self, tmp_path):
        with pytest.raises(ValueError, match="image_size must be at least 1, got 0"):
            load_dataset(str(tmp_path), image_size=0)
        with pytest.raises(ValueError, match=r"image_size .* digits"):
            load_dataset("digits", image_size=8)


def test_an_archive_may_have_any_number_of_classes(tmp_path):
    path = tmp_path / "leaves.npz"
    path.write_bytes(npz_bytes(**(KERAS | {"y_train": np.arange(20) % 12})))
    leaves = load_dataset(str(path))
    assert (leaves.name, leaves.num_classes, leaves.class_names) == ("leaves", 12, ())
    path.write_bytes(npz_bytes(**(KERAS | {"y_train": np.arange(20) // 2 * 2})))
    with pytest.raises(DataError, match=r"leaves\.npz, array y_train .* every label"):
        load_dataset(str(path))


def test_an_archive_that_would_take_too_much_memory_is_refused(tmp_path, monkeypatch):
    """20 + 10 images of 36 pixels: the test images as bytes, and all of them as numbers."""
    (tmp_path / "mnist.npz").write_bytes(npz_bytes(**KERAS))
    monkeypatch.setattr(datasets, "MAX_MEMORY", 360 + 4 * 1080)
    assert_small_mnist(load_dataset("mnist", tmp_path))
    monkeypatch.setattr(datasets, "MAX_MEMORY", 360 + 4 * 1080 - 1)
    with pytest.raises(DataError, match=r"mnist\.npz: images .* take 4680 bytes .* at most 4679"):
        load_dataset("mnist", tmp_path)


@pytest.mark.parametrize("name", ["/dev/zero", "pipe"])
def test_a_device_or_a_pipe_is_no_data_set(tmp_path, name, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe")
    with pytest.raises(DataError, match=f"{name}: must be a regular file"):
        load_dataset(name)


def test_what_is_slow_to_import_is_imported_when_it_is_used():
    code = (
        "import sys, photonic_ffzero.data; slow = {'PIL', 'pooch', 'sklearn', 'tensorflow', "
        "'urllib.request'}; print(sorted(slow & sys.modules.keys()))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"
