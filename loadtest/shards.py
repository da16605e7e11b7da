"""What Redis adds: latency, publishes a second, a topic for each user; 0, 1 and 3 shards."""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from statistics import median

from loadtest import machine
from loadtest.carriers import Clarion
from loadtest.crowd import Crowd
from loadtest.program import Redis
from loadtest.publisher import Publisher
from loadtest.report import Result, percentile, progress
from loadtest.tail import Tail, payload

CONNECTIONS = 4
"""Of the publisher: no more batches than that are in flight."""

SAMPLED = 50
"""Every so manieth client is parsed in full; of the others messages are counted."""

STALL_S = 10.0
"""When nothing arrives for so long, what is still missing is lost."""

MARK = b'"n":"'
"""Occurs once in every message; see `tail.payload`."""


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--shards", type=int, nargs="+", default=[0, 1, 3], help="0: embedded")
    parser.add_argument("--payload", type=int, default=256, help="bytes of JSON, at least 60")
    parser.add_argument("--rate", type=float, default=200.0, help="single publications a second")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement")
    parser.add_argument("--users", type=int, default=5000, help="each has a topic of its own")
    parser.add_argument("--batch", type=int, default=100, help="messages of one request")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--redis", default="redis-server", help="the program")


def run(args: argparse.Namespace) -> Result:
    result = Result("shards", vars(args))
    rows: dict[int, list[dict[str, float]]] = {count: [] for count in args.shards}
    for turn in range(1, args.rounds + 1):
        for count in args.shards:
            progress(f"round {turn} of {args.rounds}: {count} shards")
            with servers(args.redis, count) as urls:
                environment = {"CLARION_REDIS": ",".join(urls)} if urls else {}
                environment |= {"CLARION_KEEPALIVE_PING_S": "3600", **args.environment}
                with Clarion(args.command, **environment) as clarion:
                    row = _latency(args, result, clarion)
                    row |= _publishes(args, result, clarion)
                    row |= _users(args, result, clarion)
                    rows[count].append(row)
    for count, rounds in rows.items():
        name = "embedded" if not count else f"{count} shard{'s' if count > 1 else ''}"
        result.rows.append(
            {"": name} | {label: median(each[label] for each in rounds) for label in rounds[0]}
        )
    result.notes = [
        f"p50, p99: from the publish call to the read, {args.rate:g} single requests a second",
        f"published/s: requests of {args.batch}, topics with history that nobody is subscribed to",
        f"delivered/s: the same to {args.users:,} users with a topic each; p99 from the call to the"
        " read, with up to 4 requests in flight",
        "Redis and the generator share a core, the server has the other one",
    ]
    return result


@contextmanager
def servers(program: str, count: int) -> Iterator[list[str]]:
    """Redis servers without persistence, on the generator's core."""
    with ExitStack() as stack:
        yield [stack.enter_context(Redis(program, machine.GENERATOR_CPU)).url for _ in range(count)]


def _latency(args: argparse.Namespace, result: Result, clarion: Clarion) -> dict[str, float]:
    """Single publications at a fixed rate to one subscriber."""
    with _crowd(clarion, 1) as (crowd, publisher):
        tail = Tail()
        (fd,) = crowd.sockets
        count = int(args.rate * args.seconds)
        began = time.perf_counter() + 0.1
        sent = 0
        while len(tail.numbers) < count:
            due = began + sent / args.rate
            now = time.perf_counter()
            # One at a time: requests in flight together have no order.
            if sent < count and now >= due and len(publisher.idle) == CONNECTIONS:
                sent += 1
                publisher.post(_batch(["own:0"], sent, args.payload))
            for ready, _ in crowd.epoll.poll(0.0005, 16):
                if publisher.owns(ready):
                    publisher.read(ready)
                elif ready == fd:
                    tail.take(crowd.sockets[fd].recv(1 << 18), time.perf_counter_ns())
            if now > began + args.seconds + STALL_S:
                break
        result.faults += tail.faults(1, count) + publisher.errors[:3]
    latencies = [each / 1e6 for each in tail.latencies_ns]
    return {"p50 ms": percentile(latencies, 0.5), "p99 ms": percentile(latencies, 0.99)}


