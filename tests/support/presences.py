"""What the presence contract suite needs of an implementation, and each implementation's answer.

To run the suite on another one, write a class that follows `PresenceFactory` and name it in
`FACTORIES`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple, Protocol, TypeVar

from clarion_fanout import redis_address
from clarion_fanout.memory_presence import MemoryPresence
from clarion_fanout.presence import Keeping, Presence
from clarion_fanout.publication import Arrival, Departure
from clarion_fanout.redis_broker import RedisBroker
from clarion_fanout.redis_keys import Keys
from clarion_fanout.redis_presence import RedisPresence
from clarion_fanout.redis_shard import ShardOptions
from clarion_fanout.redis_shards import shards_of
from support.brokers import Recorder
from support.redis_shared import shared_cluster, shared_servers
from support.waiting import until

PresenceT_co = TypeVar("PresenceT_co", bound=Presence, covariant=True)


def keeps(topic: str) -> Keeping:
    """What is kept of the suite's topics: `count:`, `members:` and `events:`."""
    match topic.partition(":")[0]:
        case "count":
            return "count"
        case "members":
            return "members"
        case "events":
            return "events"
        case _:
            return "off"


def member(client: str) -> bytes:
    """What others see of a client of the suite."""
    return b'{"client":"%b","user":"Grete \xc3\x9cber"}' % client.encode()


def news(feed: Recorder, topic: str) -> list[tuple[str, bytes]]:
    """What was announced of a topic, and nothing else was fed."""
    for each in feed.of(topic):
        assert isinstance(each, Arrival | Departure)
    return [(each.op, each.data) for each in feed.of(topic)]


def believed(feed: Recorder, topic: str) -> set[bytes]:
    """Whom somebody takes for members who goes by announcements alone."""
    members: set[bytes] = set()
    for op, shown in news(feed, topic):
        if op == "join":
            members.add(shown)
        else:
            members.discard(shown)
    return members


class OpenedPresence(NamedTuple):
    """A worker: its presence, started, and what it is fed."""

    presence: Presence
    feed: Recorder

    def enter(self, topic: str, *clients: str) -> None:
        for client in clients:
            self.presence.enter(topic, client, "Grete Über")

    def leave(self, topic: str, *clients: str) -> None:
        for client in clients:
            self.presence.leave(topic, client)

    async def population(self, topic: str) -> int:
        return (await self.presence.read(topic, 0)).count

    async def walk(self, topic: str, limit: int = 10) -> list[bytes]:
        """The members of all pages."""
        met: list[bytes] = []
        after = ""
        while True:
            page = await self.presence.read(topic, limit, after)
            assert len(page.members) <= limit
            met += page.members
            after = page.next
            if not after:
                return met
            assert len(page.members) == limit

    async def hears(self, topic: str, *expected: tuple[str, str]) -> None:
        """Waits until just this was announced: an op and a client each."""
        wanted = [(op, member(client)) for op, client in expected]
        await until(lambda: len(news(self.feed, topic)) >= len(wanted))
        assert news(self.feed, topic) == wanted


class PresenceFactory(Protocol):
    """Makes presences of one kind for the suite, which share their members."""

    several: bool
    """Whether there can be more than one."""

    async def open(self, *topics: str) -> OpenedPresence:
        """A worker that is fed what happens in `topics`."""
        ...

    async def close(self) -> None:
        """Closes every one that is open."""
        ...


class MemoryPresenceFactory:
    """A `MemoryPresence`, which is alone."""

    several = False

    def __init__(self) -> None:
        self._presence: MemoryPresence | None = None

    async def open(self, *topics: str) -> OpenedPresence:
        assert self._presence is None
        feed = Recorder()
        loop = asyncio.get_running_loop()
        presence = MemoryPresence(
            keeps=keeps, feed=feed, wake=lambda: loop.call_soon(presence.announce)
        )
        self._presence = presence
        await presence.start()
        return OpenedPresence(presence, feed)

    async def close(self) -> None:
        if self._presence is not None:
            await self._presence.close()


class RedisWorker(NamedTuple):
    """The parts of a worker that presence over Redis needs."""

    broker: RedisBroker
    presence: RedisPresence
    feed: Recorder

    @property
    def opened(self) -> OpenedPresence:
        return OpenedPresence(self.presence, self.feed)

    async def end(self) -> None:
        """Ends it as a worker ends that is told to."""
        await self.presence.close()
        await self.broker.close()

    async def die(self) -> None:
        """Ends it without a word about its members."""
        await self.broker.close()
        await self.presence.close()


async def redis_worker(
    urls: Sequence[str],
    name: str,
    *topics: str,
    lease_s: float = 15,
    options: ShardOptions | None = None,
) -> RedisWorker:
    """A worker that is fed what happens in `topics`."""
    keys = Keys()
    locations = [redis_address.parse(url) for url in urls]
    shards = shards_of(locations, keys=keys, worker=name, options=options or ShardOptions())
    broker = RedisBroker(
        shards, keys=keys, history=lambda _topic: None, now=lambda: int(time.time() * 1000)
    )
    presence = RedisPresence(shards, keys=keys, worker=name, keeps=keeps, lease_s=lease_s)
    feed = Recorder()
    await broker.start(feed)
    await presence.start()
    for topic in topics:
        if not broker.attach(topic):
            await broker.attached(topic)
    return RedisWorker(broker, presence, feed)


class RedisPresenceFactory:
    """`RedisPresence`s over real servers.

    shards: how many servers, each a shard; 0: a cluster.
    """

    several = True

    def __init__(self, shards: int) -> None:
        self._count = shards
        self._workers: list[RedisWorker] = []
        self._urls: list[str] = []

    async def open(self, *topics: str) -> OpenedPresence:
        if not self._urls:
            if self._count:
                self._urls = [server.url for server in await shared_servers(self._count)]
            else:
                self._urls = [(await shared_cluster()).url]
        worker = await redis_worker(self._urls, f"worker-{len(self._workers)}", *topics)
        self._workers.append(worker)
        return worker.opened

    async def close(self) -> None:
        for worker in self._workers:
            await worker.end()


FACTORIES: dict[str, Callable[[], PresenceFactory]] = {
    "memory": MemoryPresenceFactory,
    "one shard": partial(RedisPresenceFactory, 1),
    "three shards": partial(RedisPresenceFactory, 3),
    "a cluster": partial(RedisPresenceFactory, 0),
}
