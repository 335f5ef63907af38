"""The processes that share the directions of a run, seen from the one that leads them.

They are actors of Dask, by default on this machine, where they talk over TLS with certificates
that are thrown away. See `training.shards` for what they exchange.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import socket
import struct
import time
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from itertools import chain, cycle, islice
from typing import Any

import numpy as np

from meshes._tensorflow import set_up_command, tf
from meshes.validation import one_line
from photonic_ffzero.config import Config
from photonic_ffzero.cores import available_cores, thread_limits
from photonic_ffzero.training.shards import Place, Replica, Setup, answer, parts, request, update
from photonic_ffzero.training.step import StageTraining, as_arrays, shards_of
from photonic_ffzero.workers import LOOPBACK, NO_PAGES, workers_of

_START = 120.0  # seconds for a worker to import what it needs, and to take a stage
_REPLACED = 60.0  # seconds for all to be there, or for another in the place of a lost one
_ANSWER = 60.0  # seconds for the scheduler to answer
_LEAVE = 5.0  # seconds in which a worker that does not answer leaves the scheduler's list
_POLL = 1.0  # seconds between looks at the list
_COMPARED = 100  # steps after which the parameters of all workers are compared
_TCP_COUNTS = struct.Struct("=QQ")  # at byte 120 of Linux's TCP_INFO: acknowledged, received


class CrewError(OSError):
    """The workers that share the directions of a run are gone, or do not agree."""


@dataclass
class Traffic:
    """What a crew has exchanged.

    Attributes:
        steps: Steps that were taken.
        payload: Bytes of slopes and numbers, both ways.
        largest: The largest payload of a step for each direction and worker, bytes.
        wire: Bytes on this process's connections while steps were taken, with Dask's messages and
            TLS; 0 where the system does not say.
    """

    steps: int = 0
    payload: int = 0
    largest: float = 0.0
    wire: int = 0

    def count(self, sizes: list[int], directions: int) -> None:
        """Count the payload of a step for each worker."""
        self.steps += 1
        self.payload += sum(sizes)
        self.largest = max(self.largest, max(sizes) / directions)

    def __str__(self) -> str:
        wire = f"; {self.wire / 1e3:,.1f} kB on the wire" if self.wire else ""
        return (
            f"{self.payload / 1e3:,.1f} kB of slopes in {self.steps} steps, at most "
            f"{self.largest:.1f} bytes a direction and worker{wire}"
        )


class _Actor(Replica):
    """A replica in a process that was started for it."""

    def __init__(self, setup: Setup) -> None:
        if multiprocessing.parent_process() is not None:
            set_up_command()
            with suppress(OSError):
                os.setsid()  # so that Ctrl-C reaches the leader alone
        super().__init__(setup)


@dataclass
class _Hand:
    """One worker of a crew.

    Attributes:
        address: Where it is.
        future: Its actor as Dask's future, which keeps it alive.
        updates: How many updates of the log it was sent.
    """

    address: str
    future: Any = None
    updates: int = 0


class Crew:
    """Workers that hold the same stage, and evaluate a share of every step.

    Args:
        client: Of the Dask cluster that they are on.
        count: How many they are.
    """

    def __init__(self, client: Any, count: int) -> None:
        self._client, self._count, self._hands = client, count, list[_Hand]()
        self._log: list[bytes] = []  # updates since the setup
        self.traffic = Traffic()

    def begin(self, setup: Setup) -> None:
        """Give every worker a stage to train."""
        self._setup, self._log, self._shards = setup, [], shards_of(setup.config)
        self._parts = parts(len(self._shards), self._count)
        self._hands = [_Hand(address) for address in self._workers(self._count)]
        for hand in self._hands:
            self._build(hand)
        self._advance([b""] * self._count)  # so that all are there
        self._wire = self._on_wire()

    def step(self, place: Place) -> float:
        """Take a step; return its loss."""
        asked = [request(place, part) for part in self._parts]
        replies = self._advance(asked)
        pairs = zip(replies, map(len, self._parts), strict=True)
        slopes, losses = zip(*(answer(*pair) for pair in pairs), strict=True)
        told = update(place, b"".join(slopes))
        self._log.append(told)
        exchanged = zip(asked, replies, strict=True)
        sizes = [len(told) + len(sent) + len(reply) for sent, reply in exchanged]
        self.traffic.count(sizes, self._shards[-1].stop)
        if len(self._log) % _COMPARED == 0:
            self._compare()
        return float(np.average(np.concatenate(losses), weights=[*map(len, self._shards)]))

    def settle(self) -> Setup:
        """The stage as it is now, from which a lost worker is rebuilt from now on."""
        if self._log:
            self._compare()
            params, state = self._actor(self._hands[0]).state().result(timeout=_ANSWER)
            self._setup, self._log = replace(self._setup, params=params, state=state), []
            for hand in self._hands:
                hand.updates = 0
            self.traffic.wire += (now := self._on_wire()) - self._wire
            self._wire = now
        return self._setup

    def _compare(self) -> None:
        """Compare the parameters of all workers."""
        digests = [digest.hex() for digest in self._advance([b""] * self._count)]
        if len(set(digests)) > 1:
            raise CrewError(
                "workers must make the same update, found parameters with the checksums "
                f"{', '.join(digests)}; machines that compute alike agree"
            )

    # --- one worker -------------------------------------------------------------------------------

    def _advance(self, asked: list[bytes]) -> list[bytes]:
        """Bring every worker up to date, and let it evaluate what it is asked for."""
        pairs = list(zip(self._hands, asked, strict=True))
        calls = [self._call(*pair) for pair in pairs]
        return [self._result(call, *pair) for call, pair in zip(calls, pairs, strict=True)]

    def _call(self, hand: _Hand, asked: bytes) -> Any:
        """Begin a call; None if the worker is known to be lost."""
        updates, hand.updates = b"".join(self._log[hand.updates :]), len(self._log)
        try:
            return self._actor(hand).advance(updates, asked)
        except (OSError, RuntimeError):
            return None

    def _result(self, call: Any, hand: _Hand, asked: bytes) -> bytes:
        """Wait for the answer; a lost worker is built again."""
        while True:
            try:
                if call is not None:
                    return call.result(timeout=_POLL)
            except TimeoutError:
                if hand.address in self._present():
                    continue
            except OSError:
                pass
            self._rebuild(hand)
            call = self._call(hand, asked)

    def _actor(self, hand: _Hand) -> Any:
        return hand.future.result(timeout=_START)

    def _build(self, hand: _Hand) -> None:
        """Begin to build a worker's copy of the stage."""
        data = self._client.scatter(self._setup, workers=[hand.address], hash=False)
        hand.updates = 0
        hand.future = self._client.submit(
            _Actor, data, actor=True, workers=[hand.address], pure=False
        )

    def _rebuild(self, hand: _Hand) -> None:
        """Build a lost worker again, where there is one without work, or else beside another."""
        end = time.monotonic() + _LEAVE
        while hand.address in self._present():
            if time.monotonic() > end:
                raise CrewError(f"worker {hand.address} does not answer")
            time.sleep(_POLL)
        busy = {other.address for other in self._hands}
        (hand.address,) = self._workers(1, busy)
        self._build(hand)

    def _workers(self, count: int, busy: Collection[str] = ()) -> list[str]:
        """The addresses of so many workers once they are there; after some seconds, busy ones."""
        end = time.monotonic() + _REPLACED
        while len(free := sorted((present := self._present()).difference(busy))) < count:
            if time.monotonic() > end:
                if not present:
                    raise CrewError(f"workers are gone, none came within {_REPLACED:g} s")
                free += islice(cycle(sorted(present)), count - len(free))
                break
            time.sleep(_POLL)
        return free[:count]

    def _present(self) -> set[str]:
        """The addresses of all workers that are there."""
        try:
            return workers_of(self._client, _ANSWER)
        except (OSError, ValueError) as error:  # ValueError: the client has closed
            raise CrewError(f"the workers' scheduler is gone ({error})") from None

    def _on_wire(self) -> int:
        """Bytes on this process's connections up to now; 0 where the system does not say."""
        pool = self._client.rpc
        groups = [*pool.available.values(), *pool.occupied.values()]
        comms = [self._client.scheduler_comm.comm, *chain.from_iterable(groups)]
        return sum(map(_transferred, comms))


