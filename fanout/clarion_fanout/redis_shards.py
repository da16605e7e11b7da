"""Which shards there are, and which topic is where.

Two kinds: a list of independent primaries, each with a name, possibly found through Sentinels; or
the nodes of a Redis Cluster (`redis_cluster`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from clarion_fanout.placement import Placement
from clarion_fanout.redis_address import Address, Location
from clarion_fanout.redis_keys import Keys
from clarion_fanout.redis_query import ask_sentinels
from clarion_fanout.redis_scripts import SCRIPTS
from clarion_fanout.redis_shard import Shard, ShardOptions
from clarion_fanout.tasks import Tasks


class Shards(Protocol):
    """The shards of a broker.

    sharded: whether pub/sub is the sharded one (`SSUBSCRIBE`, `SPUBLISH`).
    """

    sharded: bool

    async def start(self, tasks: Tasks) -> None:
        """Begins to connect. Returns when everything is connected, or has failed once."""
        ...

    def close(self) -> None:
        """Ends every connection."""
        ...

    def all(self) -> Sequence[Shard]:
        """Every shard that there is now."""
        ...

    def of(self, topic: str) -> Shard:
        """The shard of a topic. Raises `BrokerUnavailable` when that is not known now."""
        ...


class ShardList:
    """Independent shards; topics are placed by `Placement`."""

    sharded = False

    def __init__(
        self, locations: Sequence[Location], *, keys: Keys, worker: str, options: ShardOptions
    ) -> None:
        self._placement = Placement([location.name for location in locations])
        self._shards = [
            Shard(
                location.name,
                _locator(location, options),
                options=options,
                scripts=SCRIPTS,
                probe_channel=lambda: keys.probe(worker),
            )
            for location in locations
        ]

    async def start(self, tasks: Tasks) -> None:
        for shard in self._shards:
            shard.start(tasks)
        async with asyncio.TaskGroup() as group:
            for shard in self._shards:
                group.create_task(shard.tried())

    def close(self) -> None:
        for shard in self._shards:
            shard.close()

    def all(self) -> Sequence[Shard]:
        return self._shards

    def of(self, topic: str) -> Shard:
        return self._shards[self._placement.place(topic)]


def _locator(location: Location, options: ShardOptions) -> Callable[[], Awaitable[Address]]:
    """How to find the primary of a shard."""
    if location.kind == "sentinel":
        return lambda: ask_sentinels(location, options.timeout_s)

    async def fixed() -> Address:
        return location.addresses[0]

    return fixed
