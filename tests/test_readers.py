"""The readers of untrusted files: what they read, what they refuse, and at what cost."""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import pickle
import socket
import struct
import tracemalloc
import zipfile
import zlib

import numpy as np
import pytest
from PIL import Image

from meshes.files import DataError, read_npz
from photonic_ffzero.data import readers
from photonic_ffzero.data.readers import read_idx, read_image

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


# The stored corner that a viewer shows at the top left, and the one at the top right.
ORIENTATIONS = {1: "ab", 2: "ba", 3: "dc", 4: "cd", 5: "ac", 6: "ca", 7: "db", 8: "bd"}
CORNERS = dict(zip("abcd", [(0, 0), (0, -1), (-1, 0), (-1, -1)], strict=True))
SCENE = np.kron([[250, 170], [90, 10]], np.ones((16, 24))).astype(np.uint8)


def oriented_bytes(orientation, kind, array=SCENE, **options):
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, kind, exif=exif, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
@pytest.mark.parametrize("array", [SCENE, np.stack([SCENE] * 3, axis=-1)], ids=["grey", "colour"])
@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_a_photograph_is_turned_as_a_viewer_shows_it(file, orientation, array, kind):
    shown = read_image(file(oriented_bytes(orientation, kind, array)))
    assert shown.shape == (SCENE.shape if orientation < 5 else SCENE.T.shape)
    corners = [SCENE[CORNERS[name]] / 255 for name in ORIENTATIONS[orientation]]
    np.testing.assert_allclose([shown[0, 0], shown[0, -1]], corners, atol=0.02)


def test_exif_may_come_after_the_pixels(file):
    content = oriented_bytes(6, "PNG")
    start = content.index(b"eXIf") - 4
    end = start + 12 + struct.unpack(">I", content[start : start + 4])[0]
    moved = content[:start] + content[end:-12] + content[start:end] + content[-12:]
    np.testing.assert_array_equal(read_image(file(moved)), read_image(file(content)))
    assert read_image(file(moved)).shape == SCENE.T.shape


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
@pytest.mark.parametrize(
    "exif",
    [
        *(b"", b"Exif\0\0", b"Exif\0\0II*\0", b"Exif\0\0MM\0*\xff\xff\xff\xff", b"\xff" * 40),
        *(struct.pack("<4sIHHHII", b"II*\0", 8, 1, 0x0112, 5, 1, 10**9),),  # a fraction, far away
        *(struct.pack("<4sIHHHII", b"II*\0", 8, 9999, 0x0112, 3, 1, value) for value in (0, 9, 77)),
    ],
)
def test_broken_exif_is_passed_over(file, exif, kind):
    buffer = io.BytesIO()
    Image.fromarray(SCENE).save(buffer, kind, exif=exif)
    assert read_image(file(buffer.getvalue())).shape == SCENE.shape


SHAPE = np.zeros((8, 8), np.uint8)
SHAPE[2:6, 3:5] = 255  # the ink, a quarter of the picture


def palette_image(inks, transparency):
    """Paper is colour 0 and ink colour 1 of a palette."""
    image = Image.fromarray((SHAPE > 0).astype(np.uint8)).convert("P")
    image.putpalette(inks)
    return image, {"transparency": transparency}


def key_image(array, key):
    """A picture in which one colour is transparent."""
    return Image.fromarray(array), {"transparency": key}


def alpha_image(mode, ink):
    grey = Image.new("L", (8, 8), ink)
    channels = [grey] * (len(mode) - 1) + [Image.fromarray(SHAPE)]
    return Image.merge(mode, channels), {}


