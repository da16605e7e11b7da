"""A real Redis Cluster, which takes about two seconds to start."""

from __future__ import annotations

from functools import partial
from itertools import combinations, pairwise
from typing import Self

from support.redis_servers import RedisServer, Started, eventually

SLOTS = 16384


class RedisCluster(Started):
    """Primaries that share all slots, as contiguous ranges in their order, and maybe replicas.

    node_timeout_ms: silent for so long, a node counts as failed; a replica takes its place then.
    """

    def __init__(
        self, primaries: int = 3, *, replicas: bool = False, node_timeout_ms: int = 2000
    ) -> None:
        config = (
            "cluster-enabled yes",
            f"cluster-node-timeout {node_timeout_ms}",
            "cluster-announce-ip 127.0.0.1",
            "repl-diskless-sync-delay 0",  # Redis waits 5 s for more replicas
            "repl-ping-replica-period 1",  # replicas are not listed before it
        )
        self.primaries = tuple(RedisServer(*config) for _ in range(primaries))
        """As they were at the start."""
        self.replicas = tuple(RedisServer(*config) for _ in range(primaries if replicas else 0))
        """Each of the primary in the same place, as it was at the start."""

    @property
    def nodes(self) -> tuple[RedisServer, ...]:
        return self.primaries + self.replicas

    @property
    def url(self) -> str:
        """Of the first node; clients find the others through it."""
        return f"redis+cluster://127.0.0.1:{self.nodes[0].port}"

    async def start(self) -> Self:
        """Returns when every node serves, and every replica follows its primary."""
        try:
            for node in self.nodes:
                await node.start()
            await self._introduce()
        except BaseException:
            self.end()
            raise
        return self

    async def owner(self, slot: int) -> RedisServer:
        """The primary of a slot, as the first node that runs sees it."""
        seer = next(node for node in self.nodes if node.running)
        port = await self._primary(slot, seer)
        return next(node for node in self.nodes if node.port == port)

    async def move_slot(self, slot: int, to: RedisServer) -> None:
        """Moves a slot with its keys to another primary, as an operator does."""
        source = await self.owner(slot)
        assert source is not to
        old, new = await _id(source), await _id(to)
        await to.command("CLUSTER", "SETSLOT", slot, "IMPORTING", old)
        await source.command("CLUSTER", "SETSLOT", slot, "MIGRATING", new)
        while keys := await source.command("CLUSTER", "GETKEYSINSLOT", slot, 100):
            await source.command("MIGRATE", "127.0.0.1", to.port, "", 0, 5000, "KEYS", *keys)
        # The new owner first: so there is never a slot that nobody owns.
        for node in (to, source):
            await node.command("CLUSTER", "SETSLOT", slot, "NODE", new)
        await self._agree_on(slot, to)

    async def failover(self, replica: RedisServer) -> None:
        """Makes a replica the primary, with the consent of the present one, as an operator does.

        Returns when every node that runs knows.
        """
        slot = await self._slot_of(replica)
        await replica.command("CLUSTER", "FAILOVER")
        await self._agree_on(slot, replica)

    def end(self) -> None:
        """Kills all nodes."""
        for node in self.nodes:
            node.end()

    async def _introduce(self) -> None:
        """Makes a cluster of nodes that know nothing of each other."""
        bounds = [SLOTS * place // len(self.primaries) for place in range(len(self.primaries) + 1)]
        for epoch, node in enumerate(self.nodes, 1):
            # An epoch each, else they have to settle it among themselves first.
            await node.command("CLUSTER", "SET-CONFIG-EPOCH", epoch)
        for node, (first, after) in zip(self.primaries, pairwise(bounds), strict=True):
            await node.command("CLUSTER", "ADDSLOTSRANGE", first, after - 1)
        # Each with each: that they hear of one another by gossip takes a second longer.
        for one, other in combinations(self.nodes, 2):
            await one.command("CLUSTER", "MEET", "127.0.0.1", other.port)
        for node in self.nodes:
            await eventually(partial(self._knows_all, node))
        for replica, primary in zip(self.replicas, self.primaries, strict=False):
            await replica.command("CLUSTER", "REPLICATE", await _id(primary))
        for replica in self.replicas:
            await eventually(partial(_follows, replica))
        for node in self.nodes:
            await eventually(partial(self._serves, node))

    async def _knows_all(self, node: RedisServer) -> bool:
        """Whether the node is acquainted with every other."""
        lines = (await node.command("CLUSTER", "NODES")).splitlines()
        return len(lines) == len(self.nodes) and not any("handshake" in line for line in lines)

    async def _serves(self, node: RedisServer) -> bool:
        """Whether the node finds the cluster whole, with all primaries and replicas in place."""
        info = await node.command("CLUSTER", "INFO")
        slots = await node.command("CLUSTER", "SLOTS")
        places = sum(len(nodes) for _, _, *nodes in slots)
        return "cluster_state:ok" in info and places == len(self.nodes)

    async def _agree_on(self, slot: int, owner: RedisServer) -> None:
        """Returns when every node that runs takes `owner` for the slot's primary."""

        async def agree() -> bool:
            try:
                seen = [await self._primary(slot, node) for node in self.nodes if node.running]
            except LookupError:  # one that is about to become a replica has forgotten its own slots
                return False
            return all(port == owner.port for port in seen)

        await eventually(agree)

    async def _primary(self, slot: int, seer: RedisServer) -> int:
        """The port of the slot's primary, as a node sees it."""
        for first, last, primary, *_ in await seer.command("CLUSTER", "SLOTS"):
            if first <= slot <= last:
                port: int = primary[1]
                return port
        raise LookupError(f"nobody owns slot {slot}")

    async def _slot_of(self, replica: RedisServer) -> int:
        """One of the slots that a replica keeps a copy of."""
        for first, _, _, *replicas in await replica.command("CLUSTER", "SLOTS"):
            if any(port == replica.port for _, port, *_ in replicas):
                slot: int = first
                return slot
        raise LookupError("it is no replica")


async def _id(node: RedisServer) -> str:
    name: str = await node.command("CLUSTER", "MYID")
    return name


async def _follows(replica: RedisServer) -> bool:
    return (await replica.info("replication")).get("master_link_status") == "up"
