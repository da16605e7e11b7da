"""What backends leave in Redis: how fast a worker publishes it, and how soon."""

from __future__ import annotations

import argparse
import socket
import tempfile
import time
from collections import deque
from statistics import median
from typing import Any
from urllib.parse import urlsplit

import hiredis

from clarion_fanout.redis_keys import Keys
from clarion_fanout.redis_wire import Argument, pack
from loadtest import machine
from loadtest.carriers import Clarion
from loadtest.crowd import Crowd
from loadtest.report import Result, percentile, progress
from loadtest.shards import servers
from loadtest.tail import Tail, payload

KEYS = Keys()

KINDS = {
    "1 topic, history": ("kept:", 1),
    "10,000 topics, history": ("kept:", 10_000),
    "10,000 topics, none": ("bare:", 10_000),
}

CONFIG = """
development = true
[namespaces.kept]
history_size = 100
subscribe = "everyone"
[namespaces.bare]
subscribe = "everyone"
"""

AT_ONCE = 5000
"""Entries that are left together."""

LOOK_S = 0.01
"""Between two looks at what is left."""

PATIENCE_S = 30.0
"""When nothing leaves the inbox for so long, nothing ever will."""


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--entries", type=int, default=100_000, help="that are there at first")
    parser.add_argument("--payload", type=int, default=256, help="bytes of JSON, at least 60")
    parser.add_argument("--rate", type=float, default=200.0, help="single entries a second")
    parser.add_argument("--seconds", type=float, default=5.0, help="of single entries")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--redis", default="redis-server", help="the program")


def run(args: argparse.Namespace) -> Result:
    result = Result("inbox", vars(args))
    rows: dict[str, list[dict[str, float]]] = {kind: [] for kind in KINDS}
    for turn in range(1, args.rounds + 1):
        for kind, (prefix, topics) in KINDS.items():
            progress(f"round {turn} of {args.rounds}: {kind}")
            with servers(args.redis, 1) as [url], tempfile.NamedTemporaryFile("w") as file:
                file.write(CONFIG)
                file.flush()
                redis = Redis(url)
                # Nobody is to begin before all is there.
                redis.call("SET", KEYS.owner, "nobody")
                command = f"{args.command} --config {file.name}"
                environment = {"CLARION_REDIS": url, **args.environment}
                with Clarion(command, **environment) as clarion:
                    row = _backlog(args, result, clarion, redis, prefix, topics)
                    row |= _latency(args, result, clarion, redis, prefix)
                    rows[kind].append(row)
    for kind, rounds in rows.items():
        result.rows.append(
            {"": kind} | {label: median(each[label] for each in rounds) for label in rounds[0]}
        )
    result.notes = [
        f"entries/s: {args.entries:,} entries that are in the inbox, until none is",
        "us: CPU time of the worker and of Redis for an entry, reading and removing it included",
        f"p50, p99: from XADD to a subscriber, {args.rate:g} entries a second",
        "Redis and the generator share a core, the server has the other one",
    ]
    return result


class Redis:
    """A connection that waits for each answer."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None
        self._socket = socket.create_connection((parts.hostname, parts.port or 6379))
        self._reader = hiredis.Reader()

    def call(self, *command: Argument) -> Any:
        return self.calls([command])[0]

    def calls(self, commands: list[tuple[Argument, ...]]) -> list[Any]:
        self._socket.sendall(b"".join(map(pack, commands)))
        replies: deque[Any] = deque()
        while len(replies) < len(commands):
            reply = self._reader.gets()
            if reply is False:
                self._reader.feed(self._socket.recv(1 << 16))
            elif isinstance(reply, hiredis.ReplyError):
                raise SystemExit(f"Redis answered {reply}")
            else:
                replies.append(reply)
        return list(replies)

    def leave(self, topic: str, data: str) -> tuple[Argument, ...]:
        return ("XADD", KEYS.inbox, "*", "topic", topic, "data", data)

    def cpu_seconds(self) -> float:
        lines = self.call("INFO", "cpu").decode().splitlines()
        facts = dict(line.split(":", 1) for line in lines if ":" in line)
        return float(facts["used_cpu_user"]) + float(facts["used_cpu_sys"])


def _backlog(
    args: argparse.Namespace,
    result: Result,
    clarion: Clarion,
    redis: Redis,
    prefix: str,
    topics: int,
) -> dict[str, float]:
    """A full inbox is published."""
    for start in range(0, args.entries, AT_ONCE):
        numbers = range(start, min(start + AT_ONCE, args.entries))
        redis.calls(
            [
                redis.leave(f"{prefix}{number % topics}", payload(number, args.payload, 0))
                for number in numbers
            ]
        )
    redis.call("DEL", KEYS.owner)
    while (left := redis.call("XLEN", KEYS.inbox)) == args.entries:
        time.sleep(LOOK_S)
    began = changed = time.perf_counter()
    first, ours, theirs = left, machine.cpu_seconds(clarion.pid), redis.cpu_seconds()
    while left and time.perf_counter() < changed + PATIENCE_S:
        time.sleep(LOOK_S)
        before, left = left, redis.call("XLEN", KEYS.inbox)
        if left != before:
            changed = time.perf_counter()
    ours, theirs = machine.cpu_seconds(clarion.pid) - ours, redis.cpu_seconds() - theirs
    if left:
        result.faults.append(f"{left} of {args.entries} entries are still there")
    if dead := redis.call("XLEN", KEYS.dead):
        result.faults.append(f"{dead} entries are dead letters")
    published = first - left
    return {
        "entries/s": published / (changed - began),
        "worker us": ours / published * 1e6,
        "redis us": theirs / published * 1e6,
    }


def _latency(
    args: argparse.Namespace, result: Result, clarion: Clarion, redis: Redis, prefix: str
) -> dict[str, float]:
    """Single entries at a fixed rate, to one subscriber."""
    crowd, tail = Crowd(), Tail()
    try:
        arrivals = crowd.arrive(1, clarion.port, lambda place: f"{prefix}own", window=1)
        if arrivals.failures:
            raise SystemExit(f"clients failed: {dict(arrivals.failures)}")
        (fd,) = crowd.sockets
        count = int(args.rate * args.seconds)
        began = time.perf_counter() + 0.1
        sent = 0
        while len(tail.numbers) < count:
            if sent < count and time.perf_counter() >= began + sent / args.rate:
                sent += 1
                data = payload(sent, args.payload, time.perf_counter_ns())
                redis.call(*redis.leave(f"{prefix}own", data))
            for ready, _ in crowd.epoll.poll(0.0005, 16):
                if ready == fd:
                    tail.take(crowd.sockets[fd].recv(1 << 18), time.perf_counter_ns())
            if time.perf_counter() > began + args.seconds + PATIENCE_S:
                break
        result.faults += tail.faults(1, count)
    finally:
        crowd.close()
    latencies = [each / 1e6 for each in tail.latencies_ns]
    return {"p50 ms": percentile(latencies, 0.5), "p99 ms": percentile(latencies, 0.99)}
