"""A storm of newcomers beside those who are connected: what do these notice, and when is all over?

`clients` are connected and subscribed. Backends publish to all of them at a steady rate, and some
of them send commands. Then `newcomers` others connect and subscribe at once, wait when they are
told to, and try again until every one of them is in place.

Latency is that of what was due: a publication is late from the moment at which it should have been
published. The newcomers' process has a low priority, as it shares a core with the one that
measures.
"""

from __future__ import annotations

import argparse
import errno
import heapq
import os
import random
import select
import socket
import time
from collections import Counter
from collections.abc import Iterator
from multiprocessing.connection import Connection
from statistics import median

from loadtest import machine, wire
from loadtest.arrival import WELCOMES
from loadtest.carriers import Clarion
from loadtest.crowd import Crowd
from loadtest.forks import Forks
from loadtest.publisher import Publisher
from loadtest.report import Result, percentile, progress

TOPIC, NEWCOMERS = "beside", "newcomers"
CONNECTIONS = 16
"""Of the publisher, more than are in flight when the server keeps up."""

ASKING = 20
"""Clients that send a command ten times a second each: who asks must not wait for newcomers."""

GIVE_UP_S = 120.0
SETTLE_S = 2.0
_DUE = b'"due":'
_ASK_S = 0.1
_PONG = b'"op":"pong"'


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--clients", type=int, default=2000)
    parser.add_argument("--newcomers", type=int, default=15_000)
    parser.add_argument("--rate", type=float, default=20, help="publications a second to all")
    parser.add_argument("--seconds", type=float, default=8, help="with and without newcomers each")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--impatient", action="store_true", help="refused newcomers try again after a second"
    )
    parser.add_argument(
        "--welcomes", type=int, default=WELCOMES, help="newcomers that wait for a welcome at once"
    )


class Heard:
    """What the connected clients noticed, seconds."""

    def __init__(self) -> None:
        self.late: list[float] = []
        self.answers: list[float] = []


