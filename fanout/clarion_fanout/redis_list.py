"""A list of independent primaries, each with a name, possibly found through Sentinels."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from clarion_fanout.broker import BrokerUnavailable
from clarion_fanout.placement import Placement
from clarion_fanout.redis_address import Address, Location
from clarion_fanout.redis_keys import Keys
from clarion_fanout.redis_query import ask_sentinels
from clarion_fanout.redis_scripts import SCRIPTS
from clarion_fanout.redis_sending import send_each
from clarion_fanout.redis_shard import Shard, ShardOptions
from clarion_fanout.redis_wire import Reply
from clarion_fanout.tasks import Tasks


class Fixed:
    """What shards say of topics that stay where they are."""

    on_move: Callable[[str], None] | None = None

    def other(self, topic: str) -> Shard | None:
        return None

    def begins(self, topic: str) -> bool:
        return True

    async def settle(self, topics: Sequence[str]) -> None:
        pass


class Primaries:
    """A shard at each of the locations. Which of them has a topic is for others to say."""

    sharded = False

    def __init__(
        self, locations: Sequence[Location], *, keys: Keys, worker: str, options: ShardOptions
    ) -> None:
        self._shards = [
            shard_at(location, keys=keys, worker=worker, options=options) for location in locations
        ]

    async def start(self, tasks: Tasks) -> None:
        for shard in self._shards:
            shard.start(tasks)
        async with asyncio.TaskGroup() as group:
            for shard in self._shards:
                group.create_task(shard.tried())

    async def close(self) -> None:
        async with asyncio.TaskGroup() as group:
            for shard in self._shards:
                group.create_task(shard.close())

    def all(self) -> Sequence[Shard]:
        return self._shards


class ShardList(Fixed, Primaries):
    """Independent shards; topics are placed by `Placement`."""

    def __init__(
        self, locations: Sequence[Location], *, keys: Keys, worker: str, options: ShardOptions
    ) -> None:
        super().__init__(locations, keys=keys, worker=worker, options=options)
        self._placement = Placement([location.name for location in locations])

    def of(self, topic: str) -> Shard:
        return self._shards[self._placement.place(topic)]

    async def send(
        self, commands: Sequence[tuple[str, bytes]], *, follow: bool = True
    ) -> list[Reply | BrokerUnavailable]:
        return await send_each([self.of(topic) for topic, _ in commands], commands)


def shard_at(location: Location, *, keys: Keys, worker: str, options: ShardOptions) -> Shard:
    """A shard that is found at `location`."""
    return Shard(
        location.name,
        _locator(location, options),
        options=options,
        scripts=SCRIPTS,
        probe_channel=lambda: keys.probe(worker),
    )


def _locator(location: Location, options: ShardOptions) -> Callable[[], Awaitable[Address]]:
    """How to find the primary of a shard."""
    if location.kind == "sentinel":
        return lambda: ask_sentinels(location, options.timeout_s)

    async def fixed() -> Address:
        return location.addresses[0]

    return fixed