def deep_alpha_bytes(ink):
    """An RGBA file of 16 bits a channel, which Pillow does not write."""
    pixels = np.full((8, 8, 4), ink * 257, ">u2")
    pixels[..., 3] = SHAPE.astype(int) * 257
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 16, 6, 0, 0, 0))]
    chunks += [(b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    packed = (
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


def two_tones(ink):
    return np.where(SHAPE, ink, 99).astype(np.uint8)


@pytest.mark.parametrize("ink", [0, 255])
@pytest.mark.parametrize(
    "draw",
    [
        lambda ink: alpha_image("RGBA", ink),
        lambda ink: alpha_image("LA", ink),
        lambda ink: palette_image([99] * 3 + [ink] * 3, b"\0"),
        lambda ink: palette_image([99] * 3 + [ink] * 3, b"\x00\xff"),
        lambda ink: palette_image([99] * 3 + [ink] * 3, 0),
        lambda ink: key_image(two_tones(ink), 99),
        lambda ink: key_image(np.stack([two_tones(ink)] * 3, axis=-1), (99, 99, 99)),
        lambda ink: key_image(two_tones(ink).astype(np.uint16) * 257, 99 * 257),
    ],
    ids=["RGBA", "LA", "palette bytes", "palette", "index", "grey", "colour", "16 bits"],
)
def test_ink_on_transparency_lies_on_paper_that_shows_it(file, draw, ink):
    image, options = draw(ink)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", **options)
    expected = SHAPE > 0 if ink else SHAPE == 0
    np.testing.assert_allclose(read_image(file(buffer.getvalue())), expected, atol=1e-6)
    np.testing.assert_allclose(read_image(file(deep_alpha_bytes(ink))), expected, atol=1e-6)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_a_transparent_grey_of_few_bits_is_in_units_of_those_bits(file, bits):
    """White is transparent: what is left is black ink, on white again."""
    white = 2**bits - 1
    packed = np.packbits(np.where(SHAPE[..., None], 0, [1] * bits).reshape(8, -1), axis=1)
    rows = b"".join(b"\0" + row.tobytes() for row in packed)
    content = b"\x89PNG\r\n\x1a\n"
    for name, data in (
        (b"IHDR", struct.pack(">IIBBBBB", 8, 8, bits, 0, 0, 0, 0)),
        (b"tRNS", struct.pack(">H", white)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    ):
        check = struct.pack(">I", zlib.crc32(name + data))
        content += struct.pack(">I", len(data)) + name + data + check
    np.testing.assert_array_equal(read_image(file(content)), SHAPE == 0)


def test_paper_with_a_transparent_margin_goes_on(file):
    paper = np.full((8, 8, 2), 255, np.uint8)
    paper[3:5, 3:5, 0] = 0
    paper[0] = 0  # a transparent row
    image = read_image(file(png_bytes(paper)))
    assert image[0].min() == 1
    assert image[3, 3] == 0


def test_an_invisible_picture_is_named(file):
    path = file(png_bytes(np.full((8, 8, 4), [9, 9, 9, 0], np.uint8)))
    with pytest.raises(DataError, match=f"{path}.*every pixel is transparent"):
        read_image(path)


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


@pytest.fixture
def odd_places(tmp_path):
    """Path -> what it is: all but regular files, and links to them."""
    places = {tmp_path: "directory", "/dev/zero": "device", tmp_path / "pipe.png": "pipe"}
    os.mkfifo(tmp_path / "pipe.png")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "s"))
    places[tmp_path / "s"] = "socket"
    for index, (path, kind) in enumerate(list(places.items())):
        link = tmp_path / f"link-{index}"
        link.symlink_to(path)
        places[link] = kind
    return places


@pytest.mark.parametrize("read", [read_images, read_x, read_image, readers.read_file])
def test_only_regular_files_are_read(odd_places, read, tmp_path):
    for path, kind in odd_places.items():
        with pytest.raises(DataError, match=f"{path}: must be a regular file, found a {kind}"):
            read(path)
    (tmp_path / "good").write_bytes(b"content")
    (tmp_path / "link").symlink_to(tmp_path / "good")
    assert readers.read_file(tmp_path / "link") == b"content"
    with pytest.raises(DataError, match=f"{tmp_path}/good: must have at most 6 bytes"):
        readers.read_file(tmp_path / "good", 6)


def test_the_arrays_of_an_archive_share_one_limit(file):
    path = file(npz_bytes(compressed=True, x=np.zeros(600, np.uint8), y=np.zeros(600, np.uint8)))
    assert read_npz(path, ["x"], 1000)["x"].size == 600
    with pytest.raises(DataError, match=f"{path}: x, y .* 1000 bytes, found 1200"):
        read_npz(path, ["x", "y"], 1000)


def test_an_archive_of_millions_of_members_is_refused(tmp_path):
    path = tmp_path / "many.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x" * 60_000, b"")
    content = path.read_bytes()
    entry = content[content.index(b"PK\x01\x02") : -22]
    size, offset = 80 * len(entry), content.index(b"PK\x01\x02")
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 80, 80, size, offset, 0)
    path.write_bytes(content[:offset] + 80 * entry + end)
    with pytest.raises(DataError, match=f"{path}: .* at most 4194304 bytes, found {size}"):
        read_npz(path, ["x"])


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
