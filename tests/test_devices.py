"""Devices: the protocol, a mesh of one as a layer, the simulated chip, and one behind a socket."""

import copy
import json
import os
import pickle
import pkgutil
import re
import shlex
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from socketserver import StreamRequestHandler

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from meshes import Amplifier, BlackBox, ElectroOptic, Imperfections, Kerr, Phases, RectangularMesh
from meshes._tensorflow import graph, tf
from photonic_ffzero import (
    Device,
    DeviceError,
    Model,
    SimulatedChip,
    configure,
    fit,
    load_model,
    networks,
    save_model,
)
from photonic_ffzero.cli import calibrate, predict, serve
from photonic_ffzero.cli.train import main
from photonic_ffzero.config import SIMULATED, device_name
from photonic_ffzero.data.tasks import Classification
from photonic_ffzero.devices import DeviceServer, Driver, OnDevice, RemoteDevice, driver_of, wire
from photonic_ffzero.devices.device import check_intensities
from photonic_ffzero.devices.remote import Address
from photonic_ffzero.devices.wire import Kind
from photonic_ffzero.layers.photonic import Photonic
from photonic_ffzero.networks import open_device
from photonic_ffzero.runs.directory import RunDirectory
from photonic_ffzero.storage import load_checkpoint

N, MESHES, B, P = 4, 3, 5, 3
BRIGHT = ElectroOptic(phi_b=np.pi / 2)  # passes more light than the default
SPEC = "electro-optic:phi_b=1.5707963267948966"
STATIC = "splitter_error=0.05,phase_offset=0.2,insertion_loss_db=0.1"
BRIEF = {"epochs": 2, "batch_size": 20, "directions": 2}


def chip(**settings):
    return SimulatedChip(N, MESHES, **({"nonlinearity": BRIGHT} | settings))


def light(*lead, seed=1):
    rng = np.random.default_rng(seed)
    shape = (*(lead or (B,)), N)
    return (rng.normal(size=shape) + 1j * rng.normal(size=shape)).astype(np.complex64)


def some_phases(seed=0):
    return RectangularMesh(N).initial_phases(seed)


def one_set(phases):
    return [Phases(*(w[np.newaxis] for w in phases))]


def samples():
    y = np.arange(60) % 2
    noise = np.random.default_rng(0).random((60, N), np.float32)
    return noise + np.eye(N, dtype=np.float32)[y], y


def trained(**settings):
    return fit(*samples(), **(BRIEF | settings))


def scores(model):
    return model.scores(samples()[0])


def figures(model):
    return [(record.loss, record.train_accuracy) for record in model.history]


def assert_same(one, other):
    assert figures(one) == figures(other)
    np.testing.assert_array_equal(scores(one), scores(other))


class Wrapped:
    """A device that counts what it is asked for, and may spoil an answer.

    ``spoil(answer, count)`` gives what is answered to the count-th measurement.
    """

    def __init__(self, device, spoil=lambda answer, count: answer):
        self.device, self.spoil = device, spoil
        self.units, self.columns, self.meshes = device.units, device.columns, device.meshes
        self.writes = self.passes = self.count = 0

    def write(self, mesh, theta, phi, gamma):
        self.writes += 1
        self.device.write(mesh, theta, phi, gamma)

    def measure(self, mesh, fields):
        self.passes += mesh * len(fields)
        self.count += 1
        return self.spoil(self.device.measure(mesh, fields), self.count)


class Bench(SimulatedChip):
    """An instrument that says who it is until it is closed, in a line as instruments do."""

    open = True

    @property
    def identity(self):
        if not self.open:
            raise RuntimeError("instrument\nis closed")
        return "LAB,MZI-4,17\n"

    @identity.setter
    def identity(self, value):
        pass


class Heaters:
    """Drives a chip that keeps its phases, whatever becomes of this object and its copies."""

    units, columns, meshes, chip = N, N, 1, SimulatedChip(N, 1)

    def write(self, *phases):
        self.chip.write(*phases)

    def measure(self, *light):
        return self.chip.measure(*light)


class Clock:
    """A clock that moves by a step whenever it is read, and jumps when it is told to."""

    now, step = 0.0, 0.0

    def __call__(self):
        self.now += self.step
        return self.now

    def jump(self, answer):
        self.now += 100
        return answer


@contextmanager
def running(server):
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def served(device, port=0):
    return running(DeviceServer(device, port=port))


class Script(StreamRequestHandler):
    def handle(self):
        with suppress(OSError, struct.error):  # the client hung up
            for pieces in self.server.answers:
                self.rfile.read(struct.unpack("<4sII", self.rfile.read(12))[2])
                for piece in pieces:
                    self.wfile.write(piece)


def scripted(*answers):
    """A server that gives these answers (lists of bytes), and then hangs up."""
    server = DeviceServer(chip())
    server.RequestHandlerClass, server.answers = Script, answers
    return running(server)


def connect(
    server, patience="timeout=300,retries=2", clock=lambda: 0.0, pause=lambda seconds: None
):
    """A client that never waits between two attempts."""
    return RemoteDevice(Address.of(f"{server.address}?{patience}"), clock=clock, pause=pause)


def written(server, *arguments):
    device = connect(server, *arguments)
    device.write(1, *some_phases())
    return device


def assert_same_light(one, other, mesh=1, fields=None):
    for device in (one, other):
        for number in range(1, mesh + 1):
            device.write(number, *some_phases(number))
    x = light() if fields is None else fields
    np.testing.assert_array_equal(one.measure(mesh, x), other.measure(mesh, x))


