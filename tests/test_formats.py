"""The readers of untrusted files: what they read, what they refuse, and at what cost."""

from __future__ import annotations

import contextlib
import gzip
import io
import pickle
import struct
import tracemalloc
import zipfile
import zlib

import numpy as np
import pytest
from PIL import Image

from photonic_ffzero.data.readers import (
    MAX_BYTES,
    DataError,
    content_sha256,
    read_idx,
    read_image,
    read_npz,
)

IMAGES = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)


def idx_bytes(array: np.ndarray) -> bytes:
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    return header + array.astype(np.uint8).tobytes()


def npz_bytes(compressed: bool = False, **arrays: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(buffer, **arrays)
    return buffer.getvalue()


def npy_member_bytes(header: bytes, payload: bytes = b"", version: int = 1) -> bytes:
    """An archive whose array ``x`` has this header, honest or not."""
    buffer = io.BytesIO()
    length = struct.pack("<H" if version == 1 else "<I", len(header))
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        start = b"\x93NUMPY" + bytes([version, 0])
        archive.writestr("x.npy", start + length + header + payload)
    return buffer.getvalue()


def png_bytes(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def file(tmp_path):
    """Write bytes to a file and return its path."""

    def write(content: bytes, name: str = "file"):
        path = tmp_path / name
        path.write_bytes(content)
        return path

    return write


class TestIdx:
    @pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
    def test_reads_what_was_written(self, file, pack):
        array = read_idx(file(pack(idx_bytes(IMAGES))), 3)
        assert array.dtype == np.uint8
        np.testing.assert_array_equal(array, IMAGES)

    @pytest.mark.parametrize(
        ("content", "rule"),
        [
            (b"", "magic number"),
            (b"\0\0", "magic number"),
            (b"\0\0\x0d" + idx_bytes(IMAGES)[3:], "magic number must be 0x00000803"),
            (idx_bytes(IMAGES.ravel()), "found 0x00000801"),
            (idx_bytes(IMAGES)[:9], "header must have 16 bytes, found 9"),
            (idx_bytes(IMAGES)[:-1], "means 24 bytes, found only 23"),
            (idx_bytes(IMAGES) + b"\0", "means 24 bytes, found more"),
            (idx_bytes(IMAGES[:0]), "must have 1 to"),
            (gzip.compress(idx_bytes(IMAGES), mtime=0)[:-9], "cannot be read"),
            (gzip.compress(idx_bytes(IMAGES), mtime=0) + b"junk", "cannot be read"),
        ],
    )
    def test_damage_is_named(self, file, content, rule):
        path = file(content)
        with pytest.raises(DataError, match=rule) as caught:
            read_idx(path, 3)
        assert str(path) in str(caught.value)

    def test_what_is_not_a_readable_file_is_named(self, tmp_path):
        for path in (tmp_path / "absent", tmp_path):
            with pytest.raises(DataError, match="cannot be read"):
                read_idx(path, 3)

    @pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
    @pytest.mark.parametrize("shape", [(2**32 - 1,) * 3, (2**18, 32, 32)])
    def test_a_lying_header_costs_no_memory(self, file, pack, shape):
        path = file(pack(struct.pack(">BBBB3I", 0, 0, 8, 3, *shape) + b"\0" * 100))
        assert peak_memory_of_refusal(lambda: read_idx(path, 3)) < 4 * 2**20

    def test_a_gzip_bomb_is_not_unpacked(self, file):
        path = file(gzip.compress(idx_bytes(IMAGES) + bytes(2**27)))
        assert peak_memory_of_refusal(lambda: read_idx(path, 3)) < 4 * 2**20


class TestNpz:
    @pytest.mark.parametrize("compressed", [False, True])
    @pytest.mark.parametrize("dtype", ["u1", "<i8", ">i4", "<f4", ">f8", "<c8"])
    @pytest.mark.parametrize("order", ["C", "F"])
    def test_reads_what_numpy_wrote(self, file, compressed, dtype, order):
        array = np.asarray(IMAGES.astype(dtype), order=order)
        read = read_npz(file(npz_bytes(compressed, x=array, y=np.float64(3))), ["x", "y"])
        assert read["x"].dtype == array.dtype
        np.testing.assert_array_equal(read["x"], array)
        assert read["y"] == 3

    @pytest.mark.parametrize(
        ("content", "rule"),
        [
            (b"", "not a zip file"),
            (pickle.dumps({"x": 1}), "not a zip file"),
            (npz_bytes(x=IMAGES)[:-30], "not a zip file"),
            (npz_bytes(y=IMAGES), "must hold an array x, found y.npy"),
            (npz_bytes(x=np.array([{}, "a"], dtype=object)), "nothing is unpickled"),
            (npz_bytes(x=np.array(["text"])), "must hold plain numbers"),
            (npz_bytes(x=np.zeros(2, dtype=[("a", "f4")])), "one array of numbers"),
            (npy_member_bytes(b"__import__('os').abort()"), "one array of numbers"),
            (npy_member_bytes(b"(" * 9000), "one array of numbers"),
            (npy_member_bytes(b" " * 20_000), "at most 10000 bytes, found 20000"),
            (npy_member_bytes(b" " * 20_000, version=2), "at most 10000 bytes, found 20000"),
            (npy_member_bytes(b"", version=9), "version 1 to 3"),
            (
                npy_member_bytes(b"{'descr': '<u3', 'fortran_order': False, 'shape': (2,), }"),
                "found type '<u3'",
            ),
            (
                npy_member_bytes(
                    b"{'descr': '|u1', 'fortran_order': False, 'shape': (2,), }", b"1"
                ),
                "means 2 bytes, found only 1",
            ),
        ],
    )
    def test_damage_is_named(self, file, content, rule):
        path = file(content)
        with pytest.raises(DataError, match=rule) as caught:
            read_npz(path, ["x"])
        assert str(path) in str(caught.value)

    def test_never_unpickles(self, file, tmp_path):
        witness = tmp_path / "witness"

        class Trap:
            def __reduce__(self):
                return (open, (str(witness), "w"))

        with pytest.raises(DataError, match="nothing is unpickled"):
            read_npz(file(npz_bytes(x=np.array([Trap()], dtype=object))), ["x"])
        assert not witness.exists()

    @pytest.mark.parametrize("shape", [b"(999999999999, 999999999999)", b"(268435456,)"])
    def test_a_lying_header_costs_no_memory(self, file, shape):
        header = b"{'descr': '|u1', 'fortran_order': False, 'shape': " + shape + b", }"
        path = file(npy_member_bytes(header, bytes(100)))
        assert peak_memory_of_refusal(lambda: read_npz(path, ["x"])) < 4 * 2**20

    def test_a_zip_bomb_is_not_unpacked(self, file):
        header = b"{'descr': '|u1', 'fortran_order': False, 'shape': (2,), }"
        path = file(npy_member_bytes(header, bytes(2**27)))
        assert peak_memory_of_refusal(lambda: read_npz(path, ["x"])) < 4 * 2**20


class TestImage:
    def test_grey_values_are_fractions_of_full_scale(self, file):
        pixels = np.array([[0, 51], [255, 102]], dtype=np.uint8)
        np.testing.assert_allclose(read_image(file(png_bytes(pixels))), pixels / 255, rtol=1e-6)

    def test_sixteen_bits_are_not_clipped(self, file):
        pixels = np.array([[0, 1000], [65535, 30000]], dtype=np.uint16)
        np.testing.assert_allclose(read_image(file(png_bytes(pixels))), pixels / 65535, rtol=1e-6)

    def test_resizing_averages_areas(self, file):
        pixels = np.kron([[0, 255], [102, 51]], np.ones((3, 3))).astype(np.uint8)
        image = read_image(file(png_bytes(pixels)), size=2)
        np.testing.assert_allclose(image, [[0, 1], [0.4, 0.2]], atol=1e-6)

    @pytest.mark.parametrize("content", [b"", b"GIF89a", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0"])
    def test_what_is_no_image_is_named(self, file, content):
        with pytest.raises(DataError, match="cannot be read"):
            read_image(file(content))

    def test_a_truncated_image_is_named(self, file):
        pixels = np.random.default_rng(0).integers(0, 256, (32, 32), dtype=np.uint8)
        with pytest.raises(DataError, match="cannot be read"):
            read_image(file(png_bytes(pixels)[:200]))

    @pytest.mark.parametrize("side", [5_000, 12_000, 60_000])
    def test_a_lying_header_costs_no_memory(self, file, side):
        content = bytearray(png_bytes(IMAGES[0]))
        content[16:24] = struct.pack(">II", side, side)
        content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
        path = file(bytes(content))
        assert peak_memory_of_refusal(lambda: read_image(path)) < 4 * 2**20


def test_nor_does_a_lying_chunk_of_an_image(file):
    content = bytearray(png_bytes(IMAGES[0]))
    start = content.index(b"IDAT") - 4
    content[start : start + 4] = struct.pack(">I", 2**30)
    path = file(content)
    tracemalloc.start()
    try:
        with contextlib.suppress(DataError):
            read_image(path)
        assert tracemalloc.get_traced_memory()[1] < 16 * 2**20
    finally:
        tracemalloc.stop()


def peak_memory_of_refusal(read) -> int:
    with pytest.raises(DataError):  # Pillow and friends are imported before we measure
        read()
    tracemalloc.start()
    try:
        with pytest.raises(DataError):
            read()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_checksum_is_of_the_decompressed_content(file):
    one = content_sha256(file(b"content", "plain"))
    assert one == content_sha256(file(gzip.compress(b"content", 1), "fast"))
    assert one == content_sha256(file(gzip.compress(b"content", 9), "small"))


def test_checksum_is_bounded(file):
    with pytest.raises(DataError, match=f"at most {MAX_BYTES} bytes"):
        content_sha256(file(gzip.compress(bytes(MAX_BYTES + 1), 1)))
