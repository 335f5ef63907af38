"""Images of the user's own: from a folder of classes to arrays, and to a data set."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from photonic_ffzero.data import image_folder
from photonic_ffzero.data.datasets import load_dataset
from photonic_ffzero.data.image_folder import load_image_folder
from photonic_ffzero.data.readers import DataError


def write_images(folder, **counts):
    """Grey images for each class, whose one value is the class's and the image's number."""
    for label, (name, count) in enumerate(counts.items()):
        (folder / name).mkdir(parents=True)
        for index in range(count):
            pixels = np.full((5, 7), 100 * label + index, np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{index:02}.png")
    return folder


CLASSES = ("ash", "oak", "yew")


class TestImageFolder:
    @pytest.fixture
    def folder(self, tmp_path):
        for value, name in ((51, "a/1.png"), (102, "a/2.PNG"), (255, "b/1.jpg")):
            path = tmp_path / "images" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((4, 6), value, np.uint8)).save(path)
        (tmp_path / "images" / ".hidden").mkdir()
        return tmp_path / "images"

    def test_classes_are_sub_folders_in_order(self, folder):
        images, labels, names = load_image_folder(folder)
        assert (images.shape, images.dtype, names) == ((3, 4, 6), np.float32, ("a", "b"))
        np.testing.assert_array_equal(labels, [0, 0, 1])
        np.testing.assert_allclose(images.mean((1, 2)), [0.2, 0.4, 1], atol=1e-6)

    def test_size_brings_all_to_one_size(self, folder):
        Image.fromarray(np.zeros((9, 9), np.uint8)).save(folder / "b" / "2.png")
        with pytest.raises(DataError, match=r"2\.png: must have the size \(4, 6\)"):
            load_image_folder(folder)
        assert load_image_folder(folder, size=3)[0].shape == (4, 3, 3)

    def test_what_cannot_be_used_is_named(self, folder, tmp_path):
        with pytest.raises(DataError, match="2 or more classes, found 0"):
            load_image_folder(folder / "a")
        with pytest.raises(DataError, match="absent: must be a readable folder"):
            load_image_folder(tmp_path / "absent")
        (folder / "c").mkdir()
        with pytest.raises(DataError, match="c: must hold at least one image"):
            load_image_folder(folder)
        (folder / "c" / "notes.txt").write_text("hello")
        with pytest.raises(DataError, match=r"notes.txt: must be a PNG or JPEG file, found \.txt"):
            load_image_folder(folder)
        (folder / "c" / "notes.txt").rename(folder / "c" / "notes.png")
        with pytest.raises(DataError, match=r"notes\.png: cannot be read"):
            load_image_folder(folder)

    def test_memory_is_bounded(self, folder, monkeypatch):
        monkeypatch.setattr(image_folder, "MAX_BYTES", 50)
        with pytest.raises(DataError, match="at most 50 pixels, found 3 images"):
            load_image_folder(folder)


class TestDataset:
    """``load_dataset`` of a folder."""

    def numbers(self, images):
        """Which image each is, from `write_images`."""
        return np.round(images[:, 0, 0] * 255).astype(int)

    def test_a_fifth_of_each_class_is_for_testing(self, tmp_path):
        folder = write_images(tmp_path / "leaves", ash=10, oak=7, yew=2)
        found, again = load_dataset(str(folder)), load_dataset(str(folder))
        assert (found.name, found.class_names, found.num_classes) == ("leaves", CLASSES, 3)
        np.testing.assert_array_equal(np.bincount(found.test_labels), [2, 1, 1])
        np.testing.assert_array_equal(np.bincount(found.train_labels), [8, 6, 1])
        numbers = self.numbers(np.concatenate([found.train_images, found.test_images]))
        assert sorted(numbers) == [*range(10), *range(100, 107), 200, 201]
        np.testing.assert_array_equal(self.numbers(found.train_images) // 100, found.train_labels)
        np.testing.assert_array_equal(found.test_images, again.test_images)
        np.testing.assert_array_equal(found.train_images, again.train_images)

    def test_classes_are_mixed(self, tmp_path):
        """So that ``--limit`` does not leave the first class alone."""
        found = load_dataset(str(write_images(tmp_path / "leaves", ash=20, oak=20)))
        assert 3 < np.bincount(found.train_labels[:16])[0] < 13

    def test_a_test_set_of_its_own(self, tmp_path):
        write_images(tmp_path / "leaves" / "train", ash=3, oak=2)
        write_images(tmp_path / "leaves" / "test", ash=1, oak=4)
        found = load_dataset(str(tmp_path / "leaves"))
        np.testing.assert_array_equal(np.bincount(found.train_labels), [3, 2])
        np.testing.assert_array_equal(found.test_labels, [0, 1, 1, 1, 1])
        assert found.class_names == ("ash", "oak")
        assert found.source.endswith("leaves, made 28 x 28 grey pixels; for testing test/")

    @pytest.mark.parametrize(("given", "size"), [(None, 28), (3, 3)])
    def test_every_image_gets_one_size(self, tmp_path, given, size):
        folder = write_images(tmp_path / "leaves", ash=2, oak=2)
        Image.new("RGBA", (90, 31), (255, 0, 0, 0)).save(folder / "oak" / "big.png")
        found = load_dataset(str(folder), image_size=given)
        assert found.train_images.shape == (3, size, size)

    def test_what_cannot_be_used_is_named(self, tmp_path):
        folder = write_images(tmp_path / "leaves", ash=2, oak=1)
        with pytest.raises(DataError, match="oak: must hold at least 2 images, one of them to"):
            load_dataset(str(folder))
        write_images(folder / "train", ash=2, oak=2)
        write_images(folder / "test", ash=2, yew=2)
        with pytest.raises(DataError, match="must have the same classes, found oak, yew in one"):
            load_dataset(str(folder))
        with pytest.raises(ValueError, match="image_size does not apply to data set digits"):
            load_dataset("digits", image_size=8)
        with pytest.raises(ValueError, match="image_size must be at least 1, got 0"):
            load_dataset(str(folder), image_size=0)
        with pytest.raises(DataError, match=r"images of \(100000, 100000\)"):
            load_dataset(str(folder / "test"), image_size=100_000)


class TestArchive:
    """``load_dataset`` of a ``.npz`` file."""

    def written(self, tmp_path, **changed):
        images, labels = np.zeros((6, 4, 5), np.uint8), np.array([0, 1, 2, 0, 1, 2])
        arrays = {"x_train": images, "y_train": labels, "x_test": images[:3], "y_test": labels[:3]}
        np.savez(tmp_path / "leaves.npz", **(arrays | changed))
        return str(tmp_path / "leaves.npz")

    def test_may_have_any_number_of_classes(self, tmp_path):
        found = load_dataset(self.written(tmp_path))
        assert (found.name, found.num_classes, found.class_names) == ("leaves", 3, ())
        assert found.train_images.shape == (6, 4, 5)

    @pytest.mark.parametrize(
        ("changed", "rule"),
        [
            ({"y_train": np.array([0, 1, 3, 0, 1, 3])}, "must use every label from 0 to C-1"),
            ({"y_test": np.array([0, 1, 3])}, r"labels must be in 0..2, found 3 at index 2"),
            ({"x_train": np.zeros((6, 4, 5, 3), np.uint8)}, r"images \[n, H, W\]"),
        ],
    )
    def test_damage_is_named(self, tmp_path, changed, rule):
        with pytest.raises(DataError, match=rf"leaves\.npz, array .*{rule}"):
            load_dataset(self.written(tmp_path, **changed))