class TestSimulatedChip:
    """What a caller gives it: checked, copied, and read as the settings are."""

    phases = RectangularMesh(N).initial_phases()

    def test_keeps_a_copy_of_its_phases(self):
        device, x = chip(), np.ones((B, N), np.float32)
        mine = Phases(*(w.copy() for w in self.phases))
        device.write(1, *mine)
        before = device.measure(1, x)
        for w in mine:
            w += 1
        np.testing.assert_array_equal(device.measure(1, x), before)

    def test_takes_lists(self):
        device, x = chip(), np.ones((B, N), np.float32)
        device.write(1, *self.phases)
        expected = device.measure(1, x)
        device.write(1, *(w.tolist() for w in self.phases))
        np.testing.assert_array_equal(device.measure(1, x.tolist()), expected)

    def test_reads_every_sample_with_noise_of_its_own_behind_every_mesh(self):
        device = chip(imperfections=Imperfections(read_noise=0.1))
        for mesh in range(1, MESHES + 1):
            device.write(mesh, *self.phases)
            readings = device.measure(mesh, np.ones((B, N), np.complex64))
            assert len(np.unique(readings, axis=0)) == B

    @pytest.mark.parametrize("name", Phases._fields)
    @pytest.mark.parametrize("change", [lambda w: w[..., :1], lambda w: w * 1j], ids=range(2))
    def test_refuses_phases_of_another_mesh(self, name, change):
        wrong = self.phases._replace(**{name: change(getattr(self.phases, name))})
        with pytest.raises(ValueError, match=rf"^{name} must be real numbers of shape \[.*4"):
            SimulatedChip(N, columns=4).write(1, *wrong)

    @pytest.mark.parametrize("number", [0, -1, MESHES + 1, 1.0, "1"])
    def test_refuses_meshes_that_it_has_not(self, number):
        device = chip()
        for mesh in range(1, MESHES + 1):
            device.write(mesh, *self.phases)
        with pytest.raises((TypeError, ValueError), match=r"^mesh must be"):
            device.write(number, *self.phases)
        with pytest.raises((TypeError, ValueError), match=r"^mesh must be"):
            device.measure(number, np.ones((B, N), np.float32))

    def test_refuses_fields_of_another_width(self):
        device = chip()
        device.write(1, *self.phases)
        with pytest.raises(ValueError, match=r"fields .*\[n, 4\]"):
            device.measure(1, np.ones((B, N + 1), np.float32))

    @pytest.mark.parametrize(
        ("text", "value"),
        [
            ({"nonlinearity": "kerr"}, {"nonlinearity": Kerr()}),
            ({"nonlinearity": [SPEC] * MESHES}, {"nonlinearity": BRIGHT}),
            ({"nonlinearity": np.tanh}, {"nonlinearity": BlackBox(np.tanh)}),
            ({"amplifier": "level=1"}, {"amplifier": Amplifier(level=1)}),
            (
                {"imperfections": "phase_offset=0.1"},
                {"imperfections": Imperfections(phase_offset=0.1)},
            ),
        ],
        ids=str,
    )
    def test_reads_texts_as_the_settings_do(self, text, value):
        one, other = chip(**text), chip(**value)
        assert one.identity == other.identity
        for device in (one, other):
            for mesh in (1, 2):
                device.write(mesh, *self.phases)
        x = np.ones((B, N), np.complex64)
        np.testing.assert_array_equal(one.measure(2, x), other.measure(2, x))

    @pytest.mark.parametrize(
        ("wrong", "message"),
        [
            ({"nonlinearity": "ker"}, "nonlinearity .*kerr"),
            ({"nonlinearity": 5}, "nonlinearity .*5"),
            ({"nonlinearity": [BRIGHT] * 2}, "nonlinearity .* 3 meshes, got 2"),
            ({"amplifier": "level"}, "amplifier .*level"),
            ({"amplifier": 2}, "amplifier .*2"),
            ({"imperfections": "ntt-2026"}, "imperfections .*ntt-2025"),
            ({"imperfections": 3}, "imperfections .*3"),
            ({"engine": "bogus"}, "engine .*'bogus'"),
            ({"seed": -1}, "seed .*-1"),
        ],
        ids=str,
    )
    def test_refuses_by_name(self, wrong, message):
        with pytest.raises((TypeError, ValueError), match=f"^{message}"):
            chip(**wrong)


@pytest.fixture(params=["simulated", "remote"])
def device(request):
    if request.param == "simulated":
        yield chip()
        return
    with served(chip()) as server:
        device = connect(server)
        yield device
        device.close()


class TestEveryDevice:
    def test_keeps_the_protocol(self, device):
        assert isinstance(device, Device)
        assert (device.units, device.columns, device.meshes) == (N, N, MESHES)

    def test_reads_the_light_after_every_mesh(self, device):
        """Against the field equations, by the matrices of the meshes."""
        for mesh in range(1, MESHES + 1):
            device.write(mesh, *some_phases(mesh))
        fields = light()
        for mesh in range(1, MESHES + 1):
            fields = fields @ RectangularMesh(N).matrix(some_phases(mesh))
            z = device.measure(mesh, light())
            assert z.shape == (B, N)
            np.testing.assert_allclose(z, np.abs(fields) ** 2, rtol=1e-4, atol=1e-5)
            fields = BRIGHT(fields)

    def test_light_before_phases_is_an_error(self, device):
        device.write(1, *some_phases())
        with pytest.raises((DeviceError, ValueError), match=r"written"):
            device.measure(2, light())

    @pytest.mark.parametrize(
        ("name", "spoil"),
        [
            ("theta", lambda w: w.T.reshape(2, 4)),
            ("theta", lambda w: w[:1]),
            ("phi", lambda w: w + 1j),
            ("phi", lambda w: w * np.nan),
            ("gamma", lambda w: np.ma.masked_less(w, 9)),
            ("gamma", lambda w: w[np.newaxis]),
        ],
        ids=range(6),
    )
    def test_refuses_phases_that_are_none(self, device, name, spoil):
        phases = some_phases()
        wrong = phases._replace(**{name: spoil(getattr(phases, name))})
        with pytest.raises(ValueError, match=f"^{name} must"):
            device.write(1, *wrong)
        with pytest.raises(ValueError, match=r"^mesh must be at most 3, got 4"):
            device.write(MESHES + 1, *phases)

    @pytest.mark.parametrize(
        "spoil",
        [
            lambda x: x.reshape(10, 2),
            lambda x: x[0],
            lambda x: x[:0],
            lambda x: x * np.nan,
            lambda x: np.ma.masked_array(x, np.ones_like(x, bool)),
        ],
        ids=range(5),
    )
    def test_refuses_fields_that_are_none(self, device, spoil):
        device.write(1, *some_phases())
        with pytest.raises(ValueError, match=r"^fields must"):
            device.measure(1, spoil(light()))

    def test_phases_are_not_taken_modulo_a_turn(self, device):
        """theta and theta + 2 pi differ by a sign, which interferes after the interferometer."""
        theta, phi, gamma = some_phases()
        device.write(1, theta, phi, gamma)
        before = device.measure(1, light())
        device.write(1, theta + np.float32([2 * np.pi, 0]), phi, gamma)
        assert np.abs(device.measure(1, light()) - before).max() > 0.1


