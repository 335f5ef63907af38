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
    (tmp_path / "run").mkdir()
    save_model(model, tmp_path / "run" / "model.npz")
    return tmp_path / "run"


@pytest.fixture
def images(tmp_path):
    return image_folder(tmp_path / "images", PIXELS)


def image_folder(folder, images):
    folder.mkdir()
    for index, pixels in enumerate(images):
        Image.fromarray(pixels).save(folder / f"{index}.png")
    return folder


def table(capsys, *arguments):
    assert main([str(argument) for argument in arguments]) == 0
    header, *lines = capsys.readouterr().out.splitlines()
    assert header.split() == ["file", "class", "goodness", "margin"]
    return [line.rsplit(maxsplit=3) for line in lines]


def expected(model):
    return [NAMES[label] for label in predict(model, ENCODER(PIXELS / 255))]


def test_image_files_are_classified_as_arrays_are(model, run, images, tmp_path, capsys):
    csv_file = tmp_path / "classes.csv"
    rows = table(capsys, run, *sorted(images.iterdir()), "--csv", csv_file)
    assert [row[1] for row in rows] == expected(model)
    assert [row[0] for row in rows] == [str(path) for path in sorted(images.iterdir())]
    assert rows == table(capsys, run / "model.npz", images)
    with open(csv_file, newline="") as file:
        assert list(csv.reader(file)) == [["file", "class", "goodness", "margin"], *rows]


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_an_idx_file_is_taken_image_by_image(model, run, tmp_path, pack, capsys):
    path = tmp_path / "some-idx3-ubyte"
    header = struct.pack(">4B3I", 0, 0, 8, 3, *PIXELS.shape)
    path.write_bytes(pack(header + PIXELS.tobytes()))
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
    ink = image_folder(tmp_path / "ink", 255 - PIXELS)
    _, x = read_encoded(model, [images])
    _, swapped = read_encoded(model, [ink], dark_on_light=True)
    np.testing.assert_allclose(swapped, x, atol=1e-6)


def test_goodness_is_the_mean_and_margin_the_lead(model):
    x = ENCODER(PIXELS / 255)
    ordered = np.sort(model.scores(x).mean(axis=0), axis=1)
    _, _, goodness, margins = zip(*classify(model, "abcd", x), strict=True)
    np.testing.assert_allclose(goodness, ordered[:, -1], rtol=1e-5)
    np.testing.assert_allclose(margins, ordered[:, -1] - ordered[:, -2], rtol=1e-5)


def test_refuses_in_one_line(run, images, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    bare = Model(configure(), 9, Classification(3))
    numbers = Model(configure(task="regression"), 9, Regression((0.0,), (1.0,)), ENCODER)
    save_model(bare, tmp_path / "bare.npz")
    save_model(numbers, tmp_path / "numbers.npz")
    for name in ("a.png", "a-idx3-ubyte", "a.txt"):
        (tmp_path / name).write_bytes(b"no image")
    for arguments, culprit in (
        ((run, tmp_path / "a.png"), "a.png"),
        ((run, tmp_path / "a-idx3-ubyte"), "a-idx3-ubyte"),
        ((run, tmp_path / "a.txt"), "a.txt"),
        ((run, tmp_path / "missing.png"), "missing.png"),
        ((run, tmp_path / "empty"), "empty"),
        ((run, images, "--csv", tmp_path / "no/such/file"), "no/such"),
        ((tmp_path / "model.npz", images), "model.npz"),
        ((tmp_path, images), str(tmp_path)),
        ((tmp_path / "bare.npz", images), "no image"),
        ((tmp_path / "numbers.npz", images), "regression"),
    ):
        with pytest.raises(SystemExit, match="2"):
            main([str(argument) for argument in arguments])
        out, error = capsys.readouterr()
        assert out == ""
        assert error.startswith("predict.py: error: ")
        assert error.count("\n") == 1
        assert culprit in error