def _publishes(args: argparse.Namespace, result: Result, clarion: Clarion) -> dict[str, float]:
    """Batches, as fast as they are accepted."""
    with _crowd(clarion, 0) as (crowd, publisher):
        topics = [f"quiet:{number}" for number in range(1000)]
        cpu, began = machine.cpu_seconds(clarion.pid), time.perf_counter()
        sent = 0
        while time.perf_counter() < began + args.seconds:
            while publisher.idle:
                publisher.post(_batch(random.sample(topics, args.batch), sent, args.payload))
                sent += args.batch
            for ready, _ in crowd.epoll.poll(0.1, 16):
                publisher.read(ready)
        taken = time.perf_counter() - began
        cpu = machine.cpu_seconds(clarion.pid) - cpu
        sent = publisher.answered * args.batch
        result.faults += publisher.errors[:3]
    return {"published/s": sent / taken, "a core-s": sent / cpu}


def _users(args: argparse.Namespace, result: Result, clarion: Clarion) -> dict[str, float]:
    """Batches to users with a topic each, as fast as they are carried."""
    with _crowd(clarion, args.users) as (crowd, publisher):
        users = list(crowd.sockets)
        tails = {fd: Tail() for fd in users[::SAMPLED]}
        numbers = dict.fromkeys(range(args.users), 0)
        received = published = 0
        order = list(range(args.users))
        random.shuffle(order)
        place = 0
        began = heard = time.perf_counter()
        cpu = machine.cpu_seconds(clarion.pid)
        while True:
            now = time.perf_counter()
            flying = now < began + args.seconds
            while flying and publisher.idle and published - received < 8 * args.batch:
                part = [order[(place + each) % args.users] for each in range(args.batch)]
                place += args.batch
                for user in part:
                    numbers[user] += 1
                publisher.post(_numbered(part, numbers, args.payload))
                published += args.batch
            for ready, _ in crowd.epoll.poll(0.05, 4096):
                if publisher.owns(ready):
                    publisher.read(ready)
                    continue
                data = crowd.sockets[ready].recv(1 << 18)
                received += data.count(MARK)
                if ready in tails:
                    tails[ready].take(data, time.perf_counter_ns())
                heard = now
            if not flying and (received >= published or now - heard > STALL_S):
                break
        taken = heard - began
        cpu = machine.cpu_seconds(clarion.pid) - cpu
        for place, fd in enumerate(users):
            if fd in tails:
                result.faults += tails[fd].faults(1, numbers[place])[:1]
        if received != published:
            result.faults.append(f"{published - received} of {published} deliveries are missing")
        result.faults += publisher.errors[:3]
    latencies = [each / 1e6 for tail in tails.values() for each in tail.latencies_ns]
    return {
        "delivered/s": received / taken,
        "delivered a core-s": received / cpu,
        "own p99 ms": percentile(latencies, 0.99),
    }


@contextmanager
def _crowd(clarion: Clarion, count: int) -> Iterator[tuple[Crowd, Publisher]]:
    """Subscribers, client i to the topic `own:i`, in the order of their descriptors' dict."""
    crowd = Crowd()
    try:
        arrivals = crowd.arrive(count, clarion.port, lambda place: f"own:{place}", window=256)
        if arrivals.failures:
            raise SystemExit(f"clients failed: {dict(arrivals.failures)}")
        publisher = Publisher(crowd.epoll, clarion.api_port, CONNECTIONS, "/v1/publish/batch")
        try:
            yield crowd, publisher
        finally:
            publisher.close()
    finally:
        crowd.close()


def _batch(topics: list[str], number: int, size: int) -> bytes:
    now = time.perf_counter_ns()
    data = payload(number, size, now)
    messages = ",".join(f'{{"topic":{json.dumps(topic)},"data":{data}}}' for topic in topics)
    return b'{"messages":[%s]}' % messages.encode()


def _numbered(users: list[int], numbers: dict[int, int], size: int) -> bytes:
    now = time.perf_counter_ns()
    messages = ",".join(
        f'{{"topic":"own:{user}","data":{payload(numbers[user], size, now)}}}' for user in users
    )
    return b'{"messages":[%s]}' % messages.encode()