class TestLayer:
    """OnDevice against the meshes that the simulated chip is made of."""

    @pytest.fixture
    def pair(self):
        mesh = RectangularMesh(N)
        return OnDevice(mesh, Driver(chip())), Photonic(mesh, BRIGHT)

    def params(self, seed=0, sets=P):
        drawn = [some_phases(seed + p) for p in range(sets)]
        return Phases(*(tf.constant(np.stack(w)) for w in zip(*drawn, strict=True)))

    @pytest.mark.parametrize("lead", [(B,), (P, B)])
    def test_sets_one_after_another_are_those_side_by_side(self, pair, lead):
        """And so are three meshes in a row, the first two frozen or not."""
        device, mesh = pair
        for fronts in ((), (self.params(8, 1),), (self.params(8, 1), self.params(9))):
            ours = theirs = tf.constant(light(*lead))
            for front in fronts:
                ours, theirs = device.transmit(front, ours), mesh.transmit(front, theirs)
            z = device.measure(self.params(), ours)
            assert z.shape == (P, B, N)
            assert z.dtype == tf.float32
            np.testing.assert_array_equal(z, mesh.measure(self.params(), theirs))

    @pytest.mark.compiled
    def test_an_error_of_the_device_leaves_a_graph_unchanged(self, pair):
        pair[0].driver.device.measure = lambda mesh, fields: {}[mesh]
        with pytest.raises(DeviceError, match=r"measure mesh 1: KeyError: 1") as error:
            graph(pair[0].measure, xla=False)(self.params(), tf.constant(light()))
        assert isinstance(error.value.__cause__, KeyError)


class TestDriver:
    def test_averages_readings(self):
        """Four readings of a noisy chip deviate half as much as one."""
        x = np.tile(light(1), (2000, 1))
        noisy = Driver(chip(imperfections=Imperfections(read_noise=0.05)))
        one, four = (
            noisy.measure(x, one_set(some_phases()), reads)[0].std(axis=0).max() for reads in (1, 4)
        )
        assert one / four == pytest.approx(2, rel=0.1)

    def test_writes_again_after_an_error(self):
        device = Wrapped(chip(), lambda z, count: None if count == 3 else z)
        driver, path = Driver(device), one_set(some_phases())
        for _ in range(2):
            driver.measure(light(), path)
        assert device.writes == 1
        with pytest.raises(DeviceError):
            driver.measure(light(), path)
        driver.measure(light(), path)
        assert device.writes == 2

    def test_writes_no_phases_that_are_not_finite(self):
        device = Wrapped(chip())
        infinite = Phases(*(np.float32(np.inf) * w for w in some_phases()))
        with pytest.raises(DeviceError, match="phases of mesh 1"):
            Driver(device).measure(light(), one_set(infinite))
        assert device.writes == 0

    @pytest.mark.parametrize(
        ("spoil", "message"),
        [
            (lambda z: z[:, 1:], r"real intensities \[5, 4\] .* mesh 1, found .* \[5, 3\]"),
            (lambda z: z + 0j, "real intensities .* found complex"),
            (lambda z: None, "real intensities .* found object"),
            (lambda z: np.float64(z) + 1e300, "finite .* mesh 1, found inf"),
            (lambda z: z - 1e3, "at least 0, .* mesh 1, found -"),
            (lambda z: Path("/nonexistent/heater").read_text(), "mesh 1: FileNotFoundError"),
        ],
    )
    def test_refuses_nonsense(self, spoil, message):
        device = Wrapped(chip(), lambda z, count: spoil(z))
        with pytest.raises(DeviceError, match=message):
            Driver(device).measure(light(), one_set(some_phases()))

    def test_is_the_same_for_all_models_on_a_device(self):
        """A device has one set of phases, so neither model reads the other's."""
        device = chip()
        one, other = (trained(device=device, seed=seed, epochs=1) for seed in (0, 1))
        assert one.blocks[0].layers[0].driver is driver_of(device)
        first = scores(one), scores(other)
        np.testing.assert_array_equal(scores(one), first[0])
        np.testing.assert_array_equal(scores(other), first[1])


class TestTraining:
    def test_a_run_directory_keeps_what_was_learned_until_an_error(self, tmp_path):
        device = Wrapped(chip(), lambda z, count: z if count < 45 else None)
        with pytest.raises(DeviceError):
            trained(device=device, observers=[RunDirectory(str(tmp_path / "run"))])
        kept = load_model(tmp_path / "run")
        assert len(kept.history) >= 1
        assert device.count == 45

    def test_embeddings_of_a_device_are_refused(self):
        for device in (chip(), "simulated"):
            with pytest.raises(ValueError, match=r"^embeddings would do nothing on a device"):
                trained(device=device, embeddings=True)

    @pytest.mark.parametrize(
        ("chosen", "imperfections"),
        [
            ({}, ""),
            ({"method": "bp-dd", "meshes": 3, "amplifier": "level=4"}, STATIC),
            ({"estimator": "forward", "law": "gaussian"}, STATIC),
            ({"optimizer": "momentum", "epsilon": "auto", "meshes": 1}, STATIC),
        ],
        ids=str,
    )
    def test_equals_that_on_the_same_chip_unhidden(self, chosen, imperfections):
        """The same losses and scores to the last bit, native layers or a device."""
        chosen = {"nonlinearity": SPEC, "chip": 3, "engine": "native"} | chosen
        hidden = trained(device=f"simulated:{imperfections}".rstrip(":"), **chosen)
        assert_same(hidden, trained(imperfections=imperfections, **chosen))

    @pytest.mark.parametrize(
        "chosen",
        [
            {"method": "bp-dd"},
            {"reads": 3, "estimator": "forward"},
            {"epsilon": "auto", "epochs": 1, "meshes": 2},
            {"estimator": "twin", "directions": 0, "calibration": 3, "reads": 2},
            {"estimator": "twin", "method": "bp-dd", "calibration": 2, "twin_nonlinearity": SPEC},
        ],
        ids=str,
    )
    def test_the_device_is_asked_for_what_is_counted(self, chosen):
        """Frozen phases stay written, nothing pads a batch, and every crossing counts."""
        device = Wrapped(chip())
        model = trained(device=device, **({"meshes": 3, "validation": 7} | chosen))
        assert device.writes == model.usage.phase_writes
        assert device.passes == model.usage.forward_passes

    def test_noise_of_the_writes_is_measured_where_a_step_is_chosen(self):
        """Every probe is written, though the phases are the same."""
        quiet, noisy = (
            trained(device=f"simulated:{noise}".rstrip(":"), epsilon="auto", epochs=1, meshes=1)
            for noise in ("", "write_noise=0.02")
        )
        assert 2 * quiet.history[0].epsilon < noisy.history[0].epsilon

    def test_a_black_box_between_the_meshes(self):
        assert_same(
            trained(device="simulated", nonlinearity=np.tanh),
            trained(device=SimulatedChip(N, nonlinearity=BlackBox(np.tanh))),
        )


