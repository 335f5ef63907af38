"""Damaged inputs for everything that reads: a result or a clear error, nothing else.

Unpickling fails here, and the process may take little more memory than it has. Each test has 25
examples, and a thousand among the long ones.
"""

import copy
import gzip
import io
import json
import os
import pickle
import re
import resource
import tempfile
import time
import zipfile
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_readers import (
    IMAGES,
    idx_bytes,
    npy_member_bytes,
    npz_bytes,
    oriented_bytes,
    palette_image,
    png_bytes,
    read_x,
)

from meshes import ChipEstimate, RectangularMesh
from meshes._tensorflow import tf
from meshes.calibration import Curve, Shifter, read_calibration, shifters
from meshes.interchange import (
    SParameters,
    read_netlist,
    read_sparameters,
    write_netlist,
    write_touchstone,
)
from photonic_ffzero import DataError, Model, configure, load_dataset
from photonic_ffzero.data.readers import read_idx, read_image
from photonic_ffzero.data.tasks import Classification
from photonic_ffzero.model import EpochRecord, Position
from photonic_ffzero.optimizers import OPTIMIZERS
from photonic_ffzero.storage import load_checkpoint, save_checkpoint

MEMORY = 2**30  # bytes that the process may take besides what it has
SECONDS = 10  # for one file


def fuzz(**strategies):
    """Test a function with a few examples, and with many under its name with ``_long``."""

    def decorate(test):
        def with_examples(count):
            options = settings(
                max_examples=count,
                derandomize=True,
                database=None,
                suppress_health_check=list(HealthCheck),
            )
            return options(given(**strategies)(test))

        globals()[f"{test.__name__}_long"] = pytest.mark.long(with_examples(1000))
        return with_examples(25)

    return decorate


class UnpickledError(BaseException):
    """No reader may turn this into an error of the file."""


@pytest.fixture(autouse=True)
def guarded(monkeypatch):
    """No unpickling, and little memory."""

    def refuse(*arguments, **options):
        raise UnpickledError

    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, refuse)
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY, hard))
    yield
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@pytest.fixture
def file(tmp_path):
    """Write bytes to a file and return its path."""

    def write(content, name="file"):
        (tmp_path / name).write_bytes(content)
        return tmp_path / name

    return write


def read_or_refused(read, path):
    """What a reader returns for a file; None if it refuses the file by name and reason."""
    started = time.perf_counter()
    try:
        return read(path)
    except DataError as error:
        message = str(error)
    finally:
        assert time.perf_counter() - started < SECONDS
    assert re.search(rf"{re.escape(str(path))}.{{10}}", message)
    return None


@st.composite
def mutated(draw, *originals):
    """One of the originals with bytes overwritten, cut out and put in."""
    content = bytearray(draw(st.sampled_from(originals)))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(content)))
        replaced = draw(st.sampled_from([0, 1, 2, 4, 8, len(content)]))
        shortest, longest = draw(st.sampled_from([(replaced, replaced), (0, 8)]))
        content[start : start + replaced] = draw(st.binary(min_size=shortest, max_size=longest))
    return bytes(content)


def palette_bytes():
    buffer = io.BytesIO()
    image, options = palette_image([99] * 3 + [0] * 3, b"\x00\xff")
    image.save(buffer, "PNG", **options)
    return buffer.getvalue()


NPY_HEADER = b"{'descr': '|u1', 'fortran_order': False, 'shape': (2, 3, 4), }\n"


