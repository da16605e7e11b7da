"""Which shards there are, and which topic is where.

Two kinds: a list of independent primaries, each with a name, possibly found through Sentinels; or
the nodes of a Redis Cluster (`redis_cluster`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Protocol

from clarion_fanout.broker import BrokerUnavailable
from clarion_fanout.placement import Placement
from clarion_fanout.redis_address import Address, Location
from clarion_fanout.redis_keys import Keys
from clarion_fanout.redis_query import ask_sentinels
from clarion_fanout.redis_scripts import SCRIPTS
from clarion_fanout.redis_shard import Shard, ShardOptions
from clarion_fanout.redis_wire import Reply
from clarion_fanout.tasks import Tasks


class Shards(Protocol):
    """The shards of a broker.

    sharded: whether pub/sub is the sharded one (`SSUBSCRIBE`, `SPUBLISH`).
    """

    sharded: bool
    on_move: Callable[[str], None] | None
    """Called with a topic that turned out to be at its other shard."""

    async def start(self, tasks: Tasks) -> None:
        """Begins to connect. Returns when everything is connected, or has failed once."""
        ...

    async def close(self) -> None:
        """Ends every connection. The tasks that `start` was given have ended."""
        ...

    def all(self) -> Sequence[Shard]:
        """Every shard that there is now."""
        ...

    def of(self, topic: str) -> Shard:
        """The shard of a topic. Raises `BrokerUnavailable` when that is not known now."""
        ...

    def other(self, topic: str) -> Shard | None:
        """The shard that the topic moves to or comes from, if it moves; see `redis_moving`."""
        ...

    def begins(self, topic: str) -> bool:
        """Whether a stream that its shard does not have is a new one. If not, scripts answer
        EMPTY, and the stream is there when they are sent again."""
        ...

    async def settle(self, topics: Sequence[str]) -> None:
        """Moves those of `topics` that are to move and have not. Failures show later."""
        ...

    async def send(self, commands: Sequence[tuple[str, bytes]]) -> list[Reply | BrokerUnavailable]:
        """Sends commands, each packed and with the topic whose keys and channel it is about.

        Says of each, in the same order, what became of it: what Redis answered, an error
        (`hiredis.ReplyError`) as it stands, or why there is no answer; then it may have been
        executed. Commands of one topic are executed in their order, except that those of scripts
        which Redis has forgotten are sent again, behind the others.
        """
        ...


class Fixed:
    """What shards say of topics that stay where they are."""

    on_move: Callable[[str], None] | None = None

    def other(self, topic: str) -> Shard | None:
        return None

    def begins(self, topic: str) -> bool:
        return True

    async def settle(self, topics: Sequence[str]) -> None:
        pass


class ShardList(Fixed):
    """Independent shards; topics are placed by `Placement`."""

    sharded = False

    def __init__(
        self, locations: Sequence[Location], *, keys: Keys, worker: str, options: ShardOptions
    ) -> None:
        self._placement = Placement([location.name for location in locations])
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

    def of(self, topic: str) -> Shard:
        return self._shards[self._placement.place(topic)]

    async def send(self, commands: Sequence[tuple[str, bytes]]) -> list[Reply | BrokerUnavailable]:
        place = self._placement.place
        if len(commands) == 1:  # most are alone
            topic, packed = commands[0]
            return await _outcomes(self._shards[place(topic)], [packed])
        shares: list[list[bytes]] = [[] for _ in self._shards]
        places: list[int] = []
        for topic, packed in commands:
            shard = place(topic)
            places.append(shard)
            shares[shard].append(packed)
        outcomes = await _all_outcomes(self._shards, shares)
        return [next(outcomes[shard]) for shard in places]


async def _all_outcomes(
    shards: Sequence[Shard], shares: Sequence[list[bytes]]
) -> list[Iterator[Reply | BrokerUnavailable]]:
    """What became of each shard's share of commands."""
    busy = [number for number, share in enumerate(shares) if share]
    if len(busy) == 1:
        answers = {busy[0]: await _outcomes(shards[busy[0]], shares[busy[0]])}
    else:
        async with asyncio.TaskGroup() as group:
            tasks = {
                number: group.create_task(_outcomes(shards[number], shares[number]))
                for number in busy
            }
        answers = {number: task.result() for number, task in tasks.items()}
    return [iter(answers.get(number, ())) for number in range(len(shards))]


async def _outcomes(shard: Shard, commands: list[bytes]) -> list[Reply | BrokerUnavailable]:
    try:
        return await shard.sends(commands)
    except BrokerUnavailable as error:
        # One each: whoever raises it writes into it where it went.
        return [BrokerUnavailable(str(error), error.retry_ms) for _ in commands]


def shard_at(location: Location, *, keys: Keys, worker: str, options: ShardOptions) -> Shard:
    """A shard that is found at `location`."""
    return Shard(
        location.name,
        _locator(location, options),
        options=options,
        scripts=SCRIPTS,
        probe_channel=lambda: keys.probe(worker),
    )


async def send_to(
    of: Callable[[str], Shard], commands: Sequence[tuple[str, bytes]]
) -> list[Reply | BrokerUnavailable]:
    """`Shards.send`, to the shards that `of` says."""
    shares: dict[Shard, list[bytes]] = {}
    for topic, packed in commands:
        shares.setdefault(of(topic), []).append(packed)
    shards = list(shares)
    answers = await _all_outcomes(shards, [shares[shard] for shard in shards])
    outcomes = dict(zip(shards, answers, strict=True))
    return [next(outcomes[of(topic)]) for topic, _ in commands]


def shards_of(
    locations: Sequence[Location], *, keys: Keys, worker: str, options: ShardOptions
) -> Shards:
    """The shards that URLs name. worker: names this process among all that share them."""
    return ShardList(locations, keys=keys, worker=worker, options=options)


def _locator(location: Location, options: ShardOptions) -> Callable[[], Awaitable[Address]]:
    """How to find the primary of a shard."""
    if location.kind == "sentinel":
        return lambda: ask_sentinels(location, options.timeout_s)

    async def fixed() -> Address:
        return location.addresses[0]

    return fixed