@pytest.mark.long
@pytest.mark.compiled
def test_compiled_steps_train_as_eager_ones():
    """A graph does not reorder what is written."""
    hidden, open_chip = (
        trained(engine="native", epochs=1, **chosen) for chosen in ({"device": "simulated"}, {})
    )
    assert [loss for loss, _ in figures(hidden)] == [loss for loss, _ in figures(open_chip)]
    np.testing.assert_allclose(scores(hidden), scores(open_chip), atol=1e-6)  # in other chunks


class TestRefusals:
    @pytest.mark.parametrize(
        ("chosen", "message"),
        [
            ({"network": "mlp"}, "device does not apply to mlp"),
            ({"device": "simulated:bits=8"}, "device simulated's parameter must be one of"),
            ({"device": "tcp://h:1", "engine": "xla"}, "engine does not apply .*device tcp"),
            ({"train_nonlinearity": True}, "train_nonlinearity does not apply to a device"),
            ({"device": "tcp://h:1?timeout=0"}, "timeout must be greater than 0"),
            ({"device": "tcp://h"}, "device must be written tcp://host:port, got 'tcp://h'"),
            ({"device": "tcp://h:0"}, "device's port must be 1 to 65535, got 0"),
            ({"device": "tcp://h:1?retries=1.5"}, "retries must be a whole number"),
            ({"device": "tcp://h:1?speed=1"}, "device's parameter must be one of timeout, retries"),
            ({"device": "chip"}, "device must be .*got 'chip'"),
        ],
        ids=str,
    )
    def test_bad_settings(self, chosen, message):
        with pytest.raises(ValueError, match=message):
            configure(**({"device": "simulated"} | chosen))

    @pytest.mark.parametrize(
        ("device", "chosen", "message"),
        [
            (SimulatedChip(N + 1), {}, "device must have 4 ports, found 5"),
            (chip(columns=2), {}, "device must have 4 columns in a mesh, found 2"),
            (chip(), {"meshes": 4}, "device must have 4 meshes, found 3"),
            (object(), {}, "device must have units, columns, meshes, write and measure, got"),
        ],
        ids=range(4),
    )
    def test_a_device_of_other_meshes(self, device, chosen, message):
        with pytest.raises((ValueError, TypeError), match=message):
            trained(device=device, **chosen)

    @pytest.mark.parametrize(
        ("make", "message"),
        [
            (lambda: chip(imperfections=Imperfections(drift=0.1)), r"drift must be 0 .*got 0\.1"),
            (lambda: open_device(configure(device="nowhere_to_be_found:chip"), N), "cannot be"),
            (lambda: open_device(configure(device="json:chip"), N), "json:chip cannot be found"),
            (lambda: Model(configure(), N, Classification(2), device=chip()), "does not apply"),
        ],
        ids=["drift", "no module", "no factory", "not named by the settings"],
    )
    def test_a_device_that_cannot_be(self, make, message):
        with pytest.raises(ValueError, match=message):
            make()


def saved_identity(model, path):
    save_model(model, path)
    with np.load(path) as arrays:
        return json.loads(arrays["description"].tobytes())["device_identity"]


class TestFiles:
    def test_the_identity_is_told_once_and_kept(self, tmp_path):
        device, path = Bench(N, MESHES), tmp_path / "model.npz"
        model = trained(device=device, epochs=1)
        device.open = False
        assert saved_identity(model, path) == "LAB,MZI-4,17"
        assert saved_identity(load_model(path), tmp_path / "again.npz") == "LAB,MZI-4,17"

    def test_a_model_predicts_on_the_device_it_gets(self, tmp_path):
        device, path = chip(), tmp_path / "model.npz"
        model = trained(device=device)
        save_model(model, path)
        loaded = load_model(path, device=device)
        np.testing.assert_array_equal(scores(loaded), scores(model))
        assert loaded.config == model.config
        without = load_model(path)
        np.testing.assert_array_equal(without.params[0][0].theta, model.params[0][0].theta)
        with pytest.raises(ValueError, match="device must be given to a model"):
            scores(without)

    @pytest.mark.parametrize(
        ("trained_on", "loaded_on"),
        [
            ({"device": f"simulated:{STATIC}"}, {}),
            ({"engine": "native"}, {"device": SimulatedChip(N, engine="native")}),
        ],
        ids=["made again", "trained in simulation"],
    )
    def test_a_simulated_device_predicts_the_same(self, tmp_path, trained_on, loaded_on):
        model = trained(**trained_on)
        save_model(model, tmp_path / "model.npz")
        loaded = load_model(tmp_path / "model.npz", **loaded_on)
        np.testing.assert_array_equal(scores(loaded), scores(model))


def header(kind, length, version=wire.VERSION):
    return struct.pack("<4sII", b"FFZ%d" % version, kind, length)


def pack(kind, content=b""):
    return header(kind, len(content)) + content


HELLO = [pack(Kind.SHAPE, wire.SHAPE.pack(N, N, MESHES, b"chip A"))]
DONE, LOST = [pack(Kind.DONE)], [pack(Kind.LOST)]
LIGHT = pack(Kind.LIGHT, np.ones((B, N), "<f4").tobytes())


