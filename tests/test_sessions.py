"""A served device under attack: who is let in, what a message must carry, and what it may cost."""

import os
import pickle
import re
import socket
import struct
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_devices import (
    DONE,
    HELLO,
    LIGHT,
    N,
    Wrapped,
    assert_same,
    assert_same_light,
    chip,
    connect,
    error_of,
    header,
    light,
    pack,
    running,
    scripted,
    some_phases,
    told,
    trained,
)

from photonic_ffzero import DeviceError
from photonic_ffzero.cli import predict, serve, train
from photonic_ffzero.devices import DeviceServer, RemoteDevice, remote
from photonic_ffzero.devices.remote import Address
from photonic_ffzero.devices.server import Limits
from photonic_ffzero.devices.session import TOKEN_VARIABLE, derived, read_secret
from photonic_ffzero.devices.wire import Channel, Kind, ProtocolError

SECRET = b"a secret of some length"
LOST = (ProtocolError, OSError)


def guarded(device=None, **limits):
    return running(DeviceServer(device or chip(), secret=SECRET, limits=Limits(**limits)))


def client(server, secret=SECRET, patience="timeout=20,retries=2"):
    address = Address.of(f"{server.address}?{patience}")
    return RemoteDevice(address, secret=secret, pause=lambda seconds: None)


def kind_of(answer):
    return Kind(struct.unpack("<4sII", answer[:12])[1])


@pytest.fixture(autouse=True)
def no_secret_outside(monkeypatch):
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)


class TestChannel:
    """What arrives is what the other end sent in this session, in this order, or an error."""

    def sent(self, *contents, key=bytes(32)):
        """The bytes of messages as they stand on the wire, one by one."""
        ours, theirs = socket.socketpair()
        with ours, theirs:
            client, messages = Channel(ours, "client"), []
            client.key = key
            for content in contents:
                client.send(Kind.WRITE, content, 5)
                messages.append(theirs.recv(2**16))
        return messages

    def read(self, message, role="server", key=bytes(32)):
        """All contents that one end reads from some bytes, after which the connection ends."""
        ours, theirs = socket.socketpair()
        with theirs:
            with ours:
                ours.sendall(message)
            reader, contents = Channel(theirs, role), []
            reader.key = key
            while True:
                try:
                    kind, length = reader.receive_header(lambda: 5)
                    assert kind == Kind.WRITE
                    contents.append(bytes(reader.receive(length, lambda: 5)))
                except LOST as error:
                    return contents, error

    def test_what_was_sent_is_read(self):
        contents, _ = self.read(b"".join(self.sent(b"one", b"", b"three")))
        assert contents == [b"one", b"", b"three"]

    @pytest.mark.parametrize("key", [bytes(32), b""])
    def test_a_code_is_there_with_a_key_alone(self, key):
        [message] = self.sent(b"one", key=key)
        assert len(message) == 12 + 3 + (64 if key else 0)

    @pytest.mark.parametrize(
        ("tamper", "role", "key"),
        [
            (lambda one, two: one + one, "server", bytes(32)),
            (lambda one, two: two + one, "server", bytes(32)),
            (lambda one, two: one + two[:-1], "server", bytes(32)),
            (lambda one, two: one + pack(Kind.WRITE, b"two"), "server", bytes(32)),
            (lambda one, two: one[:44] + two[44:], "server", bytes(32)),
            (lambda one, two: one + two, "client", bytes(32)),
            (lambda one, two: one + two, "server", b"\1" * 32),
        ],
        ids=["repeated", "reordered", "cut", "no code", "spliced", "sent back", "other session"],
    )
    def test_tampering_is_noticed(self, tamper, role, key):
        contents, error = self.read(tamper(*self.sent(b"one", b"two")), role, key)
        assert contents in ([], [b"one"])
        assert isinstance(error, (ProtocolError, ConnectionError))

    @settings(max_examples=60, deadline=None, derandomize=True)
    @given(st.integers(0, 78), st.integers(1, 255))
    def test_every_byte_counts(self, place, flip):
        [message] = self.sent(b"one")
        changed = bytearray(message)
        changed[place] ^= flip
        contents, error = self.read(bytes(changed))
        assert contents == []
        assert "code" in str(error)