@fuzz(data=st.data())
@pytest.mark.parametrize(
    ("read", "originals", "pack"),
    [
        (partial(read_idx, dimensions=3), [idx_bytes(IMAGES)], bytes),
        (partial(read_idx, dimensions=3), [gzip.compress(idx_bytes(IMAGES))], bytes),
        (read_x, [npz_bytes(x=IMAGES), npz_bytes(compressed=True, x=IMAGES)], bytes),
        (read_x, [NPY_HEADER], partial(npy_member_bytes, payload=bytes(24))),
        (read_image, [png_bytes(IMAGES[0]), png_bytes(IMAGES[..., :2])], bytes),
        (read_image, [oriented_bytes(6, "PNG", IMAGES[0])], bytes),
        (read_image, [oriented_bytes(6, "JPEG", IMAGES[0])], bytes),
        (read_image, [palette_bytes()], bytes),
    ],
    ids=["idx", "idx.gz", "npz", "npy", "png", "exif", "jpeg", "palette"],
)
def test_files(file, read, originals, pack, data):
    array = read_or_refused(read, file(pack(data.draw(mutated(*originals)))))
    assert array is None or array.dtype.kind in "uifc"


ENTRIES = ["image", "image", "image", "damaged", "pipe", "text", "folder", "loop", "hidden"]


def write_entry(path, entry, damaged):
    if entry == "pipe":
        os.mkfifo(path)
    elif entry == "folder":
        path.mkdir()
    elif entry == "loop":
        path.symlink_to(path)
    else:
        image = png_bytes(IMAGES[0])
        path.write_bytes({"text": b"notes", "damaged": damaged}.get(entry, image))


@fuzz(
    entries=st.lists(st.sampled_from(ENTRIES), min_size=4, max_size=6),
    damaged=mutated(png_bytes(IMAGES[0])),
    size=st.sampled_from([1, 28, 300, 5000, 8192, 10**9]),
)
def test_folders(entries, damaged, size):
    """Two classes with whatever may lie in their folders, and images of any size."""
    with tempfile.TemporaryDirectory() as name:
        for index, entry in enumerate(entries):
            folder = Path(name) / "ab"[index % 2]
            folder.mkdir(exist_ok=True)
            write_entry(folder / f"{'.' * (entry == 'hidden')}{index}.png", entry, damaged)
        dataset = read_or_refused(partial(load_dataset, image_size=size), name)
        assert dataset is None or dataset.train_images.shape[1:] == (size, size)


def chip_file(name, write):
    """The bytes that ``write(path)`` writes to a file with this name."""
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder) / name)
        return (Path(folder) / name).read_bytes()


KNOWN = ChipEstimate.known(3, 2, mesh1_theta=0.1, mesh1_gamma=0.5, mesh1_loss_std=0.1)
MESH = RectangularMesh(3, 2, 0.1)
AMPLITUDES = SParameters(np.array([1.9e14, 1.95e14]), np.full((2, 2, 2), 0.3 + 0.2j))
SPARAM = b'["a","LEFT"]\n("b","TE",1,"a",1,"transmission")\n(2,3)\n1e14 0.5 0\n2e14 0.4 0.1\n'
CHIP_FILES = {
    "chip.npz": (ChipEstimate.load, KNOWN.save),
    "chip.csv": (ChipEstimate.load, KNOWN.save),
    "mesh.json": (read_netlist, partial(write_netlist, mesh=MESH, phases=MESH.initial_phases())),
    "mesh.yml": (read_netlist, partial(write_netlist, mesh=MESH, phases=MESH.initial_phases())),
    "block.s2p": (read_sparameters, partial(write_touchstone, parameters=AMPLITUDES)),
    "block.sparam": (read_sparameters, lambda path: path.write_bytes(SPARAM)),
}
CHIP_BYTES = {name: chip_file(name, write) for name, (_, write) in CHIP_FILES.items()}


@fuzz(data=st.data())
@pytest.mark.parametrize("name", CHIP_FILES)
def test_chip_files(file, name, data):
    read, content = CHIP_FILES[name][0], data.draw(mutated(CHIP_BYTES[name]))
    result = read_or_refused(read, file(content, name))
    if isinstance(result, ChipEstimate):
        assert all(np.isfinite(x).all() for mesh in result.meshes for x in mesh.values)
    elif isinstance(result, SParameters):
        assert np.linalg.norm(result.matrices, 2, axis=(1, 2)).max() < 1.02
    elif result is not None:
        assert all(np.isfinite(x).all() for x in result[1])