class TestRemote:
    def test_disconnects_change_nothing(self):
        """Questions without an answer are asked again, over new connections."""

        def hang_up(z, count):
            if count in (1, 2, 9):
                for line in tuple(server.places):
                    server.hang_up(line)
            return z

        calm = trained(device=chip(), epochs=1)
        with served(Wrapped(chip(), hang_up)) as server:
            assert_same(trained(device=connect(server), epochs=1), calm)

    def test_a_server_that_forgot_gets_the_phases_again(self):
        with served(chip()) as server:
            far = connect(server)
            assert_same_light(far, chip(), mesh=2)
            before = far.measure(2, light())
        with served(chip(), server.server_address[1]):
            np.testing.assert_array_equal(far.measure(2, light()), before)
            far.close()

    def test_another_device_in_its_place_is_refused(self):
        with served(chip()) as server:
            far = connect(server)
        port = server.server_address[1]
        with served(SimulatedChip(6), port), pytest.raises(DeviceError, match="units 4, found 6"):
            far.write(1, *some_phases())

    def test_its_identity_travels(self):
        one, other = chip(seed=1), chip(seed=2)
        assert one.identity == chip(seed=1).identity != other.identity
        assert one.identity != chip(seed=1, imperfections=Imperfections(read_noise=0.1)).identity
        assert one.identity != chip(seed=1, nonlinearity=Kerr()).identity
        assert one.identity != chip(seed=1, amplifier=Amplifier(gain=2.0)).identity
        with served(one) as server:
            far = connect(server)
            assert far.identity == one.identity
        with (
            served(other, server.server_address[1]),
            pytest.raises(
                DeviceError, match=r"identity simulated chip 1, .* found simulated chip 2"
            ),
        ):
            far.write(1, *some_phases())
        with served(Wrapped(one)) as server:
            assert connect(server).identity is None

    @pytest.mark.parametrize("identity", [7, "", "\n", "a\nb", "\x1b[2J", "x" * 257, "\udcff"])
    def test_an_identity_is_a_short_printable_text(self, identity):
        device = chip()
        device.identity = identity
        for use in (DeviceServer, Driver):
            with pytest.raises(ValueError, match="device's identity must"):
                use(device)

    def test_two_clients_do_not_read_each_other_s_phases(self):
        with served(chip()) as server:
            one, other = written(server), connect(server)
            before = one.measure(1, light())
            other.write(1, *some_phases(2))
            assert np.abs(other.measure(1, light()) - before).max() > 0.1
            np.testing.assert_array_equal(one.measure(1, light()), before)
            one.close(), other.close()

    def test_a_slow_answer_is_asked_for_again(self):
        clock = Clock()
        slow_once = Wrapped(chip(), lambda z, count: clock.jump(z) if count == 1 else z)
        with served(slow_once) as server:
            far = connect(server, "timeout=30,retries=2", clock)
            assert_same_light(far, chip())
            assert slow_once.count == 2
            far.close()

    def test_one_that_is_always_slow_is_given_up_after_pauses_that_double(self):
        times, pauses = Clock(), []
        with served(chip()) as server:
            far = written(server, "timeout=5,retries=3", times, pauses.append)
            times.step = 100
            with pytest.raises(DeviceError, match=r"does not answer, asked 4 times: .*timed out"):
                far.measure(1, light())
        assert pauses == [0.5, 1.0, 2.0]

    def test_a_device_that_is_slower_than_the_timeout_is_named_so(self):
        """It is asked as often as it is said to be, and the phases are not said to be lost."""
        times = Clock()
        slow = Wrapped(chip(), lambda z, count: times.jump(z))
        with served(slow) as server:
            far = written(server, "timeout=30,retries=2", times)
            told = r"asked 3 times: timed out after 30 s; for a slower .* tcp://.*\?timeout=60$"
            with pytest.raises(DeviceError, match=told):
                far.measure(1, light())
        assert slow.count == 3

    def test_a_question_of_a_client_that_has_hung_up_is_left_undone(self):
        entered, leave = threading.Event(), threading.Event()

        def wait(z, count):
            entered.set()
            leave.wait(10)
            return z

        device = Wrapped(chip(), wait)
        with served(device) as server:
            one, other = written(server), connect(server)
            thread = threading.Thread(target=one.measure, args=(1, light()))
            thread.start()
            entered.wait(10)
            other._channel.send(Kind.WRITE, b"".join([struct.pack("<I", 1), bytes(4 * 20)]), 5)
            other.close()
            leave.set()
            thread.join()
            one.write(1, *some_phases())
            one.close()
        assert device.writes == 2

    def test_without_retries_lost_phases_are_written_again(self):
        with served(chip()) as server:
            one, other = written(server, "retries=0"), written(server)
            np.testing.assert_array_equal(one.measure(1, light()), other.measure(1, light()))
            one.close(), other.close()

    @pytest.mark.parametrize(
        "again", [copy.copy, copy.deepcopy, lambda far: pickle.loads(pickle.dumps(far))]
    )
    def test_a_copy_connects_by_itself(self, again):
        with served(chip()) as server:
            far = RemoteDevice.at(server.address)
            far.write(1, *some_phases())
            before, copied = far.measure(1, light()), again(far)
            far.write(1, *some_phases(2))
            for _ in range(2):
                np.testing.assert_array_equal(copied.measure(1, light()), before)
                assert np.abs(far.measure(1, light()) - before).max() > 0.1
            far.close(), copied.close()

    def test_time_runs_for_the_whole_answer(self):
        """An answer that comes byte by byte would never end."""
        clock = Clock()
        drip = (clock.jump(bytes([byte])) for byte in HELLO[0])
        with scripted(drip) as server, pytest.raises(DeviceError, match="does not answer"):
            connect(server, "retries=0", clock)

    def test_many_samples_go_in_several_messages(self, monkeypatch):
        monkeypatch.setattr(wire, "MAX_BYTES", 3 * 8 * N)
        with served(chip()) as server:
            far = connect(server)
            assert_same_light(far, chip(), fields=light(10))
            far.close()

    def test_an_error_over_there_is_told_here(self):
        broken = chip()
        broken.write = lambda *phases: [][1]
        with (
            served(broken) as server,
            pytest.raises(DeviceError, match="failed: 'IndexError: list index out of range'"),
        ):
            written(server)

    @pytest.mark.parametrize(
        ("answer", "message"),
        [
            ([b"HTTP/1.1 400 Bad Request\r\n\r\n"], r"nonsense: .* found b'HTTP/1.1'"),
            ([header(77, 0)], "nonsense"),
            (DONE, "must answer LIGHT of 80 bytes or LOST of 0 bytes, found DONE of 0"),
            ([header(Kind.LIGHT, 2**32 - 1)], "found LIGHT of 4294967295"),
            ([header(Kind.FAILED, 2**31)], "found FAILED of 2147483648"),
            ([pack(Kind.FAILED, b"\xff\x1b[2J")], r"failed: '\\?.*x1b\[2J'"),
            ([LIGHT[:50]], "the connection was closed"),
            (LOST, "someone else"),
        ],
        ids=range(8),
    )
    def test_an_answer_that_is_none_is_an_error(self, answer, message):
        rest = [DONE, LOST] if answer is LOST else []
        with scripted(HELLO, DONE, answer, *rest) as server:
            far = written(server, "retries=0")
            with pytest.raises(DeviceError, match=message):
                far.measure(1, light())

    def test_a_shape_that_is_none_is_refused(self):
        shape = [pack(Kind.SHAPE, wire.SHAPE.pack(0, 4, 2, b""))]
        with scripted(shape) as server, pytest.raises(ValueError, match=r"units .*got 0"):
            Driver(connect(server))


