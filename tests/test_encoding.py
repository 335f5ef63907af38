"""Encodings: what each conserves, the conventions, and peak normalisation."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from photonic_ffzero.data import DataError
from photonic_ffzero.data import encoding as module
from photonic_ffzero.data.encoding import (
    ENCODINGS,
    Encoder,
    average,
    crop,
    encode,
    form_of,
    fourier,
    fourier_bins,
    lowest_bins,
    resize,
)

RNG = np.random.default_rng(0)
EXAMPLES = settings(max_examples=40)


def random_images(height: int, width: int, count: int = 3) -> np.ndarray:
    return RNG.random((count, height, width), dtype=np.float32)


@st.composite
def images_and_size(draw):
    height, width = draw(st.integers(1, 12)), draw(st.integers(1, 12))
    values = st.floats(0, 1, width=32)
    images = draw(arrays(np.float32, (draw(st.integers(1, 3)), height, width), elements=values))
    encoding = draw(st.sampled_from(sorted(ENCODINGS)))
    most = form_of(encoding).most((height, width))
    assume(most)  # one pixel has no frequency but 0 Hz
    return images, encoding, draw(st.integers(1, most))


class TestEveryEncoding:
    @EXAMPLES
    @given(case=images_and_size())
    def test_the_largest_amplitude_is_one_or_the_image_is_dark(self, case):
        images, encoding, size = case
        fields, form = encode(images, encoding, size), form_of(encoding)
        assert fields.shape == (len(images), form.values(size))
        assert fields.dtype == (np.complex64 if form.complex else np.float32)
        peaks = np.abs(fields).max(axis=1)
        dark = ~ENCODINGS[encoding](images, size).reshape(fields.shape).any(axis=1)
        np.testing.assert_allclose(peaks, np.where(dark, 0, 1), atol=1e-6)

    @pytest.mark.parametrize("encoding", ENCODINGS)
    @pytest.mark.parametrize("scale", [1e-40, 255.0, 1e30])
    def test_brightness_and_the_other_images_do_not_matter(self, encoding, scale):
        images = random_images(9, 9)
        scaled = images * np.array([scale, 0, 1]).reshape(3, 1, 1)
        first, dark, last = encode(scaled, encoding, 4)
        expected = encode(images, encoding, 4)
        tolerance = 2e-4 if scale < 1e-38 else 1e-5  # the dimmest pixels have few digits
        np.testing.assert_allclose(first, expected[0], atol=tolerance)
        np.testing.assert_array_equal(last, expected[2])
        assert not dark.any()

    @pytest.mark.parametrize("encoding", ["average", "crop"])
    @pytest.mark.parametrize("dtype", [np.uint8, np.float64])
    def test_full_size_is_the_image_itself(self, encoding, dtype):
        images = RNG.integers(0, 256, (3, 8, 8)).astype(dtype)
        peaks = images.max(axis=(1, 2), keepdims=True)
        expected = (images / peaks).reshape(3, 64)
        np.testing.assert_allclose(encode(images, encoding, 8), expected, rtol=1e-6)


@pytest.mark.parametrize(("shape", "size"), [((16, 8), 4), ((28, 28), 8), ((3, 5), 2)])
def test_average_is_a_fine_grid_averaged_in_blocks(shape, size):
    """Also where the border between two areas cuts a pixel."""
    images = random_images(*shape)
    fine = np.kron(images, np.ones((1, size, size)))
    blocks = fine.reshape(3, size, shape[0], size, shape[1]).mean(axis=(2, 4))
    np.testing.assert_allclose(average(images, size), blocks, rtol=1e-5)


def test_a_long_side_is_averaged_a_few_areas_at_a_time(monkeypatch):
    images = random_images(37, 90)
    whole = average(images, 7)
    for weights in (1, 50, 300):
        monkeypatch.setattr(module, "_WEIGHTS", weights)
        np.testing.assert_allclose(average(images, 7), whole, rtol=1e-6)


def test_a_line_of_millions_of_pixels_takes_little_memory():
    line = np.zeros((1, 1, 2**24), np.float32)
    line[..., : 2**23] = 1
    tracemalloc.start()
    small = resize(line, (28, 28))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    np.testing.assert_allclose(small[0, :, 13:15], [[1, 0]] * 28)
    assert peak < 2**29


@pytest.mark.parametrize(
    ("length", "size", "start"),
    [(28, 10, 9), (28, 8, 10), (28, 9, 10), (27, 10, 8), (27, 9, 9), (5, 5, 0), (4, 3, 1)],
)
def test_crop_takes_the_rows_that_the_paper_takes(length, size, start):
    images = random_images(length, 10 + length)
    rows, columns = slice(start, start + size), slice(5 + start, 5 + start + size)
    np.testing.assert_array_equal(crop(images, size), images[:, rows, columns])
    centre, half, extra = length // 2, size // 2, size % 2  # as the published script counts
    assert (start, start + size - 1) == (centre - half, centre + half + extra - 1)


@pytest.mark.parametrize("size", [1, 4, 5, 8])
def test_fourier_is_the_centre_of_the_orthonormal_transform(size):
    images = random_images(9, 8)
    spectrum = np.fft.fftshift(np.fft.fft2(images, norm="ortho"), axes=(1, 2))
    np.testing.assert_allclose(fourier(images, size), crop(spectrum, size), atol=1e-5)


SHAPES = [(28, 28), (8, 9), (9, 8), (7, 7), (1, 6), (12, 4), (2, 2)]


class TestFourierBins:
    @pytest.mark.parametrize("shape", SHAPES)
    def test_bins_are_those_of_numpy(self, shape):
        images, size = random_images(*shape), form_of("fourier-bins").most(shape)
        expected = np.fft.fft2(images, norm="ortho")[:, *lowest_bins(*shape, size)]
        np.testing.assert_allclose(fourier_bins(images, size), expected, atol=2e-6)

    @pytest.mark.parametrize("shape", SHAPES)
    def test_every_pair_of_conjugates_is_kept_once_and_0_hz_never(self, shape):
        """All bins, those with a conjugate twice, have the energy of the image without its mean."""
        images, size = random_images(*shape), form_of("fourier-bins").most(shape)
        bins = [
            (a % shape[0], b % shape[1]) for a, b in zip(*lowest_bins(*shape, size), strict=True)
        ]
        here, there = set(bins), {(-a % shape[0], -b % shape[1]) for a, b in bins}
        assert len(here) == size
        assert here | there | {(0, 0)} == set(np.ndindex(shape))
        weights = [1 if pair in there else 2 for pair in bins]
        power = (np.abs(fourier_bins(images, size)) ** 2 * weights).sum(axis=1)
        mean = images.mean(axis=(1, 2), keepdims=True)
        np.testing.assert_allclose(power, ((images - mean) ** 2).sum(axis=(1, 2)), rtol=1e-4)

    @pytest.mark.parametrize("shape", SHAPES)
    def test_the_order_is_that_of_the_frequency_then_of_k(self, shape):
        most = form_of("fourier-bins").most(shape)
        down, across = lowest_bins(*shape, most)
        squared = (down * shape[1]) ** 2 + (across * shape[0]) ** 2
        places = list(zip(squared, down, strict=True))
        assert places == sorted(places)
        for size in range(1, most):
            few = np.stack(lowest_bins(*shape, size))
            np.testing.assert_array_equal(few, np.stack([down, across])[:, :size])

    def test_the_first_bins_of_a_square_image(self):
        pairs = list(zip(*lowest_bins(28, 28, 8), strict=True))
        assert pairs == [(0, 1), (1, 0), (-1, 1), (1, 1), (0, 2), (2, 0), (-2, 1), (-1, 2)]

    def test_an_even_grey_is_dark(self):
        assert not encode(np.full((1, 28, 28), 0.3), "fourier-bins", 64).any()

    @pytest.mark.parametrize(("shape", "most"), [((28, 28), 393), ((7, 7), 24), ((2, 2), 3)])
    def test_more_bins_than_there_are_get_one_line(self, shape, most):
        with pytest.raises(ValueError, match=rf"size must be at most {most} .* got {most + 1}"):
            Encoder("fourier-bins", most + 1, shape)


@pytest.mark.parametrize(
    ("arguments", "error", "rule"),
    [
        ({"encoding": "wavelet"}, ValueError, "fourier, fourier-bins; got 'wavelet'"),
        ({"size": 9}, ValueError, r"size must be at most .*\(8, 8\), got 9"),
        ({"size": 0}, ValueError, "size must be at least 1, got 0"),
        ({"images": np.ones((8, 8))}, ValueError, r"shape \[n, H, W\].* got float64 .*\(8, 8\)"),
        ({"images": np.ones((0, 8, 8))}, ValueError, "not empty"),
        ({"images": np.ones((1, 8, 8), complex)}, ValueError, "images must be real numbers"),
        ({"images": np.full((1, 8, 8), 1e300)}, ValueError, "images must be finite, got inf"),
    ],
)
def test_bad_arguments_are_named(arguments, error, rule):
    with pytest.raises(error, match=rule):
        encode(**{"images": random_images(8, 8), "size": 4, **arguments})


def test_an_encoder_brings_images_to_the_size_of_those_for_training():
    images = random_images(12, 9)
    encoder = Encoder("crop", 4, (6, 6))
    np.testing.assert_array_equal(encoder(images), encode(resize(images, (6, 6)), "crop", 4))
    assert encoder(images).shape == (3, encoder.values)
    for shape in ((8192, 8192), (8, 2**20)):  # the second has a wide matrix to resize with
        with pytest.raises(ValueError, match=rf"shape must mean at most .* {shape[1]}\)"):
            Encoder("crop", 4, shape)


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("axis", [1, 3])
def test_images_may_have_an_axis_for_their_one_channel(encoding, axis):
    images = np.random.default_rng(0).uniform(size=(4, 6, 5))
    fields = encode(images, encoding, 3)
    with_channel = np.expand_dims(images, axis)
    np.testing.assert_array_equal(encode(with_channel, encoding, 3), fields)
    np.testing.assert_array_equal(Encoder(encoding, 3, (6, 5))(with_channel), fields)


def test_images_too_bright_for_a_transform_are_refused():
    with pytest.raises(DataError, match="images must be small enough for fourier"):
        encode(np.full((1, 8, 8), 3e38), "fourier", 4)
    with pytest.raises(DataError, match="images must be small enough for fourier-bins"):
        encode(3e38 * np.sign(random_images(8, 8) - 0.5), "fourier-bins", 4)


class TestStandardNormalisation:
    def test_bytes_count_as_the_numbers_from_0_to_1_that_they_stand_for(self):
        images = np.random.default_rng(0).integers(0, 256, (20, 6, 6), np.uint8)
        encoder = Encoder("average", 3, (6, 6)).fitted(images / np.float32(255))
        expected = encoder(images / np.float32(255))
        for form in (images, list(images), tuple(images)):
            np.testing.assert_allclose(encoder(form), expected, atol=1e-5)

    @pytest.mark.parametrize("level", [0.0, 0.1, 0.3, 0.9])
    def test_a_colour_that_never_changes_is_not_stretched(self, level):
        images = np.random.default_rng(0).random((100, 4, 4, 3), np.float32)
        images[..., 2] = level
        encoder = Encoder("average", 4, (4, 4), "rgb").fitted(images)
        assert encoder.deviation[2] == 1
        assert all(0.2 < deviation < 0.4 for deviation in encoder.deviation[:2])