class Beside:
    """Those who are connected, and who publishes to them."""

    def __init__(self, clarion: Clarion, clients: int, rate: float) -> None:
        self._crowd = Crowd()
        arrivals = self._crowd.arrive(clients, clarion.port, lambda _: TOPIC, window=512)
        if arrivals.failures:
            raise SystemExit(f"clients failed: {dict(arrivals.failures)}")
        self._asking = dict.fromkeys(list(self._crowd.sockets)[:ASKING], 0.0)
        self._epoll = self._crowd.epoll
        self._publisher = Publisher(self._epoll, clarion.api_port, CONNECTIONS, "/v1/publish")
        self._every = 1 / rate
        self.published = 0
        self.received = 0
        self.clients = clients

    def listen(self, seconds: float, until: Connection | None = None) -> Heard:
        """Publishes and listens for `seconds`, or, if that is later, until there is news."""
        heard = Heard()
        began = time.perf_counter()
        due, ask = began, began
        while True:
            now = time.perf_counter()
            if now - began >= seconds and (until is None or until.poll()):
                return heard
            if now - began > GIVE_UP_S:
                return heard  # and the newcomers, who give up too, tell how many are missing
            if now >= due and self._publisher.idle:
                text = b'{"topic":"%s","data":{%s%.6f,"text":"%s"}}'
                self._publisher.post(text % (TOPIC.encode(), _DUE, due, b"x" * 200))
                self.published += 1
                due += self._every
            if now >= ask:
                self._ask(now)
                ask += _ASK_S / 10
            for fd, _ in self._epoll.poll(max(0.0, min(due, ask) - time.perf_counter()), 1024):
                self._hear(fd, heard)

    def settle(self) -> None:
        """Takes what is under way."""
        deadline = time.perf_counter() + SETTLE_S
        while (now := time.perf_counter()) < deadline:
            for fd, _ in self._epoll.poll(deadline - now, 1024):
                self._hear(fd, Heard())

    def _ask(self, now: float) -> None:
        for fd, asked in random.sample(list(self._asking.items()), len(self._asking) // 10):
            if not asked:
                self._asking[fd] = now
                self._crowd.sockets[fd].send(wire.command("ping"))

    def _hear(self, fd: int, heard: Heard) -> None:
        if self._publisher.owns(fd):
            self._publisher.read(fd)
            return
        data = self._crowd.sockets[fd].recv(1 << 18)
        if not data or wire.GOODBYE in data:
            raise SystemExit("a connected client was thrown off")
        now = time.perf_counter()
        if _PONG in data:
            heard.answers.append(now - self._asking[fd])
            self._asking[fd] = 0.0
        for due in _dues(data):
            heard.late.append(now - due)
            self.received += 1

    def close(self) -> None:
        self._publisher.close()
        self._crowd.close()


def _dues(data: bytes) -> Iterator[float]:
    at = data.find(_DUE)
    while at >= 0:
        at += len(_DUE)
        yield float(data[at : data.index(b",", at)])
        at = data.find(_DUE, at)


class _Newcomer:
    __slots__ = ("began", "heard", "socket", "welcome")

    def __init__(self, began: float, connection: socket.socket) -> None:
        self.began = began
        self.socket = connection
        self.heard = b""
        self.welcome = False


class Storm:
    """`count` newcomers, from the first attempt of the first to the place of the last."""

    def __init__(self, port: int, count: int, impatient: bool, welcomes: int, address: str) -> None:
        self._address = address
        self._port, self._impatient, self._welcomes = port, impatient, welcomes
        self._hello = wire.handshake(port)
        self._epoll = select.epoll()
        self._waiting: dict[int, _Newcomer] = {}
        self._placed: list[socket.socket] = []
        self._unwelcomed = 0
        now = time.perf_counter()
        # When each tries (again), and when it did so first.
        self._attempts = [(now, now)] * count
        self.arrivals: list[float] = []
        self.refusals: Counter[str] = Counter()

    def run(self) -> None:
        began = time.perf_counter()
        while self._attempts or self._waiting:
            now = time.perf_counter()
            if now - began > GIVE_UP_S:
                self.refusals["not in time"] += len(self._attempts) + len(self._waiting)
                return
            begun = 0
            while self._attempts and self._attempts[0][0] <= now and begun < 64:
                if self._unwelcomed >= self._welcomes:
                    break
                self._begin(heapq.heappop(self._attempts)[1])
                begun += 1
            for fd, _ in self._epoll.poll(0 if begun else 0.01, 1024):
                try:
                    self._proceed(fd, self._waiting[fd])
                except OSError as error:
                    self._again(fd, errno.errorcode[error.errno or 0])

    def _begin(self, first: float) -> None:
        connection = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        connection.setsockopt(socket.IPPROTO_IP, socket.IP_BIND_ADDRESS_NO_PORT, 1)
        connection.bind((self._address, 0))
        connection.connect_ex(("127.0.0.1", self._port))
        self._waiting[connection.fileno()] = _Newcomer(first, connection)
        self._unwelcomed += 1
        self._epoll.register(connection, select.EPOLLOUT)

    def _proceed(self, fd: int, newcomer: _Newcomer) -> None:
        if not newcomer.heard and not newcomer.welcome:
            failure = newcomer.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if failure:
                raise OSError(failure, "")
            newcomer.heard = b" "
            newcomer.socket.send(self._hello)
            self._epoll.modify(fd, select.EPOLLIN)
            return
        data = newcomer.socket.recv(65536)
        newcomer.heard += data
        if wire.SUBSCRIBED in newcomer.heard:
            self._epoll.unregister(fd)
            self._placed.append(self._waiting.pop(fd).socket)
            self.arrivals.append(time.perf_counter() - newcomer.began)
        elif not data:
            words = newcomer.heard.strip()
            self._again(fd, words.split(b"\r\n")[0].decode(errors="replace") or "closed", words)
        elif not newcomer.welcome and wire.WELCOME in newcomer.heard:
            newcomer.welcome = True
            self._unwelcomed -= 1
            newcomer.socket.send(wire.command("subscribe", id=1, topic=NEWCOMERS))

    def _again(self, fd: int, why: str, words: bytes = b"") -> None:
        newcomer = self._waiting.pop(fd)
        self._unwelcomed -= not newcomer.welcome
        self._epoll.unregister(fd)
        newcomer.socket.close()
        self.refusals[why] += 1
        _, found, after = words.lower().partition(b"retry-after: ")
        wait = float(after.split(b"\r\n")[0]) if found and not self._impatient else 1.0
        wait += random.uniform(0, 1)
        heapq.heappush(self._attempts, (time.perf_counter() + wait, newcomer.began))

    def close(self) -> None:
        for connection in self._placed:
            connection.close()


def _storm(pipe: Connection, args: argparse.Namespace, port: int, turn: int) -> None:
    os.nice(10)
    # Each round from an address of its own: the last one's ports are not free again yet.
    address = f"127.0.0.{2 + turn}"
    storm = Storm(port, args.newcomers, args.impatient, args.welcomes, address)
    storm.run()
    pipe.send((storm.arrivals, storm.refusals))
    pipe.poll(GIVE_UP_S)  # until the parent has measured enough
    storm.close()


def run(args: argparse.Namespace) -> Result:
    result = Result("storm_beside", vars(args))
    quiet, stormy, arrivals, refusals = [], [], [], Counter[str]()
    cpu: list[float] = []
    # Nobody here answers a ping: whoever sends commands needs none, and the others are watched.
    environment = {"CLARION_KEEPALIVE_PING_S": "3600", **args.environment}
    with Clarion(args.command, **environment) as clarion:
        beside = Beside(clarion, args.clients, args.rate)
        try:
            beside.listen(1)
            for turn in range(args.rounds):
                progress(f"round {turn + 1} of {args.rounds}: nobody comes")
                quiet.append(beside.listen(args.seconds))
                progress(f"round {turn + 1} of {args.rounds}: {args.newcomers:,} newcomers")
                before = machine.cpu_seconds(clarion.pid)
                with Forks() as forks:
                    pipe = forks.fork(_storm, args, clarion.port, turn)
                    stormy.append(beside.listen(0, pipe))
                    cpu.append(machine.cpu_seconds(clarion.pid) - before)
                    seconds, refused = pipe.recv() if pipe.poll() else ([], Counter({"hung": 1}))
                arrivals.append(seconds)
                refusals += refused
                beside.settle()
            beside.settle()
        finally:
            beside.close()
        stops = clarion.metrics("loop_lag_seconds_max", "gc_pause_seconds_max")
    for text, phase in (("nobody comes", quiet), ("the storm", stormy)):
        result.rows.append(
            {
                "": text,
                "p50 ms": median(percentile(heard.late, 0.5) * 1000 for heard in phase),
                "p99 ms": median(percentile(heard.late, 0.99) * 1000 for heard in phase),
                "worst ms": max(max(heard.late, default=0.0) * 1000 for heard in phase),
                "answer p50": median(percentile(heard.answers, 0.5) * 1000 for heard in phase),
                "answer p99": median(percentile(heard.answers, 0.99) * 1000 for heard in phase),
            }
        )
    last = [max(seconds, default=float("nan")) for seconds in arrivals]
    result.notes.append(
        f"{args.newcomers:,} newcomers: all in place after {median(last):.2f} s"
        f" ({', '.join(f'{one:.2f}' for one in last)}),"
        f" half after {median(percentile(one, 0.5) for one in arrivals):.2f} s;"
        f" refused on the way: {dict(refusals) or 'nobody'}"
    )
    result.notes.append(f"server CPU while they came: {median(cpu):.2f} s")
    result.notes += [f"{name} {value:g}" for name, value in stops.items()]
    if any(len(seconds) < args.newcomers for seconds in arrivals):
        result.faults.append("not all newcomers found their place")
    missing = beside.published * beside.clients - beside.received
    if missing > 0:
        # What was under way between two phases is taken by `settle`, unmeasured and uncounted
        # only in its latency.
        result.faults.append(f"{missing} deliveries are missing")
    return result