def test_an_address_may_be_a_number_of_version_6():
    place = Address.of("tcp://[::1]:80?timeout=5")
    assert (place.host, place.port, place.patience.timeout) == ("::1", 80, 5)
    assert str(place) == "tcp://[::1]:80"


@pytest.fixture(scope="module")
def lasting():
    with served(chip()) as server:
        yield server


def told(server, message):
    """All that a server answers to some bytes."""
    with socket.create_connection(server.server_address[:2], 5) as line:
        answer = b""
        with suppress(OSError):  # it hung up on what it left unread
            line.sendall(message)
            line.shutdown(socket.SHUT_WR)
            answer = b"".join(iter(lambda: line.recv(4096), b""))
    return answer


class TestServer:
    @settings(
        max_examples=40,
        derandomize=True,
        suppress_health_check=[HealthCheck.function_scoped_fixture],
    )
    @given(
        st.one_of(
            st.binary(min_size=12, max_size=200),
            st.builds(
                lambda kind, length, rest: header(kind, length) + rest,
                st.sampled_from([*Kind, 0, 99]),
                st.integers(0, 2**32 - 1),
                st.binary(max_size=100),
            ),
        )
    )
    def test_survives_whatever_it_is_told(self, lasting, message):
        assert len(told(lasting, message)) < 4096
        far = connect(lasting)
        assert far.units == N
        far.close()

    @pytest.mark.parametrize(
        "question",
        [
            header(Kind.MEASURE, 4 + 8 * N * 2**26),
            header(Kind.WRITE, 2**31),
            header(Kind.HELLO, 1),
            pack(Kind.MEASURE, struct.pack("<I", 0) + light().tobytes()),
            pack(Kind.MEASURE, struct.pack("<I", MESHES + 1) + light().tobytes()),
        ],
        ids=range(5),
    )
    def test_refuses_lengths_from_the_header_alone_and_meshes_it_does_not_have(
        self, lasting, question
    ):
        assert Kind(struct.unpack("<4sII", told(lasting, question)[:12])[1]) == Kind.FAILED


@pytest.mark.long
def test_a_chip_in_another_process():
    """Its command prints the address first; killed, it is gone and says so."""
    program = [sys.executable, "-m", "photonic_ffzero.cli.serve", "--units", "4", "--meshes", "3"]
    flags = ["--nonlinearity", SPEC, "--device", f"simulated:{STATIC}", "--chip", "5"]
    with subprocess.Popen([*program, *flags], stdout=subprocess.PIPE, text=True) as process:
        try:
            process.address = process.stdout.readline().strip()
            far = connect(process, "timeout=300,retries=1")
            made = Imperfections(splitter_error=0.05, phase_offset=0.2, insertion_loss_db=0.1)
            assert_same_light(far, chip(imperfections=made, seed=5), mesh=3)
        finally:
            process.kill()
    with pytest.raises(DeviceError, match="does not answer, asked 2 times"):
        far.measure(3, light())


def test_the_command_ends_at_an_interrupt_and_names_a_bad_flag(capsys, monkeypatch):
    def interrupt(server):
        raise KeyboardInterrupt

    monkeypatch.setattr(DeviceServer, "serve_forever", interrupt)
    assert serve.main(["--units", "4"]) == 130
    assert capsys.readouterr().out.startswith("tcp://127.0.0.1:")
    assert "--device" in error_of(["--device", "chip"], capsys, serve.main)


@pytest.mark.parametrize("main", [serve.main, calibrate.main])
@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--units", "16"], "--units must be 6 as in a_lab:chip, got 16"),
        (["--meshes", "5"], "--meshes must be 2 .*, got 5"),
        (["--columns", "3"], "--columns must be 6 .*, got 3"),
        (["--chip", "3"], "--chip"),
    ],
)
def test_sizes_of_a_device_are_its_own(main, flags, told, tmp_path, monkeypatch, capsys):
    (tmp_path / "a_lab.py").write_text(
        "from photonic_ffzero import SimulatedChip\ndef chip():\n    return SimulatedChip(6)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    line = error_of(["--device", "a_lab:chip", *flags], capsys, main)
    assert re.search(told, line), line
    assert sorted(path.name for path in tmp_path.glob("[!_]*")) == ["a_lab.py"]


RUN = ["--dataset", "digits", "--size", "4", "--limit", "120", "--batch-size", "40"]
RUN += ["--directions", "2", "--epochs", "3", "--quiet"]


LAB = """
from photonic_ffzero import SimulatedChip

class Interlock:
    def __init__(self):
        raise RuntimeError("laser interlock\\nopen")

class NoColumns:
    units, meshes = 16, 2
    def write(self, *phases): ...
    def measure(self, *light): ...

def numbered():
    chip = SimulatedChip(16)
    chip.identity = 1234
    return chip
"""


@pytest.mark.parametrize(
    ("main", "flags"), [(main, RUN), (serve.main, []), (calibrate.main, ["--units", "16"])]
)
@pytest.mark.parametrize(
    ("factory", "told"),
    [
        (
            "Interlock",
            r"--device failed to open broken_lab:Interlock: RuntimeError: laser interlock",
        ),
        ("NoColumns", "--device must have units, columns, meshes, .*got <broken_lab.NoColumns"),
        ("numbered", "--device's identity must be a printable text, got 1234"),
        ("__name__", "--device failed to open broken_lab:__name__: TypeError"),
    ],
)
def test_a_factory_that_makes_no_device_is_told_in_one_line(
    main, flags, factory, told, tmp_path, monkeypatch, capsys
):
    (tmp_path / "broken_lab.py").write_text(LAB)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    line = error_of([*flags, "--device", f"broken_lab:{factory}"], capsys, main)
    assert re.search(told, line), line
    assert line.count("\n") == 1
    assert sorted(path.name for path in tmp_path.glob("[!_]*")) == ["broken_lab.py"]


def status_of(main, words):
    try:
        return main(words)
    except SystemExit as stop:
        return stop.code


LASER = """
import warnings
from photonic_ffzero import SimulatedChip

class Laser(SimulatedChip):
    def __init__(self):
        super().__init__(16, meshes=1)

    def close(self):
        with open("closed", "a") as file:
            file.write("once")

class Fails(Laser):
    def measure(self, mesh, fields):
        raise RuntimeError("no light")

class Nobody(Laser):
    def __init__(self):
        super().__init__()
        self.identity = 7

class Warns(Laser):
    def measure(self, mesh, fields):
        warnings.warn("the battery is low")
        return super().measure(mesh, fields)

class Quits(Laser):
    def measure(self, mesh, fields):
        raise SystemExit("out of light")

class WarnsAndFails(Fails):
    def measure(self, mesh, fields):
        warnings.warn("the battery is low")
        return super().measure(mesh, fields)
"""


@pytest.fixture
def laser_lab(tmp_path, monkeypatch):
    """A module with devices, in the working directory."""
    (tmp_path / "laser_lab.py").write_text(LASER)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)


