"""A topic for each user: what a delivery costs that is shared with nobody, through Redis."""

from __future__ import annotations

import argparse
import json
import random
import select
import socket
import time
from contextlib import ExitStack
from statistics import median
from typing import Protocol
from urllib.parse import urlsplit

import hiredis

from clarion_fanout.redis_keys import Keys
from clarion_fanout.redis_wire import pack
from loadtest import machine
from loadtest.carriers import Clarion, Loop, has_compiler
from loadtest.crowd import Crowd
from loadtest.publisher import Publisher
from loadtest.report import Result, percentile, progress
from loadtest.shards import MARK, SAMPLED, STALL_S, servers
from loadtest.tail import Tail, payload

LOW_WATER = 4096
"""Users that are not sampled are read when so much is there, or in the end: to read is as dear as
to write, and this process would be the limit."""

BATCH = 100
"""Publications that are sent together."""

CONNECTIONS = 4
"""To the other instance: no more batches than that are in flight."""

KINDS = {
    "straight": ("published in Redis, no history", "bare"),
    "bare": ("published by another instance, no history", "bare"),
    "kept": ("published by another instance, history", "kept"),
}
"""How it is published, and the namespace."""


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--users", type=int, default=5000)
    parser.add_argument("--payload", type=int, default=256, help="bytes of JSON, at least 60")
    parser.add_argument("--flight", type=int, default=4000, help="publications on their way")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--redis", default="redis-server", help="the program")


def run(args: argparse.Namespace) -> Result:
    result = Result("users", vars(args))
    floor: list[float] = []
    rows: dict[str, list[dict[str, float]]] = {kind: [] for kind in args.kinds}
    for turn in range(1, args.rounds + 1):
        for kind, rounds in rows.items():
            progress(f"round {turn} of {args.rounds}: {KINDS[kind][0]}")
            # Beside each: what a system call costs over so many sockets changes with the minute.
            floor.append(_floor(args) if has_compiler() else float("nan"))
            row = _users(args, result, kind)
            rounds.append(row | {"x C": row["us"] / floor[-1]})
    for kind, rounds in rows.items():
        result.rows.append(
            {"": KINDS[kind][0]}
            | {label: median(each[label] for each in rounds) for label in rounds[0]}
        )
    result.notes = [
        f"{args.users:,} users with a topic each, up to {args.flight:,} publications on their way;"
        " us: CPU time of the server for a delivery",
        "p50, p99: from the publication to the read; Redis, the generator and the other instance"
        " share a core, the server has the other one",
        f"x C: times what a bare loop in C spends, which does nothing but send() to each user in"
        f" turn ({median(floor):.2f} us)",
    ]
    return result


class Source(Protocol):
    """Where publications come from."""

    errors: list[str]

    def ready(self) -> bool:
        """Whether `post` may be called."""
        ...

    def post(self, topics: list[str], data: list[str]) -> None:
        """Publishes to each topic what stands in its place."""
        ...

    def owns(self, fd: int) -> bool: ...

    def read(self, fd: int) -> None: ...

    def close(self) -> None: ...


class Straight:
    """Publishes in Redis, as workers do: `PUBLISH` on the topics' channels."""

    def __init__(self, epoll: select.epoll, url: str) -> None:
        parts = urlsplit(url)
        self._socket = socket.create_connection((parts.hostname or "", parts.port or 6379))
        self._epoll = epoll
        self._reader = hiredis.Reader()
        self._keys = Keys()
        self.errors: list[str] = []
        epoll.register(self._socket, select.EPOLLIN)

    def ready(self) -> bool:
        return True

    def post(self, topics: list[str], data: list[str]) -> None:
        channel = self._keys.channel
        head = b"#0 %d - " % (time.time() * 1000)
        self._socket.sendall(
            b"".join(
                pack((b"PUBLISH", channel(topic), head + one.encode()))
                for topic, one in zip(topics, data, strict=True)
            )
        )

    def owns(self, fd: int) -> bool:
        return fd == self._socket.fileno()

    def read(self, fd: int) -> None:
        self._reader.feed(self._socket.recv(1 << 18))
        while (reply := self._reader.gets()) is not False:
            if reply != 1:
                self.errors.append(f"Redis published to {reply} connections")

    def close(self) -> None:
        self._epoll.unregister(self._socket)
        self._socket.close()


class Elsewhere(Clarion):
    """An instance that only publishes, on the generator's core."""

    cores = (machine.GENERATOR_CPU,)


class Api:
    """Publishes through the private API of an instance."""

    def __init__(self, epoll: select.epoll, instance: Clarion) -> None:
        self._publisher = Publisher(epoll, instance.api_port, CONNECTIONS, "/v1/publish/batch")
        self.errors = self._publisher.errors
        self.owns = self._publisher.owns
        self.read = self._publisher.read
        self.close = self._publisher.close

    def ready(self) -> bool:
        return bool(self._publisher.idle)

    def post(self, topics: list[str], data: list[str]) -> None:
        messages = ",".join(
            f'{{"topic":{json.dumps(topic)},"data":{one}}}'
            for topic, one in zip(topics, data, strict=True)
        )
        self._publisher.post(b'{"messages":[%s]}' % messages.encode())


