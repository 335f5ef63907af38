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

from photonic_ffzero.data.readers import DataError, read_idx, read_image, read_npz

IMAGES = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)
NOISE = np.random.default_rng(0).integers(0, 256, (32, 32), dtype=np.uint8)
HEADER = b"{'descr': '|u1', 'fortran_order': False, 'shape': (2,), }"
MEGABYTE = 2**20


def idx_bytes(array: np.ndarray) -> bytes:
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    return header + array.astype(np.uint8).tobytes()


def npz_bytes(compressed: bool = False, **arrays: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(buffer, **arrays)
    return buffer.getvalue()


def npy_member_bytes(
    header: bytes, payload: bytes = b"", version: int = 1, packing: int = zipfile.ZIP_DEFLATED
) -> bytes:
    """An archive whose array ``x`` has this header, honest or not."""
    buffer = io.BytesIO()
    length = struct.pack("<H" if version == 1 else "<I", len(header))
    with zipfile.ZipFile(buffer, "w", packing) as archive:
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

    def write(content: bytes):
        path = tmp_path / "file"
        path.write_bytes(content)
        return path

    return write


def read_images(path):
    return read_idx(path, 3)


def read_x(path):
    return read_npz(path, ["x"])["x"]


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_idx_reads_what_was_written(file, pack):
    array = read_images(file(pack(idx_bytes(IMAGES))))
    assert array.dtype == np.uint8
    np.testing.assert_array_equal(array, IMAGES)


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("dtype", ["u1", "<i8", ">i4", "<f4", ">f8", "<c8"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_npz_reads_what_numpy_wrote(file, compressed, dtype, order):
    array = np.asarray(IMAGES.astype(dtype), order=order)
    read = read_npz(file(npz_bytes(compressed, x=array, y=np.float64(3))), ["x", "y"])
    assert read["x"].dtype == array.dtype
    np.testing.assert_array_equal(read["x"], array)
    assert read["y"] == 3


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_grey_values_are_fractions_of_full_scale(file, dtype):
    full = np.iinfo(dtype).max
    pixels = np.array([[0, full // 5], [full, 40]], dtype=dtype)
    np.testing.assert_allclose(read_image(file(png_bytes(pixels))), pixels / full, rtol=1e-6)


def test_resizing_averages_areas(file):
    pixels = np.kron([[0, 255], [102, 51]], np.ones((3, 3))).astype(np.uint8)
    image = read_image(file(png_bytes(pixels)), size=2)
    np.testing.assert_allclose(image, [[0, 1], [0.4, 0.2]], atol=1e-6)


IDX_DAMAGE = [
    (b"", "0x00000803"),
    (b"\0\0\x0d" + idx_bytes(IMAGES)[3:], "0x00000d03"),
    (idx_bytes(IMAGES.ravel()), "0x00000801"),
    (idx_bytes(IMAGES)[:9], "cannot be read"),
    (idx_bytes(IMAGES)[:-1], "24 .* found 23"),
    (idx_bytes(IMAGES) + b"\0", "24 .* found 25"),
    (idx_bytes(IMAGES[:0]), r"\(0, 3, 4\)"),
]
NPZ_DAMAGE = [
    (b"", "not a zip file"),
    (pickle.dumps({"x": 1}), "not a zip file"),
    (npz_bytes(x=IMAGES)[:-30], "not a zip file"),
    (npz_bytes(y=IMAGES), "array x"),
    (npz_bytes(x=np.array(["text"])), "<U4"),
    (npz_bytes(x=np.zeros(2, dtype=[("a", "f4")])), "'a', '<f4'"),
    (npy_member_bytes(b"__import__('os').abort()"), "array x"),
    (npy_member_bytes(b"(" * 900), "array x"),
    (npy_member_bytes(b"-" * 900 + b"1"), "array x"),
    (npy_member_bytes(b" " * 20_000), "20000"),
    (npy_member_bytes(HEADER, b"12", version=2), r"format 1\.0, found \(2, 0\)"),
    (npy_member_bytes(HEADER, b"12", packing=zipfile.ZIP_LZMA), "stored or deflated"),
    (npy_member_bytes(HEADER.replace(b"|u1", b"<u3")), "'<u3'"),
    (npy_member_bytes(HEADER, b"1"), "2 bytes.* found 1"),
    (npy_member_bytes(HEADER, b"123"), "2 bytes.* found 3"),
]
NO_IMAGES = [b"", b"GIF89a", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", png_bytes(NOISE)[:200]]
GZIP = gzip.compress(idx_bytes(IMAGES), mtime=0)


@pytest.mark.parametrize(
    ("read", "content", "value"),
    [
        *((read_images, content, value) for content, value in IDX_DAMAGE),
        *((read_images, gzip.compress(content, mtime=0), value) for content, value in IDX_DAMAGE),
        *((read_images, content, "cannot be read") for content in (GZIP[:-9], GZIP + b"junk")),
        *((read_x, content, value) for content, value in NPZ_DAMAGE),
        *((read_image, content, "cannot be read as a PNG or JPEG image") for content in NO_IMAGES),
    ],
)
def test_damage_is_named(file, read, content, value):
    path = file(content)
    with pytest.raises(DataError, match=f"{path}.*{value}"):
        read(path)


@pytest.mark.parametrize("read", [read_images, read_x, read_image])
def test_what_is_not_a_readable_file_is_named(tmp_path, read):
    for path, value in ((tmp_path / "absent", "No such file"), (tmp_path, "directory")):
        with pytest.raises(DataError, match=f"{path}.*{value}"):
            read(path)


def test_npz_never_unpickles(file, tmp_path):
    witness = tmp_path / "witness"

    class Trap:
        def __reduce__(self):
            return (open, (str(witness), "w"))

    with pytest.raises(DataError, match="unpickled"):
        read_x(file(npz_bytes(x=np.array([Trap()], dtype=object))))
    assert not witness.exists()


def lying_idx(shape):
    return struct.pack(">BBBB3I", 0, 0, 8, 3, *shape) + b"\0" * 100


def lying_npz(shape):
    return npy_member_bytes(HEADER.replace(b"(2,)", shape), bytes(100))


def lying_png(side):
    content = bytearray(png_bytes(IMAGES[0]))
    content[16:24] = struct.pack(">II", side, side)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    return content


def peak_memory(read, path):
    tracemalloc.start()
    try:
        with contextlib.suppress(DataError):
            read(path)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("read", "content"),
    [
        (read_images, lying_idx((2**32 - 1,) * 3)),
        (read_images, lying_idx((2**18, 32, 32))),
        (read_images, gzip.compress(lying_idx((2**18, 32, 32)), mtime=0)),
        (read_images, idx_bytes(IMAGES) + bytes(2**24)),
        (read_images, gzip.compress(idx_bytes(IMAGES) + bytes(2**24), mtime=0)),
        (read_x, lying_npz(b"(999999999999, 999999999999)")),
        (read_x, lying_npz(b"(268435456,)")),
        (read_x, npy_member_bytes(HEADER, bytes(2**24))),
        *((read_image, lying_png(side)) for side in (5_000, 12_000, 60_000)),
    ],
    ids=range(11),
)
def test_a_lying_header_costs_no_memory(file, read, content):
    path = file(content)
    with pytest.raises(DataError, match=str(path)):
        read(path)  # also imports what it needs before memory is measured
    assert peak_memory(read, path) < 4 * MEGABYTE


def test_nor_does_a_lying_chunk_of_an_image(file):
    content = bytearray(png_bytes(IMAGES[0]))
    start = content.index(b"IDAT") - 4
    content[start : start + 4] = struct.pack(">I", 2**30)
    assert peak_memory(read_image, file(content)) < 16 * MEGABYTE
