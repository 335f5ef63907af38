"""Devices: the protocol, the layer on one, the simulated chip, and one behind a socket."""

import json
import re
import socket
import struct
import subprocess
import sys
import textwrap
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from meshes import BlackBox, ElectroOptic, Imperfections, Phases, RectangularMesh
from meshes._tensorflow import graph, tf
from photonic_ffzero import (
    Device,
    DeviceError,
    Model,
    SimulatedChip,
    configure,
    fit,
    load_model,
    save_model,
)
from photonic_ffzero.cli import predict as classify
from photonic_ffzero.cli.train import main
from photonic_ffzero.data.tasks import Classification
from photonic_ffzero.devices import device as devices
from photonic_ffzero.devices import remote
from photonic_ffzero.devices.device import Driver, OnDevice, driver_of
from photonic_ffzero.devices.remote import Address, DeviceServer, Kind, RemoteDevice, pack
from photonic_ffzero.layers.photonic import Photonic
from photonic_ffzero.networks import open_device
from photonic_ffzero.runs.directory import RunDirectory
from photonic_ffzero.storage import load_checkpoint
from photonic_ffzero.training import step as steps

N, MESHES, B = 4, 3, 5
BRIGHT = ElectroOptic(phi_b=np.pi / 2)  # the dark one passes next to nothing
STATIC = "splitter_error=0.05,phase_offset=0.2,insertion_loss_db=0.1"


@pytest.fixture
def eager():
    """Without compiling, which would take longer than a few steps."""
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


@pytest.fixture(autouse=True)
def hasty(monkeypatch):
    monkeypatch.setattr(remote, "_PAUSE", 0.01)


def chip(**given_settings):
    return SimulatedChip(N, MESHES, **({"nonlinearity": BRIGHT} | given_settings))


def light(*lead, seed=1):
    rng = np.random.default_rng(seed)
    shape = (*(lead or (B,)), N)
    return (rng.normal(size=shape) + 1j * rng.normal(size=shape)).astype(np.complex64)


def some_phases(seed=0, units=N):
    return RectangularMesh(units).initial_phases(seed)


@contextmanager
def served(device, port=0):
    """A device behind a socket; hung up at the end."""
    server = DeviceServer(device, port=port)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def address(server, patience="timeout=5,retries=2"):
    return f"{server.address}?{patience}"


@contextmanager
def simulated():
    yield chip()


@contextmanager
def behind_a_socket():
    with served(chip()) as server:
        device = RemoteDevice.at(address(server))
        yield device
        device.close()


@pytest.fixture(params=[simulated, behind_a_socket], ids=["simulated", "remote"])
def device(request):
    with request.param() as made:
        yield made