# --- files whose parts are what they should not be --------------------------------------------

VALUES = st.sampled_from(
    [
        *(None, True, False, -1, 0, 1, 2, 3, 7, 10**9, 2**63, 10**40, 0.5, -1e-9, 1e308),
        *(float("nan"), float("inf"), "", "x", "nan", "auto", "kerr:phi_nl=1", "x" * 1000, "\0"),
        *([], {}, [1], [1, 2], [[]], {"x": 1}, ["a", "a"], [10**9, 10**9], [0.0, 1.0, 2.0]),
    ]
)
DTYPES = st.sampled_from(["u1", "<i8", ">i4", "<f2", ">f4", "<f8", "<c8", "?", "<U3", "O"])
SHAPES = st.sampled_from([(), (0,), (1,), (2,), (3, 0), (1, 1, 1), (2, 3), (2, 4, 4), (7, 6)])


@st.composite
def strange_arrays(draw):
    """An array of some type and shape, with some value in every place."""
    value = draw(st.sampled_from([0, 1, 2, 255, np.nan, np.inf, -1]))
    with np.errstate(all="ignore"):
        values = np.asarray(value, np.float64)
        return np.broadcast_to(values, draw(SHAPES)).astype(draw(DTYPES))


@st.composite
def strange_archives(draw, arrays):
    """The arrays of an archive, some replaced, lacking or too many."""
    arrays = arrays.copy()
    for _ in range(draw(st.integers(1, 3))):
        name = draw(st.sampled_from([*arrays, "more"]))
        if draw(st.booleans()):
            arrays[name] = draw(strange_arrays())
        elif len(arrays) > 1:
            arrays.pop(name, None)
    return arrays


def places(content):
    """Every place in a JSON value: the list or dictionary that has it, and its index or key."""
    if isinstance(content, (list, dict)):
        for key in range(len(content)) if isinstance(content, list) else content:
            yield content, key
            yield from places(content[key])


@st.composite
def strange_json(draw, text):
    """A JSON text with a few of its values replaced, lacking or too many."""
    content = json.loads(text)
    for _ in range(draw(st.integers(1, 3))):
        parent, key = draw(st.sampled_from([*places(content)]))
        change = draw(st.sampled_from(["replace"] * 3 + ["delete", "add"]))
        if change == "delete":
            del parent[key]
        else:
            key = "more" if change == "add" and isinstance(parent, dict) else key
            parent[key] = copy.deepcopy(draw(VALUES))  # else a later change would alter VALUES
    return json.dumps(content)