def _transferred(comm: Any) -> int:
    """Bytes that a connection has carried both ways."""
    stream = getattr(comm, "stream", None)
    if stream is None or stream.closed() or not hasattr(socket, "TCP_INFO"):
        return 0
    info = stream.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 136)
    return sum(_TCP_COUNTS.unpack_from(info, 120)) if len(info) == 136 else 0


@contextmanager
def hired(config: Config) -> Iterator[Crew | None]:
    """The workers of a run, on processes that are started here; None if it asks for none."""
    if config.workers is None:
        yield None
        return
    import dask
    from distributed import Client, LocalCluster, Security

    security = Security.temporary()
    options = {
        "n_workers": config.workers,
        "threads_per_worker": 1,
        "host": "127.0.0.1",
        "dashboard_address": LOOPBACK,  # without one, Dask would listen everywhere
        "worker_dashboard_address": LOOPBACK,
        "memory_limit": 0,
        "silence_logs": logging.CRITICAL,
        "env": thread_limits(max(1, available_cores() // config.workers)),
    }
    with ExitStack() as stack:
        stack.enter_context(dask.config.set(NO_PAGES))
        try:
            cluster = LocalCluster(protocol="tls://", security=security, **options)
            stack.enter_context(cluster)
            client = Client(cluster, security=security, direct_to_workers=True)
        except (OSError, RuntimeError) as error:  # too many processes, no memory
            raise CrewError(f"workers cannot be started: {one_line(str(error))}") from None
        yield Crew(stack.enter_context(client), config.workers)


@dataclass
class SharedTraining(StageTraining):
    """One stage in training by a crew; parameters and state are here once they are settled."""

    crew: Crew = field(kw_only=True)
    _begun: bool = field(init=False, default=False)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[list[float]]:
        """Go through the samples once; yield the loss of every step."""
        if not self._begun:
            params, state = as_arrays(self.params), tf.nest.flatten(as_arrays(self.state))
            self.crew.begin(Setup(self.config, self.stage, params, state, self.train, self.epsilon))
            self._begun = True
        for step in range(start, self.steps):
            yield [self.crew.step(Place(epoch, step))]

    def settle(self) -> None:
        """Fetch parameters and state from the crew, if it has taken a step."""
        if not self._begun:
            return
        setup = self.crew.settle()
        self.params = tf.nest.map_structure(tf.constant, setup.params)
        self.restore(setup.state, [])
