"""Counts everything, in this process: `PYTHONHASHSEED=0`, and the main thread for the workers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

import uvloop

from budget import things
from budget.callgrind import Callgrind
from budget.stand import Stand
from budget.things import Figures
from clarion_server.options import Config, Keepalive, ShardOptions, WindowOptions
from support.redis_servers import RedisServer
from support.server import configuration, running

KEEPALIVE = Keepalive(ping_s=3600, pong_s=3600)
"""No timer of a client's comes in between."""

WINDOW = WindowOptions(bytes=256 * 2**20, messages=10**6, seconds=3600)
"""Nobody is closed for being behind."""

SHARDS = ShardOptions(timeout_s=30, probe_s=30, check_s=3600, linger_s=600)
"""No probe comes in between, and a topic without subscribers is listened to all the time."""


TIMERS = ("timers", "loop lag")
"""Tasks of the worker that run ten times a second whatever happens. They are ended."""


def count(callgrind: Callgrind | None = None) -> Figures:
    """Takes some seconds; under valgrind, a minute."""
    return uvloop.run(_count(callgrind))


async def _count(callgrind: Callgrind | None) -> Figures:
    config = configuration(keepalive=KEEPALIVE, window=WINDOW)
    figures = await _with(config, things.embedded, callgrind)
    async with RedisServer() as server:
        config = configuration(
            redis=(server.url,), shards=SHARDS, keepalive=KEEPALIVE, window=WINDOW
        )
        redis = partial(things.over_redis, port=server.port)
        return figures | await _with(config, redis, callgrind)


async def _with(
    config: Config, counted: Callable[[Stand], Figures], callgrind: Callgrind | None
) -> Figures:
    async with running(config) as worker:
        timers = [task for task in asyncio.all_tasks() if task.get_name() in TIMERS]
        assert len(timers) == len(TIMERS), "the worker's timers have other names"
        for task in timers:
            task.cancel()
        stand = Stand(asyncio.get_running_loop(), worker, callgrind)
        try:
            return await asyncio.to_thread(counted, stand)
        finally:
            for client in stand.clients:
                client.close()