class TestSecret:
    def test_both_know_it(self):
        with guarded() as server:
            far = client(server)
            assert_same_light(far, chip(), mesh=3)
            far.close()
            assert_same_light(far, chip(), mesh=2)
            far.close()

    @pytest.mark.parametrize(
        ("secret", "message"),
        [
            (b"another secret of a length", "client's secret must be the server's"),
            (None, "wants a secret: use --token-file or PHOTONIC_FFZERO_TOKEN"),
        ],
    )
    def test_a_client_that_does_not(self, secret, message):
        device = Wrapped(chip())
        with guarded(device) as server, pytest.raises(DeviceError, match=message):
            client(server, secret)
        assert device.writes == device.count == 0

    @pytest.mark.parametrize(
        ("answers", "message"),
        [
            ([HELLO], "asks for no secret: start its server with --token-file"),
            ([[pack(Kind.CHALLENGE, bytes(32))], [pack(Kind.PROOF, bytes(32))]], "must prove"),
            ([[pack(Kind.CHALLENGE, bytes(32))], HELLO], "must answer PROOF"),
        ],
        ids=["no challenge", "no proof", "skips the proof"],
    )
    def test_a_server_that_does_not(self, answers, message):
        with scripted(*answers) as server, pytest.raises(DeviceError, match=message):
            client(server)

    def test_a_proof_sent_back_is_none(self):
        """The label of the role is part of a proof."""
        nonces = bytes(64)
        assert derived(SECRET, nonces, "client") != derived(SECRET, nonces, "server")
        assert derived(SECRET, nonces, "client") != derived(SECRET, b"\1" * 64, "client")

    def test_messages_without_codes_are_refused_before_they_are_parsed(self):
        device = Wrapped(chip())
        with guarded(device) as server:
            for start in (b"", pack(Kind.HELLO)):  # a content left unread could cost the answer
                assert b"must first prove" in told(server, start + header(Kind.WRITE, 148))
            assert kind_of(told(server, header(Kind.PROOF, 2**31))) == Kind.FAILED
        assert device.writes == 0

    def test_a_recorded_connection_repeated_is_refused(self, monkeypatch):
        recorded = []

        class Recorder:
            def __init__(self, line):
                self.line = line

            def sendall(self, content):
                recorded.append(content)
                self.line.sendall(content)

            def __getattr__(self, name):
                return getattr(self.line, name)

        real = socket.create_connection
        device = Wrapped(chip())
        with guarded(device) as server:
            monkeypatch.setattr(
                remote.socket, "create_connection", lambda *place: Recorder(real(*place))
            )
            far = client(server)
            far.write(1, *some_phases())
            far.close()
            monkeypatch.undo()
            assert device.writes == 1
            told(server, b"".join(recorded))
            assert device.writes == 1

    @pytest.mark.parametrize(
        ("content", "mode", "message"),
        [
            (SECRET, 0o644, "readable by other users, found mode 644; use chmod 600"),
            (SECRET, 0o660, "found mode 660"),
            (b"short\n", 0o600, "16 to 1024 bytes, found 5"),
            (b"x" * 1025, 0o400, "16 to 1024 bytes"),
            (b"", 0o600, "found 0"),
        ],
    )
    def test_a_bad_file_is_refused_and_not_shown(self, tmp_path, content, mode, message):
        file = tmp_path / "token"
        file.write_bytes(content)
        file.chmod(mode)
        with pytest.raises(ValueError, match=f"token_file .*{message}") as error:
            read_secret(file)
        assert len(content) < 6 or content.decode() not in str(error.value)

    def test_a_file_that_is_none_does_not_hang(self, tmp_path):
        os.mkfifo(tmp_path / "fifo", 0o600)
        for path in (tmp_path / "fifo", Path("/dev/null")):
            with pytest.raises(ValueError, match="token_file must be a regular file"):
                read_secret(path)
        for path in (tmp_path, tmp_path / "none"):
            with pytest.raises(OSError, match=path.name):
                read_secret(path)

    def test_it_comes_from_the_file_or_the_environment(self, tmp_path, monkeypatch):
        assert read_secret() is None
        monkeypatch.setenv(TOKEN_VARIABLE, "from the environment")
        assert read_secret() == b"from the environment"
        file = tmp_path / "token"
        file.write_bytes(SECRET + b"\n")
        file.chmod(0o600)
        assert read_secret(file) == SECRET
        with guarded() as server:
            assert RemoteDevice.at(server.address, file).units == N
            with pytest.raises(DeviceError, match="secret must be"):
                RemoteDevice.at(server.address)
        monkeypatch.setenv(TOKEN_VARIABLE, "short")
        with pytest.raises(ValueError, match=f"{TOKEN_VARIABLE} must hold"):
            read_secret()