def _floor(args: argparse.Namespace) -> float:
    """CPU time of the bare loop in C for a delivery, us; one frame to each user after the other."""
    frame = b"x" * (args.payload + 100)
    with Loop("C", args.users, frame) as loop:
        crowd = Crowd()
        try:
            crowd.arrive(args.users, loop.port, None, window=512)
            loop.ready()
            cpu, rounds = machine.cpu_seconds(loop.pid), 0
            ended = time.perf_counter() + args.seconds / 2
            while not rounds or time.perf_counter() < ended:
                loop.send(1)
                rounds += 1
                for client in crowd.sockets.values():
                    client.setblocking(True)
                    client.recv(1 << 16)
            cpu = machine.cpu_seconds(loop.pid) - cpu
        finally:
            crowd.close()
    users: int = args.users
    return cpu / (rounds * users) * 1e6


def _users(args: argparse.Namespace, result: Result, kind: str) -> dict[str, float]:
    _, namespace = KINDS[kind]
    environment = {
        "CLARION_KEEPALIVE_PING_S": "3600",
        "CLARION_NAMESPACES_BARE_HISTORY_SIZE": "0",
        "CLARION_NAMESPACES_BARE_SUBSCRIBE": "everyone",
        "CLARION_NAMESPACES_KEPT_HISTORY_SIZE": "10",
        "CLARION_NAMESPACES_KEPT_SUBSCRIBE": "everyone",
        **args.environment,
    }
    with ExitStack() as stack:
        [url] = stack.enter_context(servers(args.redis, 1))
        environment["CLARION_REDIS"] = url
        clarion = stack.enter_context(Clarion(args.command, **environment))
        crowd = Crowd()
        stack.callback(crowd.close)
        arrivals = crowd.arrive(
            args.users, clarion.port, lambda place: f"{namespace}:{place}", window=256
        )
        if arrivals.failures:
            raise SystemExit(f"clients failed: {dict(arrivals.failures)}")
        source: Source
        if kind != "straight":
            source = Api(crowd.epoll, stack.enter_context(Elsewhere(args.command, **environment)))
        else:
            source = Straight(crowd.epoll, url)
        stack.callback(source.close)
        return _Flow(args, clarion, crowd, source, namespace).run(result)


class _Flow:
    """Publications to everybody in turn, as fast as they are carried."""

    def __init__(
        self,
        args: argparse.Namespace,
        clarion: Clarion,
        crowd: Crowd,
        source: Source,
        namespace: str,
    ) -> None:
        self.args, self.clarion, self.crowd, self.source = args, clarion, crowd, source
        self.users = list(crowd.sockets)
        self.tails = {fd: Tail() for fd in self.users[::SAMPLED]}
        self.topics = [f"{namespace}:{place}" for place in range(args.users)]
        self.order = random.sample(range(args.users), args.users)
        self.published = 0
        self.numbers = [0] * args.users
        self.received = 0
        self.counted = 0
        """Of the sampled: they tell how much is on its way, without reading the others."""
        for fd, client in crowd.sockets.items():
            if fd not in self.tails:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, LOW_WATER)

    def run(self, result: Result) -> dict[str, float]:
        args, source, crowd = self.args, self.source, self.crowd
        cpu = machine.cpu_seconds(self.clarion.pid)
        began = heard = time.perf_counter()
        while (now := time.perf_counter()) < began + args.seconds:
            while source.ready() and self._flying() < args.flight:
                self._post()
            if self._turn(0.05):
                heard = now
            elif now - heard > STALL_S:
                break
        for client in crowd.sockets.values():
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)
        while self.received < self.published and time.perf_counter() - heard < STALL_S:
            if self._turn(0.05):
                heard = time.perf_counter()
        taken, cpu = heard - began, machine.cpu_seconds(self.clarion.pid) - cpu
        for place, fd in enumerate(self.users):
            if fd in self.tails:
                result.faults += self.tails[fd].faults(1, self.numbers[place])[:1]
        if self.received != self.published:
            missing = self.published - self.received
            result.faults.append(f"{missing} of {self.published} deliveries are missing")
        result.faults += source.errors[:3]
        latencies = [each / 1e6 for tail in self.tails.values() for each in tail.latencies_ns]
        return {
            "delivered/s": self.received / taken,
            "us": cpu / self.received * 1e6,
            "a core-s": self.received / cpu,
            "p50 ms": percentile(latencies, 0.5),
            "p99 ms": percentile(latencies, 0.99),
        }

    def _flying(self) -> float:
        """Publications on their way, about: the sampled are spread evenly over the order."""
        return self.published - self.counted * SAMPLED

    def _post(self) -> None:
        size, now = self.args.payload, time.perf_counter_ns()
        topics, data = [], []
        for place in range(self.published, self.published + BATCH):
            user = self.order[place % len(self.order)]
            self.numbers[user] += 1
            topics.append(self.topics[user])
            data.append(payload(self.numbers[user], size, now))
        self.source.post(topics, data)
        self.published += BATCH

    def _turn(self, timeout: float) -> int:
        """Reads what has arrived; returns how many messages that were."""
        before = self.received
        for fd, _ in self.crowd.epoll.poll(timeout, 4096):
            if self.source.owns(fd):
                self.source.read(fd)
                continue
            data = self.crowd.sockets[fd].recv(1 << 18)
            count = data.count(MARK)
            self.received += count
            if fd in self.tails:
                self.counted += count
                self.tails[fd].take(data, time.perf_counter_ns())
        return self.received - before
