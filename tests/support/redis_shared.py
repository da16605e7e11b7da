"""Redis servers that all tests of a process share: started on first use, empty at each.

For tests that leave them as they were: who kills or stops one, moves slots or sets options has
servers of its own.
"""

from __future__ import annotations

import asyncio
import atexit

from support.redis_cluster import RedisCluster
from support.redis_servers import RedisServer

_servers: list[RedisServer] = []
_clusters: list[RedisCluster] = []


async def shared_servers(count: int = 3) -> tuple[RedisServer, ...]:
    """Servers without data, scripts and clients."""
    while len(_servers) < count:
        server = await RedisServer().start()
        atexit.register(server.end)
        _servers.append(server)
    servers = tuple(_servers[:count])
    await _empty(servers)
    return servers


async def shared_cluster() -> RedisCluster:
    """Three primaries without data, scripts and clients."""
    if not _clusters:
        cluster = await RedisCluster().start()
        atexit.register(cluster.end)
        _clusters.append(cluster)
    await _empty(_clusters[0].nodes)
    return _clusters[0]


async def _empty(servers: tuple[RedisServer, ...]) -> None:
    commands = (
        "CLIENT KILL TYPE normal SKIPME yes",
        "CLIENT KILL TYPE pubsub",
        "FLUSHALL",
        "SCRIPT FLUSH",
    )
    async with asyncio.TaskGroup() as group:
        for server in servers:
            assert server.running, "a test has killed a server that it shares with others"
            group.create_task(_run(server, commands))


async def _run(server: RedisServer, commands: tuple[str, ...]) -> None:
    for command in commands:
        await server.command(*command.split())
