"""What presence costs a worker and its Redis: entering, leases, counts, pages, and ghosts."""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Awaitable, Callable

import uvloop

from clarion_fanout import redis_address
from clarion_fanout.presence import MAX_MEMBERS, Keeping
from clarion_fanout.redis_keys import Keys
from clarion_fanout.redis_presence import RedisPresence
from clarion_fanout.redis_shard import ShardOptions
from clarion_fanout.redis_shards import Shards, shards_of
from clarion_fanout.tasks import Tasks
from loadtest import machine
from loadtest.program import Redis
from loadtest.report import Result, Row, progress

ASKED = 1000
"""Times that a question is asked, one after another."""

ROUNDS = 3
"""Rounds of leases that are watched."""

LEASE_S = 15.0


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--members", type=int, default=100_000, help="of one topic")
    parser.add_argument("--rooms", type=int, default=10_000, help="topics with a member each")
    parser.add_argument("--redis", default="redis-server", help="the program")


def run(args: argparse.Namespace) -> Result:
    result = Result("presence", vars(args))
    with Redis(args.redis, machine.SERVER_CPU) as redis:
        uvloop.run(_measure(args, redis, result))
    return result


def _keeps(topic: str) -> Keeping:
    return "events" if topic.startswith("events") else "members"


class Stand:
    """One worker's presence, and what it and Redis use of their cores."""

    def __init__(self, redis: Redis, result: Result) -> None:
        self._redis = redis
        self._result = result
        keys = Keys()
        location = redis_address.parse(redis.url)
        self.shards: Shards = shards_of(
            [location], keys=keys, worker="w1", options=ShardOptions(timeout_s=10)
        )
        self.presence = RedisPresence(
            self.shards, keys=keys, worker="w1", keeps=_keeps, lease_s=LEASE_S, timeout_s=60
        )

    async def row(self, name: str, count: int, work: Callable[[], Awaitable[object]]) -> None:
        progress(name)
        redis = machine.cpu_seconds(self._redis.pid)
        own, began = time.process_time(), time.perf_counter()
        await work()
        seconds = time.perf_counter() - began
        row: Row = {
            "": name,
            "ms": seconds * 1000,
            "a second": count / seconds,
            "Redis us each": (machine.cpu_seconds(self._redis.pid) - redis) / count * 1e6,
            "worker us each": (time.process_time() - own) / count * 1e6,
        }
        self._result.rows.append(row)


async def _measure(args: argparse.Namespace, redis: Redis, result: Result) -> None:
    stand = Stand(redis, result)
    presence, tasks = stand.presence, Tasks()
    await stand.shards.start(tasks)
    await presence.start()
    clients = [f"c-{number:012}" for number in range(args.members)]

    async def enter(topic: str) -> None:
        for client in clients:
            presence.enter(topic, client, f"user-{client}")
        await presence.read(topic, 0)

    async def leave(topic: str) -> None:
        for client in clients:
            presence.leave(topic, client)
        await presence.read(topic, 0)

    async def rooms() -> None:
        for number in range(args.rooms):
            presence.enter(f"room:{number}", "c-1", "user-1")
        await presence.read(f"room:{args.rooms - 1}", 0)  # which waits until all are told

    async def ask(limit: int, times: int) -> None:
        for _ in range(times):
            await presence.read("members:1", limit)

    async def walk() -> None:
        after = ""
        while after := (await presence.read("members:1", MAX_MEMBERS, after)).next:
            pass

    async def leases() -> None:
        await asyncio.sleep(ROUNDS * LEASE_S / 3)

    many = f"{args.members:,}"
    await stand.row(f"{many} enter a topic", args.members, lambda: enter("members:1"))
    await stand.row(f"count of {many}", ASKED, lambda: ask(0, ASKED))
    await stand.row(f"page of {MAX_MEMBERS:,}", ASKED // 10, lambda: ask(MAX_MEMBERS, ASKED // 10))
    await stand.row(f"all pages of {many}, a member", args.members, walk)
    await stand.row(f"{many} leave it", args.members, lambda: leave("members:1"))
    await stand.row(f"{many} enter, announced", args.members, lambda: enter("events:1"))
    await stand.row(f"{many} leave, announced", args.members, lambda: leave("events:1"))
    await stand.row(f"{args.rooms:,} enter a topic each", args.rooms, rooms)
    await stand.row(f"leases of {args.rooms:,} topics", args.rooms * ROUNDS, leases)
    result.notes.append(
        f"leases of {LEASE_S:.0f} s: each topic's is renewed every {LEASE_S / 3:.0f} s"
    )
    await presence.close()
    await tasks.close()
    await stand.shards.close()