def test_a_pickle_holds_no_secret_and_reads_it_again(tmp_path, monkeypatch):
    (tmp_path / "token").write_bytes(SECRET)
    (tmp_path / "token").chmod(0o600)
    monkeypatch.chdir(tmp_path)
    with guarded() as server:
        far = RemoteDevice.at(server.address, Path("token"))
        stored = pickle.dumps(far)
        assert SECRET not in stored
        monkeypatch.chdir("/")
        again = pickle.loads(stored)
        assert_same_light(again, far)
        given = RemoteDevice(Address.of(server.address), secret=SECRET)
        given = pickle.loads(pickle.dumps(given))
        with pytest.raises(DeviceError, match="wants a secret: use --token-file or"):
            given.write(1, *some_phases())
        monkeypatch.setenv(TOKEN_VARIABLE, SECRET.decode())
        given.write(1, *some_phases())
        far.close(), again.close(), given.close()


@pytest.mark.parametrize(
    ("host", "port", "secret", "message"),
    [
        ("", 0, None, "host must be a name or number"),
        ("", 0, SECRET, "host must be a name or number"),
        ("0.0.0.0", 0, None, "one of this machine alone"),
        ("::", 0, None, "one of this machine alone"),
        ("nowhere.invalid", 0, None, "host must be a name"),
        ("9" * 30, 0, None, "host must be a name .*, got '9{30}'"),
        ("999.999.9.9", 0, None, "host must be a name .*, got '999.999.9.9'"),
        ("a.b.1", 0, SECRET, "host must be a name .*, got 'a.b.1'"),
        ("a." * 200, 0, None, "host must be a name"),
        ("a..b", 0, None, "host must be a name"),
        ("a" * 70 + ".b", 0, None, "host must be a name"),
        ("127.0.0.1", 70000, None, "port must be 0 to 65535, got 70000"),
    ],
)
def test_hosts_that_are_refused(host, port, secret, message):
    with pytest.raises(ValueError, match=message):
        DeviceServer(chip(), host, port, secret=secret)


@pytest.mark.parametrize("host", ["9" * 30, "999.999.9.9", "1.2.3.4.5", "a.256"])
def test_what_is_no_host_is_never_looked_up(host, monkeypatch):
    monkeypatch.setattr(socket, "getaddrinfo", None)
    for use in (lambda: DeviceServer(chip(), host), lambda: Address.of(f"tcp://{host}:9")):
        with pytest.raises(ValueError, match="host must be a name"):
            use()


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1", "localhost", "::1", "lab-3", "lab3.local."])
def test_hosts_of_every_form_are_read(host):
    assert str(Address.of(str(Address(host, 9)))) == str(Address(host, 9))


def test_with_a_secret_any_host_will_do():
    with DeviceServer(chip(), "0.0.0.0", secret=SECRET) as server:
        assert server.address.startswith("tcp://0.0.0.0:")


