"""Colour from files to networks: CIFAR-10, encodings, normalisation, and what is refused."""

import hashlib
import io
import json
import tarfile

import numpy as np
import pytest
from PIL import Image

from photonic_ffzero import DataError, Dataset, encode, fit, load_dataset, load_model
from photonic_ffzero.cli.predict import main as classify
from photonic_ffzero.cli.train import main
from photonic_ffzero.data import DATASETS, cifar, published
from photonic_ffzero.data.encoding import ENCODINGS, Encoder, resize

RNG = np.random.default_rng(0)
COLOURED = RNG.random((6, 8, 8, 3), np.float32)
GREY = np.array([0.299, 0.587, 0.114])


@pytest.fixture
def small(monkeypatch, tmp_path):
    """CIFAR-10 with 20 records a file, and a home without data or network."""
    monkeypatch.setattr(cifar, "_RECORDS", 20)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv(published.DATA_VARIABLE, raising=False)
    batches = {}
    for name in (*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"):
        records = np.random.default_rng(len(batches)).integers(0, 256, (20, 3073), np.uint8)
        records[:, 0] = np.arange(20) % 10
        batches[name] = records.tobytes()
    return batches


def write_batches(folder, batches):
    folder.mkdir(parents=True)
    for name, content in batches.items():
        (folder / name).write_bytes(content)


class TestCifar:
    @pytest.mark.parametrize("place", ["", "cifar-10-batches-bin", "cifar-10/cifar-10-batches-bin"])
    def test_pixels_and_labels_are_those_of_the_files(self, small, tmp_path, place):
        write_batches(tmp_path / "data" / place, small)
        data = load_dataset("cifar-10", tmp_path / "data")
        assert data.train_images.shape == (100, 32, 32, 3)
        assert data.test_images.shape == (20, 32, 32, 3)
        assert data.class_names[data.train_labels[3]] == "cat"
        record = np.frombuffer(small["data_batch_2.bin"], np.uint8)[3073 : 2 * 3073]
        green = record[1 + 1024 + 5 * 32 + 7]  # row 5, column 7
        assert data.train_images[21, 5, 7, 1] == pytest.approx(green / 255)

    @pytest.mark.parametrize("size", [0, 20 * 3073 - 1, 20 * 3073 + 1])
    def test_a_file_of_another_size_is_refused(self, small, tmp_path, size):
        small["data_batch_3.bin"] = bytes(size)
        write_batches(tmp_path / "data", small)
        with pytest.raises(DataError, match=rf"data_batch_3\.bin: .*61460 bytes.* found {size}"):
            load_dataset("cifar-10", tmp_path / "data")

    def test_a_label_out_of_range_is_refused(self, small, tmp_path):
        content = bytearray(small["test_batch.bin"])
        content[4 * 3073] = 10
        small["test_batch.bin"] = bytes(content)
        write_batches(tmp_path / "data", small)
        with pytest.raises(DataError, match=r"test_batch\.bin: .*0\.\.9, found 10 in record 4"):
            load_dataset("cifar-10", tmp_path / "data")

    @pytest.mark.parametrize("pickled", ["cifar-10-batches-py", "cifar-10-python.tar.gz"])
    @pytest.mark.parametrize("named", [True, False])
    def test_the_pickled_version_is_refused_with_what_to_take(
        self, small, tmp_path, pickled, named, monkeypatch
    ):
        def no_network(url):
            raise OSError("no network")

        monkeypatch.setattr(cifar, "open_url", no_network)
        folder = tmp_path / "data" if named else tmp_path / "home/.keras/datasets"
        (folder / pickled).mkdir(parents=True)
        with pytest.raises(DataError, match=rf"{pickled}, .*nothing is unpickled.*binary\.tar\.gz"):
            load_dataset("cifar-10", folder if named else None)

    def test_a_download_is_checked_unpacked_and_kept(self, small, tmp_path, monkeypatch):
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w:gz") as packed:
            for name, content in {**small, "../escape": b"x"}.items():
                member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
                member.size = len(content)
                packed.addfile(member, io.BytesIO(content))
        served = archive.getvalue()
        monkeypatch.setattr(cifar, "open_url", lambda url: io.BytesIO(served))
        with pytest.raises(DataError, match="cifar-10 cannot be downloaded"):
            load_dataset("cifar-10")
        monkeypatch.setattr(cifar, "_SHA256", hashlib.sha256(served).hexdigest())
        assert len(load_dataset("cifar-10").train_labels) == 100
        kept = tmp_path / "home/.cache/photonic_ffzero"
        assert sorted(path.name for path in kept.iterdir()) == ["cifar-10-batches-bin"]
        (kept / "cifar-10-batches-bin/test_batch.bin").unlink()  # is downloaded again
        assert len(load_dataset("cifar-10").test_labels) == 20
        assert sorted(path.name for path in kept.iterdir()) == ["cifar-10-batches-bin"]
        monkeypatch.setattr(cifar, "open_url", None)
        assert len(load_dataset("cifar-10").test_labels) == 20


class TestEncodings:
    @pytest.mark.parametrize("encoding", ENCODINGS)
    def test_every_colour_is_encoded_as_a_grey_image_is(self, encoding):
        fields = encode(COLOURED, encoding, 4).reshape(6, -1, 3)
        for channel in range(3):
            alone = encode(COLOURED[..., channel], encoding, 4)
            ratio = fields[..., channel] / alone
            np.testing.assert_allclose(ratio, ratio[:, :1].repeat(alone.shape[1], 1), rtol=1e-4)
        np.testing.assert_allclose(np.abs(fields).max(axis=(1, 2)), 1, rtol=1e-5)

    def test_colours_become_grey_and_grey_becomes_colours(self):
        expected = encode(COLOURED @ GREY, "average", 4)
        np.testing.assert_allclose(Encoder("average", 4, (8, 8))(COLOURED), expected, rtol=1e-5)
        grey = COLOURED[..., 0]
        rgb = Encoder("average", 4, (8, 8), "rgb")(grey).reshape(6, 16, 3)
        for channel in range(3):
            np.testing.assert_allclose(rgb[..., channel], encode(grey, "average", 4), rtol=1e-6)

    def test_an_encoder_of_colours_has_a_value_for_each_bin_and_colour(self):
        encoder = Encoder("fourier-bins", 5, (8, 8), "rgb")
        assert encoder(COLOURED).shape == (6, encoder.values) == (6, 15)

    def test_resizing_keeps_colours(self):
        small = resize(COLOURED, (4, 2))
        for channel in range(3):
            np.testing.assert_array_equal(
                small[..., channel], resize(COLOURED[..., channel], (4, 2))
            )

    @pytest.mark.parametrize("colour", ["grey", "rgb"])
    def test_standard_images_have_mean_0_and_deviation_1_in_training(self, colour):
        images = COLOURED * np.float32([1, 0.1, 0.5]) + np.float32([0, 0.5, 0.2])
        encoder = Encoder("average", 4, (8, 8), colour).fitted(images)
        x = encoder(images).reshape(-1, len(encoder.mean))
        np.testing.assert_allclose(x.mean(axis=0), 0, atol=1e-5)
        np.testing.assert_allclose(x.std(axis=0), 1, rtol=1e-4)
        np.testing.assert_allclose(encoder(images[:1]), encoder(images)[:1], rtol=1e-6)

    @pytest.mark.parametrize("size", [1, 4095, 4096, 4097])
    def test_large_sets_are_encoded_as_single_images_are(self, size):
        images = RNG.random((size, 4, 4), np.float32)
        x = Encoder("average", 2, (4, 4))(images)
        np.testing.assert_array_equal(x, encode(images, "average", 2))

    @pytest.mark.parametrize(
        ("arguments", "rule"),
        [
            (("average", 4, (8, 8), "blue"), "colour must be one of grey, rgb"),
            (("average", 4, (8, 8), "rgb", (0.5,), (1.0,)), "mean and deviation must be of 3"),
            (("average", 4, (8, 8), "grey", (0.5,), (0.0,)), "deviation must be greater than 0"),
            (("average", 4, (8, 8), "grey", (0.5,), ()), "mean and deviation must be of 1"),
            (("fourier-bins", 4, (8, 8), "grey", (0.5,), (1.0,)), "real channels .*fourier-bins"),
        ],
    )
    def test_bad_encoders_are_refused(self, arguments, rule):
        with pytest.raises(ValueError, match=rule):
            Encoder(*arguments)


def coloured_data(data_dir=None):
    """Red, green and blue images of equal grey."""
    labels = np.arange(90) % 3
    images = 0.1 * RNG.random((90, 6, 6, 3), np.float32)
    images[np.arange(90), 1, 1, labels] += np.float32(0.2 / GREY[labels])
    images = np.clip(images, 0, 1)
    return Dataset("coloured", "made here", images[:60], labels[:60], images[60:], labels[60:], 3)


@pytest.fixture
def coloured(monkeypatch):
    monkeypatch.setitem(DATASETS, "coloured", coloured_data)


FAST = ["--dataset", "coloured", "--epochs", "1", "--batch-size", "20", "--quiet"]


class TestNetworks:
    @pytest.mark.parametrize("network", ["photonic", "cnn", "mlp"])
    def test_a_model_of_colours_predicts_from_files(self, coloured, tmp_path, network, capsys):
        run = tmp_path / "run"
        words = [*FAST, "--network", network, "--colour", "rgb", "--normalisation", "standard"]
        words += ["--channels", "3", "--kernel-size", "2"] if network == "cnn" else []
        words += ["--size", "3"] if network == "photonic" else ["--depth", "2"]
        words += ["--width", "6"] if network == "mlp" else []
        assert main([*words, "--output", str(run)], recipe="digital") == 0
        model = load_model(run / "model.npz")
        assert model.units == 3 * (9 if network == "photonic" else 36)
        assert model.encoder == Encoder(**vars(model.encoder))
        assert len(model.encoder.mean) == 3
        pixels = np.round(255 * coloured_data().test_images[0]).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / "one.png")
        Image.fromarray(pixels[..., 0]).save(tmp_path / "grey.png")
        Image.new("RGB", (6, 6), (200, 30, 0)).save(tmp_path / "red.png")
        capsys.readouterr()
        assert (
            classify([str(run), *(str(tmp_path / f"{n}.png") for n in ("one", "grey", "red"))]) == 0
        )
        *_, grey, red = capsys.readouterr().out.splitlines()
        assert "grey.png" in grey
        assert red.split()[1:] == ["blank", "0.0000", "0.0000"]
        about = json.loads((run / "config.json").read_text())
        assert (about["colour"], about["normalisation"]) == ("rgb", "standard")

    def test_without_the_flag_colours_are_grey(self, coloured, tmp_path):
        assert main([*FAST, "--size", "3", "--output", str(tmp_path / "run")]) == 0
        assert load_model(tmp_path / "run/model.npz").units == 9

    def test_colours_of_grey_images_are_refused(self, tmp_path, capsys):
        with pytest.raises(SystemExit):
            main(["--dataset", "digits", "--colour", "rgb", "--output", str(tmp_path / "run")])
        assert "argument --colour must be grey for digits" in capsys.readouterr().err
        assert not (tmp_path / "run").exists()

    def test_images_in_colour_need_an_encoding(self):
        with pytest.raises(DataError, match=r"x must have shape \[n, N\], got \[6, 8, 8, 3\]; enc"):
            fit(COLOURED, np.arange(6) % 3)

    def test_a_network_of_colours_takes_three_values_a_pixel(self):
        with pytest.raises(ValueError, match=r"square images, got 36 values .* 3 colours"):
            fit(np.ones((6, 36)), np.arange(6) % 3, recipe="digital", network="cnn", colour="rgb")


