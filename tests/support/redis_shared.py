"""Redis servers that all tests of a process share: started on first use, empty at each.

For tests that leave them as they were: who kills or stops one or sets options has servers of its
own, and who moves slots has a cluster where others do so too.
"""

from __future__ import annotations

import asyncio
import atexit

from support.redis_cluster import RedisCluster
from support.redis_servers import RedisServer

_servers: list[RedisServer] = []
_clusters: dict[str, RedisCluster] = {}


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
    return await _cluster("at rest")


async def restless_cluster() -> RedisCluster:
    """The same, but any of them may have any slot; tests may move slots, to where they like."""
    return await _cluster("restless")


async def _cluster(name: str) -> RedisCluster:
    if name not in _clusters:
        cluster = await RedisCluster().start()
        atexit.register(cluster.end)
        _clusters[name] = cluster
    await _empty(_clusters[name].nodes)
    return _clusters[name]


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