TRAIN = [*RUN, "--meshes", "1", "--epochs", "1", "--device"]
LEARN = ["--settings", "2", "--batch-size", "4", "--device"]


@pytest.mark.parametrize(
    ("main", "words", "code"),
    [
        (main, [*TRAIN, "laser_lab:Laser"], 0),
        (main, [*TRAIN, "laser_lab:Fails"], 1),
        (main, [*TRAIN, "laser_lab:Quits"], 1),
        (main, [*TRAIN, "laser_lab:Laser", "--meshes", "2"], 2),
        (main, [*TRAIN, "laser_lab:Nobody"], 2),
        (calibrate.main, [*LEARN, "laser_lab:Laser"], 0),
        (calibrate.main, [*LEARN, "laser_lab:Fails"], 1),
        (serve.main, ["--device", "laser_lab:Laser", "--units", "3"], 2),
        (serve.main, ["--device", "laser_lab:Laser"], 130),
    ],
    ids=range(9),
)
def test_a_device_that_can_be_closed_is_closed_once(main, words, code, laser_lab, monkeypatch):
    def interrupt(server):
        raise KeyboardInterrupt

    monkeypatch.setattr(DeviceServer, "serve_forever", interrupt)
    assert status_of(main, words) == code
    assert Path("closed").read_text() == "once"


def test_a_device_that_does_not_fit_a_model_is_closed(laser_lab):
    save_model(trained(device=Bench(N, MESHES)), "model.npz")
    with pytest.raises(ValueError, match="device must have 4 ports, found 16"):
        load_model("model.npz", device="laser_lab:Laser")
    assert Path("closed").read_text() == "once"


@pytest.mark.parametrize(("factory", "code"), [("Warns", 0), ("WarnsAndFails", 1)])
def test_a_calibration_says_what_the_device_warns_of_once(factory, code, laser_lab, capsys):
    assert status_of(calibrate.main, [*LEARN, f"laser_lab:{factory}"]) == code
    assert capsys.readouterr().err.count("warning: the battery is low") == 1


