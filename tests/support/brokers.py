"""What the broker contract suite needs of an implementation, and each implementation's answer.

To run the suite on another broker, write a class that follows `BrokerFactory` and name it in
`FACTORIES`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import partial
from typing import NamedTuple, Protocol

from clarion_fanout import redis_address
from clarion_fanout.broker import Broker, HistoryOptions
from clarion_fanout.memory import MemoryBroker
from clarion_fanout.publication import Publication
from clarion_fanout.redis_broker import RedisBroker
from clarion_fanout.redis_keys import Keys
from clarion_fanout.redis_moving import MovingShards
from clarion_fanout.redis_shard import ShardOptions
from clarion_fanout.redis_shards import Shards, shards_of
from support.clock import Clock
from support.feeds import Roomy
from support.redis_shared import shared_cluster, shared_servers

DEADLINE_SECONDS = 5
"""How long the suite waits for what must happen soon."""

KEPT = 5
"""Publications that a topic's history keeps."""


class Recorder(Roomy):
    """A feed that keeps what it is given."""

    def __init__(self) -> None:
        self.publications: list[Publication] = []
        self._news = asyncio.Event()

    def dispatch(self, publication: Publication) -> None:
        self.publications.append(publication)
        self._news.set()

    def of(self, topic: str) -> list[Publication]:
        return [each for each in self.publications if each.topic == topic]

    async def expect(self, topic: str, data: bytes) -> list[Publication]:
        """Everything of `topic` so far, once a publication with `data` has come."""
        async with asyncio.timeout(DEADLINE_SECONDS):
            while not any(each.data == data for each in self.of(topic)):
                self._news.clear()
                await self._news.wait()
        return self.of(topic)


class Opened(NamedTuple):
    """A started broker and what it feeds."""

    broker: Broker
    feed: Recorder


class BrokerFactory(Protocol):
    """Makes brokers of one kind for the suite.

    The namespaces of their topics: `many:` and `few:` keep history for an hour, 1,000
    publications and `KEPT`; `brief:` keeps `KEPT` for `age` seconds; every other keeps none.
    Idempotency keys are remembered for `age` seconds.
    """

    age: float
    """Seconds. As short as the implementation's clock allows tests to be reliable."""

    async def open(self) -> Opened:
        """A broker, started, that knows what earlier ones of this factory left behind."""
        ...

    async def lose_data(self) -> None:
        """Loses everything that was ever kept, as a restart without persistence does."""
        ...

    async def pass_time(self, seconds: float) -> None:
        """Returns when so much time has passed for the brokers."""
        ...

    async def close(self) -> None:
        """Closes every broker that is open."""
        ...


def history(topic: str, age: float) -> HistoryOptions | None:
    """The options of the suite's topics; see `BrokerFactory`."""
    match topic.partition(":")[0]:
        case "many":
            return HistoryOptions(1000, 3600)
        case "few":
            return HistoryOptions(KEPT, 3600)
        case "brief":
            return HistoryOptions(KEPT, age)
        case _:
            return None


class MemoryBrokerFactory:
    """`MemoryBroker`s, whose time is a fake clock's."""

    age = 60.0

    def __init__(self) -> None:
        self._clock = Clock()
        self._broker: MemoryBroker | None = None

    async def open(self) -> Opened:
        assert self._broker is None, "a memory broker is alone with its data"
        feed = Recorder()
        self._broker = MemoryBroker(
            history=lambda topic: history(topic, self.age),
            now=self._clock,
            key_seconds=self.age,
        )
        await self._broker.start(feed)
        return Opened(self._broker, feed)

    async def lose_data(self) -> None:
        await self.close()

    async def pass_time(self, seconds: float) -> None:
        self._clock.advance(seconds)

    async def close(self) -> None:
        if self._broker is not None:
            await self._broker.close()
            self._broker = None


class RedisBrokerFactory:
    """`RedisBroker`s over real servers, whose time is the real one.

    shards: how many servers, each a shard; 0: a cluster.
    moving_from: how many of them topics move away from; 0: none moves.
    """

    age = 0.5

    def __init__(self, shards: int, moving_from: int = 0) -> None:
        self._count = shards
        self._moving_from = moving_from
        self._brokers: list[RedisBroker] = []
        self._urls: list[str] = []

    async def open(self) -> Opened:
        if not self._urls:
            await self._begin()
        feed = Recorder()
        keys = Keys()
        options = ShardOptions()
        worker = f"worker-{len(self._brokers)}"
        locations = [redis_address.parse(url) for url in self._urls]

        def kept(topic: str) -> HistoryOptions | None:
            return history(topic, self.age)

        shards: Shards
        if self._moving_from:
            shards = MovingShards(
                locations[: self._moving_from],
                locations,
                new_leads=True,
                keys=keys,
                worker=worker,
                options=options,
                history=kept,
            )
        else:
            shards = shards_of(locations, keys=keys, worker=worker, options=options)
        broker = RedisBroker(
            shards,
            keys=keys,
            history=kept,
            now=lambda: int(time.time() * 1000),
            key_seconds=self.age,
        )
        self._brokers.append(broker)
        await broker.start(feed)
        return Opened(broker, feed)

    async def _begin(self) -> None:
        if self._count:
            self._urls = [server.url for server in await shared_servers(self._count)]
        else:
            self._urls = [(await shared_cluster()).url]

    async def lose_data(self) -> None:
        await self._begin()

    async def pass_time(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def close(self) -> None:
        for broker in self._brokers:
            await broker.close()
        self._brokers.clear()


FACTORIES: dict[str, Callable[[], BrokerFactory]] = {
    "memory": MemoryBrokerFactory,
    "one shard": partial(RedisBrokerFactory, 1),
    "three shards": partial(RedisBrokerFactory, 3),
    "a cluster": partial(RedisBrokerFactory, 0),
    "topics that move": partial(RedisBrokerFactory, 3, moving_from=1),
}