def test_version_6():
    try:
        server = DeviceServer(chip(), "::1")
    except OSError:
        pytest.skip("this machine has no IPv6")
    with running(server):
        assert server.address.startswith("tcp://[::1]:")
        assert_same_light(connect(server), chip())


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--port", "70000"], "--port: must be at most 65535"),
        (["--units", "100000"], "--units must be smaller: a network has at most 134217728"),
        (["--host", "0.0.0.0"], "--host must be one of this machine alone"),
        (["--token-file", "none"], "none"),
        (["--max-clients", "0"], "--max-clients: must be at least 1"),
    ],
)
def test_serve_names_a_bad_flag(flags, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    line = error_of(flags, capsys, serve.main)
    assert message in line
    assert line.count("\n") == 1


def test_a_port_that_is_taken_is_named_with_its_flag(capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        line = error_of(["--units", "4", "--port", str(port)], capsys, serve.main)
    assert re.search(rf"--port .* 127\.0\.0\.1, got {port} \(", line), line


def test_clients_name_the_flag_of_the_secret(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "token"
    file.write_bytes(SECRET)
    file.chmod(0o644)
    Path("x.npz").touch()
    small = ["--dataset", "digits", "--size", "4", "--output", "run", "--token-file", str(file)]
    assert "--token-file belongs to a device at" in error_of(small, capsys, train.main)
    small += ["--device", "tcp://127.0.0.1:9"]
    for command, arguments in ((train.main, small), (predict.main, ["x.npz", "x.png", *small[6:]])):
        line = error_of(arguments, capsys, command)
        assert "--token-file must not be readable by other users" in line
        assert SECRET.decode() not in line


class TestVersions:
    def test_an_older_client_is_told_in_its_version(self):
        """Version 1 knew this message, and showed its text."""
        for guard in (None, SECRET):
            with running(DeviceServer(chip(), secret=guard)) as server:
                answer = told(server, header(Kind.HELLO, 0, version=1))
            assert answer[:4] == b"FFZ1"
            assert kind_of(answer) == Kind.FAILED
            assert re.search(rb"client speaks version '1' .* server version 2", answer)

    def test_an_older_server_is_named(self):
        """Version 1 answered that it could not read the message."""
        with (
            scripted([header(Kind.FAILED, 3, version=1) + b"any"]) as server,
            pytest.raises(DeviceError, match=r"server speaks version '1' .* client version 2"),
        ):
            connect(server)


class TestPlaces:
    @pytest.fixture(autouse=True)
    def lines(self):
        with ExitStack() as self.stack:
            yield

    def open(self, server, content=b""):
        line = self.stack.enter_context(socket.create_connection(server.server_address[:2], 5))
        line.sendall(content)
        return line

    def ended(self, line):
        line.settimeout(5)
        with suppress(ConnectionError):
            while line.recv(2**16):
                pass
        return True

    def test_the_ones_that_say_nothing_make_room(self):
        with running(DeviceServer(chip(), limits=Limits(clients=3))) as server:
            far = connect(server)
            far.write(1, *some_phases())
            channel = far._channel
            before = far.measure(1, light())
            silent = [self.open(server) for _ in range(12)]
            assert all(self.ended(line) for line in silent[:10])
            np.testing.assert_array_equal(far.measure(1, light()), before)
            assert far._channel is channel  # it was never cut off
            far.close()
            assert len(server.places) <= 3

    def test_one_that_finds_no_place_asks_again(self):
        entered, leave = threading.Event(), threading.Event()

        def wait(z, count):
            entered.set()
            leave.wait(10)
            return z

        with running(DeviceServer(Wrapped(chip(), wait), limits=Limits(clients=1))) as server:
            one, waits = connect(server), []
            one.write(1, *some_phases())
            thread = threading.Thread(target=one.measure, args=(1, light()))
            thread.start()
            entered.wait(10)
            with pytest.raises(DeviceError, match="does not answer, asked 3 times"):
                RemoteDevice(
                    Address.of(f"{server.address}?retries=2"), secret=None, pause=waits.append
                )
            assert waits == [0.5, 1.0]
            leave.set()
            thread.join()
            one.close()

    @pytest.mark.parametrize("secret", [None, SECRET])
    @pytest.mark.parametrize("start", [b"", b"FFZ2", pack(Kind.HELLO), header(Kind.WRITE, 148)])
    def test_no_client_stays_for_ever(self, secret, start):
        limits = Limits(greeting=0.2, idle=0.2, message=0.2)
        with running(DeviceServer(chip(), secret=secret, limits=limits)) as server:
            assert self.ended(self.open(server, start))
            assert not server.places or time.sleep(0.2) or not server.places

    def test_a_large_message_waits_for_the_one_before_it(self):
        """Of messages above a megabyte one at a time is in memory."""
        large = header(Kind.MEASURE, 4 + 2**26)
        limits = Limits(message=0.3)
        with running(DeviceServer(chip(), limits=limits)) as server:
            lines = [self.open(server, large + bytes(2**16)) for _ in range(3)]
            far = connect(server)
            assert_same_light(far, chip())
            far.close()
            assert all(self.ended(line) for line in lines)

    def test_an_error_in_the_server_is_one_line(self, capsys):
        with running(DeviceServer(chip())) as server:
            server.shape = None
            told(server, pack(Kind.HELLO))
        error = capsys.readouterr().err
        assert error.startswith("client lost: ")
        assert error.count("\n") == 1


def test_texts_from_devices_are_plain_and_short():
    broken = chip()

    def fail(mesh, fields):
        raise ValueError("\x1b[2J\n" + "x" * 10**5)

    broken.measure = fail
    with running(DeviceServer(broken)) as server:
        far = connect(server)
        far.write(1, *some_phases())
        with pytest.raises(DeviceError, match="ValueError") as error:
            far.measure(1, light())
        assert len(str(error.value)) < 600
        assert str(error.value).isprintable()
        far.close()


# --- long: mutated messages, and two hundred clients that mean ill -----------------------------


def mutations(originals, count, seed):
    """Bytes overwritten, cut out or put in."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        content = bytearray(originals[rng.integers(len(originals))])
        for _ in range(rng.integers(1, 5)):
            start, replaced = rng.integers(len(content) + 1), int(rng.choice([0, 1, 2, 4, 8, 64]))
            added = rng.bytes(replaced if rng.random() < 0.5 else rng.integers(9))
            content[start : start + replaced] = added
        yield bytes(content)


def peak_memory():
    """The largest size of this process so far, in bytes."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(re.search(r"VmHWM:\s+(\d+)", status)[1])


@pytest.mark.long
@pytest.mark.parametrize("secret", [None, SECRET])
def test_a_server_survives_mutated_messages_long(secret, capfd):
    phases = struct.pack("<I", 1) + b"".join(w.tobytes() for w in some_phases())
    fields = struct.pack("<I", 1) + light().tobytes()
    session = pack(Kind.HELLO) + pack(Kind.WRITE, phases) + pack(Kind.MEASURE, fields)
    proof = pack(Kind.HELLO) + pack(Kind.PROOF, bytes(64)) + session
    before, slowest = peak_memory(), 0.0
    limits = Limits(greeting=2, idle=2, message=2)
    with running(DeviceServer(chip(), secret=secret, limits=limits)) as server:
        for message in mutations([session, proof], 600, seed=16):
            start = time.perf_counter()
            told(server, message)
            slowest = max(slowest, time.perf_counter() - start)
        far = client(server, secret)
        assert_same_light(far, chip())
        far.close()
    assert "Traceback" not in capfd.readouterr().err
    print(f"seed 16: slowest {slowest:.2f} s, memory {(peak_memory() - before) / 2**20:.0f} MiB")
    assert slowest < 10
    assert peak_memory() - before < 2**30


@pytest.mark.long
def test_a_client_survives_mutated_answers_long():
    """A result, or a DeviceError or ValueError that names the device."""
    before, slowest = peak_memory(), 0.0
    answers = [HELLO[0], DONE[0], LIGHT, pack(Kind.FAILED, b"any"), pack(Kind.CHALLENGE, bytes(32))]
    streams = [b"".join(answers[:3]), *answers, HELLO[0] + answers[3]]
    for message in mutations(streams, 600, seed=17):
        start = time.perf_counter()
        with scripted([message], [], []) as server:
            with suppress(DeviceError, ValueError, TypeError):
                far = RemoteDevice(Address.of(f"{server.address}?timeout=2,retries=0"))
                far.write(1, *some_phases())
                far.measure(1, light())
            with suppress(UnboundLocalError):
                far.close()
        slowest = max(slowest, time.perf_counter() - start)
    print(f"seed 17: slowest {slowest:.2f} s, memory {(peak_memory() - before) / 2**20:.0f} MiB")
    assert slowest < 10
    assert peak_memory() - before < 2**30


def hostile(kind, place, done, rng, tries):
    """One client that means ill, again and again until the trainer has finished."""
    replay = pack(Kind.HELLO) + pack(Kind.PROOF, bytes(64)) + bytes(200)
    starts = {
        "garbage": rng.bytes(300),
        "slow": b"",
        "half a frame": pack(Kind.HELLO) + header(Kind.WRITE, 148) + bytes(20),
        "huge": header(Kind.MEASURE, 2**32 - 1),
        "wrong codes": pack(Kind.HELLO) + bytes(32) + header(Kind.WRITE, 148) + bytes(180),
        "replay": replay,
        "leaves": b"",
        "idle": b"",
    }
    while not done.is_set():
        with suppress(OSError), socket.create_connection(place, 2) as line:
            tries.append(kind)
            line.sendall(starts[kind])
            if kind == "leaves":
                continue
            for byte in pack(Kind.HELLO) if kind == "slow" else b"":
                line.sendall(bytes([byte]))
                done.wait(0.3)
            line.settimeout(3)
            while line.recv(2**16):
                pass
        done.wait(0.05)


HOSTILE = ["garbage", "slow", "half a frame", "huge", "wrong codes", "replay", "leaves", "idle"]


@pytest.mark.long
@pytest.mark.parametrize("guarded_by", [None, SECRET], ids=["open", "secret"])
def test_a_trainer_finishes_among_two_hundred_hostile_clients_long(
    guarded_by, tmp_path, monkeypatch
):
    """With the figures of a training on the same chip without them."""
    calm = trained(device=chip())
    command = [sys.executable, "-m", "photonic_ffzero.cli.serve", "--units", "4", "--meshes", "3"]
    command += ["--nonlinearity", f"electro-optic:phi_b={np.pi / 2}"]
    if guarded_by:
        (tmp_path / "token").write_bytes(guarded_by)
        (tmp_path / "token").chmod(0o600)
        command += ["--token-file", str(tmp_path / "token")]
    with subprocess.Popen(command, stdout=-1, stderr=-1, text=True) as server:
        try:
            server.address = server.stdout.readline().strip()
            place = server.address.removeprefix("tcp://127.0.0.1:")
            status = Path(f"/proc/{server.pid}/status")
            first = int(re.search(r"VmHWM:\s+(\d+)", status.read_text())[1])
            done, rng, tries = threading.Event(), np.random.default_rng(18), []
            threads = [
                threading.Thread(
                    target=hostile,
                    args=(HOSTILE[i % 8], ("127.0.0.1", int(place)), done, rng.spawn(1)[0], tries),
                )
                for i in range(200)
            ]
            for thread in threads:
                thread.start()
            start = time.perf_counter()
            try:
                far = RemoteDevice(Address.of(server.address), secret=guarded_by)
                model = trained(device=far)
            finally:
                done.set()
            seconds = time.perf_counter() - start
            for thread in threads:
                thread.join()
            text = status.read_text()
            peak = int(re.search(r"VmHWM:\s+(\d+)", text)[1])
            count = int(re.search(r"Threads:\s+(\d+)", text)[1])
            assert_same(model, calm)
            assert server.poll() is None
        finally:
            server.kill()
        errors = server.stderr.read()
    grown = (peak - first) / 1024
    print(
        f"seed 18: {seconds:.1f} s among {len(tries)} hostile connections; server of "
        f"{first / 1024:.0f} MiB grew by {grown:.0f} MiB; {count} threads"
    )
    assert set(tries) == set(HOSTILE)
    assert "Traceback" not in errors
    assert grown < 256