@pytest.mark.long
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_closes_the_device_long(number, code, tmp_path):
    (tmp_path / "laser_lab.py").write_text(LASER)
    command = [sys.executable, "-m", "photonic_ffzero.cli.serve", "--device", "laser_lab:Laser"]
    path = {"PYTHONPATH": str(Path(__file__).parents[1])}
    with subprocess.Popen(
        command, cwd=tmp_path, env=os.environ | path, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout.readline().startswith("tcp://")
            process.send_signal(number)
            assert process.wait(timeout=10) == code
        finally:
            process.kill()
    assert (tmp_path / "closed").read_text() == "once"


def test_a_device_that_cannot_say_what_it_is_is_told():
    device = Bench(N, MESHES)
    device.open = False
    with pytest.raises(DeviceError, match=r"say what it is: RuntimeError: instrument\\nis closed"):
        trained(device=device)


def results(folder):
    """All results of a run but its time, and where its device was."""
    content = json.loads((Path(folder) / "results.json").read_text())
    left_out = ("train_seconds", "device", "device_identity", "engine")
    return {k: v for k, v in content.items() if k not in left_out}


def error_of(arguments, capsys, command=main):
    with pytest.raises(SystemExit) as stop:
        command(arguments)
    assert stop.value.code == 2
    return capsys.readouterr().err


class TestRuns:
    @pytest.fixture(autouse=True)
    def elsewhere(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "path", [*sys.path])
        monkeypatch.setattr(RunDirectory, "write_figures", lambda self, *given: None)

    @pytest.mark.parametrize("good", [3, 40], ids=["at once", "mesh 2"])
    def test_a_run_that_lost_its_device_goes_on_to_the_same_figures(self, capsys, good):
        """12 readings a step, 3 steps an epoch."""
        assert main([*RUN, "--device", "simulated", "--output", "whole"]) == 0
        capsys.readouterr()
        dying = Wrapped(SimulatedChip(16), lambda z, count: z if count <= good else None)
        with served(dying) as server:
            assert main([*RUN, "--device", server.address, "--output", "run"]) == 1
        errors = capsys.readouterr().err
        assert "argument" not in errors
        assert re.search(r"device tcp://.* failed: .*; what was saved stands; go on", errors)
        assert f"--resume run --device {server.address}\n" in errors
        if Path("run/model.npz").exists():
            load_checkpoint("run/model.npz")
        with served(SimulatedChip(16)) as server:
            assert main(["--resume", "run", "--device", server.address, "--quiet"]) == 0
        assert results("run") == results("whole")

    def test_a_factory_is_named_again(self, capsys):
        Path("lab.py").write_text(
            "from photonic_ffzero import SimulatedChip\nchip = lambda: SimulatedChip(16)\n"
        )
        brief = [*RUN, "--epochs", "1"]
        assert main([*brief, "--device", "simulated", "--output", "whole"]) == 0
        assert main([*brief, "--device", "lab:chip", "--output", "run"]) == 0
        assert results("run") == results("whole")
        Image.new("L", (8, 8), 200).save("image.png")
        assert "--device" in error_of(["run", "image.png"], capsys, predict.main)
        assert predict.main(["run", "image.png", "--device", "lab:chip"]) == 0
        Path("run/results.json").unlink()
        assert "use --device lab:chip" in error_of(["--resume", "run", "--quiet"], capsys)
        assert main(["--resume", "run", "--device", "lab:chip", "--quiet"]) == 0
        assert results("run") == results("whole")

    def test_a_file_opens_no_connection_and_starts_no_program(self, capsys, monkeypatch):
        assert main([*RUN, "--epochs", "1", "--device", "simulated", "--output", "run"]) == 0
        for name in ("results.json", "model.npz"):
            Path("run", name).unlink()
        written = json.loads(Path("run/config.json").read_text())
        monkeypatch.setattr(networks, "RemoteDevice", None)
        monkeypatch.setattr(pkgutil, "resolve_name", None)
        none = dict.fromkeys(("nonlinearity", "amplifier", "chip", "engine", "unit_power"))
        capsys.readouterr()
        for device in ("tcp://127.0.0.1:9", "tcp://[::1]:9?retries=0", "os:getcwd"):
            changed = written | none | {"device": device}
            Path("run/config.json").write_text(json.dumps(changed))
            line = error_of(["--resume", "run", "--quiet"], capsys)
            assert f"use --device {shlex.quote(device)}" in line
            assert line.count("\n") == 1
        for device in ("tcp://a\x1b[2J:9", "tcp://a b:9", "os:getcwd()", "own X\n"):
            Path("run/config.json").write_text(json.dumps(written | none | {"device": device}))
            line = error_of(["--resume", "run", "--quiet"], capsys)
            assert "device" in line
            assert "\x1b" not in line
        black_box = written | {"nonlinearity": "black box os.system"}
        Path("run/config.json").write_text(json.dumps(black_box))
        assert "nonlinearity" in error_of(["--resume", "run", "--quiet"], capsys)

    def test_a_run_goes_on_with_the_chip_it_began_with(self, capsys):
        good = 40
        dying = Wrapped(SimulatedChip(16, seed=5), lambda z, count: z if count <= good else None)
        dying.identity = "chip A"
        with served(dying) as server:
            assert main([*RUN, "--device", server.address, "--output", "run"]) == 1
        resume = ["--resume", "run", "--quiet", "--device"]
        good, dying.identity = 10**9, "chip B"
        before = {path.name: path.read_bytes() for path in Path("run").iterdir()}
        with served(dying) as server:
            assert main([*resume, server.address]) == 1
            line = capsys.readouterr().err
        assert {path.name: path.read_bytes() for path in Path("run").iterdir()} == before
        assert re.search(r"device_identity must be 'chip A', .* found 'chip B'", line)
        with np.load("run/model.npz") as arrays:
            content = dict(arrays)
        about = json.loads(content["description"].tobytes())
        assert about.pop("device_identity") == "chip A"
        content["description"] = np.frombuffer(json.dumps(about).encode(), np.uint8)
        np.savez("run/model.npz", **content)
        with served(dying) as server:
            assert main([*resume, server.address]) == 0
        assert capsys.readouterr().err.count("from before devices had an identity") == 1
        assert json.loads(Path("run/results.json").read_text())["device_identity"] == "chip B"

    def test_refusals_name_the_flag_and_write_nothing(self, capsys):
        run = [*RUN, "--device", "tcp://127.0.0.1:9?retries=0", "--output", "run"]
        error = error_of(run, capsys)
        assert "does not answer, asked 1 time: " in error
        assert "cli.serve running there" in error
        assert not Path("run").exists()
        assert main([*RUN, "--epochs", "1", "--output", "run"]) == 0
        resume = ["--resume", "run", "--device", "simulated"]
        assert "--device does not apply" in error_of(resume, capsys)

    def test_each_seed_has_its_chip_or_all_share_the_one_there_is(self):
        several = [*RUN, "--epochs", "1", "--seeds", "2"]
        assert main([*several, "--device", f"simulated:{STATIC}", "--output", "one"]) == 0
        assert main([*several, "--imperfections", STATIC, "--output", "two"]) == 0
        with served(SimulatedChip(16)) as server:
            assert main([*several, "--device", server.address, "--output", "three"]) == 0
        for seed in ("seed-0", "seed-1"):
            hidden, unhidden = (results(Path(run) / seed) for run in ("one", "two"))
            for one in (hidden, unhidden):  # light crosses frozen meshes again
                del one["forward_passes"], one["phase_writes"], one["power"]
            assert hidden == unhidden


HANGING = """
import time
from photonic_ffzero import SimulatedChip

class Hanging(SimulatedChip):
    def measure(self, mesh, fields):
        print("hangs", flush=True)
        time.sleep(600)

chip = lambda: Hanging(16)
"""


@pytest.mark.long
def test_a_second_interrupt_ends_a_run_whose_device_hangs_long(tmp_path):
    """The call is in TensorFlow's thread, and the main thread waits for it in C."""
    (tmp_path / "lab.py").write_text(HANGING)
    command = [sys.executable, "-m", "photonic_ffzero.cli.worker", *RUN, "--device", "lab:chip"]
    path = os.pathsep.join([str(Path(__file__).parents[1]), str(tmp_path)])
    with subprocess.Popen(
        [*command, "--output", "run"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": path},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout.readline() == "hangs\n"
            for _ in range(2):
                process.send_signal(signal.SIGINT)
                time.sleep(1)
            assert process.wait(timeout=3) == 130
        finally:
            process.kill()


class _Slow(SimulatedChip):
    """A chip that takes its time between a write and a reading."""

    def write(self, mesh, theta, phi, gamma):
        super().write(mesh, theta, phi, gamma)
        time.sleep(0.002)


def test_threads_that_share_a_device_take_turns():
    chip, two = _Slow(4, meshes=1), Classification(2)
    x = np.random.default_rng(0).random((3, 4)).astype(np.float32)
    models = [
        Model(configure(device=device_name(chip), meshes=1, seed=seed), 4, two, device=chip)
        for seed in range(2)
    ]
    alone = [model.scores(x) for model in models]
    equal = []

    def ask(model, expected):
        equal.extend(np.array_equal(model.scores(x), expected) for _ in range(20))

    threads = [threading.Thread(target=ask, args=pair) for pair in zip(models, alone, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert equal == [True] * 40


def test_masked_readings_are_no_light():
    with pytest.raises(DeviceError, match="after mesh 2, found masked"):
        check_intensities(np.ma.masked_less(np.ones((2, 3)), 2), (2, 3), 2)


def test_what_a_former_device_decided_is_as_the_recipe_has_it():
    there = configure(device="tcp://localhost:5025")
    here = there.moved_to(SIMULATED)
    assert here == configure(device=SIMULATED)
    assert here.moved_to("tcp://localhost:5025") == there


@pytest.mark.parametrize("again", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_copy_of_a_model_writes_its_phases_anew(again):
    """Others may have used the chip before the copy is."""
    device, x = Heaters(), np.ones((2, N), np.float32)
    config = configure(device=device_name(device), meshes=1)
    model = Model(config, N, Classification(2), device=device)
    expected = model.scores(x)
    copied = again(model)
    device.write(1, *some_phases(5))
    np.testing.assert_array_equal(copied.scores(x), expected)
    assert driver_of(copied.device) is copied.blocks[0].layers[0].driver