class TestEveryDevice:
    def test_keeps_the_protocol(self, device):
        assert isinstance(device, Device)
        assert (device.units, device.columns, device.meshes) == (N, N, MESHES)

    def test_reads_the_light_behind_every_mesh(self, device):
        """The field equations, by the mesh's matrices."""
        for mesh in range(1, MESHES + 1):
            device.write(mesh, *some_phases(mesh))
        expected = light()
        for mesh in range(1, MESHES + 1):
            expected = expected @ RectangularMesh(N).matrix(some_phases(mesh))
            found = device.measure(mesh, light())
            assert found.shape == (B, N)
            np.testing.assert_allclose(found, np.abs(expected) ** 2, rtol=1e-4, atol=1e-5)
            expected = BRIGHT(expected)

    def test_writing_one_mesh_leaves_the_others(self, device):
        for mesh in (1, 2):
            device.write(mesh, *some_phases(mesh))
        before = device.measure(1, light())
        device.write(2, *some_phases(7))
        np.testing.assert_array_equal(device.measure(1, light()), before)

    def test_light_before_phases_is_an_error(self, device):
        device.write(1, *some_phases())
        with pytest.raises((DeviceError, ValueError), match=r"written"):
            device.measure(2, light())

    def test_phases_are_not_taken_modulo_a_turn(self, device):
        """theta and theta + 2 pi differ by a sign, which interferes behind the interferometer."""
        theta, phi, gamma = some_phases()
        theta = theta + np.float32(2 * np.pi) * (np.arange(N // 2) == 0).astype(np.float32)
        device.write(1, *some_phases())
        before = device.measure(1, light())
        device.write(1, theta, phi, gamma)
        assert np.abs(device.measure(1, light()) - before).max() > 0.1


class TestLayer:
    """OnDevice against the meshes that the simulated chip is made of."""

    P = 3

    @pytest.fixture
    def pair(self):
        mesh = RectangularMesh(N)
        return OnDevice(mesh, Driver(chip())), Photonic(mesh, BRIGHT)

    def params(self, seed=0, sets=P):
        drawn = [some_phases(seed + p) for p in range(sets)]
        return Phases(*(tf.constant(np.stack(w)) for w in zip(*drawn, strict=True)))

    def test_begins_as_a_mesh_does(self, pair):
        ours, theirs = (layer.init(np.random.default_rng(0)) for layer in pair)
        for found, expected in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(found, expected)
        assert pair[0].taps == N

    def test_is_not_compiled_kept_or_differentiated(self, pair):
        ours, _ = pair
        told = [ours.compilable, ours.cacheable, ours.linear, ours.instrument]
        assert told == [False, False, False, True]
        with pytest.raises(ValueError, match="perturb must be weights for a mesh"):
            ours.pullback(None, None, None)

    @pytest.mark.parametrize("lead", [(B,), (P, B)])
    def test_sets_one_after_another_are_those_side_by_side(self, pair, lead):
        """And so are three meshes in a row, of which two are frozen, or none."""
        ours, theirs = pair
        for fronts in ((), (self.params(8, 1),), (self.params(8, 1), self.params(9))):
            found = expected = tf.constant(light(*lead))
            for front in fronts:
                found, expected = ours.transmit(front, found), theirs.transmit(front, expected)
            z = ours.measure(self.params(), found)
            assert z.shape == (self.P, B, N)
            assert z.dtype == tf.float32
            np.testing.assert_array_equal(z, theirs.measure(self.params(), expected))

    def test_the_same_in_a_graph(self, pair):
        ours, _ = pair
        inside = graph(ours.measure, xla=False)(self.params(), tf.constant(light()))
        np.testing.assert_array_equal(inside, ours.measure(self.params(), light()))

    def test_what_fails_in_a_graph_comes_out_as_it_was(self, pair):
        ours, _ = pair
        ours.driver.device.measure = lambda mesh, fields: {}[mesh]
        with pytest.raises(DeviceError, match=r"read the light behind mesh 1: KeyError: 1") as out:
            graph(ours.measure, xla=False)(self.params(), tf.constant(light()))
        assert isinstance(out.value.__cause__, KeyError)
        assert not devices.tf.nest.flatten(sys.modules["meshes._tensorflow"]._KEPT)


class Recorded:
    """A device that counts what it is asked for."""

    def __init__(self, device):
        self.device, self.writes, self.passes = device, 0, 0
        self.units, self.columns, self.meshes = device.units, device.columns, device.meshes

    def write(self, mesh, theta, phi, gamma):
        self.writes += 1
        self.device.write(mesh, theta, phi, gamma)

    def measure(self, mesh, fields):
        self.passes += mesh * len(fields)
        return self.device.measure(mesh, fields)


def samples(count=60):
    rng = np.random.default_rng(0)
    y = np.arange(count) % 2
    x = rng.random((count, N), np.float32) + np.eye(N, dtype=np.float32)[y]
    return x, y


BRIEF = {"epochs": 2, "batch_size": 20, "directions": 2}
SPEC = "electro-optic:phi_b=1.5707963267948966"


def trained(**given_settings):
    return fit(*samples(), **(BRIEF | given_settings))


def losses(model):
    return [record.loss for record in model.history]


def assert_same(one, other):
    assert losses(one) == losses(other)
    assert [r.train_accuracy for r in one.history] == [r.train_accuracy for r in other.history]
    x, _ = samples()
    np.testing.assert_array_equal(one.scores(x), other.scores(x))


@pytest.mark.usefixtures("eager")
class TestTraining:
    @pytest.mark.parametrize(
        "given_settings",
        [
            {"method": "ff-dd"},
            {"method": "bp-dd", "meshes": 3, "amplifier": "level=4"},
            {"method": "ff-dd", "estimator": "forward", "law": "gaussian"},
            {"method": "ff-dd", "optimizer": "momentum", "epsilon": "auto", "meshes": 1},
        ],
        ids=str,
    )
    @pytest.mark.parametrize("imperfections", ["", STATIC])
    def test_equals_that_on_the_same_chip_unhidden(self, given_settings, imperfections):
        """The same losses and scores to the last bit, native layers or a device."""
        given_settings = {"nonlinearity": SPEC, "chip": 3, "engine": "native"} | given_settings
        on = trained(device=f"simulated:{imperfections}", **given_settings)
        assert_same(on, trained(imperfections=imperfections, **given_settings))

    @pytest.mark.parametrize(
        "given_settings",
        [
            {},
            {"method": "bp-dd"},
            {"reads": 3, "estimator": "forward"},
            {"epsilon": "auto", "epochs": 1},
        ],
        ids=str,
    )
    def test_the_device_is_asked_for_what_is_counted(self, given_settings):
        """Frozen phases stay written, nothing fills up a batch, and every crossing counts."""
        asked = Recorded(chip())
        model = trained(device=asked, meshes=3, validation=7, **given_settings)
        assert asked.writes == model.usage.phase_writes
        assert asked.passes == model.usage.forward_passes

    def test_noise_of_the_writes_is_measured_where_a_step_is_chosen(self):
        """All of its probes are written, though the phases are the same."""
        chosen = [
            trained(device=f"simulated:{made}", epsilon="auto", epochs=1, meshes=1)
            .history[0]
            .epsilon
            for made in ("", "write_noise=0.02")
        ]
        assert 2 * chosen[0] < chosen[1]

    def test_readings_are_averaged(self):
        """Of a noisy chip: four readings deviate half as much."""
        x, deviations = np.tile(light(1), (2000, 1)), []
        for reads in (1, 4):
            driver = Driver(chip(imperfections=Imperfections(read_noise=0.05)))
            z = driver.measure(x, [Phases(*(w[np.newaxis] for w in some_phases()))], reads)[0]
            deviations.append(z.std(axis=0).max())
        assert deviations[0] / deviations[1] == pytest.approx(2, rel=0.1)

    def test_a_black_box_between_the_meshes(self):
        box = BlackBox(np.tanh)
        assert_same(
            trained(device="simulated", nonlinearity=np.tanh),
            trained(device=SimulatedChip(N, nonlinearity=box)),
        )

    @pytest.mark.parametrize("name", ["write_noise", "source_noise", "read_noise", "drive_bits"])
    def test_what_the_chip_hides_shows_in_the_history(self, name):
        given_settings = {"nonlinearity": SPEC, "epsilon": 0.2, "epochs": 1}
        value = 6 if name == "drive_bits" else 0.1
        hidden = trained(device=f"simulated:{name}={value}", **given_settings)
        assert losses(hidden) != losses(trained(**given_settings))
        again = trained(device=f"simulated:{name}={value}", **given_settings)
        assert losses(hidden) == losses(again)

    def test_several_label_dimensions_and_regression(self):
        x, y = samples()
        model = fit(x, np.float64(y), device=chip(), task="regression", **BRIEF)
        assert np.isfinite(model.scores(x)).all()


def test_compiled_steps_train_as_eager_ones():
    """The one run here that is compiled: that a graph does not reorder what is written."""
    on, off = (
        trained(engine="native", epochs=1, **given) for given in ({"device": "simulated"}, {})
    )
    assert losses(on) == losses(off)
    x, _ = samples()
    np.testing.assert_allclose(on.scores(x), off.scores(x), atol=1e-6)  # in chunks of other sizes


NONSENSE = {
    "shape": (
        lambda z: z[:, 1:],
        r"real intensities \[\d+, 4\] behind mesh 1, found .* \[\d+, 3\]",
    ),
    "complex": (lambda z: z + 0j, "must give real intensities .* found complex"),
    "text": (lambda z: "ready", "must give real intensities .* found <U5"),
    "nothing": (lambda z: None, "must give real intensities .* found object"),
    "nan": (lambda z: z * np.nan, "finite intensities, at least 0, behind mesh 1, found nan"),
    "infinite": (
        lambda z: np.float64(z) + 1e300,
        "finite intensities, at least 0, behind mesh 1, found inf",
    ),
    "negative": (lambda z: z - 1e3, "finite intensities, at least 0, behind mesh 1, found -"),
}


class Spoilt(Recorded):
    """A device whose answers are spoilt from some measurement on."""

    def __init__(self, device, spoil, good=0):
        super().__init__(device)
        self.spoil, self.good = spoil, good

    def measure(self, mesh, fields):
        self.good -= 1
        answer = self.device.measure(mesh, fields)
        return answer if self.good >= 0 else self.spoil(answer)


@pytest.mark.usefixtures("eager")
class TestNonsense:
    @pytest.mark.parametrize("kind", NONSENSE)
    def test_is_an_error_that_says_what_was_found(self, kind):
        spoil, message = NONSENSE[kind]
        with pytest.raises(DeviceError, match=message):
            trained(device=Spoilt(chip(), spoil))

    def test_so_is_whatever_a_laboratory_throws(self):
        broken = chip()
        broken.write = lambda *phases: Path("/nonexistent/heater").read_text()
        with pytest.raises(DeviceError, match=r"write the phases of mesh 1: FileNotFoundError"):
            trained(device=broken)

    def test_what_failed_is_written_again(self):
        """Who knows what is on the chip."""
        asked = Recorded(chip())
        driver, path = Driver(asked), [Phases(*(w[np.newaxis] for w in some_phases()))]
        driver.measure(light(), path)
        driver.measure(light(), path)
        assert asked.writes == 1
        asked.measure = lambda mesh, fields: None
        with pytest.raises(DeviceError):
            driver.measure(light(), path)
        del asked.measure
        driver.measure(light(), path)
        assert asked.writes == 2

    def test_phases_that_are_not_finite_are_not_written(self):
        asked = Recorded(chip())
        path = [Phases(*(np.float32(np.inf) * w[np.newaxis] for w in some_phases()))]
        with pytest.raises(DeviceError, match="phases of mesh 1 that are not finite"):
            Driver(asked).measure(light(), path)
        assert asked.writes == 0


class TestRefusals:
    @pytest.mark.parametrize(
        ("given_settings", "message"),
        [
            ({"method": "ff-ad"}, "device gives intensities and no derivatives.*got ff-ad"),
            ({"method": "bp-ad"}, "device gives intensities and no derivatives.*got bp-ad"),
            ({"estimator": "jvp"}, "device gives intensities and no derivatives.*jvp"),
            ({"network": "mlp"}, "device does not apply to mlp"),
            ({"imperfections": "drive_bits=8"}, "imperfections does not apply .* on device"),
            ({"device": "simulated:drift=0.1"}, "device knows no epochs"),
            ({"device": "simulated:bits=8"}, "device simulated's parameter must be one of"),
            ({"device": "simulated:phase_offset=-1"}, "phase_offset must be at least 0"),
            ({"device": "tcp://h:1", "engine": "xla"}, "engine does not apply .* device tcp"),
            ({"device": "tcp://h:1", "chip": 3}, "chip does not apply .* on device tcp"),
            ({"device": "lab:chip", "nonlinearity": "kerr"}, "nonlinearity does not apply"),
            ({"device": "tcp://h:1", "amplifier": "gain=2"}, "amplifier does not apply"),
            ({"train_nonlinearity": True}, "train_nonlinearity does not apply to a device"),
            ({"device": "tcp://h"}, "device must be written tcp://host:port, got 'tcp://h'"),
            ({"device": "tcp://h:0"}, "device's port must be 1 to 65535, got 0"),
            ({"device": "tcp://h:99999999"}, "device's port must be 1 to 65535"),
            ({"device": "tcp://h:1?timeout=0"}, "timeout must be greater than 0"),
            ({"device": "tcp://h:1?retries=1.5"}, "retries must be a whole number"),
            ({"device": "tcp://h:1?speed=1"}, "device's parameter must be one of timeout, retries"),
            ({"device": "chip"}, "device must be simulated, .* or module:factory, got 'chip'"),
            ({"device": "a;b:c"}, "device must be simulated"),
        ],
        ids=str,
    )
    def test_bad_settings(self, given_settings, message):
        with pytest.raises(ValueError, match=message):
            configure(**({"device": "simulated"} | given_settings))

    def test_a_device_of_other_meshes(self):
        for made, given_settings, message in (
            (SimulatedChip(N + 1), {}, "device must have 4 ports, found 5"),
            (chip(columns=2), {}, "device must have 4 columns in a mesh, found 2"),
            (chip(), {"meshes": 4}, "device must have 4 meshes, found 3"),
            (object(), {}, "device must have units, columns, meshes, write and measure, got"),
        ):
            with pytest.raises((ValueError, TypeError), match=message):
                trained(device=made, **given_settings)

    def test_numbers_that_are_none(self):
        made = chip()
        made.units = "four"
        with pytest.raises(TypeError, match="device's units must be a whole number, got 'four'"):
            Driver(made)

    @pytest.mark.parametrize("name", ["nowhere_to_be_found:chip", "json:chip"])
    def test_a_factory_that_is_not_there(self, name):
        with pytest.raises(ValueError, match=f"device {name} cannot be found"):
            open_device(configure(device=name), N)

    def test_a_device_without_a_place_for_it(self):
        with pytest.raises(ValueError, match="device does not apply"):
            Model(configure(), N, Classification(2), device=chip())


@pytest.mark.usefixtures("eager")
class TestFiles:
    def test_a_model_predicts_on_the_device_it_is_given(self, tmp_path):
        x, _ = samples()
        own = chip()
        model = trained(device=own)
        save_model(model, tmp_path / "model.npz")
        loaded = load_model(tmp_path / "model.npz", device=own)
        np.testing.assert_array_equal(loaded.scores(x), model.scores(x))
        assert loaded.config == model.config

    def test_without_it_the_phases_are_there_and_predictions_are_not(self, tmp_path):
        x, _ = samples()
        model = trained(device=chip())
        save_model(model, tmp_path / "model.npz")
        loaded = load_model(tmp_path / "model.npz")
        np.testing.assert_array_equal(loaded.params[0][0].theta, model.params[0][0].theta)
        with pytest.raises(ValueError, match="device must be given to a model"):
            loaded.scores(x)

    def test_a_simulated_device_needs_not_be_given(self, tmp_path):
        x, _ = samples()
        model = trained(device=f"simulated:{STATIC}")
        save_model(model, tmp_path / "model.npz")
        np.testing.assert_array_equal(load_model(tmp_path / "model.npz").scores(x), model.scores(x))

    def test_what_was_trained_in_simulation_is_read_on_a_device(self, tmp_path):
        x, _ = samples()
        model = trained(engine="native")
        save_model(model, tmp_path / "model.npz")
        moved = load_model(tmp_path / "model.npz", device=SimulatedChip(N))
        np.testing.assert_array_equal(moved.scores(x), model.scores(x))
        with pytest.raises(ValueError, match=r"^device must have 4 ports, found 5"):
            load_model(tmp_path / "model.npz", device=SimulatedChip(N + 1))

    def test_training_goes_on_in_situ_from_what_was_trained_in_simulation(self):
        x, _ = samples()
        before = trained(engine="native")
        model = Model(configure(device="own chip"), N, before.task, device=SimulatedChip(N))
        assert not np.array_equal(model.scores(x), before.scores(x))
        model.take_over(before)
        np.testing.assert_array_equal(model.scores(x), before.scores(x))

    def test_two_models_take_turns_on_one_device(self):
        """It has one set of phases; neither reads the other's."""
        x, _ = samples()
        own = chip()
        one, other = (trained(device=own, seed=seed, epochs=1) for seed in (0, 1))
        assert one.blocks[0].layers[0].driver is driver_of(own)
        first = one.scores(x), other.scores(x)
        np.testing.assert_array_equal(one.scores(x), first[0])
        np.testing.assert_array_equal(other.scores(x), first[1])


class Hung(Recorded):
    """A device whose server hangs up, or sleeps, at some of its measurements."""

    server = None

    def __init__(self, device, at, seconds=None):
        super().__init__(device)
        self.at, self.seconds, self.count = set(at), seconds, 0

    def measure(self, mesh, fields):
        self.count += 1
        if self.count in self.at:
            if self.seconds is None:
                for line in tuple(self.server._lines):
                    line.shutdown(socket.SHUT_RDWR)
            else:
                time.sleep(self.seconds)
        return super().measure(mesh, fields)


@contextmanager
def scripted(*scripts):
    """A far side that does, connection by connection, what a script says."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(10)
    lines = []

    def run():
        with suppress(OSError):
            for script in scripts:
                lines.append(listener.accept()[0])
                script(lines[-1])
                lines[-1].close()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield f"tcp://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        for line in lines:
            with suppress(OSError):
                line.shutdown(socket.SHUT_RDWR)
            line.close()
        listener.close()
        thread.join(timeout=10)


def question(line):
    """Read one question."""
    _, kind, length = struct.unpack("<4sII", line.recv(12, socket.MSG_WAITALL))
    line.recv(length, socket.MSG_WAITALL) if length else None
    return Kind(kind)


HELLO = pack(Kind.SHAPE, struct.pack("<III", N, N, MESHES))


def answering(*answers):
    """A script: these answers, one a question; then wait until the other side hangs up."""

    def script(line):
        for answer in answers:
            question(line)
            line.sendall(answer)
        line.recv(1)

    return script


class TestRemote:
    @pytest.mark.parametrize("at", [[3], [1, 2, 9]], ids=str)
    def test_disconnects_change_nothing(self, eager, at):
        """Questions without an answer are asked again, over new connections."""
        calm = trained(device=chip(), epochs=1)
        device = Hung(chip(), at)
        with served(device) as server:
            device.server = server
            assert_same(trained(device=address(server), epochs=1), calm)

    def test_a_server_that_forgot_gets_the_phases_again(self):
        with served(chip()) as server:
            port = server.server_address[1]
            device = RemoteDevice.at(address(server))
            device.write(1, *some_phases(1))
            device.write(2, *some_phases(2))
            before = device.measure(2, light())
        with served(chip(), port):
            np.testing.assert_array_equal(device.measure(2, light()), before)
            device.close()

    def test_another_device_in_its_place_is_refused(self):
        with served(chip()) as server:
            port = server.server_address[1]
            device = RemoteDevice.at(address(server))
        with served(SimulatedChip(6), port), pytest.raises(DeviceError, match="the one it was"):
            device.write(1, *some_phases(1))

    def test_two_clients_do_not_read_each_other_s_phases(self):
        with served(chip()) as server:
            one, other = (RemoteDevice.at(address(server)) for _ in range(2))
            one.write(1, *some_phases(1))
            before = one.measure(1, light())
            other.write(1, *some_phases(2))
            assert np.abs(other.measure(1, light()) - before).max() > 0.1
            np.testing.assert_array_equal(one.measure(1, light()), before)
            one.close(), other.close()

    def test_a_slow_answer_is_asked_for_again(self):
        device = Hung(chip(), at=[1], seconds=0.5)
        with served(device) as server:
            far = RemoteDevice.at(address(server, "timeout=0.3,retries=3"))
            far.write(1, *some_phases())
            near = chip()
            near.write(1, *some_phases())
            np.testing.assert_array_equal(far.measure(1, light()), near.measure(1, light()))
            far.close()

    def test_one_that_is_always_slow_is_given_up(self):
        device = Hung(chip(), at=range(1, 9), seconds=0.3)
        with served(device) as server:
            far = RemoteDevice.at(address(server, "timeout=0.1,retries=1"))
            far.write(1, *some_phases())
            begun = time.monotonic()
            with pytest.raises(DeviceError, match=r"does not answer, asked 2 times: .*timed out"):
                far.measure(1, light())
            assert time.monotonic() - begun < 2

    def test_time_runs_for_the_whole_answer(self):
        """Byte by byte it never ends."""

        def drip(line):
            question(line)
            for byte in HELLO:
                line.sendall(bytes([byte]))
                time.sleep(0.05)

        with scripted(drip) as place, pytest.raises(DeviceError, match="does not answer"):
            RemoteDevice.at(f"{place}?timeout=0.2,retries=0")

    def test_nobody_there(self):
        with served(chip()) as server:
            place = address(server, "timeout=1,retries=1")
        with pytest.raises(DeviceError, match=r"tcp://127.*does not answer, asked 2 times"):
            RemoteDevice.at(place)

    def test_many_samples_go_in_several_messages(self, monkeypatch):
        monkeypatch.setattr(remote, "MAX_BYTES", 3 * 8 * N)
        with behind_a_socket() as far:
            near = chip()
            for device in (far, near):
                device.write(1, *some_phases())
            found = far.measure(1, light(10))
            np.testing.assert_array_equal(found, near.measure(1, light(10)))

    def test_an_error_over_there_is_told_here(self):
        broken = chip()
        broken.write = lambda *phases: [][1]
        with served(broken) as server:
            far = RemoteDevice.at(address(server))
            with pytest.raises(DeviceError, match="failed: 'IndexError: list index out of range'"):
                far.write(1, *some_phases())

    @pytest.mark.parametrize(
        ("answer", "message"),
        [
            (b"HTTP/1.1 400 Bad Request\r\n\r\n", r"nonsense: .* found b'HTTP/1.1'"),
            (b"\x00" * 64, "nonsense"),
            (b"FFZ1" + struct.pack("<II", 77, 0), "nonsense"),
            (pack(Kind.DONE), "must answer LIGHT of 80 bytes or LOST of 0 bytes, found DONE of 0"),
            (pack(Kind.LIGHT, bytes(79)), "found LIGHT of 79 bytes"),
            (struct.pack("<4sII", b"FFZ1", Kind.LIGHT, 2**32 - 1), "found LIGHT of 4294967295"),
            (struct.pack("<4sII", b"FFZ1", Kind.FAILED, 2**31), "found FAILED of 2147483648"),
            (pack(Kind.FAILED, b"\xff\x1b[2J"), r"failed: '\\?.*x1b\[2J'"),
        ],
        ids=range(8),
    )
    def test_garbage_is_an_error_at_once(self, answer, message):
        with scripted(answering(HELLO, pack(Kind.DONE), answer)) as place:
            far = RemoteDevice.at(place)
            far.write(1, *some_phases())
            with pytest.raises(DeviceError, match=message):
                far.measure(1, light())

    @pytest.mark.parametrize("value", [np.nan, -1.0])
    def test_well_formed_nonsense_is_found_by_the_driver(self, value):
        spoilt = pack(Kind.LIGHT, np.full((B, N), value, "<f4").tobytes())
        with scripted(answering(HELLO, pack(Kind.DONE), spoilt)) as place:
            driver = Driver(RemoteDevice.at(place))
            with pytest.raises(DeviceError, match="finite intensities, at least 0"):
                driver.measure(light(), [Phases(*(w[np.newaxis] for w in some_phases()))])

    def test_half_an_answer_is_none(self):
        half = pack(Kind.LIGHT, np.ones((B, N), "<f4").tobytes())[:50]

        def script(line):
            for answer in (HELLO, pack(Kind.DONE), half):
                question(line)
                line.sendall(answer)

        with scripted(script) as place:
            far = RemoteDevice.at(f"{place}?retries=0")
            far.write(1, *some_phases())
            with pytest.raises(DeviceError, match="the connection was closed"):
                far.measure(1, light())

    def test_a_shape_that_is_none_is_refused(self):
        shape = pack(Kind.SHAPE, struct.pack("<III", 0, 4, 2))
        with (
            scripted(answering(shape)) as place,
            pytest.raises(ValueError, match="device's units must be at least 2, got 0"),
        ):
            Driver(RemoteDevice.at(place))

    def test_someone_else_who_keeps_writing_is_an_error(self):
        lost, done = pack(Kind.LOST), pack(Kind.DONE)
        with scripted(answering(HELLO, done, lost, done, lost, done)) as place:
            far = RemoteDevice.at(f"{place}?retries=1")
            far.write(1, *some_phases())
            with pytest.raises(DeviceError, match="does someone else use it"):
                far.measure(1, light())


@pytest.fixture(scope="module")
def lasting():
    with served(chip()) as server:
        yield server


class TestServer:
    @settings(
        max_examples=60,
        deadline=None,
        derandomize=True,
        suppress_health_check=[HealthCheck.function_scoped_fixture],
    )
    @given(
        st.one_of(
            st.binary(min_size=12, max_size=200),
            st.builds(
                lambda kind, length, rest: struct.pack("<4sII", b"FFZ1", kind, length) + rest,
                st.sampled_from([*Kind, 0, 99]),
                st.integers(0, 2**32 - 1),
                st.binary(max_size=100),
            ),
        )
    )
    def test_survives_whatever_it_is_told(self, lasting, message):
        with socket.create_connection(lasting.server_address[:2], 5) as line:
            answer = b""
            with suppress(OSError):  # it hung up on what was left unread
                line.sendall(message)
                line.shutdown(socket.SHUT_WR)
                answer = b"".join(iter(lambda: line.recv(4096), b""))
        assert len(answer) < 4096
        far = RemoteDevice.at(address(lasting))
        assert far.units == N
        far.close()

    def test_takes_no_memory_for_what_is_announced(self, lasting):
        """Refused from the header alone: the sender never sends the content."""
        for kind, length in (
            (Kind.MEASURE, 4 + 8 * N * (2**26)),
            (Kind.WRITE, 2**31),
            (Kind.HELLO, 1),
        ):
            with socket.create_connection(lasting.server_address[:2], 5) as line:
                line.sendall(struct.pack("<4sII", b"FFZ1", kind, length % 2**32))
                assert Kind(struct.unpack("<4sII", line.recv(12))[1]) == Kind.FAILED

    @pytest.mark.parametrize("mesh", [0, MESHES + 1, 2**32 - 1])
    def test_has_no_other_meshes(self, lasting, mesh):
        content = struct.pack("<I", mesh) + light().tobytes()
        with socket.create_connection(lasting.server_address[:2], 5) as line:
            line.sendall(pack(Kind.MEASURE, content))
            assert Kind(struct.unpack("<4sII", line.recv(12))[1]) == Kind.FAILED


def test_a_chip_in_another_process():
    """Its command prints the address first; killed, it is gone and says so."""
    command = [sys.executable, "-m", "photonic_ffzero.serve", "--units", str(N), "--meshes", "3"]
    command += ["--nonlinearity", SPEC, "--device", f"simulated:{STATIC}", "--chip", "5"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            place = process.stdout.readline().strip()
            far = RemoteDevice.at(f"{place}?timeout=20,retries=1")
            near = SimulatedChip(
                N,
                3,
                nonlinearity=BRIGHT,
                imperfections=Imperfections(
                    splitter_error=0.05, phase_offset=0.2, insertion_loss_db=0.1
                ),
                seed=5,
            )
            for device in (far, near):
                for mesh in (1, 2, 3):
                    device.write(mesh, *some_phases(mesh))
            np.testing.assert_array_equal(far.measure(3, light()), near.measure(3, light()))
        finally:
            process.kill()
    with pytest.raises(DeviceError, match="does not answer, asked 2 times"):
        far.measure(3, light())


RUN = ["--dataset", "digits", "--size", "4", "--limit", "120", "--batch-size", "40"]
RUN += ["--directions", "2", "--epochs", "3", "--quiet"]


def figures(folder):
    """All of a run's results but its time, and where its device was."""
    found = json.loads((Path(folder) / "results.json").read_text())
    return {k: v for k, v in found.items() if k not in ("train_seconds", "device", "engine")}


@pytest.mark.usefixtures("eager")
class TestLoss:
    @pytest.fixture(autouse=True)
    def elsewhere(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "path", [*sys.path])
        monkeypatch.setattr(RunDirectory, "write_figures", lambda self, *given: None)

    @pytest.mark.parametrize("good", [3, 20, 40], ids=["at once", "mesh 1", "mesh 2"])
    def test_of_the_device_leaves_a_run_that_goes_on_to_the_same_figures(self, capsys, good):
        """12 readings a step, 3 steps an epoch."""
        assert main([*RUN, "--device", "simulated", "--output", "whole"]) == 0
        capsys.readouterr()
        dying = Spoilt(SimulatedChip(16), lambda answer: None, good)
        with served(dying) as server:
            assert main([*RUN, "--device", server.address, "--output", "run"]) == 1
        errors = capsys.readouterr().err
        assert "argument" not in errors
        assert re.search(r"device tcp://.* failed: .*; what was saved stands; go on", errors)
        on = f"go on with: mnist_photonic.py --resume run --device {server.address}\n"
        assert errors.endswith(on)
        if Path("run/model.npz").exists():
            load_checkpoint("run/model.npz")
        with served(SimulatedChip(16)) as server:
            assert main(["--resume", "run", "--device", server.address, "--quiet"]) == 0
        assert figures("run") == figures("whole")

    def test_a_factory_is_named_again(self, capsys):
        Path("lab.py").write_text(
            "from photonic_ffzero import SimulatedChip\n\n\ndef chip():\n"
            "    return SimulatedChip(16)\n"
        )
        brief = [*RUN, "--epochs", "1"]
        assert main([*brief, "--device", "simulated", "--output", "whole"]) == 0
        assert main([*brief, "--device", "lab:chip", "--output", "run"]) == 0
        assert figures("run") == figures("whole")
        Image.new("L", (8, 8), 200).save("image.png")
        with pytest.raises(SystemExit):
            classify.main(["run", "image.png"])
        assert "--device must be given" in capsys.readouterr().err
        assert classify.main(["run", "image.png", "--device", "lab:chip"]) == 0
        Path("run/results.json").unlink()
        with pytest.raises(SystemExit) as stop:
            main(["--resume", "run", "--quiet"])
        assert stop.value.code == 2
        assert "--device must be named again, as it is a program" in capsys.readouterr().err
        assert main(["--resume", "run", "--device", "lab:chip", "--quiet"]) == 0
        assert figures("run") == figures("whole")

    def test_a_run_without_a_device_does_not_get_one(self, capsys):
        assert main([*RUN, "--epochs", "1", "--output", "run"]) == 0
        with pytest.raises(SystemExit):
            main(["--resume", "run", "--device", "simulated"])
        assert "--device does not apply to a run that began without" in capsys.readouterr().err

    def test_nothing_is_written_if_it_is_not_there_at_the_start(self, capsys):
        with pytest.raises(SystemExit) as stop:
            main([*RUN, "--device", "tcp://127.0.0.1:9?retries=0", "--output", "run"])
        assert stop.value.code == 2
        assert "does not answer, asked 1 times" in capsys.readouterr().err
        assert not Path("run").exists()

    def test_several_seeds_each_have_a_chip_of_their_own_or_share_the_one_there_is(self):
        several = [*RUN, "--epochs", "1", "--seeds", "2"]
        assert main([*several, "--device", f"simulated:{STATIC}", "--output", "one"]) == 0
        assert main([*several, "--imperfections", STATIC, "--output", "two"]) == 0
        with served(SimulatedChip(16)) as server:
            assert main([*several, "--device", server.address, "--output", "three"]) == 0
        for seed in ("seed-0", "seed-1"):
            one, two = (figures(Path(run) / seed) for run in ("one", "two"))
            for found in (one, two):  # light crosses frozen meshes again; what is inside is hidden
                del found["forward_passes"], found["phase_writes"], found["power"]
            assert one == two


def test_the_example_of_the_module_runs(eager, capsys, monkeypatch):
    """A device of one's own in 20 lines."""
    monkeypatch.setattr(steps, "MOST_STEPS", 1)
    text = textwrap.dedent(devices.__doc__.split("::\n", 1)[1].split("\n\nOn the command", 1)[0])
    own = text[text.index("class MyChip") : text.index("digits =")]
    assert len([line for line in own.splitlines() if line.strip()]) <= 20
    exec(text, {"__name__": "example"})
    assert 0 <= float(capsys.readouterr().out) <= 1


def test_the_text_of_an_address():
    place = Address.of("tcp://[::1]:80?timeout=5")
    assert (place.host, place.port, place.patience.timeout) == ("::1", 80, 5)
    assert str(place) == "tcp://[::1]:80"
