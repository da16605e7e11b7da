"""A real primary, its replica and the sentinel that watches them, quick to act."""

from __future__ import annotations

from typing import Self

from support.redis_servers import RedisServer, Started, eventually

SERVICE = "clarion"


class RedisSentinel(Started):
    """What a Sentinel deployment is made of, with one sentinel whose word is enough.

    down_after_ms: silent for so long, the primary counts as failed.
    quick: whether the sentinel looks ten times a second instead of every second, or ten: without
    it, a primary that comes back stays one for eight seconds beside its successor.
    """

    def __init__(self, *, down_after_ms: int = 500, quick: bool = True) -> None:
        config = ("repl-diskless-sync-delay 0",)  # Redis waits 5 s for more replicas
        first = RedisServer(*config)
        self.nodes = (
            first,
            RedisServer(*config, f"replicaof 127.0.0.1 {first.port}"),
        )
        """The primary and the replica, as they were at the start."""
        self.sentinel = RedisServer(
            f"sentinel monitor {SERVICE} 127.0.0.1 {first.port} 1",
            f"sentinel down-after-milliseconds {SERVICE} {down_after_ms}",
            f"sentinel failover-timeout {SERVICE} 2000",
            sentinel=True,
        )
        self._quick = quick

    @property
    def url(self) -> str:
        """Of the sentinel: it tells which node is the service's primary."""
        return f"redis+sentinel://127.0.0.1:{self.sentinel.port}/{SERVICE}/0"

    async def start(self) -> Self:
        """Returns when the replica follows and the sentinel knows it."""
        try:
            for node in (*self.nodes, self.sentinel):
                await node.start()
            if self._quick:
                for period in ("info-period", "ping-period", "publish-period"):
                    await self.sentinel.command("SENTINEL", "DEBUG", period, 100)
            await eventually(self._is_ready)
        except BaseException:
            self.end()
            raise
        return self

    async def primary(self) -> RedisServer:
        """The node that the sentinel sends clients to."""
        _, port = await self.sentinel.command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE)
        return next(node for node in self.nodes if node.port == int(port))

    async def failover(self) -> RedisServer:
        """Makes the replica the primary, as an operator does; returns it once it is."""
        before = await self.primary()
        await self.sentinel.command("SENTINEL", "FAILOVER", SERVICE)
        return await self.successor(before)

    async def successor(self, before: RedisServer) -> RedisServer:
        """The primary after `before`, once there is one."""

        async def is_there() -> bool:
            return await self.primary() is not before

        await eventually(is_there)  # a failover that failed is tried again later
        return await self.primary()

    def end(self) -> None:
        """Kills all three."""
        for node in (self.sentinel, *self.nodes):
            node.end()

    async def _is_ready(self) -> bool:
        replicas = await self.sentinel.command("SENTINEL", "REPLICAS", SERVICE)
        states = [dict(zip(each[::2], each[1::2], strict=True)) for each in replicas]
        return [state["master-link-status"] for state in states] == ["ok"]
