"""A saved model classifies images from files as it does from arrays."""

import csv
import gzip
import re
import struct

import numpy as np
import pytest
from PIL import Image

from photonic_ffzero import Model, configure, predict, save_model
from photonic_ffzero.cli.predict import classify, main, read_encoded
from photonic_ffzero.data.centering import center
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


def test_names_do_nothing_to_the_terminal(run, images, tmp_path, capsys):
    images.rename(tmp_path / "i\x1b[1A")
    assert main([str(run), str(tmp_path / "i\x1b[1A")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5
    assert all(line.isprintable() and r"i\x1b[1A" in line for line in lines[1:])


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
    x = read_encoded(model, [images]).x
    swapped = read_encoded(model, [ink], dark_on_light=True).x
    np.testing.assert_allclose(swapped, x, atol=1e-6)


def test_an_image_without_light_has_no_class(run, tmp_path, capsys):
    image_folder(tmp_path / "blank", [np.zeros((6, 6), np.uint8), PIXELS[0]])
    dark, lit = table(capsys, run, tmp_path / "blank")
    assert dark[0].endswith("no")
    assert dark[1:] == ["light", "0.0000", "0.0000"]
    assert lit[1] in NAMES


@pytest.mark.parametrize(("value", "word"), [(0, "no light"), (99, "blank"), (255, "blank")])
@pytest.mark.parametrize("flags", [[], ["--center"]])
@pytest.mark.parametrize("network", ["photonic", "mlp"])
def test_a_picture_of_one_value_has_no_class(network, flags, value, word, tmp_path, capsys):
    recipe = "balanced" if network == "photonic" else "digital"
    save_model(Model(configure(recipe), 9, Classification(3), ENCODER), tmp_path / "model.npz")
    cross = np.zeros((40, 40), np.uint8)
    cross[10:30, 18:22] = cross[18:22, 10:30] = 255
    image_folder(tmp_path / "page", [np.full((40, 30), value, np.uint8), cross])
    assert main([str(tmp_path / "model.npz"), str(tmp_path / "page"), *flags]) == 0
    out, error = capsys.readouterr()
    assert re.search(rf"0\.png +{word} +0\.0000 +0\.0000\n", out)
    assert not re.search(rf"1\.png +{word}", out)
    assert "--center" not in error


def test_a_file_that_cannot_be_read_leaves_the_others(run, images, capsys):
    (images / "1.png").write_bytes(b"no image")
    (images / "notes.txt").write_text("seven")
    (images / "more").mkdir()
    assert main([str(run), str(images), str(images / "absent.png")]) == 1
    out, error = capsys.readouterr()
    assert len(out.splitlines()) == 1 + 3
    lines = [line for line in error.splitlines() if not line.startswith("hint: ")]
    assert [line.partition(": ")[0] for line in lines] == ["predict.py"] * 4
    for name, line in zip(("1.png", "more", "notes.txt", "absent.png"), lines, strict=True):
        assert line.startswith(f"predict.py: {images / name}: ")
        assert "<" not in line  # no object of Python


def test_center_is_offered_and_finds_the_ink(run, tmp_path, capsys):
    """A cross, small, dark, and in a corner of grey and noisy paper."""
    cross = np.zeros((480, 640))
    cross[400:410, 520:560] = cross[385:425, 535:545] = 1
    noise = np.random.default_rng(0).standard_normal(cross.shape)
    photo = np.clip(180 - 140 * cross + 12 * noise, 0, 255).astype(np.uint8)
    image = center(photo[np.newaxis])[0]
    rows = np.flatnonzero((image > 0.5).sum(axis=1) > 2)
    assert (len(rows), image[rows].max()) == (20, 1)
    assert (image > 0.5).sum() == pytest.approx(175, abs=25)
    assert (image > 0).sum() < 270  # the paper and its noise are gone
    assert image.sum(axis=1) @ np.arange(28) / image.sum() == pytest.approx(14, abs=0.6)
    image_folder(tmp_path / "photos", [photo])
    folder = str(tmp_path / "photos")
    assert main([str(run), folder]) == 0
    assert re.match("hint: 1 of 1 image with .* --center\n", capsys.readouterr().err)
    assert main([str(run), folder, "--center"]) == 0
    assert "--center" not in capsys.readouterr().err


@pytest.mark.parametrize("value", [0, 77, 255])
def test_center_makes_a_blank_page_dark(value):
    page = np.full((2, 40, 30), value, np.uint8)
    assert not center(page).any()
    assert center(page[:, :1, :1]).shape == (2, 28, 28)


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
    (tmp_path / "folder.csv").mkdir()
    for name in ("a.png", "a-idx3-ubyte", "a.txt"):
        (tmp_path / name).write_bytes(b"no image")
    for arguments, culprit in (
        ((run, tmp_path / "a.png"), "a.png"),
        ((run, tmp_path / "a-idx3-ubyte"), "a-idx3-ubyte"),
        ((run, tmp_path / "a.txt"), "a.txt"),
        ((run, tmp_path / "missing.png"), "missing.png"),
        ((run, tmp_path / "empty"), "empty"),
        ((run, images, "--csv", tmp_path / "no/such/file"), "no/such"),
        ((run, images, "--nonlinearity", "kerr:phi_nl=3"), "--nonlinearity must be module:fun"),
        ((run, images, "--csv", images / "0.png"), "--csv: must be a path that ends in .csv"),
        ((run, images, "--csv", tmp_path / "folder.csv"), "folder.csv"),
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