class TestFolders:
    def folder(self, tmp_path, colours):
        for label in ("a", "b"):
            (tmp_path / "images" / label).mkdir(parents=True)
            for number in range(5):
                pixels = RNG.integers(0, 256, (9, 7, 3), dtype=np.uint8)
                pixels = pixels if colours else pixels[..., 0]
                Image.fromarray(pixels).save(tmp_path / "images" / label / f"{number}.png")
        return tmp_path / "images"

    def test_keep_colours_where_they_are_wanted(self, tmp_path):
        folder = self.folder(tmp_path, colours=True)
        kept, grey = (load_dataset(folder, image_size=4, colour=keep) for keep in (True, False))
        assert kept.train_images.shape == (8, 4, 4, 3)
        assert grey.train_images.shape == (8, 4, 4)
        np.testing.assert_allclose(kept.train_images @ GREY, grey.train_images, atol=0.01)

    def test_of_grey_images_stay_grey(self, tmp_path):
        folder = self.folder(tmp_path, colours=False)
        kept, grey = (load_dataset(folder, image_size=4, colour=keep) for keep in (True, False))
        np.testing.assert_array_equal(kept.train_images, grey.train_images)

    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_turn_colours_as_they_turn_grey(self, tmp_path, orientation):
        from photonic_ffzero.data.readers import read_image

        pixels = np.zeros((3, 4, 3), np.uint8)
        pixels[0, 0], pixels[0, 3] = (255, 255, 255), (120, 120, 120)
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
        grey, colour = (read_image(tmp_path / "turned.png", colour=keep) for keep in (False, True))
        np.testing.assert_allclose(colour[..., 1], grey, atol=1e-6)