def archive(arrays):
    """An archive as NumPy would write it, with Python objects in it, too."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as members:
        for name, array in arrays.items():
            with members.open(f"{name}.npy", "w") as member:
                np.lib.format.write_array(member, array, allow_pickle=True)
    return buffer.getvalue()


DATA = {
    "x_train": np.arange(2 * 4 * 4, dtype=np.uint8).reshape(2, 4, 4),
    "y_train": np.arange(2),
    "x_test": np.zeros((2, 4, 4), np.float32),
    "y_test": np.arange(2),
}


@fuzz(arrays=strange_archives(DATA))
def test_data_sets(file, arrays):
    dataset = read_or_refused(load_dataset, file(archive(arrays), "data.npz"))
    if dataset is not None:
        assert 0 <= dataset.train_images.min() <= dataset.train_images.max() <= 1
        assert dataset.train_labels.max() < dataset.num_classes


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """The arrays of a checkpoint in the middle of its training, with all that one may hold."""
    path = tmp_path_factory.mktemp("checkpoint") / "model.npz"
    model = Model(configure(columns=2, optimizer="adam"), 6, Classification(3, ("a", "b", "c")))
    model.history = [EpochRecord("1", 1, 1.5, 0.5, 0.5, 100, 10, 0.01, 1.5)]
    state = tf.nest.flatten(OPTIMIZERS["adam"]().init(model.params[0]))
    save_checkpoint(model, Position(0, 1, [1.5, 1.2], state, epsilon=0.01), path)
    load_checkpoint(path)
    with np.load(path) as arrays:
        return dict(arrays)


@fuzz(data=st.data())
def test_checkpoints(file, checkpoint, data):
    kind = data.draw(st.sampled_from(["arrays", "description", "training"]))
    if kind == "arrays":
        arrays = data.draw(strange_archives(checkpoint))
    else:
        text = data.draw(strange_json(checkpoint[kind].tobytes()))
        arrays = checkpoint | {kind: np.frombuffer(text.encode(), np.uint8)}
    loaded = read_or_refused(load_checkpoint, file(archive(arrays), "model.npz"))
    if loaded is not None:
        model, position = loaded
        assert all(np.isfinite(leaf).all() for _, params in model.layers for leaf in params)
        assert np.isfinite([*position.losses, model.seconds]).all()
        assert min(model.usage.forward_passes, model.usage.phase_writes) >= 0


@fuzz(data=st.data())
def test_model_files(file, checkpoint, data):
    """Bytes changed anywhere in the file, compressed or not; each takes less than 10 s."""
    originals = [npz_bytes(compressed=compressed, **checkpoint) for compressed in (False, True)]
    path = file(data.draw(mutated(*originals)), "model.npz")
    start = time.perf_counter()
    loaded = read_or_refused(load_checkpoint, path)
    assert time.perf_counter() - start < 10
    assert loaded is None or len(loaded[0].params) == 2


@fuzz(text=strange_json(CHIP_BYTES["mesh.json"].decode()))
def test_netlists(file, text):
    for name in ("mesh.json", "mesh.yml"):
        read_or_refused(read_netlist, file(text.encode(), name))


@fuzz(arrays=strange_archives(KNOWN.arrays()))
def test_estimates(file, arrays):
    read_or_refused(ChipEstimate.load, file(archive(arrays), "chip.npz"))


# --- calibrations -----------------------------------------------------------------------------


def calibration_files():
    names = shifters(RectangularMesh(2))
    header = ",".join(Shifter._fields)
    places = [",".join("" if x is None else str(x) for x in name) for name in names]
    return [
        b"voltage_V,phase_rad\n0,0.1\n1,0.5\n2.5,7\n",
        b"v_pi_V,phase_0_rad\n5,0.2\n",
        "\n".join([f"{header},v_pi_V,phase_0_rad", *(f"{p},5,0.1" for p in places)]).encode(),
        "\n".join(
            [f"{header},voltage_V,phase_rad"]
            + [f"{place},{volt},{volt**2}" for place in places for volt in range(3)]
        ).encode(),
    ]


NUMBERS = [b"1e308", b"-1e308", b"nan", b"inf", b"1e-320", b"9" * 400, b"1_0", b"", b"1e999", b"-0"]


@fuzz(data=st.data())
def test_calibrations(data, file):
    content = data.draw(mutated(*calibration_files()))
    for _ in range(data.draw(st.integers(0, 2))):
        cells = re.split(rb"([,\n])", content)
        cells[data.draw(st.integers(0, len(cells) - 1))] = data.draw(st.sampled_from(NUMBERS))
        content = b"".join(cells)
    path = file(content)
    message = read = None
    try:
        read = read_calibration(path)
    except ValueError as error:
        message = str(error)
    if message is not None:
        assert re.search(rf"{re.escape(str(path))}.{{10}}", message)
        assert "\n" not in message
        return
    for curve in [read] if isinstance(read, Curve) else read.values():
        low, high = curve.reach
        phases = np.linspace(low, min(high, low + 6), 5)
        assert np.isfinite(curve.voltage(phases)).all()
        np.testing.assert_allclose(curve.phase(curve.voltage(phases)), phases, atol=1e-6)
