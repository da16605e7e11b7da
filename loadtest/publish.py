"""What publishing over HTTP costs: one a request and batches, to topics without subscribers."""

from __future__ import annotations

import argparse
import random
import select
import time
from contextlib import ExitStack
from statistics import median

from loadtest import machine
from loadtest.carriers import Clarion
from loadtest.publisher import Publisher
from loadtest.report import Result, progress
from loadtest.shards import servers
from loadtest.tail import payload

TOPICS = 1000
"""With history: so many that each publication meets another one, as few as stay in the caches."""

WARM = 0.1
"""Of the time, before it counts."""

SINGLE, BATCHED = "/v1/publish", "/v1/publish/batch"


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--shards", type=int, nargs="+", default=[0, 1], help="0: embedded")
    parser.add_argument("--payload", type=int, default=256, help="bytes of JSON, at least 60")
    parser.add_argument("--batch", type=int, default=100, help="messages of one request")
    parser.add_argument("--connections", type=int, default=16, help="one request on each at a time")
    parser.add_argument("--seconds", type=float, default=4.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--redis", default="redis-server", help="the program")


def run(args: argparse.Namespace) -> Result:
    result = Result("publish", vars(args))
    rows: dict[str, list[dict[str, float]]] = {}
    for turn in range(1, args.rounds + 1):
        for count in args.shards:
            place = f"{count} shard{'s' * (count > 1)}" if count else "embedded"
            progress(f"round {turn} of {args.rounds}: {place}")
            with ExitStack() as stack:
                urls = stack.enter_context(servers(args.redis, count))
                environment = {"CLARION_REDIS": ",".join(urls)} if urls else {}
                clarion = stack.enter_context(
                    Clarion(args.command, **environment, **args.environment)
                )
                for name, path, batch in (
                    ("one a request", SINGLE, 1),
                    (f"batches of {args.batch}", BATCHED, args.batch),
                ):
                    row = _flow(args, result, clarion, path, batch)
                    rows.setdefault(f"{place}, {name}", []).append(row)
    for name, rounds in rows.items():
        result.rows.append(
            {"": name} | {label: median(each[label] for each in rounds) for label in rounds[0]}
        )
    result.notes = [
        f"{args.payload} bytes, {TOPICS:,} topics with history that nobody is subscribed to,"
        f" {args.connections} connections",
        "a core-s: by the CPU time of the server, that of Redis not among it",
    ]
    return result


def _flow(
    args: argparse.Namespace, result: Result, clarion: Clarion, path: str, batch: int
) -> dict[str, float]:
    """Requests as fast as they are answered."""
    epoll = select.epoll()
    publisher = Publisher(epoll, clarion.api_port, args.connections, path)
    try:
        _requests(publisher, epoll, batch, args.payload, args.seconds * WARM)
        before, cpu = publisher.answered, machine.cpu_seconds(clarion.pid)
        began = time.perf_counter()
        _requests(publisher, epoll, batch, args.payload, args.seconds)
        taken = time.perf_counter() - began
        cpu = machine.cpu_seconds(clarion.pid) - cpu
        result.faults += publisher.errors[:3]
    finally:
        publisher.close()
        epoll.close()
    published = (publisher.answered - before) * batch
    return {
        "published/s": published / taken,
        "us": cpu / published * 1e6,
        "a core-s": published / cpu,
    }


def _requests(
    publisher: Publisher, epoll: select.epoll, batch: int, size: int, seconds: float
) -> None:
    """Sends them for a while, and waits for the last answers."""
    ended = time.perf_counter() + seconds
    flying = len(publisher.idle)
    while (going := time.perf_counter() < ended) or len(publisher.idle) < flying:
        while going and publisher.idle:
            publisher.post(_body(batch, size))
        for ready, _ in epoll.poll(0.1, 64):
            publisher.read(ready)


def _body(batch: int, size: int) -> bytes:
    now = time.perf_counter_ns()
    messages = [
        f'{{"topic":"quiet:{topic}","data":{payload(1, size, now)}}}'
        for topic in random.sample(range(TOPICS), batch)
    ]
    if batch == 1:
        return messages[0].encode()
    return f'{{"messages":[{",".join(messages)}]}}'.encode()
