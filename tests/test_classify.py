"""A saved model classifies images from files as it does from arrays."""

import csv
import gzip
import struct

import numpy as np
import pytest
from PIL import Image

from photonic_ffzero import Model, configure, predict, save_model
from photonic_ffzero.cli.predict import classify, main, read_encoded
from photonic_ffzero.data.encoding import Encoder
from photonic_ffzero.data.tasks import Classification, Regression

ENCODER = Encoder("average", 3, (6, 6))
PIXELS = np.random.default_rng(0).integers(0, 256, (4, 6, 6), np.uint8)
NAMES = ("ash", "oak", "yew")


@pytest.fixture(scope="module")
def model():
    return Model(configure(seed=1), 9, Classification(3, NAMES), ENCODER)


@pytest.fixture
def run(model, tmp_path):
    """A run directory; its model and images come from the current folder."""
    (tmp_path / "run").mkdir()
    save_model(model, tmp_path / "run" / "model.npz")
    return tmp_path / "run"


@pytest.fixture
def images(tmp_path):
    """The same images as files, one each."""
    (tmp_path / "images").mkdir()
    for index, pixels in enumerate(PIXELS):
        Image.fromarray(pixels).save(tmp_path / "images" / f"{index}.png")
    return tmp_path / "images"


def idx_file(path, pack=bytes):
    header = struct.pack(">4B3I", 0, 0, 8, 3, *PIXELS.shape)
    path.write_bytes(pack(header + PIXELS.tobytes()))
    return path


def table(capsys, *arguments):
    assert main([str(argument) for argument in arguments]) == 0
    header, *lines = capsys.readouterr().out.splitlines()
    assert header.split() == ["file", "class", "goodness", "margin"]
    return [line.rsplit(maxsplit=3) for line in lines]


def expected(model):
    return [NAMES[label] for label in predict(model, ENCODER(PIXELS / 255))]


def test_image_files_are_classified_as_arrays_are(model, run, images, capsys):
    rows = table(capsys, run, *sorted(images.iterdir()))
    assert [row[1] for row in rows] == expected(model)
    assert [row[0] for row in rows] == [str(path) for path in sorted(images.iterdir())]
    assert rows == table(capsys, run / "model.npz", images)


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_an_idx_file_is_taken_image_by_image(model, run, tmp_path, pack, capsys):
    path = idx_file(tmp_path / "some-idx3-ubyte", pack)
    rows = table(capsys, run, path)
    assert [row[1] for row in rows] == expected(model)
    assert [row[0] for row in rows] == [f"{path}[{index}]" for index in range(4)]


def test_a_large_colour_photograph_is_brought_to_the_training_images(run, tmp_path, capsys):
    large = np.repeat(np.repeat(PIXELS[0], 20, axis=0), 30, axis=1)
    Image.fromarray(np.stack([large] * 3, axis=-1)).save(tmp_path / "large.png")
    Image.fromarray(PIXELS[0]).save(tmp_path / "small.png")
    large, small = table(capsys, run, tmp_path / "large.png", tmp_path / "small.png")
    assert large[1:] == small[1:]


def test_dark_on_light_swaps_dark_and_light(model, images, tmp_path):
    (tmp_path / "ink").mkdir()
    for index, pixels in enumerate(PIXELS):
        Image.fromarray(255 - pixels).save(tmp_path / "ink" / f"{index}.png")
    _, x = read_encoded(model, [images])
    _, swapped = read_encoded(model, [tmp_path / "ink"], dark_on_light=True)
    np.testing.assert_allclose(swapped, x, atol=1e-6)


def test_goodness_is_the_mean_and_margin_the_lead(model):
    x = ENCODER(PIXELS / 255)
    scores = model.scores(x).mean(axis=0)
    found = classify(model, ["a", "b", "c", "d"], x)
    ordered = np.sort(scores, axis=1)
    np.testing.assert_allclose([row.goodness for row in found], scores.max(axis=1), rtol=1e-5)
    np.testing.assert_allclose(
        [row.margin for row in found], ordered[:, -1] - ordered[:, -2], rtol=1e-5
    )


def test_csv_holds_the_same_table(run, images, tmp_path, capsys):
    rows = table(capsys, run, images, "--csv", tmp_path / "classes.csv")
    with open(tmp_path / "classes.csv", newline="") as file:
        assert list(csv.reader(file)) == [["file", "class", "goodness", "margin"], *rows]


class TestRefused:
    def refused(self, capsys, *arguments):
        with pytest.raises(SystemExit) as stop:
            main([str(argument) for argument in arguments])
        assert stop.value.code == 2
        out, error = capsys.readouterr()
        assert out == ""
        assert error.startswith("predict.py: error: ")
        assert len(error.splitlines()) == 1
        return error

    def test_a_missing_model(self, tmp_path, images, capsys):
        assert "model.npz" in self.refused(capsys, tmp_path / "model.npz", images)
        assert "found none in" in self.refused(capsys, tmp_path, images)

    @pytest.mark.parametrize("name", ["a.png", "a.jpg", "a-idx3-ubyte", "a.txt"])
    def test_a_file_that_is_no_image(self, run, tmp_path, name, capsys):
        (tmp_path / name).write_bytes(b"no image")
        assert name in self.refused(capsys, run, tmp_path / name)
        assert "missing" in self.refused(capsys, run, tmp_path / f"missing-{name}")

    def test_an_empty_folder_and_a_place_that_cannot_be_written(
        self, run, images, tmp_path, capsys
    ):
        (tmp_path / "empty").mkdir()
        assert "at least one image" in self.refused(capsys, run, tmp_path / "empty")
        assert "no/such" in self.refused(capsys, run, images, "--csv", tmp_path / "no/such/file")

    def test_a_model_of_no_images_or_no_classes(self, tmp_path, images, capsys):
        bare = Model(configure(), 9, Classification(3))
        save_model(bare, tmp_path / "bare.npz")
        assert "trained on values of no image" in self.refused(
            capsys, tmp_path / "bare.npz", images
        )
        numbers = Model(configure(task="regression"), 9, Regression((0.0,), (1.0,)), ENCODER)
        save_model(numbers, tmp_path / "numbers.npz")
        assert "one of a regression" in self.refused(capsys, tmp_path / "numbers.npz", images)
